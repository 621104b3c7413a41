"""Compiled kernel that cuts the square crops of the .rtdc files out of images."""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def cut_crop(image, mask, top, left, at_0, levels_per_unit, crop, inside):
    """Grey levels and mask of the square whose first pixel is (top, left) of an image, which may reach beyond it.

    image: float32 (R, C), NaN where not known; mask: bool (R, C); crop: uint8 (S, S), inside: bool (S, S). What is not
    known, or beyond the image, is drawn as empty (1). Return how many pixels of the mask lie in the square.
    """
    side = crop.shape[0]
    empty = np.uint8(min(max(np.rint((1.0 - at_0) * levels_per_unit), 0.0), 255.0))
    count = 0
    for r in range(side):
        row = top + r
        for c in range(side):
            crop[r, c] = empty
            inside[r, c] = False
        if row < 0 or row >= image.shape[0]:
            continue
        for column in range(max(left, 0), min(left + side, image.shape[1])):
            value = image[row, column]
            if not np.isnan(value):
                grey = np.rint((np.float64(value) - at_0) * levels_per_unit)
                crop[r, column - left] = np.uint8(min(max(grey, 0.0), 255.0))
            if mask[row, column]:
                inside[r, column - left] = True
                count += 1
    return count
