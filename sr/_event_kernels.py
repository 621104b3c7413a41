"""Compiled kernels that group the bins of a significance map into events.

They keep the GIL: they take less time than another thread takes to wake up, and would then wait for it to give the GIL
back.
"""

import numpy as np
from numba import njit


@njit(cache=True)
def extremes(values):
    """Least and greatest of a float32 (R, C); (0, 0) where it is empty."""
    least = greatest = np.float32(0.0)
    for r in range(values.shape[0]):
        for c in range(values.shape[1]):
            least, greatest = min(least, values[r, c]), max(greatest, values[r, c])
    return least, greatest


@njit(cache=True)
def near_bins(significance, join, gap_rows, near):
    """Bins that may belong to an event; bool, the map's shape.

    Significance of at least ``join``; gaps of up to ``gap_rows`` rows between two of one column; and what lies between
    bins on both sides of columns in which nothing is known (0 in all rows).
    """
    rows, columns = significance.shape
    known = np.zeros(columns, dtype=np.bool_)
    for r in range(rows):
        for c in range(columns):
            near[r, c] = significance[r, c] >= join
            known[c] |= significance[r, c] != 0
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


@njit(cache=True)
def _root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True)
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
