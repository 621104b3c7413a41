"""Whole runs on a simulated capture: the truth is found, and how a run is cut changes nothing."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import dclab
import h5py
import numpy as np
import pyarrow.parquet as pq
import pytest

from stretchscope.acquisition import CaptureMetadata, CaptureWriter, open_capture
from stretchscope.acquisition.optics import Instrument
from stretchscope.acquisition.simulate import simulate_capture
from stretchscope.data.phantoms import StampScene, place
from stretchscope.data.stamps import disc_stamps
from stretchscope.pipeline import stretches
from stretchscope.pipeline.batch import process_capture
from stretchscope.pipeline.demo import match_cells
from stretchscope.pipeline.execution import Execution
from stretchscope.pipeline.results import OutputError
from stretchscope.pipeline.settings import Settings
from stretchscope.pipeline.survey import survey_capture

TABLES = (".csv", ".parquet")


@pytest.fixture(scope="module")
def results(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    process_capture(simulated, folder, execution=Execution(workers=2))
    return folder


def rows_of(folder: Path, stem: str = "simulated") -> list[dict[str, str]]:
    with (folder / f"{stem}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_all_cells_are_found_once_and_none_invented(simulated: Path, results: Path) -> None:
    with h5py.File(simulated) as file:
        cells = file["truth/cells"][:]
    found = [(float(r["line_centre"]), float(r["position_um"])) for r in rows_of(results)]
    assert len(found) == len(cells)
    assert sorted(match_cells(cells, found)) == list(range(len(cells)))


def test_sizes_agree_with_the_truth(simulated: Path, results: Path) -> None:
    """A cell's outline lies half-way up its soft edge, a fixed share inside the simulated outline, for all alike."""
    with h5py.File(simulated) as file:
        cells = np.sort(file["truth/cells"][:], order="y_um")
    rows = sorted(rows_of(results), key=lambda r: float(r["line_centre"]))
    ratio = np.array([float(r["equivalent_diameter_um"]) for r in rows]) / cells["diameter_um"]
    assert 0.95 < ratio.mean() < 1.0
    assert ratio.std() < 0.005


def test_rows_lead_back_to_their_samples(simulated: Path, results: Path) -> None:
    """The samples of a row, against the true line starts."""
    with h5py.File(simulated) as file:
        starts = file["truth/line_start_samples"][:]
    for row in rows_of(results):
        first, last = int(row["line_first"]), int(row["line_last"])
        period = starts[1] - starts[0]
        assert abs(int(row["sample_first"]) - starts[first]) < 0.05 * period
        assert abs(int(row["sample_last"]) - starts[last] - period) < 0.05 * period
        assert float(row["time_s"]) * 5e9 == pytest.approx(starts[(first + last) // 2], abs=2 * period)


def test_every_sample_is_accounted_for(simulated: Path, results: Path) -> None:
    record = json.loads((results / "simulated.run.json").read_text())
    counted = record["accounting"]
    dropped = sum(counted["samples_dropped"].values())
    assert counted["samples_offered"] == counted["samples_processed"] + dropped
    with open_capture(simulated) as capture:
        assert counted["samples_offered"] == capture.samples
        low, high = capture.code_limits or (0, 0)
        samples = capture.read(0, capture.samples)
    assert counted["samples_saturated"] == np.count_nonzero((samples <= low) | (samples >= high))


def test_tables_agree_and_have_no_row_out_of_order(results: Path) -> None:
    table = pq.read_table(results / "simulated.parquet")
    rows = rows_of(results)
    assert table.num_rows == len(rows)
    for name in ("line_first", "area_um2", "transmission_mean"):
        np.testing.assert_array_equal(table[name].to_numpy(), [float(r[name]) for r in rows])
    assert np.all(np.diff(table["line_first"].to_numpy()) >= 0)
    assert table["label"].null_count == table.num_rows


def test_dclab_reads_every_event(results: Path) -> None:
    with dclab.new_dataset(results / "simulated.rtdc") as dataset:
        rows = rows_of(results)
        assert len(dataset) == len(rows)
        for i, row in enumerate(rows):
            assert dataset["mask"][i].any()
            assert dataset["image"][i].dtype == np.uint8
            assert dataset["userdef0"][i] == int(row["line_first"])
            assert dataset["deform"][i] == pytest.approx(float(row["deformation"]), rel=1e-6)


@pytest.mark.parametrize(("workers", "chunk_samples"), [(1, 1 << 16), (2, 700_001), (3, 1 << 24)])
def test_workers_and_chunks_change_no_byte(
    simulated: Path, results: Path, tmp_path: Path, workers: int, chunk_samples: int
) -> None:
    record = process_capture(simulated, tmp_path, execution=Execution(workers=workers, chunk_samples=chunk_samples))
    for suffix in TABLES:
        assert (tmp_path / f"simulated{suffix}").read_bytes() == (results / f"simulated{suffix}").read_bytes()
    assert record["quality"] == json.loads((results / "simulated.run.json").read_text())["quality"]


def test_stretches_change_no_cell(
    simulated: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cells that lie across the border of two stretches are found whole, and once."""
    monkeypatch.setattr(stretches, "STRETCH_SAMPLES", 50_000)
    process_capture(simulated, tmp_path)
    assert [r["line_centre"] for r in rows_of(tmp_path)] == [r["line_centre"] for r in rows_of(results)]


def test_a_killed_run_goes_on_where_it_was(
    simulated: Path, results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import sys, os, signal; from stretchscope.pipeline import batch, execution, stretches\n"
        "stretches.STRETCH_SAMPLES = 300_000\n"
        "def stop(done, total, cells):\n"
        "    if done > total * 0.6: os.kill(os.getpid(), signal.SIGKILL)\n"
        "batch.process_capture(sys.argv[1], sys.argv[2], execution=execution.Execution(workers=1, progress=stop))"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(simulated), str(tmp_path)], check=False, timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "simulated.csv").exists()
    with dclab.new_dataset(_copied(tmp_path / "simulated.rtdc.part", "left.rtdc")) as left:
        assert 0 < len(left) < len(rows_of(results))
    monkeypatch.setattr(stretches, "STRETCH_SAMPLES", 300_000)
    looked_at = []
    record = process_capture(
        simulated, tmp_path, resume=True, execution=Execution(progress=lambda done, *_: looked_at.append(done))
    )
    assert len(looked_at) < 8_000 * 431 / 300_000 / 2  # the first part was not done again
    whole = tmp_path / "whole"
    assert process_capture(simulated, whole)["quality"] == record["quality"]
    for suffix in TABLES:
        assert (tmp_path / f"simulated{suffix}").read_bytes() == (whole / f"simulated{suffix}").read_bytes()
    assert not list(tmp_path.glob("*.part"))


def _copied(path: Path, name: str) -> Path:
    copy = path.with_name(name)
    copy.write_bytes(path.read_bytes())
    return copy


def test_resume_leaves_a_finished_run_as_it_is(simulated: Path, tmp_path: Path) -> None:
    process_capture(simulated, tmp_path, resume=True)
    before = {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    time.sleep(0.01)
    process_capture(simulated, tmp_path, resume=True)
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before
    other = Settings().with_capture(flow_speed_m_per_s=1.0)
    with pytest.raises(OutputError, match="a finished run with another capture, settings, model or version"):
        process_capture(simulated, tmp_path, other, resume=True)


def test_resume_makes_what_is_missing_of_a_finished_run(simulated: Path, tmp_path: Path) -> None:
    process_capture(simulated, tmp_path)
    table = (tmp_path / "simulated.csv").read_bytes()
    (tmp_path / "simulated.csv").unlink()
    process_capture(simulated, tmp_path, resume=True, full_image=True)
    assert (tmp_path / "simulated.csv").read_bytes() == table
    assert (tmp_path / "simulated.image.h5").exists()


def test_a_result_never_replaces_the_capture(simulated: Path, tmp_path: Path) -> None:
    capture = tmp_path / "foo.rtdc"
    capture.write_bytes(simulated.read_bytes())
    with pytest.raises(OutputError, match="would replace the capture"):
        process_capture(capture, tmp_path, overwrite=True)
    assert capture.read_bytes() == simulated.read_bytes()


def copy_with(simulated: Path, path: Path, samples: np.ndarray, **metadata: object) -> Path:
    """The capture with other samples."""
    with open_capture(simulated) as capture:
        known = replace(capture.metadata, **metadata)
    with CaptureWriter(path, known, samples.dtype) as writer:
        writer.append(samples)
    return path


@pytest.mark.parametrize("where", ["before", "between", "after"])
def test_darkness_is_no_cell(where: str, simulated: Path, results: Path, tmp_path: Path) -> None:
    """The laser is off for a while: the cells are those that were there, and the lines without light are told."""
    with open_capture(simulated) as capture:
        y = capture.read(0, capture.samples)
    known = json.loads((results / "simulated.run.json").read_text())["signal"]
    period, dark_code = known["line_period_samples"], known["dark_level_codes"]
    # whole lines in a multiple of eight samples: the interleaved converters go on in turn
    lines = min(range(800, 1000), key=lambda n: abs(n * period / 8 - round(n * period / 8)))
    noise = np.random.default_rng(3).normal(0, 0.5, 8 * round(lines * period / 8))
    rows = rows_of(results)
    first, last = (np.array([int(r[f"line_{end}"]) for r in rows]) for end in ("first", "last"))
    gaps = first[1:] - np.maximum.accumulate(last)[:-1]
    free = int(np.argmax(gaps))
    middle = int(rows[free]["sample_last"]) + int(gaps[free] / 2 * period)
    cut = {"before": 0, "between": middle, "after": y.size}[where]
    samples = np.concatenate([y[:cut], np.rint(dark_code + noise).astype(y.dtype), y[cut:]])
    record = process_capture(copy_with(simulated, tmp_path / "moved.h5", samples), tmp_path)
    shift = np.where(np.array([int(r["sample_first"]) for r in rows]) >= cut, lines, 0)
    np.testing.assert_allclose([int(r["line_first"]) for r in rows_of(tmp_path, "moved")], first + shift, atol=2)
    assert abs(record["accounting"]["lines_without_light"] - lines) <= 8
    assert any("hold no light" in warning for warning in record["signal"]["warnings"])


def test_what_is_stated_does_not_overrule_what_is_seen(simulated: Path, results: Path, tmp_path: Path) -> None:
    with open_capture(simulated) as capture:
        y = capture.read(0, capture.samples)
    path = copy_with(simulated, tmp_path / "wrong.h5", y, dark_level_codes=0.0, nominal_line_period_samples=400.0)
    record = process_capture(path, tmp_path)
    assert [r["line_first"] for r in rows_of(tmp_path, "wrong")] == [r["line_first"] for r in rows_of(results)]
    assert len(record["signal"]["warnings"]) == 2


@pytest.mark.parametrize(("gain", "told"), [(1.2, False), (1.25, True)])
def test_much_saturation_is_told(gain: float, told: bool, simulated: Path, tmp_path: Path) -> None:
    """More light on the same dark level: told, with what to do, where it saturates more than 2 % of the samples."""
    with open_capture(simulated) as capture:
        y = capture.read(0, 500_000)  # as much as one stretch
        low, high = capture.code_limits
    dark = np.percentile(y, 1)
    louder = np.clip(np.rint(dark + gain * (y - dark)), low, high).astype(y.dtype)
    share = np.mean((louder <= low) | (louder >= high))
    assert (share > 0.02) == told
    with open_capture(copy_with(simulated, tmp_path / "louder.h5", louder)) as capture:
        warnings = survey_capture(capture, Settings().capture).warnings
    assert len(warnings) == told
    if told:
        assert warnings[0].startswith(f"{100 * share:.2g} % of the samples are saturated")
        assert "lower the light" in warnings[0]


def test_results_in_the_way_are_kept(simulated: Path, results: Path) -> None:
    before = (results / "simulated.csv").read_bytes()
    with pytest.raises(OutputError, match="exists: give --overwrite"):
        process_capture(simulated, results)
    assert (results / "simulated.csv").read_bytes() == before


def test_a_failed_run_leaves_nothing(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).integers(-20, 20, 300_000).astype(np.int8)
    path = tmp_path / "noise.h5"
    with CaptureWriter(path, CaptureMetadata(sample_rate_hz=5e9, bits=8), np.int8) as writer:
        writer.append(noise)
    with pytest.raises(ValueError, match=r"noise\.h5: nothing in the signal repeats"):
        process_capture(path, tmp_path / "deep" / "results")
    assert not (tmp_path / "deep").exists()


def test_gaps_are_kept_apart(simulated: Path, results: Path, tmp_path: Path) -> None:
    """A capture with a gap: lines go on counting, times are the digitiser's, no cell is made of two stretches."""
    with open_capture(simulated) as capture:
        samples, metadata = capture.read(0, capture.samples), capture.metadata
    path = tmp_path / "gap.h5"
    cut, lost = 1_500_000, 123_456  # a multiple of eight: the interleaved converters go on in turn
    with CaptureWriter(path, metadata, samples.dtype) as writer:
        writer.append(samples[:cut])
        writer.append(samples[cut:], device_index=cut + lost)
    record = process_capture(path, tmp_path / "results")
    assert record["signal"]["segments"] == 2
    whole, parts = rows_of(results), rows_of(tmp_path / "results", "gap")
    assert abs(len(whole) - len(parts)) <= 1  # one may lie on the cut
    late = [r for r in parts if int(r["sample_first"]) >= cut]
    for row in late:
        twin = min(whole, key=lambda r: abs(int(r["sample_first"]) - int(row["sample_first"])))
        assert float(row["time_s"]) - float(twin["time_s"]) == pytest.approx(lost / 5e9, abs=5e-9)
        assert int(row["line_first"]) - int(twin["line_first"]) in (-2, -1, 0)


@pytest.mark.filterwarnings("ignore")  # a slow machine makes Dask warn of slow starts and late ends
def test_a_distributed_scheduler_gives_the_same_bytes(simulated: Path, results: Path, tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    try:
        cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
    except (OSError, RuntimeError, TimeoutError) as error:
        pytest.skip(f"Dask cannot start workers here: {error}")
    with cluster, Client(cluster):
        process_capture(simulated, tmp_path, execution=Execution(scheduler=cluster.scheduler_address))
    assert (tmp_path / "simulated.csv").read_bytes() == (results / "simulated.csv").read_bytes()


def test_full_image_shows_every_line(simulated: Path, tmp_path: Path) -> None:
    record = process_capture(simulated, tmp_path, full_image=True)
    with h5py.File(tmp_path / "simulated.image.h5") as file:
        image = file["transmission"]
        rows = (record["accounting"]["lines"] - 1) / record["grid"]["lines_per_row"]
        assert image.shape[0] == int(rows) + 1
        assert np.nanmedian(image[:]) == pytest.approx(1.0, abs=0.02)
        assert np.isfinite(image[:]).mean() > 0.9


def test_nothing_is_written_into_a_folder_that_cannot_be(simulated: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with pytest.raises(OutputError, match="cannot be written"):
        process_capture(simulated, blocked / "results")
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("along_flow", [False, True])
@pytest.mark.parametrize("gap_um", [2.0, 3.0, 4.0])
def test_neighbours_are_told_apart(tmp_path: Path, gap_um: float, along_flow: bool) -> None:
    """Two discs of 8 µm, their edges 2 to 4 µm apart, in the same lines or one after the other."""
    step = np.array([0.0, 8.0 + gap_um])
    x, y = (np.full(2, 24.0), 60 + step) if along_flow else (18 + step, np.full(2, 60.0))
    discs = place(disc_stamps(), x_um=x, y_um=y, diameter_um=8.0, contrast=0.4)
    path = tmp_path / "two.h5"
    simulate_capture(path, StampScene.of(disc_stamps(), discs), Instrument(), lines=1_500, seed=7)
    process_capture(path, tmp_path / "results")
    rows = rows_of(tmp_path / "results", "two")
    assert [float(r["area_um2"]) for r in rows] == pytest.approx([np.pi * 16] * 2, rel=0.1)


@pytest.mark.parametrize("gap_um", [1.5, 2.5])
def test_dim_neighbour_of_a_bright_cell_is_found(tmp_path: Path, gap_um: float) -> None:
    """Two discs of 8 µm, one an eighth as deep as the other and less than three lines of the map behind it."""
    discs = place(
        disc_stamps(), x_um=[24.0, 24.0], y_um=[60.0, 68.0 + gap_um], diameter_um=8.0, contrast=[0.85, 0.85 / 8]
    )
    path = tmp_path / "two.h5"
    simulate_capture(path, StampScene.of(disc_stamps(), discs), Instrument(), lines=1_500, seed=7)
    process_capture(path, tmp_path / "results")
    rows = rows_of(tmp_path / "results", "two")
    assert [float(r["area_um2"]) for r in rows] == pytest.approx([np.pi * 16] * 2, rel=0.15)
