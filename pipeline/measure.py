"""Measure the cells of one event, from lines in memory to rows of the table.

The same for a capture's events and for those of a live stream: nothing here knows where the samples came from.
"""

import math
from dataclasses import dataclass

import numpy as np

from ..classify import measure_sound, segment_sound, separate_parts
from ..sr._kernels import CONVERTERS
from ..sr.detect import ROW_LINES, Event
from ..sr.empty_line import EmptyLine
from ..sr.reconstruct import Grid, TransmissionImage, reconstruct
from ._crop_kernels import draw_bins, extent
from .settings import Settings
from .survey import Geometry

# Pixels kept around a cell, for its crop.
_PATCH_ROOM_PX = 16


@dataclass(frozen=True)
class Setup:
    """What it takes to make sense of samples."""

    empty_line: EmptyLine
    geometry: Geometry
    sample_rate_hz: float
    settings: Settings

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

    def line_start(self, line: float) -> float:
        """Start of a line [samples after samples[0]], fractions allowed, lines beyond the ends not."""
        n, last = line - self.first_line, self.starts.size - 1
        i = min(max(int(n), 0), last - 1)
        return float(self.starts[i] + (n - i) * (self.starts[i + 1] - self.starts[i]))

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

    row: dict[str, int | float]
    patch: np.ndarray
    mask: np.ndarray
    box: tuple[float, float, float, float]
    area_px: int


def measure_event(setup: Setup, grid: Grid, lines: Lines, event: Event, *, sample_shift: int = 0) -> list[Cell]:
    """Image, segment and measure an event: its cells, none where nothing is left on closer sight.

    Parameters
    ----------
    setup, grid
        The empty line, the geometry and the settings; how the image is laid.
    lines : Lines
        At least the lines of :func:`window_lines`, as far as they exist.
    event : Event
    sample_shift : int, optional
        What turns the digitiser's indices into the table's numbers of samples.
    """
    image, mask = image_and_mask(setup, grid, lines, event)
    cells = []
    for part in separate_parts(mask, setup.settings.cells.min_area_px):
        features = measure_sound(part, image.transmission, image.known, pixel_um=setup.pixel_um(grid))
        cells.append(_cell(setup, lines, event, image, part, features, sample_shift))
    return cells


def _margin(grid: Grid, event_lines: int) -> int:
    """Lines around an event: room for the outline, and for the segmentation to see the empty channel around it."""
    return max(2 * ROW_LINES, int(4 * grid.sigma_lines), event_lines // 6)


def _reach(grid: Grid) -> int:
    """Lines beyond an image's rows that its kernel reaches."""
    return int(np.ceil(3 * grid.sigma_lines)) + 1


def margin_lines(grid: Grid, longest_event_lines: int = 0) -> int:
    """Lines on either side of an event of up to so many lines that its image is made of."""
    return _margin(grid, longest_event_lines) + _reach(grid)


def window_lines(grid: Grid, event: Event) -> tuple[int, int]:
    """First line and last + 1 of those that an event's image is made of."""
    beyond = margin_lines(grid, event.line_last - event.line_first + 1)
    return event.line_first - beyond, event.line_last + beyond + 1


def image_of(
    setup: Setup,
    grid: Grid,
    lines: Lines,
    rows: tuple[float, float],
    tau: tuple[float, float],
    *,
    beside_window: bool = False,
) -> TransmissionImage:
    """Transmission image of a window of lines and positions [samples]; see ``sr.reconstruct.reconstruct``."""
    reach = _reach(grid)
    used = lines.part(int(np.floor(rows[0])) - reach, int(np.ceil(rows[1])) + reach + 1)
    empty = setup.empty_line
    samples, origin, starts = used.for_kernels()
    return reconstruct(
        samples, origin, starts, used.first_line, empty.background, empty.tables, grid, rows=rows, tau=tau,
        beside_window=beside_window,
    )  # fmt: skip


def image_and_mask(setup: Setup, grid: Grid, lines: Lines, event: Event) -> tuple[TransmissionImage, np.ndarray]:
    """Image of an event's surroundings, and which of its pixels belong to its cells."""
    settings = setup.settings.cells
    margin = _margin(grid, event.line_last - event.line_first + 1)
    rows = (
        float(max(lines.first_line, event.line_first - margin)),
        float(min(lines.stop_line - 1, event.line_last + margin)),
    )
    width = event.tau_last_samples - event.tau_first_samples
    beside = max(2.0 * event.columns_samples, width / 6)
    tau = (
        max(0.0, event.tau_first_samples - beside),
        min(setup.empty_line.background.lit_samples, event.tau_last_samples + beside),
    )
    image = image_of(setup, grid, lines, rows, tau, beside_window=True)
    mask = segment_sound(
        image.transmission,
        image.known,
        image.std,
        _seed(event, image),
        floor=settings.min_deviation,
        min_area_px=settings.min_area_px,
    )
    return image, mask


def _seed(event: Event, image: TransmissionImage) -> np.ndarray:
    """Pixels of the image under the event's bins; bool, the image's shape."""
    mask = np.empty(image.transmission.shape, dtype=np.bool_)
    draw_bins(
        event.bins,
        (image.first_line - event.line_first) / ROW_LINES,
        image.lines_per_row / ROW_LINES,
        (image.tau_first_samples - event.tau_first_samples) / event.columns_samples,
        1 / (image.columns_per_sample * event.columns_samples),
        mask,
    )
    return mask


def _cell(
    setup: Setup,
    lines: Lines,
    event: Event,
    image: TransmissionImage,
    mask: np.ndarray,
    features: dict[str, float],
    sample_shift: int,
) -> Cell:
    top, bottom, first_column, last_column, area_px = extent(mask)
    # the outline lies half-way up an edge, whose foot reaches about a pixel further
    line_top = image.first_line + (top - 1.5) * image.lines_per_row
    line_bottom = image.first_line + (bottom + 1.5) * image.lines_per_row
    line_first = min(max(math.ceil(line_top), lines.first_line), lines.stop_line - 1)
    line_last = min(max(math.floor(line_bottom), line_first), lines.stop_line - 1)
    left = image.tau_first_samples + (first_column - 0.5) / image.columns_per_sample
    right = image.tau_first_samples + (last_column + 0.5) / image.columns_per_sample
    start, stop = lines.line_start(line_first), lines.line_start(line_last + 1)
    first_sample = lines.index + sample_shift
    along = image.tau_first_samples + features["centroid_y_px"] / image.columns_per_sample
    line = image.first_line + features["centroid_x_px"] * image.lines_per_row
    row: dict[str, int | float] = {
        "line_first": line_first,
        "line_last": line_last,
        "sample_first": first_sample + math.ceil(start),
        "sample_last": first_sample + min(math.ceil(stop), lines.samples.size) - 1,
        "time_s": (lines.index + lines.line_start(line)) / setup.sample_rate_hz,
        "line_centre": line,
        "position_samples": along,
        "significance": event.significance,
    }
    if setup.geometry.um_per_sample is not None:
        row["position_um"] = along * setup.geometry.um_per_sample
    row |= features | {"saturated_samples": image.saturated}
    around = (
        slice(max(0, top - _PATCH_ROOM_PX), bottom + 1 + _PATCH_ROOM_PX),
        slice(max(0, first_column - _PATCH_ROOM_PX), last_column + 1 + _PATCH_ROOM_PX),
    )
    box = (line_top, line_bottom, left, right)
    return Cell(row, image.transmission[around], mask[around], box, area_px)


Box = tuple[float, float, float, float]


def overlap(a: Box, b: Box) -> float:
    """Area that two boxes (line first, last, position first, last) share [lines · samples]."""
    lines, width = min(a[1], b[1]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[2], b[2])
    return max(lines, 0.0) * max(width, 0.0)


def same_cell(a: Box, b: Box) -> bool:
    """Whether two boxes are mostly one."""
    smaller = min((a[1] - a[0]) * (a[3] - a[2]), (b[1] - b[0]) * (b[3] - b[2]))
    return overlap(a, b) > 0.7 * smaller > 0
