"""Rows of the table in columns: from measured cells, and from what the screen's sums say of cells without an image."""

import numpy as np

from ..classify import FEATURES
from ..sr.reconstruct import Grid
from ..sr.screen import ROW_LINES, ScreenTables
from ..sr.summary import Summary
from .crops import grey_crops
from .live_results import CellBatch
from .measure import Cell, Lines, Setup
from .rtdc import RtdcMetadata


def cell_batch(cells: list[Cell], crop_px: int, metadata: RtdcMetadata) -> CellBatch:
    """Measured cells, at least one, each with its picture."""
    crops, masks, cut = grey_crops(cells, crop_px, metadata.transmission_at_0, metadata.transmission_at_255)
    columns = {name: np.array([cell.row[name] for cell in cells]) for name in cells[0].row}
    columns["crop_cut"] = cut.astype(np.int64)
    return CellBatch(columns, crops, masks, np.ones(len(cells), np.bool_))


def summary_batch(
    setup: Setup, grid: Grid, lines: Lines, screen: ScreenTables, summary: Summary, crop_px: int
) -> CellBatch:
    """Cells without a picture: place, time, extent and light; other features are empty (NaN).

    Extents and areas count whole boxes (lines by samples) that deviate from the empty line, so they are up to a box
    larger than an image would show. Saturated samples are not counted.
    """
    n = summary.line_first.size
    pixel_um = setup.pixel_um(grid)
    pixel = pixel_um or 1.0
    along = (summary.line_last - summary.line_first + 1) / grid.lines_per_row  # pixels
    across = (summary.tau_last_samples - summary.tau_first_samples) * grid.columns_per_sample
    area = summary.boxes * (ROW_LINES / grid.lines_per_row) * (screen.box_samples * grid.columns_per_sample)
    known = {
        "area": area * pixel**2,
        "equivalent_diameter": 2 * np.sqrt(area / np.pi) * pixel,
        "size_x": along * pixel,
        "size_y": across * pixel,
        "aspect_ratio": along / across,
        "transmission_mean": summary.transmission_mean,
        "transmission_min": summary.transmission_least,
    }
    line = np.arange(lines.first_line, lines.stop_line + 1)
    starts = np.interp(np.stack([summary.line_first, summary.line_last + 1]), line, lines.starts)
    columns: dict[str, np.ndarray] = {
        "line_first": summary.line_first,
        "line_last": np.minimum(summary.line_last, lines.stop_line - 1),
        "sample_first": lines.index + np.ceil(starts[0]).astype(np.int64),
        "sample_last": lines.index + np.ceil(starts[1]).astype(np.int64) - 1,
        "time_s": (lines.index + np.interp(summary.line_centre, line, lines.starts)) / setup.sample_rate_hz,
        "line_centre": summary.line_centre,
        "position_samples": summary.tau_centre_samples,
        "significance": summary.significance,
    }
    if setup.geometry.um_per_sample is not None:
        columns["position_um"] = summary.tau_centre_samples * setup.geometry.um_per_sample
    unknown = np.full(n, np.nan)
    columns |= {f.column(pixel_um is not None): known.get(f.name, unknown) for f in FEATURES}
    columns["touches_border"] = np.zeros(n)
    columns["saturated_samples"] = np.zeros(n, np.int64)
    columns["crop_cut"] = np.zeros(n, np.int64)
    none = np.empty((0, crop_px, crop_px))
    return CellBatch(columns, none.astype(np.uint8), none.astype(np.bool_), np.zeros(n, np.bool_))


def joined(batches: list[CellBatch]) -> CellBatch:
    """Batches of the same columns as one, in order of lines."""
    if len(batches) == 1:
        return batches[0]
    columns = {name: np.concatenate([b.columns[name] for b in batches]) for name in batches[0].columns}
    pictured = np.concatenate([b.pictured for b in batches])
    crops, masks = (np.concatenate([getattr(b, name) for b in batches]) for name in ("crops", "masks"))
    order = np.lexsort((columns["position_samples"], columns["line_first"]))
    picture = np.cumsum(pictured) - 1
    shown = picture[order][pictured[order]]
    return CellBatch({name: v[order] for name, v in columns.items()}, crops[shown], masks[shown], pictured[order])
