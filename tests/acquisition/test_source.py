"""Sources against an account kept by hand, on a clock that the test turns."""

import importlib.util
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stretchscope.acquisition import (
    Block,
    Capture,
    CaptureError,
    CaptureMetadata,
    CaptureWriter,
    EndOfStream,
    LoopSource,
    ReplaySource,
    Source,
    SourceError,
    open_capture,
)
from stretchscope.acquisition.simulated_loop import SimulatedLoop, simulated_loop

RATE_HZ = 1e6
METADATA = CaptureMetadata(sample_rate_hz=RATE_HZ, bits=8)


class Clock:
    """A host whose time passes only when it is told to, or sleeps."""

    def __init__(self, late_ns: int = 0) -> None:
        self.now_ns, self.late_ns, self.slept_s = 12_345, late_ns, 0.0

    def __call__(self) -> int:
        return self.now_ns

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept_s += seconds
        self.now_ns += round(seconds * 1e9) + self.late_ns

    def pass_samples(self, samples: float, rate_hz: float = RATE_HZ) -> None:
        self.now_ns += round(samples / rate_hz * 1e9)


def loop_source(clock: Clock, *, blocks: int = 5, block_samples: int = 16, **options: object) -> LoopSource:
    loop = np.arange(blocks * block_samples, dtype=np.int16)
    settings = {"metadata": METADATA, "block_samples": block_samples, "depth": 4, "clock": clock, "sleep": clock.sleep}
    return LoopSource(loop, RATE_HZ, **{**settings, **options})  # type: ignore[arg-type]


def got(source: Source, timeout_s: float = 1.0) -> Block:
    block = source.acquire(timeout_s)
    assert block is not None
    return block


def read_all(source: Source) -> list[Block]:
    blocks = []
    try:
        while True:
            blocks.append(got(source))
    except EndOfStream:
        return blocks


def test_sources_are_sources() -> None:
    """The protocol, as the type checker and a reader of it see it."""
    sources: list[Source] = [loop_source(Clock())]
    for source in sources:
        for name in Source.__annotations__:
            assert hasattr(source, name), name
    assert sources[0].sample_rate_hz == RATE_HZ
    assert sources[0].dtype == np.int16


def test_loop_goes_on_without_end_in_order_and_without_copies() -> None:
    """Every sample of three passes in its place, each block a read-only view, handed over when it is due."""
    clock = Clock(late_ns=30_000)
    loop = np.arange(80, dtype=np.int16)
    source = LoopSource(loop, RATE_HZ, metadata=METADATA, block_samples=16, depth=4, clock=clock, sleep=clock.sleep)
    source.start()
    begun = clock.now_ns
    for i in range(15):
        block = got(source)
        assert (block.index, block.lost_before, block.lost_exact, block.epoch) == (16 * i, 0, True, 0)
        np.testing.assert_array_equal(block.samples, loop[np.arange(16 * i, 16 * i + 16) % 80])
        assert np.shares_memory(block.samples, loop)
        assert not block.samples.flags.writeable
        assert block.samples.flags.c_contiguous
        assert block.host_ns == begun + 16_000 * (i + 1)
        assert 0 < block.fill <= 1
        assert block.valid()
        source.release(block)
    assert source.zero_copy
    assert source.stop() == 0
    assert loop.flags.writeable  # the maker's own array is as it was


@given(
    data=st.data(),
    depth=st.integers(1, 6),
    block_samples=st.integers(1, 40),
    rate=st.sampled_from([1.0, 0.3, 7.77]),
    starts=st.integers(1, 2),
)
@settings(max_examples=150, deadline=None)
def test_every_sample_is_accounted_for(
    data: st.DataObject, depth: int, block_samples: int, rate: float, starts: int
) -> None:
    """Under any delays of the reader: offered = handed over + lost, and the device's clock agrees."""
    clock = Clock()
    source = loop_source(
        clock, block_samples=block_samples, depth=depth, realtime_rate_hz=rate * RATE_HZ if rate != 1 else None
    )
    for _ in range(starts):
        source.start()
        begun, end, handed, lost = clock.now_ns, 0, 0, 0
        for delay in data.draw(st.lists(st.floats(0, 12), max_size=12)):
            clock.pass_samples(delay * block_samples, rate * RATE_HZ)
            whole = int((clock.now_ns - begun) * rate / 1000 + 1e-6) // block_samples  # on the device, by now
            block = got(source)
            assert block.index == end + block.lost_before
            assert block.lost_before % block_samples == 0
            if whole * block_samples - end <= depth * block_samples:
                assert block.lost_before == 0  # nothing is lost that was still there
            else:
                assert whole - block.index // block_samples == max(depth // 2, 1)
            np.testing.assert_array_equal(
                block.samples, np.arange(block.index, block.index + block_samples) % (5 * block_samples)
            )
            end = block.index + block.samples.size
            handed += block.samples.size
            lost += block.lost_before
        late = data.draw(st.integers(0, 10))
        clock.pass_samples(late * block_samples + 1e-3, rate * RATE_HZ)
        whole = int((clock.now_ns - begun) * rate / 1000 + 1e-6) // block_samples
        lost_at_stop = source.stop()
        assert lost_at_stop == max((whole - depth) * block_samples - end, 0)
        assert end + lost_at_stop == handed + lost + lost_at_stop


def test_overwritten_blocks_say_so() -> None:
    """A block is intact until ``depth`` more are there and one more has begun; stopping the device saves it."""
    clock = Clock()
    source = loop_source(clock, depth=3)
    source.start()
    clock.pass_samples(16)
    block = got(source)
    clock.pass_samples(3 * 16 - 1)
    assert block.valid()
    clock.pass_samples(1)
    assert not block.valid()
    late = got(source)
    assert late.fill == 1
    source.stop()
    clock.pass_samples(1000)
    assert late.valid()
    assert not block.valid()
    source.start()
    assert not late.valid()


def test_timeouts_and_ends() -> None:
    """None is no end; before the start is a mistake, after the stop is the end."""
    clock = Clock()
    source = loop_source(clock)
    with pytest.raises(SourceError, match="was not started; call start"):
        source.acquire(0)
    assert source.stop() == 0
    source.start()
    with pytest.raises(SourceError, match="stop it first"):
        source.start()
    assert source.acquire(0) is None
    before = clock.now_ns
    assert source.acquire(10e-6) is None
    assert clock.now_ns == before + 10_000
    assert source.waited_s == pytest.approx(10e-6)
    assert got(source, 10e-6).index == 0  # 6 µs later
    assert source.waited_s == pytest.approx(16e-6)
    source.stop()
    with pytest.raises(EndOfStream):
        source.acquire(1)


def test_unpaced_source_always_has_the_next_block() -> None:
    """As fast as it is read, nothing lost, no waiting, no pressure."""
    clock = Clock()
    source = loop_source(clock, paced=False)
    source.start()
    for i in range(50):
        clock.now_ns += 10**9
        block = got(source, 0)
        assert (block.index, block.lost_before, block.fill, block.host_ns) == (16 * i, 0, 0.0, clock.now_ns)
        assert block.valid()
    assert clock.slept_s == source.waited_s == 0
    assert source.stop() == 0


def test_real_clock_wakes_the_reader() -> None:
    """The default clock and sleep, once: blocks come, and another thread's stop ends the reader."""
    source = LoopSource(np.zeros(4000, np.int8), 1e6, metadata=METADATA, block_samples=1000)
    source.start()
    ended = threading.Event()

    def read() -> None:
        try:
            while True:
                source.acquire(0.05)
        except EndOfStream:
            ended.set()

    assert got(source, 5).samples.size == 1000
    reader = threading.Thread(target=read)
    reader.start()
    source.stop()
    reader.join(5)
    assert ended.is_set()


@pytest.mark.parametrize(
    ("samples", "options", "message"),
    [
        (np.zeros(100, np.int8), {}, "not a whole number of blocks of 16"),
        (np.zeros(0, np.int8), {}, "not a whole number of blocks"),
        (np.zeros((2, 16), np.int8), {}, "shape \\(L,\\)"),
        (np.zeros(64, np.int8)[::2], {}, "contiguous"),
        (np.zeros(32), {}, "must be int8"),
        (np.zeros(32, np.int8), {"depth": 0}, "depth must be a whole number"),
        (np.zeros(32, np.int8), {"block_samples": 1.5}, "block_samples must be"),
        (np.zeros(32, np.int8), {"realtime_rate_hz": 0.0}, "above zero"),
    ],
)
def test_bad_arguments(samples: np.ndarray, options: dict, message: str) -> None:
    """One message each, that says what is wrong."""
    with pytest.raises(ValueError, match=message):
        LoopSource(samples, RATE_HZ, **{"metadata": METADATA, "block_samples": 16, **options})


# --- replay of a capture


@pytest.fixture
def gapped(tmp_path: Path) -> Capture:
    """A capture of 1000 samples with a gap of 77 after 300, its device index from 5 on."""
    samples = np.arange(1000, dtype=np.int16)
    with CaptureWriter(tmp_path / "gapped.h5", CaptureMetadata(sample_rate_hz=RATE_HZ), "int16") as writer:
        writer.append(samples[:300], device_index=5)
        writer.append(samples[300:], device_index=382)
    return open_capture(tmp_path / "gapped.h5")


def replay_source(capture: Capture, clock: Clock, **options: object) -> ReplaySource:
    return ReplaySource(
        capture,
        **{"block_samples": 64, "depth": 3, "clock": clock, "sleep": clock.sleep, **options},  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("paced", [True, False])
def test_replay_gives_the_captures_samples_once(gapped: Capture, paced: bool) -> None:
    """All samples in order, the index as stored, the gap as a loss, and then the end; twice."""
    clock = Clock()
    with gapped as capture:
        source = replay_source(capture, clock, paced=paced)
        for _ in range(2):
            source.start()
            begun, blocks = clock.now_ns, read_all(source)
            assert [block.samples.size for block in blocks] == [64] * 4 + [44] + [64] * 10 + [60]
            np.testing.assert_array_equal(np.concatenate([block.samples for block in blocks]), capture.read(0, 1000))
            assert [block.index for block in blocks[4:6]] == [5 + 256, 382]
            assert [block.lost_before for block in blocks] == [0] * 5 + [77] + [0] * 10
            assert all(block.valid() and not block.samples.flags.writeable for block in blocks[-3:])
            assert source.stop() == 0
            assert clock.now_ns - begun == (1_000_000 if paced else 0)  # gaps take no time


@given(delays=st.lists(st.floats(0, 500), min_size=1, max_size=20))
@settings(max_examples=40, deadline=None)
def test_late_reader_of_a_replay_loses_blocks(delays: list[float], tmp_path_factory: pytest.TempPathFactory) -> None:
    """The account holds across gap and losses, and what is handed over is what the index says."""
    clock = Clock()
    samples = np.arange(1000, dtype=np.int16)
    path = tmp_path_factory.mktemp("replay") / "gapped.h5"
    with CaptureWriter(path, CaptureMetadata(sample_rate_hz=RATE_HZ), "int16") as writer:
        writer.append(samples[:300], device_index=5)
        writer.append(samples[300:], device_index=382)
    by_index = dict(zip([*range(5, 305), *range(382, 1082)], samples, strict=True))
    with open_capture(path) as capture:
        source = replay_source(capture, clock)
        source.start()
        end, handed, lost = 5, 0, 0
        for delay in delays:
            clock.pass_samples(delay)
            try:
                block = got(source)
            except EndOfStream:
                assert end == 1082
                break
            assert block.index == end + block.lost_before
            assert block.samples.tolist() == [by_index[block.index + k] for k in range(block.samples.size)]
            end = block.index + block.samples.size
            handed, lost = handed + block.samples.size, lost + block.lost_before
        lost_at_stop = source.stop()
        assert lost_at_stop >= 0
        assert end - 5 == handed + lost
        assert end + lost_at_stop <= 1082


def test_slow_file_makes_a_slow_replay_without_loss(gapped: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times slower than the rate: the reader gets everything, and the wait is the file's."""
    clock = Clock()
    read = Capture.read

    def slow_read(capture: Capture, first: int, stop: int) -> np.ndarray:
        clock.pass_samples(10 * (stop - first))
        return read(capture, first, stop)

    monkeypatch.setattr(Capture, "read", slow_read)
    with gapped as capture:
        source = replay_source(capture, clock)
        source.start()
        begun, blocks = clock.now_ns, read_all(source)
        assert sum(block.samples.size for block in blocks) == 1000
        assert clock.now_ns - begun == 10_000_000
        assert source.waited_s == pytest.approx(10e-3)


def test_errors_of_the_file_are_told(gapped: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged file and a closed one are failures of the device, with the file's own words."""
    clock = Clock()
    source = replay_source(gapped, clock)
    source.start()
    assert got(source).index == 5

    def damaged(capture: Capture, first: int, stop: int) -> np.ndarray:
        raise CaptureError("gapped.h5: samples 64 to 128: damaged")

    with monkeypatch.context() as patch:
        patch.setattr(Capture, "read", damaged)
        with pytest.raises(SourceError, match="samples 64 to 128: damaged"):
            source.acquire(1)
    gapped.close()
    with pytest.raises(SourceError, match=r"samples 64 to 128 cannot be read: .*closed"):
        source.acquire(1)


# --- the simulated loop

BLOCK = 1 << 16
LOOP = {"loop_samples": 13 * BLOCK, "block_samples": BLOCK, "cells_per_s": 20_000.0, "seed": 3}
SEAM_IN_THE_LIGHT = 5  # a seed


@pytest.fixture(scope="module")
def loop() -> SimulatedLoop:
    return simulated_loop(**LOOP)


def mean_lines(loop: SimulatedLoop, samples: np.ndarray, first: int, tau: np.ndarray) -> np.ndarray:
    """Mean light at τ of the lines of a stretch of the endless stream that begins at sample ``first``."""
    period, start = loop.line_period_samples, loop.first_line_start_samples
    n = np.arange(np.ceil((first - start) / period), np.floor((first + samples.size - start) / period))
    instants = start + n[:, None] * period + tau - first
    return np.interp(instants, np.arange(samples.size), samples).mean(axis=0)


@pytest.mark.parametrize("pulse_duration_s", [45e-9, 1 / 11.6e6])
def test_loop_holds_whole_lines_and_nothing_changes_at_the_seam(pulse_duration_s: float) -> None:
    """Oracle: the mean line of 40 lines, at starts that one period predicts for ever, before, across and after."""
    loop = simulated_loop(**{**LOOP, "seed": SEAM_IN_THE_LIGHT, "pulse_duration_s": pulse_duration_s})
    length, period = loop.samples.size, loop.line_period_samples
    assert 20 < period - loop.first_line_start_samples < 200  # the seam cuts the lit part of a line
    assert length == 13 * BLOCK
    assert length % loop.instrument.digitiser.interleave.converters == 0
    assert abs(loop.lines * loop.line_period_samples - length) < 1e-6
    assert abs(loop.instrument.line_period_samples - loop.line_period_samples) * loop.lines < 0.01
    assert abs(loop.line_period_samples - 5e9 / 11.6e6) < 0.5
    stretch = 40 * 431  # no cell is as near to the seam as that
    ends = np.concatenate([loop.samples[-stretch:], loop.samples[:stretch]]).astype(float)
    tau = np.arange(0.0, 430.0)
    before, after = mean_lines(loop, ends[:stretch], -stretch, tau), mean_lines(loop, ends[stretch:], 0, tau)
    first, end = int(loop.first_line_start_samples - period) - 1, int(loop.first_line_start_samples) + 2
    across = mean_lines(loop, ends[stretch + first : stretch + end], first, tau)  # line -1 alone
    assert loop.cells["line_first"].min() > 40
    assert loop.cells["line_last"].max() < loop.lines - 40
    assert np.ptp(before) > 100
    slope = np.gradient(before)
    grid_first, profile = loop.instrument.profile(1 / 16)
    known = np.interp(tau, grid_first + np.arange(profile.size) / 16, profile, left=0, right=0)
    difference = known - before
    # The starts are the true ones; AC coupling's droop along the line looks like 0.03 sample.
    assert abs(slope @ (difference - difference.mean()) / (slope @ slope)) < 0.06
    for other, lines in ((after, 39), (across, 1)):
        difference = other - before
        difference -= difference.mean()  # the baseline wanders a little, as everywhere
        delay_samples = -(slope @ difference) / (slope @ slope)
        assert abs(delay_samples) < 5 * 0.03 / np.sqrt(lines)  # noise and jitter of a line: 0.03 sample
        assert np.abs(difference).max() < 6 / np.sqrt(lines)


def test_loop_does_not_depend_on_workers_or_runs(loop: SimulatedLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread or two; and another cut changes a rounding here and there at most (AC coupling's start)."""
    again = simulated_loop(**LOOP, workers=1)
    np.testing.assert_array_equal(again.samples, loop.samples)
    monkeypatch.setattr("stretchscope.acquisition.simulated_loop._RUN_TILES", 1)
    cut = simulated_loop(**LOOP, workers=2)
    difference = cut.samples.astype(int) - loop.samples
    assert np.abs(difference).max() <= 1
    assert np.count_nonzero(difference) < 1e-4 * difference.size
    other = simulated_loop(**{**LOOP, "seed": 4})
    assert np.abs(other.samples.astype(int) - loop.samples).max() > 50


def test_truth_of_the_loop(loop: SimulatedLoop) -> None:
    """The cells are where the truth says, apart from each other, and none lies across the seam."""
    cells = loop.cells
    assert len(cells) == round(20_000 * loop.samples.size / 5e9) == 3
    assert cells["line_first"].min() >= 4
    assert cells["line_last"].max() < loop.lines - 4
    assert (cells["line_first"][1:] - cells["line_last"][:-1] >= 24).all()
    light = np.add.reduceat(
        loop.samples.astype(np.int64),
        np.ceil(loop.first_line_start_samples + np.arange(loop.lines - 1) * loop.line_period_samples).astype(int),
    )
    clear = np.ones(loop.lines - 1, dtype=bool)
    for cell in cells:
        clear[cell["line_first"] : cell["line_last"] + 1] = False
        middle = (cell["line_first"] + cell["line_last"]) // 2
        assert light[middle] < light[clear].mean() - 5 * light[clear][:200].std()
    assert clear.sum() > loop.lines / 2


@pytest.mark.parametrize("dark_gap", [True, False])
def test_many_cells(dark_gap: bool) -> None:
    """100 000 cells per second at 5 m/s, also with the whole period lit: still one after the other."""
    loop = simulated_loop(
        loop_samples=1 << 20,
        block_samples=1 << 18,
        cells_per_s=1e5,
        flow_speed_m_per_s=5.0,
        cell_diameter_um=(8, 12),
        pulse_duration_s=45e-9 if dark_gap else 1 / 11.6e6,
    )
    assert len(loop.cells) == 21
    assert (loop.cells["line_first"][1:] > loop.cells["line_last"][:-1]).all()
    assert (loop.metadata.dark_level_codes is None) == dark_gap
    assert loop.metadata.flow_speed_m_per_s == 5.0
    source = LoopSource(loop.samples, 5e9, metadata=loop.metadata, block_samples=1 << 18, paced=False)
    source.start()
    assert got(source).samples.base is not None


def test_cells_pass_side_by_side_where_single_file_has_no_room() -> None:
    """Then no two circles overlap, and none lies on the seam."""
    loop = simulated_loop(loop_samples=1 << 21, block_samples=1 << 19, cells_per_s=2e5, cell_diameter_um=(6, 8))
    cells = loop.cells
    assert len(cells) == 84
    distance = np.hypot(*(cells[axis][:, None] - cells[axis] for axis in ("x_um", "y_um")))
    np.fill_diagonal(distance, np.inf)
    assert (distance > (cells["diameter_um"][:, None] + cells["diameter_um"]) / 2).all()
    assert cells["line_first"].min() >= 3
    assert cells["line_last"].max() < loop.lines - 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loop_samples": 1000, "block_samples": 100}, "holds 2 lines; make it 100 or more"),
        ({"cells_per_s": -1.0}, "cells_per_s must be"),
        ({"cell_diameter_um": (3.0, 2.0)}, "cell_diameter_um must be a pair"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"cells_per_s": 1e7}, "no room for"),
    ],
)
def test_bad_loops(options: dict, message: str) -> None:
    """One message each."""
    with pytest.raises(ValueError, match=message):
        simulated_loop(**{"loop_samples": 1 << 20, "block_samples": 1 << 18, **options})


# --- the example of docs/sources.md


class SpcmTimeoutError(Exception):
    """As spcm.SpcmTimeout."""


class SpcmError(Exception):
    """As spcm.SpcmException."""


SPCM = SimpleNamespace(
    SpcmTimeout=SpcmTimeoutError,
    SpcmException=SpcmError,
    M2CMD_CARD_ENABLETRIGGER=8,
    M2CMD_DATA_STARTDMA=0x10000,
    M2CMD_DATA_STOPDMA=0x40000,
    M2STAT_DATA_OVERRUN=0x400,
)


class FakeCard:
    """A FIFO card: fills its user's buffer round and round, then its own memory, then overruns and stops.

    ``now`` on its own clock is the host's clock; sample k has the value k of the run of the card, counted from when
    it was started last.
    """

    def __init__(self, clock: Clock, buffer_samples: int, own_samples: int) -> None:
        self.clock, self.own_samples = clock, own_samples
        self.buffer = np.zeros((1, buffer_samples), dtype=np.int16, order="F")
        self.running = self.overrun = False
        self.timeout_ms, self.fails = 0, False

    def start_buffer_transfer(self, *flags: int, notify_samples: int) -> None:
        assert flags == (SPCM.M2CMD_DATA_STARTDMA,)
        self.notify_samples = notify_samples
        self.written = self.freed = 0

    def start(self, *flags: int) -> None:
        assert not self.running
        self.running, self.overrun, self.begun_ns = True, False, self.clock.now_ns

    def stop(self, *flags: int) -> None:
        self.running = False

    def timeout(self, milliseconds: int) -> None:
        assert milliseconds > 0  # 0 is for ever
        self.timeout_ms = milliseconds

    def status(self) -> int:
        self._run()
        return SPCM.M2STAT_DATA_OVERRUN if self.overrun else 0

    def wait_dma(self) -> None:
        if self.fails:
            raise SpcmError("PLL not locked")
        self._run()
        missing = self.freed + self.notify_samples - self.written
        if missing > 0 and self.running:
            wait_ns = self.begun_ns + round((self.freed + self.notify_samples) / RATE_HZ * 1e9) - self.clock.now_ns
            if wait_ns > self.timeout_ms * 1e6:
                self.clock.now_ns += self.timeout_ms * 10**6
                raise SpcmTimeoutError
            self.clock.now_ns += max(wait_ns, 0)
        if self.overrun:
            raise SpcmError("hardware buffer overrun")

    def avail_user_len(self) -> int:
        self._run()
        return self.written - self.freed

    def avail_user_pos(self) -> int:
        return self.freed % self.buffer.size

    def avail_card_len(self, samples: int) -> None:
        self._run()
        assert samples <= self.written - self.freed
        self.freed += samples
        self._run()

    def _run(self) -> None:
        if not self.running:
            return
        taken = int((self.clock.now_ns - self.begun_ns) * RATE_HZ / 1e9)
        room = self.freed + self.buffer.size
        if taken > room + self.own_samples:
            self.running, self.overrun = False, True
        k = np.arange(self.written, min(taken, room))
        self.buffer[0, k % self.buffer.size] = k % 30_000
        self.written += k.size


@pytest.fixture(scope="module")
def example() -> ModuleType:
    """The module docs/examples/spectrum_source.py."""
    path = Path(__file__).parents[2] / "docs" / "examples" / "spectrum_source.py"
    spec = importlib.util.spec_from_file_location("spectrum_source", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def spectrum(example: ModuleType, *, depth: int = 4, own_samples: int = 1000) -> tuple[Source, FakeCard, Clock]:
    clock = Clock()
    card = FakeCard(clock, depth * 100, own_samples)
    source = example.SpectrumSource(
        SPCM, card, card, metadata=METADATA, block_samples=100, clock=clock, sleep=clock.sleep
    )
    return source, card, clock


def test_example_reads_round_and_round_the_cards_buffer(example: ModuleType) -> None:
    """Twelve blocks through a buffer of four, released out of order: views, in place, none lost."""
    source, card, _ = spectrum(example)
    source.start()
    held: list[Block] = []
    for i in range(12):
        block = got(source)
        assert (block.index, block.lost_before, block.epoch) == (100 * i, 0, 0)
        assert np.shares_memory(block.samples, card.buffer)
        assert not block.samples.flags.writeable
        held.append(block)
        if len(held) == 3:
            for old in (held[1], held[0], held[2]):
                assert old.samples.tolist() == list(range(old.index, old.index + 100))
                assert old.valid()
                source.release(old)
            held = []
            assert card.freed == 100 * (i + 1)
    assert source.stop() == 0
    with pytest.raises(EndOfStream):
        source.acquire(0)


def test_example_opens_an_epoch_after_an_overrun(example: ModuleType) -> None:
    """What came before the overrun is good; then the card is started again, and the loss is an estimate."""
    source, _, clock = spectrum(example, own_samples=50)
    source.start()
    first = got(source)
    clock.pass_samples(1000)  # the buffer of 400 is full, so are 50 more: overrun
    rest = [got(source) for _ in range(3)]
    assert [block.index for block in rest] == [100, 200, 300]
    assert all(block.valid() and block.epoch == first.epoch for block in [first, *rest])
    assert rest[-1].samples.tolist() == list(range(300, 400))
    after = got(source)
    assert after.epoch == first.epoch + 1
    assert not after.lost_exact
    assert after.lost_before == pytest.approx(1100 - 400, abs=1)
    assert after.index == 400 + after.lost_before
    assert after.samples.tolist() == list(range(100))
    assert not first.valid()  # the card has begun to fill the buffer anew
    source.release(first)
    source.release(after)
    following = got(source)
    assert (following.lost_before, following.lost_exact) == (0, True)
    clock.pass_samples(5000)
    assert source.stop() == pytest.approx(5000, abs=1)  # stopped itself, and nobody asked since
    source.start()
    assert got(source).index == 0


def test_example_waits_in_pieces_and_tells_failures(example: ModuleType) -> None:
    """With blocks held the driver's wait returns at once, so the example sleeps; a failure is a SourceError."""
    source, card, clock = spectrum(example)
    source.start()
    kept = [got(source), got(source)]
    assert clock.slept_s > 0
    assert source.acquire(10e-6) is None
    for block in kept:
        source.release(block)
    card.fails = True
    with pytest.raises(SourceError, match="the card failed: PLL not locked"):
        source.acquire(0.1)
