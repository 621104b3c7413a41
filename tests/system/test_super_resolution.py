"""What a slower digitiser costs: the headline experiment on a short scene, and what it must show."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow

BASELINES = ("raw lines", "registered lines", "line interleaving", "simple interpolation", "full interpolation")


@pytest.fixture(scope="module")
def experiment(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return load_benchmark("super_resolution")


@pytest.fixture(scope="module")
def rates(experiment: ModuleType) -> dict[str, Any]:
    scene = experiment.PaintedScene(100.0, 2)
    long = experiment.study_rates(scene, experiment.PULSE_S, (20e9, 5e9, 2e9), 2000, 2)
    short = experiment.study_rates(scene, experiment.SHORT_PULSE_S, (20e9, 5e9), 2000, 2)
    return {name: row["methods"] for name, row in long.items()} | {
        f"{name}, short pulse": row["methods"] for name, row in short.items()
    }


@pytest.mark.parametrize(
    ("slow", "fast", "least_correlation", "coarser"),
    [
        ("5 GSa/s", "20 GSa/s", 0.99, 1.05),
        ("2 GSa/s", "20 GSa/s", 0.98, 1.10),
        ("5 GSa/s, short pulse", "20 GSa/s, short pulse", 0.98, 1.10),
    ],
)
def test_a_slower_digitiser_sees_what_a_fast_one_sees(
    rates: dict[str, Any], slow: str, fast: str, least_correlation: float, coarser: float
) -> None:
    for method in ("gridding", "regularised"):
        one, other = rates[slow][method], rates[fast][method]
        assert one["correlation"] >= least_correlation * other["correlation"]
    one, other = rates[slow]["regularised"], rates[fast]["regularised"]
    assert one["resolution_fast_um"] <= coarser * other["resolution_fast_um"]
    assert one["resolution_slow_um"] <= coarser * other["resolution_slow_um"]


def test_regularised_comes_nearest_to_the_scene(rates: dict[str, Any]) -> None:
    for methods in rates.values():
        best = max(methods[name]["psnr_db"] for name in BASELINES)
        assert methods["gridding"]["psnr_db"] > best
        assert methods["regularised"]["psnr_db"] > methods["gridding"]["psnr_db"] + 2
