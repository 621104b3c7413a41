"""Events: every cell once, none invented, wherever the capture is cut."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from stretchscope.data.stamps import bead_stamps
from stretchscope.sr.detect import (
    GAP_ROWS,
    JOIN_SIGNIFICANCE,
    ROW_LINES,
    Event,
    bin_columns,
    detector_tables,
    find_events,
    significance_map,
)


@pytest.mark.parametrize("rate", [2e9, 5e9])
@pytest.mark.parametrize(
    ("cells", "diameter_um", "contrast", "field"),
    [
        (20, (8.0, 16.0), (0.35, 0.7), 48.0),
        (20, (8.0, 16.0), (0.022, 0.03), 48.0),  # 5 standard deviations of the noise at the light's peak
        (30, (4.0, 8.0), (0.1, 0.7), 64.0),
    ],
)
def test_every_cell_once(
    rate: float, cells: int, diameter_um: tuple, contrast: tuple, field: float, lab: object
) -> None:
    instrument = lab.instrument(rate=rate, optics={"field_of_view_um": field})
    simulated = lab.simulate(instrument, 6000, cells=cells, diameter_um=diameter_um, contrast=contrast, seed=11)
    found = lab.process(simulated.samples, code_limits=(-128, 127))
    assert lab.count_matches(simulated, found) == (0, 0, 0)


def test_hollow_objects_are_one(lab: object) -> None:
    """Beads: a dark rim around a bright core."""
    simulated = lab.simulate(
        lab.instrument(), 4000, cells=6, stamps=bead_stamps(), contrast=(0.1, 0.9), diameter_um=(8.0, 18.0)
    )
    found = lab.process(simulated.samples, code_limits=(-128, 127))
    assert lab.count_matches(simulated, found) == (0, 0, 0)


@pytest.mark.parametrize("rate", [2e9, 5e9])
def test_nothing_in_an_empty_channel(rate: float, lab: object) -> None:
    """20 M samples of noise: no event, and tails as a normal distribution has them."""
    instrument = lab.instrument(rate=rate)
    lines = int(2e7 / instrument.line_period_samples)
    simulated = lab.simulate(instrument, lines)
    found = lab.process(simulated.samples, code_limits=(-128, 127))
    assert found.events == []
    looked_at = found.significance[found.significance > 0]
    assert looked_at.max() < 6.0
    for level, chance in ((3.0, 2.7e-3), (4.0, 6.3e-5)):
        assert 0.5 < np.mean(looked_at > level) / chance < 3  # the larger of two tests


@given(st.integers(0, 740), st.integers(1, 300))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_gives_the_same_map(usual: tuple, first_row: int, rows: int) -> None:
    simulated, found = usual
    first, stop = first_row * ROW_LINES, min((first_row + rows) * ROW_LINES, found.starts.size)
    starts = found.starts[first:stop]
    begin = max(0, int(starts[0]) - 3)
    part = simulated.samples[begin : int(starts[-1]) + int(found.period) + 3]
    significance = significance_map(part, begin, starts, found.tables, detector_tables(found.background, found.tables))
    np.testing.assert_array_equal(significance, found.significance[first_row : first_row + significance.shape[0]])


def test_lines_outside_the_samples_are_not_looked_at(usual: tuple) -> None:
    simulated, found = usual
    significance = significance_map(
        simulated.samples[:50_000], 0, found.starts[:200], found.tables, detector_tables(found.background, found.tables)
    )
    assert (significance[32:] == 0).all()


def test_groups_of_bins_become_events() -> None:
    """A gap of two rows does not part an event, one of three does; neither does a faint bridge; columns do."""
    significance = np.zeros((30, 12), dtype=np.float32)
    significance[[2, 5], 3] = 8, 5
    significance[9, 3] = 9
    significance[9, 5] = 12
    significance[20, 2:7] = 4, 3.6, 9, 3.6, 4
    significance[25, 8] = 6.9
    significance[0] += 0.1  # a column of zeros would be one in which nothing can be seen
    events = find_events(significance, 100 * ROW_LINES, 5)
    assert [(e.line_first, e.line_last) for e in events] == [
        (4 * 102, 4 * 106 - 1),
        (4 * 109, 4 * 110 - 1),
        (4 * 109, 4 * 110 - 1),
        (4 * 120, 4 * 121 - 1),
    ]
    assert [(e.tau_first_samples, e.tau_last_samples) for e in events] == [(15, 20), (15, 20), (25, 30), (10, 35)]
    assert [round(e.significance) for e in events] == [8, 9, 12, 9]
    assert len(find_events(significance, 0, 5, min_significance=6.5)) == 5


def test_events_reach_across_saturated_columns() -> None:
    significance = np.full((9, 8), 0.5, dtype=np.float32)
    significance[2:4, 1:6] = 9
    significance[7, [0, 7]] = 9
    significance[:, 3:5] = 0
    first, *others = find_events(significance, 0, 4)
    assert (first.tau_first_samples, first.tau_last_samples) == (4, 24)
    assert len(others) == 2


def test_bins_are_a_fiftieth_of_the_light(usual: tuple) -> None:
    background = usual[1].background
    assert bin_columns(background) == round(background.lit_samples / 50)


def events_step_by_step(
    significance: np.ndarray, first_line: int, columns: int, min_significance: float
) -> list[Event]:
    """What find_events is to find, by whole-array steps."""
    # where the light goes or comes, part of a line or of a row is dark: no object
    dark = ndimage.binary_dilation((significance < 0).any(axis=1))
    significance = np.where(dark[:, None], 0.0, significance)
    if not (significance >= min_significance).any():
        return []
    near = significance >= JOIN_SIGNIFICANCE
    # a row or two in which an object hides (its edge falls between samples) do not part it; columns part neighbours
    pad = GAP_ROWS
    near |= ndimage.binary_closing(np.pad(near, pad), np.ones((GAP_ROWS + 1, 1)))[pad:-pad, pad:-pad]
    known = np.asarray(significance.any(axis=0))
    edges = np.diff(np.pad(~known, 1).astype(np.int8))
    for first, stop in zip(np.flatnonzero(edges == 1), np.flatnonzero(edges == -1), strict=True):
        if first > 0 and stop < known.size:
            before, after = max(first - 2, 0), min(stop + 2, known.size)
            joined = near[:, before:first].any(axis=1) & near[:, stop:after].any(axis=1)
            near[joined, first - 1 : stop + 1] = True
    labels, _ = ndimage.label(near, structure=np.ones((3, 3)))
    events = []
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        bins = labels[box] == label
        peak = float(np.max(significance[box], where=bins, initial=0.0))
        if peak < min_significance:
            continue
        rows, cols = np.flatnonzero(bins.any(axis=1)), np.flatnonzero(bins.any(axis=0))
        bins = bins[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
        top, left = box[0].start + rows[0], box[1].start + cols[0]
        events.append(
            Event(
                line_first=first_line + int(top) * ROW_LINES,
                line_last=first_line + int(top + bins.shape[0]) * ROW_LINES - 1,
                tau_first_samples=float(left * columns),
                columns_samples=columns,
                bins=bins,
                significance=peak,
            )
        )
    return sorted(events, key=lambda e: (e.line_first, e.tau_first_samples))


@pytest.mark.kernel
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 30), st.sampled_from([0.05, 0.2, 0.5]))
@settings(max_examples=40, deadline=None)
def test_events_are_those_of_whole_array_steps(seed: int, rows: int, columns: int, share: float) -> None:
    """Any map: noise, groups of any form, dark rows, columns in which nothing is known."""
    rng = np.random.default_rng(seed)
    significance = np.abs(rng.normal(0, 1.5, (rows, columns))).astype(np.float32)
    significance[rng.random((rows, columns)) < share] += 5
    significance[:, rng.random(columns) < 0.1] = 0
    significance[rng.random(rows) < 0.05] = -1
    found = find_events(significance, 400, 4)
    expected = events_step_by_step(significance, 400, 4, 7.0)
    assert [(e.line_first, e.line_last, e.tau_first_samples, e.significance) for e in found] == [
        (e.line_first, e.line_last, e.tau_first_samples, e.significance) for e in expected
    ]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.bins, other.bins)
