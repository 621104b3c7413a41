"""Measure one segmented cell: size, shape, transmission, texture and outline, each with its unit.

After :mod:`.segment`. One table, `FEATURES`, is the home of every name, unit and meaning; results, reports
and the .rtdc file take them from here. Images have shape (rows, columns): rows along the flow (x), columns
along the laser line (y). A pixel is square, so a single pixel size turns pixels into µm.

Two kinds of size stand side by side on purpose. `area` counts pixels and is unbiased. The features that have
an RT-DC name follow RT-DC instead: they belong to the polygon through the *centres* of the mask's outermost
pixels (or its convex hull), which is smaller by about half the perimeter. Existing gates and publications use
that convention, and dclab computes the same numbers from the same mask.
"""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import ConvexHull
from skimage.feature import graycomatrix, graycoprops
from skimage.measure import find_contours, regionprops

#: Least transmission that enters an optical density: 0.01 is two decades, more than 8 bits resolve.
TRANSMISSION_FLOOR = 0.01
#: Texture is measured on transmission cut into equal steps from 0 to `TEXTURE_TOP`.
TEXTURE_LEVELS, TEXTURE_TOP = 32, 1.6
#: Points to which the outline is resampled for its Fourier descriptors.
OUTLINE_POINTS = 128

_CALIBRATED_TO_PIXELS = {"um": "px", "um2": "px2", "um3": "px3", "per_um": "per_px"}


@dataclass(frozen=True)
class Feature:
    """One row of `FEATURES`.

    Attributes
    ----------
    name : str
        Name without unit.
    unit : str
        Suffix of the column name; empty for a pure number. Lengths are given in um, um2, um3 or per_um.
    description : str
        What it is, for reports and documentation.
    rtdc : str or None
        Name in an .rtdc file, where RT-DC defines the same quantity.
    """

    name: str
    unit: str
    description: str
    rtdc: str | None = None

    def column(self, calibrated: bool) -> str:
        """Column name with its unit: `area_um2` if the pixel size is known, `area_px2` if not."""
        unit = self.unit if calibrated else _CALIBRATED_TO_PIXELS.get(self.unit, self.unit)
        return f"{self.name}_{unit}" if unit else self.name


FEATURES: tuple[Feature, ...] = (
    Feature("area", "um2", "area of the mask's pixels"),
    Feature("equivalent_diameter", "um", "diameter of the disc of that area"),
    Feature("outline_area", "um2", "area inside the outline through pixel centres", "area_um_raw"),
    Feature("convex_area", "um2", "area of the outline's convex hull", "area_um"),
    Feature("perimeter", "um", "perimeter by Crofton's formula, four directions"),
    Feature("outline_perimeter", "um", "length of the outline through pixel centres", "per_um_raw"),
    Feature("circularity", "", "2 sqrt(pi A) / P of the convex hull; 1 for a disc", "circ"),
    Feature("deformation", "", "1 - circularity", "deform"),
    Feature("solidity", "", "outline area over convex area; 1 without dents"),
    Feature("size_x", "um", "extent along the flow", "size_x"),
    Feature("size_y", "um", "extent along the laser line", "size_y"),
    Feature("aspect_ratio", "", "size_x / size_y", "aspect"),
    Feature("major_axis", "um", "major axis of the ellipse with the mask's second moments"),
    Feature("minor_axis", "um", "minor axis of that ellipse"),
    Feature("orientation", "rad", "angle of the major axis from the flow towards +y, in (-pi/2, pi/2]"),
    Feature("tilt", "rad", "angle between the outline's major axis and the flow, 0 to pi/2", "tilt"),
    Feature("eccentricity", "", "eccentricity of the ellipse with the outline's moments", "eccentr_prnc"),
    Feature("inertia_ratio", "", "sqrt(mu_xx / mu_yy) of the outline", "inert_ratio_raw"),
    Feature("inertia_ratio_convex", "", "sqrt(mu_xx / mu_yy) of the convex hull", "inert_ratio_cvx"),
    Feature("inertia_ratio_principal", "", "the same in principal axes, at least 1", "inert_ratio_prnc"),
    Feature("volume", "um3", "volume of the outline revolved about the flow axis, mean of halves", "volume"),
    Feature("position_x", "um", "convex hull's centroid along the flow, from the crop's first row", "pos_x"),
    Feature("position_y", "um", "convex hull's centroid across, from the crop's first column", "pos_y"),
    Feature("centroid_x", "px", "mean row of the mask's pixels in the crop"),
    Feature("centroid_y", "px", "mean column of the mask's pixels in the crop"),
    Feature("transmission_mean", "", "mean transmission of known pixels"),
    Feature("transmission_sd", "", "standard deviation of transmission"),
    Feature("transmission_min", "", "least transmission"),
    Feature("transmission_max", "", "greatest transmission"),
    Feature("transmission_q10", "", "10 % quantile of transmission"),
    Feature("transmission_q50", "", "median transmission"),
    Feature("transmission_q90", "", "90 % quantile of transmission"),
    Feature("optical_density_mean", "", "mean of -log10(transmission)"),
    Feature("optical_density_integral", "um2", "mean optical density times the mask's area"),
    Feature("gradient_rms", "per_um", "rms slope of transmission between neighbouring known pixels"),
    Feature("texture_contrast", "", "Haralick contrast, in squared transmission"),
    Feature("texture_correlation", "", "Haralick correlation, -1 to 1"),
    Feature("texture_homogeneity", "", "Haralick inverse difference moment, 0 to 1"),
    Feature("texture_energy", "", "Haralick energy (root of the angular second moment), 0 to 1"),
    Feature("lobes_2", "", "amplitude of two lobes of the outline (elongation), over its mean radius"),
    Feature("lobes_3", "", "the same for three lobes"),
    Feature("lobes_4", "", "the same for four lobes"),
    Feature("lobes_5", "", "the same for five lobes"),
    Feature("lobes_6", "", "the same for six lobes"),
    Feature("lobes_7", "", "the same for seven lobes"),
    Feature("unknown_fraction", "", "share of the mask's pixels whose transmission is not known"),
    Feature("touches_border", "", "1 if the mask reaches the crop's border, so that the cell may be cut"),
)


def measure_cell(
    mask: np.ndarray, transmission: np.ndarray, known: np.ndarray, *, pixel_um: float | None
) -> dict[str, float]:
    """Features of one cell, in the order of `FEATURES`.

    Parameters
    ----------
    mask : ndarray of shape (rows, columns), bool
        The cell's pixels; rows along the flow. Any shape is measured: a single pixel, a line, several
        parts, holes, the whole frame.
    transmission : ndarray of shape (rows, columns), float
        Transmission, 1 where empty. Read only where `mask` and `known`.
    known : ndarray of shape (rows, columns), bool
        False where the transmission is not known; such pixels count for shape, not for brightness.
    pixel_um : float or None
        Side of the square pixel [µm]; None where it is unknown.

    Returns
    -------
    features : dict of str to float
        Keys are ``f.column(pixel_um is not None) for f in FEATURES``: lengths in µm with a pixel size, in
        pixels without one. Finite, save for transmission, optical density, gradient and texture, which are
        NaN where the mask holds no known pixel (the latter two: no two neighbouring ones).

    Raises
    ------
    ValueError
        If the mask is empty, the shapes differ, or `pixel_um` is not positive.

    Notes
    -----
    Features of the outline belong to the longest outline when the mask has several parts, as in dclab; holes
    do not count in them. Where the polygon through pixel centres encloses nothing (a pixel, a line one
    pixel wide), the outline at half level stands in, half a pixel further out. As in dclab, the volume is
    therefore too small: by 12 % for an ellipse with half axes of 20 and 10 pixels, less as the cell grows.

    Sources: dclab 0.73 (definitions of the RT-DC features); Haralick, Proc. IEEE 67, 786 (1979) (texture);
    Granlund, IEEE Trans. Comput. C-21, 195 (1972) (Fourier descriptors of outlines).
    """
    mask, known = np.asarray(mask, dtype=bool), np.asarray(known, dtype=bool)
    if mask.ndim != 2 or mask.shape != transmission.shape or mask.shape != known.shape:
        raise ValueError(
            f"mask, transmission and known must have one shape (rows, columns), got {mask.shape}, "
            f"{transmission.shape} and {known.shape}"
        )
    if not mask.any():
        raise ValueError("the mask is empty: there is no cell to measure")
    if pixel_um is not None and not (np.isfinite(pixel_um) and pixel_um > 0):
        raise ValueError(f"pixel_um must be a positive number of µm, or None if unknown; got {pixel_um!r}")

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
    }


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
