"""How fast the image of every line is: registering lines, gridding them, packing pixels, and whole files.

    python benchmarks/full_image.py [--lines 200000]

Registering, gridding and packing are CPU time of one thread, for the first lines of a capture, with the grid that
``process`` by gridding chose for it, and per sample of the capture, the dark ones too. Then ``process --full-image``
with all cores. Three captures: the usual simulated one, one of slow flow and short pulses (20 lines/µm, 24 ns), the
real one.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from record import DATA, memory_read_bytes_per_s, write_result

from stretchscope.acquisition import open_capture
from stretchscope.acquisition.simulate import simulate
from stretchscope.pipeline.batch import process_capture
from stretchscope.pipeline.cells import Job, _lines
from stretchscope.pipeline.execution import Execution
from stretchscope.pipeline.full_image import image_chunks, layout_of
from stretchscope.pipeline.settings import Settings
from stretchscope.pipeline.survey import survey_capture
from stretchscope.sr.line_fit import line_fits
from stretchscope.sr.reconstruct import Grid, reconstruct

SETTINGS = Settings().with_method("gridding")


def cpu_seconds(work: Callable[[], object], repeats: int) -> float:
    """Least CPU time of a few runs in this thread: what else the machine does counts little."""
    times = []
    for _ in range(repeats):
        begin = time.thread_time()
        work()
        times.append(time.thread_time() - begin)
    return min(times)


def time_parts(path: Path, grid: Grid) -> dict[str, float]:
    """Nanoseconds per sample of each part on one thread, and how many pixels there are."""
    with open_capture(path) as capture:
        survey = survey_capture(capture, SETTINGS.capture)
        segment, clock = survey.segments[0], survey.clock.segments[0]
        layout = layout_of(Job(path, survey, SETTINGS), grid)
        # about a chunk of pixels, as it is imaged in one go
        last = min(layout.chunk_rows * grid.lines_per_row, clock.lines - 1)
        lines = _lines(capture, segment, clock, 0, int(last + 4 * grid.sigma_lines) + 2)
    background, tables, kernel_lines = survey.background, survey.tables, lines.for_kernels
    scatter = {"gain_std": background.gain_std, "delay_std": background.delay_std_samples}
    fits = line_fits(*kernel_lines, tables, **scatter, for_image=True)

    def grid_lines() -> np.ndarray:
        return reconstruct(
            *kernel_lines, 0, background, tables, grid, rows=(0.0, last), tau=(0.0, background.lit_samples), fits=fits
        ).transmission

    pixels = grid_lines().size
    samples = last * background.period_samples
    register_s = cpu_seconds(lambda: line_fits(*kernel_lines, tables, **scatter, for_image=True), 60)
    register_s *= last / len(fits)  # lines beside the rows are another chunk's
    grid_s = cpu_seconds(grid_lines, 200)
    job = Job(path, survey, SETTINGS)
    chunks_s = cpu_seconds(lambda: image_chunks(job, grid, layout, 0), 3)
    chunk_lines = len(image_chunks(job, grid, layout, 0).row_line) * grid.lines_per_row
    return {
        "pixels_per_sample": pixels / samples,
        "register_ns_per_sample": register_s / samples * 1e9,
        "grid_ns_per_sample": grid_s / samples * 1e9,
        "grid_ns_per_pixel": grid_s / pixels * 1e9,
        "grid_samples_per_s": samples / grid_s,
        "register_and_grid_samples_per_s": samples / (grid_s + register_s),
        "task_samples_per_s": chunk_lines * background.period_samples / chunks_s,
    }


def time_run(path: Path, folder: Path, workers: int) -> dict[str, Any]:
    """``process --full-image``: what the image takes of it, and the parts on one thread."""
    record = process_capture(
        path, folder, SETTINGS, overwrite=True, full_image=True, execution=Execution(workers=workers)
    )
    samples, image_s = record["accounting"]["samples_offered"], record["timings_s"]["image"]
    names = ("columns_per_sample", "lines_per_row", "sigma_samples", "sigma_lines")
    grid = Grid(**{name: record["grid"][name] for name in names})
    files = [folder / f"{path.stem}{suffix}" for suffix in (".image.h5", ".image.ome.tif")]
    return {
        "samples": samples,
        "grid": {name: record["grid"][name] for name in names},
        "image": record["image"],
        "image_s": image_s,
        "image_samples_per_s": samples / image_s,
        "bytes": {file.name.removeprefix(path.stem): file.stat().st_size for file in files},
        "one_thread": time_parts(path, grid),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=200_000, help="lines of the simulated captures")
    lines = parser.parse_args().lines
    workers = os.cpu_count() or 1
    runs = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate(folder / "usual.h5", lines=lines, cells=lines // 400)
        simulate(
            folder / "slow.h5", lines=lines, cells=lines // 2000, line_rate_hz=11.614e6, pulse_duration_s=24e-9,
            flow_speed_m_per_s=11.614 / 20,
        )  # fmt: skip
        simulate(folder / "warm.h5", lines=4_000, cells=10)
        process_capture(folder / "warm.h5", folder / "out", SETTINGS, full_image=True)  # compiles
        runs["usual"] = time_run(folder / "usual.h5", folder / "out", workers)
        runs["slow flow, short pulses"] = time_run(folder / "slow.h5", folder / "out", workers)
        if (DATA / "oil_emulsion.hdf5").exists():
            runs["real capture"] = time_run(DATA / "oil_emulsion.hdf5", folder / "out", workers)
    for run, result in runs.items():
        parts, grid = result["one_thread"], result["grid"]
        print(f"{run}: {result['samples']} samples, {result['image']['rows']} x {result['image']['columns']} pixels")
        print("  grid " + ", ".join(f"{key} {value:.3g}" for key, value in grid.items()))
        print(
            f"  one thread: register {parts['register_ns_per_sample']:.2f}, grid {parts['grid_ns_per_sample']:.2f} "
            f"ns/sample ({parts['grid_ns_per_pixel']:.2f} ns/pixel, {parts['pixels_per_sample']:.2f} pixels/sample): "
            f"gridding {parts['grid_samples_per_s'] / 1e9:.2f} GSa/s, with registering "
            f"{parts['register_and_grid_samples_per_s'] / 1e9:.2f},"
            f" packed {parts['task_samples_per_s'] / 1e6:.0f} MSa/s"
        )
        print(
            f"  both files: {result['image_s']:.1f} s on {workers} workers, "
            f"{result['image_samples_per_s'] / 1e6:.0f} MSa/s, {sum(result['bytes'].values()) / 1e6:.0f} MB"
        )
    write_result("full_image", {"memory_read_bytes_per_s": memory_read_bytes_per_s(), "workers": workers, "runs": runs})


if __name__ == "__main__":
    main()
