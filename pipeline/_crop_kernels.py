"""Compiled kernels between images, events and crops."""

import math

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def _copy(source, target, at, count):
    source, target = source[:count], target[at : at + count]
    for i in range(count):
        target[i] = source[i]


@njit(nogil=True, cache=True)
def draw_seeds(labels, boxes, groups, steps, place, seeds):
    """Pixels of images that lie in the bins of their events.

    labels: int32 (R, C), a map of bins; boxes: int64 (N, 4), first and last row, first and last column of each event's
    bins, which hold its number in groups, int64 (N,). steps: float64 (N, 4), of each image: row of bins, counted from
    the box's first, in which row 0 of pixels lies, and rows of bins per row of pixels; the same of columns. place:
    int64 (N, 3), where its pixels begin in seeds, bool (pixels,), its rows and columns.
    """
    widest = 0
    for n in range(place.shape[0]):
        widest = max(widest, place[n, 2])
    line, column_of = np.empty(widest, np.bool_), np.empty(widest, np.int64)
    for n in range(place.shape[0]):
        begin, rows, columns = place[n, 0], place[n, 1], place[n, 2]
        top, left, group = boxes[n, 0], boxes[n, 2], groups[n]
        height, width = boxes[n, 1] + 1 - top, boxes[n, 3] + 1 - left
        first, stop = columns, 0  # of the pixels whose columns lie in the box
        for c in range(columns):
            column_of[c] = math.floor(steps[n, 2] + c * steps[n, 3])
            if column_of[c] >= 0 and column_of[c] < width:
                first, stop = min(first, c), c + 1
        before = -1
        line[:] = False
        for r in range(rows):
            row = min(max(math.floor(steps[n, 0] + r * steps[n, 1]), -1), height)
            if row != before:  # several rows of pixels lie in one of bins
                before = row
                if row < 0 or row == height:
                    line[:] = False
                else:
                    bins = labels[top + row, left : left + width]
                    for c in range(first, stop):
                        line[c] = bins[column_of[c]] == group
            _copy(line, seeds, begin + r * columns, columns)


@njit(nogil=True, cache=True)
def _count_label(labels, at, label, counts):
    """Add to counts, int32 (columns,), where a row of an image is labelled so; return whether it is anywhere."""
    row = labels[at : at + counts.shape[0]]
    some = np.int32(0)
    for c in range(counts.shape[0]):
        own = np.int32(row[c] == label)
        counts[c] += own
        some += own
    return some > 0


@njit(nogil=True, cache=True)
def measure_extents(place, cells, labels, extents):
    """First and last row, first and last column, and pixels of cells.

    place: int64 (N, 3), see :func:`draw_seeds`; cells: int64 (M, 2), image and label; labels: int32 (pixels,); extents:
    int64 (M, 5).
    """
    for i in range(cells.shape[0]):
        begin, rows, columns = place[cells[i, 0], 0], place[cells[i, 0], 1], place[cells[i, 0], 2]
        counts = np.zeros(columns, np.int32)
        top, bottom = -1, -1
        for r in range(rows):
            if _count_label(labels, begin + r * columns, cells[i, 1], counts):
                top = r if top < 0 else top
                bottom = r
        left, right, area = columns, -1, 0
        for c in range(columns):
            if counts[c] > 0:
                left, right = min(left, c), c
                area += np.int64(counts[c])
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


@njit(nogil=True, cache=True)
def most_alike(boxes, others):
    """Of each box, the one among others with which it shares most of the area that both cover; -1 if none; int64 (M,).

    float64 (M, 4) and (N, 4), begin and end of lines and of positions.
    """
    like = np.full(boxes.shape[0], -1, dtype=np.int64)
    for i in range(boxes.shape[0]):
        area = (boxes[i, 1] - boxes[i, 0]) * (boxes[i, 3] - boxes[i, 2])
        most = 0.0
        for k in range(others.shape[0]):
            lines = min(boxes[i, 1], others[k, 1]) - max(boxes[i, 0], others[k, 0])
            width = min(boxes[i, 3], others[k, 3]) - max(boxes[i, 2], others[k, 2])
            if lines <= 0.0 or width <= 0.0:
                continue
            shared = lines * width
            share = shared / (area + (others[k, 1] - others[k, 0]) * (others[k, 3] - others[k, 2]) - shared)
            if share > most:
                most = share
                like[i] = k
    return like


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


@njit(nogil=True, cache=True, error_model="numpy")
def _draw_row(transmission, labels, at, label, at_0, levels_per_unit, empty, crop, inside):
    """Grey levels and mask of pixels ``at`` … of an image; crop: uint8, inside: bool (n,)."""
    n = crop.shape[0]
    values, marks = transmission[at : at + n], labels[at : at + n]
    zero, most, half = np.float32(0.0), np.float32(255.0), np.float32(0.5)
    for c in range(n):
        grey = (values[c] - at_0) * levels_per_unit + half
        grey = min(max(grey, zero), most) if grey == grey else empty
        crop[c] = np.uint8(np.int32(grey))
    count = np.int32(0)
    for c in range(n):
        own = marks[c] == label
        inside[c] = own
        count += np.int32(own)
    return np.int64(count)


@njit(nogil=True, cache=True)
def cut_many(place, cells, extents, labels, transmission, room, at_0, levels_per_unit, crops, masks, shown):
    """Grey levels and mask of a square around each cell.

    place, cells, labels, extents: see :func:`measure_extents`; transmission: float32 (pixels,), NaN where not known;
    crops: uint8, masks: bool (M, S, S). What is not known, or more than ``room`` pixels beyond the cell's extent, is
    drawn as empty (1). shown: int64 (M,), pixels of the cell that lie in its square.
    """
    side = crops.shape[1]
    zero, levels = np.float32(at_0), np.float32(levels_per_unit)
    empty = min(max(np.float32((1.0 - at_0) * levels_per_unit + 0.5), np.float32(0.0)), np.float32(255.0))
    for i in range(cells.shape[0]):
        begin, rows, columns = place[cells[i, 0], 0], place[cells[i, 0], 1], place[cells[i, 0], 2]
        top = (extents[i, 0] + extents[i, 1] - side + 2) // 2
        left = (extents[i, 2] + extents[i, 3] - side + 2) // 2
        first_row, stop_row = max(extents[i, 0] - room, 0, top), min(extents[i, 1] + room + 1, rows, top + side)
        first, stop = max(extents[i, 2] - room, 0, left), min(extents[i, 3] + room + 1, columns, left + side)
        crops[i], masks[i] = np.uint8(empty), False
        count = 0
        for row in range(first_row, stop_row):
            count += _draw_row(
                transmission, labels, begin + row * columns + first, cells[i, 1], zero, levels, empty,
                crops[i, row - top, first - left : stop - left], masks[i, row - top, first - left : stop - left],
            )  # fmt: skip
        shown[i] = count
        if count == 0:  # a hollow shape larger than the square: the format needs a pixel
            masks[i, side // 2, side // 2] = True
