"""Square crops of one size around cells, as the .rtdc format demands them."""

import numpy as np

from ._crop_kernels import cut_crop, extent
from .measure import Cell

# Room around the largest of the first cells, and bounds of the side; sides are multiples of 16 pixels.
_ROOM = 1.25
_SMALLEST, _LARGEST = 48, 256


def choose_crop_px(cells: list[Cell]) -> int:
    """Side [pixels] that holds all of the given cells with some room, within bounds."""
    extents = [max(np.ptp(index) + 1 for index in np.nonzero(cell.mask)) for cell in cells]
    side = 16 * int(np.ceil(_ROOM * max(extents, default=0) / 16))
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
    cells: list[Cell], side: int, transmission_at_0: float, transmission_at_255: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Crops of cells as the .rtdc format stores them.

    Returns
    -------
    crops : ndarray of shape (N, side, side), uint8
        Grey levels; what is not known is drawn as empty (transmission 1).
    masks : ndarray of shape (N, side, side), bool
        None empty.
    cut : ndarray of shape (N,), bool
        Whether some of the cell lies beyond its crop.
    """
    crops, masks = np.empty((len(cells), side, side), np.uint8), np.empty((len(cells), side, side), np.bool_)
    cut = np.empty(len(cells), np.bool_)
    levels = 255 / (transmission_at_255 - transmission_at_0)
    for i, cell in enumerate(cells):
        shown = cut_crop(
            cell.patch, cell.mask, *_corner(cell.mask, side), transmission_at_0, levels, crops[i], masks[i]
        )
        cut[i] = shown < cell.area_px
        if shown == 0:  # a hollow shape larger than the square: the format needs a pixel
            masks[i, side // 2, side // 2] = True
    return crops, masks, cut


def _corner(mask: np.ndarray, side: int) -> tuple[int, int]:
    """First row and column of the square around a mask's middle."""
    top, bottom, left, right, _ = extent(mask)
    return round((top + bottom - side + 1) / 2), round((left + right - side + 1) / 2)
