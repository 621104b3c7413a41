"""Before an instrument is bought or a run is made: what a sample rate and a line rate let one see.

Nothing is simulated: phases follow from number theory, resolutions from the kernel that they allow.
"""

import math
import textwrap
from dataclasses import asdict
from typing import Any

from ..sr.sampling import EVEN_ENOUGH, Lattice, convergents, evenness, nearest_even_period
from .settings import SettingsError

# Factors by which lines together are to sample more finely than one.
_FACTORS = (2, 4, 8, 16)
# Lines that are looked at, at most.
_MOST_LINES = 1024
# Lines for which phases should lie evenly, even where the lattice asks for fewer: they gain nothing otherwise.
_LEAST_EVEN_LINES = 3
_PULSE_DURATION_S = 45e-9


def plan_run(
    *,
    sample_rate_hz: float,
    line_rate_hz: float,
    flow_speed_m_per_s: float,
    field_of_view_um: float,
    pulse_duration_s: float | None = None,
    bandwidth_hz: float | None = None,
    optical_resolution_um: float | None = None,
) -> dict[str, Any]:
    """Phases, lines needed and expected resolution of an instrument.

    Parameters
    ----------
    sample_rate_hz, line_rate_hz, flow_speed_m_per_s, field_of_view_um : float
        Of digitiser, laser, flow and optics.
    pulse_duration_s : float, optional
        Duration of a stretched pulse, on which the field of view lies; 45 ns where pulses do not overlap then, the
        whole time between two pulses otherwise.
    bandwidth_hz : float, optional
        -3 dB bandwidth of detector and digitiser; not taken into account where it is not given.
    optical_resolution_um : float, optional
        Resolution of the optics, full width at half maximum; the same.

    Returns
    -------
    plan : dict
        What ``stretchscope plan --json`` prints; units are in the names, null is unknown.

    Raises
    ------
    SettingsError
        If a number makes no sense.
    """
    _check("--rate", sample_rate_hz, 1e6, 1e12, "samples per second")
    _check("--line-rate", line_rate_hz, 1e3, 1e10, "lines per second")
    _check("--flow-speed", flow_speed_m_per_s, 1e-6, 1e3, "m/s")
    _check("--field-of-view", field_of_view_um, 0.1, 1e6, "µm")
    if pulse_duration_s is None:
        pulse_duration_s = min(_PULSE_DURATION_S, 1 / line_rate_hz)
    _check("--pulse-duration", pulse_duration_s, 1e-12, 1.0, "s")
    if pulse_duration_s * line_rate_hz > 1 + 1e-9:
        raise SettingsError(
            f"--pulse-duration: pulses of {pulse_duration_s:g} s overlap at {line_rate_hz:g} lines per second; "
            f"at most {1 / line_rate_hz:.4g} s"
        )
    if pulse_duration_s * sample_rate_hz < 4:
        raise SettingsError(
            f"--rate: a pulse of {pulse_duration_s:g} s has {pulse_duration_s * sample_rate_hz:.3g} samples; "
            f"4 or more are needed, so at least {4 / pulse_duration_s:.3g} samples per second"
        )
    if bandwidth_hz is not None:
        _check("--bandwidth", bandwidth_hz, 1e5, 1e12, "Hz")
    if optical_resolution_um is not None:
        _check("--optical-resolution", optical_resolution_um, 1e-3, 1e4, "µm")
    lattice = Lattice.of_instrument(
        sample_rate_hz=sample_rate_hz,
        line_rate_hz=line_rate_hz,
        flow_speed_m_per_s=flow_speed_m_per_s,
        field_of_view_um=field_of_view_um,
        pulse_duration_s=pulse_duration_s,
        bandwidth_hz=bandwidth_hz,
        optical_um=optical_resolution_um or 0.0,
    )
    used = min(lattice.even_lines, _MOST_LINES)
    judged = max(used, _LEAST_EVEN_LINES)
    most = min(8 * used + 16, _MOST_LINES)
    needed = {factor: lattice.lines_for(factor, most) for factor in _FACTORS}
    best = lattice.best_lines(most)
    shown = sorted({1, best, used, *(lines for lines in needed.values() if lines is not None)})
    plan: dict[str, Any] = {
        "sample_rate_hz": sample_rate_hz,
        "line_rate_hz": line_rate_hz,
        "flow_speed_m_per_s": flow_speed_m_per_s,
        "field_of_view_um": field_of_view_um,
        "pulse_duration_s": pulse_duration_s,
        "bandwidth_hz": bandwidth_hz,
        "optical_resolution_um": optical_resolution_um,
        "line_period_samples": lattice.period_samples,
        "um_per_sample": lattice.um_per_sample,
        "um_per_line": lattice.um_per_line,
        "lines_per_sample": lattice.um_per_sample / lattice.um_per_line,
        "finest_square_pixel_um": math.sqrt(lattice.um_per_sample * lattice.um_per_line),
        "detector_resolution_um": lattice.detector_um if bandwidth_hz is not None else None,
        "finer_by_bandwidth": max(1.0, 2 * bandwidth_hz / sample_rate_hz) if bandwidth_hz is not None else None,
        "fractions": [asdict(c) for c in convergents(lattice.period_samples, most)],
        "coverage": [_row(lattice, lines) for lines in shown],
        "lines_needed": {str(factor): lines for factor, lines in needed.items()},
        "best": _row(lattice, best),
        "evenness": evenness(lattice.period_samples, judged),
        "warnings": [],
        "notes": [],
        "suggestion": None,
    }
    if plan["evenness"] < EVEN_ENOUGH:
        period = nearest_even_period(lattice.period_samples, judged)
        plan["suggestion"] = {
            "line_period_samples": period,
            "sample_rate_hz": period * line_rate_hz,
            "line_rate_hz": sample_rate_hz / period,
        }
        uneven = _uneven(lattice, judged, plan["suggestion"])
        if evenness(lattice.period_samples, used) < EVEN_ENOUGH:
            plan["warnings"].append(uneven)
        else:
            asked = "one line is" if used == 1 else f"{used} lines are"
            plan["notes"].append(
                f"{asked} enough where samples and lines lie like this, and more gain little: {uneven}"
            )
    if bandwidth_hz is not None and 2 * bandwidth_hz < sample_rate_hz:
        plan["warnings"].append(
            f"a bandwidth of {bandwidth_hz:g} Hz passes nothing beyond {2 * bandwidth_hz:g} samples per second: finer "
            "sampling adds no detail"
        )
    return plan


def _check(name: str, value: float, low: float, high: float, unit: str) -> None:
    if not low <= value <= high:
        raise SettingsError(f"{name} must lie between {low:g} and {high:g} {unit}, got {value:g}")


def _row(lattice: Lattice, lines: int) -> dict[str, Any]:
    coverage = lattice.coverage(lines)
    along, across = lattice.resolution_um(lines)
    return {
        "lines": lines,
        "phases": coverage.phases,
        "largest_gap_samples": coverage.largest_gap_samples,
        "finer_by": coverage.factor,
        "resolution_along_line_um": along,
        "resolution_along_flow_um": across,
    }


def _uneven(lattice: Lattice, lines: int, better: dict[str, float]) -> str:
    """Warning of a clock near a simple fraction, and what would help."""
    near = [c for c in convergents(lattice.period_samples, 2 * lines) if c.denominator <= lines][-1]
    fraction = f"{near.numerator}/{near.denominator}" if near.denominator > 1 else f"{near.numerator}"
    factor = lattice.coverage(lines).factor
    distance = abs(near.slip_samples) / near.denominator
    off = f"within {distance:.2g} of" if distance > 1e-9 else "exactly"
    return (
        f"the line period of {lattice.period_samples:.7g} samples is {off} {fraction}: the phases of successive lines "
        f"(nearly) repeat, and {lines} lines sample {factor:.2g} times as finely as one. A period of "
        f"{better['line_period_samples']:.7g} samples would do better: {better['sample_rate_hz']:.7g} samples per "
        f"second, or {better['line_rate_hz']:.7g} lines per second"
    )


def as_text(plan: dict[str, Any]) -> list[str]:
    """The plan as lines to read."""
    lines = [
        f"line period            {plan['line_period_samples']:.7g} samples, {_fractions(plan)}",
        f"one sample, one line   {plan['um_per_sample']:.3g} µm along the line, {plan['um_per_line']:.3g} µm along the "
        f"flow: {plan['lines_per_sample']:.3g} lines to a sample",
        f"finest square pixel    {plan['finest_square_pixel_um']:.3g} µm",
        f"detector               {_known(plan['detector_resolution_um'], 'not counted, give --bandwidth')}",
        f"optics                 {_known(plan['optical_resolution_um'], 'not counted, give --optical-resolution')}",
        "",
        "lines  phases  largest gap  finer than   resolution [µm, FWHM]",
        "used           [samples]    one line by  along line   along flow",
    ]
    for row in plan["coverage"]:
        mark = "  best" if row["lines"] == plan["best"]["lines"] else ""
        lines.append(
            f"{row['lines']:5}  {row['phases']:6}  {row['largest_gap_samples']:11.4f}  {row['finer_by']:11.3g}  "
            f"{row['resolution_along_line_um']:10.3g}   {row['resolution_along_flow_um']:10.3g}{mark}"
        )
    for note in plan["notes"]:
        lines += ["", *textwrap.wrap(f"note: {note}", 120)]
    return lines


def _known(value: float | None, otherwise: str) -> str:
    return otherwise if value is None else f"{value:.3g} µm (FWHM)"


def _fractions(plan: dict[str, Any]) -> str:
    """The simple fractions that the line period is near to, in words."""
    near = [
        f"{c['numerator']}/{c['denominator']} ({c['slip_samples']:+.2g})" if c["denominator"] > 1 else
        f"{c['numerator']} ({c['slip_samples']:+.2g})"
        for c in plan["fractions"][:5]
    ]  # fmt: skip
    return "near " + ", ".join(near)
