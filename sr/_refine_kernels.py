"""Compiled loops of the regularised image: the forward model of a window, its adjoint, and conjugate gradients.

An image of R rows and C = P·Q columns lies phase by phase: column P·i + r of a row at r·Q + i. All samples of a line
meet the columns of a phase alike, so that every loop over samples runs through contiguous memory. All images and
samples are float32.
"""

import math

import numpy as np
from numba import njit

_SQUARES = {"reassoc", "contract", "nsz"}


@njit(nogil=True, cache=True)
def pixel_taps(offset, response, taps):
    """How much of each column a sample sees that lies ``offset`` columns, 0 ≤ offset < 1, beyond column 0.

    Straight lines between the columns, seen through a Gaussian of standard deviation ``response`` [columns]. taps:
    float32 (K,), K even, for columns 1 - K/2 … K/2; their sum is 1.
    """
    count = taps.shape[0]
    if response == 0.0:
        taps[:] = np.float32(0.0)
        taps[count // 2 - 1], taps[count // 2] = 1.0 - offset, offset
        return
    total = 0.0
    for k in range(count):
        x = k + 1 - count // 2 - offset
        taps[k] = _ramp(x + 1, response) - 2 * _ramp(x, response) + _ramp(x - 1, response)
        total += taps[k]
    for k in range(count):
        taps[k] /= total


@njit(nogil=True, cache=True)
def _ramp(x, sigma):
    """Integral of the normal distribution function: a corner, blurred by a Gaussian."""
    z = x / sigma
    return 0.5 * x * math.erfc(-z / math.sqrt(2.0)) + sigma * math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi)


@njit(nogil=True, cache=True)
def lay_lines(place, row, rows, phases, across, response, width, first, span, upper, taps):
    """Where the samples of lines fall on the image's pixels.

    place: float64 (N,), column of each line's sample 0; row: float64 (N,), its row; both with their fraction.
    first: int64 (N,), of each line the column of the first tap of sample 0; span: int64 (N, 2), first sample and last
    + 1 that fall inside with all their taps, none for a line outside the rows; upper: float32 (N, 2), shares of row
    int(row) and the next; taps: float32 (N, K).
    """
    count = taps.shape[1]
    for n in range(place.shape[0]):
        base = math.floor(place[n])
        first[n] = base + 1 - count // 2
        begin = max(0, -(first[n] // phases))
        end = min(width, (phases * across - first[n] - count) // phases + 1)
        if not (0.0 <= row[n] <= rows - 1):
            end = begin
        span[n, 0], span[n, 1] = begin, max(begin, end)
        share = row[n] - min(math.floor(row[n]), rows - 2)
        upper[n, 0], upper[n, 1] = 1.0 - share, share
        pixel_taps(place[n] - base, response, taps[n])


@njit(nogil=True, cache=True, forceinline=True, fastmath=_SQUARES)
def _mix(one, other, a, b, out):
    for i in range(out.shape[0]):
        out[i] = a * one[i] + b * other[i]


@njit(nogil=True, cache=True, forceinline=True, fastmath=_SQUARES)
def _add_two(one, other, a, b, source):
    for i in range(source.shape[0]):
        one[i] += a * source[i]
        other[i] += b * source[i]


@njit(nogil=True, cache=True, forceinline=True, fastmath=_SQUARES)
def _see(mixed, first, phases, across, begin, end, taps, seen):
    """Seen[i] = the taps over the columns of sample ``begin`` + i."""
    n = end - begin
    out = seen[:n]
    for k in range(0, taps.shape[0], 2):
        c, d = first + k, first + k + 1
        a = c % phases * across + c // phases + begin
        b = d % phases * across + d // phases + begin
        one, other, g, h = mixed[a : a + n], mixed[b : b + n], taps[k], taps[k + 1]
        if k == 0:
            for i in range(n):
                out[i] = g * one[i] + h * other[i]
        else:
            for i in range(n):
                out[i] += g * one[i] + h * other[i]


@njit(nogil=True, cache=True, forceinline=True, fastmath=_SQUARES)
def _unsee(back, first, phases, across, begin, end, taps, seen):
    """Adjoint of :func:`_see`, added to ``back``."""
    n = end - begin
    source = seen[:n]
    for k in range(taps.shape[0]):
        c = first + k
        a = c % phases * across + c // phases + begin
        one, g = back[a : a + n], taps[k]
        for i in range(n):
            one[i] += g * source[i]


@njit(nogil=True, cache=True, forceinline=True, fastmath=_SQUARES)
def _scale(values, factors):
    for i in range(values.shape[0]):
        values[i] *= factors[i]


@njit(nogil=True, cache=True)
def forward(image, laid, phases, seen):
    """What every sample sees of the image, without light; zero outside it. seen: float32 (N, W)."""
    row, first, span, upper, taps = laid
    across = image.shape[1] // phases
    mixed = np.empty(image.shape[1], np.float32)
    seen[:] = np.float32(0.0)
    for n in range(seen.shape[0]):
        if span[n, 1] > span[n, 0]:
            r = min(int(row[n]), image.shape[0] - 2)
            _mix(image[r], image[r + 1], upper[n, 0], upper[n, 1], mixed)
            _see(mixed, first[n], phases, across, span[n, 0], span[n, 1], taps[n], seen[n, span[n, 0] :])


@njit(nogil=True, cache=True)
def adjoint(seen, laid, phases, image):
    """Adjoint of :func:`forward`: every sample's value given back to the pixels that it sees."""
    row, first, span, upper, taps = laid
    across = image.shape[1] // phases
    back = np.empty(image.shape[1], np.float32)
    image[:] = np.float32(0.0)
    for n in range(seen.shape[0]):
        if span[n, 1] > span[n, 0]:
            r = min(int(row[n]), image.shape[0] - 2)
            back[:] = np.float32(0.0)
            _unsee(back, first[n], phases, across, span[n, 0], span[n, 1], taps[n], seen[n, span[n, 0] :])
            _add_two(image[r], image[r + 1], upper[n, 0], upper[n, 1], back)


@njit(nogil=True, cache=True)
def _normal(image, power, laid, phases, rooms, out):
    """Adjoint of power times forward."""
    row, first, span, upper, taps = laid
    across = image.shape[1] // phases
    mixed, back, seen = rooms
    out[:] = np.float32(0.0)
    for n in range(power.shape[0]):
        begin, end = span[n, 0], span[n, 1]
        if end > begin:
            r = min(int(row[n]), image.shape[0] - 2)
            _mix(image[r], image[r + 1], upper[n, 0], upper[n, 1], mixed)
            _see(mixed, first[n], phases, across, begin, end, taps[n], seen)
            _scale(seen[: end - begin], power[n, begin:end])
            back[:] = np.float32(0.0)
            _unsee(back, first[n], phases, across, begin, end, taps[n], seen)
            _add_two(out[r], out[r + 1], upper[n, 0], upper[n, 1], back)


@njit(nogil=True, cache=True)
def factor_smoothness(stiffness, factor):
    """LDLᵀ of 1 + stiffness·DᵀD, D the second difference of n values with free ends, for :func:`_smooth_rows`.

    factor: float32 (3, n): 1/d, and the two lower diagonals of L.
    """
    n = factor.shape[1]
    diagonal, one, two = np.ones(n), np.zeros(n), np.zeros(n)
    for k in range(n - 2):
        for a, c in enumerate((1.0, -2.0, 1.0)):
            diagonal[k + a] += stiffness * c * c
        one[k + 1] += stiffness * -2.0
        one[k + 2] += stiffness * -2.0
        two[k + 2] += stiffness
    d = np.empty(n)
    for k in range(n):
        l2 = two[k] / d[k - 2] if k >= 2 else 0.0
        l1 = one[k] / d[k - 1] if k >= 1 else 0.0
        if k >= 2:
            l1 -= l2 * factor[1, k - 1] * d[k - 2] / d[k - 1]
        d[k] = diagonal[k] - (l1 * l1 * d[k - 1] if k >= 1 else 0.0) - (l2 * l2 * d[k - 2] if k >= 2 else 0.0)
        factor[0, k], factor[1, k], factor[2, k] = 1.0 / d[k], l1, l2


@njit(nogil=True, cache=True, forceinline=True, fastmath=_SQUARES)
def _eliminate(this, one, two, a, b):
    for i in range(this.shape[0]):
        this[i] -= a * one[i] + b * two[i]


@njit(nogil=True, cache=True, forceinline=True, fastmath=_SQUARES)
def _substitute(this, one, two, scale, a, b):
    for i in range(this.shape[0]):
        this[i] = scale * this[i] - a * one[i] - b * two[i]


@njit(nogil=True, cache=True)
def _smooth_rows(values, factor):
    """Solve (1 + stiffness·DᵀD) x = values along the first axis, in place; D couples rows, loops run along them."""
    n = values.shape[0]
    zero = np.float32(0.0)
    for k in range(1, n):
        _eliminate(values[k], values[k - 1], values[max(k - 2, 0)], factor[1, k], factor[2, k])
    for k in range(n - 1, -1, -1):
        a = factor[1, k + 1] if k + 1 < n else zero
        b = factor[2, k + 2] if k + 2 < n else zero
        _substitute(values[k], values[min(k + 1, n - 1)], values[min(k + 2, n - 1)], factor[0, k], a, b)


@njit(nogil=True, cache=True)
def _turn(image, phases, turned):
    """Columns in order, each a row of ``turned``, float32 (C, R)."""
    rows, across = image.shape[0], image.shape[1] // phases
    for first in range(0, rows, 16):
        last = min(first + 16, rows)
        for phase in range(phases):
            for i in range(across):
                column = turned[i * phases + phase]
                for r in range(first, last):
                    column[r] = image[r, phase * across + i]


@njit(nogil=True, cache=True)
def _turn_back(turned, phases, image):
    rows, across = image.shape[0], image.shape[1] // phases
    for first in range(0, rows, 16):
        last = min(first + 16, rows)
        for phase in range(phases):
            for i in range(across):
                column = turned[i * phases + phase]
                for r in range(first, last):
                    image[r, phase * across + i] = column[r]


@njit(nogil=True, cache=True)
def smooth(image, phases, row_factor, column_factor, turned):
    """Inverse of the two smoothness operators, one along each axis, in place."""
    _smooth_rows(image, row_factor)
    _turn(image, phases, turned)
    _smooth_rows(turned, column_factor)
    _turn_back(turned, phases, image)


@njit(nogil=True, cache=True, forceinline=True, fastmath=_SQUARES)
def _dot(a, b):
    total = np.float32(0.0)
    for i in range(a.shape[0]):
        total += a[i] * b[i]
    return total


@njit(nogil=True, cache=True, forceinline=True, fastmath=_SQUARES)
def _finish_operator(normal, prior, direction, density):
    """Add the prior's product; ``prior`` also holds density times the direction. Return the energy."""
    energy = np.float32(0.0)
    for i in range(normal.shape[0]):
        normal[i] += prior[i] - density * direction[i]
        energy += normal[i] * direction[i]
    return energy


@njit(nogil=True, cache=True, forceinline=True, fastmath=_SQUARES)
def _step(image, residual, direction, operated, length):
    for i in range(image.shape[0]):
        image[i] += length * direction[i]
        residual[i] -= length * operated[i]


@njit(nogil=True, cache=True, forceinline=True, fastmath=_SQUARES)
def _turn_direction(direction, prior, smoothed, residual, share, inverse_density):
    for i in range(direction.shape[0]):
        direction[i] = inverse_density * smoothed[i] + share * direction[i]
        prior[i] = residual[i] + share * prior[i]


@njit(nogil=True, cache=True)
def solve(signal, power, laid, phases, density, factors, tolerance, most_steps, image, support):
    """Image that minimises ½·Σ power·(seen - value)² + its roughness, by preconditioned conjugate gradients.

    signal, power: float32 (N, W), p·y/v and p²/v of the samples, see _grid_kernels.weigh_lines. laid: see
    :func:`lay_lines`. factors: of :func:`factor_smoothness`, along rows and columns. The roughness is
    density/2·xᵀ(S - 1)x with S the product of the two smoothness operators; density·S, inverted exactly, is the
    preconditioner. Its own product with a direction follows from the recursion, and is never formed.
    Begins with the empty channel, 1 everywhere, which spares half of the steps that zeros take. Stops when
    what is left to do is ``tolerance`` of the noise: rᵀM⁻¹r of the residual r and the preconditioner M, which would be
    the squared error in standard deviations, summed over all pixels, if M were the operator.
    support: float32 (R, C), power of the samples around each pixel, smoothed like the image.
    Return the steps taken.
    """
    rows, columns = image.shape
    row_factor, column_factor = factors
    rooms = np.empty(columns, np.float32), np.empty(columns, np.float32), np.empty(signal.shape[1], np.float32)
    turned = np.empty((columns, rows), np.float32)
    residual, smoothed = np.empty((rows, columns), np.float32), np.empty((rows, columns), np.float32)
    operated, inverse = np.empty((rows, columns), np.float32), np.float32(1.0 / density)
    density = np.float32(density)
    adjoint(power, laid, phases, support)
    adjoint(signal, laid, phases, residual)
    # taps and rows' shares add up to 1, and the roughness of an even image is nothing
    image[:] = np.float32(1.0)
    residual -= support
    smooth(support, phases, row_factor, column_factor, turned)
    direction, prior = np.zeros((rows, columns), np.float32), np.zeros((rows, columns), np.float32)
    flat = image.ravel(), residual.ravel(), direction.ravel(), prior.ravel(), smoothed.ravel(), operated.ravel()
    before, enough = 0.0, tolerance * tolerance * rows * columns
    for step in range(most_steps + 1):
        smoothed[:] = residual
        smooth(smoothed, phases, row_factor, column_factor, turned)
        now = float(inverse * _dot(flat[1], flat[4]))
        if now <= enough or step == most_steps:
            return step
        share = np.float32(now / before) if step > 0 else np.float32(0.0)
        before = now
        _turn_direction(flat[2], flat[3], flat[4], flat[1], share, inverse)
        _normal(direction, power, laid, phases, rooms, operated)
        energy = float(_finish_operator(flat[5], flat[3], flat[2], density))
        _step(flat[0], flat[1], flat[2], flat[5], np.float32(now / energy))
    return most_steps


@njit(nogil=True, cache=True)
def finish(image, support, phases, corner, levels, per_octave, lowest, least, transmission, std, known):
    """Pixels in order, without the margin, with their standard deviations; unknown where ``support`` is too weak.

    corner: (row, column) of transmission[0, 0] in the image; levels: float32, standard deviations for support
    ``lowest``·2^(i / per_octave); least: float32 (columns,), support that makes a pixel known.
    """
    across = image.shape[1] // phases
    top = levels.shape[0] - 2
    for r in range(transmission.shape[0]):
        for c in range(transmission.shape[1]):
            column = corner[1] + c
            at = column % phases * across + column // phases
            power = support[corner[0] + r, at]
            if power > least[c]:
                place = min(max(math.log2(power / lowest) * per_octave, 0.0), float(top))
                i = int(place)
                std[r, c] = levels[i] + (place - i) * (levels[i + 1] - levels[i])
                transmission[r, c] = image[corner[0] + r, at]
                known[r, c] = True
            else:
                std[r, c], transmission[r, c], known[r, c] = np.inf, np.nan, False
