"""Compiled kernels behind the empty line and the line clock: splines, converters' sums, smoothing."""

import math

import numpy as np
from numba import njit

# Most interleaved converters looked for; the correction tables repeat with this period.
CONVERTERS = 8
# What the filter of the clock knows beforehand of its deviations from a straight line through the ends [samples²].
START_VARIANCE, PERIOD_VARIANCE = 1e4, 1.0


@njit(nogil=True, cache=True)
def basis(u, out):
    """The four uniform cubic B-splines that reach ``u`` in [0, 1) of a knot interval."""
    v = 1.0 - u
    out[0] = v * v * v / 6.0
    out[1] = (3.0 * u * u * u - 6.0 * u * u + 4.0) / 6.0
    out[2] = (3.0 * v * v * v - 6.0 * v * v + 4.0) / 6.0
    out[3] = u * u * u / 6.0


@njit(nogil=True, cache=True)
def _knot_position(tau, origin, period, knots):
    """Position on a periodic spline in knot intervals, 0 … knots; the last excluded."""
    turns = (tau + origin) / period
    u = (turns - math.floor(turns)) * knots
    return u if u < knots else 0.0


@njit(nogil=True, cache=True)
def accumulate_normal_equations(tau, origin, period, values, weights, band, right):
    """Add samples to the normal equations of a periodic cubic spline.

    tau, values, weights: float64 (S,); band: float64 (K, 4), band[i, d] couples coefficients i and i + d (cyclic);
    right: float64 (K,). Return the sum of weight · value².
    """
    knots = right.shape[0]
    b = np.empty(4)
    energy = 0.0
    for s in range(values.shape[0]):
        w = weights[s]
        if w <= 0.0:
            continue
        u = _knot_position(tau[s], origin, period, knots)
        cell = int(u)
        basis(u - cell, b)
        energy += w * values[s] * values[s]
        for i in range(4):
            row = cell + i if cell + i < knots else cell + i - knots
            right[row] += w * b[i] * values[s]
            for j in range(i, 4):
                band[row, j - i] += w * b[i] * b[j]
    return energy


@njit(nogil=True, cache=True)
def evaluate_spline(tau, origin, period, coefficients, light, slope):
    """Periodic cubic spline and its derivative at ``tau``, all float64 (S,).

    Coefficient i multiplies the basis function that reaches from knot i - 3 to knot i + 1.
    """
    knots = coefficients.shape[0]
    per_unit = knots / period
    for s in range(tau.shape[0]):
        position = _knot_position(tau[s], origin, period, knots)
        cell = int(position)
        u = position - cell
        v = 1.0 - u
        c0 = coefficients[cell]
        c1 = coefficients[(cell + 1) % knots]
        c2 = coefficients[(cell + 2) % knots]
        c3 = coefficients[(cell + 3) % knots]
        b1 = 3.0 * u * u * u - 6.0 * u * u + 4.0
        b2 = 3.0 * v * v * v - 6.0 * v * v + 4.0
        light[s] = (v * v * v * c0 + b1 * c1 + b2 * c2 + u * u * u * c3) / 6.0
        d1 = (3.0 * u * u - 4.0 * u) / 2.0
        d2 = -(3.0 * v * v - 4.0 * v) / 2.0
        slope[s] = per_unit * (-0.5 * v * v * c0 + d1 * c1 + d2 * c2 + 0.5 * u * u * c3)


@njit(nogil=True, cache=True)
def converter_sums(code, expected, converter, weights, sums):
    """Add to sums, float64 (CONVERTERS, 5): weight times 1, m, m², x, m·x of expected m and code x, per converter."""
    for s in range(code.shape[0]):
        w = weights[s]
        if w <= 0.0:
            continue
        c, m, x = converter[s], expected[s], code[s]
        sums[c, 0] += w
        sums[c, 1] += w * m
        sums[c, 2] += w * m * m
        sums[c, 3] += w * x
        sums[c, 4] += w * m * x


@njit(nogil=True, cache=True)
def unfold_lines(samples, origin, starts, fits, low, high, tau, value, converter, line):
    """Equivalent-time samples of whole lines: position on the line, code, converter and line of every sample.

    starts: float64 (N + 1,), predicted; fits: float64 (N, 9) of :func:`fit_lines`, whose delay is added.
    A line with an infinite variance, and samples on a rail, are marked by converter = -1. Return the number written.
    """
    count = 0
    for n in range(starts.shape[0] - 1):
        first, last = math.ceil(starts[n]), math.ceil(starts[n + 1])
        for k in range(max(first, origin), min(last, origin + samples.shape[0])):
            x = samples[k - origin]
            tau[count] = k - starts[n] - fits[n, 0]
            value[count] = x
            bad = not np.isfinite(fits[n, 1]) or x <= low or x >= high
            converter[count] = -1 if bad else k % CONVERTERS
            line[count] = n
            count += 1
    return count


@njit(nogil=True, cache=True)
def kalman(line, values, variance, place_walk, period_walk, state, covariance, white):
    """Filter of (place, period) that wander as random walks of densities [samples² per line, samples² per line³].

    line, variance: float64 (B,); infinite variance: no measurement. values: float64 (B, C), columns filtered alike.
    Fills state (B, C, 2) and covariance (B, 3) = (var place, cov, var period) after each update, and white (B, C) with
    the normalised innovations; return the sum of the logarithms of the innovations' variances. The first two
    measurements only set the state.
    """
    columns = values.shape[1]
    x = np.zeros((columns, 2))
    p00, p01, p11 = START_VARIANCE, 0.0, PERIOD_VARIANCE
    logarithms = 0.0
    seen = 0
    for i in range(line.shape[0]):
        if i > 0:
            m = line[i] - line[i - 1]
            for c in range(columns):
                x[c, 0] += m * x[c, 1]
            p00 += 2.0 * m * p01 + m * m * p11 + place_walk * m + period_walk * m * m * m / 3.0
            p01 += m * p11 + period_walk * m * m / 2.0
            p11 += period_walk * m
        white[i, :] = 0.0
        if np.isfinite(variance[i]):
            s = p00 + variance[i]
            k0, k1 = p00 / s, p01 / s
            for c in range(columns):
                innovation = values[i, c] - x[c, 0]
                x[c, 0] += k0 * innovation
                x[c, 1] += k1 * innovation
                if seen >= 2:
                    white[i, c] = innovation / math.sqrt(s)
            if seen >= 2:
                logarithms += math.log(s)
            seen += 1
            # Joseph-free form is safe here: the gains are exact and p00 ≤ variance after the update
            p11 -= k1 * p01
            p01 -= k0 * p01
            p00 -= k0 * p00
        state[i] = x
        covariance[i, 0], covariance[i, 1], covariance[i, 2] = p00, p01, p11
    return logarithms


@njit(nogil=True, cache=True)
def smooth(line, place_walk, period_walk, state, covariance):
    """Rauch-Tung-Striebel pass over the output of :func:`kalman`, in place."""
    for i in range(line.shape[0] - 2, -1, -1):
        m = line[i + 1] - line[i]
        f00, f01, f11 = covariance[i, 0], covariance[i, 1], covariance[i, 2]
        a00 = f00 + 2.0 * m * f01 + m * m * f11 + place_walk * m + period_walk * m * m * m / 3.0
        a01 = f01 + m * f11 + period_walk * m * m / 2.0
        a11 = f11 + period_walk * m
        det = a00 * a11 - a01 * a01
        if det <= 0.0:
            continue
        # gain = P Fᵀ A⁻¹ with F = [[1, m], [0, 1]]
        c00, c01 = f00 + m * f01, f01
        c10, c11 = f01 + m * f11, f11
        g00 = (c00 * a11 - c01 * a01) / det
        g01 = (c01 * a00 - c00 * a01) / det
        g10 = (c10 * a11 - c11 * a01) / det
        g11 = (c11 * a00 - c10 * a01) / det
        for c in range(state.shape[1]):
            d0 = state[i + 1, c, 0] - (state[i, c, 0] + m * state[i, c, 1])
            d1 = state[i + 1, c, 1] - state[i, c, 1]
            state[i, c, 0] += g00 * d0 + g01 * d1
            state[i, c, 1] += g10 * d0 + g11 * d1
        e00 = covariance[i + 1, 0] - a00
        e01 = covariance[i + 1, 1] - a01
        e11 = covariance[i + 1, 2] - a11
        h00, h01 = g00 * e00 + g01 * e01, g00 * e01 + g01 * e11
        h10, h11 = g10 * e00 + g11 * e01, g10 * e01 + g11 * e11
        covariance[i, 0] += h00 * g00 + h01 * g01
        covariance[i, 1] += h00 * g10 + h01 * g11
        covariance[i, 2] += h10 * g10 + h11 * g11
