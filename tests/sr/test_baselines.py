"""The three published interpolations against their definition for a locked clock, T = p/q samples."""

import dataclasses

import numpy as np
import pytest

from stretchscope.sr import baselines
from stretchscope.sr.background import Background
from stretchscope.sr.baselines import interpolate_fully, interpolate_simply, lines_woven, weave_lines
from stretchscope.sr.profile import Profile
from stretchscope.sr.reconstruct import Grid

P, Q = 47, 3  # 15 and two thirds samples per line
LINES = 21


@pytest.fixture
def locked() -> tuple:
    """Samples of a flat empty line, each with a value of its own, and what the methods need to know."""
    period = P / Q
    background = Background(
        profile=Profile(period, np.full(80, 1000.0)),
        dark_level_codes=0.0,
        lit_samples=period,
        censored=np.zeros(80, bool),
        noise=(4.0, 0.0, 0.0),
        interleave_offset_codes=(0.0,),
        interleave_gain=(1.0,),
        code_limits=(-32768, 32767),
        gain_std=0.01,
        delay_std_samples=0.01,
    )
    samples = np.random.default_rng(1).integers(200, 1000, P * LINES // Q + 1).astype(np.int16)
    fits = np.tile([0.0, 1e-6, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0], (LINES, 1))
    known = samples, 0, np.arange(LINES) * period, 0, background, None
    return known, fits


def run(method: object, locked: tuple, *, aspect: float = 9.0):
    """A method's image in its own pixels."""
    known, fits = locked
    placed = baselines._place_samples(*known, (0.0, LINES - 1.0), (0.0, (P - 1) / Q), fits)
    return method.__wrapped__(placed, Grid(1.0, aspect, 1.0, 1.0))


def test_lines_woven() -> None:
    assert lines_woven(1024 / 3) == 3
    assert lines_woven(430.515) == 2
    assert lines_woven(172.206) == 5
    assert lines_woven(275.0) == 1


def test_weaving_is_the_published_permutation(locked: tuple) -> None:
    """Sample K = m·p + r goes to row m, column (r·q) mod p."""
    image = run(weave_lines, locked)
    assert image.transmission.shape == (LINES // Q, P)
    assert image.columns_per_sample == Q
    assert image.lines_per_row == Q
    expected = np.empty((LINES // Q, P))
    m, r = np.divmod(np.arange(P * LINES // Q), P)
    expected[m, r * Q % P] = locked[0][0][:-1] / 1000
    np.testing.assert_allclose(image.transmission, expected, atol=1e-6)
    np.testing.assert_allclose(image.std, 2 / 1000, rtol=1e-5)
    assert image.known.all()


def grid_of_lines(locked: tuple) -> np.ndarray:
    """Each line's samples at their columns of 1/q sample, NaN between."""
    lines = np.full((LINES, P), np.nan)
    k = np.arange(P * LINES // Q)
    m, r = np.divmod(k, P)
    lines[m * Q + r * Q // P, r * Q % P] = locked[0][0][:-1] / 1000
    return lines


def test_simple_interpolation_has_the_published_weights(locked: tuple) -> None:
    """With a sample as wide as nine lines, 1, 6, 2 and 3 lines away: 6/12, 1/12, 3/12 and 2/12."""
    image = run(interpolate_simply, locked)
    lines = grid_of_lines(locked)
    assert image.transmission.shape == (LINES // Q, P)
    assert image.first_line == 1
    row, line = 3, 10  # line 3·3 + 1
    weights = set()
    for column in range(4, P - 4):
        if np.isfinite(lines[line, column]):
            assert image.transmission[row, column] == pytest.approx(lines[line, column], abs=1e-6)
            continue
        near = []
        for step, pitch, along in ((-1, 1, 0), (1, 1, 0), (-1, 3, 1), (1, 3, 1)):
            for distance in range(1, Q):
                at = (line + step * distance, column) if along == 0 else (line, column + step * distance)
                if np.isfinite(lines[at]):
                    near.append((1 / (distance * pitch), lines[at]))
                    break
        total = sum(w for w, _ in near)
        weights.add(tuple(sorted(round(12 * w / total, 6) for w, _ in near)))
        mean = sum(w * v for w, v in near) / total
        assert image.transmission[row, column] == pytest.approx(mean, abs=1e-6)
        spread = 2 / 1000 * np.sqrt(sum(w * w for w, _ in near)) / total
        assert image.std[row, column] == pytest.approx(spread, rel=1e-5)
    assert weights == {(1.0, 2.0, 3.0, 6.0)}


def test_full_interpolation_runs_straight_between_the_columns(locked: tuple) -> None:
    image, simple = run(interpolate_fully, locked), run(interpolate_simply, locked)
    assert image.columns_per_sample == Q * Q
    assert image.lines_per_row == 1
    assert image.transmission.shape == (LINES, (P - 1) * Q + 1)
    np.testing.assert_allclose(image.transmission[1::Q, ::Q], simple.transmission, atol=1e-6)
    a, b = image.transmission[10, [30, 33]]
    np.testing.assert_allclose(image.transmission[10, 31:33], [a + (b - a) / 3, a + 2 * (b - a) / 3], atol=1e-6)


@pytest.mark.parametrize("method", [weave_lines, interpolate_simply, interpolate_fully])
def test_unusable_is_unknown(locked: tuple, method: object) -> None:
    """A stretch of the line that is never usable stays unknown where nothing lies beside it; saturation is left out."""
    known, fits = locked
    background = dataclasses.replace(known[4], code_limits=(-32768, 999))
    samples = known[0].copy()
    samples[samples.size // 2] = 999
    image = method(
        samples, 0, known[2], 0, background, None, Grid(1.0, 9.0, 1.0, 1.0), rows=(0.0, LINES - 1.0),
        tau=(0.0, (P - 1) / Q), fits=fits,
    )  # fmt: skip
    assert image.transmission.shape == (3, 16)
    assert np.nanmax(image.transmission) < 0.999
    assert np.isinf(image.std[~image.known]).all()
