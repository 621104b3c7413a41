"""Memory does not grow with the capture: the peak of a process, measured."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from stretchscope.acquisition import CaptureWriter, open_capture
from stretchscope.acquisition.simulate import simulate

pytestmark = pytest.mark.slow

PIECE_LINES = 100_000
RUN = """
import json, resource, sys
from stretchscope.pipeline.batch import process_capture
from stretchscope.pipeline.execution import Execution
record = process_capture(sys.argv[1], sys.argv[2], execution=Execution(workers=2), full_image=len(sys.argv) > 3)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"peak_mib": peak, **record["accounting"]}))
"""


@pytest.fixture(scope="module")
def piece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("memory") / "piece.h5"
    simulate(path, lines=PIECE_LINES, cells=25, seed=4)
    return path


def repeated(piece: Path, path: Path, times: int) -> Path:
    """The same samples again and again, a gap between each two."""
    with open_capture(piece) as capture:
        samples, metadata = capture.read(0, capture.samples), capture.metadata
    with CaptureWriter(path, metadata, np.int8) as writer:
        for i in range(times):
            writer.append(samples, device_index=i * 8 * (samples.size // 8 + 1000))
    return path


def run(path: Path, folder: Path, *options: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-P", "-c", RUN, str(path), str(folder), *options],
        capture_output=True, text=True, check=True, timeout=300,
    )  # fmt: skip
    result: dict[str, float] = json.loads(done.stdout)
    return result


def test_the_peak_does_not_grow_with_the_capture(piece: Path, tmp_path: Path) -> None:
    """Nine times the samples, 350 MiB more, must not cost more than noise in the peak."""
    short = run(repeated(piece, tmp_path / "short.h5", 1), tmp_path / "short")
    long = run(repeated(piece, tmp_path / "long.h5", 9), tmp_path / "long")
    assert long["samples_offered"] == 9 * short["samples_offered"]
    assert long["cells"] == 9 * short["cells"] == 9 * 25
    assert long["peak_mib"] < short["peak_mib"] + 100


def test_the_peak_does_not_grow_with_the_full_image(tmp_path: Path) -> None:
    """Six times the lines, five times 110 MiB more of pixels and weights in the files."""
    piece = tmp_path / "piece.h5"
    simulate(piece, lines=20_000, cells=5, seed=4)
    short = run(repeated(piece, tmp_path / "short.h5", 1), tmp_path / "short", "image")
    long = run(repeated(piece, tmp_path / "long.h5", 6), tmp_path / "long", "image")
    sizes = [(tmp_path / name / f"{name}.image.ome.tif").stat().st_size for name in ("short", "long")]
    assert sizes[1] > 5.9 * sizes[0] > 5.9 * 4 * 10e6
    assert long["peak_mib"] < short["peak_mib"] + 100
