"""A first guess of the empty line, before any line is known to be empty."""

from collections.abc import Sequence

import numpy as np

from .background import Background
from .profile import fit_profile

_MOST_LINES = 1024
# Most bins per sample that a guess may have.
FINEST_BINS = 64
# Times (sixteenths of a span) at which a phase must be met before the profile is resolved at it.
_TIMES_MET = 8


def guess_empty_line(
    samples: np.ndarray, start: float, period: float, lines_per_bin: int, code_limits: tuple[int, int]
) -> Background:
    """Profile from the densest codes of each phase, with a noise model wide enough for its roughness.

    An empty channel is the one thing that looks the same at every pass. Lines start at ``start`` and every ``period``
    [samples]; each phase is seen by ``lines_per_bin`` lines, few where start and period are well known.
    """
    samples = samples[: int(_MOST_LINES * period)].astype(np.float64)
    turns = (np.arange(samples.size) - start) / period
    lines = samples.size / period
    bins = int(min(max(2, lines / lines_per_bin), phase_bins([np.arange(int(lines)) * period], FINEST_BINS)) * period)
    place = np.minimum((turns % 1.0 * bins).astype(int), bins - 1)
    order = np.lexsort((samples, place))
    edges = np.searchsorted(place[order], np.arange(bins + 1))
    tau, values, spread = (np.full(bins, np.nan) for _ in range(3))
    for b in range(bins):
        members = order[edges[b] : edges[b + 1]]
        if members.size < 3:
            continue
        codes = samples[members]
        width = max(2, codes.size // 4, min(codes.size // 2, 6))
        spans_ = codes[width - 1 :] - codes[: codes.size - width + 1]
        ties = np.flatnonzero(spans_ == spans_.min())
        first = int(ties[ties.size // 2])
        values[b], spread[b] = codes[first : first + width].mean(), spans_[first]
        tau[b] = (turns[members[first : first + width]] % 1.0).mean() * period
    known = np.isfinite(values)
    profile = fit_profile(
        tau[known], values[known], np.ones(int(known.sum())), period_samples=period, most_per_sample=8
    )
    # the densest quarter of a Gaussian spans 0.64 of its standard deviation; one code is the least
    noise = (max(float(np.nanmedian(spread)) / 0.64, 0.5)) ** 2
    peak = float(np.ptp(profile.light(tau)))
    return Background(
        profile=profile,
        dark_level_codes=None,
        lit_samples=period,
        censored=np.zeros(profile.knots, dtype=bool),
        noise=(noise, 0.0, 0.05),
        interleave_offset_codes=(0.0,),
        interleave_gain=(1.0,),
        code_limits=code_limits,
        gain_std=max(0.02, np.sqrt(noise) / peak),
        delay_std_samples=0.3,
    )


def phase_bins(starts: Sequence[np.ndarray], finest: int) -> int:
    """Most bins per sample, 1 … ``finest``, of which each is met at many times by lines with these starts.

    One array of starts per span. A locked clock meets few phases at all; one that slides slowly past a sample stays
    long enough at each phase for a cell to fill it.
    """
    phase = np.concatenate([s - np.floor(s) for s in starts])
    slices = np.concatenate([16 * i + np.arange(s.size) * 16 // s.size for i, s in enumerate(starts)])
    bins = finest
    while bins > 1:
        times = []
        for shift in (0.0, 0.5):  # phases on the border of two bins must not count for both
            met = np.unique((phase * bins + shift).astype(int) % bins * 16 * len(starts) + slices) // (16 * len(starts))
            times.append(np.bincount(met, minlength=bins).min())
        if min(times) >= _TIMES_MET:
            break
        bins //= 2
    return bins
