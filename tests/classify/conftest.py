"""The slow versions of the compiled kernels, loaded by path: tests are no package."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def slow_segment() -> ModuleType:
    return _load("reference_segment")


@pytest.fixture(scope="session")
def slow_features() -> ModuleType:
    return _load("reference_features")
