"""One image file in, one grey or transmission image out: PNG, JPEG and TIFF of any kind.

Under `collections` and `stamps`. A file's header is looked at before a pixel is decoded, so that no size it declares
is believed. Images have shape (rows, columns) as they are stored.
"""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from tifffile import TiffFile

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff"})
MOST_IMAGE_PIXELS = 1 << 24
LEAST_SIDE_PX = 4
POLARITIES = ("dark", "bright")

_FORMATS = ("PNG", "JPEG", "TIFF")
_LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601
_EXACT_MODES = frozenset({"L", "F", "I"})
_UNMISTAKABLE = 4.0  # times brighter than the ground, or as much further from it on the wrong side


class CollectionError(ValueError):
    """Images that cannot be read as a collection; the message says what is wrong, where, and what to do."""


def check_image(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Rows and columns by the header of an image file; nothing is unpacked.

    Raises
    ------
    CollectionError
        If there is no such file, it is empty, no PNG, JPEG or TIFF, has several pages, fewer than 4 x 4 pixels or
        more than 2^24.
    """
    path = Path(path)
    try:
        with _opened(path) as file:
            return file.height, file.width
    except _UnknownTiffError:
        return _plain_tiff(path).shape[:2]


def read_grey(path: str | os.PathLike[str]) -> NDArray[np.float32]:
    """Grey levels of an image file.

    Parameters
    ----------
    path : path-like
        PNG, JPEG or TIFF: grey of 1 to 32 bits or floating point, colour, palette, with transparency or without.

    Returns
    -------
    grey : ndarray of shape (rows, columns), float32
        In the file's own scale; of colours the luminance (ITU-R BT.601), 0 to 255. What is transparent is laid on
        white. Not finite where a floating-point file is not.

    Raises
    ------
    CollectionError
        As `check_image`, and if the pixels are damaged.
    """
    path = Path(path)
    try:
        with _opened(path) as file:
            return _grey_of(file)
    except _UnknownTiffError:
        return _grey_of_samples(_plain_tiff(path))


def _grey_of(file: Image.Image) -> NDArray[np.float32]:
    if file.mode in _EXACT_MODES or file.mode.startswith("I;16"):
        return np.asarray(file).astype(np.float32)
    if file.mode == "1":
        return np.asarray(file).astype(np.float32) * 255
    clear = "transparency" in file.info or file.mode in ("RGBA", "LA", "PA", "RGBa", "La")
    return _grey_of_samples(np.asarray(file.convert("RGBA" if clear else "RGB")))


def _grey_of_samples(samples: np.ndarray) -> NDArray[np.float32]:
    """Grey levels of samples of shape (rows, columns) or (rows, columns, 3 or 4): RGB, or with the opacity."""
    top = np.float32(np.iinfo(samples.dtype).max if samples.dtype.kind in "iu" else 1)
    levels: NDArray[np.float32] = samples.astype(np.float32)
    if levels.ndim == 2:
        return levels
    grey = levels[..., :3] @ _LUMINANCE
    return top + (grey - top) * (levels[..., 3] / top) if levels.shape[2] == 4 else grey


def ground_level(image: NDArray[np.floating]) -> float:
    """Level of the clear ground: the median along the border, where few pixels belong to an object."""
    return float(np.median(np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])))


def transmission_of(grey: NDArray[np.floating], *, polarity: str = "dark") -> NDArray[np.float32]:
    """Transmission by grey levels: 1 on the clear ground, less where the object is dark.

    Parameters
    ----------
    grey : ndarray of shape (rows, columns), float
        Grey levels of any scale. What is not finite is taken for ground.
    polarity : {"dark", "bright"}, optional
        Whether objects are dark on a bright ground. Bright objects on a dark ground have no transmission: they are
        turned about, so that the ground has 1 and the brightest pixel 0.

    Returns
    -------
    transmission : ndarray of shape (rows, columns), float32

    Raises
    ------
    CollectionError
        If the polarity is unmistakably the other one: a ground that is black or four times darker than what
        lies on it, or bright objects asked for where all that lies on the ground is darker.
    """
    finite = np.isfinite(grey)
    if not finite.all():
        if not finite.any():
            raise CollectionError("has no finite pixel")
        grey = np.where(finite, grey, ground_level(np.where(finite, grey, np.median(grey[finite]))))
    ground = ground_level(grey)
    if polarity == "dark":
        _require_bright_ground(grey, ground)
        return (grey / np.float32(ground)).astype(np.float32)
    if polarity != "bright":
        raise ValueError(f"polarity must be 'dark' or 'bright', got {polarity!r}")
    above, below = float(grey.max()) - ground, ground - float(grey.min())
    if below > _UNMISTAKABLE * above:
        raise CollectionError("shows a dark object on a bright ground; give polarity 'dark'")
    return (1 - (grey - np.float32(ground)) / np.float32(above or 1)).astype(np.float32)


def _require_bright_ground(grey: NDArray[np.floating], ground: float) -> None:
    top = float(grey.max())
    if ground > 0 and top > _UNMISTAKABLE * ground:
        top = float(np.quantile(grey, 0.99))  # a hot pixel says nothing
    if not ground > 0 or top > _UNMISTAKABLE * ground:
        raise CollectionError(
            f"its ground is dark, level {ground:g} along the border against {top:g} on the object; "
            "give polarity 'bright' if objects are bright on a dark ground"
        )


class _UnknownTiffError(CollectionError):
    """A TIFF that Pillow does not know."""


def _plain_tiff(path: Path) -> NDArray[np.generic]:
    """Samples of a TIFF of more bits than Pillow knows, if they are not packed: doubles, halves, colours of 16 bits."""
    try:
        with TiffFile(path) as file:
            _check_pages(path, len(file.pages))
            page = file.pages.first
            _check_size(path, page.imagelength, page.imagewidth)
            _check_size(path, page.tilelength or LEAST_SIDE_PX, page.tilewidth or LEAST_SIDE_PX)
            plain = page.compression == 1 and page.dtype is not None and page.dtype.kind in "iuf"
            if not plain or page.axes not in ("YX", "YXS") or (page.axes == "YXS" and page.shape[2] not in (3, 4)):
                raise CollectionError(f"{path}: is a TIFF of an uncommon kind; save it as 8 or 16 bits per sample")
            samples: NDArray[np.generic] = page.asarray()
            return samples
    except CollectionError:
        raise
    except Exception as error:  # what tifffile raises on a damaged file is not said anywhere
        raise CollectionError(f"{path}: cannot be read as an image: {error}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image file whose header is found harmless; what goes wrong while it is open becomes a CollectionError."""
    try:
        if path.stat().st_size == 0:
            raise CollectionError(f"{path}: is empty (0 bytes)")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata; what cannot be read raises
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=_FORMATS) as file:
                _check_header(path, file)
                yield file
    except CollectionError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise CollectionError(f"{path}: has more pixels than the {MOST_IMAGE_PIXELS} allowed") from error
    except FileNotFoundError as error:
        raise CollectionError(f"{path}: no such file") from error
    except UnidentifiedImageError as error:
        kind = _UnknownTiffError if path.suffix.lower() in (".tif", ".tiff") else CollectionError
        raise kind(f"{path}: cannot be read as an image: it is no PNG, JPEG or TIFF") from error
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, MemoryError, EOFError) as error:
        raise CollectionError(f"{path}: cannot be read as an image: {error}") from error


def _check_header(path: Path, file: Image.Image) -> None:
    _check_size(path, file.height, file.width)
    if file.format == "TIFF":
        _check_pages(path, getattr(file, "n_frames", 1))


def _check_size(path: Path, rows: int, columns: int) -> None:
    if rows * columns > MOST_IMAGE_PIXELS:
        raise CollectionError(f"{path}: {rows * columns} pixels are too many; cut it to {MOST_IMAGE_PIXELS} or fewer")
    if min(rows, columns) < LEAST_SIDE_PX:
        raise CollectionError(
            f"{path}: must have {LEAST_SIDE_PX} x {LEAST_SIDE_PX} pixels or more, has {columns} x {rows}"
        )


def _check_pages(path: Path, pages: int) -> None:
    if pages > 1:
        raise CollectionError(f"{path}: has {pages} pages; give a file for each image")
