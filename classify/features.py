"""Measure one segmented cell: size, shape, transmission, texture and outline, each with its unit.

After :mod:`.segment`. One table, `FEATURES`, is the home of every name, unit and meaning; results, reports
and the .rtdc file take them from here. Images have shape (rows, columns): rows along the flow (x), columns
along the laser line (y). A pixel is square, so a single pixel size turns pixels into µm.

Two kinds of size stand side by side on purpose. `area` counts pixels and is unbiased. The features that have
an RT-DC name follow RT-DC instead: they belong to the polygon through the *centres* of the mask's outermost
pixels (or its convex hull), which is smaller by about half the perimeter. Existing gates and publications use
that convention, and dclab computes the same numbers from the same mask.
"""

import threading
from dataclasses import dataclass

import numpy as np

from ._feature_kernels import (
    OUTLINE_POINTS,
    TEXTURE_LEVELS,
    TEXTURE_TOP,
    TRANSMISSION_FLOOR,
    feature_room,
    measure_into,
    measure_many,
)
from .segment import contiguous_float

__all__ = [
    "FEATURES",
    "OUTLINE_POINTS",
    "TEXTURE_LEVELS",
    "TEXTURE_TOP",
    "TRANSMISSION_FLOOR",
    "Feature",
    "measure_cell",
]

_own = threading.local()  # each thread's work arrays
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
    Feature("feret_max", "um", "greatest extent in any direction: that of the outline and one pixel"),
    Feature("feret_min", "um", "least extent in any direction, likewise"),
)


_COLUMNS = tuple(tuple(f.column(calibrated) for f in FEATURES) for calibrated in (False, True))


def feature_columns(*, calibrated: bool) -> tuple[str, ...]:
    """Column names of `FEATURES`, with a pixel size or without."""
    return _COLUMNS[calibrated]


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

    mask, known = np.ascontiguousarray(mask), np.ascontiguousarray(known)
    values = np.empty(len(FEATURES))
    measure_into(mask, contiguous_float(transmission), known, 1.0 if pixel_um is None else float(pixel_um), values)
    return dict(zip(feature_columns(calibrated=pixel_um is not None), values.tolist(), strict=True))


def measure_images(
    place: np.ndarray,
    cells: np.ndarray,
    extents: np.ndarray,
    labels: np.ndarray,
    transmission: np.ndarray,
    known: np.ndarray,
    *,
    pixel_um: float | None,
) -> np.ndarray:
    """`measure_cell` for many cells of many images in flat arrays; nothing is checked.

    Parameters
    ----------
    place, cells, extents, labels, transmission, known
        As `segment_images` takes and gives them.
    pixel_um : float or None
        Side of the square pixel [µm].

    Returns
    -------
    values : ndarray of shape (M, features), float64
        In the order of `FEATURES`.
    """
    room = _room_for(int(place[:, 1].max(initial=1)), int(place[:, 2].max(initial=1)), transmission)
    values = np.empty((len(cells), len(FEATURES)))
    pixel = 1.0 if pixel_um is None else float(pixel_um)
    measure_many(place, cells, extents, labels, transmission, known, pixel, room, values)
    return values


def _room_for(rows: int, columns: int, transmission: np.ndarray) -> tuple[np.ndarray, ...]:
    """The thread's work arrays, kept from image to image: to ask for memory costs more than to use it."""
    held = getattr(_own, "held", (0, 0))
    if rows > held[0] or columns > held[1]:
        _own.held = held = max(rows, held[0]), max(columns, held[1])
        _own.room = feature_room(held[0], held[1], transmission[:0])
    return _own.room
