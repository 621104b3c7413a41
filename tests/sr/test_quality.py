"""Quality measures against closed forms."""

import numpy as np
import pytest
from scipy import ndimage, special
from skimage.metrics import structural_similarity

from stretchscope.sr.quality import (
    FWHM,
    correlation,
    edge_response,
    effective_resolution_um,
    fourier_ring_correlation,
    half_bit,
    mean_curve,
    of_all_data,
    psnr,
    ssim,
)


def pink(rng: np.random.Generator, shape: tuple[int, int], sigma: tuple[float, float]) -> np.ndarray:
    """Texture of unit variance, blurred by a Gaussian."""
    texture = ndimage.gaussian_filter(rng.normal(size=shape), sigma, mode="wrap")
    return texture / texture.std()


@pytest.mark.parametrize("pixel_um", [None, (0.7, 0.2)])
def test_unrelated_noise_correlates_by_chance_alone(rng: np.random.Generator, pixel_um: tuple | None) -> None:
    """Mean 0, standard deviation 1/√independent, in rings and in both sectors; no resolution comes out."""
    z: dict[str, list] = {"rings": [], "slow": [], "fast": []}
    blind = 0
    for _ in range(30):
        result = fourier_ring_correlation(*rng.normal(size=(2, 96, 128)), pixel_um=pixel_um)
        for name, values in z.items():
            curve = getattr(result, name)
            values.append((curve.correlation * np.sqrt(curve.independent))[3:])
            blind += curve.resolution_half_bit > 10 / curve.frequency[-1]
    for values in z.values():
        means = np.mean(values, axis=1)  # rings correlate with their neighbours
        assert abs(means.mean()) < 4 * means.std() / np.sqrt(means.size)
        assert 0.9 < np.std(values) < 1.1
    assert blind > 85  # of 90


@pytest.mark.parametrize("snr", [0.25, 1.0, 4.0])
def test_ring_correlation_is_snr_over_one_plus_snr(rng: np.random.Generator, snr: float) -> None:
    signal = np.sqrt(snr) * rng.normal(size=(256, 200))
    result = fourier_ring_correlation(signal + rng.normal(size=signal.shape), signal + rng.normal(size=signal.shape))
    for curve in (result.rings, result.slow, result.fast):
        mean = np.average(curve.correlation, weights=curve.independent)
        assert mean == pytest.approx(snr / (1 + snr), abs=4 / np.sqrt(curve.independent.sum()))
    both = 2 * snr / (1 + 2 * snr)  # of the two images together
    assert of_all_data(snr / (1 + snr)) == pytest.approx(both)


def test_resolution_is_where_signal_meets_noise_on_each_axis(rng: np.random.Generator) -> None:
    """Gaussian spectra of two widths in non-square pixels: SNR = 1/6 gives 1/7, found within 8 % on either axis."""
    shape, pixel, sigma = (384, 512), (0.4, 0.25), (3.0, 1.6)  # sigma in pixels
    gain = 40.0
    signal = ndimage.gaussian_filter(gain * rng.normal(size=shape), sigma, mode="wrap")
    result = fourier_ring_correlation(*(signal + rng.normal(size=(2, *shape))), pixel_um=pixel)
    for curve, s, p in ((result.slow, sigma[0], pixel[0]), (result.fast, sigma[1], pixel[1])):
        # SNR = gain²·exp(-4π²σ²f²), along the axis; the sector's other coefficients lie off it
        f = np.sqrt(np.log(6 * gain**2) / (4 * np.pi**2 * s**2)) / p
        assert curve.resolution == pytest.approx(1 / f, rel=0.08)
        assert curve.resolution_half_bit >= 0.95 * curve.resolution


def test_frequencies_are_those_of_the_specimen(rng: np.random.Generator) -> None:
    """One wave shared by two noisy images peaks in the ring of its frequency, whatever the pixels' shape."""
    shape, pixel = (128, 256), (0.5, 0.125)
    row, column = np.indices(shape)
    for across, along in ((0.0, 0.6), (0.5, 0.0), (0.4, 0.45)):  # cycles/µm
        wave = np.sin(2 * np.pi * (across * row * pixel[0] + along * column * pixel[1]))
        rings = fourier_ring_correlation(*(wave + rng.normal(size=(2, *shape))), pixel_um=pixel).rings
        best = rings.frequency[np.argmax(rings.correlation)]
        assert best == pytest.approx(np.hypot(across, along), abs=1 / 32)
        assert rings.frequency[-1] <= 1.0 + 1e-9


def test_unknown_pixels_neither_correlate_nor_spoil(rng: np.random.Generator) -> None:
    """NaN in both images at the same places makes unrelated noise no more alike, and a shared signal no less."""
    unknown = np.zeros((160, 160), bool)
    unknown[:, 70:76] = True
    unknown[rng.integers(0, 160, 12), rng.integers(0, 160, 12)] = True
    a, b = rng.normal(size=(2, 160, 160)) + 5.0
    a[unknown] = b[unknown] = np.nan
    curve = fourier_ring_correlation(a, b).rings
    assert np.abs(curve.correlation * np.sqrt(curve.independent))[3:].max() < 4.5
    signal = 5.0 + rng.normal(size=(160, 160))
    a, b = signal + rng.normal(size=(2, 160, 160))
    a[unknown] = np.nan
    curve = fourier_ring_correlation(a, b).rings
    assert np.average(curve.correlation, weights=curve.independent) == pytest.approx(0.5, abs=0.03)


def test_mean_of_curves_is_that_of_a_larger_image(rng: np.random.Generator) -> None:
    """The mean of nine scatters a third as much about SNR/(1 + SNR); other shapes cannot be averaged."""
    curves = []
    for _ in range(9):
        signal = rng.normal(size=(64, 64))
        curves.append(fourier_ring_correlation(*(signal + rng.normal(size=(2, 64, 64)))).rings)
    mean = mean_curve(curves)
    z = (mean.correlation - 0.5)[2:] * np.sqrt(mean.independent[2:])
    assert z.std() < 1.2  # less than unrelated noise would
    np.testing.assert_allclose(mean.independent, 9 * curves[0].independent)
    assert mean.resolution == 1 / mean.frequency[-1]  # never below
    with pytest.raises(ValueError, match="one shape"):
        mean_curve([curves[0], fourier_ring_correlation(*rng.normal(size=(2, 32, 32))).rings])


def test_half_bit_threshold() -> None:
    """Many values: an SNR of 0.2071 in each half, half a bit for both together; few: nothing can be told."""
    assert half_bit(1e12) == pytest.approx(0.2071 / 1.2071, abs=1e-5)
    assert np.log2(1 + 2 * 0.2071) == pytest.approx(0.5, abs=1e-3)
    assert half_bit(1) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("shape", [(40, 10), (120, 9), (9, 160), (33, 17)])
def test_narrow_windows_have_curves(rng: np.random.Generator, shape: tuple[int, int]) -> None:
    """Few pixels along one axis, and much coarser ones than along the other."""
    signal = rng.normal(size=shape)
    for pixel in ((5.5, 0.5), (0.5, 5.5)):
        result = fourier_ring_correlation(*(signal + 0.01 * rng.normal(size=(2, *shape))), pixel_um=pixel)
        for curve in (result.rings, result.slow, result.fast):
            assert curve.frequency.size
            assert (curve.independent >= 1).all()
            assert curve.resolution == 1 / curve.frequency[-1]


def test_ring_correlation_says_what_it_needs() -> None:
    with pytest.raises(ValueError, match="one shape"):
        fourier_ring_correlation(np.zeros((20, 20)), np.zeros((20, 21)))
    with pytest.raises(ValueError, match="0 of 400 pixels are known"):
        fourier_ring_correlation(np.full((20, 20), np.nan), np.zeros((20, 20)))
    for size in ((1.0, 0.0), [0.1, 0.2, 0.3], [], np.array([0.1, np.nan]), -1.0):
        with pytest.raises(ValueError, match="pixel_um must be above zero"):
            fourier_ring_correlation(np.zeros((32, 32)), np.zeros((32, 32)), pixel_um=size)


def test_pixel_size_is_any_two_numbers(rng: np.random.Generator) -> None:
    images = rng.normal(size=(2, 32, 48))
    expected = fourier_ring_correlation(*images, pixel_um=(0.1, 0.2)).slow.frequency
    for size in ([0.1, 0.2], np.array([0.1, 0.2])):
        np.testing.assert_array_equal(fourier_ring_correlation(*images, pixel_um=size).slow.frequency, expected)


@pytest.mark.parametrize("value", [0.0, 0.7, -1e9, 1e-30])
def test_constants_correlate_with_nothing(rng: np.random.Generator, value: float) -> None:
    """Of the mean, only rounding is left; that of two constants is one and the same."""
    constant, noise = np.full((60, 70), value), rng.normal(size=(60, 70))
    for other in (constant, noise):
        assert np.isnan(correlation(constant, other))
        for a, b in ((constant, other), (other, constant)):
            result = fourier_ring_correlation(a, b)
            for curve in (result.rings, result.slow, result.fast):
                assert (curve.correlation == 0).all()
                assert curve.resolution == np.inf


def test_faint_contrast_is_no_constant(rng: np.random.Generator) -> None:
    faint = 0.7 + 1e-9 * rng.normal(size=(60, 70))
    assert correlation(faint, faint) == pytest.approx(1)
    np.testing.assert_allclose(fourier_ring_correlation(faint, faint).rings.correlation, 1)


def test_correlation_of_all_data_is_one() -> None:
    """Within -1 … 1 whatever the halves' is."""
    np.testing.assert_allclose(of_all_data([-1.0, -0.5, -1 / 3, 0.0, 0.5, 1.0]), [-1, -1, -1, 0, 2 / 3, 1])


def slanted_edge(shape: tuple[int, int], sigma: float, slope: float) -> np.ndarray:
    """A Gaussian edge across the columns; sigma [pixels] across the edge, slope in columns per row."""
    row, column = np.indices(shape)
    distance = (column - shape[1] / 2 - slope * (row - shape[0] / 2)) / np.hypot(1, slope)
    return special.ndtr(distance / sigma)


# an edge that does not slant is drawn by one sample a pixel: it must be wide enough for that
@pytest.mark.parametrize(("sigma", "slope"), [(2.0, 0.0), (0.8, 0.09), (2.0, 0.09), (0.8, -0.3), (2.0, -0.3)])
def test_gaussian_edge(rng: np.random.Generator, sigma: float, slope: float) -> None:
    """10-90 % width 2.563 σ and MTF exp(-2π²σ²f²) of a Gaussian edge with noise; turned round, and upside down."""
    image = 0.2 + 0.6 * slanted_edge((80, 48), sigma, slope) + rng.normal(size=(80, 48)) * 0.004
    image[20:22, 30] = np.nan
    for picture, axis in ((image, 1), (1 - image, 1), (image.T, 0)):
        edge = edge_response(picture, axis=axis)
        assert edge.slope == pytest.approx(slope, abs=0.01)
        assert edge.width == pytest.approx(2 * special.ndtri(0.9) * sigma, rel=0.03)
        shown = edge.frequency < 0.25 / sigma
        np.testing.assert_allclose(
            edge.mtf[shown], np.exp(-2 * (np.pi * sigma * edge.frequency[shown]) ** 2), atol=0.03
        )
        assert edge.mtf50 == pytest.approx(np.sqrt(np.log(2) / 2) / np.pi / sigma, rel=0.03)


def test_edge_in_um_across_pixels_that_are_not_square() -> None:
    """An edge at 20° to the flow, drawn in pixels of 0.5 by 0.2 µm, is as wide as it is, measured across it."""
    row, column = np.indices((60, 160))
    angle, sigma = np.deg2rad(20), 0.7  # µm
    distance = (column - 80) * 0.2 * np.cos(angle) - (row - 30) * 0.5 * np.sin(angle)
    edge = edge_response(special.ndtr(distance / sigma), pixel_um=(0.5, 0.2))
    assert edge.width == pytest.approx(2 * special.ndtri(0.9) * sigma, rel=0.01)
    assert edge.mtf50 == pytest.approx(np.sqrt(np.log(2) / 2) / np.pi / sigma, rel=0.01)


def test_no_edge_is_an_error() -> None:
    with pytest.raises(ValueError, match="no edge"):
        edge_response(np.ones((20, 20)))
    with pytest.raises(ValueError, match="axis 2"):
        edge_response(np.ones((20, 20)), axis=2)
    with pytest.raises(ValueError, match="too close"):
        edge_response(slanted_edge((40, 20), 0.5, 0.0)[:, 9:])


def test_comparisons_with_truth(rng: np.random.Generator) -> None:
    truth = pink(rng, (64, 72), (2.0, 2.0))
    image = 0.1 + truth + 0.05 * rng.normal(size=truth.shape)
    assert psnr(truth + 0.1, truth) == pytest.approx(20.0)
    assert psnr(truth + 0.1, truth, peak=2.0) == pytest.approx(20 + 20 * np.log10(2))
    assert psnr(truth, truth) == np.inf
    assert correlation(image, truth) == pytest.approx(np.corrcoef(image.ravel(), truth.ravel())[0, 1])
    assert correlation(2 - 3 * truth, truth) == pytest.approx(-1)
    assert np.isnan(correlation(np.ones_like(truth), truth))
    plain = structural_similarity(
        image, truth, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(image, truth) == pytest.approx(plain)


def test_unknown_pixels_are_left_out_of_comparisons(rng: np.random.Generator) -> None:
    truth = pink(rng, (64, 72), (2.0, 2.0))
    image = truth + 0.05 * rng.normal(size=truth.shape)
    spoilt, mask = image.copy(), np.zeros(truth.shape, bool)
    spoilt[:20], mask[20:] = np.nan, True
    assert psnr(spoilt, truth) == psnr(image, truth, mask=mask)
    assert correlation(spoilt, truth) == correlation(image, truth, mask=mask)
    far = np.zeros_like(mask)
    far[25:] = True
    assert ssim(spoilt, truth, mask=far) == pytest.approx(ssim(image, truth, mask=far), abs=1e-12)
    assert ssim(spoilt, truth) == ssim(spoilt, truth, mask=far)
    with pytest.raises(ValueError, match="no pixel is known"):
        psnr(np.full_like(truth, np.nan), truth)
    with pytest.raises(ValueError, match="no pixel has a known neighbourhood"):
        ssim(np.where(np.indices(truth.shape)[1] % 4 == 0, np.nan, image), truth)
    for measure in (psnr, ssim):
        with pytest.raises(ValueError, match="peak must be above zero"):
            measure(image, truth, peak=0.0)
    with pytest.raises(ValueError, match="one shape"):
        correlation(image, truth[:-1])
    with pytest.raises(ValueError, match="mask must have"):
        correlation(image, truth, mask=mask[:-1])


def cells(shape: tuple[int, int], pixel: tuple[float, float], rng: np.random.Generator) -> np.ndarray:
    """Transmission of some disks with 0.9 µm details, shown by optics of 0.5 µm: sampled finely, then blurred."""
    fine = 4
    row, column = np.indices((shape[0] * fine, shape[1] * fine)) / fine
    y, x = row * pixel[0], column * pixel[1]
    scene = np.ones(y.shape)
    for _ in range(4):
        cy, cx = rng.uniform(0.2, 0.8, 2) * (shape[0] * pixel[0], shape[1] * pixel[1])
        scene[(y - cy) ** 2 + (x - cx) ** 2 < 3.0**2] *= 0.6
        for _ in range(8):
            sy, sx = cy + rng.uniform(-2, 2), cx + rng.uniform(-2, 2)
            scene[(y - sy) ** 2 + (x - sx) ** 2 < 0.45**2] *= 0.7
    blur = [0.5 / FWHM / p * fine for p in pixel]
    return ndimage.gaussian_filter(scene, blur, mode="nearest")[::fine, ::fine]


@pytest.mark.parametrize("width", [(0.4, 1.2), (0.9, 0.6), (1.5, 2.2)])
@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_blur_is_found_again(rng: np.random.Generator, width: tuple[float, float], noise: float) -> None:
    """Bias below 2 % on either axis, and scatter as stated, in pixels that are not square, with some unknown."""
    pixel = (0.15, 0.22)
    truth = cells((140, 110), pixel, rng)
    image = ndimage.gaussian_filter(truth, [w / FWHM / p for w, p in zip(width, pixel, strict=True)], mode="nearest")
    unknown = np.zeros(truth.shape, bool)
    unknown[:, 50:53] = True
    found = []
    for _ in range(20 if noise else 1):
        seen = np.where(unknown, np.nan, image + noise * rng.normal(size=image.shape))
        found.append(effective_resolution_um(seen, truth, pixel_um=pixel))
    slow, fast = np.array([f.slow_um for f in found]), np.array([f.fast_um for f in found])
    assert slow.mean() == pytest.approx(width[0], rel=0.02)
    assert fast.mean() == pytest.approx(width[1], rel=0.02)
    if noise:
        assert slow.std() < 1.6 * found[0].slow_std_um
        assert fast.std() < 1.6 * found[0].fast_std_um
        assert found[0].residual == pytest.approx(noise, rel=0.1)


def test_shift_is_no_blur(rng: np.random.Generator) -> None:
    truth = cells((140, 110), (0.2, 0.2), rng)
    image = ndimage.shift(ndimage.gaussian_filter(truth, 2.0, mode="nearest"), (0.6, -0.35), order=5, mode="nearest")
    found = effective_resolution_um(image, truth, pixel_um=0.2)
    assert found.shift_um == pytest.approx((0.12, -0.07), abs=0.002)
    assert (found.slow_um, found.fast_um) == pytest.approx((0.4 * FWHM,) * 2, rel=0.01)


def test_sharp_image_has_no_blur(rng: np.random.Generator) -> None:
    truth = cells((100, 100), (0.2, 0.2), rng)
    found = effective_resolution_um(truth, truth, pixel_um=0.2)
    assert max(found.slow_um, found.fast_um) < 0.02


def test_effective_resolution_says_what_it_needs(rng: np.random.Generator) -> None:
    truth = cells((40, 40), (0.2, 0.2), rng)
    with pytest.raises(ValueError, match="known everywhere"):
        effective_resolution_um(truth, np.where(truth < 0.9, np.nan, truth), pixel_um=0.2)
    with pytest.raises(ValueError, match="0 pixels are left"):
        effective_resolution_um(truth, truth, pixel_um=0.2, mask=np.indices(truth.shape)[0] < 3)
