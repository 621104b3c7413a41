"""Nothing is compiled, nor loaded from the cache, once the clock runs."""

import subprocess
import sys

# In a process of its own: kernels that another test has called are compiled already.
SCRIPT = """
import sys, tempfile
from pathlib import Path

import numpy as np
from numba.core.dispatcher import Dispatcher

from stretchscope.acquisition import CaptureWriter, open_capture
from stretchscope.acquisition.simulated_loop import simulated_loop
from stretchscope.acquisition.source import LoopSource, ReplaySource
from stretchscope.pipeline import live_results
from stretchscope.pipeline.live_setup import calibrate_on_capture, calibrate_on_source
from stretchscope.pipeline.settings import Settings
from stretchscope.pipeline.stream import run_stream, warm_up


def compiled():
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("stretchscope.")]
    kernels = {kernel for module in modules for kernel in vars(module).values() if isinstance(kernel, Dispatcher)}
    return {f"{kernel.py_func.__qualname__}{signature}" for kernel in kernels for signature in kernel.signatures}


def source_of(kind, folder):
    loop = simulated_loop(loop_samples=1 << 23, block_samples=1 << 19, cells_per_s=10_000, seed=3)
    if kind != "gaps":
        blocks = LoopSource(loop.samples, 5e9, metadata=loop.metadata, block_samples=1 << 19, paced=False)
        calibration = calibrate_on_source(blocks, Settings())
        if kind == "loop":
            return blocks, calibration
        # beside the cells, something without end
        after = (np.arange(loop.samples.size) - loop.first_line_start_samples) % loop.line_period_samples
        samples = np.where((after > 20) & (after < 30), -102 + 0.6 * (loop.samples + 102.0), loop.samples)
        samples = samples.astype(loop.samples.dtype)
        return LoopSource(samples, 5e9, metadata=loop.metadata, block_samples=1 << 19, paced=False), calibration
    # a gap that the clock gets over, one that it does not, and blocks shorter than it needs to lock
    with CaptureWriter(folder / "gaps.h5", loop.metadata, loop.samples.dtype) as writer:
        writer.append(loop.samples[: 1 << 22], device_index=0)
        writer.append(loop.samples[(1 << 22) + 12_345 :], device_index=(1 << 22) + 12_345)
        writer.append(loop.samples[: 1 << 21], device_index=1 << 40)
    capture = open_capture(folder / "gaps.h5")
    return ReplaySource(capture, paced=False, block_samples=40_000), calibrate_on_capture(capture.path, Settings())


with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    source, calibration = source_of(sys.argv[1], folder)
    warm_up(source, calibration, files=True)
    before, duration_s = compiled(), None if sys.argv[1] == "gaps" else 2e-3
    for name, write_rows, share in (("single", 2048, 1.0), ("fast", 4, 0.5)):
        live_results.WRITE_ROWS = write_rows
        at = folder / name
        record = run_stream(source, calibration, folder=at, duration_s=duration_s, workers=2, image_share=share)
        assert record["error"] is None
        assert record["summary"]["images"] > 4
    for kernel in sorted(compiled() - before):
        print(kernel)
"""


def new_kernels(kind: str) -> list[str]:
    """Kernels, with the types of their arguments, that a run calls and its warm-up did not."""
    done = subprocess.run([sys.executable, "-P", "-c", SCRIPT, kind], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_warm_up_compiles_all_that_a_simulated_stream_needs() -> None:
    assert new_kernels("loop") == []


def test_warm_up_compiles_all_that_a_stream_with_a_stripe_needs() -> None:
    assert new_kernels("stripe") == []


def test_warm_up_compiles_all_that_a_replay_with_gaps_in_short_blocks_needs() -> None:
    assert new_kernels("gaps") == []
