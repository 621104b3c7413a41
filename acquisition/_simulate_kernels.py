"""Compiled loops of the simulator: light of the lines, shadows of the cells, noise, converter.

Arrays in, arrays out; nothing is checked here. ``light`` is float32 of shape (S,), the samples of one tile,
in codes above the dark level; line starts are relative to the tile's first sample [samples].
"""

import math

import numpy as np
from numba import njit

FLOAT_ONE = np.int32(0x3F800000)  # the bits of 1.0 as float32
MANTISSA = np.int32(0x007FFFFF)
F = np.float32


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def add_pulses(
    light: np.ndarray,
    starts: np.ndarray,
    energies: np.ndarray,
    table: np.ndarray,
    first: float,
    skews: np.ndarray,
) -> None:
    """Add the empty line g·(p ⊗ h)(k + skew − t) of every line start t.

    ``table`` float32 (R + 3, W): element (r, w) is p ⊗ h at ``first + w + (r − 1) / R`` samples. The phase of
    a line's samples is one number, so four neighbouring rows serve the whole line (cubic interpolation).
    ``skews`` float64 (C,): one entry, or one per converter [samples].
    """
    phases, width = table.shape[0] - 3, table.shape[1]
    converters = skews.shape[0]
    for line in range(starts.shape[0]):
        for converter in range(converters):
            edge = starts[line] + first - skews[converter]
            k = math.ceil(edge)
            position = (k - edge) * phases
            row = min(int(position), phases - 1)
            u = position - row
            g = energies[line]
            w0 = F(-g * u * (u - 1) * (u - 2) / 6)
            w1 = F(g * (u + 1) * (u - 1) * (u - 2) / 2)
            w2 = F(-g * (u + 1) * u * (u - 2) / 2)
            w3 = F(g * (u + 1) * u * (u - 1) / 6)
            begin, end = max(k, 0), min(k + width, light.shape[0])
            if end <= begin:
                continue
            a, b = table[row, begin - k : end - k], table[row + 1, begin - k : end - k]
            c, d = table[row + 2, begin - k : end - k], table[row + 3, begin - k : end - k]
            target = light[begin:end]
            if converters == 1:
                for i in range(target.shape[0]):
                    target[i] += w0 * a[i] + w1 * b[i] + w2 * c[i] + w3 * d[i]
            else:
                for i in range((converter - begin) % converters, target.shape[0], converters):
                    target[i] += w0 * a[i] + w1 * b[i] + w2 * c[i] + w3 * d[i]


@njit(nogil=True, cache=True)
def merge_runs(
    line_first: np.ndarray,
    line_end: np.ndarray,
    first: np.ndarray,
    end: np.ndarray,
    lines: int,
    runs: np.ndarray,
) -> int:
    """Union, line by line, of the boxes [first, end) that cover it; rows (line, first, end) go to ``runs``.

    All int64; ``runs`` has room for a row per box and line. Returns the number of rows.
    """
    count = 0
    for line in range(lines):
        begun = count
        for box in range(first.shape[0]):
            if not (line_first[box] <= line < line_end[box] and first[box] < end[box]):
                continue
            low, high = first[box], end[box]
            at = count  # insert in order of first; boxes of a line are few
            while at > begun and runs[at - 1, 1] > low:
                runs[at] = runs[at - 1]
                at -= 1
            runs[at, 0], runs[at, 1], runs[at, 2] = line, low, high
            count += 1
        if count > begun:
            kept = begun
            for i in range(begun + 1, count):
                if runs[i, 1] <= runs[kept, 2]:
                    runs[kept, 2] = max(runs[kept, 2], runs[i, 2])
                else:
                    kept += 1
                    runs[kept] = runs[i]
            count = kept + 1
    return count


@njit(nogil=True, cache=True)
def run_positions(runs: np.ndarray, x_step: float, line_y: np.ndarray, x: np.ndarray, y: np.ndarray) -> None:
    """Scene positions of all source points of the runs, one run after the other [the unit of ``x_step``]."""
    at = 0
    for run in range(runs.shape[0]):
        for j in range(runs[run, 1], runs[run, 2]):
            x[at] = j * x_step
            y[at] = line_y[runs[run, 0]]
            at += 1


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def add_shadows(
    light: np.ndarray,
    starts: np.ndarray,
    energies: np.ndarray,
    runs: np.ndarray,
    transmission: np.ndarray,
    source: np.ndarray,
    per_sample: int,
    sigma: float,
    reach: int,
    skews: np.ndarray,
) -> None:
    """Take away g·(((1 − s)·p) ⊗ h) where something stands in the light.

    ``transmission`` float64 (P,): s at the points of ``run_positions``; ``source`` float64 (J,): p at
    j / ``per_sample`` samples after the line start, divided by ``per_sample``. h is a Gaussian of ``sigma``
    samples, cut ``reach`` points from its centre.
    """
    converters = skews.shape[0]
    taps = 2 * reach + 2
    weights = np.empty(taps)
    missing = np.empty(source.shape[0])
    offset = 0
    for run in range(runs.shape[0]):
        line, first, end = runs[run, 0], runs[run, 1], runs[run, 2]
        for j in range(first, end):
            missing[j] = energies[line] * source[j] * (1.0 - transmission[offset + j - first])
        offset += end - first
        for converter in range(converters):
            start = starts[line] - skews[converter]
            k = max(math.ceil(start + (first - reach) / per_sample), 0)
            k += (converter - k) % converters
            last = min(math.floor(start + (end + reach) / per_sample), light.shape[0] - 1)
            if k > last:
                continue
            centre = math.floor((k - start) * per_sample)
            u = (k - start) * per_sample - centre
            for i in range(taps):
                z = (u + reach - i) / (per_sample * sigma)
                weights[i] = math.exp(-0.5 * z * z) / (math.sqrt(2 * math.pi) * sigma)
            while k <= last:
                base = centre - reach
                total = 0.0
                for i in range(max(first - base, 0), min(end - base, taps)):
                    total += weights[i] * missing[base + i]
                light[k] -= F(total)
                k += converters
                centre += converters * per_sample


@njit(nogil=True, cache=True, fastmath={"contract"})
def low_pass(light: np.ndarray, state: float, rate: float, target: float, baseline: np.ndarray) -> float:
    """Baseline = target − first-order low-pass of the light; returns the filter's state after the tile."""
    keep = 1.0 - rate
    for k in range(light.shape[0]):
        state = keep * state + rate * light[k]
        baseline[k] = F(target - state)
    return state


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def normals(bits: np.ndarray, out: np.ndarray) -> None:
    """Standard normal numbers from random bits (Box and Muller 1958): uint32 (2 M,) to float32 (2 M,).

    The largest possible value is 6.8. Logarithm and cosine are short series without branches, which the
    compiler turns into vector instructions: several times faster than a ziggurat, one draw at a time.
    """
    half = bits.shape[0] // 2
    radius_bits, angle_bits = bits[:half], bits[half:].view(np.int32)
    out_cos, out_sin = out[:half], out[half:]
    for i in range(half):
        uniform = np.float32(F(radius_bits[i]) * F(2.0**-32) + F(2.0**-33))
        raw = uniform.view(np.int32)
        exponent = F(np.int32(raw >> 23) - 127)
        mantissa = np.int32((raw & MANTISSA) | FLOAT_ONE).view(np.float32)
        s = (mantissa - F(1.4142135)) / (mantissa + F(1.4142135))  # ln(m / sqrt 2) = 2 artanh(s)
        q = s * s
        series = F(2.0) * s * (F(1.0) + q * (F(1 / 3) + q * (F(1 / 5) + q * (F(1 / 7) + q * F(1 / 9)))))
        log = (exponent + F(0.5)) * F(0.6931472) + series
        radius = math.sqrt(max(F(-1.0) * log, F(0.0)))  # sqrt(-2 ln u), less the 1/sqrt 2 of the rotation below

        a = F(angle_bits[i]) * F(math.pi / 4 * 2.0**-31)  # -45 to 45 degrees, turned by 45 into a quadrant
        q = a * a
        cos = F(1.0) + q * (F(-1 / 2) + q * (F(1 / 24) + q * F(-1 / 720)))
        sin = a * (F(1.0) + q * (F(-1 / 6) + q * (F(1 / 120) + q * F(-1 / 5040))))
        sign_cos = F(1.0) - F(2.0) * F(np.int32(angle_bits[i] & np.int32(1)))
        sign_sin = F(1.0) - F(np.int32(angle_bits[i] & np.int32(2)))
        out_cos[i] = radius * sign_cos * (cos - sin)
        out_sin[i] = radius * sign_sin * (cos + sin)


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def digitise(
    light: np.ndarray,
    baseline: np.ndarray,
    noise: np.ndarray,
    offsets: np.ndarray,
    gains: np.ndarray,
    dark_variance: float,
    variance_per_code: float,
    low: float,
    high: float,
    codes: np.ndarray,
) -> None:
    """clip(round(offset + gain·(baseline + light) + noise)); all (S,) and float32, but integer ``codes``."""
    thermal, shot, bottom, top = F(dark_variance), F(variance_per_code), F(low), F(high)
    for k in range(codes.shape[0]):
        spread = math.sqrt(thermal + shot * max(light[k], F(0.0)))
        value = np.rint(offsets[k] + gains[k] * (baseline[k] + light[k]) + spread * noise[k])
        codes[k] = np.int32(min(max(value, bottom), top))
