"""The empty line of simulated captures against the simulator's truth."""

import numpy as np
import pytest

from stretchscope.acquisition.optics import Interleave
from stretchscope.sr.calibrate import Span, find_code_limits, measure_background
from stretchscope.sr.errors import SignalError


def test_profile_dark_level_and_noise(usual: tuple) -> None:
    """Profile within a tenth of the noise of the true one, root mean square, but for a shift and a scale."""
    simulated, found = usual
    background, instrument = found.background, simulated.instrument
    first, truth = instrument.profile(1 / 16)
    offset = found.starts[0] - simulated.starts[0]
    tau = first + np.arange(truth.size) / 16 - offset
    light, slope = background.profile.light_and_slope(tau)
    design = np.stack([light, slope, np.ones(light.size)], axis=1)
    share = np.linalg.lstsq(design, truth, rcond=None)[0]
    assert np.sqrt(np.mean((truth - design @ share) ** 2)) < 0.15
    assert share[0] == pytest.approx(1, abs=0.005)
    assert share[1] == pytest.approx(0, abs=0.05)  # AC coupling tilts the line a little
    assert background.dark_level_codes == pytest.approx(instrument.digitiser.dark_codes, abs=0.7)
    digitiser = instrument.digitiser
    assert background.noise_std_codes == pytest.approx(np.sqrt(digitiser.thermal_noise_codes**2 + 1 / 12), rel=0.1)
    shot = digitiser.shot_noise_codes**2 / digitiser.light_codes
    assert background.noise[1] == pytest.approx(shot, rel=0.25)
    assert background.gain_std == pytest.approx(instrument.optics.pulse_energy_noise, rel=0.2)


def test_pulse_energies_that_scatter_leave_no_structure(lab: object) -> None:
    """Energies that scatter by 5 % depend on the lines' phase by chance, 1 code: not in the profile, nor in the clock.

    An error of the profile that repeats with every sample looks like timing information, and moves the clock with the
    phase of its lines.
    """
    instrument = lab.instrument(period=86.13e-9, optics={"pulse_energy_noise": 0.05})
    simulated = lab.simulate(instrument, 1300)
    found = lab.process(simulated.samples)
    first, truth = instrument.profile(1 / 16)
    tau = first + np.arange(truth.size) / 16 - (found.starts[0] - simulated.starts[0])
    light, slope = found.background.profile.light_and_slope(tau)
    design = np.stack([light, slope, np.ones(light.size)], axis=1)
    assert np.sqrt(np.mean((truth - design @ np.linalg.lstsq(design, truth, rcond=None)[0]) ** 2)) < 0.15
    assert found.background.gain_std == pytest.approx(0.05, rel=0.1)
    assert found.clock.line.size == 2  # no wander
    assert abs(found.period - instrument.line_period_samples) < 3 * simulated.period_bound(found.clock.lines)


def test_line_starts_at_the_leading_edge(usual: tuple) -> None:
    """τ = 0 where the light passes 8 % of its peak, and the lit part ends where it falls below."""
    background = usual[1].background
    peak, end = background.peak(), background.lit_samples
    at = background.profile.light(np.array([0.0, end]))
    np.testing.assert_allclose(at, 0.08 * peak, atol=0.02 * peak)
    assert background.profile.slope(np.array([0.0]))[0] > 0 > background.profile.slope(np.array([end]))[0]
    tau = np.array([-10.0, 0.5, 0.5 * end, end + 10])
    np.testing.assert_array_equal(background.usable(tau), [False, True, True, False])


@pytest.mark.parametrize("converters", [2, 4])
def test_interleaved_converters(converters: int, lab: object) -> None:
    offsets, gains = (0.6, -1.1, 0.4, 0.1)[:converters], (0.996, 0.992, 1.012, 1.0)[:converters]
    interleave = Interleave(offset_codes=offsets, gain=gains, skew_s=(0.0,) * converters)
    simulated = lab.simulate(lab.instrument(interleave=interleave), 2500, cells=5)
    background = measure_background(lab.spans(simulated.samples))
    assert len(background.interleave_gain) == converters
    np.testing.assert_allclose(
        np.subtract(background.interleave_offset_codes, np.mean(background.interleave_offset_codes)),
        np.subtract(offsets, np.mean(offsets)),
        atol=0.05,
    )
    np.testing.assert_allclose(background.interleave_gain, np.divide(gains, np.mean(gains)), atol=1e-3)


def test_equal_converters_are_one(usual: tuple) -> None:
    assert usual[1].background.interleave_gain == (1.0,)


@pytest.mark.parametrize("change", ["inverted", "uint8", "int16, shifted"])
def test_number_formats_and_polarity(change: str, usual: tuple, lab: object) -> None:
    """The same light in other codes gives the same clock and the same events."""
    simulated, plain = usual
    wide = simulated.samples.astype(np.int16)
    samples, dark = {
        "inverted": ((-1 - wide).astype(np.int8), -1 - plain.background.dark_level_codes),
        "uint8": ((wide + 128).astype(np.uint8), plain.background.dark_level_codes + 128),
        "int16, shifted": (wide + 1000, plain.background.dark_level_codes + 1000),
    }[change]
    found = lab.process(samples)
    assert found.period == pytest.approx(plain.period, abs=plain.period_std)
    assert found.background.dark_level_codes == pytest.approx(dark, abs=0.5)
    assert (found.background.interleave_gain[0] < 0) == (change == "inverted")
    assert found.background.peak() == pytest.approx(plain.background.peak(), rel=0.01)
    assert lab.count_matches(simulated, found) == (0, 0, 0)


def test_saturated_tops_are_censored(lab: object) -> None:
    """6 % of the samples clipped: unknown where they are, the rest as usual."""
    instrument = lab.instrument(light_level=1.02, dark_level=0.02)
    simulated = lab.simulate(instrument, 2500, cells=6)
    assert 0.03 < np.mean(simulated.samples == 127) < 0.12
    found = lab.process(simulated.samples)
    error = found.period - instrument.line_period_samples
    assert abs(error) < 3 * simulated.period_bound(found.clock.lines)
    tau = np.arange(0, found.background.lit_samples, 0.25)
    true_light = np.interp(
        tau + found.starts[0] - simulated.starts[0],
        *(lambda f, p: (f + np.arange(p.size) / 16, p))(*instrument.profile(1 / 16)),
    )
    clipped = true_light + instrument.digitiser.dark_codes > 127.3
    censored = found.background.is_censored(tau)
    assert censored[clipped].mean() > 0.95
    assert censored[true_light + instrument.digitiser.dark_codes < 122].mean() < 0.05
    assert lab.count_matches(simulated, found) == (0, 0, 0)


def test_no_dark_gap(lab: object) -> None:
    """Pulses that fill the period: no dark level unless it is stated; everything else works."""
    instrument = lab.instrument(pulse=75e-9, period=75e-9, rate=2e9)
    simulated = lab.simulate(instrument, 3000, cells=6)
    found = lab.process(simulated.samples)
    assert found.background.dark_level_codes is None
    assert found.background.lit_samples == pytest.approx(instrument.line_period_samples, rel=1e-5)
    assert abs(found.period - instrument.line_period_samples) < 4 * found.period_std
    stated = lab.process(simulated.samples, dark_level_codes=instrument.digitiser.dark_codes)
    assert stated.background.dark_level_codes == pytest.approx(instrument.digitiser.dark_codes)
    assert stated.background.peak() == pytest.approx(instrument.profile(1 / 16)[1].max(), rel=0.03)
    assert lab.count_matches(simulated, stated) == (0, 0, 0)


def test_rails_where_samples_pile_up() -> None:
    heights = np.concatenate([np.repeat(np.arange(-20, 100), 20), np.full(500, 100)])
    assert find_code_limits(heights.astype(np.int16)) == (-32768, 100)
    assert find_code_limits(np.repeat(np.arange(-128, 128), 5).astype(np.int8)) == (-128, 127)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.full(300_000, 5, np.int8), "signal is constant"),
        (np.rint(np.random.default_rng(1).normal(0, 3, 400_000)).astype(np.int8), "nothing in the signal repeats"),
        (np.where(np.arange(400_000) % 431.3 < 200, 127, -128).astype(np.int8), "100 % of the samples are saturated"),
        (np.tile(np.arange(100, dtype=np.int8), 10)[:1000], "too few|at least 17 are needed|holds fewer"),
    ],
)
def test_says_why_it_cannot(samples: np.ndarray, message: str) -> None:
    with pytest.raises(SignalError, match=message):
        measure_background([Span(0, samples)])


def test_a_few_lines_are_too_few(usual: tuple) -> None:
    with pytest.raises(SignalError, match="at least 17 are needed"):
        measure_background([Span(0, usual[0].samples[: int(10.5 * 431)])])


def test_a_lone_sine_holds_no_cells(lab: object, rng: np.random.Generator) -> None:
    samples = np.rint(40 * np.sin(2 * np.pi * np.arange(600_000) / 431.37) + rng.normal(0, 1, 600_000))
    found = lab.process(samples.astype(np.int8))
    assert found.period == pytest.approx(431.37, abs=1e-4)
    assert found.background.dark_level_codes is None
    assert found.events == []
