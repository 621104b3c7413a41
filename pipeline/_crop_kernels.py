"""Compiled kernels between images, events and crops."""

import math

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def draw_seeds(labels, boxes, groups, steps, place, seeds):
    """Pixels of images that lie in the bins of their events.

    labels: int32 (R, C), a map of bins; boxes: int64 (N, 4), first and last row, first and last column of each event's
    bins, which hold its number in groups, int64 (N,). steps: float64 (N, 4), of each image: row of bins, counted from
    the box's first, in which row 0 of pixels lies, and rows of bins per row of pixels; the same of columns. place:
    int64 (N, 3), where its pixels begin in seeds, bool (pixels,), its rows and columns.
    """
    for n in range(place.shape[0]):
        begin, rows, columns = place[n, 0], place[n, 1], place[n, 2]
        top, left, group = boxes[n, 0], boxes[n, 2], groups[n]
        height, width = boxes[n, 1] + 1 - top, boxes[n, 3] + 1 - left
        before = -1
        for r in range(rows):
            at = begin + r * columns
            row = math.floor(steps[n, 0] + r * steps[n, 1])
            if row < 0 or row >= height:
                seeds[at : at + columns] = False
            elif row == before:  # several rows of pixels lie in one of bins
                for c in range(at, at + columns):
                    seeds[c] = seeds[c - columns]
            else:
                bins = labels[top + row, left : left + width]
                for c in range(columns):
                    column = math.floor(steps[n, 2] + c * steps[n, 3])
                    seeds[at + c] = column >= 0 and column < width and bins[column] == group
            before = row


@njit(nogil=True, cache=True)
def measure_extents(place, cells, labels, extents):
    """First and last row, first and last column, and pixels of cells.

    place: int64 (N, 3), see :func:`draw_seeds`; cells: int64 (M, 2), image and label; labels: int32 (pixels,); extents:
    int64 (M, 5).
    """
    for i in range(cells.shape[0]):
        begin, rows, columns = place[cells[i, 0]]
        label = cells[i, 1]
        top, bottom, left, right, area = np.int64(-1), np.int64(-1), columns, np.int64(-1), np.int64(0)
        for r in range(rows):
            row = labels[begin + r * columns : begin + (r + 1) * columns]
            count = 0
            for c in range(columns):
                count += row[c] == label
            if count == 0:
                continue
            area += count
            top = r if top < 0 else top
            bottom = r
            c = 0
            while c < left and row[c] != label:
                c += 1
            left = min(left, c)
            c = columns - 1
            while c > right and row[c] != label:
                c -= 1
            right = max(right, c)
        extents[i, 0], extents[i, 1], extents[i, 2], extents[i, 3], extents[i, 4] = top, bottom, left, right, area


@njit(nogil=True, cache=True)
def mark_repeated(boxes, share):
    """Which boxes are mostly one with a box before that is not so itself; bool (M,).

    boxes: float64 (M, 4), first and last line, first and last position; in order of something like the first line.
    """
    repeated = np.zeros(boxes.shape[0], dtype=np.bool_)
    for i in range(boxes.shape[0]):
        area = (boxes[i, 1] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 2])
        for k in range(i):
            lines = min(boxes[i, 1], boxes[k, 1]) - max(boxes[i, 0], boxes[k, 0])
            width = min(boxes[i, 3], boxes[k, 3]) - max(boxes[i, 2], boxes[k, 2])
            if repeated[k] or lines <= 0.0 or width <= 0.0:
                continue
            smaller = min(area, (boxes[k, 1] - boxes[k, 0]) * (boxes[k, 3] - boxes[k, 2]))
            if lines * width > share * smaller and smaller > 0.0:
                repeated[i] = True
                break
    return repeated


@njit(cache=True)
def extent(mask):
    """First and last row, first and last column of a mask that is not empty, and its pixels."""
    top, bottom, left, right, count = -1, -1, mask.shape[1], -1, 0
    for r in range(mask.shape[0]):
        in_row = 0
        for c in range(mask.shape[1]):
            if mask[r, c]:
                in_row += 1
                left, right = min(left, c), max(right, c)
        if in_row:
            top = r if top < 0 else top
            bottom = r
            count += in_row
    return top, bottom, left, right, count


@njit(nogil=True, cache=True)
def cut_many(place, cells, extents, labels, transmission, room, at_0, levels_per_unit, crops, masks, shown):
    """Grey levels and mask of a square around each cell.

    place, cells, labels, extents: see :func:`measure_extents`; transmission: float32 (pixels,), NaN where not known;
    crops: uint8, masks: bool (M, S, S). What is not known, or more than ``room`` pixels beyond the cell's extent, is
    drawn as empty (1). shown: int64 (M,), pixels of the cell that lie in its square.
    """
    side = crops.shape[1]
    empty = np.uint8(min(max(np.rint((1.0 - at_0) * levels_per_unit), 0.0), 255.0))
    for i in range(cells.shape[0]):
        begin, rows, columns = place[cells[i, 0], 0], place[cells[i, 0], 1], place[cells[i, 0], 2]
        label = cells[i, 1]
        top = (extents[i, 0] + extents[i, 1] - side + 2) // 2
        left = (extents[i, 2] + extents[i, 3] - side + 2) // 2
        first_row, last_row = max(extents[i, 0] - room, 0), min(extents[i, 1] + room, rows - 1)
        first_column = max(extents[i, 2] - room, 0, left)
        stop_column = min(extents[i, 3] + room + 1, columns, left + side)
        count = 0
        for r in range(side):
            crop, inside = crops[i, r], masks[i, r]
            for c in range(side):
                crop[c] = empty
                inside[c] = False
            row = top + r
            if row < first_row or row > last_row:
                continue
            at = begin + row * columns
            for column in range(first_column, stop_column):
                value = transmission[at + column]
                if not np.isnan(value):
                    grey = np.rint((np.float64(value) - at_0) * levels_per_unit)
                    crop[column - left] = np.uint8(min(max(grey, 0.0), 255.0))
                if labels[at + column] == label:
                    inside[column - left] = True
                    count += 1
        shown[i] = count
        if count == 0:  # a hollow shape larger than the square: the format needs a pixel
            masks[i, side // 2, side // 2] = True
