"""The simulator's engine: tiles of samples, in order, from a scene and an instrument.

Behind ``simulate``, which has the model and the public functions. Everything is made on tiles fixed to the
sample index (``TILE_SAMPLES``) or the line index (``TILE_LINES``), whose random numbers are seeded by the
index of the tile. Positions in samples, amplitudes in codes.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..data.phantoms import Scene
from . import _simulate_kernels as kernels
from .optics import RESPONSE_REACH, Instrument

TILE_SAMPLES = 1 << 18
TILE_LINES = 1 << 12
SCENE_POINTS = 1 << 18  # most points asked of a scene at once
SCENE_STEP_UM = 0.05  # along the line; finer than light resolves

_EQUILIBRIUM_LINES = 256  # together nearly a whole number of samples, taken for the period of all light before
_CLOCK_STREAM, _NOISE_STREAM, _START_STREAM = range(3)


class _Lines(NamedTuple):
    """Consecutive lines: index of the first, starts [samples] and relative energies, float64 (N,)."""

    first: int
    starts: NDArray[np.float64]
    energies: NDArray[np.float64]

    def since(self, line: int) -> "_Lines":
        skip = max(line - self.first, 0)
        return _Lines(self.first + skip, self.starts[skip:], self.energies[skip:])

    def followed_by(self, more: "_Lines") -> "_Lines":
        return _Lines(self.first, np.append(self.starts, more.starts), np.append(self.energies, more.energies))


class Tile(NamedTuple):
    """Consecutive samples, and the starts of the lines that start among them [samples of the stream]."""

    samples: NDArray[np.integer]
    first_line: int
    line_starts: NDArray[np.float64]


def tiles(scene: Scene, instrument: Instrument, seed: int, lines: int | None) -> Iterator[Tile]:
    """The stream in tiles of TILE_SAMPLES; the last is cut where line number ``lines`` starts."""
    check_count("seed", seed, least=0)
    if lines is not None:
        check_count("lines", lines)
    pulses = _Pulses(instrument)
    shadows = _Shadows(scene, instrument)
    converter = _Converter(instrument, pulses, seed)
    clock = line_tiles(instrument, seed)
    known = next(clock)
    tile, total = 0, None
    while total is None or tile * TILE_SAMPLES < total:
        first = tile * TILE_SAMPLES
        end = first + TILE_SAMPLES
        while known.starts[-1] < end + pulses.reach:
            known = known.followed_by(next(clock))
        known = known.since(known.first + int(np.searchsorted(known.starts, first - pulses.reach)))
        seen = int(np.searchsorted(known.starts, end + pulses.reach))
        visible = _Lines(known.first, known.starts[:seen] - first, known.energies[:seen])

        light = np.zeros(TILE_SAMPLES, dtype=np.float32)
        pulses.add_to(light, visible, first)
        shadows.take_from(light, visible, first)
        samples = converter.digitise(light, tile)

        begin, stop = np.searchsorted(visible.starts, (0, TILE_SAMPLES))
        begin = max(begin, -visible.first)
        if lines is not None and visible.first + stop > lines:
            total = math.ceil(visible.starts[lines - visible.first] + first)
            stop = lines - visible.first
            samples = samples[: total - first]
        yield Tile(samples, visible.first + int(begin), visible.starts[begin:stop] + first)
        tile += 1


def line_tiles(instrument: Instrument, seed: int) -> Iterator[_Lines]:
    """Starts and energies of the lines: first those before line 0, then TILE_LINES at a time, without end."""
    clock, rate = instrument.clock, instrument.digitiser.sample_rate_hz
    period = instrument.line_period_samples
    if clock.start_s is None:
        start = period * _generator(seed, _START_STREAM, 0).random()
    else:
        start = clock.start_s * rate
    yield _Lines(-2, start + period * np.array([-2.0, -1.0]), np.ones(2))
    walked = 0.0
    tile = 0
    while True:
        random = _generator(seed, _CLOCK_STREAM, tile)
        n = tile * TILE_LINES + np.arange(TILE_LINES)
        steps = clock.walk_s_per_root_s * math.sqrt(period * rate) * random.standard_normal(TILE_LINES)
        walk = walked + np.cumsum(steps)
        jitter = clock.jitter_s * rate * random.standard_normal(TILE_LINES)
        drift = clock.drift_per_s / (2 * rate) * (n * period) ** 2
        energies = 1 + instrument.optics.pulse_energy_noise * random.standard_normal(TILE_LINES)
        yield _Lines(tile * TILE_LINES, start + n * period + drift + walk + jitter, energies)
        walked = walk[-1]
        tile += 1


class _Pulses:
    """Light of the empty lines: p ⊗ h, tabulated once for all phases of the sampling."""

    def __init__(self, instrument: Instrument) -> None:
        sigma = instrument.digitiser.response_samples
        phases = 2 ** math.ceil(math.log2(max(8 / sigma, 16)))
        first, profile = instrument.profile(1 / phases)
        width = math.ceil(profile.size / phases) + 1
        padded = np.zeros(width * phases + 3)
        padded[1 : profile.size + 1] = profile
        index = np.arange(width) * phases + np.arange(phases + 3)[:, None]
        self.table = padded[index].astype(np.float32)
        self.first = first
        self.skews = _skews(instrument)
        self.reach = width - first + np.abs(self.skews).max()  # nothing of a line lies further from its start

    def add_to(self, light: NDArray[np.float32], lines: _Lines, first_sample: int) -> None:
        skews = np.roll(self.skews, -first_sample)
        kernels.add_pulses(light, lines.starts, lines.energies, self.table, self.first, skews)


class _Shadows:
    """What the scene takes from the light: ((1 − s)·p) ⊗ h, worked out only where something stands."""

    def __init__(self, scene: Scene, instrument: Instrument) -> None:
        self.scene = scene
        self.pitch = instrument.optics.um_per_line
        self.field = instrument.optics.field_of_view_um
        self.sigma = instrument.digitiser.response_samples
        self.per_sample = math.ceil(max(1 / self.sigma, instrument.um_per_sample / SCENE_STEP_UM))
        self.reach = math.ceil(RESPONSE_REACH * self.sigma * self.per_sample)
        points = math.floor(instrument.pulse_samples * self.per_sample) + 1
        self.source = instrument.illumination_codes(np.arange(points) / self.per_sample) / self.per_sample
        self.x_step = instrument.um_per_sample / self.per_sample
        self.skews = _skews(instrument)

    def take_from(self, light: NDArray[np.float32], lines: _Lines, first_sample: int) -> None:
        lines = lines.since(0)
        if not lines.starts.size:
            return
        y = np.arange(lines.first, lines.first + lines.starts.size, dtype=np.float64) * self.pitch
        runs = self._runs(y)
        points = np.cumsum(runs[:, 2] - runs[:, 1])
        begin = 0
        while begin < len(runs):
            done = points[begin - 1] if begin else 0
            end = max(int(np.searchsorted(points, done + SCENE_POINTS, side="right")), begin + 1)
            part = runs[begin:end]
            size = int(points[end - 1] - done)
            kernels.add_shadows(
                light,
                lines.starts,
                lines.energies,
                part,
                self._transmission(part, y, size),
                self.source,
                self.per_sample,
                self.sigma,
                self.reach,
                np.roll(self.skews, -first_sample),
            )
            begin = end

    def _runs(self, y: NDArray[np.float64]) -> NDArray[np.int64]:
        """Rows (line, first, end) of source points that may be darkened; int64 (N, 3)."""
        occupied = getattr(self.scene, "occupied", None)
        if occupied is None:
            boxes = np.array([[0, self.field, -np.inf, np.inf]])
        else:
            boxes = np.asarray(occupied(y[0], y[-1]), dtype=float).reshape(-1, 4)
        line_first = np.searchsorted(y, boxes[:, 2])
        line_end = np.searchsorted(y, boxes[:, 3], side="right")
        first = np.clip(np.ceil(boxes[:, 0] / self.x_step), 0, self.source.size).astype(np.int64)
        end = np.clip(np.floor(boxes[:, 1] / self.x_step) + 1, 0, self.source.size).astype(np.int64)
        runs = np.empty((max(int(np.sum(line_end - line_first)), 1), 3), dtype=np.int64)
        return runs[: kernels.merge_runs(line_first, line_end, first, end, y.size, runs)]

    def _transmission(self, runs: NDArray[np.int64], line_y: NDArray[np.float64], size: int) -> NDArray[np.float64]:
        x, y = np.empty(size), np.empty(size)
        kernels.run_positions(runs, self.x_step, line_y, x, y)
        transmission = np.asarray(self.scene.transmission(x, y), dtype=float)
        if transmission.shape != (size,) or not np.isfinite(transmission).all():
            raise ValueError(
                f"the scene's transmission must be finite and of its arguments' shape ({size},), "
                f"got shape {transmission.shape}; return one value per position"
            )
        return transmission


class _Converter:
    """AC coupling, noise and rounding. Tiles come in order: the baseline's filter has memory."""

    def __init__(self, instrument: Instrument, pulses: _Pulses, seed: int) -> None:
        self.digitiser = digitiser = instrument.digitiser
        self.seed = seed
        interleave = digitiser.interleave
        pattern = np.arange(TILE_SAMPLES + interleave.converters) % interleave.converters
        self.offsets = (digitiser.dark_codes + np.array(interleave.offset_codes))[pattern].astype(np.float32)
        self.gains = np.array(interleave.gain)[pattern].astype(np.float32)
        self.baseline = np.zeros(TILE_SAMPLES, dtype=np.float32)
        self.noise = np.empty(TILE_SAMPLES, dtype=np.float32)
        self.rate = -math.expm1(-2 * math.pi * digitiser.ac_coupling_hz / digitiser.sample_rate_hz)
        self.mean = self.state = 0.0
        if self.rate:
            self.mean, self.state = _equilibrium(instrument, pulses, seed, self.rate)

    def digitise(self, light: NDArray[np.float32], tile: int) -> NDArray[np.integer]:
        digitiser = self.digitiser
        if self.rate:
            self.state = kernels.low_pass(light, self.state, self.rate, self.mean, self.baseline)
        bits = _generator(self.seed, _NOISE_STREAM, tile).integers(
            2**64 - 1, size=TILE_SAMPLES // 2, dtype=np.uint64, endpoint=True
        )
        kernels.normals(bits.view(np.uint32), self.noise)
        codes = np.empty(TILE_SAMPLES, dtype=digitiser.dtype)
        shift = tile * TILE_SAMPLES % digitiser.interleave.converters
        kernels.digitise(
            light,
            self.baseline,
            self.noise,
            self.offsets[shift:],
            self.gains[shift:],
            digitiser.thermal_noise_codes**2,
            digitiser.shot_noise_codes**2 / digitiser.light_codes,
            *digitiser.code_range,
            codes,
        )
        return codes


def _equilibrium(instrument: Instrument, pulses: _Pulses, seed: int, rate: float) -> tuple[float, float]:
    """Mean light of empty lines [codes], and the low-pass's state after empty lines for ever, at sample 0."""
    period = instrument.line_period_samples
    before = next(line_tiles(instrument, seed)).starts[-1]
    span = round(_EQUILIBRIUM_LINES * period)
    light = np.zeros(span, dtype=np.float32)
    starts = before + span + period * np.arange(-_EQUILIBRIUM_LINES - 1.0, 3.0)
    pulses.add_to(light, _Lines(0, starts, np.ones(starts.size)), 0)
    gathered = kernels.low_pass(light, 0.0, rate, 0.0, np.empty_like(light))
    return float(light.mean(dtype=np.float64)), gathered / -math.expm1(span * math.log1p(-rate))


def _skews(instrument: Instrument) -> NDArray[np.float64]:
    """Delay per converter [samples]; a single zero where there is none, which is faster."""
    skews = np.array(instrument.digitiser.interleave.skew_s) * instrument.digitiser.sample_rate_hz
    return skews if skews.any() else np.zeros(1)


def _generator(seed: int, stream: int, tile: int) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=(stream, tile))))


def check_count(name: str, value: int, least: int = 1) -> None:
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}")
