"""The slow, obvious version of ``classify.features``, with scikit-image, that its kernels are tested against."""

import numpy as np
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from skimage.feature import graycomatrix, graycoprops
from skimage.measure import find_contours, regionprops

from stretchscope.classify.features import FEATURES

#: Least transmission that enters an optical density: 0.01 is two decades, more than 8 bits resolve.
TRANSMISSION_FLOOR = 0.01
#: Texture is measured on transmission cut into equal steps from 0 to `TEXTURE_TOP`.
TEXTURE_LEVELS, TEXTURE_TOP = 32, 1.6
#: Points to which the outline is resampled for its Fourier descriptors.
OUTLINE_POINTS = 128


def measure_cell(
    mask: np.ndarray, transmission: np.ndarray, known: np.ndarray, *, pixel_um: float | None
) -> dict[str, float]:
    mask, known = np.asarray(mask, dtype=bool), np.asarray(known, dtype=bool)
    pixel = 1.0 if pixel_um is None else float(pixel_um)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    values = _measure_shape(mask[box]) | _measure_transmission(mask[box], transmission[box], (mask & known)[box])
    for name in ("position", "centroid"):
        values[f"{name}_x"] += rows[0]
        values[f"{name}_y"] += columns[0]
    values["touches_border"] = any(
        index[0] == 0 or index[-1] == n - 1 for index, n in zip((rows, columns), mask.shape, strict=True)
    )
    scale: dict[str, float] = {"um": pixel, "um2": pixel**2, "um3": pixel**3, "per_um": 1 / pixel}
    return {f.column(pixel_um is not None): float(values[f.name] * scale.get(f.unit, 1.0)) for f in FEATURES}


def _measure_shape(mask: np.ndarray) -> dict[str, float]:
    """Features of the mask alone, which is no larger than the cell; lengths in pixels."""
    region = regionprops(np.ascontiguousarray(mask).view(np.uint8))[0]
    size_x, size_y = mask.shape
    orientation = region.orientation  # scikit-image measures from the row axis towards columns: from x towards y

    outline, outline_half = _outlines(mask)
    hull = outline[ConvexHull(outline).vertices]
    area, _, mu_xx, mu_xy, mu_yy = _polygon_moments(outline)
    hull_area, centre, hull_xx, _, hull_yy = _polygon_moments(hull)
    split = np.hypot(mu_xx - mu_yy, 2 * mu_xy)
    principal = (mu_xx + mu_yy + split) / (mu_xx + mu_yy - split)
    circularity = 2 * np.sqrt(np.pi * hull_area) / _polygon_length(hull)
    beyond = 0 if outline is outline_half else 1
    return {
        "area": region.area,
        "equivalent_diameter": region.equivalent_diameter_area,
        "outline_area": area,
        "convex_area": hull_area,
        "perimeter": region.perimeter_crofton,
        "outline_perimeter": _polygon_length(outline),
        "circularity": circularity,
        "deformation": 1 - circularity,
        "solidity": area / hull_area,
        "size_x": size_x,
        "size_y": size_y,
        "aspect_ratio": size_x / size_y,
        "major_axis": region.axis_major_length,
        "minor_axis": region.axis_minor_length,
        "orientation": orientation if orientation > -np.pi / 2 else np.pi / 2,  # both name one axis
        "tilt": abs(0.5 * np.arctan2(2 * mu_xy, mu_xx - mu_yy)),
        "eccentricity": np.sqrt(1 - 1 / principal),
        "inertia_ratio": np.sqrt(mu_xx / mu_yy),
        "inertia_ratio_convex": np.sqrt(hull_xx / hull_yy),
        "inertia_ratio_principal": np.sqrt(principal),
        "volume": _revolved_volume(outline, centre[1]),
        "position_x": centre[0],
        "position_y": centre[1],
        "centroid_x": np.arange(size_x) @ mask.sum(axis=1) / region.area,
        "centroid_y": np.arange(size_y) @ mask.sum(axis=0) / region.area,
        **{f"lobes_{n}": strength for n, strength in enumerate(_lobes(outline_half), start=2)},
        "feret_max": pdist(hull).max() + beyond,
        "feret_min": _least_width(hull) + beyond,
    }


def _least_width(hull: np.ndarray) -> float:
    """Least of the distances of the farthest corner from each edge."""
    edges = np.roll(hull, -1, axis=0) - hull
    normals = np.stack([edges[:, 1], -edges[:, 0]], axis=1) / np.hypot(*edges.T)[:, None]
    return min(np.ptp(hull @ normal) for normal in normals)


def _outlines(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Longest outline through pixel centres, and the same at half level; each (points, 2) of (x, y)."""
    # Contour points lie between an inside and an outside neighbour, a quarter of a pixel from the former.
    contours = find_contours(np.pad(mask, 1).astype(np.float64), 0.75, fully_connected="high")
    contour = max(contours, key=len)[:-1] - 1
    inside = np.round(contour)
    half = inside + 2 * (contour - inside)
    moved = np.diff(inside, axis=0, prepend=inside[-1:]).any(axis=1)
    outline = inside[moved]
    if len(outline) < 3 or abs(_signed_area(outline)) < 0.25:  # areas of lattice polygons are multiples of 1/2
        outline = half
    return outline, half


def _edges(polygon: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Start (x, y) and end (x, y) of each edge of a polygon (points, 2), the closing edge included."""
    x, y = np.concatenate([polygon, polygon[:1]]).T
    return x[:-1], y[:-1], x[1:], y[1:]


def _signed_area(polygon: np.ndarray) -> float:
    x, y, x_next, y_next = _edges(polygon)
    return float(np.sum(x * y_next - x_next * y) / 2)


def _polygon_length(polygon: np.ndarray) -> float:
    x, y, x_next, y_next = _edges(polygon)
    return float(np.hypot(x_next - x, y_next - y).sum())


def _polygon_moments(polygon: np.ndarray) -> tuple[float, np.ndarray, float, float, float]:
    """Area, centroid (x, y) and central second moments xx, xy, yy of a polygon, by Green's theorem."""
    origin = polygon.mean(axis=0)  # near the centroid, lest large coordinates cancel
    x, y, x_next, y_next = _edges(polygon - origin)
    cross = x * y_next - x_next * y
    area = cross.sum() / 2
    centre = np.array([(cross * (x + x_next)).sum(), (cross * (y + y_next)).sum()]) / (6 * area)
    xx = (cross * (x * x + x * x_next + x_next * x_next)).sum() / 12
    yy = (cross * (y * y + y * y_next + y_next * y_next)).sum() / 12
    xy = (cross * (x * y_next + 2 * x * y + 2 * x_next * y_next + x_next * y)).sum() / 24
    sign = np.sign(area)
    return (
        abs(area),
        centre + origin,
        sign * (xx - area * centre[0] ** 2),
        sign * (xy - area * centre[0] * centre[1]),
        sign * (yy - area * centre[1] ** 2),
    )


def _revolved_volume(outline: np.ndarray, axis_y: float) -> float:
    """Volume of the outline revolved about the line y = axis_y: mean of what either side gives.

    Each edge sweeps a truncated cone; the part beyond the axis is clamped to it, point by point.
    """
    x, y, x_next, y_next = _edges(outline)
    halves = []
    for side in (1, -1):
        r, r_next = np.maximum(side * (y - axis_y), 0), np.maximum(side * (y_next - axis_y), 0)
        halves.append(np.sum((x_next - x) * (r * r + r * r_next + r_next * r_next)))
    return float(np.pi / 3 * abs(halves[0] - halves[1]) / 2)


def _lobes(outline: np.ndarray) -> np.ndarray:
    """Amplitude of 2 to 7 lobes: Fourier descriptors, invariant to place, size, angle and starting point.

    An outline of radius R (1 + e cos n phi), sampled evenly along its length, has beside the circle itself,
    coefficient 1, only the coefficients 1 + n and 1 - n: to first order in e, R e (n - 1) / 2n and
    R e (n + 1) / 2n. Their sum over the circle's is e.
    """
    closed = np.vstack([outline, outline[:1]])
    travelled = np.concatenate([[0], np.hypot(*np.diff(closed, axis=0).T).cumsum()])
    even = np.linspace(0, travelled[-1], OUTLINE_POINTS, endpoint=False)
    path = np.interp(even, travelled, closed[:, 0]) + 1j * np.interp(even, travelled, closed[:, 1])
    if _signed_area(outline) < 0:
        path = path.conj()
    strength = np.abs(np.fft.fft(path))
    lobes = np.arange(2, 8)
    return (strength[1 + lobes] + strength[1 - lobes]) / strength[1]


def _measure_transmission(mask: np.ndarray, transmission: np.ndarray, seen: np.ndarray) -> dict[str, float]:
    """Features of the transmission on `seen`, the mask's known pixels; lengths in pixels."""
    n, n_seen = int(mask.sum()), int(seen.sum())
    fraction = {"unknown_fraction": 1 - n_seen / n}
    if n_seen == 0:
        return {f.name: np.nan for f in FEATURES if f.name.startswith(_BRIGHTNESS)} | fraction
    values = transmission[seen].astype(np.float64)
    density = float(-np.log10(np.maximum(values, TRANSMISSION_FLOOR)).mean())
    q10, q50, q90 = np.quantile(values, [0.1, 0.5, 0.9])
    return fraction | {
        "transmission_mean": values.mean(),
        "transmission_sd": values.std(),
        "transmission_min": values.min(),
        "transmission_max": values.max(),
        "transmission_q10": q10,
        "transmission_q50": q50,
        "transmission_q90": q90,
        "optical_density_mean": density,
        "optical_density_integral": density * n,
        "gradient_rms": _gradient_rms(transmission, seen),
        **_texture(transmission, seen),
    }


_BRIGHTNESS = ("transmission_", "optical_density_", "gradient_", "texture_")


def _gradient_rms(transmission: np.ndarray, seen: np.ndarray) -> float:
    """Root of the mean squared gradient [1/pixel]; a direction without neighbouring pixels adds nothing."""
    squares = []
    for first, second in ((np.s_[:-1], np.s_[1:]), (np.s_[:, :-1], np.s_[:, 1:])):
        pairs = seen[first] & seen[second]
        if pairs.any():
            step = transmission[second][pairs] - transmission[first][pairs]
            squares.append(np.mean(np.square(step, dtype=np.float64)))
    return float(np.sqrt(sum(squares))) if squares else np.nan


def _texture(transmission: np.ndarray, seen: np.ndarray) -> dict[str, float]:
    """Haralick features of pixel pairs one pixel apart, both in `seen`, four directions together."""
    step = TEXTURE_TOP / TEXTURE_LEVELS
    properties = {"contrast": step**2, "correlation": 1.0, "homogeneity": 1.0, "energy": 1.0}
    level = np.zeros(seen.shape, dtype=np.uint8)  # level 0 is outside, and its pairs are struck out below
    level[seen] = 1 + np.clip(transmission[seen] / step, 0, TEXTURE_LEVELS - 1).astype(np.uint8)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    pairs = graycomatrix(level, [1], angles, levels=TEXTURE_LEVELS + 1, symmetric=True)
    pairs = pairs[1:, 1:].sum(axis=3, keepdims=True)
    if not pairs.any():
        return {f"texture_{p}": np.nan for p in properties}
    return {f"texture_{p}": float(graycoprops(pairs, p)[0, 0]) * unit for p, unit in properties.items()}
