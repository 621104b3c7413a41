"""The real capture, and copies of it decimated to a half, a quarter and a fifth of its rate, through the whole job."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import dclab
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest
from dclab.rtdc_dataset.check import IntegrityChecker

from stretchscope.acquisition import ReplaySource, open_capture
from stretchscope.pipeline.batch import process_capture
from stretchscope.pipeline.cells import Job, image_lines
from stretchscope.pipeline.live_setup import calibrate_on_capture
from stretchscope.pipeline.settings import Settings
from stretchscope.pipeline.stream import run_stream
from stretchscope.pipeline.survey import survey_capture
from stretchscope.sr.reconstruct import Grid

TRUE_PERIOD_SAMPLES = 275.519503  # facts of the capture: maximum-likelihood template delays, ± 1e-6


@pytest.fixture(scope="module")
def results(oil_emulsion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    process_capture(oil_emulsion, folder)
    return folder


@pytest.fixture(scope="module")
def decimation(load_benchmark: Callable[[str], ModuleType]) -> ModuleType:
    """The benchmark that holds decimated copies against the samples they lack."""
    return load_benchmark("decimation")


def test_line_period_with_an_honest_uncertainty(results: Path) -> None:
    signal = json.loads((results / "oil_emulsion.run.json").read_text())["signal"]
    error = abs(signal["line_period_samples"] - TRUE_PERIOD_SAMPLES)
    assert error < 2e-5
    assert error < 4 * signal["line_period_uncertainty_samples"]
    assert signal["line_period_uncertainty_samples"] < 1e-5
    assert signal["shear_samples_per_line"] == pytest.approx(0.5195, abs=1e-4)
    assert signal["lines"] == 998


def test_exactly_one_droplet_and_whole(results: Path) -> None:
    """Lines 233 to 709 lose more than 4 % of their light; the outline may lie a few lines off either way."""
    with (results / "oil_emulsion.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert int(row["line_first"]) == pytest.approx(233, abs=8)
    assert int(row["line_last"]) == pytest.approx(709, abs=8)
    assert float(row["circularity"]) > 0.93
    assert float(row["transmission_min"]) < 0.15
    assert 0.9 < float(row["transmission_max"]) < 1.2
    assert row["touches_border"] == "0"


def test_saturation_and_converters(results: Path) -> None:
    """Offsets to within the baseline's own level; their differences and the gains to within what they were measured."""
    record = json.loads((results / "oil_emulsion.run.json").read_text())
    signal = record["signal"]
    assert signal["saturated_samples"] == 643
    assert signal["saturated_fraction"] == pytest.approx(0.002338, abs=1e-6)
    offsets = np.array(signal["interleave_offset_codes"])
    expected = np.array([0.05, -2.39, -0.35, -2.71])
    np.testing.assert_allclose(offsets - offsets.mean(), expected - expected.mean(), atol=0.05)
    np.testing.assert_allclose(signal["interleave_gain"], [0.9959, 0.9915, 1.0191, 0.9937], atol=0.003)
    assert signal["noise_std_codes"] == pytest.approx(0.556, abs=0.05)
    counted = record["accounting"]
    assert counted["samples_offered"] == counted["samples_processed"] == 275_000


def test_image_is_fine_and_clean(oil_emulsion: Path, results: Path) -> None:
    """At least six times finer than the samples, rows of at most 27 lines, empty lines without texture."""
    grid = Grid(
        **{
            k: v
            for k, v in json.loads((results / "oil_emulsion.run.json").read_text())["grid"].items()
            if k != "pixel_um"
        }
    )
    assert grid.columns_per_sample >= 6
    assert grid.lines_per_row <= 27
    settings = Settings().with_method("regularised")
    with open_capture(oil_emulsion) as capture:
        survey = survey_capture(capture, settings.capture)
    job = Job(oil_emulsion, survey, settings)
    tau = (0.0, survey.background.lit_samples)
    for rows in ((0.0, 205.0), (737.0, 997.0)):
        image = image_lines(job, grid, survey.segments[0], survey.clock.segments[0], rows, tau)
        deviation = image.transmission[image.known] - 1
        assert image.known.mean() > 0.6
        assert np.sqrt(np.mean(deviation**2)) <= 0.02
        # no comb: no column and no row stands out from what the noise leaves in its mean
        columns = np.nanmean(np.where(image.known, image.transmission - 1, np.nan)[:, image.known.all(axis=0)], axis=0)
        assert np.abs(columns).max() < 0.02


def test_dclab_opens_the_droplet(results: Path) -> None:
    with dclab.new_dataset(results / "oil_emulsion.rtdc") as dataset:
        assert len(dataset) == 1
        assert dataset["mask"][0].sum() > 2000
        assert dataset["image"][0].shape == dataset["mask"][0].shape
        assert int(dataset["userdef2"][0]) < 70_000 < 190_000 < int(dataset["userdef3"][0])
    assert not [cue for cue in IntegrityChecker(results / "oil_emulsion.rtdc").check() if cue.level != "info"]


@pytest.mark.parametrize("divisor", [2, 4, 5])
def test_decimated_copies_are_processed_on_their_own(oil_emulsion: Path, tmp_path: Path, divisor: int) -> None:
    """As files of their own: the same layout, no rate, no nominal period, no aspect."""
    path = tmp_path / "few.h5"
    with h5py.File(oil_emulsion) as source, h5py.File(path, "w") as target:
        target["raw"] = source["raw"][::divisor]
    settings = Settings().with_capture(sample_rate_hz=5e9 / divisor)
    record = process_capture(path, tmp_path / "results", settings)
    assert record["signal"]["line_period_samples"] * divisor == pytest.approx(TRUE_PERIOD_SAMPLES, abs=5e-5)
    assert record["accounting"]["cells"] == 1
    with (tmp_path / "results" / "few.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert int(row["line_first"]) == pytest.approx(233, abs=15)
    assert int(row["line_last"]) == pytest.approx(709, abs=15)


@pytest.mark.parametrize("divisor", [2, 4, 5])
def test_decimated_copies_show_what_the_other_samples_show(
    oil_emulsion: Path, decimation: ModuleType, divisor: int
) -> None:
    with open_capture(oil_emulsion) as capture:
        samples = capture.read(0, capture.samples)
    errors = decimation.compare(samples, divisor)
    assert errors["pixel_super_resolution"] <= 0.02
    assert errors["pixel_super_resolution"] < 0.2 * errors["registered_and_averaged"]
    assert errors["compared_fraction"] > 0.6


def test_the_stream_sees_the_same_droplet(oil_emulsion: Path, tmp_path: Path) -> None:
    """Replayed as a stream: one droplet on the same lines, of the size and light that `process` finds by gridding."""
    process_capture(oil_emulsion, tmp_path / "batch", Settings().with_method("gridding"))
    calibration = calibrate_on_capture(oil_emulsion, Settings())
    with open_capture(oil_emulsion) as capture:
        record = run_stream(ReplaySource(capture, paced=False), calibration, folder=tmp_path, stem="live")
    assert record["error"] is None
    assert record["accounting"]["samples_dropped"]["without_line_clock"] < TRUE_PERIOD_SAMPLES
    one, other = pq.read_table(tmp_path / "batch" / "oil_emulsion.parquet"), pq.read_table(tmp_path / "live.parquet")
    assert one.num_rows == other.num_rows == 1
    for name in ("line_first", "line_last"):
        assert one[name][0].as_py() == other[name][0].as_py()
    for name in ("area_px2", "size_x_px", "size_y_px", "transmission_mean", "position_samples"):
        assert other[name][0].as_py() == pytest.approx(one[name][0].as_py(), rel=0.01)
