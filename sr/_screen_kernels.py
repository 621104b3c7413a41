"""The compiled kernel that touches every sample: integer SIMD, one row of lines at a time.

What makes it as fast as memory is read:

- Samples are read in the order of memory, for those on a rail, a little ahead of being looked at. The memory then sees
  one stream, and its own prefetcher does better than any prefetch written out here.
- All else that a row needs stays in the first-level cache: tables of a few kilobytes, and no work arrays. What only
  the second level has waits behind the stream.
- Vectors are written out and stay in registers. Loops over slices become vectors too, but go through memory once per
  step, and their checks and remainders take longer than the work on lines this short.
"""

import math
import operator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import lower_builtin, models, register_model, type_callable

# Lines of one row; the kernel is unrolled for it.
ROW_LINES = 4
# A vector is a cache line; where registers are shorter, it takes several.
VECTOR_BYTES = 64
# Vectors that are read at a time in the order of memory, and how many this is ahead of what is looked at. None ahead
# is slower by a twentieth; a kibibyte or more ahead, by a fifth or more.
READ_VECTORS = 4
# Sums of four lines' pairs of 8-bit samples, added up over so many vectors, fit into int16.
_FEW_VECTORS = 16


class Lanes(types.Type):
    """Type of a vector in compiled code: ``count`` integers of type ``scalar``.

    What can be done with it follows. Each function's body is what it does to NumPy arrays when the compiler is off.
    """

    def __init__(self, scalar: Any, count: int) -> None:
        self.scalar, self.count = scalar, count
        super().__init__(name=f"Lanes({scalar}, {count})")


@register_model(Lanes)
class _LanesModel(models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, ir.VectorType(ir.IntType(lanes.scalar.bitwidth), lanes.count))


def _compiled(function: Any, typer: Any, *arguments: Any) -> Any:
    """Decorator of what builds the code of ``function``, whose result has the type that ``typer`` says."""
    type_callable(function)(lambda context: typer)
    return lower_builtin(function, *arguments)


def _constant(vector: Any, value: int) -> Any:
    return ir.Constant(vector, [value] * vector.count)


def _some_lanes(builder: Any, one: Any, other: Any, first: int, count: int) -> Any:
    """Some neighbouring lanes of two vectors side by side."""
    which = ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(first, first + count)))
    return builder.shuffle_vector(one, other, which)


def _lanes_of(context: Any, builder: Any, scalar: Any, scalar_type: Any, lanes: Lanes) -> Any:
    """A vector whose lanes all are one number."""
    vector = context.get_value_type(lanes)
    number = context.cast(builder, scalar, scalar_type, lanes.scalar)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, _constant(ir.VectorType(ir.IntType(32), lanes.count), 0))


def _spread(like, value):
    """A vector like another one, of one number."""
    return np.full_like(like, value)


@_compiled(_spread, lambda like, value: like, Lanes, types.Integer)
def _(context, builder, signature, arguments):
    return _lanes_of(context, builder, arguments[1], signature.args[1], signature.return_type)


def _load(array, index):
    """The vector that begins at ``array[index]``."""
    return array[index : index + VECTOR_BYTES // array.itemsize]


def _load_like(like, array, index):
    """As many lanes as another vector has, from ``array[index]`` on."""
    return array[index : index + like.size]


def _loaded(array: Any, count: int) -> Lanes | None:
    return Lanes(array.dtype, count) if array.layout == "C" else None


def _build_load(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    array_type = signature.args[-2]
    data = context.make_array(array_type)(context, builder, arguments[-2]).data
    pointer = builder.gep(data, [context.cast(builder, arguments[-1], signature.args[-1], types.intp)])
    vector = context.get_value_type(signature.return_type)
    return builder.load(builder.bitcast(pointer, vector.as_pointer()), align=array_type.dtype.bitwidth // 8)


_compiled(
    _load, lambda array, index: _loaded(array, 8 * VECTOR_BYTES // array.dtype.bitwidth), types.Array, types.Integer
)(_build_load)
_compiled(_load_like, lambda like, array, index: _loaded(array, like.count), Lanes, types.Array, types.Integer)(
    _build_load
)


def _count(lanes):
    """How many lanes; a constant for the compiler, unlike the size of an array's items."""
    return lanes.size


@_compiled(_count, lambda lanes: types.intp, Lanes)
def _(context, builder, signature, arguments):
    return context.get_constant(types.intp, signature.args[0].count)


def _same(one: Any, other: Any) -> Any:
    return one if isinstance(one, Lanes) and one == other else None


@_compiled(operator.add, _same, Lanes, Lanes)
def _(context, builder, signature, arguments):
    return builder.add(*arguments)


@_compiled(operator.sub, _same, Lanes, Lanes)
def _(context, builder, signature, arguments):
    return builder.sub(*arguments)


@_compiled(operator.and_, _same, Lanes, Lanes)
def _(context, builder, signature, arguments):
    return builder.and_(*arguments)


def _build_comparison(comparison: str, builder: Any, lanes: Lanes, one: Any, other: Any) -> Any:
    return (builder.icmp_signed if lanes.scalar.signed else builder.icmp_unsigned)(comparison, one, other)


def _smaller(one, other):
    """The smaller number in each lane."""
    return np.minimum(one, other)


@_compiled(_smaller, _same, Lanes, Lanes)
def _(context, builder, signature, arguments):
    return builder.select(_build_comparison("<", builder, signature.return_type, *arguments), *arguments)


def _larger(one, other):
    """The larger number in each lane."""
    return np.maximum(one, other)


@_compiled(_larger, _same, Lanes, Lanes)
def _(context, builder, signature, arguments):
    return builder.select(_build_comparison(">", builder, signature.return_type, *arguments), *arguments)


def _any_at_least(lanes, value):
    """Whether a lane is ``value`` or more."""
    return bool((lanes >= value).any())


def _any_at_most(lanes, value):
    """Whether a lane is ``value`` or less."""
    return bool((lanes <= value).any())


def _build_any(comparison: str) -> Any:
    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lanes = signature.args[0]
        number = _lanes_of(context, builder, arguments[1], signature.args[1], lanes)
        holds = _build_comparison(comparison, builder, lanes, arguments[0], number)
        bits = builder.bitcast(holds, ir.IntType(lanes.count))
        return builder.icmp_unsigned("!=", bits, bits.type(0))

    return build


_compiled(_any_at_least, lambda lanes, value: types.boolean, Lanes, types.Integer)(_build_any(">="))
_compiled(_any_at_most, lambda lanes, value: types.boolean, Lanes, types.Integer)(_build_any("<="))


def _pairs(one, two, three, four):
    """Sums of two neighbours in each of four vectors, signed integers of twice the width."""
    wide = np.dtype(f"i{2 * one.itemsize}")
    together = one.astype(wide) + two.astype(wide) + three.astype(wide) + four.astype(wide)
    return together[::2] + together[1::2]


@_compiled(
    _pairs,
    lambda one, two, three, four: Lanes(types.Integer.from_bitwidth(2 * one.scalar.bitwidth, True), one.count // 2),
    *(Lanes,) * 4,
)
def _(context, builder, signature, arguments):
    """Each pair is taken for one integer: its high half is one number, its low half the other.

    A signed low half is made positive and that taken back at the end: processors shift less than they mask.
    """
    narrow = signature.args[0].scalar
    wide = context.get_value_type(signature.return_type)
    width, mask = _constant(wide, narrow.bitwidth), _constant(wide, (1 << narrow.bitwidth) - 1)
    half = 1 << (narrow.bitwidth - 1)
    sums = _constant(wide, -len(arguments) * half if narrow.signed else 0)
    for argument in arguments:
        pair = builder.bitcast(argument, wide)
        if narrow.signed:
            low, high = builder.xor(pair, _constant(wide, half)), builder.ashr(pair, width)
        else:
            low, high = pair, builder.lshr(pair, width)
        sums = builder.add(sums, builder.add(builder.and_(low, mask), high))
    return sums


def _folded(lanes):
    """Sums of two neighbours each, of the same width, which must hold them."""
    return lanes[::2] + lanes[1::2]


@_compiled(_folded, lambda lanes: Lanes(lanes.scalar, lanes.count // 2), Lanes)
def _(context, builder, signature, arguments):
    width = signature.args[0].scalar.bitwidth
    wide = ir.VectorType(ir.IntType(2 * width), signature.return_type.count)
    both = builder.bitcast(arguments[0], wide)
    sums = builder.add(both, builder.lshr(both, _constant(wide, width)))
    return builder.trunc(sums, context.get_value_type(signature.return_type))


def _moved(before, lanes):
    """The vector that begins one lane earlier, if ``before`` comes before ``lanes``."""
    return np.append(before[-1:], lanes[:-1])


@_compiled(_moved, _same, Lanes, Lanes)
def _(context, builder, signature, arguments):
    count = signature.return_type.count
    return _some_lanes(builder, *arguments, count - 1, count)


def _total(lanes):
    """Sum of all lanes."""
    return int(lanes.sum(dtype=np.int64))


@_compiled(_total, lambda lanes: types.int64, Lanes)
def _(context, builder, signature, arguments):
    """Halves on top of each other until one lane is left; int16 needs no more than 32 bits on the way."""
    (lanes,) = signature.args
    width = 32 if lanes.scalar.bitwidth == 16 else 64
    count = lanes.count
    sums = builder.sext(arguments[0], ir.VectorType(ir.IntType(width), count))
    while count > 1:
        count //= 2
        sums = builder.add(*(_some_lanes(builder, sums, sums, first, count) for first in (0, count)))
    return builder.sext(builder.extract_element(sums, ir.IntType(32)(0)), ir.IntType(64))


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
def widest_gap(flags, begin, first, stop):
    """The flagged rows, from ``begin`` on, before and behind the widest gap between two, the last of equally wide ones.

    Of gaps that begin before row ``stop`` and end in row ``first`` or later; without any, ``begin`` twice.
    """
    last, before, behind = -1, begin, begin
    for r in range(begin, flags.shape[0]):
        if flags[r]:
            if last >= 0 and r >= first and r - last >= behind - before:
                before, behind = last, r
            last = r
            if last >= stop:
                break
    return before, behind


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


@njit(nogil=True, cache=True)
def _with_samples(lowest, highest, samples, at):
    """The least and the greatest samples so far, lane by lane, with some vectors more."""
    step = _count(lowest)
    w, x = _load(samples, at), _load(samples, at + step)
    y, z = _load(samples, at + 2 * step), _load(samples, at + 3 * step)
    lowest = _smaller(lowest, _smaller(_smaller(w, x), _smaller(y, z)))
    return lowest, _larger(highest, _larger(_larger(w, x), _larger(y, z)))


@njit(nogil=True, cache=True)
def _count_beyond(samples, low, high):
    """Samples at or beyond a rail."""
    count = 0
    for j in range(samples.shape[0]):
        count += samples[j] <= low or samples[j] >= high
    return count


@njit(nogil=True, cache=True)
def _beyond_limits(top, bottom, boxes, expected, limits, index):
    """With more boxes, ``top`` and ``bottom``: how far any is above what is expected and allowed, and below."""
    deviation = boxes - _load_like(boxes, expected, index)
    limit = _load_like(boxes, limits, index)
    return _larger(top, deviation - limit), _smaller(bottom, deviation + limit)


@njit(nogil=True, cache=True, error_model="numpy")
def screen_rows(samples, origin, row_starts, tables, low, high, flags):
    """Flag the rows in which some box of samples differs from the empty line, and count samples on a rail.

    samples: (S,), 8 or 16 bits; samples[0] is sample ``origin`` of the digitiser. row_starts: float64 (R + 1,),
    starts of every fourth line, counted from samples[0]; the rows' samples, and as many beyond as the tables reach,
    lie in ``samples``. tables: see ``ScreenTables``; of int16 for samples of 8 bits, else of int32. flags: bool (R,).
    Return the samples at or beyond the rails, from the first row's first sample to the last row's end.
    """
    offsets, expected, limits, doublings, base_first, base_stop, base_sums = tables
    phases, converters, per_box = offsets.shape[0] - 1, base_sums.shape[0], 1 << doublings
    step = _count(_load(samples, 0))
    stride = max(per_box // 2, 2)
    searched = limits.shape[1] * stride
    width = max(searched, -(-base_stop // step) * step)
    in_base = np.zeros(width // 2, dtype=limits.dtype)
    in_base[base_first // 2 : base_stop // 2] = -1
    base_block = base_first // step * step
    scale = per_box / (base_stop - base_first)
    far = (1 << (8 * limits.itemsize - 1)) - 1
    first, end = math.ceil(row_starts[0]), math.ceil(row_starts[-1])
    # where the reading in the order of memory has got to, a cache line's beginning, and up to where it is counted
    ahead = max(first - (samples.ctypes.data // (VECTOR_BYTES // step) + first) % step, 0)
    counted, saturated = first, 0
    for r in range(row_starts.shape[0] - 1):
        last = math.ceil(row_starts[r + 1])
        ahead_stop = min(last + READ_VECTORS * step, end)
        phase = int((first - row_starts[r]) * phases + 0.5)
        second, third, fourth = first + offsets[phase, 1], first + offsets[phase, 2], first + offsets[phase, 3]
        converter = (first + origin) % converters
        e, limit = expected[min(converter, expected.shape[0] - 1), phase], limits[phase]
        x = _load(samples, first)
        lowest, highest = x, x
        pairs_before = _spread(_pairs(x, x, x, x), 0)
        quads_before = _folded(pairs_before)
        base, total = pairs_before, 0
        top, bottom = _spread(pairs_before, -far), _spread(pairs_before, far)
        top_8, bottom_8 = _spread(quads_before, -far), _spread(quads_before, far)
        for block in range(width // step):
            at = block * step
            if ahead < ahead_stop:
                lowest, highest = _with_samples(lowest, highest, samples, ahead)
                ahead += READ_VECTORS * step
            pairs = _pairs(
                _load(samples, first + at),
                _load(samples, second + at),
                _load(samples, third + at),
                _load(samples, fourth + at),
            )
            if at >= base_block:
                base = base + (pairs & _load(in_base, at // 2))
                if block % _FEW_VECTORS == _FEW_VECTORS - 1:
                    total += _total(base)
                    base = _spread(base, 0)
            if at < searched:
                if doublings == 1:
                    top, bottom = _beyond_limits(top, bottom, pairs, e, limit, at // 2)
                elif doublings == 2:
                    boxes = _moved(pairs_before, pairs) + pairs
                    top, bottom = _beyond_limits(top, bottom, boxes, e, limit, at // 2)
                    pairs_before = pairs
                else:
                    quads = _folded(pairs)
                    boxes_8 = _moved(quads_before, quads) + quads
                    top_8, bottom_8 = _beyond_limits(top_8, bottom_8, boxes_8, e, limit, at // 4)
                    quads_before = quads
        while ahead < ahead_stop:
            lowest, highest = _with_samples(lowest, highest, samples, ahead)
            ahead += READ_VECTORS * step
        if _any_at_most(lowest, low) or _any_at_least(highest, high):
            saturated += _count_beyond(samples[counted : min(ahead, end)], low, high)
        counted = ahead
        baseline = math.floor((total + _total(base) - base_sums[converter, phase]) * scale + 0.5)
        flags[r] = (
            _any_at_least(top, baseline + 1)
            or _any_at_most(bottom, baseline - 1)
            or _any_at_least(top_8, baseline + 1)
            or _any_at_most(bottom_8, baseline - 1)
        )
        first = last
    return saturated
