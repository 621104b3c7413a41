"""The super-resolved image of every line of a capture, as one HDF5 file, written piece by piece."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..sr.reconstruct import Grid
from .cells import Job, image_lines

# Image rows of one task, and tasks whose images are held at once.
_ROWS, _TASKS = 512, 16


def write_full_image(job: Job, grid: Grid, path: Path, run: Callable[..., list[Any]]) -> None:
    """Write the image of all lines: per segment a group with ``transmission`` (rows, columns), float16, NaN unknown.

    Parameters
    ----------
    job, grid
        The run.
    path : Path
        File to write; it appears when complete, in place of one that is there.
    run : callable
        ``run(function, calls)`` gives the results of calls, in order.
    """
    part = path.with_name(path.name + ".part")
    try:
        with h5py.File(part, "w", track_order=True) as file:
            for number in range(len(job.survey.segments)):
                _write_segment(job, grid, file.create_group(f"segment_{number}"), number, run)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    os.replace(part, path)


def _write_segment(job: Job, grid: Grid, group: h5py.Group, number: int, run: Callable[..., list[Any]]) -> None:
    segment, clock = job.survey.segments[number], job.survey.clock.segments[number]
    rows = int((clock.lines - 1) / grid.lines_per_row) + 1
    tau = (0.0, job.survey.background.lit_samples)
    columns = int(np.floor(tau[1] * grid.columns_per_sample)) + 1
    image = group.create_dataset(
        "transmission", (rows, columns), np.float16, chunks=(min(rows, _ROWS), columns), fillvalue=np.nan
    )
    group.attrs["first_line"] = clock.first_line
    group.attrs["lines_per_row"] = grid.lines_per_row
    group.attrs["columns_per_sample"] = grid.columns_per_sample
    calls = []
    for first in range(0, rows, _ROWS):
        last = min(first + _ROWS, rows) - 1
        # half a row more, so that rounding cannot drop the last one
        window = (
            clock.first_line + first * grid.lines_per_row,
            clock.first_line + (last + 0.5) * grid.lines_per_row,
        )
        calls.append((job, grid, segment, clock, window, tau))
    for start in range(0, len(calls), _TASKS):
        for offset, part in enumerate(run(image_lines, calls[start : start + _TASKS])):
            first = (start + offset) * _ROWS
            count = min(_ROWS, rows - first)
            image[first : first + count] = part.transmission[:count, :columns]
