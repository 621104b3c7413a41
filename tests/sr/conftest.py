"""Simulated captures, and the bounds they are judged by."""

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest

from stretchscope.acquisition import _simulate_tiles as engine
from stretchscope.acquisition.optics import Digitiser, Instrument, LineClock, Optics
from stretchscope.acquisition.simulate import blocks
from stretchscope.data.phantoms import EmptyScene, StampScene, random_scene
from stretchscope.data.stamps import Stamps, cell_stamps
from stretchscope.sr.background import Background
from stretchscope.sr.calibrate import Span, measure_background
from stretchscope.sr.detect import Event, bin_columns, detector_tables, find_events, significance_map
from stretchscope.sr.line_clock import LineClock as MeasuredClock
from stretchscope.sr.line_clock import SegmentClock, measure_segment_clocks
from stretchscope.sr.line_fit import LineTables, line_tables

SPAN = 1 << 19


@dataclass(frozen=True)
class Simulated:
    """A simulated capture with its truth: where lines start without their jitter, and what lies in it."""

    samples: np.ndarray
    instrument: Instrument
    scene: EmptyScene | StampScene
    starts: np.ndarray

    @property
    def lines(self) -> int:
        return self.starts.size

    def objects(self) -> np.ndarray:
        if isinstance(self.scene, EmptyScene):
            return np.empty(0)
        return self.scene.objects(0.0, (self.lines - 1) * self.instrument.optics.um_per_line)

    def delay_bound(self) -> float:
        """Cramér-Rao bound of one line's delay [samples], baseline and energy unknown, jitter included."""
        digitiser, period = self.instrument.digitiser, self.instrument.line_period_samples
        step = 1 / 64
        first, profile = self.instrument.profile(step)
        size = int(np.ceil(period / step))
        light = np.zeros(size)
        place = (np.arange(profile.size) + round(first / step)) % size
        np.add.at(light, place, profile)
        columns = np.stack([np.ones(size), light, np.gradient(light, step)])
        variance = digitiser.thermal_noise_codes**2 + 1 / 12
        variance = variance + digitiser.shot_noise_codes**2 * light / digitiser.light_codes
        information = (columns / variance) @ columns.T * step
        jitter = self.instrument.clock.jitter_s * digitiser.sample_rate_hz
        return float(np.sqrt(np.linalg.inv(information)[2, 2] + jitter**2))

    def period_bound(self, lines: int) -> float:
        """Cramér-Rao bound of a constant line period from empty lines [samples]."""
        return self.delay_bound() * np.sqrt(12 / (lines * (lines**2 - 1.0)))


@dataclass(frozen=True)
class Processed:
    """What the room makes of a capture."""

    background: Background
    tables: LineTables
    clock: SegmentClock
    starts: np.ndarray
    significance: np.ndarray
    events: list[Event]

    @property
    def period(self) -> float:
        return MeasuredClock((self.clock,)).period_samples

    @property
    def period_std(self) -> float:
        return MeasuredClock((self.clock,)).period_std_samples


def make_instrument(
    *,
    rate: float = 5e9,
    period: float = 86.2e-9,
    pulse: float = 45e-9,
    clock: dict | None = None,
    optics: dict | None = None,
    **digitiser: object,
) -> Instrument:
    """Microscope with a constant line period unless told otherwise, all other faults on."""
    digitiser = {"bandwidth_hz": min(3e9, 0.6 * rate)} | digitiser
    return Instrument(
        optics=Optics(line_rate_hz=1 / period, pulse_duration_s=pulse, **(optics or {})),
        clock=LineClock(**({"drift_per_s": 0.0, "walk_s_per_root_s": 0.0} | (clock or {}))),
        digitiser=Digitiser(sample_rate_hz=rate, **digitiser),
    )


def simulate(
    instrument: Instrument,
    lines: int,
    *,
    cells: int = 0,
    seed: int = 1,
    diameter_um: tuple[float, float] = (8.0, 16.0),
    contrast: tuple[float, float] = (0.35, 0.7),
    stamps: Stamps | None = None,
) -> Simulated:
    length = lines * instrument.optics.um_per_line
    scene: EmptyScene | StampScene = EmptyScene()
    if cells:
        scene = random_scene(
            cell_stamps(seed) if stamps is None else stamps,
            field_of_view_um=instrument.optics.field_of_view_um,
            per_mm=1000 * cells / length,
            length_um=length,
            seed=seed,
            diameter_um=diameter_um,
            contrast=contrast,
        )
    samples = np.concatenate(list(blocks(scene, instrument, seed=seed, lines=lines)))
    steady = replace(instrument, clock=replace(instrument.clock, jitter_s=0.0))
    tiles = itertools.islice(engine.line_tiles(steady, seed), 1, 2 + lines // engine.TILE_LINES)
    starts = np.concatenate([tile.starts for tile in tiles])[:lines]
    return Simulated(samples, instrument, scene, starts)


def spans(samples: np.ndarray, first: int = 0, *, most: int = 8) -> list[Span]:
    """Stretches spread over a capture."""
    count = int(np.clip(samples.size // SPAN, 1, most))
    at = np.linspace(0, samples.size - min(SPAN, samples.size), count).astype(int)
    return [Span(first + int(a), samples[a : a + SPAN]) for a in at]


def process(
    samples: np.ndarray,
    *,
    first: int = 0,
    dark_level_codes: float | None = None,
    code_limits: tuple[int, int] | None = None,
) -> Processed:
    """The room's whole way, from samples to events."""
    background = measure_background(spans(samples, first), dark_level_codes=dark_level_codes, code_limits=code_limits)
    tables = line_tables(background)
    (clock,) = measure_segment_clocks(
        lambda a, b: samples[a - first : b - first], first, first + samples.size, background, tables
    )
    starts = clock.line_start(np.arange(clock.lines))
    significance = significance_map(samples, first, starts, tables, detector_tables(background, tables))
    return Processed(
        background, tables, clock, starts, significance, find_events(significance, 0, bin_columns(background))
    )


def true_period(simulated: Simulated, processed: Processed) -> float:
    """(t_last − t_first) / (lines − 1) over the lines that were numbered; jitter left out."""
    offset = processed.starts[0] - simulated.starts[0]
    line = round(offset / simulated.instrument.line_period_samples)
    n = np.clip([line, line + processed.clock.lines - 1], 0, simulated.lines - 1)
    ends = simulated.starts[n]
    return float((ends[1] - ends[0]) / (n[1] - n[0]))


def count_matches(simulated: Simulated, processed: Processed) -> tuple[int, int, int]:
    """Cells not found exactly once (by their centre, by an event of their own), and events where no cell is."""
    objects, instrument = simulated.objects(), simulated.instrument
    shared = min(processed.starts.size, simulated.lines)
    offset = float(np.median(processed.starts[:shared] - simulated.starts[:shared]))
    line = objects["y_um"] / instrument.optics.um_per_line
    tau = objects["x_um"] / instrument.um_per_sample - offset
    found, shared_events, invented = np.zeros(objects.size, int), 0, 0
    top, bottom = (objects[f"y_{end}_um"] / instrument.optics.um_per_line for end in ("first", "last"))
    left, right = (objects[f"x_{end}_um"] / instrument.um_per_sample - offset for end in ("first", "last"))
    for event in processed.events:
        middle_line = (event.line_first + event.line_last) / 2
        middle_tau = (event.tau_first_samples + event.tau_last_samples) / 2
        holds = (top <= middle_line) & (middle_line <= bottom) & (left <= middle_tau) & (middle_tau <= right)
        invented += not holds.any()
        found += holds
        centres = (event.line_first <= line) & (line <= event.line_last)
        centres &= (event.tau_first_samples <= tau) & (tau <= event.tau_last_samples)
        shared_events += centres.sum() > 1
    return int(np.count_nonzero(found != 1)), int(shared_events), int(invented)


@dataclass(frozen=True)
class Lab:
    """The functions above, for tests."""

    instrument = staticmethod(make_instrument)
    simulate = staticmethod(simulate)
    spans = staticmethod(spans)
    process = staticmethod(process)
    true_period = staticmethod(true_period)
    count_matches = staticmethod(count_matches)


@pytest.fixture(scope="session")
def lab() -> Lab:
    return Lab()


@pytest.fixture(scope="session")
def usual(lab: Lab) -> tuple[Simulated, Processed]:
    """An ordinary capture of a dozen cells, and what is made of it."""
    simulated = lab.simulate(lab.instrument(), 3000, cells=8, seed=3)
    return simulated, lab.process(simulated.samples, code_limits=(-128, 127))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)
