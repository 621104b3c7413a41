"""The line clock on simulated captures: within the bound, honest, whatever the instrument."""

import dataclasses

import numpy as np
import pytest

from stretchscope.acquisition.optics import Interleave
from stretchscope.sr import line_clock
from stretchscope.sr.errors import SignalError
from stretchscope.sr.line_clock import SegmentClock, measure_segment_clocks

FOUR = Interleave(offset_codes=(1.1, 0.1, -0.75, -0.45), gain=(0.996, 0.9965, 1.009, 0.9985), skew_s=(0.0,) * 4)

MATRIX = {
    "5 GSa/s": {},
    "2 GSa/s": {"rate": 2e9},
    "20 GSa/s": {"rate": 20e9, "bandwidth_hz": 8e9},
    "12 ns of 55 ns": {"pulse": 12e-9, "period": 55e-9},  # 274.9964 samples: a slow beat with the digitiser
    "12 ns of 55 ns, 2 GSa/s": {"pulse": 12e-9, "period": 55e-9, "rate": 2e9},
    "75 ns of 90 ns": {"pulse": 75e-9, "period": 90e-9},
    "75 ns of 80 ns, 2 GSa/s": {"pulse": 75e-9, "period": 80e-9, "rate": 2e9},
    "weak light": {"light_level": 0.1},
    "12 bits": {"bits": 12, "thermal_noise_codes": 8.0, "shot_noise_codes": 11.0},
    "strong jitter": {"clock": {"jitter_s": 40e-12}},
    "pulse energy 5 %": {"optics": {"pulse_energy_noise": 0.05}},
    "locked, whole": {"period": 275 / 5e9, "clock": {"frequency_offset": 0.0}},
    "locked, half": {"period": 275.5 / 5e9, "clock": {"frequency_offset": 0.0}},
    "locked, 2 GSa/s": {"rate": 2e9, "period": 172 / 2e9, "clock": {"frequency_offset": 0.0}},
    "slides by 9 samples": {"period": 350.003 / 5e9, "clock": {"frequency_offset": 0.0}},
    "slides by 0.3 samples": {"period": 350.0001 / 5e9, "clock": {"frequency_offset": 0.0}},
    "locked, four converters": {"period": 352 / 5e9, "clock": {"frequency_offset": 0.0}, "interleave": FOUR},
    "slides, four converters": {"period": 350.0001 / 5e9, "clock": {"frequency_offset": 0.0}, "interleave": FOUR},
    "clipped, locked": {"period": 350 / 5e9, "clock": {"frequency_offset": 0.0}, "light_level": 0.93},
    "weak light, four converters": {"light_level": 0.08, "interleave": FOUR},
}


@pytest.mark.parametrize("name", MATRIX)
def test_period_is_within_the_bound(name: str, lab: object) -> None:
    """Period within 3 times the Cramér-Rao bound, with cells in the way; every line numbered; every cell found once."""
    lines = 1500 if "20 GSa" in name else 3000
    simulated = lab.simulate(lab.instrument(**MATRIX[name]), lines, cells=max(4, lines // 400), seed=7)
    found = lab.process(simulated.samples, code_limits=None)
    error = found.period - simulated.instrument.line_period_samples
    assert abs(error) < 3 * simulated.period_bound(found.clock.lines)
    assert abs(error) < 4 * found.period_std
    assert found.period_std < 2 * simulated.period_bound(found.clock.lines)
    assert abs(found.clock.lines - lines) <= 1
    assert lab.count_matches(simulated, found) == (0, 0, 0)


@pytest.mark.parametrize("rate", [5e9, 2e9])
def test_dense_cells(rate: float, lab: object) -> None:
    """A cell in nearly every line: what it leaves of each still gives the period within the bound."""
    instrument = lab.instrument(rate=rate, optics={"field_of_view_um": 96.0})
    simulated = lab.simulate(instrument, 4000, cells=48, seed=4, diameter_um=(8.0, 14.0))
    objects = simulated.objects()
    assert (objects["y_last_um"] - objects["y_first_um"]).sum() / (4000 * instrument.optics.um_per_line) > 0.8
    found = lab.process(simulated.samples)
    error = found.period - instrument.line_period_samples
    assert abs(error) < 3 * simulated.period_bound(found.clock.lines)
    assert found.period_std < 2 * simulated.period_bound(found.clock.lines)
    missed, merged, invented = lab.count_matches(simulated, found)
    assert missed <= 2
    assert merged <= 1
    assert invented == 0


def test_uncertainty_is_honest_over_seeds(lab: object) -> None:
    """Error over stated deviation: root mean square near 1 over 10 seeds."""
    z = []
    instrument = lab.instrument(rate=2e9, pulse=30e-9)
    for seed in range(10):
        simulated = lab.simulate(instrument, 1200, cells=3, seed=seed)
        found = lab.process(simulated.samples)
        z.append((found.period - instrument.line_period_samples) / found.period_std)
    assert 0.5 < np.sqrt(np.mean(np.square(z))) < 1.5


@pytest.mark.parametrize(
    ("clock", "bounds"),
    [
        ({"drift_per_s": 0.02}, 4.0),  # 2e-5 of the period over the capture
        ({"drift_per_s": 0.2}, 40.0),  # 2e-4
        ({"walk_s_per_root_s": 1e-9}, 120.0),
    ],
)
def test_drift_and_walk(clock: dict, bounds: float, lab: object) -> None:
    """The mean period against the true starts; a parabola's or a wander's uncertainty is larger, and is said to be."""
    simulated = lab.simulate(lab.instrument(rate=2e9, clock=clock), 12_000, cells=10)
    found = lab.process(simulated.samples)
    error = found.period - lab.true_period(simulated, found)
    assert abs(error) < 4 * found.period_std
    assert abs(error) < bounds * simulated.period_bound(12_000)
    residual = found.starts - simulated.starts[: found.clock.lines]
    assert residual.std() < 5e-3  # the drift bends the starts by 8 samples and more
    assert lab.count_matches(simulated, found) == (0, 0, 0)


@pytest.mark.parametrize("walk", [1e-9, 3e-9])
def test_a_walk_is_followed_as_far_as_noise_allows(walk: float, lab: object) -> None:
    """Starts err as those of the best smoother: sqrt(q v) / 2 for a walk of variance q a line and delays of variance v.

    It averages over 12 and 4 lines here, less than a usual block holds.
    """
    simulated = lab.simulate(lab.instrument(clock={"walk_s_per_root_s": walk}), 2000, seed=6)
    found = lab.process(simulated.samples, code_limits=(-128, 127))
    period = simulated.instrument.line_period_samples
    step = walk * np.sqrt(period * 5e9)  # samples, from line to line
    first = round((found.starts[0] - simulated.starts[0]) / period)
    error = found.starts[: simulated.lines - first] - simulated.starts[first : first + found.starts.size]
    assert error.std() < 1.15 * np.sqrt(0.5 * step * simulated.delay_bound())


@pytest.mark.parametrize("lines", [22, 30, 60])
def test_very_short_captures(lines: int, lab: object) -> None:
    simulated = lab.simulate(lab.instrument(), lines, seed=2)
    found = lab.process(simulated.samples)
    error = found.period - simulated.instrument.line_period_samples
    assert abs(error) < 4 * max(found.period_std, simulated.period_bound(lines))
    assert abs(found.clock.lines - lines) <= 1
    assert found.events == []


@pytest.mark.parametrize("first", [8 * 10**10, 10**11 + 3])
def test_origin_changes_nothing(first: int, usual: tuple, lab: object) -> None:
    """A stream that has run for 20 s: the same clock, shifted."""
    simulated, plain = usual
    moved = lab.process(simulated.samples, first=first, code_limits=(-128, 127))
    assert moved.clock.lines == plain.clock.lines
    assert moved.period == pytest.approx(plain.period, abs=0.5 * plain.period_std)
    np.testing.assert_allclose(np.ptp(moved.starts - first - plain.starts), 0, atol=2e-3)
    assert moved.starts[0] - first == pytest.approx(plain.starts[0], abs=0.02)
    assert [e.line_first for e in moved.events] == [e.line_first for e in plain.events]


@pytest.mark.parametrize("piece", [100_000, 333_333])
def test_piece_length_changes_nothing(piece: int, usual: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    simulated, plain = usual
    monkeypatch.setattr(line_clock, "PIECE_SAMPLES", piece)
    y = simulated.samples
    (clock,) = measure_segment_clocks(lambda a, b: y[a:b], 0, y.size, plain.background, plain.tables)
    assert clock.lines == plain.clock.lines
    np.testing.assert_allclose(clock.start_samples, plain.clock.start_samples, rtol=0, atol=1e-9)


def test_sparse_blocks_of_long_captures(usual: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every fourth block: the error may double."""
    simulated, plain = usual
    monkeypatch.setattr(line_clock, "DENSE_LINES", 1000)
    y = simulated.samples
    (clock,) = measure_segment_clocks(lambda a, b: y[a:b], 0, y.size, plain.background, plain.tables)
    assert clock.lines == plain.clock.lines
    assert 1.3 < clock.period_std_samples / plain.clock.period_std_samples < 3
    error = line_clock.LineClock((clock,)).period_samples - simulated.instrument.line_period_samples
    assert abs(error) < 4 * clock.period_std_samples


@pytest.mark.parametrize("dark_lines", [150, 3000])
def test_laser_off_for_a_while(dark_lines: int, usual: tuple, lab: object, rng: np.random.Generator) -> None:
    """The count goes on with the nearest whole number, and the lines after it are where they are."""
    simulated, plain = usual
    period = simulated.instrument.line_period_samples
    cut = round(1200.4 * period)
    gap = round(dark_lines * period)
    dark = np.rint(plain.background.dark_level_codes + rng.normal(0, 0.6, gap)).astype(np.int8)
    y = np.concatenate([simulated.samples[:cut], dark, simulated.samples[cut:]])
    (clock,) = measure_segment_clocks(lambda a, b: y[a:b], 0, y.size, plain.background, plain.tables)
    assert clock.lines == plain.clock.lines + dark_lines
    after = clock.line_start(np.array([2000.0 + dark_lines]))[0] - gap
    assert after == pytest.approx(plain.clock.line_start(np.array([2000.0]))[0], abs=0.02)


@pytest.mark.parametrize(
    ("dark_lines", "piece_samples"), [(0, 1 << 22), (30, 1 << 22), (1500, 1 << 22), (1500, 1 << 20)]
)
def test_phase_jump(
    dark_lines: int, piece_samples: int, usual: tuple, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The laser comes back at another phase: two clocks, each right up to the jump, and nothing between them.

    So too where it comes back in the middle of a piece that begins dark, with more pieces to come.
    """
    monkeypatch.setattr(line_clock, "PIECE_SAMPLES", piece_samples)
    simulated, plain = usual
    cut, lost = round(1210.4 * plain.period), round(0.37 * plain.period)
    dark = np.rint(plain.background.dark_level_codes + rng.normal(0, 0.6, round(dark_lines * plain.period)))
    y = np.concatenate([simulated.samples[:cut], dark.astype(np.int8), simulated.samples[cut + lost :]])
    moved = dark.size - lost
    before, after = measure_segment_clocks(lambda a, b: y[a:b], 0, y.size, plain.background, plain.tables)
    assert 1205 <= before.lines <= 1211
    np.testing.assert_allclose(before.line_start(np.arange(1205)), plain.starts[:1205], atol=0.02)
    assert 0 <= after.first_sample - (cut + dark.size) < 8 * plain.period
    first = round((after.line_start(np.array(0)) - moved - plain.starts[0]) / plain.period)
    assert after.lines == plain.clock.lines - first
    np.testing.assert_allclose(after.line_start(np.arange(after.lines)) - moved, plain.starts[first:], atol=0.02)


def test_begins_inside_a_cell(usual: tuple, lab: object) -> None:
    simulated, plain = usual
    cell = simulated.objects()[2]
    cut = int(cell["y_um"] / simulated.instrument.optics.um_per_line * plain.period) + 77
    found = lab.process(simulated.samples[cut:])
    assert abs(found.period - simulated.instrument.line_period_samples) < 4 * found.period_std
    assert found.events[0].line_first == 0


def test_line_at_inverts_line_start() -> None:
    clock = SegmentClock(
        first_sample=0,
        first_line=100,
        lines=901,
        line=np.array([-3.5, 400.0, 950.0]),
        start_samples=np.array([5.0, 111_190.3, 262_726.0]),
        period_samples=np.array([275.5, 275.52, 275.53]),
        start_std_samples=np.zeros(3),
        period_std_samples=0.0,
    )
    for line in (90.0, 100.0, 333.3, 500.25, 1049.0, 1100.0):
        assert clock.line_at(float(clock.line_start(np.array(line)))) == pytest.approx(line, abs=1e-7)
    n = np.arange(100, 1000, 0.5)
    assert (np.diff(clock.line_start(n)) > 137).all()


def test_segments_share_one_period() -> None:
    one = SegmentClock(
        0, 0, 101, np.array([0.0, 100.0]), np.array([0.0, 1000.0]), np.full(2, 10.0), np.full(2, 0.1), 0.003
    )
    two = dataclasses.replace(one, first_line=101, lines=201, start_samples=np.array([5000.0, 6000.2]))
    clock = line_clock.LineClock((one, two))
    assert clock.lines == 302
    assert clock.period_samples == pytest.approx((1000 + (1000.2 + 100 * 10)) / 300, abs=0.01)
    assert clock.period_std_samples == pytest.approx(0.003 * np.sqrt(1 + 4) / 3)


def test_too_short_a_stretch(usual: tuple) -> None:
    simulated, plain = usual
    with pytest.raises(SignalError, match="holds fewer than 16 lines"):
        measure_segment_clocks(lambda a, b: simulated.samples[a:b], 0, 7000, plain.background, plain.tables)


def test_no_empty_line_in_sight(usual: tuple, rng: np.random.Generator) -> None:
    plain = usual[1]
    noise = np.rint(rng.normal(-80, 3, 200_000)).astype(np.int8)
    with pytest.raises(SignalError, match="could not be followed"):
        measure_segment_clocks(lambda a, b: noise[a:b], 0, noise.size, plain.background, plain.tables)
