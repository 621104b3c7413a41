"""A scene of given images: each flows past the line as it is, one after the other.

Before ``acquisition.simulate``, beside ``phantoms``: there, objects are drawn at random places, sizes and angles; here
a picture's pixels have a stated size and stay where they are, so that what is made of the samples can be held against
the picture itself.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ._image_kernels import image_transmission
from .phantoms import OBJECT_DTYPE

MOST_IMAGE_PIXELS = 1 << 24
#: Share of the line that an image may take: beyond, at both ends, there is little light.
WIDEST_SHARE = 0.75

#: Clear pixels between two images, at least.
GAP_PIXELS = 16

_KEPT = 64  # images in memory at a time, and those in use
_BORDER = (
    GAP_PIXELS // 2
)  # clear pixels laid around an image: the spline's ringing has died away there (0.27 per pixel)
_FAINT = 0.05  # darkness that counts as part of an object


class _Picture(NamedTuple):
    darkness: NDArray[np.float32]  # spline coefficients, border included
    dark_pixels: int
    contrast: float


class ImageScene:
    """Images placed one after the other along the flow, in the middle of the line, unturned, with their own contrast.

    Parameters
    ----------
    read : callable
        ``read(index)`` gives image ``index``: transmission, shape (rows, columns), 1 where clear, 0 where opaque; rows
        go along the flow. It is called when the image comes near, in order, and again if it is asked for later.
    names : sequence of str
        Name of each image, "class/name" where it has a label; there are as many images as names.
    pixel_um : float
        Side of a pixel [µm].
    field_of_view_um : float
        Length of the line.
    gap_um : float, optional
        Clear flow between two images, and before the first: 16 pixels, by default, or more.

    Notes
    -----
    Between pixels the cubic spline through them is taken, cut off at clear and opaque; outside an image all is clear.
    Pixel (i, j) of image n is centred at ``first_pixel_um(n)`` plus (j, i)·pixel_um. The object n of the scene has the
    image's number as its kind. Memory: some 64 images and 100 bytes for each image that has come near.
    """

    def __init__(
        self,
        read: Callable[[int], NDArray[np.floating]],
        names: Sequence[str],
        *,
        pixel_um: float,
        field_of_view_um: float,
        gap_um: float | None = None,
    ) -> None:
        for name, value in (("pixel_um", pixel_um), ("field_of_view_um", field_of_view_um)):
            if not 0 < value < math.inf:
                raise ValueError(f"{name} must be finite and above zero, got {value!r}")
        self.pixel_um = pixel_um
        self.field_of_view_um = field_of_view_um
        least = GAP_PIXELS * pixel_um
        self.gap_um = least if gap_um is None else gap_um
        if not least <= self.gap_um < math.inf:
            raise ValueError(f"gap_um must be finite and {GAP_PIXELS} pixels, {least:g} µm, or more, got {gap_um!r}")
        self.kinds = tuple(names)
        self._read = read
        self._objects: list[NDArray[np.void]] = []  # of the images placed so far
        self._first_um: list[float] = []
        self._last_um: list[float] = []
        self._picture = lru_cache(maxsize=_KEPT)(self._prepare)

    @property
    def length_um(self) -> float:
        """Flow that the whole scene takes, a gap behind the last image included; every image is read for it."""
        self._place_to(math.inf)
        return self._end_um() + self.gap_um

    def first_pixel_um(self, index: int) -> tuple[float, float]:
        """Place (x, y) of the centre of an image's pixel (0, 0) [µm]; the images before it are read."""
        while len(self._objects) <= index:
            self._place_next()
        item = self._objects[index]
        edge = self._rim_um + 0.5 * self.pixel_um
        return float(item["x_first_um"]) + edge, float(item["y_first_um"]) + edge

    def transmission(self, x_um: ArrayLike, y_um: ArrayLike) -> NDArray[np.float64]:
        """Transmission at each position; arguments broadcast."""
        x, y = np.broadcast_arrays(np.asarray(x_um, dtype=float), np.asarray(y_um, dtype=float))
        transmission = np.ones(x.shape)
        if not x.size:
            return transmission
        touched = self._touched(float(y.min()), float(y.max()))
        if not len(touched):
            return transmission
        pictures = [self._picture(index).darkness for index in touched]
        sizes = np.array([picture.size for picture in pictures])
        places = np.array([self.first_pixel_um(index) for index in touched]) - _BORDER * self.pixel_um
        image_transmission(
            np.ascontiguousarray(x).ravel(),
            np.ascontiguousarray(y).ravel(),
            1 / self.pixel_um,
            places,
            np.cumsum(sizes) - sizes,
            np.array([picture.shape for picture in pictures], dtype=np.int64),
            np.concatenate([picture.ravel() for picture in pictures]),
            transmission.ravel(),  # a view
        )
        return transmission

    def occupied(self, y_first_um: float, y_last_um: float) -> NDArray[np.float64]:
        """Boxes of the images in a range of y."""
        objects = self.objects(y_first_um, y_last_um)
        return np.column_stack([objects[f"{name}_um"] for name in ("x_first", "x_last", "y_first", "y_last")])

    def objects(self, y_first_um: float, y_last_um: float) -> NDArray[np.void]:
        """Images in a range of y, as objects: their diameter is that of the area darker than 0.05."""
        touched = self._touched(y_first_um, y_last_um)
        return np.array([self._objects[index] for index in touched], dtype=OBJECT_DTYPE)

    @property
    def _rim_um(self) -> float:
        """How far beyond its pixels an image may darken."""
        return (_BORDER - 2) * self.pixel_um

    def _end_um(self) -> float:
        """Where the last image placed ends."""
        return self._last_um[-1] - self._rim_um if self._last_um else 0.0

    def _touched(self, y_first_um: float, y_last_um: float) -> range:
        self._place_to(y_last_um)
        return range(bisect_left(self._last_um, y_first_um), bisect_right(self._first_um, y_last_um))

    def _place_to(self, y_um: float) -> None:
        while len(self._objects) < len(self.kinds) and (not self._first_um or self._first_um[-1] <= y_um):
            self._place_next()

    def _place_next(self) -> None:
        index = len(self._objects)
        picture = self._picture(index)
        rows, columns = (n - 2 * _BORDER for n in picture.darkness.shape)
        width, height = columns * self.pixel_um, rows * self.pixel_um
        if width > WIDEST_SHARE * self.field_of_view_um:
            raise ValueError(
                f"image {self.kinds[index]}: {columns} columns of {self.pixel_um:g} µm are wider than the "
                f"{WIDEST_SHARE * self.field_of_view_um:g} µm of the line that are well lit; take smaller pixels"
            )
        top = self._end_um() + self.gap_um
        left = 0.5 * (self.field_of_view_um - width)
        item = np.zeros((), dtype=OBJECT_DTYPE)
        item["x_um"], item["y_um"] = left + width / 2, top + height / 2
        item["x_first_um"], item["x_last_um"] = left - self._rim_um, left + width + self._rim_um
        item["y_first_um"], item["y_last_um"] = top - self._rim_um, top + height + self._rim_um
        item["diameter_um"] = math.sqrt(4 / math.pi * picture.dark_pixels) * self.pixel_um
        item["contrast"], item["kind"] = picture.contrast, index
        self._objects.append(item)
        self._first_um.append(float(item["y_first_um"]))
        self._last_um.append(float(item["y_last_um"]))

    def _prepare(self, index: int) -> _Picture:
        image = np.asarray(self._read(index), dtype=float)
        name = self.kinds[index]
        if image.ndim != 2 or not image.size:
            raise ValueError(f"image {name}: must have shape (rows, columns), got {image.shape}")
        if image.size > MOST_IMAGE_PIXELS:
            raise ValueError(f"image {name}: {image.size} pixels are too many, at most {MOST_IMAGE_PIXELS}")
        if not (image.min() >= 0 and image.max() <= 1):  # false for NaN too
            raise ValueError(
                f"image {name}: must be transmission, 0 opaque to 1 clear, got {image.min():g} to {image.max():g}; "
                "divide grey values by the clear ground's"
            )
        darkness = np.pad(1 - image, _BORDER)
        coefficients = ndimage.spline_filter(darkness, order=3, output=np.float32, mode="constant")
        return _Picture(coefficients, int(np.count_nonzero(darkness > _FAINT)), float(darkness.max()))
