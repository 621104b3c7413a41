"""Pictures flown past an instrument: they come back on their own pixels, as sharp as the detector lets them be."""

from functools import partial

import numpy as np
import pytest
from scipy import ndimage

from stretchscope.acquisition.optics import Instrument
from stretchscope.pipeline import digitise as module
from stretchscope.pipeline.digitise import Digitised, digitise, pixel_of_samples_um, slow_flow_instrument

MAGNIFICATION = 2.0  # samples of 20 GSa/s to a pixel


def picture(index: int) -> np.ndarray:
    """A ring with a spoke and a dot off its centre: no symmetry to hide a flip or a shift; each of its own shape."""
    rows, columns = 46 + 3 * index, 52 - 2 * index
    y, x = np.mgrid[:rows, :columns].astype(float)
    dx, dy = x - 0.5 * columns, y - 0.5 * rows
    r = np.hypot(dx, dy)
    dark = 0.6 * np.exp(-0.5 * ((r - 14 - index) / 1.6) ** 2) + 0.7 * np.exp(-0.5 * ((dx - 6) ** 2 + (dy + 3) ** 2) / 6)
    dark += 0.4 * np.exp(-0.5 * ((dy - 0.5 * dx) / 1.5) ** 2) * (dx > 0) * (r < 15 + index)
    return 1 - np.clip(ndimage.gaussian_filter(dark, 0.7), 0, 0.9)


def run(rate_hz: float, count: int = 5, **changes: object) -> tuple[Instrument, list[Digitised]]:
    instrument = slow_flow_instrument(rate_hz)
    pixel_um = pixel_of_samples_um(instrument, MAGNIFICATION)
    return instrument, list(digitise(picture, count, instrument, **({"pixel_um": pixel_um} | changes)))  # type: ignore[arg-type]


def seen_by_detector(image: np.ndarray, instrument: Instrument) -> np.ndarray:
    """The picture through the detector's response, which blurs along the line."""
    sigma_um = instrument.digitiser.response_samples * instrument.um_per_sample
    sigma = sigma_um / pixel_of_samples_um(instrument, MAGNIFICATION)
    return ndimage.gaussian_filter1d(image, sigma, axis=1, mode="constant", cval=1.0)


def rms(image: np.ndarray) -> float:
    return float(np.sqrt(np.mean(image**2)))


@pytest.fixture(scope="module")
def at_2_gsas() -> tuple[Instrument, list[Digitised]]:
    return run(2e9)


def test_a_pixel_is_as_wide_at_any_rate() -> None:
    for rate in (2e9, 3e9, 5e9, 20e9):
        assert pixel_of_samples_um(slow_flow_instrument(rate), 1.0) == pytest.approx(48 / 900)


def test_slow_digitiser_shows_what_passed_the_detector(at_2_gsas: tuple[Instrument, list[Digitised]]) -> None:
    """Oracle: the picture blurred by the detector. A sample of 2 GSa/s is five pixels wide."""
    instrument, images = at_2_gsas
    assert [image.index for image in images] == [0, 1, 2, 3, 4]
    for image in images:
        assert image.missing is None
        assert image.super_resolved is not None
        assert image.raw_lines is not None
        truth = seen_by_detector(picture(image.index), instrument)
        assert image.super_resolved.shape == image.raw_lines.shape == truth.shape
        assert image.super_resolved.dtype == image.raw_lines.dtype == np.float32
        error = rms(image.super_resolved - truth)
        assert error < 0.02
        assert error < rms(image.raw_lines - truth) / 3


@pytest.mark.parametrize("rate_hz", [2e9, 3e9])
def test_pixels_lie_where_the_pictures_do(rate_hz: float) -> None:
    """To a twentieth of a pixel, both ways: least squares of the difference against the picture's slopes."""
    instrument, images = run(rate_hz, 3)
    for image in images:
        assert image.super_resolved is not None
        truth = seen_by_detector(picture(image.index), instrument)
        slopes = np.stack([slope.ravel() for slope in np.gradient(truth)], axis=1)
        shift, *_ = np.linalg.lstsq(slopes, (image.super_resolved - truth).ravel(), rcond=None)
        assert np.abs(shift).max() < 0.05


@pytest.mark.slow
def test_fast_digitiser_needs_no_other_lines() -> None:
    """At 20 GSa/s a pixel is two samples wide: raw lines show the picture too."""
    instrument, images = run(20e9, 1)
    (image,) = images
    assert image.super_resolved is not None
    assert image.raw_lines is not None
    truth = seen_by_detector(picture(0), instrument)
    assert rms(image.super_resolved - truth) < 0.006
    assert rms(image.raw_lines - truth) < 0.03


def test_stretches_change_nothing_but_noise(
    at_2_gsas: tuple[Instrument, list[Digitised]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether pictures flow by in one stretch or in several, they come back the same but for noise."""
    monkeypatch.setattr(module, "LINES_AT_ONCE", 600)
    _, apart = run(2e9)
    for one, other in zip(at_2_gsas[1], apart, strict=True):
        assert one.index == other.index
        assert one.super_resolved is not None
        assert other.super_resolved is not None
        assert rms(one.super_resolved - other.super_resolved) < 0.01
    _, again = run(2e9)
    np.testing.assert_array_equal(again[3].super_resolved, apart[3].super_resolved)


def test_pictures_that_do_not_fit_are_missing_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_LINES", 2000)
    images = [picture(0), np.ones((30, 400)), np.ones((900, 30)), picture(1)]
    instrument = slow_flow_instrument(2e9)
    found = list(digitise(images.__getitem__, 4, instrument, pixel_um=pixel_of_samples_um(instrument, MAGNIFICATION)))
    assert [image.index for image in found] == [0, 1, 2, 3]
    assert found[0].missing is found[3].missing is None
    assert found[1].missing == "400 pixels wide, and 337 lie in the light"
    assert found[2].missing == "900 pixels long, 3.77e+03 lines: at most 2000"
    assert found[1].super_resolved is None
    assert found[2].raw_lines is None
    assert found[3].super_resolved is not None
    assert rms(found[3].super_resolved - seen_by_detector(images[3], instrument)) < 0.02


def test_no_transmission_says_so() -> None:
    run_one = partial(digitise, count=1, instrument=slow_flow_instrument(2e9), pixel_um=0.1)
    with pytest.raises(ValueError, match="divide grey values by the clear ground's"):
        list(run_one(lambda index: np.full((20, 20), 200.0)))
    with pytest.raises(ValueError, match=r"must have shape \(rows, columns\)"):
        list(run_one(lambda index: np.ones((20, 20, 3))))
    assert list(digitise(picture, 0, slow_flow_instrument(2e9), pixel_um=0.1)) == []
