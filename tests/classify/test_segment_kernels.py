"""Compiled segmentation against its slow version: the same mask, pixel by pixel."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stretchscope.classify import _segment_kernels as kernels
from stretchscope.classify.segment import segment_cell, separate_parts
from stretchscope.data.stamps import cell_stamps

COMPILED = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
EXAMPLES = 60 if COMPILED else 25
NO_SEED = np.empty((0, 0), dtype=bool)


def add_object(image, rng, smallest, largest):
    """Darken (or brighten) an ellipse, a ring or a straight band, anywhere, the border included."""
    x, y = np.mgrid[: image.shape[0], : image.shape[1]]
    radius = np.array([rng.uniform(smallest, largest), rng.uniform(smallest, largest)])
    centre = rng.uniform(-2, np.array(image.shape) + 2)
    distance = np.hypot((x - centre[0]) / radius[0], (y - centre[1]) / radius[1])
    kind = rng.integers(4)
    inside = distance <= 1
    if kind == 1:
        inside &= distance > 0.6
    elif kind == 2:
        inside = np.abs(x - centre[0] + rng.uniform(-1, 1) * (y - centre[1])) < rng.uniform(0.4, 3)
    depth = rng.choice([0.05, 0.2, 0.5, 0.9, -0.2])
    image -= depth * ndimage.gaussian_filter(inside.astype(float), rng.uniform(0.1, 2))


def draw_case(seed, most_pixels):
    """Image, known pixels, noise, seed and settings; all sorts of them."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, most_pixels, 2))
    image = np.ones(shape)
    for _ in range(rng.integers(0, 4)):
        add_object(image, rng, 1, max(1.5, 0.4 * max(shape)))
    noise = 10 ** rng.uniform(-3, -1)
    white = ndimage.gaussian_filter(rng.normal(size=shape), rng.choice([0, 0, 0.8]))
    image = (image + rng.choice([0, 1, 1]) * noise * white).astype(rng.choice([np.float32, np.float64]))
    known = np.ones(shape, dtype=bool)
    if rng.random() < 0.6:
        for _ in range(rng.integers(1, 4)):
            first = rng.integers(0, shape[1])
            known[:, first : first + rng.integers(1, 6)] = False
        known[rng.random(shape) < rng.choice([0, 0.05, 0.6])] = False
        image[~known] = np.nan
    options = {
        "threshold": rng.choice([5.0, 2.0]),
        "floor": rng.choice([0.03, 0.003]),
        "min_area_px": rng.choice([1, 12]),
    }
    if rng.random() < 0.5:
        first = [int(rng.integers(0, n)) for n in shape]
        options["seed_mask"] = np.zeros(shape, dtype=bool)
        options["seed_mask"][first[0] : first[0] + 8, first[1] : first[1] + 8] = True
    return image, known, noise if rng.random() < 0.5 else noise * rng.uniform(0.5, 2, shape), options


@pytest.mark.kernel
@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_mask_is_that_of_the_slow_version(slow_segment, seed):
    image, known, noise, options = draw_case(seed, 26)
    expected = slow_segment.segment_cell(image, known, noise, **options)
    assert np.array_equal(segment_cell(image, known, noise, **options), expected)


@pytest.mark.skipif(not COMPILED, reason="large images")
@pytest.mark.parametrize("seed", range(40))
def test_mask_of_a_large_image(slow_segment, seed):
    image, known, noise, options = draw_case(seed, 140)
    expected = slow_segment.segment_cell(image, known, noise, **options)
    assert np.array_equal(segment_cell(image, known, noise, **options), expected)


@pytest.mark.skipif(not COMPILED, reason="large images")
@pytest.mark.parametrize("size", [50, 90, 170])
@pytest.mark.parametrize("notch", [0, 4])
def test_mask_of_a_cell(slow_segment, size, notch):
    """Cells of the simulator's library, small and large, with a notch across."""
    rng = np.random.default_rng(size)
    for stamp in cell_stamps(seed=1, count=4).darkness:
        zoomed = ndimage.zoom(stamp, 0.75 * size / stamp.shape[0], order=1)
        image = np.ones((size, size))
        room = (size - zoomed.shape[0]) // 2
        image[room : room + zoomed.shape[0], room : room + zoomed.shape[1]] -= rng.uniform(0.1, 0.8) * zoomed
        image = (image + 0.02 * rng.normal(size=image.shape)).astype(np.float32)
        known = np.ones(image.shape, dtype=bool)
        known[:, size // 3 : size // 3 + notch] = False
        expected = slow_segment.segment_cell(image, known, 0.02)
        assert expected.sum() > 0.1 * size**2
        assert np.array_equal(segment_cell(image, known, 0.02), expected)


@pytest.mark.kernel
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (1, 1), (1, 20), (20, 1), (2, 2), (7, 7), (20, 13)])
@pytest.mark.parametrize("level", [1.0, 0.3])
def test_plain_frames(slow_segment, shape, level):
    """Nothing, or all of the frame."""
    image, known = np.full(shape, level), np.ones(shape, dtype=bool)
    expected = slow_segment.segment_cell(image, known, 0.01, min_area_px=1)
    assert np.array_equal(segment_cell(image, known, 0.01, min_area_px=1), expected)


@pytest.mark.kernel
def test_work_of_a_larger_image_serves_a_smaller_one():
    """Whatever is left in the work arrays; nor does it matter what the mask held."""
    work = kernels.segment_work(40, 33)
    for seed in range(6):
        image, known, noise, options = draw_case(seed, 30)
        image, noise = image.astype(np.float32), np.full(image.shape, noise, dtype=np.float32)
        asked, mask = options.get("seed_mask", NO_SEED), np.ones(image.shape, dtype=bool)
        work[0][:], work[1][:], work[2][:], work[3][:] = np.nan, -7, 255, 2**64 - 1
        settings = float(options["threshold"]), float(options["floor"]), int(options["min_area_px"])
        area = kernels.segment_into(image, known, noise, asked, *settings, mask, work)
        assert np.array_equal(mask, segment_cell(image, known, noise, **options))
        assert area == mask.sum()


@pytest.mark.kernel
@pytest.mark.parametrize("shape", [(66, 40), (60, 61), (7, 40), (6, 40), (20, 8), (12, 6), (6, 6), (1, 1)])
@pytest.mark.parametrize("level", [0.5, 1.3, 2, 2.5, 5])
def test_noise_excess_is_the_quantile(slow_segment, shape, level):
    """Of the rows and columns that are taken, and of numbers alone: below, within and above the bounds."""
    rng = np.random.default_rng(3)
    deviation = (level * rng.normal(size=shape)).astype(np.float32)
    sigma = rng.uniform(0.5, 1.5, shape).astype(np.float32)
    supported = rng.random(shape) > 0.2
    expected = slow_segment._noise_excess(deviation * sigma, sigma, supported)
    rows, columns = shape
    pitch = kernels._pitch(columns)
    value, std = np.ones((2, kernels._sizes(rows, columns)[0]), dtype=np.float32)
    first = kernels._first(pitch)
    for plane, image in ((value, deviation * sigma), (std, np.where(supported, sigma, np.float32(np.nan)))):
        plane[first : first + rows * pitch].reshape(rows, pitch)[:, :columns] = image
    scratch = np.empty(pitch, dtype=np.float32), np.empty_like(value), np.empty(4 * value.size, dtype=np.uint8)
    assert kernels._noise_excess(value, std, pitch, rows, columns, *scratch) == expected
    if rows * columns >= 600:
        assert (level > 1) == (expected > 1)


def test_single_precision_changes_next_to_nothing(slow_segment):
    """One pixel in ten thousand: single precision decides only what lies on the limit."""
    changed, area = 0, 0
    for seed in range(150):
        image, known, noise, options = draw_case(seed, 60)
        single, double = (
            slow_segment.segment_cell(image, known, noise, dtype=dtype, **options) for dtype in (np.float32, np.float64)
        )
        changed, area = changed + (single != double).sum(), area + double.sum()
    assert changed <= 1e-4 * area


@pytest.mark.kernel
@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), min_area_px=st.integers(1, 6))
def test_parts_are_those_of_the_slow_version(slow_segment, seed, min_area_px):
    """The same parts in the same order: specks, equally large ones, and some within another's box."""
    rng = np.random.default_rng(seed)
    mask = ndimage.gaussian_filter(rng.normal(size=rng.integers(1, 22, 2)), rng.choice([0, 0.7, 1.5]))
    mask = mask > rng.uniform(-0.5, 1) * mask.std()
    expected = slow_segment.separate_parts(mask, min_area_px)
    found = separate_parts(mask, min_area_px)
    assert len(found) == len(expected)
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.kernel
def test_many_images_are_segmented_as_one_by_one():
    """Of all shapes, with room between some of them that is left as it is; the work arrays are those of the largest."""
    cases = [draw_case(seed, 26) for seed in range(12)] + [(np.ones((0, 5)), np.ones((0, 5), dtype=bool), 0.1, {})]
    dots = np.ones((72, 72))
    for away in range(3):
        dots[4 + away :: 12, 4:-1:12] = dots[4 + away :: 12, 5:-1:12] = dots[4 + away :: 12, 6:-1:12] = 0.5
    cases.append((dots, dots > 0, 0.01, {}))
    gap = 3
    place, at = np.empty((len(cases), 3), dtype=np.int64), 0
    for i, (image, *_) in enumerate(cases):
        place[i] = at, *image.shape
        at += image.size + gap * (i % 2)
    transmission, noise_std = np.full((2, at), np.nan, dtype=np.float32)
    known, seeds = np.zeros((2, at), dtype=bool)
    between = np.ones(at, dtype=bool)
    expected = []
    for (first, rows, columns), (image, seen, noise, options) in zip(place, cases, strict=True):
        own = slice(first, first + rows * columns)
        seed = options.get("seed_mask", np.ones(image.shape, dtype=bool))
        transmission[own], known[own], seeds[own] = image.ravel(), seen.ravel(), seed.ravel()
        noise_std[own] = np.broadcast_to(noise, image.shape).ravel()
        between[own] = False
        expected.append(segment_cell(image, seen, noise, seed_mask=seed, min_area_px=4) if image.size else seen)
    work = kernels.segment_work(*place[:, 1:].max(axis=0))
    labels = np.full(at, -5, dtype=np.int32)
    cells, extents = kernels.segment_many(place, transmission, known, noise_std, seeds, 5.0, 0.03, 4, labels, work)
    listed = []
    for i, ((first, rows, columns), mask) in enumerate(zip(place, expected, strict=True)):
        own = labels[first : first + rows * columns].reshape(rows, columns)
        one = np.empty(mask.shape, dtype=np.int32)
        count = kernels.label_parts(mask, 4, one)
        assert np.array_equal(own, one)
        listed += [(i, label) for label in range(1, count + 1)]
    assert cells.tolist() == [list(cell) for cell in listed]
    for (image, label), extent in zip(cells, extents, strict=True):
        first, rows, columns = place[image]
        r, c = np.nonzero(labels[first : first + rows * columns].reshape(rows, columns) == label)
        assert extent.tolist() == [r.min(), r.max(), c.min(), c.max(), r.size]
    assert (labels[between] == -5).all()
    assert len(set(cells[:, 0])) < len(cases)
    assert np.count_nonzero(cells[:, 0] == len(cases) - 1) == 36  # more than there was room for at first


@pytest.mark.kernel
@pytest.mark.parametrize("noise", [1e-300, 1e-30, 1e30, 1e300])
def test_noise_of_any_size(noise):
    """Noise beyond what single precision can square hides nothing if small, all if large."""
    image = np.ones((20, 20))
    image[6:14, 5:15] = 0.5
    mask = segment_cell(image, image > 0, noise)
    assert mask.any() == (noise < 1)
    image[0, 0], known = 1e300, np.ones(image.shape, dtype=bool)
    known[0, 0] = False
    assert np.array_equal(segment_cell(image, known, noise)[6:], mask[6:])
    with pytest.raises(ValueError, match="transmission is not finite"):
        segment_cell(image, known | True, noise)


def test_threads_do_not_disturb_each_other():
    cases = [draw_case(seed, 60) for seed in range(40)]

    def run(case):
        image, known, noise, options = case
        return segment_cell(image, known, noise, **options)

    alone = [run(case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        assert all(np.array_equal(a, b) for a, b in zip(alone, pool.map(run, cases), strict=True))


def test_floor_must_be_positive():
    image = np.ones((8, 9))
    for floor in (0.0, -0.1, np.nan):
        with pytest.raises(ValueError, match="floor must be positive"):
            segment_cell(image, image > 0, 0.1, floor=floor)
