"""One stretch of lines after the other: map it, find its events, measure its cells.

A stretch has a fixed length. It is mapped in parallel tasks, its events are found in one go (what touches its end is
carried into the next one), and the events are measured in parallel batches. How a stretch is cut into tasks changes no
number: every line and every event is computed from its own lines alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from ..acquisition import Segment
from ..sr.detect import ROW_LINES, Event, bin_columns, find_events
from ..sr.line_clock import SegmentClock
from ..sr.reconstruct import Grid, best_kernel, choose_grid
from .cells import MOST_EVENT_LINES, Job, map_lines, measure_events, score_kernels
from .execution import Execution
from .measure import Cell, same_cell
from .quality import Candidate
from .survey import Survey

# Samples of a stretch: fixed, since it is where events are looked for and runs can be resumed.
STRETCH_SAMPLES = 1 << 26
# The kernel size is chosen on this many of the first events, the most significant ones of their stretch.
_KERNEL_EVENTS = 8
# Events of one measuring task.
_BATCH_EVENTS = 16
# Cells remembered to recognise one that two events led to.
_RECENT_CELLS = 64


@dataclass(frozen=True)
class Stretch:
    """Some whole rows of lines of one segment; ``last`` marks the segment's end."""

    segment: Segment
    clock: SegmentClock
    first_line: int
    stop_line: int
    last: bool


@dataclass
class State:
    """What goes from stretch to stretch."""

    kernel: tuple[float, float] | None = None
    crop_px: int = 0
    labels: dict[str, int] = field(default_factory=dict)
    carry: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    carry_line: int = 0
    recent: list[tuple[float, float, float, float]] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    counts: dict[str, int] = field(
        default_factory=lambda: {
            "samples_mapped": 0,
            "samples_saturated": 0,
            "lines_mapped": 0,
            "lines_without_light": 0,
            "events": 0,
            "events_without_cell": 0,
            "events_of_one_cell": 0,
            "cells": 0,
        }
    )


def stretches(survey: Survey) -> Iterator[Stretch]:
    """The stretches of a capture, in order."""
    step = max(1, int(STRETCH_SAMPLES / survey.background.period_samples / ROW_LINES)) * ROW_LINES
    for segment, clock in zip(survey.segments, survey.clock.segments, strict=True):
        end = clock.first_line + clock.lines
        for first in range(clock.first_line, end, step):
            stop = min(first + step, end)
            yield Stretch(segment, clock, first, stop, stop == end)


def process_stretch(job: Job, stretch: Stretch, state: State, execution: Execution) -> list[Cell]:
    """Cells of a stretch, in order of their first line; the state goes on to the next stretch."""
    significance = _map_stretch(job, stretch, state, execution)
    first_line = stretch.first_line
    if state.carry.size:
        significance = np.concatenate([state.carry, significance])
        first_line = state.carry_line
    events = find_events(
        significance,
        first_line,
        bin_columns(job.survey.background),
        min_significance=job.settings.cells.min_significance,
    )
    events = _settle(events, significance, first_line, stretch, state)
    state.counts["events"] += len(events)
    if events and state.kernel is None:
        strongest = sorted(events, key=lambda e: -e.significance)[:_KERNEL_EVENTS]
        windows = [(job, stretch.segment, stretch.clock, _middle(e)) for e in strongest]
        state.kernel = _kernel_of(job, execution.run(score_kernels, windows))
    grid = grid_of(job, state.kernel)
    batches = [events[i : i + _BATCH_EVENTS] for i in range(0, len(events), _BATCH_EVENTS)]
    calls = [(job, grid, stretch.segment, stretch.clock, batch) for batch in batches]
    measured = [cells for batch in execution.run(measure_events, calls) for cells in batch] if calls else []
    found = [cell for cells in measured for cell in cells]
    state.counts["events_without_cell"] += sum(not cells for cells in measured)
    found.sort(key=lambda cell: (cell.row["line_first"], cell.row["position_samples"]))
    cells = []
    for cell in found:
        if any(same_cell(cell.box, box) for box in state.recent):
            state.counts["events_of_one_cell"] += 1
            continue
        cells.append(cell)
        state.recent = [*state.recent, cell.box][-_RECENT_CELLS:]
    return cells


def _map_stretch(job: Job, stretch: Stretch, state: State, execution: Execution) -> np.ndarray:
    """Significance map of the stretch, made in parallel."""
    step = max(1, int(execution.chunk_samples / job.survey.background.period_samples / ROW_LINES)) * ROW_LINES
    calls = [
        (job, stretch.segment, stretch.clock, first, min(first + step, stretch.stop_line))
        for first in range(stretch.first_line, stretch.stop_line, step)
    ]
    maps = execution.run(map_lines, calls)
    for part in maps:
        state.counts["lines_mapped"] += part.lines
        state.counts["lines_without_light"] += part.dark_lines
        state.counts["samples_mapped"] += part.samples
        state.counts["samples_saturated"] += part.saturated
    return np.concatenate([part.significance for part in maps])


def _settle(
    events: list[Event], significance: np.ndarray, first_line: int, stretch: Stretch, state: State
) -> list[Event]:
    """Events that are complete; what may go on in the next stretch is carried over, with the map it lies in."""
    end_line = first_line + significance.shape[0] * ROW_LINES
    open_from = end_line if stretch.last else end_line - 4 * ROW_LINES
    # an event that touches the end waits, and with it the map from its beginning; one of excessive length is cut
    waiting = [e for e in events if e.line_last >= open_from and e.line_first > end_line - MOST_EVENT_LINES]
    carry_line = min([e.line_first - 4 * ROW_LINES for e in waiting], default=open_from)
    carry_line = max(first_line, min(carry_line, open_from))
    done = [e for e in events if e not in waiting and (e.line_first < carry_line or stretch.last)]
    if stretch.last:
        done, carry_line = events, end_line
    for event in done:  # what is done with must not be found again in the part that is carried over
        top = (event.line_first - first_line) // ROW_LINES
        left = int(event.tau_first_samples // event.columns_samples)
        box = significance[top : top + event.bins.shape[0], left : left + event.bins.shape[1]]
        box[event.bins] = 0.0
    state.carry = significance[(carry_line - first_line) // ROW_LINES :].copy()
    state.carry_line = carry_line
    return [part for event in done for part in _cut(event)]


def _cut(event: Event) -> list[Event]:
    """An event of excessive length in pieces; any other as it is."""
    step = MOST_EVENT_LINES // ROW_LINES
    if event.bins.shape[0] <= step:
        return [event]
    return [
        replace(
            event,
            line_first=event.line_first + top * ROW_LINES,
            line_last=min(event.line_last, event.line_first + (top + step) * ROW_LINES - 1),
            bins=event.bins[top : top + step],
        )
        for top in range(0, event.bins.shape[0], step)
    ]


def _middle(event: Event) -> Event:
    """At most 2048 lines from the middle of an event: enough to choose a kernel by."""
    rows = event.bins.shape[0]
    most = 2048 // ROW_LINES
    if rows <= most:
        return event
    top = (rows - most) // 2
    first = event.line_first + top * ROW_LINES
    return replace(event, line_first=first, line_last=first + most * ROW_LINES - 1, bins=event.bins[top : top + most])


def _kernel_of(job: Job, scores: list[np.ndarray]) -> tuple[float, float]:
    averages = job.setup.method != "regularised"
    return best_kernel(scores, job.survey.clock.period_samples, averages=averages)


def grid_of(job: Job, kernel: tuple[float, float] | None) -> Grid:
    """Grid for a kernel; for the default one where no event has chosen any."""
    ratio = job.survey.geometry.lines_per_sample
    return choose_grid(kernel or _kernel_of(job, []), ratio, oversampling=job.settings.image.oversampling)
