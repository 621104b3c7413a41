"""Writing captures in stretchscope's own HDF5 format, version 1 (docs/capture-format.md).

The last step of the simulator and of ``convert``, the first of a recording. Memory holds one chunk.
"""

import contextlib
import os
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Self

import h5py
import numpy as np

from .metadata import CaptureError, CaptureMetadata, sample_dtype

FORMAT_NAME = "stretchscope"
FORMAT_VERSION = 1
SEGMENT_DTYPE = np.dtype([("first_sample", "<i8"), ("device_index", "<i8")])

_CHUNK_BYTES = 1 << 20
_SEGMENTS_PER_CHUNK = 1024
_MAX_DEVICE_INDEX = 2**62  # sums of an index and a length stay within int64


class CaptureWriter:
    """Write a capture: a context manager whose file appears under its name only when it is complete.

    Samples go to ``<path>.part``, whose whole chunks can be read while it grows (SWMR), and which is
    renamed to ``path`` on a clean exit and removed when the body raises. What a killed writer leaves
    under ``<path>.part`` still opens, up to the last whole chunk of :math:`2^{20}` bytes.

    Parameters
    ----------
    path : path-like
        File to write; its folder must exist.
    metadata : CaptureMetadata
        Stored as root attributes, those that are not None.
    dtype : dtype-like
        int8, uint8, int16 or uint16; stored little-endian.
    overwrite : bool, optional
        Replace ``path``, and a ``.part`` that an earlier writer left.

    Raises
    ------
    CaptureError
        If the file exists and ``overwrite`` is False, or cannot be written, or the dtype is another.

    Examples
    --------
    >>> with CaptureWriter("run7.h5", CaptureMetadata(sample_rate_hz=5e9, bits=8), "int8") as writer:
    ...     writer.append(block)                         # goes on where the last block ended
    ...     writer.append(block, device_index=9_000_000)  # after a gap: a new segment
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        metadata: CaptureMetadata,
        dtype: object,
        *,
        overwrite: bool = False,
    ) -> None:
        self.path = Path(path)
        self.metadata = metadata
        self.dtype = sample_dtype(dtype)
        if metadata.bits is not None and metadata.bits > 8 * self.dtype.itemsize:
            raise CaptureError(f"{self.path}: {metadata.bits} bits do not fit into {self.dtype} samples")
        self._part = self.path.with_name(self.path.name + ".part")
        self._stored = self.dtype.newbyteorder("<")
        self._tail = np.empty(_CHUNK_BYTES // self.dtype.itemsize, dtype=self._stored)
        self._tail_fill = 0  # samples waiting in _tail for their chunk to be full
        self._written = 0  # samples in whole chunks of the file
        self._next_index = 0
        self._new_segments: list[tuple[int, int]] = []
        self._late_truth: list[tuple[str, np.ndarray, dict[str, object]]] = []
        self._create(overwrite)

    @property
    def samples(self) -> int:
        """Samples appended so far."""
        return self._written + self._tail_fill

    def append(self, samples: np.ndarray, device_index: int | None = None) -> None:
        """Append samples.

        Parameters
        ----------
        samples : ndarray of shape (S,), of the writer's dtype
            ADC codes; S may be any number.
        device_index : int, optional
            Index of ``samples[0]`` on the digitiser's sample clock. None: they follow without a gap. An
            index beyond the expected one is a gap and starts a new segment.

        Raises
        ------
        CaptureError
            If the index goes backwards, the dtype differs, or the disk refuses (full, for instance).
        """
        samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype.newbyteorder("=") != self.dtype:
            raise CaptureError(
                f"{self.path}: samples must be {self.dtype} of shape (S,), got {samples.dtype} of shape {samples.shape}"
            )
        if samples.size == 0:
            return
        self._follow(device_index, samples.size)
        try:
            self._store(np.ascontiguousarray(samples, dtype=self._stored))
        except (OSError, RuntimeError) as error:
            raise CaptureError(f"{self._part}: cannot write: {error}") from error

    def write_truth(self, name: str, array: object, **attributes: object) -> None:
        """Store what a simulator knows about the scene, as dataset ``truth/<name>``.

        Parameters
        ----------
        name : str
            Name of the dataset.
        array : array-like
            Numbers or text of any shape. After the first sample it is kept in memory until the file
            is closed, since a file that can be read while it grows takes no new dataset.
        **attributes
            Attributes of the dataset: numbers, text or small arrays.
        """
        values = np.array(array)
        if values.dtype.kind == "U":
            values = values.astype(h5py.string_dtype())
        if self.samples:
            self._late_truth.append((name, values, attributes))
        else:
            _write_truth(self._file, name, values, attributes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            self._finish()
        except (OSError, RuntimeError) as failure:
            self._abandon()
            raise CaptureError(f"{self._part}: cannot write: {failure}") from failure
        except BaseException:
            self._abandon()
            raise

    def _create(self, overwrite: bool) -> None:
        if not self.path.parent.is_dir():
            raise CaptureError(f"{self.path}: folder {self.path.parent} does not exist; create it first")
        if self.path.is_dir():
            raise CaptureError(f"{self.path}: is a folder; name a file in it")
        if self.path.exists() and not overwrite:
            raise CaptureError(f"{self.path}: file exists; choose another name or allow it to be overwritten")
        if self._part.exists():
            if not overwrite:
                raise CaptureError(
                    f"{self._part}: file exists, left by a writer that died or is still at work; "
                    "move or delete it, or allow it to be overwritten"
                )
            self._part.unlink()
        try:
            # The oldest file version with SWMR; readable by every HDF5 since 1.10.
            self._file = h5py.File(self._part, "x", libver=("v110", "v110"), locking="best-effort")
        except OSError as error:
            raise CaptureError(f"{self.path}: cannot create the file: {error}") from error
        stated = {"format": FORMAT_NAME, "format_version": FORMAT_VERSION, "complete": np.bool_(False)}
        stated |= asdict(self.metadata)
        for name, value in stated.items():
            if isinstance(value, str):  # of fixed length: nothing of the file's header lies elsewhere
                text = value.encode()
                self._file.attrs.create(name, text, dtype=h5py.string_dtype(length=max(len(text), 1)))
            elif value is not None:
                self._file.attrs[name] = value
        self._samples = self._file.create_dataset(
            "samples", shape=(0,), maxshape=(None,), chunks=self._tail.shape, dtype=self._stored
        )
        self._segments = self._file.create_dataset(
            "segments", shape=(0,), maxshape=(None,), chunks=(_SEGMENTS_PER_CHUNK,), dtype=SEGMENT_DTYPE
        )

    def _follow(self, device_index: int | None, samples: int) -> None:
        """Check where the new samples lie on the device's clock; note a segment where they start one."""
        index = self._next_index if device_index is None else int(device_index)
        if not 0 <= index <= _MAX_DEVICE_INDEX:
            raise CaptureError(f"{self.path}: device index {index} is negative or absurdly large")
        if index < self._next_index:
            raise CaptureError(f"{self.path}: device index goes backwards: {index} after sample {self._next_index - 1}")
        if index > self._next_index or self.samples == 0:
            self._new_segments.append((self.samples, index))
        self._next_index = index + samples

    def _store(self, samples: np.ndarray) -> None:
        chunk = self._tail.size
        if self._tail_fill:
            taken = min(chunk - self._tail_fill, samples.size)
            self._tail[self._tail_fill : self._tail_fill + taken] = samples[:taken]
            self._tail_fill += taken
            samples = samples[taken:]
            if self._tail_fill < chunk:
                return
            self._tail_fill = 0
            self._write_chunks(self._tail)
        whole = samples.size // chunk * chunk
        if whole:
            self._write_chunks(samples[:whole])
        self._tail_fill = samples.size - whole
        self._tail[: self._tail_fill] = samples[whole:]

    def _write_chunks(self, samples: np.ndarray) -> None:
        """Write whole chunks past HDF5's cache; segments first, so that a reader never misses a gap."""
        if not self._file.swmr_mode:
            self._file.swmr_mode = True
        self._write_segments()
        chunk = self._tail.size
        self._samples.id.set_extent((self._written + samples.size,))
        for first in range(0, samples.size, chunk):
            block = samples[first : first + chunk]
            self._samples.id.write_direct_chunk((self._written + first,), block)
        self._written += samples.size
        self._samples.flush()

    def _write_segments(self) -> None:
        if self._new_segments:
            stored = len(self._segments)
            self._segments.resize((stored + len(self._new_segments),))
            self._segments[stored:] = np.array(self._new_segments, dtype=SEGMENT_DTYPE)
            self._segments.flush()
            self._new_segments.clear()

    def _finish(self) -> None:
        if self.samples < 2:
            raise CaptureError(f"{self.path}: nothing to write, {self.samples} samples were appended")
        self._write_segments()
        if self._tail_fill:
            self._samples.resize((self.samples,))
            self._samples[self._written :] = self._tail[: self._tail_fill]
        if self._late_truth:
            # Closing is the only way out of SWMR; a lock that a reader holds must not end the recording.
            self._file.close()
            self._file = h5py.File(self._part, "r+", locking=False)
            for name, values, attributes in self._late_truth:
                _write_truth(self._file, name, values, attributes)
        self._file.attrs.modify("complete", np.bool_(True))
        self._file.close()
        os.replace(self._part, self.path)

    def _abandon(self) -> None:
        with contextlib.suppress(OSError, RuntimeError):  # the first error is the one to report
            self._file.close()
        self._part.unlink(missing_ok=True)


def _write_truth(file: h5py.File, name: str, values: np.ndarray, attributes: dict[str, object]) -> None:
    dataset = file.create_dataset(f"truth/{name}", data=values)
    dataset.attrs.update(attributes)
