"""``stretchscope stream`` as a user meets it when things end badly: what is left behind, and the exit status."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import pyarrow.parquet as pq
import pytest

from stretchscope.acquisition.simulate import simulate
from stretchscope.acquisition.source import ReplaySource, SourceError
from stretchscope.pipeline import cli, live_results

COMMAND = (sys.executable, "-c", "from stretchscope.pipeline.cli import main; main()")
CELLS = 4
TIMEOUT_S = 120.0

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process; gives exit status, standard output and standard error."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["stretchscope", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return call


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("capture") / "small.h5"
    simulate(path, lines=3_000, cells=CELLS, seed=2)
    return path


@pytest.fixture
def fail_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Exception], None]:
    """Make the replay fail at its n-th read, in blocks of 150 000 samples."""

    def arm(reads: int, error: Exception) -> None:
        plain, plain_init = ReplaySource._read, ReplaySource.__init__
        done = iter(range(1000))

        def read(self: ReplaySource, block: int) -> object:
            if next(done) >= reads:
                raise error
            return plain(self, block)

        def init(self: ReplaySource, *arguments: object, **options: object) -> None:
            plain_init(self, *arguments, **(options | {"block_samples": 150_000}))

        monkeypatch.setattr(ReplaySource, "_read", read)
        monkeypatch.setattr(ReplaySource, "__init__", init)

    return arm


def check_complete(folder: Path, stem: str) -> dict:
    """The run record, whose files are all there and hold what it says; every sample is in its account once."""
    record = json.loads((folder / f"{stem}.run.json").read_text())
    summary, outputs = record["summary"], record["outputs"]
    assert summary["samples_offered"] == summary["samples_processed"] + summary["samples_dropped"]
    assert sum(record["accounting"]["samples_dropped"].values()) == summary["samples_dropped"]
    assert pq.read_table(folder / outputs["table"]).num_rows == outputs["cells"] == summary["cells_found"]
    pictures = 0
    for name in outputs["rtdc"]:
        with h5py.File(folder / name) as file:
            pictures += len(file["events/image"])
    assert pictures == outputs["pictures"]
    assert not list(folder.glob("*.part"))
    return record


def test_signals_end_a_run_in_good_order(tmp_path: Path) -> None:
    """Ctrl-C and a service manager's SIGTERM: what was seen is written and complete, exit status 130."""
    runs = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        folder = tmp_path / number.name
        arguments = ("stream", "--unpaced", "--loop-samples", str(1 << 23), "--cells-per-second", "10000", "-o", folder)
        runs[number] = folder, subprocess.Popen([*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    try:
        for number, (folder, process) in runs.items():
            deadline = time.monotonic() + TIMEOUT_S
            while not (folder / "stream_0001.rtdc.part").exists():
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline, "no cell was written"
                time.sleep(0.05)
            process.send_signal(number)
        for folder, process in runs.values():
            _, err = process.communicate(timeout=TIMEOUT_S)
            assert process.returncode == 130, err
            assert "interrupted; what was seen is written" in err
            record = check_complete(folder, "stream")
            assert record["error"] is None
            assert record["accounting"]["samples_dropped"]["not_finished"] == 0
            assert record["outputs"]["cells"] > 0
    finally:
        for _, process in runs.values():
            process.kill()
            process.wait()
            process.stderr.close()


def test_a_capture_as_a_stream(run: Run, capture: Path, tmp_path: Path) -> None:
    """Replayed to its end: exit status 0, one JSON object, all cells."""
    status, out, err = run("stream", "--source", capture, "--unpaced", "-o", tmp_path, "--json")
    assert status == 0, err
    assert json.loads(out)["cells_found"] == CELLS
    assert check_complete(tmp_path, "small")["error"] is None


def test_full_disk(run: Run, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are counted to the end; exit status 1, and the reason in one line. No record says that it is complete."""

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(live_results, "_require_room", no_room)
    status, out, err = run("stream", "--source", capture, "--unpaced", "-o", tmp_path, "--json")
    assert status == 1
    assert json.loads(out)["cells_found"] == CELLS
    assert "error: " in err
    assert "No space left on device" in err
    assert not (tmp_path / "small.run.json").exists()


def test_source_fails(run: Run, capture: Path, tmp_path: Path, fail_after: Callable[[int, Exception], None]) -> None:
    """The device fails: the run ends, its outputs are complete and say why; exit status 1."""
    fail_after(5, SourceError("the card is gone"))
    status, _, err = run("stream", "--source", capture, "--unpaced", "-o", tmp_path)
    assert status == 1
    assert "error: the card is gone" in err
    record = check_complete(tmp_path, "small")
    assert record["error"] == "the card is gone"
    assert record["summary"]["samples_offered"] == 5 * 150_000


def test_bug_in_a_source(
    run: Run, capture: Path, tmp_path: Path, fail_after: Callable[[int, Exception], None], monkeypatch: object
) -> None:
    """What nobody expected comes out with its traceback, after the outputs were completed."""
    fail_after(5, ZeroDivisionError("in a driver"))
    monkeypatch.setattr(
        sys, "argv", ["stretchscope", "stream", "--source", str(capture), "--unpaced", "-o", str(tmp_path)]
    )
    with pytest.raises(ZeroDivisionError, match="in a driver"):
        cli.main()
    assert check_complete(tmp_path, "small")["error"] == "in a driver"


def test_source_does_not_start(run: Run, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line, exit status 2, and nothing that looks like a run."""

    def start(_: ReplaySource) -> None:
        raise SourceError("no such card")

    monkeypatch.setattr(ReplaySource, "start", start)
    status, _, err = run("stream", "--source", capture, "--unpaced", "-o", tmp_path)
    assert status == 2
    assert err.splitlines()[-1] == "error: no such card"
    assert not (tmp_path / "small.run.json").exists()
