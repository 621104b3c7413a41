"""The demo: a small simulated capture through the whole pipeline, held against its truth."""

import csv
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from ..acquisition.simulate import simulate
from ..classify.runtime import BUILT_IN, UNKNOWN
from .batch import process_capture
from .execution import Execution
from .labels import load_cell_model
from .results import OutputError

LINES, CELLS, SEED = 60_000, 100, 1


def run_demo(folder: Path, execution: Execution) -> Iterator[str]:
    """Run the demo into a folder, replacing an earlier one; yields what to tell the user, line by line."""
    capture = folder / "capture.h5"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise OutputError(f"{folder}: cannot be made: {failure.strerror or failure}") from failure
    if capture.exists() and not _is_simulated(capture):
        raise OutputError(f"{capture} exists and is no capture of an earlier demo: give another folder with --output")
    yield f"1. simulating {LINES} lines with {CELLS} cells of phytoplankton at 5 GSa/s: {capture}"
    simulate(capture, lines=LINES, cells=CELLS, seed=SEED, phantoms="plankton", overwrite=True)
    yield f"2. processing it, without its truth, into {folder}"
    model = load_cell_model(Path(BUILT_IN))
    record = process_capture(capture, folder, overwrite=True, execution=execution, model=model)
    with h5py.File(capture) as file:
        cells, labels = file["truth/cells"][:], file["truth/labels"].asstr()[:]
        starts = file["truth/line_start_samples"][:]
    # the mean of the first and last pulse alone would carry their jitter
    period = float(np.polyfit(np.arange(starts.size) - starts.size / 2, starts, 1)[0])
    signal = record["signal"]
    error = signal["line_period_samples"] - period
    yield (
        f"   line period {signal['line_period_samples']:.7f} ± {signal['line_period_uncertainty_samples']:.1g} samples "
        f"(true: {period:.7f}, error {error:+.1g})"
    )
    with (folder / "capture.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found = [(float(row["line_centre"]), float(row["position_um"])) for row in rows]
    owner = match_cells(cells, found)
    matched, invented = np.unique(owner[owner >= 0]).size, np.count_nonzero(owner < 0)
    yield f"   {len(found)} cells found: {matched} of the {len(cells)} true ones, {invented} invented"
    said = np.array([row["label"] for row in rows])
    right = np.count_nonzero(said[owner >= 0] == labels[cells["kind"][owner[owner >= 0]]])
    yield f"   {right} of them told for what they are, {np.count_nonzero(said == UNKNOWN)} called unknown"
    yield f"3. open {folder / 'capture.html'} (pictures and table), or {folder / 'capture.rtdc'} in any RT-DC viewer"


def _is_simulated(path: Path) -> bool:
    try:
        with h5py.File(path) as file:
            return "truth" in file
    except OSError:
        return False


def match_cells(cells: np.ndarray, found: list[tuple[float, float]]) -> np.ndarray:
    """Which true cell each found one is, the nearest of those in whose extent its centre lies; -1 for none.

    Parameters
    ----------
    cells : structured ndarray
        ``truth/cells`` of a simulated capture.
    found : list of N (float, float)
        Line and position along the line [µm] of the centres of the found cells.

    Returns
    -------
    owner : ndarray of shape (N,), int
        Index into ``cells``.
    """
    margin = 2.0  # µm: where the line is taken to begin differs between truth and measurement
    owner = np.full(len(found), -1)
    for number, (line, x_um) in enumerate(found):
        inside = (
            (cells["line_first"] <= line)
            & (line <= cells["line_last"])
            & (cells["x_first_um"] - margin <= x_um)
            & (x_um <= cells["x_last_um"] + margin)
        )
        if inside.any():
            away = np.abs((cells["line_first"] + cells["line_last"]) / 2 - line) + np.where(inside, 0, np.inf)
            owner[number] = away.argmin()
    return owner
