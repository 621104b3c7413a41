"""Compiled kernels that segment a cell: arrays in, arrays out.

One module for all that call each other, so that the compiler's cache sees every change.

Binary images lie in *planes*: flat uint8 arrays of 0 and 1, rows of `stride` bytes, a multiple of 8, of which the
first `columns` are pixels and the rest, at least `_PAD`, stay 0. So a shift along a row is a shift of the whole plane,
and eight pixels are compared at once. What hangs together is found from *runs*, the unbroken stretches of a row.

Sums are taken in the order of scipy.ndimage, so that a mask equals that of the plain implementation bit by bit.
"""

import math

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

_RADIUS = 3  # ceil(3 * SMOOTHING_PX)
_KERNEL = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / SMOOTHING_PX) ** 2)
_KERNEL /= _KERNEL.sum()
_K3, _K2, _K1, _K0 = (float(k) for k in _KERNEL[: _RADIUS + 1])  # by distance from the middle
_Q3, _Q2, _Q1, _Q0 = (float(k) for k in (_KERNEL**2)[: _RADIUS + 1])
_MOST_EXCESS = float(1 / np.square(_KERNEL).sum())
# 40 % of |differences| of two normal values lie below this many of their standard deviations
_QUANTILE_SHARE = 0.4
_QUANTILE = float(np.sqrt(2) * 0.5244)
_BUCKETS = 256
_MOST_REACH = 6
_PAD = _MOST_REACH
_LINE = 1000
_EIGHT_SET = 0x0101010101010101


@njit(nogil=True, cache=True, error_model="numpy")
def _stride(columns):
    return (columns + _PAD + 7) // 8 * 8


@njit(nogil=True, cache=True, error_model="numpy")
def _sizes(rows, columns):
    """Elements of one plane, most runs of an image, and elements of the work arrays; a border of one pixel included."""
    plane = (rows + 2) * _stride(columns + 2)
    runs = (rows + 2) * ((columns + 2) // 2 + 1)
    padded = (rows + 2 * _RADIUS) * (columns + _RADIUS)
    floats = 4 * padded + 4 * (columns + 2 * _PAD) * _PAD + 4 * _line(columns) + rows + columns + runs
    return plane, runs, floats, 4 * runs + 5 * (rows + 3) + _BUCKETS, 9 * plane


@njit(nogil=True, cache=True, error_model="numpy")
def _line(columns):
    """Elements of a line of scratch: of two rows at least, of many if they are short."""
    return max(2 * columns, _LINE) + 4 * _PAD


@njit(nogil=True, cache=True, error_model="numpy")
def segment_work(rows, columns):
    """Work arrays (float64, int32, uint8) for images of up to so many rows and columns."""
    _, _, floats, integers, octets = _sizes(rows, columns)
    return np.empty(floats, dtype=np.float64), np.empty(integers, dtype=np.int32), np.empty(octets, dtype=np.uint8)


# --- smoothing -------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _kernel_inside(n, out):
    """Share of the kernel's weight that lies within a line of n pixels, about each."""
    for i in range(n):
        out[i] = _K0
        out[i] += ((i >= 3) + (i + 3 < n)) * _K3
        out[i] += ((i >= 2) + (i + 2 < n)) * _K2
        out[i] += ((i >= 1) + (i + 1 < n)) * _K1


@njit(nogil=True, cache=True, error_model="numpy")
def _seven(x0, x1, x2, x3, x4, x5, x6, k0, k1, k2, k3):
    return x3 * k0 + (x0 + x6) * k3 + (x1 + x5) * k2 + (x2 + x4) * k1


@njit(nogil=True, cache=True, error_model="numpy")
def _smooth_line(line, n, out):
    """Correlate a line that has _RADIUS elements more on either side with the kernel."""
    x0, x1, x2, x3 = line[:n], line[1:][:n], line[2:][:n], line[3:][:n]
    x4, x5, x6 = line[4:][:n], line[5:][:n], line[6:][:n]
    for i in range(n):
        out[i] = _seven(x0[i], x1[i], x2[i], x3[i], x4[i], x5[i], x6[i], _K0, _K1, _K2, _K3)


@njit(nogil=True, cache=True, error_model="numpy")
def _smooth_down(plane, at, pitch, n, out):
    """The same down the columns: n elements of a plane with rows of `pitch`, the upper ones from `at` on."""
    x0, x1, x2, x3 = plane[at:][:n], plane[at + pitch :][:n], plane[at + 2 * pitch :][:n], plane[at + 3 * pitch :][:n]
    x4, x5, x6 = plane[at + 4 * pitch :][:n], plane[at + 5 * pitch :][:n], plane[at + 6 * pitch :][:n]
    for i in range(n):
        out[i] = _seven(x0[i], x1[i], x2[i], x3[i], x4[i], x5[i], x6[i], _K0, _K1, _K2, _K3)


@njit(nogil=True, cache=True, error_model="numpy")
def _smooth_down_twice(plane, at, pitch, n, out, out_squared):
    """The same with the kernel and with its square."""
    x0, x1, x2, x3 = plane[at:][:n], plane[at + pitch :][:n], plane[at + 2 * pitch :][:n], plane[at + 3 * pitch :][:n]
    x4, x5, x6 = plane[at + 4 * pitch :][:n], plane[at + 5 * pitch :][:n], plane[at + 6 * pitch :][:n]
    for i in range(n):
        out[i] = _seven(x0[i], x1[i], x2[i], x3[i], x4[i], x5[i], x6[i], _K0, _K1, _K2, _K3)
        out_squared[i] = _seven(x0[i], x1[i], x2[i], x3[i], x4[i], x5[i], x6[i], _Q0, _Q1, _Q2, _Q3)


@njit(nogil=True, cache=True, error_model="numpy")
def _weigh(transmission, known, noise_std, weight, weighted, pitch):
    """Weight of each pixel and its weighted deviation: planes with zeros between rows and in _RADIUS rows around."""
    rows, columns = transmission.shape
    for plane in (weight, weighted):
        plane[: _RADIUS * pitch] = 0.0
        plane[(rows + _RADIUS) * pitch :] = 0.0
    for r in range(rows):
        t, k, s = transmission[r], known[r], noise_std[r]
        at = (r + _RADIUS) * pitch
        w, d = weight[at : at + columns], weighted[at : at + columns]
        for c in range(columns):
            seen = k[c]
            std = np.float64(s[c]) if seen else 1.0
            value = np.float64(t[c]) if seen else 1.0
            share = 1.0 / (std * std) if seen else 0.0
            w[c] = share
            d[c] = share * (1.0 - value)
        weight[at + columns : at + pitch] = 0.0
        weighted[at + columns : at + pitch] = 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def _all_set(image):
    for r in range(image.shape[0]):
        row = image[r]
        together = True
        for c in range(row.shape[0]):
            together &= row[c]
        if not together:
            return False
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def _find_supported(known, ones, pitch, wide, smooth, inside_rows, inside_columns, supported, stride):
    """Pixels about which enough of the kernel's weight is known; `ones` is a plane like that of the weights."""
    rows, columns = known.shape
    ones[: _RADIUS * pitch] = 0.0
    ones[(rows + _RADIUS) * pitch :] = 0.0
    for r in range(rows):
        k, o = known[r], ones[(r + _RADIUS) * pitch :][:columns]
        for c in range(columns):
            o[c] = 1.0 if k[c] else 0.0
        ones[(r + _RADIUS) * pitch + columns : (r + _RADIUS + 1) * pitch] = 0.0
    _kernel_inside(rows, inside_rows)
    _kernel_inside(columns, inside_columns)
    supported[: rows * stride] = 0
    for r in range(rows):
        _smooth_down(ones, r * pitch, pitch, pitch, wide[_RADIUS:])
        _smooth_line(wide, columns, smooth)
        out, along = supported[r * stride :][:columns], inside_rows[r]
        for c in range(columns):
            out[c] = smooth[c] >= SUPPORT * (along * inside_columns[c])


@njit(nogil=True, cache=True, error_model="numpy")
def _standardise(a, b, c, n, strength, standard):
    """Smooth three lines along the row and divide; in one loop, for the divisions take as long as all the rest."""
    a0, a1, a2, a3, a4, a5, a6 = a[:n], a[1:][:n], a[2:][:n], a[3:][:n], a[4:][:n], a[5:][:n], a[6:][:n]
    b0, b1, b2, b3, b4, b5, b6 = b[:n], b[1:][:n], b[2:][:n], b[3:][:n], b[4:][:n], b[5:][:n], b[6:][:n]
    c0, c1, c2, c3, c4, c5, c6 = c[:n], c[1:][:n], c[2:][:n], c[3:][:n], c[4:][:n], c[5:][:n], c[6:][:n]
    for i in range(n):
        total = _seven(a0[i], a1[i], a2[i], a3[i], a4[i], a5[i], a6[i], _K0, _K1, _K2, _K3)
        norm = _seven(b0[i], b1[i], b2[i], b3[i], b4[i], b5[i], b6[i], _K0, _K1, _K2, _K3)
        variance = _seven(c0[i], c1[i], c2[i], c3[i], c4[i], c5[i], c6[i], _Q0, _Q1, _Q2, _Q3)
        strength[i] = abs(total / (norm if norm > 0 else 1.0))
        standard[i] = total / math.sqrt(variance if variance > 0 else 1.0)


@njit(nogil=True, cache=True, error_model="numpy")
def _smooth(weight, weighted, pitch, rows, lines, strength, standard):
    """Size of the smoothed deviation, and its value in standard deviations of white noise."""
    a, b, c = lines[0], lines[1], lines[2]
    for line in (a, b, c):
        line[:_RADIUS] = 0.0
    at_once = lines.shape[1] // pitch - 1  # several rows in one loop: starting one takes time
    for r in range(0, rows, at_once):
        at, n = r * pitch, min(at_once, rows - r) * pitch
        _smooth_down(weighted, at, pitch, n, a[_RADIUS:])
        _smooth_down_twice(weight, at, pitch, n, b[_RADIUS:], c[_RADIUS:])
        for line in (a, b, c):
            line[n + _RADIUS : n + 2 * _RADIUS] = 0.0
        _standardise(a, b, c, n, strength[at:], standard[at:])


@njit(nogil=True, cache=True, error_model="numpy")
def _void(supported, stride, pitch, rows, columns, strength, standard):
    """0 and NaN where not supported, so that differences from there do not count."""
    for r in range(rows):
        size, height = strength[r * pitch :][:columns], standard[r * pitch :][:columns]
        flag = supported[r * stride :][:columns]
        for c in range(columns):
            size[c] = size[c] if flag[c] != 0 else 0.0
            height[c] = height[c] if flag[c] != 0 else np.nan


# --- noise -----------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _lagged(standard, pitch, rows, columns, r, down):
    """A row and what lies `_LAG_PX` further down, or further along it, as far as the image goes."""
    if down:
        below = min(r + _LAG_PX, rows)
        n = columns if below < rows else 0
        return standard[r * pitch :][:n], standard[below * pitch :][:n]
    n = max(columns - _LAG_PX, 0)
    return standard[r * pitch :][:n], standard[r * pitch + columns - n :][:n]


@njit(nogil=True, cache=True, error_model="numpy")
def _bracket(standard, pitch, rows, columns, count):
    """Two values that hold the quantile of all differences between them, to all odds: from some of the rows."""
    scale = (_BUCKETS - 1) / (_QUANTILE * _MOST_EXCESS)
    last = np.float64(_BUCKETS - 1)
    count[:] = 0
    total = 0
    for r in range(0, rows, max(1, (rows + columns) // 24)):
        for down in (True, False):
            first, second = _lagged(standard, pitch, rows, columns, r, down)
            for i in range(first.shape[0]):
                difference = abs(second[i] - first[i])
                bucket = difference * scale
                count[np.int64(bucket if bucket < last else last)] += 1
                total += difference < np.inf
    spread = 4 * math.sqrt(total * _QUANTILE_SHARE * (1 - _QUANTILE_SHARE)) + 1
    least, most = _QUANTILE_SHARE * total - spread, _QUANTILE_SHARE * total + spread
    if least <= 0:
        return 0.0, np.inf
    below, low = 0, 0
    while low < _BUCKETS - 1 and below + count[low] <= least:
        below += count[low]
        low += 1
    high = low
    while high < _BUCKETS - 1 and below + count[high] <= most:
        below += count[high]
        high += 1
    return low / scale, (high + 1) / scale if high < _BUCKETS - 1 else np.inf


@njit(nogil=True, cache=True, error_model="numpy")
def _pick(first, second, low, high, line, chosen, picked, n_picked):
    """Append |differences| from low up to high to `picked`; return how many it holds, are lower, are numbers at all."""
    below, total = 0, 0
    n = first.shape[0]
    for i in range(n):
        value = abs(second[i] - first[i])
        line[i] = value
        chosen[i] = np.uint8(value >= low) & np.uint8(value < high)
        below += value < low
        total += value < np.inf
    for i in range(n):  # without a branch, which few values in an irregular order would make slow
        picked[n_picked] = line[i]
        n_picked += np.int64(chosen[i])
    return n_picked, below, total


@njit(nogil=True, cache=True, error_model="numpy")
def _noise_excess(standard, pitch, rows, columns, line, count, chosen, picked):
    """Smoothed noise over what white pixel noise would leave: 1, or more if neighbours' noise is correlated.

    From a low quantile of differences, which edges and structure of an object hardly raise; at most the
    factor by which smoothing lowers white noise. The quantile is exact: where the bracket misses it, all are ranked.
    """
    low, high = _bracket(standard, pitch, rows, columns, count)
    while True:
        n_picked, below, total = 0, 0, 0
        for r in range(rows):
            for down in (True, False):
                first, second = _lagged(standard, pitch, rows, columns, r, down)
                n_picked, lower, counted = _pick(first, second, low, high, line, chosen, picked, n_picked)
                below += lower
                total += counted
        if total < 100:
            return 1.0
        place_exact = _QUANTILE_SHARE * (total - 1)
        place = np.int64(place_exact)
        if (below <= place and place + 1 < below + n_picked) or (low == 0 and high == np.inf):
            break
        low, high = 0.0, np.inf
    if high <= _QUANTILE:
        return 1.0
    if low >= _QUANTILE * _MOST_EXCESS:
        return _MOST_EXCESS
    part = place_exact - place
    ranked = np.partition(picked[:n_picked], place - below)
    value = ranked[place - below]
    following = np.min(ranked[place - below + 1 :])
    excess = ((1 - part) * value + part * following) / _QUANTILE
    return min(max(excess, 1.0), _MOST_EXCESS)


# --- planes and runs -------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _copy(target, source):
    # five times as fast as target[:] = source, which the compiler does not vectorise
    for i in range(source.shape[0]):
        target[i] = source[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _or_into(target, source):
    for i in range(source.shape[0]):
        target[i] |= source[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _clear_pads(plane, rows, columns, stride):
    for r in range(rows):
        for c in range(r * stride + columns, (r + 1) * stride):
            plane[c] = 0


@njit(nogil=True, cache=True, error_model="numpy")
def _invert(source, rows, columns, stride, out):
    for i in range(rows * stride):
        out[i] = source[i] ^ 1
    _clear_pads(out, rows, columns, stride)


@njit(nogil=True, cache=True, error_model="numpy")
def _dilate(mask, rows, columns, stride, radius, wide, out):
    """Pixels within `radius` pixels of the mask: its rows widened by the disc's chords, moved up and down."""
    n = rows * stride
    _copy(out, mask[:n])
    _copy(wide, mask[:n])
    half_chord = 0
    for away in range(radius, -1, -1):
        while (half_chord + 1) ** 2 + away**2 <= radius**2:
            half_chord += 1
            _or_into(wide[half_chord:n], mask[: n - half_chord])
            _or_into(wide[: n - half_chord], mask[half_chord:n])
        if away < rows:
            shift = away * stride
            _or_into(out[shift:n], wide[: n - shift])
            if away:
                _or_into(out[: n - shift], wide[shift:n])
    _clear_pads(out, rows, columns, stride)


@njit(nogil=True, cache=True, error_model="numpy")
def _extent(plane, rows, stride):
    """First and last row and column that hold a pixel; -1 if none does."""
    words = plane[: rows * stride].view(np.int64)
    per_row = stride // 8
    top, bottom, left, right = -1, -1, stride, -1
    for r in range(rows):
        first, final = -1, -1
        for w in range(r * per_row, (r + 1) * per_row):
            if words[w] != 0:
                final = w
                if first < 0:
                    first = w
        if first < 0:
            continue
        if top < 0:
            top = r
        bottom = r
        c = 8 * (first - r * per_row)
        if c < left:
            while plane[r * stride + c] == 0:
                c += 1
            left = min(left, c)
        c = 8 * (final - r * per_row) + 7
        if c > right:
            while plane[r * stride + c] == 0:
                c -= 1
            right = max(right, c)
    return top, bottom, left, right


@njit(nogil=True, cache=True, error_model="numpy")
def _find_runs(plane, rows, stride, starts, stops, first):
    """Runs of pixels, row by row: columns start … stop - 1; those of row r are numbers first[r] … first[r + 1] - 1."""
    words = plane[: rows * stride].view(np.int64)
    per_row = stride // 8
    n = 0
    for r in range(rows):
        first[r] = n
        inside = False
        at = r * stride
        for w in range(per_row):
            word = words[r * per_row + w]
            if word == (_EIGHT_SET if inside else 0):
                continue
            for c in range(8 * w, 8 * w + 8):
                if (plane[at + c] != 0) != inside:
                    if inside:
                        stops[n] = c
                        n += 1
                    else:
                        starts[n] = c
                    inside = not inside
    first[rows] = n
    return n


@njit(nogil=True, cache=True, error_model="numpy")
def _connect(rows, starts, stops, first, slack, root):
    """First run of what each run hangs together with; slack 1 joins diagonal neighbours, 0 does not."""
    for i in range(first[rows]):
        root[i] = i
    for r in range(1, rows):
        j = first[r - 1]
        end = first[r]
        for i in range(first[r], first[r + 1]):
            while j < end and stops[j] + slack <= starts[i]:
                j += 1
            k = j
            while k < end and starts[k] < stops[i] + slack:
                a, b = root[i], k
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
    for i in range(first[rows]):
        root[i] = root[root[i]]


@njit(nogil=True, cache=True, error_model="numpy")
def _any_of(plane, start, stop):
    together = np.uint8(0)
    piece = plane[start:stop]
    for i in range(piece.shape[0]):
        together |= piece[i]
    return together != 0


@njit(nogil=True, cache=True, error_model="numpy")
def _mark_holding(pixels, rows, stride, starts, stops, first, root, held):
    """Mark in held[root] what holds one of the pixels."""
    for i in range(first[rows]):
        held[i] = 0
    for r in range(rows):
        for i in range(first[r], first[r + 1]):
            if held[root[i]] == 0 and _any_of(pixels, r * stride + starts[i], r * stride + stops[i]):
                held[root[i]] = 1


@njit(nogil=True, cache=True, error_model="numpy")
def _fill_holes(plane, rows, columns, stride, inverse, starts, stops, first, root, outside):
    """Set the pixels that no path of edge-sharing unset pixels joins to the border."""
    _invert(plane, rows, columns, stride, inverse)
    n = _find_runs(inverse, rows, stride, starts, stops, first)
    _connect(rows, starts, stops, first, 0, root)
    for i in range(n):
        outside[i] = 0
    for r in range(rows):
        for i in range(first[r], first[r + 1]):
            if r == 0 or r == rows - 1 or starts[i] == 0 or stops[i] == columns:
                outside[root[i]] = 1
    for r in range(rows):
        for i in range(first[r], first[r + 1]):
            if outside[root[i]] == 0:
                plane[r * stride + starts[i] : r * stride + stops[i]] = 1


# --- what belongs to the cell ----------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _edge_reach(extent):
    """How far [pixels] an edge's foot may lie from its top: a tenth of the object's extent, within bounds."""
    return min(max((extent + 9) // 10, 2), _MOST_REACH)


@njit(nogil=True, cache=True, error_model="numpy")
def _parts(mask, unsupported, rows, columns, stride, reach, wide, out, starts, stops, first, root):
    """Runs and roots of what hangs together in a mask, as far as is known: save for gaps narrower than the reach.

    Two parts that border on the same unknown pixels may hang together behind them.
    """
    _dilate(mask, rows, columns, stride, max(1, reach // 3), wide, out)
    _or_into(out[: rows * stride], unsupported[: rows * stride])
    _find_runs(out, rows, stride, starts, stops, first)
    _connect(rows, starts, stops, first, 1, root)


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
def _greatest(values):
    most = 0.0
    for i in range(values.shape[0]):
        most = max(most, values[i])
    return most


@njit(nogil=True, cache=True, error_model="numpy")
def _without_halo(
    near, sought, strength, sought_strength, unsupported, rows, columns, stride, reach, floor, within, wide, label,
    starts, stops, first, root, peak, kept,
):  # fmt: skip
    """Pixels of `near` that are not the halo of something stronger: at least a share of the peak they belong to.

    A pixel belongs to a peak if they hang together, save for a zero of the deviation (a fringe) narrower than
    the reach. What stands out of the halo, twice as high as the ground around it, is a peak of its own.
    """
    most = 0.0
    for r in range(rows):
        at = r * columns
        out, size, flag = sought_strength[at:][:columns], strength[at:][:columns], sought[r * stride :]
        for c in range(columns):
            out[c] = size[c] if flag[c] != 0 else 0.0
        most = max(most, _greatest(out))
    kept[: rows * stride] = 0
    within[: rows * stride] = 0
    limit, level = HALO * most, floor / 2
    while True:
        for r in range(rows):
            out, size, flag = within[r * stride :][:columns], strength[r * columns :][:columns], near[r * stride :]
            for c in range(columns):
                out[c] = flag[c] & np.uint8(size[c] >= level)
        _parts(within, unsupported, rows, columns, stride, reach, wide, label, starts, stops, first, root)
        for i in range(first[rows]):
            peak[i] = 0.0
        for r in range(rows):
            for i in range(first[r], first[r + 1]):
                highest = _greatest(sought_strength[r * columns + starts[i] : r * columns + stops[i]])
                peak[root[i]] = max(peak[root[i]], highest)
        least = 2 * level if level > floor / 2 else 0.0
        for r in range(rows):
            for i in range(first[r], first[r + 1]):
                highest = peak[root[i]]
                if highest <= 0 or highest < least:
                    continue
                n = stops[i] - starts[i]
                bound = HALO * highest
                size = strength[r * columns + starts[i] :][:n]
                flag, out = within[r * stride + starts[i] :][:n], kept[r * stride + starts[i] :][:n]
                for c in range(n):
                    out[c] |= flag[c] & np.uint8(size[c] >= bound)
        level *= 2
        if 2 * level > limit:
            return


@njit(nogil=True, cache=True, error_model="numpy")
def _greater_of(first, second, out):
    for i in range(first.shape[0]):
        a, b = first[i], second[i]
        out[i] = a if a > b else b


@njit(nogil=True, cache=True, error_model="numpy")
def _raise_to(target, source):
    for i in range(target.shape[0]):
        a, b = target[i], source[i]
        target[i] = a if a > b else b


@njit(nogil=True, cache=True, error_model="numpy")
def _greatest_along(line, n, window, other):
    """Greatest of `window` elements from each of the first n on; the line has window - 1 more. Both are overwritten."""
    width = 1
    while width < window:
        step = min(width, window - width)
        m = n + window - width - step
        _greater_of(line[:m], line[step : step + m], other[:m])
        line, other = other, line
        width += step
    return line


@njit(nogil=True, cache=True, error_model="numpy")
def _greatest_down(plane, rows, columns, window):
    """Greatest of `window` rows from each on, in place; beyond the last row there is nothing."""
    width = 1
    while width < window:
        step = min(width, window - width)
        for r in range(rows - step):
            _raise_to(plane[r * columns :][:columns], plane[(r + step) * columns :][:columns])
        width += step


@njit(nogil=True, cache=True, error_model="numpy")
def _span_unknown(height, hidden):
    """Give unknown pixels the greater of the heights found on either side."""
    columns = height.shape[0]
    c = 0
    while c < columns:
        if hidden[c] == 0:
            c += 1
            continue
        stop = c
        while stop < columns and hidden[stop] != 0:
            stop += 1
        left = height[c - 1] if c > 0 else 0.0
        right = height[stop] if stop < columns else 0.0
        height[c:stop] = max(left, right)
        c = stop


@njit(nogil=True, cache=True, error_model="numpy")
def _weaken(
    significant, strength, significance, unsupported, some_unsupported, rows, columns, stride, reach, line, other, top,
    weak,
):  # fmt: skip
    """Pixels at least half as high as the edge that they may belong to: the greatest significant deviation near by.

    Unknown columns have the height found on either side, so that a faint flank across them is seen as one.
    The greatest of several noisy values lies about 1.5 standard deviations too high, which is taken off.
    """
    weak[: rows * stride] = 0
    first_row, last_row, left_end, right_end = _extent(significant, rows, stride)
    if first_row < 0:
        return
    window, n, n_rows = 2 * reach + 1, right_end - left_end + 1, last_row - first_row + 1
    # the plane of heights covers what is significant, and `reach` rows more on either side
    heights = top[: (n_rows + 2 * reach) * n]
    heights[: reach * n] = 0.0
    heights[(n_rows + reach) * n :] = 0.0
    for r in range(n_rows):
        line[:reach] = 0.0
        line[reach + n : n + 2 * reach] = 0.0
        row = first_row + r
        height, flag = line[reach : reach + n], significant[row * stride + left_end :][:n]
        at = row * columns + left_end
        size, sure = strength[at : at + n], significance[at : at + n]
        for c in range(n):
            good = flag[c] != 0
            less = 1 - 1.5 / (sure[c] if good else 1.5)
            height[c] = size[c] * (less if less > 0 else 0.0)
        if some_unsupported:
            _span_unknown(height, unsupported[row * stride + left_end :][:n])
        _copy(heights[(reach + r) * n :], _greatest_along(line, n, window, other)[:n])
    _greatest_down(heights, n_rows + 2 * reach, n, window)
    for r in range(n_rows):
        row = first_row + r
        highest, size = heights[r * n :][:n], strength[row * columns + left_end :][:n]
        flag, out = significant[row * stride + left_end :][:n], weak[row * stride + left_end :][:n]
        for c in range(n):
            out[c] = flag[c] & np.uint8(size[c] >= 0.5 * highest[c])


@njit(nogil=True, cache=True, error_model="numpy")
def _bridge(mask, unsupported, rows, columns, stride, out):
    """Add to `out` the unknown pixels between two parts of a mask that face each other within six rows."""
    for r in range(rows):
        hidden = unsupported[r * stride :][:columns]
        c = 0
        while c < columns:
            if hidden[c] == 0:
                c += 1
                continue
            stop = c
            while stop < columns and hidden[stop] != 0:
                stop += 1
            left, right = False, False
            if c > 0 and stop < columns:
                for near in range(max(r - 3, 0), min(r + 4, rows)):
                    left |= mask[near * stride + c - 1] != 0
                    right |= mask[near * stride + stop] != 0
            if left and right:
                out[r * stride + c : r * stride + stop] = 1
            c = stop


@njit(nogil=True, cache=True, error_model="numpy")
def _select(
    weak, strong, strength, unsupported, some_unsupported, seed, seeded, rows, columns, stride, joined,
    starts, stops, first, root, flags, mass, cell,
):  # fmt: skip
    """Pixels of `weak` whose component holds a strong pixel and touches the seed, or weighs most; return if any."""
    n = rows * stride
    _copy(joined, weak[:n])
    if some_unsupported:
        _bridge(weak, unsupported, rows, columns, stride, joined)
    n_runs = _find_runs(joined, rows, stride, starts, stops, first)
    _connect(rows, starts, stops, first, 1, root)
    for i in range(n):
        cell[i] = weak[i] & strong[i]
    _mark_holding(cell, rows, stride, starts, stops, first, root, flags)
    if seeded:
        for i in range(n_runs):
            flags[i] <<= 1
        # a second mark beside the first: 3 where a component holds a strong pixel and one of the seed
        for r in range(rows):
            for i in range(first[r], first[r + 1]):
                if flags[root[i]] == 2:
                    for c in range(r * stride + starts[i], r * stride + stops[i]):
                        if weak[c] & seed[c]:
                            flags[root[i]] = 3
                            break
        for i in range(n_runs):
            flags[i] = flags[i] == 3
    else:
        wanted = 0
        for i in range(n_runs):
            wanted += flags[i]
        if wanted > 1:
            for i in range(n_runs):
                mass[i] = 0.0
            for r in range(rows):
                for i in range(first[r], first[r + 1]):
                    if flags[root[i]]:
                        for c in range(starts[i], stops[i]):
                            if weak[r * stride + c]:
                                mass[root[i]] += strength[r * columns + c]
            heaviest = 0
            for i in range(n_runs):
                if mass[i] > mass[heaviest]:
                    heaviest = i
            for i in range(n_runs):
                flags[i] = i == heaviest
    cell[:n] = 0
    found = False
    for r in range(rows):
        for i in range(first[r], first[r + 1]):
            if flags[root[i]]:
                found = True
                start, stop = r * stride + starts[i], r * stride + stops[i]
                _copy(cell[start:stop], weak[start:stop])
    return found


# --- its outline -----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _close(mask, rows, columns, stride, radius, wide, out):
    """Closing with a disc, in place; what lies beyond the border neither adds nor takes."""
    _dilate(mask, rows, columns, stride, radius, wide, out)
    _invert(out, rows, columns, stride, mask)
    _dilate(mask, rows, columns, stride, radius, wide, out)
    _invert(out, rows, columns, stride, mask)


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
def _add_within_hull(cell, filled, rows, columns, stride, left, right, chain):
    """Add to the cell what its convex hull holds of `filled`, a plane with a border of one pixel more."""
    top, bottom = -1, -1
    for r in range(rows):
        left[r] = -1
        right[r] = -1
        row = cell[r * stride :][:columns]
        for c in range(columns):
            if row[c] != 0:
                left[r] = c
                break
        if left[r] >= 0:
            c = columns - 1
            while row[c] == 0:
                c -= 1
            right[r] = c
            bottom = r
            if top < 0:
                top = r
    filled_stride = _stride(columns + 2)
    n_left = _chain(left, top, bottom, 1, chain)
    straight = n_left <= 2 and left[top] == right[top] and left[bottom] == right[bottom]
    for r in range(n_left):  # the chain is overwritten by that of the other side: mark its corners in its rows
        chain[rows + r] = chain[r]
    n_right = _chain(right, top, bottom, -1, chain)
    if top == bottom or (straight and n_right <= 2):
        return  # all in one line: its own hull
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
        if low <= high:
            at = (r + 1) * filled_stride + 1
            _or_into(cell[r * stride + low : r * stride + high + 1], filled[at + low : at + high + 1])


@njit(nogil=True, cache=True, error_model="numpy")
def _enclose(
    cell, unsupported, some_unsupported, rows, columns, stride, wall, inverse, starts, stops, first, root, flags,
    left, right, chain,
):  # fmt: skip
    """The cell with all it encloses, together with unknown pixels and the border, inside its convex hull; in place."""
    top, bottom, most_left, most_right = _extent(cell, rows, stride)
    free = top > 0 and bottom < rows - 1 and most_left > 0 and most_right < columns - 1
    if free and not some_unsupported:  # then its holes are all that it encloses
        _fill_holes(cell, rows, columns, stride, inverse, starts, stops, first, root, flags)
        return
    wide = _stride(columns + 2)  # the border is where its own stretch is closed
    wall[: (rows + 2) * wide] = 0
    west, east, north, south = rows, rows, columns, columns
    west_end, east_end, north_end, south_end = -1, -1, -1, -1
    for r in range(rows):
        at, to = r * stride, (r + 1) * wide + 1
        own, hidden, out = cell[at : at + columns], unsupported[at : at + columns], wall[to : to + columns]
        for c in range(columns):
            out[c] = own[c] | hidden[c]
        if own[0]:
            west, west_end = min(west, r), r
        if own[columns - 1]:
            east, east_end = min(east, r), r
    for c in range(columns):
        if cell[c]:
            north, north_end = min(north, c), c
        if cell[(rows - 1) * stride + c]:
            south, south_end = min(south, c), c
    for r in range(west, west_end + 1):
        wall[(r + 1) * wide] = 1
    for r in range(east, east_end + 1):
        wall[(r + 1) * wide + columns + 1] = 1
    for c in range(north, north_end + 1):
        wall[c + 1] = 1
    for c in range(south, south_end + 1):
        wall[(rows + 1) * wide + c + 1] = 1
    _fill_holes(wall, rows + 2, columns + 2, wide, inverse, starts, stops, first, root, flags)
    _add_within_hull(cell, wall, rows, columns, stride, left, right, chain)


@njit(nogil=True, cache=True, error_model="numpy")
def _smooth_outline(
    cell, rows, columns, stride, min_area_px, blank, line, smooth, inside_rows, inside_columns, out, inverse,
    starts, stops, first, root, area,
):  # fmt: skip
    """Majority of each pixel's neighbourhood, then specks dropped and holes filled; return the area left."""
    _kernel_inside(rows, inside_rows)
    _kernel_inside(columns, inside_columns)
    out[: rows * stride] = 0
    top, bottom, left, right = _extent(cell, rows, stride)  # beyond it no pixel has the majority
    n = right - left + 1
    line[:_RADIUS] = 0.0
    line[_RADIUS + n : n + 2 * _RADIUS] = 0.0
    blank[:n] = 0
    middle, across = line[_RADIUS : _RADIUS + n], inside_columns[left : left + n]
    for r in range(top, bottom + 1):
        at = r * stride + left
        x0 = cell[at - 3 * stride :][:n] if r >= 3 else blank[:n]
        x1 = cell[at - 2 * stride :][:n] if r >= 2 else blank[:n]
        x2 = cell[at - stride :][:n] if r >= 1 else blank[:n]
        x3 = cell[at:][:n]
        x4 = cell[at + stride :][:n] if r + 1 < rows else blank[:n]
        x5 = cell[at + 2 * stride :][:n] if r + 2 < rows else blank[:n]
        x6 = cell[at + 3 * stride :][:n] if r + 3 < rows else blank[:n]
        for c in range(n):
            total = np.float64(x3[c]) * _K0
            total += np.float64(x0[c] + x6[c]) * _K3
            total += np.float64(x1[c] + x5[c]) * _K2
            total += np.float64(x2[c] + x4[c]) * _K1
            middle[c] = total
        _smooth_line(line, n, smooth)
        row, along = out[at:][:n], inside_rows[r]
        for c in range(n):
            row[c] = smooth[c] >= 0.5 * (along * across[c])
    n = _find_runs(out, rows, stride, starts, stops, first)
    _connect(rows, starts, stops, first, 0, root)
    for i in range(n):
        area[i] = 0
    for i in range(n):
        area[root[i]] += stops[i] - starts[i]
    for r in range(rows):
        for i in range(first[r], first[r + 1]):
            if area[root[i]] < min_area_px:
                out[r * stride + starts[i] : r * stride + stops[i]] = 0
    _fill_holes(out, rows, columns, stride, inverse, starts, stops, first, root, area)


@njit(nogil=True, cache=True, error_model="numpy")
def _copy_box(source, source_stride, top, left, rows, columns, out, out_stride):
    for r in range(rows):
        _copy(out[r * out_stride :], source[(top + r) * source_stride + left :][:columns])


# --- one image -------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def segment_into(transmission, known, noise_std, seed_mask, threshold, floor, min_area_px, mask_out, work):
    """Write the mask of the cell in a transmission image; see ``segment.segment_cell``. Return its area [pixels].

    transmission, noise_std float32 or float64, known, mask_out bool, all (rows, columns) and C-contiguous;
    seed_mask the same as known, or (0, 0) for none; floor > 0. work as from `segment_work`, for an image as large
    or larger; several threads need one each.
    """
    rows, columns = transmission.shape
    work_float, work_int, work_octet = work
    plane, most_runs, _, _, _ = _sizes(rows, columns)
    stride = _stride(columns)
    n = rows * stride

    pitch = columns + _RADIUS
    padded = (rows + 2 * _RADIUS) * pitch
    scratch = work_float[: 2 * padded]
    weight, weighted = scratch[:padded], scratch[padded:]
    strength, standard = work_float[2 * padded :][:padded], work_float[3 * padded :][:padded]
    tops = work_float[2 * padded :][: 2 * padded + 4 * (columns + 2 * _PAD) * _PAD]
    at = 4 * padded + 4 * (columns + 2 * _PAD) * _PAD
    lines = work_float[at : at + 4 * _line(columns)].reshape(4, _line(columns))
    at += 4 * _line(columns)
    inside_rows, inside_columns = work_float[at : at + rows], work_float[at + rows :][:columns]
    peak = work_float[at + rows + columns :][:most_runs]

    starts, stops = work_int[:most_runs], work_int[most_runs:][:most_runs]
    root, flags = work_int[2 * most_runs :][:most_runs], work_int[3 * most_runs :][:most_runs]
    at = 4 * most_runs
    first, left, right = work_int[at:][: rows + 3], work_int[at + rows + 3 :], work_int[at + 2 * (rows + 3) :]
    chain, count = work_int[at + 3 * (rows + 3) :], work_int[at + 5 * (rows + 3) :][:_BUCKETS]

    planes = work_octet[: 9 * plane].reshape(9, plane)
    unsupported, strong, sought, near, label = planes[0], planes[1], planes[2], planes[3], planes[4]
    wide, spare, seed, kept = planes[5], planes[6], planes[7], planes[8]

    for r in range(rows):
        mask_out[r, :] = False
    # supported is kept in `spare` until the noise is known
    supported = spare
    some_unsupported = not _all_set(known)
    if some_unsupported:
        lines[0, :_RADIUS] = 0.0
        lines[0, _RADIUS + pitch : 2 * _RADIUS + pitch] = 0.0
        _find_supported(known, weight, pitch, lines[0], lines[1], inside_rows, inside_columns, supported, stride)
    else:
        supported[:n] = 1
    _weigh(transmission, known, noise_std, weight, weighted, pitch)
    _smooth(weight, weighted, pitch, rows, lines, strength, standard)
    if some_unsupported:
        _void(supported, stride, pitch, rows, columns, strength, standard)
    excess = _noise_excess(standard, pitch, rows, columns, lines[3], count, wide, scratch)

    seeded = seed_mask.shape[0] > 0
    strong[:n] = 0
    sought[:n] = 0
    near[:n] = 0
    for r in range(rows):
        size, height = strength[r * pitch :][:columns], standard[r * pitch :][:columns]
        out_strong, out_near = strong[r * stride :][:columns], near[r * stride :][:columns]
        for c in range(columns):
            sure = abs(height[c]) / excess
            height[c] = sure
            out_strong[c] = np.uint8(sure >= threshold) & np.uint8(size[c] >= floor)
            out_near[c] = np.uint8(sure >= threshold / 2) & np.uint8(size[c] >= floor / 2)
        out_sought = sought[r * stride :][:columns]
        if seeded:
            asked = seed_mask[r]
            for c in range(columns):
                out_sought[c] = out_strong[c] & np.uint8(asked[c])
        else:
            _copy(out_sought, out_strong)
    _invert(supported, rows, columns, stride, unsupported)
    significance = standard

    top, bottom, first_column, last_column = _extent(sought, rows, stride)
    if top < 0:
        return 0
    reach = _edge_reach(max(bottom - top, last_column - first_column) + 1)
    _parts(near, unsupported, rows, columns, stride, reach, wide, label, starts, stops, first, root)
    _mark_holding(sought, rows, stride, starts, stops, first, root, flags)
    spare[:n] = 0
    for r in range(rows):
        for i in range(first[r], first[r + 1]):
            if flags[root[i]]:
                start, stop = r * stride + starts[i], r * stride + stops[i]
                _copy(spare[start:stop], near[start:stop])

    # the rest works on the box of what may be the cell, with room for the reach of its filters
    top, bottom, first_column, last_column = _extent(spare, rows, stride)
    room = 2 * reach + 2
    top, first_column = max(top - room, 0), max(first_column - room, 0)
    box_rows = min(bottom + 1 + room, rows) - top
    box_columns = min(last_column + 1 + room, columns) - first_column
    box_stride = _stride(box_columns)
    n = box_rows * box_stride
    near, spare = spare, near
    if box_rows < rows or box_columns < columns:
        for source in (near, strong, sought, unsupported):  # each is moved to a spare plane and back
            spare[:n] = 0
            _copy_box(source, stride, top, first_column, box_rows, box_columns, spare, box_stride)
            _copy(source, spare[:n])
    some_unsupported = _any_of(unsupported, 0, n)
    seed[:n] = 0
    if seeded:
        for r in range(box_rows):
            out, asked = seed[r * box_stride :][:box_columns], seed_mask[top + r, first_column:]
            for c in range(box_columns):
                out[c] = np.uint8(asked[c])
    pixels = box_rows * box_columns
    box_strength, box_significance = scratch[:pixels], scratch[pixels:][:pixels]
    _copy_box(strength, pitch, top, first_column, box_rows, box_columns, box_strength, box_columns)
    _copy_box(significance, pitch, top, first_column, box_rows, box_columns, box_significance, box_columns)
    _without_halo(
        near, sought, box_strength, tops, unsupported, box_rows, box_columns, box_stride, reach, floor,
        spare, wide, label, starts, stops, first, root, peak, kept,
    )  # fmt: skip
    cell, weak = sought, near
    _weaken(
        kept, box_strength, box_significance, unsupported, some_unsupported, box_rows, box_columns, box_stride, reach,
        lines[0], lines[1], tops, weak,
    )  # fmt: skip
    found = _select(
        weak, strong, box_strength, unsupported, some_unsupported, seed, seeded, box_rows, box_columns, box_stride,
        label, starts, stops, first, root, flags, peak, cell,
    )  # fmt: skip
    if not found:
        return 0
    _close(cell, box_rows, box_columns, box_stride, reach, wide, label)
    _enclose(
        cell, unsupported, some_unsupported, box_rows, box_columns, box_stride, label, wide,
        starts, stops, first, root, flags, left, right, chain,
    )  # fmt: skip
    _smooth_outline(
        cell, box_rows, box_columns, box_stride, min_area_px, wide, lines[0], lines[1], inside_rows, inside_columns,
        label, spare, starts, stops, first, root, flags,
    )  # fmt: skip
    area = 0
    for r in range(box_rows):
        row, out = label[r * box_stride :][:box_columns], mask_out[top + r, first_column : first_column + box_columns]
        for c in range(box_columns):
            out[c] = row[c] != 0
            area += np.int64(row[c])
    return area


@njit(cache=True, error_model="numpy")
def label_parts(mask, min_area_px, labels_out):
    """Number the cells in a mask from 1 on, the largest first; see ``segment.separate_parts``. Return how many.

    mask bool and labels_out int32 of shape (rows, columns), C-contiguous; 0 is background and specks.
    """
    rows, columns = mask.shape
    stride = _stride(columns)
    plane = np.zeros(rows * stride, dtype=np.uint8)
    for r in range(rows):
        source, own, out = mask[r], plane[r * stride :][:columns], labels_out[r]
        for c in range(columns):
            own[c] = np.uint8(source[c])
            out[c] = 0
    most = rows * (columns // 2 + 1)
    # of each run: ends, root, row, the next run of the same root; of each root: its last run, its area, its number
    table = np.empty((7, most), dtype=np.int32)
    starts, stops, root, row_of = table[0], table[1], table[2], table[3]
    following, last, number = table[4], table[5], table[6]
    first = np.empty(rows + 1, dtype=np.int32)
    n_runs = _find_runs(plane, rows, stride, starts, stops, first)
    _connect(rows, starts, stops, first, 1, root)
    area = np.zeros(n_runs, dtype=np.int64)
    n_roots = 0
    for r in range(rows):
        for i in range(first[r], first[r + 1]):
            row_of[i], following[i], last[i] = r, -1, i
            if root[i] == i:
                number[n_roots] = i
                n_roots += 1
            else:
                following[last[root[i]]] = i
                last[root[i]] = i
            area[root[i]] += stops[i] - starts[i]
    roots = number[:n_roots].copy()
    order = np.argsort(-area[roots], kind="mergesort")  # of equally large ones the first comes first
    boxes = np.empty((n_roots, 4), dtype=np.int64)
    count = 0
    for k in order:
        part, host = roots[k], -1
        for other in range(count):
            top, bottom, left, right = boxes[other]
            within, i = 0, part
            while i >= 0 and row_of[i] <= bottom:
                if row_of[i] >= top:
                    within += max(min(stops[i], right + 1) - max(starts[i], left), 0)
                i = following[i]
            if 2 * within > area[part]:
                host = other
                break
        if host < 0:
            if area[part] < min_area_px:
                continue
            host = count
            count += 1
            boxes[host, 0], boxes[host, 1], boxes[host, 2], boxes[host, 3] = rows, -1, columns, -1
        i = part
        while i >= 0:
            boxes[host, 0], boxes[host, 1] = min(boxes[host, 0], row_of[i]), max(boxes[host, 1], row_of[i])
            boxes[host, 2], boxes[host, 3] = min(boxes[host, 2], starts[i]), max(boxes[host, 3], stops[i] - 1)
            labels_out[row_of[i], starts[i] : stops[i]] = host + 1
            i = following[i]
    return count


@njit(cache=True, error_model="numpy")
def take_label(labels, number, mask_out):
    """Pixels of one label; int32 and bool, both (rows, columns)."""
    for r in range(labels.shape[0]):
        for c in range(labels.shape[1]):
            mask_out[r, c] = labels[r, c] == number


@njit(nogil=True, cache=True, error_model="numpy")
def segment_many(place, transmission, known, noise_std, seeds, threshold, floor, min_area_px, masks, work):
    """`segment_into` for images in flat arrays."""
    for i in range(place.shape[0]):
        begin, rows, columns = place[i, 0], place[i, 1], place[i, 2]
        end = begin + rows * columns
        segment_into(
            transmission[begin:end].reshape(rows, columns),
            known[begin:end].reshape(rows, columns),
            noise_std[begin:end].reshape(rows, columns),
            seeds[begin:end].reshape(rows, columns),
            threshold,
            floor,
            min_area_px,
            masks[begin:end].reshape(rows, columns),
            work,
        )


@njit(nogil=True, cache=True, error_model="numpy")
def label_many(place, masks, min_area_px, labels, parts):
    """`label_parts` for images in flat arrays."""
    for i in range(place.shape[0]):
        begin, rows, columns = place[i, 0], place[i, 1], place[i, 2]
        end = begin + rows * columns
        parts[i] = label_parts(
            masks[begin:end].reshape(rows, columns), min_area_px, labels[begin:end].reshape(rows, columns)
        )
