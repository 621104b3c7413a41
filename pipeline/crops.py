"""Square crops of one size around cells, as the .rtdc format demands them."""

import numpy as np

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
    centre = [(index.min() + index.max()) / 2 for index in np.nonzero(cell.mask)]
    first = [round(c - (side - 1) / 2) for c in centre]
    source = tuple(slice(max(0, f), min(n, f + side)) for f, n in zip(first, cell.mask.shape, strict=True))
    target = tuple(slice(s.start - f, s.stop - f) for f, s in zip(first, source, strict=True))
    crop[target] = cell.patch[source]
    inside[target] = cell.mask[source]
    if not inside.any():  # a hollow shape larger than the square: the format needs a pixel
        inside[side // 2, side // 2] = True
    return crop, inside
