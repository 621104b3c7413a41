"""The live pipeline: from a source's blocks to rows of the table, in step with the signal.

A few workers, one per core, take turns. Under one lock a worker claims the next block and follows the line clock
through it; outside, it screens every sample of it (compiled, the GIL released); in the order of the blocks it then cuts
out what is worth a closer look, and gives the block back. What was cut out waits in a queue that the workers empty when
no block presses. A thread of its own writes.

When all of that is too much, what gives way, in this order, is counted: images and most features (cells get what the
sums of the screen tell), pieces of lines that were cut out (their cells are lost), whole blocks (the ring overwrites
them). Never half a cell.
"""

import gc
import math
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from ..acquisition.source import Block, EndOfStream, Source, SourceError
from ..sr.detect import BESIDE_FLAGGED_ROWS, ROW_LINES, find_events, significance_map
from ..sr.live_clock import LockedLines, TrackingClock
from .live_results import CellBatch, OutputThread
from .live_setup import Calibration, calibrate_on_blocks, snapshot_samples
from .measure import Cell, Setup, margin_lines, measure_event, overlap, same_cell
from .pieces import Cut, Piece, PieceCutter, screen_block
from .rows import cell_batch, find_objects, joined, summary_batch
from .rtdc import RtdcMetadata

# Cut-out lines that may wait [bytes]; the fill of the ring, or the bytes waiting, from which cells are summed up
# instead of imaged, that many pieces at once; and the fill from which blocks go before everything else.
_MOST_WAITING_BYTES, _PRESSING_BYTES, _PRESSING_FILL = 256 << 20, 1 << 20, 0.07
_MOST_PIECES, _BLOCKS_ONLY_FILL = 64, 0.3
# How long a worker waits for a block before it looks whether it should stop [s].
_ACQUIRE_S = 0.05
# The empty line is measured anew at most this often [s].
_RECALIBRATE_S = 2.0
# Python's threads take turns this often while the run lasts, so that none keeps a worker from its next kernel [s].
_SWITCH_S = 0.0001
_LATENCY_BINS_PER_DECADE = 100
# Why samples are dropped: the reader was late; no line clock; overwritten while it was looked at; cut out, but no time
# to measure it; a worker failed.
DROP_REASONS = ("lost_by_source", "without_line_clock", "overwritten", "overload", "not_finished")


class Latency:
    """Distribution of latencies in constant memory: a histogram of 100 bins per decade from 1 µs to 1000 s."""

    def __init__(self) -> None:
        self._counts = np.zeros(9 * _LATENCY_BINS_PER_DECADE + 1, dtype=np.int64)
        self._longest_s = 0.0

    def add(self, seconds: np.ndarray) -> None:
        """Count latencies, float64 of any shape [s]."""
        if seconds.size:
            place = (np.log10(np.maximum(seconds, 1e-6)) + 6) * _LATENCY_BINS_PER_DECADE
            np.add.at(self._counts, np.minimum(place.astype(int), self._counts.size - 1), 1)
            self._longest_s = max(self._longest_s, float(seconds.max()))

    def quantile_ms(self, share: float) -> float | None:
        """Latency that this share stays below, to 2.3 % [ms]; None where there is none."""
        total = int(self._counts.sum())
        if total == 0:
            return None
        place = int(np.searchsorted(np.cumsum(self._counts), share * total))
        return min(10 ** ((place + 1) / _LATENCY_BINS_PER_DECADE - 6), self._longest_s) * 1e3

    def as_dict(self) -> dict[str, float | None]:
        longest = self._longest_s * 1e3 if self._counts.any() else None
        return {"p50": self.quantile_ms(0.5), "p99": self.quantile_ms(0.99), "max": longest}


class Idleness:
    """How long all workers waited at once."""

    def __init__(self, workers: int) -> None:
        self._workers, self._waiting = workers, 0
        self._lock = threading.Lock()
        self._since = 0.0
        self.seconds = 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """A worker waits."""
        with self._lock:
            self._waiting += 1
            if self._waiting == self._workers:
                self._since = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                if self._waiting == self._workers:
                    self.seconds += time.perf_counter() - self._since
                self._waiting -= 1


@dataclass
class Account:
    """Every sample once: offered = processed + dropped."""

    first_index: int | None = None
    end_index: int = 0
    processed: int = 0
    saturated: int = 0
    lines: int = 0
    blocks: int = 0
    dropped: dict[str, int] = field(
        default_factory=lambda: {
            "lost_by_source": 0,
            "without_line_clock": 0,
            "overwritten": 0,
            "overload": 0,
            "not_finished": 0,
        }
    )
    pieces_dropped: int = 0
    cells: int = 0
    images: int = 0
    rows_refused: int = 0
    most_fill: float = 0.0
    most_pieces_waiting: int = 0
    most_bytes_waiting: int = 0

    @property
    def offered(self) -> int:
        return 0 if self.first_index is None else self.end_index - self.first_index


def measure_piece(setup: Setup, calibration: Calibration, piece: Piece) -> list[Cell]:
    """Cells of the events that begin in a piece, in order of lines, each with its image."""
    empty, lines = setup.empty_line, piece.lines
    significance = significance_map(*lines.for_kernels(), empty.tables, empty.detector, piece.wanted)
    events = find_events(
        significance,
        lines.first_line,
        empty.detector.columns,
        min_significance=setup.settings.cells.min_significance,
    )
    own = [event for event in events if piece.own_first <= event.line_first < piece.own_stop]
    cells: list[Cell] = []
    for cell in sorted(
        (cell for event in own for cell in measure_event(setup, calibration.grid, lines, event)),
        key=lambda cell: (cell.row["line_first"], cell.row["position_samples"]),
    ):
        if not any(same_cell(cell.box, other.box) for other in cells):
            cells.append(cell)
    return cells


def measure_some(
    setup: Setup,
    calibration: Calibration,
    pieces: list[Piece],
    metadata: RtdcMetadata,
    pick: Callable[[int], np.ndarray],
) -> CellBatch:
    """Rows of the objects that begin in pieces, with an image and all features for those that are picked only.

    ``pick(n)`` chooses among n objects; bool (n,).
    """
    grid = calibration.grid
    found = find_objects(pieces)
    picked = pick(found.piece.size)
    batches = []
    for i in np.flatnonzero(picked):
        one = found.summary
        first, last = int(one.line_first[i]), int(one.line_last[i])
        box = (first, last, float(one.tau_first_samples[i]), float(one.tau_last_samples[i]))
        part = _around(pieces[found.piece[i]], first, last, margin_lines(grid, last - first + 1))
        around = measure_piece(replace(setup, empty_line=part.empty_line), calibration, part)
        cells = [cell for cell in around if overlap(cell.box, box) > 0]
        picked[i] = bool(cells)  # else it stays as it is
        if cells:
            batches.append(cell_batch(cells, calibration.crop_px, metadata))
    box_samples = pieces[0].empty_line.screen.box_samples
    batches.append(summary_batch(setup, grid, box_samples, found.some(~picked), calibration.crop_px))
    return joined(batches)


def _around(piece: Piece, line_first: int, line_last: int, margin: int) -> Piece:
    """The part of a piece around some lines, which are looked at, and no others."""
    beside = BESIDE_FLAGGED_ROWS * ROW_LINES
    first = (line_first - margin - beside) // ROW_LINES * ROW_LINES
    lines = piece.lines.part(first, line_last + margin + beside + 1)
    row = lines.first_line + ROW_LINES * np.arange(-(-(lines.starts.size - 1) // ROW_LINES))
    wanted = (row >= line_first - beside) & (row <= line_last + beside)
    return replace(piece, lines=lines, wanted=wanted, own_first=lines.first_line, own_stop=lines.stop_line)


class LivePipeline:
    """One run: start it with :meth:`run`, ask for its state meanwhile, stop it with :meth:`stop` from anywhere.

    Parameters
    ----------
    source : Source
        Not started.
    calibration : Calibration
        Of that source.
    output : OutputThread or None
        Where cells go; None: they are counted only.
    workers : int, optional
        Threads that work on blocks and events; by default one per core.
    image_share : float, optional
        Share of the cells that get an image and all features; the others get what the screen's sums tell.
    """

    def __init__(
        self,
        source: Source,
        calibration: Calibration,
        output: OutputThread | None,
        metadata: RtdcMetadata,
        *,
        workers: int | None = None,
        image_share: float = 1.0,
    ) -> None:
        self.image_share = image_share
        self.source, self.calibration, self.output, self._metadata = source, calibration, output, metadata
        self.workers = workers or os.cpu_count() or 1
        self.account, self.latency = Account(), Latency()
        self.idleness = Idleness(self.workers)
        self.error: Exception | None = None
        self.clock = TrackingClock(calibration.setup.empty_line)
        self.recalibrations = 0
        self.wall_s = 0.0
        setup = calibration.setup
        self._cutter = PieceCutter(partial(margin_lines, calibration.grid), setup.geometry.um_per_line)
        self._stop = threading.Event()
        self._ended = self._source_stopped = False  # no block will come any more
        self.paced = bool(getattr(source, "paced", True))
        self._signal_s = 1 / source.sample_rate_hz if self.paced else 0.0
        self._most_samples: int | None = None
        self._claim = threading.Lock()
        self._turn = threading.Condition()  # guards all that follows
        self._claimed = self._committed = self._released = 0
        self._claimed_samples = self._committed_samples = 0
        self._broken = False
        self._waiting: deque[Piece] = deque()
        self._waiting_bytes = 0
        self.fill = 0.0
        self._picked = 0.0
        self._snapshot: list[tuple[int, np.ndarray]] | None = None
        self._recalibration: threading.Thread | None = None
        self._recalibrated: Calibration | None = None
        self._last_recalibration = -math.inf

    @property
    def pieces_waiting(self) -> int:
        return len(self._waiting)

    def stop(self) -> None:
        """End the run: what has been claimed is finished and written."""
        self._stop.set()

    def run(self, *, most_samples: int | None = None, watch: Callable[["LivePipeline"], None] | None = None) -> None:
        """Process blocks until the source ends, :meth:`stop` is called, or so many samples were offered.

        ``watch`` is called some times a second. Errors of the source end the run and are kept in ``error``.
        """
        self._most_samples = most_samples
        switch = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        gc.collect()
        gc.freeze()  # what lives now lives on: the collector need not look at it again
        threads = [threading.Thread(target=self._work, name=f"worker {n}", daemon=True) for n in range(self.workers)]
        begin = time.perf_counter()
        try:
            self.source.start()
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                threads[0].join(0.1) if threads[0].is_alive() else time.sleep(0.02)
                if watch is not None:
                    watch(self)
        except BaseException:
            self._stop.set()
            raise
        finally:
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
            self._stop_source()
            if self._recalibration is not None:
                self._recalibration.join()
            self.wall_s = time.perf_counter() - begin
            sys.setswitchinterval(switch)
            gc.unfreeze()

    def _stop_source(self) -> None:
        """Stop the source when no block is in use any more; what it lost at the end is lost too."""
        if self._source_stopped:
            return
        self._source_stopped = True
        lost = self.source.stop()
        if self.account.first_index is not None:
            self.account.end_index += lost
            self.account.dropped["lost_by_source"] += lost
            left = self._claimed_samples - self._committed_samples
            self.account.dropped["not_finished"] += left

    def _work(self) -> None:
        pieces: list[Piece] = []
        try:
            while True:
                pieces, imaged = self._next_pieces()
                if pieces:
                    self._measure(pieces, imaged)
                elif self._ended:
                    if self._finished():
                        return
                else:
                    self._take_block()
        except Exception as error:
            with self._turn:
                self.error = self.error or error
                self._ended = True
                self._broken = True
                for piece in (*pieces, *self._waiting):
                    self._drop(piece, "not_finished")
                self._waiting.clear()
                self._turn.notify_all()

    def _finished(self) -> bool:
        """Whether all is done; waits a moment where other workers may still make work."""
        with self._turn:
            if self._broken:
                return True
            if self._released < self._claimed:
                with self.idleness.waiting():
                    self._turn.wait(_ACQUIRE_S)
                return False
            self._stop_source()
            for cut in self._cutter.close():
                self._queue(cut.piece())
            return not self._waiting

    def _next_pieces(self) -> tuple[list[Piece], bool]:
        """Pieces to measure now, and whether all of their cells get an image: then it is one."""
        with self._turn:
            if not self._waiting or (self.fill > _BLOCKS_ONLY_FILL and not self._ended):
                return [], False
            pressed = self.fill > _PRESSING_FILL or self._waiting_bytes > _PRESSING_BYTES
            imaged = self.image_share >= 1 and not pressed
            pieces = [self._waiting.popleft() for _ in range(1 if imaged else min(len(self._waiting), _MOST_PIECES))]
            self._waiting_bytes -= sum(piece.lines.samples.nbytes for piece in pieces)
            return pieces, imaged

    def _take_block(self) -> None:
        """Claim the next block, screen it, cut it; the heart of the run."""
        with self.idleness.waiting():
            self._claim.acquire()
        try:
            claimed = self._claim_block()
        finally:
            self._claim.release()
        if claimed is None:
            return
        number, block, locked = claimed
        screened = [screen_block(block.samples, block.index, lines) for lines in locked]
        with self._turn:
            while self._committed != number and not self._broken:
                self._turn.wait()
            if self._broken:
                return
            cuts = self._commit(block, locked, screened)
            self._committed += 1
            self._turn.notify_all()
        if self._waiting_bytes > _MOST_WAITING_BYTES // 2 and self.fill > _BLOCKS_ONLY_FILL:
            with self._turn:  # there will be no time for them: do not even copy them
                for cut in cuts:
                    self._drop(cut, "overload")
            cuts = []
        pieces = [cut.piece() for cut in cuts]
        intact = block.valid()
        with self._turn:
            for piece in pieces:
                if intact:
                    self._queue(piece)
                else:  # overwritten while it was copied
                    self._drop(piece, "overwritten")
            self._released += 1
            self._turn.notify_all()
        self.source.release(block)

    def _claim_block(self) -> tuple[int, Block, list[LockedLines]] | None:
        if self._ended:
            return None
        if self._stop.is_set() or (self._most_samples is not None and self.account.offered >= self._most_samples):
            self._ended = True
            return None
        try:
            with self.idleness.waiting():
                block = self.source.acquire(_ACQUIRE_S)
        except EndOfStream:
            self._ended = True
            return None
        except SourceError as error:
            self.error = error
            self._ended = True
            return None
        if block is None:
            return None
        if self.account.first_index is not None and block.index < self.account.end_index:
            self.error = SourceError(
                f"the source's block at sample {block.index} begins before the end of the one before, "
                f"{self.account.end_index}: its index must never go back"
            )
            self._ended = True
            return None
        self._recalibrate(block)
        account = self.account
        if account.first_index is None:
            account.first_index = account.end_index = block.index - block.lost_before
        # by the index: a driver's own count of what it lost need not agree with it
        account.dropped["lost_by_source"] += block.index - account.end_index
        account.end_index = block.index + block.samples.size
        account.most_fill = max(account.most_fill, block.fill)
        self.fill = block.fill
        number = self._claimed
        self._claimed += 1
        self._claimed_samples += block.samples.size
        return number, block, self.clock.follow(block.samples, block.index)

    def _commit(
        self, block: Block, locked: list[LockedLines], screened: list[tuple[int, np.ndarray, int]]
    ) -> list[Cut]:
        account = self.account
        account.blocks += 1
        self._committed_samples += block.samples.size
        if not block.valid():  # overwritten while it was looked at: nothing that was seen counts
            account.dropped["overwritten"] += block.samples.size
            return self._cutter.close()
        seen = 0
        for lines, (_, _, saturated) in zip(locked, screened, strict=True):
            first = 0 if lines.continues else math.ceil(lines.line_start(np.array(lines.first_line)))
            stop = min(block.samples.size, math.ceil(lines.line_start(np.array(lines.stop_line))))
            seen += max(0, stop - max(first, 0))
            account.lines += lines.stop_line - lines.first_line
            account.saturated += saturated
        account.processed += seen
        account.dropped["without_line_clock"] += block.samples.size - seen
        return self._cutter.add(block.samples, block.index, block.host_ns, locked, screened)

    def _drop(self, piece: Piece | Cut, reason: str) -> None:
        self.account.pieces_dropped += 1
        self.account.processed -= piece.own_samples
        self.account.dropped[reason] += piece.own_samples

    def _queue(self, piece: Piece) -> None:
        size = piece.lines.samples.nbytes
        if self._broken:
            self._drop(piece, "not_finished")
            return
        if self._waiting and self._waiting_bytes + size > _MOST_WAITING_BYTES:
            self._drop(piece, "overload")
            return
        self._waiting.append(piece)
        self._waiting_bytes += size
        self.account.most_pieces_waiting = max(self.account.most_pieces_waiting, len(self._waiting))
        self.account.most_bytes_waiting = max(self.account.most_bytes_waiting, self._waiting_bytes)

    def _measure(self, pieces: list[Piece], imaged: bool) -> None:
        base = self.calibration.setup
        setup = replace(base, empty_line=pieces[0].empty_line)
        if imaged:
            cells = measure_piece(setup, self.calibration, pieces[0])
            batch = cell_batch(cells, self.calibration.crop_px, self._metadata) if cells else None
        else:
            pressed = self.fill > _PRESSING_FILL or self._waiting_bytes > _PRESSING_BYTES
            pick = partial(self._pick, 0.0 if pressed else self.image_share)
            batch = measure_some(setup, self.calibration, pieces, self._metadata, pick)
        if batch is None or batch.rows == 0:
            return
        refused = 0 if self.output is None or self.output.put(batch) else batch.rows
        last = pieces[-1]
        since_block_s = (time.perf_counter_ns() - last.host_ns) * 1e-9
        # a cell's last sample was there before its block's last one; without a pace, all came at once
        since = since_block_s + (last.block_end - 1 - batch.columns["sample_last"]) * self._signal_s
        with self._turn:
            self.account.cells += batch.rows
            self.account.images += int(np.count_nonzero(batch.pictured))
            self.account.rows_refused += refused
            self.latency.add(since)

    def _pick(self, share: float, count: int) -> np.ndarray:
        """Evenly, this share of all objects that ever come."""
        with self._turn:
            steps = self._picked + share * np.arange(1, count + 1)
            self._picked = float(self._picked + share * count) % 1.0
        return np.floor(steps) > np.floor(steps - share)

    def _recalibrate(self, block: Block) -> None:
        """Where there is light that the empty line does not explain, measure it anew, beside the run."""
        if self._recalibrated is not None:
            self.clock.replace_empty_line(self._recalibrated.setup.empty_line)
            self._recalibrated, self._recalibration = None, None
            self.recalibrations += 1
        if self._recalibration is not None or not self.clock.in_vain:
            self._snapshot = None
            return
        if self._snapshot is None:
            if time.monotonic() - self._last_recalibration < _RECALIBRATE_S:
                return
            self._snapshot = []
        samples = block.samples.copy()
        if block.valid():
            self._snapshot.append((block.index, samples))
        if sum(samples.size for _, samples in self._snapshot) >= snapshot_samples(self.source.sample_rate_hz):
            self._last_recalibration = time.monotonic()
            self._recalibration = threading.Thread(
                target=self._measure_anew, args=(self._snapshot,), name="recalibration", daemon=True
            )
            self._snapshot = None
            self._recalibration.start()

    def _measure_anew(self, blocks: list[tuple[int, np.ndarray]]) -> None:
        try:
            self._recalibrated = calibrate_on_blocks(
                blocks, self.source.metadata, self.source.dtype, self.calibration.setup.settings
            )
        except (ValueError, OSError):  # no usable signal, or no room for the snapshot: it is tried again
            self._recalibration = None
