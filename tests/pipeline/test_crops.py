"""Seeds, extents and crops of cells in flat arrays, against numpy on each image alone."""

import numpy as np
import pytest
from scipy import ndimage

from stretchscope.pipeline._crop_kernels import cut_many, draw_seeds, mark_repeated, measure_extents

pytestmark = pytest.mark.kernel


def images_with_cells(rng: np.random.Generator, count: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Labels and transmissions of images, with several cells each, some pixels not known."""
    labels, transmissions = [], []
    for _ in range(count):
        shape = tuple(int(n) for n in rng.integers(2, 90, 2))
        smooth = ndimage.gaussian_filter(rng.normal(size=shape), rng.choice([0.5, 3, 8]))
        marked, _ = ndimage.label(smooth >= np.quantile(smooth, rng.uniform(0.1, 0.9)))
        transmission = rng.uniform(-0.2, 1.6, shape).astype(np.float32)
        transmission[rng.random(shape) < 0.1] = np.nan
        labels.append(marked.astype(np.int32))
        transmissions.append(transmission)
    return labels, transmissions


def flat(images: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Place of images in a flat array, and that array."""
    begins = np.cumsum([0] + [image.size for image in images[:-1]])
    place = np.array([(begin, *image.shape) for begin, image in zip(begins, images, strict=True)], dtype=np.int64)
    return place, np.concatenate([image.ravel() for image in images])


@pytest.mark.parametrize(("at_0", "at_255"), [(0.0, 1.275), (0.13, 1.2)])
@pytest.mark.parametrize("side", [16, 31, 96])
def test_crops_show_what_lies_around_a_cell(side: int, at_0: float, at_255: float) -> None:
    """Each pixel of the square lies where the image's does; what is unknown, further than 16 pixels from the cell's
    extent, or beyond the image, is empty."""
    rng, room, levels = np.random.default_rng(side), 16, 255 / (at_255 - at_0)
    labels, transmissions = images_with_cells(rng, 4)
    cells = np.array([(i, n) for i, image in enumerate(labels) for n in range(1, image.max() + 1)], dtype=np.int64)
    place, all_labels = flat(labels)
    _, all_transmissions = flat(transmissions)
    n = len(cells)
    extents, shown = np.empty((n, 5), np.int64), np.empty(n, np.int64)
    crops, masks = np.empty((n, side, side), np.uint8), np.empty((n, side, side), np.bool_)
    measure_extents(place, cells, all_labels, extents)
    cut_many(place, cells, extents, all_labels, all_transmissions, room, at_0, levels, crops, masks, shown)
    empty = np.clip(np.rint((1 - at_0) * levels), 0, 255)
    for i, (image, label) in enumerate(cells):
        mask, transmission = labels[image] == label, transmissions[image]
        rows, columns = np.nonzero(mask)
        box = rows.min(), rows.max(), columns.min(), columns.max()
        assert extents[i].tolist() == [*box, mask.sum()]
        grey = np.where(np.isnan(transmission), empty, np.clip((transmission - at_0) * levels, 0, 255))
        r, c = np.indices(mask.shape)
        grey[(r < box[0] - room) | (r > box[1] + room) | (c < box[2] - room) | (c > box[3] + room)] = empty
        top, left = (box[0] + box[1] - side + 2) // 2, (box[2] + box[3] - side + 2) // 2
        pad = ((side, side), (side, side))
        square = slice(top + side, top + 2 * side), slice(left + side, left + 2 * side)
        expected = np.pad(grey, pad, constant_values=empty)[square]
        assert np.abs(crops[i] - expected).max() <= 0.5 + 1e-4
        inside = np.pad(mask, pad)[square]
        assert shown[i] == inside.sum()
        if inside.any():
            np.testing.assert_array_equal(masks[i], inside)
        else:
            assert masks[i].sum() == masks[i, side // 2, side // 2] == 1


def test_seeds_are_the_pixels_in_the_bins() -> None:
    """Two events of one map, one of them partly beyond its image."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, (12, 9)).astype(np.int32)
    boxes, groups = np.array([[1, 6, 2, 8], [4, 11, 0, 5]]), np.array([1, 2])
    steps = np.array([[-1.3, 0.21, -0.7, 0.4], [2.2, 0.16, 1.1, 0.25]])
    place = np.array([[0, 40, 25], [1000, 50, 30]])
    seeds = np.ones(2500, np.bool_)
    draw_seeds(labels, boxes, groups, steps, place, seeds)
    for (top, bottom, left, right), group, (r0, dr, c0, dc), (begin, rows, columns) in zip(
        boxes, groups, steps, place, strict=True
    ):
        bins = labels[top : bottom + 1, left : right + 1] == group
        r, c = np.floor(r0 + np.arange(rows) * dr).astype(int), np.floor(c0 + np.arange(columns) * dc).astype(int)
        inside = ((r >= 0) & (r < bins.shape[0]))[:, None] & (c >= 0) & (c < bins.shape[1])
        expected = inside & bins[np.clip(r, 0, bins.shape[0] - 1)][:, np.clip(c, 0, bins.shape[1] - 1)]
        np.testing.assert_array_equal(seeds[begin : begin + rows * columns].reshape(rows, columns), expected)


def test_of_boxes_of_one_cell_the_first_stays() -> None:
    boxes = np.array([[0, 10, 0, 10], [1, 11, 1, 10], [0, 10, 8, 18], [2, 9, 1, 9], [20, 30, 0, 10.0]])
    assert mark_repeated(boxes, 0.7).tolist() == [False, True, False, True, False]
