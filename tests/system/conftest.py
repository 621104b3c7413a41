"""Benchmarks as modules, for the tests that hold what they must show."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def load_benchmark() -> Callable[[str], ModuleType]:
    """``load_benchmark(name)`` gives ``benchmarks/<name>.py``."""
    folder = Path(__file__).resolve().parents[2] / "benchmarks"

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
