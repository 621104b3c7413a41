"""What the benchmarks share: the machine, a timer, memory bandwidth, and the JSON that a result is kept in."""

import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
#: The shared data: real captures and images.
DATA = Path(os.environ.get("STRETCHSCOPE_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        model = names[0].split(":", 1)[1].strip() if names else model
    return {
        "cpu": model,
        "cpu_count": os.cpu_count(),
        "system": platform.system(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
    }


def as_digits(classes: np.ndarray) -> str:
    """Classes of up to 36 as a text, one digit or letter each."""
    return "".join(_DIGITS[number] for number in classes)


def from_digits(text: str) -> np.ndarray:
    """What :func:`as_digits` wrote."""
    return np.array([_DIGITS.index(digit) for digit in text])


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Least wall time of a few runs."""
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        work()
        times.append(time.perf_counter() - begin)
    return min(times)


def memory_read_bytes_per_s() -> float:
    """Memory read bandwidth of one thread."""
    memory = np.ones(1 << 27, dtype=np.uint8).view(np.uint64)
    return memory.nbytes / seconds(memory.sum, repeats=5)


def write_result(name: str, result: dict[str, Any]) -> None:
    """Write a result with the machine beside it to ``benchmarks/results/<name>.json``."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"benchmark": name, "machine": machine(), **result}, indent=2) + "\n")
    print(f"written to {path}")
