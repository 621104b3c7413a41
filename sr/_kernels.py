"""Compiled kernels that fit lines, follow their clock and detect what they hold: arrays in, arrays out.

One module for all that call each other, so that the compiler's cache sees every change.
"""

import math

import numpy as np
from numba import njit

from ._calibration_kernels import CONVERTERS

# A line with less of the empty line's light than this holds none: the laser was off, or something opaque in the way.
DARK_SHARE = 0.03
# A line that shows less of an empty line's timing information than this says nothing of the clock.
LEAST_SHARE = 0.05
# A row's lines may lie this far from where the tables of a row have them [samples].
_ROW_SLACK_SAMPLES = 0.01
# Loops over a line take this many samples at a time.
_VECTOR = 32


@njit(nogil=True, cache=True)
def _solve(gram, right, prior_gain, prior_slope):
    """Solve the 3 × 3 normal equations: baseline, gain change, slope coefficient, and the variances of the last two."""
    a00, a01, a02 = gram[0] + 1e-9, gram[1], gram[2]
    a11, a12 = gram[3] + prior_gain, gram[4]
    a22 = gram[5] + prior_slope
    m00 = a11 * a22 - a12 * a12
    m01 = a02 * a12 - a01 * a22
    m02 = a01 * a12 - a02 * a11
    determinant = a00 * m00 + a01 * m01 + a02 * m02
    if determinant <= 1e-12 * a00 * a11 * a22:
        return right[0] / a00, 0.0, 0.0, np.inf, np.inf
    m11 = a00 * a22 - a02 * a02
    m12 = a01 * a02 - a00 * a12
    m22 = a00 * a11 - a01 * a01
    inverse = 1.0 / determinant
    return (
        (m00 * right[0] + m01 * right[1] + m02 * right[2]) * inverse,
        (m01 * right[0] + m11 * right[1] + m12 * right[2]) * inverse,
        (m02 * right[0] + m12 * right[1] + m22 * right[2]) * inverse,
        m11 * inverse,
        m22 * inverse,
    )


# The functions below that loop over a line get whole tables and a row, and slice them themselves: slices handed on from
# the caller would cost more than the loops (reference counts are atomic).
@njit(nogil=True, cache=True, forceinline=True, fastmath={"reassoc", "contract", "nsz"})
def _load(samples, first, converter, row, tables, low, high, y):
    """Corrected samples minus the empty line into ``y``, float32 (W,).

    Return the right-hand side of the normal equations, the weighted sum of squares, and the samples on a rail
    (their y is kept, see the caller).
    """
    width = y.shape[0]
    x = samples[first : first + width]
    scale, shift = tables[0][converter : converter + width], tables[1][converter : converter + width]
    p, q, w = tables[2][row], tables[3][row], tables[4][row]
    r0 = r1 = r2 = energy = on_rail = zero = np.float32(0.0)
    one = np.float32(1.0)
    for j in range(width):
        value = np.float32(x[j])
        d = value * scale[j] - shift[j] - p[j]
        y[j] = d
        wy = w[j] * d
        r0 += wy
        r1 += wy * p[j]
        r2 += wy * q[j]
        energy += wy * d
        on_rail += one if (value <= low) | (value >= high) else zero
    return (float(r0), float(r1), float(r2)), float(energy), int(on_rail)


@njit(nogil=True, cache=True, forceinline=True, fastmath={"reassoc", "contract", "nsz"})
def _marked_sums(y, row, tables, marked, mark, start, stop):
    """Weighted normal equations of y = baseline + gain·p + slope·q over positions start … stop - 1
    marked ``mark``, and Σ w·y².

    y: float32 (W,), marked: uint8 (W,), 0 or 1. A cell is narrow: what a line holds without it follows from the sums
    over the line and these.
    """
    y, marked = y[start:stop], marked[start:stop]
    p, q, w = tables[2][row, start:stop], tables[3][row, start:stop], tables[4][row, start:stop]
    g00 = g01 = g02 = g11 = g12 = g22 = np.float32(0.0)
    r0 = r1 = r2 = energy = zero = np.float32(0.0)
    for j in range(y.shape[0]):
        wj, pj, qj = (w[j] if marked[j] == mark else zero), p[j], q[j]
        wp, wq, wy = wj * pj, wj * qj, wj * y[j]
        g00 += wj
        g01 += wp
        g02 += wq
        g11 += wp * pj
        g12 += wp * qj
        g22 += wq * qj
        r0 += wy
        r1 += wy * pj
        r2 += wy * qj
        energy += wy * y[j]
    return (
        (float(g00), float(g01), float(g02), float(g11), float(g12), float(g22)),
        (float(r0), float(r1), float(r2)),
        float(energy),
    )


@njit(nogil=True, cache=True, forceinline=True, fastmath={"reassoc", "contract", "nsz"})
def _residual(y, row, tables, fit, out):
    """Residual of the fit into ``out``; return the weighted sum of its squares."""
    p, q, w = tables[2][row], tables[3][row], tables[4][row]
    b, g, c = np.float32(fit[0]), np.float32(fit[1]), np.float32(fit[2])
    total = np.float32(0.0)
    for j in range(y.shape[0]):
        r = y[j] - b - g * p[j] - c * q[j]
        out[j] = r
        total += w[j] * r * r
    return float(total)


@njit(nogil=True, cache=True)
def _chi_square(energy, gram, right, b, c, d):
    """Weighted sum of squared residuals of baseline b, gain change c and slope d, from the sums over the positions."""
    linear = b * right[0] + c * right[1] + d * right[2]
    squares = b * b * gram[0] + c * c * gram[3] + d * d * gram[5]
    return energy - 2.0 * linear + squares + 2.0 * (b * c * gram[1] + b * d * gram[2] + c * d * gram[4])


@njit(nogil=True, cache=True)
def _row_of(grams, row):
    return (grams[row, 0], grams[row, 1], grams[row, 2], grams[row, 3], grams[row, 4], grams[row, 5])


@njit(nogil=True, cache=True)
def _less(a, b):
    """Normal equations without a part of them."""
    return (a[0] - b[0], a[1] - b[1], a[2] - b[2], a[3] - b[3], a[4] - b[4], a[5] - b[5])


@njit(nogil=True, cache=True, forceinline=True, fastmath={"reassoc", "contract", "nsz"})
def _mark_misfits(y, row, tables, start, stop, b, g, c, delay_slack, gain_slack, limit, marked):
    """Mark squared residuals beyond ``limit`` noise variances, less what a small error of delay or gain would explain.

    marked: uint8 (W,), set to 0 or 1 in start … stop - 1. Return the first and the last marked position there, the
    last before the first where there is none.
    """
    y, marked = y[start:stop], marked[start:stop]
    p, q, w = tables[2][row, start:stop], tables[3][row, start:stop], tables[4][row, start:stop]
    zero = np.float32(0.0)
    none = np.int32(y.shape[0])
    first, last = none, np.int32(-1)
    for j in range(y.shape[0]):
        r = abs(y[j] - b - g * p[j] - c * q[j]) - delay_slack * abs(q[j]) - gain_slack * abs(p[j])
        r = max(r, zero)
        bad = r * r * w[j] > limit
        marked[j] = np.uint8(bad)
        first = min(first, np.int32(j) if bad else none)
        last = max(last, np.int32(j) if bad else np.int32(-1))
    return start + int(first), start + int(last)


@njit(nogil=True, cache=True)
def _widen(marked, first, last, reach, out):
    """Marks, all in first … last, with ``reach`` neighbours on either side into ``out``, both uint8 (W,).

    Return the span they lie in (first, end); nothing outside of it is written.
    """
    if last < first:
        return 0, 0
    start, stop = max(0, first - reach), min(marked.shape[0], last + 1 + reach)
    left, whole = 0, 2 * reach + 1
    for j in range(first, last + 1):
        left = whole if marked[j] else left - 1
        if j >= reach:
            out[j - reach] = left > 0
    for j in range(last + 1 - reach, stop):
        left -= 1
        if j >= 0:
            out[j] = left > 0
    return start, stop


@njit(nogil=True, cache=True)
def _clear(marked, start, stop):
    marked = marked[start:stop]
    for j in range(marked.shape[0]):
        marked[j] = 0


@njit(nogil=True, cache=True)
def _some_median(y, row, weight, first, most, room):
    """Median of some ``most`` samples with weight, spread over a line from ``first`` on; NaN of fewer than five.

    weight: float32 (phases + 1, W); room: float32, for twice as many.
    """
    w = weight[row]
    count = 0
    for j in range(first, y.shape[0], max(1, (y.shape[0] - first) // most)):
        if w[j] > 0:
            value, at = y[j], count
            while at > 0 and room[at - 1] > value:
                room[at] = room[at - 1]
                at -= 1
            room[at] = value
            count += 1
    if count < 5:
        return np.float32(np.nan)
    return np.float32(0.5) * (room[(count - 1) // 2] + room[count // 2])


@njit(nogil=True, cache=True, forceinline=True, fastmath={"reassoc", "contract", "nsz"})
def _mean_about(y, row, tables, first, centre):
    """Mean of a line from ``first`` on, samples counted as no more than two standard deviations off ``centre``."""
    y, w = y[first:], tables[4][row, first:]
    total = weight = count = zero = np.float32(0.0)
    one, two = np.float32(1.0), np.float32(2.0)
    for j in range(y.shape[0]):
        weight += w[j]
        count += one if w[j] > zero else zero
    spread = two * np.sqrt(count / weight)
    for j in range(y.shape[0]):
        total += w[j] * min(max(y[j] - centre, -spread), spread)
    return float(centre + total / weight)


@njit(nogil=True, cache=True)
def _mark_rail(samples, first, low, high, found, rail):
    """Mark samples on a rail, and take them off what was found: they are not known to differ."""
    for j in range(rail.shape[0]):
        rail[j] = (samples[first + j] <= low) | (samples[first + j] >= high)
        found[j] &= 1 - rail[j]


@njit(nogil=True, cache=True)
def _fit_robust(
    samples,
    first,
    y,
    row,
    tables,
    low,
    high,
    priors,
    slope_start,
    right,
    on_rail,
    residual,
    found,
    marked,
    rail,
    judge,
    fit,
):
    """Fit baseline, gain and delay on the empty positions of a line that holds something else too.

    Positions far from the empty line, some neighbours on either side and samples on a rail get no weight.
    The fit starts from the predicted clock, nominal gain and the dark baseline, and tightens its tolerance in steps.
    right: sums over the whole line; residual: float32 (W,), room; found, marked, rail: uint8 (W,); the positions
    without weight are left ``marked``.
    Return (variance of the slope coefficient, share of the line's timing information that was left, that of its
    light).
    """
    width = y.shape[0]
    grams, dark_first, reach = tables[6], tables[5][row], tables[7]
    gram = _row_of(grams, row)
    _clear(marked, 0, width)
    full_light, full_information = gram[3], gram[5]
    if on_rail > 0:
        _mark_rail(samples, first, low, high, found, rail)
        lost, _, _ = _marked_sums(y, row, tables, rail, 1, 0, width)
        full_light -= lost[3]
        full_information -= lost[5]
    fit[0], fit[1], fit[2] = 0.0, 0.0, slope_start
    middle = _some_median(y, row, tables[4], dark_first, 32 if judge else 10, residual)
    dark = middle == middle
    lit = width
    if dark:
        fit[0] = middle
    if dark and not judge:
        # in the dark neither delay nor gain matter: for an image one look is enough
        lit = min(width, (dark_first + _VECTOR - 1) // _VECTOR * _VECTOR)
        fit[0] = _mean_about(y, row, tables, dark_first, middle)
    dark_start, dark_last = width, -1
    variance, left, start, stop = np.inf, gram, 0, 0
    limit = np.float32(12.0)
    step = 0
    while step < 4:
        delay_slack = np.float32((0.25, 0.1, 0.04, 0.02)[step])
        gain_slack = np.float32((0.06, 0.03, 0.015, 0.01)[step])
        b, g, c = np.float32(fit[0]), np.float32(fit[1]), np.float32(fit[2])
        begin, last = _mark_misfits(y, row, tables, 0, lit, b, g, c, delay_slack, gain_slack, limit, found)
        if step == 0 and lit < width:
            dark_start, dark_last = _mark_misfits(
                y, row, tables, lit, width, b, g, c, delay_slack, gain_slack, limit, found
            )
        if dark_last >= dark_start:
            begin, last = min(begin, dark_start), dark_last
        _clear(marked, start, stop)
        if on_rail > 0:
            _mark_rail(samples, first, low, high, found, rail)
        start, stop = _widen(found, begin, last, reach, marked)
        if on_rail > 0:
            start, stop = 0, width
            for j in range(width):
                marked[j] |= rail[j]
        if 2 * (stop - start) > width:  # too little is left to be found as a difference
            left, kept, _ = _marked_sums(y, row, tables, marked, 0, 0, width)
        else:
            # whole vectors cost less than a loop's remainder
            end = min(width, start + (stop - start + _VECTOR - 1) // _VECTOR * _VECTOR)
            lost, moved, _ = _marked_sums(y, row, tables, marked, 1, start, end)
            left = _less(gram, lost)
            kept = (right[0] - moved[0], right[1] - moved[1], right[2] - moved[2])
        # the prior of the slope coefficient is centred on the predicted clock, not on zero
        kept = (kept[0], kept[1], kept[2] + priors[1] * slope_start)
        fit[0], fit[1], fit[2], fit[3], variance = _solve(left, kept, priors[0], priors[1])
        # a fit that moved by less than the last tolerance is ready for it; a clock that is still being found is not
        settled = abs(fit[1] - g) < 0.01 and abs(fit[2] - c) < 0.02 * abs(1.0 + fit[1])
        step = 3 if step < 3 and settled and not judge else step + 1
    share, light = left[5] / max(full_information, 1e-30), left[3] / max(full_light, 1e-30)
    if fit[1] * fit[1] * priors[0] > 36.0:
        # no pulse is that bright or dim: what was taken for the empty line is a cell, and nothing empty is left
        total, weight = 0.0, 1e-9
        if dark:
            for j in range(dark_first, width):
                if marked[j] == 0:
                    total += tables[4][row, j] * y[j]
                    weight += tables[4][row, j]
        fit[0], fit[1], fit[2], fit[3] = total / weight, 0.0, slope_start, 1e6
        marked[:] = 1
        variance, share, light = 1e6, 0.0, 0.0
    return variance, max(share, 0.0), max(light, 0.0)


@njit(nogil=True, cache=True, forceinline=True, fastmath={"reassoc", "contract", "nsz"})
def _judge(y, row, tables, fit, marked, rail, out):
    """Residual of a robust fit into ``out``, 0 on a rail, float32 (W,); marked, rail: uint8 (W,).

    Return the weighted sum of its squares, over all and over what was not marked; how many positions have weight, in
    all and unmarked; and the light missing from the marked ones with weight, less those on a rail.
    """
    p, q, w = tables[2][row], tables[3][row], tables[4][row]
    b, g, c = np.float32(fit[0]), np.float32(fit[1]), np.float32(fit[2])
    one = np.float32(1.0)
    total = kept = weighted = used = missing = zero = np.float32(0.0)
    for j in range(y.shape[0]):
        r = y[j] - b - g * p[j] - c * q[j]
        square = w[j] * r * r
        here, free = one if w[j] > zero else zero, one - np.float32(marked[j])
        r = r * (one - np.float32(rail[j]))
        out[j] = r
        total += square
        kept += free * square
        weighted += here
        used += free * here
        missing -= (one - free) * here * r
    return float(total), float(kept), float(weighted), float(used), float(missing)


@njit(nogil=True, cache=True)
def _fit_line(
    samples, first, converter, epsilon, row, tables, limits, priors, chi2_limit, judge, y, residual, found, marked,
    rail, fit,
):  # fmt: skip
    """:func:`fit_line` with its room apart: y, residual float32 (W,); found, marked, rail uint8 (W,).

    Unless asked to ``judge``, chi-square, missing light and residuals are left out.
    """
    low, high = np.float32(limits[0]), np.float32(limits[1])
    right, energy, on_rail = _load(samples, first, converter, row, tables, low, high, y)
    fit[4] = 0.0
    if on_rail == 0:
        pulled = (right[0], right[1], right[2] + priors[1] * epsilon)
        gram = _row_of(tables[6], row)
        b, c, d, fit[3], variance = _solve(gram, pulled, priors[0], priors[1])
        fit[0], fit[1], fit[2] = b, c, d
        chi2 = _chi_square(energy, gram, right, b, c, d)
        # no pulse is that bright or dim, however well a line without one is explained
        if chi2 < chi2_limit and c * c * priors[0] < 64.0:
            return variance, 1.0, _residual(y, row, tables, fit, residual) if judge else np.nan, on_rail
    variance, share, light = _fit_robust(
        samples,
        first,
        y,
        row,
        tables,
        low,
        high,
        priors,
        epsilon,
        right,
        on_rail,
        residual,
        found,
        marked,
        rail,
        judge,
        fit,
    )
    if not judge:
        return variance, share, np.nan, on_rail
    if on_rail == 0:
        _clear(rail, 0, rail.shape[0])
    # what is on a rail is not known to differ from the empty line
    chi2, kept_chi2, weighted, used, fit[4] = _judge(y, row, tables, fit, marked, rail, residual)
    if used > 0:  # a line of which little light is left to fit may be something else altogether
        lit_share = min(share, light)
        chi2 = min(chi2, kept_chi2 * weighted / used / max(lit_share * lit_share, 1e-6))
    return variance, share, chi2, on_rail


@njit(nogil=True, cache=True)
def fit_line(samples, first, converter, epsilon, row, tables, limits, priors, chi2_limit, work, fit):
    """Fit one line: y = baseline + gain change·p + slope·q, robustly where the plain fit does not explain it.

    tables = (scale, shift, p, q, w, dark_first, gram, reach); priors = (1/var of gain change, 1/var of
    delay) [1, 1/samples²]; work: float32 (4, W), fit: float64 (5,). Residuals of all positions are left in work[1].
    Return (variance of slope, information share, chi-square of what was fitted, samples on a rail); fit[3] is the
    variance of the gain, fit[4] the light missing from the positions without weight [codes·samples].
    """
    width = work.shape[1]
    marks = work[3].view(np.uint8)
    return _fit_line(
        samples, first, converter, epsilon, row, tables, limits, priors, chi2_limit, True, work[0], work[1],
        marks[:width], marks[width : 2 * width], marks[2 * width : 3 * width], fit,
    )  # fmt: skip


@njit(nogil=True, cache=True)
def _place(start, phases):
    """First sample of a line, the row of the tables for it, and how far its phase is from the row's [samples]."""
    first = math.ceil(start)
    tau = first - start
    row = int(tau * phases + 0.5)
    return first, row, tau - row / phases


@njit(nogil=True, cache=True)
def _write_fit(epsilon, fit, variance, share, chi2, on_rail, out, n):
    gain = max(1.0 + fit[1], 0.05)
    out[n, 0] = epsilon - fit[2] / gain
    # what a cell leaves visible of a line is seldom quite empty: trust it less than its noise says
    out[n, 1] = variance / (gain * gain * max(share * share, 1e-6))
    out[n, 2] = share
    out[n, 3] = fit[0]
    out[n, 4] = 1.0 + fit[1]
    out[n, 5] = chi2
    out[n, 6] = on_rail
    out[n, 7] = fit[3]
    out[n, 8] = fit[4]


@njit(nogil=True, cache=True)
def _greatest_nearby(source, target, first, count, step):
    """Each value, or that ``step`` before or behind where it is greater; float32, of one memory."""
    before, here = source[first - step : first - step + count], source[first : first + count]
    behind, out = source[first + step : first + step + count], target[first : first + count]
    for j in range(count):
        out[j] = max(max(before[j], behind[j]), here[j])


@njit(nogil=True, cache=True)
def _mark_objects(room, count, reach):
    """Of marks (0 or 1) in room[0] those with a mark beside them, and ``reach`` neighbours on either side, to room[1].

    Noise marks single positions; an object has two side by side. room: float32 (2, count + 4·reach + 16); the
    marks begin at column 2·reach + 8 of it, and so does what is made of them.
    """
    edge = 2 * reach + 8
    zero = np.float32(0.0)
    for j in range(edge):
        room[0, j] = zero
        room[1, j] = zero
        room[0, edge + count + j] = zero
        room[1, edge + count + j] = zero
    before, here = room[0, edge - 1 : edge - 1 + count], room[0, edge : edge + count]
    behind, out = room[0, edge + 1 : edge + 1 + count], room[1, edge : edge + count]
    for j in range(count):
        out[j] = here[j] * max(before[j], behind[j])
    reached, source = 0, 1
    while reached < reach:
        step = min(2 * reached + 1, reach - reached)
        _greatest_nearby(room[source], room[1 - source], edge - reach, count + 2 * reach, step)
        reached += step
        source = 1 - source
    if source == 0:
        other, out = room[0, edge : edge + count], room[1, edge : edge + count]
        for j in range(count):
            out[j] = other[j]


# The two functions below do in one what the others do in calls, each array an argument of its own, since to hand on a
# tuple of arrays takes longer than to loop over a line. Inlined by force, they are the same machine code whether the
# caller was just compiled or comes from the cache: else another copy may be called, which rounds otherwise.
@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _fit_beside(
    samples, first, converter, epsilon, row, scale, shift, light, slope, weight, gram, low, high, prior_gain,
    prior_slope, chi2_limit, begin, end, fit,
):  # fmt: skip
    """Plain least squares on the positions of a line outside begin … end - 1, for a line known to be empty there.

    The arrays of tables one by one. Return (whether it is: nothing on a rail there, and chi-square as of an empty line;
    variance of the slope; information share).
    """
    width = light.shape[1]
    zero, one = np.float32(0.0), np.float32(1.0)
    r0 = r1 = r2 = energy = on_rail = zero
    for side in range(2):
        start, stop = (0, begin) if side == 0 else (end, width)
        x = samples[first + start : first + stop]
        a, o = scale[converter + start : converter + stop], shift[converter + start : converter + stop]
        p, q, w = light[row, start:stop], slope[row, start:stop], weight[row, start:stop]
        for j in range(stop - start):
            value = np.float32(x[j])
            d = value * a[j] - o[j] - p[j]
            wy = w[j] * d
            r0 += wy
            r1 += wy * p[j]
            r2 += wy * q[j]
            energy += wy * d
            on_rail += one if (value <= low) | (value >= high) else zero
    h00 = h01 = h02 = h11 = h12 = h22 = zero
    p, q, w = light[row, begin:end], slope[row, begin:end], weight[row, begin:end]
    for j in range(end - begin):
        wp, wq = w[j] * p[j], w[j] * q[j]
        h00 += w[j]
        h01 += wp
        h02 += wq
        h11 += wp * p[j]
        h12 += wp * q[j]
        h22 += wq * q[j]
    left = (
        gram[row, 0] - h00, gram[row, 1] - h01, gram[row, 2] - h02, gram[row, 3] - h11, gram[row, 4] - h12,
        gram[row, 5] - h22,
    )  # fmt: skip
    right = float(r0), float(r1), float(r2)
    pulled = right[0], right[1], right[2] + prior_slope * epsilon
    b, c, d, fit[3], variance = _solve(left, pulled, prior_gain, prior_slope)
    fit[0], fit[1], fit[2], fit[4] = b, c, d, 0.0
    chi2 = _chi_square(float(energy), left, right, b, c, d)
    explained = chi2 * width < chi2_limit * (width - (end - begin)) and c * c * prior_gain < 36.0
    return on_rail == 0 and explained, variance, max(left[5] / max(gram[row, 5], 1e-30), 0.0)


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
def _see_row(
    samples, first, converter, start, offsets, scale, shift, light, slope, weight, dark_first, gram, reach, root, low,
    high, prior_gain, prior_slope, chi2_limit, y, room, total, square,
):  # fmt: skip
    """Add what the empty line leaves of the sum of four lines, if enough of them is empty; else return False.

    The first line starts at ``start``, its first sample is ``samples[first]``. The arrays of tables for a row, see
    ``line_fit.row_tables``, one by one; root, total, square: see :func:`_add_residual`; y: float32 (W,);
    room: float32 (2, W + 4·reach + 16).
    """
    phases, width = light.shape[0] - 1, light.shape[1]
    tau = math.ceil(start) - start
    row = int(tau * phases + 0.5)
    b0, b1, b2, b3 = offsets[row, 0], offsets[row, 1], offsets[row, 2], offsets[row, 3]
    if first < 0 or first + b3 + width > samples.shape[0]:
        return False
    x0, x1 = samples[first + b0 : first + b0 + width], samples[first + b1 : first + b1 + width]
    x2, x3 = samples[first + b2 : first + b2 + width], samples[first + b3 : first + b3 + width]
    b0, b1 = (converter + b0) % CONVERTERS, (converter + b1) % CONVERTERS
    b2, b3 = (converter + b2) % CONVERTERS, (converter + b3) % CONVERTERS
    a0, a1, a2, a3 = scale[b0 : b0 + width], scale[b1 : b1 + width], scale[b2 : b2 + width], scale[b3 : b3 + width]
    o0, o1, o2, o3 = shift[b0 : b0 + width], shift[b1 : b1 + width], shift[b2 : b2 + width], shift[b3 : b3 + width]
    p, q, w = light[row], slope[row], weight[row]
    zero, one = np.float32(0.0), np.float32(1.0)
    r0 = r1 = r2 = energy = on_rail = zero
    for j in range(width):
        v0, v1, v2, v3 = np.float32(x0[j]), np.float32(x1[j]), np.float32(x2[j]), np.float32(x3[j])
        d = (v0 * a0[j] - o0[j]) + (v1 * a1[j] - o1[j]) + (v2 * a2[j] - o2[j]) + (v3 * a3[j] - o3[j]) - p[j]
        y[j] = d
        wy = w[j] * d
        r0 += wy
        r1 += wy * p[j]
        r2 += wy * q[j]
        energy += wy * d
        least, greatest = min(min(v0, v1), min(v2, v3)), max(max(v0, v1), max(v2, v3))
        on_rail += one if (least <= low) | (greatest >= high) else zero
    if on_rail > zero:
        return False
    epsilon = tau - row / phases
    left = gram[row, 0], gram[row, 1], gram[row, 2], gram[row, 3], gram[row, 4], gram[row, 5]
    right, kept_energy = (float(r0), float(r1), float(r2)), float(energy)
    kept = np.float32(width)
    dark = dark_first[row]
    baseline, gain, delay = 0.0, 0.0, epsilon
    # first all of it, then without what stands out, at a glance and once more with a better fit
    edge = 2 * reach + 8
    off, wide = room[0, edge : edge + width], room[1, edge : edge + width]
    for look in range(3):
        if look == 1:
            level, level_weight = zero, np.float32(1e-30)
            for j in range(width - dark):
                level += w[dark + j] * y[dark + j]
                level_weight += w[dark + j]
            if dark + 4 > width:  # no dark to see the baseline by: an object leaves most of the line
                level, level_weight = _some_median(y, row, weight, 0, 32, off), one
                dark = width
            baseline, gain, delay = float(level / level_weight), 0.0, epsilon
        if look > 0:
            b, g, c = np.float32(baseline), np.float32(gain), np.float32(delay)
            delay_slack, gain_slack = np.float32((0.25, 0.04)[look - 1]), np.float32((0.06, 0.015)[look - 1])
            for j in range(dark):
                r = abs(y[j] - b - g * p[j] - c * q[j]) - delay_slack * abs(q[j]) - gain_slack * abs(p[j])
                r = max(r, zero)
                off[j] = one if r * r * w[j] > np.float32(12.0) else zero
            _mark_objects(room, dark, reach)
            h00 = h01 = h02 = h11 = h12 = h22 = s0 = s1 = s2 = spent = left_out = zero
            for j in range(dark):
                wj = w[j] * wide[j]
                wp, wq, wy = wj * p[j], wj * q[j], wj * y[j]
                left_out += wide[j]
                h00 += wj
                h01 += wp
                h02 += wq
                h11 += wp * p[j]
                h12 += wp * q[j]
                h22 += wq * q[j]
                s0 += wy
                s1 += wy * p[j]
                s2 += wy * q[j]
                spent += wy * y[j]
            if left_out == zero:
                continue
            if 2 * left_out > width:
                return False
            kept = width - left_out
            left = (
                gram[row, 0] - h00, gram[row, 1] - h01, gram[row, 2] - h02, gram[row, 3] - h11, gram[row, 4] - h12,
                gram[row, 5] - h22,
            )  # fmt: skip
            right = float(r0 - s0), float(r1 - s1), float(r2 - s2)
            kept_energy = float(energy - spent)
        pulled = right[0], right[1], right[2] + prior_slope * epsilon
        baseline, gain, delay, _, _ = _solve(left, pulled, prior_gain, prior_slope)
        chi2 = _chi_square(kept_energy, left, right, baseline, gain, delay)
        if chi2 * width < chi2_limit * kept and gain * gain * prior_gain < 36.0:
            b, g, c = np.float32(baseline), np.float32(gain), np.float32(delay)
            unit = root[row]
            for j in range(total.shape[0]):
                z = (y[j] - b - g * p[j] - c * q[j]) * unit[j]
                total[j] += z
                square[j] += z * z
            return True
    return False


@njit(nogil=True, cache=True)
def _fit_lines(samples, origin, starts, tables, limits, priors, chi2_limit, judge, window, out):
    phases, width = tables[2].shape[0] - 1, tables[2].shape[1]
    y, residual = np.empty(width, np.float32), np.empty(width, np.float32)
    found, marked, rail = np.empty(width, np.uint8), np.empty(width, np.uint8), np.empty(width, np.uint8)
    fit = np.empty(5)
    scale, shift, light, slope, weight, gram = tables[0], tables[1], tables[2], tables[3], tables[4], tables[6]
    low, high = np.float32(limits[0]), np.float32(limits[1])
    for n in range(starts.shape[0]):
        first, row, epsilon = _place(starts[n], phases)
        position = first - origin
        if position < 0 or position + width > samples.shape[0]:
            out[n, :] = 0.0
            out[n, 1] = np.inf
            continue
        if window[1] > window[0]:
            begin = min(max(math.ceil(starts[n] + window[0]) - first, 0), width)
            end = min(max(math.floor(starts[n] + window[1]) - first + 1, begin), width)
            empty, variance, share = _fit_beside(
                samples, position, first % CONVERTERS, epsilon, row, scale, shift, light, slope, weight, gram, low,
                high, priors[0], priors[1], chi2_limit, begin, end, fit,
            )  # fmt: skip
            if empty:
                _write_fit(epsilon, fit, variance, share, np.nan, 0, out, n)
                continue
        variance, share, chi2, on_rail = _fit_line(
            samples, position, first % CONVERTERS, epsilon, row, tables, limits, priors, chi2_limit, judge, y, residual,
            found, marked, rail, fit,
        )  # fmt: skip
        _write_fit(epsilon, fit, variance, share, chi2, on_rail, out, n)


@njit(nogil=True, cache=True)
def fit_lines(samples, origin, starts, tables, limits, priors, chi2_limit, out):
    """Fit lines at predicted starts; ``samples[0]`` is sample ``origin`` of the digitiser.

    starts: float64 (N,), predicted line starts in digitiser samples.
    out: float64 (N, 9): delay against the prediction [samples], its variance, information share, baseline [codes],
    gain, chi-square of what was fitted, samples on a rail, variance of the gain, light missing [codes·samples]. Lines
    not wholly in ``samples`` get variance inf.
    """
    _fit_lines(samples, origin, starts, tables, limits, priors, chi2_limit, True, (0.0, 0.0), out)


@njit(nogil=True, cache=True)
def register_lines(samples, origin, starts, tables, limits, priors, chi2_limit, window, out):
    """:func:`fit_lines` for an image: chi-square and missing light are left out (NaN or 0).

    window: (first, last) position [samples] between which something is known to lie. Lines that are empty elsewhere are
    fitted there, by plain least squares; the others, and all where the window is empty, (0.0, 0.0), robustly.
    """
    _fit_lines(samples, origin, starts, tables, limits, priors, chi2_limit, False, window, out)


@njit(nogil=True, cache=True)
def register_windows(samples, origin, starts, lines, windows, tables, limits, priors, chi2_limit, fits, saturated):
    """:func:`register_lines` for many windows, the lines of each beside it.

    starts: float64, of all lines. Of each of N windows: lines int64 (N, 2), its first and last + 1 in ``starts``;
    windows float64 (N, 2), first and last position; saturated int64 (N,), samples on a rail. fits: float64 (lines of
    all windows, 9), one window's behind the other's.
    """
    used = 0
    for n in range(lines.shape[0]):
        own = starts[lines[n, 0] : lines[n, 1]]
        out = fits[used : used + own.shape[0]]
        used += own.shape[0]
        window = windows[n, 0], windows[n, 1]
        register_lines(samples, origin, own, tables, limits, priors, chi2_limit, window, out)
        on_rail = 0.0
        for k in range(out.shape[0]):
            on_rail += out[k, 6]
        saturated[n] = int(on_rail)


@njit(nogil=True, cache=True)
def block_delay(fits, tolerance, out):
    """Robust weighted mean of the delays of a block of lines: out = (mean, variance, mean line index, share kept).

    The variance is the larger of what the noise predicts and what the lines' own scatter shows.
    """
    lines = fits.shape[0]
    usable = np.empty(lines)
    count = 0
    for n in range(lines):
        if fits[n, 2] > LEAST_SHARE and np.isfinite(fits[n, 1]) and abs(fits[n, 0]) < tolerance:
            usable[count] = fits[n, 0]
            count += 1
    out[0], out[1], out[2], out[3] = 0.0, np.inf, 0.5 * (lines - 1), count / lines
    if count < max(2, lines // 8):
        return
    centre = np.median(usable[:count])
    spread = 1.4826 * np.median(np.abs(usable[:count] - centre)) + 1e-6
    total = first = index = squares = kept = 0.0
    for _ in range(2):
        total = first = index = squares = kept = steps = turn = 0.0
        for n in range(lines):
            if not (fits[n, 2] > LEAST_SHARE and np.isfinite(fits[n, 1])) or abs(fits[n, 0] - centre) > 5 * spread:
                continue
            # the scatter floor keeps one line of the block from deciding alone
            w = 1.0 / (fits[n, 1] + 0.25 * spread * spread)
            d, m = fits[n, 0] - centre, n - out[2]
            total += w
            first += w * d
            index += w * m
            squares += w * d * d
            steps += w * m * m
            turn += w * m * d
            kept += 1
        if kept < 2:
            return
        # where the predicted period is a little off, the delays of a block lie on a slope: that is no scatter
        lag = (turn - first * index / total) ** 2 / max(steps - index * index / total, 1e-30)
        squares -= first * first / total + lag
        centre += first / total
        index = out[2] + index / total
    model = 1.0 / total
    empirical = squares / total / max(kept - 2.0, 1.0)
    out[0], out[1], out[2], out[3] = centre, max(model, empirical), index, kept / lines


@njit(nogil=True, cache=True)
def track_blocks(
    samples,
    origin,
    start,
    period,
    block_lines,
    stride,
    last_start,
    tables,
    limits,
    priors,
    chi2_limit,
    updates,
    least_lines,
    out,
):
    """Follow the line clock through ``samples`` in blocks of lines, from a predicted start and period.

    Each block is fitted where the clock so far predicts it; the prediction is a growing-memory straight line that
    settles to a gentle loop. ``updates`` blocks were already averaged. out: float64 (blocks, 7): line index of the
    measurement counted from the first block's first line, its place [samples], variance, median chi-square,
    median gain, mean light missing from a line, mean baseline.
    Stops after a block whose next one would start beyond ``last_start`` or when the clock is lost; the last block may
    be shorter than the others, but no shorter than ``least_lines``.
    Return (blocks done, next start, period, updates, lines advanced, lost).
    """
    all_fits = np.empty((block_lines, 9))
    all_starts = np.empty(block_lines)
    mean = np.empty(4)
    line = 0
    misses = 0
    block = 0
    while block < out.shape[0] and start + (least_lines - 1) * period <= last_start:
        lines = min(block_lines, int((last_start - start) / period) + 1)
        fits, starts = all_fits[:lines], all_starts[:lines]
        found = False
        moved = 0.0
        for attempt in range(4):
            for n in range(lines):
                starts[n] = start + n * period
            fit_lines(samples, origin, starts, tables, limits, priors, chi2_limit, fits)
            block_delay(fits, 1.0, mean)
            found = mean[3] > 0.2 and np.isfinite(mean[1])
            # a large first correction is repeated from where it led
            if not found or abs(mean[0]) < 0.02 or attempt == 3:
                break
            start += mean[0]
            moved += mean[0]
        out[block, 0] = line + mean[2]
        out[block, 1] = start + mean[2] * period + mean[0]
        out[block, 2] = mean[1] if found else np.inf
        out[block, 3] = np.median(fits[:, 5])
        out[block, 4] = np.median(fits[:, 4])
        out[block, 5] = np.mean(fits[:, 8])
        out[block, 6] = np.mean(fits[:, 3])
        block += 1
        if found:
            misses = 0
            updates += 1
            k = updates
            alpha = max(2.0 * (2.0 * k - 1.0) / (k * (k + 1.0)), 0.5)
            beta = max(6.0 / (k * (k + 1.0)), 0.12) if k > 1 else 0.0
            correction = moved + mean[0]
            start += min(alpha, 1.0) * correction - moved
            period += beta * correction / (block_lines * stride)
        else:
            misses += 1
            if misses > 16:
                return block, start, period, updates, line, True
        start += block_lines * stride * period
        line += block_lines * stride
    return block, start, period, updates, line, False


@njit(nogil=True, cache=True, forceinline=True, fastmath={"reassoc", "contract", "nsz"})
def _add_residual(residual, row, root, total, square):
    """Add a line's residuals in units of their noise, and their squares; float32, as long as ``total`` or longer."""
    n = total.shape[0]
    residual, unit = residual[:n], root[row, :n]
    for j in range(n):
        z = residual[j] * unit[j]
        total[j] += z
        square[j] += z * z


@njit(nogil=True, cache=True)
def _add(total, rows, row):
    """Add a row, float32 (C,)."""
    one = rows[row]
    for c in range(total.shape[0]):
        total[c] += one[c]


@njit(nogil=True, cache=True, error_model="numpy")
def _significances(total, square, number, columns, sums, out, row):
    """Significance of each bin of a row into ``out[row]``: the larger of those of its mean and of its energy.

    total, square: float32 (C · columns,), sums over the row's lines; number: float32 (C,), how many values each bin
    holds; sums: float32 (2, C), room.
    """
    one, other, result = sums[0], sums[1], out[row]
    first = 0
    for c in range(number.shape[0]):
        a = b = np.float32(0.0)
        for j in range(columns):
            a += total[first + j]
            b += square[first + j]
        one[c], other[c] = a, b
        first += columns
    # Wilson-Hilferty: the cube root of a mean chi-square is nearly normal, so its tail is comparable. Roots take long:
    # they are drawn only where the energy tells more than the mean, and more than one standard deviation
    zero, unit, width = np.float32(0.0), np.float32(1.0), np.float32(math.sqrt(2.0 / 9.0))
    some = zero
    for c in range(number.shape[0]):
        seen = unit if number[c] >= unit else zero
        root = unit / np.sqrt(max(number[c], unit))
        ratio, std = seen * other[c] * root * root, width * root
        mean = seen * abs(one[c]) * root
        least = max(mean, unit) * std + unit - std * std
        other[c] = ratio if ratio > least * least * least else zero
        some += other[c]
        result[c] = mean
    if some > 0:
        for c in range(number.shape[0]):
            if other[c] > 0:
                k = 2.0 / (9.0 * number[c])
                result[c] = np.float32((float(other[c]) ** (1.0 / 3.0) - (1.0 - k)) / math.sqrt(k))


@njit(nogil=True, cache=True, forceinline=True, fastmath={"reassoc", "contract", "nsz"})
def _light_share(y, p, w):
    """How much of the empty line's light a line holds, by least squares; ``y`` is the line minus the empty line."""
    n = mean_y = mean_p = np.float32(0.0)
    for j in range(y.shape[0]):
        if w[j] > 0:
            n += np.float32(1.0)
            mean_y += y[j]
            mean_p += p[j]
    mean_y /= n
    mean_p /= n
    both = square = np.float32(0.0)
    for j in range(y.shape[0]):
        if w[j] > 0:
            d = p[j] - mean_p
            both += (y[j] - mean_y) * d
            square += d * d
    return 1.0 + both / square


@njit(nogil=True, cache=True)
def _are_regular(starts, first, period):
    """Whether a line and the three after it start so far apart that the tables of a row hold for them."""
    if first + 4 > starts.shape[0]:
        return False
    off = 0.0
    for n in range(1, 4):
        off = max(off, abs(starts[first + n] - starts[first] - n * period))
    return off <= _ROW_SLACK_SAMPLES


@njit(nogil=True, cache=True)
def detect_rows(
    samples, origin, starts, wanted, row_lines, columns, tables, root, counts, rows, limits, priors, chi2_limit, out
):
    """Significance of whatever is not the empty line, in bins of ``row_lines`` lines × ``columns`` samples.

    starts: float64 (R · row_lines,). wanted: bool (R,), rows to look at; the others stay as they are. root: float32
    (phases + 1, W), 1/standard deviation at the positions that are searched, else 0; counts: float32 (phases + 1, C),
    how many those are in each bin. rows = (tables, offsets, root, counts, priors, limit of chi-square, period), the
    same for the sum of four lines, as ``detect.DetectorTables`` has them: rows of which enough is empty are fitted as
    one, all others line by line.
    out: float32 (R, C): the larger of the mean residual's and the energy's significance [standard deviations]; -1 in
    rows with a line that holds no light at all. Lines that do not lie wholly in ``samples`` are passed over.
    """
    profiles = tables[2]
    phases, width = profiles.shape[0] - 1, profiles.shape[1]
    of_row, offsets, row_root, row_counts, row_priors, row_limit, period = rows
    scale, shift, light, slope, weight, dark_first, gram, reach = of_row
    low, high = np.float32(limits[0]), np.float32(limits[1])
    bins = out.shape[1]
    lit = min(width, bins * columns)
    work = np.empty((4, width), dtype=np.float32)
    y, room = work[0, : light.shape[1]], np.empty((2, width + 4 * reach + 16), np.float32)
    whole, whole_square = np.zeros(bins * columns, np.float32), np.zeros(bins * columns, np.float32)
    total, square = whole[:lit], whole_square[:lit]
    number, sums = np.empty(bins, np.float32), np.empty((2, bins), np.float32)
    fit = np.empty(5)
    for row in range(out.shape[0]):
        if not wanted[row]:
            continue
        total[:], square[:], number[:] = 0.0, 0.0, 0.0
        start = starts[row * row_lines]
        first = math.ceil(start)
        if _are_regular(starts, row * row_lines, period) and _see_row(
            samples, first - origin, first % CONVERTERS, start, offsets, scale, shift, light, slope, weight, dark_first,
            gram, reach, row_root, low, high, row_priors[0], row_priors[1], row_limit, y, room, total, square,
        ):  # fmt: skip
            _add(number, row_counts, int((first - start) * (light.shape[0] - 1) + 0.5))
            _significances(whole, whole_square, number, columns, sums, out, row)
            continue
        dark = False
        for n in range(row * row_lines, min((row + 1) * row_lines, starts.shape[0])):
            first, phase, epsilon = _place(starts[n], phases)
            position = first - origin
            if position < 0 or position + width > samples.shape[0]:
                continue
            _, _, chi2, _ = fit_line(
                samples, position, first % CONVERTERS, epsilon, phase, tables, limits, priors, chi2_limit, work, fit
            )  # fmt: skip
            dark |= chi2 > chi2_limit and _light_share(work[0], profiles[phase], tables[4][phase]) < DARK_SHARE
            _add_residual(work[1], phase, root, total, square)
            _add(number, counts, phase)
        if dark:
            out[row] = -1.0
            continue
        _significances(whole, whole_square, number, columns, sums, out, row)


@njit(nogil=True, cache=True)
def count_on_rail(samples, low, high):
    """Number of samples at or beyond the rails."""
    lowest, highest = samples[0], samples[0]
    for i in range(samples.shape[0]):
        lowest = min(lowest, samples[i])
        highest = max(highest, samples[i])
    if lowest > low and highest < high:
        return 0
    count = 0
    for i in range(samples.shape[0]):
        if samples[i] <= low or samples[i] >= high:
            count += 1
    return count


@njit(nogil=True, cache=True)
def leave_one_line_out(
    samples, origin, starts, fits, inverse_gain, offset, low, high, light, variance, usable, table_start,
    steps_per_sample, tau_first, tau_last, target_step, target_skip, sigma_samples, sigma_lines, scores,
):  # fmt: skip
    """Squared error, in noise variances, of predicting samples from all lines but their own, per kernel size.

    sigma_samples: float64 (A,), sigma_lines: float64 (B,); scores: float64 (A, B), sums; light, variance, usable:
    tables over τ from ``table_start`` on, ``steps_per_sample`` of them per sample. Every ``target_step``-th
    line is predicted, in it every ``target_skip``-th sample. Return the number of samples predicted.
    """
    lines = starts.shape[0]
    a_count, b_count = scores.shape
    reach_samples = 3.0 * sigma_samples.max()
    reach_lines = int(3.0 * sigma_lines.max())
    width = int(tau_last - tau_first + 2.0 * reach_samples) + 3
    position = np.full((lines, width), np.nan)
    value, precision = np.zeros((lines, width)), np.zeros((lines, width))
    for n in range(lines):
        if not np.isfinite(fits[n, 1]):
            continue
        start = starts[n] + fits[n, 0]
        first = math.ceil(start + tau_first - reach_samples)
        for j in range(width):
            k = first + j
            if k < origin or k >= origin + samples.shape[0]:
                continue
            x = samples[k - origin]
            place = (k - start - table_start) * steps_per_sample
            i = int(place)
            if x <= low or x >= high or i < 0 or i + 1 >= light.shape[0] or not (usable[i] and usable[i + 1]):
                continue
            p = light[i] + (place - i) * (light[i + 1] - light[i])
            c = k % inverse_gain.shape[0]
            position[n, j] = k - start
            value[n, j] = ((x - offset[c]) * inverse_gain[c] - fits[n, 3]) / fits[n, 4] / p
            precision[n, j] = p * p / variance[i]
    numerator, weight = np.zeros((a_count, b_count)), np.zeros((a_count, b_count))
    along = np.zeros(b_count)
    count = 0
    for n in range(0, lines, target_step):
        for j in range((n // target_step) % target_skip, width, target_skip):
            tau = position[n, j]
            if not (tau_first <= tau <= tau_last):
                continue
            numerator[:], weight[:] = 0.0, 0.0
            for m in range(max(0, n - reach_lines), min(lines, n + reach_lines + 1)):
                if m == n:
                    continue
                for b in range(b_count):
                    along[b] = math.exp(-0.5 * ((m - n) / sigma_lines[b]) ** 2)
                for i in range(width):
                    d = position[m, i] - tau
                    if not abs(d) < reach_samples:
                        continue
                    for a in range(a_count):
                        h = math.exp(-0.5 * (d / sigma_samples[a]) ** 2) * precision[m, i]
                        for b in range(b_count):
                            numerator[a, b] += h * along[b] * value[m, i]
                            weight[a, b] += h * along[b]
            for a in range(a_count):
                for b in range(b_count):
                    # where no other line reaches, nothing is known but that the channel is mostly empty
                    guess = (numerator[a, b] + 1e-3 * precision[n, j]) / (weight[a, b] + 1e-3 * precision[n, j])
                    scores[a, b] += (value[n, j] - guess) ** 2 * precision[n, j]
            count += 1
    return count


# The state of a tracking clock, float64 (10,): start of the line that was measured last [samples], period, variance of
# the start, covariance, variance of the period; scale of the wander; slow means of pulse energy and baseline; lines
# counted since the state was set; bursts missed in a row.
START, PERIOD, VARIANCE, COVARIANCE, PERIOD_VARIANCE, WALK_SCALE, GAIN, BASELINE, LINES, SINCE = range(10)


@njit(nogil=True, cache=True)
def variance_after(state, lines, rules):
    """Variance of the predicted start so many lines on; rules: see :func:`follow_bursts`."""
    walk = state[WALK_SCALE] * lines / rules[1]
    return (
        state[VARIANCE]
        + 2 * lines * state[COVARIANCE]
        + lines * lines * state[PERIOD_VARIANCE]
        + walk * (rules[2] + rules[3] * lines * lines / 3)
    )


@njit(nogil=True, cache=True)
def predict_start(state, lines, rules):
    """Carry the state on by so many lines, in place."""
    walk = state[WALK_SCALE] * lines / rules[1]
    state[VARIANCE] = variance_after(state, lines, rules)
    state[COVARIANCE] += lines * state[PERIOD_VARIANCE] + walk * rules[3] * lines / 2
    state[PERIOD_VARIANCE] += walk * rules[3]
    state[START] += lines * state[PERIOD]
    state[LINES] += lines
    state[SINCE] += lines


@njit(nogil=True, cache=True)
def measure_burst(samples, turn, state, tables, limits, priors, chi2_limit, rules, fits):
    """Measure the burst of lines at the predicted start and correct the state; False where it does not show the clock.

    samples[0] is sample ``turn`` modulo the number of converters; fits: float64 (lines, 9), of this burst's lines.
    """
    lines = fits.shape[0]
    starts = np.empty(lines)
    for n in range(lines):
        starts[n] = turn + state[START] + n * state[PERIOD]
    fit_lines(samples, turn, starts, tables, limits, priors, chi2_limit, fits)
    mean = np.empty(4)
    block_delay(fits, 1.0, mean)
    delay, variance, centre, share = mean[0], mean[1], mean[2], mean[3]
    if not (share > rules[5] and math.isfinite(variance)):
        return False
    xx, xv, vv = state[VARIANCE], state[COVARIANCE], state[PERIOD_VARIANCE]
    # what is measured is the start of the middle of the burst
    surprise = xx + 2 * centre * xv + centre * centre * vv + variance
    if abs(delay) > max(rules[4], 6 * math.sqrt(surprise)):
        return False
    x, v = xx + centre * xv, xv + centre * vv
    state[START] += x / surprise * delay
    state[PERIOD] += v / surprise * delay
    state[VARIANCE] = xx - x * x / surprise
    state[COVARIANCE] = xv - x * v / surprise
    state[PERIOD_VARIANCE] = vv - v * v / surprise
    # surprises larger than expected: the clock wanders more than was allowed for
    excess = min(delay * delay / surprise, 16.0) - 1.0
    state[WALK_SCALE] = min(max(state[WALK_SCALE] * math.exp(0.15 * excess), 1.0), rules[6])
    gains, baselines = np.empty(lines), np.empty(lines)
    clear = 0
    for n in range(lines):
        if fits[n, 5] < chi2_limit and np.isfinite(fits[n, 1]):
            gains[clear], baselines[clear] = fits[n, 4], fits[n, 3]
            clear += 1
    if clear >= lines // 2:
        change = np.median(gains[:clear]) - state[GAIN]
        # more than the scatter of pulses explains: a jump, which is followed at once
        state[GAIN] += change if change * change * priors[0] > 0.5 else change / rules[7]
        state[BASELINE] += (np.median(baselines[:clear]) - state[BASELINE]) / rules[7]
    return True


@njit(nogil=True, cache=True)
def is_dark(samples, first, stop, least_std):
    """Whether samples first … stop - 1, as far as they exist, vary less than light makes them vary."""
    first, stop = max(first, 0), min(stop, samples.shape[0])
    if stop - first < 2:
        return True
    total, squares = 0.0, 0.0
    for i in range(first, stop):
        x = float(samples[i])
        total += x
        squares += x * x
    mean = total / (stop - first)
    return squares / (stop - first) - mean * mean < least_std * least_std


@njit(nogil=True, cache=True)
def follow_bursts(samples, turn, state, tables, limits, priors, chi2_limit, rules, fits, knots):
    """Follow a locked clock through a block, burst by burst, the last one at the block's end.

    rules = (variance of the predicted start up to which a burst may wait [samples²], most lines between bursts, least
    wander of start and period per such an interval, furthest a burst may be off [samples], least share of lines that
    show the clock, largest scale of the wander, bursts of the slow means, lines not seen to be the clock's that lose
    the lock, standard deviation below which samples are dark). knots: float64 (K, 3), lines since the state was set,
    start, period. Return (knots found, sample at which the lock was lost or -1).

    After a burst that does not show the clock, the lines before it are looked at more often, and in the end one burst
    after the other: where the lock is lost, the state is left at the last burst that shows the clock.
    """
    lines, width = fits.shape[0], tables[2].shape[1]
    often = rules[8] / 4
    count = 0
    good = state.copy()
    careful_until = -np.inf
    lost = False
    while count < knots.shape[0]:
        last = samples.shape[0] - (lines - 1) * state[PERIOD] - width - 4
        room = math.floor((last - state[START]) / state[PERIOD])
        if room < lines // 2:  # the last burst was measured at the end of the block
            break
        careful = state[SINCE] > 0 or state[START] < careful_until
        most = lines if lost else often if careful else rules[1]
        wait = lines
        while wait < most and variance_after(state, 2 * wait, rules) < rules[0]:
            wait *= 2
        ahead = room if room < 1.5 * wait and not lost else min(wait, room)
        if state[START] + ahead * state[PERIOD] < 0:  # the burst due lies in the block before
            ahead = min(room, math.ceil(-state[START] / state[PERIOD]))
        predict_start(state, ahead, rules)
        if measure_burst(samples, turn, state, tables, limits, priors, chi2_limit, rules, fits):
            state[SINCE] = 0
            knots[count, 0], knots[count, 1], knots[count, 2] = state[LINES], state[START], state[PERIOD]
            count += 1
            good[:] = state
            continue
        position = int(state[START])
        if lost:
            state[:] = good
            return count, max(position, 0)
        lost = is_dark(samples, position, position + int(2 * state[PERIOD]), rules[9])
        if not lost and not careful and ahead > often:
            careful_until = state[START]
            state[:] = good
        elif lost or state[SINCE] >= rules[8]:
            lost = True
            state[:] = good
    if lost:  # no burst is missed when looked at closely
        return count, max(int(state[START] + lines * state[PERIOD]), 0)
    return count, -1
