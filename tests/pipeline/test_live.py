"""The live pipeline in trouble: every sample accounted for, every cell outside the trouble found once, no hang.

The oracle is the truth of the simulated loop: where its cells lie and when its lines start.
"""

import json
import math
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stretchscope.acquisition import open_capture
from stretchscope.acquisition.simulated_loop import SimulatedLoop, simulated_loop
from stretchscope.acquisition.source import Block, EndOfStream, LoopSource, ReplaySource, SourceError
from stretchscope.pipeline import live, live_results
from stretchscope.pipeline.batch import process_capture
from stretchscope.pipeline.execution import Execution
from stretchscope.pipeline.live import LivePipeline
from stretchscope.pipeline.live_results import CellBatch, prepare_folder
from stretchscope.pipeline.live_setup import Calibration, calibrate_on_capture, calibrate_on_source
from stretchscope.pipeline.measure import Lines, cells_of, patches_of
from stretchscope.pipeline.pieces import Piece
from stretchscope.pipeline.rtdc import RtdcMetadata
from stretchscope.pipeline.settings import Settings
from stretchscope.pipeline.stream import realtime_factor, run_stream
from stretchscope.pipeline.survey import survey_capture
from stretchscope.sr.detect import ROW_LINES

BLOCK = 1 << 19
TIMEOUT_S = 120.0
METADATA = RtdcMetadata(sample="x", run_identifier="1", software_version="0", line_rate_hz=11.6e6, sample_rate_hz=5e9)
DARK_CODES = -102.4  # of the loop's instrument
# What the clock says is a line's start lies so far behind the pulse's own beginning, where the light is too weak.
LATE_SAMPLES = 5.8
# What may be lost on either side of a fault [lines]: a search for the clock starts every 64 lines.
SLACK_LINES = 256

Item = tuple[np.ndarray, int] | tuple[np.ndarray, int, int] | Exception | None


class Script:
    """A source that plays a script: blocks (samples, index[, epoch]), None for a time-out, errors to raise."""

    zero_copy, paced, depth, block_samples = True, False, 8, BLOCK

    def __init__(self, items: Iterable[Item], loop: SimulatedLoop, *, lost_at_stop: int = 0) -> None:
        self.metadata, self.dtype = loop.metadata, loop.samples.dtype
        self.sample_rate_hz = loop.metadata.sample_rate_hz
        self.released: Counter[int] = Counter()
        self.handed = 0
        self._items, self._lost, self._end = iter(items), lost_at_stop, None

    def start(self) -> None:
        pass

    def acquire(self, timeout_s: float) -> Block | None:
        item = next(self._items, EndOfStream())
        if item is None:
            return None
        if isinstance(item, Exception):
            raise item
        samples, index, *epoch = item
        samples = samples.view()
        samples.flags.writeable = False
        lost = 0 if self._end is None else index - self._end
        self._end = index + samples.size
        self.handed += 1
        return Block(samples, index, lost, True, epoch[0] if epoch else 0, time.perf_counter_ns(), 0.0)

    def release(self, block: Block) -> None:
        self.released[block.index] += 1

    def stop(self) -> int:
        return self._lost


class Sink:
    """An output that keeps all it is given."""

    error = None

    def __init__(self) -> None:
        self.batches: list[CellBatch] = []

    def put(self, batch: CellBatch) -> bool:
        self.batches.append(batch)
        return True

    def __getitem__(self, column: str) -> np.ndarray:
        return np.concatenate([batch.columns[column] for batch in self.batches]) if self.batches else np.empty(0)


def finish(pipeline: LivePipeline, **options: object) -> None:
    """Run a pipeline to its end; a wedged one fails the test. The account must close whatever happens."""
    failed: list[BaseException] = []

    def go() -> None:
        try:
            pipeline.run(**options)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    thread.join(TIMEOUT_S)
    if thread.is_alive():
        pipeline.stop()
        pytest.fail(f"the run hangs; {pipeline.account}")
    account = pipeline.account
    assert all(isinstance(n, int) and n >= 0 for n in (account.processed, *account.dropped.values())), account
    assert account.offered == account.processed + sum(account.dropped.values()), account
    if failed:
        raise failed[0]


@dataclass
class Run:
    """A finished run and what it found."""

    pipeline: LivePipeline
    found: Sink
    source: Script

    @property
    def unlocked_samples(self) -> int:
        return self.pipeline.account.dropped["without_line_clock"]


@pytest.fixture
def play(loop: SimulatedLoop, calibration: Calibration) -> Callable[..., Run]:
    """Play a script, or what a function of the pipeline makes one."""

    def call(items: object, *, workers: int = 2, lost_at_stop: int = 0, fails: bool = False) -> Run:
        pipelines: list[LivePipeline] = []
        script = items(lambda: pipelines[0]) if callable(items) else items
        source, sink = Script(script, loop, lost_at_stop=lost_at_stop), Sink()
        pipelines.append(LivePipeline(source, calibration, sink, METADATA, workers=workers))
        finish(pipelines[0])
        if not fails:
            assert pipelines[0].error is None
        return Run(pipelines[0], sink, source)

    return call


def blocks(samples: np.ndarray, first: int = 0, *, size: int = BLOCK, epoch: int = 0) -> Iterator[Item]:
    """Samples in blocks, the first of which has index ``first``."""
    for begin in range(0, samples.size, size):
        yield samples[begin : begin + size], first + begin, epoch


def piece_of(loop: SimulatedLoop, first: int, count: int) -> np.ndarray:
    """Samples of a loop from any place on."""
    return np.take(loop.samples, np.arange(first, first + count), mode="wrap")


@dataclass
class Stretch:
    """Samples first … stop - 1 of the stream, in which sample i is the loop's (i + shift)."""

    first: int
    stop: int
    loop: SimulatedLoop
    shift: int = 0

    def cells(self, margin_lines: int = 40) -> np.ndarray:
        """Middle [sample] and position [samples] of the cells that lie wholly within, shape (C, 2)."""
        loop, period = self.loop, self.loop.line_period_samples
        begin = loop.first_line_start_samples + loop.cells["line_first"] * period - self.shift
        end = loop.first_line_start_samples + (loop.cells["line_last"] + 1) * period - self.shift
        position = loop.cells["x_um"] / loop.instrument.um_per_sample - LATE_SAMPLES
        passes = np.arange(-1, (self.stop + self.shift) // loop.samples.size + 2)[:, None] * loop.samples.size
        margin = margin_lines * period
        inside = (begin + passes >= self.first + margin) & (end + passes <= self.stop - margin)
        middle, position = 0.5 * (begin + end) + passes, np.broadcast_to(position, inside.shape)
        return np.column_stack([middle[inside], position[inside]])


def check_cells(found: Sink, stretches: list[Stretch], *, margin_lines: int = 40, others: int = 0) -> None:
    """Every cell of the stretches was found once; at most so many rows are none of them."""
    period = stretches[0].loop.line_period_samples
    wanted = np.concatenate([stretch.cells(margin_lines) for stretch in stretches])
    assert len(wanted) >= 2
    # those next to an end may be found or not
    known = np.concatenate([stretch.cells(-margin_lines) for stretch in stretches])
    middle = 0.5 * (found["sample_first"] + found["sample_last"])

    def near(cells: np.ndarray) -> np.ndarray:
        close = np.abs(middle[:, None] - cells[:, 0]) < 10 * period
        return close & (np.abs(found["position_samples"][:, None] - cells[:, 1]) < 15)

    times = near(wanted).sum(axis=0)
    assert (times == 1).all(), f"not found once: {wanted[times != 1]}, {times[times != 1]}"
    strange = ~near(known).any(axis=1)
    assert np.count_nonzero(strange) <= others, middle[strange]


def check_line_numbers(found: Sink, loop: SimulatedLoop, *, tolerance: float = 0.05) -> None:
    """A cell's line number is that which its sample has on a clock that never stopped."""
    line = (found["sample_first"] - loop.first_line_start_samples - LATE_SAMPLES) / loop.line_period_samples
    assert np.abs(line - found["line_first"]).max() <= tolerance


@pytest.mark.parametrize(("workers", "size"), [(1, BLOCK), (2, BLOCK), (4, 123_457), (2, 1 << 16), (3, 1 << 24)])
def test_every_cell_once_whatever_the_blocks(play: object, loop: SimulatedLoop, workers: int, size: int) -> None:
    """Two passes without a fault; the only samples without a clock are those before the first line, or a first block
    too short to lock in. Every block is given back once."""
    twice = np.tile(loop.samples, 2)
    run = play(blocks(twice, size=size), workers=workers)
    check_cells(run.found, [Stretch(0, twice.size, loop)])
    check_line_numbers(run.found, loop)
    assert run.unlocked_samples < (loop.line_period_samples if size > 1 << 17 else 170 * loop.line_period_samples)
    assert run.pipeline.account.offered == twice.size
    assert set(run.source.released.values()) == {1}
    assert len(run.source.released) == run.source.handed


def test_source_stalls(play: object, loop: SimulatedLoop) -> None:
    """Time-outs before the first block and between blocks change nothing."""

    def items() -> Iterator[Item]:
        for item in blocks(loop.samples):
            yield from [None] * 40
            yield item
        yield from [None] * 10

    run = play(items())
    check_cells(run.found, [Stretch(0, loop.samples.size, loop)])
    assert run.pipeline.account.offered == loop.samples.size


@pytest.mark.parametrize("epoch", [0, 1])
@pytest.mark.parametrize("gap_lines", [None, 0.5, 3.7, 1e4, 1e6])
def test_gap(play: object, loop: SimulatedLoop, gap_lines: float | None, epoch: int) -> None:
    """Samples are missing: just they are lost, the clock goes on at once, and lines keep their numbers (None: one
    sample)."""
    gap = 1 if gap_lines is None else round(gap_lines * loop.line_period_samples)
    half, rest = loop.samples.size // 2 + 1000, 20 * BLOCK
    after = half + gap

    def items() -> Iterator[Item]:
        yield from blocks(loop.samples[:half])
        yield from blocks(piece_of(loop, after, rest), after, epoch=epoch)

    run = play(items())
    check_cells(run.found, [Stretch(0, half, loop), Stretch(after, after + rest, loop)], others=1)
    check_line_numbers(run.found, loop)
    assert run.pipeline.account.dropped["lost_by_source"] == gap
    assert run.unlocked_samples < 3 * loop.line_period_samples
    assert run.pipeline.account.offered == after + rest


def test_device_restarts_at_another_phase(play: object, loop: SimulatedLoop) -> None:
    """After the gap of a restart, whose length is not known to a line, the clock is found anew."""
    half, gap, rest, shift = loop.samples.size // 2, 1_000_000, 20 * BLOCK, 160
    after = half + gap

    def items() -> Iterator[Item]:
        yield from blocks(loop.samples[:half])
        yield from blocks(piece_of(loop, after + shift, rest), after, epoch=1)

    run = play(items())
    check_cells(run.found, [Stretch(0, half, loop), Stretch(after, after + rest, loop, shift)], others=1)
    check_line_numbers(run.found, loop, tolerance=0.6)
    assert run.pipeline.clock.losses == 1
    assert run.unlocked_samples < SLACK_LINES * loop.line_period_samples


@pytest.mark.parametrize("within_block", [0, BLOCK // 2 + 77])
@pytest.mark.parametrize("shift", [0, 160])
@pytest.mark.parametrize(("dark_samples", "level"), [(4_000, 0.0), (3_000_000, 0.0), (3_000_000, 0.02)])
def test_laser_off(
    play: object, loop: SimulatedLoop, dark_samples: int, level: float, shift: int, within_block: int
) -> None:
    """The light goes out, all of it or nearly, and comes back in phase or not: only what is dark is lost, and some
    lines on either side."""
    off = 10 * BLOCK + within_block
    on, rest = off + dark_samples, 12 * BLOCK
    rng = np.random.default_rng(1)
    dark = DARK_CODES + level * (piece_of(loop, off, dark_samples) - DARK_CODES) + rng.normal(0, 0.6, dark_samples)
    dark = np.clip(np.rint(dark), -128, 127).astype(np.int8)
    samples = np.concatenate([loop.samples[:off], dark, piece_of(loop, on + shift, rest)])
    run = play(blocks(samples))
    ends = [Stretch(0, off, loop), Stretch(on, samples.size, loop, shift)]
    check_cells(run.found, ends, margin_lines=SLACK_LINES, others=2)
    check_line_numbers(run.found, loop, tolerance=0.6)
    assert run.unlocked_samples < dark_samples + SLACK_LINES * loop.line_period_samples
    assert run.pipeline.clock.locked


@pytest.mark.parametrize("relative", [1e-5, 1e-4, 1e-3, 5e-3, -5e-3])
def test_period_step(play: object, loop: SimulatedLoop, relative: float) -> None:
    """The laser's rate changes from one line to the next: the clock is found at the new period within some lines."""
    other = simulated_loop(
        loop_samples=1 << 23, block_samples=1 << 16, cells_per_s=5000, seed=3, line_rate_hz=11.6e6 / (1 + relative)
    )
    size = loop.samples.size
    run = play(blocks(np.concatenate([loop.samples, other.samples, other.samples])))
    stretches = [Stretch(0, size, loop), Stretch(size, size + 2 * other.samples.size, other, -size)]
    check_cells(run.found, stretches, margin_lines=SLACK_LINES, others=1)
    assert run.unlocked_samples < SLACK_LINES * loop.line_period_samples
    assert abs(run.pipeline.clock.period_samples - other.line_period_samples) < 3e-6
    assert abs(run.pipeline.clock.lines - loop.lines - 2 * other.lines) <= 1


def changed_for_good(before: np.ndarray, after: np.ndarray, passes: int) -> Callable[..., Iterator[Item]]:
    """A stream that changes, and stalls now and then until its pipeline has measured the empty line anew."""

    def items(pipeline: Callable[[], LivePipeline]) -> Iterator[Item]:
        yield from blocks(before)
        index = before.size
        for _ in range(300):
            if pipeline().recalibrations:
                break
            place = (index - before.size) % after.size
            yield after[place : place + BLOCK], index
            index += BLOCK
            if index > before.size + 32 * BLOCK:
                time.sleep(0.02)
        for _ in range(passes * after.size // BLOCK):
            place = (index - before.size) % after.size
            yield after[place : place + BLOCK], index
            index += BLOCK

    return items


def test_empty_line_is_measured_anew(play: object, loop: SimulatedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change too large to follow (the line rate by 5 %): the empty line is measured anew beside the run, and from
    then on every cell is found, while what came before counts as lost."""
    monkeypatch.setattr(live, "snapshot_samples", lambda _: 1 << 22)
    other = simulated_loop(
        loop_samples=1 << 23, block_samples=1 << 19, cells_per_s=5000, seed=3, line_rate_hz=11.6e6 / 1.05
    )
    run = play(changed_for_good(loop.samples, other.samples, 2))
    assert run.pipeline.recalibrations == 1
    assert run.pipeline.clock.locked
    end, size = run.pipeline.account.offered, loop.samples.size
    stretches = [Stretch(0, size, loop), Stretch(end - 2 * other.samples.size, end, other, -size)]
    check_cells(run.found, stretches, margin_lines=SLACK_LINES, others=2)
    assert run.unlocked_samples >= 4 * BLOCK


@pytest.mark.parametrize("rail", [-128, 127])
@pytest.mark.parametrize("saturated", [5_000, 50_000, 500_000, 5_000_000])
def test_saturated_burst(play: object, loop: SimulatedLoop, saturated: int, rail: int) -> None:
    """All samples on a rail for 1 µs to 1 ms: those are counted, and every cell outside is found."""
    samples = np.tile(loop.samples, 2)
    first = 6 * BLOCK + 12_345
    plain = int(np.count_nonzero((samples <= -128) | (samples >= 127)))
    samples[first : first + saturated] = rail
    run = play(blocks(samples))
    stretches = [Stretch(0, first, loop), Stretch(first + saturated, samples.size, loop)]
    check_cells(run.found, stretches, margin_lines=SLACK_LINES, others=2)
    check_line_numbers(run.found, loop)
    counted = run.pipeline.account.saturated - plain
    lost = run.unlocked_samples
    assert saturated - lost - 10 * loop.line_period_samples <= counted <= saturated + plain
    assert lost < SLACK_LINES * loop.line_period_samples or lost < saturated + SLACK_LINES * loop.line_period_samples


def with_light(samples: np.ndarray, gain: np.ndarray | float, baseline: float = 0.0) -> np.ndarray:
    """Samples as they were with more light, or less, or another baseline."""
    rng = np.random.default_rng(2)
    codes = (samples.astype(np.float32) - DARK_CODES) * gain + DARK_CODES + baseline
    return np.clip(np.rint(codes + rng.uniform(-0.5, 0.5, samples.size)), -128, 127).astype(np.int8)


@pytest.mark.parametrize(
    ("gain", "baseline"), [(0.5, 0.0), (0.7, -20.0), (0.95, 0.0), (1.02, 0.0), (1.05, 3.0), (1.3, 0.0)]
)
def test_gain_step(play: object, loop: SimulatedLoop, gain: float, baseline: float) -> None:
    """The light or the digitiser's gain jumps, with the baseline of an AC-coupled input: it is followed at once."""
    size = loop.samples.size
    samples = np.concatenate([loop.samples, with_light(np.tile(loop.samples, 2), gain, baseline)])
    run = play(blocks(samples))
    stretches = [Stretch(0, size, loop), Stretch(size, samples.size, loop)]
    check_cells(run.found, stretches, margin_lines=2 * SLACK_LINES, others=1)
    check_line_numbers(run.found, loop)
    assert run.unlocked_samples < SLACK_LINES * loop.line_period_samples


def test_gain_step_into_saturation(play: object, loop: SimulatedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice the light lies on the rail in a third of all samples: the empty line must be measured anew. No cells are
    made up then (all of these are too faint to bring the light off the rail)."""
    monkeypatch.setattr(live, "snapshot_samples", lambda _: 1 << 22)
    run = play(changed_for_good(loop.samples, with_light(loop.samples, 2.0), 1))
    size = loop.samples.size
    assert run.pipeline.recalibrations == 1
    assert run.pipeline.clock.locked
    check_cells(run.found, [Stretch(0, size, loop)], others=1)
    check_line_numbers(run.found, loop, tolerance=0.6)
    assert run.pipeline.account.saturated > size / 4


def test_slow_drift_of_light(play: object, loop: SimulatedLoop) -> None:
    """The light fades by 30 % over 400 measurements of it: no cell is lost or made up, nor the clock."""
    count, size = 400, 1 << 17

    def items() -> Iterator[Item]:
        for n in range(count):
            gain = 1 - 0.3 * (n + np.arange(size, dtype=np.float32) / size) / count
            yield with_light(piece_of(loop, n * size, size), gain), n * size

    run = play(items())
    check_cells(run.found, [Stretch(0, count * size, loop)])
    assert run.pipeline.clock.losses == 0


def test_losses_are_those_of_the_index(play: object, loop: SimulatedLoop) -> None:
    """What the driver says it lost at the end is offered and lost too; what it says before a block may be wrong."""
    gap = 12_345

    class Forgetful(Script):
        def acquire(self, timeout_s: float) -> Block | None:
            block = super().acquire(timeout_s)
            return block and Block(block.samples, block.index, 0, False, 0, block.host_ns, 0.0)

    run = play(blocks(loop.samples[: 4 * BLOCK]), lost_at_stop=777)
    assert run.pipeline.account.dropped["lost_by_source"] == 777
    assert run.pipeline.account.offered == 4 * BLOCK + 777
    items = [(loop.samples[:BLOCK], 0), (loop.samples[BLOCK + gap :][:BLOCK], BLOCK + gap)]
    source = Forgetful(items, loop)
    pipeline = LivePipeline(source, run.pipeline.calibration, None, METADATA, workers=2)
    finish(pipeline)
    assert pipeline.account.dropped["lost_by_source"] == gap


def test_index_that_goes_back_ends_the_run(play: object, loop: SimulatedLoop) -> None:
    """A driver that counts anew breaks the time line: the run ends and says so, with what came before."""
    run = play([*blocks(loop.samples[: 8 * BLOCK]), (loop.samples[:BLOCK], 0, 1)], fails=True)
    assert isinstance(run.pipeline.error, SourceError)
    assert "index must never go back" in str(run.pipeline.error)
    check_cells(run.found, [Stretch(0, 8 * BLOCK, loop)])


@pytest.mark.parametrize("error", [SourceError("the card is gone"), RuntimeError("a bug in a driver")])
@pytest.mark.parametrize("workers", [1, 3])
def test_source_fails(play: object, loop: SimulatedLoop, error: Exception, workers: int) -> None:
    """What was there before the failure is counted; a failed device's blocks are also measured to the last cell."""
    run = play([*blocks(loop.samples[: 10 * BLOCK]), error], workers=workers, fails=True)
    assert run.pipeline.error is error
    assert run.pipeline.account.offered == 10 * BLOCK
    if isinstance(error, SourceError):
        check_cells(run.found, [Stretch(0, 10 * BLOCK, loop)])
        assert run.pipeline.account.dropped["not_finished"] == 0


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("name", ["screen_block", "measure_piece"])
def test_worker_fails(
    play: object, loop: SimulatedLoop, monkeypatch: pytest.MonkeyPatch, name: str, workers: int
) -> None:
    """A kernel that raises ends the run for all workers; what was not finished is no processed sample."""
    plain, calls = getattr(live, name), iter(range(1000))

    def failing(*arguments: object) -> object:
        if next(calls) == 2:
            raise ZeroDivisionError("in a kernel")
        return plain(*arguments)

    monkeypatch.setattr(live, name, failing)
    run = play(blocks(np.tile(loop.samples, 2)), workers=workers, fails=True)
    assert isinstance(run.pipeline.error, ZeroDivisionError)
    assert run.pipeline.account.dropped["not_finished"] > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_fails_at_the_end(
    play: object, loop: SimulatedLoop, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """Measuring fails when the source has ended, within a cell: what was kept for its next block counts as lost."""
    plain, ended = live.measure_piece, threading.Event()
    cell = loop.cells[-2]
    middle = (cell["line_first"] + cell["line_last"]) / 2
    samples = loop.samples[: int(loop.first_line_start_samples + middle * loop.line_period_samples)]

    def items() -> Iterator[Item]:
        yield from blocks(samples)
        ended.set()

    def failing(*arguments: object) -> object:
        if ended.is_set():
            raise ZeroDivisionError("in a kernel")
        return plain(*arguments)

    monkeypatch.setattr(live, "measure_piece", failing)
    run = play(items(), workers=workers, fails=True)
    account = run.pipeline.account
    assert isinstance(run.pipeline.error, ZeroDivisionError)
    assert account.pieces_dropped > 0
    assert account.dropped["not_finished"] > account.pieces_dropped * loop.line_period_samples


def test_stop_from_anywhere(play: object, loop: SimulatedLoop) -> None:
    """Stopped within a stream without end: all that was handed over is finished."""

    def items(pipeline: Callable[[], LivePipeline]) -> Iterator[Item]:
        for n in range(10_000):
            if n == 20:
                pipeline().stop()
            yield piece_of(loop, n * BLOCK, BLOCK), n * BLOCK

    run = play(items)
    stop = run.pipeline.account.offered
    assert 20 * BLOCK <= stop <= 22 * BLOCK
    check_cells(run.found, [Stretch(0, stop, loop)], others=1)
    assert run.pipeline.account.dropped["not_finished"] == 0


class FakeTime:
    """A clock that goes on when somebody waits for it, or works."""

    def __init__(self) -> None:
        self.now_ns = 0
        self._lock = threading.Lock()

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now_ns += math.ceil(seconds * 1e9)


def paced(loop: SimulatedLoop, clock: FakeTime, depth: int) -> LoopSource:
    rate = loop.metadata.sample_rate_hz
    return LoopSource(
        loop.samples, rate, metadata=loop.metadata, block_samples=BLOCK, depth=depth, clock=clock, sleep=clock.sleep
    )


@pytest.mark.parametrize(("work_blocks", "depth", "reason"), [(1.7, 4, "lost_by_source"), (9.0, 4, "overwritten")])
def test_reader_too_slow(
    loop: SimulatedLoop,
    calibration: Calibration,
    monkeypatch: pytest.MonkeyPatch,
    work_blocks: float,
    depth: int,
    reason: str,
) -> None:
    """A block takes longer to screen than to come: what the ring overwrote before or meanwhile is lost, and counted;
    cells in the blocks between are real."""
    clock, plain = FakeTime(), live.screen_block

    def slow(*arguments: object) -> object:
        clock.sleep(work_blocks * BLOCK / 5e9)
        return plain(*arguments)

    monkeypatch.setattr(live, "screen_block", slow)
    sink = Sink()
    pipeline = LivePipeline(paced(loop, clock, depth), calibration, sink, METADATA, workers=1)
    finish(pipeline, most_samples=100 * BLOCK)
    account = pipeline.account
    assert account.dropped[reason] > 10 * BLOCK
    assert account.offered >= 100 * BLOCK
    assert (account.processed == 0) == (reason == "overwritten")
    truth = Stretch(0, account.offered, loop).cells(0)
    middle = 0.5 * (sink["sample_first"] + sink["sample_last"])
    assert all(np.abs(truth[:, 0] - m).min() < 200 * loop.line_period_samples for m in middle)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("fill", "rows"), [(0.2, True), (0.9, False)])
def test_ring_fills(
    loop: SimulatedLoop,
    calibration: Calibration,
    monkeypatch: pytest.MonkeyPatch,
    fill: float,
    rows: bool,
    workers: int,
) -> None:
    """The reader falls behind: images go first, then a block's cells, whole, and their lines count as lost; as soon as
    it has caught up, all is as before."""
    monkeypatch.setattr(live, "_IMAGES_SHARE", 1e9)  # however slow this machine is
    monkeypatch.setattr(live, "_PRESSING_S", 1e-5)  # less than a block
    first, stop = 8, 24

    class Filling(Script):
        paced = True

        def acquire(self, timeout_s: float) -> Block | None:
            block = super().acquire(timeout_s)
            if block is None or not first <= block.index // BLOCK < stop:
                return block
            return Block(block.samples, block.index, 0, True, 0, block.host_ns, fill)

    sink = Sink()
    twice = np.tile(loop.samples, 2)
    pipeline = LivePipeline(Filling(blocks(twice), loop), calibration, sink, METADATA, workers=workers)
    finish(pipeline)
    account = pipeline.account
    stretches = [Stretch(0, twice.size, loop)]
    if not rows:
        # of two workers, one may still be at the block before
        stretches = [Stretch(0, (first - 1) * BLOCK, loop), Stretch((stop + 2) * BLOCK, twice.size, loop)]
        assert account.pieces_dropped > 3
        assert account.dropped["overload"] > account.pieces_dropped * 40 * loop.line_period_samples
        assert account.dropped["overload"] < (stop - first + 1) * BLOCK
        check_cells(sink, stretches, others=2 * loop.cells.size)
    else:
        check_cells(sink, stretches)
        assert account.dropped["overload"] == 0
    pictured = np.concatenate([batch.pictured for batch in sink.batches])
    block = sink["sample_first"] // BLOCK
    assert not pictured[(block > first) & (block < stop - 1)].any()
    assert pictured[(block < first - 1) | (block > stop + 1)].all()
    assert len(set(sink["line_first"].tolist())) == len(sink["line_first"])


def test_output_that_is_full(loop: SimulatedLoop, calibration: Calibration) -> None:
    """An output that takes nothing: the run goes on and counts all cells, and those refused."""

    class Full(Sink):
        def put(self, batch: CellBatch) -> bool:
            return False

    pipeline = LivePipeline(Script(blocks(loop.samples), loop), calibration, Full(), METADATA, workers=2)
    finish(pipeline)
    assert pipeline.account.cells == pipeline.account.rows_refused == loop.cells.size
    assert pipeline.account.processed > loop.samples.size - loop.line_period_samples


def test_pace_is_not_the_rate_of_the_samples(loop: SimulatedLoop, calibration: Calibration) -> None:
    """A stream that comes a million times more slowly than it was sampled has time for every image, and its realtime
    factor is that of its pace; only what was processed counts."""

    class Slow(Script):
        paced, pace_hz = True, 5e3

    sink = Sink()
    pipeline = LivePipeline(Slow(blocks(loop.samples), loop), calibration, sink, METADATA, workers=2)
    pipeline._row_s = 0.01
    finish(pipeline)
    assert pipeline.account.images == pipeline.account.cells == loop.cells.size
    account = pipeline.account
    account.processed, pipeline.idleness.seconds = account.processed // 2, 3.0
    assert realtime_factor(pipeline, 5.0) == pytest.approx(account.processed / 5e3 / 2.0)
    pipeline.paced = False
    assert realtime_factor(pipeline, 5.0) == pytest.approx(account.processed / loop.metadata.sample_rate_hz / 5.0)


def test_replay_tells_its_pace(simulated: Path) -> None:
    with open_capture(simulated) as capture:
        assert ReplaySource(capture, rate_hz=1e9).pace_hz == 1e9
        assert ReplaySource(capture).pace_hz == capture.metadata.sample_rate_hz


def test_refused_cells_are_told(
    loop: SimulatedLoop, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the writer's queue has no room for is found, but not written; the summary tells both."""
    monkeypatch.setattr(live_results.OutputThread, "put", lambda *_: False)
    summary = run_stream(Script(blocks(loop.samples), loop), calibration, folder=tmp_path)["summary"]
    assert summary["cells_found"] == summary["cells_not_written"] == loop.cells.size
    assert summary["cells_written"] == 0
    assert summary["error"] is None


def test_restarts_and_estimated_losses_are_recorded(loop: SimulatedLoop, calibration: Calibration) -> None:
    class Estimating(Script):
        def acquire(self, timeout_s: float) -> Block | None:
            block = super().acquire(timeout_s)
            return block and replace(block, lost_exact=block.epoch == 0)

    items = [(loop.samples[:BLOCK], 0), (loop.samples[BLOCK + 999 :][:BLOCK], BLOCK + 999, 1)]
    pipeline = LivePipeline(Estimating(items, loop), calibration, None, METADATA, workers=1)
    finish(pipeline)
    assert pipeline.account.restarts == 1
    assert pipeline.account.lost_estimated == pipeline.account.dropped["lost_by_source"] == 999


@pytest.mark.parametrize("error", [RuntimeError("in a kernel"), MemoryError()])
def test_a_failed_recalibration_is_recorded_and_tried_again(
    play: object, loop: SimulatedLoop, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Whatever goes wrong beside the run, the run goes on."""
    tried = threading.Event()

    def fail(*_: object) -> None:
        tried.set()
        raise error

    monkeypatch.setattr(live, "calibrate_on_blocks", fail)
    monkeypatch.setattr(live, "snapshot_samples", lambda _: BLOCK)
    rng = np.random.default_rng(1)
    strange = rng.integers(-100, 100, BLOCK).astype(np.int8)

    def items() -> Iterator[Item]:
        for n in range(100):
            yield strange, n * BLOCK
        tried.wait(TIMEOUT_S)

    run = play(items())
    assert run.pipeline.recalibration_error == (str(error) or "MemoryError")
    assert run.pipeline._recalibration is None
    assert run.pipeline.recalibrations == 0


def test_forced_stop_frees_who_hangs_in_the_source(loop: SimulatedLoop, calibration: Calibration) -> None:
    """A driver that waits for ever is left as soon as the source is stopped; what it lost then counts once."""
    waiting, stopped = threading.Event(), threading.Event()

    class Hanging(Script):
        def acquire(self, timeout_s: float) -> Block | None:
            if self.handed == 4:
                waiting.set()
                stopped.wait(TIMEOUT_S)
                raise EndOfStream
            return super().acquire(timeout_s)

        def stop(self) -> int:
            lost = 0 if stopped.is_set() else 777
            stopped.set()
            return lost

    pipeline = LivePipeline(Hanging(blocks(loop.samples), loop), calibration, None, METADATA, workers=2)
    threading.Thread(target=lambda: (waiting.wait(TIMEOUT_S), pipeline.force_stop()), daemon=True).start()
    finish(pipeline)
    assert pipeline.account.offered == 4 * BLOCK + 777


def test_disk_is_full(
    loop: SimulatedLoop, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first write fails in a stream without end: the run ends, and the record says why. It lies beside what was
    kept, and gets its name with that when the next run starts."""

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(live_results, "_require_room", no_room)
    monkeypatch.setattr(live_results, "SPARE_BYTES", 1 << 16)
    monkeypatch.setattr(live_results, "WRITE_ROWS", 1)
    size = loop.samples.size
    endless = (item for n in range(1_000_000) for item in blocks(loop.samples, n * size))
    record = run_stream(Script(endless, loop), calibration, folder=tmp_path)
    summary = record["summary"]
    assert "No space left" in record["error"]
    assert summary["error"] == record["error"]
    assert summary["cells_not_written"] == summary["cells_found"] > 0
    assert summary["cells_written"] == 0
    assert not (tmp_path / "stream.run.json").exists()
    assert json.loads((tmp_path / "stream.run.json.part").read_text())["error"] == record["error"]
    prepare_folder(tmp_path, "stream")
    assert [path.name for path in tmp_path.iterdir()] == ["stream.interrupted-1.run.json"]


def test_no_room_for_the_table_at_the_end(
    loop: SimulatedLoop, calibration: Calibration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All rows are written, but not sorted: the record says so, and the next run's start completes them."""

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(live_results, "table_to_parquet", no_room)
        record = run_stream(Script(blocks(loop.samples), loop), calibration, folder=tmp_path)
    assert "No space left" in record["summary"]["error"]
    assert record["summary"]["cells_written"] == loop.cells.size
    prepare_folder(tmp_path, "stream")
    assert pq.read_table(tmp_path / "stream.interrupted-1.parquet").num_rows == loop.cells.size
    assert (tmp_path / "stream.interrupted-1.run.json").exists()


@pytest.mark.parametrize("error", [SourceError("the card is gone"), ValueError("a bug"), None])
def test_outputs_are_complete_however_the_source_ends(
    loop: SimulatedLoop, calibration: Calibration, tmp_path: Path, error: Exception | None
) -> None:
    """The run record is there, with the reason, and the table holds every cell; a bug is raised after that."""
    source = Script([*blocks(loop.samples), *([] if error is None else [error])], loop)
    if isinstance(error, SourceError) or error is None:
        record = run_stream(source, calibration, folder=tmp_path, workers=2)
        assert record["error"] == (None if error is None else "the card is gone")
        assert pq.read_table(tmp_path / "stream.parquet").num_rows == loop.cells.size
    else:
        with pytest.raises(ValueError, match="a bug"):
            run_stream(source, calibration, folder=tmp_path, workers=2)
    assert (tmp_path / "stream.run.json").exists()
    assert not list(tmp_path.glob("*.part"))


def test_source_that_does_not_start(loop: SimulatedLoop, calibration: Calibration, tmp_path: Path) -> None:
    """The error comes out, nobody waits, and no thread is left."""

    class Dead(Script):
        def start(self) -> None:
            raise SourceError("no such card")

    with pytest.raises(SourceError, match="no such card"):
        run_stream(Dead([], loop), calibration, folder=tmp_path)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("worker", "output"))]


def test_no_cell_in_the_first_samples() -> None:
    """The crops then hold the usual cell of 16 µm, and the calibration says that it has seen none."""
    empty = simulated_loop(loop_samples=1 << 22, block_samples=BLOCK, cells_per_s=0, seed=3)
    source = LoopSource(empty.samples, 5e9, metadata=empty.metadata, block_samples=BLOCK, paced=False)
    calibration = calibrate_on_source(source, Settings())
    assert 16 < calibration.crop_px * calibration.setup.pixel_um(calibration.grid) < 25
    assert "no cell in the first samples" in calibration.warnings[-1]


@pytest.fixture(scope="module")
def both_ways(simulated: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[pa.Table, pa.Table, Calibration]:
    """Tables of the same capture's cells, processed and streamed, and the calibration that both make."""
    folder = tmp_path_factory.mktemp("both")
    process_capture(simulated, folder, Settings().with_method("gridding"), execution=Execution(workers=1))
    calibration = calibrate_on_capture(simulated, Settings())
    with open_capture(simulated) as capture:
        source = ReplaySource(capture, paced=False, block_samples=200_000)
        record = run_stream(source, calibration, folder=folder / "live", stem="live", workers=2)
    assert record["error"] is None
    tables = [pq.read_table(path) for path in (folder / "simulated.parquet", folder / "live" / "live.parquet")]
    return *tables, calibration


def test_stream_and_process_find_the_same(both_ways: tuple[pa.Table, pa.Table, Calibration]) -> None:
    """The same cells with the same features, as far as two clocks agree.

    ``process`` smooths the clock over the whole capture, the stream filters it as it comes: their line starts differ by
    0.002 samples rms here, 0.008 at most. So do positions and centroids; what is measured on grey values moves by the
    slope of the empty line times that, below 0.001 of the light, and an outline by 0.01 samples of some 50.
    """
    batch, streamed, _ = both_ways
    assert batch.num_rows == streamed.num_rows > 10
    differences = {
        name: np.abs(batch[name].to_numpy() - streamed[name].to_numpy()).max()
        for name in ("line_first", "line_last", "position_samples", "transmission_mean", "transmission_q50")
    }
    assert differences["line_first"] == differences["line_last"] == 0
    assert differences["position_samples"] < 0.02
    assert max(differences["transmission_mean"], differences["transmission_q50"]) < 1e-3
    assert np.abs(batch["time_s"].to_numpy() - streamed["time_s"].to_numpy()).max() < 5e-9
    diameter = streamed["equivalent_diameter_um"].to_numpy() / batch["equivalent_diameter_um"].to_numpy()
    assert np.abs(diameter - 1).max() < 2e-3


def test_pieces_give_the_rows_of_process_where_the_lines_are_the_same(
    simulated: Path, both_ways: tuple[pa.Table, pa.Table, Calibration]
) -> None:
    """Handed the line starts that ``process`` measured, a piece's cells are the table's, number by number."""
    batch, _, calibration = both_ways
    with open_capture(simulated) as capture:
        survey = survey_capture(capture, Settings().capture)
        (clock,), (segment,) = survey.clock.segments, survey.segments
        samples = capture.read(segment.first_sample, segment.first_sample + segment.samples)
    lines = clock.lines // ROW_LINES * ROW_LINES
    starts = clock.line_start(clock.first_line + np.arange(lines + 1)) - segment.device_index
    whole = Lines(samples, segment.device_index, clock.first_line, starts)
    wanted = np.ones(lines // ROW_LINES, dtype=np.bool_)
    piece = Piece(whole, wanted, whole.first_line, whole.stop_line, True, calibration.setup.empty_line, 0, samples.size)
    cells = cells_of(live.measure_piece(calibration.setup, calibration, piece, patches_of))
    assert len(cells) == batch.num_rows
    for name in cells[0].row:
        ours = np.array([cell.row[name] for cell in cells], dtype=float)
        theirs = batch[name].to_numpy().astype(float)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=name)


def test_memory_stays_constant(loop: SimulatedLoop, calibration: Calibration) -> None:
    """The process grows by less than a tenth of what streams through it, after its first passes."""
    resident = []

    def items() -> Iterator[Item]:
        for n in range(24):
            if n >= 8:
                resident.append(_resident_bytes())
            yield from blocks(loop.samples, n * loop.samples.size)

    pipeline = LivePipeline(Script(items(), loop), calibration, None, METADATA, workers=2)
    finish(pipeline)
    assert pipeline.account.cells == 24 * loop.cells.size
    assert max(resident) - resident[0] < 24 << 20


def _resident_bytes() -> int:
    """Memory of this process, now."""
    status = Path("/proc/self/statm")
    if not status.exists():
        pytest.skip("no /proc here")
    return int(status.read_text().split()[1]) * resource.getpagesize()
