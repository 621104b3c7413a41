"""Fixtures shared by all rooms: the real data, found beside the checkout or under STRETCHSCOPE_DATA, and benchmarks."""

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

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


@pytest.fixture(scope="session")
def load_benchmark() -> Callable[[str], ModuleType]:
    """``load_benchmark(name)`` gives ``benchmarks/<name>.py``, for the tests that hold what it must show."""
    folder = Path(__file__).resolve().parents[1] / "benchmarks"

    def load(name: str) -> ModuleType:
        sys.path.insert(0, str(folder))  # its helpers lie beside it
        try:
            spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[name] = module  # for its dataclasses
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(folder))
        return module

    return load
