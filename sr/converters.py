"""Offsets and gains of interleaved converters, from samples of the empty line."""

from collections.abc import Sequence

import numpy as np

from . import _calibration_kernels as _kernels
from .background import Background
from .profile import Profile

# 1/variance of a converter's gain before anything is measured, and where nothing can be.
_GAIN_PRIOR, _GAIN_CERTAIN = 1 / 0.02**2, 1e12


def converters_mix(starts: Sequence[np.ndarray]) -> bool:
    """Whether every position of the line is seen by every converter; not so near a period of an even number of samples.

    One array of line starts per span.
    """
    first = np.concatenate([np.ceil(s).astype(np.int64) for s in starts]) % _kernels.CONVERTERS
    return bool(np.bincount(first, minlength=_kernels.CONVERTERS).min() > 0.02 * first.size)


def fit_converters(
    tau: np.ndarray,
    code: np.ndarray,
    converter: np.ndarray,
    baseline: np.ndarray,
    gain: np.ndarray,
    weights: np.ndarray,
    background: Background,
    *,
    mix: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Offset and gain of the interleaved converters: code = offset + gain · expected light, for k mod 1, 2, 4, 8.

    Parameters
    ----------
    tau, code, converter, baseline, gain, weights : ndarray of shape (S,)
        Position on the line [samples], code, k mod 8 (-1: unknown), the line's baseline [codes] and relative energy,
        1/variance (0 leaves a sample out) of each sample k.
    background : Background
        The empty line so far.
    mix : bool
        Whether every position is seen by every converter (:func:`converters_mix`). Where not, a profile with a comb
        would explain them as well: there they are judged by the profile without a comb, where that is sure enough.

    Returns
    -------
    offset_codes, gain : ndarray of shape (1,), (2,), (4,) or (8,)
        Of the smallest number of converters that explains all eight positions; the mean gain is 1 in size.
    """
    if mix:
        return _solve(code, baseline + gain * background.profile.light(tau), converter, weights, background)
    smooth, doubt = _without_comb(background.profile, tau)
    straight = doubt < 0.5 * background.noise_std_codes
    prior = _GAIN_PRIOR if straight[smooth > 0.5 * smooth.max()].mean() > 0.5 else _GAIN_CERTAIN
    return _solve(code, baseline + gain * smooth, converter, weights * straight, background, prior)


def _solve(
    code: np.ndarray,
    expected: np.ndarray,
    converter: np.ndarray,
    weights: np.ndarray,
    background: Background,
    gain_prior: float = _GAIN_PRIOR,
) -> tuple[np.ndarray, np.ndarray]:
    """The smallest number of converters whose offsets and gains explain all eight positions."""
    n = _kernels.CONVERTERS
    sums = np.zeros((n, 5))
    _kernels.converter_sums(code, expected, converter, weights, sums)
    total_weight = max(float(sums[:, 0].sum()), 1e-30)
    sums[:, 2] += gain_prior
    sums[:, 4] += gain_prior * np.sign(background.interleave_gain[0])

    def solve(parts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        s0, s1, s2, t0, t1 = parts.T
        det = np.maximum(s0 * s2 - s1 * s1, 1e-12)
        return (s2 * t0 - s1 * t1) / det, (s0 * t1 - s1 * t0) / det

    def unexplained(count: int) -> float:
        """Weighted rms difference [codes] between the codes that ``count`` and that eight converters predict."""
        offset, gain = (np.tile(v, n // count) for v in solve(sums.reshape(n // count, count, 5).sum(axis=0)))
        a, b = offset8 - offset, gain8 - gain
        return float(
            np.sqrt(max(np.sum(a * a * sums[:, 0] + 2 * a * b * sums[:, 1] + b * b * sums[:, 2]), 0) / total_weight)
        )

    offset8, gain8 = solve(sums)
    enough = 0.12 * background.noise_std_codes + 0.05 * unexplained(1)
    count = next(c for c in (1, 2, 4, 8) if c == n or unexplained(c) <= enough)
    offset, gain = solve(sums.reshape(n // count, count, 5).sum(axis=0))
    return offset, gain / abs(gain.mean())


def _without_comb(profile: Profile, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Light at positions τ without what repeats with the converters, and how far that may bend it [codes].

    A running mean over as many samples as there may be converters knows no comb; what it takes off curves it gives
    back when it is applied to its own error, twice. The last correction tells what is still missing.
    """
    knots = 16 * round(profile.period_samples)
    light = profile.light(np.arange(knots) * (profile.period_samples / knots))
    frequency = np.fft.rfftfreq(knots, profile.period_samples / knots)  # cycles per sample
    n = _kernels.CONVERTERS
    mean = np.where(frequency < 0.5, np.sinc(n * frequency) / np.sinc(frequency), 0.0)
    twice, thrice = (np.fft.irfft(np.fft.rfft(light) * (1 - (1 - mean) ** k), knots) for k in (2, 3))
    place = np.mod(tau, profile.period_samples) * (knots / profile.period_samples)
    smooth, doubt = (
        np.interp(place, np.arange(knots + 1), np.append(v, v[0])) for v in (thrice, np.abs(thrice - twice))
    )
    return smooth, doubt
