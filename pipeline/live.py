"""The live pipeline: from a source's blocks to rows of the table, in step with the signal.

A few workers, one per core, take turns. Under one lock a worker claims the next block and follows the line clock
through it; outside, it screens every sample of it; in the order of the blocks it then says what is worth a closer look,
and measures that where it lies, in the source's own memory, before it gives the block back. All of it is compiled and
releases the GIL; what waits, waits in the source's ring. A thread of its own writes.

When all of that is too much, what gives way, in this order, is counted: images and most features (cells get what the
sums of the screen tell), a block's cells, whole blocks (the ring overwrites them). Never half a cell.
"""

import gc
import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from ..acquisition.source import Block, EndOfStream, Source, SourceError
from ..sr.detect import BESIDE_FLAGGED_ROWS, ROW_LINES, Events, events_in_rows
from ..sr.live_clock import LockedLines, TrackingClock
from .crops import grey_crops
from .labels import CellModel
from .live_results import CellBatch, OutputThread
from .live_setup import Calibration, calibrate_on_blocks, snapshot_samples
from .measure import Images, Measured, Setup, margin_lines, measure_events
from .pieces import Cut, Piece, PieceCutter, screen_block
from .rows import cell_batch, find_objects, summary_batch
from .rtdc import RtdcMetadata

# How far behind the signal no cell is imaged any more, all are only summed up [s]; and the fill of the ring from which
# they are not even that.
_PRESSING_S, _OVERLOAD_FILL = 0.013, 0.6
# Share of the time that all workers have for a block which its images may take; the rest is for what comes first.
_IMAGES_SHARE = 0.75
# Rows looked at closely cost about this before any were seen, with the images of what they hold [s].
_ROW_S = 1e-5
# How long a worker waits for a block before it looks whether it should stop [s].
_ACQUIRE_S = 0.05
# The empty line is measured anew at most this often [s].
_RECALIBRATE_S = 2.0
# Python's threads take turns this often while the run lasts, so that none keeps a worker from its next kernel [s].
_SWITCH_S = 0.0001
_LATENCY_BINS_PER_DECADE = 100
# Why samples are dropped: the reader was late; no line clock; overwritten while it was looked at; cut out, but no time
# to measure it; a worker failed.
_DROP_REASONS = ("lost_by_source", "without_line_clock", "overwritten", "overload", "not_finished")


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
    dropped: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_DROP_REASONS, 0))
    lost_estimated: int = 0  # of those lost by the source, the ones that it has not counted, but estimated
    restarts: int = 0  # of a device that had stopped by itself
    pieces_dropped: int = 0
    cells: int = 0
    images: int = 0
    rows_refused: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    most_fill: float = 0.0

    @property
    def offered(self) -> int:
        return 0 if self.first_index is None else self.end_index - self.first_index


def events_of(setup: Setup, piece: Piece) -> Events:
    """Events in the rows of a piece that are wanted, its own and others."""
    empty, lines = setup.empty_line, piece.lines
    return events_in_rows(
        *lines.for_kernels, piece.wanted, lines.first_line, empty.tables, empty.detector,
        min_significance=setup.settings.cells.min_significance,
    )  # fmt: skip


def measure_piece(
    setup: Setup, calibration: Calibration, piece: Piece, picture: Callable[[Images], Any]
) -> Measured | None:
    """Cells of the events that begin in a piece, see ``measure.measure_events``; None where there is no event."""
    events = events_of(setup, piece)
    own = (events.line_first >= piece.own_first) & (events.line_first < piece.own_stop)
    if not own.any():
        return None
    return measure_events(setup, calibration.grid, piece.lines, events.some(own), picture)


def measure_some(
    setup: Setup,
    calibration: Calibration,
    piece: Piece,
    picture: Callable[[Images], Any],
    pick: Callable[[int], np.ndarray],
) -> list[CellBatch]:
    """Rows of the objects that begin in a piece, with an image and all features for those that are picked only.

    ``pick(n)`` chooses among n objects; bool (n,).
    """
    # each object that :func:`measure_piece` would take for this piece's own, and no other: see ``Piece.clear``
    events = None if piece.clear else events_of(setup, piece)
    found = find_objects(piece, setup.settings.cells.min_significance, events)
    boxes = found.boxes
    picked = pick(len(found))
    pictured = np.zeros(len(found), dtype=np.bool_)
    batches = []
    measured = measure_piece(setup, calibration, _around(piece, boxes[picked]), picture) if picked.any() else None
    if measured is not None:
        same = _mostly_one(measured.boxes, boxes)
        asked = (same & picked).any(axis=1)
        pictured = same[asked].any(axis=0)
        batches.append(cell_batch(measured, asked, calibration.crop_px))
    screen = piece.empty_line.screen
    rest = summary_batch(setup, calibration.grid, screen.box_samples, found.some(~pictured), calibration.crop_px)
    return [*batches, rest]


def _mostly_one(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which boxes share more than half of the smaller one's area; float64 (A, 4), (B, 4) to bool (A, B)."""
    low, high = np.maximum(a[:, None, ::2], b[None, :, ::2]), np.minimum(a[:, None, 1::2], b[None, :, 1::2])
    shared = np.maximum(high - low, 0.0).prod(axis=2)
    area_a, area_b = ((box[:, 1::2] - box[:, ::2]).prod(axis=1) for box in (a, b))
    return shared > 0.5 * np.minimum(area_a[:, None], area_b)


def _around(piece: Piece, boxes: np.ndarray) -> Piece:
    """The piece with only the rows looked at that lie around some boxes."""
    rows = (boxes[:, :2] - piece.lines.first_line) // ROW_LINES
    change = np.zeros(piece.wanted.size + 1, np.int64)
    np.add.at(change, np.maximum(rows[:, 0] - BESIDE_FLAGGED_ROWS, 0).astype(int), 1)
    np.add.at(change, np.minimum(rows[:, 1] + BESIDE_FLAGGED_ROWS + 1, piece.wanted.size).astype(int), -1)
    return replace(piece, wanted=piece.wanted & (np.cumsum(change)[:-1] > 0))


def _cores(workers: int) -> list[int | None]:
    """The core that each worker stays on: left to itself, a system may run two of them on one for a second or more."""
    if hasattr(os, "sched_getaffinity") and workers <= len(os.sched_getaffinity(0)):
        return list(sorted(os.sched_getaffinity(0))[:workers])
    return [None] * workers


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
    model : CellModel, optional
        What tells the class of cells with an image.
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
        model: CellModel | None = None,
    ) -> None:
        self.image_share, self._model = image_share, model
        self.source, self.calibration, self.output = source, calibration, output
        scale = metadata.transmission_at_0, metadata.transmission_at_255
        self._picture = partial(
            grey_crops, side=calibration.crop_px, transmission_at_0=scale[0], transmission_at_255=scale[1]
        )
        self.workers = workers or os.cpu_count() or 1
        self.account, self.latency = Account(), Latency()
        self.idleness = Idleness(self.workers)
        self.error: Exception | None = None
        self.clock = TrackingClock(calibration.setup.empty_line)
        self.recalibrations = 0
        self.recalibration_error: str | None = None  # of the last one that failed
        self.wall_s = 0.0
        setup = calibration.setup
        self._cutter = PieceCutter(partial(margin_lines, setup, calibration.grid), setup.geometry.um_per_line)
        self._stop = threading.Event()
        self._ended = self._source_stopped = False  # no block will come any more
        self.paced = bool(getattr(source, "paced", True))
        #: Rate at which samples come by the host's clock [samples/s]: a replay's need not be that of its samples.
        self.pace_hz = float(getattr(source, "pace_hz", source.sample_rate_hz)) if self.paced else math.inf
        self._lost_at_stop = 0
        self._most_samples: int | None = None
        self._claim = threading.Lock()
        self._turn = threading.Condition()  # guards all that follows
        self._claimed = self._committed = self._released = 0
        self._claimed_samples = self._committed_samples = 0
        self._broken = False
        self.fill = 0.0
        self._picked = 0.0
        self._row_s = _ROW_S
        self._snapshot: list[tuple[int, np.ndarray]] | None = None
        self._recalibration: threading.Thread | None = None
        self._recalibrated: Calibration | None = None
        self._last_recalibration = -math.inf

    def stop(self) -> None:
        """End the run: what has been claimed is finished and written."""
        self._stop.set()

    def force_stop(self) -> None:
        """:meth:`stop`, and stop the source from beside, so that who hangs in it comes free."""
        self._stop.set()

        def stop() -> None:
            self._lost_at_stop += self.source.stop()

        threading.Thread(target=stop, name="stop", daemon=True).start()

    def run(self, *, most_samples: int | None = None, watch: Callable[["LivePipeline"], None] | None = None) -> None:
        """Process blocks until the source ends, :meth:`stop` is called, or so many samples were offered.

        ``watch`` is called some times a second. Errors of the source end the run and are kept in ``error``.
        """
        self._most_samples = most_samples
        switch = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_S)
        gc.collect()
        gc.freeze()  # what lives now lives on: the collector need not look at it again
        cores = _cores(self.workers)
        threads = [
            threading.Thread(target=self._work, args=(core,), name=f"worker {n}", daemon=True)
            for n, core in enumerate(cores)
        ]
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
        lost = self.source.stop() + self._lost_at_stop
        if self.account.first_index is not None:
            self.account.end_index += lost
            self.account.dropped["lost_by_source"] += lost
            left = self._claimed_samples - self._committed_samples
            self.account.dropped["not_finished"] += left

    def _work(self, core: int | None) -> None:
        if core is not None:
            os.sched_setaffinity(0, {core})  # of this thread
        try:
            while not self._finished():
                self._take_block()
        except Exception as error:
            with self._turn:
                self.error = self.error or error
                self._ended = self._broken = True
                self._turn.notify_all()

    def _finished(self) -> bool:
        """Whether all is done; waits a moment where other workers are still at work on the last blocks."""
        if not self._ended:
            return False
        with self._turn:
            if self._broken:
                return True
            if self._released < self._claimed:
                with self.idleness.waiting():
                    self._turn.wait(_ACQUIRE_S)
                return False
            self._stop_source()
            cuts = self._cutter.close()
        self._look_at(cuts, None)
        return True

    def _take_block(self) -> None:
        """Claim the next block, screen it, measure what it holds; the heart of the run."""
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
        self._look_at(cuts, block)
        with self._turn:
            self._released += 1
            self._turn.notify_all()
        self.source.release(block)

    def _look_at(self, cuts: list[Cut], block: Block | None) -> None:
        """Measure what was cut out of a block, while its memory lasts and there is time; of None, what was kept."""
        done = 0
        try:
            for cut in cuts:
                if self.fill > _OVERLOAD_FILL and not self._ended:
                    self._drop(cut, "overload")
                else:
                    piece = cut.piece()
                    batches = self._measure(piece)
                    if block is None or block.valid():
                        self._hand_on(piece, batches)
                    else:  # overwritten while it was looked at
                        self._drop(piece, "overwritten")
                done += 1
        except Exception:
            for cut in cuts[done:]:
                self._drop(cut, "not_finished")
            raise

    def _claim_block(self) -> tuple[int, Block, list[LockedLines]] | None:
        if self._ended:
            return None
        if self._stop.is_set() or (self._most_samples is not None and self.account.offered >= self._most_samples):
            self._ended = True
            return None
        if self.output is not None and self.output.error is not None:  # nothing more can be written
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
        if not block.lost_exact:
            account.lost_estimated += block.lost_before
        account.restarts = block.epoch
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
        before = self._cutter.saturated
        cuts = self._cutter.add(block.samples, block.index, block.host_ns, locked, screened)
        account.saturated += self._cutter.saturated - before
        return cuts

    def _drop(self, cut: Cut | Piece, reason: str) -> None:
        """Count what was cut out, but not measured."""
        with self._turn:
            self.account.pieces_dropped += 1
            self.account.processed -= cut.own_samples
            self.account.dropped[reason] += cut.own_samples

    def _measure(self, piece: Piece) -> list[CellBatch]:
        """Rows of a piece's cells, as many as there is time for with an image."""
        setup = replace(self.calibration.setup, empty_line=piece.empty_line)
        share = self._share_in_time(piece)
        if share < 1.0:
            some = measure_some(setup, self.calibration, piece, self._picture, partial(self._pick, share))
            return [self._classified(batch) for batch in some]
        begin = time.perf_counter()
        measured = measure_piece(setup, self.calibration, piece, self._picture)
        batches = []
        if measured is not None:
            batch = cell_batch(measured, np.ones(len(measured), np.bool_), self.calibration.crop_px)
            batches.append(self._classified(batch))
        rows = int(np.count_nonzero(piece.wanted))
        if rows:
            self._row_s += 0.1 * ((time.perf_counter() - begin) / rows - self._row_s)
        return batches

    def _classified(self, batch: CellBatch) -> CellBatch:
        """The batch, all pictured or none, with what the model says of its cells; empty without a picture."""
        if self._model is None:
            return batch
        if not batch.pictured.all():
            return replace(batch, columns={**batch.columns, **self._model.no_columns(batch.rows)})
        pixel_um = self.calibration.setup.pixel_um(self.calibration.grid)
        told = self._model.columns(batch.crops, batch.masks, batch.columns, pixel_um=pixel_um)
        return replace(batch, columns={**batch.columns, **told})

    def _share_in_time(self, piece: Piece) -> float:
        """Share of a piece's cells that get an image: what is asked for, as far as there is time."""
        if not self.paced or self._ended:
            return self.image_share
        # a block that has just come fills its place; how far behind the workers are tells how many images there may be
        behind_s = (self.fill * self.source.depth - 1) * self.source.block_samples / self.pace_hz
        calm = min(max(1.0 - behind_s / _PRESSING_S, 0.0), 1.0)
        time_s = calm * _IMAGES_SHARE * self.workers * self.source.block_samples / self.pace_hz
        return min(self.image_share, time_s / max(self._row_s * np.count_nonzero(piece.wanted), 1e-12))

    def _hand_on(self, piece: Piece, batches: list[CellBatch]) -> None:
        """Hand rows to the output, and count them."""
        for batch in batches:
            if not batch.rows:
                continue
            refused = 0 if self.output is None or self.output.put(batch) else batch.rows
            since_block_s = (time.perf_counter_ns() - piece.host_ns) * 1e-9
            # a cell's last sample was there before its block's last one; without a pace, all came at once
            since = since_block_s + (piece.block_end - 1 - batch.columns["sample_last"]) / self.pace_hz
            labels = Counter(label for label in batch.columns.get("label", ()) if label)
            with self._turn:
                self.account.cells += batch.rows
                self.account.images += int(np.count_nonzero(batch.pictured))
                for label, count in labels.items():
                    self.account.labels[label] = self.account.labels.get(label, 0) + count
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
        except Exception as error:  # no usable signal, no room for the snapshot, or worse: it is tried again
            self.recalibration_error = str(error) or type(error).__name__
            self._recalibration = None
