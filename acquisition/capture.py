"""Reading captures: ``open_capture`` gives arrays, blocks and a lazy Dask view, whatever the layout.

The first step of everything. Samples stay integers, and memory is asked for block by block.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import h5py
import numpy as np

from .dialects import Layout, find_dialect
from .hdf5_safety import hdf5_errors, open_file, plain_dataset, stored_length
from .metadata import CaptureError, CaptureMetadata, Segment, sample_dtype
from .writer import SEGMENT_DTYPE, CaptureWriter

if TYPE_CHECKING:
    import dask.array

__all__ = ["Capture", "CaptureError", "CaptureMetadata", "CaptureWriter", "Segment", "open_capture"]

_DIGEST_BLOCKS = 64
_DIGEST_BLOCK_SAMPLES = 1 << 16


def open_capture(path: str | os.PathLike[str], *, sample_rate_hz: float | None = None) -> "Capture":
    """Open a capture of any known layout; cheap, no sample is read.

    Parameters
    ----------
    path : path-like
        HDF5 file: finished, still being written (SWMR), or left by a writer that died.
    sample_rate_hz : float, optional
        Sample rate to use in place of the file's [samples/s].

    Returns
    -------
    capture : Capture
        As the file is now: what a writer adds later is not seen.

    Raises
    ------
    CaptureError
        If it cannot be read, has no known layout, keeps data outside the file, declares more than it
        stores, or states something impossible.
    """
    path = Path(path)
    file, unfinished = open_file(path)
    try:
        with hdf5_errors(path):
            dialect = find_dialect(file)
            layout = dialect.read(file, sample_rate_hz)
            return Capture(path, file, dialect.name, layout, unfinished)
    except BaseException:
        file.close()
        raise


class Capture:
    """An open capture: a context manager, made by `open_capture`.

    Threads may share it; other processes open the path again.

    Attributes
    ----------
    path : Path
        The file.
    dialect : str
        Name of its layout.
    metadata : CaptureMetadata
        What the file states.
    segments : tuple of Segment
        Its gap-free stretches, in order; together they hold every sample once.
    samples : int
        Number of samples S.
    dtype : dtype
        int8, uint8, int16 or uint16, native-endian.
    warnings : tuple of str
        What the user should know: an assumed rate, a file that was not finished.
    """

    def __init__(self, path: Path, file: h5py.File, dialect: str, layout: Layout, unfinished: bool) -> None:
        self.path = path
        self.dialect = dialect
        self.metadata = layout.metadata
        self._file = file
        self._modified_ns = path.stat().st_mtime_ns
        self._dataset = plain_dataset(file, layout.dataset)
        where = f"{path}: dataset '{layout.dataset}'"
        self.dtype = _checked_dtype(self._dataset, layout.metadata, where)
        unfinished = unfinished or not layout.complete or path.suffix == ".part"
        self.samples = _checked_length(self._dataset, unfinished, where)
        self.segments = _checked_segments(layout.segments, self.samples, unfinished, path)
        self.warnings = layout.warnings
        if unfinished:
            self.warnings += (
                f"the file was not finished: its writer is still at work or has died; "
                f"the {self.samples} samples stored so far are read",
            )

    @property
    def code_limits(self) -> tuple[int, int] | None:
        """Lowest and highest code of the converter, its rails [codes]; None if its bits are not stated."""
        bits = self.metadata.bits
        if bits is None:
            return None
        return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if self.dtype.kind == "i" else (0, 2**bits - 1)

    def read(self, first: int, stop: int) -> np.ndarray:
        """Samples ``first`` to ``stop - 1``, across gaps.

        Returns
        -------
        samples : ndarray of shape (stop - first,), of the capture's dtype
            Contiguous and the caller's own [codes].

        Raises
        ------
        IndexError
            If the span leaves the capture.
        CaptureError
            If the file is damaged there.
        """
        if not 0 <= first <= stop <= self.samples:
            raise IndexError(f"samples {first} to {stop} leave a capture of {self.samples} samples")
        if not self._file:
            raise ValueError(f"{self.path}: the capture is closed")
        return _read(self._dataset, first, stop, self.dtype)

    def blocks(self, samples_per_block: int) -> Iterator[tuple[int, np.ndarray]]:
        """Go through the capture in blocks, none across a gap.

        Parameters
        ----------
        samples_per_block : int
            Length of a block [samples]; the last of each segment may be shorter.

        Yields
        ------
        first_sample : int
            Position of the block in the capture.
        samples : ndarray of shape (B,), of the capture's dtype
            The block [codes].
        """
        for first, stop in self._spans(samples_per_block):
            yield first, self.read(first, stop)

    def to_dask(self, samples_per_chunk: int) -> "dask.array.Array":
        """The samples as a lazy Dask array of shape (S,), for any scheduler.

        Parameters
        ----------
        samples_per_chunk : int
            Length of a chunk [samples]; none crosses a gap. Each task opens the file again by its path,
            so that workers of other processes can run it and this capture may be closed.
        """
        import dask.array
        import dask.base
        from dask.highlevelgraph import HighLevelGraph

        spans = list(self._spans(samples_per_chunk))
        path, dataset = os.path.abspath(self.path), self._dataset.name.lstrip("/")
        token = dask.base.tokenize(path, self._modified_ns, self.samples, samples_per_chunk)
        name = f"capture-{token}"
        tasks: dict = {
            (name, i): (_read_span, path, dataset, first, stop, self.dtype.str) for i, (first, stop) in enumerate(spans)
        }
        graph = HighLevelGraph.from_collections(name, tasks)
        chunks = (tuple(stop - first for first, stop in spans),)
        return dask.array.Array(graph, name, chunks, dtype=self.dtype)

    def digest(self) -> str:
        """SHA-256 of what the capture holds, in hexadecimal, at a cost that does not grow with its length.

        Taken over metadata, dtype, length and segments, and over 64 blocks of 65536 samples, evenly
        spaced, the first and last among them: all samples of a short capture, a spot check of a long one.
        """
        digest = hashlib.sha256(json.dumps(asdict(self.metadata), sort_keys=True).encode())
        table = np.array([(s.first_sample, s.device_index) for s in self.segments], dtype=SEGMENT_DTYPE)
        digest.update(f"{self.dtype.name} {self.samples} {len(table)}".encode())
        digest.update(table.tobytes())
        length = min(self.samples, _DIGEST_BLOCK_SAMPLES)
        count = min(_DIGEST_BLOCKS, -(-self.samples // length))
        last = self.samples - length
        for block in range(count):
            first = last * block // max(count - 1, 1)
            samples = self.read(first, first + length)
            digest.update(samples.astype(self.dtype.newbyteorder("<"), copy=False).tobytes())
        return digest.hexdigest()

    def close(self) -> None:
        """Close the file; nothing can be read after."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Capture {self.path}: {self.samples} samples of {self.dtype}, {self.dialect}>"

    def _spans(self, length: int) -> Iterator[tuple[int, int]]:
        if length < 1:
            raise ValueError(f"a block must hold at least one sample, got {length}")
        for segment in self.segments:
            end = segment.first_sample + segment.samples
            for first in range(segment.first_sample, end, length):
                yield first, min(first + length, end)


def _read_span(path: str, dataset: str, first: int, stop: int, dtype: str) -> np.ndarray:
    """One Dask task: samples ``first`` to ``stop - 1`` of a file that `open_capture` found sound."""
    file, _ = open_file(Path(path))
    with file:
        with hdf5_errors(path):
            samples = plain_dataset(file, dataset)
            if samples.shape[0] < stop:
                raise CaptureError(f"{path}: dataset '{dataset}' has shrunk since the capture was opened")
        return _read(samples, first, stop, np.dtype(dtype))


def _read(dataset: h5py.Dataset, first: int, stop: int, dtype: np.dtype) -> np.ndarray:
    samples = np.empty(stop - first, dtype=dtype)
    if samples.size:
        with hdf5_errors(f"{dataset.file.filename}: samples {first} to {stop}"):
            dataset.read_direct(samples, np.s_[first:stop])
    return samples


def _checked_dtype(dataset: h5py.Dataset, metadata: CaptureMetadata, where: str) -> np.dtype:
    try:
        dtype = sample_dtype(dataset.dtype)
    except CaptureError as error:
        raise CaptureError(f"{where}: {error}") from error
    if h5py.check_enum_dtype(dataset.dtype) is not None:
        raise CaptureError(f"{where}: samples must be plain integers, got an enumeration")
    if metadata.bits is not None and metadata.bits > 8 * dtype.itemsize:
        raise CaptureError(f"{where}: its {dtype} samples cannot hold the {metadata.bits} bits stated")
    return dtype


def _checked_length(dataset: h5py.Dataset, unfinished: bool, where: str) -> int:
    """Number of samples, cut to those stored where the writer did not finish."""
    declared, stored = int(dataset.shape[0]), stored_length(dataset)
    if stored < declared and not unfinished:
        raise CaptureError(
            f"{where} declares {declared} samples, but the file holds {stored} at most; "
            "it is damaged or was never filled"
        )
    if stored < 2:
        raise CaptureError(f"{where} is empty" if stored == 0 else f"{where} holds only one sample")
    return stored


def _checked_segments(table: np.ndarray | None, samples: int, unfinished: bool, path: Path) -> tuple[Segment, ...]:
    """Segments of a table of shape (G,), fields first_sample and device_index, that must make sense."""
    if table is None:
        return (Segment(0, samples, 0),)
    first, index = table["first_sample"], table["device_index"]
    if unfinished:  # segments are stored before their samples
        known = first < samples
        first, index = first[known], index[known]
    where = f"{path}: dataset 'segments'"
    if first.size == 0 or first[0] != 0:
        raise CaptureError(f"{where}: the first segment must start at sample 0, got {first[:1].tolist()}")
    if (np.diff(first) <= 0).any():
        row = int(np.argmax(np.diff(first) <= 0)) + 1
        raise CaptureError(f"{where}: first_sample must ascend, row {row} is {first[row]} after {first[row - 1]}")
    if first[-1] >= samples:
        raise CaptureError(f"{where}: a segment starts at sample {first[-1]}, beyond the last, {samples - 1}")
    lengths = np.diff(first, append=samples)
    if index[0] < 0:
        raise CaptureError(f"{where}: device_index must not be negative, got {index[0]}")
    overlaps = index[1:] < index[:-1] + lengths[:-1]
    if overlaps.any():
        row = int(np.argmax(overlaps)) + 1
        raise CaptureError(
            f"{where}: segments overlap on the device's clock: row {row} starts at {index[row]}, "
            f"the one before ends at {index[row - 1] + lengths[row - 1]}"
        )
    return tuple(map(Segment, first.tolist(), lengths.tolist(), index.tolist()))
