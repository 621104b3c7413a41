"""Captures that are being written, and what dead writers leave."""

import contextlib
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest

from stretchscope.acquisition import CaptureError, CaptureMetadata, CaptureWriter, Segment, open_capture

CHUNK = 1 << 20

RECORD = """
import sys, numpy as np
from stretchscope.acquisition import CaptureMetadata, CaptureWriter
ramp = (np.arange(4 << 20) % 251).astype(np.uint8)
with CaptureWriter(sys.argv[1], CaptureMetadata(sample_rate_hz=5e9, bits=8), "uint8") as writer:
    writer.append(ramp[: 1 << 20])
    writer.append(ramp[1 << 20 : 5 << 19], device_index=7_000_000)
    print("ready", flush=True)
    sys.stdin.readline()
    writer.append(ramp[5 << 19 :])
    writer.write_truth("cells", np.arange(5))
    print("more", flush=True)
    sys.stdin.readline()
"""
RAMP = (np.arange(4 * CHUNK) % 251).astype(np.uint8)


@contextlib.contextmanager
def recording(path):
    """A recording in another process; one chunk and a half in two segments are appended."""
    command = [sys.executable, "-c", RECORD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def go_on(process):
    process.stdin.write("\n")
    process.stdin.flush()


def test_a_capture_is_read_while_another_process_writes_it(tmp_path):
    part = tmp_path / "a.h5.part"
    with recording(tmp_path / "a.h5") as process:
        with open_capture(part) as early:
            assert early.samples == 2 * CHUNK  # whole chunks
            assert early.segments == (Segment(0, CHUNK, 0), Segment(CHUNK, CHUNK, 7_000_000))
            assert "not finished" in early.warnings[0]
            go_on(process)
            assert process.stdout.readline() == "more\n"
            np.testing.assert_array_equal(early.read(0, early.samples), RAMP[: 2 * CHUNK])
            np.testing.assert_array_equal(early.to_dask(700_000).compute(), RAMP[: 2 * CHUNK])
        with open_capture(part) as later:
            assert later.samples == 4 * CHUNK
            np.testing.assert_array_equal(later.read(0, later.samples), RAMP)
            go_on(process)
            assert process.wait(20) == 0  # an open reader does not stand in the way
            np.testing.assert_array_equal(later.read(0, later.samples), RAMP)
    with open_capture(tmp_path / "a.h5") as whole:
        assert (whole.samples, whole.warnings) == (4 * CHUNK, ())
        assert whole.segments == (Segment(0, CHUNK, 0), Segment(CHUNK, 3 * CHUNK, 7_000_000))
    assert not part.exists()


def test_what_a_killed_writer_left_is_read(tmp_path):
    with recording(tmp_path / "a.h5") as process:
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    assert not (tmp_path / "a.h5").exists()
    part = (tmp_path / "a.h5.part").rename(tmp_path / "rescued.h5")  # the mark inside is what tells
    with open_capture(part) as capture:
        assert len(capture.warnings) == 1
        assert "has died; the 2097152 samples stored so far are read" in capture.warnings[0]
        np.testing.assert_array_equal(capture.read(0, capture.samples), RAMP[: 2 * CHUNK])
        assert capture.segments[1].device_index == 7_000_000


def test_a_writer_killed_before_its_first_chunk(tmp_path):
    writer = CaptureWriter(tmp_path / "a.h5", CaptureMetadata(sample_rate_hz=5e9), "int8")
    writer.append(np.zeros(1000, np.int8))
    writer._file.close()  # what was flushed is on the disk, and no more
    with pytest.raises(CaptureError, match="is empty"):
        open_capture(tmp_path / "a.h5.part")


def test_a_file_marked_incomplete_is_read_with_a_warning(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.attrs.update({"format": "stretchscope", "format_version": 1, "sample_rate_hz": 1e9, "complete": False})
        samples = file.create_dataset("samples", (500,), "i1", chunks=(100,))
        samples[:300] = 5  # the length was set before the samples came
        file["segments"] = np.array(
            [(0, 0), (200, 900), (300, 2000)], dtype=[("first_sample", "i8"), ("device_index", "i8")]
        )
    with open_capture(tmp_path / "a.h5") as capture:
        assert "not finished" in capture.warnings[0]
        assert (capture.read(0, capture.samples) == 5).all()
        assert capture.segments == (Segment(0, 200, 0), Segment(200, 100, 900))


def test_a_part_file_is_read_with_a_warning(tmp_path):
    with CaptureWriter(tmp_path / "a.h5", CaptureMetadata(sample_rate_hz=1e9), "int8") as writer:
        writer.append(np.zeros(10, np.int8))
    part = (tmp_path / "a.h5").rename(tmp_path / "a.h5.part")
    with open_capture(part) as capture:
        assert "not finished" in capture.warnings[0]


def test_a_writer_that_died_without_swmr_is_explained(tmp_path):
    code = (
        "import h5py, os, sys\n"
        "file = h5py.File(sys.argv[1], 'w', libver=('v110', 'v110'))\n"
        "file['raw'] = list(range(9))\n"
        "file.flush()\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.h5")], check=True)
    with pytest.raises(CaptureError, match=r"not closed by its writer.*h5clear --status"):
        open_capture(tmp_path / "a.h5")


def test_a_full_disk_is_one_error_and_leaves_nothing(tmp_path):
    """The limit of the file size stands for a full disk."""
    code = (
        "import resource, sys, numpy as np\n"
        "from stretchscope.acquisition import *\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, 3 << 20))\n"
        "try:\n"
        "    with CaptureWriter(sys.argv[1], CaptureMetadata(sample_rate_hz=1e9), 'int8') as writer:\n"
        "        for _ in range(9): writer.append(np.ones(1 << 20, np.int8))\n"
        "except CaptureError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.h5")]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "a.h5.part: cannot write" in result.stdout
    assert result.stderr == ""
    assert list(tmp_path.iterdir()) == []
