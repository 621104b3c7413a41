"""Compiled kernels that segment a cell: arrays in, arrays out.

One module for all that call each other, so that the compiler's cache sees every change.

All *planes* of an image number its pixels alike, row times `pitch` plus column: their *places*. Behind each row are at
least `_EDGE` places that are no pixels. So a shift along a row or across rows is a shift of the whole plane, one loop
runs over all rows, and what leaves a row at its end does not reach the next one. There are planes of float32, with
more than `_EDGE` rows above and below, of bytes, and of *bits*: 64 places a word, the first the lowest, with `_GUARD`
words more at either end. What hangs together is found from *runs*, the unbroken stretches of set bits. *ends* lists
the place where each begins and the one where it has ended, in turn, behind a first element of 0; with that element it
is the list of the gaps between the runs.

All is done in single precision, with sums in the order of the plain implementation, so that a mask equals its bit by
bit. Loops run over slices, from 0 on, for only then does the compiler make vectors of them.
"""

import numpy as np
from numba import njit

#: Standard deviation of the smoothing kernel [pixels].
SMOOTHING_PX = 1.0
#: Share of the kernel's weight that must fall on known pixels for a smoothed value to count.
SUPPORT = 0.35
#: A cell's pixels deviate by at least this share of the strongest deviation of what hangs together; less is halo.
HALO = 0.15
#: Pixels so far apart have independent smoothed noise, even if gridding correlates the pixels' own.
_LAG_PX = 6
#: Columns that the noise is measured in; nearer ones would hardly add to what they tell.
_COLUMNS_APART = 3
_LAGS = _LAG_PX // _COLUMNS_APART
#: Of the rows, one in as many as the image has of these pixels, at most one in the lag.
_PIXELS_APART = 2000
#: Fewer differences tell nothing of the noise.
_LEAST_DIFFERENCES = 33
#: The excess of noise is measured in so many steps, rounded down.
_STEPS = 255
#: The greatest strength, in the steps in which strengths near by are compared; half as large a number as 16 bits hold.
_MOST_STEPS = 32766

_RADIUS = 3  # ceil(3 * SMOOTHING_PX)
_KERNEL = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / SMOOTHING_PX) ** 2)
_KERNEL /= _KERNEL.sum()
_WHITE = np.float32(np.square(_KERNEL).sum())  # standard deviation that smoothing leaves of white noise of 1
_K3, _K2, _K1, _K0 = (np.float32(k) for k in _KERNEL[: _RADIUS + 1])  # by distance from the middle
_Q3, _Q2, _Q1, _Q0 = (np.float32(k) for k in (_KERNEL**2)[: _RADIUS + 1])
_MOST_EXCESS = float(1 / np.square(_KERNEL).sum())
# weight of the set ones of seven pixels in a row, the first the lowest bit
_SET_WEIGHT = np.array([sum(_KERNEL[k] for k in range(7) if pattern >> k & 1) for pattern in range(128)])
# 40 % of |differences| of two normal values lie below this many of their standard deviations
_QUANTILE_SHARE = 0.4
_QUANTILE = float(np.sqrt(2) * 0.5244)
_MOST_REACH = 6
_EDGE = 6  # no less than _RADIUS and _MOST_REACH
_GUARD = 8
_LANES = 16  # rows of whole vectors: then loads across rows do not straddle lines of the cache

_ZERO, _HALF, _ONE, _NO_NUMBER = np.float32(0), np.float32(0.5), np.float32(1), np.float32(np.nan)
_NONE, _BIT, _ALL = np.uint64(0), np.uint64(1), np.uint64(0xFFFFFFFFFFFFFFFF)
_TOP, _TWO, _SECOND = np.uint64(63), np.uint64(2), np.uint64(62)
_EIGHT = np.uint64(0x0101010101010101)
_OCTET = np.uint64(0xFF)
_SEVEN, _FOURTEEN, _TWENTY_EIGHT = np.uint64(7), np.uint64(14), np.uint64(28)
# bits of a pixel's grade
_NEAR, _STRONG, _ABOVE = 0, 1, 2
# planes of the work arrays that are known by name; those of bits from _FREE on are not
_STRENGTH, _DEVIATION, _SIGMA, _WITHIN = 0, 1, 2, 3
_GRADE, _SEED_OCTETS, _WITHIN_OCTETS, _SCRATCH = 0, 1, 2, 3
_INSIDE, _UNSUPPORTED, _NEAR_BITS, _STRONG_BITS, _SEED_BITS, _SOUGHT, _FREE = 0, 1, 2, 3, 4, 5, 6


@njit(nogil=True, cache=True, error_model="numpy")
def _pitch(columns):
    """Places from row to row."""
    return (columns + _EDGE + _LANES - 1) // _LANES * _LANES


@njit(nogil=True, cache=True, error_model="numpy")
def _first(pitch):
    """Where a plane of float32 has its first pixel."""
    return _EDGE * pitch + _LANES


@njit(nogil=True, cache=True, error_model="numpy")
def _sizes(rows, columns):
    """Elements of a plane of float32, of bytes and of bits, and most runs; two rows more for a border are included."""
    pitch = _pitch(columns)
    octets = ((rows + 2) * pitch + 63) // 64 * 64
    words = (octets // 64 + 2 * _GUARD + 7) // 8 * 8
    return _first(pitch) + (rows + _EDGE) * pitch + _LANES, octets, words, (rows + 2) * (columns // 2 + 2) + 1


@njit(nogil=True, cache=True, error_model="numpy")
def segment_work(rows, columns):
    """Work arrays (float32, int32, uint8, uint64) for images of up to so many rows and columns."""
    plane, octets, words, runs = _sizes(rows, columns)
    floats = np.empty(8 * plane + 16, dtype=np.float32)
    integers = np.empty((4, 2 * runs + 4), dtype=np.int32)
    some_octets = np.empty(4 * octets + 64, dtype=np.uint8)
    bits = np.empty((_FREE + 4) * words + 8, dtype=np.uint64)
    # from a line of the cache on
    floats, some_octets = floats[-floats.ctypes.data % 64 // 4 :], some_octets[-some_octets.ctypes.data % 64 :]
    bits = bits[-bits.ctypes.data % 64 // 8 :]
    return (
        floats[: 8 * plane].reshape(8, plane),
        integers,
        some_octets[: 4 * octets].reshape(4, octets),
        bits[: (_FREE + 4) * words].reshape(_FREE + 4, words),
    )


# --- smoothing -------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _fill(plane, start, stop, value):
    piece = plane[start:stop]
    for i in range(piece.shape[0]):
        piece[i] = value


@njit(nogil=True, cache=True, error_model="numpy")
def _seven(x0, x1, x2, x3, x4, x5, x6, k0, k1, k2, k3):
    return x3 * k0 + (x0 + x6) * k3 + (x1 + x5) * k2 + (x2 + x4) * k1


@njit(nogil=True, cache=True, error_model="numpy")
def _lay_within(columns, pitch, within, within_octets):
    """1 for each pixel of a row, 0 behind it."""
    for i in range(pitch):
        within[i] = _ONE if i < columns else _ZERO
        within_octets[i] = np.uint8(i < columns)


@njit(nogil=True, cache=True, error_model="numpy")
def _weigh_all(transmission, noise_std, pitch, within, least, weight, weighted):
    """Weight of each pixel and its weighted deviation; zeros behind the rows.

    Return the first row that holds a deviation of at least so much, and the one behind the last; the beginning of the
    next row counts as well.
    """
    rows, columns = transmission.shape
    n = rows * columns
    all_t, all_s = transmission.reshape(n), noise_std.reshape(n)
    at = _first(pitch)
    top, below = rows, 0
    for r in range(rows):
        # whole vectors, for pixels left over would take as long: on into the next row as far as there is one
        stop = min(r * columns + pitch, n)
        t, s = all_t[r * columns : stop], all_s[r * columns : stop]
        w, d = weight[at : at + pitch], weighted[at : at + pitch]
        deviates = False
        for c in range(t.shape[0]):
            share, deviation = within[c] / (s[c] * s[c]), _ONE - t[c]
            w[c] = share
            d[c] = share * deviation
            deviates |= abs(deviation) >= least
        for c in range(t.shape[0], pitch):
            w[c] = _ZERO
            d[c] = _ZERO
        if deviates:
            top, below = min(top, r), r + 1
        at += pitch
    return top, below


@njit(nogil=True, cache=True, error_model="numpy")
def _weigh_known(transmission, known, noise_std, pitch, weight, weighted):
    """The same where some pixels are not known, whose weight is 0."""
    rows, columns = transmission.shape
    at = _first(pitch)
    for r in range(rows):
        t, k, s = transmission[r], known[r], noise_std[r]
        w, d = weight[at : at + pitch], weighted[at : at + pitch]
        for c in range(columns):
            std = s[c] if k[c] else _ONE
            value = t[c] if k[c] else _ONE
            share = _ONE / (std * std) if k[c] else _ZERO
            w[c] = share
            d[c] = share * (_ONE - value)
        for c in range(columns, pitch):
            w[c] = _ZERO
            d[c] = _ZERO
        at += pitch


@njit(nogil=True, cache=True, error_model="numpy")
def _lay_octets(image, pitch, within, octets, to):
    """A bool image as bytes; zeros behind the rows."""
    rows, columns = image.shape
    n = rows * columns
    flat = image.reshape(n)
    for r in range(rows):
        stop = min(r * columns + pitch, n)
        source, out = flat[r * columns : stop], octets[to + r * pitch :][:pitch]
        for c in range(source.shape[0]):
            out[c] = np.uint8(source[c]) & within[c]
        for c in range(source.shape[0], pitch):
            out[c] = 0


@njit(nogil=True, cache=True, error_model="numpy")
def _smooth_along(weight, weighted, at, n, a, b):
    """Correlate n elements with the kernel along the row: the weighted ones and their weights."""
    # seven loads at odd places keep one unit busy, moves within vectors another: half of either is fastest
    x0, x1, x2, x3 = weighted[at - 3 :][:n], weighted[at - 2 :][:n], weighted[at - 1 :][:n], weighted[at:][:n]
    x4, x5, x6 = weighted[at + 1 :][:n], weighted[at + 2 :][:n], weighted[at + 3 :][:n]
    y0, y1, y2, y3, y4, y5 = weight[at - 3], weight[at - 2], weight[at - 1], weight[at], weight[at + 1], weight[at + 2]
    ahead, to_a, to_b = weight[at + 3 :][:n], a[at:][:n], b[at:][:n]
    for i in range(n):
        y6 = ahead[i]
        to_a[i] = _seven(x0[i], x1[i], x2[i], x3[i], x4[i], x5[i], x6[i], _K0, _K1, _K2, _K3)
        to_b[i] = _seven(y0, y1, y2, y3, y4, y5, y6, _K0, _K1, _K2, _K3)
        y0, y1, y2, y3, y4, y5 = y1, y2, y3, y4, y5, y6


@njit(nogil=True, cache=True, error_model="numpy")
def _smooth_squared_along(weight, at, n, c):
    """Correlate n elements with the square of the kernel along the row."""
    x0, x1, x2, x3 = weight[at - 3 :][:n], weight[at - 2 :][:n], weight[at - 1 :][:n], weight[at:][:n]
    x4, x5, x6 = weight[at + 1 :][:n], weight[at + 2 :][:n], weight[at + 3 :][:n]
    to = c[at:][:n]
    for i in range(n):
        to[i] = _seven(x0[i], x1[i], x2[i], x3[i], x4[i], x5[i], x6[i], _Q0, _Q1, _Q2, _Q3)


@njit(nogil=True, cache=True, error_model="numpy")
def _smooth_across(a, b, at, pitch, n, deviation, sigma):
    """The same across rows: the smoothed deviation, and its standard deviation of white noise if weights are alike."""
    o, p = at - 3 * pitch, pitch
    a0, a1, a2, a3 = a[o:][:n], a[o + p :][:n], a[o + 2 * p :][:n], a[o + 3 * p :][:n]
    a4, a5, a6 = a[o + 4 * p :][:n], a[o + 5 * p :][:n], a[o + 6 * p :][:n]
    b0, b1, b2, b3 = b[o:][:n], b[o + p :][:n], b[o + 2 * p :][:n], b[o + 3 * p :][:n]
    b4, b5, b6 = b[o + 4 * p :][:n], b[o + 5 * p :][:n], b[o + 6 * p :][:n]
    value, std = deviation[at:][:n], sigma[at:][:n]
    for i in range(n):
        total = _seven(a0[i], a1[i], a2[i], a3[i], a4[i], a5[i], a6[i], _K0, _K1, _K2, _K3)
        norm = _seven(b0[i], b1[i], b2[i], b3[i], b4[i], b5[i], b6[i], _K0, _K1, _K2, _K3)
        root = _ONE / np.sqrt(norm if norm > _ZERO else _ONE)
        value[i] = total * (root * root)
        std[i] = root * _WHITE


@njit(nogil=True, cache=True, error_model="numpy")
def _spread_across(b, c, at, pitch, n, sigma):
    """The standard deviation for weights of any kind; b and c as smoothed along the rows."""
    o, p = at - 3 * pitch, pitch
    b0, b1, b2, b3 = b[o:][:n], b[o + p :][:n], b[o + 2 * p :][:n], b[o + 3 * p :][:n]
    b4, b5, b6 = b[o + 4 * p :][:n], b[o + 5 * p :][:n], b[o + 6 * p :][:n]
    c0, c1, c2, c3 = c[o:][:n], c[o + p :][:n], c[o + 2 * p :][:n], c[o + 3 * p :][:n]
    c4, c5, c6 = c[o + 4 * p :][:n], c[o + 5 * p :][:n], c[o + 6 * p :][:n]
    std = sigma[at:][:n]
    for i in range(n):
        norm = _seven(b0[i], b1[i], b2[i], b3[i], b4[i], b5[i], b6[i], _K0, _K1, _K2, _K3)
        variance = _seven(c0[i], c1[i], c2[i], c3[i], c4[i], c5[i], c6[i], _Q0, _Q1, _Q2, _Q3)
        std[i] = np.sqrt(variance if norm > _ZERO else _ONE) / (norm if norm > _ZERO else _ONE)


@njit(nogil=True, cache=True, error_model="numpy")
def _clear_margins(plane, pitch, rows):
    at, n = _first(pitch), rows * pitch
    margin = _RADIUS * pitch
    _fill(plane, at - margin, at, _ZERO)
    _fill(plane, at + n, at + n + margin, _ZERO)


@njit(nogil=True, cache=True, error_model="numpy")
def _smooth(weight, weighted, pitch, rows, top, stop, a, b, deviation, sigma):
    """Smooth along all rows, and across in rows from `top` on, up to `stop`."""
    at, n = _first(pitch), rows * pitch
    for plane in (weight, weighted):
        _fill(plane, at - _RADIUS, at, _ZERO)
        _fill(plane, at + n, at + n + _RADIUS, _ZERO)
    _clear_margins(a, pitch, rows)
    _clear_margins(b, pitch, rows)
    _smooth_along(weight, weighted, at, n, a, b)
    _smooth_across(a, b, at + top * pitch, pitch, (stop - top) * pitch, deviation, sigma)


@njit(nogil=True, cache=True, error_model="numpy")
def _spread(weight, pitch, rows, b, c, sigma):
    """As `_spread_across`, for all rows; b as `_smooth` left it."""
    at, n = _first(pitch), rows * pitch
    _clear_margins(c, pitch, rows)
    _smooth_squared_along(weight, at, n, c)
    _spread_across(b, c, at, pitch, n, sigma)


@njit(nogil=True, cache=True, error_model="numpy")
def _all_set(image):
    flat = image.reshape(image.size)
    together = True
    for i in range(flat.shape[0]):
        together &= flat[i]
    return together


@njit(nogil=True, cache=True, error_model="numpy")
def _lay_known(known, pitch, weight, weighted):
    """As `_weigh_known`, for a share of known pixels: 1 for each pixel, and 1 for each known one."""
    rows, columns = known.shape
    at = _first(pitch)
    for r in range(rows):
        k, w, d = known[r], weight[at : at + pitch], weighted[at : at + pitch]
        for c in range(columns):
            w[c] = _ONE
            d[c] = _ONE if k[c] else _ZERO
        for c in range(columns, pitch):
            w[c] = _ZERO
            d[c] = _ZERO
        at += pitch


@njit(nogil=True, cache=True, error_model="numpy")
def _mark_unsupported(share, pitch, rows, columns, void):
    """Bytes of 1 where too little of the kernel's weight is known."""
    at = _first(pitch)
    for r in range(rows):
        size, out = share[at + r * pitch :][:columns], void[r * pitch :][:columns]
        for c in range(columns):
            out[c] = np.uint8(size[c] < np.float32(SUPPORT))
        for i in range(r * pitch + columns, (r + 1) * pitch):
            void[i] = 0
    _fill(void, rows * pitch, (rows * pitch + 63) // 64 * 64, np.uint8(0))


@njit(nogil=True, cache=True, error_model="numpy")
def _void(void, at, n, deviation, sigma):
    """0 and NaN where not supported, so that differences from there do not count."""
    value, std = deviation[at:][:n], sigma[at:][:n]
    for i in range(n):
        value[i] = _ZERO if void[i] != 0 else value[i]
        std[i] = _NO_NUMBER if void[i] != 0 else std[i]


# --- noise -----------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _count_up_to(steps, n, bound):
    some = steps[:n]
    count = np.int32(0)
    for i in range(n):
        count += np.int32(some[i] <= bound)
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def _lay_standard(deviation, sigma, at, pitch, n, row, to, standard):
    """Some of a row in standard deviations, n of them, followed by what are no numbers."""
    value, std, quotient = deviation[at : at + pitch], sigma[at : at + pitch], row[:pitch]
    for c in range(pitch):  # all, which is faster
        quotient[c] = value[c] / std[c]
    out = standard[to : to + n]
    for i in range(n):
        out[i] = quotient[_COLUMNS_APART * i]
    for i in range(to + n, to + n + _LAGS):
        standard[i] = _NO_NUMBER


@njit(nogil=True, cache=True, error_model="numpy")
def _differences(standard, lag, n, steps, to):
    """Steps of the excess that each |difference| lies above that of white noise; return how many are numbers."""
    first, second, out = standard[:n], standard[lag:][:n], steps[to:][:n]
    scale, offset = np.float32(_STEPS / (_MOST_EXCESS - 1) / _QUANTILE), np.float32(_STEPS / (_MOST_EXCESS - 1))
    last = np.float32(_STEPS)
    total = np.int32(0)
    for i in range(n):
        difference = abs(second[i] - first[i])
        step = difference * scale - offset
        step = step if step < last else last  # also what is no number
        out[i] = np.uint8(np.int32(step if step > _ZERO else _ZERO))
        total += np.int32(difference < np.float32(np.inf))
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _rows_apart(rows, columns):
    """The noise is measured in each row whose number, modulo the lag, is a multiple of this."""
    return min(max(rows * columns // _PIXELS_APART, 1), _LAG_PX)


@njit(nogil=True, cache=True, error_model="numpy")
def _smooth_others(a, b, pitch, rows, columns, top, stop, deviation, sigma):
    """Smooth across rows where the noise is measured, before `top` and from `stop` on."""
    skip = _rows_apart(rows, columns)
    for r in range(rows):
        if not top <= r < stop and r % _LAG_PX % skip == 0:
            _smooth_across(a, b, _first(pitch) + r * pitch, pitch, pitch, deviation, sigma)


@njit(nogil=True, cache=True, error_model="numpy")
def _noise_excess(deviation, sigma, pitch, rows, columns, row, standard, steps):
    """Smoothed noise over what white pixel noise would leave: 1, or more if neighbours' noise is correlated.

    From a low quantile of differences, which edges and structure of an object hardly raise; at most the
    factor by which smoothing lowers white noise. Some rows and columns tell nearly as much as all would.
    """
    skip = _rows_apart(rows, columns)
    in_row = (columns + _COLUMNS_APART - 1) // _COLUMNS_APART
    length = in_row + _LAGS
    n = 0  # rows that are as far apart as the lag follow each other; between such sequences there is a gap
    for first in range(0, _LAG_PX, skip):
        for r in range(first, rows, _LAG_PX):
            _lay_standard(deviation, sigma, _first(pitch) + r * pitch, pitch, in_row, row, n, standard)
            n += length
        _fill(standard, n, n + length, _NO_NUMBER)
        n += length
    n -= length  # the last gap
    total = _differences(standard, _LAGS, n, steps, 0) + _differences(standard, length, n, steps, n)
    if total < _LEAST_DIFFERENCES:
        return 1.0
    place = np.int64(_QUANTILE_SHARE * (total - 1))
    low, high = -1, _STEPS
    while high - low > 1:
        middle = (low + high) // 2
        if _count_up_to(steps, 2 * n, np.uint8(middle)) > place:
            high = middle
        else:
            low = middle
    return 1 + high * ((_MOST_EXCESS - 1) / _STEPS)


# --- grades ----------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _clear_ends(plane, start, pitch, rows, columns):
    """Zeros behind rows, the first of which begins at `start`."""
    for r in range(rows):
        end = plane[start + r * pitch + columns : start + (r + 1) * pitch]
        for i in range(end.shape[0]):
            end[i] = _ZERO


@njit(nogil=True, cache=True, error_model="numpy")
def _grade(deviation, sigma, at, n, threshold, floor, strength, octets, to):
    """Strength of the pixels that are near an object, 0 elsewhere, and each one's grade: bits near, strong, above."""
    value, std, out, grade = deviation[at:][:n], sigma[at:][:n], strength[at:][:n], octets[to:][:n]
    near_threshold, near_floor = _HALF * threshold, _HALF * floor
    for i in range(n):
        size = abs(value[i])
        near = (size >= near_floor) & (size >= near_threshold * std[i])
        strong = (size >= floor) & (size >= threshold * std[i])
        out[i] = size if near else _ZERO
        bits = np.int32(1) if near else np.int32(0)
        bits += np.int32(2) if strong else np.int32(0)
        bits += np.int32(4) if near & (size >= floor) else np.int32(0)
        grade[i] = np.uint8(bits)


@njit(nogil=True, cache=True, error_model="numpy")
def _greatest_two(strength_bits, start, n, grade, seed, to):
    """Greatest strength of all pixels, and of the strong ones of the seed.

    As integers, which rank like the positive floats that they are: only so the compiler makes vectors of it.
    """
    size, bits, asked = strength_bits[start:][:n], grade[to:][:n], seed[to:][:n]
    most, most_sought = np.int32(0), np.int32(0)
    for i in range(n):
        sought = (bits[i] & np.uint8(2) != 0) & (asked[i] != 0)
        most = max(most, size[i])
        most_sought = max(most_sought, size[i] if sought else np.int32(0))
    return most, most_sought


# --- bits ------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _pack(octets, bit, n_words, bits):
    """Gather one bit of each byte; on machines that store the lowest byte of a word first."""
    eights, out = octets.view(np.uint64)[: 8 * n_words], bits.view(np.uint8)[8 * _GUARD :][: 8 * n_words]
    shift = np.uint64(bit)
    for i in range(8 * n_words):
        x = (eights[i] >> shift) & _EIGHT
        x |= x >> _SEVEN
        x |= x >> _FOURTEEN
        x |= x >> _TWENTY_EIGHT
        out[i] = np.uint8(x & _OCTET)


@njit(nogil=True, cache=True, error_model="numpy")
def _lowest(word):
    """Place of the lowest set bit; the compiler makes one instruction of the loop."""
    low = word & ~(word - _BIT)
    n = -1
    while low != _NONE:
        low >>= _BIT
        n += 1
    return n


@njit(nogil=True, cache=True, error_model="numpy")
def _highest(word):
    n = -1
    while word != _NONE:
        word >>= _BIT
        n += 1
    return n


@njit(nogil=True, cache=True, error_model="numpy")
def _from(place):
    """A word's bits from a place on."""
    return _ALL << np.uint64(place & 63)


@njit(nogil=True, cache=True, error_model="numpy")
def _up_to(place):
    """A word's bits up to a place, it included."""
    return _ALL >> np.uint64(63 - (place & 63))


@njit(nogil=True, cache=True, error_model="numpy")
def _set_range(bits, start, stop):
    if start >= stop:
        return
    w, last = _GUARD + (start >> 6), _GUARD + ((stop - 1) >> 6)
    mask = _from(start)
    while w < last:
        bits[w] |= mask
        mask = _ALL
        w += 1
    bits[w] |= mask & _up_to(stop - 1)


@njit(nogil=True, cache=True, error_model="numpy")
def _clear_range(bits, start, stop):
    if start >= stop:
        return
    w, last = _GUARD + (start >> 6), _GUARD + ((stop - 1) >> 6)
    mask = _from(start)
    while w < last:
        bits[w] &= ~mask
        mask = _ALL
        w += 1
    bits[w] &= ~(mask & _up_to(stop - 1))


@njit(nogil=True, cache=True, error_model="numpy")
def _any_in(bits, start, stop):
    w, last = _GUARD + (start >> 6), _GUARD + ((stop - 1) >> 6)
    mask = _from(start)
    while w < last:
        if bits[w] & mask != _NONE:
            return True
        mask = _ALL
        w += 1
    return bits[w] & mask & _up_to(stop - 1) != _NONE


@njit(nogil=True, cache=True, error_model="numpy")
def _lay_inside(pitch, rows, columns, n_words, inside):
    """Set the places that are pixels."""
    for i in range(n_words + 2 * _GUARD):
        inside[i] = _NONE
    for r in range(rows):
        _set_range(inside, r * pitch, r * pitch + columns)


@njit(nogil=True, cache=True, error_model="numpy")
def _copy_bits(source, n_words, target):
    x, to = source[_GUARD:][:n_words], target[_GUARD:][:n_words]
    for i in range(n_words):
        to[i] = x[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _or_bits(source, n_words, target):
    x, to = source[_GUARD:][:n_words], target[_GUARD:][:n_words]
    for i in range(n_words):
        to[i] |= x[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _and_bits(first, second, n_words, target):
    """Bits set in both; return if there are any."""
    x, y, to = first[_GUARD:][:n_words], second[_GUARD:][:n_words], target[_GUARD:][:n_words]
    together = _NONE
    for i in range(n_words):
        both = x[i] & y[i]
        to[i] = both
        together |= both
    return together != _NONE


@njit(nogil=True, cache=True, error_model="numpy")
def _invert(bits, inside, n_words):
    x, y = bits[_GUARD:][:n_words], inside[_GUARD:][:n_words]
    for i in range(n_words):
        x[i] = ~x[i] & y[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _widen(bits, n_words, places, out):
    """Add to `out` the bits moved so many places, fewer than 64, either way."""
    shift, back = np.uint64(places), np.uint64(64 - places)
    middle, before, after = bits[_GUARD:][:n_words], bits[_GUARD - 1 :][:n_words], bits[_GUARD + 1 :][:n_words]
    to = out[_GUARD:][:n_words]
    for i in range(n_words):
        to[i] |= (middle[i] << shift) | (before[i] >> back) | (middle[i] >> shift) | (after[i] << back)


@njit(nogil=True, cache=True, error_model="numpy")
def _add_up(bits, n_words, places, out):
    """Add to `out` the bits moved so many places up."""
    words, shift, back = places >> 6, np.uint64(places & 63), np.uint64(63 - (places & 63))
    n = max(n_words - words, 0)
    here, before, to = bits[_GUARD:][:n], bits[_GUARD - 1 :][:n], out[_GUARD + words :][:n]
    for i in range(n):
        to[i] |= (here[i] << shift) | ((before[i] >> _BIT) >> back)  # in two: a word cannot be shifted by 64


@njit(nogil=True, cache=True, error_model="numpy")
def _add_down(bits, n_words, places, out):
    """Add to `out` the bits moved so many places down."""
    words, shift, back = places >> 6, np.uint64(places & 63), np.uint64(63 - (places & 63))
    n = max(n_words - words, 0)
    here, after, to = bits[_GUARD + words :][:n], bits[_GUARD + words + 1 :][:n], out[_GUARD:][:n]
    for i in range(n):
        to[i] |= (here[i] >> shift) | ((after[i] << _BIT) << back)


@njit(nogil=True, cache=True, error_model="numpy")
def _dilate(bits, inside, n_words, pitch, rows, radius, wide, out):
    """Pixels within `radius` pixels of the set ones: rows widened by the disc's chords, moved up and down."""
    for plane in (bits, wide):
        plane[_GUARD - 1] = _NONE
        plane[_GUARD + n_words] = _NONE
    _copy_bits(bits, n_words, wide)
    for i in range(_GUARD, _GUARD + n_words):
        out[i] = _NONE
    half_chord = 0
    for away in range(radius, -1, -1):
        while (half_chord + 1) ** 2 + away**2 <= radius**2:
            half_chord += 1
            _widen(bits, n_words, half_chord, wide)
        if away == 0:
            _or_bits(wide, n_words, out)
        elif away < rows:
            _add_up(wide, n_words, away * pitch, out)
            _add_down(wide, n_words, away * pitch, out)
    _and_bits(out, inside, n_words, out)


@njit(nogil=True, cache=True, error_model="numpy")
def _extent(bits, n_words, pitch, rows, columns):
    """First and last row and column that hold a pixel; -1 if none does."""
    first = _GUARD
    while first < _GUARD + n_words and bits[first] == _NONE:
        first += 1
    if first == _GUARD + n_words:
        return -1, -1, -1, -1
    last = _GUARD + n_words - 1
    while bits[last] == _NONE:
        last -= 1
    top = (64 * (first - _GUARD) + _lowest(bits[first])) // pitch
    bottom = (64 * (last - _GUARD) + _highest(bits[last])) // pitch
    left, right = columns, -1
    for part in range(0, columns, 64):
        together = _NONE
        for r in range(top, bottom + 1):
            place = r * pitch + part
            w, shift = _GUARD + (place >> 6), np.uint64(place & 63)
            together |= (bits[w] >> shift) | ((bits[w + 1] << _BIT) << np.uint64(63 - (place & 63)))
        if part + 64 > columns:
            together &= _up_to(columns - 1 - part)
        if together != _NONE:
            left, right = min(left, part + _lowest(together)), part + _highest(together)
    return top, bottom, left, right


# --- runs ------------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _find_runs(bits, n_words, ends):
    """List the ends of the runs, behind a first 0; return how many runs there are."""
    ends[0] = 0
    n = 1
    before = _NONE
    for w in range(n_words):
        word = bits[_GUARD + w]
        edges = word ^ ((word << _BIT) | before)
        before = word >> _TOP
        while edges != _NONE:
            ends[n] = 64 * w + _lowest(edges)
            n += 1
            edges &= edges - _BIT
    ends[n] = 64 * n_words
    return n // 2


@njit(nogil=True, cache=True, error_model="numpy")
def _connect(ends, n, pitch, slack, root):
    """First run of what each of n runs hangs together with; slack 1 joins diagonal neighbours, 0 does not.

    Return how many such groups there are.
    """
    j = 0
    for i in range(n):
        root[i] = i
        start, stop = ends[2 * i] - pitch, ends[2 * i + 1] - pitch  # where it lies above
        while j < i and ends[2 * j + 1] + slack <= start:
            j += 1
        k = j
        while k < i and ends[2 * k] < stop + slack:
            a, b = root[i], root[k]
            while root[a] != a:
                a = root[a]
            while root[b] != b:
                b = root[b]
            if a < b:
                root[b] = a
                root[i] = a
            else:
                root[a] = b
                root[i] = b
            k += 1
    groups = 0
    for i in range(n):
        root[i] = root[root[i]]
        groups += root[i] == i
    return groups


@njit(nogil=True, cache=True, error_model="numpy")
def _mark_holding(bits, ends, n, root, held):
    """Mark in held[root] what holds a set bit; return how many groups do."""
    for i in range(n):
        held[i] = 0
    groups = 0
    for i in range(n):
        if held[root[i]] == 0 and _any_in(bits, ends[2 * i], ends[2 * i + 1]):
            held[root[i]] = 1
            groups += 1
    return groups


@njit(nogil=True, cache=True, error_model="numpy")
def _fill_holes(bits, ends, n, pitch, rows, root, outside):
    """Set the pixels that no path of edge-sharing unset ones joins to the border; return if there are any.

    ends as of the n runs of the bits. The places behind the rows are unset, and join what lies outside.
    """
    gaps = n + 1
    if _connect(ends, gaps, pitch, 0, root) == 1:
        return False
    for i in range(gaps):
        outside[i] = 0
    for i in range(gaps):
        if ends[2 * i] < pitch or ends[2 * i + 1] > (rows - 1) * pitch:
            outside[root[i]] = 1
    found = False
    for i in range(gaps):
        if outside[root[i]] == 0:
            _set_range(bits, ends[2 * i], ends[2 * i + 1])
            found = True
    return found


# --- what belongs to the cell ----------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _edge_reach(extent):
    """How far [pixels] an edge's foot may lie from its top: a tenth of the object's extent, within bounds."""
    return min(max((extent + 9) // 10, 2), _MOST_REACH)


@njit(nogil=True, cache=True, error_model="numpy")
def _parts(bits, unsupported, some_unsupported, inside, n_words, pitch, rows, reach, wide, joined, ends, root):
    """Runs and roots of what hangs together, as far as is known: save for gaps narrower than the reach.

    Two parts that border on the same unknown pixels may hang together behind them. Return how many runs and parts.
    """
    if not some_unsupported:  # what hangs together without any gaps is the usual case
        n = _find_runs(bits, n_words, ends)
        if _connect(ends[1:], n, pitch, 1, root) == 1:
            return n, 1
    _dilate(bits, inside, n_words, pitch, rows, max(1, reach // 3), wide, joined)
    _or_bits(unsupported, n_words, joined)
    n = _find_runs(joined, n_words, ends)
    return n, _connect(ends[1:], n, pitch, 1, root)


@njit(nogil=True, cache=True, error_model="numpy")
def _drop_parts(bits, strength, at, ends, n, root, held):
    """Clear the bits and the strength of the parts that are not held."""
    for i in range(n):
        if held[root[i]] == 0:
            _clear_range(bits, ends[2 * i], ends[2 * i + 1])
            _fill(strength, at + ends[2 * i], at + ends[2 * i + 1], _ZERO)


@njit(nogil=True, cache=True, error_model="numpy")
def _stand_out(
    strength, at, within, sought, level, most, unsupported, some_unsupported, inside, n_words, pitch, rows, reach,
    octets, wide, joined, ends, root, held,
):  # fmt: skip
    """Whether something besides the strongest object may be a peak of its own at this level or a higher one.

    `within` holds the pixels of that level; it and `octets` are overwritten. See `_without_halo`.
    """
    while True:
        n, parts = _parts(
            within, unsupported, some_unsupported, inside, n_words, pitch, rows, reach, wide, joined, ends, root,
        )  # fmt: skip
        if parts > 1 and _mark_holding(sought, ends[1:], n, root, held) > 1:
            return True
        level *= 2
        if 2 * level > HALO * most:
            return False
        _reach_level(strength, at, n_words, rows * pitch, np.float32(level), octets)
        _pack(octets, 0, n_words, within)


@njit(nogil=True, cache=True, error_model="numpy")
def _reach_level(strength, at, n_words, n, level, octets):
    """Bytes of 1 where the strength reaches a level."""
    size = strength[at:][:n]
    for i in range(n):
        octets[i] = np.uint8(size[i] >= level)
    for i in range(n, 64 * n_words):
        octets[i] = 0


@njit(nogil=True, cache=True, error_model="numpy")
def _take_sought(strength, grade, seed, at, n, out):
    """Strength of the strong pixels of the seed, 0 elsewhere."""
    size, to = strength[at:][:n], out[at:][:n]
    for i in range(n):
        to[i] = size[i] if (grade[i] & np.uint8(2) != 0) & (seed[i] != 0) else _ZERO


@njit(nogil=True, cache=True, error_model="numpy")
def _greatest(plane, start, stop):
    piece = plane[start:stop]
    most = _ZERO
    for i in range(piece.shape[0]):
        most = piece[i] if piece[i] > most else most
    return most


@njit(nogil=True, cache=True, error_model="numpy")
def _keep(strength, start, stop, bound, octets, to):
    size, out = strength[start:stop], octets[to:]
    for i in range(size.shape[0]):
        out[i] |= np.uint8(size[i] >= bound)


@njit(nogil=True, cache=True, error_model="numpy")
def _clear_unset(strength, octets, at, n):
    size = strength[at:][:n]
    for i in range(n):
        size[i] = size[i] if octets[i] != 0 else _ZERO


@njit(nogil=True, cache=True, error_model="numpy")
def _without_halo(
    strength, at, sought_strength, most, floor, unsupported, some_unsupported, inside, n_words, pitch, rows, reach,
    octets, kept, within, wide, joined, ends, root, peak,
):  # fmt: skip
    """Clear the strength of pixels that are the halo of something stronger: below a share of the peak they belong to.

    A pixel belongs to a peak if they hang together, save for a zero of the deviation (a fringe) narrower than
    the reach. What stands out of the halo, twice as high as the ground around it, is a peak of its own.
    """
    n = rows * pitch
    for i in range(n):
        kept[i] = 0
    level = 0.5 * floor
    while True:
        least = np.float32(level)
        _reach_level(strength, at, n_words, n, least, octets)
        _pack(octets, 0, n_words, within)
        n_runs, _ = _parts(
            within, unsupported, some_unsupported, inside, n_words, pitch, rows, reach, wide, joined, ends, root,
        )  # fmt: skip
        for i in range(n_runs):
            peak[i] = _ZERO
        for i in range(n_runs):
            highest = _greatest(sought_strength, at + ends[2 * i + 1], at + ends[2 * i + 2])
            peak[root[i]] = max(peak[root[i]], highest)
        own = np.float32(2 * level if level > 0.5 * floor else 0.0)
        for i in range(n_runs):
            highest = peak[root[i]]
            if highest > _ZERO and highest >= own:
                bound = max(least, np.float32(HALO) * highest)
                _keep(strength, at + ends[2 * i + 1], at + ends[2 * i + 2], bound, kept, ends[2 * i + 1])
        level *= 2
        if 2 * level > HALO * most:
            break
    _clear_unset(strength, kept, at, n)


@njit(nogil=True, cache=True, error_model="numpy")
def _heights(strength, sigma, start, n, least, sigmas, scale, heights):
    """Strength where it reaches the least, so many standard deviations taken off, in whole steps; 0 elsewhere."""
    size, std, out = strength[start:][:n], sigma[start:][:n], heights[start:][:n]
    for i in range(n):
        height = size[i] - sigmas * std[i]
        height = height if height > _ZERO else _ZERO
        out[i] = np.int16(height * scale if size[i] >= least else _ZERO)


@njit(nogil=True, cache=True, error_model="numpy")
def _greatest_of_four(plane, start, n, first, second, third, out, to):
    """Greatest of each of n elements and those so many places on."""
    w, x = plane[start:][:n], plane[start + first :][:n]
    y, z = plane[start + second :][:n], plane[start + third :][:n]
    most = out[to:][:n]
    for i in range(n):
        a = w[i] if w[i] > x[i] else x[i]
        b = y[i] if y[i] > z[i] else z[i]
        most[i] = a if a > b else b


@njit(nogil=True, cache=True, error_model="numpy")
def _reach_half(strength, start, n, least, scale, plane, at, first, second, third, octets, to):
    """Bytes of 1 where the strength reaches the least, and half of the greatest of four elements of the plane."""
    w, x = plane[at:][:n], plane[at + first :][:n]
    y, z = plane[at + second :][:n], plane[at + third :][:n]
    size, out = strength[start:][:n], octets[to:][:n]
    for i in range(n):
        a = w[i] if w[i] > x[i] else x[i]
        b = y[i] if y[i] > z[i] else z[i]
        highest = np.float32(a if a > b else b)
        out[i] = np.uint8(size[i] * scale >= _HALF * highest) & np.uint8(size[i] >= least)


@njit(nogil=True, cache=True, error_model="numpy")
def _span_unknown(heights, at, first, last, ends, n):
    """Give runs of unknown pixels, of places from `first` to `last`, the greater of the heights on either side."""
    for i in range(n):
        if first <= ends[2 * i] < last:
            start, stop = at + ends[2 * i], at + ends[2 * i + 1]
            _fill(heights, start, stop, max(heights[start - 1], heights[stop]))


@njit(nogil=True, cache=True, error_model="numpy")
def _weaken(
    strength, sigma, greatest, at, top, bottom, pitch, n_words, least, sigmas, reach, unsupported, some_unsupported,
    ends, heights, other, octets, weak,
):  # fmt: skip
    """Pixels at least half as high as the edge that they may belong to: the greatest significant deviation near by.

    Unknown columns have the height found on either side, so that a faint flank across them is seen as one.
    The greatest of several noisy values lies about 1.5 standard deviations too high, which is taken off. Heights are
    counted in whole steps: 16 bits do, at half the time. All that has strength lies in rows `top` to `bottom`.
    """
    start, n = at + top * pitch, (bottom + 1 - top) * pitch
    margin = reach * pitch
    _fill(heights, start - margin - reach, start, np.int16(0))
    _fill(heights, start + n, start + n + margin + reach, np.int16(0))
    scale = np.float32(_MOST_STEPS) / greatest
    _heights(strength, sigma, start, n, least, sigmas, scale, heights)
    if some_unsupported:
        n_unsupported = _find_runs(unsupported, n_words, ends)
        _span_unknown(heights, at, top * pitch, (bottom + 1) * pitch, ends[1:], n_unsupported)
    # the greatest of a window, first along the row, then across rows: each time of four stretches of four
    left, above = start - margin - reach, start - margin
    window = 2 * reach + 1
    second, third, fourth = min(4, window - 4), min(8, window - 4), window - 4
    _greatest_of_four(heights, left, n + 2 * margin + fourth, 1, 2, 3, other, left)
    _greatest_of_four(other, left, n + 2 * margin, second, third, fourth, heights, above)
    _greatest_of_four(heights, above, n + fourth * pitch, pitch, 2 * pitch, 3 * pitch, other, above)
    _fill(octets, 0, top * pitch, np.uint8(0))
    second, third, fourth = second * pitch, third * pitch, fourth * pitch
    _reach_half(strength, start, n, least, scale, other, above, second, third, fourth, octets, top * pitch)
    _fill(octets, (bottom + 1) * pitch, 64 * n_words, np.uint8(0))
    _pack(octets, 0, n_words, weak)


@njit(nogil=True, cache=True, error_model="numpy")
def _bridge(bits, unsupported, n_words, pitch, rows, columns, ends, out):
    """Add to `out` the unknown pixels between two parts that face each other within six rows."""
    n = _find_runs(unsupported, n_words, ends)
    for i in range(n):
        start, stop = ends[2 * i + 1], ends[2 * i + 2]
        r = start // pitch
        if start == r * pitch or stop == r * pitch + columns:
            continue
        left, right = False, False
        for away in range(max(-3, -r), min(4, rows - r)):
            before, after = start - 1 + away * pitch, stop + away * pitch
            left |= _any_in(bits, before, before + 1)
            right |= _any_in(bits, after, after + 1)
        if left and right:
            _set_range(out, start, stop)


@njit(nogil=True, cache=True, error_model="numpy")
def _sum_set(strength, at, bits, start, stop):
    total = 0.0
    for i in range(start, stop):
        if (bits[_GUARD + (i >> 6)] >> np.uint64(i & 63)) & _BIT != _NONE:
            total += np.float64(strength[at + i])
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _select(
    weak, strong, seed, seeded, strength, at, unsupported, some_unsupported, n_words, pitch, rows, columns,
    both, joined, ends, root, held, mass,
):  # fmt: skip
    """Leave of `weak` the parts that hold a strong pixel and touch the seed, or the one that weighs most.

    Return if any is left. `strong` is overwritten.
    """
    _copy_bits(weak, n_words, joined)
    if some_unsupported:
        _bridge(weak, unsupported, n_words, pitch, rows, columns, ends, joined)
    n = _find_runs(joined, n_words, ends)
    parts = _connect(ends[1:], n, pitch, 1, root)
    found = _and_bits(weak, strong, n_words, both)
    touched = _and_bits(weak, seed, n_words, strong)
    if not (found and touched):
        return False
    if parts == 1:
        return True
    wanted = _mark_holding(both, ends[1:], n, root, held)
    if seeded:
        for i in range(n):
            held[i] <<= 1
        for i in range(n):
            if held[root[i]] == 2 and _any_in(strong, ends[2 * i + 1], ends[2 * i + 2]):
                held[root[i]] = 3
        wanted = 0
        for i in range(n):
            held[i] = held[i] == 3
            wanted += held[i]
    elif wanted > 1:
        for i in range(n):
            mass[i] = 0.0
        for i in range(n):
            if held[root[i]]:
                mass[root[i]] += _sum_set(strength, at, weak, ends[2 * i + 1], ends[2 * i + 2])
        heaviest = 0
        for i in range(n):
            if mass[i] > mass[heaviest]:
                heaviest = i
        for i in range(n):
            held[i] = i == heaviest
    for i in range(n):
        if held[root[i]] == 0:
            _clear_range(weak, ends[2 * i + 1], ends[2 * i + 2])
    return wanted > 0


# --- its outline -----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _close(bits, inside, n_words, pitch, rows, radius, wide, out):
    """Closing with a disc, in place; what lies beyond the border neither adds nor takes."""
    _dilate(bits, inside, n_words, pitch, rows, radius, wide, out)
    _invert(out, inside, n_words)
    _dilate(out, inside, n_words, pitch, rows, radius, wide, bits)
    _invert(bits, inside, n_words)


@njit(nogil=True, cache=True, error_model="numpy")
def _chain(side, first_row, last_row, sign, chain):
    """Rows of the corners of a convex hull on one side: its least (sign 1) or greatest (-1) columns; return how many.

    side holds that column for each row, -1 where the row is empty.
    """
    n = 0
    for r in range(first_row, last_row + 1):
        if side[r] < 0:
            continue
        while n > 1:
            a, b = chain[n - 2], chain[n - 1]
            turn = (b - a) * (side[r] - side[a]) - (r - a) * (side[b] - side[a])
            if sign * turn > 0:
                break
            n -= 1
        chain[n] = r
        n += 1
    return n


@njit(nogil=True, cache=True, error_model="numpy")
def _lay_hull(ends, n, pitch, rows, left, right, chain, hull):
    """Add to `hull` the pixels whose centre lies in the convex hull of n runs, unless these are all in one line."""
    for r in range(rows):
        left[r] = -1
        right[r] = -1
    r = 0
    for i in range(n):
        while ends[2 * i] >= (r + 1) * pitch:
            r += 1
        if left[r] < 0:
            left[r] = ends[2 * i] - r * pitch
        right[r] = ends[2 * i + 1] - 1 - r * pitch
    top, bottom = ends[0] // pitch, r
    n_left = _chain(left, top, bottom, 1, chain)
    straight = n_left <= 2 and left[top] == right[top] and left[bottom] == right[bottom]
    for r in range(n_left):  # the chain is overwritten by that of the other side: mark its corners in its rows
        chain[rows + r] = chain[r]
    n_right = _chain(right, top, bottom, -1, chain)
    if top == bottom or (straight and n_right <= 2):
        return  # its own hull
    i, j = 0, 0
    for r in range(top, bottom + 1):
        while i < n_left - 2 and chain[rows + i + 1] < r:
            i += 1
        while j < n_right - 2 and chain[j + 1] < r:
            j += 1
        a, b = chain[rows + i], chain[rows + i + 1]
        low = -((-(np.int64(left[a]) * (b - a) + np.int64(left[b] - left[a]) * (r - a))) // (b - a))
        a, b = chain[j], chain[j + 1]
        high = (np.int64(right[a]) * (b - a) + np.int64(right[b] - right[a]) * (r - a)) // (b - a)
        _set_range(hull, r * pitch + low, r * pitch + high + 1)


@njit(nogil=True, cache=True, error_model="numpy")
def _enclose(
    cell, free, unsupported, n_words, pitch, rows, columns, wall, hull, ends, root, flags, left, right, chain,
):  # fmt: skip
    """The cell with all it encloses, together with unknown pixels and the border, inside its convex hull; in place.

    `free` if it touches no border and nothing is unknown.
    """
    n = _find_runs(cell, n_words, ends)
    if free:  # then its holes are all that it encloses
        _fill_holes(cell, ends, n, pitch, rows, root, flags)
        return
    for plane in (wall, hull):
        for i in range(plane.shape[0]):
            plane[i] = _NONE
    _lay_hull(ends[1:], n, pitch, rows, left, right, chain, hull)
    # a row more above and below, and a place more before and behind a row: where its own stretch is closed
    wall_words = ((rows + 2) * pitch + 63) // 64
    west, east, north, south = rows, rows, columns, columns
    west_end, east_end, north_end, south_end = -1, -1, -1, -1
    r = 0
    for i in range(n):
        start, stop = ends[2 * i + 1], ends[2 * i + 2]
        while start >= (r + 1) * pitch:
            r += 1
        _set_range(wall, start + pitch, stop + pitch)
        if start == r * pitch:
            west, west_end = min(west, r), r
        if stop == r * pitch + columns:
            east, east_end = min(east, r), r
        if r == 0:
            north, north_end = min(north, start), stop - 1
        if r == rows - 1:
            south, south_end = min(south, start - r * pitch), stop - 1 - r * pitch
    for r in range(west, west_end + 1):
        _set_range(wall, (r + 1) * pitch - 1, (r + 1) * pitch)
    for r in range(east, east_end + 1):
        _set_range(wall, (r + 1) * pitch + columns, (r + 1) * pitch + columns + 1)
    if north_end >= 0:
        _set_range(wall, north, north_end + 1)
    if south_end >= 0:
        _set_range(wall, (rows + 1) * pitch + south, (rows + 1) * pitch + south_end + 1)
    n = _find_runs(unsupported, n_words, ends)
    for i in range(n):
        _set_range(wall, ends[2 * i + 1] + pitch, ends[2 * i + 2] + pitch)
    n = _find_runs(wall, wall_words, ends)
    _fill_holes(wall, ends, n, pitch, rows + 2, root, flags)
    words, shift = pitch >> 6, np.uint64(pitch & 63)
    back = np.uint64(63 - (pitch & 63))
    for i in range(_GUARD, _GUARD + n_words):
        filled = (wall[i + words] >> shift) | ((wall[i + words + 1] << _BIT) << back)
        cell[i] |= filled & hull[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _move_rows(bits, n_words, places, up, down):
    """The bits moved so many places up, and down; none come in from beyond."""
    words, shift, back = places >> 6, np.uint64(places & 63), np.uint64(63 - (places & 63))
    n = max(n_words - words, 0)
    for plane in (bits, up, down):
        plane[_GUARD - 1] = _NONE
        plane[_GUARD + n_words] = _NONE
    for i in range(min(words, n_words)):
        up[_GUARD + i] = _NONE
        down[_GUARD + n_words - 1 - i] = _NONE
    here, beside, to = bits[_GUARD:][:n], bits[_GUARD - 1 :][:n], up[_GUARD + words :][:n]
    for i in range(n):
        to[i] = (here[i] << shift) | ((beside[i] >> _BIT) >> back)
    here, beside, to = bits[_GUARD + words :][:n], bits[_GUARD + words + 1 :][:n], down[_GUARD:][:n]
    for i in range(n):
        to[i] = (here[i] >> shift) | ((beside[i] << _BIT) << back)


@njit(nogil=True, cache=True, error_model="numpy")
def _at_least_two(a, b, c, d):
    """Bits that at least two of the words have."""
    return (a & b) | (c & d) | ((a | b) & (c | d))


@njit(nogil=True, cache=True, error_model="numpy")
def _at_least_three(a, b, c, d):
    return (a & b & (c | d)) | (c & d & (a | b))


@njit(nogil=True, cache=True, error_model="numpy")
def _find_unsure(bits, inside, n_words, pitch, clear, up, down, far_up, far_down, unsure):
    """Pixels of which it is not plain from some neighbours that the majority of the kernel agrees with them.

    The four that share an edge with a pixel outweigh, with it, all others. So do three of them with one that shares
    a corner, two with three, or two with two and two of the four next in line, provided that the kernel is `clear` of
    the border.
    """
    _move_rows(bits, n_words, pitch, up, down)
    _move_rows(bits, n_words, 2 * pitch, far_up, far_down)
    n = n_words
    x0, y0, z0 = up[_GUARD - 1 :][:n], bits[_GUARD - 1 :][:n], down[_GUARD - 1 :][:n]
    x1, y1, z1 = up[_GUARD:][:n], bits[_GUARD:][:n], down[_GUARD:][:n]
    x2, y2, z2 = up[_GUARD + 1 :][:n], bits[_GUARD + 1 :][:n], down[_GUARD + 1 :][:n]
    w, v = far_up[_GUARD:][:n], far_down[_GUARD:][:n]
    within, out = inside[_GUARD:][:n], unsure[_GUARD:][:n]
    near_enough = _ALL if clear else _NONE
    for i in range(n):
        other = ~y1[i]
        # bits where a neighbour agrees: beside an edge, at a corner, the next in line
        a, b = x1[i] ^ other, z1[i] ^ other
        c, d = ((y1[i] << _BIT) | (y0[i] >> _TOP)) ^ other, ((y1[i] >> _BIT) | (y2[i] << _TOP)) ^ other
        four, three, two = a & b & c & d, _at_least_three(a, b, c, d), _at_least_two(a, b, c, d)
        a, b = ((x1[i] << _BIT) | (x0[i] >> _TOP)) ^ other, ((x1[i] >> _BIT) | (x2[i] << _TOP)) ^ other
        c, d = ((z1[i] << _BIT) | (z0[i] >> _TOP)) ^ other, ((z1[i] >> _BIT) | (z2[i] << _TOP)) ^ other
        corner, corners, pair = a | b | c | d, _at_least_three(a, b, c, d), _at_least_two(a, b, c, d)
        a, b = w[i] ^ other, v[i] ^ other
        c, d = ((y1[i] << _TWO) | (y0[i] >> _SECOND)) ^ other, ((y1[i] >> _TWO) | (y2[i] << _SECOND)) ^ other
        agree = (three & corner) | (two & (corners | (pair & _at_least_two(a, b, c, d))))
        out[i] = ~(four | (agree & near_enough)) & within[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _weight_inside(i, n):
    """Share of the kernel's weight that lies within a line of n pixels, about the i-th."""
    return (
        _KERNEL[3]
        + ((i >= 3) + (i + 3 < n)) * _KERNEL[0]
        + ((i >= 2) + (i + 2 < n)) * _KERNEL[1]
        + ((i >= 1) + (i + 1 < n)) * _KERNEL[2]
    )


@njit(nogil=True, cache=True, error_model="numpy")
def _set_weight(bits, place, pitch, first, last):
    """Weight of the set ones of the pixels about a place, in rows from `first` to `last` of it."""
    total = 0.0
    for away in range(first, last + 1):
        begin = place + away * pitch - _RADIUS
        w, shift = _GUARD + (begin >> 6), begin & 63
        word = (bits[w] >> np.uint64(shift)) | ((bits[w + 1] << _BIT) << np.uint64(63 - shift))
        total += _KERNEL[_RADIUS + away] * _SET_WEIGHT[np.int64(word & np.uint64(127))]
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _smooth_outline(cell, inside, n_words, pitch, rows, columns, clear, up, down, far_up, far_down, unsure, out):
    """Majority of each pixel's neighbourhood: the kernel's weight decides."""
    _find_unsure(cell, inside, n_words, pitch, clear, up, down, far_up, far_down, unsure)
    _copy_bits(cell, n_words, out)
    r = 0
    for i in range(_GUARD, _GUARD + n_words):
        left_over = unsure[i]
        while left_over != _NONE:
            bit = left_over & ~(left_over - _BIT)
            left_over ^= bit
            place = 64 * (i - _GUARD) + _lowest(bit)
            while place >= (r + 1) * pitch:
                r += 1
            least = 0.5 * _weight_inside(r, rows) * _weight_inside(place - r * pitch, columns)
            first, last = max(-_RADIUS, -r), min(_RADIUS, rows - 1 - r)
            if _set_weight(cell, place, pitch, first, last) >= least:
                out[i] |= bit
            else:
                out[i] &= ~bit


@njit(nogil=True, cache=True, error_model="numpy")
def _drop_specks(bits, ends, n, pitch, min_area_px, root, area):
    """Clear what has fewer pixels, of those that share an edge; return if there was any."""
    parts = _connect(ends, n, pitch, 0, root)
    for i in range(n):
        area[i] = 0
    for i in range(n):
        area[root[i]] += ends[2 * i + 1] - ends[2 * i]
    if parts <= 1 and (n == 0 or area[0] >= min_area_px):
        return False
    dropped = False
    for i in range(n):
        if area[root[i]] < min_area_px:
            _clear_range(bits, ends[2 * i], ends[2 * i + 1])
            dropped = True
    return dropped


@njit(nogil=True, cache=True, error_model="numpy")
def _draw_runs(ends, n, pitch, columns, value, out):
    """Set the pixels of n runs in a flat image; return how many."""
    r = 0
    area = 0
    for i in range(n):
        start, stop = ends[2 * i], ends[2 * i + 1]
        while start >= (r + 1) * pitch:
            r += 1
        shift = r * (pitch - columns)
        _fill(out, start - shift, stop - shift, value)
        area += stop - start
    return area


# --- one image -------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _smooth_image(transmission, known, noise_std, floor, floats, octets, bits):
    """Smooth the deviation; return if some of it is unsupported, and the rows that may hold what reaches the floor.

    Before and behind these rows, only those are smoothed in which the noise is measured.
    """
    rows, columns = transmission.shape
    pitch = _pitch(columns)
    n_words = (rows * pitch + 63) // 64
    weight, deviation, sigma, within = floats[_STRENGTH], floats[_DEVIATION], floats[_SIGMA], floats[_WITHIN]
    weighted, a, b, c = floats[4], floats[5], floats[6], floats[7]
    inside, unsupported, void = bits[_INSIDE], bits[_UNSUPPORTED], octets[_GRADE]
    _lay_inside(pitch, rows, columns, n_words, inside)
    _lay_within(columns, pitch, within, octets[_WITHIN_OCTETS])
    for i in range(n_words + 2 * _GUARD):
        unsupported[i] = _NONE
    if _all_set(known):
        # where no pixel deviates by half of the floor, no smoothed one does
        least = np.float32(0.499 * floor)
        top, stop = _weigh_all(transmission, noise_std, pitch, within, least, weight, weighted)
        if top >= stop:
            return False, 0, 0
        top, stop = max(top - _RADIUS, 0), min(stop + _RADIUS, rows)
        _smooth(weight, weighted, pitch, rows, top, stop, a, b, deviation, sigma)
        _smooth_others(a, b, pitch, rows, columns, top, stop, deviation, sigma)
        return False, top, stop
    _lay_known(known, pitch, weight, weighted)
    _smooth(weight, weighted, pitch, rows, 0, rows, a, b, deviation, sigma)
    _mark_unsupported(deviation, pitch, rows, columns, void)
    _pack(void, 0, n_words, unsupported)
    some_unsupported = _and_bits(unsupported, inside, n_words, unsupported)
    _weigh_known(transmission, known, noise_std, pitch, weight, weighted)
    _smooth(weight, weighted, pitch, rows, 0, rows, a, b, deviation, sigma)
    _spread(weight, pitch, rows, b, c, sigma)
    _void(void, _first(pitch), rows * pitch, deviation, sigma)
    return some_unsupported, 0, rows


@njit(nogil=True, cache=True, error_model="numpy")
def _grade_image(seed_mask, seeded, rows, columns, top, stop, threshold, floor, floats, octets, bits):
    """Grade the pixels of rows `top` to `stop` - 1, all others as nothing, and gather grades and seed as bits.

    Return the greatest strength of all pixels, and of the strong ones of the seed: 0 if there is none.
    """
    pitch = _pitch(columns)
    at, n_words = _first(pitch), (rows * pitch + 63) // 64
    strength, deviation, sigma = floats[_STRENGTH], floats[_DEVIATION], floats[_SIGMA]
    grade, seed = octets[_GRADE], octets[_SEED_OCTETS]
    to, n = top * pitch, (stop - top) * pitch
    _clear_ends(deviation, at + to, pitch, stop - top, columns)
    _fill(strength, at, at + to, _ZERO)
    _fill(strength, at + to + n, at + rows * pitch, _ZERO)
    for plane in (grade, seed):
        _fill(plane, 0, to, np.uint8(0))
        _fill(plane, to + n, 64 * n_words, np.uint8(0))
    _grade(deviation, sigma, at + to, n, threshold, floor, strength, grade, to)
    if seeded:
        _lay_octets(seed_mask[top:stop], pitch, octets[_WITHIN_OCTETS], seed, to)
    else:
        _fill(seed, to, to + n, np.uint8(1))
    _pack(grade, _NEAR, n_words, bits[_NEAR_BITS])
    _pack(grade, _STRONG, n_words, bits[_STRONG_BITS])
    _pack(seed, 0, n_words, bits[_SEED_BITS])
    _and_bits(bits[_STRONG_BITS], bits[_SEED_BITS], n_words, bits[_SOUGHT])
    greatest = floats[4]
    as_integers = greatest.view(np.int32)
    as_integers[0], as_integers[1] = _greatest_two(strength.view(np.int32), at + to, n, grade, seed, to)
    return greatest[0], greatest[1]


@njit(nogil=True, cache=True, error_model="numpy")
def _leave_near(most, floor, rows, columns, some_unsupported, floats, integers, octets, bits):
    """Leave strength to what hangs together with what is sought, of the greatest strength `most`, and is no halo of it.

    Return the reach of its edges, the least strength that counts, and the first and last row that holds any.
    """
    pitch = _pitch(columns)
    at, n, n_words = _first(pitch), rows * pitch, (rows * pitch + 63) // 64
    strength, sought_strength, peak = floats[_STRENGTH], floats[4], floats[5]
    grade, seed, scratch = octets[_GRADE], octets[_SEED_OCTETS], octets[_SCRATCH]
    inside, unsupported, near, sought = bits[_INSIDE], bits[_UNSUPPORTED], bits[_NEAR_BITS], bits[_SOUGHT]
    within, wide, joined = bits[_FREE], bits[_FREE + 1], bits[_FREE + 2]
    ends, root, held = integers[0], integers[1], integers[2]

    top, bottom, left, right = _extent(sought, n_words, pitch, rows, columns)
    reach = _edge_reach(max(bottom - top, right - left) + 1)
    n_runs, parts = _parts(
        near, unsupported, some_unsupported, inside, n_words, pitch, rows, reach, wide, joined, ends, root,
    )  # fmt: skip
    several = False
    if parts > 1:
        several = _mark_holding(sought, ends[1:], n_runs, root, held) > 1
        _drop_parts(near, strength, at, ends[1:], n_runs, root, held)
    if not several and 2 * floor <= HALO * most:
        _pack(grade, _ABOVE, n_words, within)
        _and_bits(near, within, n_words, within)
        several = _stand_out(
            strength, at, within, sought, floor, most, unsupported, some_unsupported, inside, n_words, pitch, rows,
            reach, scratch, wide, joined, ends, root, held,
        )  # fmt: skip
    if several:
        _take_sought(strength, grade, seed, at, n, sought_strength)
        _without_halo(
            strength, at, sought_strength, most, floor, unsupported, some_unsupported, inside, n_words, pitch, rows,
            reach, scratch, grade, within, wide, joined, ends, root, peak,
        )  # fmt: skip
        least = np.float32(0.5 * floor)
    else:  # all belongs to the one peak
        least = np.float32(HALO) * np.float32(most)
    top, bottom, _, _ = _extent(near, n_words, pitch, rows, columns)
    return reach, least, top, bottom


@njit(nogil=True, cache=True, error_model="numpy")
def _outline(
    strength, sigma, at, top, bottom, rows, columns, reach, greatest, least, sigmas, some_unsupported, seeded,
    min_area_px, inside, unsupported, strong, seed, weak, wide, joined, spare, other, further, floats, octets, integers,
):  # fmt: skip
    """List the runs of the mask of what has strength in rows `top` to `bottom` of an image, or of part of it.

    Return how many; their ends are behind the first element of integers[0]. The part is of some rows, from a word of
    bits on: planes of bits begin there, `at` is that place in strength and sigma.
    """
    pitch = _pitch(columns)
    n_words = (rows * pitch + 63) // 64
    ends, root, flags, by_rows = integers[0], integers[1], integers[2], integers[3]
    _weaken(
        strength, sigma, greatest, at, top, bottom, pitch, n_words, least, sigmas, reach, unsupported, some_unsupported,
        ends, floats[4].view(np.int16), floats[5].view(np.int16), octets[_SCRATCH], weak,
    )  # fmt: skip
    found = _select(
        weak, strong, seed, seeded, strength, at, unsupported, some_unsupported, n_words, pitch, rows, columns,
        spare, joined, ends, root, flags, floats[4].view(np.float64),
    )  # fmt: skip
    if not found:
        return 0
    _close(weak, inside, n_words, pitch, rows, reach, wide, spare)
    top, bottom, left, right = _extent(weak, n_words, pitch, rows, columns)
    room = min(top, rows - 1 - bottom, left, columns - 1 - right)
    _enclose(
        weak, room > 0 and not some_unsupported, unsupported, n_words, pitch, rows, columns, joined, wide,
        ends, root, flags, by_rows[:rows], by_rows[rows:], by_rows[2 * rows :],
    )  # fmt: skip
    _smooth_outline(
        weak, inside, n_words, pitch, rows, columns, room > _RADIUS, wide, joined, strong, other, further, spare,
    )  # fmt: skip
    n = _find_runs(spare, n_words, ends)
    if _drop_specks(spare, ends[1:], n, pitch, min_area_px, root, flags):
        n = _find_runs(spare, n_words, ends)
    if _fill_holes(spare, ends, n, pitch, rows, root, flags):
        n = _find_runs(spare, n_words, ends)
    return n


@njit(nogil=True, cache=True, error_model="numpy")
def _find_cell(transmission, known, noise_std, seed_mask, threshold, floor, min_area_px, work):
    """How many runs the mask of the cell in an image has, and the row from which on their places count.

    Arguments as of `segment_into`; the ends of the runs are behind the first element of work[1][0].
    """
    rows, columns = transmission.shape
    if rows == 0 or columns == 0:
        return 0, 0
    floats, integers, octets, bits = work
    some_unsupported, top, stop = _smooth_image(transmission, known, noise_std, floor, floats, octets, bits)
    if top >= stop:
        return 0, 0
    pitch = _pitch(columns)
    excess = _noise_excess(
        floats[_DEVIATION], floats[_SIGMA], pitch, rows, columns, floats[4], floats[5], floats[6].view(np.uint8),
    )  # fmt: skip
    seeded = seed_mask.shape[0] > 0
    greatest, most = _grade_image(
        seed_mask, seeded, rows, columns, top, stop, np.float32(threshold * excess), np.float32(floor), floats, octets,
        bits,
    )  # fmt: skip
    if most == 0:
        return 0, 0
    reach, least, top, bottom = _leave_near(
        np.float64(most), floor, rows, columns, some_unsupported, floats, integers, octets, bits
    )
    # the rest works on the rows of what may be the cell, with room for the reach of its filters, and from a word on
    first, stop = 0, rows
    if not some_unsupported:
        first, stop = max(top - reach - 2, 0) // 4 * 4, min(bottom + reach + 3, rows)
    skip = first * pitch // 64
    n = _outline(
        floats[_STRENGTH], floats[_SIGMA], _first(pitch) + first * pitch, top - first, bottom - first, stop - first,
        columns, reach, greatest, least, np.float32(1.5 * excess), some_unsupported, seeded, min_area_px,
        bits[_INSIDE, skip:], bits[_UNSUPPORTED, skip:], bits[_STRONG_BITS, skip:], bits[_SEED_BITS, skip:],
        bits[_FREE, skip:], bits[_FREE + 1, skip:], bits[_FREE + 2, skip:], bits[_FREE + 3, skip:],
        bits[_NEAR_BITS, skip:], bits[_SOUGHT, skip:], floats, octets, integers,
    )  # fmt: skip
    return n, first


@njit(nogil=True, cache=True, error_model="numpy")
def segment_into(transmission, known, noise_std, seed_mask, threshold, floor, min_area_px, mask_out, work):
    """Write the mask of the cell in a transmission image; see ``segment.segment_cell``. Return its area [pixels].

    transmission, noise_std float32, known, mask_out bool, all (rows, columns) and C-contiguous; seed_mask the same as
    known, or (0, 0) for none; floor > 0. work as from `segment_work`, for an image as large or larger; several threads
    need one each.
    """
    rows, columns = transmission.shape
    mask = mask_out.reshape(rows * columns)
    _fill(mask, 0, rows * columns, False)
    n, first = _find_cell(transmission, known, noise_std, seed_mask, threshold, floor, min_area_px, work)
    return _draw_runs(work[1][0, 1:], n, _pitch(columns), columns, True, mask[first * columns :])


# --- its parts -------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _label_work(rows, columns):
    """Work arrays (uint8, uint64, int32) to label images of up to so many rows and columns."""
    _, octets, words, runs = _sizes(rows, columns)
    return (
        np.empty(octets + _pitch(columns), dtype=np.uint8),
        np.empty(words, dtype=np.uint64),
        np.empty(8 * (runs + 2), dtype=np.int32),
    )


@njit(nogil=True, cache=True, error_model="numpy")
def _label_apart(ends, n, pitch, root, parts, min_area_px, integers, labels, columns):
    """Number several parts of n runs in a flat image; see `_label_runs`."""
    row_of, following, last = integers[: n + 1], integers[n + 1 :][: n + 1], integers[2 * n + 2 :][: n + 1]
    area, firsts = integers[3 * n + 3 :][: n + 1], integers[4 * n + 4 :][:parts]
    r = 0
    for i in range(n):
        while ends[2 * i] >= (r + 1) * pitch:
            r += 1
        row_of[i] = r
        area[i] = 0
    # of each run, the next one of its part; of each part, named by its first run, the last one and the area
    k = 0
    for i in range(n):
        following[i], last[i] = -1, i
        first = root[i]
        if first == i:
            firsts[k] = i
            k += 1
        else:
            following[last[first]] = i
            last[first] = i
        area[first] += ends[2 * i + 1] - ends[2 * i]
    for k in range(1, parts):  # the largest first; of equally large ones that which begins first
        part, j = firsts[k], k
        while j > 0 and area[firsts[j - 1]] < area[part]:
            firsts[j] = firsts[j - 1]
            j -= 1
        firsts[j] = part
    boxes = np.empty((parts, 5), dtype=np.int64)
    count = 0
    for k in range(parts):
        part, host = firsts[k], -1
        for other in range(count):
            top, bottom, left, right = boxes[other, 0], boxes[other, 1], boxes[other, 2], boxes[other, 3]
            within, i = 0, part
            while i >= 0 and row_of[i] <= bottom:
                if row_of[i] >= top:
                    start, stop = ends[2 * i] - row_of[i] * pitch, ends[2 * i + 1] - row_of[i] * pitch
                    within += max(min(stop, right + 1) - max(start, left), 0)
                i = following[i]
            if 2 * within > area[part]:
                host = other
                break
        if host < 0:
            if area[part] < min_area_px:
                continue
            host = count
            count += 1
            boxes[host, 0], boxes[host, 1] = row_of[part], -1
            boxes[host, 2], boxes[host, 3] = columns, -1
            boxes[host, 4] = 0
        i = part
        while i >= 0:
            r = row_of[i]
            start, stop = ends[2 * i] - r * pitch, ends[2 * i + 1] - r * pitch
            boxes[host, 0], boxes[host, 1] = min(boxes[host, 0], r), max(boxes[host, 1], r)
            boxes[host, 2], boxes[host, 3] = min(boxes[host, 2], start), max(boxes[host, 3], stop - 1)
            boxes[host, 4] += stop - start
            _fill(labels, r * columns + start, r * columns + stop, np.int32(host + 1))
            i = following[i]
    return boxes[:count]


@njit(nogil=True, cache=True, error_model="numpy")
def _label_runs(ends, n, pitch, columns, min_area_px, root, integers, labels):
    """Number the cells that n runs make up in a flat image of zeros; see `label_parts`.

    root and integers are scratch of n and 5 n + 5 elements. Return an int64 array (cells, 5): first and last row, first
    and last column, and pixels of each.
    """
    parts = _connect(ends, n, pitch, 1, root)
    if parts > 1:
        return _label_apart(ends, n, pitch, root, parts, min_area_px, integers, labels, columns)
    extents = np.empty((parts, 5), dtype=np.int64)
    if parts == 0:
        return extents
    area, r, left, right = 0, ends[0] // pitch, columns, -1
    extents[0, 0] = r
    for i in range(n):
        start, stop = np.int64(ends[2 * i]), np.int64(ends[2 * i + 1])
        while start >= (r + 1) * pitch:
            r += 1
        area += stop - start
        left, right = min(left, start - r * pitch), max(right, stop - 1 - r * pitch)
    if area < min_area_px:
        return extents[:0]
    extents[0, 1], extents[0, 2], extents[0, 3], extents[0, 4] = r, left, right, area
    _draw_runs(ends, n, pitch, columns, np.int32(1), labels)
    return extents


@njit(nogil=True, cache=True, error_model="numpy")
def label_parts(mask, min_area_px, labels_out):
    """Number the cells in a mask from 1 on, the largest first; see ``segment.separate_parts``. Return how many.

    mask bool and labels_out int32 of shape (rows, columns), C-contiguous; 0 is background and specks.
    """
    rows, columns = mask.shape
    labels = labels_out.reshape(rows * columns)
    _fill(labels, 0, rows * columns, np.int32(0))
    if rows == 0 or columns == 0:
        return 0
    pitch = _pitch(columns)
    n_words = (rows * pitch + 63) // 64
    _, n_octets, words, runs = _sizes(rows, columns)
    octets, within = np.empty(n_octets, dtype=np.uint8), np.empty(pitch, dtype=np.uint8)
    bits, integers = np.empty(words, dtype=np.uint64), np.empty(8 * (runs + 2), dtype=np.int32)
    for i in range(pitch):
        within[i] = np.uint8(i < columns)
    _lay_octets(mask, pitch, within, octets, 0)
    _fill(octets, rows * pitch, 64 * n_words, np.uint8(0))
    _pack(octets, 0, n_words, bits)
    n = _find_runs(bits, n_words, integers)
    ends, root, others = integers[1 : 2 * n + 1], integers[2 * n + 2 :][:n], integers[3 * n + 2 :]
    return _label_runs(ends, n, pitch, columns, min_area_px, root, others, labels).shape[0]


@njit(nogil=True, cache=True, error_model="numpy")
def take_label(labels, number, mask_out):
    """Pixels of one label; int32 and bool, both (rows, columns)."""
    for r in range(labels.shape[0]):
        source, out = labels[r], mask_out[r]
        for c in range(source.shape[0]):
            out[c] = source[c] == number


# --- many images -----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def segment_many(place, transmission, known, noise_std, seeds, threshold, floor, min_area_px, labels, work):
    """Find the cells in each of N images, as `segment_into` and `label_parts` do.

    place int64 of shape (N, 3): of each image, where it begins in the flat arrays, its rows and its columns.
    transmission, noise_std float32, known, seeds bool, labels int32, all flat; work as from `segment_work`, for images
    as large or larger. Return int64 arrays (cells, 2), image and label of each cell, and (cells, 5), its first and last
    row, first and last column, and pixels.
    """
    cells, extents = (
        np.empty((place.shape[0] + 8, 2), dtype=np.int64),
        np.empty((place.shape[0] + 8, 5), dtype=np.int64),
    )
    integers = work[1].reshape(work[1].size)
    room = work[1].shape[1]
    count = 0
    for i in range(place.shape[0]):
        begin, rows, columns = place[i, 0], place[i, 1], place[i, 2]
        stop = begin + rows * columns
        _fill(labels, begin, stop, np.int32(0))
        n, first = _find_cell(
            transmission[begin:stop].reshape(rows, columns), known[begin:stop].reshape(rows, columns),
            noise_std[begin:stop].reshape(rows, columns), seeds[begin:stop].reshape(rows, columns), threshold, floor,
            min_area_px, work,
        )  # fmt: skip
        if n == 0:
            continue
        own = _label_runs(
            integers[1 : 2 * n + 1], n, _pitch(columns), columns, min_area_px, integers[room:][:n],
            integers[room + n :], labels[begin + first * columns : stop],
        )  # fmt: skip
        if count + own.shape[0] > cells.shape[0]:
            most = 2 * (count + own.shape[0])
            cells, extents = _longer(cells, count, most), _longer(extents, count, most)
        for k in range(own.shape[0]):
            cells[count, 0], cells[count, 1] = i, k + 1
            extents[count] = own[k]
            extents[count, 0] += first
            extents[count, 1] += first
            count += 1
    return cells[:count], extents[:count]


@njit(nogil=True, cache=True, error_model="numpy")
def _longer(rows, count, most):
    """An array of so many rows, of which the first ones are those given."""
    longer = np.empty((most, rows.shape[1]), rows.dtype)
    longer[:count] = rows[:count]
    return longer
