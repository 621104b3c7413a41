"""Kernels of :mod:`.pictures`: arrays in, arrays out, nothing checked."""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def draw_squares(place, values, squares, levels_per_value, clear, pictures):
    """Draw a square of each image at the size of ``pictures``, uint8 (N, side, side).

    place, int64 (N, 3): where an image's pixels begin, rows, columns. values: the pixels, a grey level each time
    ``levels_per_value``. squares, float64 (N, 3): first row and column of the square, as positions of pixel edges, and
    its side [pixels]; what lies beyond the image, or is not known (NaN), is drawn as ``clear``, a value. The filter is
    a triangle, as wide as a pixel of the picture or of the image, the wider.
    """
    side = pictures.shape[1]
    taps, window = 0, 0
    for i in range(len(squares)):
        scale = squares[i, 2] / side
        taps = max(taps, _taps(scale))
        window = max(window, np.int64(np.ceil(squares[i, 2])) + 2 * _taps(scale))
    first = np.empty((2, side), np.int64)
    weight = np.empty((2, side, taps), np.float32)
    line = np.empty(window, np.float32)  # a row of the image, as far as the square reaches
    narrow = np.empty((window, side), np.float32)  # the image's rows, drawn along the columns only
    total = np.empty(side, np.float32)
    for i in range(len(place)):
        begin, rows, columns = place[i, 0], place[i, 1], place[i, 2]
        scale = squares[i, 2] / side
        used = _taps(scale)
        for axis in range(2):
            _lay_taps(squares[i, axis], scale, used, first[axis], weight[axis])
        top, left = first[0, 0], first[1, 0]
        below, beyond = first[0, side - 1] + used, first[1, side - 1] + used
        inside_left, inside_right = min(max(left, 0), beyond), max(min(beyond, columns), left)
        for row in range(top, below):
            own = narrow[row - top]
            if row < 0 or row >= rows or inside_left >= inside_right:
                own[:] = clear
                continue
            line[: beyond - left] = clear
            _copy_known(values, begin + row * columns, inside_left, inside_right, left, clear, line)
            if used == 2:
                for c in range(side):
                    at = first[1, c] - left
                    own[c] = weight[1, c, 0] * line[at] + weight[1, c, 1] * line[at + 1]
            else:
                for c in range(side):
                    at, value = first[1, c] - left, np.float32(0)
                    for t in range(used):
                        value += weight[1, c, t] * line[at + t]
                    own[c] = value
        for r in range(side):
            at = first[0, r] - top
            total[:] = 0
            for t in range(used):
                w = weight[0, r, t] * levels_per_value
                for c in range(side):
                    total[c] += w * narrow[at + t, c]
            for c in range(side):
                pictures[i, r, c] = np.uint8(
                    np.int32(min(max(total[c], np.float32(0)), np.float32(255)) + np.float32(0.5))
                )


@njit(nogil=True, cache=True)
def _copy_known(values, start, from_column, to_column, left, clear, line):
    """Copy some columns of a row that starts at ``start``, ``clear`` in place of NaN."""
    for c in range(from_column, to_column):
        value = np.float32(values[start + c])
        line[c - left] = value if value == value else clear


@njit(nogil=True, cache=True)
def _taps(scale):
    """Pixels of an image that one of a picture is made of, at most."""
    return np.int64(np.ceil(2 * max(scale, 1.0)))


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


@njit(nogil=True, cache=True)
def mark_ends(masks, ends):
    """First and last row, first and last column of each mask, bool (N, rows, columns), into int64 (N, 4).

    All of the image where the mask is empty.
    """
    count, rows, columns = masks.shape
    for i in range(count):
        top, bottom, left, right = rows, -1, columns, -1
        for r in range(rows):
            row = masks[i, r]
            if not row.any():
                continue
            top, bottom = min(top, r), r
            for c in range(left):
                if row[c]:
                    left = c
                    break
            for c in range(columns - 1, right, -1):
                if row[c]:
                    right = c
                    break
        if bottom < 0:
            top, bottom, left, right = 0, rows - 1, 0, columns - 1
        ends[i, 0], ends[i, 1], ends[i, 2], ends[i, 3] = top, bottom, left, right
