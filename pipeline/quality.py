"""How good the images of a capture are, measured on its most significant cells: for the run record and the report."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..acquisition import Segment
from ..sr.halves import Halves, deal_lines, images_of_halves
from ..sr.line_clock import SegmentClock
from ..sr.methods import reach_lines
from ..sr.quality import FWHM, CorrelationCurve, fourier_ring_correlation, local_phase_coverage, mean_curve, up_to
from ..sr.reconstruct import Grid
from ..sr.refine import RESPONSE_WIDTH, SMOOTH_LENGTH
from ..sr.sampling import WIDEST_GAP, phase_coverage
from .cells import Job, read_lines
from .execution import Execution
from .measure import Box, Cell

# Cells that are looked at, and pixels along a side of the windows around them: enough for the curves, a second of work.
MOST_CELLS = 6
_LEAST_PX, _MOST_PX = 32, 160
# Every so manieth row and column is asked for its samples.
_COVERAGE_STEP = 4
# A period that is this close to the finest that two halves can show is no measure of the image.
_CLOSE_TO_LIMIT = 1.25


def _width_of(method: str) -> tuple[float, float]:
    """Width at half maximum of a method's response, in the grid's sigmas, and gaps that it bridges [samples]."""
    if method == "regularised":  # it interpolates: two phases a sample suffice
        return RESPONSE_WIDTH * SMOOTH_LENGTH, 0.5
    return float(FWHM), 0.0


@dataclass(frozen=True)
class Candidate:
    """A cell that quality may be measured on; smaller ones, in the order of the fields, are better.

    blemished : bool
        Cut by the image's border, or unknown to more than a tenth.
    insignificance : float
        The cell's significance, negative.
    box : tuple of 4 floats
        First and last line, first and last position on the line [samples].
    """

    blemished: bool
    insignificance: float
    box: Box

    @classmethod
    def of(cls, numbers: list[float]) -> "Candidate":
        """From what :meth:`numbers` gave."""
        blemished, insignificance, top, bottom, left, right = numbers
        return cls(bool(blemished), insignificance, (top, bottom, left, right))

    def numbers(self) -> list[float]:
        """All of it as numbers, for a checkpoint."""
        return [float(self.blemished), self.insignificance, *self.box]


def best_candidates(known: list[Candidate], cells: list[Cell]) -> list[Candidate]:
    """The best of those known so far and of some more cells."""
    more = [
        Candidate(
            bool(cell.row["touches_border"]) or cell.row["unknown_fraction"] > 0.1, -cell.row["significance"], cell.box
        )
        for cell in cells
    ]
    return sorted([*known, *more], key=lambda c: (c.blemished, c.insignificance, c.box))[:MOST_CELLS]


@dataclass(frozen=True)
class _Window:
    """What one cell tells.

    slow, fast : CorrelationCurve or None
        Of the images of two halves of the lines, in cycles per line and per sample; None where too little is known.
    samples, gaps : ndarray of shape (P,)
        Of some known pixels: samples in the kernel's reach, and the largest gap between their phases [samples].
    """

    slow: CorrelationCurve | None
    fast: CorrelationCurve | None
    samples: NDArray[np.int64]
    gaps: NDArray[np.float64]


def measure_quality(job: Job, grid: Grid, candidates: list[Candidate], execution: Execution) -> dict[str, Any]:
    """Quality of a capture's images, for the run record.

    Parameters
    ----------
    job, grid
        The run.
    candidates : list of Candidate
        Cells to look at.
    execution : Execution
        How to run it; changes no number.

    Returns
    -------
    quality : dict
        ``cells``: how many were looked at; ``halves``: how lines were dealt to two halves. ``along_line`` and
        ``along_flow``, lengths in samples and in lines, and in µm where that is known: the kernel's width at half
        maximum, the period at which the correlation between both halves falls below the half-bit threshold and below
        1/7, the finest period that a half samples, and as ``resolution`` the coarser of kernel and half-bit period; the
        curve itself, up to that finest period. ``coverage``: of the grid's kernel. Null is unknown.

    Notes
    -----
    Linear blur lowers no correlation, since it takes as much of signal and noise: the kernel's width is therefore
    stated beside. Where the period lies at the limit of what halves can show, the whole image may be better, and the
    kernel's width alone is the resolution.
    """
    width, widest_gap = _width_of(job.setup.method)
    lines = int(np.ceil(width * grid.sigma_lines / FWHM * 2))
    halves = deal_lines(job.survey.clock.period_samples, lines)
    shape = _shape(job, grid, candidates)
    windows = execution.run(_measure_window, [(job, grid, c.box, shape, halves) for c in candidates])
    slow = [w.slow for w in windows if w.slow is not None]
    fast = [w.fast for w in windows if w.fast is not None]
    geometry = job.survey.geometry
    phases = phase_coverage(job.survey.clock.period_samples * np.arange(lines))
    samples = np.concatenate([np.zeros(0, np.int64), *(w.samples for w in windows)])
    gaps = np.concatenate([np.zeros(0), *(w.gaps for w in windows)])
    widest_gap = max(WIDEST_GAP * grid.sigma_samples, widest_gap)
    coarse = gaps > widest_gap
    return {
        "cells": len(slow),
        "halves": "".join("AB"[side] for side in halves.pattern),
        "along_line": _axis(
            fast, width * grid.sigma_samples, 2 * halves.largest_gap_samples, "samples", geometry.um_per_sample
        ),
        "along_flow": _axis(slow, width * grid.sigma_lines, halves.finest_lines, "lines", geometry.um_per_line),
        "coverage": {
            "kernel_lines": lines,
            "phases": phases.phases,
            "largest_gap_samples": phases.largest_gap_samples,
            "widest_allowed_gap_samples": widest_gap,
            "pixel_samples_median": float(np.median(samples)) if samples.size else None,
            "pixel_gap_samples_median": _finite(np.median(gaps)) if gaps.size else None,
            "poorly_covered_fraction": float(coarse.mean()) if gaps.size else None,
        },
    }


def _axis(
    curves: list[CorrelationCurve], kernel: float, finest: float, unit: str, um_per_unit: float | None
) -> dict[str, Any]:
    """Resolution along one axis, lengths in samples or lines and in µm."""
    curve = mean_curve([up_to(curve, 1 / finest) for curve in curves]) if curves else None
    finest = max(finest, 1 / curve.frequency[-1]) if curve is not None else finest
    half_bit = curve.resolution_half_bit if curve is not None else None
    if half_bit is None:
        resolution = None
    elif half_bit <= _CLOSE_TO_LIMIT * finest:
        resolution = kernel
    else:
        resolution = max(kernel, half_bit)
    lengths = {
        "resolution": resolution,
        "kernel_fwhm": kernel,
        "period_half_bit": half_bit,
        "period_one_seventh": curve.resolution if curve is not None else None,
        "finest_period_of_halves": finest,
    }
    found: dict[str, Any] = {f"{name}_{unit}": _finite(value) for name, value in lengths.items()}
    found |= {
        f"{name}_um": _finite(value * um_per_unit) if value is not None and um_per_unit is not None else None
        for name, value in lengths.items()
    }
    per = unit.removesuffix("s")
    found[f"frequency_per_{per}"] = [round(float(v), 6) for v in curve.frequency] if curve is not None else []
    found["correlation"] = [round(float(v), 4) for v in curve.correlation] if curve is not None else []
    found["independent"] = [round(float(v), 1) for v in curve.independent] if curve is not None else []
    return found


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and np.isfinite(value) else None


def _shape(job: Job, grid: Grid, candidates: list[Candidate]) -> tuple[int, int]:
    """Rows and columns of the windows, alike for all cells, in pixels as wide as the kernel's standard deviation."""
    if not candidates:
        return _LEAST_PX, _LEAST_PX
    rows = max(c.box[1] - c.box[0] for c in candidates) / grid.sigma_lines
    columns = max(c.box[3] - c.box[2] for c in candidates) / grid.sigma_samples
    most_rows = min(clock.lines for clock in job.survey.clock.segments) / grid.sigma_lines
    most_columns = job.survey.background.lit_samples / grid.sigma_samples
    return (
        int(min(np.clip(1.5 * rows, _LEAST_PX, _MOST_PX), most_rows)),
        int(min(np.clip(1.5 * columns, _LEAST_PX, _MOST_PX), most_columns)),
    )


def _measure_window(job: Job, grid: Grid, box: Box, shape: tuple[int, int], halves: Halves) -> _Window:
    """Correlation and coverage around one cell."""
    segment, clock = _clock_of(job, box[0])
    columns_per_sample = max(1, round(1 / grid.sigma_samples))
    fine = Grid(float(columns_per_sample), grid.sigma_lines, grid.sigma_samples, grid.sigma_lines)
    length, width = (shape[0] - 0.5) * grid.sigma_lines, (shape[1] - 0.5) / columns_per_sample
    last_line, lit = clock.first_line + clock.lines - 1, job.survey.background.lit_samples
    top = max(float(clock.first_line), min((box[0] + box[1] - length) / 2, last_line - length))
    left = max(0.0, min((box[2] + box[3] - width) / 2, lit - width))
    beyond = reach_lines(job.setup.method, grid) + 1
    lines = read_lines(job, segment, clock, int(top) - beyond, int(top + length) + beyond + 1)
    samples, origin, starts = lines.for_kernels
    background = job.survey.background
    first, second = images_of_halves(
        samples, origin, starts, lines.first_line, background, job.survey.tables, fine,
        rows=(top, top + length), tau=(left, left + width), pattern=halves.pattern, method=job.setup.reconstruct,
    )  # fmt: skip
    try:
        found = fourier_ring_correlation(
            first.transmission, second.transmission, pixel_um=(grid.sigma_lines, 1 / columns_per_sample)
        )
    except ValueError:  # too little is known
        found = None
    low, high = background.code_limits

    def known(index: NDArray[np.int64], place: NDArray[np.float64]) -> NDArray[np.bool_]:
        at = index - origin
        inside = (at >= 0) & (at < samples.size)
        codes = samples[np.clip(at, 0, samples.size - 1)]
        return np.asarray(inside & (codes > low) & (codes < high) & background.usable(place))

    seen = first.known & second.known
    rows, columns = (np.arange(0, n, _COVERAGE_STEP) for n in seen.shape)
    coverage = local_phase_coverage(
        starts,
        top - lines.first_line + rows * grid.sigma_lines,
        left + columns / columns_per_sample,
        reach_lines=max(_width_of(job.setup.method)[0] * grid.sigma_lines / FWHM, 0.5),
        known=known,
    )
    some = seen[::_COVERAGE_STEP, ::_COVERAGE_STEP]
    return _Window(
        slow=found.slow if found is not None else None,
        fast=found.fast if found is not None else None,
        samples=coverage.samples[some],
        gaps=coverage.largest_gap_samples[some],
    )


def _clock_of(job: Job, line: float) -> tuple[Segment, SegmentClock]:
    return next(
        (segment, clock)
        for segment, clock in zip(job.survey.segments, job.survey.clock.segments, strict=True)
        if line < clock.first_line + clock.lines
    )
