"""Jitter of single lines: its size from the capture, and what knowing it takes off the error of a line in an image."""

import itertools

import numpy as np
import pytest

from stretchscope.acquisition import _simulate_tiles as engine
from stretchscope.sr.bounds import delay_bound
from stretchscope.sr.line_fit import line_fits


@pytest.mark.parametrize(
    ("rate", "jitter_s"), [(5e9, 40e-12), (5e9, 5e-12), (5e9, 1.5e-12), (2e9, 40e-12), (2e9, 5e-12)]
)
def test_jitter_is_measured_and_taken_off(rate: float, jitter_s: float, lab: object) -> None:
    """Oracle: the simulated starts, and the theory of the best guess.

    A delay measured with noise σ of a jitter s is best weighed by s² / (s² + σ²); what is left of the jitter is then
    s·σ / sqrt(s² + σ²).
    """
    instrument = lab.instrument(rate=rate, clock={"jitter_s": jitter_s})
    simulated = lab.simulate(instrument, 2000, cells=4, seed=11)
    found = lab.process(simulated.samples)
    tiles = itertools.islice(engine.line_tiles(instrument, 11), 1, 2)
    own = np.concatenate([tile.starts for tile in tiles])[: simulated.lines] - simulated.starts
    own = own[round((found.starts[0] - simulated.starts[0]) / found.period) :][: found.clock.lines]
    jitter = jitter_s * rate
    noise = delay_bound(found.background)
    # 2000 lines tell a jitter of the noise's size to 3 %, a smaller one worse
    assert found.background.delay_std_samples == pytest.approx(jitter, rel=0.1, abs=0.25 * noise)

    fits = line_fits(
        simulated.samples, 0, found.starts, found.tables,
        gain_std=found.background.gain_std, delay_std=found.background.delay_std_samples,
    )  # fmt: skip
    empty = fits[:, 2] > 0.99
    assert empty.mean() > 0.8
    left = (fits[:, 0] - own)[empty]
    expected = jitter * noise / np.hypot(jitter, noise)
    assert np.std(left) == pytest.approx(expected, rel=0.1)
    assert np.sqrt(np.mean(np.square(fits[empty, 0]))) < np.std(own) * 1.05  # never more than there is
