"""Measure the sample lattice on beads of known diameter: µm per sample along the line, µm per line along the flow."""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..acquisition import CaptureError, open_capture
from ..sr.detect import bin_columns, find_events
from ..sr.reconstruct import best_kernel, choose_grid
from .cells import Job, map_lines, score_kernels, widths_at_half_level
from .execution import Execution
from .settings import Settings
from .survey import survey_capture

MIN_BEADS = 5
# Samples looked through: some thousands of beads are more than enough.
_MOST_SAMPLES = 1 << 28


@dataclass(frozen=True)
class Calibration:
    """Result of a bead calibration.

    um_per_sample, um_per_line : float
        Size of a sample along the line and of a line along the flow [µm].
    um_per_sample_std, um_per_line_std : float
        Standard errors of the two [µm].
    beads : int
        Beads used.
    size_spread_along_line, size_spread_along_flow : float
        Robust relative scatter of the beads' sizes: their own spread and the measurement's together.
    """

    um_per_sample: float
    um_per_line: float
    um_per_sample_std: float
    um_per_line_std: float
    beads: int
    size_spread_along_line: float
    size_spread_along_flow: float

    def as_toml(self, capture: str, diameter_um: float) -> str:
        """Settings file that later runs read; the rest of the result as comments."""
        notes = "".join(f"# {name} = {value!r}\n" for name, value in asdict(self).items())
        return (
            f"# bead calibration of {capture}, beads of {diameter_um:g} um\n{notes}\n[capture]\n"
            f"um_per_sample = {self.um_per_sample!r}\num_per_line = {self.um_per_line!r}\n"
        )


def calibrate_beads(
    path: Path, bead_diameter_um: float, settings: Settings | None = None, execution: Execution | None = None
) -> Calibration:
    """Measure beads of known diameter.

    Parameters
    ----------
    path : Path
        Capture of beads; clumps and debris may be among them.
    bead_diameter_um : float
        Their diameter [µm].
    settings : Settings, optional
        Settings of the run.

    Returns
    -------
    calibration : Calibration

    Raises
    ------
    CaptureError
        If fewer than five single beads are found.

    Notes
    -----
    Width along the line and length along the flow of each bead at half the depth of its edge, in samples and in
    lines; clumps and debris are left out as what lies further than a quarter from the median in either.
    """
    settings, execution = (settings or Settings()).with_method("gridding"), execution or Execution()
    with open_capture(path, sample_rate_hz=settings.capture.sample_rate_hz) as capture:
        survey = survey_capture(capture, settings.capture)
    job = Job(path, survey, settings)
    widths = []
    seen = 0
    for segment, clock in zip(survey.segments, survey.clock.segments, strict=True):
        lines = min(clock.lines, int((_MOST_SAMPLES - seen) / survey.background.period_samples))
        if lines < 4:
            break
        seen += int(lines * survey.background.period_samples)
        step = int(execution.chunk_samples / survey.background.period_samples) // 4 * 4
        stop = clock.first_line + lines
        pieces = [
            (job, segment, clock, first, min(first + step, stop)) for first in range(clock.first_line, stop, step)
        ]
        significance = np.concatenate([part.significance for part in execution.run(map_lines, pieces)])
        events = find_events(
            significance,
            clock.first_line,
            bin_columns(survey.background),
            min_significance=settings.cells.min_significance,
        )
        if not events:
            continue
        strongest = sorted(events, key=lambda e: -e.significance)[:8]
        scores = execution.run(score_kernels, [(job, segment, clock, e) for e in strongest])
        kernel = best_kernel(scores, survey.clock.period_samples)
        # the lattice is what is to be measured: images are laid on samples and lines, not on µm
        grid = choose_grid(kernel, None)
        calls = [(job, grid, segment, clock, events[i : i + 16]) for i in range(0, len(events), 16)]
        widths += [w for batch in execution.run(widths_at_half_level, calls) for w in batch if w is not None]
    single = _single_beads(np.array(widths).reshape(-1, 2))
    if len(single) < MIN_BEADS:
        raise CaptureError(
            f"{path}: {len(single)} single beads among {len(widths)} objects: at least {MIN_BEADS} are needed; "
            "record more beads, or fewer clumps"
        )
    centre = np.median(single, axis=0)
    spread = 1.4826 * np.median(np.abs(single - centre), axis=0) / centre
    scale = bead_diameter_um / centre
    error = scale * spread * np.sqrt(np.pi / 2 / len(single))  # of a median
    return Calibration(
        um_per_sample=float(scale[0]),
        um_per_line=float(scale[1]),
        um_per_sample_std=float(error[0]),
        um_per_line_std=float(error[1]),
        beads=len(single),
        size_spread_along_line=float(spread[0]),
        size_spread_along_flow=float(spread[1]),
    )


def _single_beads(widths: np.ndarray) -> np.ndarray:
    """Rows (samples, lines) within a quarter of the median in both."""
    for _ in range(3):
        if not len(widths):
            break
        centre = np.median(widths, axis=0)
        widths = widths[np.all(np.abs(widths / centre - 1) < 0.25, axis=1)]
    return widths
