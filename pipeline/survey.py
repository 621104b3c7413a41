"""First pass over a capture: the empty line, the line clock, and what they mean on the specimen."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..acquisition import Capture, CaptureError, Segment
from ..sr._kernels import count_on_rail
from ..sr.background import Background
from ..sr.calibrate import Span, measure_background
from ..sr.empty_line import EmptyLine
from ..sr.errors import SignalError
from ..sr.line_clock import LineClock, SegmentClock, measure_segment_clocks
from ..sr.line_fit import LineTables
from ..sr.period import MIN_LINES
from .settings import CaptureSettings

# The empty line is measured on this many stretches of this many samples, spread over the capture.
_SPANS = 8
_SPAN_SAMPLES = 1 << 19
# More saturated samples than this share are worth a warning: what they cover is lost.
_MOST_SATURATED = 0.02


@dataclass(frozen=True)
class Geometry:
    """Size of the sample lattice on the specimen; None where the capture and the settings do not tell.

    um_per_sample, um_per_line : float or None
        Width of one sample along the line, and pitch of the lines along the flow [µm].
    lines_per_sample : float or None
        Their ratio, which may be known when they are not.
    """

    um_per_sample: float | None
    um_per_line: float | None
    lines_per_sample: float | None

    @property
    def calibrated(self) -> bool:
        """Whether lengths are known in µm both ways."""
        return self.um_per_sample is not None and self.um_per_line is not None


@dataclass(frozen=True)
class Survey:
    """What the first pass found.

    empty_line : EmptyLine
    clock : LineClock
        One segment clock per entry of ``segments``; lines are numbered through the capture.
    segments : tuple of Segment
        The capture's stretches that are long enough to hold a line clock, parted where the laser's phase jumped.
    geometry : Geometry
    sample_rate_hz : float
    warnings : tuple of str
        Where what is stated is not what was measured, and where much is saturated.
    """

    empty_line: EmptyLine
    clock: LineClock
    segments: tuple[Segment, ...]
    geometry: Geometry
    sample_rate_hz: float
    warnings: tuple[str, ...] = ()

    @property
    def background(self) -> Background:
        return self.empty_line.background

    @property
    def tables(self) -> LineTables:
        return self.empty_line.tables

    @property
    def line_rate_hz(self) -> float:
        return self.sample_rate_hz / self.clock.period_samples


def survey_capture(capture: Capture, settings: CaptureSettings) -> Survey:
    """Measure the empty line and the line clock of a capture.

    Parameters
    ----------
    capture : Capture
        Open capture.
    settings : CaptureSettings
        What is known beyond the file.

    Returns
    -------
    survey : Survey

    Raises
    ------
    CaptureError
        If the capture holds no usable line-scan signal; the message names the file.
    """
    dark = settings.dark_level_codes if settings.dark_level_codes is not None else capture.metadata.dark_level_codes
    try:
        spans = _spans(capture)
        background = measure_background(spans, code_limits=capture.code_limits, dark_level_codes=dark)
        empty_line = EmptyLine(background, capture.dtype.itemsize)
        clocks: list[SegmentClock] = []
        used: list[Segment] = []
        first_line = 0
        for segment in capture.segments:
            if segment.samples < (MIN_LINES + 2) * background.period_samples:
                continue
            found = measure_segment_clocks(
                partial(_read_of_segment, capture, segment),
                segment.device_index,
                segment.device_index + segment.samples,
                background,
                empty_line.tables,
            )
            for clock, part in zip(found, _split(segment, [c.first_sample for c in found]), strict=True):
                clocks.append(replace(clock, first_line=first_line))
                used.append(part)
                first_line += clock.lines
    except SignalError as error:
        raise CaptureError(f"{capture.path}: {error}") from error
    if not clocks:
        raise CaptureError(
            f"{capture.path}: no stretch between gaps holds {MIN_LINES} lines of "
            f"{background.period_samples:.1f} samples; record longer stretches"
        )
    whole = LineClock(tuple(clocks))
    rate = capture.metadata.sample_rate_hz
    geometry = _geometry(capture, settings, rate / whole.period_samples)
    warnings = _contradictions(capture, background, whole.period_samples, dark) + _saturation(spans, background)
    return Survey(empty_line, whole, tuple(used), geometry, rate, warnings)


def _saturation(spans: list[Span], background: Background) -> tuple[str, ...]:
    """Warning of a capture whose stretches are saturated to more than a small part."""
    saturated = sum(int(count_on_rail(span.samples, *background.code_limits)) for span in spans)
    share = saturated / sum(span.samples.size for span in spans)
    if share <= _MOST_SATURATED:
        return ()
    return (
        f"{100 * share:.2g} % of the samples are saturated, and nothing is known of the light there: lower the light "
        "or the digitiser's gain, or correct its offset if it is the dark level that is cut off",
    )


def _contradictions(
    capture: Capture, background: Background, period_samples: float, stated_dark_codes: float | None
) -> tuple[str, ...]:
    found = []
    dark = background.dark_level_codes
    margin = max(2.0, 5 * background.noise_std_codes)
    if stated_dark_codes is not None and dark is not None and abs(stated_dark_codes - dark) > margin:
        found.append(
            f"a dark level of {stated_dark_codes:g} codes is stated, but the dark gap between the pulses lies at "
            f"{dark:.1f}, which is used"
        )
    nominal = capture.metadata.nominal_line_period_samples
    if nominal is not None and abs(nominal - period_samples) > 0.02 * period_samples:
        found.append(f"a line period of {nominal:g} samples is stated, but {period_samples:.6g} was measured")
    return tuple(found)


def _split(segment: Segment, first_samples: list[int]) -> list[Segment]:
    """A segment in parts that begin at these samples of the digitiser."""
    ends = [*first_samples[1:], segment.device_index + segment.samples]
    return [
        Segment(segment.first_sample + first - segment.device_index, end - first, first)
        for first, end in zip(first_samples, ends, strict=True)
    ]


def _read_of_segment(capture: Capture, segment: Segment, first: int, stop: int) -> np.ndarray:
    """Samples by their digitiser indices."""
    shift = segment.first_sample - segment.device_index
    return capture.read(first + shift, stop + shift)


def _spans(capture: Capture) -> list[Span]:
    """Stretches spread evenly over the capture, none across a gap."""
    spans = []
    if len(capture.segments) > _SPANS:
        longest = sorted(capture.segments, key=lambda s: (-s.samples, s.first_sample))[: 4 * _SPANS]
        places = [(s, 0) for s in sorted(longest, key=lambda s: s.first_sample)]
    else:
        per_segment = max(1, _SPANS // len(capture.segments))
        places = [
            (s, offset)
            for s in capture.segments
            for offset in sorted({int(o) for o in np.linspace(0, max(0, s.samples - _SPAN_SAMPLES), per_segment)})
        ]
    end = -1
    for segment, offset in places:
        first = segment.first_sample + offset
        if first < end:  # a short segment's stretches would overlap: one is enough
            continue
        end = min(first + _SPAN_SAMPLES, segment.first_sample + segment.samples)
        spans.append(Span(segment.device_index + offset, capture.read(first, end)))
    return spans


def _geometry(capture: Capture, settings: CaptureSettings, line_rate_hz: float) -> Geometry:
    def known(name: str) -> float | None:
        value = getattr(settings, name)
        return value if value is not None else getattr(capture.metadata, name)

    speed, width, pulse = known("flow_speed_m_per_s"), known("field_of_view_um"), known("pulse_duration_s")
    um_per_line = settings.um_per_line or (speed * 1e6 / line_rate_hz if speed is not None else None)
    um_per_sample = settings.um_per_sample
    if um_per_sample is None and width is not None and pulse is not None:
        um_per_sample = width / (capture.metadata.sample_rate_hz * pulse)
    ratio = um_per_sample / um_per_line if um_per_sample and um_per_line else capture.metadata.lines_per_sample
    return Geometry(um_per_sample, um_per_line, ratio)


def require_dark_level(survey: Survey, path: Path) -> None:
    """CaptureError where the dark level is neither seen nor stated: no transmission can be measured."""
    if survey.background.dark_level_codes is None:
        raise CaptureError(
            f"{path}: the lines leave no dark gap to measure the dark level in, and nothing states it: "
            "give --dark-level CODES (the code without light), or dark_level_codes in the capture or the settings"
        )


def pulse_width_samples(background: Background) -> float:
    """Full width of the empty line at half its highest known light [samples]."""
    tau = np.arange(0.0, background.period_samples, 1 / 16)
    bright = np.flatnonzero((background.profile.light(tau) > 0.5 * background.peak()) | background.is_censored(tau))
    return float(tau[bright[-1]] - tau[bright[0]]) if bright.size else 0.0


def describe(capture: Capture, survey: Survey, saturated: int) -> dict[str, Any]:
    """What ``info --json`` prints; units are in the names, null is unknown."""
    background, clock = survey.background, survey.clock
    nominal = capture.metadata.nominal_line_period_samples
    return {
        "samples": capture.samples,
        "sample_rate_hz": survey.sample_rate_hz,
        "line_period_samples": clock.period_samples,
        "line_period_uncertainty_samples": clock.period_std_samples,
        "shear_samples_per_line": clock.period_samples - nominal if nominal is not None else None,
        "lines": clock.lines,
        "pulse_width_samples": pulse_width_samples(background),
        "saturated_fraction": saturated / capture.samples,
        "noise_std_codes": background.noise_std_codes,
        "interleave_offset_codes": list(background.interleave_offset_codes),
        "interleave_gain": list(background.interleave_gain),
        "dialect": capture.dialect,
        "saturated_samples": saturated,
        "line_rate_hz": survey.line_rate_hz,
        "line_start_uncertainty_samples": clock.start_std_samples,
        "line_jitter_samples": background.delay_std_samples,
        "pulse_energy_std": background.gain_std,
        "lit_samples": background.lit_samples,
        "dark_level_codes": background.dark_level_codes,
        "um_per_sample": survey.geometry.um_per_sample,
        "um_per_line": survey.geometry.um_per_line,
        "lines_per_sample": survey.geometry.lines_per_sample,
        "segments": len(capture.segments),
        "line_clocks": len(survey.segments),
        "warnings": [*capture.warnings, *survey.warnings],
    }


def count_saturated(capture: Capture, code_limits: tuple[int, int]) -> int:
    """Samples of the capture at or beyond the rails."""
    low, high = code_limits
    return sum(int(count_on_rail(samples, low, high)) for _, samples in capture.blocks(1 << 23))
