"""Small simulated captures and streams that the tests of this room share."""

from pathlib import Path

import pytest

from stretchscope.acquisition.simulate import simulate
from stretchscope.acquisition.simulated_loop import SimulatedLoop, simulated_loop
from stretchscope.acquisition.source import LoopSource
from stretchscope.pipeline.live_setup import Calibration, calibrate_on_source
from stretchscope.pipeline.settings import Settings


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight thousand lines with sixteen cells at 5 GSa/s, 8 bits, all faults of an ordinary instrument."""
    path = tmp_path_factory.mktemp("captures") / "simulated.h5"
    simulate(path, lines=8_000, cells=16, seed=5)
    return path


@pytest.fixture(scope="session")
def loop() -> SimulatedLoop:
    """Seventeen cells in 38 924 lines of 431.02 samples, without end."""
    return simulated_loop(loop_samples=1 << 24, block_samples=1 << 16, cells_per_s=5000, seed=3)


@pytest.fixture(scope="session")
def calibration(loop: SimulatedLoop) -> Calibration:
    """Measured on that loop."""
    source = LoopSource(
        loop.samples, loop.metadata.sample_rate_hz, metadata=loop.metadata, block_samples=1 << 19, paced=False
    )
    return calibrate_on_source(source, Settings())
