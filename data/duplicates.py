"""Find near-duplicates among images: the same picture saved again, resized, cut or dimmed, or the next frame of it.

Under `collections`. Pictures are compared at 32 x 32 pixels twice, by their whole frame and by a window about their
object, whose place and size the object alone decides.
"""

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from . import _duplicate_kernels as kernels

#: Correlation of the small pictures, and ratio of sizes along each axis, that near-duplicates reach.
LEAST_CORRELATION, LEAST_RATIO = 0.99, 0.85
#: An image like more others than this is not told from them by its looks: beads are no duplicates of each other.
MOST_ALIKE = 32

# Of 64 signs of random projections, 2.9 differ on average at a correlation of 0.99, and more than 9 for one pair in
# a thousand.
_SIGNS, _MOST_SIGNS = 64, 9


def near_duplicates(read: Callable[[int], NDArray[np.float32]], count: int) -> NDArray[np.int64]:
    """Group images that are near-duplicates of each other.

    Parameters
    ----------
    read : callable
        Gives the transmission of an image by its number; called once for each, in order.
    count : int
        Number of images N.

    Returns
    -------
    group : ndarray of shape (N,), int64
        Number of the first image of each one's group. Groups are closed: if two images are each like a third, all
        three are one group. An image that is like more than 32 others is in a group of its own.

    Notes
    -----
    Takes 2 KiB of memory for each image, and time for each pair of similar size: nanoseconds, as most are told apart
    by 64 bits. Images that are turned or mirrored are not recognised. Source: M. S. Charikar, STOC 2002, 380
    (signs of random projections as a hash of the angle between vectors).
    """
    small = np.empty((count, 2, kernels.SIDE**2), dtype=np.int8)
    sizes = np.empty((count, 2, 2))
    for number in range(count):
        kernels.describe(np.ascontiguousarray(read(number), dtype=np.float32), small[number], sizes[number])
    parent = np.arange(count)
    for view in range(2):
        _join_view(small[:, view], sizes[:, view], parent)
    return np.array([kernels.root_of(parent, number) for number in range(count)], dtype=np.int64)


def _join_view(small: NDArray[np.int8], sizes: NDArray[np.float64], parent: NDArray[np.int64]) -> None:
    order = np.argsort(sizes[:, 0], kind="stable")
    small, sizes = np.ascontiguousarray(small[order]), np.ascontiguousarray(sizes[order])
    squares = np.array([np.dot(row, row) for row in small.astype(np.float32)], dtype=np.float64)
    pictures = small, sizes, squares, _hashes(small), _MOST_SIGNS, LEAST_RATIO, LEAST_CORRELATION
    counts = np.zeros(len(small), dtype=np.int64)
    kernels.count_alike(*pictures, counts)
    kernels.join_alike(*pictures, counts, MOST_ALIKE, order, parent)


def _hashes(small: NDArray[np.int8]) -> NDArray[np.uint64]:
    """Signs of projections, the same in every run: sums of whole numbers are exact."""
    drawn = hashlib.shake_128(b"near-duplicates").digest(_SIGNS * small.shape[1] // 8)
    projections = 2 * np.unpackbits(np.frombuffer(drawn, dtype=np.uint8)).astype(np.float32) - 1
    hashes = np.empty(len(small), dtype=np.uint64)
    for first in range(0, len(small), 1 << 16):
        some = slice(first, first + (1 << 16))
        signs = small[some].astype(np.float32) @ projections.reshape(small.shape[1], _SIGNS) > 0
        hashes[some] = np.packbits(signs, axis=1).view("<u8").ravel()
    return hashes
