"""Follow the line clock through samples: find it, measure it block by block, smooth what was measured."""

import numpy as np

from . import _kernels
from .errors import SignalError
from .line_fit import LineTables
from .profile import Profile

# How much more likely a wandering period must be (log-likelihood) before a constant one is given up.
WANDER_EVIDENCE = 4.0


def correlate_start(samples: np.ndarray, period_samples: float, profile: Profile, *, lines: int = 32) -> float:
    """Place of the first line start after ``samples[0]``, 0 … period, by correlating some lines with the profile."""
    bins = 4 * int(np.ceil(period_samples))
    used = samples[: int(lines * period_samples)].astype(np.float64)
    phase = (np.arange(used.size) / period_samples) % 1.0
    place = np.minimum((phase * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    total = np.bincount(place, weights=used - used.mean(), minlength=bins)
    fold = np.divide(total, count, out=np.zeros(bins), where=count > 0)
    model = profile.light((np.arange(bins) + 0.5) * (period_samples / bins))
    spectrum = np.fft.rfft(fold) * np.conj(np.fft.rfft(model - model.mean()))
    return int(np.argmax(np.fft.irfft(spectrum, bins))) * period_samples / bins


def smooth_blocks(line: np.ndarray, place: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Smooth block measurements of the clock; a wandering period only where the data ask for it.

    Parameters
    ----------
    line, place, variance : ndarray of shape (B,), float64
        Line number (with fraction), measured start [samples] and its variance [samples²]; infinite: no measurement.

    Returns
    -------
    state : ndarray of shape (B, 2)
        Start [samples] and period [samples] at each block.
    covariance : ndarray of shape (B, 3)
        Variance of the start, covariance, variance of the period.
    wander : float
        Density of the period's random walk [samples² per line³]; 0 means a constant period.

    Notes
    -----
    Kalman filter and Rauch-Tung-Striebel smoother of an integrated random walk; its density maximises the
    likelihood on a grid of half decades. Blocks further than six standard deviations off are dropped, and it is
    done again.
    """
    good = np.isfinite(variance)
    if good.sum() < 2:
        raise SignalError("the line clock could not be followed: fewer than two blocks of lines show the empty line")
    variance = variance.copy()
    first, last = np.flatnonzero(good)[[0, -1]]
    slope = (place[last] - place[first]) / (line[last] - line[first])
    state, covariance = np.empty((line.size, 2)), np.empty((line.size, 3))
    wander = 0.0
    for _ in range(4):
        reference = place[first] + slope * (line - line[first])
        deviation = place - reference
        # unit of the grid: a wander that moves the clock by its own block noise between two blocks
        typical = float(np.median(variance[good])) / float(np.median(np.diff(line))) ** 3
        best = _kernels.kalman(line, deviation, variance, 0.0, state, covariance)
        wander = 0.0
        for exponent in np.arange(-16, 3) / 2:
            q = typical * 10.0**exponent
            likelihood = _kernels.kalman(line, deviation, variance, q, state, covariance)
            if likelihood > best + (WANDER_EVIDENCE if wander == 0 else 0.0):
                best, wander = likelihood, q
        _kernels.kalman(line, deviation, variance, wander, state, covariance)
        _kernels.smooth(line, wander, state, covariance)
        residual = deviation - state[:, 0]
        outlier = good & (np.abs(residual) > 6 * np.sqrt(variance + np.maximum(covariance[:, 0], 0)))
        state[:, 0] += reference
        state[:, 1] += slope
        if not outlier.any() or (good & ~outlier).sum() < 2:
            break
        variance[outlier] = np.inf
        good &= ~outlier
    return state, covariance, wander


def follow_blocks(
    samples: np.ndarray,
    origin: int,
    start: float,
    period: float,
    tables: LineTables,
    *,
    block_lines: int,
    stride: int = 1,
    updates: int = 0,
    gain_std: float = 0.2,
) -> tuple[np.ndarray, float, float, int, int, bool]:
    """Measure the clock in blocks of lines from a predicted start on; see :func:`_kernels.track_blocks`.

    Returns
    -------
    blocks : ndarray of shape (B, 5)
        Line (counted from the first), place [samples], variance, median chi-square, median gain of each block.
    start, period, updates, lines, lost
        State from which the next call goes on.
    """
    last_start = origin + samples.shape[0] - tables.width - 2
    most = max(0, int((last_start - start) / (block_lines * stride * period * 0.98)) + 2)
    out = np.empty((most, 5))
    priors = (1 / gain_std**2, 1.0)
    done, *state = _kernels.track_blocks(
        samples, origin, start, period, block_lines, stride, last_start, tables.arrays, tables.limits, priors,
        tables.chi2_limit, updates, out,
    )  # fmt: skip
    return (out[:done], *state)


def credible_variance(blocks: np.ndarray) -> np.ndarray:
    """Variance of block measurements, shape (B,), enlarged where a block is much less empty than the emptiest ones.

    The light beside a cell is not quite the empty line's (diffraction, scatter), which shifts what is measured there
    by more than noise does; where other blocks are emptier, they shall decide.
    """
    chi2 = blocks[:, 3]
    emptiest = np.quantile(chi2, 0.2)
    return blocks[:, 2] * np.square(np.maximum(1.0, chi2 / (1.5 * emptiest)))
