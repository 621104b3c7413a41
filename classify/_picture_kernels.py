"""Kernels of :mod:`.pictures`: arrays in, arrays out, nothing checked."""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def draw_squares(place, transmission, squares, levels_per_transmission, pictures):
    """Draw a square of each image at the size of ``pictures``, uint8 (N, side, side).

    place, int64 (N, 3): where an image's pixels begin, rows, columns. squares, float64 (N, 3): first row and column of
    the square, as positions of pixel edges, and its side [pixels]; what lies beyond the image, or is not known (NaN),
    is drawn as clear (1). The filter is a triangle, as wide as a pixel of the picture or of the image, the wider.
    """
    side = pictures.shape[1]
    taps = 0
    for i in range(len(squares)):
        taps = max(taps, _taps(squares[i, 2] / side))
    first = np.empty((2, side), np.int64)
    weight = np.empty((2, side, taps), np.float32)
    most_columns = np.int64(0)
    for i in range(len(place)):
        most_columns = max(most_columns, place[i, 2])
    line = np.empty(most_columns, np.float32)
    for i in range(len(place)):
        begin, rows, columns = place[i, 0], place[i, 1], place[i, 2]
        scale = squares[i, 2] / side
        used = _taps(scale)
        for axis in range(2):
            _lay_taps(squares[i, axis], scale, used, first[axis], weight[axis])
        for r in range(side):
            line[:columns] = 0
            for t in range(used):
                row, w = first[0, r] + t, weight[0, r, t]
                if w == 0:
                    continue
                if row < 0 or row >= rows:
                    line[:columns] += w
                else:
                    start = begin + row * columns
                    for c in range(columns):
                        value = transmission[start + c]
                        line[c] += w * (value if value == value else np.float32(1))
            for c in range(side):
                total = np.float32(0)
                for t in range(used):
                    column, w = first[1, c] + t, weight[1, c, t]
                    total += w * (np.float32(1) if column < 0 or column >= columns else line[column])
                level = np.rint(total * levels_per_transmission)
                pictures[i, r, c] = np.uint8(min(max(level, 0), 255))


@njit(nogil=True, cache=True)
def _taps(scale):
    """Pixels of an image that one of a picture is made of, at most."""
    return np.int64(2 * np.ceil(max(scale, 1.0)) + 1)


@njit(nogil=True, cache=True)
def _lay_taps(origin, scale, used, first, weight):
    """For each pixel of a picture, along an axis: the first pixel of the image that counts, and the weights on."""
    reach = max(scale, 1.0)
    for i in range(first.size):
        centre = origin + (i + 0.5) * scale - 0.5
        first[i] = np.int64(np.floor(centre - reach)) + 1
        total = 0.0
        for t in range(used):
            total += max(1 - abs(first[i] + t - centre) / reach, 0.0)
        for t in range(used):
            weight[i, t] = max(1 - abs(first[i] + t - centre) / reach, 0.0) / total
