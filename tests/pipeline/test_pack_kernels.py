"""Lightly packed pictures, unpacked by Zstandard itself, and checksums as HDF5 makes them."""

import h5py
import numpy as np
import pyarrow as pa
import pytest

from stretchscope.pipeline import _pack_kernels as kernels

SHAPES = [(1, 1), (16, 16), (48, 36), (7, 9), (3, 70), (64, 24), (300, 8), (8, 300)]


def images_of(rows, columns, rng):
    """Images of every kind: empty, all noise, noise in a window, one pixel, lines."""
    x, y = np.mgrid[:rows, :columns]
    noise = rng.integers(0, 256, (rows, columns))
    window = (x >= rows // 4) & (x <= rows // 2) & (y >= columns // 3) & (y < columns - columns // 5)
    pixel = (x == rows // 2) & (y == columns // 2)
    kinds = [0 * x, noise, np.where(window, noise, 150), np.where(pixel, 3, 150), np.where(x == rows - 1, noise, 7)]
    return np.array(kinds, dtype=np.uint8)


def masks_of(rows, columns, rng):
    """Masks of every kind: a disc, a ring, two parts, noise, checkers, a pixel, full."""
    x, y = np.mgrid[:rows, :columns]
    radius = np.hypot((x - rows / 2) / rows, (y - columns / 2) / columns)
    ring, parts = (radius < 0.4) & (radius > 0.2), (radius < 0.4) & (x != rows // 2)
    kinds = [radius < 0.4, ring, parts, rng.random(x.shape) < 0.5, (x + y) % 2 == 0, x + y == 0, x >= 0]
    return np.array(kinds)


def pack(images, masks, missing):
    """Frames of images and masks of one chunk with some pictures missing, without checksum, and the sums."""
    n, (rows, columns) = len(images), images.shape[1:]
    room = kernels.room(n + missing, rows, columns)
    image_out, mask_out, sums = np.empty(room, np.uint8), np.empty(room, np.uint8), np.empty((n, 3), np.int64)
    for out in (image_out, mask_out):
        assert kernels.write_header((n + missing) * rows * columns, out) == kernels.HEADER_BYTES
    scratch = np.empty((3, columns), dtype=np.min_scalar_type(rows))
    image_end, mask_end = kernels.HEADER_BYTES, kernels.HEADER_BYTES
    for part in (slice(0, 2), slice(2, None)):
        image_end, mask_end = kernels.pack_pictures(
            images[part], masks[part], scratch, image_out, image_end, mask_out, mask_end, sums[part]
        )
    frames = []
    for out, end in ((image_out, image_end), (mask_out, mask_end)):
        size = kernels.end_chunk(missing * rows * columns, out, end)
        assert size <= room
        frames.append(out[: size - 4])
    return frames, sums


@pytest.mark.kernel
@pytest.mark.parametrize("shape", SHAPES)
def test_zstandard_unpacks_what_was_packed(shape):
    rng = np.random.default_rng(shape[0])
    masks = masks_of(*shape, rng)
    images = images_of(*shape, rng)[np.arange(len(masks)) % 5]
    missing = 3
    frames, sums = pack(images, masks, missing)
    for frame, pictures in zip(frames, (images, masks * np.uint8(255)), strict=True):
        size = (len(pictures) + missing) * shape[0] * shape[1]
        content = np.frombuffer(pa.Codec("zstd").decompress(frame, size, asbytes=True), dtype=np.uint8)
        content = content.reshape(-1, shape[1], shape[0]).transpose(0, 2, 1)
        np.testing.assert_array_equal(content[: len(pictures)], pictures)
        assert not content[len(pictures) :].any()
    under = np.where(masks, images, 0).astype(np.int64)
    expected = [masks.sum(axis=(1, 2)), under.sum(axis=(1, 2)), (under**2).sum(axis=(1, 2))]
    np.testing.assert_array_equal(sums, np.transpose(expected))
    again = np.empty_like(sums)
    kernels.sum_pictures(images, masks, again)
    np.testing.assert_array_equal(again, sums)


def test_pictures_larger_than_a_block():
    """Beyond 2¹⁷ bytes a run, or bytes as they are, take several blocks."""
    rng = np.random.default_rng(1)
    images, masks = images_of(400, 500, rng), masks_of(400, 500, rng)[:5]
    frames, _ = pack(images, masks, 2)
    for frame, pictures in zip(frames, (images, masks * np.uint8(255)), strict=True):
        content = np.frombuffer(pa.Codec("zstd").decompress(frame, 7 * 200_000, asbytes=True), dtype=np.uint8)
        np.testing.assert_array_equal(content[:1_000_000].reshape(5, 500, 400).transpose(0, 2, 1), pictures)


def test_what_is_empty_takes_little_room():
    image, mask = np.full((1, 160, 160), 150, dtype=np.uint8), np.zeros((1, 160, 160), dtype=bool)
    image[0, 40:120, 30:130] = np.random.default_rng(0).integers(0, 256, (80, 100))
    mask[0, 50:110, 40:120] = True
    (image_frame, mask_frame), _ = pack(image, mask, 39)
    assert len(image_frame) < 100 * (80 + 7) + 100
    assert len(mask_frame) < 80 * 8 + 100


@pytest.mark.kernel
@pytest.mark.parametrize("size", [1, 2, 3, 511, 512, 513, 4099])
def test_checksum_is_that_of_hdf5(tmp_path, size):
    rng = np.random.default_rng(size)
    for content in (rng.integers(0, 256, size), np.zeros(size), np.full(size, 255)):
        with h5py.File(tmp_path / "sum.h5", "w") as file:
            stored = file.create_dataset("x", data=content.astype(np.uint8), chunks=(size,), fletcher32=True)
            _, expected = stored.id.read_direct_chunk((0,))
        out = np.empty(size + 5, dtype=np.uint8)
        out[:size] = content
        assert kernels.checksum(out, size) == size + 4
        assert out[: size + 4].tobytes() == bytes(expected)


@pytest.mark.kernel
def test_columns_are_framed_as_they_are():
    values = np.random.default_rng(0).integers(-(2**63), 2**63, (3, 25))
    frames = np.empty((3, 3, 80 + kernels.FRAME_BYTES), dtype=np.uint8)
    size = kernels.frame_columns(values.view(np.uint8), 10, frames)
    for own, expected in zip(frames, values, strict=True):
        content = b"".join(pa.Codec("zstd").decompress(f[: size - 4], 80, asbytes=True) for f in own)
        np.testing.assert_array_equal(np.frombuffer(content, dtype=np.int64), [*expected, *[0] * 5])


@pytest.mark.kernel
def test_a_mask_without_a_pixel_is_seen():
    masks = np.zeros((3, 9, 11), dtype=bool)
    masks[0, 0, 0] = masks[1, 8, 10] = masks[2, 4, 4] = True
    assert kernels.all_marked(masks)
    for k in range(3):
        some = masks.copy()
        some[k] = False
        assert not kernels.all_marked(some)
