"""Find the pixels of a cell in its transmission image.

Between `sr.reconstruct` and :mod:`.features`. Images have shape (rows, columns): rows along the flow, columns
along the laser line; transmission is 1 where empty. A cell deviates from 1 either way: absorbing
cells are dark, phase objects have a dark rim around a core as bright as the background.

A pixel belongs to the cell where its deviation is significant against the noise and at least half of the
strongest deviation near by, which puts the outline at the half level of its edge, not far out in the blur or
the noise. Then what the outline encloses is filled, across columns that are not known.
"""

import threading

import numpy as np

from . import _segment_kernels as kernels

# Defaults of `segment_cell`.
THRESHOLD, FLOOR, MIN_AREA_PX = 5.0, 0.03, 12

# Noise beyond these is as good as none, or as good as nothing known; its squares must be numbers in single precision.
_NOISE_BOUNDS = 1e-15, 1e15

_own = threading.local()  # each thread's work arrays
_NO_SEED = np.empty((0, 0), dtype=bool)


def segment_cell(
    transmission: np.ndarray,
    known: np.ndarray,
    noise_std: float | np.ndarray,
    *,
    seed_mask: np.ndarray | None = None,
    threshold: float = THRESHOLD,
    floor: float = FLOOR,
    min_area_px: int = MIN_AREA_PX,
) -> np.ndarray:
    """Mask of the cell in a transmission image.

    Parameters
    ----------
    transmission : ndarray of shape (rows, columns), float
        Transmission, 1 where empty. Any value, NaN too, where not `known`.
    known : ndarray of shape (rows, columns), bool
        False where nothing is known of the transmission: notches of the profile, saturated samples.
    noise_std : float or ndarray of shape (rows, columns)
        Standard deviation of a known pixel's noise [transmission].
    seed_mask : ndarray of shape (rows, columns), bool, optional
        Where the detector saw the cell. Objects that do not touch it are neighbours and are left out. Without
        it, the object of largest summed deviation is the cell.
    threshold : float, optional
        Deviation, in standard deviations of the smoothed noise, that an object reaches somewhere. Its
        outline may go down to half of that.
    floor : float, optional
        Deviation [transmission] that an object reaches somewhere, whatever the noise: shading and residues of the
        background are not cells. As with `threshold`, its outline may go down to half of that.
    min_area_px : int, optional
        Parts with fewer pixels are specks, and dropped.

    Returns
    -------
    mask : ndarray of shape (rows, columns), bool
        The cell, without holes; unknown pixels that it encloses are part of it. All False if nothing is
        significant. It may reach the border: see the feature `touches_border`.

    Raises
    ------
    ValueError
        If the shapes differ, a known pixel is not finite or its noise is not positive, or `floor` is not.

    Notes
    -----
    Halo is told by what it hangs together with, not by the strongest object in sight: a dim cell beside a
    bright one keeps its own measure. The noise of neighbouring pixels may be correlated, as gridding leaves it:
    how far smoothing really lowers it is measured from the image. All is done in single precision. Columns of
    unknown pixels that cut the object are bridged where the convex hull of what is seen covers them. What lies
    wholly behind unknown pixels is not guessed: a rim hidden there is cut straight. A bay in the outline
    narrower than about a fifth of the object is closed. A ring cut off by a corner of the window keeps its
    hole.

    Sources: Knutsson and Westin, CVPR 1993, 515 (normalised convolution); Canny, IEEE Trans. PAMI 8, 679
    (1986) (hysteresis).
    """
    with np.errstate(over="ignore"):  # what is not known may be anything
        transmission = np.ascontiguousarray(transmission, dtype=np.float32)
    noise_std = np.broadcast_to(np.asarray(noise_std, dtype=np.float64), transmission.shape)
    known = np.ascontiguousarray(known, dtype=bool)
    seed_mask = None if seed_mask is None else np.ascontiguousarray(seed_mask, dtype=bool)
    _validate(transmission, known, noise_std, seed_mask, floor)
    mask = np.empty(known.shape, dtype=bool)
    kernels.segment_into(
        transmission,
        known,
        np.clip(noise_std, *_NOISE_BOUNDS).astype(np.float32, order="C"),
        _NO_SEED if seed_mask is None else seed_mask,
        float(threshold),
        float(floor),
        int(min_area_px),
        mask,
        _work_for(*known.shape),
    )
    return mask


def segment_images(
    place: np.ndarray,
    transmission: np.ndarray,
    known: np.ndarray,
    noise_std: np.ndarray,
    seeds: np.ndarray,
    labels: np.ndarray,
    *,
    threshold: float = THRESHOLD,
    floor: float = FLOOR,
    min_area_px: int = MIN_AREA_PX,
) -> tuple[np.ndarray, np.ndarray]:
    """`segment_cell` and `separate_parts` for many images in flat arrays; nothing is checked.

    Parameters
    ----------
    place : ndarray of shape (N, 3), int64
        Where the pixels of each image begin, its rows and columns.
    transmission, noise_std : ndarray of shape (pixels,), float32
    known, seeds : ndarray of shape (pixels,), bool
    labels : ndarray of shape (pixels,), int32
        Written: to which of the image's cells each pixel belongs, from 1 on; 0 to none.
    threshold, floor, min_area_px
        As for `segment_cell`.

    Returns
    -------
    cells : ndarray of shape (M, 2), int64
        Image and label of each cell.
    extents : ndarray of shape (M, 5), int64
        First and last row, first and last column, and pixels of each.
    """
    work = _work_for(int(place[:, 1].max(initial=1)), int(place[:, 2].max(initial=1)))
    cells, extents = kernels.segment_many(
        place, transmission, known, noise_std, seeds, float(threshold), float(floor), int(min_area_px), labels, work
    )
    return cells, extents


def _work_for(rows: int, columns: int) -> tuple[np.ndarray, ...]:
    """The thread's work arrays, kept from image to image: to ask for memory costs more than to use it."""
    held = getattr(_own, "held", (0, 0))
    if rows > held[0] or columns > held[1]:
        _own.held = max(rows, held[0]), max(columns, held[1])
        _own.work = kernels.segment_work(*_own.held)
    return _own.work


def separate_parts(mask: np.ndarray, min_area_px: int) -> list[np.ndarray]:
    """Masks of the cells in a mask: its connected parts, those that lie mostly within each other's boxes kept as one.

    Neighbours whose blurred feet touch make one event, yet their outlines stand apart.

    Parameters
    ----------
    mask : ndarray of shape (rows, columns), bool
        What was segmented as one; pixels that share a corner hang together.
    min_area_px : int
        Parts with fewer pixels are specks, and dropped, save within the box of a larger part.

    Returns
    -------
    parts : list of ndarray of shape (rows, columns), bool
        The largest first.
    """
    mask = np.ascontiguousarray(mask, dtype=bool)
    labels = np.empty(mask.shape, dtype=np.int32)
    count = kernels.label_parts(mask, int(min_area_px), labels)
    parts = [np.empty(mask.shape, dtype=bool) for _ in range(count)]
    for number, part in enumerate(parts, start=1):
        kernels.take_label(labels, number, part)
    return parts


def contiguous_float(image: np.ndarray) -> np.ndarray:
    """The image as the kernels of the features take it: float32 as it is, any other type as float64."""
    return np.ascontiguousarray(image, dtype=np.float32 if image.dtype == np.float32 else np.float64)


def _validate(
    transmission: np.ndarray, known: np.ndarray, noise_std: np.ndarray, seed_mask: np.ndarray | None, floor: float
) -> None:
    shapes = {known.shape} | ({seed_mask.shape} if seed_mask is not None else set())
    if transmission.ndim != 2 or shapes != {transmission.shape}:
        raise ValueError(
            f"transmission, known and seed_mask must have one shape (rows, columns), "
            f"got {transmission.shape} and {sorted(shapes)}"
        )
    if not floor > 0:
        raise ValueError(f"floor must be positive, got {floor!r}; to leave the noise to decide, give a small one")
    if not np.isfinite(transmission).all(where=known):
        raise ValueError("transmission is not finite in a pixel that is said to be known")
    if not (np.isfinite(noise_std) & (noise_std > 0)).all(where=known):
        raise ValueError("noise_std must be positive and finite in every known pixel")
