"""The fast screen against its sums written out, against the exact detector, and on an empty channel."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stretchscope.sr.detect import (
    ROW_LINES,
    bin_columns,
    detector_tables,
    find_events,
    rows_to_look_at,
    significance_map,
)
from stretchscope.sr.screen import ScreenTables, screen_rows, screen_tables


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint16])
@pytest.mark.parametrize("doublings", [2, 3])
def test_flags_are_the_sums_written_out(rng: np.random.Generator, dtype: type, doublings: int) -> None:
    """Any tables, any starts: four lines less what is expected, less the baseline, in boxes, against the limits."""
    period, phases, converters, width, base = 41.7, 4, 4, 32, (24, 31)
    low, high = (-100, 100) if np.dtype(dtype).kind == "i" else (20, 220)
    samples = rng.integers(low, high + 1, 1500).astype(dtype)
    row_starts = 3.4 + np.arange(6) * 4 * period
    offsets = np.ceil(np.arange(4) * period - np.arange(phases + 1)[:, None] / phases).astype(np.int64)
    sums_type = np.int16 if np.dtype(dtype).itemsize == 1 else np.int32
    expected = rng.integers(-30, 30, (converters, phases + 1, width)).astype(sums_type)
    limits = rng.integers(500, 2500, (phases + 1, width)).astype(sums_type)
    limits[:, -8:] = np.iinfo(sums_type).max  # no box reaches beyond the table
    arrays = offsets, expected, limits, doublings, *base
    tables = ScreenTables(arrays, (low, high), 200, np.ones(limits.shape, np.float32))
    origin = 6
    flags, saturated = screen_rows(samples, origin, row_starts, tables)
    box = 1 << doublings
    for r in range(5):
        first = int(np.ceil(row_starts[r]))
        phase = int((first - row_starts[r]) * phases + 0.5)
        lines = [samples[first + o : first + o + width].astype(int) for o in offsets[phase]]
        total = sum(lines) - expected[(first + origin) % converters, phase]
        baseline = round(box * total[slice(*base)].sum() / (base[1] - base[0]))
        boxes = np.convolve(total, np.ones(box, dtype=int))[box - 1 : width]
        assert flags[r] == (np.abs(boxes - baseline) > limits[phase, : boxes.size]).any()
    span = samples[int(np.ceil(row_starts[0])) : int(np.ceil(row_starts[-1]))]
    assert saturated == np.count_nonzero((span <= low) | (span >= high))


def test_an_empty_channel_is_hardly_flagged(lab: object) -> None:
    instrument = lab.instrument(rate=5e9)
    simulated = lab.simulate(instrument, 40_000)
    found = lab.process(simulated.samples, code_limits=(-128, 127))
    tables = screen_tables(found.background, bin_columns(found.background), 1)
    inside = found.starts[: -2 * ROW_LINES]
    flags, _ = screen_rows(simulated.samples, 0, inside[: inside.size // 4 * 4 + 1 : ROW_LINES], tables)
    assert flags.mean() < 2e-3


def test_every_event_of_the_exact_detector_is_near_a_flag(usual: tuple) -> None:
    """The map of the rows near flags holds the same events as the map of all rows."""
    simulated, found = usual
    tables = screen_tables(found.background, bin_columns(found.background), simulated.samples.itemsize)
    wanted = rows_to_look_at(simulated.samples, 0, found.starts, tables)
    assert wanted.size == found.significance.shape[0]
    significance = significance_map(
        simulated.samples, 0, found.starts, found.tables, detector_tables(found.background, found.tables), wanted
    )
    np.testing.assert_array_equal(significance[wanted], found.significance[wanted])
    assert (significance[~wanted] == 0).all()
    events = find_events(significance, 0, bin_columns(found.background))
    assert [(e.line_first, e.line_last, e.significance) for e in events] == [
        (e.line_first, e.line_last, e.significance) for e in found.events
    ]


@given(st.integers(0, 400), st.integers(8, 300))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_cut_gives_the_same_rows(usual: tuple, first_row: int, rows: int) -> None:
    simulated, found = usual
    tables = screen_tables(found.background, bin_columns(found.background), simulated.samples.itemsize)
    whole = rows_to_look_at(simulated.samples, 0, found.starts, tables)
    starts = found.starts[first_row * ROW_LINES : (first_row + rows) * ROW_LINES]
    begin = max(0, int(starts[0]) - 3)
    part = simulated.samples[begin : int(starts[-1]) + int(found.period) + 3 + tables.reach]
    wanted = rows_to_look_at(part, begin, starts, tables)
    np.testing.assert_array_equal(wanted[3:-4], whole[first_row : first_row + wanted.size][3:-4])
