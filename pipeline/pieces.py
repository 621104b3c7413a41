"""Cut what is worth a closer look out of a stream of blocks: pieces of lines around flagged rows.

Blocks end anywhere; cells do not. Between blocks the cutter keeps the lines that a coming flag might still need, so
that every piece holds its events whole, with the margin that their images ask for. What lies within a block is one
piece, and looked at where it is; what lies across a border is copied.

What is flagged without end is cut in the widest gap between flagged rows near by. No object reaches into such a gap,
whichever way objects are looked for, so each belongs to one piece. Where there is no gap, pieces overlap, and an object
belongs to the piece in which it begins. Two ways may see it begin on different lines: of such pieces, which are not
``clear``, the events alone say where.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from ..sr._screen_kernels import append_flags, copy_samples, flagged_groups, rows_near, widest_gap
from ..sr.detect import BESIDE_FLAGGED_ROWS, GAP_ROWS, ROW_LINES
from ..sr.empty_line import EmptyLine
from ..sr.live_clock import LockedLines
from ..sr.screen import screen_rows
from .measure import Lines

# Objects are taken to be no longer than this along the flow; where its scale is unknown, than this many lines.
_LONGEST_OBJECT_UM, _LONGEST_OBJECT_LINES = 60.0, 1024
_OVERLAP_BOUNDS_LINES = (64, 4096)
# From a flagged row to the next, if no object of either way (``measure_piece``, ``find_objects``) is to reach across:
# between what is looked at of both, more rows are left than join the parts of an event.
_LEAST_GAP_ROWS = 2 * BESIDE_FLAGGED_ROWS + GAP_ROWS + 2


@dataclass(frozen=True)
class Piece:
    """Lines around flagged rows, complete; where they lie within a block, with the samples of the whole block.

    lines : Lines
        From the first line of a row on.
    wanted : ndarray of shape (rows,), bool
        Rows to look at closely.
    own_first, own_stop : int
        The piece's objects are those that begin at line ``own_first`` … ``own_stop`` - 1.
    clear : bool
        Whether no object reaches across these two lines; else the first line of an event decides, however it is seen.
    empty_line : EmptyLine
    host_ns, block_end : int
        When the block that completed it was there, and the digitiser's index of that block's end.
    """

    lines: Lines
    wanted: np.ndarray
    own_first: int
    own_stop: int
    clear: bool
    empty_line: EmptyLine
    host_ns: int
    block_end: int

    @property
    def own_samples(self) -> int:
        """Samples from the piece's first own line to its last."""
        first, stop = (min(n, self.lines.stop_line) - self.lines.first_line for n in (self.own_first, self.own_stop))
        return int(np.ceil(self.lines.starts[stop]) - np.ceil(self.lines.starts[max(first, 0)]))


def screen_block(samples: np.ndarray, index: int, lines: LockedLines) -> tuple[int, np.ndarray, int]:
    """Screen the rows that lie wholly within a block; with the GIL released.

    Returns
    -------
    first_row : int
        Number of the first one (line number / 4); without meaning where there is none.
    flags : ndarray of shape (R,), bool
    saturated : int
        Samples on a rail, among all samples of those rows.
    """
    first_row, stop_row = -(-lines.first_line // ROW_LINES), lines.stop_line // ROW_LINES
    row_starts = lines.starts(first_row * ROW_LINES, ROW_LINES, max(stop_row + 1 - first_row, 0))
    screen = lines.empty_line.screen
    skip = int(row_starts.size > 0 and row_starts[0] < 0)  # a line due at the block's first sample may come before it
    stop = max(row_starts.size - 1, skip)
    while stop > skip and math.ceil(row_starts[stop - 1]) + screen.reach > samples.size:
        stop -= 1
    if stop == skip:  # a stretch of a few lines
        return first_row, np.empty(0, dtype=np.bool_), 0
    flags, saturated = screen_rows(samples, index, row_starts[skip : stop + 1], screen)
    return first_row + skip, flags, saturated


class PieceCutter:
    """Turns flags of consecutive blocks into pieces; one thread at a time, in the order of the blocks.

    Parameters
    ----------
    margin_lines : callable
        ``margin_lines(lines)``: lines on either side that the image of an event of so many lines needs.
    um_per_line : float or None
        Pitch of the lines along the flow [µm].
    """

    def __init__(self, margin_lines: Callable[[int], int], um_per_line: float | None) -> None:
        longest = _LONGEST_OBJECT_UM / um_per_line if um_per_line else _LONGEST_OBJECT_LINES
        self._overlap_rows = math.ceil(float(np.clip(longest, *_OVERLAP_BOUNDS_LINES)) / ROW_LINES)
        longest_lines = self._overlap_rows * ROW_LINES
        self._margin_rows = math.ceil(margin_lines(longest_lines) / ROW_LINES) + BESIDE_FLAGGED_ROWS + 1
        self._open: _Open | None = None
        self._host_ns = self._block_end = 0
        #: Samples on a rail in the rows across the borders of blocks so far.
        self.saturated = 0
        self._empty_line: EmptyLine | None = None

    def add(
        self,
        samples: np.ndarray,
        index: int,
        host_ns: int,
        locked: list[LockedLines],
        screened: list[tuple[int, np.ndarray, int]],
    ) -> list["Cut"]:
        """The pieces that a block completes, still to be taken out of it.

        Parameters
        ----------
        samples, index, host_ns
            The block.
        locked : list of LockedLines
            Its lines, as the clock follows them.
        screened : list
            What :func:`screen_block` made of each of them.
        """
        self._host_ns, self._block_end = host_ns, index + samples.size
        pieces = []
        if self._open is not None and not (locked and locked[0].continues):
            pieces += self.close()
        for lines, (first_row, flags, _) in zip(locked, screened, strict=True):
            if self._open is None or not lines.continues:
                pieces += self.close()
                self._open = _Open.at(-(-lines.first_line // ROW_LINES), index)
            self._empty_line = lines.empty_line
            now, saturated = self._open.with_block(samples, index, lines, first_row, flags)
            self.saturated += saturated
            pieces += self._cut(now, at_end=False)
        return pieces

    def close(self) -> list["Cut"]:
        """What is left when the lines end: pieces with what margin there is."""
        if self._open is None:
            return []
        pieces = self._cut(self._open, at_end=True)
        self._open = None
        return pieces

    def _cut(self, now: "_Open", *, at_end: bool) -> list["Cut"]:
        """Complete pieces of what is open; the rest stays open."""
        rows, margin, longest = now.flags.size, self._margin_rows, self._overlap_rows
        pieces: list[Cut] = []
        inside = now.first_row_inside()
        keep = max(0, rows - margin)  # the first row that stays open
        owned, clear = max(now.own_row - now.first_row, 0), now.own_clear
        for first, last in flagged_groups(now.flags, 2 * margin).tolist():
            begin = max(first, owned)
            while last + margin >= rows and not at_end:
                # not complete; what is longer than an object may be, is cut
                stop = rows - longest - margin
                if stop - begin < longest:
                    keep = min(keep, max(0, begin - margin))
                    break
                before, behind = widest_gap(now.flags, begin, stop - longest, rows - margin)
                if behind - before >= _LEAST_GAP_ROWS:
                    stop = (before + behind + 1) // 2
                    pieces.append(self._piece(now, begin - margin, before + margin + 1, owned, stop, clear))
                    begin, clear = behind, True
                else:
                    pieces.append(self._piece(now, begin - margin, rows, owned, stop, False))
                    begin, clear = stop, False
                owned = stop
            else:
                piece = self._piece(now, begin - margin, last + margin + 1, owned, rows, clear)
                before_it = pieces[-1] if pieces else piece
                if before_it.first >= inside and before_it.own_first == owned and pieces:
                    pieces[-1] = replace(before_it, stop=piece.stop)
                else:
                    pieces.append(piece)
                if not clear:  # what follows is far from where this one was cut
                    owned, clear = piece.stop, True
        self._open = None if at_end else now.from_row(keep, now.first_row + owned, clear)
        return pieces

    def _piece(self, now: "_Open", first: int, stop: int, own_first: int, own_stop: int, clear: bool) -> "Cut":
        assert self._empty_line is not None  # rows are screened before they are flagged
        first, stop = max(0, first), min(stop, now.flags.size)
        return Cut(now, first, stop, own_first, own_stop, clear, self._empty_line, self._host_ns, self._block_end)


@dataclass(frozen=True)
class Cut:
    """Where a piece is to be cut out, before the block is given back."""

    open: "_Open"
    first: int
    stop: int
    own_first: int
    own_stop: int
    clear: bool
    empty_line: EmptyLine
    host_ns: int
    block_end: int

    @property
    def own_samples(self) -> int:
        """What ``Piece.own_samples`` will be."""
        first, stop = (min(row, self.stop) for row in (self.own_first, self.own_stop))
        line = self.open.first_row * ROW_LINES
        begin, end = (
            self.open.starts(line + row * ROW_LINES, 1, 1)[0] for row in (max(first, self.first), max(stop, self.first))
        )
        return math.ceil(end) - math.ceil(begin)

    def piece(self) -> Piece:
        """Take it out; the samples are copied where they do not lie within the block."""
        line = self.open.first_row * ROW_LINES
        inside = self.first >= self.open.first_row_inside()
        return Piece(
            (self.open.lines_inside if inside else self.open.lines)(self.first, self.stop),
            rows_near(self.open.flags, self.first, self.stop, BESIDE_FLAGGED_ROWS),
            line + self.own_first * ROW_LINES,
            line + self.own_stop * ROW_LINES,
            self.clear,
            self.empty_line,
            self.host_ns,
            self.block_end,
        )


@dataclass(frozen=True)
class _Part:
    """A block's samples and lines; ``place`` is that of its first sample after the index of what is open."""

    place: int
    samples: np.ndarray
    lines: LockedLines
    shift: int  # of the lines' starts, which are those after the block's first sample

    def moved(self, by: int) -> "_Part":
        return replace(self, place=self.place + by, shift=self.shift + by)


@dataclass(frozen=True)
class _Open:
    """Rows not done with, from row ``first_row`` on; objects that begin before ``own_row`` are.

    own_clear: whether none reaches across that row. parts: of consecutive blocks, with places after sample ``index``
    of the digitiser. flags: of the rows screened so far.
    """

    first_row: int
    own_row: int
    own_clear: bool
    index: int
    parts: tuple[_Part, ...]
    flags: np.ndarray

    @classmethod
    def at(cls, first_row: int, index: int) -> "_Open":
        """Nothing yet, from a row on."""
        return cls(first_row, first_row, True, index, (), np.empty(0, dtype=np.bool_))

    def with_block(
        self, block: np.ndarray, block_index: int, lines: LockedLines, first_row: int, flags: np.ndarray
    ) -> tuple["_Open", int]:
        """With a block behind; the rows across the border are screened here, and their samples on a rail counted."""
        shift = block_index - self.index
        now = replace(self, parts=(*self.parts, _Part(shift, block, lines, shift)))
        screen, border, saturated = lines.empty_line.screen, np.empty(0, dtype=np.bool_), 0
        done, stop_row = self.first_row + self.flags.size, lines.stop_line // ROW_LINES
        across = (first_row if flags.size else max(stop_row, done)) - done
        row_starts = now.starts(done * ROW_LINES, ROW_LINES, across + 1)
        if not flags.size:  # none lies wholly in this block; of those across, the samples may be yet to come
            fits = np.ceil(row_starts) + screen.reach <= shift + block.size
            row_starts = row_starts[: int(np.count_nonzero(fits)) + 1]
        if row_starts.size > 1:
            first = math.floor(row_starts[0])
            samples = now.take(first, math.ceil(row_starts[-1]) + screen.reach)
            border, saturated = screen_rows(samples, self.index + first, row_starts - first, screen)
        return replace(now, flags=append_flags(self.flags, border, flags)), saturated

    def starts(self, first_line: int, step: int, count: int) -> np.ndarray:
        """Starts of every ``step``-th line [samples after ``index``]: of each by the block in which it starts."""
        found = []
        for part in self.parts:
            here = count
            if part is not self.parts[-1]:
                here = min(max(-((first_line - part.lines.stop_line) // step), 0), count)
            if here:
                found.append(part.lines.starts(first_line, step, here) + part.shift)
            first_line, count = first_line + here * step, count - here
        return found[0] if len(found) == 1 else np.concatenate(found)

    def take(self, first: int, stop: int) -> np.ndarray:
        """A copy of samples ``first`` … ``stop`` - 1 after ``index``."""
        begin = max(first, self.parts[0].place)
        last = self.parts[-1]
        taken = np.empty(max(min(stop, last.place + last.samples.size) - begin, 0), dtype=last.samples.dtype)
        for part in self.parts:
            start, end = max(begin - part.place, 0), min(stop - part.place, part.samples.size)
            if end > start:
                copy_samples(part.samples, start, end, taken, start + part.place - begin)
        taken.flags.writeable = False  # as blocks are: kernels are compiled for either
        return taken

    def first_row_inside(self) -> int:
        """The first row of which all samples lie in the newest block, counted from ``first_row``."""
        return -(-(self.parts[-1].lines.first_line + 1) // ROW_LINES) - self.first_row

    def lines_inside(self, first: int, stop: int) -> Lines:
        """:meth:`lines` that lie in the newest block, with that block's samples."""
        first_line, last = (self.first_row + first) * ROW_LINES, self.parts[-1]
        starts = self.starts(first_line, 1, (stop - first) * ROW_LINES + 1) - last.place
        return Lines(last.samples, self.index + last.place, first_line, starts)

    def lines(self, first: int, stop: int) -> Lines:
        """Rows ``first`` … ``stop`` - 1, counted from the first, with their samples."""
        first_line = (self.first_row + first) * ROW_LINES
        starts = self.starts(first_line, 1, (stop - first) * ROW_LINES + 1)
        begin = max(self.parts[0].place, math.floor(starts[0]) - 4)
        samples = self.take(begin, math.ceil(starts[-1]) + 4)
        return Lines(samples, self.index + begin, first_line, starts - begin)

    def from_row(self, row: int, own_row: int, own_clear: bool) -> "_Open":
        """What is left from a row on, apart from the block's memory."""
        line = (self.first_row + row) * ROW_LINES
        begin = max(self.parts[0].place, math.floor(self.starts(line, 1, 1)[0]) - 4)
        kept = []
        for part in self.parts:
            end = part.place + part.samples.size
            if end > begin:
                samples = part.samples[max(begin - part.place, 0) :].copy()
                samples.flags.writeable = False
                kept.append(replace(part, place=end - samples.size, samples=samples).moved(-begin))
        flags = self.flags[row:].copy()
        if own_clear:  # what was flagged before is done with
            flags[: max(own_row - self.first_row - row, 0)] = False
        return _Open(self.first_row + row, own_row, own_clear, self.index + begin, tuple(kept), flags)
