"""How fast the live pipeline is: realtime factor against sample rate, cells and cores; stages; latency; memory.

    python benchmarks/stream.py [--quick] [--loop-samples N] [--paced-s SECONDS]
    python benchmarks/stream.py --draw   # the figure of the documentation, from the last result

Every figure is of the whole pipeline, from the block source to the rows and images handed to the writer, which writes
to a temporary folder; stages are beside the memory read bandwidth and what an integer kernel does on data in the cache,
taken in the same run. ``realtime factor`` of unpaced runs: signal seconds per wall second.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from record import RESULTS, seconds, write_result

from stretchscope.acquisition.simulated_loop import SimulatedLoop, simulated_loop
from stretchscope.acquisition.source import LoopSource
from stretchscope.pipeline import crops, live, measure
from stretchscope.pipeline.live_results import LiveResults
from stretchscope.pipeline.live_setup import Calibration, calibrate_on_source
from stretchscope.pipeline.measure import margin_lines
from stretchscope.pipeline.pieces import PieceCutter, screen_block
from stretchscope.pipeline.results import columns_of
from stretchscope.pipeline.rows import cell_batch
from stretchscope.pipeline.settings import Settings
from stretchscope.pipeline.stream import ring_for, run_stream, stream_metadata, warm_up
from stretchscope.sr.live_clock import TrackingClock
from stretchscope.sr.screen import screen_rows

RATES_HZ = (1e9, 2e9, 4e9, 5e9, 8e9)
CELLS_PER_S = (0.0, 1e3, 5e3, 1e4, 5e4, 1e5)
#: Streams with many cells: image this share of them, the rest is summed up.
FEW_IMAGES = 0.02
CORES = os.cpu_count() or 1


class Bench:
    """A loop, its calibration, and runs of it."""

    def __init__(
        self, rate_hz: float, cells_per_s: float, flow_speed: float, loop_samples: int, **optics: float
    ) -> None:
        self.rate_hz, self.cells_per_s = rate_hz, cells_per_s
        self.loop: SimulatedLoop = simulated_loop(
            loop_samples=loop_samples, sample_rate_hz=rate_hz, cells_per_s=cells_per_s, flow_speed_m_per_s=flow_speed,
            cell_diameter_um=(8.0, 12.0), block_samples=ring_for(rate_hz)[0], **optics,
        )  # fmt: skip
        self.calibration: Calibration = calibrate_on_source(self.source(paced=False), Settings())
        warm_up(self.source(paced=False), self.calibration, files=True)

    def source(self, *, paced: bool) -> LoopSource:
        block, depth = ring_for(self.rate_hz)
        return LoopSource(
            self.loop.samples, self.rate_hz, metadata=self.loop.metadata, paced=paced, block_samples=block,
            depth=depth,
        )  # fmt: skip

    def run(self, *, paced: bool, signal_s: float, workers: int = CORES, images: float = 1.0) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            record = run_stream(
                self.source(paced=paced), self.calibration, folder=Path(folder), duration_s=signal_s, workers=workers,
                image_share=images,
            )  # fmt: skip
        summary = record["summary"]
        expected = self.loop.cells.size * summary["samples_offered"] / self.loop.samples.size
        return {
            "rate_hz": self.rate_hz,
            "cells_per_signal_s": self.cells_per_s,
            "workers": workers,
            "paced": paced,
            "image_share": images,
            "realtime_factor": summary["realtime_factor"],
            "samples_dropped": record["accounting"]["samples_dropped"],
            "cells": summary["cells_found"],
            "cells_expected": expected,
            "images": summary["images"],
            "cells_refused_by_output": record["accounting"]["cells_refused_by_output"],
            "latency_ms": summary["latency_ms"],
            "error": record["error"],
        }


def memory_read(threads: int) -> float:
    """Bytes per second read by some threads at once."""
    memory = [np.ones(1 << 28, dtype=np.uint8).view(np.uint64) for _ in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        return threads * memory[0].nbytes / seconds(lambda: list(pool.map(np.sum, memory)), repeats=5)


def screen_rate(bench: Bench) -> dict[str, float]:
    """Samples per second and core that the kernel does which touches every sample: from memory, and from the cache."""
    clock = TrackingClock(bench.calibration.setup.empty_line)
    source = bench.source(paced=False)
    source.start()
    rows, blocks = [], []
    for _ in range(8):
        block = source.acquire(1.0)
        assert block is not None
        (lines,) = clock.follow(block.samples, block.index)
        first = -(-lines.first_line // 4) + 1
        rows.append(lines.line_start(np.arange(first, lines.stop_line // 4 - 2) * 4))
        blocks.append(block)
    tables = bench.calibration.setup.empty_line.screen
    samples = sum(float(r[-1] - r[0]) for r in rows)

    def all_blocks() -> None:
        for block, row in zip(blocks, rows, strict=True):
            screen_rows(block.samples, block.index, row, tables)

    few = rows[0][: int(1e6 / (rows[0][1] - rows[0][0]))]
    cached = seconds(lambda: screen_rows(blocks[0].samples, 0, few, tables), repeats=30)
    return {
        "samples_per_s": samples / seconds(all_blocks, repeats=7),
        "samples_per_s_cached": float(few[-1] - few[0]) / cached,
    }


# Whose time is added up for a stage: functions as the module that calls them knows them.
STAGES = {
    "find events": (live, "events_in_rows"),
    "reconstruct": (measure, "reconstruct_windows"),
    "segment": (measure, "segment_images"),
    "features": (measure, "measure_images"),
    "crops": (crops, "cut_many"),
}


def stage_times(bench: Bench) -> dict[str, float]:
    """Time of one core for each stage of a stream with an image of every cell [ns per sample of the stream]."""
    spent = dict.fromkeys(("line clock", "screen", "cut out", *STAGES, "rows and calls", "write"), 0.0)

    def timed(stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            try:
                return function(*arguments, **options)
            finally:
                spent[stage] += time.perf_counter() - begin

        return call

    setup, calibration, source = bench.calibration.setup, bench.calibration, bench.source(paced=False)
    clock = TrackingClock(setup.empty_line)
    cutter = PieceCutter(partial(margin_lines, setup, calibration.grid), setup.geometry.um_per_line)
    metadata = stream_metadata(source, calibration)
    columns = columns_of(calibrated=setup.geometry.calibrated, position_um=setup.geometry.um_per_sample is not None)
    picture = partial(
        crops.grey_crops, side=calibration.crop_px, transmission_at_0=metadata.transmission_at_0,
        transmission_at_255=metadata.transmission_at_255,
    )  # fmt: skip
    source.start()
    samples = 0
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # a clock that stands still: rows come as fast as in a stream at full speed, and are packed as there
        results = LiveResults(folder, "stages", columns, metadata, calibration.crop_px, clock=lambda: 0.0)
        for stage, (module, name) in STAGES.items():
            stack.enter_context(mock.patch.object(module, name, timed(stage, getattr(module, name))))
        for _ in range(4 * bench.loop.samples.size // source.block_samples):
            block = source.acquire(1.0)
            assert block is not None
            locked = timed("line clock", clock.follow)(block.samples, block.index)
            screened = [timed("screen", screen_block)(block.samples, block.index, lines) for lines in locked]
            for cut in timed("cut out", cutter.add)(block.samples, block.index, block.host_ns, locked, screened):
                piece = timed("cut out", cut.piece)()
                begin, inner = time.perf_counter(), sum(spent[stage] for stage in STAGES)
                measured = live.measure_piece(setup, calibration, piece, picture)
                if measured is None:
                    continue
                batch = cell_batch(measured, np.ones(len(measured), np.bool_), calibration.crop_px)
                inner = sum(spent[stage] for stage in STAGES) - inner
                spent["rows and calls"] += time.perf_counter() - begin - inner
                timed("write", results.append)(batch)
            samples += block.samples.size
            source.release(block)
        timed("write", results.write)()
        results.abandon()
    return {stage: 1e9 * s / samples for stage, s in spent.items()}


def peak_memory(seconds_of_signal: float, loop_samples: int) -> dict[str, float]:
    """Peak memory [MiB] of the command itself, after a short run and after a long one."""
    peaks = {}
    for duration in (1.0, seconds_of_signal):
        command = [
            sys.executable,
            *("-c", "from stretchscope.pipeline.cli import main; main()", "stream", "--json"),
            *("--rate", "2e9", "--duration", str(duration), "--cells-per-second", "500"),
            *("--loop-samples", str(loop_samples)),
        ]
        out = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        peaks[f"{duration:g}_s"] = json.loads(out)["peak_memory_mib"]
    return peaks


def show(result: dict[str, Any]) -> None:
    latency = result["latency_ms"]
    tail = "" if latency["p99"] is None else f", latency p50 {latency['p50']:.1f} p99 {latency['p99']:.1f} ms"
    lost = sum(n for reason, n in result["samples_dropped"].items() if reason != "without_line_clock")
    pace = "paced" if result["paced"] else "unpaced"
    print(
        f"{result['rate_hz'] / 1e9:3.0f} GSa/s, {result['cells_per_signal_s']:6.0f} cells/s, "
        f"{result['workers']} workers, {pace:7}: factor {result['realtime_factor']:.2f}, "
        f"cells {result['cells']} of {result['cells_expected']:.0f}, {result['images']} images "
        f"(asked for {result['image_share']:.2f}), samples lost {lost}{tail}",
        flush=True,
    )


def draw(result: dict[str, Any]) -> None:
    """Curves over cell rate and sample rate, and the stages beside the limits of the machine."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (cells, rates, stages) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    runs = result["runs"]
    for workers, color in zip(sorted({run["workers"] for run in runs}), ("#8fb8c6", "#1f6f8b"), strict=False):
        for few, style in ((False, "o-"), (True, "s--")):
            mine = [r for r in runs if r["workers"] == workers and not r["paced"] and r["rate_hz"] == 5e9]
            mine = [r for r in mine if (r["image_share"] < 1) == few]
            mine = sorted({r["cells_per_signal_s"]: r for r in mine}.values(), key=lambda r: r["cells_per_signal_s"])
            label = f"{workers} core{'s' * (workers > 1)}, {'2 % of the cells' if few else 'all cells'} imaged"
            at = [max(r["cells_per_signal_s"], 300.0) for r in mine]
            cells.loglog(at, [5 * r["realtime_factor"] for r in mine], style, color=color, label=label)
    for y, name in ((5.0, "5 GSa/s"), (4.12, "peer on an FPGA: 4.12 GSa/s")):
        cells.axhline(y, color="#c0563b", linestyle=":", linewidth=0.9)
        cells.annotate(name, (300, y), fontsize=7, va="bottom" if y == 5 else "top", color="#c0563b")
    cells.set(xlabel="cells per second of signal (left: none)", ylabel="GSa/s, as fast as it goes")
    cells.set_title("against cells", loc="left", fontsize=10)
    cells.legend(frameon=False, fontsize=7)
    for paced, style in ((False, "o-"), (True, "s--")):
        mine = [r for r in runs if r["cells_per_signal_s"] == 1e3 and r["workers"] == CORES and r["paced"] == paced]
        mine = sorted({(r["rate_hz"]): r for r in mine}.values(), key=lambda r: r["rate_hz"])
        label = "in step with the signal" if paced else "as fast as it goes"
        rates.plot([r["rate_hz"] / 1e9 for r in mine], [r["realtime_factor"] for r in mine], style, label=label)
    rates.axhline(1.0, color="#c0563b", linestyle=":", linewidth=0.9)
    rates.axvline(4.12, color="grey", linestyle=":", linewidth=0.9)
    rates.annotate("peer", (4.15, 0.1), fontsize=7, color="grey")
    rates.set(xlabel="GSa/s", ylabel="realtime factor", ylim=(0, None))
    rates.set_title("against the sample rate: 1000 cells/s, all imaged", loc="left", fontsize=10)
    rates.legend(frameon=False, fontsize=8)
    spent = result["stage_ns_per_sample"]
    stages.barh(list(spent), list(spent.values()), color="#1f6f8b")
    bandwidth = result["memory_read_bytes_per_s"]
    read = 1e9 / bandwidth.get("1", bandwidth.get(1))
    stages.axvline(read, color="#c0563b", linewidth=1, label="memory read")
    stages.invert_yaxis()
    stages.legend(frameon=False, fontsize=8)
    stages.set(xlabel="ns of one core per sample")
    stages.set_title("stages: 5 GSa/s, 5000 cells/s, all imaged", loc="left", fontsize=10)
    path = Path(__file__).resolve().parents[1] / "docs" / "figures" / "stream.png"
    figure.savefig(path, dpi=110)
    print(f"drawn to {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="only 5 GSa/s, fewer cell rates")
    parser.add_argument("--stages", action="store_true", help="renew only the stages of the last result")
    parser.add_argument("--draw", action="store_true", help="only draw the figure")
    parser.add_argument("--loop-samples", type=int, default=1 << 30, help="larger than the last-level cache")
    parser.add_argument("--paced-s", type=float, default=60.0, help="length of the long paced run")
    arguments = parser.parse_args()
    if arguments.draw or arguments.stages:
        last = json.loads((RESULTS / "stream.json").read_text())
        if arguments.stages:
            last["stage_ns_per_sample"] = stage_times(Bench(5e9, 5e3, 2.0, arguments.loop_samples))
            write_result(
                "stream", {name: value for name, value in last.items() if name not in ("benchmark", "machine")}
            )
        draw(last)
        return
    size = arguments.loop_samples
    result: dict[str, Any] = {
        "memory_read_bytes_per_s": {threads: memory_read(threads) for threads in (1, CORES)},
        "loop_samples": size,
        "screen": {},
        "runs": [],
    }
    bandwidth = result["memory_read_bytes_per_s"][1]
    print(f"memory read: {bandwidth / 1e9:.1f} GB/s by one thread")

    def keep(run: dict[str, Any]) -> None:
        result["runs"].append(run)
        show(run)

    for lit, pulse_s in (("10 %", 8.6e-9), ("52 %", 45e-9), ("100 %", 86e-9)):
        bench = Bench(5e9, 0.0, 2.0, size // 4, pulse_duration_s=pulse_s)
        rates = screen_rate(bench)
        rates["share_of_memory_read"] = rates["samples_per_s"] / bandwidth
        result["screen"][lit] = rates
        print(
            f"screen, {lit} lit: {rates['samples_per_s'] / 1e9:.1f} GSa/s per core, "
            f"{rates['share_of_memory_read']:.2f} of memory read; "
            f"{rates['samples_per_s_cached'] / 1e9:.1f} from the cache"
        )
    for cells_per_s in (0.0, 5e3, 1e5) if arguments.quick else CELLS_PER_S:
        bench = Bench(5e9, cells_per_s, 5.0 if cells_per_s > 2e4 else 2.0, size)
        images = 1.0 if cells_per_s <= 1e4 else FEW_IMAGES
        for workers in range(1, CORES + 1):
            keep(bench.run(paced=False, signal_s=2.0, workers=workers, images=images))
        if cells_per_s == 5e3:
            result["stage_ns_per_sample"] = stage_times(bench)
            print({stage: round(ns, 4) for stage, ns in result["stage_ns_per_sample"].items()})
        if cells_per_s in (5e3, 1e5):
            keep(bench.run(paced=True, signal_s=arguments.paced_s, images=images))
    if not arguments.quick:
        for rate in RATES_HZ:
            bench = Bench(rate, 1e3, 2.0, size)
            keep(bench.run(paced=False, signal_s=5e9 / rate))
            keep(bench.run(paced=True, signal_s=5.0))
        result["peak_memory_mib"] = peak_memory(arguments.paced_s, 1 << 28)
        print(f"peak memory [MiB]: {result['peak_memory_mib']}")
    write_result("stream", result)
    if not arguments.quick:
        draw(result)


if __name__ == "__main__":
    main()
