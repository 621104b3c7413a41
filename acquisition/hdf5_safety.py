"""HDF5 files come from strangers: what is opened, followed, believed and allocated is decided here.

Under the dialects and the reader. No link is followed but a plain one at the file's root, no data is
taken from another file, and no declared size is believed that the stored bytes cannot hold.
"""

import contextlib
import math
import stat
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

from .metadata import CaptureError

_MAX_CHUNK_BYTES = 1 << 28
_MAX_COMPRESSION = 1100  # deflate cannot exceed 1032; recorded noise stays below 10
_MAX_ATTRIBUTE_BYTES = 1 << 16
_MAX_TEXT = 4096
_FILTERED_CACHE_BYTES = 1 << 26

_HDF5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, NotImplementedError, MemoryError)


@contextlib.contextmanager
def hdf5_errors(where: object) -> Iterator[None]:
    """Turn what h5py raises on a damaged file into a CaptureError that names the place."""
    try:
        yield
    except CaptureError:
        raise
    except _HDF5_ERRORS as error:
        raise CaptureError(f"{where}: cannot be read, the file seems damaged: {error}") from error


def open_file(path: Path) -> tuple[h5py.File, bool]:
    """Open an HDF5 file for reading, one under construction or left by a dead writer included.

    Returns
    -------
    file : h5py.File
        Open for reading.
    unfinished : bool
        Whether its writer has not closed it: still at work, or dead.

    Raises
    ------
    CaptureError
        If there is no such file, it is no HDF5 file, truncated, damaged, or locked by its writer.
    """
    try:
        status = path.stat()
    except OSError as error:
        raise CaptureError(f"{path}: cannot be opened: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        raise CaptureError(f"{path}: is a folder; name a capture in it")
    if not stat.S_ISREG(status.st_mode):
        raise CaptureError(f"{path}: is not a regular file")
    if status.st_size == 0:
        raise CaptureError(f"{path}: is empty (0 bytes)")
    try:
        with path.open("rb") as raw:
            raw.read(1)
    except OSError as error:
        raise CaptureError(f"{path}: cannot be opened: {error.strerror}") from error
    if not h5py.is_hdf5(path):
        raise CaptureError(
            f"{path}: is not an HDF5 file; turn a raw dump of samples into one with `stretchscope convert`"
        )
    try:
        return h5py.File(path, "r", locking="best-effort"), False
    except _HDF5_ERRORS as error:
        reason = str(error)
        if "truncated" in reason:
            raise CaptureError(
                f"{path}: is truncated, {status.st_size} bytes are fewer than it declares; copy it again"
            ) from error
        if "unable to lock" in reason:
            raise CaptureError(f"{path}: is locked by the program that writes it; wait until it ends") from error
        if "already open for" not in reason:
            raise CaptureError(f"{path}: cannot be opened, the file seems damaged: {reason}") from error
    try:
        return h5py.File(path, "r", swmr=True, locking="best-effort"), True
    except _HDF5_ERRORS as error:
        raise CaptureError(
            f"{path}: was not closed by its writer and is not readable as it is ({error}); "
            "if the writer has died, run `h5clear --status` on a copy"
        ) from error


def has_link(file: h5py.Group, name: str) -> bool:
    """Whether a group, such as the file's root, has a link of that name, without following it."""
    return bool(file.id.links.exists(name.encode()))


def link_names(file: h5py.Group, limit: int = 8) -> list[str]:
    """Names of the first links of a group, such as the file's root, none followed."""
    names: list[str] = []

    def collect(name: bytes) -> bool | None:
        names.append(name.decode(errors="replace"))
        return True if len(names) >= limit else None

    file.id.links.iterate(collect)
    return names


def plain_group(file: h5py.File, name: str) -> h5py.Group:
    """A group in the root group, CaptureError if it is missing, no group, or behind a soft or external link."""
    where = f"{file.filename}: group '{name}'"
    _require_hard_link(file, name, where)
    if h5py.h5o.get_info(file.id, name.encode()).type != h5py.h5o.TYPE_GROUP:
        raise CaptureError(f"{where} is not a group")
    return h5py.Group(h5py.h5g.open(file.id, name.encode()))


def plain_dataset(file: h5py.Group, name: str, *, rank: int = 1) -> h5py.Dataset:
    """A dataset of a group whose bytes are all in this file and could fill its shape.

    Parameters
    ----------
    file : h5py.File or h5py.Group
        Open for reading; a group as `plain_group` gives it.
    name : str
        Name of a link in the group.
    rank : int, optional
        Number of dimensions that it must have.

    Returns
    -------
    dataset : h5py.Dataset
        With a chunk cache that suits it: none if unfiltered, since blocks are then read straight
        into the caller's array.

    Raises
    ------
    CaptureError
        If it is missing or no dataset; behind a soft or external link; virtual or in external files;
        of another rank; in chunks too large to load; packed by an unknown filter; or claims more than is stored.
    """
    where = f"{file.file.filename}: dataset '{name}'"
    _require_hard_link(file, name, where)
    if h5py.h5o.get_info(file.id, name.encode()).type != h5py.h5o.TYPE_DATASET:
        raise CaptureError(f"{where} is not a dataset but a group or a type")
    identifier = h5py.h5d.open(file.id, name.encode())
    creation = identifier.get_create_plist()
    if creation.get_layout() == h5py.h5d.VIRTUAL:
        raise CaptureError(f"{where} is virtual: its samples are mapped from elsewhere; store them in the file")
    if creation.get_external_count():
        raise CaptureError(f"{where} is kept in external files, which are not followed; store it in the file")
    if identifier.get_space().get_simple_extent_type() != h5py.h5s.SIMPLE or identifier.rank != rank:
        dimensions = {1: "one", 2: "two", 3: "three"}[rank]
        raise CaptureError(f"{where} must be {dimensions}-dimensional, got shape {h5py.Dataset(identifier).shape}")
    if creation.get_layout() == h5py.h5d.CHUNKED:
        return _chunked(file, name, creation, where)
    return h5py.Dataset(identifier)


def stored_length(dataset: h5py.Dataset) -> int:
    """How many leading elements of a dataset's first axis the file can hold; never more than it declares.

    HDF5 reads what was never stored as fill values: a file of some hundred bytes can claim 10^15
    samples. Exact for unfiltered data written from the front; a bound for filtered data. O(chunks).
    """
    declared = int(dataset.shape[0])
    item = max(dataset.dtype.itemsize * math.prod(dataset.shape[1:]), 1)
    stored_bytes = min(dataset.id.get_storage_size(), Path(dataset.file.filename).stat().st_size)
    if dataset.chunks is not None and dataset.id.get_create_plist().get_nfilters():
        side_by_side = math.prod(-(-n // c) for n, c in zip(dataset.shape[1:], dataset.chunks[1:], strict=True))
        in_chunks = dataset.id.get_num_chunks() // max(side_by_side, 1) * dataset.chunks[0]
        return min(declared, in_chunks, stored_bytes * _MAX_COMPRESSION // item)
    return min(declared, stored_bytes // item)


def read_number(file: h5py.File, name: str) -> float | int | None:
    """A numeric root attribute, scalar or of one element; None if absent, CaptureError if no number."""
    value = _read_attribute(file, name)
    if value is None:
        return None
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iuf":
        raise CaptureError(f"{file.filename}: attribute '{name}' must be one number, got {_shown(value)}")
    number: float | int = array.reshape(())[()].item()
    return number


def read_text(file: h5py.File, name: str) -> str | None:
    """A text root attribute; None if absent, CaptureError if it is no text."""
    value = _read_attribute(file, name)
    if isinstance(value, bytes):
        value = value.decode(errors="replace")
    if value is not None and not isinstance(value, str):
        raise CaptureError(f"{file.filename}: attribute '{name}' must be text, got {_shown(value)}")
    if value is not None and len(value) > _MAX_TEXT:
        raise CaptureError(f"{file.filename}: attribute '{name}' is longer than {_MAX_TEXT} characters")
    return value


def read_flag(file: h5py.File, name: str) -> bool | None:
    """A boolean root attribute, or 0 or 1; None if absent, CaptureError if anything else."""
    value = _read_attribute(file, name)
    if value is None:
        return None
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "biu":
        raise CaptureError(f"{file.filename}: attribute '{name}' must be true or false, got {_shown(value)}")
    return bool(array.reshape(())[()])


def _read_attribute(file: h5py.File, name: str) -> object:
    if not h5py.h5a.exists(file.id, name.encode()):
        return None
    with hdf5_errors(f"{file.filename}: attribute '{name}'"):
        stored = file.attrs.get_id(name)
        size = stored.get_space().get_simple_extent_npoints() * stored.get_type().get_size()
        if size > _MAX_ATTRIBUTE_BYTES:
            raise CaptureError(f"{file.filename}: attribute '{name}' is too large")
        value: object = file.attrs[name]
        return value


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _require_hard_link(file: h5py.Group, name: str, where: str) -> None:
    if not has_link(file, name):
        raise CaptureError(f"{where} is missing")
    kind = file.id.links.get_info(name.encode()).type
    if kind == h5py.h5l.TYPE_EXTERNAL:
        raise CaptureError(f"{where} is an external link, which is not followed; store the data in the file")
    if kind != h5py.h5l.TYPE_HARD:
        raise CaptureError(f"{where} is a soft link, which is not followed; use a hard link to the data")


def _chunked(file: h5py.Group, name: str, creation: h5py.h5p.PropDCID, where: str) -> h5py.Dataset:
    """Reopen a chunked dataset with its cache set, once its chunks and filters are found harmless."""
    chunk_bytes = math.prod(creation.get_chunk()) * h5py.h5d.open(file.id, name.encode()).get_type().get_size()
    if chunk_bytes > _MAX_CHUNK_BYTES:
        raise CaptureError(
            f"{where} has chunks of {chunk_bytes} bytes, more than the {_MAX_CHUNK_BYTES} allowed; "
            "write it with smaller chunks, for instance by h5repack"
        )
    filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    if not all(h5py.h5z.filter_avail(code) for code in filters):
        import hdf5plugin  # noqa: F401  (importing it registers the filters)

        unknown = [code for code in filters if not h5py.h5z.filter_avail(code)]
        if unknown:
            raise CaptureError(f"{where} is packed by the unknown HDF5 filter {unknown[0]}; use gzip or none")
    access = h5py.h5p.create(h5py.h5p.DATASET_ACCESS)
    access.set_chunk_cache(521, max(_FILTERED_CACHE_BYTES, chunk_bytes) if filters else 0, 0.75)
    return h5py.Dataset(h5py.h5d.open(file.id, name.encode(), access))
