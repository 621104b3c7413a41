"""How good an image is: what two halves of the data agree on, how sharp an edge is, how near the truth it comes.

Images have axis 0 along the flow (slow) and axis 1 along the line (fast); NaN is unknown. ``pixel_um`` is a pixel's
size, one number or (slow, fast), which need not be equal; without it lengths are in pixels and frequencies in cycles
per pixel. How well the samples of some lines cover the line is in sampling.py.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import interpolate, ndimage, optimize, signal

PixelSize = float | tuple[float, float] | None

#: Full width at half maximum of a Gaussian, in standard deviations.
FWHM = 2 * np.sqrt(2 * np.log(2))
#: Rings that correlate less than this hold no detail that the images share.
ONE_SEVENTH = 1 / 7
# Share of an image's side over which it is faded out at each end, and pixels over which next to unknown ones.
_EDGE_SHARE, _EDGE_PX = 0.25, 4
# Half the angle of the sector that belongs to an axis [rad], in cycles per pixel.
_SECTOR = np.pi / 8
# Coefficients further apart than this do not correlate by the weight.
_LAGS = 4
# An image must leave this many pixels after fading out, or there is nothing to correlate.
_LEAST_PIXELS = 64


@dataclass(frozen=True)
class CorrelationCurve:
    """Correlation of two images over spatial frequency.

    frequency : ndarray of shape (R,), float64
        Mean frequency of each ring [cycles/µm, or per pixel].
    correlation : ndarray of shape (R,), float64
        Within -1 … 1.
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
    a: ArrayLike, b: ArrayLike, *, pixel_um: PixelSize = None, weight: ArrayLike | None = None
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
    slow_um, fast_um = _pixel_size(pixel_um)
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
        place = total(frequency)[used] / number[used]
        half_bit = (0.2071 + 1.9102 / np.sqrt(independent)) / (1.2071 + 0.9102 / np.sqrt(independent))
        smooth = optimize.isotonic_regression(correlation, weights=independent, increasing=False).x
        return CorrelationCurve(
            frequency=place,
            correlation=correlation,
            independent=independent,
            resolution=_first_below(place, smooth, np.full(place.size, ONE_SEVENTH)),
            resolution_half_bit=_first_below(place, smooth, half_bit),
        )

    everywhere = np.ones(first.shape, bool)
    across = np.hypot(row[:, None] / slow_um, column[None, :] / fast_um)
    step = max(1 / (first.shape[0] * slow_um), 1 / (first.shape[1] * fast_um))
    return FourierRingCorrelation(
        rings=curve(everywhere, across, step, min(0.5 / slow_um, 0.5 / fast_um)),
        slow=curve(angle <= _SECTOR, in_pixels / slow_um, 1 / (first.shape[0] * slow_um), 0.5 / slow_um),
        fast=curve(angle >= np.pi / 2 - _SECTOR, in_pixels / fast_um, 1 / (first.shape[1] * fast_um), 0.5 / fast_um),
    )


def of_all_data(correlation: ArrayLike) -> NDArray[np.float64]:
    """Correlation that images of all data would have, from that of images of half the data each: 2·FRC/(1 + FRC).

    Both halves together have twice the SNR of one. Source: van Heel and Schatz (2005), doi:10.1016/j.jsb.2005.05.009.
    """
    half = np.asarray(correlation, dtype=float)
    return np.asarray(2 * half / np.maximum(1 + half, 1e-12))


@dataclass(frozen=True)
class EdgeResponse:
    """How an image shows a straight edge.

    position : ndarray of shape (P,), float64
        Distance from the edge, across it [µm, or pixels].
    response : ndarray of shape (P,), float64
        Edge spread function, 0 on one side and 1 on the other.
    width : float
        Distance from 10 % to 90 % of the response.
    frequency, mtf : ndarray of shape (F,), float64
        Modulation transfer function, 1 at frequency 0, up to the pixels' Nyquist frequency.
    mtf50 : float
        Frequency at which it falls to one half; NaN where it does not.
    slope : float
        By how many pixels the edge moves along the measured axis from pixel to pixel of the other one.
    """

    position: NDArray[np.float64]
    response: NDArray[np.float64]
    width: float
    frequency: NDArray[np.float64]
    mtf: NDArray[np.float64]
    mtf50: float
    slope: float


# Bins per pixel of a super-sampled edge.
_EDGE_BINS = 4


def edge_response(image: ArrayLike, *, axis: int = 1, pixel_um: PixelSize = None) -> EdgeResponse:
    """Edge spread function and MTF across one straight edge, slanted or not.

    Parameters
    ----------
    image : array_like of shape (rows, columns)
        A window with one edge, from side to side, and nothing else; NaN where unknown.
    axis : int, optional
        The axis that the edge is measured along: 1, the fast one, for an edge along the flow; 0 for one along the
        line. The edge may slant by up to 45°.
    pixel_um : float or (float, float), optional
        Size of a pixel, (slow, fast) where it is not square.

    Returns
    -------
    edge : EdgeResponse

    Raises
    ------
    ValueError
        If the image shows no edge across the axis.

    Notes
    -----
    Slanted-edge method, after ISO 12233: the edge's place in each line of pixels is the centroid of its
    derivative, a straight line through these places gives each pixel's distance from the edge, and the pixels of all
    lines together draw the edge in bins of a quarter of a pixel. Its derivative is the line spread function, whose
    Fourier transform, divided by that of the bins and of the difference, is the MTF. An edge that does not slant is
    drawn by pixels one apart, with straight lines between.
    """
    pixels = np.asarray(image, dtype=float)
    sizes = _pixel_size(pixel_um)
    if axis not in (0, 1) or pixels.ndim != 2 or pixels.shape[axis] < 8 or pixels.shape[1 - axis] < 2:
        raise ValueError(
            f"an edge is measured along axis 0 or 1 of an image with at least 8 pixels along it; got axis {axis} of "
            f"shape {pixels.shape}"
        )
    across, along = sizes[axis], sizes[1 - axis]
    lines = pixels if axis == 1 else pixels.T
    offset, slope = _edge_line(lines)
    cosine = 1 / np.hypot(1.0, slope * across / along)
    row, column = np.indices(lines.shape)
    distance = (column - offset - slope * row) * across * cosine
    step = across * cosine / _EDGE_BINS
    known = np.isfinite(lines)
    reach = int(np.median(np.minimum(distance.max(axis=1), -distance.min(axis=1))) / step)
    if reach < 3 * _EDGE_BINS:
        raise ValueError("the edge comes too close to the image's sides: cut the window so that it lies in the middle")
    bins = np.rint(distance[known] / step).astype(np.int64) + reach
    inside = (bins >= 0) & (bins <= 2 * reach)
    number = np.bincount(bins[inside], minlength=2 * reach + 1)
    place = (np.arange(2 * reach + 1) - reach) * step
    filled = number > 0
    if filled.sum() < 8:
        raise ValueError("too few known pixels around the edge")
    total = np.bincount(bins[inside], lines[known][inside], minlength=2 * reach + 1)
    where = np.bincount(bins[inside], distance[known][inside], minlength=2 * reach + 1)
    mean_place = where[filled] / number[filled]
    square = np.bincount(bins[inside], distance[known][inside] ** 2, minlength=2 * reach + 1)
    blur = float(np.mean(np.maximum(square[filled] / number[filled] - mean_place**2, 0)))
    response = interpolate.CubicSpline(mean_place, total[filled] / number[filled])(place)
    tail = max(2, response.size // 6)
    low, high = float(response[:tail].mean()), float(response[-tail:].mean())
    if not abs(high - low) > 0:
        raise ValueError("both sides of the edge are equally bright: there is no edge across this axis")
    response = (response - low) / (high - low)
    frequency, mtf = _transfer(response, step, 0.5 / (across * cosine), blur)
    below = np.flatnonzero(mtf < 0.5)
    mtf50 = float("nan")
    if below.size:
        i = int(below[0])
        mtf50 = float(np.interp(0.5, mtf[[i, i - 1]], frequency[[i, i - 1]]))
    return EdgeResponse(
        position=place,
        response=response,
        width=_crossing(place, response, 0.9) - _crossing(place, response, 0.1),
        frequency=frequency,
        mtf=mtf,
        mtf50=mtf50,
        slope=slope,
    )


def psnr(image: ArrayLike, truth: ArrayLike, *, peak: float = 1.0, mask: ArrayLike | None = None) -> float:
    """Peak signal-to-noise ratio 10·log10(peak² / mean squared error) [dB], over pixels known in both and in the mask.

    inf where they agree exactly. Raises ValueError if shapes differ or nothing is known.
    """
    first, second, common = _common(image, truth, mask)
    error = float(np.mean((first - second)[common] ** 2))
    return float(10 * np.log10(peak**2 / error)) if error > 0 else float("inf")


def correlation(image: ArrayLike, truth: ArrayLike, *, mask: ArrayLike | None = None) -> float:
    """Pearson's correlation with the truth over pixels known in both and in the mask; NaN where either is constant."""
    first, second, common = _common(image, truth, mask)
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
        If shapes differ, or no pixel's neighbourhood is known.

    Notes
    -----
    Wang, Bovik, Sheikh and Simoncelli, IEEE Trans. Image Process. 13, 600 (2004), doi:10.1109/TIP.2003.819861, with
    their Gaussian window of 1.5 pixels; computed by scikit-image.
    """
    from skimage.metrics import structural_similarity

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
    image: ArrayLike, truth: ArrayLike, *, pixel_um: float | tuple[float, float], mask: ArrayLike | None = None
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
    sizes = _pixel_size(pixel_um)
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


def _pixel_size(pixel_um: PixelSize) -> tuple[float, float]:
    if pixel_um is None:
        return 1.0, 1.0
    slow, fast = pixel_um if isinstance(pixel_um, tuple) else (pixel_um, pixel_um)
    if not (0 < slow < np.inf and 0 < fast < np.inf):
        raise ValueError(f"pixel_um must be above zero, one number or (slow, fast); got {pixel_um!r}")
    return float(slow), float(fast)


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
    """Spectrum of the image under its weight, without its mean there."""
    total = trust.sum()
    filled = np.where(trust > 0, image, 0.0)
    return np.asarray(np.fft.fft2(trust * (filled - (trust * filled).sum() / total)))


def _correlated_pairs(ring: NDArray[np.int64], trust: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sum over all pairs of coefficients in each ring of the square of their correlation, by ``trust``, in noise.

    Rings count from 1; 0 is none of them. Only lags of a few coefficients matter, since the weight is smooth.
    """
    shared = np.abs(np.fft.fft2(trust**2)) ** 2
    shared /= shared[0, 0]
    pairs = np.zeros(ring.max() + 1)
    rows, columns = (min(_LAGS, (n - 1) // 2) for n in ring.shape)
    for down in range(-rows, rows + 1):
        for right in range(-columns, columns + 1):
            if shared[down, right] > 1e-3:
                together = (ring == np.roll(ring, (down, right), (0, 1))) & (ring > 0)
                pairs += shared[down, right] * np.bincount(ring[together], minlength=pairs.size)
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


def _edge_line(lines: NDArray[np.float64]) -> tuple[float, float]:
    """Place of the edge in the first line of pixels, and by how much it moves from line to line [pixels]."""
    change = np.diff(lines, axis=1)
    middle = np.arange(change.shape[1]) + 0.5
    sign = np.sign(np.nansum(change))
    if sign == 0:
        raise ValueError("both sides of the edge are equally bright: there is no edge across this axis")
    rows = np.arange(lines.shape[0])
    offset, slope = 0.0, 0.0
    reach = np.inf  # narrower in each round, so that noise far from the edge does not pull the centroid
    for step in range(6):
        distance = middle[None, :] - (offset + slope * rows)[:, None]
        near = (
            np.ones_like(change) if step == 0 else np.clip(np.cos(np.pi / 2 * np.clip(distance / reach, -1, 1)), 0, 1)
        )
        near = np.where(np.isfinite(change), near, 0.0)
        weight = near * np.nan_to_num(sign * change)
        mass = weight.sum(axis=1)
        usable = (mass > 0.2 * np.median(mass)) & (near.max(axis=1) > 0)
        if usable.sum() < 2:
            raise ValueError("the edge was found in fewer than two lines of pixels")
        centroid = (weight * middle).sum(axis=1)[usable] / mass[usable]
        slope, offset = (float(v) for v in np.polyfit(rows[usable], centroid, 1))
        profile = weight.sum(axis=0) if step == 0 else None
        if profile is not None:
            reach = lines.shape[1] / 2
        else:
            spread = np.sqrt(max(float((weight * distance**2).sum() / weight.sum()), 1.0))
            reach = max(4.0, min(reach, 5 * spread))
    return offset, slope


def _crossing(place: NDArray[np.float64], response: NDArray[np.float64], level: float) -> float:
    """Where the response crosses a level, nearest to the edge."""
    above = response >= level
    crossings = np.flatnonzero(above[1:] != above[:-1])
    if not crossings.size:
        return float("nan")
    share = (level - response[crossings]) / (response[crossings + 1] - response[crossings])
    at = place[crossings] + share * (place[crossings + 1] - place[crossings])
    return float(at[np.argmin(np.abs(at))])


def _transfer(
    response: NDArray[np.float64], step: float, limit: float, blur: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies up to the limit, and the MTF of an edge spread function in steps; blur: variance within bins."""
    spread = np.gradient(response)
    spread *= signal.windows.tukey(spread.size, 0.5)
    frequency = np.fft.rfftfreq(4 * spread.size, step)
    transfer: NDArray[np.float64] = np.abs(np.fft.rfft(spread, 4 * spread.size)).astype(float)
    shown = frequency <= limit * (1 + 1e-9)
    frequency, transfer = frequency[shown], transfer[shown]
    # of the difference over two steps, and of the mean over a bin
    correction = np.sinc(2 * frequency * step) * np.exp(-2 * np.pi**2 * blur * frequency**2)
    return frequency.astype(float), np.asarray(transfer / transfer[0] / correction, dtype=float)
