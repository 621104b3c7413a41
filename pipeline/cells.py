"""Second pass, one piece at a time: the map of a stretch of lines, and the cells in a batch of events.

The functions here are the tasks that Dask runs: they take plain values, open the capture themselves and depend on
nothing but their arguments, so that any scheduler may run them anywhere and the result stays the same.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from ..acquisition import Capture, Segment, open_capture
from ..classify import measure_cell, segment_cell
from ..sr import _kernels
from ..sr.detect import BESIDE_FLAGGED_ROWS, ROW_LINES, Event, rows_to_look_at, significance_map
from ..sr.line_clock import SegmentClock
from ..sr.reconstruct import Grid, TransmissionImage, kernel_scores, reconstruct
from .settings import Settings
from .survey import Survey

# Longer events are cut into pieces of this many lines: something lies in the channel, or flows without end.
MOST_EVENT_LINES = 1 << 14
# Pixels kept around a cell, for its crop.
_PATCH_ROOM_PX = 16


@dataclass(frozen=True)
class Job:
    """What every task of a capture needs."""

    path: Path
    survey: Survey
    settings: Settings

    @property
    def pixel_um(self) -> float | None:
        geometry = self.survey.geometry
        return geometry.um_per_sample if geometry.um_per_sample and geometry.um_per_line else None


@dataclass(frozen=True)
class Cell:
    """One measured cell: its row of the table, and its crop.

    row : dict
        Column name to value.
    patch, mask : ndarray of shape (rows, columns)
        Transmission around the cell (NaN unknown), and the cell's pixels.
    box : tuple of 4 floats
        First and last line, first and last position on the line [samples]; to tell cells found twice.
    """

    row: dict[str, int | float]
    patch: np.ndarray
    mask: np.ndarray
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class LineMap:
    """Map of some lines, and its accounting: maps that tile a segment's lines count each of its samples once.

    significance : ndarray of shape (rows, columns), float32
    lines : int
        Lines that lay wholly in the samples, and were looked at.
    dark_lines : int
        Lines in rows without light, in which nothing could be found.
    samples, saturated : int
        Samples, and those of them on a rail.
    """

    significance: np.ndarray
    lines: int
    dark_lines: int
    samples: int
    saturated: int


def map_lines(job: Job, segment: Segment, clock: SegmentClock, first_line: int, stop_line: int) -> LineMap:
    """Significance map of lines ``first_line`` … ``stop_line`` - 1 of a segment (numbered in the capture)."""
    beside = BESIDE_FLAGGED_ROWS * ROW_LINES
    lead = min(beside, first_line - clock.first_line)
    seen_stop = min(stop_line + beside, clock.first_line + clock.lines)
    starts = clock.line_start(np.arange(first_line - lead, seen_stop + 1))
    own = slice(lead, lead + stop_line - first_line)
    end = segment.device_index + segment.samples
    own_first = segment.device_index if first_line == clock.first_line else int(np.ceil(starts[own.start]))
    own_stop = end if stop_line == clock.first_line + clock.lines else int(np.ceil(starts[own.stop]))
    first = max(segment.device_index, min(own_first, int(starts[0])) - 4)
    reach = job.survey.screen.reach
    with _open(job) as capture:
        samples = _read(capture, segment, first, min(end, int(np.ceil(starts[-1])) + reach))
    background, tables = job.survey.background, job.survey.tables
    rows = slice(lead // ROW_LINES, -(-own.stop // ROW_LINES))
    wanted = rows_to_look_at(samples, first, starts[:-1], job.survey.screen)[rows]
    significance = significance_map(samples, first, starts[own], background, tables, wanted)
    low, high = background.code_limits
    saturated = _kernels.count_on_rail(samples[own_first - first : own_stop - first], low, high)
    lines = int(np.count_nonzero(np.ceil(starts[own]) + tables.width <= first + samples.size))
    dark_lines = ROW_LINES * int(np.count_nonzero((significance < 0).any(axis=1)))
    return LineMap(significance, lines, min(lines, dark_lines), own_stop - own_first, int(saturated))


def score_kernels(job: Job, segment: Segment, clock: SegmentClock, event: Event) -> np.ndarray:
    """How well each kernel size predicts the samples of an event; see ``sr.reconstruct.kernel_scores``."""
    first, stop = max(clock.first_line, event.line_first - 8), min(event.line_last + 9, clock.first_line + clock.lines)
    with _open(job) as capture:
        starts, samples, origin = _window(capture, segment, clock, first, stop)
    tau = (event.tau_first_samples, event.tau_last_samples)
    return kernel_scores(samples, origin, starts, job.survey.background, job.survey.tables, tau)


def measure_events(
    job: Job, grid: Grid, segment: Segment, clock: SegmentClock, events: list[Event]
) -> list[list[Cell]]:
    """Image, segment and measure events: the cells of each, none where nothing is left on closer sight."""
    with _open(job) as capture:
        return [_measure_event(job, capture, grid, segment, clock, event) for event in events]


def widths_at_half_level(
    job: Job, grid: Grid, segment: Segment, clock: SegmentClock, events: list[Event]
) -> list[tuple[float, float] | None]:
    """Width [samples] and length [lines] of the objects in events; None where an object is cut or partly unknown."""
    with _open(job) as capture:
        seen = [_image_and_mask(job, capture, grid, segment, clock, event) for event in events]
    sizes: list[tuple[float, float] | None] = []
    for image, mask in seen:
        cut = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
        if cut or not mask.any() or not image.known[mask].all():
            sizes.append(None)
            continue
        # the outline is as wide and as long as a filled ellipse of the same area and second moments
        rows, columns = np.nonzero(mask)
        sizes.append(
            (
                4 * float(np.sqrt(columns.var() + 1 / 12)) / image.columns_per_sample,
                4 * float(np.sqrt(rows.var() + 1 / 12)) * image.lines_per_row,
            )
        )
    return sizes


def image_lines(
    job: Job, grid: Grid, segment: Segment, clock: SegmentClock, rows: tuple[float, float], tau: tuple[float, float]
) -> TransmissionImage:
    """Transmission image of a window of lines and positions."""
    with _open(job) as capture:
        return _image(job, capture, grid, segment, clock, rows, tau)


def _image(
    job: Job,
    capture: Capture,
    grid: Grid,
    segment: Segment,
    clock: SegmentClock,
    rows: tuple[float, float],
    tau: tuple[float, float],
) -> TransmissionImage:
    reach = int(np.ceil(3 * grid.sigma_lines)) + 1
    first = max(clock.first_line, int(np.floor(rows[0])) - reach)
    stop = min(clock.first_line + clock.lines, int(np.ceil(rows[1])) + reach + 1)
    starts, samples, origin = _window(capture, segment, clock, first, stop)
    return reconstruct(
        samples, origin, starts, first, job.survey.background, job.survey.tables, grid, rows=rows, tau=tau
    )


def _open(job: Job) -> Capture:
    return open_capture(job.path, sample_rate_hz=job.survey.sample_rate_hz)


def _read(capture: Capture, segment: Segment, first: int, stop: int) -> np.ndarray:
    """Samples of digitiser indices first … stop - 1 of a segment."""
    shift = segment.first_sample - segment.device_index
    return capture.read(first + shift, stop + shift)


def _window(
    capture: Capture, segment: Segment, clock: SegmentClock, first_line: int, stop_line: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Starts of lines, and the samples that hold them with the index of the first one."""
    starts = clock.line_start(np.arange(first_line, stop_line + 1))
    first = max(segment.device_index, int(np.floor(starts[0])) - 4)
    stop = min(segment.device_index + segment.samples, int(np.ceil(starts[-1])) + 4)
    return starts[:-1], _read(capture, segment, first, stop), first


def _measure_event(
    job: Job, capture: Capture, grid: Grid, segment: Segment, clock: SegmentClock, event: Event
) -> list[Cell]:
    image, mask = _image_and_mask(job, capture, grid, segment, clock, event)
    cells = []
    for part in separate_parts(mask, job.settings.cells.min_area_px):
        features = measure_cell(part, image.transmission, image.known, pixel_um=_pixel_um(job, grid))
        cells.append(_cell(job, segment, clock, event, image, part, features))
    return cells


def separate_parts(mask: np.ndarray, min_area_px: int) -> list[np.ndarray]:
    """Masks of the cells in a mask: its connected parts, those that lie mostly within each other's boxes kept as one.

    Neighbours whose blurred feet touch make one event, yet their outlines stand apart.
    """
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    parts: list[np.ndarray] = []
    for number in sorted(range(1, count + 1), key=lambda n: -int((labels == n).sum())):
        part = labels == number
        host = next((i for i, other in enumerate(parts) if _mostly_within(part, other)), None)
        if host is not None:
            parts[host] = parts[host] | part
        elif part.sum() >= min_area_px:
            parts.append(part)
    return parts


def _mostly_within(part: np.ndarray, other: np.ndarray) -> bool:
    rows, columns = (np.flatnonzero(other.any(axis=axis)) for axis in (1, 0))
    box = part[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return bool(box.sum() > 0.5 * part.sum())


def _image_and_mask(
    job: Job, capture: Capture, grid: Grid, segment: Segment, clock: SegmentClock, event: Event
) -> tuple[TransmissionImage, np.ndarray]:
    settings = job.settings.cells
    # room for the outline, and for the segmentation to see the empty channel around it
    lines = event.line_last - event.line_first + 1
    margin = max(2 * ROW_LINES, int(4 * grid.sigma_lines), lines // 6)
    rows = (
        float(max(clock.first_line, event.line_first - margin)),
        float(min(clock.first_line + clock.lines - 1, event.line_last + margin)),
    )
    width = event.tau_last_samples - event.tau_first_samples
    beside = max(2.0 * event.columns_samples, width / 6)
    tau = (
        max(0.0, event.tau_first_samples - beside),
        min(job.survey.background.lit_samples, event.tau_last_samples + beside),
    )
    image = _image(job, capture, grid, segment, clock, rows, tau)
    mask = segment_cell(
        image.transmission,
        image.known,
        np.where(image.known, image.std, 1.0),
        seed_mask=_seed(event, image),
        floor=settings.min_deviation,
        min_area_px=settings.min_area_px,
    )
    return image, mask


def _pixel_um(job: Job, grid: Grid) -> float | None:
    return job.pixel_um / grid.columns_per_sample if job.pixel_um else None


def _seed(event: Event, image: TransmissionImage) -> np.ndarray:
    """Pixels of the image under the event's bins; bool, the image's shape."""
    shape = image.transmission.shape
    line = image.first_line + np.arange(shape[0]) * image.lines_per_row
    tau = image.tau_first_samples + np.arange(shape[1]) / image.columns_per_sample
    row = np.floor((line - event.line_first) / ROW_LINES).astype(int)
    column = np.floor((tau - event.tau_first_samples) / event.columns_samples).astype(int)
    inside = ((row >= 0) & (row < event.bins.shape[0]))[:, None] & ((column >= 0) & (column < event.bins.shape[1]))[
        None, :
    ]
    return inside & event.bins[np.clip(row, 0, event.bins.shape[0] - 1)][:, np.clip(column, 0, event.bins.shape[1] - 1)]


def _cell(
    job: Job,
    segment: Segment,
    clock: SegmentClock,
    event: Event,
    image: TransmissionImage,
    mask: np.ndarray,
    features: dict[str, float],
) -> Cell:
    survey = job.survey
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    # the outline lies half-way up an edge, whose foot reaches about a pixel further
    line_top = image.first_line + (rows[0] - 1.5) * image.lines_per_row
    line_bottom = image.first_line + (rows[-1] + 1.5) * image.lines_per_row
    last = clock.first_line + clock.lines - 1
    line_first = int(np.clip(np.ceil(line_top), clock.first_line, last))
    line_last = int(np.clip(np.floor(line_bottom), line_first, last))
    left = image.tau_first_samples + (columns[0] - 0.5) / image.columns_per_sample
    right = image.tau_first_samples + (columns[-1] + 0.5) / image.columns_per_sample
    start, stop = clock.line_start(np.array([line_first, line_last + 1]))
    shift = segment.first_sample - segment.device_index
    end = segment.first_sample + segment.samples
    centre_row, centre_column = (float(np.average(np.arange(n), weights=mask.sum(axis=a))) for n, a in
                                 ((mask.shape[0], 1), (mask.shape[1], 0)))  # fmt: skip
    along = image.tau_first_samples + centre_column / image.columns_per_sample
    line = image.first_line + centre_row * image.lines_per_row
    geometry = survey.geometry
    row: dict[str, int | float] = {
        "line_first": line_first,
        "line_last": line_last,
        "sample_first": int(np.ceil(start)) + shift,
        "sample_last": min(int(np.ceil(stop)) - 1 + shift, end - 1),
        "time_s": float(clock.line_start(np.array(line))) / survey.sample_rate_hz,
        "line_centre": line,
        "position_samples": along,
        "significance": event.significance,
    }
    if geometry.um_per_sample is not None:
        row["position_um"] = along * geometry.um_per_sample
    row |= features | {"saturated_samples": image.saturated}
    around = tuple(
        slice(max(0, index[0] - _PATCH_ROOM_PX), index[-1] + 1 + _PATCH_ROOM_PX) for index in (rows, columns)
    )
    return Cell(row, image.transmission[around].copy(), mask[around].copy(), (line_top, line_bottom, left, right))


def raw_lines(
    job: Job, segment: Segment, clock: SegmentClock, rows: tuple[float, float], tau: tuple[float, float]
) -> np.ndarray:
    """The same window without super-resolution: each line's own samples over the empty line, one pixel a sample.

    Returns
    -------
    transmission : ndarray of shape (lines, samples), float64
        NaN where the empty line is too dark to divide by. Lines are placed to the nearest whole sample.
    """
    with _open(job) as capture:
        starts, samples, origin = _window(capture, segment, clock, int(np.ceil(rows[0])), int(np.floor(rows[1])) + 1)
    background = job.survey.background
    offset = np.arange(int(np.floor(tau[0])), int(np.ceil(tau[1])) + 1)
    index = np.round(starts).astype(int)[:, None] + offset
    place = index - starts[:, None]
    converter = index % len(background.interleave_gain)
    codes = (
        samples[np.clip(index - origin, 0, samples.size - 1)] - np.array(background.interleave_offset_codes)[converter]
    )
    light = background.profile.light(place) * np.array(background.interleave_gain)[converter]
    return np.where(background.usable(place), codes / np.where(light == 0, 1, light), np.nan)
