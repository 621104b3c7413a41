"""Find the line period in a stretch of samples, with no prior knowledge of it.

First step of the line clock. Periods in ADC samples. The autocorrelation of a line-scan waveform peaks at every
multiple of the line period; the first strong peak gives the period to a fraction of a sample, and each further
multiple that is followed divides the error by its number of lines.
"""

import numpy as np
from scipy import fft

from ._calibration_kernels import CONVERTERS
from .errors import SignalError

SHORTEST_PERIOD_SAMPLES = 8
MIN_LINES = 16
# An autocorrelation peak counts as a repeat of the line when it reaches this share of the best one. Structure
# inside a line repeats less well than the line itself; cells and noise lower all the line's multiples alike.
REPEAT_SHARE = 0.85
# Below this best correlation (or below six times its scatter in noise) there is no line to follow.
WEAKEST_CORRELATION = 0.02


def autocorrelation(samples: np.ndarray, longest_lag: int) -> np.ndarray:
    """Unbiased normalised autocorrelation at lags 0 … ``longest_lag`` samples, shape (longest_lag + 1,).

    The mean of each interleaved converter is taken out: their offsets repeat at multiples of their number.
    """
    centred = samples.astype(np.float64)
    for converter in range(CONVERTERS):
        centred[converter::CONVERTERS] -= centred[converter::CONVERTERS].mean()
    size = fft.next_fast_len(centred.size + longest_lag + 1, real=True)
    power = np.abs(fft.rfft(centred.astype(np.float32), size)) ** 2
    raw = fft.irfft(power, size)[: longest_lag + 1].astype(np.float64)
    pairs = centred.size - np.arange(longest_lag + 1)
    variance = raw[0] / centred.size
    if not variance > 0:
        raise SignalError("the signal is constant: no laser pulses in it; check the light and the digitiser's input")
    return raw / pairs / variance


def _peak_near(correlation: np.ndarray, lag: float, reach: int) -> tuple[float, float]:
    """Place (samples, by a parabola) and height of the highest value within ``reach`` of ``lag``."""
    first = max(1, round(lag) - reach)
    last = min(correlation.size - 2, round(lag) + reach)
    best = first + int(np.argmax(correlation[first : last + 1]))
    left, centre, right = correlation[best - 1 : best + 2]
    curvature = left - 2 * centre + right
    shift = 0.5 * (left - right) / curvature if curvature < 0 else 0.0
    return best + float(np.clip(shift, -0.5, 0.5)), float(centre - 0.25 * (left - right) * np.clip(shift, -0.5, 0.5))


def find_period(samples: np.ndarray) -> tuple[float, float]:
    """Line period of a gap-free stretch of samples, from the samples alone.

    Parameters
    ----------
    samples : ndarray of shape (S,)
        Gap-free waveform [codes]; at least 16 lines, better some hundreds.

    Returns
    -------
    period_samples : float
        Line period. The error is a small fraction of a sample divided by the number of lines in ``samples``
        (cells and undersampling can add to it); refine it with a line clock.
    repeat : float
        Correlation of a line with its followers, 0 … 1.

    Raises
    ------
    SignalError
        If the samples are constant or nothing in them repeats.

    Notes
    -----
    Among the lags whose correlation comes near the best, the shortest is the line period. Where the waveform is
    sampled far below its bandwidth, whole lags near the period can miss the peak, and a multiple can win: the
    calibration notices that its profile repeats within itself.
    """
    if samples.size < MIN_LINES * SHORTEST_PERIOD_SAMPLES:
        raise SignalError(f"{samples.size} samples are too few to find a line period; record some hundred lines")
    longest = samples.size // 2
    correlation = autocorrelation(samples, longest)
    # A single line can stand in the record's first half once only; a period must fit MIN_LINES times.
    limit = max(SHORTEST_PERIOD_SAMPLES + 2, min(longest - 1, 2 * samples.size // MIN_LINES))
    # the zero-lag lobe of the pulse is no repeat: start after the correlation first falls below half the best repeat
    interior = correlation[: limit + 1]
    below = np.flatnonzero(interior < 0.3 * max(float(interior[SHORTEST_PERIOD_SAMPLES:].max()), 0.0))
    start = max(SHORTEST_PERIOD_SAMPLES, int(below[0]) if below.size else SHORTEST_PERIOD_SAMPLES)
    scatter = 6 / np.sqrt(samples.size)
    is_peak = np.zeros(interior.size, dtype=bool)
    is_peak[1:-1] = (interior[1:-1] >= interior[:-2]) & (interior[1:-1] > interior[2:])
    is_peak[:start] = False
    lags = np.flatnonzero(is_peak)
    best = float(interior[lags].max()) if lags.size else 0.0
    if best < max(WEAKEST_CORRELATION, scatter):
        raise SignalError(
            "nothing in the signal repeats, so there is no line period: no laser pulses, or pure noise; "
            "check the light, the digitiser's input and the sample format"
        )
    first = int(lags[interior[lags] >= REPEAT_SHARE * best][0])
    # ripple on the pulse makes peaks of its own beside the true one, which is the highest of them
    beside = lags[(lags >= first) & (lags < 1.4 * first)]
    highest = float(beside[np.argmax(interior[beside])])
    return _follow_multiples(correlation, highest), best


def _follow_multiples(correlation: np.ndarray, first_lag: float) -> float:
    """Refine a period on its 1st, 2nd, 4th … multiple; the lag error is shared by ever more lines."""
    period, _ = _peak_near(correlation, first_lag, 1)
    lines = 1
    # the longer the line, the broader its peaks, whose tops noise and cells move
    reach = max(1, round(first_lag / 200))
    while (2 * lines + 1) * period + reach + 1 < correlation.size:
        lines *= 2
        place, _ = _peak_near(correlation, lines * period, reach)
        period = place / lines
    return period
