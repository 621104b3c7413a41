"""Second pass, one piece at a time: the map of a stretch of lines, and the cells in a batch of events.

The functions here are the tasks that Dask runs: they take plain values, open the capture themselves and depend on
nothing but their arguments, so that any scheduler may run them anywhere and the result stays the same.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..acquisition import Capture, Segment, open_capture
from ..sr import _kernels
from ..sr.background import Background
from ..sr.detect import BESIDE_FLAGGED_ROWS, ROW_LINES, Event, rows_to_look_at, significance_map
from ..sr.line_clock import SegmentClock
from ..sr.methods import reach_lines
from ..sr.reconstruct import Grid, TransmissionImage, kernel_scores
from .measure import Cell, Lines, Setup, cells_of_event, image_and_mask, image_of, window_lines
from .settings import Settings
from .survey import Survey

# Longer events are cut into pieces of this many lines: something lies in the channel, or flows without end.
MOST_EVENT_LINES = 1 << 14


@dataclass(frozen=True)
class Job:
    """What every task of a capture needs."""

    path: Path
    survey: Survey
    settings: Settings

    @property
    def setup(self) -> Setup:
        survey = self.survey
        return Setup(survey.empty_line, survey.geometry, survey.sample_rate_hz, self.settings)


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
    empty = job.survey.empty_line
    with _open(job) as capture:
        samples = _read(capture, segment, first, min(end, int(np.ceil(starts[-1])) + empty.screen.reach))
    rows = slice(lead // ROW_LINES, -(-own.stop // ROW_LINES))
    wanted = rows_to_look_at(samples, first, starts[:-1], empty.screen)[rows]
    significance = significance_map(samples, first, starts[own], empty.tables, empty.detector, wanted)
    low, high = empty.background.code_limits
    saturated = _kernels.count_on_rail(samples[own_first - first : own_stop - first], low, high)
    lines = int(np.count_nonzero(np.ceil(starts[own]) + empty.tables.width <= first + samples.size))
    dark_lines = ROW_LINES * int(np.count_nonzero((significance < 0).any(axis=1)))
    return LineMap(significance, lines, min(lines, dark_lines), own_stop - own_first, int(saturated))


def score_kernels(job: Job, segment: Segment, clock: SegmentClock, event: Event) -> np.ndarray:
    """How well each kernel size predicts the samples of an event; see ``sr.reconstruct.kernel_scores``."""
    with _open(job) as capture:
        lines = _lines(capture, segment, clock, event.line_first - 8, event.line_last + 9)
    tau = (event.tau_first_samples, event.tau_last_samples)
    return kernel_scores(*lines.for_kernels, job.survey.background, job.survey.tables, tau)


def measure_events(
    job: Job, grid: Grid, segment: Segment, clock: SegmentClock, events: list[Event]
) -> list[list[Cell]]:
    """Image, segment and measure events: the cells of each, none where nothing is left on closer sight."""
    shift = segment.first_sample - segment.device_index
    with _open(job) as capture:
        return [
            cells_of_event(
                job.setup,
                grid,
                _lines(capture, segment, clock, *window_lines(job.setup, grid, event)),
                event,
                sample_shift=shift,
            )
            for event in events
        ]


def widths_at_half_level(
    job: Job, grid: Grid, segment: Segment, clock: SegmentClock, events: list[Event]
) -> list[tuple[float, float] | None]:
    """Width [samples] and length [lines] of the objects in events; None where an object is cut or partly unknown."""
    with _open(job) as capture:
        seen = [
            image_and_mask(
                job.setup, grid, _lines(capture, segment, clock, *window_lines(job.setup, grid, event)), event
            )
            for event in events
        ]
    sizes: list[tuple[float, float] | None] = []
    for mask, known in seen:
        cut = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
        if cut or not mask.any() or not known[mask].all():
            sizes.append(None)
            continue
        # the outline is as wide and as long as a filled ellipse of the same area and second moments
        rows, columns = np.nonzero(mask)
        sizes.append(
            (
                4 * float(np.sqrt(columns.var() + 1 / 12)) / grid.columns_per_sample,
                4 * float(np.sqrt(rows.var() + 1 / 12)) * grid.lines_per_row,
            )
        )
    return sizes


def image_lines(
    job: Job,
    grid: Grid,
    segment: Segment,
    clock: SegmentClock,
    rows: tuple[float, float],
    tau: tuple[float, float],
    skipped_rows: int = 0,
) -> TransmissionImage:
    """Transmission image of a window of lines and positions, without its first rows of pixels."""
    beyond = reach_lines(job.setup.method, grid) + 1
    first_line = int(rows[0] + skipped_rows * grid.lines_per_row)
    lines = read_lines(job, segment, clock, first_line - beyond, int(rows[1]) + beyond + 1)
    return image_of(job.setup, grid, lines, rows, tau, skipped_rows)


def read_lines(job: Job, segment: Segment, clock: SegmentClock, first_line: int, stop_line: int) -> Lines:
    """Lines of a clock with the samples that hold them, as far as they exist."""
    with _open(job) as capture:
        return _lines(capture, segment, clock, first_line, stop_line)


def _open(job: Job) -> Capture:
    return open_capture(job.path, sample_rate_hz=job.survey.sample_rate_hz)


def _read(capture: Capture, segment: Segment, first: int, stop: int) -> np.ndarray:
    """Samples of digitiser indices first … stop - 1 of a segment."""
    shift = segment.first_sample - segment.device_index
    return capture.read(first + shift, stop + shift)


def _lines(capture: Capture, segment: Segment, clock: SegmentClock, first_line: int, stop_line: int) -> Lines:
    """Lines of a clock with the samples that hold them, as far as they exist."""
    first_line, stop_line = max(first_line, clock.first_line), min(stop_line, clock.first_line + clock.lines)
    starts = clock.line_start(np.arange(first_line, stop_line + 1))
    first = max(segment.device_index, int(np.floor(starts[0])) - 4)
    stop = min(segment.device_index + segment.samples, int(np.ceil(starts[-1])) + 4)
    return Lines(_read(capture, segment, first, stop), first, first_line, starts - first)


def raw_lines(
    job: Job, segment: Segment, clock: SegmentClock, rows: tuple[float, float], tau: tuple[float, float]
) -> np.ndarray:
    """The same window without super-resolution; see :func:`raw_transmission`."""
    lines = read_lines(job, segment, clock, int(np.ceil(rows[0])), int(np.floor(rows[1])) + 1)
    return raw_transmission(lines, job.survey.background, tau)


def raw_transmission(lines: Lines, background: Background, tau: tuple[float, float]) -> np.ndarray:
    """Each line's own samples over the empty line, one pixel a sample: an image without super-resolution.

    Returns
    -------
    transmission : ndarray of shape (lines, samples), float64
        NaN where the empty line is too dark to divide by. Lines are placed to the nearest whole sample; columns are at
        floor(tau[0]) … ceil(tau[1]) samples.
    """
    samples, origin, starts = lines.for_kernels
    offset = np.arange(int(np.floor(tau[0])), int(np.ceil(tau[1])) + 1)
    index = np.round(starts).astype(int)[:, None] + offset
    place = index - starts[:, None]
    converter = index % len(background.interleave_gain)
    codes = (
        samples[np.clip(index - origin, 0, samples.size - 1)] - np.array(background.interleave_offset_codes)[converter]
    )
    light = background.profile.light(place) * np.array(background.interleave_gain)[converter]
    return np.where(background.usable(place), codes / np.where(light == 0, 1, light), np.nan)
