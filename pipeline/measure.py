"""Measure the cells of events, from lines in memory to columns of the table: many events at once, without a loop in
Python.

The same for a capture's events and for those of a live stream: nothing here knows where the samples came from.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from ..classify import feature_columns, measure_images, segment_images
from ..sr._kernels import CONVERTERS
from ..sr.detect import ROW_LINES, Event, Events
from ..sr.empty_line import EmptyLine
from ..sr.methods import METHODS, reach_lines, reconstruct_one_by_one
from ..sr.reconstruct import Grid, Method, TransmissionImage, Windows, reconstruct, reconstruct_windows
from ..sr.refine import reconstruct_regularised
from ..sr.sampling import gaussian_response
from ._crop_kernels import draw_seeds, mark_repeated
from .settings import Settings
from .survey import Geometry

# Pixels kept around a cell, for its crop.
PATCH_ROOM_PX = 16
# Images worked on at once have about so many pixels in all: more would leave the caches, fewer would cost more calls.
_PIXELS_AT_ONCE = 1 << 18
# Of two boxes of one cell, the smaller lies to this share in the other.
_SAME_CELL_SHARE = 0.7

_own = threading.local()  # each thread's flat arrays, for to ask for memory costs more than to use it


@dataclass(frozen=True)
class Setup:
    """What it takes to make sense of samples."""

    empty_line: EmptyLine
    geometry: Geometry
    sample_rate_hz: float
    settings: Settings

    @property
    def method(self) -> str:
        """How images are made, a name in ``sr.methods.METHODS``."""
        method = self.settings.image.method
        assert method is not None  # each command has chosen its own
        return method

    @property
    def reconstruct(self) -> Method:
        """The method itself, with the detector's response where it is known and made use of."""
        bandwidth = self.settings.capture.detector_bandwidth_hz
        if self.method != "regularised" or bandwidth is None:
            return METHODS[self.method]
        return partial(reconstruct_regularised, response_samples=gaussian_response(self.sample_rate_hz / bandwidth))

    def pixel_um(self, grid: Grid) -> float | None:
        """Side of a pixel [µm], where the size of samples and lines is known."""
        if not self.geometry.calibrated or self.geometry.um_per_sample is None:
            return None
        return self.geometry.um_per_sample / grid.columns_per_sample


@dataclass(frozen=True)
class Lines:
    """Consecutive lines with the samples that hold them.

    samples : ndarray of shape (S,)
        Waveform [codes].
    index : int
        The digitiser's index of its first sample.
    first_line : int
        Number of the first line.
    starts : ndarray of shape (N + 1,), float64
        Starts of the lines [samples after samples[0]]; the last one ends the last line.
    """

    samples: np.ndarray
    index: int
    first_line: int
    starts: np.ndarray

    @property
    def stop_line(self) -> int:
        return self.first_line + self.starts.size - 1

    def part(self, first_line: int, stop_line: int) -> "Lines":
        """Some of the lines, as far as they are here."""
        first, stop = max(first_line, self.first_line), min(stop_line, self.stop_line)
        own = self.starts[first - self.first_line : stop - self.first_line + 1]
        begin, end = max(0, int(np.floor(own[0])) - 4), int(np.ceil(own[-1])) + 4
        return Lines(self.samples[begin:end], self.index + begin, first, own - begin)

    @cached_property
    def for_kernels(self) -> tuple[np.ndarray, int, np.ndarray]:
        """Samples, origin and starts of the lines on a time line that keeps each sample's converter."""
        origin = self.index % CONVERTERS
        return self.samples, origin, self.starts[:-1] + origin


@dataclass(frozen=True)
class Cell:
    """One measured cell: its row of the table, and its crop.

    row : dict
        Column name to value.
    patch, mask : ndarray of shape (rows, columns)
        Transmission around the cell (NaN unknown), and the cell's pixels.
    box : tuple of 4 floats
        First and last line, first and last position on the line [samples]; to tell cells found twice.
    area_px : int
        Pixels of the cell.
    """

    row: dict[str, Any]
    patch: np.ndarray
    mask: np.ndarray
    box: tuple[float, float, float, float]
    area_px: int


@dataclass(frozen=True)
class Images:
    """Transmission images of some events and the cells in them, in flat arrays that the next ones overwrite.

    place : ndarray of shape (N, 3), int64
        Of each image: where its pixels begin, rows, columns.
    transmission, known, labels : ndarray of shape (pixels,), float32, bool and int32
        Transmission, whether it is known, and to which of the image's cells each pixel belongs (from 1 on).
    cells : ndarray of shape (M, 2), int64
        Image and label of each cell.
    extents : ndarray of shape (M, 5), int64
        Of each cell: first and last row, first and last column, pixels.
    """

    place: np.ndarray
    transmission: np.ndarray
    known: np.ndarray
    labels: np.ndarray
    cells: np.ndarray
    extents: np.ndarray


@dataclass(frozen=True)
class Measured:
    """Cells in columns, in order of their events.

    columns : dict of str to ndarray of shape (M,), int64 or float64
        Columns of the table.
    boxes : ndarray of shape (M, 4), float64
        First and last line, first and last position on the line [samples]; to tell cells found twice.
    pictures : list
        What ``picture`` made of the images, in order; see :func:`measure_events`.
    new : ndarray of shape (M,), bool
        False for a cell that another event led to as well.
    """

    columns: dict[str, np.ndarray]
    boxes: np.ndarray
    pictures: list
    new: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)


def measure_events(
    setup: Setup,
    grid: Grid,
    lines: Lines,
    events: Events,
    picture: Callable[[Images], Any],
    *,
    sample_shift: int = 0,
) -> Measured:
    """Image, segment and measure events.

    Parameters
    ----------
    setup, grid
        The empty line, the geometry and the settings; how the images are laid.
    lines : Lines
        At least those within :func:`margin_lines` of the events, as far as they exist.
    events : Events
    picture : callable
        Called with the images of some events after the other, for what is to be kept of them.
    sample_shift : int, optional
        What turns the digitiser's indices into the table's numbers of samples.
    """
    pixel_um = setup.pixel_um(grid)
    windows, seen, pictures = _windows(setup, grid, lines, events), [], []
    kernel_lines, steps = lines.for_kernels, _seed_steps(grid, events, windows)
    for part in _parts(windows):
        images, saturated = _images(setup, grid, kernel_lines, events.some(part), windows.some(part), steps[part])
        values = measure_images(
            images.place, images.cells, images.extents, images.labels, images.transmission, images.known,
            pixel_um=pixel_um,
        )  # fmt: skip
        seen.append((images.cells[:, 0] + part.start, images.extents, values, saturated))
        pictures.append(picture(images))
    of, extents, values, saturated = (np.concatenate(arrays) for arrays in zip(*seen, strict=True))
    features = dict(zip(feature_columns(calibrated=pixel_um is not None), values.T, strict=True))
    columns, boxes = _rows(setup, grid, lines, events, windows, of, extents, features, saturated, sample_shift)
    return Measured(columns, boxes, pictures, ~mark_repeated(boxes, _SAME_CELL_SHARE))


def _parts(windows: Windows) -> Iterator[slice]:
    """Windows that follow each other, of which the images have not too many pixels together."""
    begin, ends = windows.place[:, 0], windows.place[:, 0] + windows.place[:, 1] * windows.place[:, 2]
    first = 0
    while first < ends.size:
        stop = max(int(np.searchsorted(ends, begin[first] + _PIXELS_AT_ONCE, side="right")), first + 1)
        yield slice(first, stop)
        first = stop


def cells_of_event(setup: Setup, grid: Grid, lines: Lines, event: Event, *, sample_shift: int = 0) -> list[Cell]:
    """:func:`measure_events` of a single event: its cells, none where nothing is left on closer sight."""
    return cells_of(measure_events(setup, grid, lines, Events.of(event), patches_of, sample_shift=sample_shift))


def cells_of(measured: Measured) -> list[Cell]:
    """Cells one by one, of events pictured by :func:`patches_of`."""
    patches = [patch for some in measured.pictures for patch in some]
    columns = {name: values.tolist() for name, values in measured.columns.items()}
    return [
        Cell(
            {name: values[i] for name, values in columns.items()}, patch, mask, tuple(measured.boxes[i].tolist()), area
        )
        for i, (patch, mask, area) in enumerate(patches)
        if measured.new[i]
    ]


def patches_of(images: Images) -> list[tuple[np.ndarray, np.ndarray, int]]:
    """Transmission around each cell, its mask there, and its pixels: copies."""
    patches, room = [], PATCH_ROOM_PX
    for (image, label), (top, bottom, left, right, area) in zip(
        images.cells.tolist(), images.extents.tolist(), strict=True
    ):
        first, rows, across = images.place[image].tolist()
        around = slice(max(0, top - room), bottom + 1 + room), slice(max(0, left - room), right + 1 + room)
        flat = slice(first, first + rows * across)
        patch = images.transmission[flat].reshape(rows, across)[around].copy()
        patches.append((patch, images.labels[flat].reshape(rows, across)[around] == label, area))
    return patches


def _margins(grid: Grid, event_lines: np.ndarray) -> np.ndarray:
    """Lines around events: room for the outline, and for the segmentation to see the empty channel around it."""
    return np.maximum(max(2 * ROW_LINES, int(4 * grid.sigma_lines)), event_lines // 6)


def margin_lines(setup: Setup, grid: Grid, longest_event_lines: int = 0) -> int:
    """Lines on either side of an event of up to so many lines that its image is made of."""
    return int(_margins(grid, np.array(longest_event_lines))) + reach_lines(setup.method, grid)


def window_lines(setup: Setup, grid: Grid, event: Event) -> tuple[int, int]:
    """First line and last + 1 of those that an event's image is made of."""
    beyond = margin_lines(setup, grid, event.line_last - event.line_first + 1)
    return event.line_first - beyond, event.line_last + beyond + 1


def image_of(
    setup: Setup,
    grid: Grid,
    lines: Lines,
    rows: tuple[float, float],
    tau: tuple[float, float],
    skipped_rows: int = 0,
) -> TransmissionImage:
    """Transmission image of a window of lines and positions [samples], by the method of the settings.

    Its first ``skipped_rows`` rows of pixels are left out.
    """
    reach = reach_lines(setup.method, grid)
    top = rows[0] + skipped_rows * grid.lines_per_row
    used = lines.part(int(np.floor(top)) - reach, int(np.ceil(rows[1])) + reach + 1)
    empty = setup.empty_line
    samples, origin, starts = used.for_kernels
    known = samples, origin, starts, used.first_line, empty.background, empty.tables, grid
    if setup.method == "gridding":  # the same bytes, however an image is cut
        return reconstruct(*known, rows=rows, tau=tau, skipped_rows=skipped_rows)
    return setup.reconstruct(*known, rows=(top, rows[1]), tau=tau)


def image_and_mask(setup: Setup, grid: Grid, lines: Lines, event: Event) -> tuple[np.ndarray, np.ndarray]:
    """Which pixels of an event's image belong to its cells, and which are known; bool (rows, columns)."""
    one = Events.of(event)
    windows = _windows(setup, grid, lines, one)
    images, _ = _images(setup, grid, lines.for_kernels, one, windows, _seed_steps(grid, one, windows))
    shape = tuple(images.place[0, 1:])
    return images.labels.reshape(shape) > 0, images.known.reshape(shape).copy()


def _windows(setup: Setup, grid: Grid, lines: Lines, events: Events) -> Windows:
    """What is imaged of each event."""
    margin = _margins(grid, events.line_last - events.line_first + 1)
    rows = np.stack(
        [
            np.maximum(lines.first_line, events.line_first - margin),
            np.minimum(lines.stop_line - 1, events.line_last + margin),
        ],
        axis=1,
    ).astype(float)
    width = events.tau_last_samples - events.tau_first_samples
    beside = np.maximum(2.0 * events.columns_samples, width / 6)
    lit = setup.empty_line.background.lit_samples
    tau = np.stack(
        [np.maximum(0.0, events.tau_first_samples - beside), np.minimum(lit, events.tau_last_samples + beside)], axis=1
    )
    reach = reach_lines(setup.method, grid)
    used = np.stack(
        [np.maximum(rows[:, 0] - reach, lines.first_line), np.minimum(rows[:, 1] + reach + 1, lines.stop_line)], axis=1
    )
    return Windows.of(grid, rows, tau, used.astype(np.int64), lines.first_line)


def _seed_steps(grid: Grid, events: Events, windows: Windows) -> np.ndarray:
    """Where pixels lie in the bins of events, see ``_crop_kernels.draw_seeds``; float64 (N, 4)."""
    steps = np.empty((len(events), 4))
    steps[:, 0] = (windows.rows[:, 0] - events.line_first) / ROW_LINES
    steps[:, 1] = grid.lines_per_row / ROW_LINES
    steps[:, 2] = (windows.tau[:, 0] - events.tau_first_samples) / events.columns_samples
    steps[:, 3] = 1 / (grid.columns_per_sample * events.columns_samples)
    return steps


def _images(
    setup: Setup,
    grid: Grid,
    lines: tuple[np.ndarray, int, np.ndarray],
    events: Events,
    windows: Windows,
    steps: np.ndarray,
) -> tuple[Images, np.ndarray]:
    """Images of events with the cells in them, and the samples on a rail in each."""
    empty, settings = setup.empty_line, setup.settings.cells
    transmission, std, known, seeds, labels = _room(windows.pixels)
    known_lines = *lines, empty.background, empty.tables, windows
    if setup.method == "gridding":
        saturated = reconstruct_windows(*known_lines, transmission, std, known)
    else:
        saturated = reconstruct_one_by_one(setup.reconstruct, grid, *known_lines, transmission, std, known)
    draw_seeds(events.labels, events.boxes, events.groups, steps, windows.place, seeds)
    cells, extents = segment_images(
        windows.place, transmission, known, std, seeds, labels, floor=settings.min_deviation,
        min_area_px=settings.min_area_px,
    )  # fmt: skip
    return Images(windows.place, transmission, known, labels, cells, extents), saturated


def _room(pixels: int) -> tuple[np.ndarray, ...]:
    """The thread's flat arrays: transmission, std, known, seeds, labels."""
    types = (np.float32, np.float32, np.bool_, np.bool_, np.int32)
    if pixels > 2 * _PIXELS_AT_ONCE:  # an event without end: not to be kept
        return tuple(np.empty(pixels, dtype) for dtype in types)
    if not hasattr(_own, "room"):
        _own.room = tuple(np.empty(2 * _PIXELS_AT_ONCE, dtype) for dtype in types)
    return tuple(array[:pixels] for array in _own.room)


def _rows(
    setup: Setup,
    grid: Grid,
    lines: Lines,
    events: Events,
    windows: Windows,
    of: np.ndarray,
    extents: np.ndarray,
    features: dict[str, np.ndarray],
    saturated: np.ndarray,
    sample_shift: int,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Columns of the table and boxes of cells; ``of`` says which event each belongs to."""
    top, bottom, first_column, last_column, _ = extents.T
    image_line, image_tau = windows.rows[of, 0], windows.tau[of, 0]
    # the outline lies half-way up an edge, whose foot reaches about a pixel further
    line_top = image_line + (top - 1.5) * grid.lines_per_row
    line_bottom = image_line + (bottom + 1.5) * grid.lines_per_row
    last_line = lines.stop_line - 1
    line_first = np.clip(np.ceil(line_top).astype(np.int64), lines.first_line, last_line)
    line_last = np.minimum(np.maximum(np.floor(line_bottom).astype(np.int64), line_first), last_line)
    along = image_tau + features["centroid_y_px"] / grid.columns_per_sample
    line = image_line + features["centroid_x_px"] * grid.lines_per_row
    whole = np.clip(line.astype(np.int64), lines.first_line, last_line)
    starts = lines.starts
    start, stop, centre, after = (
        starts[number - lines.first_line] for number in (line_first, line_last + 1, whole, whole + 1)
    )
    first_sample = lines.index + sample_shift
    columns: dict[str, np.ndarray] = {
        "line_first": line_first,
        "line_last": line_last,
        "sample_first": first_sample + np.ceil(start).astype(np.int64),
        "sample_last": first_sample + np.minimum(np.ceil(stop).astype(np.int64), lines.samples.size) - 1,
        "time_s": (lines.index + (centre + (line - whole) * (after - centre))) / setup.sample_rate_hz,
        "line_centre": line,
        "position_samples": along,
        "significance": events.significance[of],
    }
    if setup.geometry.um_per_sample is not None:
        columns["position_um"] = along * setup.geometry.um_per_sample
    columns |= features | {"saturated_samples": saturated[of]}
    left = image_tau + (first_column - 0.5) / grid.columns_per_sample
    right = image_tau + (last_column + 0.5) / grid.columns_per_sample
    return columns, np.stack([line_top, line_bottom, left, right], axis=1)


Box = tuple[float, float, float, float]


def overlap(a: Box, b: Box) -> float:
    """Area that two boxes (line first, last, position first, last) share [lines · samples]."""
    lines, width = min(a[1], b[1]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[2], b[2])
    return max(lines, 0.0) * max(width, 0.0)


def same_cell(a: Box, b: Box) -> bool:
    """Whether two boxes are mostly one."""
    smaller = min((a[1] - a[0]) * (a[3] - a[2]), (b[1] - b[0]) * (b[3] - b[2]))
    return overlap(a, b) > _SAME_CELL_SHARE * smaller > 0
