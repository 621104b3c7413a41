"""HDF5 files of single-cell images: the events of `.rtdc` files, and plain stacks.

Under `collections`. Files come from strangers and are opened by way of `acquisition.hdf5_safety`. They are closed
again after each block that is read, so that what reads them can be sent to other processes.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from ..acquisition.hdf5_safety import (
    has_link,
    hdf5_errors,
    link_names,
    open_file,
    plain_dataset,
    plain_group,
    read_number,
    read_text,
    stored_length,
)
from ..acquisition.metadata import CaptureError
from .images import LEAST_SIDE_PX, MOST_IMAGE_PIXELS, CollectionError, transmission_of

HDF5_SUFFIXES = frozenset({".rtdc", ".h5", ".hdf5"})

_BLOCK_BYTES = 1 << 20
_LEAST_FRAMES, _FRAME_PIXELS = 5, 1 << 22  # for what frames have in common
_IMAGE_TYPES = ("uint8", "uint16", "float32")
_MOST_TEXT = 1 << 12


@dataclass(frozen=True)
class EventFile:
    """The images of an HDF5 file.

    Attributes
    ----------
    path : Path
    group : str
        Group of the images; empty for the root.
    images, background, masks : str
        Names of the datasets of images, of what lay behind them and of the cells' pixels; empty where there is none.
    shape : (int, int, int)
        Number of images, and rows and columns of each as stored.
    transmission : (float, float) or None
        Transmission of grey levels 0 and 255, where the file states them.
    transposed : bool
        Whether the flow is stored along the columns.
    polarity : str
        As `images.transmission_of` takes it.
    labels : tuple of str or None
        Class of each image, where the file says.
    pixel_um : float or None
        Side of a pixel [µm].
    """

    path: Path
    group: str
    images: str
    background: str
    masks: str
    shape: tuple[int, int, int]
    transmission: tuple[float, float] | None
    transposed: bool
    polarity: str
    labels: tuple[str | None, ...]
    pixel_um: float | None

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, index: int) -> NDArray[np.float32]:
        grey = self._stored(self.images, index).astype(np.float32)
        if self.transmission is not None:
            low, high = self.transmission
            image = low + grey * np.float32((high - low) / 255)
        elif self.background:
            behind = self._stored(self.background, index).astype(np.float32)
            image = np.divide(grey, behind, out=np.ones_like(grey), where=behind > 0)
        elif self.transposed:  # a whole camera frame, most of which is empty, between the dark walls of a channel
            behind = self._usual()
            image = np.divide(grey, behind, out=np.ones_like(grey), where=behind > 0)
            usual = np.median(image)
            if not usual > 0:
                raise CollectionError(f"{self._where(index)}: more than half of it is black")
            image /= usual
        else:
            try:
                image = transmission_of(grey, polarity=self.polarity)
            except CollectionError as error:
                raise CollectionError(f"{self._where(index)}: {error}") from error
        return np.ascontiguousarray(image.T if self.transposed else image, dtype=np.float32)

    def mask(self, index: int) -> NDArray[np.bool_] | None:
        if not self.masks:
            return None
        mask = self._stored(self.masks, index).astype(bool)
        return np.ascontiguousarray(mask.T if self.transposed else mask) if mask.any() else None

    def content(self, index: int) -> bytes:
        image = self._stored(self.images, index)
        return repr(image.shape).encode() + image.tobytes()

    def cell(self, index: int) -> str | None:
        return None

    def _usual(self) -> NDArray[np.float32]:
        """What the frames have in common; a constant where they are too few to tell."""
        n, rows, columns = self.shape
        if n < _LEAST_FRAMES:
            return np.ones((rows, columns), dtype=np.float32)
        return _median_image(self.path, self._modified(), self.group, self.images, self.shape)

    def _modified(self) -> int:
        try:
            return self.path.stat().st_mtime_ns
        except OSError as error:
            raise CollectionError(f"{self.path}: cannot be read: {error.strerror}") from error

    def _where(self, index: int) -> str:
        return f"{self.path}, image {index}"

    def _stored(self, name: str, index: int) -> NDArray[np.generic]:
        n, rows, columns = self.shape
        step = max(1, _BLOCK_BYTES // (rows * columns))
        first = index // step * step
        return _block(self.path, self._modified(), self.group, name, first, min(first + step, n))[index - first]


def open_events(path: Path, polarity: str) -> EventFile:
    """Open an HDF5 file of images; no image is read.

    Parameters
    ----------
    path : Path
        An `.rtdc` file, or a stack: a dataset ``images`` of shape (N, rows, columns) in the root group, if wanted with
        ``labels`` (N) of text and an attribute ``pixel_um``.
    polarity : str
        Of the objects of a stack.

    Raises
    ------
    CollectionError
        If it cannot be read, holds no images, or keeps them outside the file.
    """
    try:
        file, _ = open_file(path)
        with file, hdf5_errors(path):
            if has_link(file, "events"):
                return _open_rtdc(path, file)
            if has_link(file, "images"):
                return _open_stack(path, file, polarity)
            if read_text(file, "format") == "stretchscope image":
                raise CaptureError(
                    f"{path}: is the image of every line, not of single cells; name the .rtdc file beside it"
                )
            found = ", ".join(link_names(file)) or "nothing"
            raise CaptureError(
                f"{path}: holds no images, its root holds {found}; if it is a capture, run `stretchscope process` and "
                "name the .rtdc file that it writes"
            )
    except CaptureError as error:
        raise CollectionError(str(error)) from error


def _open_rtdc(path: Path, file: h5py.File) -> EventFile:
    events = plain_group(file, "events")
    if not has_link(events, "image"):
        raise CaptureError(f"{path}: has no images of its events")
    shape = _checked_shape(path, plain_dataset(events, "image", rank=3))
    background = "image_bg" if has_link(events, "image_bg") else ""
    if background and plain_dataset(events, background, rank=3).shape != shape:
        raise CaptureError(f"{path}: images and backgrounds (image_bg) have different shapes")
    masks = "mask" if has_link(events, "mask") else ""
    if masks and plain_dataset(events, masks, rank=3).shape != shape:
        masks = ""  # of some files there are more masks than images
    levels = (read_number(file, "user:transmission at 0"), read_number(file, "user:transmission at 255"))
    if not all(level is None or np.isfinite(level) for level in levels):
        raise CaptureError(f"{path}: the transmission of its grey levels is not finite")
    pixel_um = read_number(file, "imaging:pixel size")
    if "imaging:pixel size" in (read_text(file, "user:placeholders") or ""):
        pixel_um = None
    return EventFile(
        path,
        "events",
        "image",
        background,
        masks,
        shape,
        transmission=None if levels[0] is None or levels[1] is None else (float(levels[0]), float(levels[1])),
        transposed=True,
        polarity="dark",
        labels=_rtdc_labels(events, shape[0]),
        pixel_um=float(pixel_um) if pixel_um is not None and np.isfinite(pixel_um) and pixel_um > 0 else None,
    )


def _open_stack(path: Path, file: h5py.File, polarity: str) -> EventFile:
    shape = _checked_shape(path, plain_dataset(file, "images", rank=3))
    labels: tuple[str | None, ...] = (None,) * shape[0]
    if has_link(file, "labels"):
        stored = plain_dataset(file, "labels")
        if len(stored) != shape[0] or stored_length(stored) < shape[0]:
            raise CaptureError(f"{path}: has {shape[0]} images, but {stored_length(stored)} labels")
        if stored.dtype.kind not in "OSiu" or stored.dtype.itemsize > _MOST_TEXT:
            raise CaptureError(f"{path}: labels must be text or whole numbers, are {stored.dtype}")
        values = [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in stored[:]]
        labels = tuple(value or None for value in values)
    pixel_um = read_number(file, "pixel_um")
    if pixel_um is not None and not (np.isfinite(pixel_um) and pixel_um > 0):
        raise CaptureError(f"{path}: attribute 'pixel_um' must be above zero, is {pixel_um:g}")
    return EventFile(
        path, "", "images", "", "", shape, None, False, polarity, labels, None if pixel_um is None else float(pixel_um)
    )


def _checked_shape(path: Path, images: h5py.Dataset) -> tuple[int, int, int]:
    n, rows, columns = (int(size) for size in images.shape)
    where = f"{path}: dataset '{images.name}'"
    if images.dtype.name not in _IMAGE_TYPES:
        raise CaptureError(f"{where} must be {', '.join(_IMAGE_TYPES)}, is {images.dtype}")
    if n == 0:
        raise CaptureError(f"{path}: holds no image")
    if min(rows, columns) < LEAST_SIDE_PX or rows * columns > MOST_IMAGE_PIXELS:
        raise CaptureError(
            f"{where}: images of {rows} x {columns} pixels; must have {LEAST_SIDE_PX} x {LEAST_SIDE_PX} or more, "
            f"{MOST_IMAGE_PIXELS} or fewer in all"
        )
    if stored_length(images) < n:
        raise CaptureError(f"{where} declares {n} images, but only {stored_length(images)} are stored")
    return n, rows, columns


def _rtdc_labels(events: h5py.Group, n: int) -> tuple[str | None, ...]:
    """Classes by the scores of a model, named by their three letters, or else by number."""
    names = sorted(name for name in link_names(events, 1 << 10) if name.startswith("ml_score_"))
    if names:
        scores = np.stack([_scalars(events, name, n) for name in names])
        scores[~np.isfinite(scores)] = -np.inf
        best, known = scores.argmax(axis=0).tolist(), (scores.max(axis=0) > -np.inf).tolist()
        return tuple(
            names[number][len("ml_score_") :] if has else None for number, has in zip(best, known, strict=True)
        )
    if has_link(events, "ml_class"):
        return tuple(f"{value:g}" if np.isfinite(value) else None for value in _scalars(events, "ml_class", n))
    return (None,) * n


def _scalars(events: h5py.Group, name: str, n: int) -> NDArray[np.float64]:
    dataset = plain_dataset(events, name)
    if len(dataset) != n or stored_length(dataset) < n or dataset.dtype.kind not in "iuf":
        raise CaptureError(f"{events.file.filename}: events/{name} must have {n} numbers")
    return np.asarray(dataset[:], dtype=np.float64)


@lru_cache(maxsize=8)
def _block(path: Path, modified_ns: int, group: str, name: str, first: int, stop: int) -> NDArray[np.generic]:
    """Images that follow each other in a file of some age."""
    try:
        file, _ = open_file(path)
        with file, hdf5_errors(path):
            dataset = plain_dataset(plain_group(file, group) if group else file, name, rank=3)
            images: NDArray[np.generic] = dataset[first:stop]
    except CaptureError as error:
        raise CollectionError(str(error)) from error
    if len(images) < stop - first:
        raise CollectionError(f"{path}: has fewer images than when it was opened")
    images.flags.writeable = False
    return images


@lru_cache(maxsize=4)
def _median_image(
    path: Path, modified_ns: int, group: str, name: str, shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Median of frames spread evenly over a file of some age."""
    n, rows, columns = shape
    count = min(n, max(_LEAST_FRAMES, _FRAME_PIXELS // (rows * columns)))
    frames = [
        _block(path, modified_ns, group, name, i, i + 1)[0] for i in np.linspace(0, n - 1, count).astype(int).tolist()
    ]
    return np.median(frames, axis=0).astype(np.float32)
