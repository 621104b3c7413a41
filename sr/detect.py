"""Detect what differs from the empty line: a map of significance over (line, position), and the events in it."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from . import _event_kernels, _kernels
from .background import Background
from .line_fit import LineTables, chi2_limit, line_priors, row_tables
from .screen import ROW_LINES, ScreenTables, screen_rows

__all__ = [
    "ROW_LINES",
    "DetectorTables",
    "Event",
    "Events",
    "bin_columns",
    "detector_tables",
    "events_in_rows",
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
# Lines with a lit part of fewer samples than this are not summed up before they are looked at.
_LEAST_LIT_SAMPLES = 32
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


@dataclass(frozen=True)
class Events:
    """Events in columns, arrays of shape (N,) where nothing else is said; see :class:`Event`.

    labels : ndarray of shape (R, C), int32
        Which event each bin of a map belongs to.
    boxes : ndarray of shape (N, 4), int64
        First and last row, first and last column of each event in ``labels``.
    groups : ndarray of shape (N,), int64
        What ``labels`` holds there.
    """

    line_first: np.ndarray
    line_last: np.ndarray
    tau_first_samples: np.ndarray
    tau_last_samples: np.ndarray
    significance: np.ndarray
    columns_samples: int
    labels: np.ndarray
    boxes: np.ndarray
    groups: np.ndarray

    def __len__(self) -> int:
        return self.line_first.size

    @classmethod
    def of(cls, event: Event) -> "Events":
        """A single event."""
        rows, columns = event.bins.shape
        return cls(
            np.array([event.line_first]),
            np.array([event.line_last]),
            np.array([event.tau_first_samples]),
            np.array([event.tau_last_samples]),
            np.array([event.significance]),
            event.columns_samples,
            event.bins.astype(np.int32),
            np.array([[0, rows - 1, 0, columns - 1]]),
            np.array([1]),
        )

    def some(self, which: np.ndarray | slice) -> "Events":
        """Some of them, by index, mask or slice."""
        return Events(
            self.line_first[which],
            self.line_last[which],
            self.tau_first_samples[which],
            self.tau_last_samples[which],
            self.significance[which],
            self.columns_samples,
            self.labels,
            self.boxes[which],
            self.groups[which],
        )


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
    rows : tuple
        The same for the sum of a row's four lines; see ``_kernels.detect_rows``.
    columns : int
        Width of a bin [samples].
    priors : tuple of 2 floats
        1/variance of pulse energy and of line starts [1, 1/samples²].
    """

    root: np.ndarray
    counts: np.ndarray
    rows: tuple
    columns: int
    priors: tuple[float, float]


def detector_tables(background: Background, tables: LineTables) -> DetectorTables:
    """Tables of the positions that are searched."""
    columns = bin_columns(background)
    tau = np.arange(tables.phases + 1)[:, None] / tables.phases + np.arange(tables.width)
    root, counts = _searched(background.usable(tau), tables.arrays[4], background, columns)
    priors = line_priors(background)
    of_rows, offsets, usable = row_tables(background, tables, ROW_LINES)
    row_root, row_counts = _searched(usable, of_rows[4], background, columns)
    of_mean = (ROW_LINES * priors[0], ROW_LINES * priors[1])
    # the lines of a row meet positions up to a sample apart: where that is much of what is lit, each is seen alone
    period = background.period_samples if background.lit_samples >= _LEAST_LIT_SAMPLES else np.inf
    rows = (of_rows, offsets, row_root, row_counts, of_mean, chi2_limit(usable.shape[1]), period)
    return DetectorTables(root, counts, rows, columns, priors)


def _searched(
    usable: np.ndarray, weight: np.ndarray, background: Background, columns: int
) -> tuple[np.ndarray, np.ndarray]:
    """Root of the weight where it is usable, else 0, and how many positions those are in each bin."""
    root = np.where(usable, np.sqrt(weight), 0.0).astype(np.float32)
    bins = int(np.ceil(background.lit_samples / columns))
    edges = np.minimum(np.arange(bins) * columns, root.shape[1] - 1)
    searched = (root > 0)[:, : min(bins * columns, root.shape[1])]
    return root, np.add.reduceat(searched, edges, axis=1, dtype=np.float32)


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
    The sum of a row's four lines, or each of them where that does not do, is fitted on its empty positions (baseline,
    pulse energy, delay). Per bin the larger of two tests is kept: the mean residual (absorbing objects) and the
    residual energy (phase objects, bright and dark side by side).
    """
    rows = -(-starts.size // ROW_LINES)
    out = np.zeros((rows, detector.counts.shape[1]), dtype=np.float32)
    wanted = np.ones(rows, dtype=np.bool_) if wanted is None else wanted
    _kernels.detect_rows(
        samples, origin, starts, wanted, ROW_LINES, detector.columns, tables.arrays, detector.root, detector.counts,
        detector.rows, tables.limits, detector.priors, tables.chi2_limit, out,
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
    labels, boxes, groups, peaks = _group_bins(significance, min_significance)
    return [
        Event(
            line_first=first_line + top * ROW_LINES,
            line_last=first_line + (bottom + 1) * ROW_LINES - 1,
            tau_first_samples=float(left * columns),
            columns_samples=columns,
            bins=labels[top : bottom + 1, left : right + 1] == group,
            significance=float(peak),
        )
        for (top, bottom, left, right), group, peak in zip(boxes.tolist(), groups, peaks, strict=True)
    ]


def events_in_rows(
    samples: np.ndarray,
    origin: int,
    starts: np.ndarray,
    wanted: np.ndarray,
    first_line: int,
    tables: LineTables,
    detector: DetectorTables,
    *,
    min_significance: float = START_SIGNIFICANCE,
) -> Events:
    """:func:`significance_map` and :func:`find_events` of the few rows that are wanted: the same events.

    Parameters
    ----------
    samples, origin, starts, wanted, tables, detector
        As in :func:`significance_map`; wanted bool (floor(N / ROW_LINES),).
    first_line : int
        Number of the first line.
    """
    rows = _event_kernels.rows_in_groups(wanted, GAP_ROWS + 1)
    seen = rows >= 0
    some = starts[: wanted.size * ROW_LINES].reshape(-1, ROW_LINES)[rows].ravel()
    significance = significance_map(samples, origin, some, tables, detector, seen)
    labels, boxes, groups, peaks = _group_bins(significance, min_significance)
    return Events(
        first_line + rows[boxes[:, 0]] * ROW_LINES,
        first_line + (rows[boxes[:, 1]] + 1) * ROW_LINES - 1,
        boxes[:, 2] * float(detector.columns),
        (boxes[:, 3] + 1) * float(detector.columns),
        peaks,
        detector.columns,
        labels,
        boxes,
        groups,
    )


def _group_bins(
    significance: np.ndarray, min_significance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels of a map's bins, and of each group that is significant: its box, its label, its peak; in order."""
    labels = np.empty(significance.shape, np.int32)
    most = (significance.shape[0] + 1) // 2 * ((significance.shape[1] + 1) // 2)
    boxes, peaks = np.empty((most, 4), np.int64), np.empty(most, np.float32)
    # a row or two in which an object hides (its edge falls between samples) do not part it; columns part neighbours
    count = _event_kernels.group_bins(
        significance, min_significance, JOIN_SIGNIFICANCE, GAP_ROWS, labels, boxes, peaks
    )  # fmt: skip
    groups = np.flatnonzero(peaks[:count] >= min_significance)
    groups = groups[np.lexsort((boxes[groups, 2], boxes[groups, 0]))]
    return labels, boxes[groups], groups + 1, peaks[groups].astype(float)
