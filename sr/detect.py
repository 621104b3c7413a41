"""Detect what differs from the empty line: a map of significance over (line, position), and the events in it."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from . import _event_kernels, _kernels
from .background import Background
from .line_fit import LineTables
from .screen import ROW_LINES, ScreenTables, screen_rows

__all__ = [
    "ROW_LINES",
    "DetectorTables",
    "Event",
    "bin_columns",
    "detector_tables",
    "find_events",
    "rows_to_look_at",
    "significance_map",
]

# Rows on either side of a flagged one that are looked at closely: objects fade out, and the sharp edge decides.
BESIDE_FLAGGED_ROWS = 3
# Significance [standard deviations] from which a bin starts an event, and from which a neighbour belongs to it.
# A thousand million samples make some ten million bins; noise passes the first about once in 10¹¹.
START_SIGNIFICANCE = 7.0
JOIN_SIGNIFICANCE = 3.5
# Rows without significance that do not part an event.
GAP_ROWS = 2


@dataclass(frozen=True)
class Event:
    """Something that is not the empty line: a connected group of bins of the map.

    ``line_first`` … ``line_last`` (inclusive) are line numbers of the segment clock it was found with, ``bins`` bool
    (rows, columns) says which bins of its bounding box belong to it; column c of the box begins at
    ``tau_first + c * columns_samples`` samples from the line start.
    """

    line_first: int
    line_last: int
    tau_first_samples: float
    columns_samples: int
    bins: np.ndarray
    significance: float

    @property
    def tau_last_samples(self) -> float:
        return self.tau_first_samples + self.bins.shape[1] * self.columns_samples


def bin_columns(background: Background) -> int:
    """Width of a bin [samples]: about a fiftieth of the lit part, 2 … 16; cells that close together are told apart."""
    return int(np.clip(round(background.lit_samples / 50), 2, 16))


def rows_to_look_at(samples: np.ndarray, origin: int, starts: np.ndarray, tables: ScreenTables) -> np.ndarray:
    """Rows near which the fast screen sees something, and rows it cannot see.

    Parameters
    ----------
    samples : ndarray of shape (S,)
        Waveform [codes]; ``origin`` is the digitiser's index of its first sample.
    starts : ndarray of shape (N,), float64
        Starts of consecutive lines, from the first line of a row on. What is found within
        :data:`BESIDE_FLAGGED_ROWS` rows of either end depends on the rows beyond: give those too.

    Returns
    -------
    wanted : ndarray of shape (ceil(N / ROW_LINES),), bool
    """
    row_starts = starts[::ROW_LINES] - origin
    inside = (row_starts >= 0) & (np.ceil(row_starts) + tables.reach <= samples.size)
    first, count = (int(np.argmax(inside)), int(inside.sum())) if inside.any() else (0, 0)
    flags = np.ones(row_starts.size, dtype=np.bool_)
    if count > 1:  # the end of the last row that is seen is the start of the next one, which need not be seen
        last = first + count
        seen = slice(first, last if last < row_starts.size else last - 1)
        flags[seen] = screen_rows(samples, origin, row_starts[first : seen.stop + 1], tables)[0]
    return ndimage.binary_dilation(flags, np.ones(2 * BESIDE_FLAGGED_ROWS + 1))


@dataclass(frozen=True)
class DetectorTables:
    """A :class:`Background` laid out for the detector.

    root : ndarray of shape (phases + 1, W), float32
        1/standard deviation of a sample at the positions that are searched, else 0.
    counts : ndarray of shape (phases + 1, C), float32
        How many those are in each bin.
    columns : int
        Width of a bin [samples].
    priors : tuple of 2 floats
        1/variance of pulse energy and of line starts [1, 1/samples²].
    """

    root: np.ndarray
    counts: np.ndarray
    columns: int
    priors: tuple[float, float]


def detector_tables(background: Background, tables: LineTables) -> DetectorTables:
    """Tables of the positions that are searched."""
    columns = bin_columns(background)
    bins = int(np.ceil(background.lit_samples / columns))
    tau = np.arange(tables.phases + 1)[:, None] / tables.phases + np.arange(tables.width)
    root = np.where(background.usable(tau), np.sqrt(tables.arrays[4]), 0.0).astype(np.float32)
    edges = np.minimum(np.arange(bins) * columns, tables.width - 1)
    searched = (root > 0)[:, : min(bins * columns, tables.width)]
    counts = np.add.reduceat(searched, edges, axis=1, dtype=np.float32)
    return DetectorTables(root, counts, columns, (1 / background.gain_std**2, 1 / background.delay_std_samples**2))


def significance_map(
    samples: np.ndarray,
    origin: int,
    starts: np.ndarray,
    tables: LineTables,
    detector: DetectorTables,
    wanted: np.ndarray | None = None,
) -> np.ndarray:
    """Significance of deviations from the empty line.

    Parameters
    ----------
    samples : ndarray of shape (S,)
        Waveform [codes]; ``origin`` is the digitiser's index of its first sample.
    starts : ndarray of shape (N,), float64
        Starts of consecutive lines, N a multiple of :data:`ROW_LINES` (the last row may be short). Lines that do
        not lie wholly in ``samples`` are passed over.
    tables, detector
        The empty line.
    wanted : ndarray of shape (ceil(N / ROW_LINES),), bool, optional
        Rows to look at, from :func:`rows_to_look_at`; all of them by default.

    Returns
    -------
    significance : ndarray of shape (ceil(N / ROW_LINES), C), float32
        Standard deviations; 0 where the line is not lit and in rows that are not wanted, -1 in rows without light
        (laser off, channel blocked).

    Notes
    -----
    Each line is fitted on its empty positions (baseline, pulse energy, delay). Per bin the larger of two tests is
    kept: the mean residual (absorbing objects) and the residual energy (phase objects, bright and dark side by side).
    """
    rows = -(-starts.size // ROW_LINES)
    out = np.zeros((rows, detector.counts.shape[1]), dtype=np.float32)
    wanted = np.ones(rows, dtype=np.bool_) if wanted is None else wanted
    _kernels.detect_rows(
        samples, origin, starts, wanted, ROW_LINES, detector.columns, tables.arrays, detector.root, detector.counts,
        tables.limits, detector.priors, tables.chi2_limit, out,
    )  # fmt: skip
    return out


def find_events(
    significance: np.ndarray, first_line: int, columns: int, *, min_significance: float = START_SIGNIFICANCE
) -> list[Event]:
    """Events in a map, in order of their first line, then of position.

    Parameters
    ----------
    significance : ndarray of shape (R, C)
        From :func:`significance_map`; its first row begins at line ``first_line``.
    columns : int
        Width of a bin [samples].
    min_significance : float, optional
        Significance that some bin of an event reaches [standard deviations].
    """
    least, greatest = _event_kernels.extremes(significance)
    if greatest < min_significance:
        return []
    if least < 0:  # where the light goes or comes, part of a line or of a row is dark: no object
        dark = ndimage.binary_dilation((significance < 0).any(axis=1))
        significance = np.where(dark[:, None], np.float32(0), significance)
    # a row or two in which an object hides (its edge falls between samples) do not part it; columns part neighbours
    near, labels = np.empty(significance.shape, np.bool_), np.empty(significance.shape, np.int32)
    _event_kernels.near_bins(significance, JOIN_SIGNIFICANCE, GAP_ROWS, near)
    most = (significance.shape[0] + 1) // 2 * ((significance.shape[1] + 1) // 2)
    boxes, peaks = np.empty((most, 4), np.int64), np.empty(most, np.float32)
    groups = _event_kernels.label_bins(near, significance, labels, boxes, peaks)
    events = []
    for group in np.flatnonzero(peaks[:groups] >= min_significance):
        top, bottom, left, right = boxes[group].tolist()
        events.append(
            Event(
                line_first=first_line + top * ROW_LINES,
                line_last=first_line + (bottom + 1) * ROW_LINES - 1,
                tau_first_samples=float(left * columns),
                columns_samples=columns,
                bins=labels[top : bottom + 1, left : right + 1] == group + 1,
                significance=float(peaks[group]),
            )
        )
    return sorted(events, key=lambda e: (e.line_first, e.tau_first_samples))
