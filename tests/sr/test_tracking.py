"""Smoothing of the clock: closed forms, and honest uncertainties."""

import numpy as np
import pytest

from stretchscope.sr.errors import SignalError
from stretchscope.sr.tracking import correlate_start, disturbances, phase_terms, smooth_blocks, steady_clock

LINE = np.arange(60) * 64 + 31.5


def measured(rng: np.random.Generator, std: float = 1e-3, *, bend: float = 0.0) -> np.ndarray:
    x = 2 * (LINE - LINE[0]) / (LINE[-1] - LINE[0]) - 1
    return 11.0 + 275.5195 * LINE + bend * x**2 + rng.normal(0, std, LINE.size)


def test_steady_clock_is_a_straight_line_fit(rng: np.random.Generator) -> None:
    """Oracle: least squares, and σ·sqrt(12 / (M (M² - 1))) for its slope."""
    place = measured(rng)
    clock = smooth_blocks(LINE, place, np.full(60, 1e-6))
    slope, start = np.polyfit(LINE - LINE[0], place - place[0], 1)
    assert not clock.wanders
    np.testing.assert_allclose(clock.state[:, 1], slope, atol=1e-9)
    np.testing.assert_allclose(clock.state[:, 0], place[0] + start + slope * (LINE - LINE[0]), atol=1e-6)
    assert clock.mean_period_std == pytest.approx(1e-3 / 64 * np.sqrt(12 / (60 * (60**2 - 1))), rel=0.01)


@pytest.mark.parametrize("bend", [0.2, 3.0, 100.0])
def test_drift_is_a_polynomial(bend: float, rng: np.random.Generator) -> None:
    """A drift of 1e-6 … 4e-4 of the period: smoothed as well as a parabola can be, with knots at the ends."""
    place = measured(rng, bend=bend)
    clock = smooth_blocks(LINE, place, np.full(60, 1e-6))
    assert not clock.wanders
    expected = place[0] + np.polyval(np.polyfit(LINE - LINE[0], place - place[0], 2), LINE - LINE[0])
    assert np.abs(clock.state[:, 0] - expected).max() < 1e-3
    assert (np.diff(clock.state[:, 1]) * bend > 0).all()


@pytest.mark.parametrize("walk", ["place", "period"])
def test_a_random_walk_is_followed_no_further_than_the_noise(walk: str, rng: np.random.Generator) -> None:
    z = []
    for _ in range(12):
        steps = rng.normal(0, 0.01 if walk == "place" else 2e-4, LINE.size)
        wander = np.cumsum(steps if walk == "place" else np.cumsum(steps) * 8)
        place = measured(rng, 2e-3) + wander
        clock = smooth_blocks(LINE, place, np.full(60, 4e-6))
        assert clock.wanders
        truth = 275.5195 + (wander[-1] - wander[0]) / (LINE[-1] - LINE[0])
        found = (clock.state[-1, 0] - clock.state[0, 0]) / (LINE[-1] - LINE[0])
        z.append((found - truth) / clock.mean_period_std)
    assert 0.5 < np.sqrt(np.mean(np.square(z))) < 1.6


def test_uncertainty_is_honest(rng: np.random.Generator) -> None:
    """Root mean square of error over stated deviation, straight and bent; 60 trials leave 9 %."""
    for bend in (0.0, 1.0):
        z = []
        for _ in range(60):
            clock = smooth_blocks(LINE, measured(rng, bend=bend), np.full(60, 1e-6))
            z.append(((clock.state[-1, 0] - clock.state[0, 0]) / np.ptp(LINE) - 275.5195) / clock.mean_period_std)
        assert 0.7 < np.sqrt(np.mean(np.square(z))) < 1.3


def test_what_follows_the_phase_is_not_the_clock(rng: np.random.Generator) -> None:
    """A slow beat with the digitiser's clock: an error of the profile swings with it and must not look like wander."""
    period = 430.9985
    place = 5.0 + period * LINE
    terms = phase_terms(place, period, 64)
    assert terms.shape[1] >= 2
    disturbed = place + 3e-4 * np.cos(2 * np.pi * place) + rng.normal(0, 1e-3, LINE.size)
    clock = smooth_blocks(LINE, disturbed, np.full(60, 1e-6), terms)
    assert not clock.wanders
    assert np.abs(clock.state[:, 0] - place).max() < 2e-3


def test_fast_beats_need_no_terms() -> None:
    assert phase_terms(LINE, 275.5195021, 64, orders=1).shape[1] == 0


def test_steady_clock_bends_only_when_asked(rng: np.random.Generator) -> None:
    line = np.arange(32) * 32 + 15.5
    for bend in (0.0, 0.4):
        place = 9 + 100.37 * line + bend * (line / 1000 - 0.5) ** 2 + rng.normal(0, 2e-3, 32)
        place[5] += 0.7  # a cell
        starts = steady_clock(line, place, np.full(32, 4e-6), 100.3701, 32)
        n = np.arange(0, 1024, 50.0)
        expected = 9 + 100.37 * n + bend * (n / 1000 - 0.5) ** 2
        assert np.abs(starts(n) - expected).max() < 5e-3


def test_outliers_and_gaps(rng: np.random.Generator) -> None:
    place, variance = measured(rng), np.full(60, 1e-6)
    place[[10, 11]] += 0.3
    variance[20:30] = np.inf
    clock = smooth_blocks(LINE, place, variance)
    assert not clock.wanders
    assert np.abs(clock.state[:, 1] - 275.5195).max() < 1e-6


def test_two_blocks_are_the_least(rng: np.random.Generator) -> None:
    with pytest.raises(SignalError, match="fewer than two blocks"):
        smooth_blocks(LINE, measured(rng), np.r_[1e-6, np.full(59, np.inf)])


def test_missing_light_does_not_pull_the_clock(rng: np.random.Generator) -> None:
    """Cells in the second half of a capture shift its blocks in proportion to the light they take."""
    missing = np.where(np.arange(60) > 30, rng.uniform(500, 3000, 60), 0.0)
    place = measured(rng) + 4e-6 * missing
    blocks = np.zeros((60, 6))
    blocks[:, 0], blocks[:, 1], blocks[:, 5] = LINE, place, missing
    plain = smooth_blocks(LINE, place, np.full(60, 1e-6))
    clock = smooth_blocks(LINE, place, np.full(60, 1e-6), disturbances(blocks, 275.5195, 64))
    error = (clock.state[-1, 0] - clock.state[0, 0]) / (LINE[-1] - LINE[0]) - 275.5195
    assert not clock.wanders
    assert abs(error) < 4 * clock.mean_period_std
    assert clock.mean_period_std < 1.5 * 1e-3 / np.sqrt(np.sum((LINE - LINE.mean()) ** 2)) * 2
    assert abs(plain.state[:, 1].mean() - 275.5195) > 3 * abs(error)


@pytest.mark.parametrize("period", [350.0, 350.5, 431.03])
def test_start_of_lines_that_meet_few_phases(period: float, lab: object) -> None:
    """A cell fills the first window: the next one decides, wherever the few phases of a locked clock lie."""
    instrument = lab.instrument(period=period / 5e9, clock={"frequency_offset": 0.0, "jitter_s": 0.0})
    simulated = lab.simulate(instrument, 1200, seed=4)
    background = lab.process(simulated.samples).background
    samples = simulated.samples.copy()
    lit = np.arange(20, 120)
    for line in range(30):  # darkened on one side, as by a cell at the edge
        first = round(simulated.starts[line] - simulated.starts[0]) + round(simulated.starts[0] % period)
        samples[first + lit] = samples[first + lit] // 2 - 50
    clean, _ = correlate_start(simulated.samples, background)
    start, correlation = correlate_start(samples, background)
    assert start == pytest.approx(clean, abs=0.3)
    assert correlation > 0.99
