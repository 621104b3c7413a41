"""Bounds of the line clock against brute force: numerical derivatives, all unknowns of all lines in one matrix."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stretchscope.sr.background import Background
from stretchscope.sr.bounds import delay_bound, period_bound, start_bound
from stretchscope.sr.profile import Profile

KNOTS = 128


def make_background(
    seed: int, period: float, noise: tuple[float, float, float], gains: tuple[float, ...], censored: bool = False
) -> Background:
    """A random smooth line of 32 samples or so."""
    random = np.random.default_rng(seed)
    rough = random.normal(0, 40, KNOTS)
    hidden = np.zeros(KNOTS, dtype=bool)
    if censored:
        hidden[20:40] = True
    smooth = np.convolve(np.tile(rough, 3), np.hanning(17) / 8, "same")[KNOTS : 2 * KNOTS]
    return Background(
        profile=Profile(period, smooth - smooth.min(), 0.3),
        dark_level_codes=0.0,
        lit_samples=period,
        censored=hidden,
        noise=noise,
        interleave_offset_codes=(0.0,) * len(gains),
        interleave_gain=gains,
        code_limits=(-128, 127),
        gain_std=0.01,
        delay_std_samples=0.01,
    )


def one_line(background: Background, phase: float, converter: int, step: float = 1e-4) -> np.ndarray:
    """Fisher information (3, 3) of baseline, energy and delay by numerical derivatives of the codes' expectations."""
    k = np.arange(int(background.period_samples))
    gain = np.array([background.interleave_gain[(converter + j) % len(background.interleave_gain)] for j in k])

    def expected(baseline: float, energy: float, delay: float) -> np.ndarray:
        return gain * (baseline + energy * background.profile.light(k + phase - delay))

    origin = np.array([0.0, 1.0, 0.0])
    columns = []
    for unknown in np.eye(3):
        plus, minus = origin + step * unknown, origin - step * unknown
        columns.append((expected(*plus) - expected(*minus)) / (2 * step))
    seen = ~background.is_censored(k + phase)
    jacobian = np.array(columns)[:, seen]
    return jacobian / background.variance(k + phase)[seen] @ jacobian.T


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    period=st.floats(30.0, 40.0),
    thermal=st.floats(0.2, 4.0),
    shot=st.floats(0.0, 0.1),
    gains=st.sampled_from([(1.0,), (0.9, 1.1), (1.02, 0.97, 1.0, 1.01), (-1.0,)]),
    priors=st.sampled_from([(math.inf, math.inf), (0.01, 0.3), (0.002, math.inf)]),
    censored=st.booleans(),
)
def test_delay_bound_is_the_inverse_of_the_information(
    seed: int, period: float, thermal: float, shot: float, gains: tuple, priors: tuple, censored: bool
) -> None:
    """Oracle: the whole matrix inverted, line by line; the information of lines of all phases adds up."""
    background = make_background(seed, period, (thermal, shot, 0.001), gains, censored)
    prior = np.diag([1 / priors[1] ** 2, 1 / priors[0] ** 2, 0.0])
    told = [
        1 / np.linalg.inv(one_line(background, phase, converter) + prior)[2, 2]
        for phase in (np.arange(200) + 0.37) / 200
        for converter in range(len(gains))
    ]
    found = delay_bound(background, gain_std=priors[0], baseline_std_codes=priors[1])
    assert found == pytest.approx(1 / np.sqrt(np.mean(told)), rel=5e-3)


def test_what_is_known_and_what_is_hidden() -> None:
    background = make_background(3, 33.3, (1.0, 0.0, 0.0), (1.0,))
    free = delay_bound(background)
    assert delay_bound(background, gain_std=0.0, baseline_std_codes=0.0) < free
    assert delay_bound(background, hidden_share=0.36) == pytest.approx(free / 0.8)
    assert delay_bound(background, hidden_share=1.0) == math.inf
    flat = delay_bound(background, jitter_std_samples=100 * free)
    assert flat == pytest.approx(100 * free, rel=1e-3)
    # a symmetric pulse tells its delay as well without its energy and baseline
    knots = np.arange(KNOTS)
    bell = Profile(32.0, 100 * np.exp(-0.5 * ((knots - 64) / 10) ** 2))
    symmetric = Background(**(vars(background) | {"profile": bell}))
    slope = bell.slope(np.arange(0, 32, 1 / 64))
    assert delay_bound(symmetric) == pytest.approx(1 / np.sqrt(np.sum(slope**2) / 64), rel=1e-3)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_clock_bounds_are_those_of_all_unknowns_at_once(order: int) -> None:
    """Oracle: each line with a baseline and an energy of its own, and the clock's polynomial: one matrix."""
    lines, period = 12, 33.3
    background = make_background(5, period, (0.7, 0.01, 0.0), (1.0,))
    x = np.arange(lines) - 4.0
    size = 2 * lines + order + 1
    information = np.zeros((size, size))
    phases = (np.arange(64) + 0.5) / 64
    for n in range(lines):
        own = np.linalg.inv(np.mean([one_line(background, phase, 0) for phase in phases], axis=0))
        place = np.zeros((3, size))
        place[0, 2 * n] = place[1, 2 * n + 1] = 1
        place[2, 2 * lines :] = x[n] ** np.arange(order + 1)
        information += place.T @ np.linalg.inv(own) @ place
    covariance = np.linalg.inv(information)[2 * lines :, 2 * lines :]
    at = np.array([0.0, 3.5, 11.0, 15.0])
    rows = (at[:, None] - 4.0) ** np.arange(order + 1)
    delay = delay_bound(background)
    np.testing.assert_allclose(
        start_bound(delay, lines, at, order=order), np.sqrt(np.sum(rows @ covariance * rows, axis=1)), rtol=1e-2
    )
    chord = (rows[2] - rows[0]) / (lines - 1)
    assert period_bound(delay, lines, order=order) == pytest.approx(np.sqrt(chord @ covariance @ chord), rel=1e-2)


@settings(max_examples=30, deadline=None)
@given(lines=st.integers(4, 10**7), std=st.floats(1e-5, 1.0))
def test_steady_clock_in_closed_form(lines: int, std: float) -> None:
    expected = std * math.sqrt(12 / (lines * (float(lines) ** 2 - 1)))
    assert period_bound(std, lines) == pytest.approx(expected)
    assert period_bound(std, lines, order=2) == pytest.approx(expected)  # a parabola is even
    assert start_bound(std, lines, np.array((lines - 1) / 2)) == pytest.approx(std / math.sqrt(lines))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda b: delay_bound(b, gain_std=-1.0), "gain_std must be zero or more"),
        (lambda b: delay_bound(b, jitter_std_samples=math.nan), "jitter_std_samples must be zero or more"),
        (lambda b: delay_bound(b, hidden_share=1.5), "hidden_share must lie within"),
        (lambda b: period_bound(1.0, 100, order=4), "order must be 1"),
        (lambda b: start_bound(1.0, 2, np.zeros(1), order=2), "needs more than 2 lines"),
    ],
)
def test_bad_arguments(call: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call(make_background(1, 33.3, (1.0, 0.0, 0.0), (1.0,)))
