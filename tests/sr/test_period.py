"""The line period from an autocorrelation alone."""

import numpy as np
import pytest

from stretchscope.sr.errors import SignalError
from stretchscope.sr.period import autocorrelation, find_period


@pytest.mark.parametrize("period", [17.3, 275.0, 275.5, 275.5195, 430.994, 1724.1])
def test_finds_the_period_of_pulses(period: float, rng: np.random.Generator) -> None:
    """Error below a third of a sample over the record's lines; whole, half and odd periods."""
    k = np.arange(int(120 * period))
    signal = np.rint(90 * np.exp(-0.5 * ((k / period % 1 - 0.4) / 0.08) ** 2) + rng.normal(0, 1, k.size))
    found, repeat = find_period(signal.astype(np.int8))
    assert found == pytest.approx(period, abs=0.33 / 60)
    assert repeat > 0.8


def test_broad_tops_of_long_lines(lab: object) -> None:
    """2586 samples, 30 GSa/s: the first repeat is some samples off, its multiples must find the way back."""
    instrument = lab.instrument(rate=3e10, bandwidth_hz=3e9)
    found, _ = find_period(lab.simulate(instrument, 200, seed=3).samples)
    assert found == pytest.approx(instrument.line_period_samples, abs=0.05)


def test_structure_within_the_line_is_no_period(rng: np.random.Generator) -> None:
    """Twelve ripples in a line: they repeat less well than the line does."""
    k = np.arange(40_000)
    phase = k / 400.3 % 1
    light = np.where(phase < 0.6, np.sin(np.pi * phase / 0.6) * (1 + 0.3 * np.cos(2 * np.pi * phase * 20)), 0)
    found, _ = find_period(np.rint(80 * light + rng.normal(0, 0.5, k.size)))
    assert found == pytest.approx(400.3, abs=0.01)


def test_pulses_narrower_than_a_sample_step(rng: np.random.Generator) -> None:
    """Far undersampled: only every so manieth repeat meets the pulse alike; no multiple is taken for the period."""
    period = 68.88
    k = np.arange(34_000)
    distance = (k + 0.5 * period) % period - 0.5 * period
    found, _ = find_period(100 * np.exp(-0.5 * (distance / 0.8) ** 2) + rng.normal(0, 0.5, k.size))
    assert found == pytest.approx(period, abs=0.005)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.full(5000, 7, np.int8), "signal is constant"),
        (np.random.default_rng(1).normal(size=200_000), "nothing in the signal repeats"),
        (np.arange(100), "too few to find a line period"),
    ],
)
def test_says_why_there_is_no_period(samples: np.ndarray, message: str) -> None:
    with pytest.raises(SignalError, match=message):
        find_period(samples)


def test_autocorrelation_of_a_cosine() -> None:
    """Oracle: the cosine itself."""
    k = np.arange(100_000)
    expected = np.cos(2 * np.pi * np.arange(200) / 37.7)
    np.testing.assert_allclose(autocorrelation(np.cos(2 * np.pi * k / 37.7), 199), expected, atol=2e-3)
