"""The image of all lines as files: what is in them, whatever they were cut into, and what is left when it fails."""

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from stretchscope.acquisition import CaptureMetadata, CaptureWriter, open_capture
from stretchscope.pipeline import full_image
from stretchscope.pipeline.batch import process_capture
from stretchscope.pipeline.cells import Job, image_lines
from stretchscope.pipeline.execution import Execution
from stretchscope.pipeline.full_image import layout_of, write_full_image
from stretchscope.pipeline.ome_tiff import frames_of, write_ome_tiff
from stretchscope.pipeline.results import OutputError
from stretchscope.pipeline.settings import ImageSettings, Settings
from stretchscope.pipeline.survey import survey_capture
from stretchscope.sr.reconstruct import Grid

OME = "{http://www.openmicroscopy.org/Schemas/OME/2016-06}"
GRID = Grid(2.0, 1.7, 0.4, 1.3)


CUT = 431 * 1200 // 8 * 8


def write_gap(path: Path, samples: np.ndarray, metadata: CaptureMetadata) -> Path:
    """The first 3000 lines with a gap: two segments of unequal length."""
    with CaptureWriter(path, metadata, samples.dtype) as writer:
        writer.append(samples[:CUT])
        writer.append(samples[CUT:], device_index=CUT + 80_000)
    return path


@pytest.fixture(scope="module")
def with_gap(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with open_capture(simulated) as capture:
        samples, metadata = capture.read(0, 431 * 3000), capture.metadata
    return write_gap(tmp_path_factory.mktemp("gap") / "gap.h5", samples, metadata)


def job_of(path: Path) -> Job:
    settings = Settings().with_method("gridding")
    with open_capture(path) as capture:
        return Job(path, survey_capture(capture, settings.capture), settings)


@pytest.fixture(scope="module")
def job(with_gap: Path) -> Job:
    """Of the same with a saturated spot, which the empty line knows nothing of."""
    with open_capture(with_gap) as capture:
        samples, metadata = capture.read(0, capture.samples), capture.metadata
    for line in range(400, 412):
        samples[int(431.02 * line) + 60 : int(431.02 * line) + 70] = 127
    return replace(job_of(with_gap), path=write_gap(with_gap.with_name("spot.h5"), samples, metadata))


def serial(function, calls):
    return [function(*call) for call in calls]


def write(job: Job, path: Path, monkeypatch: pytest.MonkeyPatch, chunk_rows: int, run=serial) -> dict[str, int]:
    """Write the image with chunks of so many rows."""
    columns = layout_of(job, GRID).columns
    monkeypatch.setattr(full_image, "_CHUNK_PIXELS", chunk_rows * columns)
    return write_full_image(job, GRID, path, "recipe", run)


@pytest.mark.parametrize("chunk_rows", [61, 100_000])
def test_an_image_in_pieces_is_the_image_made_at_once(
    chunk_rows: int, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit, at the borders of chunks and segments and where the digitiser saturates too."""
    size = write(job, tmp_path / "image.h5", monkeypatch, chunk_rows)
    with h5py.File(tmp_path / "image.h5") as file:
        transmission, weight, row_line = file["transmission"][:], file["weight"][:], file["row_line"][:]
        segment, column_sample = file["segment"][:], file["column_sample"][:]
    assert transmission.shape == (size["rows"], size["columns"]) == weight.shape
    assert np.bincount(segment).size == 2
    np.testing.assert_allclose(np.diff(column_sample), 0.5)
    for number, clock in enumerate(job.survey.clock.segments):
        rows = float(clock.first_line), float(clock.first_line + clock.lines - 1)
        tau = 0.0, float(column_sample[-1])
        image = image_lines(job, GRID, job.survey.segments[number], clock, rows, tau)
        own = segment == number
        np.testing.assert_array_equal(transmission[own], image.transmission)
        np.testing.assert_array_equal(weight[own], np.float32(1) / image.std**2)
        line = clock.first_line + np.arange(own.sum()) * GRID.lines_per_row
        np.testing.assert_allclose(row_line[own], line, rtol=1e-15)
        assert rows[1] - GRID.lines_per_row < row_line[own][-1] <= rows[1]
    np.testing.assert_array_equal(weight > 0, np.isfinite(transmission))
    assert size["known_pixels"] == np.count_nonzero(weight)
    # in the middle of the saturated spot, where the kernel reaches nothing that is known
    rows = (segment == 0) & (row_line > 404.5) & (row_line < 406.5)
    spot = np.isnan(transmission[rows]).all(axis=0)
    elsewhere = np.isnan(transmission[segment == 1]).all(axis=0)
    assert 2 * 6 <= (spot & ~elsewhere).sum() <= 2 * 10
    assert abs(np.median(transmission[weight > 0]) - 1) < 0.02


def test_a_regularised_image_in_pieces_shows_no_border(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pieces' margins hold all that is felt: a hundredth of the noise on the whole, a quarter of it at most."""
    job = replace(job, settings=replace(job.settings, image=ImageSettings(method="regularised")))
    write(job, tmp_path / "image.h5", monkeypatch, 61)
    with h5py.File(tmp_path / "image.h5") as file:
        transmission, segment = file["transmission"][:], file["segment"][:]
        tau = 0.0, float(file["column_sample"][-1])
        assert file.attrs["method"] == "regularised"
    for number, clock in enumerate(job.survey.clock.segments):
        rows = float(clock.first_line), float(clock.first_line + clock.lines - 1)
        image = image_lines(job, GRID, job.survey.segments[number], clock, rows, tau)
        off = (transmission[segment == number] - image.transmission) / image.std
        assert np.sqrt(np.nanmean(off**2)) < 0.01
        assert np.nanmax(np.abs(off)) < 0.25
        assert np.count_nonzero(np.isfinite(off) != image.known) < 1e-4 * off.size


def test_weight_is_the_inverse_of_the_variance(job: Job, tmp_path: Path) -> None:
    """Where nothing flows, the transmission scatters about 1 as its weight says."""
    write_full_image(job, GRID, tmp_path / "image.h5", "recipe", serial)
    with h5py.File(tmp_path / "image.h5") as file:
        transmission, weight = file["transmission"][:, 40:360], file["weight"][:, 40:360]
    z = ((transmission - 1) * np.sqrt(weight)).std(axis=1)  # most rows hold no cell
    assert 0.95 < np.median(z) < 1.05


def test_files_do_not_depend_on_how_they_were_made(with_gap: Path, tmp_path: Path) -> None:
    """Workers and samples of a task change no byte."""
    names = ("gap.image.h5", "gap.image.ome.tif")
    for folder, execution in (("a", Execution(workers=1)), ("b", Execution(workers=3, chunk_samples=1 << 16))):
        process_capture(with_gap, tmp_path / folder, full_image=True, execution=execution)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    record = json.loads((tmp_path / "a" / "gap.run.json").read_text())
    with h5py.File(tmp_path / "a" / names[0]) as file:
        assert (record["image"]["rows"], record["image"]["columns"]) == file["transmission"].shape
        assert record["image"]["known_pixels"] == np.count_nonzero(file["weight"][:])
        assert file.attrs["recipe"] == record["recipe"]
        assert {name: file.attrs[name] for name in ("columns_per_sample", "sigma_lines")}.items() <= (
            record["grid"].items()
        )
        assert file["transmission"].compression == "gzip"
        np.testing.assert_allclose(file["row_um"][:], file["row_line"][:] * 2e6 / file.attrs["line_rate_hz"])
        pixel = record["grid"]["pixel_um"]
        np.testing.assert_allclose(np.diff(file["column_um"][:]), pixel)
    assert not list(tmp_path.glob("*/*.part"))


def test_lengths_are_not_guessed(with_gap: Path, tmp_path: Path) -> None:
    with open_capture(with_gap) as capture:
        known, samples = capture.metadata, capture.read(0, 400_000)
    known = replace(known, flow_speed_m_per_s=None, pulse_duration_s=None)
    with CaptureWriter(tmp_path / "plain.h5", known, samples.dtype) as writer:
        writer.append(samples)
    write_full_image(job_of(tmp_path / "plain.h5"), GRID, tmp_path / "image.h5", "recipe", serial)
    write_ome_tiff(tmp_path / "image.h5", tmp_path / "image.ome.tif")
    with h5py.File(tmp_path / "image.h5") as file:
        assert set(file) == {"transmission", "weight", "row_line", "segment", "column_sample"}
        assert not any(name.startswith("um_") for name in file.attrs)
        assert file["row_line"].attrs["units"] == "lines"
    with tifffile.TiffFile(tmp_path / "image.ome.tif") as tiff:
        pixels = ET.fromstring(tiff.ome_metadata).find(f"{OME}Image/{OME}Pixels")
        assert not any("Physical" in name for name in pixels.attrib)
        # one segment: frames follow each other in time
        lines_per_s = known.sample_rate_hz / 431.02
        height = tiff.series[0].shape[-2]
        assert float(pixels.get("TimeIncrement")) == pytest.approx(height * GRID.lines_per_row / lines_per_s, rel=1e-4)


def test_the_tiff_is_the_same_image(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames one behind the other hold the rows of the HDF5 file; OME's fields say what they are."""
    monkeypatch.setattr("stretchscope.pipeline.ome_tiff.MOST_FRAME_ROWS", 400)
    write_full_image(job, GRID, tmp_path / "image.h5", "recipe", serial)
    write_ome_tiff(tmp_path / "image.h5", tmp_path / "image.ome.tif")
    with h5py.File(tmp_path / "image.h5") as file:
        expected, um_per_line = file["transmission"][:], file.attrs["um_per_line"]
    frames, height = frames_of(len(expected))
    assert frames == 5
    assert 0 <= frames * height - len(expected) < frames
    with tifffile.TiffFile(tmp_path / "image.ome.tif") as tiff:
        assert tiff.is_bigtiff
        assert tiff.is_ome
        assert tiff.series[0].axes == "TYX"
        assert tiff.series[0].dataoffset is not None  # contiguous: can be mapped
        image = tiff.series[0].asarray()
        xml = ET.fromstring(tiff.ome_metadata)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image.reshape(-1, image.shape[2])[: len(expected)], expected)
    assert np.isnan(image.reshape(-1, image.shape[2])[len(expected) :]).all()
    np.testing.assert_array_equal(tifffile.memmap(tmp_path / "image.ome.tif", mode="r"), image)
    pixels = xml.find(f"{OME}Image/{OME}Pixels")
    assert {name: pixels.get(name) for name in ("SizeT", "SizeZ", "SizeC", "SizeY", "SizeX", "Type")} == {
        "SizeT": str(frames), "SizeZ": "1", "SizeC": "1", "SizeY": str(height), "SizeX": str(expected.shape[1]),
        "Type": "float",
    }  # fmt: skip
    assert pixels.get("PhysicalSizeXUnit") == pixels.get("PhysicalSizeYUnit") == "µm"
    assert float(pixels.get("PhysicalSizeX")) == pytest.approx(48 / (5 * 45) / GRID.columns_per_sample)
    assert float(pixels.get("PhysicalSizeY")) == pytest.approx(um_per_line * GRID.lines_per_row)
    assert pixels.get("TimeIncrement") is None  # a gap lies between
    assert pixels.find(f"{OME}Channel").get("Name") == "transmission"
    assert pixels.find(f"{OME}TiffData").get("PlaneCount") == str(frames)


def test_resume_makes_the_image_that_a_finished_run_lacks(with_gap: Path, tmp_path: Path) -> None:
    process_capture(with_gap, tmp_path / "at once", full_image=True)
    process_capture(with_gap, tmp_path / "later")
    table = tmp_path / "later" / "gap.csv"
    before = table.stat().st_mtime_ns
    record = process_capture(with_gap, tmp_path / "later", resume=True, full_image=True)
    assert table.stat().st_mtime_ns == before
    assert json.loads((tmp_path / "later" / "gap.run.json").read_text()) == record
    assert record["image"]["known_pixels"] > 0
    for name in ("gap.image.h5", "gap.image.ome.tif"):
        assert (tmp_path / "later" / name).read_bytes() == (tmp_path / "at once" / name).read_bytes()
    state = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "later").iterdir()}
    process_capture(with_gap, tmp_path / "later", resume=True, full_image=True)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "later").iterdir()} == state


def test_resume_makes_a_broken_image_anew(with_gap: Path, tmp_path: Path) -> None:
    """Cut off anywhere, of another recipe, or no such file at all."""
    process_capture(with_gap, tmp_path, full_image=True)
    image, tiff = (tmp_path / f"gap.image.{kind}" for kind in ("h5", "ome.tif"))
    whole = [path.read_bytes() for path in (image, tiff)]
    recipe = json.loads((tmp_path / "gap.run.json").read_text())["recipe"]
    assert full_image.is_whole(image, tiff, recipe)
    assert not full_image.is_whole(image, tiff, "another")
    for path, content in zip((image, tiff), whole, strict=True):
        for size in (0, 1000, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:size])
            assert not full_image.is_whole(image, tiff, recipe)
        path.write_bytes(bytes(len(content)))
        assert not full_image.is_whole(image, tiff, recipe)
        process_capture(with_gap, tmp_path, full_image=True, resume=True)
        assert [path.read_bytes() for path in (image, tiff)] == whole
    assert not list(tmp_path.glob("*.part"))


def test_no_image_of_other_settings_stays(with_gap: Path, tmp_path: Path) -> None:
    process_capture(with_gap, tmp_path, full_image=True)
    (tmp_path / "gap.run.json").unlink()
    with pytest.raises(OutputError, match="exists: give --overwrite"):
        process_capture(with_gap, tmp_path)
    process_capture(with_gap, tmp_path, Settings().with_capture(flow_speed_m_per_s=1.0), overwrite=True)
    assert not list(tmp_path.glob("*.image*"))


class Killed(KeyboardInterrupt):
    pass


def test_an_interrupted_image_is_made_anew(with_gap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted between two batches: nothing has its name yet; --resume measures no cell again."""
    process_capture(with_gap, tmp_path / "whole", full_image=True)

    def stop(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("stretchscope.pipeline.batch.write_ome_tiff", stop)
        with pytest.raises(Killed):
            process_capture(with_gap, tmp_path / "broken", full_image=True)
    assert all(path.suffix == ".part" for path in (tmp_path / "broken").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr("stretchscope.pipeline.batch.process_stretch", stop)
        process_capture(with_gap, tmp_path / "broken", full_image=True, resume=True)
    for name in ("gap.csv", "gap.image.h5", "gap.image.ome.tif"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "broken").glob("*.part"))


FULL_DISK = """
import resource, sys
from stretchscope.pipeline.batch import process_capture
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
process_capture(sys.argv[1], sys.argv[2], full_image=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no file size limit to set")
@pytest.mark.parametrize("limit", [1 << 20, 3_500_000])
def test_a_full_disk_is_one_error_and_leaves_nothing(limit: int, with_gap: Path, tmp_path: Path) -> None:
    """No file may grow beyond a limit: reached by the HDF5 file, or by the TIFF only."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", FULL_DISK, str(with_gap), str(tmp_path / "results"), str(limit)],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert "OutputError" in done.stderr.strip().splitlines()[-1]
    assert "cannot be written" in done.stderr
    assert not (tmp_path / "results").exists()


def test_rows_beyond_any_segment_are_never_made() -> None:
    """Chunks that span segments take from each the rows it has."""
    layout = full_image.Layout(np.array([3, 4, 10]), 5, 4)
    assert list(layout.pieces(0, 4)) == [(0, 0, 3), (1, 0, 1)]
    assert list(layout.pieces(4, 8)) == [(2, 0, 4)]
    assert list(layout.pieces(2, 10)) == [(0, 2, 3), (1, 0, 1), (2, 0, 6)]
    huge = full_image.Layout(np.array([3, 1 << 40]), 5, 4)
    assert list(huge.pieces((1 << 40) - 1, 1 << 40)) == [(1, (1 << 40) - 4, (1 << 40) - 3)]
