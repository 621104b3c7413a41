"""The real capture (5 GSa/s, four interleaved converters, one droplet) against what is known of it."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from stretchscope.sr import _kernels
from stretchscope.sr.calibrate import find_code_limits
from stretchscope.sr.line_clock import LineClock, measure_segment_clocks
from stretchscope.sr.line_fit import line_tables
from stretchscope.sr.reconstruct import Grid, reconstruct

PERIOD = 275.5195


@pytest.fixture(scope="module")
def samples(oil_emulsion: Path) -> np.ndarray:
    with h5py.File(oil_emulsion) as file:
        return file["raw"][:]


@pytest.fixture(scope="module")
def found(samples: np.ndarray, lab: object) -> object:
    return lab.process(samples)


def test_period_and_lines(found: object) -> None:
    assert found.period == pytest.approx(PERIOD, abs=2e-5)
    assert 2e-7 < found.period_std < 5e-6
    assert found.clock.lines == 998


def test_one_droplet_whole(found: object) -> None:
    (event,) = found.events
    assert 190 <= event.line_first <= 233
    assert 709 <= event.line_last <= 750


def test_converters_against_the_facts(found: object) -> None:
    background = found.background
    offsets = np.array(background.interleave_offset_codes)
    assert offsets.size == 4
    np.testing.assert_allclose(offsets - offsets.mean(), np.array([1.4, -1.04, 1.0, -1.36]), atol=0.06)
    np.testing.assert_allclose(background.interleave_gain, [0.9959, 0.9915, 1.0191, 0.9937], atol=1.5e-3)
    assert background.noise_std_codes == pytest.approx(0.556, rel=0.1)


def test_saturated_samples_are_counted(samples: np.ndarray, found: object) -> None:
    low, high = find_code_limits(samples)
    assert high == 128
    assert _kernels.count_on_rail(samples, low, high) == 643
    tau = np.arange(0, found.background.lit_samples, 1 / 16)
    censored = tau[found.background.is_censored(tau)]
    assert 0.8 < censored.size / 16 < 2.5  # facts: all within 1.23 samples beside the peak


@pytest.mark.parametrize(("first", "stop"), [(0, 208), (735, 998)])
def test_before_and_after_the_droplet(first: int, stop: int, samples: np.ndarray, lab: object) -> None:
    part = samples[int(first * PERIOD) : int(stop * PERIOD)]
    found = lab.process(part)
    assert found.period == pytest.approx(PERIOD, abs=4e-5)
    assert found.events == []


def test_droplet_does_not_bias_the_clock(samples: np.ndarray, lab: object) -> None:
    """The first half ends inside the droplet: an energy-weighted fit errs by 1e-2 there."""
    found = lab.process(samples[: int(471 * PERIOD)])
    assert found.period == pytest.approx(PERIOD, abs=6e-5)


@pytest.mark.parametrize(("keep", "first"), [(keep, first) for keep in (2, 4, 5) for first in range(keep)])
def test_decimated(keep: int, first: int, samples: np.ndarray, lab: object) -> None:
    found = lab.process(samples[first::keep])
    assert found.period * keep == pytest.approx(PERIOD, abs=5e-5)
    (event,) = found.events
    assert 190 <= event.line_first <= 240
    assert 700 <= event.line_last <= 750


@pytest.mark.parametrize("first", [0, 3, 7])
def test_every_eighth_sample(first: int, samples: np.ndarray, lab: object) -> None:
    """0.625 GSa/s, two samples in a pulse."""
    found = lab.process(samples[first::8])
    assert found.period * 8 == pytest.approx(PERIOD, abs=5e-5)
    (event,) = found.events
    assert 190 <= event.line_first <= 245
    assert 700 <= event.line_last <= 750


def test_empty_lines_are_flat(samples: np.ndarray, found: object) -> None:
    """No texture: ≤ 2 % rms where the profile is over 8 % of its peak."""
    grid = Grid(6.0, 6.0, 0.12, 6.0)
    for first in (20, 790):
        starts = found.starts[first : first + 150]
        image = reconstruct(
            samples, 0, starts, first, found.background, found.tables, grid,
            rows=(first + 20.0, first + 130.0), tau=(0.0, found.background.lit_samples),
        )  # fmt: skip
        assert image.known.mean() > 0.5
        assert np.sqrt(np.nanmean((image.transmission - 1) ** 2)) < 0.02


def test_period_does_not_need_the_whole_file(samples: np.ndarray, found: object) -> None:
    """The clock of the first 300 lines with the whole capture's empty line: the same starts."""
    tables = line_tables(found.background)
    stop = int(300 * PERIOD)
    (clock,) = measure_segment_clocks(lambda a, b: samples[a:b], 0, stop, found.background, tables)
    assert LineClock((clock,)).period_samples == pytest.approx(PERIOD, abs=4 * clock.period_std_samples)
