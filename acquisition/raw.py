"""Raw binary dumps of digitisers to captures, in constant memory.

Before everything else, for those whose digitiser writes no HDF5.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

import h5py
import numpy as np

from .metadata import CaptureError, CaptureMetadata
from .writer import CaptureWriter

_GROUPS_PER_BLOCK = 1 << 21


@dataclass(frozen=True)
class RawEncoding:
    """How samples lie in a dump: ``samples`` of them in each group of ``size`` bytes.

    ``decode`` takes uint8 of shape (G * size,) and gives samples of shape (G * samples,), of ``dtype``.
    """

    dtype: np.dtype
    size: int
    samples: int
    bits: int | None
    decode: Callable[[np.ndarray], np.ndarray]


def convert_raw(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    sample_rate_hz: float,
    dtype: str,
    header_bytes: int = 0,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **metadata: float | int | str | None,
) -> int:
    """Turn a dump of one channel's samples into a capture.

    Parameters
    ----------
    source : path-like
        The dump: a header, then samples and nothing else.
    target : path-like
        The capture to write.
    sample_rate_hz : float
        Sample rate [samples/s].
    dtype : str
        A name of `RAW_ENCODINGS`: int8, uint8, int16 and uint16 (little-endian, also ``<i2`` and ``<u2``),
        ``>i2`` and ``>u2`` (big-endian), or packed 12-bit, two samples in three bytes. In ``packed12le``
        the first sample is byte 0 and the low half of byte 1; in ``packed12be`` it is byte 0 and the
        high half of byte 1. These are unsigned; with ``-signed`` added they are two's complement.
    header_bytes : int, optional
        Bytes to skip at the start.
    overwrite : bool, optional
        Replace the target.
    progress : callable, optional
        Called with (samples done, samples in all) after each block.
    **metadata
        Further fields of `CaptureMetadata`. Bits are known for 8-bit and packed samples, unless given.

    Returns
    -------
    samples : int
        Samples written.

    Raises
    ------
    CaptureError
        If a file cannot be read or written, the dtype is unknown, or the dump holds no whole number of
        samples; the target is then as it was before.
    """
    source, target = Path(source), Path(target)
    encoding = RAW_ENCODINGS.get(dtype)
    if encoding is None:
        raise CaptureError(f"unknown dtype {dtype!r} of a dump; choose one of {', '.join(RAW_ENCODINGS)}")
    if metadata.get("bits") is None:
        metadata["bits"] = encoding.bits
    described = CaptureMetadata(sample_rate_hz=sample_rate_hz, **metadata)  # type: ignore[arg-type]
    groups = _count_groups(source, header_bytes, dtype, encoding)
    total = groups * encoding.samples
    if target.exists() and target.samefile(source):
        raise CaptureError(f"{target}: is the dump itself; choose another name for the capture")
    try:
        dump = source.open("rb", buffering=0)
    except OSError as error:
        raise CaptureError(f"{source}: cannot be opened: {error.strerror}") from error
    buffer = np.empty(min(groups, _GROUPS_PER_BLOCK) * encoding.size, dtype=np.uint8)
    with dump, CaptureWriter(target, described, encoding.dtype, overwrite=overwrite) as writer:
        dump.seek(header_bytes)
        while writer.samples < total:
            wanted = min(buffer.size, (total - writer.samples) // encoding.samples * encoding.size)
            _fill(dump, buffer[:wanted], source)
            writer.append(encoding.decode(buffer[:wanted]))
            if progress is not None:
                progress(writer.samples, total)
    return total


def _count_groups(source: Path, header_bytes: int, dtype: str, encoding: RawEncoding) -> int:
    if not source.is_file():
        kind = "is not a regular file" if source.exists() else "does not exist"
        raise CaptureError(f"{source}: {kind}; name the dump of the digitiser")
    if header_bytes < 0:
        raise CaptureError(f"--header-bytes must not be negative, got {header_bytes}")
    size = source.stat().st_size
    if size <= header_bytes:
        raise CaptureError(f"{source}: holds {size} bytes, none after the {header_bytes} of --header-bytes")
    if header_bytes == 0 and h5py.is_hdf5(source):
        raise CaptureError(f"{source}: is an HDF5 file, not a raw dump; process it as it is")
    groups, remainder = divmod(size - header_bytes, encoding.size)
    if remainder:
        raise CaptureError(
            f"{source}: {size - header_bytes} bytes are no whole number of {dtype} samples, {remainder} of "
            f"{encoding.size} bytes remain; check the dtype and --header-bytes"
        )
    return groups


def _fill(dump: FileIO, buffer: np.ndarray, source: Path) -> None:
    """Fill a buffer from the dump, which must not end before."""
    view = memoryview(buffer)  # type: ignore[arg-type]
    while view:
        try:
            count = dump.readinto(view)
        except OSError as error:
            raise CaptureError(f"{source}: cannot be read: {error.strerror}") from error
        if not count:
            raise CaptureError(f"{source}: became shorter while it was read")
        view = view[count:]


def _plain(dtype: str, bits: int | None) -> RawEncoding:
    stored = np.dtype(dtype)
    native = stored.newbyteorder("=")
    return RawEncoding(native, stored.itemsize, 1, bits, lambda data: data.view(stored).astype(native, copy=False))


def _packed12(big_endian: bool, signed: bool) -> RawEncoding:
    dtype = np.dtype(np.int16 if signed else np.uint16)

    def decode(data: np.ndarray) -> np.ndarray:
        first, middle, last = data.reshape(-1, 3).T.astype(np.uint16)
        codes = np.empty((first.size, 2), dtype=np.uint16)
        if big_endian:
            codes[:, 0] = first << 4 | middle >> 4
            codes[:, 1] = (middle & 0xF) << 8 | last
        else:
            codes[:, 0] = first | (middle & 0xF) << 8
            codes[:, 1] = middle >> 4 | last << 4
        if signed:  # carry the sign bit to the top and back
            return (codes.reshape(-1) << 4).view(np.int16) >> 4
        return codes.reshape(-1)

    return RawEncoding(dtype, 3, 2, 12, decode)


RAW_ENCODINGS = {
    "int8": _plain("i1", 8),
    "uint8": _plain("u1", 8),
    "int16": _plain("<i2", None),
    "uint16": _plain("<u2", None),
    "<i2": _plain("<i2", None),
    "<u2": _plain("<u2", None),
    ">i2": _plain(">i2", None),
    ">u2": _plain(">u2", None),
    "packed12le": _packed12(big_endian=False, signed=False),
    "packed12be": _packed12(big_endian=True, signed=False),
    "packed12le-signed": _packed12(big_endian=False, signed=True),
    "packed12be-signed": _packed12(big_endian=True, signed=True),
}
