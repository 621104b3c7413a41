"""Compiled kernels that compare pictures: arrays in, arrays out."""

import numpy as np
from numba import njit

#: Sides of the small pictures that are compared.
SIDE = 32

_FAINT = 0.1  # of the greatest deviation from the ground: less does not count for where the object is
_REACH = 2.5  # standard deviations of the object that the centred picture reaches each way


@njit(nogil=True, cache=True, error_model="numpy")
def describe(transmission, small, sizes):
    """Two small pictures of an image, of its whole frame and of what lies about its object.

    transmission float32 (rows, columns), finite; small int8 (2, SIDE * SIDE), mean zero, of any scale; sizes float64
    (2, 2): rows and columns of the frame, and standard deviations of the object along both, zero if there is none.
    """
    rows, columns = transmission.shape
    most = np.float32(0)
    for r in range(rows):
        for c in range(columns):
            most = max(most, abs(np.float32(1) - transmission[r, c]))
    faint = np.float32(_FAINT) * most
    along, across = np.zeros(rows), np.zeros(columns)
    for r in range(rows):
        for c in range(columns):
            deviation = abs(np.float32(1) - transmission[r, c])
            if deviation > faint:
                along[r] += deviation
                across[c] += deviation
    middle_row, sizes[1, 0] = _middle_and_spread(along)
    middle_column, sizes[1, 1] = _middle_and_spread(across)
    sizes[0, 0], sizes[0, 1] = rows, columns
    picture = np.empty((SIDE, SIDE))
    _shrink(transmission, 0.0, 0.0, rows, columns, picture)
    _quantise(picture, small[0])
    reach = _REACH * np.sqrt(0.5 * (sizes[1, 0] ** 2 + sizes[1, 1] ** 2))
    if reach > 0:
        _shrink(transmission, middle_row - reach, middle_column - reach, 2 * reach, 2 * reach, picture)
        _quantise(picture, small[1])
    else:
        small[1] = 0


@njit(nogil=True, cache=True, error_model="numpy")
def _middle_and_spread(weights):
    """Mean and standard deviation of the positions of weights, that of the first from 0 to 1."""
    total = weights.sum()
    if not total > 0:
        return 0.0, 0.0
    at = np.arange(weights.size) + 0.5
    middle = (weights * at).sum() / total
    return middle, np.sqrt((weights * (at - middle) ** 2).sum() / total)


@njit(nogil=True, cache=True, error_model="numpy")
def _shrink(transmission, top, left, height, width, out):
    """Darkness within the squares of a grid laid over a part of an image; none outside the image."""
    rows, columns = transmission.shape
    out[:] = 0
    line = np.empty(columns)
    for i in range(SIDE):
        begin, end = max(top + i * height / SIDE, 0.0), min(top + (i + 1) * height / SIDE, rows)
        if end <= begin:
            continue
        line[:] = 0
        for r in range(int(begin), min(int(np.ceil(end)), rows)):
            share = min(end, r + 1) - max(begin, r)
            for c in range(columns):
                line[c] += share * (1 - transmission[r, c])
        for j in range(SIDE):
            first, last = max(left + j * width / SIDE, 0.0), min(left + (j + 1) * width / SIDE, columns)
            for c in range(int(first), min(int(np.ceil(last)), columns)):
                out[i, j] += (min(last, c + 1) - max(first, c)) * line[c]


@njit(nogil=True, cache=True, error_model="numpy")
def _quantise(picture, out):
    """The picture less its mean, its greatest deviation made 127."""
    mean, most = picture.mean(), 0.0
    for value in picture.flat:
        most = max(most, abs(value - mean))
    for i in range(out.size):
        out[i] = 0 if most == 0 else np.int8(np.rint((picture.flat[i] - mean) * (127 / most)))


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def _bits_set(x):
    x -= (x >> np.uint64(1)) & np.uint64(0x5555555555555555)
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"}, forceinline=True)
def _dot(a, b):
    """Sum of products, exact in any order: 127² · SIDE² is below 2^24."""
    total = np.float32(0)
    for i in range(SIDE * SIDE):
        total += np.float32(a[i]) * np.float32(b[i])
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _first_too_large(sizes, i, least_ratio):
    """First after i of sizes in ascending order that is too large to be compared with that of i."""
    low, high = i + 1, sizes.shape[0]
    while low < high:
        middle = (low + high) // 2
        if least_ratio * sizes[middle, 0] <= sizes[i, 0]:
            low = middle + 1
        else:
            high = middle
    return low


@njit(nogil=True, cache=True, error_model="numpy", forceinline=True)
def _alike(small, sizes, squares, i, j, least_ratio, least_correlation):
    a, b = sizes[i, 1], sizes[j, 1]
    if min(a, b) < least_ratio * max(a, b):
        return False
    return _dot(small[i], small[j]) >= least_correlation * np.sqrt(squares[i] * squares[j])


@njit(nogil=True, cache=True, error_model="numpy")
def count_alike(small, sizes, squares, hashes, most_bits, least_ratio, least_correlation, counts):
    """Add to each picture's count how many others are like it.

    small int8 (N, SIDE * SIDE); sizes float64 (N, 2), along axis 0 in ascending order; squares float64 (N,), sums of
    squares of the small pictures, 0 where there is nothing to compare; hashes uint64 (N,); counts int64 (N,).
    """
    for i in range(hashes.size):
        if squares[i] == 0:
            continue
        for j in range(i + 1, _first_too_large(sizes, i, least_ratio)):
            if _bits_set(hashes[i] ^ hashes[j]) > most_bits or squares[j] == 0:
                continue
            if _alike(small, sizes, squares, i, j, least_ratio, least_correlation):
                counts[i] += 1
                counts[j] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def join_alike(small, sizes, squares, hashes, most_bits, least_ratio, least_correlation, counts, most, order, parent):
    """Join the groups of pictures that are alike, unless one of them is like more than `most` others.

    As `count_alike`; order int64 (N,), number of each picture; parent int64 (N,), a forest over numbers.
    """
    for i in range(hashes.size):
        if counts[i] == 0 or counts[i] > most:
            continue
        for j in range(i + 1, _first_too_large(sizes, i, least_ratio)):
            if counts[j] == 0 or counts[j] > most or _bits_set(hashes[i] ^ hashes[j]) > most_bits:
                continue
            if _alike(small, sizes, squares, i, j, least_ratio, least_correlation):
                join(parent, order[i], order[j])


@njit(nogil=True, cache=True, error_model="numpy")
def root_of(parent, i):
    """Root of a tree in the forest; paths are halved on the way."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True, error_model="numpy")
def join(parent, i, j):
    """Make two trees of the forest one."""
    a, b = root_of(parent, i), root_of(parent, j)
    parent[max(a, b)] = min(a, b)
