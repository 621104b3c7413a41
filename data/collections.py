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
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from .duplicates import near_duplicates
from .event_files import HDF5_SUFFIXES, EventFile, open_events
from .ifcb import IFCB_SUFFIXES, IfcbBin, open_ifcb
from .images import IMAGE_SUFFIXES, POLARITIES, CollectionError, check_image, read_grey, transmission_of
from .tables import TABLE_SUFFIXES, LabelTable, read_label_table

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

    def mask(self, index: int) -> NDArray[np.bool_] | None:
        """Pixels of the cell in one, of the shape of its image, where they are known."""

    def content(self, index: int) -> bytes:
        """What makes the image this one, whatever it is called."""

    def cell(self, index: int) -> str | None:
        """Name of the cell that it shows, if it has one: images of one cell belong on one side of a split."""


@dataclass(frozen=True, eq=False)
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
    _pool: "_Pool" = field(repr=False)
    _rows: NDArray[np.int64] = field(repr=False)  # of the pool

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

    def mask(self, index: int) -> NDArray[np.bool_] | None:
        """Which pixels of an image are the cell's, where its file says; as for `read`."""
        return self._pool.mask(int(self._rows[index]))

    @cached_property
    def groups(self) -> NDArray[np.uint64]:
        """Keys of shape (N,): images of one key belong on one side of a split.

        They are near-duplicates of each other (see `duplicates.near_duplicates`), pictures of one trigger of an IFCB,
        or of one cell by the column ``cell`` of a table. Made when first asked for, which reads every image once.

        Notes
        -----
        The key of an image is a hash of its file's bytes (of its pixels, where a file has several), or of its cell's
        name. Near-duplicates share the least of theirs. So one that is added leaves the key of its group as it was,
        and all images where they were, unless its own hash is the least, or it links two groups: then the images
        of that group move, together. The same where it makes 33 that are all alike, which are no duplicates then.
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


def open_collection(
    path: str | os.PathLike[str], *, labels: str | os.PathLike[str] | None = None, polarity: str = "dark"
) -> Collection:
    """Open a collection of images; their pixels are not read.

    Parameters
    ----------
    path : path-like
        One of

        - a folder: every image file (PNG, JPEG, TIFF), `.rtdc` file and IFCB bin below it. Its sub-folders are the
          classes, at whatever depth below them the images lie; images in the folder itself have no label. Names that
          begin with a dot are passed over.
        - a table (CSV, Parquet) with the columns ``path``, relative to the table, and ``label``; if wanted also
          ``event``, the number of the image in a file that has several (all of them where it is empty), and ``cell``:
          images of one cell stay on one side of a split.
        - an `.rtdc` file, whose events are counted from 0. They have labels where it has the scores of a model or
          ``ml_class``. Ours state their transmission; others are divided by their background images, or by the median
          of the frame.
        - an IFCB bin, named by its `.adc`, `.hdr` or `.roi`. Pictures have the numbers that the IFCB gives them.
        - a stack: an HDF5 file with a dataset ``images`` (N, rows, columns) and, if wanted, ``labels`` (N).

    labels : path-like, optional
        A table as above, whose labels go before all others. Its paths, with its events, are the collection's names:
        relative to the folder, or to the folder of the file.
    polarity : {"dark", "bright"}, optional
        Whether objects in image files and stacks are dark on a bright ground; see `images.transmission_of`.

    Returns
    -------
    collection : Collection
        In order of name; of a table in its order.

    Raises
    ------
    CollectionError
        If there is nothing to read, what a file says of itself is wrong, or a table names what is not there.

    Notes
    -----
    Grey levels are divided by the ground's, the median along the image's border: a picture cut so tightly that
    the object covers half of its border has no ground to be seen, and comes out too bright.
    """
    path = Path(path)
    if polarity not in POLARITIES:
        raise CollectionError(f"polarity must be 'dark' or 'bright', got {polarity!r}")
    found = _Found(polarity)
    try:
        if not path.exists():
            raise CollectionError(f"{path}: no such folder or file; name a folder of images, a table or an .rtdc file")
        if path.is_dir():
            _find_in_folder(path, found)
        elif path.suffix.lower() in TABLE_SUFFIXES:
            _find_by_table(read_label_table(path), found)
        else:
            found.add_file(path, path.name, None)
    except OSError as error:
        raise CollectionError(f"{path}: cannot be read: {error.strerror}") from error
    if not found.names:
        raise CollectionError(
            f"{path}: holds no images; name a folder of PNG, JPEG or TIFF images, .rtdc or IFCB files"
        )
    if labels is not None:
        _label_by_table(read_label_table(Path(labels)), found)
    return found.collection()


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
        What is not finite, not known, is taken for clear ground.
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
    pool = _Pool([images], [(0, index) for index in range(len(names))], [None] * len(names))
    return _collection(names, labels, pool, pixel_um)


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
class ImageFile:
    """A file with one image."""

    path: Path
    polarity: str

    def __len__(self) -> int:
        return 1

    def read(self, index: int) -> NDArray[np.float32]:
        grey = read_grey(self.path)
        try:
            return transmission_of(grey, polarity=self.polarity)
        except CollectionError as error:
            raise CollectionError(f"{self.path}: {error}") from error

    def mask(self, index: int) -> None:
        return None

    def content(self, index: int) -> bytes:
        try:
            return self.path.read_bytes()  # what is decoded may differ in the last bit between libraries
        except OSError as error:
            raise CollectionError(f"{self.path}: cannot be read: {error.strerror}") from error

    def cell(self, index: int) -> str | None:
        return None


@dataclass(frozen=True)
class MemoryImages:
    """Transmission images in memory, and the names of their cells."""

    transmission: tuple[NDArray[np.floating], ...]
    cells: tuple[str, ...] | None

    def __len__(self) -> int:
        return len(self.transmission)

    def read(self, index: int) -> NDArray[np.float32]:
        image = np.asarray(self.transmission[index], dtype=np.float32)
        return np.where(np.isfinite(image), image, np.float32(1))

    def mask(self, index: int) -> None:
        return None

    def content(self, index: int) -> bytes:
        image = self.read(index)
        return repr(image.shape).encode() + image.tobytes()

    def cell(self, index: int) -> str | None:
        return None if self.cells is None else self.cells[index]


class _Pool:
    """All images of a collection as it was opened; its subsets share it."""

    def __init__(self, parts: Sequence[Images], places: Sequence[tuple[int, int]], cells: Sequence[str | None]) -> None:
        self._parts, self._places, self._cells = tuple(parts), places, cells

    def read(self, row: int) -> NDArray[np.float32]:
        part, index = self._places[row]
        return self._parts[part].read(index)

    def mask(self, row: int) -> NDArray[np.bool_] | None:
        part, index = self._places[row]
        return self._parts[part].mask(index)

    @cached_property
    def keys(self) -> NDArray[np.uint64]:
        """Key of each image."""
        count = len(self._places)
        own = np.empty(count, dtype=np.uint64)
        first_of: dict[str, int] = {}
        group = near_duplicates(self.read, count)
        cells = np.arange(count)
        for row, (number, index) in enumerate(self._places):
            part, cell = self._parts[number], self._cells[row]
            cell = part.cell(index) if cell is None else cell
            if cell is not None:
                cells[row] = first_of.setdefault(cell, row)
            own[row] = _hash(part.content(index) if cell is None else b"cell " + cell.encode())
        links = csr_array((np.ones(2 * count), (np.tile(np.arange(count), 2), np.append(group, cells))), (count, count))
        _, group = connected_components(links, directed=False)
        least = np.full(count, np.iinfo(np.uint64).max, dtype=np.uint64)
        np.minimum.at(least, group, own)
        keys: NDArray[np.uint64] = least[group]
        return keys


class _Found:
    """Images as they are found, each with its name, its label and where it is."""

    def __init__(self, polarity: str) -> None:
        self._polarity = polarity
        self._parts: list[Images] = []
        self._opened: dict[Path, int] = {}
        self._places: list[tuple[int, int]] = []
        self.cells: list[str | None] = []
        self.names: list[str] = []
        self.labels: list[str | None] = []

    def add_file(self, path: Path, name: str, label: str | None) -> None:
        """All images of a file. Without a label they have those of the file itself, if it has any."""
        number = self._open(path)
        part = self._parts[number]
        if isinstance(part, ImageFile):
            self._add(number, 0, name, label)
        elif isinstance(part, IfcbBin):
            for index, picture in enumerate(part.numbers):
                self._add(number, index, _name(name, picture), label)
        elif isinstance(part, EventFile):
            for index, own in enumerate(part.labels):
                self._add(number, index, _name(name, index), own if label is None else label)

    def add_row(self, table: LabelTable, row: int) -> None:
        """What a row of a table names."""
        path = table.path.parent / table.images[row]
        first = len(self.names)
        if not path.is_file():
            raise CollectionError(f"{table.where(row)}: there is no file {path}")
        event, label = table.events[row], table.labels[row]
        if event is None:
            self.add_file(path, table.images[row], label)
        else:
            number = self._open(path)
            part = self._parts[number]
            if isinstance(part, ImageFile):
                raise CollectionError(f"{table.where(row)}: {path} has one image; leave the column 'event' empty")
            numbers = part.numbers if isinstance(part, IfcbBin) else range(len(part))
            if event not in numbers:
                raise CollectionError(f"{table.where(row)}: {path} has no image of number {event}")
            index = numbers.index(event)
            if label is None and isinstance(part, EventFile):
                label = part.labels[index]
            self._add(number, index, _name(table.images[row], event), label)
        self.cells[first:] = [table.cells[row]] * (len(self.names) - first)

    def collection(self) -> Collection:
        pool = _Pool(self._parts, self._places, self.cells)
        stated = {part.pixel_um if isinstance(part, EventFile) else None for part in self._parts}
        return _collection(self.names, self.labels, pool, stated.pop() if len(stated) == 1 else None)

    def _open(self, path: Path) -> int:
        suffix = path.suffix.lower()
        key = path.with_suffix(".roi") if suffix in IFCB_SUFFIXES else path
        if key not in self._opened:
            self._opened[key] = len(self._parts)
            self._parts.append(self._images_of(path, suffix))
        return self._opened[key]

    def _images_of(self, path: Path, suffix: str) -> Images:
        if suffix in IMAGE_SUFFIXES:
            check_image(path)
            return ImageFile(path, self._polarity)
        if suffix in IFCB_SUFFIXES:
            return open_ifcb(path)
        if suffix in HDF5_SUFFIXES:
            return open_events(path, self._polarity)
        raise CollectionError(f"{path}: is no image (PNG, JPEG, TIFF), table (CSV, Parquet), .rtdc, .h5 or IFCB file")

    def _add(self, number: int, index: int, name: str, label: str | None) -> None:
        self._places.append((number, index))
        self.cells.append(None)
        self.names.append(name)
        self.labels.append(label)


def _collection(
    names: Sequence[str], labels: Sequence[str | None], pool: _Pool, pixel_um: float | None = None
) -> Collection:
    classes = tuple(sorted({label for label in labels if label is not None}))
    numbers = {name: number for number, name in enumerate(classes)} | {None: UNLABELLED}
    return Collection(
        names=tuple(names),
        labels=np.array([numbers[label] for label in labels], dtype=np.int32),
        classes=classes,
        pixel_um=pixel_um,
        _pool=pool,
        _rows=np.arange(len(names)),
    )


def _find_in_folder(folder: Path, found: _Found) -> None:
    names = sorted((file.relative_to(folder).as_posix(), file) for file in _files_below(folder))
    for name, file in names:
        found.add_file(file, name, name.split("/")[0] if "/" in name else None)


def _find_by_table(table: LabelTable, found: _Found) -> None:
    seen: dict[str, int] = {}
    for row in range(len(table.images)):
        first = len(found.names)
        found.add_row(table, row)
        for name in found.names[first:]:
            if name in seen:
                raise CollectionError(f"{table.where(row)}: {name} is there already, in row {seen[name] + 1}")
            seen[name] = row


def _label_by_table(table: LabelTable, found: _Found) -> None:
    rows = {name: number for number, name in enumerate(found.names)}
    for row, (image, event) in enumerate(zip(table.images, table.events, strict=True)):
        name = image if event is None else _name(image, event)
        if name not in rows:
            raise CollectionError(
                f"{table.where(row)}: the collection has no image {name}, only such as {found.names[0]}"
            )
        found.labels[rows[name]] = table.labels[row]
        found.cells[rows[name]] = table.cells[row]


def _name(file: str, number: int) -> str:
    """Name of an image in a file of several; an IFCB bin is named without its suffix."""
    stem, suffix = os.path.splitext(file)
    return f"{stem if suffix.lower() in IFCB_SUFFIXES else file}#{number}"


def _files_below(folder: Path) -> Iterator[Path]:
    """Files of images below a folder, of an IFCB bin the `.adc`; links are followed, each folder is seen once.

    Images that bear the name of an .rtdc file beside them are overviews of it, not cells.
    """
    suffixes = IMAGE_SUFFIXES | {".rtdc", ".adc"}
    seen = set()
    for here, folders, files in os.walk(folder, followlinks=True):
        seen.add(os.path.realpath(here))
        folders[:] = [
            name
            for name in folders
            if not name.startswith((".", "__MACOSX")) and os.path.realpath(os.path.join(here, name)) not in seen
        ]
        results = tuple(f"{name[:-5]}." for name in files if name.lower().endswith(".rtdc"))
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            overview = suffix in IMAGE_SUFFIXES and bool(results) and name.startswith(results)
            if suffix in suffixes and not name.startswith(".") and not overview:
                yield Path(here, name)


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")


def _chance(keys: NDArray[np.uint64], salt: str) -> NDArray[np.float64]:
    """A number from 0 to below 1 for each key."""
    unique, which = np.unique(keys, return_inverse=True)
    drawn = [_hash(salt.encode() + key.tobytes()) >> 11 for key in unique.astype("<u8")]
    return np.array(drawn, dtype=np.float64)[which] * 2.0**-53
