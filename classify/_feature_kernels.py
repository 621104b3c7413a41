"""Compiled kernels that measure a cell: arrays in, arrays out.

One module for all that call each other, so that the compiler's cache sees every change.

The cell's box lies in *planes*: flat arrays of its pixels with a border of one pixel in which there is nothing. The
border to the right of a row is that to the left of the next, so pixel (r, c) is element (r + 1) * stride + 1 + c, all
its neighbours are a fixed number of elements away, and most work is done in long loops over whole planes. What must
be done pixel by pixel follows the *runs*, the unbroken stretches of a row.
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
_LANE = 16  # boxes are widened to whole vectors of the processor where the image allows
_CHUNK = 64  # labels looked at together
_PIECE = 128  # elements whose sum fits a byte, and whose product a float
_MOST_FOR_PRODUCT = 200.0  # its 128th power is finite
_MANTISSAS = 1000  # the product of so many from 1 to 2 is finite

# Fourier sums over half the points, the other half folded onto them, for 1 to 8 turns; the first folds onto itself
_FREQUENCIES = 8
_HALF = OUTLINE_POINTS // 2
_turns = np.arange(1, _FREQUENCIES + 1)[:, None] * np.arange(_HALF) / OUTLINE_POINTS
_COSINE, _SINE = np.cos(2 * np.pi * _turns), np.sin(2 * np.pi * _turns)

# An outline follows the edges of pixels from corner to corner, the mask on its right hand, in the directions 0 along
# the columns, 1 along the rows, 2 and 3 back. The mask about a corner is a code: 4 for the pixel ahead in rows and
# columns, 8 for the one before in columns, 16 in rows, 32 in both. Code + direction of arrival leads to the direction
# of departure, and code + departure back. Pixels that share but a corner hang together: a turn to the left comes first.
_DIRECTIONS = np.array([[0, 1], [1, 0], [0, -1], [-1, 0]])
_AHEAD_LEFT, _AHEAD_RIGHT, _BEHIND_RIGHT, _BEHIND_LEFT = (16, 4, 8, 32), (4, 8, 32, 16), (8, 32, 16, 4), (32, 16, 4, 8)
_NEXT, _LAST = np.zeros((2, 64), dtype=np.uint8)
for _code in range(0, 64, 4):
    for _way in range(4):
        _left, _right = _code & _AHEAD_LEFT[_way], _code & _AHEAD_RIGHT[_way]
        _NEXT[_code + _way] = (_way + (-1 if _left else 0 if _right else 1)) % 4
        if _code & _BEHIND_RIGHT[_way] and not _code & _BEHIND_LEFT[_way]:
            _LAST[_code + _NEXT[_code + _way]] = _way
# rows, one more than they are lest a step be negative, and columns of these steps
_ROWS_ON, _COLUMNS_ON, _ROWS_BACK, _COLUMNS_BACK = (
    _DIRECTIONS[turned, axis] + 1 - axis for turned in (_NEXT, _LAST) for axis in (0, 1)
)
# ways between the middles of edges before and after a corner
_WAY_ON, _WAY_BACK = (np.where(turned == np.arange(64) % 4, 1.0, 0.5**0.5) for turned in (_NEXT, _LAST))

# A value's bucket is its texture level, from 1 on, times 128 and a finer division of that.
_FINE = 128
_OUTSIDE = 64  # more than any level
_NOWHERE = 97  # the level of what is not seen
_BUCKETS = (TEXTURE_LEVELS + 1) * _FINE
_COARSE = 64  # buckets counted together
_FEW = 24
_SHARES = (0.1, 0.5, 0.9)

# Texture levels of 2 x 2 pixels are counted together, as digits of how far they are from the first one's.
_DIGITS, _SQUARE, _CUBE = 8, 64, 512
_NO_STEP = 4  # the digit of no difference
_BASE = 128 - _DIGITS  # lest differences of unsigned bytes be negative
_TABLE = (TEXTURE_LEVELS + 1) * _CUBE
_MOST_PAIRS = (TEXTURE_LEVELS + _DIGITS + 1) ** 2


# --- room to work in -------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _width(columns, image_columns):
    """Columns of a box of so many, widened to whole lanes if the image has them."""
    wide = (columns + _LANE - 1) // _LANE * _LANE
    return wide if wide <= image_columns else image_columns


@njit(nogil=True, cache=True, error_model="numpy")
def feature_room(rows, columns, kind):
    """Work arrays for images of that type (an array of it), of up to so many rows and columns.

    Several threads need their own. Five planes of octets; int32 ends of runs and bounds of lines; int32 tables of
    counts; a plane of the image's type; two planes of uint16; float64 numbers.
    """
    n = _plane_size(rows, columns)
    return (
        np.empty(5 * n + columns, dtype=np.uint8),
        np.empty(rows * (columns + 6) + 2 * OUTLINE_POINTS, dtype=np.int32),
        np.zeros(_BUCKETS + _TABLE + _MOST_PAIRS, dtype=np.int32),
        np.empty(n, dtype=kind.dtype),
        np.empty(2 * n, dtype=np.uint16),
        np.empty(n // _PIECE + 8 * rows + 3 * OUTLINE_POINTS, dtype=np.float64),
    )


@njit(nogil=True, cache=True, error_model="numpy")
def _plane_size(rows, columns):
    return ((rows + 2) * (columns + 1) + 2 + 63) // 64 * 64


# --- the mask --------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _any_of(labels, label):
    """Whether one of `_CHUNK` labels is that one."""
    found = np.uint8(0)
    for i in range(_CHUNK):
        found |= np.uint8(labels[i] == label)
    return found != 0


@njit(nogil=True, cache=True, error_model="numpy")
def _box(labels, label, rows, columns, hits):
    """First and last row and column that hold a label, -1 if none does; hits uint8 (columns,) scratch."""
    first, last = 0, rows * columns
    while first + _CHUNK <= last and not _any_of(labels[first:][:_CHUNK], label):
        first += _CHUNK
    while first < last and labels[first] != label:
        first += 1
    if first == last:
        return -1, -1, -1, -1
    while last >= _CHUNK and not _any_of(labels[last - _CHUNK :][:_CHUNK], label):
        last -= _CHUNK
    while labels[last - 1] != label:
        last -= 1
    top, bottom = first // columns, (last - 1) // columns
    n = np.uint64(columns)
    hits[:columns] = 0
    for r in range(top, bottom + 1):
        at = np.uint64(r * columns)
        for c in range(n):
            hits[c] |= np.uint8(labels[at + c] == label)
    left, right = 0, columns - 1
    while hits[left] == 0:
        left += 1
    while hits[right] == 0:
        right -= 1
    return top, bottom, left, right


@njit(nogil=True, cache=True, error_model="numpy")
def _clear_lines(at, n, plane, seen, level, shown, buckets):
    """Nothing in n elements from one on."""
    plane[at : at + n] = 0
    seen[at : at + n] = 0
    level[at : at + n] = _NOWHERE
    shown[at : at + n] = np.nan
    buckets[at : at + n] = _NOWHERE * _FINE


@njit(nogil=True, cache=True, error_model="numpy")
def _fill_planes(
    labels, label, known, transmission, image_columns, top, left, rows, width, plane, seen, level, shown, buckets
):
    """Cut the box: the mask, what of it is seen, and texture level, transmission and bucket of that.

    Levels are told in the image's own precision, which decides at a step.
    """
    kind = transmission.dtype.type
    nothing, step, fine = kind(np.nan), kind(_TEXTURE_STEP), kind(_FINE)
    zero, most = kind(0), kind(TEXTURE_LEVELS * _FINE - 1)
    n, stride = np.uint64(width), width + 1
    _clear_lines(0, stride + 1, plane, seen, level, shown, buckets)
    for r in range(rows):
        source, at = np.uint64((top + r) * image_columns + left), np.uint64((r + 1) * stride + 1)
        for c in range(n):
            inside = np.uint8(labels[source + c] == label)
            good = inside & np.uint8(known[source + c])
            value = transmission[source + c]
            plane[at + c] = inside
            seen[at + c] = good
            shown[at + c] = value if good != 0 else nothing
            exact = value / step * fine
            exact = exact if exact > zero else zero
            exact = exact if exact < most else most
            bucket = np.int32(exact)
            buckets[at + c] = np.uint16(bucket + _FINE) if good != 0 else np.uint16(_NOWHERE * _FINE)
            level[at + c] = np.uint8((bucket >> 7) + 1) if good != 0 else np.uint8(_NOWHERE)
        plane[at + n] = 0
        seen[at + n] = 0
        level[at + n] = _NOWHERE
        shown[at + n] = nothing
        buckets[at + n] = _NOWHERE * _FINE
    _clear_lines((rows + 1) * stride + 1, stride + 1, plane, seen, level, shown, buckets)


@njit(nogil=True, cache=True, error_model="numpy")
def _positions(flags, n, out):
    """Which of the first n flags, uint8 0 or 1, are set; return how many.

    There is room for 7 more flags and one more position.
    """
    n_words = (n + 7) // 8
    for i in range(n, 8 * n_words):
        flags[i] = 0
    words = flags[: 8 * n_words].view(np.int64)
    found = np.uint64(0)
    for w in range(n_words):
        if words[w] != 0:
            begin = np.uint64(8 * w)
            for i in range(8):
                out[found] = begin + np.uint64(i)
                found += np.uint64(flags[begin + np.uint64(i)])
    return np.int64(found)


@njit(nogil=True, cache=True, error_model="numpy")
def _find_runs(plane, n, changes, runs):
    """First element of each run of ones in the first n elements of a plane, and the one after its last; how many runs.

    changes is a plane of scratch.
    """
    here, before, change = plane[1:n], plane[: n - 1], changes[1:n]
    for i in range(n - 1):
        change[i] = here[i] ^ before[i]
    changes[0] = 0
    return _positions(changes, n, runs) // 2


@njit(nogil=True, cache=True, error_model="numpy")
def _sum_of_squares_below(n):
    return (n - 1) * n * (2 * n - 1) // 6


@njit(nogil=True, cache=True, error_model="numpy")
def _pixel_moments(runs, n_runs, stride, rows, columns):
    """Area, mean row and column, and variance of the pixels: rows, rows with columns, columns."""
    # about the box's middle, in whole numbers, lest large coordinates cancel
    middle_row, middle_column = rows // 2, columns // 2
    n, sum_r, sum_c, sum_rr, sum_rc, sum_cc = 0, 0, 0, 0, 0, 0
    y = -middle_row
    begin = stride + 1  # of the row
    for k in range(n_runs):
        first, stop = np.int64(runs[2 * k]), np.int64(runs[2 * k + 1])
        while first >= begin + stride:
            begin += stride
            y += 1
        first -= begin + middle_column
        stop -= begin + middle_column
        length = stop - first
        along = (first + stop - 1) * length // 2
        n += length
        sum_r += length * y
        sum_rr += length * y * y
        sum_rc += along * y
        sum_c += along
        sum_cc += _sum_of_squares_below(stop) - _sum_of_squares_below(first)
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
def _sum_of_ands(first, second, n):
    """How often both are 1 among the first n, at most 255: the sum is a byte."""
    total = np.uint8(0)
    for i in range(n):
        total = np.uint8(total + (first[i] & second[i]))
    return np.int64(total)


@njit(nogil=True, cache=True, error_model="numpy")
def _count_neighbours(plane, offset, n):
    """How many of the first n elements are 1 and have a 1 so many elements further on."""
    total = 0
    n_whole = n // _PIECE * _PIECE
    for i in range(0, n_whole, _PIECE):
        total += _sum_of_ands(plane[i:][:_PIECE], plane[i + offset :][:_PIECE], _PIECE)
    return total + _sum_of_ands(plane[n_whole:], plane[n_whole + offset :], n - n_whole)


@njit(nogil=True, cache=True, error_model="numpy")
def _neighbours(plane, stride, rows):
    """Pairs of neighbouring ones: along the columns, along the rows, and along the two diagonals."""
    n = (rows + 1) * stride
    return (
        _count_neighbours(plane, 1, n),
        _count_neighbours(plane, stride, n),
        _count_neighbours(plane, stride + 1, n),
        _count_neighbours(plane, stride - 1, n),
    )


@njit(nogil=True, cache=True, error_model="numpy")
def _crofton_perimeter(area, across, down, diagonal, other):
    """Perimeter by Crofton's formula from the pixels and their pairs of neighbours in four directions.

    Lines of each direction enter the mask as often as a pixel has no neighbour before it (S. Rivollier, thesis,
    Saint-Etienne 2010; as in skimage.measure.perimeter_crofton).
    """
    straight, diagonals = 2 * area - across - down, 2 * area - diagonal - other
    return math.pi / 8 * (2 * straight + math.sqrt(2.0) * diagonals)


# --- the outline -----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _corner_codes(plane, stride, rows, codes):
    """Code of the four pixels about the upper left corner of each pixel, those beyond the last row and column too."""
    begin, n = stride + 1, (rows + 1) * stride
    own, west, north, north_west = plane[begin:][:n], plane[begin - 1 :][:n], plane[1:][:n], plane[:n]
    out = codes[begin:][:n]
    for i in range(n):
        out[i] = (own[i] << 2) | (west[i] << 3) | (north[i] << 4) | (north_west[i] << 5)


@njit(nogil=True, cache=True, error_model="numpy")
def _trace_single(codes, steps, back, corner, direction, n, path, travelled):
    """As `_trace`, from both ends at once, if there is but one outline, of n edges; return whether there is."""
    start, least, half = np.uint64(corner), steps[64], n // 2
    state, way, at = codes[corner] | np.uint8(direction), 0.0, start
    state_back, way_back, at_back = codes[corner] | _NEXT[state], 0.0, start
    again = False
    for i in range(half):
        path[i] = at
        travelled[i] = way
        at = at + steps[state] - least
        state = codes[at] | _NEXT[state]
        way += _WAY_ON[state]
        again |= at == start
        way_back -= _WAY_BACK[state_back]
        at_back = at_back + least - back[state_back]
        state_back = codes[at_back] | _LAST[state_back]
        path[n - 1 - i] = at_back
        travelled[n - 1 - i] = way_back
    if again or at != at_back or _NEXT[state] != state_back & 3:
        return False
    whole = way - way_back
    for i in range(half, n):
        travelled[i] += whole
    path[n] = start
    travelled[n] = whole
    return True


@njit(nogil=True, cache=True, error_model="numpy")
def _trace(codes, steps, corner, direction, path, travelled):
    """Corners of an outline from one on that is reached in a direction, to itself; return how many edges.

    travelled becomes the way from the middle of the edge after the first corner to that of the edge after each.
    """
    first_state = codes[corner] | np.uint8(direction)
    start, least = np.uint64(corner), steps[64]
    at, state, way, n = start, first_state, 0.0, 0
    while True:
        path[n] = at
        travelled[n] = way
        n += 1
        at = at + steps[state] - least
        state = codes[at] | _NEXT[state]
        way += _WAY_ON[state]
        if at == start and state == first_state:
            break
    path[n] = at
    travelled[n] = way
    return n


@njit(nogil=True, cache=True, error_model="numpy")
def _longest_outline(plane, codes, steps, stride, rows, untraced):
    """Last corner of the mask's longest outline in the order of rows, and the direction in which it is reached.

    Of equally long outlines the first, by their first corners, as skimage.measure.find_contours has it.
    """
    begin, n = stride + 1, rows * stride
    untraced[:begin] = 0
    for i in range(begin, begin + n):  # every outline has an edge above a pixel
        untraced[i] = plane[i] & (plane[i - stride] ^ 1)
    most, most_first, longest_corner, longest_direction = 0, 0, 0, 0
    for pixel in range(begin, begin + n):
        if untraced[pixel] == 0:
            continue
        at = pixel + 1
        first_state = np.int64(codes[at])
        state, length, first, last, last_direction = first_state, 0, at, -1, 0
        while True:
            first = min(first, at)
            if at > last:
                last, last_direction = at, state & 3
            if _NEXT[state] == 0:
                untraced[at] = 0
            length += 1
            at += steps[state] - stride
            state = np.int64(codes[at] | _NEXT[state])
            if at == pixel + 1 and state == first_state:
                break
        if length > most or (length == most and first < most_first):
            most, most_first, longest_corner, longest_direction = length, first, last, last_direction
    return longest_corner, longest_direction


@njit(nogil=True, cache=True, error_model="numpy")
def _place_outline(path, n, stride, middle_row, middle_column, corner_x, corner_y, inside_x, inside_y, half_x, half_y):
    """Coordinates along an outline of n edges, from the box's middle: pixels along it, and the middles of its edges.

    All float64 (n + 1,), the first point repeated at the end; those of the corners are scratch.
    """
    row_of = 1.0 / stride
    x, y = corner_x[: n + 1], corner_y[: n + 1]
    for i in range(n + 1):
        element = path[i] - (stride + 1)
        row = np.int32((element + 0.5) * row_of)
        x[i] = row - middle_row
        y[i] = element - row * stride - middle_column
    next_x, next_y = x[1:], y[1:]
    for i in range(n):
        down, along = next_x[i] - x[i], next_y[i] - y[i]
        half_x[i] = x[i] - 0.5 + 0.5 * down
        half_y[i] = y[i] - 0.5 + 0.5 * along
        inside_x[i] = x[i] - 0.5 + 0.5 * down + 0.5 * along
        inside_y[i] = y[i] - 0.5 + 0.5 * along - 0.5 * down
    inside_x[n], inside_y[n], half_x[n], half_y[n] = inside_x[0], inside_y[0], half_x[0], half_y[0]


# Sums in any order: several at once, and more exact than one by one. Sums of a lattice's coordinates are exact.
@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _signed_area(x, y):
    ahead_x, ahead_y = x[1:], y[1:]
    total = 0.0
    for i in range(ahead_x.shape[0]):
        total += x[i] * ahead_y[i] - ahead_x[i] * y[i]
    return total / 2


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _length(x, y):
    ahead_x, ahead_y = x[1:], y[1:]
    total = 0.0
    for i in range(ahead_x.shape[0]):
        step_x, step_y = ahead_x[i] - x[i], ahead_y[i] - y[i]
        total += math.sqrt(step_x * step_x + step_y * step_y)
    return total


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _polygon_sums(x, y):
    ahead_x, ahead_y = x[1:], y[1:]
    area, centre_x, centre_y, xx, xy, yy = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(ahead_x.shape[0]):
        ax, ay, bx, by = x[i], y[i], ahead_x[i], ahead_y[i]
        cross = ax * by - bx * ay
        area += cross
        centre_x += cross * (ax + bx)
        centre_y += cross * (ay + by)
        xx += cross * (ax * ax + ax * bx + bx * bx)
        yy += cross * (ay * ay + ay * by + by * by)
        xy += cross * (ax * by + 2 * ax * ay + 2 * bx * by + bx * ay)
    return area, centre_x, centre_y, xx, xy, yy


@njit(nogil=True, cache=True, error_model="numpy")
def _polygon_moments(x, y):
    """Area, centroid x and y, and central second moments xx, xy, yy of a polygon, by Green's theorem.

    x, y (points + 1,): the first point is repeated at the end; the origin is near the centroid, lest large
    coordinates cancel.
    """
    area, centre_x, centre_y, xx, xy, yy = _polygon_sums(x, y)
    area /= 2
    centre_x /= 6 * area
    centre_y /= 6 * area
    sign = 1.0 if area > 0 else -1.0
    xx = sign * (xx / 12 - area * centre_x * centre_x)
    yy = sign * (yy / 12 - area * centre_y * centre_y)
    xy = sign * (xy / 24 - area * centre_x * centre_y)
    return abs(area), centre_x, centre_y, xx, xy, yy


@njit(nogil=True, cache=True, error_model="numpy")
def _bounds_of_runs(runs, n_runs, stride, middle_column, low, high):
    """First and last column of each row, from the box's middle."""
    begin, row, before = stride + 1, 0, -1
    for k in range(n_runs):
        first, stop = np.int64(runs[2 * k]), np.int64(runs[2 * k + 1])
        while first >= begin + stride:
            begin += stride
            row += 1
        if row != before:
            low[row] = first - begin - middle_column
            before = row
        high[row] = stop - 1 - begin - middle_column


@njit(nogil=True, cache=True, error_model="numpy")
def _bounds_of_points(x, y, n, per_pixel, first, low, high):
    """Least and greatest per_pixel * y of n points with the same per_pixel * x; the latter from the line `first` on."""
    low[:] = 1 << 30
    high[:] = -(1 << 30)
    for i in range(n):
        k, at = np.int64(per_pixel * x[i]) + first, np.int32(per_pixel * y[i])
        low[k] = min(low[k], at)
        high[k] = max(high[k], at)


@njit(nogil=True, cache=True, error_model="numpy")
def _convex_hull(low, high, per_pixel, first, hull):
    """Corners of the hull of lines of points, their coordinates multiplied by per_pixel; return how many.

    Lines without points have low > high. hull (2, …) gets the first corner once more at the end.
    """
    n_lines = low.shape[0]
    hull_x, hull_y = hull[0], hull[1]
    scale = 1.0 / per_pixel
    n_hull = 0
    for side in range(2):  # its lower columns downwards, then its upper ones back
        base = n_hull
        for step in range(n_lines):
            k = step if side == 0 else n_lines - 1 - step
            if low[k] > high[k]:
                continue
            at_x = scale * (k - first)
            at_y = scale * (low[k] if side == 0 else high[k])
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
    hull_x[n_hull], hull_y[n_hull] = hull_x[0], hull_y[0]
    return n_hull


@njit(nogil=True, cache=True, error_model="numpy")
def _feret_diameters(x, y, n):
    """Greatest and least extent of a convex polygon of n corners, counter-clockwise, the first there again at the end.

    Its calipers turn around it: the least extent stands on an edge, the greatest joins corners opposite each other.
    """
    greatest, least, k = 0.0, np.inf, 1
    for i in range(n):
        dx, dy = x[i + 1] - x[i], y[i + 1] - y[i]
        far = dx * (y[k] - y[i]) - dy * (x[k] - x[i])
        while True:
            greatest = max(greatest, (x[k] - x[i]) ** 2 + (y[k] - y[i]) ** 2)
            greatest = max(greatest, (x[k] - x[i + 1]) ** 2 + (y[k] - y[i + 1]) ** 2)
            after = k + 1 if k + 1 < n else 0
            farther = dx * (y[after] - y[i]) - dy * (x[after] - x[i])
            if farther < far:
                break
            k, far = after, farther
        least = min(least, far / math.sqrt(dx * dx + dy * dy))
    return math.sqrt(greatest), least


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _revolved_volume(x, y, axis_y):
    """Volume of an outline revolved about the line y = axis_y: mean of what either side gives.

    Each edge sweeps a truncated cone; the part beyond the axis is clamped to it, point by point.
    """
    ahead_x, ahead_y = x[1:], y[1:]
    above, below = 0.0, 0.0
    for i in range(ahead_x.shape[0]):
        step, here, there = ahead_x[i] - x[i], y[i] - axis_y, ahead_y[i] - axis_y
        r, r_next = max(here, 0.0), max(there, 0.0)
        above += step * (r * r + r * r_next + r_next * r_next)
        r, r_next = max(-here, 0.0), max(-there, 0.0)
        below += step * (r * r + r * r_next + r_next * r_next)
    return math.pi / 3 * abs(above - below) / 2


@njit(nogil=True, cache=True, error_model="numpy")
def _resample(x, y, travelled, n, edges, even_x, even_y):
    """Points evenly spaced along a closed path of n steps; travelled is the way to each point; edges int32 scratch."""
    spacing = travelled[n] / OUTLINE_POINTS
    per_spacing = 1 / spacing
    edges[:OUTLINE_POINTS] = 0
    for i in range(n):  # the last step that begins no later
        j = np.int64(math.ceil(travelled[i] * per_spacing))
        if j < OUTLINE_POINTS:
            edges[j] = i
    last = 0
    for j in range(OUTLINE_POINTS):
        last = max(last, edges[j])
        part = (j * spacing - travelled[last]) / (travelled[last + 1] - travelled[last])
        even_x[j] = x[last] + part * (x[last + 1] - x[last])
        even_y[j] = y[last] + part * (y[last + 1] - y[last])


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _folded_sums(at_x, at_y, cosine, sine):
    """Fourier sums of points of which sums and differences of opposite ones are at 1 … and, backwards, … -1."""
    x_cosine, x_sine, y_cosine, y_sine = 0.0, 0.0, 0.0, 0.0
    for j in range(1, _HALF):
        x_cosine += at_x[j] * cosine[j]
        y_cosine += at_y[j] * cosine[j]
        x_sine += at_x[OUTLINE_POINTS - j] * sine[j]
        y_sine += at_y[OUTLINE_POINTS - j] * sine[j]
    return x_cosine, x_sine, y_cosine, y_sine


@njit(nogil=True, cache=True, error_model="numpy")
def _lobes(x, y, travelled, n, numbers, edges, out):
    """Amplitude of 2 to 7 lobes: Fourier descriptors, invariant to place, size, angle and starting point.

    An outline of radius R (1 + e cos n phi), sampled evenly along its length, has beside the circle itself,
    coefficient 1, only the coefficients 1 + n and 1 - n: to first order in e, R e (n - 1) / 2n and
    R e (n + 1) / 2n. Their sum over the circle's is e. numbers float64 and edges int32 are scratch.
    """
    at_x, at_y = numbers[:OUTLINE_POINTS], numbers[OUTLINE_POINTS : 2 * OUTLINE_POINTS]
    _resample(x, y, travelled, n, edges, at_x, at_y)
    x_middle, y_middle, x_start, y_start = at_x[_HALF], at_y[_HALF], at_x[0], at_y[0]
    for j in range(1, _HALF):
        other = OUTLINE_POINTS - j
        at_x[j], at_x[other] = at_x[j] + at_x[other], at_x[j] - at_x[other]
        at_y[j], at_y[other] = at_y[j] + at_y[other], at_y[j] - at_y[other]
    sums = numbers[2 * OUTLINE_POINTS :]
    onward, back = sums[:_FREQUENCIES], sums[_FREQUENCIES : 2 * _FREQUENCIES]
    # of so many turns in the outline's sense, or against it
    sense = 1.0 if _signed_area(x[: n + 1], y[: n + 1]) >= 0 else -1.0
    for k in range(_FREQUENCIES):
        x_cosine, x_sine, y_cosine, y_sine = _folded_sums(at_x, at_y, _COSINE[k], _SINE[k])
        sign = 2 * (k & 1) - 1
        x_cosine += x_start + sign * x_middle
        y_cosine += y_start + sign * y_middle
        real, imaginary = x_cosine + sense * y_sine, sense * y_cosine - x_sine
        onward[k] = math.sqrt(real * real + imaginary * imaginary)
        real, imaginary = x_cosine - sense * y_sine, sense * y_cosine + x_sine
        back[k] = math.sqrt(real * real + imaginary * imaginary)
    for lobes in range(2, 8):
        out[lobes - 2] = (onward[lobes] + back[lobes - 2]) / onward[0]


@njit(nogil=True, cache=True, error_model="numpy")
def _measure_outline(
    plane, codes, untraced, runs, n_runs, n_edges, rows, width, pixel, top, left, integers, numbers, out
):
    """Features of the longest outline and its convex hull; out as in `measure_into`.

    n_edges is how many edges lie between the mask and what is not; integers and numbers are scratch.
    """
    stride, middle_row, middle_column = width + 1, rows // 2, width // 2
    steps, back = np.empty(65, dtype=np.int64), np.empty(64, dtype=np.int64)
    for k in range(64):
        steps[k] = _ROWS_ON[k] * stride + _COLUMNS_ON[k]
        back[k] = _ROWS_BACK[k] * stride + _COLUMNS_BACK[k]
    steps[64] = stride
    _corner_codes(plane, stride, rows, codes)
    path, places = np.empty(n_edges + 1, dtype=np.int32), np.empty((7, n_edges + 1))
    travelled = places[0]
    n = n_edges
    last_corner = runs[2 * n_runs - 1] + stride  # lower right of the last pixel
    single = _trace_single(codes, steps.view(np.uint64), back.view(np.uint64), last_corner, 1, n, path, travelled)
    if not single:
        corner, direction = _longest_outline(plane, codes, steps, stride, rows, untraced)
        n = _trace(codes, steps.view(np.uint64), corner, direction, path, travelled)
    x, y, half_x, half_y = places[3, : n + 1], places[4, : n + 1], places[5, : n + 1], places[6, : n + 1]
    _place_outline(path, n, stride, middle_row, middle_column, places[1], places[2], x, y, half_x, half_y)
    hull = numbers[: 2 * (4 * rows + 4)].reshape(2, 4 * rows + 4)
    beyond = 1.0  # half a pixel at either end, from a pixel's centre to its edge
    if abs(_signed_area(x, y)) < 0.25:  # areas of lattice polygons are multiples of 1/2
        x, y, beyond = half_x, half_y, 0.0
        low, high, first = integers[: 2 * rows + 1], integers[2 * rows + 1 :][: 2 * rows + 1], 2 * middle_row + 1
        _bounds_of_points(x, y, n, 2, first, low, high)
        n_hull = _convex_hull(low, high, 2, first, hull)
    else:
        low, high = integers[:rows], integers[rows:][:rows]
        if single:
            _bounds_of_runs(runs, n_runs, stride, middle_column, low, high)
        else:
            _bounds_of_points(x, y, n, 1, middle_row, low, high)
        n_hull = _convex_hull(low, high, 1, middle_row, hull)
    hull_x, hull_y = hull[0, : n_hull + 1], hull[1, : n_hull + 1]
    area, _, _, mu_xx, mu_xy, mu_yy = _polygon_moments(x, y)
    hull_area, centre_x, centre_y, hull_xx, _, hull_yy = _polygon_moments(hull_x, hull_y)
    split = math.hypot(mu_xx - mu_yy, 2 * mu_xy)
    principal = (mu_xx + mu_yy + split) / (mu_xx + mu_yy - split)
    circularity = 2 * math.sqrt(math.pi * hull_area) / _length(hull_x, hull_y)
    out[2] = area * pixel**2
    out[3] = hull_area * pixel**2
    out[5] = _length(x, y) * pixel
    out[6] = circularity
    out[7] = 1 - circularity
    out[8] = area / hull_area
    out[15] = abs(0.5 * math.atan2(2 * mu_xy, mu_xx - mu_yy))
    out[16] = math.sqrt(1 - 1 / principal)
    out[17] = math.sqrt(mu_xx / mu_yy)
    out[18] = math.sqrt(hull_xx / hull_yy)
    out[19] = math.sqrt(principal)
    out[20] = _revolved_volume(x, y, centre_y) * pixel**3
    out[21] = (centre_x + middle_row + top) * pixel
    out[22] = (centre_y + middle_column + left) * pixel
    greatest, least = _feret_diameters(hull_x, hull_y, n_hull)
    out[47] = (greatest + beyond) * pixel
    out[48] = (least + beyond) * pixel
    _lobes(half_x, half_y, travelled, n, numbers, integers, out[39:45])  # the hull is lost: it was scratch


# --- transmission ----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _sums_of_piece(shown, n, origin):
    """Sums of the differences from the origin, and of their squares; product of the values, raised to the floor."""
    total, squares, product = 0.0, 0.0, 1.0
    exact = np.float64(origin)
    for i in range(n):
        value = shown[i]
        value = value if value == value else origin
        from_origin = np.float64(value) - exact
        total += from_origin
        squares += from_origin * from_origin
        product *= max(np.float64(value), TRANSMISSION_FLOOR)
    return total, squares, product


@njit(nogil=True, cache=True, error_model="numpy")
def _brightness(shown, origin, n_seen, most, products):
    """Sum of the differences from the origin, one of the values, and of their squares, and mean optical density.

    shown is NaN where not seen; products is scratch.
    """
    n, total, squares, logarithms = shown.shape[0], 0.0, 0.0, 0.0
    if most < _MOST_FOR_PRODUCT:
        n_pieces = (n + _PIECE - 1) // _PIECE
        for i in range(n // _PIECE):
            more, more_squares, products[i] = _sums_of_piece(shown[i * _PIECE :], _PIECE, origin)
            total += more
            squares += more_squares
        rest = n // _PIECE * _PIECE
        if rest < n:
            more, more_squares, products[n_pieces - 1] = _sums_of_piece(shown[rest:], n - rest, origin)
            total += more
            squares += more_squares
        logarithms = _sum_of_logarithms(products[:n_pieces])
    else:
        for i in range(n):
            more, more_squares, value = _sums_of_piece(shown[i:], 1, origin)
            total += more
            squares += more_squares
            logarithms += math.log10(value)
    logarithms -= (n - n_seen) * math.log10(max(np.float64(origin), TRANSMISSION_FLOOR))
    return total, squares, -logarithms / n_seen


@njit(nogil=True, cache=True, error_model="numpy")
def _sum_of_logarithms(products):
    """Sum of the decimal logarithms of what is overwritten: their exponents, and the logarithm of many mantissas."""
    n = products.shape[0]
    bits = products.view(np.int64)
    exponents, total = 0, 0.0
    for i in range(n):
        exponents += (bits[i] >> 52) - 1023
        bits[i] = (bits[i] & ((1 << 52) - 1)) | (1023 << 52)
    for i in range(0, n, _MANTISSAS):
        mantissa = 1.0
        for k in range(i, min(i + _MANTISSAS, n)):
            mantissa *= products[k]
        total += math.log10(mantissa)
    return total + exponents * math.log10(2.0)


@njit(nogil=True, cache=True, forceinline=True, error_model="numpy", fastmath={"reassoc", "contract"})
def _squared_steps(shown, stride, n):
    """Sum of squared differences from the next element, and from that a row further on, where both are seen."""
    here, after, below = shown[:n], shown[1:][:n], shown[stride:][:n]
    across, down = 0.0, 0.0
    nothing = shown.dtype.type(0)
    for i in range(n):
        step, drop = after[i] - here[i], below[i] - here[i]
        step = step if step == step else nothing
        drop = drop if drop == drop else nothing
        across += np.float64(step) * np.float64(step)
        down += np.float64(drop) * np.float64(drop)
    return across, down


@njit(nogil=True, cache=True, error_model="numpy")
def _count_along(codes, others, runs, n_runs, counts, other_counts):
    """Count how often each of two kinds of codes, uint16, occurs within the runs.

    Halves of a run and both kinds at once: one count at a time would wait for the one before.
    """
    for k in range(n_runs):
        first, stop = np.int64(runs[2 * k]), np.int64(runs[2 * k + 1])
        n = (stop - first) // 2
        a, b, c, d = codes[first:][:n], others[first:][:n], codes[first + n :][:n], others[first + n :][:n]
        for i in range(n):
            counts[a[i]] += 1
            other_counts[b[i]] += 1
            counts[c[i]] += 1
            other_counts[d[i]] += 1
        if (stop - first) & 1:
            counts[codes[stop - 1]] += 1
            other_counts[others[stop - 1]] += 1


# --- quantiles -------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _quantiles(values, buckets, counts, n_seen, flags, out):
    """Least and greatest value, 10 %, 50 % and 90 % quantile, linear between ranks; return first and last bucket.

    Buckets, of which there are so many counts, tell where to look; flags, a plane, is scratch.
    """
    n = values.shape[0]
    coarse = np.empty(_BUCKETS // _COARSE, dtype=np.int32)
    ranges, below = np.empty((5, 2), dtype=np.int64), np.empty(5, dtype=np.int64)
    for k in range(_BUCKETS // _COARSE):
        fine = counts[k * _COARSE :][:_COARSE]
        total = np.int32(0)
        for i in range(_COARSE):
            total = np.int32(total + fine[i])
        coarse[k] = total
    n_near = 0
    for q in range(5):
        place, following, _ = _ranks(q, n_seen)
        ranges[q, 0], ranges[q, 1], below[q], upto = _buckets_of_ranks(counts, coarse, place, following)
        n_near += upto - below[q]
    _flag_ranges(buckets, n, ranges, flags)
    near = np.empty(n_near + 1, dtype=np.int32)
    n_near = _positions(flags, n, near)
    picked = np.empty(n_near)
    for q in range(5):
        n_picked = 0
        for k in range(n_near):
            i = near[k]
            if ranges[q, 0] <= buckets[i] <= ranges[q, 1]:
                picked[n_picked] = values[i]
                n_picked += 1
        ranked = picked[:n_picked]
        if n_picked > _FEW:
            ranked = np.sort(ranked)
        else:
            _sort_few(ranked)
        place, following, part = _ranks(q, n_seen)
        value = ranked[place - below[q]]
        out[q] = value + (ranked[following - below[q]] - value) * part
    return ranges[0, 0], ranges[1, 0]


@njit(nogil=True, cache=True, error_model="numpy")
def _ranks(q, n):
    """The two ranks between which one of the five lies, and where: least, greatest, quantiles."""
    if q == 0:
        return 0, 0, 0.0
    if q == 1:
        return n - 1, n - 1, 0.0
    exact = _SHARES[q - 2] * (n - 1)
    place = np.int64(exact)
    return place, min(place + 1, n - 1), exact - place


@njit(nogil=True, cache=True, error_model="numpy")
def _buckets_of_ranks(counts, coarse, place, following):
    """Buckets that hold two ranks, and how many values lie below the first and up to the second."""
    low, below = 0, 0
    while below + coarse[low] <= place:
        below += coarse[low]
        low += 1
    low *= _COARSE
    while below + counts[low] <= place:
        below += counts[low]
        low += 1
    high, upto = low, below + counts[low]
    while upto <= following:
        high += 1
        upto += counts[high]
    return low, high, below, upto


@njit(nogil=True, cache=True, error_model="numpy")
def _flag_ranges(buckets, n, ranges, flags):
    """Flag the elements whose bucket lies within one of five ranges, the first two of one bucket each."""
    least, most = np.uint16(ranges[0, 0]), np.uint16(ranges[1, 0])
    a, b = np.uint16(ranges[2, 0]), np.uint16(ranges[2, 1])
    c, d = np.uint16(ranges[3, 0]), np.uint16(ranges[3, 1])
    e, f = np.uint16(ranges[4, 0]), np.uint16(ranges[4, 1])
    for i in range(n):
        x = buckets[i]
        flags[i] = np.uint8(
            (x == least) | (x == most) | ((x >= a) & (x <= b)) | ((x >= c) & (x <= d)) | ((x >= e) & (x <= f))
        )


@njit(nogil=True, cache=True, error_model="numpy")
def _sort_few(values):
    for i in range(1, values.shape[0]):
        value, k = values[i], i
        while k > 0 and values[k - 1] > value:
            values[k] = values[k - 1]
            k -= 1
        values[k] = value


# --- texture ---------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _square_codes(level, stride, n, codes):
    """Code of each pixel, the next, and the two below them: level, and how far the other three are from it.

    A code is 512 times the level, 64 times the digit of the pixel across, 8 times that of the next, and that of the
    one below: 4 is no difference, 0 a pixel not seen. 0 in all where one is more than 3 levels away.
    """
    own, after, below, across = level[:n], level[1:][:n], level[stride:][:n], level[stride + 1 :][:n]
    for i in range(n):
        base = np.uint8(_BASE + _NO_STEP - own[i])
        a, b, c = np.uint8(after[i] + base), np.uint8(below[i] + base), np.uint8(across[i] + base)
        a = np.uint8(a - _BASE) if a > _BASE else np.uint8(0)
        b = np.uint8(b - _BASE) if b > _BASE else np.uint8(0)
        c = np.uint8(c - _BASE) if c > _BASE else np.uint8(0)
        near = (
            ((a > 0) & ((a < _DIGITS) | (a > TEXTURE_LEVELS + _DIGITS)))
            & ((b > 0) & ((b < _DIGITS) | (b > TEXTURE_LEVELS + _DIGITS)))
            & ((c > 0) & ((c < _DIGITS) | (c > TEXTURE_LEVELS + _DIGITS)))
        )
        a, b, c = np.uint8(a if a < 8 else 0), np.uint8(b if b < 8 else 0), np.uint8(c if c < 8 else 0)
        code = (np.uint16(own[i]) << 9) | (np.uint16(c) << 6) | np.uint16(np.uint8(a << 3) | b)
        codes[i] = code if near | (own[i] > _OUTSIDE) else np.uint16(0)


@njit(nogil=True, cache=True, error_model="numpy")
def _add_near_pairs(counts, lowest, n_levels, width, pairs):
    """Pairs of levels from the counts of codes; pairs (width, width) flat, the level `lowest` at `_NO_STEP`."""
    both, digits = np.empty(_SQUARE, dtype=np.int32), np.empty(_DIGITS, dtype=np.int32)
    for level in range(n_levels):
        cube = counts[(lowest + level) * _CUBE :][:_CUBE]
        for c in range(_DIGITS):
            square = cube[c * _SQUARE :][:_SQUARE]
            total = np.int32(0)
            for i in range(_SQUARE):
                total = np.int32(total + square[i])
            digits[c] = total
        a, b, c, d = cube[:64], cube[64:128], cube[128:192], cube[192:256]
        e, f, g, h = cube[256:320], cube[320:384], cube[384:448], cube[448:512]
        for i in range(_SQUARE):
            both[i] = a[i] + b[i] + c[i] + d[i] + e[i] + f[i] + g[i] + h[i]
        for k in range(_DIGITS):
            total = np.int32(0)
            for i in range(_DIGITS):
                total = np.int32(total + both[_DIGITS * k + i])
            digits[k] += total
            both[_DIGITS * k] = 0  # not seen
        for k in range(_DIGITS):
            total = np.int32(0)
            for i in range(_DIGITS):
                total = np.int32(total + both[_DIGITS * i + k])
            digits[k] += total
        digits[0] = 0
        own = pairs[(level + _NO_STEP) * width + level :][:_DIGITS]
        for i in range(_DIGITS):
            own[i] += digits[i]
        for k in range(1, _DIGITS):  # of the next pixel and the one below
            row, more = pairs[(level + k) * width + level :][:_DIGITS], both[_DIGITS * k :][:_DIGITS]
            for i in range(_DIGITS):
                row[i] += more[i]


@njit(nogil=True, cache=True, error_model="numpy")
def _add_far_pairs(level, stride, codes, n, n_far, flags, shift, width, pairs):
    """Pairs of levels about the n_far pixels that are far from a neighbour, their code 0."""
    for i in range(n):
        flags[i] = np.uint8(codes[i] == 0)
    far = np.empty(n_far + 1, dtype=np.int32)
    for k in range(_positions(flags, n, far)):
        i = far[k]
        own, after, below = np.int64(level[i]), np.int64(level[i + 1]), np.int64(level[i + stride])
        _add_pair(own, after, shift, width, pairs)
        _add_pair(own, below, shift, width, pairs)
        _add_pair(own, np.int64(level[i + stride + 1]), shift, width, pairs)
        _add_pair(after, below, shift, width, pairs)


@njit(nogil=True, cache=True, error_model="numpy")
def _add_pair(first, second, shift, width, pairs):
    if first < _OUTSIDE and second < _OUTSIDE:
        pairs[(first + shift) * width + second + shift] += 1


@njit(nogil=True, cache=True, error_model="numpy")
def _measure_texture(level, stride, n, runs, n_runs, lowest, n_levels, codes, counts, pairs, flags, out):
    """Haralick features of pixel pairs one pixel apart, four directions together, from the counts of codes.

    pairs int32 (_MOST_PAIRS,) and flags, a plane of uint8, are scratch.
    """
    width = n_levels + _DIGITS  # with room about it: the level `lowest` is at 4
    pairs[: width * width] = 0
    _add_near_pairs(counts, lowest, n_levels, width, pairs)
    shift = _NO_STEP - lowest
    if counts[0] > 0:
        _add_far_pairs(level, stride, codes, n, counts[0], flags, shift, width, pairs)
    for k in range(n_runs):  # the first pixel of a square may not be seen, but the next and the one below
        first = runs[2 * k]
        _add_pair(np.int64(level[first]), np.int64(level[first - 1 + stride]), shift, width, pairs)
    total, marginal, square, product, contrast, energy, homogeneity = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(n_levels):
        for j in range(i, n_levels):
            a, b = i + _NO_STEP, j + _NO_STEP
            n_both = np.float64(pairs[a * width + b] + pairs[b * width + a])  # either order of the pair
            if n_both == 0:
                continue
            away = (i - j) * (i - j)
            times = 1.0 if i == j else 2.0
            total += times * n_both
            marginal += 0.5 * times * n_both * (i + j)
            square += 0.5 * times * n_both * (i * i + j * j)
            product += times * n_both * (i * j)
            contrast += times * n_both * away
            energy += times * n_both * n_both
            homogeneity += times * n_both / (1 + away)
    if total == 0:
        out[:] = np.nan
        return
    variance = total * square - marginal * marginal
    out[0] = contrast / total * _TEXTURE_STEP**2
    out[1] = (total * product - marginal * marginal) / variance if variance > 0 else 1.0
    out[2] = homogeneity / total
    out[3] = math.sqrt(energy) / total


# --- transmission ----------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _measure_transmission(
    shown,
    buckets,
    level,
    flags,
    codes,
    tables,
    numbers,
    stride,
    rows,
    runs,
    n_runs,
    n_seen,
    across,
    down,
    area,
    pixel,
    out,
):
    """Features of the transmission where it is seen; out as in `measure_into`.

    runs are those of what is seen, of which n_seen pixels have so many neighbours across and down; flags, codes and
    numbers are scratch. So are tables, 0 before and after but for the last `_MOST_PAIRS`: they are large, and little
    of them is used.
    """
    out[45] = 1 - n_seen / area
    if n_seen == 0:
        out[25:39] = np.nan
        return
    n = (rows + 1) * stride
    values = shown[:n]
    counts, code_counts = tables[:_BUCKETS], tables[_BUCKETS : _BUCKETS + _TABLE]
    _square_codes(level, stride, n, codes)
    _count_along(buckets, codes, runs, n_runs, counts, code_counts)
    first, last = _quantiles(values, buckets, counts, n_seen, flags, out[27:32])
    lowest, highest = first // _FINE, last // _FINE
    pairs = tables[_BUCKETS + _TABLE :]
    _measure_texture(
        level, stride, n, runs, n_runs, lowest, highest - lowest + 1, codes, code_counts, pairs, flags, out[35:39]
    )
    counts[first : last + 1] = 0
    code_counts[0] = 0
    code_counts[lowest * _CUBE : (highest + 1) * _CUBE] = 0
    origin = shown[runs[0]]
    total, squares, density = _brightness(values, origin, n_seen, out[28], numbers)
    mean = total / n_seen
    out[25] = origin + mean
    out[26] = math.sqrt(max(squares / n_seen - mean * mean, 0.0))
    out[32] = density
    out[33] = density * area * pixel**2
    steps, drops = _squared_steps(shown, stride, n)
    slope = (steps / across if across else 0.0) + (drops / down if down else 0.0)
    out[34] = math.sqrt(slope) / pixel if across + down else np.nan


# --- one cell, many cells --------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _measure(labels, label, box, transmission, known, image_rows, image_columns, pixel_um, room, out):
    """Features of the cell of a label; labels, transmission and known are flat, room is from `feature_room`.

    box: the cell's first and last row, first and last column.
    """
    octets, integers, tables, shown, words, numbers = room
    n_room = shown.shape[0]
    plane, seen, codes = octets[:n_room], octets[n_room : 2 * n_room], octets[2 * n_room : 3 * n_room]
    level, spare = octets[3 * n_room : 4 * n_room], octets[4 * n_room :]
    buckets, squares = words[:n_room], words[n_room:]
    top, bottom, left, right = box
    rows, columns = bottom - top + 1, right - left + 1
    width = _width(columns, image_columns)
    begin = min(left, image_columns - width)
    stride = width + 1
    n = (rows + 1) * stride + 1
    _fill_planes(
        labels, label, known, transmission, image_columns, top, begin, rows, width, plane, seen, level, shown, buckets
    )
    runs = integers[4 * rows + OUTLINE_POINTS :]
    n_runs = _find_runs(plane, n, codes, runs)
    area, mean_row, mean_column, rr, rc, cc = _pixel_moments(runs, n_runs, stride, rows, width)
    across, down, diagonal, other = _neighbours(plane, stride, rows)
    major, minor, angle = _axes(rr, rc, cc)
    out[0] = area * pixel_um**2
    out[1] = 2 * math.sqrt(area / math.pi) * pixel_um
    out[4] = _crofton_perimeter(area, across, down, diagonal, other) * pixel_um
    out[9] = rows * pixel_um
    out[10] = columns * pixel_um
    out[11] = rows / columns
    out[12] = major * pixel_um
    out[13] = minor * pixel_um
    out[14] = angle
    out[23] = mean_row + top
    out[24] = mean_column + begin
    out[46] = 1.0 if top == 0 or left == 0 or bottom == image_rows - 1 or right == image_columns - 1 else 0.0
    n_edges = 4 * area - 2 * (across + down)
    _measure_outline(
        plane, codes, spare, runs, n_runs, n_edges, rows, width, pixel_um, top, begin, integers, numbers, out
    )
    n_seen = _count_neighbours(seen, 0, n)
    if n_seen < area:
        n_runs = _find_runs(seen, n, codes, runs)
        across, down, _, _ = _neighbours(seen, stride, rows)
    _measure_transmission(
        shown,
        buckets,
        level,
        codes,
        squares,
        tables,
        numbers,
        stride,
        rows,
        runs,
        n_runs,
        n_seen,
        across,
        down,
        area,
        pixel_um,
        out,
    )


@njit(nogil=True, cache=True, error_model="numpy")
def measure_into(mask, transmission, known, pixel_um, out):
    """Write the features of a cell, in the order of ``features.FEATURES``; see ``features.measure_cell``.

    mask, known bool, transmission float32 or float64, all (rows, columns) and C-contiguous; the mask is not empty.
    pixel_um 1.0 gives pixels. out float64, as many elements as there are features.
    """
    rows, columns = mask.shape
    n = rows * columns
    labels = mask.reshape(n).view(np.uint8)
    room = feature_room(rows, columns, transmission)
    box = _box(labels, 1, rows, columns, room[0])
    _measure(labels, 1, box, transmission.reshape(n), known.reshape(n), rows, columns, pixel_um, room, out)


@njit(nogil=True, cache=True, error_model="numpy")
def measure_many(place, cells, extents, labels, transmission, known, pixel_um, room, values):
    """Write the features of many cells, a row for each, as `measure_into` does.

    Parameters
    ----------
    place : ndarray of shape (images, 3), int64
        Where each image begins in the flat arrays, and its rows and columns.
    cells : ndarray of shape (cells, 2), int64
        Image and label of each cell, which has a pixel at least.
    extents : ndarray of shape (cells, 5), int64
        First and last row, first and last column of each cell, and its pixels.
    labels, transmission, known : ndarray of shape (pixels,), any integer, float32 or float64, and bool
        Images one after another, each row by row.
    pixel_um : float
        Side of a pixel [µm]; 1.0 gives pixels.
    room
        From `feature_room`, for images as large or larger.
    values : ndarray of shape (cells, features), float64
        The result.
    """
    for i in range(cells.shape[0]):
        begin, rows, columns = place[cells[i, 0], 0], place[cells[i, 0], 1], place[cells[i, 0], 2]
        stop = begin + rows * columns
        _measure(
            labels[begin:stop],
            cells[i, 1],
            (extents[i, 0], extents[i, 1], extents[i, 2], extents[i, 3]),
            transmission[begin:stop],
            known[begin:stop],
            rows,
            columns,
            pixel_um,
            room,
            values[i],
        )
