"""How good an image is: what two halves of the data agree on, how sharp an edge is, how near the truth it comes.

Images have axis 0 along the flow (slow) and axis 1 along the line (fast); NaN is unknown. ``pixel_um`` is a pixel's
size, one number or (slow, fast), which need not be equal; without it lengths are in pixels and frequencies in cycles
per pixel. How well the samples of some lines cover the line is in sampling.py, how well the line clock can be known
in bounds.py.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, optimize

from .bounds import delay_bound, period_bound, start_bound
from .edge import EdgeResponse, edge_response
from .fourier_ring import (
    CorrelationCurve,
    FourierRingCorrelation,
    PixelSize,
    fourier_ring_correlation,
    half_bit,
    mean_curve,
    of_all_data,
    pixel_size,
    up_to,
)
from .sampling import FWHM, LocalCoverage, PhaseCoverage, local_phase_coverage, phase_coverage

__all__ = [
    "FWHM",
    "CorrelationCurve",
    "EdgeResponse",
    "EffectiveResolution",
    "FourierRingCorrelation",
    "LocalCoverage",
    "PhaseCoverage",
    "correlation",
    "delay_bound",
    "edge_response",
    "effective_resolution_um",
    "fourier_ring_correlation",
    "half_bit",
    "local_phase_coverage",
    "mean_curve",
    "of_all_data",
    "period_bound",
    "phase_coverage",
    "psnr",
    "ssim",
    "start_bound",
    "up_to",
]

# So many pixels are needed to compare images.
_LEAST_PIXELS = 64
# Values that differ by less than this share of the largest are one value, rounded.
_ROUNDING = 8 * float(np.finfo(float).eps)


def psnr(image: ArrayLike, truth: ArrayLike, *, peak: float = 1.0, mask: ArrayLike | None = None) -> float:
    """Peak signal-to-noise ratio 10·log10(peak² / mean squared error) [dB], over pixels known in both and in the mask.

    inf where they agree exactly. Raises ValueError if shapes differ, nothing is known, or the peak is not above zero.
    """
    _check_peak(peak)
    first, second, common = _common(image, truth, mask)
    error = float(np.mean((first - second)[common] ** 2))
    return float(10 * np.log10(peak**2 / error)) if error > 0 else float("inf")


def correlation(image: ArrayLike, truth: ArrayLike, *, mask: ArrayLike | None = None) -> float:
    """Pearson's correlation with the truth over pixels known in both and in the mask; NaN where either is constant."""
    first, second, common = _common(image, truth, mask)
    if any(np.ptp(image[common]) <= _ROUNDING * np.abs(image[common]).max() for image in (first, second)):
        return float("nan")
    x, y = first[common] - first[common].mean(), second[common] - second[common].mean()
    norm = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / norm if norm > 0 else float("nan")


# Radius of the window that SSIM is computed in: 3.5 standard deviations of 1.5 pixels.
_SSIM_RADIUS = 5


def ssim(image: ArrayLike, truth: ArrayLike, *, peak: float = 1.0, mask: ArrayLike | None = None) -> float:
    """Structural similarity, mean over the pixels whose whole neighbourhood of 11 by 11 is known.

    Parameters
    ----------
    image, truth : array_like of shape (rows, columns)
        NaN where unknown.
    peak : float, optional
        Range of the values.
    mask : array_like of shape (rows, columns), bool, optional
        Pixels to average over; their neighbourhoods may reach beyond.

    Raises
    ------
    ValueError
        If shapes differ, no pixel's neighbourhood is known, or the peak is not above zero.

    Notes
    -----
    Wang, Bovik, Sheikh and Simoncelli, IEEE Trans. Image Process. 13, 600 (2004), doi:10.1109/TIP.2003.819861, with
    their Gaussian window of 1.5 pixels; computed by scikit-image.
    """
    from skimage.metrics import structural_similarity

    _check_peak(peak)
    first, second, common = _common(image, truth, None)
    whole = ndimage.binary_erosion(common, np.ones((2 * _SSIM_RADIUS + 1,) * 2), border_value=0)
    if mask is not None:
        whole &= np.asarray(mask, dtype=bool)
    if not whole.any():
        raise ValueError("no pixel has a known neighbourhood of 11 by 11 pixels: take a larger window")
    _, similarity = structural_similarity(
        np.where(common, first, 0.0), np.where(common, second, 0.0), data_range=peak, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, full=True,
    )  # fmt: skip
    return float(similarity[whole].mean())


@dataclass(frozen=True)
class EffectiveResolution:
    """The Gaussian blur that turns the truth into the image.

    slow_um, fast_um : float
        Full widths at half maximum [µm].
    slow_std_um, fast_std_um : float
        Their standard deviations by what the fit leaves, taken as white; inf where a width is zero.
    shift_um : (float, float)
        By how far the image lies off the truth, along the flow and along the line.
    residual : float
        rms of what the fit leaves.
    """

    slow_um: float
    fast_um: float
    slow_std_um: float
    fast_std_um: float
    shift_um: tuple[float, float]
    residual: float


def effective_resolution_um(
    image: ArrayLike, truth: ArrayLike, *, pixel_um: PixelSize, mask: ArrayLike | None = None
) -> EffectiveResolution:
    """Resolution on both axes, as the width of the Gaussian blur that best maps the truth onto the image.

    Parameters
    ----------
    image : array_like of shape (rows, columns)
        NaN where unknown.
    truth : array_like of shape (rows, columns)
        Without noise, known everywhere, and smooth enough for the pixels to show it (no detail beyond their Nyquist
        frequency); the scene as the optics show it.
    pixel_um : float or (float, float)
        Size of a pixel, (slow, fast) where it is not square.
    mask : array_like of shape (rows, columns), bool, optional
        Pixels to compare. A rim of an eighth of each side, 16 pixels at most, is always left out, since what lies
        beyond the image is blurred into it.

    Returns
    -------
    resolution : EffectiveResolution

    Raises
    ------
    ValueError
        If shapes differ, the truth has unknown pixels or no contrast, or too few pixels are left to compare.

    Notes
    -----
    Least squares over two variances and a shift. The blur multiplies the truth's spectrum by
    exp(-2π²(σ_slow²f_slow² + σ_fast²f_fast²)); derivatives are exact. White noise does not bias it, unlike widths of
    single edges. Widths below about a pixel's half have a large standard deviation. Contrast that is lost at all
    frequencies counts as an error, not as blur: it is left in the residual as far as a blur cannot explain it.
    """
    first, second, common = _common(image, truth, mask)
    if not np.isfinite(second).all():
        raise ValueError("the truth must be known everywhere")
    rim = tuple(min(n // 8, 16) for n in first.shape)
    inner = np.zeros(first.shape, bool)
    inner[rim[0] : first.shape[0] - rim[0], rim[1] : first.shape[1] - rim[1]] = True
    used = common & inner
    if used.sum() < _LEAST_PIXELS or not np.ptp(second[used]) > 0:
        raise ValueError(
            f"{int(used.sum())} pixels are left to compare; at least {_LEAST_PIXELS}, with some contrast in the truth, "
            "are needed"
        )
    pad = tuple(n // 2 for n in first.shape)
    padded = np.pad(second - second.mean(), [(p, p) for p in pad], mode="symmetric")
    spectrum = np.fft.rfft2(padded)
    row = np.fft.fftfreq(padded.shape[0])[:, None]
    column = np.fft.rfftfreq(padded.shape[1])[None, :]
    measured = first[used] - second.mean()

    def on_pixels(part: NDArray[np.complex128]) -> NDArray[np.float64]:
        whole = np.fft.irfft2(part, padded.shape)
        inside = whole[pad[0] : pad[0] + first.shape[0], pad[1] : pad[1] + first.shape[1]]
        return np.asarray(inside[used], dtype=float)

    def blurred(p: NDArray[np.float64]) -> NDArray[np.complex128]:
        decay = -2 * np.pi**2 * (p[0] * row**2 + p[1] * column**2)
        return np.asarray(spectrum * np.exp(decay - 2j * np.pi * (p[2] * row + p[3] * column)))

    def misfit(p: NDArray[np.float64]) -> NDArray[np.float64]:
        return on_pixels(blurred(p)) - measured

    def derivatives(p: NDArray[np.float64]) -> NDArray[np.float64]:
        part = blurred(p)
        factors = (-2 * np.pi**2 * row**2, -2 * np.pi**2 * column**2, -2j * np.pi * row, -2j * np.pi * column)
        return np.stack([on_pixels(part * factor) for factor in factors], axis=1)

    most = [float(n**2) for n in first.shape]
    fit = optimize.least_squares(
        misfit, [1.0, 1.0, 0.0, 0.0], derivatives, x_scale="jac",
        bounds=([0.0, 0.0, -first.shape[0], -first.shape[1]], [*most, *map(float, first.shape)]),
    )  # fmt: skip
    noise = float(np.sqrt(2 * fit.cost / max(measured.size - 4, 1)))
    spread = noise * np.sqrt(np.maximum(np.diag(np.linalg.pinv(fit.jac.T @ fit.jac)), 0))
    sizes = pixel_size(pixel_um)
    sigma = np.sqrt(fit.x[:2])
    std = np.divide(spread[:2], 2 * sigma, out=np.full(2, np.inf), where=sigma > 1e-3)
    return EffectiveResolution(
        slow_um=float(FWHM * sigma[0] * sizes[0]),
        fast_um=float(FWHM * sigma[1] * sizes[1]),
        slow_std_um=float(FWHM * std[0] * sizes[0]),
        fast_std_um=float(FWHM * std[1] * sizes[1]),
        shift_um=(float(fit.x[2] * sizes[0]), float(fit.x[3] * sizes[1])),
        residual=float(np.sqrt(2 * fit.cost / measured.size)),
    )


def _check_peak(peak: float) -> None:
    if not 0 < peak < np.inf:
        raise ValueError(f"the peak must be above zero and finite, got {peak:g}")


def _common(
    image: ArrayLike, truth: ArrayLike, mask: ArrayLike | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Both as floats, and where both are known and the mask is set."""
    first, second = np.asarray(image, dtype=float), np.asarray(truth, dtype=float)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(f"image and truth must be two-dimensional and of one shape, got {first.shape}, {second.shape}")
    common = np.isfinite(first) & np.isfinite(second)
    if mask is not None:
        chosen = np.asarray(mask, dtype=bool)
        if chosen.shape != first.shape:
            raise ValueError(f"the mask must have the image's shape {first.shape}, got {chosen.shape}")
        common &= chosen
    if not common.any():
        raise ValueError("no pixel is known in both images and in the mask")
    return first, second, common
