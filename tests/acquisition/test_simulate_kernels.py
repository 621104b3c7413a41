"""The simulator's compiled loops, each against a plain formula."""

import numpy as np
import pytest
from scipy import stats

from stretchscope.acquisition import _simulate_kernels as kernels

pytestmark = pytest.mark.kernel


def test_normals_are_normal() -> None:
    bits = np.random.default_rng(1).integers(0, 2**32, size=20_000, dtype=np.uint32)
    z = np.empty(bits.size, dtype=np.float32)
    kernels.normals(bits, z)
    assert stats.kstest(z, "norm").pvalue > 1e-3
    assert z.mean() == pytest.approx(0, abs=5 / np.sqrt(z.size))
    assert z.var() == pytest.approx(1, abs=5 * np.sqrt(2 / z.size))
    half = z.size // 2
    assert abs(np.corrcoef(z[:half], z[half:])[0, 1]) < 5 / np.sqrt(half)


def test_normals_follow_box_and_muller_to_the_ends() -> None:
    """Oracle: radius sqrt(−2 ln u) in float64, also for the least and the greatest u."""
    edges = np.array([0, 1, 2, 1000, 2**16, 2**31, 2**32 - 2**20, 2**32 - 1], dtype=np.uint32)
    angles = np.arange(edges.size, dtype=np.uint32) * np.uint32(0x1F123457)
    z = np.empty(2 * edges.size, dtype=np.float32)
    kernels.normals(np.concatenate([edges, angles]), z)
    radius = np.hypot(z[: edges.size].astype(float), z[edges.size :])
    expected = np.sqrt(-2 * np.log(np.minimum((edges + 0.5) / 2**32, 1)))
    np.testing.assert_allclose(radius, expected, rtol=1e-5, atol=1e-3)
    assert radius.max() < 7


def test_merge_runs_is_the_union_of_the_boxes() -> None:
    """Oracle: a raster of the same boxes."""
    random = np.random.default_rng(2)
    line_first = random.integers(0, 20, 12)
    line_end = line_first + random.integers(0, 8, 12)
    first = random.integers(0, 60, 12)
    end = first + random.integers(0, 15, 12)
    raster = np.zeros((20, 80), dtype=bool)
    for box in range(12):
        raster[line_first[box] : line_end[box], first[box] : end[box]] = True
    runs = np.empty((int((line_end - line_first).sum()), 3), dtype=np.int64)
    runs = runs[: kernels.merge_runs(line_first, line_end, first, end, 20, runs)]
    painted = np.zeros(raster.shape, dtype=int)
    for line, a, b in runs:
        painted[line, a:b] += 1
    np.testing.assert_array_equal(painted, raster)  # covered, and once only

    x, y = np.empty(painted.sum()), np.empty(painted.sum())
    kernels.run_positions(runs, 0.5, np.arange(20) * 3.0, x, y)
    np.testing.assert_array_equal(
        np.sort(x * 1000 + y), np.sort(np.nonzero(raster)[1] * 500 + np.nonzero(raster)[0] * 3.0)
    )


@pytest.mark.parametrize("skews", [[0.0], [0.0, 0.3, -0.2]])
def test_add_pulses_interpolates_the_line_at_the_true_phase(skews: list[float]) -> None:
    """Oracle: the Gaussian that the table was made of."""
    phases, width, first = 16, 24, -12.0

    def line(tau: np.ndarray) -> np.ndarray:
        return 100 * np.exp(-0.5 * (tau / 2) ** 2)

    position = np.arange(width) + (np.arange(phases + 3)[:, None] - 1) / phases
    table = line(first + position).astype(np.float32)
    starts, energies = np.array([-3.21, 18.77, 47.5, 68.02]), np.array([1.0, 0.9, 1.1, 1.0])
    light = np.zeros(70, dtype=np.float32)
    kernels.add_pulses(light, starts, energies, table, first, np.array(skews))
    instant = np.arange(70) + np.array(skews)[np.arange(70) % len(skews)]
    expected = sum(g * line(instant - t) for t, g in zip(starts, energies, strict=True))
    np.testing.assert_allclose(light, expected, atol=2e-4)


def test_low_pass_and_digitise() -> None:
    light = np.array([0, 10, 10, 10, 300, -5], dtype=np.float32)
    baseline = np.empty_like(light)
    state = kernels.low_pass(light, 4.0, 0.5, 1.0, baseline)
    np.testing.assert_allclose(baseline, [-1, -5, -7, -8, -153.5, -73.75], atol=1e-5)
    assert state == pytest.approx(74.75)
    ones, zeros = np.ones(6, dtype=np.float32), np.zeros(6, dtype=np.float32)
    codes = np.empty(6, dtype=np.int8)
    gains = np.array([1, 1, 2, 1, 1, 1], dtype=np.float32)
    kernels.digitise(light, zeros, ones, -20 * ones, gains, 4.0, 0.5, -128.0, 127.0, codes)
    np.testing.assert_array_equal(codes, [-18, -7, 3, -7, 127, -23])
