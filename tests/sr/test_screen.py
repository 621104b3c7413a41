"""The fast screen against its sums written out, against the exact detector, and on an empty channel."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stretchscope.sr._screen_kernels import VECTOR_BYTES
from stretchscope.sr.detect import (
    ROW_LINES,
    bin_columns,
    detector_tables,
    find_events,
    rows_to_look_at,
    significance_map,
)
from stretchscope.sr.screen import ScreenTables, screen_rows, screen_tables

_DTYPES = [np.int8, np.uint8, np.int16, np.uint16]


def _some_tables(rng: np.random.Generator, dtype: type, doublings: int, vectors: int, base: tuple[int, int]) -> tuple:
    """Tables of any numbers for lines of 41.7 samples, of which whole vectors are looked at; and the rails."""
    period, phases, converters = 41.7, 4, 4
    searched = vectors * VECTOR_BYTES // np.dtype(dtype).itemsize
    boxes = searched // max((1 << doublings) // 2, 2)
    offsets = np.ceil(np.arange(4) * period - np.arange(phases + 1)[:, None] / phases).astype(np.int64)
    sums_type = np.int16 if np.dtype(dtype).itemsize == 1 else np.int32
    expected = rng.integers(-30, 30, (1 if doublings == 2 else converters, phases + 1, boxes)).astype(sums_type)
    limits = rng.integers(500, 2500, (phases + 1, boxes)).astype(sums_type)
    limits[:, 0] = np.iinfo(sums_type).max // 2  # the first box may begin before the line
    base_sums = rng.uniform(-100, 100, (converters, phases + 1))
    arrays = offsets, expected, limits, doublings, *base, base_sums
    rails = (-100, 100) if np.dtype(dtype).kind == "i" else (20, 220)
    return period, ScreenTables(arrays, rails, 600, np.ones(limits.shape, np.float32))


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", _DTYPES)
@pytest.mark.parametrize("doublings", [1, 2, 3])
@pytest.mark.parametrize(("vectors", "base"), [(1, (24, 30)), (2, (70, 132)), (1, (70, 100))])
def test_flags_are_the_sums_written_out(
    rng: np.random.Generator, dtype: type, doublings: int, vectors: int, base: tuple[int, int]
) -> None:
    """Any tables, any starts: four lines' boxes less what is expected, less the baseline, against the limits."""
    period, tables = _some_tables(rng, dtype, doublings, vectors, base)
    offsets, expected, limits, *_, base_sums = tables.arrays
    (low, high), phases, box = tables.limits, offsets.shape[0] - 1, tables.box_samples
    stride = max(box // 2, 2)
    samples = rng.integers(low, high + 1, 2500).astype(dtype)
    row_starts = 3.4 + np.arange(6) * 4 * period
    origin = 6
    flags, saturated = screen_rows(samples, origin, row_starts, tables)
    for r in range(5):
        first = int(np.ceil(row_starts[r]))
        phase = int((first - row_starts[r]) * phases + 0.5)
        converter = (first + origin) % 4
        total = sum(samples[first + o : first + o + 200].astype(int) for o in offsets[phase])
        deviation = total[slice(*base)].sum() - base_sums[converter, phase]
        baseline = math.floor(box * deviation / (base[1] - base[0]) + 0.5)
        flagged = False
        for k in range(limits.shape[1]):
            stop = (k + 1) * stride
            if stop >= box:
                sums = total[stop - box : stop].sum() - expected[min(converter, expected.shape[0] - 1), phase, k]
                flagged |= abs(sums - baseline) > limits[phase, k]
        assert flags[r] == flagged
    span = samples[int(np.ceil(row_starts[0])) : int(np.ceil(row_starts[-1]))]
    assert saturated == np.count_nonzero((span <= low) | (span >= high))


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", _DTYPES)
def test_every_saturated_sample_is_counted_once(rng: np.random.Generator, dtype: type) -> None:
    """One sample on a rail, anywhere; samples outside the rows do not count, and arrays begin at any address."""
    period, tables = _some_tables(rng, dtype, 2, 1, (24, 30))
    low, high = tables.limits
    row_starts = 80.4 + np.arange(4) * 4 * period
    first, last = (int(np.ceil(row_starts[r])) for r in (0, -1))
    for place in [*range(first - 3, first + 3), *range(last - 3, last + 3), *rng.integers(0, last + 500, 80).tolist()]:
        samples = np.full(1500, (low + high) // 2, dtype=dtype)[place % 7 :]
        samples[place] = high if place % 2 else low
        assert screen_rows(samples, 0, row_starts, tables)[1] == (first <= place < last)


@pytest.mark.kernel
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_the_sum_of_a_long_baseline_does_not_overflow(rng: np.random.Generator, dtype: type) -> None:
    """Samples near the upper rail, and a baseline that more vectors tell than sums of int16 hold."""
    period, tables = _some_tables(rng, dtype, 2, 1, (24, 40 * VECTOR_BYTES))
    _, expected, _, _, *base, base_sums = tables.arrays
    level = np.iinfo(dtype).max - 5
    base_sums[:] = 4 * level * (base[1] - base[0])
    expected[:] = 4 * level * tables.box_samples
    tables = ScreenTables(tables.arrays, (0, level + 1), 4000, tables.inverse_light)
    samples = np.full(6000, level, dtype=dtype)
    row_starts = 3.4 + np.arange(3) * 4 * period
    flags, saturated = screen_rows(samples, 0, row_starts, tables)
    assert not flags.any()
    assert saturated == 0
    expected[:, :, 5] += 3000
    assert screen_rows(samples, 0, row_starts, tables)[0].all()


@pytest.mark.slow
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
