"""Layouts of capture files: the one documented, and those of others."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from stretchscope.acquisition import CaptureError, open_capture

FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "capture-format.md"


def proximal(path, samples=None, **attributes):
    with h5py.File(path, "w") as file:
        file["raw"] = np.arange(1000, dtype=np.int16) if samples is None else samples
        file.attrs.update(attributes)
    return path


def test_the_real_capture(oil_emulsion):
    with open_capture(oil_emulsion) as capture:
        assert (capture.dialect, capture.samples, capture.dtype) == ("proximal", 275_000, np.int16)
        assert capture.metadata.sample_rate_hz == 5e9
        assert capture.metadata.nominal_line_period_samples == 275
        assert capture.metadata.lines_per_sample == 55
        assert capture.code_limits is None
        assert len(capture.segments) == 1
        (warning,) = capture.warnings
        assert "5e+09 samples/s is assumed" in warning
        assert "--sample-rate" in warning
        samples = capture.read(0, capture.samples)
        np.testing.assert_array_equal(capture.to_dask(100_000).compute(), samples)
    assert (samples.min(), samples.max()) == (-11, 128)
    assert np.count_nonzero(samples == 128) == 643  # 0.2338 % saturated


def test_the_rate_of_the_caller_goes_first_then_the_file_s(tmp_path):
    path = proximal(tmp_path / "a.h5", sample_rate=2.5e9, pulse_interval=137.5)
    with open_capture(path) as capture:
        assert (capture.metadata.sample_rate_hz, capture.warnings) == (2.5e9, ())
        assert capture.metadata.nominal_line_period_samples == 137.5
        assert capture.metadata.lines_per_sample is None
    with open_capture(path, sample_rate_hz=1e9) as capture:
        assert capture.metadata.sample_rate_hz == 1e9
        assert len(capture.warnings) == 1
    with open_capture(proximal(tmp_path / "b.h5"), sample_rate_hz=1e9) as capture:
        assert (capture.metadata.sample_rate_hz, capture.warnings) == (1e9, ())
    with open_capture(proximal(tmp_path / "c.h5", sample_rate_hz=3e9)) as capture:
        assert capture.metadata.sample_rate_hz == 3e9


def test_shear_factor_is_not_used(tmp_path):
    plain = proximal(tmp_path / "a.h5", pulse_interval=275)
    sheared = proximal(tmp_path / "b.h5", pulse_interval=275, shear_factor=-0.5195)
    with open_capture(plain) as first, open_capture(sheared) as second:
        assert first.metadata == second.metadata


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", ">i2"])
def test_raw_alone_is_enough(tmp_path, dtype):
    samples = np.arange(100).astype(dtype)
    with open_capture(proximal(tmp_path / "a.h5", samples)) as capture:
        assert capture.metadata.nominal_line_period_samples is None
        np.testing.assert_array_equal(capture.read(0, 100), np.arange(100))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"pulse_interval": np.nan}, "'pulse_interval' must be finite"),
        ({"pulse_interval": 0}, "'pulse_interval' must lie between"),
        ({"pulse_interval": "275"}, "'pulse_interval' must be one number"),
        ({"horizontal_scaling_factor": -55.0}, "'horizontal_scaling_factor' must lie between"),
        ({"sample_rate": 0.0}, "'sample_rate' must lie between"),
        ({"sample_rate_hz": np.inf}, "'sample_rate_hz' must be finite"),
    ],
)
def test_bad_attributes_are_named_as_in_the_file(tmp_path, attributes, message):
    with pytest.raises(CaptureError, match=rf"a\.h5: attribute {message}"):
        open_capture(proximal(tmp_path / "a.h5", **attributes))


@pytest.mark.parametrize("samples", [np.zeros((5, 5), np.int16), np.zeros(9, np.float32), np.empty(0, np.int16)])
def test_raw_must_hold_samples(tmp_path, samples):
    with pytest.raises(CaptureError, match="dataset 'raw'"):
        open_capture(proximal(tmp_path / "a.h5", samples))


def test_an_unknown_layout_says_what_is_there_and_what_is_known(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["waveform"] = np.zeros(10)
        file["elsewhere"] = h5py.ExternalLink("nowhere.h5", "/")
    with pytest.raises(
        CaptureError, match=r"no known layout; its root holds elsewhere, waveform.*stretchscope-1.*proximal"
    ):
        open_capture(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w"):
        pass
    with pytest.raises(CaptureError, match="its root holds nothing"):
        open_capture(tmp_path / "b.h5")


def test_the_format_page_is_enough_to_write_a_capture(tmp_path, monkeypatch):
    """The page's own snippets are run, with h5py alone, and their file is read."""
    if not FORMAT_PAGE.exists():
        pytest.skip("the tests run without the docs beside them")
    monkeypatch.chdir(tmp_path)
    simple, gaps = re.findall(r"```python\n(.*?)```", FORMAT_PAGE.read_text(), re.DOTALL)
    names = {}
    exec(simple, names)
    with open_capture("run7.h5") as capture:
        assert capture.code_limits == (-128, 127)
        assert capture.warnings == ()
        np.testing.assert_array_equal(capture.read(0, capture.samples), names["samples"])
    exec(gaps, names)
    with open_capture("run7.h5") as capture:
        assert [s.samples for s in capture.segments] == [600_000, 400_000]
        assert capture.segments[1].device_index == 9_000_000
