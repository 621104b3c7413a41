"""Smoothing of the clock: closed forms, and honest uncertainties."""

import numpy as np
import pytest

from stretchscope.sr.background import Background
from stretchscope.sr.errors import SignalError
from stretchscope.sr.profile import Profile
from stretchscope.sr.tracking import (
    correlate_start,
    disturbances,
    droop_delays,
    phase_terms,
    smooth_blocks,
    steady_clock,
)

LINE = np.arange(60) * 64 + 31.5


def pulse_background(period: float) -> Background:
    """A pulse with smooth ends on a dark line."""
    tau = np.arange(512) * (period / 512)
    ends = np.clip(np.minimum(tau, 160 - tau) / 20, 0, 1)
    return Background(
        profile=Profile(period, 150 * np.sin(np.pi / 2 * ends) ** 2),
        dark_level_codes=0.0,
        lit_samples=160.0,
        censored=np.zeros(512, dtype=bool),
        noise=(1.0, 0.0, 0.0),
        interleave_offset_codes=(0.0,),
        interleave_gain=(1.0,),
        code_limits=(-128, 127),
        gain_std=0.01,
        delay_std_samples=0.002,
    )


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


def test_the_baseline_behind_cells_does_not_pull_the_clock(rng: np.random.Generator) -> None:
    """Oracle: the AC-coupled baseline of each line, sample by sample, fitted by least squares with the empty line.

    Its zero is not known; DC coupling (no baseline at all) must add nothing.
    """
    period, lines, noise = 200.3, 3840, 2e-4
    background = pulse_background(period)
    tau = np.arange(200.0)
    light, slope = background.profile.light_and_slope(tau)
    columns = np.stack([np.ones_like(light), light, -slope])
    solve = np.linalg.inv(columns @ columns.T) @ columns
    for corner in (4e-5, 0.0):
        missing, baseline, delay = np.zeros((3, lines))
        present = np.where((np.arange(lines) // 90 % 4 == 0) & (np.arange(lines) > lines // 2), 0.4, 0.0)
        level = 0.0
        middle = rng.uniform(40, 120, lines)[np.arange(lines) // 90 * 90]  # one place for each cell
        for n in range(lines):
            taken = present[n] * light * (np.abs(tau - middle[n]) < 12)
            course = np.empty(tau.size)
            for k in range(tau.size):
                level += corner * (taken[k] - level)
                course[k] = level
            fit = solve @ course
            missing[n], baseline[n], delay[n] = taken.sum(), fit[0], fit[2]
        blocks = np.zeros((60, 7))
        of_block = [v.reshape(60, 64).mean(axis=1) for v in (missing, baseline, delay)]
        clean = 11.0 + period * LINE + rng.normal(0, noise, 60)
        blocks[:, 0], blocks[:, 1], blocks[:, 2], blocks[:, 5] = LINE, clean + of_block[2], noise**2, of_block[0]
        blocks[:, 6] = of_block[1] + 0.7 + rng.normal(0, 2e-3, 60)
        droop = droop_delays(blocks, background)
        if corner:
            assert np.ptp(of_block[2]) > 5 * noise
            assert np.std(droop - of_block[2]) < 0.2 * np.std(of_block[2])
        else:
            assert np.std(droop) < 0.3 * noise
        terms = disturbances(blocks, period, 64, droop)
        clock = smooth_blocks(LINE, blocks[:, 1] - droop, blocks[:, 2], terms)
        error = (clock.state[-1, 0] - clock.state[0, 0]) / (LINE[-1] - LINE[0]) - period
        assert not clock.wanders
        assert abs(error) < 4 * clock.mean_period_std
        assert clock.mean_period_std < 4 * noise / np.sqrt(np.sum((LINE - LINE.mean()) ** 2))


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
