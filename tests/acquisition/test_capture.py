"""Captures written and read back: the same samples, wherever they are cut, and gaps where they were."""

import hashlib
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stretchscope.acquisition import CaptureError, CaptureMetadata, CaptureWriter, Segment, open_capture

DTYPES = ["int8", "uint8", "int16", "uint16"]
reuse_folder = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def noise(samples, dtype="int8", seed=0):
    limits = np.iinfo(dtype)
    return np.random.default_rng(seed).integers(limits.min, limits.max, samples, dtype=dtype, endpoint=True)


def write(path, samples, **metadata):
    metadata.setdefault("sample_rate_hz", 5e9)
    path.unlink(missing_ok=True)  # replacing a file may wait for the disk
    with CaptureWriter(path, CaptureMetadata(**metadata), samples.dtype, overwrite=True) as writer:
        writer.append(samples)
    return path


@pytest.mark.parametrize("dtype", DTYPES)
def test_samples_and_metadata_come_back(tmp_path, dtype):
    samples = noise(3_000_001, dtype)  # several chunks and a part of one
    metadata = CaptureMetadata(
        sample_rate_hz=5e9,
        bits=8,
        nominal_line_period_samples=275.5,
        flow_speed_m_per_s=0.3,
        field_of_view_um=48.0,
        pulse_duration_s=12e-9,
        lines_per_sample=55.0,
        dark_level_codes=-120.5,
        instrument="ADQ7 · laser 2",
        start_time="2024-05-31T14:02:11+00:00",
        sample="Chlamydomonas",
    )
    with CaptureWriter(tmp_path / "a.h5", metadata, dtype) as writer:
        for first in range(0, samples.size, 777_777):
            writer.append(samples[first : first + 777_777])
        assert writer.samples == samples.size
    assert os.listdir(tmp_path) == ["a.h5"]
    with open_capture(tmp_path / "a.h5") as capture:
        assert capture.metadata == metadata
        assert (capture.dialect, capture.warnings) == ("stretchscope-1", ())
        assert capture.segments == (Segment(0, samples.size, 0),)
        read = capture.read(0, capture.samples)
    assert read.dtype == samples.dtype == capture.dtype
    assert read.flags.c_contiguous
    assert read.flags.owndata
    np.testing.assert_array_equal(read, samples)


@pytest.mark.slow
@reuse_folder
@given(data=st.data())
def test_any_pieces_in_any_blocks_out(tmp_path, data):
    """Whatever the sizes of appends, gaps, blocks and chunks: every sample once, at its device index."""
    pieces = data.draw(
        st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 2) | st.integers(0, 2**40)), min_size=1, max_size=8)
    )
    block = data.draw(st.integers(1, 4000))
    (tmp_path / "a.h5").unlink(missing_ok=True)
    stream = noise(sum(size for size, _ in pieces) + 1, "int16")
    clock = np.empty(stream.size, dtype=np.int64)
    with CaptureWriter(tmp_path / "a.h5", CaptureMetadata(sample_rate_hz=1e9), "int16") as writer:
        position = index = 0
        for size, gap in [*pieces, (1, 0)]:
            index += gap
            writer.append(stream[position : position + size], device_index=index if gap else None)
            clock[position : position + size] = np.arange(index, index + size)
            position, index = position + size, index + size
    with open_capture(tmp_path / "a.h5") as capture:
        starts = np.array([s.first_sample for s in capture.segments])
        np.testing.assert_array_equal(starts, [0, *np.flatnonzero(np.diff(clock) > 1) + 1])
        assert sum(s.samples for s in capture.segments) == stream.size
        for s in capture.segments:
            np.testing.assert_array_equal(
                clock[s.first_sample : s.first_sample + s.samples], s.device_index + np.arange(s.samples)
            )
        blocks = list(capture.blocks(block))
        lazy = capture.to_dask(block)
        assert lazy.chunks == (tuple(len(samples) for _, samples in blocks),)
        np.testing.assert_array_equal(lazy.compute(scheduler="sync"), stream)
    assert all(np.all(np.diff(clock[first : first + len(samples)]) == 1) for first, samples in blocks)
    assert [first for first, _ in blocks] == list(np.cumsum([0] + [len(s) for _, s in blocks])[:-1])
    np.testing.assert_array_equal(np.concatenate([samples for _, samples in blocks]), stream)


def test_dask_works_on_after_the_capture_is_closed(tmp_path):
    """In threads, and in another process and folder: tasks carry the path, no handle."""
    samples = noise(2_500_000, "uint16")
    with open_capture(write(tmp_path / "a.h5", samples)) as capture:
        lazy = capture.to_dask(300_000)
    assert lazy.dtype == samples.dtype
    part = np.s_[1_000_000:2_000_001:7]
    np.testing.assert_array_equal(lazy[part].compute(scheduler="threads", num_workers=4), samples[part])
    code = (
        "import pickle, sys\n"
        "lazy = pickle.load(sys.stdin.buffer)\n"
        "sys.stdout.buffer.write(lazy.compute(scheduler='sync').tobytes())\n"
    )
    command = [sys.executable, "-c", code]
    elsewhere = subprocess.run(command, input=pickle.dumps(lazy[part]), stdout=subprocess.PIPE, check=True, cwd="/")
    np.testing.assert_array_equal(np.frombuffer(elsewhere.stdout, np.uint16), samples[part])


def test_a_file_that_shrank_under_dask_says_so(tmp_path):
    with open_capture(write(tmp_path / "a.h5", noise(1000))) as capture:
        lazy = capture.to_dask(300)
    write(tmp_path / "a.h5", noise(500))
    with pytest.raises(CaptureError, match="has shrunk"):
        lazy.compute(scheduler="sync")


def test_threads_may_share_a_capture(tmp_path):
    samples = noise(4_000_000)
    with open_capture(write(tmp_path / "a.h5", samples)) as capture, ThreadPoolExecutor(4) as pool:
        spans = [(first, first + 99_999) for first in range(0, 3_900_000, 50_001)]
        for (first, stop), read in zip(spans, pool.map(lambda span: capture.read(*span), spans), strict=True):
            np.testing.assert_array_equal(read, samples[first:stop])


def test_reading_outside_the_capture_is_refused(tmp_path):
    with open_capture(write(tmp_path / "a.h5", noise(100))) as capture:
        assert capture.read(50, 50).size == 0
        for first, stop in [(-1, 5), (0, 101), (9, 8)]:
            with pytest.raises(IndexError, match="leave a capture of 100 samples"):
                capture.read(first, stop)
        with pytest.raises(ValueError, match="at least one sample"):
            next(capture.blocks(0))
    with pytest.raises(ValueError, match="is closed"):
        capture.read(0, 1)


@pytest.mark.parametrize(
    ("dtype", "bits", "limits"),
    [
        ("int8", 8, (-128, 127)),
        ("uint8", 8, (0, 255)),
        ("int16", 12, (-2048, 2047)),
        ("uint16", 14, (0, 16383)),
        ("int16", None, None),
    ],
)
def test_rails_follow_from_bits_and_sign(tmp_path, dtype, bits, limits):
    with open_capture(write(tmp_path / "a.h5", noise(10, dtype), bits=bits)) as capture:
        assert capture.code_limits == limits


def test_big_endian_files_read_as_native(tmp_path):
    samples = noise(5000, "int16")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs.update({"format": "stretchscope", "format_version": 1, "sample_rate_hz": 1e9})
        file.create_dataset("samples", data=samples.astype(">i2"), chunks=(100,), compression="gzip")
    with open_capture(tmp_path / "a.h5") as capture:
        assert capture.read(3, 4000).dtype.isnative
        np.testing.assert_array_equal(capture.read(3, 4000), samples[3:4000])


def test_digest_tells_captures_apart(tmp_path):
    samples = noise(9_000_000)

    def digest(changed, **metadata):
        with open_capture(write(tmp_path / "a.h5", changed, **metadata)) as capture:
            return capture.digest()

    reference = digest(samples)
    assert len(reference) == 2 * hashlib.sha256().digest_size
    assert digest(samples) == reference
    assert digest(samples, sample_rate_hz=4e9) != reference
    assert digest(samples[:-1]) != reference
    assert digest(samples.view("uint8")) != reference
    for place in (0, -1):
        changed = samples.copy()
        changed[place] ^= 1
        assert digest(changed) != reference
    short = noise(200_000)
    reference = digest(short)
    for place in range(0, short.size, 33_333):  # every sample of a short capture counts
        changed = short.copy()
        changed[place] ^= 1
        assert digest(changed) != reference


def test_the_caller_s_sample_rate_goes_before_the_file_s(tmp_path):
    write(tmp_path / "a.h5", noise(10), sample_rate_hz=5e9)
    with open_capture(tmp_path / "a.h5", sample_rate_hz=2e9) as capture:
        assert capture.metadata.sample_rate_hz == 2e9
        assert "states 5e+09 samples/s; 2e+09 is used" in capture.warnings[0]
    with pytest.raises(CaptureError, match="the sample rate asked for must lie between"):
        open_capture(tmp_path / "a.h5", sample_rate_hz=-1.0)


# --- writer


def test_truth_is_kept_whenever_it_is_given(tmp_path):
    with CaptureWriter(tmp_path / "a.h5", CaptureMetadata(sample_rate_hz=1e9), "int8") as writer:
        writer.write_truth("kinds", ["bead", "cell"], seed=4)
        writer.append(noise(1_500_000))
        starts = np.arange(5.0)
        writer.write_truth("line_start_samples", starts, unit="samples")
        starts[:] = 0  # the caller's array is the caller's
        writer.append(noise(10, seed=2))
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file["truth/kinds"].asstr()) == ["bead", "cell"]
        assert file["truth/kinds"].attrs["seed"] == 4
        np.testing.assert_array_equal(file["truth/line_start_samples"], np.arange(5.0))
        assert file["truth/line_start_samples"].attrs["unit"] == "samples"
        assert file.attrs["complete"]
    with open_capture(tmp_path / "a.h5") as capture:
        assert (capture.samples, capture.warnings) == (1_500_010, ())


def test_an_exception_leaves_nothing_behind(tmp_path):
    def interrupted():
        with CaptureWriter(tmp_path / "a.h5", CaptureMetadata(sample_rate_hz=1e9), "int8") as writer:
            writer.append(noise(3_000_000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_capture_without_samples_is_not_written(tmp_path):
    writer = CaptureWriter(tmp_path / "a.h5", CaptureMetadata(sample_rate_hz=1e9), "int8")
    with pytest.raises(CaptureError, match="nothing to write"), writer:
        writer.append(noise(1))
    assert list(tmp_path.iterdir()) == []


def test_existing_files_are_kept_unless_asked(tmp_path):
    metadata = CaptureMetadata(sample_rate_hz=1e9)
    path = write(tmp_path / "a.h5", noise(100))
    before = path.read_bytes()
    with pytest.raises(CaptureError, match=r"a\.h5: file exists"):
        CaptureWriter(path, metadata, "int8")
    (tmp_path / "b.h5.part").write_bytes(b"precious")
    with pytest.raises(CaptureError, match=r"b\.h5\.part: file exists, left by a writer"):
        CaptureWriter(tmp_path / "b.h5", metadata, "int8")
    assert path.read_bytes() == before
    assert (tmp_path / "b.h5.part").read_bytes() == b"precious"
    for name in ("a.h5", "b.h5"):
        with CaptureWriter(tmp_path / name, metadata, "int8", overwrite=True) as writer:
            writer.append(noise(7))
        with open_capture(tmp_path / name) as capture:
            assert capture.samples == 7
    assert sorted(os.listdir(tmp_path)) == ["a.h5", "b.h5"]


def test_overwriting_is_undone_by_an_exception(tmp_path):
    path = write(tmp_path / "a.h5", noise(100))
    before = path.read_bytes()
    writer = CaptureWriter(path, CaptureMetadata(sample_rate_hz=1e9), "int8", overwrite=True)
    writer.append(noise(10), device_index=50)
    with pytest.raises(CaptureError, match="goes backwards: 59 after sample 59"), writer:
        writer.append(noise(10), device_index=59)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.h5"]


@pytest.mark.parametrize("name", ["missing/a.h5", "folder", "/proc/self/a.h5"])
def test_places_that_cannot_be_written_are_named(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(CaptureError, match=r"does not exist|is a folder|cannot create the file"):
        CaptureWriter(tmp_path / name, CaptureMetadata(sample_rate_hz=1e9), "int8")


@pytest.mark.parametrize(
    ("samples", "device_index", "message"),
    [
        (np.zeros(4, np.int16), None, "samples must be int8"),
        (np.zeros(4, np.float32), None, "samples must be int8"),
        (np.zeros((2, 2), np.int8), None, "of shape"),
        (np.zeros(4, np.int8), -1, "negative or absurdly large"),
        (np.zeros(4, np.int8), 2**63, "negative or absurdly large"),
    ],
)
def test_what_the_writer_does_not_take(tmp_path, samples, device_index, message):
    writer = CaptureWriter(tmp_path / "a.h5", CaptureMetadata(sample_rate_hz=1e9), "int8")
    with pytest.raises(CaptureError, match=message), writer:
        writer.append(samples, device_index)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("dtype", ["float32", "int32", "complex64", "bool", "S4", "nonsense"])
def test_only_small_integers_are_samples(tmp_path, dtype):
    with pytest.raises(CaptureError, match="must be int8, uint8, int16 or uint16"):
        CaptureWriter(tmp_path / "a.h5", CaptureMetadata(sample_rate_hz=1e9), dtype)
    assert list(tmp_path.iterdir()) == []


def test_bits_must_fit_the_samples(tmp_path):
    with pytest.raises(CaptureError, match="12 bits do not fit into int8"):
        CaptureWriter(tmp_path / "a.h5", CaptureMetadata(sample_rate_hz=1e9, bits=12), "int8")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("sample_rate_hz", float("nan"), "sample_rate_hz must be finite"),
        ("sample_rate_hz", float("inf"), "sample_rate_hz must be finite"),
        ("sample_rate_hz", 0, "sample_rate_hz must lie between"),
        ("sample_rate_hz", -5e9, "sample_rate_hz must lie between"),
        ("sample_rate_hz", 5, "sample_rate_hz must lie between"),
        ("sample_rate_hz", 5e15, "sample_rate_hz must lie between"),
        ("sample_rate_hz", "5e9", "sample_rate_hz must be a number"),
        ("sample_rate_hz", True, "sample_rate_hz must be a number"),
        ("sample_rate_hz", None, "sample_rate_hz must be a number"),
        ("bits", 0, "bits must lie between"),
        ("bits", 8.0, "bits must be a whole number"),
        ("nominal_line_period_samples", 1.0, "nominal_line_period_samples must lie"),
        ("flow_speed_m_per_s", float("nan"), "flow_speed_m_per_s must be finite"),
        ("field_of_view_um", -48, "field_of_view_um must lie"),
        ("pulse_duration_s", 12.0, "pulse_duration_s must lie"),
        ("lines_per_sample", 0, "lines_per_sample must lie"),
        ("dark_level_codes", 1e9, "dark_level_codes must lie"),
        ("instrument", 7, "instrument must be text"),
        ("start_time", "yesterday", "start_time must be ISO 8601"),
    ],
)
def test_metadata_names_the_field_that_is_wrong(field, value, message):
    with pytest.raises(CaptureError, match=message):
        CaptureMetadata(**{"sample_rate_hz": 5e9, field: value})
