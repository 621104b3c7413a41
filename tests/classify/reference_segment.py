"""The slow, obvious version of ``classify.segment``, with scipy, that its kernels are tested against.

In single precision, sums in the kernels' order, so that masks can be compared bit by bit; or, to tell what that
precision costs, in double.
"""

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
#: Columns that the noise is measured in; rows too, in an image of six times as many pixels, of a smaller one more.
_COLUMNS_APART, _PIXELS_APART = 3, 2000
#: Fewer differences tell nothing of the noise.
_LEAST_DIFFERENCES = 33
#: The excess of noise is measured in so many steps, down; strengths near by are compared in so many of the greatest.
_STEPS, _MOST_STEPS = 255, 32766

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
    dtype: type = np.float32,
) -> np.ndarray:
    noise_std = np.broadcast_to(np.asarray(noise_std, dtype=dtype), transmission.shape)
    known = np.asarray(known, dtype=bool)
    deviation, sigma, supported = _smooth(transmission.astype(dtype), known, noise_std)
    strength = np.abs(deviation)
    excess = _noise_excess(deviation, sigma, supported)
    least = dtype(threshold * excess) * sigma
    strong = (strength >= least) & (strength >= dtype(floor))
    sought = strong if seed_mask is None else strong & seed_mask
    if not sought.any():
        return np.zeros(known.shape, dtype=bool)
    reach = _edge_reach(sought)
    near = (strength >= dtype(0.5) * dtype(threshold * excess) * sigma) & (strength >= dtype(0.5) * dtype(floor))
    step = dtype(_MOST_STEPS) / strength[near].max()
    near &= _holding(sought, *_parts(near, supported, reach))
    significant = _without_halo(near, sought, strength, supported, reach, floor)
    height = np.where(significant, np.maximum(strength - dtype(1.5 * excess) * sigma, dtype(0)), dtype(0))
    top = _top((height * step).astype(np.int64), supported, reach)
    weak = significant & (strength * step >= dtype(0.5) * top.astype(dtype))

    cell = _select(weak, strong, strength, supported, seed_mask)
    if cell.any():
        cell = _smooth_outline(_enclose(_close(cell, reach), supported), min_area_px)
    return cell


def _correlate(image: np.ndarray, kernel: np.ndarray, axis: int) -> np.ndarray:
    """With zeros beyond the border; a sum in the image's precision, in the kernels' order."""
    padded = np.pad(image, [(_radius, _radius) if i == axis else (0, 0) for i in range(2)])
    x = [np.take(padded, range(k, k + image.shape[axis]), axis=axis) for k in range(2 * _radius + 1)]
    k = kernel.astype(image.dtype)
    return x[3] * k[3] + (x[0] + x[6]) * k[0] + (x[1] + x[5]) * k[1] + (x[2] + x[4]) * k[2]


def _convolve(image: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    return _correlate(_correlate(image, kernel, 1), kernel, 0)


def _kernel_inside(shape: tuple[int, ...]) -> np.ndarray:
    """Share of the smoothing kernel's weight that lies within the image, about each pixel."""
    along, across = (ndimage.correlate1d(np.ones(n), _KERNEL, mode="constant") for n in shape)
    return np.outer(along, across)


def _smooth(
    transmission: np.ndarray, known: np.ndarray, noise_std: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Smoothed 1 - transmission, its standard deviation of white noise, and where the two can be trusted.

    Where all is known, the weights within a kernel are taken as alike for the standard deviation.
    """
    dtype = transmission.dtype.type
    one = dtype(1)
    weight = np.divide(one, np.square(noise_std), out=np.zeros(known.shape, dtype), where=known)
    total = _convolve(weight * np.subtract(one, transmission, out=np.zeros(known.shape, dtype), where=known), _KERNEL)
    norm = _convolve(weight, _KERNEL)
    root = one / np.sqrt(np.where(norm > 0, norm, one))
    deviation, sigma = total * (root * root), root * dtype(np.square(_KERNEL).sum())
    supported = known
    if not known.all():
        sigma = np.sqrt(_convolve(weight, _KERNEL**2)) / np.where(norm > 0, norm, one)
        # near a border the kernel's outer part is missing, not unknown
        root = one / np.sqrt(_convolve(np.ones(known.shape, dtype), _KERNEL))
        supported = _convolve(known.astype(dtype), _KERNEL) * (root * root) >= dtype(SUPPORT)
    return np.where(supported, deviation, dtype(0)), sigma, supported


def _noise_excess(deviation: np.ndarray, sigma: np.ndarray, supported: np.ndarray) -> float:
    """Smoothed noise over what white pixel noise would leave: 1, or more if neighbours' noise is correlated.

    From a low quantile of differences, which edges and structure of an object hardly raise; at most the
    factor by which smoothing lowers white noise. Neighbouring pixels would hardly add to what some of them tell.
    """
    dtype = deviation.dtype.type
    standard = np.divide(deviation, sigma, out=np.full(sigma.shape, np.nan, dtype), where=supported)
    standard = standard[:, ::_COLUMNS_APART]
    skip = min(max(supported.size // _PIXELS_APART, 1), _LAG_PX)
    taken = np.arange(len(standard)) % _LAG_PX % skip == 0
    lags = _LAG_PX // _COLUMNS_APART
    down = (standard[_LAG_PX:] - standard[:-_LAG_PX])[taken[: max(len(standard) - _LAG_PX, 0)]]
    across = (standard[:, lags:] - standard[:, :-lags])[taken]
    difference = np.abs(np.concatenate([down.ravel(), across.ravel()]))
    difference = difference[~np.isnan(difference)]
    if difference.size < _LEAST_DIFFERENCES:
        return 1.0
    share, quantile_of_normal, most = 0.4, 0.5244, 1 / np.square(_KERNEL).sum()
    quantile = np.sort(difference)[int(share * (difference.size - 1))]
    scale = _STEPS / (most - 1)
    steps = quantile * dtype(scale / (np.sqrt(2) * quantile_of_normal)) - dtype(scale)
    return 1 + int(np.clip(steps, 0, _STEPS)) / scale


def _edge_reach(strong: np.ndarray) -> int:
    """How far [pixels] an edge's foot may lie from its top: a tenth of the object's extent, within bounds."""
    rows, columns = np.nonzero(strong)
    extent = max(np.ptp(rows), np.ptp(columns)) + 1
    return int(np.clip(np.ceil(extent / 10), 2, 6))


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
    limit, level = HALO * float(strength[sought].max()), floor / 2  # of plain type: strengths keep theirs
    while True:
        within = near & (strength >= level)
        label, n = _parts(within, supported, reach)
        peak = np.zeros(n + 1, strength.dtype)
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


def _top(height: np.ndarray, supported: np.ndarray, reach: int) -> np.ndarray:
    """Height of the edge that each pixel may belong to: the greatest near by.

    Unknown columns have the height found on either side, so that a faint flank across them is seen as one.
    The greatest of several noisy values lies about 1.5 standard deviations too high: see where it is taken off.
    """
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
