"""Pieces cut out of a stream: the same cells wherever the blocks end, each once, whole, however long what is flagged.

The line starts are the simulated loop's own where nothing else is said, so that only the cutting is tested.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import cycle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stretchscope.acquisition.simulated_loop import SimulatedLoop, simulated_loop
from stretchscope.acquisition.source import LoopSource
from stretchscope.pipeline.crops import grey_crops
from stretchscope.pipeline.live import measure_piece, measure_some
from stretchscope.pipeline.live_setup import Calibration, calibrate_on_source
from stretchscope.pipeline.measure import cells_of, margin_lines, patches_of
from stretchscope.pipeline.pieces import Piece, PieceCutter, screen_block
from stretchscope.pipeline.settings import Settings
from stretchscope.sr.live_clock import LockedLines, TrackingClock

# What the calibration calls a line's start lies so far behind the pulse's own beginning.
LATE_SAMPLES = 5.796
DARK_CODES = -102.4
LINE = 431  # samples, nearly


@pytest.fixture(scope="module")
def crowd() -> SimulatedLoop:
    """Twelve cells in 4 866 lines."""
    return simulated_loop(loop_samples=1 << 21, block_samples=1 << 16, cells_per_s=30_000, seed=5)


class TrueClock:
    """The loop's line starts, but for their jitter; as ``TrackingClock`` gives them."""

    def __init__(self, loop: SimulatedLoop, calibration: Calibration) -> None:
        self._first = loop.first_line_start_samples + LATE_SAMPLES
        self._period, self._empty_line = loop.line_period_samples, calibration.setup.empty_line
        self._continues = False

    def follow(self, samples: np.ndarray, index: int) -> list[LockedLines]:
        first, stop = (
            max(0, int(np.ceil((place - self._first) / self._period))) for place in (index, index + samples.size)
        )
        if stop <= first:
            return []
        knots = np.array([first, stop])
        starts = self._first + knots * self._period - index
        continues, self._continues = self._continues, True
        return [LockedLines(first, stop, knots, starts, continues, self._empty_line)]


def pieces_of(clock: object, calibration: Calibration, samples: np.ndarray, borders: list[int]) -> Iterator[Piece]:
    """The pieces of samples that come in blocks with these borders, each to be measured before the next is taken."""
    cutter = PieceCutter(
        partial(margin_lines, calibration.setup, calibration.grid), calibration.setup.geometry.um_per_line
    )
    for first, stop in zip([0, *borders], [*borders, samples.size], strict=True):
        block = samples[first:stop].copy()
        locked = clock.follow(block, first)
        screened = [screen_block(block, first, lines) for lines in locked]
        yield from (cut.piece() for cut in cutter.add(block, first, 0, locked, screened))
        block[:] = 0  # given back: what is still wanted of it was copied
    yield from (cut.piece() for cut in cutter.close())


def rows_of(pieces: Iterable[Piece], calibration: Calibration) -> list[dict[str, float]]:
    rows = [
        cell.row
        for piece in pieces
        if (measured := measure_piece(calibration.setup, calibration, piece, patches_of)) is not None
        for cell in cells_of(measured)
    ]
    return sorted(rows, key=lambda row: (row["line_first"], row["position_samples"]))


def assert_same(rows: list[dict[str, float]], others: list[dict[str, float]]) -> None:
    assert [row["line_first"] for row in rows] == [row["line_first"] for row in others]
    for row, other in zip(rows, others, strict=True):
        for name, value in row.items():
            np.testing.assert_allclose(other[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def every(size: int, of: int) -> list[int]:
    return list(range(size, of, size))


@pytest.mark.parametrize("size", [3 * LINE, 5 * LINE + 100, 20 * LINE, 77 * LINE + 5, 1000 * LINE])
def test_same_cells_for_any_block_size(size: int, crowd: SimulatedLoop, calibration: Calibration) -> None:
    """Blocks from three lines on give, number by number, what the whole loop in one block gives: all its cells."""
    whole = rows_of(pieces_of(TrueClock(crowd, calibration), calibration, crowd.samples, []), calibration)
    assert len(whole) == crowd.cells.size
    borders = every(size, crowd.samples.size)
    assert_same(
        whole, rows_of(pieces_of(TrueClock(crowd, calibration), calibration, crowd.samples, borders), calibration)
    )


@settings(max_examples=12, deadline=None, derandomize=True)
@given(st.lists(st.integers(2 * LINE, (1 << 20) - 1), max_size=8, unique=True))
def test_same_cells_wherever_blocks_end(crowd: SimulatedLoop, calibration: Calibration, borders: list[int]) -> None:
    """Borders anywhere, through cells or one line apart."""
    samples = crowd.samples[: 1 << 20]
    apart = [
        border
        for border, before in zip(sorted(borders), [0, *sorted(borders)], strict=False)
        if border - before > 2 * LINE
    ]
    whole = rows_of(pieces_of(TrueClock(crowd, calibration), calibration, samples, []), calibration)
    assert len(whole) >= 4
    assert_same(whole, rows_of(pieces_of(TrueClock(crowd, calibration), calibration, samples, apart), calibration))


def test_border_through_every_row_of_a_cell(crowd: SimulatedLoop, calibration: Calibration) -> None:
    """A border at each eighth of a line's length, through one cell from before its first line to after its last."""
    samples = crowd.samples[: 1 << 20]
    whole = rows_of(pieces_of(TrueClock(crowd, calibration), calibration, samples, []), calibration)
    cell = whole[len(whole) // 2]
    for border in np.linspace(cell["sample_first"] - 20 * LINE, cell["sample_last"] + 20 * LINE, 16).astype(int):
        pieces = pieces_of(TrueClock(crowd, calibration), calibration, samples, [int(border)])
        assert_same(whole, rows_of(pieces, calibration))


def rows_of_each(
    loop: SimulatedLoop, pieces: Iterable[Piece], calibration: Calibration, first: bool
) -> tuple[np.ndarray, list[bool]]:
    """How many rows each of the loop's cells gets if every second piece has images, the first one or not; and which
    pieces are clear."""
    picture = partial(grey_crops, side=calibration.crop_px, transmission_at_0=0.0, transmission_at_255=1.7)
    line, position, clear = [np.empty(0)], [np.empty(0)], []
    for piece, images in zip(pieces, cycle([first, not first]), strict=False):
        clear.append(piece.clear)
        if images:
            measured = measure_piece(calibration.setup, calibration, piece, picture)
            found = [] if measured is None else [measured]
        else:
            found = measure_some(
                calibration.setup, calibration, piece, picture, lambda n: np.zeros(n, np.bool_)
            )  # fmt: skip
        for some in found:
            line.append((some.columns["line_first"] + some.columns["line_last"]) / 2)
            position.append(some.columns["position_samples"])
    cells = loop.cells
    along = np.concatenate(line) - (cells["line_first"] + cells["line_last"])[:, None] / 2
    across = np.concatenate(position) + LATE_SAMPLES - cells["x_um"][:, None] / loop.instrument.um_per_sample
    near = (np.abs(along) < (cells["line_last"] - cells["line_first"])[:, None] / 2 + 6) & (np.abs(across) < 40)
    return near.sum(axis=1), clear


@pytest.fixture(scope="module")
def throng() -> tuple[SimulatedLoop, Calibration]:
    """Forty cells in 4 866 lines: one group of flagged rows, which has to be cut."""
    loop = simulated_loop(
        loop_samples=1 << 21, block_samples=1 << 16, cells_per_s=100_000, cell_diameter_um=(8.0, 12.0), seed=2
    )
    source = LoopSource(loop.samples, 5e9, metadata=loop.metadata, block_samples=1 << 19, paced=False)
    return loop, calibrate_on_source(source, Settings())


@pytest.mark.parametrize("rows_away", range(-4, 5))
def test_one_row_each_though_every_second_piece_has_images(
    rows_away: int, throng: tuple[SimulatedLoop, Calibration]
) -> None:
    """Images and sums see an object begin up to four rows apart. A border so far behind a cell's first row that a cut
    as late as can be would lie about there, for each cell and either order: each has one row, not two or none."""
    loop, calibration = throng
    clear = []
    for cell in loop.cells[4:-8]:
        for first in (True, False):
            border = int((cell["line_first"] + 4 * (rows_away + 108)) * loop.line_period_samples)
            pieces = pieces_of(TrueClock(loop, calibration), calibration, loop.samples, [border])
            rows, some = rows_of_each(loop, pieces, calibration, first)
            assert (rows == 1).all(), (cell, first)
            clear += some
    assert np.mean(clear) > 0.9


@pytest.mark.parametrize("size", [20 * LINE, 100_000, 1 << 19])
def test_one_row_each_beside_what_is_flagged_without_end(
    size: int, crowd: SimulatedLoop, calibration: Calibration
) -> None:
    """Beside a stripe there is nowhere to cut: pieces are not clear, and cells have one row each all the same."""
    samples = shaded(crowd, -1, 10_000, (8.0, 20.0))
    apart = crowd.cells["x_first_um"] / crowd.instrument.um_per_sample - LATE_SAMPLES > 32
    for first in (True, False):
        pieces = pieces_of(TrueClock(crowd, calibration), calibration, samples, every(size, samples.size))
        rows, clear = rows_of_each(crowd, pieces, calibration, first)
        assert (rows[apart] == 1).all()
        assert len(clear) > 3
        assert not any(clear)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    share=st.floats(0.0005, 0.3),
    sizes=st.lists(st.integers(3 * LINE, 1 << 19), min_size=1, max_size=12),
    seed=st.integers(0, 1 << 30),
)
def test_each_flagged_row_belongs_to_one_piece(
    share: float, sizes: list[int], seed: int, crowd: SimulatedLoop, calibration: Calibration
) -> None:
    """Rows flagged at random: each is looked at by the one piece to which it belongs, with the margin that images need;
    near borders of what is clear nothing is flagged; and what is open stays bounded."""
    rng, clock = np.random.default_rng(seed), TrueClock(crowd, calibration)
    cutter = PieceCutter(
        partial(margin_lines, calibration.setup, calibration.grid), calibration.setup.geometry.um_per_line
    )
    margin = margin_lines(calibration.setup, calibration.grid, 0)
    flagged, pieces, index, longest = [], [], 0, 0
    for size in sizes:
        block = crowd.samples[:size]
        locked = clock.follow(block, index)
        screened = []
        for lines in locked:
            first, flags, saturated = screen_block(block, index, lines)
            flags = rng.random(flags.size) < share
            flagged.append(first + np.flatnonzero(flags))
            screened.append((first, flags, saturated))
        pieces += [cut.piece() for cut in cutter.add(block, index, 0, locked, screened)]
        index += size
        longest = max(longest, 0 if cutter._open is None else cutter._open.flags.size)
    pieces += [cut.piece() for cut in cutter.close()]
    lines = 4 * np.concatenate(flagged)
    first_own, stop_own = (np.array([getattr(piece, name) for piece in pieces]) for name in ("own_first", "own_stop"))
    first = np.array([piece.lines.first_line for piece in pieces])
    stop_own = np.minimum(stop_own, [piece.lines.stop_line for piece in pieces])
    first_own = np.maximum(first_own, first)
    owners = (lines >= first_own[:, None]) & (lines < stop_own[:, None])
    assert (owners.sum(axis=0) == 1).all()
    for piece, own in zip(pieces, owners, strict=True):
        rows = (lines[own] - piece.lines.first_line) // 4
        assert piece.wanted[rows].all()
        if piece.clear and own.any():
            assert lines[own].min() - piece.lines.first_line >= min(margin, lines[own].min() - 4)
            if piece.own_stop < piece.lines.stop_line:
                assert np.abs(lines - piece.own_stop).min() >= 4 * 5
    assert longest < 3 * 88 + 2 * 40


@pytest.mark.parametrize("size", [20 * LINE, 33_333, 100_000, 1 << 21])
def test_same_cells_with_the_tracking_clock(size: int, crowd: SimulatedLoop, calibration: Calibration) -> None:
    """The same with the clock that has to find and follow the lines itself, behind those it needs to lock."""
    clock = TrackingClock(calibration.setup.empty_line)
    pieces = pieces_of(clock, calibration, crowd.samples, every(size, crowd.samples.size))
    found = np.array([row["line_first"] for row in rows_of(pieces, calibration)])
    expected = crowd.cells["line_first"]
    expected = expected[expected > (200 if size < 1 << 17 else 0)]
    assert clock.losses == 0
    assert len(set(found)) == len(found)
    assert all(np.abs(found - line).min() < 8 for line in expected)
    assert len(found) - len(expected) in (0, 1)


def shaded(loop: SimulatedLoop, first_line: int, stop_line: int, position: tuple[float, float]) -> np.ndarray:
    """The loop's samples, with a stripe along the flow that takes 40 % of the light."""
    line, tau = np.divmod(
        np.arange(loop.samples.size) - loop.first_line_start_samples - LATE_SAMPLES, loop.line_period_samples
    )
    inside = (line >= first_line) & (line < stop_line) & (tau >= position[0]) & (tau < position[1])
    codes = np.where(inside, DARK_CODES + 0.6 * (loop.samples - DARK_CODES), loop.samples)
    return np.rint(codes).astype(loop.samples.dtype)


@pytest.mark.parametrize("size", [20 * LINE, 100_000, 1 << 19, 1 << 21])
@pytest.mark.parametrize(("first_line", "stop_line"), [(1000, 3500), (-1, 10_000)])
def test_flagged_without_end(
    first_line: int, stop_line: int, size: int, crowd: SimulatedLoop, calibration: Calibration
) -> None:
    """Something longer than any cell, or without end, beside which cells pass: pieces overlap, each cell is found once,
    and what is long is not found again in each piece."""
    samples = shaded(crowd, first_line, stop_line, (8.0, 20.0))
    borders = every(size, samples.size)
    rows = rows_of(pieces_of(TrueClock(crowd, calibration), calibration, samples, borders), calibration)
    pieces = list(pieces_of(TrueClock(crowd, calibration), calibration, samples, borders))
    apart = crowd.cells["x_first_um"] / crowd.instrument.um_per_sample - LATE_SAMPLES > 32
    found = np.array([row["line_first"] for row in rows])
    position = np.array([row["position_samples"] for row in rows])
    for cell in crowd.cells[apart]:
        near = np.abs(found - cell["line_first"]) < 8
        near &= np.abs(position - cell["x_um"] / crowd.instrument.um_per_sample + LATE_SAMPLES) < 15
        assert near.sum() == 1, cell
    assert len(rows) - np.count_nonzero(apart) <= np.count_nonzero(~apart) + 2
    own = np.array([(piece.own_first, min(piece.own_stop, piece.lines.stop_line)) for piece in pieces])
    assert (own[1:, 0] >= own[:-1, 1] - 4 * 512).all()


def test_saturated_samples_are_counted_wherever_blocks_end(crowd: SimulatedLoop, calibration: Calibration) -> None:
    """Rows across a border count as those within a block."""
    samples = crowd.samples[: 1 << 18].copy()
    samples[np.random.default_rng(1).integers(0, samples.size, 5_000)] = 127
    counted = set()
    for size in (20 * LINE, 33_333, samples.size):
        clock, saturated = TrueClock(crowd, calibration), 0
        cutter = PieceCutter(partial(margin_lines, calibration.setup, calibration.grid), None)
        for first in range(0, samples.size, size):
            block = samples[first : first + size]
            locked = clock.follow(block, first)
            screened = [screen_block(block, first, lines) for lines in locked]
            cutter.add(block, first, 0, locked, screened)
            saturated += sum(some for _, _, some in screened)
        counted.add(saturated + cutter.saturated)
    assert len(counted) == 1
    assert counted.pop() > 4_000


def test_pieces_without_own_lines_count_none(crowd: SimulatedLoop, calibration: Calibration) -> None:
    """The samples that a dropped piece takes out of the account are never more than it holds."""
    samples = shaded(crowd, -1, 10_000, (8.0, 20.0))
    pieces = list(pieces_of(TrueClock(crowd, calibration), calibration, samples, every(100_000, samples.size)))
    assert len(pieces) > 3
    assert all(0 <= piece.own_samples <= piece.lines.samples.size for piece in pieces)
    assert sum(piece.own_samples for piece in pieces) <= samples.size
