"""The line clock: when each line starts, in samples, with its uncertainty.

The delay of every line against the empty line is measured on its empty positions, averaged over blocks of lines,
and smoothed: a straight line where the laser and the digitiser keep a constant ratio, a wandering period where the
blocks themselves show that they do not.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from ._kernels import LEAST_SHARE
from .background import Background
from .errors import SignalError
from .line_fit import LineTables, line_fits
from .period import MIN_LINES, find_period
from .tracking import (
    START_WINDOWS,
    correlate_start,
    credible_variance,
    disturbances,
    droop_delays,
    follow_blocks,
    smooth_blocks,
)

BLOCK_LINES = 64
# Where the start wanders from line to line, blocks are as short as it takes to see it, but no shorter than this.
_LEAST_BLOCK_LINES = 4
# From this many lines on, every fourth block is measured: the period's error doubles, far below the wander by then.
DENSE_LINES = 1 << 18
SPARSE_STRIDE = 4
# Blocks on which the first period is tried.
_FIRST_BLOCKS = 8
# A start whose lines correlate less with the empty line is none.
WEAKEST_START = 0.3
# A clock that comes back further from where it is due than this is another one: correlation finds it within a sample.
_JUMP_SAMPLES = 2.0
# So many lines in a row that say nothing of the clock end it.
_LINES_LOST = 8
# Blocks whose chi-square is beyond so many times that of the emptiest count less; cells as usual leave enough.
_MOST_CHI2 = 3.0
# Samples read at a time; fixed, so that the result does not depend on how a caller cuts the capture.
PIECE_SAMPLES = 1 << 22


@dataclass(frozen=True)
class SegmentClock:
    """Line starts of one gap-free stretch, from sample ``first_sample`` (as the digitiser counts) on.

    Knots: ``line`` float64 (K,) line numbers counted from ``first_line`` of the segment, ``start_samples`` (K,),
    ``period_samples`` (K,) and ``start_std_samples`` (K,). Between knots the start is the cubic that meets
    both starts and periods; two knots are enough for a steady or evenly drifting clock, and are continued beyond.
    """

    first_sample: int
    first_line: int
    lines: int
    line: np.ndarray
    start_samples: np.ndarray
    period_samples: np.ndarray
    start_std_samples: np.ndarray
    period_std_samples: float

    def line_start(self, line_number: np.ndarray) -> np.ndarray:
        """Start of lines [samples, float64]; line numbers of the capture, fractions and outside ones allowed."""
        n = np.asarray(line_number, dtype=np.float64) - self.first_line
        i = np.clip(np.searchsorted(self.line, n, side="right") - 1, 0, self.line.size - 2)
        span = self.line[i + 1] - self.line[i]
        u = n - self.line[i]
        chord = (self.start_samples[i + 1] - self.start_samples[i]) / span
        a = self.period_samples[i] - chord
        b = self.period_samples[i + 1] - chord
        # two knots hold the whole clock, a polynomial that goes on beyond them; a wander ends at its last knot
        inside = (u >= 0) & (u <= span) if self.line.size > 2 else np.full(u.shape, True)
        bend = np.where(inside, u * (1 - u / span) * (a * (1 - u / span) - b * (u / span)), 0.0)
        outside = np.where(u < 0, u * self.period_samples[i], span * chord + (u - span) * self.period_samples[i + 1])
        return self.start_samples[i] + np.where(inside, u * chord + bend, outside)

    def line_at(self, sample: float) -> float:
        """Line number, with its fraction, that is under way at a sample of the segment."""
        period = (self.start_samples[-1] - self.start_samples[0]) / (self.line[-1] - self.line[0])
        n = self.first_line + self.line[0] + (sample - self.start_samples[0]) / period
        for _ in range(4):
            n += (sample - float(self.line_start(np.array(n)))) / period
        return n


@dataclass(frozen=True)
class LineClock:
    """The line clock of a capture: one :class:`SegmentClock` per gap-free stretch, in order of lines."""

    segments: tuple[SegmentClock, ...]

    @property
    def lines(self) -> int:
        return sum(segment.lines for segment in self.segments)

    @property
    def period_samples(self) -> float:
        """Mean period: (last start - first start) / (lines - 1), over all segments."""
        spans = [
            float(np.diff(s.line_start(np.array([s.first_line, s.first_line + s.lines - 1])))[0]) for s in self.segments
        ]
        return sum(spans) / sum(s.lines - 1 for s in self.segments)

    @property
    def period_std_samples(self) -> float:
        """Standard deviation of :attr:`period_samples`."""
        steps = np.array([s.lines - 1 for s in self.segments], dtype=np.float64)
        stds = np.array([s.period_std_samples for s in self.segments])
        return float(np.sqrt(np.sum((steps * stds) ** 2)) / steps.sum())

    @property
    def start_std_samples(self) -> float:
        """Typical standard deviation of a line start against the true one (root mean square over the knots)."""
        return float(np.sqrt(np.mean(np.concatenate([s.start_std_samples for s in self.segments]) ** 2)))


def measure_segment_clocks(
    read: Callable[[int, int], np.ndarray], first: int, stop: int, background: Background, tables: LineTables
) -> tuple[SegmentClock, ...]:
    """Line clock of one gap-free stretch of samples, followed from its first line to its last.

    Parameters
    ----------
    read : callable
        ``read(first, stop)`` gives the samples of that range of digitiser indices, shape (stop - first,).
    first, stop : int
        Digitiser indices of the stretch.
    background, tables
        The empty line and its tables.

    Returns
    -------
    clocks : tuple of SegmentClock
        One, or several where the laser's phase jumped; in order, each with ``first_line`` 0: line 0 is its first whole
        line.

    Raises
    ------
    SignalError
        If the stretch holds fewer than :data:`~.period.MIN_LINES` lines or no empty line can be followed in it.

    Notes
    -----
    The samples are read in order, in pieces of fixed length. Where the clock is lost (the laser was off, the channel
    blocked), it is found again by correlation. If it comes back where it is due, the count of lines goes on; else
    another clock begins, and the one before ends with its last good line.

    A start that wanders within the blocks is measured once more in shorter ones: within a block of B lines it wanders
    by a variance of q·B/12 about their mean (q a line), where the best smoother errs by sqrt(v·q)/2, v that of a line.
    """
    period = background.period_samples
    if stop - first < (MIN_LINES + 2) * period:
        raise SignalError(
            f"the stretch of samples {first} to {stop} holds fewer than {MIN_LINES} lines of {period:.1f} samples"
        )
    lines = (stop - first) / period
    stride = SPARSE_STRIDE if lines >= DENSE_LINES else 1
    block_lines = int(min(BLOCK_LINES, max(4, lines // 8)))
    clocks, memory_lines = _clocks_of_blocks(read, first, stop, background, tables, block_lines, stride)
    if stride == 1 and 1.5 * memory_lines < block_lines:
        finer = max(_LEAST_BLOCK_LINES, round(memory_lines))
        others, memory_lines = _clocks_of_blocks(read, first, stop, background, tables, finer, stride)
        if 1.5 * memory_lines < block_lines:  # the shorter blocks see the start walk as well
            clocks = others
    return clocks


def _clocks_of_blocks(
    read: Callable[[int, int], np.ndarray],
    first: int,
    stop: int,
    background: Background,
    tables: LineTables,
    block_lines: int,
    stride: int,
) -> tuple[tuple[SegmentClock, ...], float]:
    """The clocks of a stretch, measured in blocks of so many lines, and the fewest lines that tell their wander.

    That many are the memory of the best smoother, see :func:`_segment_clock`.
    """
    period = background.period_samples
    runs: list[list[np.ndarray]] = [[]]
    start, updates, line = np.nan, 0, 0.0
    last_good: np.ndarray | None = None  # the last block of this run that showed the clock
    found_since = False
    position = first
    while position < stop:
        samples = read(position, min(stop, position + PIECE_SAMPLES))
        if np.isnan(start):
            offset = _find_start(samples, background, block_lines)
            if np.isnan(offset):
                if position + samples.size < stop:
                    position += samples.size
                    continue
                offset = correlate_start(samples, background, lines=block_lines)[0]  # the best there is
            start, updates, found_since = position + offset, 0, False
            period = _local_period(samples, position, start, background, tables, block_lines)
        blocks, start, period, updates, advanced, lost = follow_blocks(
            samples, position, start, period, tables,
            block_lines=block_lines, stride=stride, updates=updates, gain_std=3 * background.gain_std,
            to_the_end=position + samples.size >= stop,
        )  # fmt: skip
        blocks[:, 0] += line
        line += advanced
        good = np.flatnonzero(np.isfinite(blocks[:, 2]))
        if good.size:
            if last_good is not None and not found_since:  # found again: where it was due?
                since = (blocks[good[0], 1] - last_good[1]) / _mean_period(runs[-1], background.period_samples)
                due = last_good[0] + since
                shift = round(due - blocks[good[0], 0])
                if abs(due - blocks[good[0], 0] - shift) * period > _JUMP_SAMPLES:
                    runs.append([])
                blocks[:, 0] += shift
                line += shift
            last_good, found_since = blocks[good[-1]], True
            runs[-1].append(blocks[: good[-1] + 1] if lost else blocks)
        if lost:
            # what follows the last good block may hold another clock
            if last_good is not None and found_since:
                start = last_good[1] + 0.5 * block_lines * period
            position, start, period = max(int(start), position + 1), np.nan, background.period_samples
        elif position + samples.size >= stop:
            break
        else:
            position = max(int(start) - 2, position + 1)
    measured = [np.concatenate(run) for run in runs if run]
    measured = [run for run in measured if np.isfinite(run[:, 2]).sum() >= 2]
    if not measured:
        raise SignalError("the line clock could not be followed: fewer than two blocks of lines show the empty line")
    # a run that another one follows or precedes ends with its last good line
    reach = 2 * block_lines * stride
    begins, ends = [first], []
    for before, after in pairwise(measured):
        ends.append(_good_until(read, before, reach, first, stop, background, tables, block_lines))
        begins.append(_good_until(read, after, -reach, first, stop, background, tables, block_lines))
        begins[-1] = max(begins[-1], ends[-1])
    found = [
        _segment_clock(run, begin, end, background, block_lines)
        for run, begin, end in zip(measured, begins, [*ends, stop], strict=True)
    ]
    return tuple(clock for clock, _ in found), min(memory_lines for _, memory_lines in found)


def _find_start(samples: np.ndarray, background: Background, block_lines: int) -> float:
    """First line start after ``samples[0]`` that is sure, NaN where there is none: the light may be off for long."""
    looked_at = int(START_WINDOWS * block_lines * background.period_samples)
    for first in range(0, samples.size, looked_at):
        offset, correlation = correlate_start(samples[first : first + looked_at], background, lines=block_lines)
        if correlation >= WEAKEST_START:
            return first + offset
    return np.nan


def _mean_period(run: list[np.ndarray], otherwise: float) -> float:
    """Period of a run's good blocks so far [samples]; ``otherwise`` where there is but one."""
    good = np.concatenate([blocks[np.isfinite(blocks[:, 2]), :2] for blocks in run])
    steps = good[-1] - good[0]
    return float(steps[1] / steps[0]) if steps[0] > 0 else otherwise


def _good_until(
    read: Callable[[int, int], np.ndarray],
    blocks: np.ndarray,
    reach: int,
    first: int,
    stop: int,
    background: Background,
    tables: LineTables,
    block_lines: int,
) -> int:
    """Sample at which the last line ends (``reach`` positive) or the first begins (negative) that a run's clock fits.

    Looked for within ``reach`` lines from the run's last or first good block.
    """
    clock, _ = _segment_clock(blocks, first, stop, background, block_lines)
    good = blocks[np.isfinite(blocks[:, 2])]
    centre = clock.line_at(good[-1 if reach > 0 else 0, 1])
    n = np.round(centre - 0.5 * block_lines * np.sign(reach) + np.sign(reach) * np.arange(abs(reach)))
    starts = np.sort(clock.line_start(n))
    begin, end = max(first, int(starts[0]) - 1), min(stop, int(starts[-1] + background.period_samples) + 2)
    fits = line_fits(read(begin, end), begin, starts, tables, gain_std=3 * background.gain_std, delay_std=1.0)
    fine = np.isfinite(fits[:, 1]) & (fits[:, 2] > LEAST_SHARE) & (np.abs(fits[:, 0]) < 1)
    if reach < 0:
        fine, starts = fine[::-1], starts[::-1]
    # cells hide single lines; where so many in a row do not fit, it is over
    lost = np.convolve(fine, np.ones(_LINES_LOST), "valid") == 0
    # the outermost line that fits may be lit in part only: the one before it is whole
    last = starts[max(int(np.argmax(lost)) - 2 if lost.any() else fine.size - 1, 0)]
    return int(np.ceil(last + background.lit_samples) + 1) if reach > 0 else int(last)


def _local_period(
    samples: np.ndarray, origin: int, start: float, background: Background, tables: LineTables, block_lines: int
) -> float:
    """Period to set out with: the background's, or that of these samples where it leads on better (drift)."""
    period = background.period_samples
    few = samples[: int(_FIRST_BLOCKS * block_lines * period)]
    try:
        local = find_period(few)[0]
    except SignalError:
        return period
    if abs(local - period) > 2e-3 * period:
        return period
    scatter = []
    for guess in (period, local):
        blocks, *_ = follow_blocks(
            few, origin, start, guess, tables, block_lines=block_lines, gain_std=3 * background.gain_std
        )
        scatter.append(float(np.mean(np.minimum(blocks[:, 2], 1.0))) if len(blocks) else np.inf)
    return local if scatter[1] < 0.5 * scatter[0] else period


def _segment_clock(
    blocks: np.ndarray, first: int, stop: int, background: Background, block_lines: int
) -> tuple[SegmentClock, float]:
    """Smooth the blocks and number the lines whose lit part lies wholly within the samples first … stop.

    With the clock, over how many lines the best smoother averages: sqrt(v / q), for lines of variance v and a start
    that walks by q a line; infinite where it does not.
    """
    droop = droop_delays(blocks, background)
    line, place, variance = blocks[:, 0], blocks[:, 1] - droop, credible_variance(blocks, _MOST_CHI2)
    terms = disturbances(blocks, background.period_samples, block_lines, droop)
    smoothed = smooth_blocks(line, place, variance, terms)
    state, covariance = smoothed.state, smoothed.covariance
    if not smoothed.wanders:  # the mean of a block's lines lies on the inner side of the bend
        state[:, 0] -= np.gradient(state[:, 1], line) * (block_lines**2 - 1) / 24
    knots = slice(None) if smoothed.wanders and line.size > 2 else [0, -1]
    period = state[:, 1] if smoothed.place_walk == 0 else np.gradient(state[:, 0], line)
    # lines that slide past less than a whole sample: how far they slid is known as well as the slope between samples
    slide = abs(background.period_samples - round(background.period_samples))
    doubt = slide * background.profile.slope_doubt() if slide * np.ptp(line) < 1 else 0.0
    start_variance = np.maximum(covariance[knots, 0], 0.0) + np.square(doubt * (line[knots] - line.mean()))
    clock = SegmentClock(
        first_sample=first,
        first_line=0,
        lines=1,
        line=line[knots],
        start_samples=state[knots, 0],
        period_samples=period[knots],
        start_std_samples=np.sqrt(start_variance),
        period_std_samples=float(np.hypot(smoothed.mean_period_std, doubt)),
    )
    begin = int(np.ceil(clock.line_at(first)))
    end = int(np.floor(clock.line_at(stop - background.lit_samples))) + 1
    lines = end - begin
    if smoothed.wanders:  # beyond the first and last block the clock wanders on
        beyond = max(line[0] - begin, 0.0), max(end - 1 - line[-1], 0.0)
        walked = sum(smoothed.place_walk * m + smoothed.period_walk * m**3 / 3 for m in beyond)
        clock = replace(clock, period_std_samples=float(np.hypot(clock.period_std_samples, np.sqrt(walked) / lines)))
    of_line = block_lines * float(np.median(variance[np.isfinite(variance)]))
    memory_lines = float(np.sqrt(of_line / smoothed.place_walk)) if smoothed.place_walk > 0 else np.inf
    return replace(clock, lines=lines, line=clock.line - begin), memory_lines
