"""Compiled kernels that measure a cell: arrays in, arrays out.

One module for all that call each other, so that the compiler's cache sees every change.

The cell's box lies in *planes*: flat arrays of its pixels with a border of one pixel that is 0, so that every
pixel's neighbours are a fixed number of elements away.
"""

import math

import numpy as np
from numba import njit

#: Least transmission that enters an optical density: 0.01 is two decades, more than 8 bits resolve.
TRANSMISSION_FLOOR = 0.01
#: Texture is measured on transmission cut into equal steps from 0 to `TEXTURE_TOP`.
TEXTURE_LEVELS, TEXTURE_TOP = 32, 1.6
#: Points to which the outline is resampled for its Fourier descriptors.
OUTLINE_POINTS = 128

_TEXTURE_STEP = TEXTURE_TOP / TEXTURE_LEVELS
_CODES = TEXTURE_LEVELS + 1  # level 0 is outside
_BUCKETS = 256
_PER_LOGARITHM = 16
_LOBES = np.arange(2, 8)
_turns = np.arange(OUTLINE_POINTS)[:, None] * np.concatenate([[1], 1 + _LOBES, 1 - _LOBES]) / OUTLINE_POINTS
_COEFFICIENTS = 16  # 13, and three that are not used: whole vectors of the processor
_COSINE, _SINE = np.zeros((2, OUTLINE_POINTS, _COEFFICIENTS))
_COSINE[:, : _turns.shape[1]], _SINE[:, : _turns.shape[1]] = np.cos(2 * np.pi * _turns), np.sin(2 * np.pi * _turns)
# Crofton's formula in four directions: weight of a 2 x 2 neighbourhood, lower right pixel 1, upper right 2, lower
# left 4, upper left 8 (S. Rivollier, thesis, Saint-Etienne 2010; as in skimage.measure.perimeter_crofton)
_CROFTON = np.array(
    [0, 2 + 2**0.5, 2**0.5, 2 * 2**0.5, 0, 2 + 2**0.5, 0, 2**0.5, 2, 4, 2**0.5, 2**0.5, 2, 4, 0, 0]
) * (np.pi / 8)  # fmt: skip
_EIGHT_FULL = 0x0F0F0F0F0F0F0F0F


# --- the mask --------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _box(mask):
    """First and last row and column that hold a pixel; -1 if none does."""
    rows, columns = mask.shape
    top, bottom, left, right = -1, -1, columns, -1
    for r in range(rows):
        row = mask[r]
        found = False
        for c in range(columns):
            found |= row[c]
        if not found:
            continue
        if top < 0:
            top = r
        bottom = r
        c = 0
        while c < left and not row[c]:
            c += 1
        left = c
        c = columns - 1
        while c > right and not row[c]:
            c -= 1
        right = c
    return top, bottom, left, right


@njit(nogil=True, cache=True, error_model="numpy")
def _pixel_moments(plane, rows, columns):
    """Area, mean row and column, and variance of the pixels: rows, rows with columns, columns."""
    # about the box's middle, in whole numbers, lest large coordinates cancel
    stride, middle_row, middle_column = columns + 2, rows // 2, columns // 2
    n, sum_r, sum_c, sum_rr, sum_rc, sum_cc = 0, 0, 0, 0, 0, 0
    for r in range(rows):
        row = plane[(r + 1) * stride + 1 :][:columns]
        in_row, along, square = 0, 0, 0
        for c in range(columns):
            x = c - middle_column
            value = np.int64(row[c])
            in_row += value
            along += value * x
            square += value * x * x
        y = r - middle_row
        n += in_row
        sum_r += in_row * y
        sum_rr += in_row * y * y
        sum_rc += along * y
        sum_c += along
        sum_cc += square
    mean_r, mean_c = sum_r / n, sum_c / n
    scale = 1.0 / (float(n) * float(n))
    # whole numbers again: what is equal by symmetry stays equal, and a line is thin
    rr = (float(n) * sum_rr - float(sum_r) * sum_r) * scale
    rc = (float(n) * sum_rc - float(sum_r) * sum_c) * scale
    cc = (float(n) * sum_cc - float(sum_c) * sum_c) * scale
    return n, mean_r + middle_row, mean_c + middle_column, rr, rc, cc


@njit(nogil=True, cache=True, error_model="numpy")
def _axes(rr, rc, cc):
    """Major and minor axis of the ellipse with these second moments, and the major one's angle from the rows' axis."""
    greater = 0.5 * (rr + cc) + math.hypot(0.5 * (rr - cc), rc)
    lesser = max(rr * cc - rc * rc, 0.0) / greater if greater > 0 else 0.0
    if rr == cc:
        angle = math.pi / 4 if rc > 0 else -math.pi / 4
    else:
        angle = 0.5 * math.atan2(2 * rc, rr - cc)
    if angle <= -math.pi / 2:  # both name one axis
        angle = math.pi / 2
    return 4 * math.sqrt(greater), 4 * math.sqrt(lesser), angle


@njit(nogil=True, cache=True, error_model="numpy")
def _crofton_perimeter(plane, rows, columns, code):
    """Perimeter by Crofton's formula, four directions; code is a plane of scratch."""
    stride = columns + 2
    n = (rows + 1) * stride - 1
    own, west = plane[stride + 1 :][:n], plane[stride : stride + n]
    north, north_west = plane[1 : 1 + n], plane[:n]
    codes = code[:n]
    for i in range(n):
        codes[i] = own[i] | (west[i] << 2) | (north[i] << 1) | (north_west[i] << 3)
    n_words = (n + 7) // 8
    for i in range(n, 8 * n_words):
        code[i] = 0
    words = code[: 8 * n_words].view(np.int64)
    total = 0.0
    for w in range(n_words):
        if words[w] != 0 and words[w] != _EIGHT_FULL:
            for i in range(8 * w, 8 * w + 8):
                total += _CROFTON[code[i]]
    return total


# --- the outline -----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _next_crack(plane, stride, pixel, side):
    """The edge of a pixel that follows one of its edges clockwise along the outline; diagonal pixels hang together.

    Sides are 0 to the right, 1 below, 2 to the left, 3 above.
    """
    if side == 0:
        away, onward = 1, stride
    elif side == 1:
        away, onward = stride, -1
    elif side == 2:
        away, onward = -1, -stride
    else:
        away, onward = -stride, 1
    if plane[pixel + away + onward] != 0:
        return pixel + away + onward, (side + 3) & 3
    if plane[pixel + onward] != 0:
        return pixel + onward, side
    return pixel, (side + 1) & 3


@njit(nogil=True, cache=True, error_model="numpy")
def _square_ahead(stride, pixel, side):
    """Upper left pixel of the 2 x 2 square that the outline crosses next."""
    if side == 0:
        return pixel
    if side == 1:
        return pixel - 1
    if side == 2:
        return pixel - stride - 1
    return pixel - stride


@njit(nogil=True, cache=True, error_model="numpy")
def _longest_outline(plane, rows, columns, untraced):
    """Edge to start from on the mask's longest outline, and that outline's length in edges.

    Of equally long ones the first, and the edge that ends its last 2 x 2 square, both in the order of rows: as
    skimage.measure.find_contours has it, for the Fourier descriptors depend on the start a little.
    """
    stride = columns + 2
    n = rows * stride
    above, own = plane[:n], plane[stride : stride + n]
    flags = untraced[stride : stride + n]
    for i in range(n):  # every outline has an edge above a pixel
        flags[i] = own[i] & (above[i] ^ 1)
    n_words = (n + stride + 7) // 8
    untraced[:stride] = 0
    for i in range(stride + n, 8 * n_words):
        untraced[i] = 0
    words = untraced[: 8 * n_words].view(np.int64)
    most, most_first, start_pixel, start_side = 0, 0, 0, 0
    for w in range(n_words):
        if words[w] == 0:
            continue
        for begin in range(8 * w, 8 * w + 8):
            if untraced[begin] == 0:
                continue
            pixel, side, length = begin, 3, 0
            first, last = n + 2 * stride, -1
            last_pixel, last_side = pixel, side
            while True:
                square = _square_ahead(stride, pixel, side)
                if side == 3:
                    untraced[pixel] = 0
                pixel, side = _next_crack(plane, stride, pixel, side)
                length += 1
                first = min(first, square)
                if square > last:
                    last = square
                    last_pixel, last_side = pixel, side
                if pixel == begin and side == 3:
                    break
            if length > most or (length == most and first < most_first):
                most, most_first = length, first
                start_pixel, start_side = last_pixel, last_side
    return start_pixel, start_side, most


@njit(nogil=True, cache=True, error_model="numpy")
def _trace(plane, columns, pixel, side, length, inside_x, inside_y, half_x, half_y):
    """Pixels along an outline, and the middles of the edges that it follows."""
    stride = columns + 2
    for i in range(length):
        x, y = pixel // stride - 1, pixel % stride - 1
        inside_x[i], inside_y[i] = x, y
        half_x[i] = x + (0.5 if side == 1 else (-0.5 if side == 3 else 0.0))
        half_y[i] = y + (0.5 if side == 0 else (-0.5 if side == 2 else 0.0))
        pixel, side = _next_crack(plane, stride, pixel, side)


@njit(nogil=True, cache=True, error_model="numpy")
def _distinct(x, y, n):
    """Keep, in place, the points of a closed path that differ from the one before; return how many."""
    last_x, last_y, kept = x[n - 1], y[n - 1], 0
    for i in range(n):
        here_x, here_y = x[i], y[i]
        if here_x != last_x or here_y != last_y:
            x[kept], y[kept] = here_x, here_y
            kept += 1
        last_x, last_y = here_x, here_y
    return kept


@njit(nogil=True, cache=True, error_model="numpy")
def _signed_area(x, y, n):
    total = 0.0
    last_x, last_y = x[n - 1], y[n - 1]
    for i in range(n):
        total += last_x * y[i] - x[i] * last_y
        last_x, last_y = x[i], y[i]
    return total / 2


@njit(nogil=True, cache=True, error_model="numpy")
def _length(x, y, n):
    total = 0.0
    last_x, last_y = x[n - 1], y[n - 1]
    for i in range(n):
        step_x, step_y = x[i] - last_x, y[i] - last_y
        total += math.sqrt(step_x * step_x + step_y * step_y)
        last_x, last_y = x[i], y[i]
    return total


@njit(nogil=True, cache=True, error_model="numpy")
def _polygon_moments(x, y, n):
    """Area, centroid x and y, and central second moments xx, xy, yy of a polygon, by Green's theorem."""
    origin_x, origin_y = 0.0, 0.0  # near the centroid, lest large coordinates cancel
    for i in range(n):
        origin_x += x[i]
        origin_y += y[i]
    origin_x /= n
    origin_y /= n
    area, centre_x, centre_y, xx, xy, yy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    ax, ay = x[n - 1] - origin_x, y[n - 1] - origin_y
    for i in range(n):
        bx, by = x[i] - origin_x, y[i] - origin_y
        cross = ax * by - bx * ay
        area += cross
        centre_x += cross * (ax + bx)
        centre_y += cross * (ay + by)
        xx += cross * (ax * ax + ax * bx + bx * bx)
        yy += cross * (ay * ay + ay * by + by * by)
        xy += cross * (ax * by + 2 * ax * ay + 2 * bx * by + bx * ay)
        ax, ay = bx, by
    area /= 2
    centre_x /= 6 * area
    centre_y /= 6 * area
    sign = 1.0 if area > 0 else -1.0
    xx = sign * (xx / 12 - area * centre_x * centre_x)
    yy = sign * (yy / 12 - area * centre_y * centre_y)
    xy = sign * (xy / 24 - area * centre_x * centre_y)
    return abs(area), centre_x + origin_x, centre_y + origin_y, xx, xy, yy


@njit(nogil=True, cache=True, error_model="numpy")
def _convex_hull(x, y, n, rows, low, high, hull_x, hull_y):
    """Corners of the hull of points whose coordinates are multiples of 1/2, x from -1/2 on; return how many."""
    n_lines = 2 * rows + 1
    for k in range(n_lines):
        low[k] = 1 << 30
        high[k] = -(1 << 30)
    for i in range(n):
        k, twice_y = int(2 * x[i]) + 1, int(2 * y[i])
        low[k] = min(low[k], twice_y)
        high[k] = max(high[k], twice_y)
    n_hull = 0
    for side in range(2):  # its lower columns downwards, then its upper ones back
        base = n_hull
        for step in range(n_lines):
            k = step if side == 0 else n_lines - 1 - step
            if low[k] > high[k]:
                continue
            at_x = 0.5 * (k - 1)
            at_y = 0.5 * (low[k] if side == 0 else high[k])
            if side == 1 and n_hull == base and hull_x[base - 1] == at_x and hull_y[base - 1] == at_y:
                base -= 1  # where the two sides meet in one point
                n_hull -= 1
            while n_hull > base + 1:
                ax, ay, bx, by = hull_x[n_hull - 2], hull_y[n_hull - 2], hull_x[n_hull - 1], hull_y[n_hull - 1]
                if (bx - ax) * (at_y - ay) - (at_x - ax) * (by - ay) > 0:
                    break
                n_hull -= 1
            hull_x[n_hull], hull_y[n_hull] = at_x, at_y
            n_hull += 1
    if hull_x[n_hull - 1] == hull_x[0] and hull_y[n_hull - 1] == hull_y[0]:
        n_hull -= 1
    return n_hull


@njit(nogil=True, cache=True, error_model="numpy")
def _revolved_volume(x, y, n, axis_y):
    """Volume of an outline revolved about the line y = axis_y: mean of what either side gives.

    Each edge sweeps a truncated cone; the part beyond the axis is clamped to it, point by point.
    """
    above, below = 0.0, 0.0
    ax, ay = x[n - 1], y[n - 1] - axis_y
    for i in range(n):
        bx, by = x[i], y[i] - axis_y
        r, r_next = max(ay, 0.0), max(by, 0.0)
        above += (bx - ax) * (r * r + r * r_next + r_next * r_next)
        r, r_next = max(-ay, 0.0), max(-by, 0.0)
        below += (bx - ax) * (r * r + r * r_next + r_next * r_next)
        ax, ay = bx, by
    return math.pi / 3 * abs(above - below) / 2


@njit(nogil=True, cache=True, error_model="numpy")
def _lobes(x, y, n, out):
    """Amplitude of 2 to 7 lobes: Fourier descriptors, invariant to place, size, angle and starting point.

    An outline of radius R (1 + e cos n phi), sampled evenly along its length, has beside the circle itself,
    coefficient 1, only the coefficients 1 + n and 1 - n: to first order in e, R e (n - 1) / 2n and
    R e (n + 1) / 2n. Their sum over the circle's is e.
    """
    sums = np.zeros((2, _COEFFICIENTS))
    real, imaginary = sums[0], sums[1]
    sense = 1.0 if _signed_area(x, y, n) >= 0 else -1.0
    spacing = _length(x, y, n) / OUTLINE_POINTS
    edge, travelled = 0, 0.0
    ax, ay, bx, by = x[0], y[0], x[1], y[1]
    edge_length = math.sqrt((bx - ax) * (bx - ax) + (by - ay) * (by - ay))
    for j in range(OUTLINE_POINTS):
        while travelled + edge_length <= j * spacing and edge < n - 1:
            travelled += edge_length
            edge += 1
            ax, ay = bx, by
            following = edge + 1 if edge + 1 < n else 0
            bx, by = x[following], y[following]
            edge_length = math.sqrt((bx - ax) * (bx - ax) + (by - ay) * (by - ay))
        part = (j * spacing - travelled) / edge_length
        at_x, at_y = ax + part * (bx - ax), sense * (ay + part * (by - ay))
        cosine, sine = _COSINE[j], _SINE[j]
        for k in range(_COEFFICIENTS):
            real[k] += at_x * cosine[k] + at_y * sine[k]
            imaginary[k] += at_y * cosine[k] - at_x * sine[k]
    circle = math.hypot(real[0], imaginary[0])
    for k in range(6):
        sum_of_two = math.hypot(real[1 + k], imaginary[1 + k]) + math.hypot(real[7 + k], imaginary[7 + k])
        out[k] = sum_of_two / circle


@njit(nogil=True, cache=True, error_model="numpy")
def _measure_outline(plane, rows, columns, untraced, pixel, top, left, out):
    """Features of the longest outline and its convex hull; out as in `measure_into`."""
    start, side, length = _longest_outline(plane, rows, columns, untraced)
    paths = np.empty((4, length))
    x, y, half_x, half_y = paths[0], paths[1], paths[2], paths[3]
    _trace(plane, columns, start, side, length, x, y, half_x, half_y)
    n = _distinct(x, y, length)
    if n < 3 or abs(_signed_area(x, y, n)) < 0.25:  # areas of lattice polygons are multiples of 1/2
        x, y, n = half_x, half_y, length
    corners = np.empty((2, 4 * rows + 4))
    bounds = np.empty((2, 2 * rows + 1), dtype=np.int32)
    n_hull = _convex_hull(x, y, n, rows, bounds[0], bounds[1], corners[0], corners[1])
    area, _, _, mu_xx, mu_xy, mu_yy = _polygon_moments(x, y, n)
    hull_area, centre_x, centre_y, hull_xx, _, hull_yy = _polygon_moments(corners[0], corners[1], n_hull)
    split = math.hypot(mu_xx - mu_yy, 2 * mu_xy)
    principal = (mu_xx + mu_yy + split) / (mu_xx + mu_yy - split)
    circularity = 2 * math.sqrt(math.pi * hull_area) / _length(corners[0], corners[1], n_hull)
    out[2] = area * pixel**2
    out[3] = hull_area * pixel**2
    out[5] = _length(x, y, n) * pixel
    out[6] = circularity
    out[7] = 1 - circularity
    out[8] = area / hull_area
    out[15] = abs(0.5 * math.atan2(2 * mu_xy, mu_xx - mu_yy))
    out[16] = math.sqrt(1 - 1 / principal)
    out[17] = math.sqrt(mu_xx / mu_yy)
    out[18] = math.sqrt(hull_xx / hull_yy)
    out[19] = math.sqrt(principal)
    out[20] = _revolved_volume(x, y, n, centre_y) * pixel**3
    out[21] = (centre_x + top) * pixel
    out[22] = (centre_y + left) * pixel
    _lobes(half_x, half_y, length, out[39:45])


# --- transmission ----------------------------------------------------------------------------------------------------


# Sums in any order: several at once, and more exact than one by one.
@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})
def _sum(values):
    total = 0.0
    for i in range(values.shape[0]):
        total += values[i]
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})
def _sum_of_squares(values, origin):
    total = 0.0
    for i in range(values.shape[0]):
        total += (values[i] - origin) * (values[i] - origin)
    return total


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc"})
def _squared_steps(first, second, use_first, use_second):
    """Sum of squared differences where both count, and how many do."""
    total, n = 0.0, 0
    for i in range(first.shape[0]):
        step = np.float64(second[i] - first[i])
        both = use_first[i] & use_second[i]
        total += step * step if both != 0 else 0.0
        n += np.int64(both)
    return total, n


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"nnan", "nsz"})
def _limits(values):
    least, most = values[0], values[0]
    for i in range(values.shape[0]):
        least = min(least, values[i])
        most = max(most, values[i])
    return least, most


@njit(nogil=True, cache=True, error_model="numpy")
def _mean_density(values, most):
    """Mean of -log10 of the values, those below the floor raised to it."""
    group = _PER_LOGARITHM if most < 1e18 else 1  # the logarithm of a product: it is what takes the time
    total = 0.0
    for i in range(0, values.shape[0], group):
        product = 1.0
        for k in range(i, min(i + group, values.shape[0])):
            product *= max(values[k], TRANSMISSION_FLOOR)
        total -= math.log10(product)
    return total / values.shape[0]


@njit(nogil=True, cache=True, error_model="numpy")
def _quantiles(values, least, most, bucket, picked, out):
    """10 %, 50 % and 90 % quantile, linear between ranks; buckets only tell where to look."""
    n = values.shape[0]
    out[:] = least
    if not most > least:
        return
    count = np.zeros(_BUCKETS, dtype=np.int32)
    scale = (_BUCKETS - 1) / (most - least)
    for i in range(n):
        bucket[i] = np.uint8(np.int32((values[i] - least) * scale))
    for i in range(n):
        count[bucket[i]] += 1
    for q in range(3):
        place_exact = (0.1, 0.5, 0.9)[q] * (n - 1)
        place = np.int64(place_exact)
        part = place_exact - place
        below, low = 0, 0
        while below + count[low] <= place:
            below += count[low]
            low += 1
        high, upto = low, below + count[low]
        following_place = min(place + 1, n - 1)
        while upto <= following_place:
            high += 1
            upto += count[high]
        n_picked = 0
        for i in range(n):
            picked[n_picked] = values[i]
            n_picked += np.int64((bucket[i] >= low) & (bucket[i] <= high))
        ranked = np.partition(picked[:n_picked], place - below)
        value = ranked[place - below]
        following = np.min(ranked[following_place - below :])
        out[q] = value + (following - value) * part


@njit(nogil=True, cache=True, error_model="numpy")
def _count_pairs(level, rows, columns, pairs):
    """Count pairs of levels one pixel apart; pairs (4, _CODES²), a row for each direction, to count in parallel."""
    stride = columns + 2
    pairs[:] = 0
    east, south, south_east, south_west = pairs[0], pairs[1], pairs[2], pairs[3]
    for i in range(stride, (rows + 1) * stride):
        if level[i] != 0:
            own = np.int64(level[i]) * _CODES
            east[own + level[i + 1]] += 1
            south[own + level[i + stride]] += 1
            south_east[own + level[i + stride + 1]] += 1
            south_west[own + level[i + stride - 1]] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _measure_texture(level, rows, columns, least, most, out):
    """Haralick features of pixel pairs one pixel apart, both levels in least … most, four directions together."""
    pairs = np.empty((4, _CODES * _CODES), dtype=np.int32)
    _count_pairs(level, rows, columns, pairs)
    for i in range(_CODES * _CODES):
        pairs[0, i] += pairs[1, i] + pairs[2, i] + pairs[3, i]
    table = pairs[0]
    total, marginal, square, product, contrast, energy, homogeneity = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(least, most + 1):
        for j in range(i, most + 1):
            n = np.float64(table[i * _CODES + j] + table[j * _CODES + i])  # either order of the pair
            if n == 0:
                continue
            away = (i - j) * (i - j)
            times = 1.0 if i == j else 2.0
            total += times * n
            marginal += 0.5 * times * n * (i + j)
            square += 0.5 * times * n * (i * i + j * j)
            product += times * n * (i * j)
            contrast += times * n * away
            energy += times * n * n
            homogeneity += times * n / (1 + away)
    if total == 0:
        out[:] = np.nan
        return
    variance = total * square - marginal * marginal
    out[0] = contrast / total * _TEXTURE_STEP**2
    out[1] = (total * product - marginal * marginal) / variance if variance > 0 else 1.0
    out[2] = homogeneity / total
    out[3] = math.sqrt(energy) / total


@njit(nogil=True, cache=True, error_model="numpy")
def _find_levels(transmission, seen, out):
    """Texture levels of a row, from 1 on; 0 where not seen. In the image's own precision, which decides at a step."""
    step = transmission.dtype.type(_TEXTURE_STEP)
    highest = transmission.dtype.type(TEXTURE_LEVELS - 1)
    lowest = transmission.dtype.type(0)
    for c in range(transmission.shape[0]):
        value = (transmission[c] if seen[c] != 0 else lowest) / step
        value = value if value > lowest else lowest
        value = value if value < highest else highest
        out[c] = np.uint8(np.int32(value) + 1) if seen[c] != 0 else np.uint8(0)


@njit(nogil=True, cache=True, error_model="numpy")
def _measure_transmission(transmission, plane, seen, level, rows, columns, top, left, area, pixel, out):
    """Features of the transmission on `seen`, a plane of the mask's known pixels; out as in `measure_into`."""
    stride = columns + 2
    n_seen = 0
    for i in range(rows * stride):
        n_seen += np.int64(seen[stride + i])
    out[45] = 1 - n_seen / area
    if n_seen == 0:
        out[25:39] = np.nan
        return
    room = np.empty(2 * n_seen + columns + 1)
    values, picked = room[: n_seen + columns + 1], room[n_seen:]
    n = 0
    across, down, n_across, n_down = 0.0, 0.0, 0, 0
    for r in range(rows):
        at = (r + 1) * stride + 1
        row, use = transmission[top + r, left : left + columns], seen[at : at + columns]
        for c in range(columns):
            values[n] = row[c]
            n += np.int64(use[c])
        _find_levels(row, use, level[at : at + columns])
        more, pairs = _squared_steps(row[: columns - 1], row[1:], use[: columns - 1], use[1:])
        across += more
        n_across += pairs
        if r + 1 < rows:
            below = transmission[top + r + 1, left : left + columns]
            more, pairs = _squared_steps(row, below, use, seen[at + stride :][:columns])
            down += more
            n_down += pairs
    values = values[:n_seen]
    least, most = _limits(values)
    mean = _sum(values) / n_seen
    density = _mean_density(values, most)
    out[25] = mean
    out[26] = math.sqrt(_sum_of_squares(values, mean) / n_seen)
    out[27] = least
    out[28] = most
    out[32] = density
    out[33] = density * area * pixel**2
    squares = (across / n_across if n_across else 0.0) + (down / n_down if n_down else 0.0)
    out[34] = math.sqrt(squares) / pixel if n_across + n_down else np.nan

    lowest, highest = _CODES, 0
    for i in range(stride, (rows + 1) * stride):
        if level[i] != 0:
            lowest, highest = min(lowest, level[i]), max(highest, level[i])
    _measure_texture(level, rows, columns, lowest, highest, out[35:39])
    _quantiles(values, least, most, level, picked, out[29:32])  # the levels are not needed any more


# --- one cell --------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def measure_into(mask, transmission, known, pixel_um, out):
    """Write the features of a cell, in the order of ``features.FEATURES``; see ``features.measure_cell``.

    mask, known bool, transmission float32 or float64, all (rows, columns) and C-contiguous; the mask is not empty.
    pixel_um 1.0 gives pixels. out float64, as many elements as there are features.
    """
    top, bottom, left, right = _box(mask)
    rows, columns = bottom - top + 1, right - left + 1
    stride = columns + 2
    n = (rows + 2) * stride
    n_room = (n + 15) // 8 * 8
    room = np.zeros(4 * n_room, dtype=np.uint8)
    plane, seen, level, spare = room[:n_room], room[n_room:][:n_room], room[2 * n_room :][:n_room], room[3 * n_room :]
    for r in range(rows):
        at = (r + 1) * stride + 1
        row, use = mask[top + r, left : left + columns], known[top + r, left : left + columns]
        own, good = plane[at : at + columns], seen[at : at + columns]
        for c in range(columns):
            own[c] = np.uint8(row[c])
            good[c] = np.uint8(row[c]) & np.uint8(use[c])

    area, mean_row, mean_column, rr, rc, cc = _pixel_moments(plane, rows, columns)
    major, minor, angle = _axes(rr, rc, cc)
    out[0] = area * pixel_um**2
    out[1] = 2 * math.sqrt(area / math.pi) * pixel_um
    out[4] = _crofton_perimeter(plane, rows, columns, spare) * pixel_um
    out[9] = rows * pixel_um
    out[10] = columns * pixel_um
    out[11] = rows / columns
    out[12] = major * pixel_um
    out[13] = minor * pixel_um
    out[14] = angle
    out[23] = mean_row + top
    out[24] = mean_column + left
    _measure_outline(plane, rows, columns, spare, pixel_um, top, left, out)
    _measure_transmission(transmission, plane, seen, level, rows, columns, top, left, area, pixel_um, out)
    out[46] = 1.0 if top == 0 or left == 0 or bottom == mask.shape[0] - 1 or right == mask.shape[1] - 1 else 0.0


@njit(nogil=True, cache=True, error_model="numpy")
def measure_many(place, cells, labels, transmission, known, pixel_um, values):
    """`measure_into` for cells of images in flat arrays."""
    for i in range(cells.shape[0]):
        image, label = cells[i, 0], cells[i, 1]
        begin, rows, columns = place[image, 0], place[image, 1], place[image, 2]
        end = begin + rows * columns
        mask = (labels[begin:end] == label).reshape(rows, columns)
        measure_into(
            mask,
            transmission[begin:end].reshape(rows, columns),
            known[begin:end].reshape(rows, columns),
            pixel_um,
            values[i],
        )
