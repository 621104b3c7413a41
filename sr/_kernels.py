"""Compiled kernels that fit, detect and grid lines: arrays in, arrays out.

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


@njit(nogil=True, cache=True)
def _solve(gram, right, prior_gain, prior_slope, out):
    """Solve the 3 × 3 normal equations of baseline, gain and slope coefficient; out[3] is the variance of the gain.

    Return the variance of the slope coefficient.
    """
    a00, a01, a02 = gram[0] + 1e-9, gram[1], gram[2]
    a11, a12 = gram[3] + prior_gain, gram[4]
    a22 = gram[5] + prior_slope
    m00 = a11 * a22 - a12 * a12
    m01 = a02 * a12 - a01 * a22
    m02 = a01 * a12 - a02 * a11
    determinant = a00 * m00 + a01 * m01 + a02 * m02
    if determinant <= 1e-12 * a00 * a11 * a22:
        out[0] = right[0] / a00
        out[1] = 0.0
        out[2] = 0.0
        out[3] = np.inf
        return np.inf
    m11 = a00 * a22 - a02 * a02
    m12 = a01 * a02 - a00 * a12
    m22 = a00 * a11 - a01 * a01
    out[0] = (m00 * right[0] + m01 * right[1] + m02 * right[2]) / determinant
    out[1] = (m01 * right[0] + m11 * right[1] + m12 * right[2]) / determinant
    out[2] = (m02 * right[0] + m12 * right[1] + m22 * right[2]) / determinant
    out[3] = m11 / determinant
    return m22 / determinant


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _sums(y, p, q, w, gram, right):
    """Weighted normal equations of y = baseline + gain·p + slope·q over one line, all float32 (W,)."""
    g00 = g01 = g02 = g11 = g12 = g22 = np.float32(0.0)
    r0 = r1 = r2 = np.float32(0.0)
    for j in range(y.shape[0]):
        wj, pj, qj = w[j], p[j], q[j]
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
    gram[0], gram[1], gram[2], gram[3], gram[4], gram[5] = g00, g01, g02, g11, g12, g22
    right[0], right[1], right[2] = r0, r1, r2


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _right_sums(y, p, q, w, right):
    """The right-hand side of :func:`_sums` alone; the left-hand side of a whole line is known beforehand."""
    r0 = r1 = r2 = np.float32(0.0)
    for j in range(y.shape[0]):
        wy = w[j] * y[j]
        r0 += wy
        r1 += wy * p[j]
        r2 += wy * q[j]
    right[0], right[1], right[2] = r0, r1, r2


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _residual(y, p, q, w, fit, out):
    """Residual of the fit into ``out``; return the weighted sum of its squares."""
    b, g, c = np.float32(fit[0]), np.float32(fit[1]), np.float32(fit[2])
    total = np.float32(0.0)
    for j in range(y.shape[0]):
        r = y[j] - b - g * p[j] - c * q[j]
        out[j] = r
        total += w[j] * r * r
    return total


@njit(nogil=True, cache=True)
def _load(samples, first, converter, scale, shift, p, low, high, y):
    """Corrected samples minus the empty line; return how many lie on a rail (their y is kept, see the caller)."""
    width = y.shape[0]
    x = samples[first : first + width]
    a = scale[converter : converter + width]
    o = shift[converter : converter + width]
    lowest, highest = x[0], x[0]
    for j in range(width):
        lowest = min(lowest, x[j])
        highest = max(highest, x[j])
    for j in range(width):
        y[j] = x[j] * a[j] - o[j] - p[j]
    if lowest > low and highest < high:
        return 0
    count = 0
    for j in range(width):
        if x[j] <= low or x[j] >= high:
            count += 1
    return count


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _misfit(y, p, q, w, fit, delay_slack, gain_slack, out):
    """Squared residuals in noise variances, less what a small error of delay or gain would explain; float32 (W,)."""
    b, g, c = np.float32(fit[0]), np.float32(fit[1]), np.float32(fit[2])
    zero = np.float32(0.0)
    for j in range(y.shape[0]):
        r = abs(y[j] - b - g * p[j] - c * q[j]) - delay_slack * abs(q[j]) - gain_slack * abs(p[j])
        r = max(r, zero)
        out[j] = r * r * w[j]


@njit(nogil=True, cache=True)
def _mask(misfit, limit, reach, w, out):
    """Weights ``w`` without the positions of large misfit and ``reach`` neighbours on either side."""
    width = w.shape[0]
    left = 0
    for j in range(width):
        left = reach + 1 if misfit[j] > limit else left - 1
        out[j] = np.float32(0.0) if left > 0 else w[j]
    left = 0
    for j in range(width - 1, -1, -1):
        left = reach + 1 if misfit[j] > limit else left - 1
        if left > 0:
            out[j] = 0.0


@njit(nogil=True, cache=True)
def _fit_robust(x, y, p, q, w, dark, reach, low, high, priors, slope_start, off_rail, masked_w, residual, fit):
    """Fit baseline, gain and delay on the empty positions of a line that holds something else too.

    Positions far from the empty line, ``reach`` neighbours on either side and samples ``x`` on a rail get no weight.
    The fit starts from the predicted clock, nominal gain and the dark baseline, and tightens its tolerance in steps.
    Return (variance of the slope coefficient, share of the line's timing information that was left, chi-square of the
    positions with weight, scaled to a whole line); fit[4] is the light missing from the others [codes·samples].
    Residuals of all positions are left in ``residual``.
    """
    width = y.shape[0]
    gram = np.empty(6)
    right = np.empty(3)
    full_information = 0.0
    dark_positions = 0
    for j in range(width):
        off_rail[j] = np.float32(0.0) if x[j] <= low or x[j] >= high else w[j]
        full_information += off_rail[j] * q[j] * q[j]
        dark_positions += dark[j]
    fit[0], fit[1], fit[2] = 0.0, 0.0, slope_start
    # some dozen dark samples tell where to start
    step = max(1, dark_positions // 32)
    n_dark, seen = 0, 0
    for j in range(width):
        if dark[j] and w[j] > 0:
            if seen % step == 0:
                residual[n_dark] = y[j]
                n_dark += 1
            seen += 1
    if n_dark > 4:
        fit[0] = np.median(residual[:n_dark])
    variance = np.inf
    for step in range(4):
        delay_slack = np.float32((0.25, 0.1, 0.04, 0.02)[step])
        gain_slack = np.float32((0.06, 0.03, 0.015, 0.01)[step])
        _misfit(y, p, q, off_rail, fit, delay_slack, gain_slack, residual)
        _mask(residual, np.float32(12.0), reach, off_rail, masked_w)
        _sums(y, p, q, masked_w, gram, right)
        # the prior of the slope coefficient is centred on the predicted clock, not on zero
        right[2] += priors[1] * slope_start
        variance = _solve(gram, right, priors[0], priors[1], fit)
    if fit[1] * fit[1] * priors[0] > 36.0:
        # no pulse is that bright or dim: what was taken for the empty line is a cell, and nothing empty is left
        b = 0.0
        if n_dark > 4:
            for j in range(width):
                masked_w[j] = masked_w[j] if dark[j] else 0.0
            _sums(y, p, q, masked_w, gram, right)
            b = right[0] / max(gram[0], 1e-9)
        fit[0], fit[1], fit[2], fit[3] = b, 0.0, slope_start, 1e6
        masked_w[:] = 0.0
        variance = 1e6
    chi2 = float(_residual(y, p, q, w, fit, residual))
    information, light, full_light, missing, used_chi2 = 0.0, 0.0, 0.0, 0.0, 0.0
    used, weighted = 0, 0
    for j in range(width):
        if masked_w[j] > 0:
            information += masked_w[j] * q[j] * q[j]
            light += masked_w[j] * p[j] * p[j]
            used_chi2 += masked_w[j] * residual[j] * residual[j]
            used += 1
        elif off_rail[j] > 0:
            missing -= residual[j]
        full_light += off_rail[j] * p[j] * p[j]
        weighted += w[j] > 0
    fit[4] = missing
    share = information / max(full_information, 1e-30)
    if used > 0:  # a line of which little light is left to fit may be something else altogether
        lit_share = min(share, light / max(full_light, 1e-30))
        chi2 = min(chi2, used_chi2 * weighted / used / max(lit_share * lit_share, 1e-6))
    return variance, share, chi2


@njit(nogil=True, cache=True)
def fit_line(samples, first, converter, epsilon, row, tables, limits, priors, chi2_limit, work, fit):
    """Fit one line: y = baseline + gain change·p + slope·q, robustly where the plain fit does not explain it.

    tables = (scale, shift, p, q, w, dark, gram, reach); priors = (1/var of gain change, 1/var of
    delay) [1, 1/samples²]; work: float32 (4, W), fit: float64 (5,). Residuals of all positions are left in work[1].
    Return (variance of slope, information share, chi-square of what was fitted, samples on a rail).
    """
    scale, shift, profiles, slopes, weights, darks, grams, reach = tables
    p, q, w = profiles[row], slopes[row], weights[row]
    y, residual, masked_w = work[0], work[1], work[2]
    on_rail = _load(samples, first, converter, scale, shift, p, limits[0], limits[1], y)
    fit[4] = 0.0
    right = np.empty(3)
    variance, share, chi2 = 0.0, 1.0, 0.0
    clean = False
    if on_rail == 0:
        _right_sums(y, p, q, w, right)
        right[2] += priors[1] * epsilon
        variance = _solve(grams[row], right, priors[0], priors[1], fit)
        chi2 = _residual(y, p, q, w, fit, residual)
        # no pulse is that bright or dim, however well a line without one is explained
        clean = chi2 < chi2_limit and fit[1] * fit[1] * priors[0] < 64.0
    if not clean:
        variance, share, chi2 = _fit_robust(
            samples[first : first + y.shape[0]], y, p, q, w, darks[row], reach, limits[0], limits[1], priors, epsilon,
            work[3], masked_w, residual, fit,
        )  # fmt: skip
        if on_rail > 0:  # what is on a rail is not known to differ from the empty line
            for j in range(y.shape[0]):
                if samples[first + j] <= limits[0] or samples[first + j] >= limits[1]:
                    residual[j] = 0.0
    return variance, share, chi2, on_rail


@njit(nogil=True, cache=True)
def fit_lines(samples, origin, starts, tables, limits, priors, chi2_limit, out):
    """Fit lines at predicted starts; ``samples[0]`` is sample ``origin`` of the digitiser.

    starts: float64 (N,), predicted line starts in digitiser samples.
    out: float64 (N, 9): delay against the prediction [samples], its variance, information share, baseline [codes],
    gain, chi-square of what was fitted, samples on a rail, variance of the gain, light missing [codes·samples]. Lines
    not wholly in ``samples`` get variance inf.
    """
    profiles = tables[2]
    phases, width = profiles.shape[0] - 1, profiles.shape[1]
    work = np.empty((4, width), dtype=np.float32)
    fit = np.empty(5)
    for n in range(starts.shape[0]):
        first = math.ceil(starts[n])
        tau = first - starts[n]
        row = int(tau * phases + 0.5)
        epsilon = tau - row / phases
        position = first - origin
        out[n, :] = 0.0
        if position < 0 or position + width > samples.shape[0]:
            out[n, 1] = np.inf
            continue
        variance, share, chi2, on_rail = fit_line(
            samples, position, first % CONVERTERS, epsilon, row, tables, limits, priors, chi2_limit, work, fit
        )
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
    out,
):
    """Follow the line clock through ``samples`` in blocks of lines, from a predicted start and period.

    Each block is fitted where the clock so far predicts it; the prediction is a growing-memory straight line that
    settles to a gentle loop. ``updates`` blocks were already averaged. out: float64 (blocks, 6): line index of the
    measurement counted from the first block's first line, its place [samples], variance, median chi-square,
    median gain, mean light missing from a line.
    Stops after a block whose next one would start beyond ``last_start`` or when the clock is lost.
    Return (blocks done, next start, period, updates, lines advanced, lost).
    """
    fits = np.empty((block_lines, 9))
    starts = np.empty(block_lines)
    mean = np.empty(4)
    line = 0
    misses = 0
    block = 0
    while block < out.shape[0] and start + (block_lines - 1) * period <= last_start:
        found = False
        moved = 0.0
        for attempt in range(4):
            for n in range(block_lines):
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


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
def _add_line(residual, root, total, square):
    """Add a line's residuals in units of their noise, and their squares; all float32, the length of ``total``."""
    for j in range(total.shape[0]):
        z = residual[j] * root[j]
        total[j] += z
        square[j] += z * z


@njit(nogil=True, cache=True, fastmath={"reassoc", "contract", "nsz"})
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
def detect_rows(
    samples, origin, starts, wanted, row_lines, columns, tables, root, counts, limits, priors, chi2_limit, out
):
    """Significance of whatever is not the empty line, in bins of ``row_lines`` lines × ``columns`` samples.

    starts: float64 (R · row_lines,). wanted: bool (R,), rows to look at; the others stay as they are. root: float32
    (phases + 1, W), 1/standard deviation at the positions that are searched, else 0; counts: float32 (phases + 1, C),
    how many those are in each bin.
    out: float32 (R, C): the larger of the mean residual's and the energy's significance [standard deviations]; -1 in
    rows with a line that holds no light at all. Lines that do not lie wholly in ``samples`` are passed over.
    """
    profiles = tables[2]
    phases, width = profiles.shape[0] - 1, profiles.shape[1]
    bins = out.shape[1]
    lit = min(width, bins * columns)
    work = np.empty((4, width), dtype=np.float32)
    total, square = np.empty(lit, np.float32), np.empty(lit, np.float32)
    number = np.empty(bins, np.float32)
    fit = np.empty(5)
    for row in range(out.shape[0]):
        if not wanted[row]:
            continue
        total[:], square[:], number[:] = 0.0, 0.0, 0.0
        dark = False
        for n in range(row * row_lines, min((row + 1) * row_lines, starts.shape[0])):
            first = math.ceil(starts[n])
            tau = first - starts[n]
            phase = int(tau * phases + 0.5)
            position = first - origin
            if position < 0 or position + width > samples.shape[0]:
                continue
            epsilon = tau - phase / phases
            _, _, chi2, _ = fit_line(
                samples, position, first % CONVERTERS, epsilon, phase, tables, limits, priors, chi2_limit, work, fit
            )  # fmt: skip
            dark |= chi2 > chi2_limit and _light_share(work[0], profiles[phase], tables[4][phase]) < DARK_SHARE
            _add_line(work[1], root[phase], total, square)
            number += counts[phase]
        if dark:
            out[row] = -1.0
            continue
        for c in range(bins):
            n_samples = number[c]
            if n_samples < 1.0:
                out[row, c] = 0.0
                continue
            sums, squares = 0.0, 0.0
            for j in range(c * columns, min((c + 1) * columns, lit)):
                sums += total[j]
                squares += square[j]
            mean = abs(sums) / math.sqrt(n_samples)
            # Wilson-Hilferty: the cube root of a mean chi-square is nearly normal, so its tail is comparable
            k = 2.0 / (9.0 * n_samples)
            energy, ratio = 0.0, squares / n_samples
            if ratio > 1.0 + 3.0 * math.sqrt(k):  # below, it is under one standard deviation
                energy = (ratio ** (1.0 / 3.0) - (1.0 - k)) / math.sqrt(k)
            out[row, c] = max(mean, energy)


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
def grid_lines(
    samples, origin, starts, fits, inverse_gain, offset, low, high, light, variance, usable, table_start,
    steps_per_sample, line_of_row, tau_of_column, sigma_lines, sigma_samples, reach_lines, reach_samples,
    numerator, weight, square,
):  # fmt: skip
    """Spread the samples of lines over an image, each at its true place, by weighted least squares per pixel.

    Pixel value = numerator / weight estimates the transmission with Gaussian weights in line and position times the
    light's squared signal to noise; square / weight² is its variance. starts: float64 (N,); fits: float64 (N, 9);
    light, variance, usable: tables over τ from ``table_start`` on, ``steps_per_sample`` of them per sample.
    line_of_row: float64 (R,) uniform, counted from starts[0]; tau_of_column: float64 (C,), uniform.
    """
    rows, columns = numerator.shape
    row_step = line_of_row[1] - line_of_row[0] if rows > 1 else 1.0
    column_step = tau_of_column[1] - tau_of_column[0] if columns > 1 else 1.0
    kernel_row = np.empty(rows)
    line = np.empty((3, columns))  # what the line's samples add along the line; the rows are spread once a line
    for n in range(starts.shape[0]):
        if not np.isfinite(fits[n, 1]):
            continue
        start, baseline, gain = starts[n] + fits[n, 0], fits[n, 3], fits[n, 4]
        row_first = max(0, math.ceil((n - reach_lines - line_of_row[0]) / row_step))
        row_last = min(rows - 1, math.floor((n + reach_lines - line_of_row[0]) / row_step))
        if row_last < row_first:
            continue
        for r in range(row_first, row_last + 1):
            d = (line_of_row[r] - n) / sigma_lines
            kernel_row[r] = math.exp(-0.5 * d * d)
        line[:] = 0.0
        touched_first, touched_last = columns, -1
        first = math.ceil(start + tau_of_column[0] - reach_samples)
        last = math.floor(start + tau_of_column[columns - 1] + reach_samples)
        for k in range(max(first, origin), min(last, origin + samples.shape[0] - 1) + 1):
            x = samples[k - origin]
            if x <= low or x >= high:
                continue
            tau = k - start
            place = (tau - table_start) * steps_per_sample
            i = int(place)
            if i < 0 or i + 1 >= light.shape[0] or not (usable[i] and usable[i + 1]):
                continue
            u = place - i
            p = light[i] + u * (light[i + 1] - light[i])
            v = variance[i] + u * (variance[i + 1] - variance[i])
            c = k % inverse_gain.shape[0]
            y = ((x - offset[c]) * inverse_gain[c] - baseline) / gain
            column_first = max(0, math.ceil((tau - reach_samples - tau_of_column[0]) / column_step))
            column_last = min(columns - 1, math.floor((tau + reach_samples - tau_of_column[0]) / column_step))
            pv, ppv = p * y / v, p * p / v
            for q in range(column_first, column_last + 1):
                d = (tau_of_column[q] - tau) / sigma_samples
                h = math.exp(-0.5 * d * d)
                line[0, q] += h * pv
                line[1, q] += h * ppv
                line[2, q] += h * h * ppv
            touched_first, touched_last = min(touched_first, column_first), max(touched_last, column_last)
        for r in range(row_first, row_last + 1):
            h = kernel_row[r]
            hh = h * h
            for q in range(touched_first, touched_last + 1):
                numerator[r, q] += h * line[0, q]
                weight[r, q] += h * line[1, q]
                square[r, q] += hh * line[2, q]


@njit(nogil=True, cache=True)
def leave_one_line_out(
    samples, origin, starts, fits, inverse_gain, offset, low, high, light, variance, usable, table_start,
    steps_per_sample, tau_first, tau_last, target_step, target_skip, sigma_samples, sigma_lines, scores,
):  # fmt: skip
    """Squared error, in noise variances, of predicting samples from all lines but their own, per kernel size.

    sigma_samples: float64 (A,), sigma_lines: float64 (B,); scores: float64 (A, B), sums; the tables are those of
    :func:`grid_lines`. Every ``target_step``-th line is predicted, in it every
    ``target_skip``-th sample. Return the number of samples predicted.
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
START, PERIOD, VARIANCE, COVARIANCE, PERIOD_VARIANCE, WALK_SCALE, GAIN, BASELINE, LINES, MISSES = range(10)


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
        state[GAIN] += (np.median(gains[:clear]) - state[GAIN]) / rules[7]
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
    show the clock, largest scale of the wander, bursts of the slow means, misses that lose the lock, standard
    deviation below which samples are dark). knots: float64 (K, 3), lines since the state was set, start, period.
    Return (knots found, sample at which the lock was lost or -1).
    """
    lines, width = fits.shape[0], tables[2].shape[1]
    count = 0
    while count < knots.shape[0]:
        last = samples.shape[0] - (lines - 1) * state[PERIOD] - width - 4
        room = math.floor((last - state[START]) / state[PERIOD])
        if room < lines // 2:  # the last burst was measured at the end of the block
            break
        wait = lines
        while wait < rules[1] and variance_after(state, 2 * wait, rules) < rules[0]:
            wait *= 2
        ahead = room if room < 1.5 * wait else wait
        if state[START] + ahead * state[PERIOD] < 0:  # the burst due lies in the block before
            ahead = min(room, math.ceil(-state[START] / state[PERIOD]))
        predict_start(state, ahead, rules)
        if measure_burst(samples, turn, state, tables, limits, priors, chi2_limit, rules, fits):
            state[MISSES] = 0
            knots[count, 0], knots[count, 1], knots[count, 2] = state[LINES], state[START], state[PERIOD]
            count += 1
            continue
        state[MISSES] += 1
        position = int(state[START])
        if state[MISSES] >= rules[8] or is_dark(samples, position, position + int(2 * state[PERIOD]), rules[9]):
            return count, max(position, 0)
    return count, -1
