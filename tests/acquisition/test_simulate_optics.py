"""Settings of the simulated microscope: the detector's response, and what makes no sense."""

import dataclasses

import numpy as np
import pytest

from stretchscope.acquisition.optics import (
    Digitiser,
    Illumination,
    Instrument,
    Interleave,
    LineClock,
    Optics,
)
from stretchscope.acquisition.simulate import blocks
from stretchscope.data.phantoms import EmptyScene


@pytest.mark.parametrize("bandwidth_hz", [1e9, 3e9])
def test_detector_rise_time(bandwidth_hz: float) -> None:
    """Oracle: 10-90 % of a Gaussian detector is 0.34 / B (0.35 / B by the rule of thumb)."""
    sharp = dataclasses.replace(Optics(), illumination=Illumination(edge=1e-6, spectral_width=100, ripple=0))
    instrument = Instrument(optics=sharp, digitiser=Digitiser(bandwidth_hz=bandwidth_hz))
    step = 1 / 256
    first, profile = instrument.profile(step)
    edge = profile[: int((-first + 20) / step)] / profile[int((-first + 20) / step)]
    rise_s = (np.argmax(edge > 0.9) - np.argmax(edge > 0.1)) * step / 5e9
    assert rise_s * bandwidth_hz == pytest.approx(0.34, rel=0.02)
    assert (np.argmax(edge > 0.5) * step + first) == pytest.approx(0, abs=2 * step)  # no delay


def test_detector_has_half_the_power_at_its_bandwidth() -> None:
    """Oracle: a ripple of that frequency comes out smaller by √2."""
    optics = dataclasses.replace(
        Optics(), illumination=Illumination(edge=0.1, spectral_width=100, ripple=0.2, ripple_periods=45)
    )  # 45 periods in 45 ns
    instrument = Instrument(optics=optics, digitiser=Digitiser(bandwidth_hz=1e9))
    first, profile = instrument.profile(1 / 64)
    tau = first + np.arange(profile.size) / 64
    middle = (tau > 50) & (tau < 175)
    ripple = np.ptp(profile[middle]) / 2 / profile[middle].mean()
    assert ripple == pytest.approx(0.2 / np.sqrt(2), rel=0.01)


def test_pulses_may_fill_the_period() -> None:
    assert Optics(line_rate_hz=1e9 / 75, pulse_duration_s=75e-9).um_per_line == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Optics(pulse_duration_s=100e-9), "overlap at 1.16e"),
        (lambda: Optics(flow_speed_m_per_s=0), "flow_speed_m_per_s must be a finite number above zero"),
        (lambda: Optics(line_rate_hz=float("nan")), "line_rate_hz must be a finite number above zero"),
        (lambda: Optics(field_of_view_um="wide"), "field_of_view_um must be a finite number above zero"),
        (lambda: Illumination(edge=0.7), "edge must be 0.5 or less"),
        (lambda: LineClock(jitter_s=-1e-12), "jitter_s must be a finite number, zero or more"),
        (lambda: LineClock(drift_per_s=2), "drift_per_s below 1"),
        (lambda: Digitiser(bits=7), "whole number from 8 to 16, got 7"),
        (lambda: Digitiser(bandwidth_hz=1e6), "between 0.02 and 100 times"),
        (lambda: Digitiser(ac_coupling_hz=1e9), "hundredth of the sample rate"),
        (lambda: Digitiser(dark_level=float("inf")), "dark_level must be finite"),
        (lambda: Interleave(gain=(1.0, 1.0)), "one entry per converter, got 1, 2 and 1"),
        (lambda: Interleave(gain=()), "gain must hold one finite number"),
        (lambda: Instrument(clock=LineClock(start_s=1.0)), "within the first line period"),
        (lambda: Instrument(clock=LineClock(jitter_s=1e-9)), "hundredth of the line period"),
        (lambda: Instrument(digitiser=Digitiser(sample_rate_hz=5e7, ac_coupling_hz=0)), "has 2.25 samples"),
        (lambda: next(blocks(EmptyScene(), Instrument(), seed=-1)), "seed must be a whole number, 0 or more"),
        (lambda: next(blocks(EmptyScene(), Instrument(), seed=1, lines=0)), "lines must be a whole"),
        (lambda: next(blocks(EmptyScene(), Instrument(), seed=1, block_samples=0)), "block_samples must be"),
    ],
)
def test_bad_settings_say_what_is_wrong(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
