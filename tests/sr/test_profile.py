"""The empty line as a spline."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stretchscope.sr.profile import Profile, _halve_knots, fit_profile


def wave(tau: np.ndarray, period: float) -> np.ndarray:
    return 50 + 40 * np.cos(2 * np.pi * tau / period) + 10 * np.sin(6 * np.pi * tau / period)


@given(st.floats(90, 400), st.floats(-1000, 1000))
@settings(max_examples=20, deadline=None)
def test_recovers_a_smooth_line(period: float, shift: float) -> None:
    """Oracle: the wave the samples were taken of, at every position, wherever positions are counted from."""
    tau = shift + np.arange(20_000) * 0.7317 % period
    profile = fit_profile(tau, wave(tau, period), np.ones(tau.size), period_samples=period, most_per_sample=2)
    at = np.linspace(-period, 2 * period, 333)
    np.testing.assert_allclose(profile.light(at), wave(at, period), atol=2e-4)
    np.testing.assert_allclose(
        profile.slope(at), (profile.light(at + 1e-4) - profile.light(at - 1e-4)) / 2e-4, atol=1e-4
    )


def test_half_as_many_knots_give_the_same_equations(rng: np.random.Generator) -> None:
    """Oracle: equations accumulated with the coarse knots at once."""
    from stretchscope.sr import _calibration_kernels as kernels

    tau, values, weights = rng.uniform(0, 100, 3000), rng.normal(size=3000), rng.uniform(0, 2, 3000)

    def equations(knots: int) -> tuple[np.ndarray, np.ndarray]:
        band, right = np.zeros((knots, 4)), np.zeros(knots)
        kernels.accumulate_normal_equations(tau, 0.0, 100.0, values, weights, band, right)
        return band, right

    for fine, coarse in zip(_halve_knots(*equations(160)), equations(80), strict=True):
        np.testing.assert_allclose(fine, coarse, atol=1e-10)


@pytest.mark.parametrize(("noise", "fewest", "most"), [(8.0, 1, 2), (0.01, 4, 16)])
def test_takes_as_many_knots_as_the_noise_allows(
    noise: float, fewest: int, most: int, rng: np.random.Generator
) -> None:
    period = 120.0
    tau = rng.uniform(0, period, 60_000)
    edge = 1 / (1 + np.exp(-(tau - 40) / 0.25)) - 1 / (1 + np.exp(-(tau - 80) / 0.25))
    profile = fit_profile(
        tau, 5 * edge + rng.normal(0, noise, tau.size), np.ones(tau.size), period_samples=period, most_per_sample=16
    )
    assert fewest <= profile.knots / period <= most


def test_unknown_stretches_are_bridged(rng: np.random.Generator) -> None:
    tau = rng.uniform(0, 200, 20_000)
    weights = np.where((tau > 50) & (tau < 53), 0.0, 1.0)
    profile = fit_profile(tau, wave(tau, 200), weights, period_samples=200.0, most_per_sample=4)
    assert np.abs(profile.light(np.arange(50, 53, 0.1)) - wave(np.arange(50, 53, 0.1), 200)).max() < 0.5


def test_origin_moves_positions() -> None:
    plain = Profile(90.0, np.arange(90.0))
    moved = Profile(90.0, np.arange(90.0), origin_samples=12.5)
    tau = np.linspace(-100, 100, 77)
    np.testing.assert_allclose(moved.light(tau), plain.light(tau + 12.5), atol=1e-9)
    np.testing.assert_array_equal(moved.cell(tau), plain.cell(tau + 12.5))


@pytest.mark.parametrize("phase", [0.0, 0.3, 0.5])
def test_samples_at_one_phase_of_a_locked_clock(phase: float, rng: np.random.Generator) -> None:
    """Half-way between knots a coefficient of alternating sign is invisible; the noise must not grow in it."""
    tau = np.tile(np.arange(172) + phase, 50)
    light = wave(tau, 172) + rng.normal(0, 1, tau.size)
    profile = fit_profile(tau, light, np.ones(tau.size), period_samples=172.0, most_per_sample=1)
    at = np.arange(172) + phase + 0.5
    assert np.std(profile.light(at) - wave(at, 172)) < 3 / np.sqrt(50)


def test_slope_between_whole_samples_is_doubted_where_they_are_too_few() -> None:
    tau = np.arange(2000) * 0.0601

    def doubt(width: float) -> float:
        pulse = np.exp(-0.5 * ((tau - 60) / width) ** 2)
        return fit_profile(tau, pulse, np.ones(tau.size), period_samples=120.0, most_per_sample=1).slope_doubt()

    assert doubt(6.0) < 1e-3
    assert doubt(1.0) > 1e-2
