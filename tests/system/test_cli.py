"""The command line as a user meets it: what it prints, what it leaves behind, and its exit status."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from stretchscope.acquisition import CaptureMetadata, CaptureWriter
from stretchscope.acquisition.optics import Instrument
from stretchscope.acquisition.simulate import simulate, simulate_capture
from stretchscope.data.phantoms import StampScene, place
from stretchscope.data.stamps import Stamps, bead_stamps, disc_stamps

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "small.h5"
    simulate(path, lines=3_000, cells=4, seed=2)
    return path


def write_capture(path: Path, samples: np.ndarray) -> Path:
    with CaptureWriter(path, CaptureMetadata(sample_rate_hz=5e9, bits=8), samples.dtype) as writer:
        writer.append(samples)
    return path


def test_help_starts_without_the_numerics() -> None:
    code = (
        "import sys; from stretchscope.pipeline import cli; print([m for m in ('numba', 'scipy') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_simulate_info_process(run: Run, tmp_path: Path) -> None:
    capture, results = tmp_path / "c.h5", tmp_path / "results"
    assert run("simulate", "-o", capture, "--lines", 3000, "--cells", 4, "--seed", 2)[0] == 0
    status, out, _ = run("info", capture, "--json")
    facts = json.loads(out)
    assert status == 0
    with h5py.File(capture) as file:
        truth = file["truth/line_start_samples"].attrs["mean_line_period_samples"]
    assert facts["line_period_samples"] == pytest.approx(truth, abs=2e-5)
    assert facts["lines"] == 3000
    assert facts["dialect"] == "stretchscope-1"
    status, out, err = run("process", capture, "-o", results)
    assert (status, out) == (0, "")
    assert "4 cells in 3000 lines" in err
    names = {p.name for p in results.iterdir()}
    assert names == {f"c{suffix}" for suffix in (".rtdc", ".parquet", ".csv", ".png", ".html", ".run.json")}


def test_info_says_all_that_is_promised(run: Run, small: Path) -> None:
    promised = {
        "samples", "sample_rate_hz", "line_period_samples", "line_period_uncertainty_samples",
        "shear_samples_per_line", "lines", "pulse_width_samples", "saturated_fraction", "noise_std_codes",
        "interleave_offset_codes", "interleave_gain", "dialect",
    }  # fmt: skip
    assert promised <= set(json.loads(run("info", small, "--json")[1]))


def test_convert_a_raw_dump(run: Run, small: Path, tmp_path: Path) -> None:
    with h5py.File(small) as file:
        samples = file["samples"][:]
    dump = tmp_path / "dump.bin"
    dump.write_bytes(b"header" + samples.astype("<i2").tobytes())
    arguments = ("--sample-rate", "5e9", "--dtype", "<i2", "--header-bytes", 6, "--bits", 8, "-o", tmp_path / "d.h5")
    assert run("convert", dump, *arguments)[0] == 0
    before, after = (json.loads(run("info", p, "--json")[1]) for p in (small, tmp_path / "d.h5"))
    assert after["line_period_samples"] == before["line_period_samples"]
    status, _, err = run("convert", dump, *arguments[:-2], "-o", tmp_path / "d.h5")
    assert status == 2
    assert "exists" in err
    assert run("convert", dump, "--sample-rate", "5e9", "--dtype", "f4", "-o", tmp_path / "e.h5")[0] == 2


def bad_files(folder: Path) -> dict[str, tuple[Path, str]]:
    """Bad captures by name, each with a word that its message must hold."""
    rng = np.random.default_rng(0)
    pulse = np.round(100 * np.exp(-(((np.arange(100_000) % 275.52) - 60) ** 2) / 200)).astype(np.int8)

    def raw(name: str, **datasets: object) -> Path:
        path = folder / name
        with h5py.File(path, "w") as file:
            for key, value in datasets.items():
                file[key] = value
        return path

    truncated = folder / "truncated.h5"
    whole = write_capture(folder / "whole.h5", pulse)
    truncated.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    text = folder / "text.h5"
    text.write_text("not HDF5")
    external = folder / "external.h5"
    with h5py.File(external, "w") as file:
        file["raw"] = h5py.ExternalLink(str(whole), "/samples")
    storage = folder / "storage.h5"
    with h5py.File(storage, "w") as file:
        file.create_dataset("raw", (1000,), np.int16, external=[(str(folder / "elsewhere"), 0, 2000)])
    huge = folder / "huge.h5"
    with h5py.File(huge, "w") as file:
        file.create_dataset("raw", (10**15,), np.int16, chunks=(1 << 20,))
    rate = write_capture(folder / "rate.h5", pulse)
    with h5py.File(rate, "r+") as file:
        file.attrs["sample_rate_hz"] = -5e9
    absent = write_capture(folder / "nan.h5", pulse)
    with h5py.File(absent, "r+") as file:
        file.attrs["sample_rate_hz"] = np.nan
    return {
        "missing": (folder / "missing.h5", "No such file"),
        "not HDF5": (text, "HDF5"),
        "truncated": (truncated, "truncated"),
        "no known layout": (raw("layout.h5", other=pulse), "layout"),
        "empty": (raw("empty.h5", raw=np.zeros(0, np.int16)), "empty"),
        "one line only": (write_capture(folder / "line.h5", pulse[:400]), "line.h5"),
        "float": (raw("float.h5", raw=pulse.astype(float)), "float64"),
        "complex": (raw("complex.h5", raw=pulse.astype(complex)), "complex"),
        "two-dimensional": (raw("2d.h5", raw=pulse.reshape(-1, 100)), "one-dimensional"),
        "NaN rate": (absent, "sample_rate_hz"),
        "negative rate": (rate, "sample_rate_hz"),
        "constant": (write_capture(folder / "constant.h5", np.full(300_000, 7, np.int8)), "constant"),
        "noise": (write_capture(folder / "noise.h5", rng.integers(-30, 30, 300_000).astype(np.int8)), "repeats"),
        "all saturated": (write_capture(folder / "rail.h5", np.full(300_000, 127, np.int8)), "saturated"),
        "external link": (external, "external"),
        "external storage": (storage, "external"),
        "claims 10^15 samples": (huge, "huge.h5"),
    }


@pytest.mark.parametrize("command", ["info", "process"])
def test_bad_captures_give_one_clear_error(run: Run, tmp_path: Path, command: str) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for name, (path, word) in bad_files(folder).items():
        results = tmp_path / "results"
        arguments = ("info", path, "--json") if command == "info" else ("process", path, "-o", results)
        status, out, err = run(*arguments)
        assert (status, out) == (2, ""), name
        lines = err.strip().splitlines()
        assert len(lines) == 1, (name, lines)
        assert lines[0].startswith("error: "), name
        assert path.name in lines[0], name
        assert word in lines[0], (name, lines[0])
        assert not results.exists(), name


def test_one_bad_capture_of_two_leaves_the_other_done(run: Run, small: Path, tmp_path: Path) -> None:
    status, _, err = run("process", small, tmp_path / "missing.h5", "-o", tmp_path / "results")
    assert status == 1
    assert "missing.h5" in err
    assert (tmp_path / "results" / "small.csv").exists()


def test_two_captures_of_one_stem(run: Run, small: Path, tmp_path: Path) -> None:
    status, _, err = run("process", small, tmp_path / "small.hdf5", "-o", tmp_path / "results")
    assert status == 2
    assert "one stem" in err
    assert not (tmp_path / "results").exists()


def test_output_that_exists(run: Run, small: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    assert run("process", small, "-o", results)[0] == 0
    before = {p.name: p.read_bytes() for p in results.iterdir()}
    status, _, err = run("process", small, "-o", results)
    assert status == 2
    assert "--overwrite" in err
    assert {p.name: p.read_bytes() for p in results.iterdir()} == before
    assert run("process", small, "-o", results, "--resume")[0] == 0
    assert {p.name: p.read_bytes() for p in results.iterdir()} == before
    assert run("process", small, "-o", results, "--overwrite")[0] == 0
    assert (results / "small.csv").read_bytes() == before["small.csv"]


def test_settings_mistakes(run: Run, small: Path, tmp_path: Path) -> None:
    settings = tmp_path / "s.toml"
    settings.write_text("[cells]\nmin_significanse = 8\n")
    status, _, err = run("process", small, "-o", tmp_path / "results", "--settings", settings)
    assert status == 2
    assert "'min_significance'" in err
    assert not (tmp_path / "results").exists()
    assert run("process", small, "-o", tmp_path / "r", "--settings", tmp_path / "none.toml")[0] == 2
    assert run("process", small, "-o", tmp_path / "r", "--sample-rate", "-1")[0] == 2
    assert run("process", small, "-o", tmp_path / "r", "--overwrite", "--resume")[0] == 2


def test_settings_change_the_result(run: Run, small: Path, tmp_path: Path) -> None:
    settings = tmp_path / "s.toml"
    settings.write_text("[image]\ncrop_px = 64\noversampling = 3\n[capture]\num_per_sample = 0.5\num_per_line = 0.25\n")
    assert run("process", small, "-o", tmp_path / "r", "--settings", settings)[0] == 0
    record = json.loads((tmp_path / "r" / "small.run.json").read_text())
    assert record["grid"]["columns_per_sample"] == 3
    assert record["grid"]["pixel_um"] == pytest.approx(0.5 / 3)
    with h5py.File(tmp_path / "r" / "small.rtdc") as file:
        assert file["events/image"].shape[1:] == (64, 64)


def test_unwritable_output(run: Run, small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = run("process", small, "-o", tmp_path / "file" / "results")
    assert status == 2
    assert "cannot be written" in err
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("stamps", "half_level"), [(bead_stamps(), 0.918), (disc_stamps(), 0.97)], ids=["beads", "discs"]
)
def test_beads_calibrate_later_runs(run: Run, tmp_path: Path, stamps: Stamps, half_level: float) -> None:
    """Oracle: the simulated lattice, and where the phantom's edge is half as deep (share of its radius)."""
    rng = np.random.default_rng(3)
    count = 30
    beads = place(
        stamps,
        x_um=rng.uniform(12, 36, count),
        y_um=30 + 16 * np.arange(count) + rng.uniform(-2, 2, count),
        diameter_um=8.0,
        contrast=0.6,
    )
    path, toml = tmp_path / "beads.h5", tmp_path / "beads.toml"
    simulate_capture(path, StampScene.of(stamps, beads), Instrument(), lines=3_200, seed=3)
    with h5py.File(path) as file:
        truth = dict(file["truth/line_start_samples"].attrs)
    status, out, _ = run("calibrate", path, "--bead-diameter-um", 8, "-o", toml, "--json")
    result = json.loads(out)
    assert status == 0
    assert result["beads"] == count
    assert result["um_per_sample"] == pytest.approx(truth["um_per_sample"] / half_level, rel=0.02)
    assert result["um_per_line"] == pytest.approx(truth["um_per_line"] / half_level, rel=0.02)
    assert result["um_per_sample"] / result["um_per_line"] == pytest.approx(
        truth["um_per_sample"] / truth["um_per_line"], rel=0.02
    )
    assert result["size_spread_along_line"] < 0.02
    assert run("calibrate", path, "--bead-diameter-um", 8, "-o", toml)[0] == 2
    assert run("process", path, "-o", tmp_path / "r", "--settings", toml)[0] == 0
    record = json.loads((tmp_path / "r" / "beads.run.json").read_text())
    assert record["signal"]["um_per_sample"] == result["um_per_sample"]


def test_too_few_beads(run: Run, small: Path, tmp_path: Path) -> None:
    status, _, err = run("calibrate", small, "--bead-diameter-um", 8, "-o", tmp_path / "b.toml")
    assert status == 2
    assert "at least 5 are needed" in err
    assert not (tmp_path / "b.toml").exists()


def test_interruption_says_how_to_go_on(run: Run, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stretchscope.pipeline.batch.survey_capture", interrupted)
    status, _, err = run("process", small, "-o", tmp_path / "out")
    assert status == 130
    assert "--resume" in err


def test_no_command_replaces_what_is_not_its_own(run: Run, small: Path, tmp_path: Path) -> None:
    capture = tmp_path / "capture.h5"
    capture.write_bytes(small.read_bytes())
    status, _, err = run("calibrate", capture, "--bead-diameter-um", 10, "-o", capture, "--overwrite")
    assert (status, "the capture itself" in err) == (2, True)
    assert capture.read_bytes() == small.read_bytes()
    capture.write_text("precious")
    status, _, err = run("demo", "-o", tmp_path)
    assert (status, "no capture of an earlier demo" in err) == (2, True)
    assert capture.read_text() == "precious"
    assert run("demo", "-o", capture)[0] == 2


def test_simulating_more_than_the_disk_holds(run: Run, tmp_path: Path) -> None:
    status, _, err = run("simulate", "-o", tmp_path / "c.h5", "--lines", 10**15)
    assert (status, "GB are free there" in err) == (2, True)
    assert not list(tmp_path.iterdir())


def test_plan(run: Run) -> None:
    status, out, err = run("plan", "--rate", 5e9, "--line-rate", 11.6e6, "--flow-speed", 2, "--field-of-view", 48)
    assert (status, err) == (0, "")
    assert "line period            431.0345 samples" in out
    status, out, err = run(
        "plan", "--line-rate", 5e9 / 430.002, "--flow-speed", 0.3, "--pulse-duration", 12e-9, "--json"
    )
    assert status == 0
    assert json.loads(out)["suggestion"]["sample_rate_hz"] > 5e9
    assert err.startswith("warning: the line period of 430.002 samples is within 0.002 of 430:")
    assert err.count("\n") == 1
    status, out, err = run("plan", "--rate", 1)
    assert (status, out) == (2, "")
    assert err == "error: --rate must lie between 1e+06 and 1e+12 samples per second, got 1\n"
