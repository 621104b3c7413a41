"""How well a line clock can be measured at all: Cramér-Rao bounds for a measured empty line.

No unbiased estimate of the same unknowns scatters less. Lengths and times in samples, light in codes.
"""

import math

import numpy as np

from .background import Background

# Sampling phases over which a line's information is averaged; a line of some samples varies smoothly with its phase.
_PHASES = 32


def delay_bound(
    background: Background,
    *,
    gain_std: float = math.inf,
    baseline_std_codes: float = math.inf,
    jitter_std_samples: float = 0.0,
    hidden_share: float = 0.0,
) -> float:
    """Least standard deviation of one line's delay, measured against the empty line.

    Parameters
    ----------
    background : Background
        The empty line: profile, noise of a sample (as it scatters, so with what rounding to whole codes adds), gains of
        the interleaved converters. All of it is taken as known, as it is when measured on many lines.
    gain_std, baseline_std_codes : float, optional
        What is known beforehand of a line's pulse energy (relative) and baseline [codes], as standard deviations.
    jitter_std_samples : float, optional
        Scatter of the lines about the clock; with it the bound is that of one line as a measurement of the clock.
    hidden_share : float, optional
        Share of the positions that something in the channel hides, wherever it is, 0 … 1.

    Returns
    -------
    delay_std_samples : float
        Infinite where nothing of the line tells its delay.

    Raises
    ------
    ValueError
        If a standard deviation is negative, or the share is not within 0 … 1.

    Notes
    -----
    The Fisher information of baseline, energy and delay is the sum over the samples k of G²·a·aᵀ / v, with
    a = (1, p, -p') at the sample's position, v its variance and G its converter's gain; the delay's part is what the
    other two leave of it. It depends on where the samples fall: averaged over all sampling phases and converters that a
    line may begin with, since the information of many lines adds up. Hidden positions take their share of the sum. What
    the change of the variance with the delay would tell is left out (some 1e-5 of the whole, at codes of 8 bits).
    """
    stds = {"gain_std": gain_std, "baseline_std_codes": baseline_std_codes, "jitter_std_samples": jitter_std_samples}
    for name, std in stds.items():
        if not std >= 0:
            raise ValueError(f"{name} must be zero or more, got {std!r}")
    if not 0 <= hidden_share <= 1:
        raise ValueError(f"hidden_share must lie within 0 … 1, got {hidden_share!r}")
    profile = background.profile
    tau = np.arange(_PHASES)[:, None] / _PHASES + np.arange(math.floor(profile.period_samples))
    light, slope = profile.light_and_slope(tau)
    weight = np.where(background.is_censored(tau), 0.0, (1 - hidden_share) / background.variance_of(light, slope))
    columns = np.stack([np.ones_like(light), light, -slope])
    power = np.square(background.interleave_gain)
    first = np.arange(power.size)
    gains = power[(first[:, None] + np.arange(tau.shape[1])) % power.size]  # (first converter, sample)
    information = np.einsum("ipk,pk,ck,jpk->pcij", columns, weight, gains, columns)
    known = [_inverse_square(baseline_std_codes), _inverse_square(gain_std)]
    nuisance = information[..., :2, :2] + np.diag(known)
    cross = information[..., :2, 2]
    # where nothing is seen of a line, its energy is not known either
    solved = np.linalg.solve(nuisance + 1e-12 * np.eye(2), cross[..., None])[..., 0]
    of_delay = np.maximum(information[..., 2, 2] - np.sum(cross * solved, axis=-1), 0.0)
    told = float(np.mean(of_delay / (1 + of_delay * jitter_std_samples**2)))
    return 1 / math.sqrt(told) if told > 0 else math.inf


def period_bound(delay_std_samples: float, lines: int, *, order: int = 1) -> float:
    """Least standard deviation of the mean period of consecutive lines [samples].

    Parameters
    ----------
    delay_std_samples : float
        Standard deviation of one line's delay, jitter included: :func:`delay_bound`.
    lines : int
        How many, M.
    order : int, optional
        The clock is a polynomial of this order: 1 steady, 2 an even drift, 3 a changing one.

    Returns
    -------
    period_std_samples : float
        Of (t_last - t_first) / (M - 1). For a steady clock σ·sqrt(12 / (M (M² - 1))); an even drift adds nothing.

    Raises
    ------
    ValueError
        If the order is not 1, 2 or 3, or there are no more lines than it.
    """
    polynomials, norms = _gram_polynomials(np.array([0.0, lines - 1.0]), lines, order)
    chord = polynomials[:, 1] - polynomials[:, 0]
    return delay_std_samples * float(np.sqrt(np.sum(chord**2 / norms))) / (lines - 1)


def start_bound(delay_std_samples: float, lines: int, line: np.ndarray, *, order: int = 1) -> np.ndarray:
    """Least standard deviation of the clock at any lines, measured on lines 0 … ``lines`` - 1 [samples].

    Parameters and errors as of :func:`period_bound`; ``line`` holds line numbers, fractions and outside ones allowed;
    the result is of its shape. The line's own jitter is not part of the clock.
    """
    polynomials, norms = _gram_polynomials(np.asarray(line, dtype=np.float64), lines, order)
    variance = np.tensordot(1 / norms, polynomials**2, axes=1)
    return delay_std_samples * np.sqrt(variance)


def _inverse_square(std: float) -> float:
    return 1 / max(std, 1e-12) ** 2


def _gram_polynomials(line: np.ndarray, lines: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Polynomials that are orthogonal over 0 … ``lines`` - 1, at ``line``, (order + 1, …), and their sums of squares.

    By recurrence, so that a stream of any length costs nothing: P. G. Guest, Numerical Methods of Curve Fitting (1961).
    """
    if order not in (1, 2, 3):
        raise ValueError(f"order must be 1 (steady), 2 (even drift) or 3, got {order!r}")
    if lines <= order:
        raise ValueError(f"a clock of order {order} needs more than {order} lines, got {lines}")
    m = float(lines)
    x = line - 0.5 * (m - 1)
    polynomials, norms = [np.ones_like(x), x], [m, m * (m**2 - 1) / 12]
    for k in range(1, order):
        ratio = k**2 * (m**2 - k**2) / (4 * (4 * k**2 - 1))
        polynomials.append(x * polynomials[k] - ratio * polynomials[k - 1])
        j = k + 1
        norms.append(norms[k] * j**2 * (m**2 - j**2) / (4 * (4 * j**2 - 1)))
    return np.stack(polynomials), np.array(norms)
