"""What a classifier sees of a cell: a square picture of one size, and how large a square it shows.

After :mod:`.segment`, before :mod:`.runtime` and the training. A cell fills its picture whatever its size, with some
room around it; the size goes beside it, as a number. So one model takes crops of a capture and photographs of any
size, and sees the same.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from ._picture_kernels import draw_squares, mark_ends

#: Grey levels per unit of transmission in a picture: a clear pixel has level 150, as in .rtdc files.
LEVELS_PER_TRANSMISSION = 150.0
#: Pixels along a picture's side.
SIDE_PX = 96
#: Room around a cell: this share of its longer side at either end, and so many pixels.
_ROOM, _ROOM_PX = 0.1, 2.0
#: What deviates from clear by less, once smoothed, is no part of an object in a photograph.
_FAINT = 0.03


#: One picture: grey levels (transmission times ``LEVELS_PER_TRANSMISSION``), and the side of the square that it shows
#: [µm, or pixels of the image it was drawn from].
PICTURE_DTYPE = np.dtype([("levels", "u1", (SIDE_PX, SIDE_PX)), ("side", "f4")])


def pictures_of_crops(crops: np.ndarray, masks: np.ndarray, *, pixel_um: float | None = None) -> np.ndarray:
    """Pictures of cells from crops of one size, each around the cell's own mask.

    Parameters
    ----------
    crops : ndarray of shape (N, rows, columns), float or uint8
        Transmission, NaN where it is not known; or grey levels, as pictures have them.
    masks : ndarray of shape (N, rows, columns), bool
        The pixels of the cells.
    pixel_um : float, optional
        Side of a pixel [µm]; without it, sides are in pixels.

    Returns
    -------
    pictures : ndarray of shape (N,), PICTURE_DTYPE

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if crops.ndim != 3 or crops.shape != masks.shape:
        raise ValueError(f"crops and masks must have one shape (N, rows, columns), got {crops.shape} and {masks.shape}")
    count, rows, columns = crops.shape
    values = crops if crops.dtype == np.uint8 else crops.astype(np.float32, copy=False)
    place = np.empty((count, 3), np.int64)
    place[:, 0] = np.arange(count) * (rows * columns)
    place[:, 1:] = rows, columns
    boxes = np.empty((count, 4), np.int64)
    mark_ends(np.ascontiguousarray(masks, dtype=np.bool_), boxes)
    return _draw(place, values.ravel(), _squares(boxes), pixel_um)


def pictures_of_images(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray | None] | None = None, *, pixel_um: float | None = None
) -> np.ndarray:
    """Pictures of single objects from photographs of any size, each around all that is not clear in it.

    Parameters
    ----------
    images : sequence of ndarray of shape (rows, columns), float32
        Transmission, 1 where clear.
    masks : sequence of ndarray of shape (rows, columns), bool, or None, optional
        Pixels of the object, where they are known.
    pixel_um : float, optional
        Side of a pixel [µm]; without it, sides are in pixels.

    Returns
    -------
    pictures : ndarray of shape (N,), PICTURE_DTYPE
    """
    if not images:
        return np.empty(0, PICTURE_DTYPE)
    shapes = np.array([image.shape for image in images], dtype=np.int64)
    ends = np.cumsum(shapes[:, 0] * shapes[:, 1])
    place = np.column_stack([np.append(0, ends[:-1]), shapes])
    known = [None] * len(images) if masks is None else masks
    boxes = np.empty((len(images), 4), np.int64)
    for box, image, mask in zip(boxes, images, known, strict=True):
        mark_ends(_deviating(image)[None] if mask is None else np.ascontiguousarray(mask, np.bool_)[None], box[None])
    values = np.concatenate([np.ravel(image) for image in images]).astype(np.float32, copy=False)
    return _draw(place, values, _squares(boxes), pixel_um)


def _draw(place: np.ndarray, values: np.ndarray, squares: np.ndarray, pixel_um: float | None) -> np.ndarray:
    """Pictures of squares of images, whose flat values are grey levels (uint8) or transmission (float32)."""
    per_value, clear = (1.0, LEVELS_PER_TRANSMISSION) if values.dtype == np.uint8 else (LEVELS_PER_TRANSMISSION, 1.0)
    levels = np.empty((len(place), SIDE_PX, SIDE_PX), np.uint8)
    draw_squares(place, values, squares, np.float32(per_value), np.float32(clear), levels)
    pictures = np.empty(len(place), PICTURE_DTYPE)
    pictures["levels"], pictures["side"] = levels, squares[:, 2] * (pixel_um or 1.0)
    return pictures


def _squares(boxes: np.ndarray) -> np.ndarray:
    """Squares around boxes (first and last row, first and last column), with room; float64 (N, 3)."""
    boxes = boxes.astype(float)
    extent = np.stack([boxes[:, 1] - boxes[:, 0], boxes[:, 3] - boxes[:, 2]], axis=1) + 1
    side = extent.max(axis=1) * (1 + 2 * _ROOM) + 2 * _ROOM_PX
    middle = np.stack([boxes[:, 0] + boxes[:, 1], boxes[:, 2] + boxes[:, 3]], axis=1) / 2 + 0.5
    return np.column_stack([middle - side[:, None] / 2, side])


def _deviating(image: np.ndarray) -> np.ndarray:
    """Pixels of an image that are not clear, once smoothed."""
    smooth = ndimage.uniform_filter(np.nan_to_num(image, nan=1.0), 3, mode="nearest")
    marked: np.ndarray = np.abs(smooth - 1) > _FAINT
    return marked
