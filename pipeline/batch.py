"""Process whole captures, from file to files: survey, stretch after stretch, report, run record.

Memory holds one stretch's map and cells, and the samples of the tasks under way.
"""

import hashlib
import json
import os
import platform
import time
from dataclasses import asdict, fields
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..acquisition import Capture, open_capture
from ..sr.reconstruct import Grid
from .cells import Job
from .crops import choose_crop_px
from .execution import Execution
from .full_image import is_whole, write_full_image
from .labels import CellModel
from .measure import Cell
from .ome_tiff import write_ome_tiff
from .quality import Candidate, best_candidates, measure_quality
from .report import make_documents
from .results import IMAGE_SUFFIXES, OutputError, Progress, ResultFiles, columns_of, rtdc_metadata
from .rtdc import RtdcMetadata
from .settings import Settings
from .stretches import State, grid_of, process_stretch, stretches
from .survey import describe, require_dark_level, survey_capture

# Cells of each class that the report shows.
_EXAMPLES = 6


def process_capture(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    overwrite: bool = False,
    resume: bool = False,
    full_image: bool = False,
    model: CellModel | None = None,
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
        Go on with a broken run, start a missing one, leave a finished one as it is; an image that cannot be read is
        made anew.
    full_image : bool, optional
        Also write the super-resolved image of every line, as ``<stem>.image.h5`` and ``<stem>.image.ome.tif``.
    model : CellModel, optional
        What tells the cells' classes; without it they have none.
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
    ModelError
        If the model takes sizes in µm, and the capture does not tell them.
    """
    path, folder = Path(path), Path(folder)
    settings, execution = (settings or Settings()).with_method("regularised"), execution or Execution()
    started = time.perf_counter()
    with open_capture(path, sample_rate_hz=settings.capture.sample_rate_hz) as capture:
        recipe = _recipe(capture, settings, model)
        files = ResultFiles(folder, path.stem, (), model)
        if any(output.samefile(path) for output in files.existing()):
            raise OutputError(f"{path}: a result would replace the capture itself; give another folder")
        finished = _finished_record(files, recipe) if resume else None
        if finished is not None and _is_complete(files, recipe, full_image=full_image):
            return finished
        made = _prepare_folder(files, overwrite=overwrite, resume=resume)
        try:
            survey = survey_capture(capture, settings.capture)
            require_dark_level(survey, path)
            surveyed = time.perf_counter()
            job = Job(path, survey, settings)
            if model is not None:
                model.check_scale(job.setup.pixel_um(grid_of(job, None)), path)
            files.columns = columns_of(
                calibrated=survey.geometry.calibrated,
                position_um=survey.geometry.um_per_sample is not None,
                model=model,
            )
            if finished is not None and files.complete(full_image=False):
                record = _add_image(job, files, recipe, execution, finished)
            else:
                record = _run(
                    capture, job, files, recipe, execution, resume=resume, full_image=full_image,
                    times=(started, surveyed),
                )  # fmt: skip
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
    full_image: bool,
    times: tuple[float, float],
) -> dict[str, Any]:
    state, next_stretch, is_open = State(), 0, False
    progress = files.read_checkpoint() if resume else None
    if progress is not None and progress.recipe == recipe:
        kernel = (progress.kernel[0], progress.kernel[1])
        is_open = files.resume(_rtdc_metadata(capture, job, grid_of(job, kernel), files.model), progress)
        if is_open:
            next_stretch = progress.stretch
            recent = [(box[0], box[1], box[2], box[3]) for box in progress.recent]
            state = State(
                kernel, progress.crop_px, progress.labels, progress.carry, progress.carry_line, recent,
                [Candidate.of(numbers) for numbers in progress.candidates], progress.counts,
            )  # fmt: skip
    best: list[Cell] = []
    examples: dict[str, list[Cell]] = {}
    for index, stretch in enumerate(stretches(job.survey)):
        if index < next_stretch:
            continue
        cells = process_stretch(job, stretch, state, execution)
        state.candidates = best_candidates(state.candidates, cells)
        state.counts["cells"] += len(cells)
        if state.kernel is not None:  # until the first event has chosen it, there is nothing to write
            if not is_open:
                state.crop_px = job.settings.image.crop_px or choose_crop_px(cells)
                files.start(_rtdc_metadata(capture, job, grid_of(job, state.kernel), files.model), state.crop_px)
                is_open = True
            cells = files.append(cells)
            best = _most_significant([*best, *cells], 24)
            if files.model is not None:
                _sort_by_class(cells, state.labels, examples)
            boxes = [list(box) for box in state.recent]
            files.checkpoint(
                Progress(
                    recipe, index + 1, *files.position(), state.counts, list(state.kernel), state.crop_px,
                    state.labels, boxes,
                    [c.numbers() for c in state.candidates], state.carry_line, state.carry,
                )
            )  # fmt: skip
        if execution.progress is not None:
            execution.progress(state.counts["samples_mapped"], capture.samples, state.counts["cells"])
    found = time.perf_counter()
    grid = grid_of(job, state.kernel)
    if not is_open:
        files.start(_rtdc_metadata(capture, job, grid, files.model), job.settings.image.crop_px or choose_crop_px([]))
    record = _record(capture, job, grid, state, recipe, files.model)
    record["quality"] = measure_quality(job, grid, state.candidates, execution)
    documents = make_documents(job, grid, record, best, files.rows(), examples)
    record["timings_s"] = {
        "survey": times[1] - times[0],
        "cells": found - times[1],
        "report": time.perf_counter() - found,
    }
    if full_image:
        _write_image(job, grid, files, recipe, execution, record)
    files.finish(documents, record, full_image=full_image)
    return record


def _write_image(
    job: Job, grid: Grid, files: ResultFiles, recipe: str, execution: Execution, record: dict[str, Any]
) -> None:
    """Write the image of every line under ``.part`` names, and into the record how large it is and what it took."""
    begun = time.perf_counter()
    image, tiff = (files.part(suffix) for suffix in IMAGE_SUFFIXES)
    record["image"] = write_full_image(job, grid, image, recipe, execution.run)
    write_ome_tiff(image, tiff)
    record["timings_s"]["image"] = time.perf_counter() - begun


def _add_image(
    job: Job, files: ResultFiles, recipe: str, execution: Execution, record: dict[str, Any]
) -> dict[str, Any]:
    """The image that a finished run lacks, or that is broken."""
    grid = Grid(**{field.name: record["grid"][field.name] for field in fields(Grid)})
    _write_image(job, grid, files, recipe, execution, record)
    files.finish_image(record)
    return record


def _most_significant(cells: list[Cell], count: int) -> list[Cell]:
    return sorted(cells, key=lambda cell: -cell.row["significance"])[:count]


def _sort_by_class(cells: list[Cell], counts: dict[str, int], examples: dict[str, list[Cell]]) -> None:
    """Count cells by their label, and keep the most significant of each for the report."""
    for label in sorted({cell.row["label"] for cell in cells}):
        own = [cell for cell in cells if cell.row["label"] == label]
        counts[label] = counts.get(label, 0) + len(own)
        examples[label] = _most_significant([*examples.get(label, []), *own], _EXAMPLES)


def _recipe(capture: Capture, settings: Settings, model: CellModel | None) -> str:
    parts = [__version__, capture.digest(), settings.as_dict(), *([] if model is None else [model.sha256])]
    content = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def _finished_record(files: ResultFiles, recipe: str) -> dict[str, Any] | None:
    """The record of a finished run of this recipe, if there is one; an error if another one is in the way."""
    path = files.path(".run.json")
    if not path.exists():
        return None
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OutputError(f"{path}: not a run record; move it away, or give --overwrite") from error
    if record.get("recipe") != recipe:
        raise OutputError(
            f"{path}: a finished run with another capture, settings, model or version; "
            "give --overwrite to replace it, or another folder"
        )
    return record


def _is_complete(files: ResultFiles, recipe: str, *, full_image: bool) -> bool:
    """Whether a finished run's files are all there; the images, which a copy may have cut off, can be made anew."""
    image, tiff = (files.path(suffix) for suffix in IMAGE_SUFFIXES)
    return files.complete(full_image=full_image) and (not full_image or is_whole(image, tiff, recipe))


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


def _rtdc_metadata(capture: Capture, job: Job, grid: Grid, model: CellModel | None) -> RtdcMetadata:
    known = capture.metadata
    return rtdc_metadata(
        job.setup,
        grid,
        known,
        line_rate_hz=job.survey.line_rate_hz,
        sample=capture.path.stem,
        run_identifier=capture.digest()[:32],
        start=datetime.fromisoformat(known.start_time) if known.start_time else None,
        model=model,
    )


def _record(
    capture: Capture, job: Job, grid: Grid, state: State, recipe: str, model: CellModel | None
) -> dict[str, Any]:
    counts = state.counts
    short = capture.samples - sum(segment.samples for segment in job.survey.segments)
    signal = describe(capture, job.survey, counts["samples_saturated"])
    if dark := counts["lines_without_light"]:
        signal["warnings"].append(f"{dark} of {job.survey.clock.lines} lines hold no light")
    return {
        "stretchscope": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "machine": platform.machine(),
        "capture": {"file": capture.path.name, "digest": capture.digest(), **asdict(capture.metadata)},
        "settings": job.settings.as_dict(),
        "model": None if model is None else model.as_dict(),
        "recipe": recipe,
        "signal": signal,
        "grid": asdict(grid) | {"pixel_um": job.setup.pixel_um(grid)},
        "accounting": {
            "samples_offered": capture.samples,
            "samples_processed": counts["samples_mapped"],
            "samples_dropped": {"in_segments_too_short_for_a_clock": short},
            "samples_saturated": counts["samples_saturated"],
            "lines": job.survey.clock.lines,
            "lines_mapped": counts["lines_mapped"],
            "lines_without_light": counts["lines_without_light"],
            "events": counts["events"],
            "events_without_cell": counts["events_without_cell"],
            "events_of_one_cell": counts["events_of_one_cell"],
            "cells": counts["cells"],
        },
        "classes": None if model is None else model.all_counts(state.labels),
    }
