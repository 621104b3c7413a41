"""The files of a live run: complete, sorted, bounded, and readable after a kill or on a full disk."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import cache
from itertools import pairwise
from types import SimpleNamespace

import dclab
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dclab.cli import verify_dataset

from stretchscope.classify.features import FEATURES, measure_cell
from stretchscope.pipeline import live_results
from stretchscope.pipeline.live_results import (
    CellBatch,
    LiveResults,
    OutputThread,
    prepare_folder,
    table_to_parquet,
)
from stretchscope.pipeline.results import OutputError, columns_of, table_schema
from stretchscope.pipeline.rtdc import RtdcMetadata

SIDE = 48
COLUMNS = columns_of(calibrated=False, position_um=False)
METADATA = RtdcMetadata(
    sample="beads", run_identifier="1f", software_version="0.1.0", line_rate_hz=11.6e6, sample_rate_hz=5e9
)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(live_results, "SPARE_BYTES", 1 << 20)
    monkeypatch.setattr(live_results, "WRITE_ROWS", 1000)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@cache
def _ellipses():
    rng = np.random.default_rng(1)
    x, y = np.mgrid[:SIDE, :SIDE] - SIDE / 2
    half = rng.uniform(6, 15, (2, 20, 1, 1))
    masks = (x / half[0]) ** 2 + (y / half[1]) ** 2 <= 1
    crops = np.clip(150 - 50 * masks + rng.normal(0, 4, masks.shape), 0, 255).astype(np.uint8)
    known = np.ones((SIDE, SIDE), dtype=bool)
    return crops, masks, [measure_cell(m, c / 150, known, pixel_um=None) for m, c in zip(masks, crops, strict=True)]


def batch_of(first_row, rows, *, pictured=None):
    """Rows first_row … of an endless table, a cell every hundred lines, two cells on one line now and then."""
    crops, masks, features = _ellipses()
    row = np.arange(first_row, first_row + rows)
    which = row % len(crops)
    line = row // 5 * 500 + np.maximum(row % 5, 1) * 100 + 2**40
    columns = {
        "line_first": line,
        "line_last": line + 30,
        "sample_first": line * 275,
        "sample_last": (line + 31) * 275,
        "time_s": line / 11.6e6,
        "line_centre": line + 15.0,
        "position_samples": 100.0 + row % 7,
        "significance": 5.0 + row,
        **{f.column(False): np.array([features[k][f.column(False)] for k in which]) for f in FEATURES},
        "saturated_samples": row % 2,
    }
    columns["texture_energy"] = np.where(row % 10 == 3, np.nan, columns["texture_energy"])
    pictured = np.ones(rows, dtype=bool) if pictured is None else pictured
    crops, masks = crops[which[pictured]], masks[which[pictured]]
    noise = np.random.default_rng(first_row).integers(0, 8, crops.shape, dtype=np.uint8)
    return CellBatch(columns, crops ^ noise, masks, pictured)


def expected_table(rows):
    """The rows in order, NaN and what is left out as nulls."""
    columns = batch_of(0, rows).columns
    order = np.lexsort((columns["position_samples"], columns["line_first"]))
    schema = table_schema(COLUMNS)
    arrays = [
        pa.array(columns[f.name][order], from_pandas=True).cast(f.type) if f.name in columns else pa.nulls(rows, f.type)
        for f in schema
    ]
    return pa.table(arrays, schema=schema)


def results_in(folder, **options):
    assert prepare_folder(folder, "run") == []
    return LiveResults(folder, "run", COLUMNS, METADATA, SIDE, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def verify(path):
    with pytest.raises(SystemExit, match=r"\d") as stop:
        verify_dataset(path)
    return stop.value.code


def pictured_lines(paths):
    """First lines of the cells in .rtdc files, each of which dclab finds in order."""
    lines = []
    for path in paths:
        assert verify(path) == 0, path
        with dclab.new_dataset(path) as dataset:
            lines.append(dataset["userdef0"][:])
        with h5py.File(path) as file:
            events = {name: values[:] for name, values in file["events"].items()}  # every chunk passes its checksum
        assert {len(values) for values in events.values()} == {len(lines[-1])}
        mask = events["mask"] > 0
        mean = (events["image"] * mask).sum(axis=(1, 2)) / mask.sum(axis=(1, 2))
        np.testing.assert_array_equal(mean, events["bright_avg"])  # each picture is that of its row
    return np.concatenate(lines) if lines else np.array([])


def test_parquet_holds_the_rows_in_order_and_rtdc_the_pictures(tmp_path):
    """Batches of any size, two workers' swapped, some cells without a picture."""
    results = results_in(tmp_path / "new" / "folder")
    cuts = [0, 700, 701, 1500, 2900, 2950, 4000]
    batches = [batch_of(a, b - a, pictured=np.arange(a, b) % 3 > 0) for a, b in pairwise(cuts)]
    for k in (1, 0, 3, 2, 5, 4):
        results.append(batches[k])
    assert names(results.folder) == ["run.spare.part", "run.table.arrow.part", "run_0001.rtdc.part"]
    results.finish({"seed": 7})
    assert names(results.folder) == ["run.parquet", "run.run.json", "run_0001.rtdc"]
    assert pq.read_table(results.folder / "run.parquet").equals(expected_table(4000))
    record = json.loads((results.folder / "run.run.json").read_text())
    pictures = int(np.count_nonzero(np.arange(4000) % 3))
    outputs = {"table": "run.parquet", "rtdc": ["run_0001.rtdc"], "cells": 4000, "pictures": pictures}
    assert record == {"seed": 7, "outputs": outputs}
    lines = pictured_lines([results.folder / "run_0001.rtdc"])
    columns = batch_of(0, 4000).columns
    np.testing.assert_array_equal(np.sort(lines), columns["line_first"][np.arange(4000) % 3 > 0])


def test_a_run_without_cells_has_an_empty_table_and_no_pictures(tmp_path):
    results = results_in(tmp_path)
    results.append(batch_of(0, 0))
    results.finish({})
    assert names(tmp_path) == ["run.parquet", "run.run.json"]
    assert pq.read_table(tmp_path / "run.parquet").equals(expected_table(0))
    with pytest.raises(OutputError, match="the files of run are closed"):
        results.append(batch_of(0, 1))


def test_rows_wait_for_a_thousand_or_a_second(tmp_path):
    clock = Clock()
    results = results_in(tmp_path, clock=clock)
    results.append(batch_of(0, 999))
    assert results.rows_written == 0
    results.append(batch_of(999, 1))
    assert results.rows_written == 1000
    clock.now = 100.0
    results.append(batch_of(1000, 1))
    clock.now = 100.9
    results.write_due()
    assert results.rows_written == 1000
    clock.now = 101.0
    results.write_due()
    assert results.rows_written == results.pictures_written == 1001
    results.abandon()


def test_rotation_by_time(tmp_path):
    """A file is closed when it is old, and the next one begun by the next cell."""
    clock = Clock()
    results = results_in(tmp_path, rotate_s=600.0, clock=clock)
    first = 0
    for start in (0.0, 10_000.0, 20_000.0):
        for seconds in (0.0, 300.0, 599.0):
            clock.now = start + seconds
            results.append(batch_of(first, 1000))
            first += 1000
        clock.now = start + 600.0
        results.write_due()
        assert not list(tmp_path.glob("*.rtdc.part"))
    results.finish({})
    files = sorted(tmp_path.glob("*.rtdc"))
    assert [path.name for path in files] == ["run_0001.rtdc", "run_0002.rtdc", "run_0003.rtdc"]
    np.testing.assert_array_equal(pictured_lines(files), batch_of(0, 9000).columns["line_first"])
    with dclab.new_dataset(files[2]) as dataset:
        assert dataset.config["experiment"]["run index"] == 3
    assert pq.read_table(tmp_path / "run.parquet").equals(expected_table(9000))


def test_rotation_by_size(tmp_path):
    results = results_in(tmp_path, rotate_bytes=3_000_000)
    for first in range(0, 6000, 500):
        results.append(batch_of(first, 500))
    results.finish({})
    files = sorted(tmp_path.glob("*.rtdc"))
    assert len(files) >= 3
    assert all(3_000_000 <= path.stat().st_size < 6_000_000 for path in files[:-1])
    np.testing.assert_array_equal(pictured_lines(files), batch_of(0, 6000).columns["line_first"])


def test_wrong_batches_are_refused_and_cost_nothing(tmp_path):
    results, good = results_in(tmp_path), batch_of(0, 5)
    empty = good.masks.copy()
    empty[3] = False
    wrong = [
        (CellBatch({"line_first": np.arange(5)}, good.crops, good.masks, good.pictured), "lacks the columns line_last"),
        (CellBatch(good.columns, good.crops[1:], good.masks, good.pictured), r"crops must be uint8 of shape \(5, "),
        (CellBatch(good.columns, good.crops, good.masks.view(np.uint8), good.pictured), "masks must be bool"),
        (CellBatch(good.columns, good.crops, empty, good.pictured), "a mask is empty"),
        (CellBatch(good.columns, good.crops, good.masks, np.ones(6, dtype=bool)), r"line_first must have shape \(6,\)"),
    ]
    for batch, message in wrong:
        with pytest.raises(ValueError, match=message):
            results.append(batch)
    results.append(good)
    results.finish({})
    assert pq.read_table(tmp_path / "run.parquet").equals(expected_table(5))


def test_finished_runs_are_kept_unless_told(tmp_path):
    results = results_in(tmp_path, rotate_bytes=1)
    for first in (0, 1000):
        results.append(batch_of(first, 1000))
    results.finish({})
    before = names(tmp_path)
    with pytest.raises(OutputError, match=r"run\.run\.json exists: give --overwrite to replace"):
        prepare_folder(tmp_path, "run")
    assert names(tmp_path) == before
    assert prepare_folder(tmp_path, "run", overwrite=True) == [f"{tmp_path / 'run.run.json'}: the run is replaced"]
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["run.csv", "run.checkpoint.part", "run.rtdc"])
def test_a_processed_capture_is_never_replaced(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(OutputError, match="is of a processed capture: give another folder"):
        prepare_folder(tmp_path, "run", overwrite=True)


def test_a_run_of_a_longer_name_is_not_taken_for_this_one(tmp_path):
    for suffix in (".rtdc", ".run.json"):
        (tmp_path / f"run_0001{suffix}").touch()
    with pytest.raises(OutputError, match=r"run_0001\.rtdc is of another run, run_0001: give another folder"):
        prepare_folder(tmp_path, "run", overwrite=True)


def test_a_folder_that_cannot_be_made_is_one_clear_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written: "):
        prepare_folder(tmp_path / "file" / "below", "run")


def test_a_run_under_way_is_left_alone(tmp_path):
    pytest.importorskip("fcntl")
    results = results_in(tmp_path)
    results.append(batch_of(0, 1000))
    with pytest.raises(OutputError, match="a run is writing there"):
        prepare_folder(tmp_path, "run")
    with pytest.raises(OutputError, match="a run writes there or was broken; prepare the folder"):
        LiveResults(tmp_path, "run", COLUMNS, METADATA, SIDE)
    results.finish({})
    assert pq.read_table(tmp_path / "run.parquet").equals(expected_table(1000))


def start(script, *arguments):
    """A process that runs a script with this module's names."""
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("here", {__file__!r})
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
from pathlib import Path
{script}
"""
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)


def test_what_a_killed_run_left_is_completed(tmp_path):
    """SIGKILL at any moment of endless writing: all that was said to be written is there, in order, once."""
    script = """
here.live_results.SPARE_BYTES, here.live_results.WRITE_ROWS = 1 << 20, 1000
results = here.results_in(Path(sys.argv[1]), rotate_bytes=2_000_000)
first = 0
while True:
    results.append(here.batch_of(first, 500))
    first += 500
    print(results.rows_written, len(results.rtdc_files), flush=True)
"""
    for k, more in enumerate((0.0, 0.004, 0.011)):
        folder = tmp_path / str(k)
        process = start(script, folder)
        for line in process.stdout:
            said, closed = map(int, line.split())
            if closed >= 2:
                break
        time.sleep(more)
        process.send_signal(signal.SIGKILL)
        later = process.stdout.read().split()  # said between our decision and its death
        process.wait()
        process.stdout.close()
        said = int(later[-2]) if later else said
        assert "run.table.arrow.part" in names(folder)

        messages = prepare_folder(folder, "run")
        rows = len(pq.read_table(folder / "run.interrupted-1.parquet"))
        assert said <= rows <= said + 1000
        assert pq.read_table(folder / "run.interrupted-1.parquet").equals(expected_table(rows))
        pictures = pictured_lines(sorted(folder.glob("run.interrupted-1_*.rtdc")))
        lost = 1000 + 512  # a batch, and the last chunk of the one before, which was being written anew
        assert said <= len(pictures) + lost or list(folder.glob("*.broken"))
        np.testing.assert_array_equal(pictures, batch_of(0, len(pictures)).columns["line_first"])
        assert all(name in "\n".join(messages) for name in names(folder))
        assert f"the {rows} rows of a killed run" in messages[0]
        assert not [name for name in names(folder) if name.endswith(".part")]

        results = LiveResults(folder, "run", COLUMNS, METADATA, SIDE)  # and the next run has its name
        results.append(batch_of(0, 10))
        results.finish({})
        assert len(pq.read_table(folder / "run.parquet")) == 10


def wreck(folder, rows):
    """What a run leaves that was killed after so many rows."""
    folder.mkdir(exist_ok=True)
    results = LiveResults(folder, "run", COLUMNS, METADATA, SIDE)
    for first in range(0, rows, 1000):
        results.append(batch_of(first, 1000))
    results.abandon()
    (folder / "run.spare.part").write_bytes(bytes(100))


def test_a_run_killed_before_its_first_write_leaves_nothing(tmp_path):
    wreck(tmp_path, 0)
    assert prepare_folder(tmp_path, "run") == []
    assert names(tmp_path) == []


def test_a_torn_batch_is_left_out_and_kept(tmp_path):
    wreck(tmp_path, 2000)
    whole = (tmp_path / "run.table.arrow.part").read_bytes()
    (tmp_path / "run.table.arrow.part").write_bytes(whole[:-1000])
    messages = prepare_folder(tmp_path, "run")
    assert pq.read_table(tmp_path / "run.interrupted-1.parquet").equals(expected_table(1000))
    assert (tmp_path / "run.interrupted-1.table.arrow.broken").read_bytes() == whole[:-1000]
    assert "torn" in messages[0]


def test_pictures_before_a_torn_chunk_are_kept(tmp_path):
    wreck(tmp_path, 3000)
    part = tmp_path / "run_0001.rtdc.part"
    with h5py.File(part) as file:
        chunk = file["events/image"].id.get_chunk_info_by_coord((19 * 128, 0, 0))
    with part.open("r+b") as file:
        file.seek(chunk.byte_offset + 100)
        file.write(bytes(1000))
    messages = prepare_folder(tmp_path, "run")
    assert f"{tmp_path / 'run.interrupted-1_0001.rtdc'}: the {19 * 128} pictures of a killed run; " in messages[1]
    assert (tmp_path / "run.interrupted-1_0001.rtdc.broken").exists()
    lines = pictured_lines([tmp_path / "run.interrupted-1_0001.rtdc"])
    np.testing.assert_array_equal(lines, batch_of(0, 19 * 128).columns["line_first"])


def test_what_cannot_be_read_is_set_aside(tmp_path):
    wreck(tmp_path, 1000)
    wreck_of_second = {"run.table.arrow.part": b"nothing", "run_0001.rtdc.part": b"\x89HDF\r\n\x1a\n" + bytes(64)}
    prepare_folder(tmp_path, "run")
    for name, content in wreck_of_second.items():
        (tmp_path / name).write_bytes(content)
    messages = prepare_folder(tmp_path, "run")
    assert names(tmp_path) == [
        "run.interrupted-1.parquet",
        "run.interrupted-1_0001.rtdc",
        "run.interrupted-2.table.arrow.broken",
        "run.interrupted-2_0001.rtdc.broken",
    ]
    assert [message.split(": ")[1] for message in messages] == [
        "table of a killed run, cannot be read",
        "pictures of a killed run, cannot be read",
    ]


def test_a_table_without_record_is_kept(tmp_path):
    """Killed between the table's name and the record's."""
    wreck(tmp_path, 1000)
    table_to_parquet(tmp_path / "run.table.arrow.part", tmp_path / "run.parquet")
    prepare_folder(tmp_path, "run", overwrite=True)
    expected = expected_table(1000)
    assert pq.read_table(tmp_path / "run.interrupted-1.parquet").equals(expected)
    assert pq.read_table(tmp_path / "run.interrupted-2.parquet").equals(expected)


def test_completion_on_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    wreck(tmp_path, 1000)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(OutputError, match="No space left on device"):
            prepare_folder(tmp_path, "run")
    assert names(tmp_path) == ["run.table.arrow.part", "run_0001.rtdc.part"]
    prepare_folder(tmp_path, "run")
    assert pq.read_table(tmp_path / "run.interrupted-1.parquet").equals(expected_table(1000))


def test_a_full_disk_is_an_error_and_what_was_written_stays(tmp_path):
    """A limit on the size of files stands for the full disk, and its end for the room that the spare file frees."""
    script = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
here.live_results.SPARE_BYTES, here.live_results.WRITE_ROWS = 1000, 1000
results = here.results_in(Path(sys.argv[1]))
unlink = Path.unlink
def unlink_and_free(path, **options):
    if path.name == "run.spare.part":
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
    unlink(path, **options)
Path.unlink = unlink_and_free
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
first = 0
for _ in range(100):
    try:
        results.append(here.batch_of(first, 1000))
    except here.OutputError as error:
        print(results.rows_written, results.pictures_written, error)
        sys.exit(3)
    first += 1000
"""
    for k, limit in enumerate((4_000_000, 6_500_000)):
        folder = tmp_path / str(k)
        process = start(script, folder, limit)
        rows, pictures, message = process.communicate()[0].split(maxsplit=2)
        assert process.returncode == 3
        assert message.strip() == f"{folder}: cannot be written: {os.strerror(errno.EFBIG)}"
        prepare_folder(folder, "run")
        assert pq.read_table(folder / "run.interrupted-1.parquet").equals(expected_table(int(rows)))
        lines = pictured_lines([folder / "run.interrupted-1_0001.rtdc"])
        assert len(lines) > int(pictures) - 512
        np.testing.assert_array_equal(lines, batch_of(0, len(lines)).columns["line_first"])


def test_a_disk_that_fills_is_seen_before_a_write_fails(tmp_path, monkeypatch):
    """Under HDF5 a failed write is a segmentation fault when the process ends."""
    free = [100_000_000, 100_000_000, 6_000_000]
    monkeypatch.setattr(live_results.shutil, "disk_usage", lambda _: SimpleNamespace(free=free.pop(0)))
    results = results_in(tmp_path)
    for first in (0, 1000):
        results.append(batch_of(first, 1000))
    with pytest.raises(OutputError, match="cannot be written: No space left on device"):
        results.append(batch_of(2000, 1000))
    with pytest.raises(OutputError, match="cannot be written: No space left on device"):
        results.append(batch_of(3000, 1000))
    assert results.rows_written == results.pictures_written == 2000
    prepare_folder(tmp_path, "run")
    assert len(pictured_lines([tmp_path / "run.interrupted-1_0001.rtdc"])) == 2000


def test_a_disk_full_from_the_start_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(live_results, "_hold_room", full)
    with pytest.raises(OutputError, match="no room for 1 MiB: No space left"):
        results_in(tmp_path)
    assert names(tmp_path) == []


def test_a_failed_end_can_be_completed(tmp_path, monkeypatch):
    results = results_in(tmp_path)
    results.append(batch_of(0, 1500))

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(OutputError, match="No space left on device"):
            results.finish({})
    prepare_folder(tmp_path, "run")
    assert names(tmp_path) == ["run.interrupted-1.parquet", "run.interrupted-1_0001.rtdc"]
    assert pq.read_table(tmp_path / "run.interrupted-1.parquet").equals(expected_table(1500))


def test_memory_does_not_grow_with_the_run(tmp_path, monkeypatch):
    """Ten times the rows: Arrow, which holds the table while it is sorted, needs no more at its peak."""
    monkeypatch.setattr(live_results, "_ROW_GROUP", 1 << 12)
    peaks = []
    for rows in (20_000, 200_000):
        folder = tmp_path / str(rows)
        results = results_in(folder)
        for pair in range(0, rows, 4000):  # swapped, as by two workers
            for first in (pair + 2000, pair):
                results.append(batch_of(first, 2000, pictured=np.zeros(2000, dtype=bool)))
        held = []
        write_table = pq.ParquetWriter.write_table

        def watched(writer, table, held=held, write_table=write_table):
            held.append(pa.total_allocated_bytes())
            write_table(writer, table)

        with monkeypatch.context() as patch:
            patch.setattr(pq.ParquetWriter, "write_table", watched)
            results.finish({})
        peaks.append(max(held))
        assert pq.read_metadata(folder / "run.parquet").num_rows == rows
    assert peaks[1] < 1.3 * peaks[0]


@pytest.mark.parametrize("seed", range(3))
def test_any_disorder_is_sorted(tmp_path, seed):
    """Oracle: one sort of the whole; rows groups of a few rows, batches from one row to many, in any order."""
    rng = np.random.default_rng(seed)
    schema = pa.schema([("line_first", pa.int64()), ("position_samples", pa.float64()), ("id", pa.int64())])
    line, position = rng.integers(0, 300, 2000), rng.integers(0, 3, 2000) / 2
    cuts = np.sort(rng.integers(0, 2001, 40))
    with pa.ipc.new_stream(str(tmp_path / "s"), schema) as stream:
        for part in np.split(np.arange(2000), cuts):
            if len(part):
                stream.write_batch(pa.record_batch([line[part], position[part], part], schema=schema))
    rows, torn_bytes = table_to_parquet(tmp_path / "s", tmp_path / "p")
    table = pq.read_table(tmp_path / "p")
    order = np.lexsort((position, line))
    assert (rows, torn_bytes) == (2000, 0)
    np.testing.assert_array_equal(table["line_first"], line[order])
    np.testing.assert_array_equal(table["position_samples"], position[order])
    assert sorted(table["id"].to_pylist()) == list(range(2000))


class TestOutputThread:
    def test_all_that_is_taken_is_written(self, tmp_path):
        thread = OutputThread(results_in(tmp_path))
        for first in range(0, 5000, 250):
            assert thread.put(batch_of(first, 250))
        thread.drain()
        assert thread.error is None
        assert thread.rows_lost == thread.queued_bytes == 0
        thread.close({"x": 1})
        assert pq.read_table(tmp_path / "run.parquet").equals(expected_table(5000))
        assert not thread.put(batch_of(0, 1))

    def test_rows_are_written_while_nothing_comes(self, tmp_path):
        results = results_in(tmp_path)
        thread = OutputThread(results)
        assert thread.put(batch_of(0, 3))
        deadline = time.monotonic() + 20
        while results.rows_written < 3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        thread.abandon()
        assert "run_0001.rtdc.part" in names(tmp_path)

    def test_a_stalled_disk_fills_the_queue_and_no_more(self, tmp_path, monkeypatch):
        disk = threading.Event()
        write = LiveResults._write

        def stalled(*arguments):
            assert disk.wait(60)
            write(*arguments)

        monkeypatch.setattr(LiveResults, "_write", stalled)
        size = batch_of(0, 1000).nbytes
        thread = OutputThread(results_in(tmp_path), most_bytes=3 * size)
        taken = [first for first in range(0, 10_000, 1000) if thread.put(batch_of(first, 1000))]
        assert taken == [0, 1000, 2000]
        assert thread.queued_bytes == thread.most_queued_bytes == 3 * size
        disk.set()
        thread.close({})
        assert len(pq.read_table(tmp_path / "run.parquet")) == 3000
        assert thread.queued_bytes == 0

    def test_a_batch_larger_than_the_queue_passes_alone(self, tmp_path):
        thread = OutputThread(results_in(tmp_path), most_bytes=1)
        assert thread.put(batch_of(0, 100))
        thread.close({})

    def test_a_full_disk_stops_writing_and_every_row_is_counted(self, tmp_path, monkeypatch):
        append = live_results._TableStream.append
        left = [2]

        def full(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            append(*arguments)

        monkeypatch.setattr(live_results._TableStream, "append", full)
        results = results_in(tmp_path)
        thread = OutputThread(results)
        taken = sum(thread.put(batch_of(first, 1000)) for first in range(0, 20_000, 1000))
        thread.drain()
        assert isinstance(thread.error, OutputError)
        assert results.rows_written == 2000
        assert thread.rows_lost == 1000 * taken - 2000
        assert not thread.put(batch_of(0, 1))
        with pytest.raises(OutputError, match="cannot be written: No space left on device"):
            thread.close({})
        prepare_folder(tmp_path, "run")
        assert pq.read_table(tmp_path / "run.interrupted-1.parquet").equals(expected_table(2000))
        assert len(pictured_lines([tmp_path / "run.interrupted-1_0001.rtdc"])) == 2000

    @pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority of their own elsewhere")
    def test_the_thread_steps_back_and_the_process_does_not(self, tmp_path):
        thread = OutputThread(results_in(tmp_path))
        native = thread._thread.native_id
        own = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
        deadline = time.monotonic() + 20
        while os.getpriority(os.PRIO_PROCESS, native) <= own < 19:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == own
        thread.abandon()
