"""Square crops of one size around cells, as the .rtdc format demands them."""

import numpy as np

from ._crop_kernels import cut_many, extent, measure_extents
from .measure import PATCH_ROOM_PX, Cell, Images

# Room around the largest of the first cells, and bounds of the side; sides are multiples of 16 pixels.
_ROOM = 1.25
_SMALLEST, _LARGEST = 48, 256


def choose_crop_px(cells: list[Cell], usual_px: float = 0.0) -> int:
    """Side [pixels] that holds all of the given cells with some room, or what is usual without any, within bounds."""
    extents = [max(np.ptp(index) + 1 for index in np.nonzero(cell.mask)) for cell in cells]
    side = 16 * int(np.ceil(_ROOM * max(extents, default=usual_px) / 16))
    return int(np.clip(side, _SMALLEST, _LARGEST))


def crop_cell(cell: Cell, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Transmission and mask of a cell in a square around its centre, both of shape (side, side).

    Transmission is NaN beyond the patch. Of a cell larger than the square, the middle is left.
    """
    crop = np.full((side, side), np.nan, dtype=np.float32)
    inside = np.zeros((side, side), dtype=bool)
    first = _corner(cell.mask, side)
    source = tuple(slice(max(0, f), min(n, f + side)) for f, n in zip(first, cell.mask.shape, strict=True))
    target = tuple(slice(s.start - f, s.stop - f) for f, s in zip(first, source, strict=True))
    crop[target] = cell.patch[source]
    inside[target] = cell.mask[source]
    return crop, inside


def grey_crops(
    images: Images, side: int, transmission_at_0: float, transmission_at_255: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops of cells as the .rtdc format stores them.

    Returns
    -------
    crops : ndarray of shape (M, side, side), uint8
        Grey levels; what is not known, or far from the cell, is drawn as empty (transmission 1).
    masks : ndarray of shape (M, side, side), bool
        None empty.
    cut : ndarray of shape (M,), bool
        Whether some of the cell lies beyond its crop.
    """
    count = len(images.cells)
    crops, masks = np.empty((count, side, side), np.uint8), np.empty((count, side, side), np.bool_)
    shown = np.empty(count, np.int64)
    levels = 255 / (transmission_at_255 - transmission_at_0)
    cut_many(
        images.place, images.cells, images.extents, images.labels, images.transmission, PATCH_ROOM_PX,
        float(transmission_at_0), levels, crops, masks, shown,
    )  # fmt: skip
    return crops, masks, shown < images.extents[:, 4]


def images_of(cells: list[Cell]) -> Images:
    """Cells with their surroundings, at least one, as images of one cell each."""
    shapes = np.array([cell.mask.shape for cell in cells], dtype=np.int64)
    ends = np.cumsum(shapes[:, 0] * shapes[:, 1])
    place = np.column_stack([np.append(0, ends[:-1]), shapes])
    transmission = np.concatenate([cell.patch.ravel() for cell in cells])
    labels = np.concatenate([cell.mask.ravel() for cell in cells]).astype(np.int32)
    number = np.arange(len(cells))
    marked = np.stack([number, np.ones_like(number)], axis=1)
    extents = np.empty((len(cells), 5), np.int64)
    measure_extents(place, marked, labels, extents)
    return Images(place, transmission, ~np.isnan(transmission), labels, marked, extents)


def _corner(mask: np.ndarray, side: int) -> tuple[int, int]:
    """First row and column of the square around a mask's middle."""
    top, bottom, left, right, _ = extent(mask)
    return (top + bottom - side + 2) // 2, (left + right - side + 2) // 2
