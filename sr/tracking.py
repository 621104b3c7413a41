"""Follow the line clock through samples: find it, measure it block by block, smooth what was measured."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import _calibration_kernels, _kernels
from .background import Background
from .errors import SignalError
from .line_fit import LineTables

# How much more likely a wandering clock must be (log-likelihood) before a steadier one is given up.
WANDER_EVIDENCE = 6.0
# Windows of lines in which a start is looked for.
START_WINDOWS = 16
# A window correlates nearly best when it misses the best one's correlation by no more than this, or by this share of
# what the best one misses a perfect one by (noise).
_NEARLY_BEST, _NEARLY_BEST_SHARE = 0.01, 0.2
# Fewest lines of a last, shorter block.
_LEAST_LINES = 8
# Fewest blocks that tell the corner of an AC coupling.
_LEAST_BLOCKS_OF_DROOP = 6
# What may add to a block's place. An error of the profile, in standard deviations of a typical block: little, since it
# was measured on far more lines than a block has. What an AC-coupled baseline shifts: a share of what is taken off.
_PROFILE_SHARE, _DROOP_SHARE = 0.3, 0.3


def correlate_start(samples: np.ndarray, background: Background, *, lines: int = 32) -> tuple[float, float]:
    """Place of the first line start after ``samples[0]``, and how sure it is.

    Parameters
    ----------
    samples : ndarray of shape (S,)
        Waveform [codes].
    background : Background
        Empty line.
    lines : int, optional
        Lines folded into one before they are correlated with the profile; of up to 16 such windows the first one
        that correlates nearly best decides, since a cell may fill any of them.

    Returns
    -------
    start : float
        0 … period [samples].
    correlation : float
        Of the best window with the profile, at most 1.
    """
    period_samples = background.period_samples
    bins = 4 * int(np.ceil(period_samples))
    length = min(samples.size, int(lines * period_samples))
    light = background.profile.light((np.arange(bins) + 0.5) * (period_samples / bins))
    # on a rail the empty line is not known, but what the digitiser makes of it is
    offset, gain = np.mean(background.interleave_offset_codes), np.mean(background.interleave_gain)
    model = np.clip(offset + gain * light, *background.code_limits)
    model -= model.mean()
    model_spectrum = np.conj(np.fft.rfft(model))
    place = np.minimum((np.arange(length) / period_samples % 1.0 * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    # lines that meet few phases leave bins without samples: the model counts where there are some
    energy = np.fft.irfft(np.fft.rfft((count > 0).astype(float)) * np.conj(np.fft.rfft(model**2)), bins)
    model_norm = np.sqrt(np.maximum(energy, 1e-3 * energy.max()))
    found = []
    for window in range(max(1, min(START_WINDOWS, samples.size // max(length, 1)))):
        first = window * length
        used = samples[first : first + length].astype(np.float64)
        total = np.bincount(place, weights=used - used.mean(), minlength=bins)
        fold = np.divide(total, count, out=np.zeros(bins), where=count > 0)
        correlation = np.fft.irfft(np.fft.rfft(fold) * model_spectrum, bins)
        correlation /= model_norm * max(float(np.linalg.norm(fold)), 1e-30)
        lag = int(np.argmax(correlation))
        found.append(((first + lag * period_samples / bins) % period_samples, float(correlation[lag])))
    best = max(strength for _, strength in found)
    enough = best - max(_NEARLY_BEST, _NEARLY_BEST_SHARE * (1 - best))
    return next((start, strength) for start, strength in found if strength >= enough)


def phase_terms(place: np.ndarray, period: float, block_lines: int, orders: int = 4) -> np.ndarray:
    """Cosines and sines of the lines' sub-sample phase, averaged over each block of lines; shape (B, N).

    A pulse knows nothing of the digitiser's clock. Where measured starts follow these terms, the profile is in
    error, not the clock. Terms that average out within a block are left out.
    """
    h = np.arange(1, orders + 1)
    denominator = np.sin(np.pi * h * period)
    whole = np.abs(denominator) < 1e-9
    share = np.where(
        whole,
        1.0,
        np.abs(np.sin(np.pi * h * period * block_lines)) / np.where(whole, 1.0, block_lines * np.abs(denominator)),
    )
    h, share = h[share > 0.1], share[share > 0.1]
    angle = 2 * np.pi * (place - np.floor(place))[:, None] * h
    return np.concatenate([share * np.cos(angle), share * np.sin(angle)], axis=1)


def droop_delays(blocks: np.ndarray, background: Background) -> np.ndarray:
    """How much later an AC-coupled baseline makes the lines of each block seem [samples]; shape (B,).

    Parameters
    ----------
    blocks : ndarray of shape (B, 7)
        From :func:`follow_blocks`.
    background : Background
        The empty line.

    Notes
    -----
    Against empty lines, the baseline b obeys b' = r·(m - b) at every sample: m is the light missing there, r the corner
    of the coupling. A delay is the weighted least-squares projection of a line on the slope of the empty one, less what
    baseline and energy explain of it; with Q, the running integral of that weighted slope, and I, its information, the
    baseline adds (1 / I)·∫ Q·b' to it (by parts). Over a line, b' is the missing light less what decays. The corner
    comes from the blocks themselves: from how their baselines change with the light that was missing. Where they do not
    show one (no cells, or DC coupling), nothing is taken off.
    """
    period, step = background.period_samples, 1 / 16
    good = np.flatnonzero(np.isfinite(blocks[:, 2]))
    if good.size < _LEAST_BLOCKS_OF_DROOP:
        return np.zeros(len(blocks))
    line, missing, baseline = blocks[good, 0], blocks[good, 5], blocks[good, 6]
    lines = np.diff(line)
    near = lines < 2 * np.median(lines)
    driving = missing - period * baseline
    columns = np.stack([0.5 * lines * (driving[1:] + driving[:-1]), lines], axis=1)[near]
    change = np.diff(baseline)[near]
    normal = columns.T @ columns
    if normal[0, 0] <= 0 or np.linalg.det(normal) <= 1e-12 * normal[0, 0] * normal[1, 1]:
        return np.zeros(len(blocks))
    corner, falling = np.linalg.solve(normal, columns.T @ change)  # falling: baselines are relative, see calibrate
    left = change - columns @ (corner, falling)
    doubt = np.sqrt(left @ left / max(change.size - 2, 1) * np.linalg.inv(normal)[0, 0])
    if corner <= 0:
        return np.zeros(len(blocks))
    credible = corner**2 / (corner**2 + doubt**2)
    tau = np.arange(0.0, period, step)
    light, slope = background.profile.light_and_slope(tau)
    weight = np.where(background.is_censored(tau), 0.0, 1 / background.variance_of(light, slope))
    nuisance = np.stack([np.ones_like(light), light])
    weighted = nuisance * weight
    free = weight * (slope - nuisance.T @ np.linalg.solve(weighted @ nuisance.T, weighted @ slope))
    told = float(free @ slope) * step
    running = np.cumsum(free) * step
    per_missing = float(running @ np.maximum(light, 0.0) / np.maximum(light, 0.0).sum())
    per_baseline = float(running.sum()) * step
    of_baseline = per_baseline * (falling / period - corner * blocks[:, 6])
    return credible / told * (corner * per_missing * blocks[:, 5] + of_baseline)


def disturbances(blocks: np.ndarray, period: float, block_lines: int, droop: np.ndarray) -> np.ndarray:
    """What can add to the blocks' places besides the clock and noise, shape (B, N), for :func:`smooth_blocks`.

    The profile's error with the phase (:func:`phase_terms`), and some share of the ``droop`` that was taken off them
    (:func:`droop_delays`).
    """
    typical = float(np.sqrt(np.median(blocks[np.isfinite(blocks[:, 2]), 2])))
    terms = _PROFILE_SHARE * phase_terms(blocks[:, 1], period, block_lines)
    return np.concatenate([terms, _DROOP_SHARE / typical * droop[:, None]], axis=1)


def steady_clock(
    line: np.ndarray, place: np.ndarray, variance: np.ndarray, period: float, block_lines: int
) -> Callable[[np.ndarray], np.ndarray]:
    """Straight line through block measurements, or a cubic where they bend; for some hundred lines.

    What follows the lines' sub-sample phase (:func:`phase_terms`, up to some tenths of a sample) is left out.
    ``period`` is a first guess; the other parameters are those of :func:`smooth_blocks`. The result turns line
    numbers into starts [samples].
    """
    good = np.isfinite(variance)
    first = int(np.flatnonzero(good)[0])
    middle, half = 0.5 * (line[good][0] + line[good][-1]), max(0.5 * (line[good][-1] - line[good][0]), 1.0)
    deviation = place - place[first] - period * (line - line[first])
    x = (line - middle) / half

    def fit(order: int, terms: np.ndarray) -> tuple[np.ndarray, float, float]:
        columns = np.concatenate([x[:, None] ** np.arange(order + 1), terms], axis=1)
        prior = np.diag(np.r_[np.zeros(order + 1), np.full(terms.shape[1], 100.0)])
        used = good
        for _ in range(3):
            weighted = columns[used] / variance[used, None]
            solution = np.linalg.solve(weighted.T @ columns[used] + prior, weighted.T @ deviation[used])
            normal = (deviation - columns @ solution)[good] / np.sqrt(variance[good])
            scale = max(1.0, 1.4826 * float(np.median(np.abs(normal))))
            kept = good.copy()
            kept[good] = np.abs(normal) < 6 * scale
            if kept.sum() < max(2, 0.5 * good.sum()):
                break
            used = kept
        return solution[: order + 1], float(np.sum(np.minimum(normal**2, 36 * scale**2))), scale

    def starts(n: np.ndarray) -> np.ndarray:
        straight = place[first] + period * (n - line[first])
        return straight + np.polynomial.polynomial.polyval((n - middle) / half, solution)

    solution = np.zeros(1)
    for _ in range(2):  # the phases are those of the fit: the measured places may err with the phase
        terms = phase_terms(starts(line), period, block_lines)
        solution, misfit, _ = fit(1, terms)
        if good.sum() >= 8:
            bent, bent_misfit, scale = fit(3, terms)
            if misfit - bent_misfit > 25 * scale**2:
                solution = bent
    return starts


@dataclass(frozen=True)
class SmoothClock:
    """The clock at each block of lines.

    state : ndarray of shape (B, 2)
        Start [samples] and period [samples].
    covariance : ndarray of shape (B, 3)
        Variance of the start, covariance, variance of the period.
    place_walk, period_walk : float
        Densities of the random walks of start and period [samples² per line, samples² per line³]; where both are 0 the
        clock is a cubic polynomial at most.
    mean_period_std : float
        Standard deviation of the mean period from the first block to the last [samples].
    """

    state: np.ndarray
    covariance: np.ndarray
    place_walk: float
    period_walk: float
    mean_period_std: float

    @property
    def wanders(self) -> bool:
        return self.place_walk + self.period_walk > 0


def smooth_blocks(
    line: np.ndarray, place: np.ndarray, variance: np.ndarray, terms: np.ndarray | None = None
) -> SmoothClock:
    """Smooth block measurements of the clock; drift and wander only where the data ask for them.

    Parameters
    ----------
    line, place, variance : ndarray of shape (B,), float64
        Line number (with fraction), measured start [samples] and its variance [samples²]; infinite: no measurement.
    terms : ndarray of shape (B, N), optional
        What can add to the measurements, see :func:`disturbances`; taken out of them, as far as a share of one
        standard deviation of a typical block is credible.

    Returns
    -------
    clock : SmoothClock

    Notes
    -----
    Models tried: a straight line, a parabola and a cubic (an oscillator that drifts), each alone, and with a random
    walk of the start or of the period; the densities are searched on a grid of decades, then of quarters of the
    best one. The most likely model is taken, the simplest if it is nearly so (Kalman filter, Rauch-Tung-Striebel
    smoother; drift and phase terms enter as regressors with a prior). Blocks further than six standard deviations off
    are dropped, and it is done again.
    """
    good = np.isfinite(variance)
    if good.sum() < 2:
        raise SignalError("the line clock could not be followed: fewer than two blocks of lines show the empty line")
    terms = np.empty((line.size, 0)) if terms is None else terms
    variance = variance.copy()
    first, last = np.flatnonzero(good)[[0, -1]]
    slope = (place[last] - place[first]) / (line[last] - line[first])
    reference = place[first] + slope * (line - line[first])
    half = 0.5 * (line[-1] - line[0])
    x = (line - line[0]) / half - 1
    bends = np.stack([x**2, x**3], axis=1)
    bend_slopes = np.stack([2 * x, 3 * x**2], axis=1) / half
    good = _without_strays(x, place - reference, variance, good)
    variance[~good] = np.inf
    for _ in range(4):
        typical = float(np.median(variance[good]))
        chosen = _most_likely(line, place - reference, variance, bends, terms, typical)
        _calibration_kernels.smooth(line, *chosen.walks, chosen.state, chosen.covariance)
        # what the regressors' share moves each state by: the bends' own course, and what the filter made of it
        lean = -chosen.state[:, 1:]
        order = chosen.bends
        lean[:, :order, 0] += bends[:, :order]
        lean[:, :order, 1] += bend_slopes[:, :order]
        state = chosen.state[:, 0] + np.einsum("bnk,n->bk", lean, chosen.share)
        extra = np.einsum("bnk,nm,bml->bkl", lean, chosen.share_covariance, lean)
        covariance = chosen.covariance + np.stack([extra[:, 0, 0], extra[:, 0, 1], extra[:, 1, 1]], axis=1)
        model = state[:, 0] + terms @ chosen.share[order:]
        outlier = good & (np.abs(place - reference - model) > 6 * np.sqrt(variance + np.maximum(covariance[:, 0], 0)))
        if not outlier.any() or (good & ~outlier).sum() < max(2, 0.7 * good.sum()):
            break
        variance[outlier] = np.inf
        good &= ~outlier
    steps = line[-1] - line[0]
    if sum(chosen.walks) > 0:
        mean_period_variance = (covariance[0, 0] + covariance[-1, 0]) / steps**2
    else:  # the last state holds the whole fit; the ends are not independent
        turn = (lean[-1, :, 0] - lean[0, :, 0]) / steps
        mean_period_variance = chosen.covariance[-1, 2] + turn @ chosen.share_covariance @ turn
    state[:, 0] += reference
    state[:, 1] += slope
    return SmoothClock(state, covariance, *chosen.walks, float(np.sqrt(max(mean_period_variance, 0.0))))


def _without_strays(x: np.ndarray, deviation: np.ndarray, variance: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Leave out blocks far from the cubic on which most blocks lie; all stay where they lie on none."""
    if good.sum() < 10:
        return good
    columns = x[good, None] ** np.arange(4) / np.sqrt(variance[good, None])
    y = deviation[good] / np.sqrt(variance[good])
    weight = np.ones(y.size)
    for _ in range(12):  # least absolute deviations
        scaled = columns * weight[:, None]
        solution = np.linalg.solve(scaled.T @ columns + 1e-12 * np.eye(4), scaled.T @ y)
        normal = np.abs(y - columns @ solution)
        weight = 1 / np.maximum(normal, 0.1)
    near = normal < 8
    if near.mean() < 0.8 or np.median(normal) > 1.2:  # the clock is no cubic
        return good
    kept = good.copy()
    kept[good] = near
    return kept


@dataclass(frozen=True)
class _Filtered:
    """Output of the filter for one model: see :func:`_filtered`."""

    likelihood: float
    walks: tuple[float, float]
    bends: int
    state: np.ndarray
    covariance: np.ndarray
    share: np.ndarray
    share_covariance: np.ndarray


def _most_likely(
    line: np.ndarray, deviation: np.ndarray, variance: np.ndarray, bends: np.ndarray, terms: np.ndarray, typical: float
) -> _Filtered:
    """The model of :func:`smooth_blocks` that explains the blocks best, a simpler one where it does nearly."""
    steps = float(np.median(np.diff(line)))
    grid = typical * 10.0 ** np.arange(-8, 3)
    wide = max(1.0, 2 * float(np.ptp(deviation[np.isfinite(variance)])))
    best = None
    # units of the grids: a wander that moves the clock by its own block noise between two blocks
    families = [[(0.0, 0.0)], [(q / steps, 0.0) for q in grid], [(0.0, q / steps**3) for q in grid]]
    for order in range(bends.shape[1] + 1):
        columns = np.concatenate([deviation[:, None], bends[:, :order], terms], axis=1)
        prior = np.r_[np.full(order, wide**2), np.full(terms.shape[1], typical)]
        for family in families:
            fits = [_filtered(line, columns, variance, walks, prior, order) for walks in family]
            fit = max(fits, key=lambda f: f.likelihood)
            if best is None or fit.likelihood > best.likelihood + WANDER_EVIDENCE:
                best, best_columns, best_prior = fit, columns, prior
    assert best is not None
    if sum(best.walks) > 0:  # between the decades, too: a density wrong by half a decade costs 8 % of the accuracy
        place, period = best.walks
        nearby = [(place * 10**e, period * 10**e) for e in (-0.5, -0.25, 0.25, 0.5)]
        fits = [_filtered(line, best_columns, variance, walks, best_prior, best.bends) for walks in nearby]
        best = max([best, *fits], key=lambda f: f.likelihood)
    return best


def _filtered(
    line: np.ndarray,
    columns: np.ndarray,
    variance: np.ndarray,
    walks: tuple[float, float],
    prior: np.ndarray,
    bends: int,
) -> _Filtered:
    """Log-likelihood of the first column as wander plus a share of the others, whose variances are ``prior``.

    With it the filter's states (B, C, 2) and covariance (B, 3), the shares (C - 1,) and their covariance.
    """
    state, covariance = np.empty((*columns.shape, 2)), np.empty((line.size, 3))
    white = np.zeros(columns.shape)
    likelihood = -0.5 * _calibration_kernels.kalman(line, columns, variance, *walks, state, covariance, white)
    y, z = white[:, 0], white[:, 1:]
    information = z.T @ z + np.diag(1 / prior)
    share_covariance = np.linalg.inv(information)
    right = z.T @ y
    share = share_covariance @ right
    occam = np.linalg.slogdet(information)[1] + np.log(prior).sum()
    likelihood -= 0.5 * (y @ y - right @ share + occam)
    return _Filtered(float(likelihood), walks, bends, state, covariance, share, share_covariance)


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
    to_the_end: bool = False,
) -> tuple[np.ndarray, float, float, int, int, bool]:
    """Measure the clock in blocks of lines from a predicted start on; see :func:`_kernels.track_blocks`.

    With ``to_the_end`` what is left at the end makes a shorter block.

    Returns
    -------
    blocks : ndarray of shape (B, 7)
        Of each block: line (counted from the first), place [samples], variance, median chi-square, median gain, mean
        light missing from a line [codes·samples], mean baseline [codes].
    start, period, updates, lines, lost
        State from which the next call goes on.
    """
    last_start = origin + samples.shape[0] - tables.width - 2
    most = max(0, int((last_start - start) / (block_lines * stride * period * 0.98)) + 2)
    out = np.empty((most, 7))
    priors = (1 / gain_std**2, 1.0)
    least_lines = min(block_lines, _LEAST_LINES) if to_the_end else block_lines
    done, *state = _kernels.track_blocks(
        samples, origin, start, period, block_lines, stride, last_start, tables.arrays, tables.limits, priors,
        tables.chi2_limit, updates, least_lines, out,
    )  # fmt: skip
    return (out[:done], *state)


def credible_variance(blocks: np.ndarray, most_chi2: float) -> np.ndarray:
    """Variance of block measurements, shape (B,), enlarged where a block is much less empty than the emptiest ones.

    The light beside an object is not quite the empty line's (diffraction, scatter), which shifts what is measured there
    by more than noise does; where a block's chi-square is beyond ``most_chi2`` times that of the emptiest fifth, other
    blocks shall decide.
    """
    chi2 = blocks[:, 3]
    return blocks[:, 2] * np.square(np.maximum(1.0, chi2 / (most_chi2 * np.quantile(chi2, 0.2))))
