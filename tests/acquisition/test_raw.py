"""Raw dumps: every encoding against its definition, bit by bit, and dumps that cannot be what is said."""

import os
import tracemalloc

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stretchscope.acquisition import RAW_ENCODINGS, CaptureError, convert_raw, open_capture


def packed(codes, big_endian):
    """Oracle: the codes as one string of bits, without any of the converter's arithmetic."""
    if big_endian:  # highest bit first, bytes filled from their highest bit
        bits = "".join(f"{code % 4096:012b}" for code in codes)
        return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    bits = "".join(f"{code % 4096:012b}"[::-1] for code in codes)  # lowest bit first in both
    return bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))


def convert(folder, content, dtype, **options):
    (folder / "dump.bin").write_bytes(content)
    (folder / "a.h5").unlink(missing_ok=True)  # replacing it would wait for the disk
    options = {"sample_rate_hz": 5e9} | options
    total = convert_raw(folder / "dump.bin", folder / "a.h5", dtype=dtype, **options)
    with open_capture(folder / "a.h5") as capture:
        assert capture.samples == total
        return capture.metadata, capture.read(0, total)


@pytest.mark.parametrize(
    ("dtype", "stored", "bits"),
    [
        ("int8", "i1", 8),
        ("uint8", "u1", 8),
        ("int16", "<i2", None),
        ("uint16", "<u2", None),
        ("<i2", "<i2", None),
        ("<u2", "<u2", None),
        (">i2", ">i2", None),
        (">u2", ">u2", None),
    ],
)
@pytest.mark.parametrize("header_bytes", [0, 13])
def test_plain_dumps(tmp_path, dtype, stored, bits, header_bytes):
    limits = np.iinfo(stored)
    codes = np.random.default_rng(3).integers(limits.min, limits.max, 10_001, endpoint=True).astype(stored)
    content = b"\xa5" * header_bytes + codes.tobytes()
    metadata, samples = convert(tmp_path, content, dtype, header_bytes=header_bytes, instrument="scope")
    np.testing.assert_array_equal(samples, codes)
    assert samples.dtype == np.dtype(stored).newbyteorder("=")
    assert (metadata.bits, metadata.instrument) == (bits, "scope")


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(pairs=st.lists(st.tuples(*[st.integers(-2048, 2047)] * 2), min_size=1, max_size=50), big=st.booleans())
def test_packed_dumps(tmp_path, pairs, big):
    codes = np.array(pairs).reshape(-1)
    name = "packed12be" if big else "packed12le"
    metadata, signed = convert(tmp_path, packed(codes, big), f"{name}-signed")
    np.testing.assert_array_equal(signed, codes)
    assert (signed.dtype, metadata.bits) == (np.int16, 12)
    metadata, unsigned = convert(tmp_path, packed(codes, big), name)
    np.testing.assert_array_equal(unsigned, codes % 4096)
    assert (unsigned.dtype, metadata.bits) == (np.uint16, 12)


def test_packed_bytes_as_documented(tmp_path):
    """0x123 and 0xABC, written out by hand."""
    assert convert(tmp_path, b"\x23\xc1\xab", "packed12le")[1].tolist() == [0x123, 0xABC]
    assert convert(tmp_path, b"\x12\x3a\xbc", "packed12be")[1].tolist() == [0x123, 0xABC]


def test_stated_bits_go_before_the_encoding_s(tmp_path):
    assert convert(tmp_path, bytes(100), "uint16", bits=14)[0].bits == 14


@pytest.mark.parametrize("dtype", ["int8", ">i2", "packed12le-signed"])
def test_long_dumps_take_constant_memory(tmp_path, dtype):
    """24 MB and 48 MB take the same memory, and arrive whole; progress is told to the end."""
    peaks = []
    for size in (24_000_000, 48_000_000):
        content = np.arange(size, dtype=np.uint32).view(np.uint8)[:size]
        content.tofile(tmp_path / "dump.bin")
        del content
        seen = []
        (tmp_path / "a.h5").unlink(missing_ok=True)
        tracemalloc.start()
        total = convert_raw(
            tmp_path / "dump.bin",
            tmp_path / "a.h5",
            sample_rate_hz=5e9,
            dtype=dtype,
            progress=lambda done, all_, seen=seen: seen.append((done, all_)),
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert seen[-1] == (total, total)
        assert len(seen) > 3
    assert peaks[1] < 1.05 * peaks[0]
    encoding = RAW_ENCODINGS[dtype]
    with open_capture(tmp_path / "a.h5") as capture:
        content = np.fromfile(tmp_path / "dump.bin", np.uint8)
        np.testing.assert_array_equal(capture.read(0, total), encoding.decode(content))


@pytest.mark.parametrize(
    ("size", "dtype", "header_bytes", "message"),
    [
        (
            101,
            "int16",
            0,
            "101 bytes are no whole number of int16 samples, 1 of 2 bytes remain.*--header-bytes",
        ),
        (100, "packed12le", 0, "1 of 3 bytes remain"),
        (100, "packed12be", 2, "98 bytes.*2 of 3 bytes remain"),
        (100, "int8", 100, "none after the 100 of --header-bytes"),
        (100, "int8", 1000, "none after the 1000 of --header-bytes"),
        (0, "int8", 0, "holds 0 bytes"),
        (100, "int8", -1, "--header-bytes must not be negative"),
        (100, "float32", 0, "unknown dtype 'float32'.*int8, uint8, int16"),
        (1, "int8", 0, "nothing to write, 1 samples"),
    ],
)
def test_dumps_that_cannot_be_what_is_said(tmp_path, size, dtype, header_bytes, message):
    (tmp_path / "dump.bin").write_bytes(bytes(size))
    with pytest.raises(CaptureError, match=message):
        convert_raw(
            tmp_path / "dump.bin",
            tmp_path / "a.h5",
            sample_rate_hz=5e9,
            dtype=dtype,
            header_bytes=header_bytes,
        )
    assert os.listdir(tmp_path) == ["dump.bin"]


def test_sources_and_targets_that_cannot_be(tmp_path):
    dump = tmp_path / "dump.bin"
    options = {"sample_rate_hz": 5e9, "dtype": "int8"}
    with pytest.raises(CaptureError, match="does not exist"):
        convert_raw(dump, tmp_path / "a.h5", **options)
    with pytest.raises(CaptureError, match="not a regular file"):
        convert_raw(tmp_path, tmp_path / "a.h5", **options)
    dump.write_bytes(bytes(100))
    with pytest.raises(CaptureError, match="is the dump itself"):
        convert_raw(dump, dump, overwrite=True, **options)
    with pytest.raises(CaptureError, match="sample_rate_hz must be finite"):
        convert_raw(dump, tmp_path / "a.h5", sample_rate_hz=float("nan"), dtype="int8")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["raw"] = np.zeros(9, np.int16)
    with pytest.raises(CaptureError, match="is an HDF5 file"):
        convert_raw(tmp_path / "b.h5", tmp_path / "a.h5", **options)
    convert_raw(dump, tmp_path / "a.h5", **options)
    with pytest.raises(CaptureError, match="file exists"):
        convert_raw(dump, tmp_path / "a.h5", **options)
