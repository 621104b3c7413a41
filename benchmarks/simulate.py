"""How fast the simulator makes samples: one thread, a typical scene, every fault of the instrument on.

    python benchmarks/simulate.py [--lines 100000]

Prints JSON: rates in million samples per second, first call with compilation apart, beside the machine and
two yardsticks taken in the same run: plain numpy normal numbers, and memory read bandwidth.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from record import memory_read_bytes_per_s, seconds, write_result

from stretchscope.acquisition.optics import Digitiser, Instrument
from stretchscope.acquisition.simulate import blocks, simulate
from stretchscope.data.phantoms import EmptyScene, random_scene
from stretchscope.data.stamps import cell_stamps

CELLS_PER_LINE = 500 / 200_000


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=int, default=100_000)
    arguments = parser.parse_args()
    lines: int = arguments.lines
    cells = max(round(lines * CELLS_PER_LINE), 1)
    instrument = Instrument()
    length_um = lines * instrument.optics.um_per_line
    scene = random_scene(
        cell_stamps(1), field_of_view_um=48.0, per_mm=1000 * cells / length_um, length_um=length_um, seed=1
    )
    fast = Instrument(digitiser=Digitiser(sample_rate_hz=20e9))

    begin = time.perf_counter()
    for _ in blocks(scene, instrument, seed=1, lines=1000):
        pass
    first_call_s = time.perf_counter() - begin

    def stream(*args: object) -> int:
        return sum(block.size for block in blocks(*args, seed=1, lines=lines))  # type: ignore[arg-type]

    samples = stream(scene, instrument)
    rates = {
        "cells_5_GSa_s": samples / seconds(lambda: stream(scene, instrument)),
        "empty_5_GSa_s": samples / seconds(lambda: stream(EmptyScene(), instrument)),
        "cells_20_GSa_s": 4 * samples / seconds(lambda: stream(scene, fast), repeats=1),
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "capture.h5")
        to_file = seconds(lambda: simulate(path, lines=lines, cells=cells, overwrite=True))
        rates["simulate_to_file"] = samples / to_file

    normal = np.empty(1 << 20, dtype=np.float32)
    random = np.random.default_rng(1)
    normal_rate = normal.size / seconds(lambda: random.standard_normal(out=normal, dtype=np.float32))
    bandwidth = memory_read_bytes_per_s()
    result = {
        "threads": 1,
        "lines": lines,
        "cells": cells,
        "samples": samples,
        "dtype": "int8",
        "first_call_s": round(first_call_s, 2),
        "million_samples_per_s": {name: round(rate / 1e6, 1) for name, rate in rates.items()},
        "numpy_million_normals_per_s": round(normal_rate / 1e6, 1),
        "memory_read_gb_per_s": round(bandwidth / 1e9, 2),
        "ratio_to_numpy_normals": round(rates["cells_5_GSa_s"] / normal_rate, 2),
        "ratio_to_memory_read": round(rates["cells_5_GSa_s"] / bandwidth, 4),
    }
    print(json.dumps(result, indent=2))
    write_result("simulate", result)


if __name__ == "__main__":
    main()
