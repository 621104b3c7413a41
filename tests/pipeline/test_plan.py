"""What a plan says, against the formulas that it rests on."""

import json

import numpy as np
import pytest

from stretchscope.pipeline.plan import as_text, plan_run
from stretchscope.pipeline.settings import SettingsError

USUAL = {
    "sample_rate_hz": 5e9,
    "line_rate_hz": 11.6e6,
    "flow_speed_m_per_s": 2.0,
    "field_of_view_um": 48.0,
    "pulse_duration_s": 45e-9,
}


def test_published_instrument() -> None:
    """A locked clock of 1024/3 samples: three phases, three times finer than one line, however many lines."""
    line_rate = 12.08e6
    plan = plan_run(
        sample_rate_hz=1024 / 3 * line_rate,
        line_rate_hz=line_rate,
        flow_speed_m_per_s=0.36 * line_rate * 1e-6,
        field_of_view_um=3.2 * 1024 / 3,
        pulse_duration_s=1 / line_rate,
    )
    assert (plan["um_per_sample"], plan["um_per_line"]) == pytest.approx((3.2, 0.36))
    assert plan["finest_square_pixel_um"] == pytest.approx(np.sqrt(3.2 * 0.36))
    assert plan["best"]["phases"] == 3
    assert plan["best"]["largest_gap_samples"] == pytest.approx(1 / 3)
    assert plan["lines_needed"] == {"2": 3, "4": None, "8": None, "16": None}
    assert [plan["fractions"][-1][k] for k in ("numerator", "denominator")] == [1024, 3]
    assert plan["warnings"] == []  # three lines are what this lattice asks for


def test_near_rational_ratio_is_warned_of_and_mended() -> None:
    plan = plan_run(**USUAL | {"line_rate_hz": 5e9 / 430.002, "flow_speed_m_per_s": 0.5, "pulse_duration_s": 12e-9})
    (warning,) = plan["warnings"]
    assert "within 0.002 of 430:" in warning
    assert plan["coverage"][1]["finer_by"] < 1.1
    better = plan["suggestion"]
    for change in ("sample_rate_hz", "line_rate_hz"):
        mended = plan_run(
            **USUAL
            | {"line_rate_hz": 5e9 / 430.002, "flow_speed_m_per_s": 0.5, "pulse_duration_s": 12e-9}
            | {change: better[change]}
        )
        assert mended["warnings"] == []
        assert mended["suggestion"] is None
        assert mended["line_period_samples"] == pytest.approx(better["line_period_samples"])
        assert max(resolution(mended)) < 0.8 * max(resolution(plan))
    assert f"{better['sample_rate_hz']:.7g}" in warning


def resolution(plan: dict) -> tuple[float, float]:
    return plan["best"]["resolution_along_line_um"], plan["best"]["resolution_along_flow_um"]


def test_one_line_is_enough_where_lines_are_no_closer_than_samples() -> None:
    plan = plan_run(**USUAL)
    assert plan["um_per_sample"] == pytest.approx(48 / 225)
    assert plan["um_per_line"] == pytest.approx(2 / 11.6)
    assert plan["best"]["lines"] == 1
    assert plan["warnings"] == []


@pytest.mark.parametrize(
    ("changed", "lines", "said"),
    [
        ({"sample_rate_hz": 5e9, "line_rate_hz": 10e6}, "one line is", "500 samples is exactly 500:"),
        ({"line_rate_hz": 12.5e6, "flow_speed_m_per_s": 1.2}, "one line is", "400 samples is exactly 400:"),
        ({"line_rate_hz": 12.5e6, "flow_speed_m_per_s": 0.9}, None, "400 samples is exactly 400:"),
        ({"line_rate_hz": 5e9 / 430.5, "flow_speed_m_per_s": 0.7}, "2 lines are", "430.5 samples is exactly 861/2:"),
    ],
)
def test_whole_ratio_is_told_however_few_lines_are_asked_for(changed: dict, lines: str | None, said: str) -> None:
    """As a warning where the lattice asks for more phases than there are, as a note where it has enough of them."""
    plan = plan_run(**USUAL | changed)
    (told,) = plan["notes"] if lines else plan["warnings"]
    assert said in told
    assert plan["evenness"] < 0.5
    assert len(plan["notes"]) + len(plan["warnings"]) == 1
    assert plan["suggestion"] is not None
    text = as_text(plan)
    assert ("note: " in "\n".join(text)) == bool(lines)
    if lines:
        assert told.startswith(f"{lines} enough")
    assert max(map(len, text)) <= 120
    mended = plan_run(**USUAL | changed | {"line_rate_hz": plan["suggestion"]["line_rate_hz"]})
    assert mended["notes"] == mended["warnings"] == []


def test_detector_and_optics_limit_what_more_lines_give() -> None:
    """0.312/B on the field, and no finer than the optics, on either axis; both named unknown where not given."""
    blind = plan_run(**USUAL)
    assert blind["detector_resolution_um"] is None
    assert "not counted" in "".join(as_text(blind))
    plan = plan_run(**USUAL, bandwidth_hz=2e9, optical_resolution_um=0.7)
    assert plan["detector_resolution_um"] == pytest.approx(0.312 / 2e9 * 48 / 45e-9, rel=1e-3)
    for row in plan["coverage"]:
        assert row["resolution_along_line_um"] > np.hypot(plan["detector_resolution_um"], 0.7)
        assert row["resolution_along_flow_um"] > 0.7
    assert "passes nothing beyond 4e+09" in plan["warnings"][0]
    assert plan_run(**USUAL, bandwidth_hz=5e9)["finer_by_bandwidth"] == pytest.approx(2)


def test_plan_is_json_and_a_table() -> None:
    plan = plan_run(**USUAL | {"sample_rate_hz": 2e9, "pulse_duration_s": 24e-9, "flow_speed_m_per_s": 0.58})
    assert json.loads(json.dumps(plan, allow_nan=False)) == plan
    text = as_text(plan)
    assert len([line for line in text if line.endswith("best")]) == 1
    assert sum(len(line) <= 120 for line in text) == len(text)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sample_rate_hz": float("nan")}, "--rate must lie between"),
        ({"sample_rate_hz": 5e7}, "--rate: a pulse of 4.5e-08 s has 2.25 samples"),
        ({"line_rate_hz": -1.0}, "--line-rate must lie"),
        ({"line_rate_hz": 30e6}, "--pulse-duration: pulses of 4.5e-08 s overlap"),
        ({"flow_speed_m_per_s": 0.0}, "--flow-speed must lie"),
        ({"field_of_view_um": 1e9}, "--field-of-view must lie"),
        ({"bandwidth_hz": 0.0}, "--bandwidth must lie"),
        ({"optical_resolution_um": -1.0}, "--optical-resolution must lie"),
    ],
)
def test_senseless_numbers_are_named(changed: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        plan_run(**USUAL | changed)


def test_slow_flow_is_planned_in_bounded_time() -> None:
    """A million lines to a sample: no more than 1024 are looked at."""
    plan = plan_run(**USUAL | {"flow_speed_m_per_s": 2e-6})
    assert max(row["lines"] for row in plan["coverage"]) <= 1024
