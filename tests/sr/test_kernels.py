"""Compiled kernels against slow, obvious float64 versions of themselves."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.interpolate import BSpline

from stretchscope.sr import _calibration_kernels as calibration
from stretchscope.sr import _kernels as kernels

pytestmark = pytest.mark.kernel

KNOTS, PERIOD = 12, 7.3


def spline_basis(tau: np.ndarray) -> np.ndarray:
    """Periodic cubic B-splines at tau, by scipy: column i reaches from knot i - 3 to knot i + 1."""
    u = np.mod(tau, PERIOD) / PERIOD * KNOTS
    columns = []
    for i in range(KNOTS):
        one = BSpline.basis_element(np.arange(i - 3, i + 2), extrapolate=False)
        columns.append(sum(np.nan_to_num(one(u + turn * KNOTS)) for turn in (-1, 0, 1)))
    return np.stack(columns, axis=1)


def test_spline_and_slope(rng: np.random.Generator) -> None:
    coefficients, tau = rng.normal(size=KNOTS), rng.uniform(-20, 20, 60)
    light, slope, ahead, _ = (np.empty(60) for _ in range(4))
    calibration.evaluate_spline(tau, 0.0, PERIOD, coefficients, light, slope)
    np.testing.assert_allclose(light, spline_basis(tau) @ coefficients, atol=1e-12)
    calibration.evaluate_spline(tau + 1e-6, 0.0, PERIOD, coefficients, ahead, np.empty(60))
    np.testing.assert_allclose((ahead - light) / 1e-6, slope, atol=1e-4)


def test_normal_equations_are_those_of_the_design_matrix(rng: np.random.Generator) -> None:
    tau, values, weights = rng.uniform(0, PERIOD, 80), rng.normal(size=80), rng.uniform(0, 1, 80)
    weights[::7] = 0
    band, right = np.zeros((KNOTS, 4)), np.zeros(KNOTS)
    energy = calibration.accumulate_normal_equations(tau, 0.0, PERIOD, values, weights, band, right)
    design = spline_basis(tau)
    full = (design * weights[:, None]).T @ design
    for d in range(4):
        np.testing.assert_allclose(band[:, d], [full[i, (i + d) % KNOTS] for i in range(KNOTS)], atol=1e-12)
    np.testing.assert_allclose(right, design.T @ (weights * values), atol=1e-12)
    assert energy == pytest.approx(weights @ values**2)


def test_converter_sums(rng: np.random.Generator) -> None:
    code, expected, weights = rng.normal(size=(3, 50))
    converter = rng.integers(0, 8, 50).astype(np.int8)
    sums = np.zeros((calibration.CONVERTERS, 5))
    calibration.converter_sums(code, expected, converter, weights, sums)
    used = weights > 0
    for c in range(8):
        one = used & (converter == c)
        w, m, x = weights[one], expected[one], code[one]
        np.testing.assert_allclose(sums[c], [w.sum(), w @ m, w @ m**2, w @ x, w @ (m * x)], atol=1e-12)


@pytest.mark.parametrize("walks", [(0.0, 0.0), (3e-3, 0.0), (0.0, 2e-4), (1e-3, 1e-4)])
def test_kalman_and_smoother_are_generalised_least_squares(
    walks: tuple[float, float], rng: np.random.Generator
) -> None:
    """Oracle: the dense Gaussian posterior of all states at once."""
    line = np.cumsum(rng.uniform(1, 3, 9))
    variance = rng.uniform(0.01, 0.1, 9)
    variance[4] = np.inf
    values = rng.normal(size=(9, 2))
    state, covariance, white = np.empty((9, 2, 2)), np.empty((9, 3)), np.empty((9, 2))
    logs = calibration.kalman(line, values, variance, *walks, state, covariance, white)
    # prior precision of the chain of states, then the measurements'
    precision = np.zeros((18, 18))
    precision[:2, :2] = np.diag([1 / calibration.START_VARIANCE, 1 / calibration.PERIOD_VARIANCE])
    place_walk, period_walk = walks
    for i in range(1, 9):
        m = line[i] - line[i - 1]
        noise = place_walk * m * np.diag([1.0, 0.0]) + period_walk * np.array([[m**3 / 3, m**2 / 2], [m**2 / 2, m]])
        inverse = np.linalg.inv(noise + 1e-13 * np.eye(2))
        step = np.hstack([-np.array([[1, m], [0, 1]]), np.eye(2)])
        precision[2 * i - 2 : 2 * i + 2, 2 * i - 2 : 2 * i + 2] += step.T @ inverse @ step
    seen = np.isfinite(variance)
    precision[np.arange(0, 18, 2)[seen], np.arange(0, 18, 2)[seen]] += 1 / variance[seen]
    dense = np.linalg.inv(precision)
    right = np.zeros((18, 2))
    right[::2][seen] = values[seen] / variance[seen, None]
    calibration.smooth(line, *walks, state, covariance)
    expected = (dense @ right).reshape(9, 2, 2)
    np.testing.assert_allclose(state[:, :, 0], expected[:, 0], atol=2e-4)
    np.testing.assert_allclose(covariance[:, 0], np.diag(dense)[::2], rtol=2e-3, atol=1e-6)
    assert np.isfinite(logs)
    assert (white[:2] == 0).all()
    assert (white[4] == 0).all()


def test_unfold_lines_gives_each_sample_its_place() -> None:
    samples = np.array([0, 1, 2, 3, 100, 5, 6, 7, 8, 9], dtype=np.int16)
    starts, fits = np.array([20.4, 23.9, 27.2]), np.zeros((2, 9))
    fits[:, 0] = 0.1, -0.2
    tau, value = np.empty(10), np.empty(10)
    converter, line = np.empty(10, np.int8), np.empty(10, np.int64)
    count = calibration.unfold_lines(samples, 20, starts, fits, -1.0, 100.0, tau, value, converter, line)
    np.testing.assert_allclose(tau[:count], [0.5, 1.5, 2.5, 0.3, 1.3, 2.3, 3.3])
    np.testing.assert_array_equal(value[:count], [1, 2, 3, 100, 5, 6, 7])
    np.testing.assert_array_equal(converter[:count], [5, 6, 7, -1, 1, 2, 3])  # sample 24 is on the rail
    np.testing.assert_array_equal(line[:count], [0, 0, 0, 1, 1, 1, 1])


def line_setup(rng: np.random.Generator, width: int = 60) -> tuple:
    """Tables of a smooth pulse over 8 phases, and a function that makes a line of it."""

    def light(tau: np.ndarray) -> np.ndarray:
        return 80 * np.exp(-0.5 * ((tau - 20) / 5) ** 2)

    tau = np.arange(9)[:, None] / 8 + np.arange(width)
    p = light(tau)
    q = -(tau - 20) / 25 * p
    w = np.full(p.shape, 1 / 0.5)
    columns = np.stack([np.ones_like(p), p, q])
    gram = np.einsum("ipj,pj,kpj->pik", columns, w, columns)[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    floats = [np.ascontiguousarray(a, dtype=np.float32) for a in (np.ones(width + 8), np.zeros(width + 8), p, q, w)]
    tables = (*floats, np.count_nonzero(tau <= 45, axis=1), np.ascontiguousarray(gram), 2)
    return tables, light


def test_fit_lines_is_weighted_least_squares(rng: np.random.Generator) -> None:
    """Oracle: numpy's least squares with the priors as two more equations."""
    tables, light = line_setup(rng)
    starts = np.array([3.3, 70.0, 137.6, 900.0])
    samples = np.zeros(300, dtype=np.int16)
    for start, gain, delay in zip(starts[:3], (1.02, 0.97, 1.0), (0.03, -0.02, 0.05), strict=True):
        k = np.arange(int(np.ceil(start)), int(np.ceil(start)) + 60)
        clean = 3 + gain * light(k - start - delay)
        samples[k] = np.rint(clean + rng.normal(0, 0.6, 60))
    out = np.empty((4, 9))
    kernels.fit_lines(samples, 0, starts, tables, (-1e9, 1e9), (1 / 0.1**2, 1.0), 1e9, out)
    assert out[3, 1] == np.inf  # not in the samples
    for n, start in enumerate(starts[:3]):
        first = int(np.ceil(start))
        row = int((first - start) * 8 + 0.5)
        epsilon = first - start - row / 8
        p, q, root = tables[2][row], tables[3][row], np.sqrt(tables[4][row])
        design = np.vstack([np.stack([np.ones(60), p, q], axis=1) * root[:, None], [[0, 10, 0], [0, 0, 1]]])
        y = np.concatenate([(samples[first : first + 60] - p) * root, [0, epsilon]])
        solution = np.linalg.lstsq(design.astype(float), y.astype(float), rcond=None)[0]
        assert out[n, 3] == pytest.approx(solution[0], abs=1e-3)
        assert out[n, 4] == pytest.approx(1 + solution[1], abs=1e-4)
        assert out[n, 0] == pytest.approx(epsilon - solution[2] / (1 + solution[1]), abs=1e-4)


def test_fit_line_looks_past_a_cell(rng: np.random.Generator) -> None:
    """A third of the light gone on one flank: the other flank still gives delay and energy."""
    tables, light = line_setup(rng)
    samples = np.zeros(80, dtype=np.int16)
    k = np.arange(5, 65)
    samples[k] = np.rint(light(k - 4.75 - 0.04) + rng.normal(0, 0.5, 60))
    samples[12:22] = np.rint(0.6 * samples[12:22])
    out = np.empty((1, 9))
    kernels.fit_lines(samples, 0, np.array([4.75]), tables, (-1e9, 1e9), (1 / 0.02**2, 1.0), 100.0, out)
    assert 0.1 < out[0, 2] < 0.8
    assert out[0, 0] == pytest.approx(0.04, abs=5 * np.sqrt(out[0, 1]))
    assert out[0, 4] == pytest.approx(1.0, abs=0.03)


def test_a_line_without_light_is_no_empty_line(rng: np.random.Generator) -> None:
    """A gain of zero explains dark samples well; no laser has such a pulse."""
    tables, _ = line_setup(rng)
    samples = np.rint(rng.normal(0, 0.6, 80)).astype(np.int16)
    out = np.empty((1, 9))
    kernels.fit_lines(samples, 0, np.array([4.75]), tables, (-1e9, 1e9), (1 / 0.02**2, 1.0), 300.0, out)
    assert out[0, 2] < 0.05


@pytest.mark.parametrize("reach", [0, 1, 3])
def test_marks_take_neighbours_with_them(reach: int) -> None:
    for marks in ([4, 11, 12], [0, 19], [1], []):
        marked, out = np.zeros(20, np.uint8), np.zeros(20, np.uint8)
        marked[marks] = 1
        first, last = (marks[0], marks[-1]) if marks else (20, -1)
        start, stop = kernels._widen(marked, first, last, reach, out)
        expected = np.array([any(abs(j - m) <= reach for m in marks) for j in range(20)])
        np.testing.assert_array_equal(out > 0, expected)
        assert not expected[:start].any()
        assert not expected[stop:].any()


def cell_lines(rng: np.random.Generator) -> tuple:
    """Tables, priors, starts and samples of three lines: empty, with a cell at 12 … 17, and with another at 28 … 31."""
    tables, light = line_setup(rng)
    starts = np.array([3.3, 70.0, 137.6])
    samples = np.zeros(210, dtype=np.int16)
    for start, gain, delay in zip(starts, (1.02, 0.97, 1.0), (0.03, -0.02, 0.05), strict=True):
        k = np.arange(int(np.ceil(start)), int(np.ceil(start)) + 60)
        samples[k] = np.rint(3 + gain * light(k - start - delay) + rng.normal(0, 0.6, 60))
    samples[83:88] = np.rint(0.6 * samples[83:88])
    samples[151:156] = np.rint(0.6 * samples[151:156])
    samples[166:170] = np.rint(0.5 * samples[166:170])
    return tables, (1 / 0.1**2, 1.0), starts, samples


def test_lines_are_registered_beside_a_known_window(rng: np.random.Generator) -> None:
    """Oracle: numpy's least squares outside the window; a line with something else outside is fitted robustly."""
    tables, priors, starts, samples = cell_lines(rng)
    args = samples, 0, starts, tables, (-1e9, 1e9), priors, 1.15 * 60 + 6 * np.sqrt(120)
    out, robust, full = np.empty((3, 9)), np.empty((3, 9)), np.empty((3, 9))
    kernels.register_lines(*args, (11.0, 20.0), out)
    kernels.register_lines(*args, (0.0, 0.0), robust)
    kernels.fit_lines(*args, full)
    np.testing.assert_array_equal(out[2], robust[2])
    np.testing.assert_allclose(robust[:, 0], full[:, 0], atol=0.1 * np.sqrt(full[:, 1].max()))
    np.testing.assert_allclose(robust[:, 4], full[:, 4], atol=0.1 * np.sqrt(full[:, 7].max()))
    for n, start in enumerate(starts[:2]):
        first = int(np.ceil(start))
        row = int((first - start) * 8 + 0.5)
        epsilon = first - start - row / 8
        outside = np.abs(np.arange(first, first + 60) - start - 15.5) > 4.5
        p, q, root = tables[2][row][outside], tables[3][row][outside], np.sqrt(tables[4][row][outside])
        design = np.vstack([np.stack([np.ones(p.size), p, q], axis=1) * root[:, None], [[0, 10, 0], [0, 0, 1]]])
        y = np.concatenate([(samples[first : first + 60][outside] - p) * root, [0, epsilon]])
        solution = np.linalg.lstsq(design.astype(float), y.astype(float), rcond=None)[0]
        assert out[n, 3] == pytest.approx(solution[0], abs=2e-3)
        assert out[n, 4] == pytest.approx(1 + solution[1], abs=1e-4)
        assert out[n, 0] == pytest.approx(epsilon - solution[2] / (1 + solution[1]), abs=2e-4)


def test_windows_are_registered_one_by_one(rng: np.random.Generator) -> None:
    """Two windows, the lines of one behind those of the other; samples on a rail are counted."""
    tables, priors, starts, samples = cell_lines(rng)
    samples[75] = 127
    limits, chi2_limit = (-1e9, 127.0), 1.15 * 60 + 6 * np.sqrt(120)
    lines, windows = np.array([[0, 3], [1, 3]]), np.array([[11.0, 20.0], [27.0, 33.0]])
    fits, saturated = np.empty((5, 9)), np.empty(2, np.int64)
    known = tables, limits, priors, chi2_limit
    kernels.register_windows(samples, 0, starts, lines, windows, *known, fits, saturated)
    for (first, stop), window, out, count in zip(lines, windows, (fits[:3], fits[3:]), saturated, strict=True):
        one = np.empty((stop - first, 9))
        kernels.register_lines(samples, 0, starts[first:stop], *known, tuple(window), one)
        np.testing.assert_array_equal(out, one)
        assert count == one[:, 6].sum()
    assert (saturated == 1).all()


def test_block_delay_ignores_stray_lines(rng: np.random.Generator) -> None:
    fits = np.zeros((40, 9))
    fits[:, 0], fits[:, 1], fits[:, 2] = rng.normal(0.2, 0.01, 40), 1e-4, 1.0
    fits[7, 0], fits[8, 2], fits[9, 1] = 0.9, 0.0, np.inf
    out = np.empty(4)
    kernels.block_delay(fits, 1.0, out)
    good = np.delete(fits[:, 0], [7, 8, 9])
    assert out[0] == pytest.approx(good.mean(), abs=1e-3)
    assert 0.8 * 1e-4 / 37 < out[1] < 4 * 1e-4 / 37
    assert out[3] == pytest.approx(37 / 40)


def test_detect_rows_counts_in_standard_deviations(rng: np.random.Generator) -> None:
    """Oracle: the sums written out, from the residuals of fit_line."""
    tables, light = line_setup(rng)
    starts = np.array([2.2, 64.6, 127.3, 189.9])
    samples = np.zeros(260, dtype=np.int16)
    for start in starts:
        k = np.arange(int(np.ceil(start)), int(np.ceil(start)) + 60)
        samples[k] = np.rint(light(k - start) + rng.normal(0, 0.7, 60))
    samples[[85, 86, 87]] += 5
    root = np.where(np.arange(60) < 40, np.sqrt(tables[4]), 0).astype(np.float32)
    counts = np.full((9, 8), 5, np.float32)
    out, wanted = np.zeros((1, 8), np.float32), np.ones(1, np.bool_)
    args = tables, (-1e9, 1e9), (1e4, 1e4), 1e9
    none = (tables, np.zeros((9, 4), np.int64), root, counts, (1e4, 1e4), 1e9, np.inf)  # no row as a whole
    kernels.detect_rows(samples, 0, starts, wanted, 4, 5, tables, root, counts, none, *args[1:], out)
    z = []
    for start in starts:
        first, work, fit = int(np.ceil(start)), np.empty((4, 60), np.float32), np.empty(5)
        row = int((first - start) * 8 + 0.5)
        kernels.fit_line(samples, first, first % 8, first - start - row / 8, row, *args, work, fit)
        z.append(work[1][:40] * root[row][:40])
    z = np.array(z, dtype=float).reshape(4, 8, 5)
    mean = np.abs(z.sum(axis=(0, 2))) / np.sqrt(20)
    k = 2 / (9 * 20)
    energy = (((z**2).sum(axis=(0, 2)) / 20) ** (1 / 3) - (1 - k)) / np.sqrt(k)
    np.testing.assert_allclose(out[0], np.maximum(mean, np.where(energy > 1, energy, 0)), rtol=0.02, atol=0.02)
    assert out[0, 4] > 5 > np.delete(out[0], 4).max()


@pytest.mark.parametrize("reach", [0, 1, 2, 5, 6, 13])
def test_marked_objects_take_neighbours_with_them(reach: int, rng: np.random.Generator) -> None:
    """Oracle: single marks dropped, then a dilation; at the ends too."""
    count, edge = 50, 2 * reach + 8
    for share in (0.05, 0.3):
        room = rng.random((2, count + 2 * edge)).astype(np.float32)
        marks = rng.random(count) < share
        marks[[0, 1, -1, -2]] = True
        room[0, edge : edge + count] = marks
        kernels._mark_objects(room, count, reach)
        padded = np.pad(marks, 1)
        objects = marks & (padded[:-2] | padded[2:])
        near = np.array([objects[max(j - reach, 0) : j + reach + 1].any() for j in range(count)])
        np.testing.assert_array_equal(room[1, edge : edge + count] > 0, near)


@pytest.mark.parametrize("cells", [[], [(12, 18)], [(3, 8)], [(0, 4), (33, 37)], [(4, 8), (20, 26)]])
def test_a_row_of_lines_is_seen_as_one(rng: np.random.Generator, cells: list[tuple[int, int]]) -> None:
    """Oracle: numpy's least squares on the sum of four lines, without the cells and what lies beside them; a row of
    which little is empty is not explained."""
    period, width, lit, reach = 62.3, 60, 40, 2
    _, light = line_setup(rng)
    starts = 2.2 + period * np.arange(4)
    samples = np.zeros(270, dtype=np.int16)
    offsets = np.ceil(np.arange(4) * period - np.arange(9)[:, None] / 8 * (1 - 1e-9)).astype(np.int64)
    tau = (offsets - np.arange(4) * period + np.arange(9)[:, None] / 8)[:, :, None] + np.arange(width)
    p = light(tau).sum(axis=1)
    q = ((light(tau + 1e-4) - light(tau - 1e-4)) / 2e-4).sum(axis=1)
    w = np.full(p.shape, 1 / (4 * 0.6**2))
    design = np.stack([np.ones_like(p), p, q])
    gram = np.einsum("ipj,pj,kpj->pik", design, w, design)[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    ones, zeros = np.ones(width + 8, np.float32), np.zeros(width + 8, np.float32)
    dark = np.full(9, lit)
    arrays = [p, q, w]
    args = (offsets, ones, zeros, *(a.astype(np.float32) for a in arrays), dark, gram, reach)
    for start in starts:
        k = np.arange(int(np.ceil(start)), int(np.ceil(start)) + width)
        samples[k] = np.rint(3 + 1.01 * light(k - start - 0.02) + rng.normal(0, 0.6, width))
        for first, stop in cells:
            samples[k[0] + first : k[0] + stop] -= 25
    root = np.where(np.arange(width) < lit, np.sqrt(w), 0).astype(np.float32)
    total, square = np.zeros(lit, np.float32), np.zeros(lit, np.float32)
    rails = np.float32(-1e9), np.float32(1e9)
    priors, chi2_limit = (1 / 0.1**2, 1.0), 1.15 * width + 6 * np.sqrt(2 * width)
    y, room = np.empty(width, np.float32), np.empty((2, width + 4 * reach + 16), np.float32)
    first = int(np.ceil(starts[0]))
    known = samples, first, first % 8, starts[0], *args, root, *rails, *priors, chi2_limit, y, room
    assert kernels._see_row(*known, total, square)
    row = int((first - starts[0]) * 8 + 0.5)
    seen = sum(samples[first + b : first + b + width].astype(float) for b in offsets[row]) - p[row]
    kept = np.ones(width, bool)
    for begin, end in cells:
        kept[max(begin - reach, 0) : min(end + reach, lit)] = False
    normal = (design[:, row] * w[row] * kept) @ design[:, row].T + np.diag([1e-9, *priors])
    pull = (design[:, row] * w[row] * kept) @ seen + np.array([0, 0, priors[1] * (first - starts[0] - row / 8)])
    left = seen - np.linalg.solve(normal, pull) @ design[:, row]
    expected = (left * root[row])[:lit]
    np.testing.assert_allclose(total, expected, atol=0.3 if cells else 1e-3)
    np.testing.assert_allclose(square, total**2, rtol=1e-5, atol=1e-6)
    for start in starts:
        place = int(np.ceil(start))
        for begin in range(0, lit, 7):
            samples[place + begin : place + begin + 4] -= 25
    assert not kernels._see_row(*known, total, square)


@pytest.mark.slow
def test_kernels_round_alike_fresh_and_from_the_cache(tmp_path: Path) -> None:
    """Compiled in this run or in another one, the detector gives the same bytes."""
    code = (
        "import hashlib; import numpy as np; from stretchscope.sr import _kernels as k\n"
        "rng = np.random.default_rng(1); W, T = 288, 300.3\n"
        "p = 60 * np.exp(-0.5 * ((np.arange(W) + np.arange(17)[:, None] / 16 - 100) / 40) ** 2)\n"
        "q = np.gradient(p, axis=1); w = np.full(p.shape, 0.7)\n"
        "d = np.stack([np.ones_like(p), p, q])\n"
        "g = np.einsum('ipj,pj,kpj->pik', d, w, d)[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]\n"
        "f = [a.astype(np.float32) for a in (np.ones(W + 8), np.zeros(W + 8), p, q, w)]\n"
        "t = (*f, np.full(17, 220), g, 5)\n"
        "b = np.ceil(np.arange(4) * T - np.arange(17)[:, None] / 16 * (1 - 1e-9)).astype(np.int64)\n"
        "root = np.where(np.arange(W) < 220, np.sqrt(w), 0).astype(np.float32)\n"
        "c = np.full((17, 55), 4, np.float32); s = rng.integers(-90, 90, 70000).astype(np.int8)\n"
        "starts = 3.3 + T * np.arange(200); out = np.zeros((50, 55), np.float32)\n"
        "k.detect_rows(s, 0, starts, np.ones(50, bool), 4, 4, t, root, c, (t, b, root, c, (9., 9.), 1e9, T),\n"
        "              (-128., 127.), (9., 9.), 1e9, out)\n"
        "print(hashlib.sha256(out.tobytes()).hexdigest(), out.max() > 0)"
    )
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    runs = [
        subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert runs[0].endswith("True\n")


def test_count_on_rail() -> None:
    samples = np.array([-5, -3, 0, 7, 8], dtype=np.int8)
    assert kernels.count_on_rail(samples, -3, 7) == 4
    assert kernels.count_on_rail(samples, -6, 9) == 0
