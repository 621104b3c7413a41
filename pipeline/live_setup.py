"""What a live run must know before its clock starts: the empty line, the scale, the grid; measured on a snapshot.

A snapshot is a short capture: it is surveyed as any other, so that a stream and the file recorded from it are seen
with the same eyes.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..acquisition import CaptureError, CaptureMetadata, CaptureWriter, open_capture
from ..acquisition.source import EndOfStream, Source
from ..sr.reconstruct import Grid
from .cells import Job
from .crops import choose_crop_px
from .execution import Execution
from .measure import Setup
from .settings import Settings
from .stretches import STRETCH_SAMPLES, State, grid_of, process_stretch, stretches
from .survey import require_dark_level, survey_capture

# A snapshot has so many samples, as long as it is not longer than this many seconds of signal.
_SNAPSHOT_SAMPLES, _LONGEST_SNAPSHOT_S = STRETCH_SAMPLES, 2.0
_SNAPSHOT_TIMEOUT_S = 5.0
# Cells are taken to be so large where none has been seen yet; where the scale is unknown, as large as the line.
_USUAL_CELL_UM = 16.0
# Stretches in which an event is looked for, to choose the grid by.
_MOST_STRETCHES = 4


@dataclass(frozen=True)
class Calibration:
    """What was measured.

    setup : Setup
    grid : Grid
    crop_px : int
        Side of the crops [pixels].
    line_period_samples : float
    warnings : tuple of str
        Where what is stated is not what was measured.
    """

    setup: Setup
    grid: Grid
    crop_px: int
    line_period_samples: float
    warnings: tuple[str, ...]

    @property
    def line_rate_hz(self) -> float:
        return self.setup.sample_rate_hz / self.line_period_samples


def calibrate_on_capture(path: Path, settings: Settings, execution: Execution | None = None) -> Calibration:
    """Calibrate on a recorded stream, as ``process`` does.

    Raises
    ------
    CaptureError
        If it holds no usable line-scan signal, or no dark level can be told.
    """
    settings, execution = settings.with_method("gridding"), execution or Execution()
    with open_capture(path, sample_rate_hz=settings.capture.sample_rate_hz) as capture:
        survey = survey_capture(capture, settings.capture)
    require_dark_level(survey, path)
    job, state = Job(path, survey, settings), State()
    cells = []
    for number, stretch in enumerate(stretches(survey)):
        if state.kernel is not None or number == _MOST_STRETCHES:
            break
        cells = process_stretch(job, stretch, state, execution)
    grid, warnings = grid_of(job, state.kernel), survey.warnings
    pixel_um = job.setup.pixel_um(grid)
    lit_px = survey.background.lit_samples * grid.columns_per_sample
    crop_px = settings.image.crop_px or choose_crop_px(cells, _USUAL_CELL_UM / pixel_um if pixel_um else lit_px)
    if not cells:
        warnings = (
            *warnings,
            f"no cell in the first samples: the images' grid and their side of {crop_px} pixels were chosen without "
            "one; set [image] oversampling and crop_px if they do not fit",
        )
    return Calibration(job.setup, grid, crop_px, survey.clock.period_samples, warnings)


def calibrate_on_source(source: Source, settings: Settings) -> Calibration:
    """Calibrate on a snapshot of a source, which is started and stopped for it.

    Raises
    ------
    CaptureError
        If no samples come, or as in :func:`calibrate_on_capture`.
    """
    source.start()
    try:
        blocks = _snapshot(source, snapshot_samples(source.sample_rate_hz))
    finally:
        source.stop()
    return calibrate_on_blocks(blocks, source.metadata, source.dtype, settings)


def snapshot_samples(sample_rate_hz: float) -> int:
    """Samples that a snapshot should have."""
    return min(_SNAPSHOT_SAMPLES, int(_LONGEST_SNAPSHOT_S * sample_rate_hz))


def calibrate_on_blocks(
    blocks: list[tuple[int, np.ndarray]], metadata: CaptureMetadata, dtype: np.dtype, settings: Settings
) -> Calibration:
    """Calibrate on copies of blocks, each with its index; CaptureError as in :func:`calibrate_on_capture`."""
    with tempfile.TemporaryDirectory(prefix="stretchscope-") as folder:
        path = Path(folder) / "snapshot.h5"
        with CaptureWriter(path, metadata, dtype) as writer:
            for index, samples in blocks:
                writer.append(samples, device_index=index)
        try:
            return calibrate_on_capture(path, settings)
        except CaptureError as error:
            raise CaptureError(str(error).replace(str(path), "the stream's first samples")) from error


def _snapshot(source: Source, wanted: int) -> list[tuple[int, np.ndarray]]:
    """Copies of a source's first blocks, with their indices."""
    blocks: list[tuple[int, np.ndarray]] = []
    samples, waited = 0, 0.0
    while samples < wanted:
        try:
            block = source.acquire(0.1)
        except EndOfStream:
            break
        if block is None:
            waited += 0.1
            if waited > _SNAPSHOT_TIMEOUT_S:
                raise CaptureError(
                    f"no samples came within {_SNAPSHOT_TIMEOUT_S:g} s: check the digitiser's input and trigger"
                )
            continue
        copy = block.samples.copy()
        if block.valid():
            blocks.append((block.index, copy))
            samples += copy.size
        source.release(block)
    if not blocks:
        raise CaptureError("the stream ended before its first sample")
    return blocks
