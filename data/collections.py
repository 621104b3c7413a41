"""Collections of single-cell images on disk, labelled or not, and how they are split for training.

A folder, a table or a single file becomes one `Collection`, whatever the images are kept in. Names, keys and splits
depend on the images alone, not on their order or on what else is there.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .images import IMAGE_SUFFIXES, POLARITIES, CollectionError, check_image, read_grey, transmission_of

__all__ = [
    "Collection",
    "CollectionError",
    "check_for_training",
    "class_weights",
    "collection_of",
    "fold",
    "open_collection",
    "split",
]

UNLABELLED = -1


class Images(Protocol):
    """Some images that are kept in one way."""

    def __len__(self) -> int: ...

    def read(self, index: int) -> NDArray[np.float32]:
        """Transmission of one, rows along the flow where the flow is known; CollectionError if it is damaged."""

    def content(self, index: int) -> bytes:
        """What makes the image this one, whatever it is called; or what it has in common with those of its cell."""


@dataclass(frozen=True)
class Collection:
    """Images with their labels; made by `open_collection` and `collection_of`.

    Attributes
    ----------
    names : tuple of str, of length N
        Path from the root on, with forward slashes; of images that share a file, ``file#number``.
    labels : ndarray of shape (N,), int32
        Index into ``classes``, -1 where there is no label.
    classes : tuple of str
        Sorted.
    pixel_um : float or None
        Side of a pixel [µm], where all images state the same.
    """

    names: tuple[str, ...]
    labels: NDArray[np.int32]
    classes: tuple[str, ...]
    pixel_um: float | None
    _pool: "_Pool" = field(repr=False, compare=False)
    _rows: NDArray[np.int64] = field(repr=False, compare=False)  # of the pool

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> NDArray[np.float32]:
        """Transmission of an image, shape (rows, columns): 1 on clear ground, less on a dark object.

        Raises
        ------
        CollectionError
            If it cannot be read.
        """
        return self._pool.read(int(self._rows[index]))

    @cached_property
    def groups(self) -> NDArray[np.uint64]:
        """Keys of shape (N,): images of one key, near-duplicates or frames of one cell, belong on one side of a split.

        Made when first asked for, which reads every image once.
        """
        return self._pool.keys[self._rows]

    def select(self, which: ArrayLike) -> "Collection":
        """Some of the images, by index or by a mask of N; classes and keys stay what they are."""
        rows = np.arange(len(self))[np.asarray(which)]
        return replace(self, names=tuple(self.names[i] for i in rows), labels=self.labels[rows], _rows=self._rows[rows])

    def with_classes(self, classes: Iterable[str]) -> "Collection":
        """The images of some classes only, labels counted anew; CollectionError if there is no such class."""
        wanted = tuple(sorted(classes))
        unknown = sorted(set(wanted) - set(self.classes))
        if unknown:
            raise CollectionError(f"no class {unknown[0]!r}; there are {', '.join(self.classes) or 'none'}")
        new = np.full(len(self.classes) + 1, UNLABELLED, dtype=np.int32)  # the last one stands for unlabelled
        for number, name in enumerate(wanted):
            new[self.classes.index(name)] = number
        labels = new[self.labels]
        return replace(self, labels=labels, classes=wanted).select(labels >= 0)


def open_collection(path: str | os.PathLike[str], *, polarity: str = "dark") -> Collection:
    """Open a collection of images; no pixel is read.

    Parameters
    ----------
    path : path-like
        A folder of images (PNG, JPEG, TIFF): its sub-folders are the classes, at whatever depth below them the
        images lie. Images in the folder itself have no label. Names that begin with a dot are passed over.
    polarity : {"dark", "bright"}, optional
        Whether objects in image files are dark on a bright ground; see `images.transmission_of`.

    Returns
    -------
    collection : Collection
        In order of name.

    Raises
    ------
    CollectionError
        If there is nothing to read, or a file is no image by its header, too large or empty.
    """
    path = Path(path)
    if polarity not in POLARITIES:
        raise CollectionError(f"polarity must be 'dark' or 'bright', got {polarity!r}")
    if not path.exists():
        raise CollectionError(f"{path}: no such folder or file; name a folder of images")
    if not path.is_dir():
        raise CollectionError(f"{path}: is no folder; name one that holds images")
    paths = sorted(_files_below(path), key=lambda file: file.relative_to(path).as_posix())
    if not paths:
        raise CollectionError(f"{path}: holds no PNG, JPEG or TIFF image; name a folder of images")
    for file in paths:
        check_image(file)
    names = [file.relative_to(path).as_posix() for file in paths]
    labels = [name.split("/")[0] if "/" in name else None for name in names]
    return _collection(names, labels, [ImageFiles(tuple(paths), polarity)])


def collection_of(
    transmission: Sequence[NDArray[np.floating]],
    labels: Sequence[str | None],
    *,
    names: Sequence[str] | None = None,
    cells: Sequence[str] | None = None,
    pixel_um: float | None = None,
) -> Collection:
    """A collection of images in memory.

    Parameters
    ----------
    transmission : sequence of N ndarrays of shape (rows, columns), float
    labels : sequence of N str or None
        Class of each, None where unknown.
    names : sequence of N str, optional
        Their numbers by default.
    cells : sequence of N str, optional
        What cell an image shows: images of one cell stay on one side of a split, and the name alone says which,
        so that images of the same cells made in another way are split alike.
    pixel_um : float, optional
        Side of a pixel [µm].
    """
    names = [str(number) for number in range(len(transmission))] if names is None else names
    if not len(transmission) == len(labels) == len(names) == len(names if cells is None else cells):
        raise CollectionError("transmission, labels, names and cells must be of one length")
    images = MemoryImages(tuple(transmission), None if cells is None else tuple(cells))
    return _collection(names, labels, [images], pixel_um)


def split(collection: Collection, fractions: Sequence[float], *, seed: int = 0) -> tuple[NDArray[np.int64], ...]:
    """Divide a collection into parts, such as those to train on, to validate and to test.

    Parameters
    ----------
    collection : Collection
    fractions : sequence of float
        Share of each part; they sum to 1.
    seed : int, optional
        Of the choice.

    Returns
    -------
    parts : tuple of ndarray of int64
        Indices of each part's images, in order; together each image once.

    Notes
    -----
    An image's part follows from a hash of its key alone, so that images that are added or renamed move no other.
    Each class is divided in these shares on average, with the scatter of chance. The parts are independent of the
    folds of `fold`, so that a fold's rest can be split once more.
    """
    shares = np.asarray(fractions, dtype=float)
    if shares.ndim != 1 or not (shares > 0).all() or abs(shares.sum() - 1) > 1e-9:
        raise CollectionError(f"fractions must be above zero and sum to 1, got {list(fractions)}")
    part = np.searchsorted(np.cumsum(shares)[:-1], _chance(collection.groups, f"split {seed}"), side="right")
    return tuple(np.flatnonzero(part == number) for number in range(shares.size))


def fold(collection: Collection, folds: int = 5, *, seed: int = 0) -> NDArray[np.int32]:
    """Fold of each image for cross-validation, 0 to ``folds`` - 1; shape (N,). See `split` for how it is chosen."""
    if folds < 2:
        raise CollectionError(f"folds must be 2 or more, got {folds}")
    return (_chance(collection.groups, f"fold {seed}") * folds).astype(np.int32)


def class_weights(labels: NDArray[np.integer]) -> NDArray[np.float64]:
    """Weights of classes, shape (K,), that make all count alike, 1 on average over the images.

    Parameters
    ----------
    labels : ndarray of shape (N,), int
        Classes 0 to K - 1; what is below zero does not count. A class without images has weight 0.
    """
    counts = np.bincount(labels[labels >= 0])
    present = np.count_nonzero(counts)
    return np.divide(counts.sum() / max(present, 1), counts, out=np.zeros(counts.size), where=counts > 0)


def check_for_training(collection: Collection, train: NDArray[np.integer] | None = None) -> None:
    """Raise a CollectionError where a classifier cannot be trained on a collection.

    There must be two classes or more, two images of each or more, that are not duplicates of each other, and, where
    ``train`` has the indices to train on, an image of each class among them.
    """
    counts = np.bincount(collection.labels[collection.labels >= 0], minlength=len(collection.classes))
    if len(counts) < 2:
        found = f"one class only ({collection.classes[0]})" if len(counts) else "no labels"
        raise CollectionError(f"the collection has {found}; training needs two classes or more, a folder for each")
    for name, count in zip(collection.classes, counts.tolist(), strict=True):
        if count < 2:
            raise CollectionError(
                f"class {name!r} has {count or 'no'} image; training needs two or more: add some, or leave it out"
            )
    for number, name in enumerate(collection.classes):
        if np.unique(collection.groups[collection.labels == number]).size < 2:
            raise CollectionError(
                f"all images of class {name!r} are duplicates of each other; add others, or leave it out"
            )
        if train is not None and not (collection.labels[train] == number).any():
            raise CollectionError(
                f"no image of class {name!r} fell into the part to train on; add images, or leave the class out"
            )


@dataclass(frozen=True)
class ImageFiles:
    """Image files."""

    paths: tuple[Path, ...]
    polarity: str

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> NDArray[np.float32]:
        path = self.paths[index]
        grey = read_grey(path)
        try:
            return transmission_of(grey, polarity=self.polarity)
        except CollectionError as error:
            raise CollectionError(f"{path}: {error}") from error

    def content(self, index: int) -> bytes:
        try:
            return self.paths[index].read_bytes()  # what is decoded may differ in the last bit between libraries
        except OSError as error:
            raise CollectionError(f"{self.paths[index]}: cannot be read: {error.strerror}") from error


@dataclass(frozen=True)
class MemoryImages:
    """Transmission images in memory, and the names of their cells."""

    transmission: tuple[NDArray[np.floating], ...]
    cells: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.transmission)

    def read(self, index: int) -> NDArray[np.float32]:
        return np.asarray(self.transmission[index], dtype=np.float32)

    def content(self, index: int) -> bytes:
        if self.cells is not None:
            return self.cells[index].encode()
        image = self.read(index)
        return repr(image.shape).encode() + image.tobytes()


class _Pool:
    """All images of a collection as it was opened; its subsets share it."""

    def __init__(self, parts: Sequence[Images]) -> None:
        self._parts = tuple(parts)
        self._ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, row: int) -> NDArray[np.float32]:
        part, index = self._place(row)
        return part.read(index)

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """Key of each image."""
        return np.array([_hash(self._content(row)) for row in range(len(self))], dtype=np.uint64)

    def _content(self, row: int) -> bytes:
        part, index = self._place(row)
        return part.content(index)

    def _place(self, row: int) -> tuple[Images, int]:
        number = int(np.searchsorted(self._ends, row, side="right"))
        return self._parts[number], row - (int(self._ends[number - 1]) if number else 0)


def _collection(
    names: Sequence[str], labels: Sequence[str | None], parts: Sequence[Images], pixel_um: float | None = None
) -> Collection:
    classes = tuple(sorted({label for label in labels if label is not None}))
    numbers = {name: number for number, name in enumerate(classes)} | {None: UNLABELLED}
    return Collection(
        names=tuple(names),
        labels=np.array([numbers[label] for label in labels], dtype=np.int32),
        classes=classes,
        pixel_um=pixel_um,
        _pool=_Pool(parts),
        _rows=np.arange(len(names)),
    )


def _files_below(folder: Path) -> Iterator[Path]:
    """Image files below a folder; links are followed, each folder is seen once."""
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(here))
        folders[:] = [
            name
            for name in folders
            if not name.startswith((".", "__MACOSX")) and os.path.realpath(os.path.join(here, name)) not in seen
        ]
        for name in files:
            if not name.startswith(".") and Path(name).suffix.lower() in IMAGE_SUFFIXES:
                yield Path(here, name)


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _chance(keys: NDArray[np.uint64], salt: str) -> NDArray[np.float64]:
    """A number from 0 to below 1 for each key."""
    unique, which = np.unique(keys, return_inverse=True)
    drawn = [_hash(salt.encode() + key.tobytes()) >> 11 for key in unique.astype("<u8")]
    return np.array(drawn, dtype=np.float64)[which] * 2.0**-53
