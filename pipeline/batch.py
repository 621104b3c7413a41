"""Process whole captures: survey, map, cells, files. Dask runs the tasks, on threads or on any scheduler.

The capture is gone through in stretches of fixed length. Each stretch is mapped in parallel tasks, its events are
found in one go (what touches the end is carried into the next stretch), and the events are measured in parallel
batches. How a stretch is cut into tasks changes no number: every line and every event is computed from its own
lines alone. Memory holds one stretch's map and the samples of the tasks under way.
"""

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import dask
import numpy as np

from .. import __version__
from ..acquisition import Capture, CaptureError, Segment, open_capture
from ..sr.detect import ROW_LINES, Event, bin_columns, find_events
from ..sr.line_clock import SegmentClock
from ..sr.reconstruct import Grid, best_kernel, choose_grid
from .cells import MOST_EVENT_LINES, Cell, Job, map_lines, measure_events, score_kernels
from .crops import choose_crop_px
from .full_image import write_full_image
from .report import make_documents
from .results import OutputError, Progress, ResultFiles, columns_of
from .rtdc import RtdcMetadata
from .settings import Settings
from .survey import Survey, describe, survey_capture

# Samples of a stretch: fixed, since it is where events are looked for and runs can be resumed.
STRETCH_SAMPLES = 1 << 26
# Samples of one mapping task, by default; changes nothing but memory and speed.
CHUNK_SAMPLES = 1 << 23
# The kernel size is chosen on this many of the first events, the most significant ones of their stretch.
_KERNEL_EVENTS = 8
# Cells remembered to recognise one that two events led to.
_RECENT_CELLS = 64


@dataclass(frozen=True)
class Execution:
    """How to run: none of this changes a result.

    workers : int, optional
        Threads; as many as cores when not given.
    scheduler : str, optional
        Address of a Dask scheduler, whose workers see the same files.
    chunk_samples : int
        Samples of one mapping task.
    progress : callable, optional
        Called with (samples done, samples in all, cells so far).
    """

    workers: int | None = None
    scheduler: str | None = None
    chunk_samples: int = CHUNK_SAMPLES
    progress: Callable[[int, int, int], None] | None = None

    def run(self, function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Any]:
        """Results of the calls, in order."""
        tasks = [dask.delayed(function, pure=False)(*call) for call in calls]
        if self.scheduler is not None:
            from distributed import get_client

            return list(get_client().gather(get_client().compute(tasks)))
        workers = self.workers or os.cpu_count() or 1
        with ThreadPoolExecutor(workers) as pool:
            return list(dask.compute(*tasks, scheduler="threads", pool=pool))


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
    carry: np.ndarray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))
    carry_line: int = 0
    recent: list[tuple[float, float, float, float]] = field(default_factory=list)
    counts: dict[str, int] = field(
        default_factory=lambda: {
            "samples_mapped": 0,
            "samples_saturated": 0,
            "lines_mapped": 0,
            "events": 0,
            "events_without_cell": 0,
            "events_of_one_cell": 0,
            "cells": 0,
        }
    )


def process_capture(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    full_image: bool = False,
    execution: Execution | None = None,
) -> dict[str, Any]:
    """Process one capture into a folder of results.

    Parameters
    ----------
    path : path-like
        Capture file of any known layout.
    folder : path-like
        Where the results go; made when missing.
    settings : Settings, optional
        What defines the result.
    overwrite : bool, optional
        Replace results of an earlier run.
    resume : bool, optional
        Go on with a broken run, start a missing one, leave a finished one as it is.
    full_image : bool, optional
        Also write ``<stem>.image.h5`` with the super-resolved image of every line.
    execution : Execution, optional
        How to run it.

    Returns
    -------
    record : dict
        The run record, as written to ``<stem>.run.json``.

    Raises
    ------
    CaptureError
        If the capture cannot be read or holds no usable signal.
    OutputError
        If the results exist or cannot be written.
    """
    path, folder = Path(path), Path(folder)
    settings, execution = settings or Settings(), execution or Execution()
    started = time.perf_counter()
    with open_capture(path, sample_rate_hz=settings.capture.sample_rate_hz) as capture:
        recipe = _recipe(capture, settings)
        files = ResultFiles(folder, path.stem, ())
        finished = _finished_record(files, recipe) if resume else None
        if finished is not None:
            return finished
        made = _prepare_folder(files, overwrite=overwrite, resume=resume)
        try:
            survey = survey_capture(capture, settings.capture)
            _require_dark_level(survey, path)
            surveyed = time.perf_counter()
            job = Job(path, survey, settings)
            files.columns = columns_of(
                calibrated=job.pixel_um is not None, position_um=survey.geometry.um_per_sample is not None
            )
            record, grid = _run(capture, job, files, recipe, execution, resume=resume, times=(started, surveyed))
            if full_image:
                write_full_image(job, grid, files.path(".image.h5"), execution.run)
        except KeyboardInterrupt:
            files.close_parts()
            raise
        except OSError as error:
            files.remove_parts()
            _remove_folders(made)
            raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
        except BaseException:
            files.remove_parts()
            _remove_folders(made)
            raise
    return record


def _run(
    capture: Capture,
    job: Job,
    files: ResultFiles,
    recipe: str,
    execution: Execution,
    *,
    resume: bool,
    times: tuple[float, float],
) -> tuple[dict[str, Any], Grid]:
    state, next_stretch, is_open = State(), 0, False
    progress = files.read_checkpoint() if resume else None
    if progress is not None and progress.recipe == recipe:
        kernel = (progress.kernel[0], progress.kernel[1])
        is_open = files.resume(_rtdc_metadata(capture, job, _grid(job, kernel)), progress)
        if is_open:
            next_stretch = progress.stretch
            recent = [(box[0], box[1], box[2], box[3]) for box in progress.recent]
            state = State(kernel, progress.crop_px, progress.carry, progress.carry_line, recent, progress.counts)
    best: list[Cell] = []
    for index, stretch in enumerate(_stretches(job.survey)):
        if index < next_stretch:
            continue
        cells = _process_stretch(job, stretch, state, execution)
        best = sorted([*best, *cells], key=lambda c: -c.row["significance"])[:24]
        state.counts["cells"] += len(cells)
        if state.kernel is not None:  # until the first event has chosen it, there is nothing to write
            if not is_open:
                state.crop_px = job.settings.image.crop_px or choose_crop_px(cells)
                files.start(_rtdc_metadata(capture, job, _grid(job, state.kernel)), state.crop_px)
                is_open = True
            files.append(cells)
            boxes = [list(box) for box in state.recent]
            files.checkpoint(
                Progress(
                    recipe, index + 1, *files.position(), state.counts, list(state.kernel), state.crop_px, boxes,
                    state.carry_line, state.carry,
                )
            )  # fmt: skip
        if execution.progress is not None:
            execution.progress(state.counts["samples_mapped"], capture.samples, state.counts["cells"])
    found = time.perf_counter()
    grid = _grid(job, state.kernel or _kernel_of(job, []))
    if not is_open:
        files.start(_rtdc_metadata(capture, job, grid), job.settings.image.crop_px or choose_crop_px([]))
    record = _record(capture, job, grid, state, recipe)
    documents = make_documents(job, grid, record, best, files.rows())
    record["timings_s"] = {
        "survey": times[1] - times[0],
        "cells": found - times[1],
        "report": time.perf_counter() - found,
    }
    files.finish(documents, record)
    return record, grid


def _stretches(survey: Survey) -> Iterator[Stretch]:
    step = max(1, int(STRETCH_SAMPLES / survey.background.period_samples / ROW_LINES)) * ROW_LINES
    for segment, clock in zip(survey.segments, survey.clock.segments, strict=True):
        end = clock.first_line + clock.lines
        for first in range(clock.first_line, end, step):
            stop = min(first + step, end)
            yield Stretch(segment, clock, first, stop, stop == end)


def _process_stretch(job: Job, stretch: Stretch, state: State, execution: Execution) -> list[Cell]:
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
        calls = [(job, stretch.segment, stretch.clock, _middle(e)) for e in strongest]
        state.kernel = _kernel_of(job, execution.run(score_kernels, calls))
    grid = _grid(job, state.kernel or _kernel_of(job, []))
    batches = [events[i : i + 16] for i in range(0, len(events), 16)]
    calls = [(job, grid, stretch.segment, stretch.clock, batch) for batch in batches]
    measured = [cell for batch in execution.run(measure_events, calls) for cell in batch] if calls else []
    found = [cell for cell in measured if cell is not None]
    state.counts["events_without_cell"] += len(measured) - len(found)
    found.sort(key=lambda cell: (cell.row["line_first"], cell.row["position_samples"]))
    cells = []
    for cell in found:
        if any(_same_cell(cell.box, box) for box in state.recent):
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
    state.counts["lines_mapped"] += sum(looked_at for _, looked_at, _ in maps)
    state.counts["samples_saturated"] += sum(saturated for _, _, saturated in maps)
    first, stop = (
        stretch.segment.device_index if stretch.first_line == stretch.clock.first_line else None,
        stretch.segment.device_index + stretch.segment.samples if stretch.last else None,
    )
    starts = np.ceil(stretch.clock.line_start(np.array([stretch.first_line, stretch.stop_line])))
    state.counts["samples_mapped"] += int(stop if stop is not None else starts[1]) - int(
        first if first is not None else starts[0]
    )
    return np.concatenate([significance for significance, _, _ in maps])


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


def _same_cell(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    """Whether two boxes (line first, last, position first, last) are mostly one."""
    lines = min(a[1], b[1]) - max(a[0], b[0])
    width = min(a[3], b[3]) - max(a[2], b[2])
    if lines <= 0 or width <= 0:
        return False
    smaller = min((a[1] - a[0]) * (a[3] - a[2]), (b[1] - b[0]) * (b[3] - b[2]))
    return lines * width > 0.7 * smaller


def _recipe(capture: Capture, settings: Settings) -> str:
    content = json.dumps([__version__, capture.digest(), settings.as_dict()], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _finished_record(files: ResultFiles, recipe: str) -> dict[str, Any] | None:
    """The record of a finished run of this recipe; an error if a finished run of another one is in the way."""
    path = files.path(".run.json")
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: not a run record; move it away, or give --overwrite") from error
    if record.get("recipe") != recipe:
        raise OutputError(
            f"{path}: a finished run with another capture, settings or version; "
            "give --overwrite to replace it, or another folder"
        )
    return record


def _prepare_folder(files: ResultFiles, *, overwrite: bool, resume: bool) -> list[Path]:
    """Make the folder and see that nothing is in the way; return the folders that were made."""
    existing = files.existing() if files.folder.is_dir() else []
    if existing and not (overwrite or resume):
        raise OutputError(
            f"{existing[0]} exists: give --overwrite to replace it, --resume to go on with a broken run, "
            "or another folder"
        )
    made: list[Path] = []
    try:
        for folder in [*reversed(files.folder.parents), files.folder]:
            if not folder.exists():
                folder.mkdir()
                made.append(folder)
        probe = files.folder / f".{files.stem}.probe"
        probe.touch()
        probe.unlink()
    except OSError as error:
        _remove_folders(made)
        raise OutputError(f"{files.folder}: cannot be written: {error.strerror or error}") from error
    if overwrite:
        for path in existing:
            if path.suffix == ".part":
                path.unlink()
    return made


def _remove_folders(made: list[Path]) -> None:
    for folder in reversed(made):
        try:
            folder.rmdir()
        except OSError:
            return


def _require_dark_level(survey: Survey, path: Path) -> None:
    if survey.background.dark_level_codes is None:
        raise CaptureError(
            f"{path}: the lines leave no dark gap to measure the dark level in, and nothing states it: "
            "give --dark-level CODES (the code without light), or dark_level_codes in the capture or the settings"
        )


def _kernel_of(job: Job, scores: list[np.ndarray]) -> tuple[float, float]:
    return best_kernel(scores, job.survey.clock.period_samples)


def _grid(job: Job, kernel: tuple[float, float]) -> Grid:
    ratio = job.survey.geometry.lines_per_sample
    return choose_grid(kernel, ratio, oversampling=job.settings.image.oversampling)


def _rtdc_metadata(capture: Capture, job: Job, grid: Grid) -> RtdcMetadata:
    survey, known = job.survey, capture.metadata
    return RtdcMetadata(
        sample=known.sample or capture.path.stem,
        run_identifier=capture.digest()[:32],
        software_version=f"stretchscope {__version__}",
        line_rate_hz=survey.line_rate_hz,
        sample_rate_hz=survey.sample_rate_hz,
        start=datetime.fromisoformat(known.start_time) if known.start_time else None,
        pixel_um=job.pixel_um / grid.columns_per_sample if job.pixel_um else None,
        field_of_view_um=job.settings.capture.field_of_view_um or known.field_of_view_um,
        flow_speed_m_s=job.settings.capture.flow_speed_m_per_s or known.flow_speed_m_per_s,
        instrument=known.instrument,
    )


def _record(capture: Capture, job: Job, grid: Grid, state: State, recipe: str) -> dict[str, Any]:
    counts = state.counts
    short = capture.samples - sum(segment.samples for segment in job.survey.segments)
    return {
        "stretchscope": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "capture": {"file": capture.path.name, "digest": capture.digest(), **asdict(capture.metadata)},
        "settings": job.settings.as_dict(),
        "recipe": recipe,
        "signal": describe(capture, job.survey, counts["samples_saturated"]),
        "grid": asdict(grid) | {"pixel_um": job.pixel_um / grid.columns_per_sample if job.pixel_um else None},
        "accounting": {
            "samples_offered": capture.samples,
            "samples_processed": counts["samples_mapped"],
            "samples_dropped": {"in_segments_too_short_for_a_clock": short},
            "samples_saturated": counts["samples_saturated"],
            "lines": job.survey.clock.lines,
            "lines_mapped": counts["lines_mapped"],
            "events": counts["events"],
            "events_without_cell": counts["events_without_cell"],
            "events_of_one_cell": counts["events_of_one_cell"],
            "cells": counts["cells"],
        },
    }
