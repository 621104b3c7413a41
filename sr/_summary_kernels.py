"""Compiled kernel that sums up objects from the sums of the screen: for when there is no time to image them.

One pass over the rows. Boxes of neighbouring samples of four lines are compared with the empty line, runs of boxes
that deviate are joined with those of the row before, and each object's sums grow as its rows go by.
"""

import math
from typing import Any

import numpy as np
from numba import njit

# Sums of an object, float64: boxes; first and last row; first and last box; of the lost light (1 - transmission), and
# of it times row and box; greatest loss in size; greatest deviation over its limit.
BOXES, ROW_FIRST, ROW_LAST, BOX_FIRST, BOX_LAST, LOSS, LOSS_ROW, LOSS_BOX, MOST_LOSS, SIGNIFICANCE = range(10)
SUMS = 10


@njit(nogil=True, cache=True)
def _root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(nogil=True, cache=True)
def _join(objects, parent, a, b):
    """Make one object of two; the lower number stays."""
    low, high = min(a, b), max(a, b)
    parent[high] = low
    one, other = objects[low], objects[high]
    one[BOXES] += other[BOXES]
    one[ROW_FIRST] = min(one[ROW_FIRST], other[ROW_FIRST])
    one[ROW_LAST] = max(one[ROW_LAST], other[ROW_LAST])
    one[BOX_FIRST] = min(one[BOX_FIRST], other[BOX_FIRST])
    one[BOX_LAST] = max(one[BOX_LAST], other[BOX_LAST])
    one[LOSS] += other[LOSS]
    one[LOSS_ROW] += other[LOSS_ROW]
    one[LOSS_BOX] += other[LOSS_BOX]
    one[MOST_LOSS] = max(one[MOST_LOSS], other[MOST_LOSS])
    one[SIGNIFICANCE] = max(one[SIGNIFICANCE], other[SIGNIFICANCE])
    other[BOXES] = 0.0
    return low


def _make_summary(integer: Any) -> Any:
    """The kernel for sums of type ``integer``, as for the screen."""

    @njit(nogil=True, cache=True, error_model="numpy")
    def summarise_rows(samples, origin, row_starts, wanted, tables, inverse_light, work, objects, parent):
        """Sums of the objects in some rows; return how many there are, those joined with another (0 boxes) included.

        samples, origin, row_starts, tables: as for ``_screen_kernels``; wanted: bool (R,), rows to look at. A box
        belongs to an object where it deviates by more than its limit; of boxes that overlap, every second one is used.
        inverse_light: float32 (phases + 1, boxes of the tables), 1/light of a box of four lines, 0 where it is not
        used. work: the sums' type, (2, W + 8), W the samples of a line that are looked at. objects: float64
        (N, SUMS), parent: int64 (N,); what comes when they are full is left out.
        """
        offsets, expected, limits, doublings, base_first, base_stop, base_sums = tables
        phases, converters, width = offsets.shape[0] - 1, base_sums.shape[0], work.shape[1] - 8
        box = 1 << doublings
        each = 1 if doublings == 1 else 2
        boxes = limits.shape[1] // each
        label = np.full((2, boxes + 2), -1, dtype=np.int64)
        count = 0
        for r in range(row_starts.shape[0] - 1):
            if not wanted[r]:
                label[r % 2, :] = -1
                continue
            first = math.ceil(row_starts[r])
            phase = int((first - row_starts[r]) * phases + 0.5)
            second, third, fourth = first + offsets[phase, 1], first + offsets[phase, 2], first + offsets[phase, 3]
            x0, x1 = samples[first : first + width], samples[second : second + width]
            x2, x3 = samples[third : third + width], samples[fourth : fourth + width]
            converter = (first + origin) % converters
            e = expected[min(converter, expected.shape[0] - 1), phase]
            a, b = work[0], work[1]
            for j in range(width):
                a[j] = integer(x0[j]) + integer(x1[j]) + integer(x2[j]) + integer(x3[j])
            total = 0
            for j in range(base_first, base_stop):
                total += a[j]
            baseline = (total - base_sums[converter, phase]) * box / (base_stop - base_first)
            for step in range(doublings):
                shifted = a[1 << step : width + (1 << step)]
                for j in range(width):
                    b[j] = integer(a[j] + shifted[j])
                a, b = b, a
            limit, inverse = limits[phase], inverse_light[phase]
            now, before = label[r % 2], label[(r + 1) % 2]
            for c in range(boxes):
                now[c + 1] = -1
                k = (c + 1) * each - 1
                deviation = a[c * box] - e[k] - baseline
                certain = abs(deviation) / limit[k]
                if certain <= 1.0 or inverse[k] == 0.0:
                    continue
                # the object to the left, and those of the row before that touch
                own = now[c]
                for beside in range(c, c + 3):
                    if before[beside] < 0:
                        continue
                    other = _root(parent, before[beside])
                    if own < 0:
                        own = other
                    elif other != own:
                        own = _join(objects, parent, own, other)
                if own < 0:
                    if count == objects.shape[0]:
                        continue
                    own = count
                    count += 1
                    parent[own] = own
                    new = objects[own]
                    new[:] = 0.0
                    new[ROW_FIRST], new[BOX_FIRST] = r, c
                now[c + 1] = own
                loss = -deviation * inverse[k]
                one = objects[own]
                one[BOXES] += 1.0
                one[ROW_LAST] = r
                one[BOX_FIRST] = min(one[BOX_FIRST], c)
                one[BOX_LAST] = max(one[BOX_LAST], c)
                one[LOSS] += loss
                one[LOSS_ROW] += loss * r
                one[LOSS_BOX] += loss * c
                one[MOST_LOSS] = max(one[MOST_LOSS], abs(loss))
                one[SIGNIFICANCE] = max(one[SIGNIFICANCE], certain)
            # a join in this row may have renamed what is to the left
            for c in range(boxes):
                if now[c + 1] >= 0:
                    now[c + 1] = _root(parent, now[c + 1])
        return count

    return summarise_rows


summarise_rows_int16 = _make_summary(np.int16)
summarise_rows_int32 = _make_summary(np.int32)
