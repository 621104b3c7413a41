"""Kernels that compare pictures, against NumPy."""

import numpy as np
import pytest

from stretchscope.data import _duplicate_kernels as kernels

pytestmark = pytest.mark.kernel


def test_bits_are_counted() -> None:
    values = np.random.default_rng(0).integers(0, 2**64 - 1, 20, dtype=np.uint64, endpoint=True)
    with np.errstate(over="ignore"):  # meant to wrap
        for value in [*values, np.uint64(0), np.uint64(2**64 - 1)]:
            assert kernels._bits_set(value) == int(value).bit_count()


def test_frame_is_averaged_over_squares() -> None:
    """Oracle: block means of a picture whose sides are multiples of the small one's."""
    image = np.random.default_rng(1).uniform(0, 1, (3 * kernels.SIDE, 2 * kernels.SIDE)).astype(np.float32)
    small, sizes = np.empty((2, kernels.SIDE**2), np.int8), np.empty((2, 2))
    kernels.describe(image, small, sizes)
    means = -image.reshape(kernels.SIDE, 3, kernels.SIDE, 2).mean(axis=(1, 3), dtype=float)
    means -= means.mean()
    np.testing.assert_allclose(small[0].reshape(means.shape), means * 127 / np.abs(means).max(), atol=0.51)
    assert sizes[0].tolist() == list(image.shape)


def test_window_follows_the_object() -> None:
    """Oracle: a box's centre and spread, side / sqrt(12); the window holds the same wherever the box lies."""
    small, sizes = np.empty((2, 2, kernels.SIDE**2), np.int8), np.empty((2, 2, 2))
    for i, (row, column) in enumerate(((5, 7), (12, 20))):
        image = np.ones((40, 50), np.float32)
        image[row : row + 12, column : column + 9] = 0.5
        kernels.describe(image, small[i], sizes[i])
    np.testing.assert_allclose(sizes[:, 1], [[12 / 12**0.5, 9 / 12**0.5]] * 2, rtol=0.01)
    np.testing.assert_allclose(small[0, 1], small[1, 1], atol=1)
    kernels.describe(np.ones((9, 9), np.float32), small[0], sizes[0])
    assert not small[0].any()
    assert sizes[0, 1].tolist() == [0, 0]


def test_pictures_are_compared_by_size_bits_and_correlation() -> None:
    """Oracle: all pairs in NumPy."""
    random = np.random.default_rng(2)
    n = 24
    base = random.normal(0, 30, (3, kernels.SIDE**2))
    small = np.clip(base[random.integers(0, 3, n)] + random.normal(0, 4, (n, kernels.SIDE**2)), -127, 127).astype(
        np.int8
    )
    small[3] = 0
    sizes = np.sort(random.uniform(10, 14, (n, 2)), axis=0)
    sizes[:, 1] = random.permutation(sizes[:, 1])
    hashes = (random.integers(0, 8, n) * 0x0101).astype(np.uint64)
    wide = small.astype(float)
    squares = (wide**2).sum(axis=1)
    pictures = small, sizes, squares, hashes, 3, 0.85, 0.97
    counts, parent = np.zeros(n, np.int64), np.arange(n)
    with np.errstate(over="ignore"):
        kernels.count_alike(*pictures, counts)
        kernels.join_alike(*pictures, counts, 2, np.arange(n), parent)

    alike = np.zeros((n, n), dtype=bool)
    for i in range(n):
        for j in range(n):
            ratio = np.minimum(sizes[i] / sizes[j], sizes[j] / sizes[i]).min()
            bits = int(hashes[i] ^ hashes[j]).bit_count()
            if i != j and squares[i] * squares[j] > 0 and ratio >= 0.85 and bits <= 3:
                alike[i, j] = wide[i] @ wide[j] >= 0.97 * np.sqrt(squares[i] * squares[j])
    assert counts.tolist() == alike.sum(axis=0).tolist()
    few = counts <= 2
    assert 0 < alike[few][:, few].sum() < alike.sum()
    reached = np.eye(n, dtype=bool) | (alike & few & few[:, None])
    for _ in range(n):
        reached = reached @ reached
    assert [kernels.root_of(parent, i) for i in range(n)] == [int(np.flatnonzero(row)[0]) for row in reached]
