"""Compiled kernels between images, events and crops; as short as those of ``sr._event_kernels``, they keep the GIL."""

import numpy as np
from numba import njit


@njit(cache=True)
def draw_bins(bins, first_row, rows_per_pixel, first_column, columns_per_pixel, mask):
    """Pixels that lie in the bins: pixel (r, c) in bin (first_row + r·rows_per_pixel, first_column + …), rounded down.

    bins: bool (R, C); mask: bool, the image's shape.
    """
    for r in range(mask.shape[0]):
        row = int(np.floor(first_row + r * rows_per_pixel))
        if row < 0 or row >= bins.shape[0]:
            mask[r, :] = False
            continue
        for c in range(mask.shape[1]):
            column = int(np.floor(first_column + c * columns_per_pixel))
            mask[r, c] = 0 <= column < bins.shape[1] and bins[row, column]


@njit(cache=True)
def extent(mask):
    """First and last row, first and last column of a mask that is not empty, and its pixels."""
    top, bottom, left, right, count = -1, -1, mask.shape[1], -1, 0
    for r in range(mask.shape[0]):
        in_row = 0
        for c in range(mask.shape[1]):
            if mask[r, c]:
                in_row += 1
                left, right = min(left, c), max(right, c)
        if in_row:
            top = r if top < 0 else top
            bottom = r
            count += in_row
    return top, bottom, left, right, count


@njit(cache=True)
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
