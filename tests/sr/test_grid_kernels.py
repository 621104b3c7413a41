"""Compiled kernels of gridding against slow, obvious float64 versions of themselves."""

import numpy as np
import pytest

from stretchscope.sr._grid_kernels import grid_image, grid_windows

pytestmark = pytest.mark.kernel


def image_setup(converters: int = 2) -> tuple:
    """Image tables of light that rises along the line, 24 samples lit, for two converters; and the light."""

    def light(tau: np.ndarray) -> np.ndarray:
        return 40 + 2 * np.asarray(tau)

    steps, positions = 4, 25
    nodes = np.arange(positions) + np.arange(steps + 1)[:, None] / steps
    p, w = light(nodes), light(nodes) / 0.5
    usable = nodes < 24
    both = usable[:-1] & usable[1:]
    tabled = [p[:-1], np.diff(p, axis=0), np.where(both, w[:-1], 0), np.where(both, np.diff(w, axis=0), 0)]
    scale = (1 / np.array([1.0, 1.1]))[np.arange(8 + positions) % converters]
    shift = np.array([2.0, 3.0])[np.arange(8 + positions) % converters] * scale
    fine = np.arange(16 * positions) / 16 < 24
    arrays = [np.ascontiguousarray(a, dtype=np.float32) for a in (scale, shift, np.stack(tabled, axis=1))]
    return (*arrays, np.full(positions, 0.5), fine, float(light(24.0))), light


def oracle(samples: np.ndarray, starts: np.ndarray, fits: np.ndarray, grid: tuple, shape: tuple) -> tuple:
    """Numerator, weight and square of an image: every sample weighed into every pixel, in double precision."""
    _, light = image_setup()
    first_row, row_step, first_tau, columns_per_sample, sigma_lines, sigma = grid
    row, tau = first_row + row_step * np.arange(shape[0]), first_tau + np.arange(shape[1]) / columns_per_sample
    numerator, weight, square = np.zeros(shape), np.zeros(shape), np.zeros(shape)
    for n in np.flatnonzero(np.isfinite(fits[:, 1])):
        k = np.arange(samples.size)
        place = k - starts[n] - fits[n, 0]
        kept = (place >= 0) & (np.ceil(place * 4) < 24 * 4) & (samples < 127)
        k, place = k[kept], place[kept]
        y = ((samples[k] - np.array([2.0, 3.0])[k % 2]) / np.array([1.0, 1.1])[k % 2] - fits[n, 3]) / fits[n, 4]
        d, e = (place - tau[:, None]) / sigma, (n - row) / sigma_lines
        h = np.exp(-0.5 * d**2) * (np.abs(d) <= 3)
        g = np.exp(-0.5 * e**2) * (np.abs(e) <= 3)
        p = light(place)
        numerator += g[:, None] * (h @ (p * y / 0.5))
        weight += g[:, None] * (h @ (p * p / 0.5))
        square += g[:, None] ** 2 * (h**2 @ (p * p / 0.5))
    return numerator, weight, square, tau


def some_lines(rng: np.random.Generator, lines: int) -> tuple:
    """Samples with one on a rail, the last line cut; starts; fits, that of line 4 without use."""
    starts = 5.3 + 31.37 * np.arange(lines)
    samples = rng.integers(30, 90, int(starts[-1]) + 23).astype(np.int16)
    samples[100] = 127
    fits = np.zeros((lines, 9))
    fits[:, 0], fits[:, 3], fits[:, 4] = rng.normal(0, 0.02, lines), rng.normal(0, 1, lines), rng.normal(1, 0.02, lines)
    fits[4, 1] = np.inf
    return samples, starts, fits


def image_of(samples: np.ndarray, starts: np.ndarray, fits: np.ndarray, grid: tuple, shape: tuple, skip: int) -> tuple:
    image, std, known = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.bool_)
    grid_image(samples, 0, starts, fits, image_setup()[0], (-128.0, 127.0), grid, image, std, known, skip)
    return image, std, known


@pytest.mark.parametrize("row_step", [0.7, 2.3, 8.5])
@pytest.mark.parametrize("sigma_lines", [0.5, 0.9, 1.4])
@pytest.mark.parametrize(("columns_per_sample", "sigma"), [(1.0, 0.6), (2.0, 0.6), (3.0, 0.2), (2.5, 0.6), (5.0, 1.1)])
def test_image_is_weighted_least_squares(
    columns_per_sample: float, sigma: float, sigma_lines: float, row_step: float, rng: np.random.Generator
) -> None:
    """Rows of few lines and of many, close and far apart; columns of one sample and of many."""
    samples, starts, fits = some_lines(rng, 14)
    grid = (1.2, row_step, 3.1, columns_per_sample, sigma_lines, sigma)
    shape = int(11 / row_step) + 1, int(23 * columns_per_sample)
    image, std, known = image_of(samples, starts, fits, grid, shape, 0)
    numerator, weight, square, tau = oracle(samples, starts, fits, grid, shape)
    np.testing.assert_array_equal(known, np.isfinite(image))
    assert known.sum() > 0.5 * known.size
    assert not known[:, tau + sigma > 24.1].any()
    np.testing.assert_allclose(image[known], numerator[known] / weight[known], rtol=2e-5)
    np.testing.assert_allclose(std[known], np.sqrt(square[known]) / weight[known], rtol=2e-5)
    assert np.isinf(std[~known]).all()
    inside = tau + sigma < 23.9
    assert (weight[:, inside][~known[:, inside]] < 1e-4 * weight.max()).all()


@pytest.mark.parametrize("row_step", [0.75, 2.25, 8.5])
@pytest.mark.parametrize("sigma_lines", [0.5, 1.4])
def test_rows_do_not_depend_on_where_an_image_begins(
    sigma_lines: float, row_step: float, rng: np.random.Generator
) -> None:
    """To the last bit: from an even row or an odd one on, with the lines in reach only."""
    samples, starts, fits = some_lines(rng, 26)
    shape = int(23 / row_step) + 1, 46
    whole = image_of(samples, starts, fits, (1.25, row_step, 3.1, 2.0, sigma_lines, 0.6), shape, 0)
    for skip in range(1, shape[0]):
        first = max(0, int(1.25 + skip * row_step - 3 * sigma_lines) - 1)
        rows = min(2, shape[0] - skip)
        last = int(1.25 + (skip + rows - 1) * row_step + 3 * sigma_lines) + 2
        grid = (1.25 - first, row_step, 3.1, 2.0, sigma_lines, 0.6)
        piece = image_of(samples, starts[first:last], fits[first:last], grid, (rows, shape[1]), skip)
        for part, one in zip(whole, piece, strict=True):
            np.testing.assert_array_equal(part[skip : skip + rows], one)


def test_windows_are_images_one_by_one(rng: np.random.Generator) -> None:
    """Two windows in flat arrays, the fits of the lines of one behind those of the other."""
    samples, starts, fits = some_lines(rng, 9)
    lines = np.array([[0, 7], [2, 9]])
    grids = np.array([[1.0, 1.0, 8.0, 2.0, 0.5, 0.5], [0.0, 0.5, 12.0, 2.0, 1.5, 0.5]])
    place = np.array([[0, 3, 20], [60, 4, 10]])
    many = np.empty(100, np.float32), np.empty(100, np.float32), np.empty(100, np.bool_)
    of_windows = np.concatenate([fits[:7], fits[2:]])
    grid_windows(samples, 0, starts, of_windows, lines, grids, place, image_setup()[0], (-128.0, 127.0), *many)
    for (first, stop), grid, (begin, rows, columns) in zip(lines, grids, place, strict=True):
        one = image_of(samples, starts[first:stop], fits[first:stop], tuple(grid), (rows, columns), 0)
        assert one[2].any()
        for flat, image in zip(many, one, strict=True):
            np.testing.assert_array_equal(flat[begin : begin + rows * columns].reshape(rows, columns), image)
