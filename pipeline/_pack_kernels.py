"""Compiled kernels that pack pictures for .rtdc files with little work.

What they make is a frame of the Zstandard format (RFC 8878), which any reader of the file's filter takes, but of two
kinds of blocks only: bytes as they are, and one byte many times. A crop is mostly empty and a mask is runs, so that
most of what can be saved is, at a tenth of a compressor's time. Pictures are turned on the way: x, the rows of a crop,
runs along the columns of the file.

One module for all that call each other, so that the compiler's cache sees every change.
"""

import numpy as np
from numba import njit

#: Bytes before the first block of a frame, and, with room to spare, all but the content of one with a single block.
HEADER_BYTES, FRAME_BYTES = 9, 32

_BLOCK = 1 << 17  # most bytes of a block
_AS_THEY_ARE, _MANY_TIMES = 0, 1
_ODD_BYTES = np.uint64(0xFF00FF00FF00FF00)
_EVEN_BYTES = np.uint64(0x00FF00FF00FF00FF)
_ODD_PAIRS = np.uint64(0xFFFF0000FFFF0000)
_EVEN_PAIRS = np.uint64(0x0000FFFF0000FFFF)
_HIGH_HALF, _LOW_HALF = np.uint64(0xFFFFFFFF00000000), np.uint64(0x00000000FFFFFFFF)
_8, _16, _32 = np.uint64(8), np.uint64(16), np.uint64(32)
_CHUNK = 64
_PIXELS = 4096  # whose squared grey levels' sum fits 32 bits
_WORDS = 256  # whose sums, each times its place, fit 32 bits


@njit(nogil=True, cache=True)
def room(pictures, rows, columns):
    """Most bytes that a chunk of so many pictures takes: blocks of each column, and runs of what is missing."""
    runs = 4 * ((rows * columns) // _BLOCK + 2)
    picture = columns * (rows + 8) + runs
    return (HEADER_BYTES + pictures * (picture + runs) + 64) // 8 * 8


@njit(nogil=True, cache=True, error_model="numpy")
def write_header(size, out):
    """Begin a frame of so many bytes of content."""
    out[:5] = (0x28, 0xB5, 0x2F, 0xFD, 0xA0)  # the size in four bytes, and all content in one piece
    for i in range(4):
        out[5 + i] = (size >> (8 * i)) & 255
    return HEADER_BYTES


@njit(nogil=True, cache=True, error_model="numpy")
def write_end(missing, out, at):
    """End a frame whose content is to go on with so many zeros; return its size."""
    at = _write_run(np.uint8(0), missing, out, at)
    return _write_block(_AS_THEY_ARE, 0, 1, out, at)


@njit(nogil=True, cache=True, error_model="numpy")
def _write_block(kind, size, last, out, at):
    head = last | (kind << 1) | (size << 3)
    out[at] = head & 255
    out[at + 1] = (head >> 8) & 255
    out[at + 2] = head >> 16
    return at + 3


@njit(nogil=True, cache=True, error_model="numpy")
def _write_run(value, length, out, at):
    while length > 0:
        n = min(length, _BLOCK)
        at = _write_block(_MANY_TIMES, n, 0, out, at)
        out[at] = value
        at += 1
        length -= n
    return at


# --- images ----------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _any_other(values, value):
    """Whether one of `_CHUNK` bytes is not that one."""
    found = np.uint8(0)
    for i in range(_CHUNK):
        found |= values[i] ^ value
    return found != 0


@njit(nogil=True, cache=True, error_model="numpy")
def _window(image, differs):
    """First and last row and column of what is not as the first pixel; differs uint8 (columns,) scratch."""
    rows, columns = image.shape
    flat, empty = image.reshape(rows * columns), image[0, 0]
    first, stop = 0, rows * columns
    while first + _CHUNK <= stop and not _any_other(flat[first:][:_CHUNK], empty):
        first += _CHUNK
    while first < stop and flat[first] == empty:
        first += 1
    if first == stop:
        return 0, -1, 0, -1
    while stop >= _CHUNK and not _any_other(flat[stop - _CHUNK :][:_CHUNK], empty):
        stop -= _CHUNK
    while flat[stop - 1] == empty:
        stop -= 1
    top, bottom = first // columns, (stop - 1) // columns
    n = np.uint64(columns)
    differs[:columns] = 0
    for r in range(top, bottom + 1):
        at = np.uint64(r * columns)
        for c in range(n):
            differs[c] |= flat[at + c] ^ empty
    left, right = 0, columns - 1
    while differs[left] == 0:
        left += 1
    while differs[right] == 0:
        right -= 1
    return top, bottom, left, right


@njit(nogil=True, cache=True, error_model="numpy")
def _store(word, out, at):
    for k in range(8):
        out[at + np.uint64(k)] = np.uint8((word >> np.uint64(8 * k)) & np.uint64(255))


@njit(nogil=True, cache=True, error_model="numpy")
def _turn_words(a, b, c, d, e, f, g, h):
    """Eight rows of eight bytes to eight columns: halves of the square change places, then quarters, then bytes."""
    a, e = (a & _LOW_HALF) | (e << _32), (a >> _32) | (e & _HIGH_HALF)
    b, f = (b & _LOW_HALF) | (f << _32), (b >> _32) | (f & _HIGH_HALF)
    c, g = (c & _LOW_HALF) | (g << _32), (c >> _32) | (g & _HIGH_HALF)
    d, h = (d & _LOW_HALF) | (h << _32), (d >> _32) | (h & _HIGH_HALF)
    a, c = (a & _EVEN_PAIRS) | ((c & _EVEN_PAIRS) << _16), ((a & _ODD_PAIRS) >> _16) | (c & _ODD_PAIRS)
    b, d = (b & _EVEN_PAIRS) | ((d & _EVEN_PAIRS) << _16), ((b & _ODD_PAIRS) >> _16) | (d & _ODD_PAIRS)
    e, g = (e & _EVEN_PAIRS) | ((g & _EVEN_PAIRS) << _16), ((e & _ODD_PAIRS) >> _16) | (g & _ODD_PAIRS)
    f, h = (f & _EVEN_PAIRS) | ((h & _EVEN_PAIRS) << _16), ((f & _ODD_PAIRS) >> _16) | (h & _ODD_PAIRS)
    a, b = (a & _EVEN_BYTES) | ((b & _EVEN_BYTES) << _8), ((a & _ODD_BYTES) >> _8) | (b & _ODD_BYTES)
    c, d = (c & _EVEN_BYTES) | ((d & _EVEN_BYTES) << _8), ((c & _ODD_BYTES) >> _8) | (d & _ODD_BYTES)
    e, f = (e & _EVEN_BYTES) | ((f & _EVEN_BYTES) << _8), ((e & _ODD_BYTES) >> _8) | (f & _ODD_BYTES)
    g, h = (g & _EVEN_BYTES) | ((h & _EVEN_BYTES) << _8), ((g & _ODD_BYTES) >> _8) | (h & _ODD_BYTES)
    return a, b, c, d, e, f, g, h


@njit(nogil=True, cache=True, error_model="numpy")
def _turn(image, top, height, left, stop, step, out, at):
    """Copy columns left … stop - 1 of some rows of an image, each so many bytes after the other."""
    rows, columns = image.shape
    flat = image.reshape(rows * columns)
    whole = height // 8 * 8 if columns % 8 == 0 else 0
    for r in range(top, top + whole, 8):
        words, n = flat[r * columns :].view(np.uint64), np.uint64(columns // 8)
        begin = at + r - top
        for j in range(left // 8, (stop + 7) // 8):
            w = np.uint64(j)
            turned = _turn_words(
                words[w],
                words[w + n],
                words[w + n + n],
                words[w + n + n + n],
                words[w + n + n + n + n],
                words[w + n + n + n + n + n],
                words[w + n + n + n + n + n + n],
                words[w + n + n + n + n + n + n + n],
            )
            column = 8 * j
            if column >= left and column + 8 <= stop:
                place = np.uint64(begin + (column - left) * step)
                for k in range(8):
                    _store(turned[k], out, place + np.uint64(k * step))
            else:
                for k in range(8):
                    if left <= column + k < stop:
                        _store(turned[k], out, np.uint64(begin + (column + k - left) * step))
    for r in range(top + whole, top + height):
        begin = at + r - top
        for c in range(left, stop):
            out[begin + (c - left) * step] = flat[r * columns + c]


@njit(nogil=True, cache=True, error_model="numpy")
def pack_image(image, differs, out, at):
    """Blocks of an image (rows, columns) uint8, turned; return where they end. differs uint8 (columns,) is scratch."""
    rows, columns = image.shape
    empty = image[0, 0]
    top, bottom, left, right = _window(image, differs)
    if right < 0:
        return _write_run(empty, rows * columns, out, at)
    height = bottom + 1 - top
    if rows - height < 8:  # a run takes as much
        top, height = 0, rows
    gap, n = rows - height, right + 1 - left
    at = _write_run(empty, left * rows + top, out, at)
    if gap == 0:
        per_block = max(_BLOCK // rows, 1)
        for c in range(left, right + 1, per_block):
            some = min(per_block, right + 1 - c)
            at = _write_block(_AS_THEY_ARE, some * rows, 0, out, at)
            _turn(image, 0, rows, c, c + some, rows, out, at)
            at += some * rows
    else:
        step = height + 7
        _turn(image, top, height, left, right + 1, step, out, at + 3)
        for c in range(n):
            after = _write_block(_AS_THEY_ARE, height, 0, out, at) + height
            if c < n - 1:
                _write_run(empty, gap, out, after)
                at += step
            else:
                at = after
    return _write_run(empty, rows - top - height + (columns - 1 - right) * rows, out, at)


# --- masks -----------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _columns_of_mask(flat, rows, columns, counts, firsts, lasts):
    """Pixels of each column of a mask, the first and the last row that holds one; first and last row of all.

    flat uint8 of 0 and 1; counts, firsts, lasts (columns,) of a type that holds the number of rows; firsts and lasts
    mean nothing in empty columns.
    """
    first, stop = 0, rows * columns
    zero = np.uint8(0)
    while first + _CHUNK <= stop and not _any_other(flat[first:][:_CHUNK], zero):
        first += _CHUNK
    while first < stop and flat[first] == 0:
        first += 1
    counts[:columns] = 0
    if first == stop:
        return 0, -1
    while stop >= _CHUNK and not _any_other(flat[stop - _CHUNK :][:_CHUNK], zero):
        stop -= _CHUNK
    while flat[stop - 1] == 0:
        stop -= 1
    top, bottom = first // columns, (stop - 1) // columns
    n, kind = np.uint64(columns), counts.dtype.type
    firsts[:columns] = rows
    lasts[:columns] = 0
    for r in range(top, bottom + 1):
        at, row, none = np.uint64(r * columns), kind(r), kind(rows)
        for c in range(n):
            inside = flat[at + c]
            counts[c] += kind(inside)
            here = row if inside != 0 else none
            firsts[c] = here if here < firsts[c] else firsts[c]
            lasts[c] = row if inside != 0 else lasts[c]
    return top, bottom


@njit(nogil=True, cache=True, error_model="numpy")
def pack_mask(mask, scratch, out, at):
    """Blocks of a mask (rows, columns) bool, turned, 255 for its pixels.

    Return where they end, and the first row that holds a pixel and the one after the last; scratch (3, columns) of a
    type that holds the number of rows.
    """
    rows, columns = mask.shape
    flat = mask.reshape(rows * columns).view(np.uint8)
    counts, firsts, lasts = scratch[0], scratch[1], scratch[2]
    top, bottom = _columns_of_mask(flat, rows, columns, counts, firsts, lasts)
    gap = 0
    for c in range(columns):
        count = np.int64(counts[c])
        if count == 0:
            gap += rows
            continue
        first, stop = np.int64(firsts[c]), np.int64(lasts[c]) + 1
        if count == stop - first:
            at = _write_run(0, gap + first, out, at)
            at = _write_run(255, count, out, at)
            gap = rows - stop
        else:
            at, gap = _pack_column(flat, c, rows, columns, first, stop, gap, out, at)
    return _write_run(0, gap, out, at), top, bottom + 1


@njit(nogil=True, cache=True, error_model="numpy")
def _pack_column(flat, c, rows, columns, first, stop, gap, out, at):
    """Blocks of a column of a mask that is not one run, after a gap; return where they end, and the gap after it."""
    runs = 1
    for r in range(first + 1, stop):
        runs += np.int64(flat[r * columns + c] != flat[(r - 1) * columns + c])
    if 4 * runs > rows:  # as it is
        at = _write_run(0, gap, out, at)
        at = _write_block(_AS_THEY_ARE, rows, 0, out, at)
        for r in range(rows):
            out[at + r] = 255 * flat[r * columns + c]
        return at + rows, 0
    at = _write_run(0, gap + first, out, at)
    begin = first
    for r in range(first + 1, stop + 1):
        if r == stop or flat[r * columns + c] != flat[begin * columns + c]:
            at = _write_run(255 * flat[begin * columns + c], r - begin, out, at)
            begin = r
    return at, rows - stop


@njit(nogil=True, cache=True, error_model="numpy")
def _sum_under(image, mask, top, stop, sums):
    """Pixels of some rows of a mask, and sum and sum of squares of the grey levels under them, into sums (3,) int64."""
    rows, columns = mask.shape
    image, mask = image.reshape(rows * columns), mask.reshape(rows * columns).view(np.uint8)
    area = total = square = np.int64(0)
    for begin in range(top * columns, stop * columns, _PIXELS):
        at, n = np.uint64(begin), np.uint64(min(_PIXELS, stop * columns - begin))
        some_area = some_total = some_square = np.uint32(0)
        for i in range(n):
            inside = np.uint32(mask[at + i])
            grey = np.uint32(image[at + i]) * inside
            some_area = np.uint32(some_area + inside)
            some_total = np.uint32(some_total + grey)
            some_square = np.uint32(some_square + grey * grey)
        area += np.int64(some_area)
        total += np.int64(some_total)
        square += np.int64(some_square)
    sums[0], sums[1], sums[2] = area, total, square


@njit(nogil=True, cache=True, error_model="numpy")
def all_marked(masks):
    """Whether each mask (N, rows, columns) bool has a pixel."""
    n = masks.shape[1] * masks.shape[2]
    zero = np.uint8(0)
    for k in range(masks.shape[0]):
        flat = masks[k].reshape(n).view(np.uint8)
        at = 0
        while at + _CHUNK <= n and not _any_other(flat[at:][:_CHUNK], zero):
            at += _CHUNK
        while at < n and flat[at] == 0:
            at += 1
        if at == n:
            return False
    return True


# --- chunks ----------------------------------------------------------------------------------------------------------


@njit(nogil=True, cache=True, error_model="numpy")
def _fold(total):
    """A sum modulo 65535 as the checksum has it: 0 only of nothing but zeros."""
    rest = total % 65535
    return 65535 if rest == 0 and total > 0 else rest


@njit(nogil=True, cache=True, error_model="numpy")
def _sum_words(words, n):
    """Sum of so many words, the bytes of each exchanged, and of each times its place from the end, from 1 on."""
    total, by_place = np.uint32(0), np.uint32(0)
    for i in range(n):
        word = np.uint32(((words[i] & 255) << 8) | (words[i] >> 8))
        total = np.uint32(total + word)
        by_place = np.uint32(by_place + word * np.uint32(n - i))
    return np.int64(total), np.int64(by_place)


@njit(nogil=True, cache=True, error_model="numpy")
def checksum(out, size):
    """The checksum of HDF5's filter fletcher32 after so many bytes; there is room for five more."""
    if size % 2:
        out[size] = 0
    n = (size + 1) // 2
    words = out[: 2 * n].view(np.uint16)
    first, second = 0, 0
    for i in range(0, n, _WORDS):
        some = min(_WORDS, n - i)
        total, by_place = _sum_words(words[i:], _WORDS) if some == _WORDS else _sum_words(words[i:], some)
        second += first * some + by_place
        first += total
    value = (_fold(second) << 16) | _fold(first)
    for k in range(4):
        out[size + k] = (value >> (8 * k)) & 255
    return size + 4


@njit(nogil=True, cache=True, error_model="numpy")
def pack_pictures(images, masks, scratch, image_out, image_at, mask_out, mask_at, sums):
    """Pack pictures after what is packed already; return where images and masks end.

    images uint8, masks bool (N, rows, columns); scratch (3, columns) of an unsigned type that holds the number of rows;
    sums int64 (N, 3) gets pixels of each mask, and sum and sum of squares of the grey levels under it.
    """
    differs = np.empty(images.shape[2], np.uint8)
    for k in range(images.shape[0]):
        image_at = pack_image(images[k], differs, image_out, image_at)
        mask_at, top, stop = pack_mask(masks[k], scratch, mask_out, mask_at)
        _sum_under(images[k], masks[k], top, stop, sums[k])
    return image_at, mask_at


@njit(nogil=True, cache=True, error_model="numpy")
def sum_pictures(images, masks, sums):
    """The sums of `pack_pictures` alone."""
    for k in range(images.shape[0]):
        _sum_under(images[k], masks[k], 0, images.shape[1], sums[k])


@njit(nogil=True, cache=True, error_model="numpy")
def end_chunk(missing, out, at):
    """End a chunk's frame, whose content lacks so many bytes, with its checksum; return its size."""
    return checksum(out, write_end(missing, out, at))


@njit(nogil=True, cache=True, error_model="numpy")
def frame_columns(columns, per_chunk, frames):
    """Chunks of columns, packed as they are, with their checksums; return the size of each.

    columns uint8 (C, 8 N): N values of eight bytes each; per_chunk: values of a chunk, the last of which goes on with
    zeros; frames uint8 (C, chunks, …), with room for `FRAME_BYTES` more than a chunk's.
    """
    size = 8 * per_chunk
    end = 0
    for c in range(columns.shape[0]):
        for k in range(frames.shape[1]):
            out, values = frames[c, k], columns[c, k * size :][:size]
            at = _write_block(_AS_THEY_ARE, size, 1, out, write_header(size, out))
            out[at : at + values.shape[0]] = values
            out[at + values.shape[0] : at + size] = 0
            end = checksum(out, at + size)
    return end
