"""Pictures of cells against an independent resampling, and where they show nothing."""

import numpy as np
import pytest
from PIL import Image

from stretchscope.classify._picture_kernels import draw_squares, mark_ends
from stretchscope.classify.pictures import SIDE_PX, pictures_of_crops, pictures_of_images

CLEAR = 150


def draw(image: np.ndarray, square: tuple[float, float, float], side: int = SIDE_PX) -> np.ndarray:
    """One square of an image of transmission."""
    pictures = np.empty((1, side, side), np.uint8)
    place = np.array([[0, *image.shape]], np.int64)
    draw_squares(
        place, image.astype(np.float32).ravel(), np.array([square]), np.float32(CLEAR), np.float32(1), pictures
    )
    return pictures[0]


def textured(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0.1, 1.5, (rows, columns)).astype(np.float32)


@pytest.mark.kernel
@pytest.mark.parametrize(
    "square", [(8.0, 8.0, 48.0), (5.25, 7.5, 61.3), (10.0, 12.0, 96.0), (3.3, 4.4, 120.7), (1, 2, 300)]
)
def test_squares_are_drawn_as_pillow_draws_them(square: tuple[float, float, float]) -> None:
    """Pillow's bilinear filter is the same triangle, as wide as the coarser of the two grids."""
    top, left, side = square
    room = 320
    image = np.ones((room, room), np.float32)
    image[:] = textured(room, room)
    box = (left, top, left + side, top + side)
    expected = np.asarray(Image.fromarray(image).resize((SIDE_PX, SIDE_PX), Image.Resampling.BILINEAR, box=box))
    found = draw(image, square)[2:-2, 2:-2]  # Pillow takes nothing from beyond the box
    assert np.abs(found - np.clip(CLEAR * expected, 0, 255)[2:-2, 2:-2]).max() <= 1.0


@pytest.mark.kernel
def test_a_square_of_the_pictures_size_is_the_image_itself() -> None:
    image = np.random.default_rng(1).integers(0, 256, (40, 40)).astype(np.uint8)
    pictures = np.empty((1, 40, 40), np.uint8)
    place, square = np.array([[0, 40, 40]], np.int64), np.array([[0.0, 0.0, 40.0]])
    draw_squares(place, image.ravel(), square, np.float32(1), np.float32(CLEAR), pictures)
    np.testing.assert_array_equal(pictures[0], image)


@pytest.mark.kernel
@pytest.mark.parametrize("square", [(-30.0, -20.0, 80.0), (-500.0, 3.0, 40.0), (3.0, 900.0, 40.0), (-5.0, -5.0, 400.0)])
def test_beyond_the_image_all_is_clear(square: tuple[float, float, float]) -> None:
    """The same as from an image with clear ground around it."""
    image = textured(24, 30)
    room = 1000
    padded = np.ones((24 + 2 * room, 30 + 2 * room), np.float32)
    padded[room : room + 24, room : room + 30] = image
    top, left, side = square
    np.testing.assert_array_equal(draw(image, square), draw(padded, (top + room, left + room, side)))


@pytest.mark.kernel
def test_what_is_not_known_is_clear() -> None:
    image = textured(50, 50)
    image[10:20, 10:30] = np.nan
    known = np.nan_to_num(image, nan=1.0)
    np.testing.assert_array_equal(draw(image, (2.0, 3.0, 44.0)), draw(known, (2.0, 3.0, 44.0)))


@pytest.mark.kernel
def test_many_are_drawn_as_one_after_the_other() -> None:
    images = [textured(20, 35, 1), textured(64, 18, 2), textured(90, 90, 3)]
    squares = [(2.0, 3.0, 25.0), (-3.0, 1.0, 70.0), (0.0, 0.0, 300.0)]
    flat = np.concatenate([image.ravel() for image in images])
    ends = np.cumsum([image.size for image in images])
    place = np.array([[end - i.size, *i.shape] for end, i in zip(ends, images, strict=True)], np.int64)
    pictures = np.empty((3, SIDE_PX, SIDE_PX), np.uint8)
    draw_squares(place, flat, np.array(squares), np.float32(CLEAR), np.float32(1), pictures)
    for picture, image, square in zip(pictures, images, squares, strict=True):
        np.testing.assert_array_equal(picture, draw(image, square))


@pytest.mark.kernel
def test_ends_of_masks() -> None:
    random = np.random.default_rng(0)
    masks = random.uniform(size=(60, 9, 13)) < 0.04
    masks[0], masks[1] = False, True
    ends = np.empty((60, 4), np.int64)
    mark_ends(masks, ends)
    for mask, found in zip(masks, ends, strict=True):
        rows, columns = np.nonzero(mask if mask.any() else ~mask)
        assert found.tolist() == [rows.min(), rows.max(), columns.min(), columns.max()]


def test_a_cell_is_shown_whole_whatever_its_place_in_the_crop() -> None:
    """Moved by whole pixels, on clear ground: the same picture; its side, with room, is told in µm."""
    crops, masks = np.full((2, 64, 64), CLEAR, np.uint8), np.zeros((2, 64, 64), bool)
    cell = np.random.default_rng(0).integers(0, 120, (20, 12))
    for i, (top, left) in enumerate([(10, 10), (31, 40)]):
        crops[i, top : top + 20, left : left + 12] = cell
        masks[i, top : top + 20, left : left + 12] = True
    a, b = pictures_of_crops(crops, masks, pixel_um=0.5)
    np.testing.assert_array_equal(a["levels"], b["levels"])
    assert a["side"] == b["side"] == pytest.approx(0.5 * (20 * 1.2 + 4))


def test_grey_levels_and_their_transmission_make_the_same_picture() -> None:
    crops = np.random.default_rng(0).integers(0, 256, (5, 40, 40)).astype(np.uint8)
    masks = np.zeros((5, 40, 40), bool)
    masks[:, 5:30, 8:33] = True
    levels = pictures_of_crops(crops, masks)["levels"].astype(int)
    for dtype in (np.float32, np.float64):
        drawn = pictures_of_crops(crops.astype(dtype) / CLEAR, masks)["levels"]
        assert np.abs(levels - drawn).max() <= 1


def test_photographs_are_shown_around_what_is_not_clear() -> None:
    image = np.ones((200, 300), np.float32)
    image[50:90, 100:160] = 0.5
    (picture,) = pictures_of_images([image])
    # a smoothed edge reaches a pixel further
    assert picture["side"] == pytest.approx(62 * 1.2 + 4)
    assert picture["levels"][SIDE_PX // 2, SIDE_PX // 2] == 75
    assert picture["levels"][0, 0] == CLEAR


def test_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        pictures_of_crops(np.zeros((2, 8, 8), np.uint8), np.zeros((2, 8, 9), bool))
