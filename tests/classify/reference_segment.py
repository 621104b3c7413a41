"""The slow, obvious version of ``classify.segment``, with scipy, that its kernels are tested against."""

import numpy as np
from scipy import ndimage
from scipy.spatial import ConvexHull, QhullError

#: Standard deviation of the smoothing kernel [pixels].
SMOOTHING_PX = 1.0
#: Share of the kernel's weight that must fall on known pixels for a smoothed value to count.
SUPPORT = 0.35
#: A cell's pixels deviate by at least this share of the strongest deviation of what hangs together; less is halo.
HALO = 0.15
#: Pixels so far apart have independent smoothed noise, even if gridding correlates the pixels' own.
_LAG_PX = 6

_radius = int(np.ceil(3 * SMOOTHING_PX))
_KERNEL = np.exp(-0.5 * (np.arange(-_radius, _radius + 1) / SMOOTHING_PX) ** 2)
_KERNEL /= _KERNEL.sum()


def segment_cell(
    transmission: np.ndarray,
    known: np.ndarray,
    noise_std: float | np.ndarray,
    *,
    seed_mask: np.ndarray | None = None,
    threshold: float = 5.0,
    floor: float = 0.03,
    min_area_px: int = 12,
) -> np.ndarray:
    noise_std = np.broadcast_to(np.asarray(noise_std, dtype=np.float64), transmission.shape)
    known = np.asarray(known, dtype=bool)
    deviation, significance, supported = _smooth(transmission, known, noise_std)
    strength = np.abs(deviation)
    strong = (significance >= threshold) & (strength >= floor)
    sought = strong if seed_mask is None else strong & seed_mask
    if not sought.any():
        return np.zeros(known.shape, dtype=bool)
    reach = _edge_reach(sought)
    near = (significance >= threshold / 2) & (strength >= floor / 2)
    near &= _holding(sought, *_parts(near, supported, reach))
    # the rest works on the box of what may be the cell, with room for the reach of its filters
    box = _box(near, 2 * reach + 2)
    supported, strength, significance = supported[box], strength[box], significance[box]
    strong, seed = strong[box], None if seed_mask is None else seed_mask[box]
    significant = _without_halo(near[box], sought[box], strength, supported, reach, floor)
    weak = significant & (strength >= 0.5 * _top(significant, strength, significance, supported, reach))

    mask = np.zeros(known.shape, dtype=bool)
    cell = _select(weak, strong, strength, supported, seed)
    if cell.any():
        cell = _enclose(_close(cell, reach), supported)
        mask[box] = _smooth_outline(cell, min_area_px)
    return mask


def _convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return ndimage.correlate1d(
        ndimage.correlate1d(image, kernel, axis=0, mode="constant"), kernel, axis=1, mode="constant"
    )


def _kernel_inside(shape: tuple[int, ...]) -> np.ndarray:
    """Share of the smoothing kernel's weight that lies within the image, about each pixel."""
    along, across = (ndimage.correlate1d(np.ones(n), _KERNEL, mode="constant") for n in shape)
    return np.outer(along, across)


def _smooth(
    transmission: np.ndarray, known: np.ndarray, noise_std: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smoothed 1 - transmission, its size in noise standard deviations, and where the two can be trusted."""
    weight = np.divide(1, np.square(noise_std), out=np.zeros(known.shape), where=known)
    deviation = np.subtract(1, transmission, out=np.zeros(known.shape), where=known, dtype=np.float64)
    supported = known
    if not known.all():  # near a border the kernel's outer part is missing, not unknown
        supported = _convolve(known.astype(np.float64), _KERNEL) >= SUPPORT * _kernel_inside(known.shape)
    smoothed, standard = np.zeros((2, *known.shape))
    total = _convolve(weight * deviation, _KERNEL)
    np.divide(total, _convolve(weight, _KERNEL), out=smoothed, where=supported)
    np.divide(total, np.sqrt(_convolve(weight, _KERNEL**2)), out=standard, where=supported)
    return smoothed, np.abs(standard) / _noise_excess(standard, supported), supported


def _noise_excess(standard: np.ndarray, supported: np.ndarray) -> float:
    """Smoothed noise over what white pixel noise would leave: 1, or more if neighbours' noise is correlated.

    From a low quantile of differences, which edges and structure of an object hardly raise; at most the
    factor by which smoothing lowers white noise.
    """
    standard = np.where(supported, standard, np.nan)
    down, across = standard[_LAG_PX:] - standard[:-_LAG_PX], standard[:, _LAG_PX:] - standard[:, :-_LAG_PX]
    difference = np.abs(np.concatenate([down.ravel(), across.ravel()]))
    if not supported.all():
        difference = difference[~np.isnan(difference)]
    if difference.size < 100:
        return 1.0
    share, quantile_of_normal = 0.4, 0.5244
    place, part = divmod(share * (difference.size - 1), 1)
    ranked = np.partition(difference, int(place))  # np.quantile takes ten times as long
    quantile = (1 - part) * ranked[int(place)] + part * ranked[int(place) + 1 :].min()
    excess = quantile / (np.sqrt(2) * quantile_of_normal)
    return float(np.clip(excess, 1, 1 / np.square(_KERNEL).sum()))


def _edge_reach(strong: np.ndarray) -> int:
    """How far [pixels] an edge's foot may lie from its top: a tenth of the object's extent, within bounds."""
    rows, columns = np.nonzero(strong)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    return int(np.clip(np.ceil(extent / 10), 2, 6))


def _box(mask: np.ndarray, room: int) -> tuple[slice, slice]:
    """Bounding box of a mask, that many pixels larger on each side as far as the image goes."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return (
        slice(max(rows[0] - room, 0), rows[-1] + 1 + room),
        slice(max(columns[0] - room, 0), columns[-1] + 1 + room),
    )


def _parts(mask: np.ndarray, supported: np.ndarray, reach: int) -> tuple[np.ndarray, int]:
    """Labels of what hangs together in a mask, as far as is known: save for gaps narrower than the reach.

    Two parts that border on the same unknown pixels may hang together behind them.
    """
    return ndimage.label(_dilate(mask, max(1, reach // 3)) | ~supported, np.ones((3, 3)))


def _holding(pixels: np.ndarray, label: np.ndarray, n: int) -> np.ndarray:
    """The labelled parts that hold one of the pixels."""
    held = np.zeros(n + 1, dtype=bool)
    held[label[pixels]] = True
    held[0] = False
    return held[label]


def _without_halo(
    near: np.ndarray, sought: np.ndarray, strength: np.ndarray, supported: np.ndarray, reach: int, floor: float
) -> np.ndarray:
    """Pixels of `near` that are not the halo of something stronger: at least a share of the peak they belong to.

    A pixel belongs to a peak if they hang together, save for a zero of the deviation (a fringe) narrower than
    the reach. What stands out of the halo, twice as high as the ground around it, is a peak of its own.
    """
    kept = np.zeros_like(near)
    limit, level = HALO * float(strength[sought].max()), floor / 2
    while True:
        within = near & (strength >= level)
        label, n = _parts(within, supported, reach)
        peak = np.zeros(n + 1)
        np.maximum.at(peak, label[sought], strength[sought])
        peak[0] = 0
        if level > floor / 2:
            peak[peak < 2 * level] = 0
        kept |= within & (peak > 0)[label] & (strength >= (HALO * peak)[label])
        level *= 2
        if 2 * level > limit:
            return kept


def _bridge(mask: np.ndarray, supported: np.ndarray) -> np.ndarray:
    """Unknown pixels between two parts of a mask that face each other within six rows."""
    if supported.all():
        return np.zeros_like(mask)
    facing = ndimage.maximum_filter1d(mask, 7, axis=0, mode="constant")
    left, right = _across(facing, ~supported)
    return ~supported & (left > 0) & (right > 0)


def _top(
    significant: np.ndarray, strength: np.ndarray, significance: np.ndarray, supported: np.ndarray, reach: int
) -> np.ndarray:
    """Height of the edge that each pixel may belong to: the greatest significant deviation near by.

    Unknown columns have the height found on either side, so that a faint flank across them is seen as one.
    The greatest of several noisy values lies about 1.5 standard deviations too high, which is taken off.
    """
    height = np.zeros(strength.shape)
    height[significant] = strength[significant] * np.maximum(1 - 1.5 / significance[significant], 0)
    if not supported.all():
        height = np.maximum(*_across(height, ~supported))
    return ndimage.maximum_filter(height, size=2 * reach + 1, mode="constant")


def _across(values: np.ndarray, unknown: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values with unknown pixels replaced by the next known one on the left, and on the right; 0 if none."""

    def from_left(values: np.ndarray, unknown: np.ndarray) -> np.ndarray:
        column = np.where(unknown, -1, np.arange(values.shape[1]))
        last = np.maximum.accumulate(column, axis=1)
        return np.where(last >= 0, np.take_along_axis(values, np.maximum(last, 0), axis=1), 0)

    return from_left(values, unknown), from_left(values[:, ::-1], unknown[:, ::-1])[:, ::-1]


def _select(
    weak: np.ndarray,
    strong: np.ndarray,
    strength: np.ndarray,
    supported: np.ndarray,
    seed_mask: np.ndarray | None,
) -> np.ndarray:
    """Pixels of `weak` whose component holds a strong pixel and touches the seed, or weighs most."""
    label, n = ndimage.label(weak | _bridge(weak, supported), np.ones((3, 3)))
    wanted = weak & _holding(weak & strong, label, n)
    if seed_mask is not None:
        return wanted & _holding(weak & seed_mask, label, n)
    mass = np.bincount(label[wanted], weights=strength[wanted], minlength=n + 1)
    return wanted & (label == mass.argmax())


def _close(mask: np.ndarray, radius: int) -> np.ndarray:
    """Morphological closing with a disc; what lies beyond the border neither adds nor takes."""
    return ~_dilate(~_dilate(mask, radius), radius)


def _dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Pixels within a whole number of pixels of the mask: its rows widened by the disc's chords, moved up and down."""
    out = mask.copy()
    wide, half_chord = mask.copy(), 0
    for rows in range(radius, -1, -1):
        while (half_chord + 1) ** 2 + rows**2 <= radius**2:
            half_chord += 1
            wide[:, half_chord:] |= mask[:, :-half_chord]
            wide[:, :-half_chord] |= mask[:, half_chord:]
        out[rows:] |= wide[: max(mask.shape[0] - rows, 0)]
        out[: max(mask.shape[0] - rows, 0)] |= wide[rows:]
    return out


def _fill_holes(mask: np.ndarray) -> np.ndarray:
    outside, _ = ndimage.label(~np.pad(mask, 1))
    return (outside != outside[0, 0])[1:-1, 1:-1]


def _enclose(cell: np.ndarray, supported: np.ndarray) -> np.ndarray:
    """The cell with all it encloses, together with unknown pixels and the border, inside its convex hull."""
    wall = np.pad(cell | ~supported, 1)  # the padding is where the border's own stretch is closed
    for side in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        edge = cell[side]
        if edge.any():  # cut by the border: closed along it
            wall[side][1:-1][edge.argmax() : edge.size - edge[::-1].argmax()] = True
    return cell | (_fill_holes(wall)[1:-1, 1:-1] & _hull(cell))


def _hull(mask: np.ndarray) -> np.ndarray:
    """Pixels whose centre lies in the convex hull of the mask's pixel centres."""
    rows = np.flatnonzero(mask.any(axis=1))
    first, last = mask[rows].argmax(axis=1), mask.shape[1] - 1 - mask[rows, ::-1].argmax(axis=1)
    try:
        edges = ConvexHull(np.column_stack([np.tile(rows, 2), np.concatenate([first, last])])).equations
    except (QhullError, ValueError):  # all in one line: its own hull
        return mask
    edges = edges[np.abs(edges[:, 1]) > 1e-12]  # those along a row bound no columns
    all_rows = np.arange(rows[0], rows[-1] + 1)
    bound = -(edges[:, :1] * all_rows + edges[:, 2:]) / edges[:, 1:2]  # columns, of shape (edges, rows)
    low = np.where(edges[:, 1:2] < 0, bound, -np.inf).max(axis=0)
    high = np.where(edges[:, 1:2] > 0, bound, np.inf).min(axis=0)
    columns = np.arange(mask.shape[1])
    inside = np.zeros(mask.shape, dtype=bool)
    inside[all_rows] = (columns >= low[:, None] - 1e-9) & (columns <= high[:, None] + 1e-9)
    return inside


def _smooth_outline(cell: np.ndarray, min_area_px: int) -> np.ndarray:
    """Majority of each pixel's neighbourhood, then specks dropped and holes filled."""
    cell = _convolve(cell.astype(np.float64), _KERNEL) >= 0.5 * _kernel_inside(cell.shape)
    label, _ = ndimage.label(cell)
    area = np.bincount(label.ravel())
    area[0] = 0
    return _fill_holes((area >= min_area_px)[label])


def separate_parts(mask: np.ndarray, min_area_px: int) -> list[np.ndarray]:
    """The connected parts of a mask, those that lie mostly within each other's boxes kept as one."""
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    parts: list[np.ndarray] = []
    for number in sorted(range(1, count + 1), key=lambda n: -int((labels == n).sum())):
        part = labels == number
        host = next((i for i, other in enumerate(parts) if _mostly_within(part, other)), None)
        if host is not None:
            parts[host] = parts[host] | part
        elif part.sum() >= min_area_px:
            parts.append(part)
    return parts


def _mostly_within(part: np.ndarray, other: np.ndarray) -> bool:
    rows, columns = (np.flatnonzero(other.any(axis=axis)) for axis in (1, 0))
    box = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bool(box.sum() > 0.5 * part.sum())
