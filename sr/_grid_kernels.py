"""Compiled kernels that grid registered lines into images: arrays in, arrays out.

Every line is spread along itself once, to columns of the image; rows are weighted sums of such lines. Loops index whole
arrays from unsigned offsets on: slices would cost reference counts, and signed indices a look at their sign.
"""

import math

import numpy as np
from numba import njit

from ._calibration_kernels import CONVERTERS
from .background import LIT_SHARE

# The kernel is cut at this many standard deviations.
_KERNEL_REACH = 3.0
# Share of the weight in full light from which a pixel is known; light at the edge of the usable part counts little.
_LEAST_WEIGHT = 1e-3 * LIT_SHARE**2
# Float32 of a cache line and widest vector; half of it, to which the columns of a phase are filled up.
_VECTOR, _FILLED = 16, 8
# Columns are summed up so many at a time: two rows of them and four lines lie in the first cache.
_BLOCK = 1024


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _signal_and_power(
    samples, position, scale, shift, converter, light, row, at, u, baseline, inverse_gain, low, high, begin, end,
    signal, power,
):  # fmt: skip
    """p·y/v and p²/v of a line's samples, y without baseline and of unit gain, 0 on a rail, to begin … end - 1.

    signal, power: float32. Light p and p/v lie ``u`` of the way from row ``row`` of ``light`` to the next.
    """
    zero = np.float32(0.0)
    position, converter, row, at = np.uintp(position), np.uintp(converter), np.uintp(row), np.uintp(at)
    begin, end = np.uintp(begin), np.uintp(end)
    for j in range(end - begin):
        value = np.float32(samples[position + j])
        p = light[row, 0, at + j] + u * light[row, 1, at + j]
        w = light[row, 2, at + j] + u * light[row, 3, at + j]
        w = zero if (value <= low) | (value >= high) else w
        signal[begin + j] = w * (value * scale[converter + j] - shift[converter + j] - baseline) * inverse_gain
        power[begin + j] = w * p


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")
def _clear(values, begin, end):
    """Set values begin … end - 1, if there are any, to 0; float32."""
    first = np.uintp(begin)
    for j in range(np.uintp(max(end - begin, 0))):
        values[first + j] = np.float32(0.0)


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"contract"})
def _gaussian_taps(first, step, begin, end, taps):
    """exp(-x²/2) at x = first, first + step, …, none beyond the kernel's reach, into taps[begin:end].

    The series of exp(-x²/32), to the power of 16, which is good to 1e-9 there: a call of exp takes longer.
    """
    begin = np.uintp(begin)
    for i in range(np.uintp(end) - begin):
        x = first + np.float64(i) * step
        z = x * x * (-1.0 / 32.0)
        h = 1 / 120 + z * (1 / 720 + z * (1 / 5040 + z * (1 / 40320)))
        h = 1.0 + z * (1.0 + z * (1 / 2 + z * (1 / 6 + z * (1 / 24 + z * h))))
        h *= h
        h *= h
        h *= h
        taps[begin + i] = h * h


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _scale(signal, power, at, h, numerators, weights, squares, out, across):
    """The one tap of the kernel that reaches a phase; see :func:`_convolve`, which looks at more memory first."""
    at, out, g = np.uintp(at), np.uintp(out), h * h
    for i in range(np.uintp(across)):
        w = power[at + i]
        numerators[out + i] = h * signal[at + i]
        weights[out + i] = h * w
        squares[out + i] = g * w


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "nnan"})
def _convolve(signal, power, at, h0, h1, h2, h3, numerators, weights, squares, out, across, more):
    """Four taps of the kernel, of neighbouring samples from ``at`` on: ``across`` columns of one phase; all float32.

    They go to numerators[out:] and so on, or are added if there is ``more`` there. A tap that is written as 0 costs
    nothing.
    """
    at, out = np.uintp(at), np.uintp(out)
    one, two, three = np.uintp(1), np.uintp(2), np.uintp(3)
    g0, g1, g2, g3 = h0 * h0, h1 * h1, h2 * h2, h3 * h3
    for i in range(np.uintp(across)):
        k, o = at + i, out + i
        w0, w1, w2, w3 = power[k], power[k + one], power[k + two], power[k + three]
        numerator = h0 * signal[k] + h1 * signal[k + one] + h2 * signal[k + two] + h3 * signal[k + three]
        weight = h0 * w0 + h1 * w1 + h2 * w2 + h3 * w3
        square = g0 * w0 + g1 * w1 + g2 * w2 + g3 * w3
        if more:
            numerator += numerators[o]
            weight += weights[o]
            square += squares[o]
        numerators[o] = numerator
        weights[o] = weight
        squares[o] = square


@njit(nogil=True, cache=True, error_model="numpy")
def _spread(signal, power, width, place, step, sigma, reach, taps, numerators, weights, squares, out, columns):
    """Add each of ``width`` samples to the columns that its kernel reaches.

    For a grid whose columns are no whole share of a sample. ``place`` of the first sample, ``step`` to the next,
    ``sigma`` and ``reach`` in columns.
    """
    for j in range(width):
        if power[j] == 0:
            continue
        here = place + j * step
        first, last = max(0, math.ceil(here - reach)), min(columns - 1, math.floor(here + reach))
        _gaussian_taps((first - here) / sigma, 1.0 / sigma, 0, last + 1 - first, taps)
        for i in range(last + 1 - first):
            o = out + first + i
            numerators[o] += taps[i] * signal[j]
            weights[o] += taps[i] * power[j]
            squares[o] += taps[i] * taps[i] * power[j]


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")
def _line_span(start, delay, origin, stop, lit, steps, first_tau, reach, width):
    """Where a line's samples that reach the image lie, ``width`` at most, or some more that make up whole vectors.

    The line starts ``delay`` after ``start``. Positions on it are not computed from sample numbers, which would round
    otherwise for other origins. Samples from ``origin`` to ``stop`` - 1 exist, ``lit`` of a line are tabled.
    Return (the first sample's number; its position; those from ``begin`` to ``end`` - 1 exist and are lit; place of the
    latter in the table of light, row of it and how far to the next one).
    """
    first_lit = math.ceil(start)
    lead = first_lit - start - delay  # position of sample first_lit, from here on 0 to 1
    turn = math.floor(lead)
    first_lit, lead = first_lit - turn, lead - turn
    ahead = math.ceil(first_tau - reach - lead)
    first = first_lit + ahead
    begin = max(0, max(first_lit, origin) - first)
    there = min(first_lit + lit, stop) - first
    end = min(width, there)
    whole = begin + (end - begin + _VECTOR - 1) // _VECTOR * _VECTOR
    end = whole if whole <= there else end
    row = min(int(lead * steps), steps - 1)
    return first, ahead + lead, begin, end, begin + ahead, row, np.float32(lead * steps - row)


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")
def _convolve_line(signal, power, here, phases, sigma, reach, taps, numerators, weights, squares, out, across):
    """Numerators, weights and squares of a line's columns, from ``out`` on.

    ``here``, ``sigma`` and ``reach`` in columns: where the first sample lies, and the kernel. All arrays float32; taps:
    room for the kernel.
    Where P = ``phases`` columns make a sample, column P·i + r lies at r·``across`` + i: all samples of the line then
    meet the columns of a phase alike, and gridding is one short convolution per phase, contiguous in memory.
    """
    lowest, highest = math.ceil(here - reach), math.floor(here + reach)
    nothing, zero = 4 * phases, np.float32(0.0)  # so many zeros before the first tap
    _clear(taps, 0, nothing)
    _gaussian_taps((lowest - here) / sigma, 1.0 / sigma, nothing, nothing + highest + 1 - lowest, taps)
    whole = (across + _VECTOR - 1) // _VECTOR * _VECTOR
    at = 0
    for r in range(phases):
        # column r of a sample is reached from ``at`` samples further on, by tap r - phases·at - lowest
        while r - phases * at > highest:
            at += 1
        place = out + r * across
        tap = nothing + r - phases * at - lowest
        h0, h1, h2, h3 = taps[tap], taps[tap - phases], taps[tap - 2 * phases], taps[tap - 3 * phases]
        if tap < nothing + phases:
            _scale(signal, power, at, h0, numerators, weights, squares, place, whole)
        elif tap < nothing + 2 * phases:
            _convolve(signal, power, at, h0, h1, zero, zero, numerators, weights, squares, place, whole, False)
        elif tap < nothing + 3 * phases:
            _convolve(signal, power, at, h0, h1, h2, zero, numerators, weights, squares, place, whole, False)
        else:
            _convolve(signal, power, at, h0, h1, h2, h3, numerators, weights, squares, place, whole, False)
        for more in range(4, (tap - nothing) // phases + 1, 4):
            tap -= 4 * phases
            h0, h1, h2, h3 = taps[tap], taps[tap - phases], taps[tap - 2 * phases], taps[tap - 3 * phases]
            _convolve(signal, power, at + more, h0, h1, h2, h3, numerators, weights, squares, place, whole, True)


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "nnan"})
def _add_to_row(ring, i0, i1, i2, i3, h0, h1, h2, h3, total, at, count):
    """Add four lines, from ring[i0] on and so on, to ``count`` columns of a row, from total[at] on; all float32."""
    i0, i1, i2, i3, at = np.uintp(i0), np.uintp(i1), np.uintp(i2), np.uintp(i3), np.uintp(at)
    for i in range(np.uintp(count)):
        total[at + i] += h0 * ring[i0 + i] + h1 * ring[i1 + i] + h2 * ring[i2 + i] + h3 * ring[i3 + i]


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz", "nnan"})
def _add_to_two_rows(ring, i0, i1, i2, i3, a0, a1, a2, a3, b0, b1, b2, b3, total, at, next_at, count, more):
    """The same for two rows: each line is read once. Lines come from the second cache, where there are many.

    The rows are set unless there is ``more`` in them.
    """
    i0, i1, i2, i3 = np.uintp(i0), np.uintp(i1), np.uintp(i2), np.uintp(i3)
    one, other = np.uintp(at), np.uintp(next_at)
    for i in range(np.uintp(count)):
        x0, x1, x2, x3 = ring[i0 + i], ring[i1 + i], ring[i2 + i], ring[i3 + i]
        a = a0 * x0 + a1 * x1 + a2 * x2 + a3 * x3
        b = b0 * x0 + b1 * x1 + b2 * x2 + b3 * x3
        if more:
            a += total[one + i]
            b += total[other + i]
        total[one + i] = a
        total[other + i] = b


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")
def _sum_two_rows(ring, slots, one, other, ends, total, at, next_at, length):
    """Weighted sums of lines: columns of two rows, from total[at] and total[next_at] on.

    slots: where the lines begin in ``ring``; one, other: their weights. The first ends[0] lines are in both rows, those
    up to ends[1] in the first, those up to ends[2] in the second; whole fours each.
    """
    for start in range(0, length, _BLOCK):
        here, next_here, count = at + start, next_at + start, min(_BLOCK, length - start)
        if ends[0] == 0:
            _clear(total, here, here + count)
            _clear(total, next_here, next_here + count)
        for k in range(0, ends[2], 4):
            a0, a1, a2, a3 = one[k], one[k + 1], one[k + 2], one[k + 3]
            b0, b1, b2, b3 = other[k], other[k + 1], other[k + 2], other[k + 3]
            i0, i1, i2, i3 = slots[k] + start, slots[k + 1] + start, slots[k + 2] + start, slots[k + 3] + start
            if k >= ends[1]:
                _add_to_row(ring, i0, i1, i2, i3, b0, b1, b2, b3, total, next_here, count)
            elif k >= ends[0]:
                _add_to_row(ring, i0, i1, i2, i3, a0, a1, a2, a3, total, here, count)
            elif k > 0:
                _add_to_two_rows(
                    ring, i0, i1, i2, i3, a0, a1, a2, a3, b0, b1, b2, b3, total, here, next_here, count, True
                )  # fmt: skip
            else:
                _add_to_two_rows(
                    ring, i0, i1, i2, i3, a0, a1, a2, a3, b0, b1, b2, b3, total, here, next_here, count, False
                )  # fmt: skip


# 1/x may be the processor's estimate and a Newton step: as good as a quotient, and faster.
@njit(
    nogil=True, cache=True, forceinline=True, error_model="numpy",
    fastmath={"reassoc", "contract", "nsz", "arcp", "ninf"},
)  # fmt: skip
def _divide(total, at, floors, image, spread):
    """Transmission and its standard deviation where the weight is above its floor, else NaN and inf; float32 (n,).

    The row begins at total[at].
    """
    at, n = np.uintp(at), np.uintp(floors.shape[0])
    nothing, never = np.float32(np.nan), np.float32(np.inf)
    one, tiny = np.float32(1.0), np.float32(1e-30)
    for i in range(n):
        weight = total[at + n + i]
        inverse = one / max(weight, tiny)
        image[i] = total[at + i] * inverse if weight > floors[i] else nothing
        spread[i] = np.sqrt(total[at + n + n + i]) * inverse if weight > floors[i] else never


@njit(
    nogil=True, cache=True, forceinline=True, error_model="numpy",
    fastmath={"reassoc", "contract", "nsz", "nnan", "arcp", "ninf"},
)  # fmt: skip
def _mix_few(numerators, weights, squares, i0, i1, i2, i3, h0, h1, h2, h3, floors, image, spread):
    """A row of no more than four lines, summed and divided at once; see :func:`_divide`."""
    i0, i1, i2, i3 = np.uintp(i0), np.uintp(i1), np.uintp(i2), np.uintp(i3)
    g0, g1, g2, g3 = h0 * h0, h1 * h1, h2 * h2, h3 * h3
    n = np.uintp(floors.shape[0])
    nothing, never = np.float32(np.nan), np.float32(np.inf)
    one, tiny = np.float32(1.0), np.float32(1e-30)
    for i in range(n):
        a, b, c, d = i0 + i, i1 + i, i2 + i, i3 + i
        numerator = h0 * numerators[a] + h1 * numerators[b] + h2 * numerators[c] + h3 * numerators[d]
        weight = h0 * weights[a] + h1 * weights[b] + h2 * weights[c] + h3 * weights[d]
        square = g0 * squares[a] + g1 * squares[b] + g2 * squares[c] + g3 * squares[d]
        inverse = one / max(weight, tiny)
        image[i] = numerator * inverse if weight > floors[i] else nothing
        spread[i] = np.sqrt(square) * inverse if weight > floors[i] else never


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")
def _interleave(phased, phases, across, image, row):
    """Columns in order into ``image[row]``, from phase-major ones; the usual two and three phases apart, since the
    compiler writes them in vectors."""
    r, p, columns = np.uintp(row), np.uintp(phases), np.uintp(image.shape[1])
    n = np.uintp(across)
    whole = columns // p
    one, two, three = np.uintp(1), np.uintp(2), np.uintp(3)
    if phases == 2:
        for i in range(whole):
            image[r, two * i] = phased[i]
            image[r, two * i + one] = phased[n + i]
    elif phases == 3:
        for i in range(whole):
            image[r, three * i] = phased[i]
            image[r, three * i + one] = phased[n + i]
            image[r, three * i + two] = phased[n + n + i]
    else:
        for i in range(whole):
            for k in range(p):
                image[r, i * p + k] = phased[k * n + i]
    for q in range(whole * p, columns):
        image[r, q] = phased[(q - whole * p) * n + whole]


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")
def _write_row(phased, phased_std, phases, across, transmission, std, known, row):
    """A row of pixels in order, and which of them are known."""
    _interleave(phased, phases, across, transmission, row)
    _interleave(phased_std, phases, across, std, row)
    r = np.uintp(row)
    for q in range(np.uintp(known.shape[1])):
        known[r, q] = transmission[r, q] == transmission[r, q]


@njit(nogil=True, cache=True, error_model="numpy")
def _aligned(size):
    """Room for some float32, from the beginning of a cache line on: vectors across two take twice the time."""
    room = np.empty(size + _VECTOR, np.float32)
    ahead = -(room.ctypes.data // 4) % _VECTOR
    return room[ahead : ahead + size]


@njit(nogil=True, cache=True, error_model="numpy")
def _floors(tables, first_tau, columns_per_sample, sigma_lines, sigma, columns, phases, across, floors):
    """Weight above which each column is known, float32 (phases · across,): inf where one side of it is not usable.

    A pixel that only one side or the far tail of the kernel reaches is a guess, not a measurement.
    """
    variance, usable, peak = tables[3], tables[4], tables[5]
    reach, fine = _KERNEL_REACH * sigma, usable.shape[0] // variance.shape[0]
    noisiest = 0.0
    last_tau = first_tau + (columns - 1) / columns_per_sample
    for i in range(max(0, math.floor(first_tau - reach)), min(variance.shape[0], math.ceil(last_tau + reach) + 1)):
        noisiest = max(noisiest, variance[i])
    least = _LEAST_WEIGHT * 2.0 * math.pi * sigma_lines * sigma * peak * peak / max(noisiest, 1e-30)
    floors[:] = np.float32(np.inf)
    for q in range(columns):
        tau = first_tau + q / columns_per_sample
        good = True
        for side in range(-1, 2):
            i = math.floor((tau + side * sigma) * fine + 0.5)
            good &= i >= 0 and i < usable.shape[0] and usable[i]
        if good:
            floors[q % phases * across + q // phases] = np.float32(least)


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy")
def _lines_of(row, first_row, row_step, reach, lines):
    """The lines in reach of a row, first and last; the line before its centre; the centre's distance from that."""
    centre = first_row + row * row_step
    whole = math.floor(centre)  # apart from the fraction, which is the same wherever lines are counted from
    centre -= whole
    first, last = whole + math.ceil(centre - reach), whole + math.floor(centre + reach)
    return max(0, first), min(lines - 1, last), whole, centre


@njit(nogil=True, cache=True, error_model="numpy")
def grid_image(samples, origin, starts, fits, tables, limits, grid, transmission, std, known, skipped_rows=0):
    """Image of lines, each sample at its true place, by weighted least squares per pixel.

    Pixel value = numerator / weight estimates the transmission with Gaussian weights in line and position times the
    light's squared signal to noise; square / weight² is its variance. starts: float64 (N,); fits: float64 (N, 9) of
    ``_kernels.fit_lines``. tables = (scale, shift, light, variance, usable, peak), see line_fit.ImageTables; grid =
    (line of row 0 counted from starts[0], lines per row, position of column 0, columns per sample, sigma in lines,
    sigma in samples). transmission, std: float32, known: bool, all (rows, columns); they begin ``skipped_rows`` after
    row 0: an image made in pieces has the rows of one made at once, to the last bit.
    Lines are spread along the line once, and kept only as long as a row is in reach. Rows are made in twos, an even one
    and the next; one by one where few lines are in reach, or none of two rows.
    """
    first_row, row_step, first_tau, columns_per_sample, sigma_lines, sigma = grid
    scale, shift, light = tables[0], tables[1], tables[2]
    low, high = np.float32(limits[0]), np.float32(limits[1])
    rows, columns = transmission.shape
    whole = int(columns_per_sample) == columns_per_sample
    phases = int(columns_per_sample) if whole else 1
    # whole vectors of a phase may end in the next one's columns, which are written later
    across = ((columns + phases - 1) // phases + _FILLED - 1) // _FILLED * _FILLED
    length = (across * phases + across % _VECTOR + _VECTOR - 1) // _VECTOR * _VECTOR
    reach, reach_lines = _KERNEL_REACH * sigma, _KERNEL_REACH * sigma_lines
    sigma_columns, reach_columns = sigma * columns_per_sample, reach * columns_per_sample
    width, stop = int(across * phases / columns_per_sample + 2.0 * reach) + 8, origin + samples.shape[0]
    room = width + 2 * _VECTOR  # whole vectors are read and written
    most = int(2.0 * reach_lines) + 1
    few = most <= 4
    step = 2 if row_step < most and not few else 1
    kept = 1
    while kept < most + (row_step if step == 2 else 0):
        kept *= 2
    signal, power = _aligned(room), _aligned(room)
    _clear(signal, 0, room)  # beyond ``width`` lies what no pixel is made of, but must be a number
    _clear(power, 0, room)
    taps = np.empty(int(2.0 * reach_columns) + 2 + 4 * phases, np.float32)
    numerators, weights, squares = _aligned(kept * length), _aligned(kept * length), _aligned(kept * length)
    for k in range(1, kept + 1):  # what no phase writes must be a number
        _clear(numerators, (k - 1) * length + phases * across, k * length)
        _clear(weights, (k - 1) * length + phases * across, k * length)
        _clear(squares, (k - 1) * length + phases * across, k * length)
    listed = 2 * most + 12
    slots, one, other = np.empty(listed, np.int64), np.empty(listed, np.float32), np.empty(listed, np.float32)
    usual, next_usual = np.zeros(most + 2, np.float32), np.zeros(most + 2, np.float32)
    ends = np.empty(3, np.int64)
    total, phased, phased_std = _aligned(6 * length), _aligned(length), _aligned(length)
    floors = _aligned(length)
    _floors(tables, first_tau, columns_per_sample, sigma_lines, sigma, columns, phases, across, floors)
    zero = np.float32(0.0)
    done = 0
    for r in range(-(skipped_rows % step), rows, step):
        first, last, before, centre = _lines_of(skipped_rows + r, first_row, row_step, reach_lines, starts.shape[0])
        next_first, next_last, next_before, next_centre = last + 1, last, before, centre
        if step == 2:
            next_first, next_last, next_before, next_centre = _lines_of(
                skipped_rows + r + 1, first_row, row_step, reach_lines, starts.shape[0]
            )
        if r + 1 >= rows:
            next_last = last
        for n in range(max(done, first if r >= 0 else next_first), max(last, next_last) + 1):
            slot = (n & (kept - 1)) * length
            first_sample, tau, begin, end, at, phase, u = _line_span(
                starts[n], fits[n, 0], origin, stop, light.shape[2], light.shape[0], first_tau, reach, width
            )
            seen = end > begin and np.isfinite(fits[n, 1])
            if not (seen and whole):
                _clear(numerators, slot, slot + length)
                _clear(weights, slot, slot + length)
                _clear(squares, slot, slot + length)
            if not seen:
                continue
            _clear(signal, 0, begin)
            _clear(power, 0, begin)
            _clear(signal, end, width)
            _clear(power, end, width)
            _signal_and_power(
                samples, first_sample + begin - origin, scale, shift, (first_sample + begin) % CONVERTERS, light, phase,
                at, u, np.float32(fits[n, 3]), np.float32(1.0 / fits[n, 4]), low, high, begin, end, signal, power,
            )  # fmt: skip
            here = (tau - first_tau) * columns_per_sample
            if whole:
                _convolve_line(
                    signal, power, here, phases, sigma_columns, reach_columns, taps, numerators, weights, squares, slot,
                    across,
                )  # fmt: skip
            else:
                _spread(
                    signal, power, width, here, columns_per_sample, sigma_columns, reach_columns, taps, numerators,
                    weights, squares, slot, length,
                )  # fmt: skip
        done = max(done, max(last, next_last) + 1)
        if last >= first:
            distance = (first - before - centre) / sigma_lines
            _gaussian_taps(distance, 1.0 / sigma_lines, 0, last + 1 - first, usual)
        if few:
            for k in range(4):
                n = min(first + k, last)
                slots[k], one[k] = (max(n, 0) & (kept - 1)) * length, usual[k] if first + k <= last else zero
            if last - first == 2:
                _mix_few(
                    numerators, weights, squares, slots[0], slots[1], slots[2], 0, one[0], one[1], one[2], zero, floors,
                    phased, phased_std,
                )  # fmt: skip
            elif last >= first:
                _mix_few(
                    numerators, weights, squares, slots[0], slots[1], slots[2], slots[3], one[0], one[1], one[2],
                    one[3], floors, phased, phased_std,
                )  # fmt: skip
            else:
                for i in range(length):
                    phased[i], phased_std[i] = np.float32(np.nan), np.float32(np.inf)
            _write_row(phased, phased_std, phases, across, transmission, std, known, r)
            continue
        if next_last >= next_first:
            distance = (next_first - next_before - next_centre) / sigma_lines
            _gaussian_taps(distance, 1.0 / sigma_lines, 0, next_last + 1 - next_first, next_usual)
        # lines of both rows, which they have in common wherever the image begins; then of either one
        count = 0
        for part in range(3):
            begin, end = next_first, last
            if part == 1:
                begin, end = first, min(last, next_first - 1) if r >= 0 else first - 1
            elif part == 2:
                begin, end = max(next_first, last + 1), next_last
            for n in range(begin, end + 1):
                slots[count] = (n & (kept - 1)) * length
                one[count] = usual[n - first] if part < 2 else zero
                other[count] = next_usual[n - next_first] if part != 1 and n <= next_last else zero
                count += 1
            while count % 4 != 0:  # lines without weight to make up whole fours
                slots[count], one[count], other[count] = slots[count - 1], zero, zero
                count += 1
            ends[part] = count
        _sum_two_rows(numerators, slots, one, other, ends, total, 0, 3 * length, length)
        _sum_two_rows(weights, slots, one, other, ends, total, length, 4 * length, length)
        for k in range(ends[2]):
            one[k], other[k] = one[k] * one[k], other[k] * other[k]
        _sum_two_rows(squares, slots, one, other, ends, total, 2 * length, 5 * length, length)
        if r >= 0:
            _divide(total, 0, floors, phased, phased_std)
            _write_row(phased, phased_std, phases, across, transmission, std, known, r)
        if step == 2 and r + 1 < rows:
            _divide(total, 3 * length, floors, phased, phased_std)
            _write_row(phased, phased_std, phases, across, transmission, std, known, r + 1)


@njit(nogil=True, cache=True, error_model="numpy")
def grid_windows(
    samples, origin, starts, fits, lines, grids, place, tables, limits, transmission, std, known
):  # fmt: skip
    """Images of many windows: see :func:`grid_image`.

    starts: float64, of all lines. Of each of N windows: lines int64 (N, 2), its first and last + 1 in ``starts``; grids
    float64 (N, 6), see :func:`grid_image`; place int64 (N, 3), where its pixels begin in transmission, std (float32)
    and known (bool), and its rows and columns. fits: float64 (lines of all windows, 9), window by window.
    """
    used = 0
    for n in range(lines.shape[0]):
        begin, rows, columns = place[n, 0], place[n, 1], place[n, 2]
        end = begin + rows * columns
        count = lines[n, 1] - lines[n, 0]
        g = grids[n]
        grid_image(
            samples, origin, starts[lines[n, 0] : lines[n, 1]], fits[used : used + count], tables, limits,
            (g[0], g[1], g[2], g[3], g[4], g[5]), transmission[begin:end].reshape(rows, columns),
            std[begin:end].reshape(rows, columns), known[begin:end].reshape(rows, columns),
        )  # fmt: skip
        used += count


@njit(nogil=True, cache=True, error_model="numpy")
def weigh_lines(samples, origin, starts, fits, tables, limits, first_tau, signal, power, place):
    """p·y/v and p²/v of lines' samples from position ``first_tau`` on, y their light without baseline, of unit gain.

    signal, power: float32 (N, W), zero for what does not count: on a rail, not usable, not there. place: float64 (N,),
    position τ of each line's first sample. Other arguments as for :func:`grid_image`.
    """
    scale, shift, light = tables[0], tables[1], tables[2]
    steps = light.shape[0]
    for n in range(starts.shape[0]):
        start = starts[n] + fits[n, 0]
        first, first_lit = math.ceil(start + first_tau), math.ceil(start)
        place[n] = first - start
        begin = max(0, max(first_lit, origin) - first)
        end = min(signal.shape[1], min(first_lit + light.shape[2], origin + samples.shape[0]) - first)
        if end <= begin or not np.isfinite(fits[n, 1]):
            signal[n, :], power[n, :] = np.float32(0.0), np.float32(0.0)
            continue
        signal[n, :begin], power[n, :begin] = np.float32(0.0), np.float32(0.0)
        signal[n, end:], power[n, end:] = np.float32(0.0), np.float32(0.0)
        fraction = (first_lit - start) * steps
        row = min(int(fraction), steps - 1)
        _signal_and_power(
            samples, first + begin - origin, scale, shift, (first + begin) % CONVERTERS, light, row,
            first + begin - first_lit, np.float32(fraction - row), np.float32(fits[n, 3]), np.float32(1.0 / fits[n, 4]),
            np.float32(limits[0]), np.float32(limits[1]), begin, end, signal[n], power[n],
        )  # fmt: skip
