"""Measure the empty line from the capture itself.

The profile needs to know where each line starts, the clock needs to know the profile: the two are found in turns,
on whatever positions of whatever lines are empty.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage
from scipy.optimize import nnls
from scipy.special import chdtri

from . import _calibration_kernels as _kernels
from .background import Background
from .converters import converters_mix, fit_converters
from .errors import SignalError
from .first_guess import guess_empty_line, phase_bins
from .line_fit import LineTables, line_fits, line_tables
from .line_shape import place_line_start, points_down, repeats_within, upside_down
from .period import MIN_LINES, find_period
from .profile import Profile, fit_profile
from .tracking import correlate_start, credible_variance, follow_blocks, steady_clock

_LINES_PER_SPAN = 1024
_MOST_LINES = 8192
_BLOCK_LINES = 32
# Lines that share a phase in a guess of the empty line: while the period is a guess itself, and once it is known.
_MANY_LINES, _FEW_LINES = 60, 16
_FINEST_KNOTS = 16
_MOST_ROUNDS = 10
# Blocks whose chi-square is beyond so many times that of the emptiest count less: with a rough profile, what is left
# beside a cell is fitted wrongly.
_MOST_CHI2 = 1.5
# Variance of rounding to whole codes; no noise is less.
_ROUNDING = 1 / 12
# Rounds go on until the empty line changes by less than this share of its noise (root mean square where it is lit).
_SETTLED = 0.2
# The energies of lines depend on their phase as far as chance shows less with all but this probability.
_CHANCE = 1e-3


def find_code_limits(samples: np.ndarray) -> tuple[int, int]:
    """The rails of the digitiser as the samples show them: an extreme code on which samples pile up.

    Where an extreme code is no more frequent than its neighbours explain, the rail is that of the integer type.
    """
    low, high = int(samples.min()), int(samples.max())

    def piles_up(extreme: int, inward: int) -> bool:
        at_rail = int(np.count_nonzero(samples == extreme))
        near = max(int(np.count_nonzero(samples == extreme + inward * d)) for d in (1, 2, 3))
        return at_rail >= 8 and at_rail > 3 * near

    rails = np.iinfo(samples.dtype)
    return (low if piles_up(low, 1) else int(rails.min), high if piles_up(high, -1) else int(rails.max))


@dataclass(frozen=True)
class Span:
    """A gap-free stretch of samples; ``origin`` is the digitiser's index of its first sample."""

    origin: int
    samples: np.ndarray


def measure_background(
    spans: Sequence[Span],
    *,
    code_limits: tuple[int, int] | None = None,
    dark_level_codes: float | None = None,
) -> Background:
    """Measure the empty line, the noise and the converters from stretches of the capture.

    Parameters
    ----------
    spans : sequence of Span
        Stretches spread over the capture, some hundred lines each; cells may be in them, also in every line.
    code_limits : (int, int), optional
        The digitiser's rails; found in the samples when not given.
    dark_level_codes : float, optional
        Code without light, for captures whose lines leave no dark gap.

    Returns
    -------
    background : Background

    Raises
    ------
    SignalError
        If there is no line period, too few lines, or everything is saturated.

    Notes
    -----
    Start: period by autocorrelation, profile as the densest quarter of the codes of each phase. Then, in turns: lines
    are fitted with the profile on the positions that agree with it, and the profile is fitted on the samples that
    agree with the lines (Tukey weights), with the converters' offsets and gains and the noise.
    """
    constant = all(np.ptp(span.samples) == 0 for span in spans)
    if code_limits is None and not constant:
        code_limits = find_code_limits(np.concatenate([s.samples for s in spans]))
    if code_limits is not None:
        on_rail = np.mean([np.mean((s.samples <= code_limits[0]) | (s.samples >= code_limits[1])) for s in spans])
        if on_rail > 0.5:
            raise SignalError(
                f"{100 * on_rail:.0f} % of the samples are saturated: nothing can be measured; "
                "lower the light or the digitiser's gain, or correct its offset"
            )
    if constant or code_limits is None:
        raise SignalError("the signal is constant: no laser pulses in it; check the light and the digitiser's input")
    periods = [_period_or_none(span.samples) for span in spans]
    best = max(range(len(spans)), key=lambda i: periods[i][1])
    period, repeat, why = periods[best]
    if repeat <= 0:
        raise SignalError(str(why))
    main = spans[best]
    if main.samples.size < (MIN_LINES + 1) * period:
        raise SignalError(
            f"only {main.samples.size / period:.1f} lines of {period:.2f} samples: "
            f"at least {MIN_LINES + 1} are needed to find the empty line; record longer"
        )
    background = guess_empty_line(main.samples, 0.0, period, _MANY_LINES, code_limits)
    for attempt in range(2):
        background = _converge([main], background, register_lines=False)
        background = _guess_again(main, background)
        if points_down(background, dark_level_codes):
            background = place_line_start(upside_down(background), None)
        background = _converge(spans, background, register_lines=True)
        divisor = repeats_within(background)
        if divisor == 1 or attempt == 1:
            break
        background = guess_empty_line(main.samples, 0.0, background.period_samples / divisor, _MANY_LINES, code_limits)
    return place_line_start(background, dark_level_codes)


def _period_or_none(samples: np.ndarray) -> tuple[float, float, SignalError | None]:
    try:
        return (*find_period(samples), None)
    except SignalError as error:
        return (0.0, 0.0, error)


def _guess_again(span: Span, background: Background) -> Background:
    """Where the line is steep, the first guess was too coarse to tell it from cells: again, with the clock known."""
    steep = float(np.abs(background.profile.slope(np.arange(0.0, background.lit_samples, 1 / 16))).max())
    if steep < _LINES_PER_SPAN / _MANY_LINES * background.noise_std_codes:
        return background
    starts = _steady_starts(span.samples, span.origin, background, line_tables(background))
    if starts is None:
        return background
    start = float(starts[0]) - span.origin
    guess = guess_empty_line(span.samples, start, background.period_samples, _FEW_LINES, background.code_limits)
    other = _converge([span], guess, register_lines=False)
    return min(background, other, key=lambda found: _robust_misfit(span, found))


def _robust_misfit(span: Span, background: Background) -> float:
    """Akaike's criterion per sample of a stretch; what is beyond four standard deviations belongs to something else."""
    tables, period = line_tables(background), background.period_samples
    samples = span.samples[: int(_LINES_PER_SPAN * period)]
    starts = _steady_starts(samples, span.origin, background, tables)
    if starts is None:
        return np.inf
    fits = line_fits(
        samples, span.origin, starts[:-1], tables, gain_std=background.gain_std, delay_std=background.delay_std_samples
    )
    fits[:, 0] = 0.0
    parts = _unfold(span.origin, samples, starts, fits, np.ones(len(fits)), background.code_limits)
    tau, code, converter, baseline, gain, _ = (part[parts[2] >= 0] for part in parts)
    position = converter % len(background.interleave_gain)
    offsets, gains = np.array(background.interleave_offset_codes), np.array(background.interleave_gain)
    value = (code - offsets[position]) / gains[position]
    light, slope = background.profile.light_and_slope(tau)
    variance = background.variance_of(light, slope)
    squares = np.minimum((value - baseline - gain * light) ** 2 / variance, 16.0)
    return float(np.mean(squares + np.log(variance))) + 2 * background.profile.knots / tau.size


def _converge(spans: Sequence[Span], background: Background, *, register_lines: bool) -> Background:
    """Turn after turn until the profile has settled."""
    for turn in range(_MOST_ROUNDS):
        before, background = (
            background,
            _refine(spans, background, register_lines=register_lines),
        )
        tau = np.arange(0.0, background.lit_samples, 1 / 16)
        change = background.profile.light(tau) - before.profile.light(tau)
        steep = background.profile.slope(tau)
        # a common shift is no change of the profile
        change -= change @ steep / max(steep @ steep, 1e-12) * steep
        known = ~background.is_censored(tau)
        # the scatter of energies and delays follows the noise, which follows the profile: two turns at least
        if turn > 0 and np.sqrt(np.mean(change[known] ** 2)) < _SETTLED * background.noise_std_codes:
            break
    return background


def _refine(spans: Sequence[Span], background: Background, *, register_lines: bool) -> Background:
    """One turn: follow the lines with the profile, then fit profile, converters and noise to the samples.

    Without ``register_lines`` every line counts with nominal energy at its clock's place: energies and delays fitted
    with a rough profile would make up for its errors, phase by phase, and keep them.
    """
    tables = line_tables(background)
    period = background.period_samples
    fitted, periods, line_starts, free_fits, baselines = [], [], [], [], []
    most_lines = max(_LINES_PER_SPAN, _MOST_LINES // len(spans)) if register_lines else _LINES_PER_SPAN
    for span in spans:
        samples = span.samples[: int((most_lines + 1) * period)]
        starts = _steady_starts(samples, span.origin, background, tables)
        if starts is None:
            continue
        fits = line_fits(samples, span.origin, starts[:-1], tables, gain_std=background.gain_std, delay_std=0.5)
        chi2 = np.where(np.isfinite(fits[:, 1]), fits[:, 5], np.inf)
        emptiest = np.quantile(chi2, 0.2)
        empty = chi2 <= 1.3 * emptiest
        baselines.append(fits[empty, 3])
        phase = np.ceil(starts[:-1]) - starts[:-1]
        _take_out_phase(fits, phase, empty, background.gain_std)
        if empty.sum() >= 8:
            free = line_fits(samples, span.origin, starts[:-1][empty], tables, gain_std=0.2, delay_std=0.5)
            # all of it: what little chance takes from the scatter does not matter
            _take_out_phase(free, phase[empty], np.ones(len(free), dtype=bool), 0.0)
            free_fits.append(free)
        trust = np.minimum(1.0, 1.3 * emptiest / np.maximum(chi2, 1e-9)) ** (4 if register_lines else 2)
        # of what was measured, as much as the scatter from line to line makes credible
        for column, std, noise in ((0, background.delay_std_samples, 1), (4, background.gain_std, 7)):
            credible = std**2 / (std**2 + fits[:, noise]) if register_lines else np.zeros(len(fits))
            mean = 1.0 if column == 4 else 0.0
            fits[:, column] = mean + credible * (fits[:, column] - mean)
        fitted.append((span.origin, samples, starts, fits, trust))
        periods.append((starts[-1] - starts[0], starts.size - 1))
        line_starts.append(starts)
    if not fitted:
        raise SignalError(
            "the line clock could not be followed: no stretch shows the same empty line again and again; "
            "check that laser and digitiser ran steadily, and that some dozens of lines were recorded"
        )
    period = sum(p for p, _ in periods) / sum(n for _, n in periods)
    pieces = [_unfold(*parts, background.code_limits) for parts in fitted]
    tau, code, converter, baseline, gain, trust = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    baseline -= np.median(np.concatenate(baselines))  # a baseline is relative: the emptiest lines have none
    free = np.concatenate(free_fits) if free_fits else np.empty((0, 9))
    background = replace(
        background,
        gain_std=float(np.clip(_excess(free[:, 4], free[:, 7]), 0.002, 0.2)) if free_fits else background.gain_std,
        delay_std_samples=float(np.clip(_excess(free[:, 0], free[:, 1]), 0.002, 0.5))
        if free_fits
        else background.delay_std_samples,
    )
    most, mix = phase_bins(line_starts, _FINEST_KNOTS), converters_mix(line_starts)
    return _fit_empty_line(background, period, tau, code, converter, baseline, gain, trust, most, mix)


def _steady_starts(samples: np.ndarray, origin: int, background: Background, tables: LineTables) -> np.ndarray | None:
    """Starts of the lines of a stretch, as far as they were followed; None where four of them cannot be."""
    period = background.period_samples
    start = origin + correlate_start(samples, background)[0]
    block_lines = int(np.clip(samples.size / period / 8, 4, _BLOCK_LINES))
    blocks, *_ = follow_blocks(samples, origin, start, period, tables, block_lines=block_lines)
    good = blocks[np.isfinite(blocks[:, 2]), 0]
    if good.size < 2:
        return None
    clock = steady_clock(blocks[:, 0], blocks[:, 1], credible_variance(blocks, _MOST_CHI2), period, block_lines)
    # the light may have come and gone; what is left at the end is too short for a block
    last = min(good[-1] + 2 * block_lines, samples.size / period)
    starts = clock(np.arange(max(0.0, np.ceil(good[0] - block_lines)), last))
    starts = starts[(starts >= origin) & (starts < origin + samples.size - period)]
    return starts if starts.size >= 4 else None


def _take_out_phase(fits: np.ndarray, phase: np.ndarray, empty: np.ndarray, gain_std: float) -> None:
    """Remove from gains and delays, in place, what depends on the sub-sample phase of the line.

    A pulse knows nothing of the digitiser's clock: such a dependence is an error of the profile, and belongs there. But
    pulses that scatter by themselves show some by chance, which the profile would turn into structure finer than a
    sample. So of the gains only that is removed by which the chi-square of the dependence exceeds the one that chance
    exceeds with probability ``_CHANCE``, for pulses whose energies scatter by ``gain_std``. Delays are taken off the
    lines again, and with them what chance has put there.
    """
    if not empty.any():
        return
    fits[:, [4, 0]] -= fits[empty][:, [4, 0]].mean(axis=0) - [1.0, 0.0]
    order = int(np.clip(empty.sum() // 24, 0, 12))
    angles = 2 * np.pi * phase[:, None] * np.arange(1, order + 1)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    waves -= waves[empty].mean(axis=0)  # without a column, where lines are few
    columns, powers, axes = np.linalg.svd(waves[empty], full_matrices=False)
    seen = powers > 1e-6 * np.sqrt(columns.shape[0])  # a locked clock meets few phases
    columns, solve = columns[:, seen], axes[seen].T / powers[seen]
    if not seen.any():
        return
    for column, nominal, std in ((4, 1.0, gain_std), (0, 0.0, 0.0)):
        values = fits[empty, column] - nominal
        parts = columns.T @ values
        explained = max(float(parts @ parts), 1e-30)
        scatter = max(float(values @ values) - explained, 0.0) / (values.size - 1 - parts.size)
        share = max(0.0, 1 - float(chdtri(parts.size, _CHANCE)) * min(scatter, std**2) / explained)
        fits[:, column] -= share * (waves @ (solve @ parts))


def _excess(values: np.ndarray, variances: np.ndarray) -> float:
    """Standard deviation of values beyond their own variances, from the better known of them, robustly."""
    best = variances <= 1.5 * np.median(variances)
    deviations = np.square(values[best] - np.median(values[best]))
    low, high = 0.0, float(deviations.max())
    for _ in range(40):  # the excess at which the median of the normalised squares is that of chi-square, 0.4549
        excess = 0.5 * (low + high)
        too_small = np.median(deviations / (variances[best] + excess)) > 0.4549
        low, high = (excess, high) if too_small else (low, excess)
    return float(np.sqrt(low))


def _unfold(
    origin: int,
    samples: np.ndarray,
    starts: np.ndarray,
    fits: np.ndarray,
    trust: np.ndarray,
    code_limits: tuple[int, int],
) -> tuple[np.ndarray, ...]:
    """Position, code, converter, baseline, gain and trust of every sample of the lines; each of shape (S,)."""
    tau, code = np.empty(samples.size), np.empty(samples.size)
    converter, line = np.empty(samples.size, np.int8), np.empty(samples.size, np.int64)
    low, high = code_limits
    count = _kernels.unfold_lines(samples, origin, starts, fits, low, high, tau, code, converter, line)
    line = line[:count]
    return tau[:count], code[:count], converter[:count], fits[line, 3], fits[line, 4], trust[line]


def _fit_empty_line(
    background: Background,
    period: float,
    tau: np.ndarray,
    code: np.ndarray,
    converter: np.ndarray,
    baseline: np.ndarray,
    gain: np.ndarray,
    line_trust: np.ndarray,
    most_knots_per_sample: int,
    mix: bool,
) -> Background:
    """Fit converters, profile and noise to equivalent-time samples, weighing down what is not the empty line."""
    old = replace(background, profile=replace(background.profile, period_samples=period))
    observed = converter >= 0
    light, slope = old.profile.light_and_slope(tau)
    variance = gain**2 * old.variance_of(light, slope)
    offsets, gains = np.array(old.interleave_offset_codes), np.array(old.interleave_gain)
    position = np.where(observed, converter, 0) % offsets.size
    residual = (code - offsets[position]) / gains[position] - (baseline + gain * light)
    trust = np.where(observed, line_trust * _tukey(residual / np.sqrt(variance)), 0.0)
    offsets, gains = fit_converters(tau, code, converter, baseline, gain, trust / variance, old, mix=mix)
    position = np.where(observed, converter, 0) % offsets.size
    expected, light = light, ((code - offsets[position]) / gains[position] - baseline) / gain
    # on a rail the light is at least (or at most) what the rail says: the best guess is the profile so far, if beyond.
    # Without it, the few samples of a cell that escape the rail would rule there.
    beyond = np.where(code >= background.code_limits[1], 1, -1) * np.sign(gains[0])
    light = np.where(observed, light, np.where(beyond > 0, np.maximum(light, expected), np.minimum(light, expected)))
    weights = np.where(observed, trust, line_trust) / variance
    profile = fit_profile(tau, light, weights, period_samples=period, most_per_sample=most_knots_per_sample)
    support = np.bincount(profile.cell(tau), weights=trust, minlength=profile.knots)
    censored = support <= 0
    if not observed.all():
        saturated = np.bincount(profile.cell(tau[~observed]), minlength=profile.knots)
        seen = np.bincount(profile.cell(tau), minlength=profile.knots)
        censored |= saturated > 0.02 * np.maximum(seen, 1)
    # beside a censored stretch only the lucky samples escape the rail, and the spline leans on them
    margin = max(1, round(profile.knots / period / 8))
    censored = ndimage.binary_dilation(np.tile(censored, 3), iterations=margin)[censored.size : 2 * censored.size]
    residual = light - profile.light(tau)
    sure = (trust > 0.3) & (line_trust > 0.7)  # a cell's faint skirt looks like noise
    if sure.mean() < 0.05:
        sure = trust > 0.3
    noise = _fit_noise(profile, tau[sure], residual[sure], old.noise)
    return place_line_start(
        replace(
            background,
            profile=profile,
            censored=censored,
            noise=noise,
            interleave_offset_codes=tuple(float(o) for o in offsets),
            interleave_gain=tuple(float(g) for g in gains),
        ),
        None,
    )


def _tukey(deviations: np.ndarray) -> np.ndarray:
    """Tukey's biweight: 1 at zero, 0 from five standard deviations on."""
    return np.square(np.maximum(1 - np.square(deviations / 5.0), 0.0))


def _fit_noise(
    profile: Profile, tau: np.ndarray, residual: np.ndarray, start: tuple[float, float, float]
) -> tuple[float, float, float]:
    """Thermal, shot and timing parts of the variance, from the scatter in each quarter sample of the line."""
    bins = int(4 * profile.period_samples)
    place = np.minimum((np.mod(tau, profile.period_samples) / profile.period_samples * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    total = np.bincount(place, weights=np.square(residual), minlength=bins)
    known = counts >= 8
    if known.sum() < 8:
        return start
    centre = (np.arange(bins)[known] + 0.5) * (profile.period_samples / bins)
    variance = total[known] / counts[known]
    light, slope = profile.light(centre), profile.slope(centre)
    floor = float(np.quantile(light, 0.05))
    # weights by the relative error of a variance estimate, so that bright bins do not rule the dark ones
    weight = np.sqrt(counts[known]) / np.maximum(variance, 1e-3)
    columns = np.stack([np.ones_like(light), np.maximum(light - floor, 0), slope**2], axis=1)
    solution, _ = nnls(columns * weight[:, None], variance * weight)
    return (float(max(solution[0], _ROUNDING)), float(solution[1]), float(solution[2]))
