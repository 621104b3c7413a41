"""Rows of the table in columns: from measured cells, and from what the screen's sums say of cells without an image."""

from dataclasses import dataclass

import numpy as np

from ..classify import FEATURES, feature_columns
from ..sr._kernels import CONVERTERS
from ..sr.detect import Events
from ..sr.reconstruct import Grid
from ..sr.screen import ROW_LINES
from ..sr.summary import Summary, sum_up, summary_of
from ._crop_kernels import most_alike
from .live_results import CellBatch
from .measure import Measured, Setup
from .pieces import Piece


def cell_batch(measured: Measured, which: np.ndarray, crop_px: int) -> CellBatch:
    """Measured cells, or some of them (bool), with the pictures that :func:`crops.grey_crops` made."""
    none = (np.empty((0, crop_px, crop_px), np.uint8), np.empty((0, crop_px, crop_px), np.bool_), np.empty(0, np.bool_))
    parts = zip(*measured.pictures, strict=True) if measured.pictures else ([array] for array in none)
    crops, masks, cut = (arrays[0] if len(arrays) == 1 else np.concatenate(arrays) for arrays in parts)
    columns = measured.columns | {"crop_cut": cut.astype(np.int64)}
    which = which & measured.new
    if not which.all():
        columns = {name: values[which] for name, values in columns.items()}
        crops, masks = crops[which], masks[which]
    return CellBatch(columns, crops, masks, np.ones(len(crops), np.bool_))


# An image shows a sixth of an object's extent on either side of it (see ``measure``).
_MARGIN = 6


@dataclass(frozen=True)
class Found:
    """Objects that begin in a piece, as the screen's sums see them.

    summary : Summary
    first_start, last_end, centre_start : ndarray of shape (N,), float64
        Start of the first line, end of the last line, start of the centre [the digitiser's index].
    """

    summary: Summary
    first_start: np.ndarray
    last_end: np.ndarray
    centre_start: np.ndarray

    def __len__(self) -> int:
        return self.first_start.size

    @property
    def boxes(self) -> np.ndarray:
        """First and last line, first and last position of each; float64 (N, 4)."""
        one = self.summary
        return np.stack([one.line_first, one.line_last, one.tau_first_samples, one.tau_last_samples], axis=1)

    def some(self, which: np.ndarray) -> "Found":
        """Some of the objects, by index or mask."""
        return Found(
            self.summary.some(which), self.first_start[which], self.last_end[which], self.centre_start[which]
        )  # fmt: skip


def find_objects(piece: Piece, min_significance: float, events: Events | None = None) -> Found:
    """Objects that begin in a piece and reach a significance, by the sums of the screen.

    With the piece's events, an object begins where that which is most like it does; without such, it is none.
    """
    lines, screen = piece.lines, piece.empty_line.screen
    sums = sum_up(lines.samples, lines.index % CONVERTERS, lines.starts, piece.wanted, screen)
    summary = summary_of(sums, lines.first_line, screen.box_samples)
    begin = summary.line_first if events is None else _begin_of_events(summary, events)
    own = (begin >= piece.own_first) & (begin < piece.own_stop)
    own &= ~_belongs_to_larger(summary)
    summary = summary.some(own & (summary.significance >= min_significance))
    places = np.stack([summary.line_first, summary.line_last + 1.0, summary.line_centre])
    starts = lines.index + np.interp(places - lines.first_line, np.arange(lines.starts.size), lines.starts)
    return Found(summary, *starts)


def _begin_of_events(summary: Summary, events: Events) -> np.ndarray:
    """First line of the event most like each object, int64 (N,); before any line without one."""
    objects, others = (
        np.stack([one.line_first, one.line_last + 1, one.tau_first_samples, one.tau_last_samples], axis=1)
        for one in (summary, events)
    )
    like = most_alike(objects, others)
    return np.append(events.line_first, np.iinfo(np.int64).min)[like]


def _belongs_to_larger(summary: Summary) -> np.ndarray:
    """Which objects are the foot or the wake of a larger one, within the margin that its image would have; bool (N,).

    Only what is no longer than that margin: a cell behind a cell is longer.
    """
    lines = summary.line_last - summary.line_first + 1
    beyond, beside = lines // _MARGIN, (summary.tau_last_samples - summary.tau_first_samples) / _MARGIN
    found = np.zeros(lines.size, dtype=np.bool_)
    short = np.flatnonzero(lines <= beyond.max(initial=0))
    one = summary.some(short[:, None])
    found[short] = (
        (lines[short, None] <= beyond)
        & (one.line_first >= summary.line_first - beyond)
        & (one.line_last <= summary.line_last + beyond)
        & (one.tau_first_samples >= summary.tau_first_samples - beside)
        & (one.tau_last_samples <= summary.tau_last_samples + beside)
    ).any(axis=1)
    return found


def summary_batch(setup: Setup, grid: Grid, box_samples: int, found: Found, crop_px: int) -> CellBatch:
    """Cells without a picture: place, time, extent and light; other features are empty (NaN).

    Extents and areas count whole boxes (lines by samples) that deviate from the empty line, so they are up to a box
    larger than an image would show.
    """
    summary = found.summary
    n = len(found)
    pixel_um = setup.pixel_um(grid)
    pixel = pixel_um or 1.0
    along = (summary.line_last - summary.line_first + 1) / grid.lines_per_row  # pixels
    across = (summary.tau_last_samples - summary.tau_first_samples) * grid.columns_per_sample
    area = summary.boxes * (ROW_LINES / grid.lines_per_row) * (box_samples * grid.columns_per_sample)
    known = {
        "area": area * pixel**2,
        "equivalent_diameter": 2 * np.sqrt(area / np.pi) * pixel,
        "size_x": along * pixel,
        "size_y": across * pixel,
        "aspect_ratio": along / across,
        "transmission_mean": summary.transmission_mean,
        "transmission_min": summary.transmission_least,
    }
    columns: dict[str, np.ndarray] = {
        "line_first": summary.line_first,
        "line_last": summary.line_last,
        "sample_first": np.ceil(found.first_start).astype(np.int64),
        "sample_last": np.ceil(found.last_end).astype(np.int64) - 1,
        "time_s": found.centre_start / setup.sample_rate_hz,
        "line_centre": summary.line_centre,
        "position_samples": summary.tau_centre_samples,
        "significance": summary.significance,
    }
    if setup.geometry.um_per_sample is not None:
        columns["position_um"] = summary.tau_centre_samples * setup.geometry.um_per_sample
    unknown = np.full(n, np.nan)
    names = zip(FEATURES, feature_columns(calibrated=pixel_um is not None), strict=True)
    columns |= {column: known.get(feature.name, unknown) for feature, column in names}
    columns["saturated_samples"] = columns["crop_cut"] = unknown
    none = np.empty((0, crop_px, crop_px))
    return CellBatch(columns, none.astype(np.uint8), none.astype(np.bool_), np.zeros(n, np.bool_))
