"""Events: every cell once, none invented, wherever the capture is cut."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stretchscope.data.stamps import bead_stamps
from stretchscope.sr.detect import ROW_LINES, bin_columns, find_events, significance_map


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
    significance = significance_map(part, begin, starts, found.background, found.tables)
    np.testing.assert_array_equal(significance, found.significance[first_row : first_row + significance.shape[0]])


def test_lines_outside_the_samples_are_not_looked_at(usual: tuple) -> None:
    simulated, found = usual
    significance = significance_map(
        simulated.samples[:50_000], 0, found.starts[:200], found.background, found.tables
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
