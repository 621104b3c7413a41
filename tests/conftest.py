"""Fixtures shared by all rooms: the real data, found beside the checkout or under STRETCHSCOPE_DATA."""

import os
from pathlib import Path

import pytest


def _data_dir() -> Path:
    named = os.environ.get("STRETCHSCOPE_DATA")
    return Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real captures and images; without it the test is skipped, or fails where CI=true."""
    folder = _data_dir()
    if not folder.is_dir():
        reason = f"no real data at {folder}; set STRETCHSCOPE_DATA to the folder that holds it"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return folder


@pytest.fixture(scope="session")
def oil_emulsion(data_dir: Path) -> Path:
    """The real time-stretch capture: one oil droplet, 998 whole lines, 5 GSa/s."""
    return data_dir / "oil_emulsion.hdf5"
