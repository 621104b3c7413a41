"""Small simulated captures that the tests of this room share."""

from pathlib import Path

import pytest

from stretchscope.acquisition.simulate import simulate


@pytest.fixture(scope="session")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight thousand lines with sixteen cells at 5 GSa/s, 8 bits, all faults of an ordinary instrument."""
    path = tmp_path_factory.mktemp("captures") / "simulated.h5"
    simulate(path, lines=8_000, cells=16, seed=5)
    return path
