"""The empty line as a function: a periodic cubic spline over the line, sampled far finer than the ADC.

Equivalent-time sampling: successive lines meet the digitiser's clock at ever other phases, so some hundred lines
hold the empty line at steps of a small fraction of a sample. Positions τ in samples from the line start, light in
codes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solveh_banded

from . import _kernels

# Knots wrapped round each end when the cyclic system is solved as a band: a cubic spline forgets in a few knots.
_WRAP = 40


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

    def knot_positions(self, tau: np.ndarray) -> np.ndarray:
        """Positions τ [samples] in knot intervals, 0 … K."""
        turns = (np.asarray(tau, dtype=np.float64) + self.origin_samples) / self.period_samples
        return np.ascontiguousarray((turns - np.floor(turns)) * self.knots % self.knots)

    def light(self, tau: np.ndarray) -> np.ndarray:
        """The empty line at positions τ [samples], in codes; the shape of ``tau``."""
        u = self.knot_positions(tau)
        out = np.empty(u.size)
        _kernels.evaluate_spline(u.ravel(), self.coefficients, out)
        return out.reshape(u.shape)

    def slope(self, tau: np.ndarray) -> np.ndarray:
        """Derivative of the empty line at τ [codes per sample]; the shape of ``tau``."""
        u = self.knot_positions(tau)
        out = np.empty(u.size)
        _kernels.evaluate_slope(u.ravel(), self.coefficients, out)
        return out.reshape(u.shape) * (self.knots / self.period_samples)


def fit_profile(
    tau: np.ndarray, light: np.ndarray, weights: np.ndarray, *, period_samples: float, knots: int
) -> tuple[Profile, np.ndarray, float]:
    """Weighted least-squares periodic spline through equivalent-time samples.

    Parameters
    ----------
    tau, light, weights : ndarray of shape (S,), float64
        Position on the line [samples], light [codes], and 1/variance (0 leaves a sample out).
    period_samples : float
        Length of the line.
    knots : int
        Number K of knots, at least 2 · 40.

    Returns
    -------
    profile : Profile
    support : ndarray of shape (K,)
        Weight that fell into each knot interval.
    score : float
        Generalised cross-validation score; the smallest marks the knot spacing that predicts best.

    Notes
    -----
    Where no sample fell, a second-difference penalty far below the data's weight joins the known parts smoothly.
    """
    empty = Profile(period_samples, np.zeros(knots))
    u = empty.knot_positions(tau)
    band = np.zeros((knots, 4))
    right = np.zeros(knots)
    _kernels.accumulate_normal_equations(u, light, weights, band, right)
    cyclic = np.arange(-_WRAP, knots + _WRAP) % knots
    upper = np.zeros((4, cyclic.size))
    for d in range(4):
        upper[3 - d, d:] = band[cyclic, d][: cyclic.size - d]
    # ridge on second differences: rows (1, -2, 1) squared make the band (1, -4, 6)
    stiffness = 1e-7 * max(float(band[:, 0].mean()), 1e-12)
    for d, value in enumerate((6.0, -4.0, 1.0)):
        upper[3 - d, d:] += stiffness * value
    solution = solveh_banded(upper, right[cyclic])
    coefficients = solution[_WRAP : _WRAP + knots].copy()
    profile = Profile(period_samples, coefficients)
    used = weights > 0
    residual = light[used] - profile.light(tau[used])
    n = max(int(used.sum()), 1)
    score = float(np.sum(weights[used] * residual**2) / n / max(1e-9, 1 - knots / n) ** 2) if knots < n else np.inf
    support = np.bincount(u.astype(int) % knots, weights=weights, minlength=knots)
    return profile, support, score
