"""The clock of a stream: locked in its first lines, true to the simulator's line starts, found again when lost.

Errors are against the truth, less their median: where on the pulse a line starts is a matter of definition.
"""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from stretchscope.acquisition.optics import LineClock
from stretchscope.sr.calibrate import measure_background
from stretchscope.sr.empty_line import EmptyLine
from stretchscope.sr.live_clock import BURST_LINES, LockedLines, TrackingClock

LINES = 12_000
WANDER = {"drift_per_s": LineClock().drift_per_s, "walk_s_per_root_s": LineClock().walk_s_per_root_s}
INSTRUMENTS = {
    "steady": {},
    "wandering": {"clock": WANDER},
    "wandering ten times as much": {"clock": {name: 10 * value for name, value in WANDER.items()}},
    "strong jitter": {"clock": {"jitter_s": 20e-12}},
    "tenth lit": {"pulse": 8.6e-9},
    "whole period lit": {"pulse": 86e-9, "period": 1 / 11.6e6},
    "12 bits": {"bits": 12, "thermal_noise_codes": 8.0, "shot_noise_codes": 11.0},
}


@dataclass
class Followed:
    """What a clock made of samples in blocks: line numbers, their starts [samples], and the stretches."""

    clock: TrackingClock
    line: np.ndarray
    start: np.ndarray
    stretches: list[LockedLines]


def follow(clock: TrackingClock, samples: np.ndarray, block: int, *, index: int = 0) -> Followed:
    line, start, stretches = [], [], []
    for first in range(0, samples.size, block):
        for lines in clock.follow(samples[first : first + block], index + first):
            n = np.arange(lines.first_line, lines.stop_line)
            begin = lines.line_start(n)
            # all start in their block; a line due at its first sample may be a little early
            assert begin[0] > -1
            assert begin[-1] < samples[first : first + block].size + 1
            line.append(n)
            start.append(begin + index + first)
            stretches.append(lines)
    if not line:
        return Followed(clock, np.empty(0, dtype=int), np.empty(0), [])
    return Followed(clock, np.concatenate(line), np.concatenate(start), stretches)


@pytest.fixture(scope="session")
def cases(lab: object) -> dict:
    """Simulated captures by name, with what their empty line looks like; made when asked for."""
    made: dict = {}

    def case(name: str) -> tuple:
        if name not in made:
            simulated = lab.simulate(lab.instrument(**INSTRUMENTS[name]), LINES, cells=8, seed=4)
            dark = -102.4 if name == "whole period lit" else None
            background = measure_background(lab.spans(simulated.samples, most=4), dark_level_codes=dark)
            made[name] = simulated, EmptyLine(background, simulated.samples.dtype.itemsize)
        return made[name]

    return case


def errors(simulated: object, found: Followed) -> np.ndarray:
    """Of all starts [samples]; the numbers of the lines must be the simulator's, up to a constant."""
    period = simulated.instrument.line_period_samples
    shift = round((found.start[0] - simulated.starts[0]) / period) - found.line[0]
    known = found.line + shift < simulated.starts.size
    error = found.start[known] - simulated.starts[found.line[known] + shift]
    return error - np.median(error)


@pytest.mark.parametrize("name", INSTRUMENTS)
def test_starts_are_as_good_as_one_burst_allows(name: str, cases: object) -> None:
    """From the first line on, the rms error stays below the Cramér-Rao bound of one burst of 32 lines, which the filter
    improves on by its memory, and what the clock wanders at random between two bursts, which nobody can know."""
    simulated, empty_line = cases(name)
    found = follow(TrackingClock(empty_line), simulated.samples, 1 << 19)
    error = errors(simulated, found)
    clock, digitiser = simulated.instrument.clock, simulated.instrument.digitiser
    between_s = min(1 << 19, 4096 * simulated.instrument.line_period_samples) / digitiser.sample_rate_hz
    walk = clock.walk_s_per_root_s * digitiser.sample_rate_hz * np.sqrt(between_s)
    bound = simulated.delay_bound() / np.sqrt(BURST_LINES)
    expected = np.hypot(bound, walk / np.sqrt(6))  # of a walk between two known ends
    assert found.clock.losses == 0
    assert found.line[0] == 0
    assert found.start[0] < 1.1 * simulated.instrument.line_period_samples
    assert (np.diff(found.line) == 1).all()
    assert found.line.size >= LINES - 1
    assert np.sqrt(np.mean(error**2)) < 1.2 * expected
    assert np.abs(error).max() < 6 * expected
    # locked at once: the first lines are no worse than twice that
    assert np.abs(error[:200]).max() < 3 * expected


@pytest.mark.parametrize("block", [1700, 5000, 9001, 15_000, 70_001, 200_000, 1 << 20])
def test_any_block_size(block: int, cases: object) -> None:
    """Blocks of four lines, of fewer than a burst, of odd length: the same lines, numbered alike, as well known; those
    before the lock of blocks that are too short for it are missing, and no others."""
    simulated, empty_line = cases("steady")
    samples = simulated.samples[: 1 << 21]
    found = follow(TrackingClock(empty_line), samples, block)
    error = errors(simulated, found)
    assert found.clock.losses == 0
    assert (np.diff(found.line) == 1).all()
    assert found.line[0] == (0 if block > 69_500 else found.line[0]) <= 165
    first = np.ceil((found.start[0] - simulated.starts[0]) / simulated.instrument.line_period_samples)
    assert abs(found.line[0] - first) <= 1
    assert np.abs(error).max() < 6 * simulated.delay_bound() / np.sqrt(BURST_LINES)
    assert sum(not lines.continues for lines in found.stretches) == 1


def test_begins_in_the_dark(cases: object) -> None:
    """The light is off in the first block and a half: locked some lines after it comes on, and never before."""
    simulated, empty_line = cases("steady")
    block, dark = 1 << 19, 800_000
    samples = simulated.samples[: 1 << 22].copy()
    samples[:dark] = np.random.default_rng(1).normal(-102.4, 0.6, dark).round().astype(samples.dtype)
    found = follow(TrackingClock(empty_line), samples, block)
    assert found.start[0] > dark - 600
    assert found.start[0] < dark + 80 * simulated.instrument.line_period_samples
    assert np.abs(errors(simulated, found)).max() < 0.03
    assert not found.clock.in_vain


def test_light_that_is_not_the_empty_line(cases: object) -> None:
    """No lock on noise or on another line's light; after some blocks of it the clock asks for another empty line."""
    simulated, empty_line = cases("steady")
    rng = np.random.default_rng(2)
    clock = TrackingClock(empty_line)
    for n in range(6):
        assert clock.follow(rng.integers(-128, 128, 1 << 18, dtype=np.int8), n << 18) == []
    assert clock.in_vain
    assert clock.losses == 0
    clock.replace_empty_line(empty_line)
    assert not clock.in_vain
    found = follow(clock, simulated.samples[: 1 << 20], 1 << 18, index=6 << 18)
    assert found.line.size > 2000


def test_lines_keep_their_numbers_over_losses(cases: object) -> None:
    """Gaps of any length, each with the clock kept or found again: line numbers stay those of the time line."""
    simulated, empty_line = cases("steady")
    period = simulated.instrument.line_period_samples
    clock, block, index = TrackingClock(empty_line), 1 << 18, 0
    line, start = [], []
    for gap in (0, 1, 215, 431, 1600, 100_003, 7_000_001):
        index += gap
        first = index % round(period * 1000)  # what a thousand lines make is whole to a hundredth of a sample or so
        assert first + block < simulated.samples.size
        for lines in clock.follow(simulated.samples[first : first + block], index):
            n = np.arange(lines.first_line, lines.stop_line)
            line.append(n)
            start.append(lines.line_start(n) + index)
        index += block
    line, start = np.concatenate(line), np.concatenate(start)
    assert (np.diff(line) >= 0).all()
    assert np.abs((start - start[0]) / period - (line - line[0])).max() < 0.05


@pytest.mark.parametrize(("lines_to_end", "most_wrong"), [(1100, 32), (560, 32), (300, 512), (5, 64)])
def test_phase_jump_loses_few_lines(lines_to_end: int, most_wrong: int, cases: object) -> None:
    """The laser's phase jumps so many lines before a block ends: some tens of lines are lost, and those on either side
    are right. Where fewer than 512 lines follow in the block, something may as well hide them, and the clock is trusted
    until the next block shows that it is gone."""
    simulated, empty_line = cases("steady")
    period, block, jump = simulated.instrument.line_period_samples, 1 << 19, 160  # whole turns of the converters
    at = int(2 * block - lines_to_end * period)
    samples = np.concatenate([simulated.samples[:at], simulated.samples[at + jump : 3_000_000]])
    found = follow(TrackingClock(empty_line), samples, block)
    shifted = found.start + np.where(found.start < at - 600, 0, jump)
    nearest = np.round((shifted - simulated.starts[0]) / period).astype(int)
    error = shifted - simulated.starts[nearest]
    assert np.count_nonzero(np.abs(error - np.median(error)) > 0.03) <= most_wrong
    assert found.clock.losses == 1
    assert found.line.size > 3_000_000 / period - 6 * BURST_LINES


def test_a_droplet_does_not_end_the_lock(cases: object) -> None:
    """Something that hides the whole line for 400 lines is no loss; dark for as long, at once, may be."""
    simulated, empty_line = cases("steady")
    period = simulated.instrument.line_period_samples
    rng = np.random.default_rng(3)
    for first in (100_000, 700_000, (1 << 19) - 40_000):
        samples = simulated.samples[: 1 << 21].copy()
        hidden = slice(first, first + int(400 * period))
        turbid = np.interp(np.arange(samples[hidden].size), *_spots(rng, samples[hidden].size))
        samples[hidden] = np.clip(-102 + (samples[hidden] + 102.0) * turbid, -128, 127).astype(np.int8)
        found = follow(TrackingClock(empty_line), samples, 1 << 19)
        assert found.clock.losses == 0
        assert np.abs(errors(simulated, found)).max() < 0.05


def _spots(rng: np.random.Generator, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Transmission between 0.2 and 0.9 that changes at random every few samples."""
    place = np.arange(0, samples + 8, 8)
    return place, rng.uniform(0.2, 0.9, place.size)


def test_slow_changes_are_followed(cases: object) -> None:
    """Light and period change by little in each block: the empty line follows both, the lock holds."""
    simulated, empty_line = cases("steady")
    clock, block = TrackingClock(empty_line), 1 << 17
    for n in range(38):
        samples = simulated.samples[n * block : (n + 1) * block]
        codes = -102.4 + (samples + 102.4) * (1 - 0.002 * n)
        clock.follow(np.rint(codes).astype(np.int8), n * block)
    ratio = clock.empty_line.background.peak() / empty_line.background.peak()
    assert abs(ratio - (1 - 0.002 * 37)) < 0.01
    assert clock.losses == 0


def test_index_that_goes_back_is_an_error(cases: object) -> None:
    simulated, empty_line = cases("steady")
    clock = TrackingClock(empty_line)
    clock.follow(simulated.samples[: 1 << 18], 1000)
    with pytest.raises(ValueError, match="begins before the end of the one before"):
        clock.follow(simulated.samples[: 1 << 18], 2000)


@pytest.mark.parametrize("relative", [-0.01, -1e-3, 1e-4, 3e-5, 5e-3])
def test_another_period_is_found(relative: float, cases: object, lab: object) -> None:
    """A laser with another rate, the shape of its pulses unchanged: locked within the first lines all the same."""
    _, empty_line = cases("steady")
    instrument = lab.instrument(period=86.2e-9 * (1 + relative))
    simulated = lab.simulate(instrument, 3000, seed=6)
    clock = TrackingClock(empty_line)
    found = follow(clock, simulated.samples, 1 << 19)
    assert found.start[0] < 2 * BURST_LINES * instrument.line_period_samples
    assert np.abs(errors(simulated, found)).max() < 0.05
    assert abs(clock.period_samples - instrument.line_period_samples) < 1e-4
    # what an empty line looks like is right as well: the pulse keeps its length in samples
    tau = np.arange(0.0, empty_line.background.lit_samples, 0.5)
    now, then = (line.background.profile.light(tau) for line in (clock.empty_line, empty_line))
    assert np.abs(now - then).max() < 1.0
    assert replace(clock.empty_line.background, profile=empty_line.background.profile).lit_samples == pytest.approx(
        empty_line.background.lit_samples
    )
