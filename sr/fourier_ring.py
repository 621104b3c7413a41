"""What two images of one thing agree on: Fourier ring correlation, over all directions and along each axis."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage, optimize

PixelSize = float | Sequence[float] | NDArray[np.float64]

#: Rings that correlate less than this hold no detail that the images share.
ONE_SEVENTH = 1 / 7
# Share of an image's side over which it is faded out at each end, and pixels over which next to unknown ones.
_EDGE_SHARE, _EDGE_PX = 0.25, 4
# Half the angle of the sector that belongs to an axis [rad], in cycles per pixel.
_SECTOR = np.pi / 8
# Coefficients further apart than this do not correlate by the weight.
_LAGS = 4
# Coefficients below this share of the largest that there could be are rounding.
_ROUNDING = 16 * float(np.finfo(float).eps)
# An image must leave this many pixels after fading out, or there is nothing to correlate.
_LEAST_PIXELS = 64


@dataclass(frozen=True)
class CorrelationCurve:
    """Correlation of two images over spatial frequency.

    frequency : ndarray of shape (R,), float64
        Mean frequency of each ring [cycles/µm, or per pixel].
    correlation : ndarray of shape (R,), float64
        Within -1 … 1; 0 where an image holds nothing but rounding, such as a constant one.
    independent : ndarray of shape (R,), float64
        Independent values in each ring: unrelated white images correlate by 1/√independent (standard deviation).
    resolution, resolution_half_bit : float
        Period [µm, or pixels] at which the curve falls below 1/7 and below the half-bit threshold; inf where it lies
        below from the beginning. Where it never falls below, the period of the last ring: no finer one could be seen.
    """

    frequency: NDArray[np.float64]
    correlation: NDArray[np.float64]
    independent: NDArray[np.float64]
    resolution: float
    resolution_half_bit: float


@dataclass(frozen=True)
class FourierRingCorrelation:
    """Correlation curves of two images: over all directions, and near each axis."""

    rings: CorrelationCurve
    slow: CorrelationCurve
    fast: CorrelationCurve


def fourier_ring_correlation(
    a: ArrayLike, b: ArrayLike, *, pixel_um: PixelSize | None = None, weight: ArrayLike | None = None
) -> FourierRingCorrelation:
    """Correlation of two images of one thing, ring by ring in spatial frequency.

    Parameters
    ----------
    a, b : array_like of shape (rows, columns)
        Images with independent noise, such as those of the even and of the odd lines; NaN where unknown.
    pixel_um : float or (float, float), optional
        Size of a pixel, (slow, fast) where it is not square.
    weight : array_like of shape (rows, columns), optional
        Trust in each pixel, 0 … 1. By default the images fade out towards their sides and next to unknown pixels.

    Returns
    -------
    result : FourierRingCorrelation
        ``rings`` up to the lower one of the axes' Nyquist frequencies; ``slow`` and ``fast`` up to each axis's own,
        from the coefficients within 22.5° of the axis, all measured in cycles per pixel of that axis.

    Raises
    ------
    ValueError
        If the shapes differ, or too few pixels are known in both.

    Notes
    -----
    FRC(f) = Re Σ A·B* / √(Σ|A|²·Σ|B|²) over the Fourier coefficients of a ring. For one signal with independent noise
    in each image its mean is SNR/(1 + SNR), with the SNR of one image. Resolution where it meets 1/7, as for images
    (Nieuwenhuizen et al., Nat. Methods 10, 557 (2013), doi:10.1038/nmeth.2448; Banterle et al., J. Struct. Biol. 183,
    363 (2013), doi:10.1016/j.jsb.2013.05.004), and where it meets the half-bit threshold (0.2071 + 1.9102/√n) /
    (1.2071 + 0.9102/√n) with n the independent values in the ring (van Heel and Schatz, J. Struct. Biol. 151, 250
    (2005), doi:10.1016/j.jsb.2005.05.009). Both are meant for images of half the data each and for the curve as it
    is; :func:`of_all_data` turns it into what two images of all data would give. n counts real values, and fewer than
    there are coefficients where the weight correlates them. A threshold is met where the falling curve that is nearest
    to the rings (isotonic regression, weighted by n) meets it: the first ring below by chance would come too early.
    """
    first, second = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    if first.ndim != 2 or first.shape != second.shape or min(first.shape) < 8:
        raise ValueError(
            f"two images of one shape, at least 8 by 8 pixels, are compared; got {first.shape} and {second.shape}"
        )
    known = np.isfinite(first) & np.isfinite(second)
    trust = _fading(known) if weight is None else np.where(known, np.clip(np.asarray(weight, dtype=float), 0, 1), 0.0)
    if not trust.sum() >= _LEAST_PIXELS:
        raise ValueError(
            f"{int(known.sum())} of {known.size} pixels are known in both images, {trust.sum():.0f} after fading out; "
            f"at least {_LEAST_PIXELS} are needed: take a larger window"
        )
    spectra = [_spectrum(image, trust) for image in (first, second)]
    cross, power_a, power_b = (
        np.real(spectra[0] * np.conj(spectra[1])),
        np.abs(spectra[0]) ** 2,
        np.abs(spectra[1]) ** 2,
    )
    slow_um, fast_um = pixel_size(pixel_um)
    row, column = (np.fft.fftfreq(n) for n in first.shape)
    angle = np.arctan2(np.abs(column)[None, :], np.abs(row)[:, None])
    # near an axis, distances in pixels: the blur of the other axis, in its own pixels, is then rather like this one's
    in_pixels = np.hypot(row[:, None], column[None, :])

    def curve(inside: NDArray[np.bool_], frequency: NDArray[np.float64], step: float, limit: float) -> CorrelationCurve:
        ring = np.rint(frequency / step).astype(np.int64)
        inside = inside & (ring > 0) & (frequency <= limit * (1 + 1e-9))
        counted = ring[inside]

        def total(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.bincount(counted, values[inside]).astype(float)

        number = np.bincount(counted)
        used = number > 0
        norm = np.sqrt(total(power_a) * total(power_b))
        correlation = np.divide(total(cross), norm, out=np.zeros_like(norm), where=norm > 0)[used]
        independent = number[used] ** 2 / _correlated_pairs(np.where(inside, ring, 0), trust)[used]
        return _with_resolution(total(frequency)[used] / number[used], correlation, independent)

    everywhere = np.ones(first.shape, bool)
    across = np.hypot(row[:, None] / slow_um, column[None, :] / fast_um)
    limit = min(0.5 / slow_um, 0.5 / fast_um)
    step = max(1 / (first.shape[0] * slow_um), 1 / (first.shape[1] * fast_um))
    return FourierRingCorrelation(
        rings=curve(everywhere, across, min(step, limit), limit),  # a narrow window of coarse pixels: one ring
        slow=curve(angle <= _SECTOR, in_pixels / slow_um, 1 / (first.shape[0] * slow_um), 0.5 / slow_um),
        fast=curve(angle >= np.pi / 2 - _SECTOR, in_pixels / fast_um, 1 / (first.shape[1] * fast_um), 0.5 / fast_um),
    )


def of_all_data(correlation: ArrayLike) -> NDArray[np.float64]:
    """Correlation that images of all data would have, from that of images of half the data each: 2·FRC/(1 + FRC).

    Both halves together have twice the SNR of one. Source: van Heel and Schatz (2005), doi:10.1016/j.jsb.2005.05.009.
    Halves that correlate below -1/3, as by chance only, give -1: no correlation is less.
    """
    half = np.maximum(np.asarray(correlation, dtype=float), -1 / 3)
    return np.asarray(2 * half / (1 + half))


def mean_curve(curves: list[CorrelationCurve]) -> CorrelationCurve:
    """One curve of many, of images with independent noise, equal in shape and in pixels.

    The mean weighted by the independent values in each ring, which add up. Raises ValueError where rings differ.
    """
    if len({curve.frequency.size for curve in curves}) != 1:
        raise ValueError("curves can be averaged when their images have one shape and one size of pixels")
    independent = np.stack([curve.independent for curve in curves])
    correlation = np.average([curve.correlation for curve in curves], axis=0, weights=independent)
    return _with_resolution(curves[0].frequency, correlation, independent.sum(axis=0))


def up_to(curve: CorrelationCurve, frequency: float) -> CorrelationCurve:
    """The part of a curve up to a frequency, its first ring at least; for what the images sample no more finely."""
    kept = max(1, int(np.searchsorted(curve.frequency, frequency, side="right")))
    return _with_resolution(curve.frequency[:kept], curve.correlation[:kept], curve.independent[:kept])


def half_bit(independent: ArrayLike) -> NDArray[np.float64]:
    """The half-bit threshold for rings of so many independent values; source in :func:`fourier_ring_correlation`."""
    root = np.sqrt(np.asarray(independent, dtype=float))
    return np.asarray((0.2071 + 1.9102 / root) / (1.2071 + 0.9102 / root))


def _with_resolution(
    frequency: NDArray[np.float64], correlation: NDArray[np.float64], independent: NDArray[np.float64]
) -> CorrelationCurve:
    falling = optimize.isotonic_regression(correlation, weights=independent, increasing=False).x
    return CorrelationCurve(
        frequency=frequency,
        correlation=correlation,
        independent=independent,
        resolution=_first_below(frequency, falling, np.full(frequency.size, ONE_SEVENTH)),
        resolution_half_bit=_first_below(frequency, falling, half_bit(independent)),
    )


def pixel_size(pixel_um: PixelSize | None) -> tuple[float, float]:
    """Size of a pixel (slow, fast); 1 where none is given."""
    if pixel_um is None:
        return 1.0, 1.0
    sizes = np.ravel(np.asarray(pixel_um, dtype=float))
    if sizes.size not in (1, 2) or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ValueError(f"pixel_um must be above zero, one number or (slow, fast); got {pixel_um!r}")
    return float(sizes[0]), float(sizes[-1])


def _fading(known: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Weight that goes smoothly to zero at the image's sides and at unknown pixels."""
    sides = []
    for n in known.shape:
        u = (np.arange(n) + 0.5) / n
        sides.append(np.sin(np.pi / 2 * np.clip(np.minimum(u, 1 - u) / _EDGE_SHARE, 0, 1)) ** 2)
    fading = np.outer(*sides)
    if not known.all():
        near = ndimage.distance_transform_edt(known)
        fading *= np.sin(np.pi / 2 * np.clip(near / _EDGE_PX, 0, 1)) ** 2
    return fading


def _spectrum(image: NDArray[np.float64], trust: NDArray[np.float64]) -> NDArray[np.complex128]:
    """Spectrum of the image under its weight, without its mean there; 0 where nothing but rounding is left."""
    total = trust.sum()
    filled = np.where(trust > 0, image, 0.0)
    spectrum = np.asarray(np.fft.fft2(trust * (filled - (trust * filled).sum() / total)))
    spectrum[np.abs(spectrum) <= _ROUNDING * (trust * np.abs(filled)).sum()] = 0
    return spectrum


def _correlated_pairs(ring: NDArray[np.int64], trust: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over all pairs of coefficients in each ring of the square of their correlation, by ``trust``, in noise.

    Rings count from 1; 0 is none of them. Only lags of a few coefficients matter, since the weight is smooth.
    """
    shared = np.abs(np.fft.fft2(trust**2)) ** 2
    shared /= shared[0, 0]
    pairs = np.zeros(ring.max() + 1)
    rows, columns = (min(_LAGS, (n - 1) // 2) for n in ring.shape)
    for down in range(rows + 1):
        for right in range(-columns if down else 0, columns + 1):
            if shared[down, right] > 1e-3:
                together = (ring == np.roll(ring, (down, right), (0, 1))) & (ring > 0)
                both_ways = 2 if down or right else 1
                pairs += both_ways * shared[down, right] * np.bincount(ring[together], minlength=pairs.size)
    return pairs


def _first_below(frequency: NDArray[np.float64], values: NDArray[np.float64], limit: NDArray[np.float64]) -> float:
    """Period at the first crossing of the limit, between rings by a straight line."""
    above = values - limit
    below = np.flatnonzero(above < 0)
    if not below.size:
        return float(1 / frequency[-1])
    i = int(below[0])
    if i == 0:
        return float("inf")
    share = above[i - 1] / (above[i - 1] - above[i])
    return float(1 / (frequency[i - 1] + share * (frequency[i] - frequency[i - 1])))
