"""The empty line as a function: a periodic cubic spline over the line, sampled far finer than the ADC.

Equivalent-time sampling: successive lines meet the digitiser's clock at ever other phases, so some hundred lines
hold the empty line at steps of a small fraction of a sample. Positions τ in samples from the line start, light in
codes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solveh_banded

from . import _calibration_kernels as _kernels

# Knots wrapped round each end when the cyclic system is solved as a band: a cubic spline forgets in a few knots.
_WRAP = 40
_FEWEST_KNOTS = 2 * _WRAP


@dataclass(frozen=True)
class Profile:
    """Periodic cubic spline over one line.

    ``coefficients`` float64 (K,) [codes], knots every ``period_samples`` / K samples; ``origin_samples`` is the
    spline's position at τ = 0.
    """

    period_samples: float
    coefficients: np.ndarray
    origin_samples: float = 0.0

    @property
    def knots(self) -> int:
        return self.coefficients.size

    def cell(self, tau: np.ndarray) -> np.ndarray:
        """Knot interval, 0 … K - 1, in which each position τ [samples] lies."""
        turns = (np.asarray(tau, dtype=np.float64) + self.origin_samples) / self.period_samples
        return ((turns - np.floor(turns)) * self.knots).astype(np.int64) % self.knots

    def light(self, tau: np.ndarray) -> np.ndarray:
        """The empty line at positions τ [samples], in codes; the shape of ``tau``."""
        return self.light_and_slope(tau)[0]

    def slope(self, tau: np.ndarray) -> np.ndarray:
        """Derivative of the empty line at τ [codes per sample]; the shape of ``tau``."""
        return self.light_and_slope(tau)[1]

    def light_and_slope(self, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Both at once."""
        tau = np.ascontiguousarray(tau, dtype=np.float64)
        light, slope = np.empty(tau.size), np.empty(tau.size)
        _kernels.evaluate_spline(tau.ravel(), self.origin_samples, self.period_samples, self.coefficients, light, slope)
        return light.reshape(tau.shape), slope.reshape(tau.shape)

    def slope_doubt(self) -> float:
        """Relative error of the slope where the line is known at whole samples only.

        Two interpolations of such samples, the spline's and the band-limited one, agree where the sampling suffices;
        how far their slopes differ as a common factor, root mean square over sixteen phases.
        """
        samples = round(self.period_samples)
        tau = np.arange(samples) * (self.period_samples / samples) + np.arange(16)[:, None] / 16
        light, slope = self.light_and_slope(tau)
        spectrum = np.fft.rfft(light) * 2j * np.pi * np.fft.rfftfreq(samples, self.period_samples / samples)
        if samples % 2 == 0:
            spectrum[:, -1] = 0
        other = np.fft.irfft(spectrum, samples)
        factor = np.sum(other * slope, axis=1) / np.maximum(np.sum(slope**2, axis=1), 1e-30)
        return float(np.sqrt(np.mean(np.square(factor - 1))))


def fit_profile(
    tau: np.ndarray, light: np.ndarray, weights: np.ndarray, *, period_samples: float, most_per_sample: int
) -> Profile:
    """Weighted least-squares periodic spline through equivalent-time samples, as smooth as they allow.

    Parameters
    ----------
    tau, light, weights : ndarray of shape (S,), float64
        Position on the line [samples], light [codes], and 1/variance (0 leaves a sample out).
    period_samples : float
        Length of the line.
    most_per_sample : int
        Finest knots tried, per sample; a power of two.

    Returns
    -------
    profile : Profile

    Notes
    -----
    Knots are halved from the finest on; the fewest whose generalised cross-validation score is no worse than the
    best by more than its scatter are taken. Spare knots would not only add noise: the slopes of that noise look
    like timing information that is not there. Where no sample fell, a second-difference penalty far below the
    data's weight joins the known parts smoothly.
    """
    per_sample = most_per_sample
    whole = max(round(period_samples), -(-_FEWEST_KNOTS // per_sample))
    knots = whole * per_sample
    band = np.zeros((knots, 4))
    right = np.zeros(knots)
    origin = _knots_at_samples(tau, weights, period_samples / knots)
    energy = _kernels.accumulate_normal_equations(tau, origin, period_samples, light, weights, band, right)
    samples = int(np.count_nonzero(weights))
    fits = []
    while True:
        coefficients = _solve_cyclic(band, right)
        misfit = max(energy - 2 * right @ coefficients + _quadratic(band, coefficients), 1e-30)
        score = misfit / max(1e-9, 1 - coefficients.size / max(samples, 1)) ** 2
        fits.append((coefficients, score))
        if coefficients.size % 2 or coefficients.size // 2 < max(whole, _FEWEST_KNOTS):
            break
        band, right = _halve_knots(band, right)
    best = min(score for _, score in fits)
    # coarsest first; the scatter of the score is that of chi-square over the knots that differ
    coefficients = next(
        c for c, score in reversed(fits) if score <= best * (1 + 3 * np.sqrt(2 * knots) / max(samples, 1))
    )
    return Profile(period_samples, coefficients, origin)


def _knots_at_samples(tau: np.ndarray, weights: np.ndarray, step: float) -> float:
    """Origin that puts knots where the samples are, if they keep to few phases; else 0.

    Half-way between knots, samples do not see coefficients of alternating sign at all.
    """
    some = slice(None, None, max(1, tau.size // 20_000))
    phase = np.average(np.exp(2j * np.pi * tau[some] / step), weights=weights[some] + 1e-30)
    return float(-np.angle(phase) / (2 * np.pi) * step) if abs(phase) > 0.1 else 0.0


def _solve_cyclic(band: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Solve cyclic normal equations of bandwidth 4, weakly stiffened, as a band that wraps round both ends."""
    knots = right.size
    cyclic = np.arange(-_WRAP, knots + _WRAP) % knots
    upper = np.zeros((4, cyclic.size))
    for d in range(4):
        upper[3 - d, d:] = band[cyclic, d][: cyclic.size - d]
    # ridge on second differences: rows (1, -2, 1) squared make the band (1, -4, 6)
    stiffness = 1e-7 * max(float(band[:, 0].mean()), 1e-12)
    for d, value in enumerate((6.0, -4.0, 1.0)):
        upper[3 - d, d:] += stiffness * value
    return solveh_banded(upper, right[cyclic])[_WRAP : _WRAP + knots].copy()


def _quadratic(band: np.ndarray, coefficients: np.ndarray) -> float:
    """Coefficients' quadratic form with the cyclic matrix of a band."""
    total = float(band[:, 0] @ coefficients**2)
    for d in (1, 2, 3):
        total += 2 * float(band[:, d] @ (coefficients * np.roll(coefficients, -d)))
    return total


def _halve_knots(band: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normal equations of the spline of half as many knots, whose every spline is one of the finer ones too.

    A cubic B-spline is the sum of five half as wide ones, weighted 1, 4, 6, 4, 1 eighths.
    """
    knots, half = right.size, right.size // 2
    fine = (2 * np.arange(half)[:, None] - 3 + np.arange(5)) % knots
    shape = np.array([1.0, 4.0, 6.0, 4.0, 1.0]) / 8
    coarse = np.zeros((half, 4))
    for d in range(4):
        for i in range(5):
            for j in range(5):
                step = 2 * d + j - i  # from the first's i-th narrow spline to the second's j-th one
                if abs(step) < 4:
                    row = (fine[:, i] + min(step, 0)) % knots
                    coarse[:, d] += shape[i] * shape[j] * band[row, abs(step)]
    return coarse, right[fine] @ shape
