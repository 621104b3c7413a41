"""Endless block sources: what a digitiser's driver gives, and two sources that need no digitiser.

The first step of the live path. A source hands over blocks of consecutive samples from a ring that the device
fills whether they are read or not: who is late loses samples, and is told how many. ``docs/sources.md`` says how
to write one for a digitiser. Positions in samples, times on the host's clock in nanoseconds.
"""

import math
import threading
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from .metadata import CaptureError, CaptureMetadata, sample_dtype

if TYPE_CHECKING:
    from .capture import Capture

__all__ = ["Block", "EndOfStream", "LoopSource", "ReplaySource", "Source", "SourceError"]

_NS = 1_000_000_000


class EndOfStream(Exception):  # noqa: N818 (an end is no error, as with StopIteration)
    """No more samples will come: the file is at its end, or the source was stopped."""


class SourceError(ValueError):
    """The device failed, or was used wrongly; the message says what to do."""


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Consecutive samples, as a source hands them over.

    Attributes
    ----------
    samples : ndarray of shape (B,)
        Read-only and contiguous [codes]; the device's own memory where the source's ``zero_copy`` is True.
    index : int
        Position of ``samples[0]`` on the device's time line, which runs on through losses.
    lost_before : int
        Samples lost between the block before (or the start of the run) and this one.
    lost_exact : bool
        False where ``lost_before`` was estimated from a clock.
    epoch : int
        One more after each restart of a device that had stopped by itself; the line's phase is lost there.
    host_ns : int
        ``time.perf_counter_ns()`` at which the last sample was there; at hand-over, where the source cannot know.
    fill : float
        How full the ring is at hand-over, 0 to 1: at 1, the next block may be lost. 0 where none can be lost.
    stamp : int or None
        The device's own time stamp, in its own unit.
    token : any
        For the source: what it needs to know the block again.
    intact : callable or None
        For the source: tells of a token whether its block is intact; None where it stays so until released.
    """

    samples: np.ndarray
    index: int
    lost_before: int
    lost_exact: bool
    epoch: int
    host_ns: int
    fill: float
    stamp: int | None = None
    token: Any = field(default=None, repr=False)
    intact: Callable[[Any], bool] | None = field(default=None, repr=False)

    def valid(self) -> bool:
        """False once the device has overwritten the samples. Ask after use, before the result counts."""
        return self.intact is None or self.intact(self.token)


class Source(Protocol):
    """What the live pipeline needs of a digitiser.

    Attributes
    ----------
    sample_rate_hz : float
        Rate of the digitiser's clock [samples/s].
    dtype : dtype
        Of the samples: int8, uint8, int16 or uint16.
    block_samples : int
        Samples of a block; only the last before a gap or the end may be shorter.
    depth : int
        Blocks that the ring holds.
    zero_copy : bool
        Whether blocks are the device's own memory.
    metadata : CaptureMetadata
        What is known about the instrument.

    Notes
    -----
    A replay may also say ``paced = False`` where the next block is always there, and ``pace_hz``, the rate at which its
    samples come by the host's clock [samples/s], where that is not ``sample_rate_hz``.
    """

    sample_rate_hz: float
    dtype: np.dtype
    block_samples: int
    depth: int
    zero_copy: bool
    metadata: CaptureMetadata

    def start(self) -> None:
        """Start the device, again if it was stopped. SourceError if it cannot."""

    def acquire(self, timeout_s: float) -> Block | None:
        """The next block, or None where none came in time; one thread at a time calls this.

        EndOfStream where no more samples will come, SourceError where the device failed.
        """

    def release(self, block: Block) -> None:
        """Give a block's memory back; from any thread, in any order."""

    def stop(self) -> int:
        """Stop the device; the number of samples lost after the last block that was handed over.

        Call it as soon as no more blocks are wanted, whatever thread waits in ``acquire``: blocks in use stay
        valid, and what passes between the last ``acquire`` and the stop may count as lost.
        """


class _ScheduledSource:
    """Blocks that fall due on the host's clock, in a ring that exists only as arithmetic.

    Block i is there once the time line has passed its end; it is overwritten once ``depth`` whole blocks after it
    are there and one more has begun, as in a ring of ``depth`` + 1 buffers. No thread fills anything: what the
    clock says would have happened has happened. A source says where its blocks lie and what they hold.
    """

    zero_copy = False

    def __init__(
        self,
        *,
        metadata: CaptureMetadata,
        dtype: np.dtype,
        block_samples: int,
        depth: int,
        pace_hz: float,
        paced: bool,
        clock: Callable[[], int],
        sleep: Callable[[float], object],
    ) -> None:
        for name, value in (("block_samples", block_samples), ("depth", depth)):
            if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")
        if not (math.isfinite(pace_hz) and pace_hz > 0):
            raise ValueError(f"the rate of the replay must be a finite number above zero [samples/s], got {pace_hz!r}")
        self.sample_rate_hz = metadata.sample_rate_hz
        self.metadata = metadata
        self.dtype = dtype
        self.block_samples = int(block_samples)
        self.depth = int(depth)
        self.paced, self.pace_hz = paced, pace_hz
        #: Seconds that ``acquire`` has waited for samples since the start.
        self.waited_s = 0.0
        # Whole numbers, since floats would disagree on whether a block is due just when it is.
        self._rate, per_s = Fraction(pace_hz).as_integer_ratio()
        self._rate_ns = per_s * _NS
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()  # of a claim against stop()
        self._run = 0
        self._next = 0  # block to hand over next
        self._index_end = 0  # on the device's time line, of what was handed over
        self._begun_ns = 0
        self._stopped_ns: int | None = None

    def start(self) -> None:
        """Start the clock, at block 0; SourceError while it runs."""
        with self._lock:
            if self._run and self._stopped_ns is None:
                raise SourceError("the source runs already; stop it first")
            self._run += 1
            self._next = 0
            self._index_end = self._span(0)[0]
            self.waited_s = 0.0
            self._stopped_ns = None
            self._rewind()
            self._begun_ns = self._clock()

    def acquire(self, timeout_s: float) -> Block | None:
        """The next block that is not overwritten, or None after ``timeout_s``; never spins.

        A reader that finds its block overwritten goes on in the middle of the ring: the oldest block left would
        be overwritten while it is read. EndOfStream at the end and once stopped, SourceError before the start.
        """
        if not self._run:
            raise SourceError("the source was not started; call start() first")
        deadline = self._clock() + round(timeout_s * _NS)
        while True:
            with self._lock:
                if self._stopped_ns is not None or self._at_end():
                    raise EndOfStream
                now = self._clock()
                ready = self._ready(now)
                if not self.paced or ready > self._next:
                    return self._hand_over(ready, now)
                due = self._due_ns(self._next)
                until = min(due, deadline)
                if until <= now:
                    return None
                self._get_ready(due)
            pause_ns = until - self._clock()
            if pause_ns > 0:
                self._sleep(pause_ns / _NS)
            self.waited_s += (self._clock() - now) / _NS

    def release(self, block: Block) -> None:
        """Nothing to do: the ring is overwritten on time, released or not."""

    def stop(self) -> int:
        """Stop the clock; the number of samples overwritten after the last block that was handed over.

        Blocks that wait intact in the ring are not lost: like all that would come later, they are not asked for.
        """
        with self._lock:
            if not self._run or self._stopped_ns is not None:
                return 0
            self._stopped_ns = self._clock()
            overwritten = self._ready(self._stopped_ns) - self.depth
            if not self.paced or overwritten <= self._next:
                return 0
            index, samples = self._span(overwritten - 1)
            return index + samples - self._index_end

    def _hand_over(self, ready: int, now: int) -> Block:
        block = self._next
        if self.paced and ready - block > self.depth:
            block = ready - max(self.depth // 2, 1)
        samples = self._samples(block)
        index, count = self._span(block)
        handed = Block(
            samples=samples,
            index=index,
            lost_before=index - self._index_end,
            lost_exact=True,
            epoch=0,
            host_ns=self._due_ns(block) if self.paced else now,
            fill=min((ready - block) / self.depth, 1.0) if self.paced else 0.0,
            token=(self._run, block),
            intact=self._intact,
        )
        self._next = block + 1
        self._index_end = index + count
        return handed

    def _intact(self, token: tuple[int, int]) -> bool:
        run, block = token
        if run != self._run:
            return False
        now = self._clock() if self._stopped_ns is None else self._stopped_ns
        return not self.paced or self._ready(now) - block <= self.depth

    def _ready(self, now: int) -> int:
        """Number of blocks that are there, of all since the start."""
        return self._whole_blocks((now - self._begun_ns) * self._rate // self._rate_ns)

    def _due_ns(self, block: int) -> int:
        return self._begun_ns - (-self._position_end(block) * self._rate_ns // self._rate)

    # What a source says of itself; positions are samples since the start, without what the device lost.

    def _span(self, block: int) -> tuple[int, int]:
        """Index of a block's first sample on the device's time line, and its number of samples."""
        raise NotImplementedError

    def _position_end(self, block: int) -> int:
        raise NotImplementedError

    def _whole_blocks(self, position: int) -> int:
        """Number of blocks that end at a position or before."""
        raise NotImplementedError

    def _samples(self, block: int) -> np.ndarray:
        raise NotImplementedError

    def _at_end(self) -> bool:
        return False

    def _get_ready(self, due_ns: int) -> None:
        """Use the time until the next block is due."""

    def _rewind(self) -> None:
        """Go back to block 0."""


class LoopSource(_ScheduledSource):
    """A loop in memory, replayed without end or seam, at a digitiser's pace and with its manners.

    Blocks are views of the loop: reading costs nothing but the memory's own bandwidth.

    Parameters
    ----------
    samples : ndarray of shape (L,), int8, uint8, int16 or uint16
        The loop [codes], L a multiple of ``block_samples``. That its end fits its beginning is the business of who
        made it: ``simulated_loop`` does, and so must the line's phase and the interleaved converters.
    sample_rate_hz : float
        Rate at which the samples were taken [samples/s]; it replaces that of the metadata.
    metadata : CaptureMetadata
        What is known about the instrument.
    block_samples, depth : int, optional
        Samples of a block, and blocks of the ring.
    paced : bool, optional
        True: blocks come at their rate, and are overwritten. False: the next one is always there, none is lost.
    realtime_rate_hz : float, optional
        Rate at which blocks come, where it is not ``sample_rate_hz`` [samples/s].
    clock, sleep : callable, optional
        Host's clock [ns] and how to wait [s]; for tests.

    Attributes
    ----------
    waited_s : float
        Measured time for which ``acquire`` has waited since ``start`` [s].

    Raises
    ------
    ValueError
        If an argument makes no sense.

    Notes
    -----
    The sample of index i is ``samples[i % L]``; each ``start`` begins at index 0.
    """

    zero_copy = True

    def __init__(
        self,
        samples: np.ndarray,
        sample_rate_hz: float,
        *,
        metadata: CaptureMetadata,
        block_samples: int = 1 << 22,
        depth: int = 64,
        paced: bool = True,
        realtime_rate_hz: float | None = None,
        clock: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(
            metadata=replace(metadata, sample_rate_hz=sample_rate_hz),
            dtype=sample_dtype(samples.dtype),
            block_samples=block_samples,
            depth=depth,
            pace_hz=sample_rate_hz if realtime_rate_hz is None else realtime_rate_hz,
            paced=paced,
            clock=clock,
            sleep=sleep,
        )
        if samples.ndim != 1 or not samples.flags.c_contiguous or not samples.dtype.isnative:
            raise ValueError(
                f"samples must be contiguous, native-endian and of shape (L,), got shape {samples.shape} "
                f"of {samples.dtype}; pass np.ascontiguousarray(...) of one channel"
            )
        if samples.size == 0 or samples.size % self.block_samples:
            raise ValueError(
                f"a loop of {samples.size} samples is not a whole number of blocks of {self.block_samples}; "
                "choose block_samples to divide it, or make another loop: to cut it would break the line's phase"
            )
        self._loop = samples.view()
        self._loop.flags.writeable = False
        self._loop_blocks = samples.size // self.block_samples

    def _span(self, block: int) -> tuple[int, int]:
        return block * self.block_samples, self.block_samples

    def _position_end(self, block: int) -> int:
        return (block + 1) * self.block_samples

    def _whole_blocks(self, position: int) -> int:
        return position // self.block_samples

    def _samples(self, block: int) -> np.ndarray:
        first = block % self._loop_blocks * self.block_samples
        return self._loop[first : first + self.block_samples]


class ReplaySource(_ScheduledSource):
    """A capture, replayed once as if a digitiser delivered it now.

    Parameters
    ----------
    capture : Capture
        From ``open_capture``; it stays open as long as the source is used.
    rate_hz : float, optional
        Rate at which samples come [samples/s]; that of the capture by default.
    paced : bool, optional
        True: blocks come at that rate, and who is late loses some. False: as fast as they are asked for.
    block_samples, depth : int, optional
        Samples of a block, and blocks of the ring. The last block before a gap or the end is shorter.
    clock, sleep : callable, optional
        As for ``LoopSource``.

    Raises
    ------
    ValueError
        If an argument makes no sense. ``acquire`` raises SourceError where the file is damaged or closed.

    Notes
    -----
    ``index`` is the capture's device index. At a gap it jumps, and ``lost_before`` counts the gap as a driver would
    count a loss; the replay does not wait as long as the gap lasted. Blocks are read from the file while the reader
    waits for them. Where the file is slower than the rate the time line stands still until the block is read: a slow
    disk makes a slow replay and loses nothing. Memory: one block, and those that the reader holds.
    """

    def __init__(
        self,
        capture: "Capture",
        *,
        rate_hz: float | None = None,
        paced: bool = True,
        block_samples: int = 1 << 22,
        depth: int = 64,
        clock: Callable[[], int] = time.perf_counter_ns,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        super().__init__(
            metadata=capture.metadata,
            dtype=capture.dtype,
            block_samples=block_samples,
            depth=depth,
            pace_hz=capture.metadata.sample_rate_hz if rate_hz is None else rate_hz,
            paced=paced,
            clock=clock,
            sleep=sleep,
        )
        self.capture = capture
        # First sample in the capture, end there, index on the device's clock; 3 numbers per block of some MiB.
        self._spans = [
            (
                first,
                min(first + self.block_samples, s.first_sample + s.samples),
                s.device_index + first - s.first_sample,
            )
            for s in capture.segments
            for first in range(s.first_sample, s.first_sample + s.samples, self.block_samples)
        ]
        self._ends = [end for _, end, _ in self._spans]
        self._read_ahead: tuple[int, np.ndarray] | None = None

    def _span(self, block: int) -> tuple[int, int]:
        first, end, index = self._spans[block]
        return index, end - first

    def _position_end(self, block: int) -> int:
        return self._ends[block]

    def _whole_blocks(self, position: int) -> int:
        return bisect_right(self._ends, position)

    def _at_end(self) -> bool:
        return self._next >= len(self._spans)

    def _samples(self, block: int) -> np.ndarray:
        if self._read_ahead is not None and self._read_ahead[0] == block:
            samples = self._read_ahead[1]
        else:
            begun = self._clock()
            samples = self._read(block)
            elapsed = self._clock() - begun
            self._stand_still(elapsed)
            self.waited_s += elapsed / _NS
        self._read_ahead = None
        return samples

    def _get_ready(self, due_ns: int) -> None:
        if self._read_ahead is None:
            self._read_ahead = self._next, self._read(self._next)
            self._stand_still(self._clock() - due_ns)

    def _rewind(self) -> None:
        self._read_ahead = None

    def _stand_still(self, late_ns: int) -> None:
        """Move what is to come by the time that the file was late; the reader has waited for it."""
        if late_ns > 0:
            self._begun_ns += late_ns

    def _read(self, block: int) -> np.ndarray:
        first, end, _ = self._spans[block]
        try:
            samples = self.capture.read(first, end)
        except CaptureError as error:
            raise SourceError(str(error)) from error
        except (OSError, ValueError) as error:
            raise SourceError(f"{self.capture.path}: samples {first} to {end} cannot be read: {error}") from error
        samples.flags.writeable = False
        return samples
