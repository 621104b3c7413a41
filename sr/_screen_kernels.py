"""The compiled kernel that touches every sample: integer SIMD, one row of lines at a time.

What makes it as fast as memory is read: contiguous slices instead of index arithmetic, integers no wider than they
must be, widths that are whole vectors, and a prefetch that keeps the memory busy while the row before is looked at.
"""

import math
from typing import Any

import numpy as np
from numba import config, njit, types
from numba.extending import intrinsic

# Lines of one row; the kernel is unrolled for it.
ROW_LINES = 4
# Samples between what is looked at and what is asked of the memory. Longer, and it is evicted again; shorter, and it
# has not come yet: 1024 to 2048 are about as good.
_AHEAD_SAMPLES = 2048
_CACHE_LINE_BYTES = 64
# Sums of this many positions are added up one by one. Three foldings of sums of four 8-bit samples fit into int16.
_FEW_POSITIONS = 64

if config.DISABLE_JIT:  # type: ignore[attr-defined]

    def _prefetch(array: np.ndarray, index: int) -> None:
        """Without the compiler there is no memory to wait for."""

else:

    @intrinsic
    def _prefetch(typingctx: Any, array: Any, index: Any) -> Any:
        """Ask the memory for the cache line that holds ``array[index]``."""
        from llvmlite import ir

        def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            made = context.make_array(signature.args[0])(context, builder, arguments[0])
            pointer_type, int32 = ir.IntType(8).as_pointer(), ir.IntType(32)
            pointer = builder.bitcast(builder.gep(made.data, [arguments[1]]), pointer_type)
            called = builder.module.declare_intrinsic(
                "llvm.prefetch",
                [pointer_type],
                ir.FunctionType(ir.VoidType(), [pointer_type, int32, int32, int32]),
            )
            builder.call(called, [pointer, int32(0), int32(3), int32(1)])  # for reading, to keep, data
            return context.get_dummy_value()

        return types.void(array, index), codegen


@njit(cache=True)
def starts_between(knot_line, knot_start, first, step, count):
    """Starts of lines first, first + step, … on the straight lines between knots; float64 (count,).

    It keeps the GIL, as do all kernels that take less time than another thread takes to wake up.
    """
    starts = np.empty(count)
    k, last = 0, knot_line.shape[0] - 2
    for i in range(count):
        line = first + i * step
        while k < last and line >= knot_line[k + 1]:
            k += 1
        slope = (knot_start[k + 1] - knot_start[k]) / (knot_line[k + 1] - knot_line[k])
        starts[i] = knot_start[k] + (line - knot_line[k]) * slope
    return starts


@njit(cache=True)
def flagged_groups(flags, gap):
    """First and last row of each group of flagged rows that lie no further apart than ``gap``; int64 (N, 2)."""
    count, last = 0, -gap - 1
    for r in range(flags.shape[0]):
        if flags[r]:
            count += r - last > gap
            last = r
    groups = np.empty((count, 2), dtype=np.int64)
    count, last = 0, -gap - 1
    for r in range(flags.shape[0]):
        if flags[r]:
            if r - last > gap:
                groups[count, 0] = r
                count += 1
            groups[count - 1, 1] = r
            last = r
    return groups


@njit(cache=True)
def rows_near(flags, first, stop, beside):
    """Whether each of rows first … stop - 1 lies within ``beside`` rows of a flagged one; bool."""
    near = np.zeros(stop - first, dtype=np.bool_)
    for r in range(max(first - beside, 0), min(stop + beside, flags.shape[0])):
        if flags[r]:
            near[max(r - beside - first, 0) : max(min(r + beside + 1, stop) - first, 0)] = True
    return near


@njit(cache=True)
def append_flags(first, second, third):
    """Three bool arrays as one."""
    both = first.shape[0] + second.shape[0]
    joined = np.empty(both + third.shape[0], dtype=np.bool_)
    joined[: first.shape[0]] = first
    joined[first.shape[0] : both] = second
    joined[both:] = third
    return joined


@njit(cache=True)
def copy_samples(source, begin, stop, target, at):
    """Copy some samples."""
    target[at : at + stop - begin] = source[begin:stop]


def _make_screen(integer: Any) -> Any:
    """The kernel for sums of type ``integer``: int16 holds those of 8-bit samples, int32 of all others."""

    @njit(nogil=True, cache=True)
    def screen_rows(samples, origin, row_starts, tables, low, high, sums, boxes, flags):
        """Flag the rows in which some box of samples differs from the empty line, and count samples on a rail.

        samples: (S,), 8 or 16 bits; samples[0] is sample ``origin`` of the digitiser. row_starts: float64 (R + 1,),
        starts of every fourth line, counted from samples[0]; the rows' samples, and as many beyond as the tables
        reach, lie in ``samples``.
        tables = (offsets int64 (P + 1, 4), expected (C, P + 1, W), limits (P + 1, W), doublings, first and last + 1
        of the positions that tell the baseline); sums, boxes: work space (W + 8,). flags: bool (R,).
        Return the samples at or beyond the rails, from the first row's first sample to the last row's end.
        """
        offsets, expected, limits, doublings, base_first, base_stop = tables
        converters, phases, width = expected.shape[0], expected.shape[1] - 1, expected.shape[2]
        per_line = _CACHE_LINE_BYTES // samples.itemsize
        saturated = 0
        first = math.ceil(row_starts[0])
        for r in range(row_starts.shape[0] - 1):
            last = math.ceil(row_starts[r + 1])
            for ahead in range(first + _AHEAD_SAMPLES, min(last + _AHEAD_SAMPLES, samples.shape[0]), per_line):
                _prefetch(samples, ahead)
            phase = int((first - row_starts[r]) * phases + 0.5)
            second, third, fourth = first + offsets[phase, 1], first + offsets[phase, 2], first + offsets[phase, 3]
            x0, x1 = samples[first : first + width], samples[second : second + width]
            x2, x3 = samples[third : third + width], samples[fourth : fourth + width]
            e = expected[(first + origin) % converters, phase]
            for j in range(width):
                sums[j] = integer(x0[j]) + integer(x1[j]) + integer(x2[j]) + integer(x3[j]) - e[j]
            # the mean of the positions that tell the baseline: folded on themselves while they are many
            half, total = base_stop - base_first, 0
            folded = sums[base_first:base_stop]
            for _ in range(3):
                if half <= _FEW_POSITIONS:
                    break
                if half % 2:
                    total += folded[half - 1]
                half //= 2
                for j in range(half):
                    boxes[j] = integer(folded[j] + folded[half + j])
                folded = boxes
            for j in range(half):
                total += folded[j]
            baseline = round(total * (1 << doublings) / (base_stop - base_first))
            # a box of 2, then 4, then 8 neighbours; the buffers take turns, so that none overlaps itself
            a, b = sums, boxes
            for step in range(doublings):
                beside = a[1 << step : width + (1 << step)]
                for j in range(width):
                    b[j] = integer(a[j] + beside[j])
                a, b = b, a
            limit = limits[phase]
            expected_box = integer(baseline)
            worst = integer(-1)
            for j in range(width):
                worst = max(worst, integer(abs(integer(a[j] - expected_box)) - limit[j]))
            flags[r] = worst > 0
            x = samples[first:last]
            lowest, highest = x[0], x[0]
            for j in range(x.shape[0]):
                lowest = min(lowest, x[j])
                highest = max(highest, x[j])
            if lowest <= low or highest >= high:
                for j in range(x.shape[0]):
                    saturated += x[j] <= low or x[j] >= high
            first = last
        return saturated

    return screen_rows


screen_rows_int16 = _make_screen(np.int16)
screen_rows_int32 = _make_screen(np.int32)
