"""Compiled kernels that group the bins of a significance map into events."""

import numpy as np
from numba import njit


@njit(cache=True)
def rows_in_groups(wanted, apart):
    """Numbers of the rows that are wanted, in order, with -1 for each row between, at most ``apart`` of them; int64.

    It keeps the GIL: it takes less time than another thread takes to wake up, and would then wait for it.
    """
    rows = np.empty((1 + apart) * np.count_nonzero(wanted), dtype=np.int64)
    count, last = 0, -1
    for r in range(wanted.shape[0]):
        if wanted[r]:
            if last >= 0:
                for _ in range(min(r - last - 1, apart)):
                    rows[count] = -1
                    count += 1
            rows[count] = r
            count += 1
            last = r
    return rows[:count]


@njit(nogil=True, cache=True)
def _blot_dark(significance, near):
    """No bin is near where the light goes or comes: in dark rows (-1) and their neighbours part of a line is dark."""
    rows = near.shape[0]
    for r in range(rows):
        for c in range(near.shape[1]):
            if significance[r, c] < 0:
                near[max(r - 1, 0) : min(r + 2, rows)] = False
                break


@njit(nogil=True, cache=True)
def group_bins(significance, least_peak, join, gap_rows, labels, boxes, peaks):
    """Groups of bins that may be events, see :func:`near_bins` and :func:`label_bins`; return their number.

    None are made where no bin reaches ``least_peak``.
    """
    some = False
    for r in range(significance.shape[0]):
        row = significance[r]
        for c in range(row.shape[0]):
            some |= row[c] >= least_peak
    if not some:
        return 0
    near = np.empty(significance.shape, dtype=np.bool_)
    near_bins(significance, join, gap_rows, near)
    return label_bins(near, significance, labels, boxes, peaks)


@njit(nogil=True, cache=True)
def near_bins(significance, join, gap_rows, near):
    """Bins that may belong to an event; bool, the map's shape.

    Significance of at least ``join``; gaps of up to ``gap_rows`` rows between two of one column; and what lies between
    bins on both sides of columns in which nothing is known (0 or less in all rows).
    """
    rows, columns = significance.shape
    known = np.zeros(columns, dtype=np.bool_)
    for r in range(rows):
        for c in range(columns):
            near[r, c] = significance[r, c] >= join
            known[c] |= significance[r, c] > 0
    _blot_dark(significance, near)
    for c in range(columns):
        last = -rows - gap_rows
        for r in range(rows):
            if near[r, c]:
                if 1 < r - last <= gap_rows + 1:
                    near[last + 1 : r, c] = True
                last = r
    first = 0
    while first < columns:
        if known[first]:
            first += 1
            continue
        stop = first
        while stop < columns and not known[stop]:
            stop += 1
        if first > 0 and stop < columns:
            for r in range(rows):
                before = near[r, first - 1] or (first > 1 and near[r, first - 2])
                behind = near[r, stop] or (stop + 1 < columns and near[r, stop + 1])
                if before and behind:
                    near[r, first - 1 : stop + 1] = True
        first = stop


@njit(nogil=True, cache=True)
def _root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def label_bins(near, significance, labels, boxes, peaks):
    """Label the 8-connected groups of ``near`` (bool (R, C)) from 1 on, in order of their first bin.

    labels: int32 (R, C). boxes: int64 (N, 4), first and last row, first and last column; peaks: float32 (N,), greatest
    significance of each; N at least half of all bins, rounded up. Return the number of groups.
    """
    rows, columns = near.shape
    parent = np.empty(peaks.shape[0] + 1, dtype=np.int32)
    parent[0] = 0
    count = 0
    for r in range(rows):
        for c in range(columns):
            labels[r, c] = 0
            if not near[r, c]:
                continue
            own = 0
            for dr, dc in ((0, -1), (-1, -1), (-1, 0), (-1, 1)):
                if r + dr < 0 or c + dc < 0 or c + dc >= columns or labels[r + dr, c + dc] == 0:
                    continue
                other = _root(parent, labels[r + dr, c + dc])
                if own == 0:
                    own = other
                elif other != own:
                    low, high = min(own, other), max(own, other)
                    parent[high] = low
                    own = low
            if own == 0:
                count += 1
                parent[count] = count
                own = count
            labels[r, c] = own
    number = np.zeros(count + 1, dtype=np.int32)
    groups = 0
    for r in range(rows):
        for c in range(columns):
            if labels[r, c] == 0:
                continue
            root = _root(parent, labels[r, c])
            if number[root] == 0:
                groups += 1
                number[root] = groups
                boxes[groups - 1] = (r, r, c, c)
                peaks[groups - 1] = significance[r, c]
            g = number[root] - 1
            labels[r, c] = g + 1
            boxes[g, 1] = r
            boxes[g, 2] = min(boxes[g, 2], c)
            boxes[g, 3] = max(boxes[g, 3], c)
            peaks[g] = max(peaks[g], significance[r, c])
    return groups
