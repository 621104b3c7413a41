"""Cells without an image: each of the truth's cells once, where it lies, as large and as dark as it is."""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from stretchscope.acquisition import open_capture
from stretchscope.acquisition.simulated_loop import SimulatedLoop, simulated_loop
from stretchscope.acquisition.source import LoopSource, ReplaySource
from stretchscope.pipeline.live_setup import Calibration, calibrate_on_capture, calibrate_on_source
from stretchscope.pipeline.settings import Settings
from stretchscope.pipeline.stream import run_stream

# What the clock says is a line's start lies so far behind the pulse's own beginning, where the light is too weak.
LATE_SAMPLES = 5.8
BLOCK = 1 << 19


def table_of(loop: SimulatedLoop, calibration: Calibration, image_share: float) -> tuple[dict, dict]:
    """Columns of the table of one pass through a loop, and the run record."""
    source = LoopSource(
        loop.samples, loop.metadata.sample_rate_hz, metadata=loop.metadata, block_samples=BLOCK, paced=False
    )
    with tempfile.TemporaryDirectory() as folder:
        record = run_stream(
            source,
            calibration,
            folder=Path(folder),
            duration_s=loop.samples.size / source.sample_rate_hz,
            image_share=image_share,
            workers=2,
        )
        table = pq.read_table(Path(folder) / "stream.parquet")
    assert record["error"] is None
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}, record


def matches(loop: SimulatedLoop, table: dict) -> np.ndarray:
    """Which rows show which cells; bool (cells, rows)."""
    cells, um = loop.cells, loop.instrument.um_per_sample
    centre = (table["sample_first"] + table["sample_last"]) / 2
    line = (centre - loop.first_line_start_samples) / loop.line_period_samples
    place = table["position_um"] + LATE_SAMPLES * um
    along = np.abs(line - (cells["line_first"] + cells["line_last"])[:, None] / 2)
    return (along < (cells["line_last"] - cells["line_first"])[:, None] / 2 + 6) & (
        np.abs(place - cells["x_um"][:, None]) < 6
    )


@pytest.mark.parametrize("image_share", [0.0, 0.4, 1.0])
def test_each_cell_has_one_row_with_an_image_or_without(
    loop: SimulatedLoop, calibration: Calibration, image_share: float
) -> None:
    table, record = table_of(loop, calibration, image_share)
    found = matches(loop, table)
    assert (found.sum(axis=0) == 1).all()
    assert (found.sum(axis=1) == 1).all()
    imaged = np.isfinite(table["perimeter_um"])
    assert record["summary"]["images"] == imaged.sum() == int(image_share * len(loop.cells) + 1e-9)
    for name in ("saturated_samples", "touches_border", "crop_cut"):  # not measured without an image
        assert (np.isfinite(table[name].astype(float)) == imaged).all()
    truth = loop.cells[found.argmax(axis=0)]
    # boxes are up to two boxes wider than the cell, and the blur's foot counts
    size = table["equivalent_diameter_um"] / truth["diameter_um"]
    assert (np.abs(size[imaged] - 1) < 0.15).all()
    assert ((size[~imaged] > 0.9) & (size[~imaged] < 1.6)).all()
    assert (np.abs(table["position_um"] + LATE_SAMPLES * loop.instrument.um_per_sample - truth["x_um"]) < 1.0).all()
    assert (np.diff(table["line_first"]) >= 0).all()


def test_the_wake_of_an_object_is_part_of_it(oil_emulsion: Path) -> None:
    """The real capture's droplet darkens some lines behind it, 4 lines apart: one row all the same, image or not."""
    calibration = calibrate_on_capture(oil_emulsion, Settings())
    with open_capture(oil_emulsion) as capture:
        for image_share in (0.0, 0.5):
            source = ReplaySource(capture, paced=False)
            assert run_stream(source, calibration, image_share=image_share)["summary"]["cells_found"] == 1


def test_a_hundred_thousand_cells_per_second_are_each_found_once() -> None:
    """5 m/s, cells of 8 to 12 µm that do not overlap: 335 in 3.4 ms of signal."""
    loop = simulated_loop(
        loop_samples=1 << 24, block_samples=BLOCK, cells_per_s=1e5, flow_speed_m_per_s=5.0,
        cell_diameter_um=(8.0, 12.0), seed=4,
    )  # fmt: skip
    source = LoopSource(loop.samples, 5e9, metadata=loop.metadata, block_samples=BLOCK, paced=False)
    table, _ = table_of(loop, calibrate_on_source(source, Settings()), 0.0)
    found = matches(loop, table)
    assert len(loop.cells) > 300
    assert (found.sum(axis=0) == 1).all()
    assert (found.sum(axis=1) == 1).all()
