"""Files of strangers: each bad one ends with one message, none is followed out of itself."""

import contextlib
import os

import h5py
import numpy as np
import pytest

from stretchscope.acquisition import CaptureError, open_capture

SAMPLES = np.arange(1000, dtype=np.int16)
SEGMENTS = [("first_sample", "<i8"), ("device_index", "<i8")]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.h5"


def new(path, samples=SAMPLES, **attributes):
    """A capture, still open, with the given attributes changed (None leaves one out)."""
    file = h5py.File(path, "w")
    stated = {"format": "stretchscope", "format_version": 1, "sample_rate_hz": 5e9} | attributes
    for name, value in stated.items():
        if value is not None:
            file.attrs[name] = value
    if samples is not None:
        file["samples"] = samples
    return file


def refused(path, message):
    with pytest.raises(CaptureError, match=message) as caught:
        open_capture(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_hdf5(tmp_path):
    refused(tmp_path / "nowhere.h5", "No such file")
    refused(tmp_path, "is a folder")
    (tmp_path / "empty.h5").touch()
    refused(tmp_path / "empty.h5", "is empty")
    (tmp_path / "text.h5").write_text("sample\n" * 1000)
    refused(tmp_path / "text.h5", "not an HDF5 file.*stretchscope convert")
    os.mkfifo(tmp_path / "pipe.h5")
    refused(tmp_path / "pipe.h5", "not a regular file")


@pytest.mark.parametrize("kept", [0.05, 0.5, 0.999])
def test_truncated_files(path, kept):
    new(path, np.zeros(50_000, np.int16)).close()
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    refused(path, "truncated|damaged")


@pytest.mark.parametrize("seed", range(40))
def test_bit_rot_gives_samples_or_a_clear_error(path, seed):
    """Flipped bytes in the first 4 KiB (all the structure there is) never give another kind of error."""
    with new(path, format=np.bytes_(b"stretchscope")) as file:
        file["segments"] = np.array([(0, 0), (500, 900)], dtype=SEGMENTS)
    content = bytearray(path.read_bytes())
    rng = np.random.default_rng(seed)
    for place in rng.integers(0, min(4096, len(content)), 12):
        content[place] ^= int(rng.integers(1, 256))
    path.write_bytes(content)
    with contextlib.suppress(CaptureError), open_capture(path) as capture:
        assert capture.read(0, capture.samples).size == capture.samples


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.empty(0, np.int8), "is empty"),
        (np.zeros(1, np.int8), "only one sample"),
        (np.zeros((10, 10), np.int8), r"one-dimensional, got shape \(10, 10\)"),
        (np.int8(3), "one-dimensional"),
        (h5py.Empty("i1"), "one-dimensional"),
        (np.zeros(10, np.float32), "got float32"),
        (np.zeros(10, np.complex64), "got complex64"),
        (np.zeros(10, np.int32), "got int32"),
        (np.zeros(10, bool), "got bool"),
        (np.zeros(10, "S4"), r"got \|S4"),
        (np.zeros(10, [("i", "i2"), ("q", "i2")]), "must be int8"),
        (np.zeros(10, h5py.enum_dtype({"low": 0, "high": 1}, "i1")), "enumeration"),
        (["text", "text"], "must be int8"),
        (None, "'samples' is missing"),
    ],
)
def test_samples_must_be_one_dimensional_small_integers(path, samples, message):
    new(path, samples).close()
    refused(path, message)


def test_samples_must_be_a_dataset(path):
    with new(path, None) as file:
        file.create_group("samples")
    refused(path, "not a dataset")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"sample_rate_hz": None}, "'sample_rate_hz' is missing; give it with --sample-rate"),
        ({"sample_rate_hz": np.nan}, "'sample_rate_hz' must be finite"),
        ({"sample_rate_hz": 0.0}, "'sample_rate_hz' must lie between"),
        ({"sample_rate_hz": -5e9}, "'sample_rate_hz' must lie between"),
        ({"sample_rate_hz": 1e300}, "'sample_rate_hz' must lie between"),
        ({"sample_rate_hz": "5 GSa/s"}, "'sample_rate_hz' must be one number"),
        ({"sample_rate_hz": [5e9, 5e9]}, "'sample_rate_hz' must be one number"),
        ({"sample_rate_hz": 5e9 + 0j}, "'sample_rate_hz' must be one number"),
        ({"sample_rate_hz": h5py.Empty("f8")}, "'sample_rate_hz' must be one number"),
        ({"bits": 17}, "'bits' must lie between"),
        ({"bits": 7.5}, "'bits' must be a whole number"),
        ({"flow_speed_m_per_s": np.inf}, "'flow_speed_m_per_s' must be finite"),
        ({"instrument": 7}, "'instrument' must be text"),
        ({"instrument": "x" * 5000}, "'instrument' is longer than"),
        ({"start_time": "noon"}, "'start_time' must be ISO 8601"),
        ({"complete": "yes"}, "'complete' must be true or false"),
        ({"format_version": 2}, "'format_version' is 2, only 1 is known"),
        ({"format_version": None}, "'format_version' is None"),
    ],
)
def test_metadata_that_cannot_be_meant(path, attributes, message):
    new(path, **attributes).close()
    refused(path, message)


def test_bits_must_fit_the_samples(path):
    new(path, np.zeros(10, np.int8), bits=12).close()
    refused(path, "int8 samples cannot hold the 12 bits")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(1, 0)], "must start at sample 0"),
        ([(-5, 0), (0, 5)], "must start at sample 0"),
        ([(0, 0), (500, 600), (400, 9000)], "must ascend, row 2 is 400 after 500"),
        ([(0, 0), (500, 600), (500, 700)], "must ascend"),
        ([(0, 0), (1000, 2000)], "beyond the last, 999"),
        ([(0, -1)], "must not be negative"),
        (
            [(0, 0), (500, 499)],
            "overlap on the device's clock: row 1 starts at 499, the one before ends at 500",
        ),
        ([(0, 0), (500, 2**62)], "absurdly large device_index"),
    ],
)
def test_segments_must_make_sense(path, rows, message):
    with new(path) as file:
        file["segments"] = np.array(rows, dtype=SEGMENTS)
    refused(path, message)


@pytest.mark.parametrize(
    "table",
    [
        np.zeros(3, np.int64),
        np.zeros(3, [("first_sample", "f8"), ("device_index", "i8")]),
        np.zeros(3, [("first", "i8"), ("device", "i8")]),
        np.zeros(3, [("first_sample", "i8", 2), ("device_index", "i8")]),
    ],
)
def test_segments_must_have_their_fields(path, table):
    with new(path) as file:
        file["segments"] = table
    refused(path, "integer fields first_sample and device_index")


def test_segments_of_any_integer_and_order_of_fields(path):
    with new(path) as file:
        file["segments"] = np.array(
            [(7, b"", 0), (5000, b"trigger", 400)],
            dtype=[("device_index", ">u8"), ("note", "S8"), ("first_sample", "u2")],
        )
    with open_capture(path) as capture:
        assert [(s.first_sample, s.samples, s.device_index) for s in capture.segments] == [
            (0, 400, 7),
            (400, 600, 5000),
        ]


def test_an_empty_segment_table_means_no_gap(path):
    with new(path) as file:
        file["segments"] = np.empty(0, dtype=SEGMENTS)
    with open_capture(path) as capture:
        assert len(capture.segments) == 1


def test_links_out_of_the_file_are_not_followed(path):
    new(path.with_name("other.h5")).close()
    with new(path, None) as file:
        file["samples"] = h5py.ExternalLink("other.h5", "/samples")
    refused(path, "external link, which is not followed")
    with new(path) as file:
        file["segments"] = h5py.ExternalLink("other.h5", "/samples")
    refused(path, "'segments' is an external link")
    with new(path, None) as file:
        file["elsewhere"] = h5py.ExternalLink("other.h5", "/")
        file["samples"] = h5py.SoftLink("/elsewhere/samples")
    refused(path, "soft link, which is not followed")


def test_circular_links(path):
    with new(path, None) as file:
        file["samples"] = h5py.SoftLink("/again")
        file["again"] = h5py.SoftLink("/samples")
    refused(path, "soft link")


def test_external_storage_is_not_read(path):
    secret = path.with_name("secret.bin")
    secret.write_bytes(b"secret" * 400)
    with new(path, None) as file:
        file.create_dataset("samples", (1000,), "i1", external=[(str(secret), 0, 1000)])
    refused(path, "external files, which are not followed")


@pytest.mark.parametrize("source", ["other.h5", "."])
def test_virtual_datasets_are_not_followed(path, source):
    new(path.with_name("other.h5")).close()
    with new(path, None) as file:
        file["there"] = SAMPLES
        mapping = h5py.VirtualLayout((1000,), "i2")
        mapping[:] = h5py.VirtualSource(source, "there", (1000,))
        file.create_virtual_dataset("samples", mapping)
    refused(path, "is virtual")


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("stored", [0, 1, 1000])
def test_a_claim_of_1e15_samples(path, stored, compression):
    """Nothing is allocated for samples that are not there: the refusal takes no memory to speak of."""
    with new(path, None) as file:
        samples = file.create_dataset("samples", (10**15,), "i1", chunks=(1 << 20,), compression=compression)
        if stored:
            samples[:stored] = 1
    assert path.stat().st_size < 1 << 21
    refused(path, "declares 1000000000000000 samples, but the file holds")


def test_a_contiguous_dataset_never_written(path):
    with new(path, None) as file:
        file.create_dataset("samples", (10**12,), "i1")
    refused(path, "declares 1000000000000 samples, but the file holds 0")


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_hole_in_the_middle_is_no_signal(path, compression):
    with new(path, None) as file:
        samples = file.create_dataset("samples", (10_000,), "i1", chunks=(1000,), compression=compression)
        samples[:4000] = 1
        samples[5000:] = 1
    refused(path, "declares 10000 samples")


def test_chunks_too_large_to_load(path):
    with new(path, None) as file:
        file.create_dataset("samples", (10,), "i1", chunks=(1 << 29,), maxshape=(None,), compression="gzip")
    refused(path, "chunks of 536870912 bytes, more than the 268435456 allowed")


def test_an_oversized_segment_table(path):
    with new(path) as file:
        file.create_dataset("segments", (10**14,), SEGMENTS, chunks=(1024,))
    refused(path, "'segments'.* declares 100000000000000 rows but does not hold them")


def test_a_damaged_chunk_is_an_error_where_it_lies(path):
    with new(path, None) as file:
        samples = file.create_dataset("samples", data=SAMPLES, chunks=(100,), compression="gzip")
        samples.id.write_direct_chunk((500,), b"no deflate stream")
    with open_capture(path) as capture:
        np.testing.assert_array_equal(capture.read(0, 500), SAMPLES[:500])
        with pytest.raises(CaptureError, match=r"a\.h5.*samples 450 to 550.*damaged"):
            capture.read(450, 550)


def test_an_unknown_filter_is_named(path):
    with new(path, None) as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((100,))
        creation.set_filter(511, h5py.h5z.FLAG_OPTIONAL)
        space = h5py.h5s.create_simple((1000,))
        h5py.h5d.create(file.id, b"samples", h5py.h5t.STD_I8LE, space, creation)
    refused(path, "unknown HDF5 filter 511")


@pytest.mark.parametrize("packing", ["gzip", "lzf", "zstd"])
def test_compressed_captures_are_read(path, packing):
    options = {"compression": packing}
    if packing == "zstd":
        hdf5plugin = pytest.importorskip("hdf5plugin")
        options = dict(hdf5plugin.Zstd())
    with new(path, None) as file:
        file.create_dataset("samples", data=SAMPLES, chunks=(64,), shuffle=True, **options)
    with open_capture(path) as capture:
        np.testing.assert_array_equal(capture.read(0, 1000), SAMPLES)
