"""Compiled features against their slow version."""

import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stretchscope.classify._feature_kernels import feature_room, measure_into, measure_many
from stretchscope.classify.features import FEATURES, measure_cell
from stretchscope.data.stamps import cell_stamps

COMPILED = os.environ.get("NUMBA_DISABLE_JIT", "0") in ("", "0")
EXAMPLES = 100 if COMPILED else 40


def assert_same_features(slow_features, mask, transmission, known, pixel_um=None):
    found = measure_cell(mask, transmission, known, pixel_um=pixel_um)
    expected = slow_features.measure_cell(mask, transmission, known, pixel_um=pixel_um)
    assert list(found) == list(expected)
    unit = "px" if pixel_um is None else "um"
    round_mask = expected[f"major_axis_{unit}"] - expected[f"minor_axis_{unit}"] < 1e-5 * expected[f"major_axis_{unit}"]
    for name, value in expected.items():
        if name == "orientation_rad":  # of an axis; without one axis longer than the other, rounding decides
            assert round_mask or abs(np.sin(found[name] - value)) < 1e-9
        elif name == "tilt_rad" and expected["eccentricity"] < 1e-5:
            continue
        else:
            # roots of what rounding leaves of zero
            tolerance = 1e-6 if name.startswith(("eccentricity", "minor_axis")) else 1e-12
            assert found[name] == pytest.approx(value, rel=1e-9, abs=tolerance, nan_ok=True), name


def masks():
    """Masks of every kind, by name."""
    frame = np.zeros((9, 12), dtype=bool)

    def of(*index):
        mask = frame.copy()
        for i in index:
            mask[i] = True
        return mask

    hole = of(np.s_[1:8, 2:9])
    hole[3:6, 4:6] = False
    island = hole.copy()
    island[4, 4] = True
    return {
        "pixel": of((4, 5)),
        "corner": of((0, 0)),
        "line along": of(np.s_[2:8, 5]),
        "line across": of(np.s_[4, :]),
        "diagonal": of(*[(i, i) for i in range(8)]),
        "other diagonal": of(*[(i, 9 - i) for i in range(8)]),
        "tee": of(np.s_[4, 2:9], np.s_[4:8, 5]),
        "two pixels": of((4, 5), (6, 5)),
        "equal parts": of(np.s_[1:4, 2:5], np.s_[5:8, 7:10]),
        "diagonal parts": of(np.s_[2:4, 2:5], np.s_[4:8, 5:7]),
        "hole": hole,
        "island": island,
        "square": of(np.s_[2:7, 3:8]),
        "checkers": np.indices((9, 12)).sum(axis=0) % 2 == 0,
        "full": ~frame,
        "single": np.ones((1, 1), dtype=bool),
        "row": np.ones((1, 7), dtype=bool),
        "column": np.ones((5, 1), dtype=bool),
        "noise": np.random.default_rng(2).random((9, 12)) < 0.4,
    }


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", masks())
def test_odd_masks(slow_features, name, dtype):
    mask = masks()[name]
    transmission = np.random.default_rng(1).uniform(0.3, 1.2, mask.shape).astype(dtype)
    assert_same_features(slow_features, mask, transmission, np.ones(mask.shape, dtype=bool))


@pytest.mark.kernel
@settings(max_examples=EXAMPLES, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), calibrated=st.booleans())
def test_random_masks(slow_features, seed, calibrated):
    """Blobs and noise, some pixels or all of them unknown; dark, bright, and in few steps so that values tie."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(1, 22, 2))
    mask = ndimage.gaussian_filter(rng.normal(size=shape), rng.choice([0, 1, 3]))
    mask = mask >= np.quantile(mask, rng.uniform(0.05, 0.95))
    transmission = 0.8 + 0.5 * rng.normal(size=shape)
    if rng.random() < 0.3:
        transmission = np.round(transmission, 1)
    transmission = transmission.astype(rng.choice([np.float32, np.float64]))
    known = rng.random(shape) < rng.choice([1, 0.8, 0.2, 0])
    transmission[~known] = np.nan
    assert_same_features(slow_features, mask, transmission, known, rng.uniform(0.1, 3) if calibrated else None)


@pytest.mark.skipif(not COMPILED, reason="large images")
@pytest.mark.parametrize("size", [50, 112, 170])
def test_cells(slow_features, size):
    rng = np.random.default_rng(size)
    for stamp in cell_stamps(seed=2, count=6).darkness:
        darkness = ndimage.zoom(stamp, size / stamp.shape[0], order=1)
        transmission = (1 - 0.6 * darkness + 0.02 * rng.normal(size=darkness.shape)).astype(np.float32)
        mask = ndimage.gaussian_filter(darkness, 1) > 0.1
        known = np.ones(mask.shape, dtype=bool)
        known[:, size // 2 : size // 2 + 3] = False
        assert_same_features(slow_features, mask, transmission, known, 0.43)


@pytest.mark.kernel
@pytest.mark.parametrize("level", [0.0, -0.5, 0.5, 2.0**100])
def test_constant_transmission(slow_features, level):
    """Also outside of what an optical density or a texture level can tell."""
    mask = np.ones((6, 7), dtype=bool)
    assert_same_features(slow_features, mask, np.full(mask.shape, level), mask)


@pytest.mark.kernel
def test_every_feature_is_written():
    mask, out = masks()["tee"], np.full(len(FEATURES), np.inf)
    measure_into(mask, np.random.default_rng(0).uniform(0.1, 1, mask.shape), mask, 0.5, out)
    assert np.isfinite(out).all()


@pytest.mark.kernel
@pytest.mark.parametrize("spread", [1e-7, 1e-3, 1.0])
def test_few_and_many_texture_levels(slow_features, spread):
    """Values so close that hardly any search tells them apart, and neighbours many levels apart."""
    rng = np.random.default_rng(4)
    mask = ndimage.gaussian_filter(rng.normal(size=(16, 18)), 2) > -0.02
    transmission = 0.7 + spread * rng.uniform(-0.8, 1, mask.shape)
    assert_same_features(slow_features, mask, transmission, rng.random(mask.shape) < 0.9)


def extent_of(mask):
    """First and last row, first and last column, and pixels."""
    rows, columns = np.nonzero(mask)
    return rows.min(), rows.max(), columns.min(), columns.max(), rows.size


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_many_cells_as_one_by_one(dtype):
    """Images of different sizes one after another, some with several cells, in any order, some measured twice."""
    rng = np.random.default_rng(3)
    labels, images, known, place, begin = [], [], [], [], 0
    for rows, columns in [(7, 9), (1, 1), (23, 17), (5, 40), (12, 12)]:
        marked = np.zeros((rows, columns), dtype=np.int32)
        marked[: rows // 2 + 1, : columns // 2 + 1] = 1
        marked[rows // 2 + 1 :, columns // 3 :] = 2
        marked[rng.random(marked.shape) < 0.2] = 3 if rows > 1 else 1
        labels.append(marked)
        images.append(rng.uniform(0.1, 1.3, marked.shape).astype(dtype))
        known.append(rng.random(marked.shape) < 0.8)
        place.append((begin, rows, columns))
        begin += marked.size
    cells = [(i, label) for i, marked in enumerate(labels) for label in np.unique(marked[marked > 0])]
    cells = np.array(cells + cells[::-2], dtype=np.int64)
    flat = [np.concatenate([image.ravel() for image in kind]) for kind in (labels, images, known)]
    values = np.full((len(cells), len(FEATURES)), np.inf)
    extents = np.array([extent_of(labels[image] == label) for image, label in cells])
    room = feature_room(23, 40, flat[1])
    measure_many(np.array(place, dtype=np.int64), cells, extents, *flat, 0.4, room, values)
    assert len(cells) > 12
    for row, (image, label) in zip(values, cells, strict=True):
        expected = np.empty(len(FEATURES))
        measure_into(labels[image] == label, images[image], known[image], 0.4, expected)
        np.testing.assert_array_equal(row, expected)
