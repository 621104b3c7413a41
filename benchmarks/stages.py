"""How fast each stage goes: million samples per second and core, beside the memory read bandwidth of the same run.

    python benchmarks/stages.py [--samples 1e9]

Stages are timed on one thread, on a simulated capture at 5 GSa/s with cells. Then whole runs, from the file to the
table: the real capture (where its folder is found), and ``--samples`` simulated samples with all cores.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from record import DATA, memory_read_bytes_per_s, seconds, write_result

from stretchscope.acquisition import open_capture
from stretchscope.acquisition.simulate import simulate
from stretchscope.pipeline.batch import process_capture
from stretchscope.pipeline.cells import Job, map_lines, measure_events
from stretchscope.pipeline.execution import Execution
from stretchscope.pipeline.settings import Settings
from stretchscope.pipeline.survey import _spans, survey_capture
from stretchscope.sr.calibrate import measure_background
from stretchscope.sr.detect import bin_columns, find_events
from stretchscope.sr.line_clock import measure_segment_clocks
from stretchscope.sr.reconstruct import DEFAULT_KERNEL, choose_grid

PERIOD_SAMPLES = 431.0


def time_stages(path: Path) -> dict[str, float]:
    """Samples (or cells) per second of each stage, on one thread."""
    settings = Settings().with_method("gridding")
    with open_capture(path) as capture:
        read = capture.samples / seconds(lambda: [None for _ in capture.blocks(1 << 23)])
        survey = survey_capture(capture, settings.capture)
        segment = survey.segments[0]
        spans = _spans(capture)
        background_s = seconds(lambda: measure_background(spans, code_limits=capture.code_limits), repeats=2)
        clock_s = seconds(
            lambda: measure_segment_clocks(capture.read, 0, segment.samples, survey.background, survey.tables),
            repeats=2,
        )
    job, clock = Job(path, survey, settings), survey.clock.segments[0]
    lines = int(8e6 / PERIOD_SAMPLES) // 4 * 4
    map_s = seconds(lambda: map_lines(job, segment, clock, 0, lines))
    events = find_events(map_lines(job, segment, clock, 0, clock.lines).significance, 0, bin_columns(survey.background))
    grid = choose_grid(DEFAULT_KERNEL, survey.geometry.lines_per_sample)
    cells_s = seconds(lambda: measure_events(job, grid, segment, clock, events), repeats=1)
    return {
        "read_samples_per_s": read,
        "line_clock_samples_per_s": segment.samples / clock_s,
        "detection_samples_per_s": lines * PERIOD_SAMPLES / map_s,
        "cells_per_s": len(events) / cells_s,
        "background_s": background_s,
    }


def time_run(path: Path, folder: Path, workers: int) -> dict[str, Any]:
    """One whole run, from the file to the table."""
    begin = time.perf_counter()
    record = process_capture(
        path, folder, Settings().with_method("gridding"), overwrite=True, execution=Execution(workers=workers)
    )
    wall = time.perf_counter() - begin
    samples = record["accounting"]["samples_offered"]
    return {
        "samples": samples,
        "cells": record["accounting"]["cells"],
        "wall_s": wall,
        "samples_per_s": samples / wall,
        "parts_s": record["timings_s"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=float, default=1e9, help="samples of the long run")
    lines = int(parser.parse_args().samples / PERIOD_SAMPLES)
    workers = os.cpu_count() or 1
    real = DATA / "oil_emulsion.hdf5"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate(folder / "short.h5", lines=100_000, cells=250)
        process_capture(folder / "short.h5", folder / "warm", Settings().with_method("gridding"))  # compiles
        stages = time_stages(folder / "short.h5")
        runs = {}
        if real.exists():
            runs["real capture"] = time_run(real, folder / "real", workers)
        simulate(folder / "long.h5", lines=lines, cells=lines // 400)
        runs["simulated"] = time_run(folder / "long.h5", folder / "long", workers)
    bandwidth = memory_read_bytes_per_s()
    print(f"memory read, one thread: {bandwidth / 1e9:.1f} GB/s")
    for stage, rate in stages.items():
        unit = (
            f"{rate / 1e6:9.1f} MSa/s, {rate / bandwidth:.4f} of memory read" if "samples" in stage else f"{rate:9.2f}"
        )
        print(f"{stage:28} {unit}")
    for run, result in runs.items():
        print(
            f"{run}: {result['samples']} samples, {result['cells']} cells in {result['wall_s']:.1f} s on {workers} "
            f"workers, {result['samples_per_s'] / 1e6:.0f} MSa/s"
        )
    write_result("stages", {"memory_read_bytes_per_s": bandwidth, "stages": stages, "workers": workers, "runs": runs})


if __name__ == "__main__":
    main()
