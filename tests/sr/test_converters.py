"""Interleaved converters told apart by the empty line, also where they never exchange places."""

import numpy as np
import pytest

from stretchscope.sr.background import Background
from stretchscope.sr.converters import converters_mix, fit_converters
from stretchscope.sr.profile import fit_profile

OFFSET = np.array([1.1, 0.1, -0.75, -0.45])
GAIN = np.array([0.996, 0.9965, 1.009, 0.9985])


def line(tau: np.ndarray, period: float) -> np.ndarray:
    u = np.mod(tau, period)
    return 180 / (1 + np.exp((30 - u) / 5)) / (1 + np.exp((u - 200) / 5))


@pytest.mark.parametrize(("period", "mix"), [(351.43, True), (351.0, True), (350.0, False), (352.0, False)])
def test_offsets_and_gains(period: float, mix: bool, rng: np.random.Generator) -> None:
    """Oracle: the converters that made the codes; the profile was fitted to their codes, comb and all."""
    starts = 17.3 + period * np.arange(300)
    assert converters_mix([starts]) == mix
    k = np.arange(int(starts[-1]))
    tau = k - starts[np.searchsorted(starts, k, side="right") - 1]
    k, tau = k[tau >= 0], tau[tau >= 0]
    code = OFFSET[k % 4] + GAIN[k % 4] * line(tau, period) + rng.normal(0, 0.5, k.size)
    flat = np.zeros(k.size)
    profile = fit_profile(tau, code, flat + 1, period_samples=period, most_per_sample=1)
    background = Background(
        profile=profile,
        dark_level_codes=None,
        lit_samples=period,
        censored=np.zeros(profile.knots, dtype=bool),
        noise=(0.25, 0.0, 0.0),
        interleave_offset_codes=(0.0,),
        interleave_gain=(1.0,),
        code_limits=(-128, 127),
        gain_std=0.01,
        delay_std_samples=0.01,
    )
    offset, gain = fit_converters(tau, code, k % 8, flat, flat + 1, flat + 4, background, mix=mix)
    assert offset.size == 4
    np.testing.assert_allclose(offset - offset.mean(), OFFSET - OFFSET.mean(), atol=0.05)
    np.testing.assert_allclose(gain / gain.mean(), GAIN / GAIN.mean(), atol=1e-3)
