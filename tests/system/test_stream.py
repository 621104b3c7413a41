"""``stretchscope stream`` as a user meets it when things end badly: what is left behind, and the exit status."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import pyarrow.parquet as pq
import pytest

from stretchscope.acquisition.simulate import simulate
from stretchscope.acquisition.source import ReplaySource, SourceError
from stretchscope.pipeline import cli, live_results
from stretchscope.pipeline.ending import Ending

COMMAND = (sys.executable, "-c", "from stretchscope.pipeline.cli import main; main()")
CELLS = 4
TIMEOUT_S = 120.0

Run = Callable[..., tuple[int, str, str]]


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
    """Exit status 1, the reason in one line, and what was kept. No record says that the run is complete."""

    def no_room(folder: Path, _: int) -> None:
        if folder == tmp_path:  # and not where the kernels are warmed up
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(live_results, "_require_room", no_room)
    status, out, err = run("stream", "--source", capture, "--unpaced", "-o", tmp_path, "--json")
    assert status == 1
    summary = json.loads(out)
    assert "No space left on device" in summary["error"]
    assert summary["cells_written"] == 0
    assert f"error: {summary['error']}" in err.splitlines()
    assert f"{tmp_path}: 0 cells are kept" in err
    assert not (tmp_path / "small.run.json").exists()
    assert (tmp_path / "small.run.json.part").exists()


def test_cells_that_are_not_written(run: Run, capture: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer is full: said at the end, in the JSON object and by the exit status."""
    monkeypatch.setattr(live_results.OutputThread, "put", lambda *_: False)
    status, out, err = run("stream", "--source", capture, "--unpaced", "-o", tmp_path, "--json")
    assert status == 1
    assert json.loads(out)["cells_not_written"] == CELLS
    assert f"error: {CELLS} cells were found and not written" in err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--flow-speed", "0"), "--flow-speed must lie between"),
        (("--rate", "1e6"), "--rate must lie between 1e+08 and 1e+11"),
        (("--rate", "1e12"), "--rate must lie between 1e+08 and 1e+11"),
        (("--cells-per-second", "1e12"), "--cells-per-second"),
        (("--loop-samples", "99999999999999"), "--loop-samples"),
        (("--workers", "1000000"), "--workers"),
        (("-o", ""), "--output is empty"),
        (("--source", "x.h5", "--seed", "2"), "--seed is for the simulated stream"),
        (("--source", "x.h5", "--cells-per-second", "2"), "--cells-per-second is for the simulated stream"),
        (("--source", "x.h5", "--loop-samples", "4194304"), "--loop-samples is for the simulated stream"),
    ],
)
def test_arguments_without_sense(run: Run, arguments: tuple[str, ...], reason: str) -> None:
    """Exit status 2 and a line in terms of the options, before anything is begun."""
    status, out, err = run("stream", *arguments)
    assert status == 2
    assert out == ""
    assert reason in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


def test_loop_that_is_larger_than_memory(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda _: 1 << 11, raising=False)
    status, _, err = run("stream", "--loop-samples", "4194304")
    assert status == 2
    assert err == "error: --loop-samples must be 2097152 or less on this machine, half of its memory\n"


def test_the_folder_is_looked_at_first(run: Run, capture: Path, tmp_path: Path) -> None:
    """A finished run in the way is told before anything is measured, and stays."""
    (tmp_path / "small.run.json").write_text("{}")
    status, _, err = run("stream", "--source", capture, "-o", tmp_path)
    assert status == 2
    assert err.startswith(f"error: {tmp_path / 'small.run.json'} exists")
    assert (tmp_path / "small.run.json").read_text() == "{}"


def test_standard_output_that_is_full() -> None:
    """No traceback: one line, exit status 2."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run([*COMMAND, "plan", "--json"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: standard output: cannot be written: No space left on device\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_before_and_during_a_run(number: signal.Signals) -> None:
    """Before it, what was begun is cleared away; then it ends in good order, then at once, then by force."""
    calls: list[str] = []
    pipeline = SimpleNamespace(stop=lambda: calls.append("stop"), force_stop=lambda: calls.append("force"))
    before = signal.getsignal(number)
    with Ending() as ending:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
        assert ending.caught == 1
    with Ending() as ending:
        ending.watch(pipeline)
        signal.raise_signal(number)
        assert calls == ["stop"]
        signal.raise_signal(number)
        assert calls == ["stop", "force"]
        assert signal.getsignal(number) == signal.SIG_DFL
    assert signal.getsignal(number) == before


def test_a_signal_before_the_run_leaves_no_snapshot(tmp_path: Path) -> None:
    """Terminated while it measures the empty line, the temporary folder is removed."""
    (temporary := tmp_path / "temporary").mkdir()
    arguments = ("stream", "--loop-samples", str(1 << 22), "-o", tmp_path / "results")
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(temporary)}
    )
    try:
        deadline = time.monotonic() + TIMEOUT_S
        while not list(temporary.glob("stretchscope-*")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline, "no snapshot was made"
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=TIMEOUT_S)
        assert process.returncode == 130, err
        assert "interrupted" in err
        assert not list(temporary.glob("stretchscope-*"))
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


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
