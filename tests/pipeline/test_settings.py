"""Settings from TOML: what is not named keeps its default, and every mistake is named."""

from pathlib import Path

import numpy as np
import pytest

from stretchscope.acquisition import open_capture
from stretchscope.pipeline.cells import Job, image_lines
from stretchscope.pipeline.settings import Settings, SettingsError, read_settings
from stretchscope.pipeline.survey import survey_capture
from stretchscope.sr.reconstruct import Grid


def write(folder: Path, text: str) -> Path:
    path = folder / "s.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_named_values_are_taken_and_the_rest_keep_their_defaults(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, "[capture]\nflow_speed_m_per_s = 2\n[image]\ncrop_px = 64\n"))
    assert settings.capture.flow_speed_m_per_s == 2.0
    assert isinstance(settings.capture.flow_speed_m_per_s, float)
    assert settings.image.crop_px == 64
    assert settings.cells == Settings().cells


def test_flags_go_before_the_file(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, "[capture]\nflow_speed_m_per_s = 2.0\ndark_level_codes = -3\n"))
    settings = settings.with_capture(flow_speed_m_per_s=0.5, dark_level_codes=None)
    assert (settings.capture.flow_speed_m_per_s, settings.capture.dark_level_codes) == (0.5, -3.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[capture]\nflow_sped_m_per_s = 2\n", r"key 'flow_sped_m_per_s' is unknown.*'flow_speed_m_per_s'"),
        ("[imag]\ncrop_px = 64\n", r"table \[imag\] is unknown.*'image'"),
        ("image = 3\n", r"'image' must be a table"),
        ("[image]\ncrop_px = 64.5\n", r"crop_px must be a whole number, got 64.5"),
        ("[image]\ncrop_px = true\n", r"crop_px must be a whole number, got True"),
        ("[image]\ncrop_px = 2\n", r"crop_px must lie between 16 and 1024"),
        ("[capture]\nsample_rate_hz = nan\n", r"sample_rate_hz must be a number, got nan"),
        ('[capture]\nsample_rate_hz = "5e9"\n', r"sample_rate_hz must be a number, got '5e9'"),
        ("[capture]\nsample_rate_hz = -1\n", r"sample_rate_hz must lie between"),
        ("capture]\n", r"not a TOML file"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        read_settings(write(tmp_path, text))


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_settings(tmp_path / "none.toml")


def test_the_detector_s_response_reaches_the_method(simulated: Path) -> None:
    """In a capture of 3 GHz at 5 GSa/s, cells are a little steeper with it."""
    images = []
    for bandwidth in (None, 3e9):
        settings = Settings().with_capture(detector_bandwidth_hz=bandwidth).with_method("regularised")
        with open_capture(simulated) as capture:
            survey = survey_capture(capture, settings.capture)
        job = Job(simulated, survey, settings)
        grid = Grid(4.0, 1.0, 0.3, 1.0)
        clock = survey.clock.segments[0]
        images.append(image_lines(job, grid, survey.segments[0], clock, (0.0, 3000.0), (5.0, 200.0)).transmission)
    steps = [float(np.nanmean(np.abs(np.diff(image, axis=1)) ** 2)) for image in images]
    assert 1.005 * steps[0] < steps[1] < 2 * steps[0]
