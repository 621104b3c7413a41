"""A simulated stream without beginning or end: a loop of samples whose end fits its beginning.

Before ``source.LoopSource``, which replays it at a digitiser's pace. The model is that of ``simulate``, closed to a
ring: the line clock has jitter but no wander, a whole number of lines fills the loop exactly, and light, baseline
and converters go on across the seam as anywhere else. Positions in samples, amplitudes in codes.
"""

import copy
import math
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data.phantoms import StampScene, place, random_scene
from ..data.stamps import Stamps, cell_stamps
from . import _simulate_kernels as kernels
from ._simulate_tiles import TILE_SAMPLES, _Converter, _Lines, _Pulses, _Shadows, check_count, line_tiles
from .metadata import CaptureMetadata
from .optics import Instrument, LineClock
from .simulate import Progress, operator_metadata, ordinary_instrument, seen_cells

__all__ = ["SimulatedLoop", "simulated_loop"]

LEAST_LINES = 100
CLEAR_LINES = 24  # between two cells in single file, where there is room: enough to tell them apart

_RUN_TILES = 64  # made by one thread in one go
_MOST_WORKERS = 4  # more of them would wait for each other between the kernels
_SETTLED = 12  # time constants of AC coupling, before a run, after which its state has forgotten how it began
_FAINT_ENDS = 1 / 8  # of the line at each end, where the light is weak: no cell there


@dataclass(frozen=True, eq=False)
class SimulatedLoop:
    """Samples of a loop, and the truth about them.

    Attributes
    ----------
    samples : ndarray of shape (L,), the digitiser's dtype
        ADC codes; ``samples[0]`` follows ``samples[-1]``.
    metadata : CaptureMetadata
        What an operator would know, the sample rate among it.
    lines : int
        Lines N of the loop.
    line_period_samples : float
        T = L / N.
    first_line_start_samples : float
        Where line 0 starts, without its jitter; line n of pass p starts at this + (p·N + n)·T.
    cells : ndarray of shape (C,)
        As in the truth of ``simulate_capture``: place and size, and ``line_first`` and ``line_last`` [lines of the
        loop]. None lies across the seam.
    kinds : tuple of str
        What the cells' field ``kind`` numbers.
    instrument : Instrument
        All of its settings.
    """

    samples: NDArray[np.integer]
    metadata: CaptureMetadata
    lines: int
    line_period_samples: float
    first_line_start_samples: float
    cells: NDArray[np.void]
    kinds: tuple[str, ...]
    instrument: Instrument


def simulated_loop(
    *,
    loop_samples: int = 1 << 30,
    block_samples: int = 1 << 22,
    sample_rate_hz: float = 5e9,
    cells_per_s: float = 5000.0,
    cell_diameter_um: tuple[float, float] = (8.0, 16.0),
    line_rate_hz: float = 11.6e6,
    pulse_duration_s: float = 45e-9,
    flow_speed_m_per_s: float = 2.0,
    field_of_view_um: float = 48.0,
    bits: int = 8,
    seed: int = 1,
    workers: int | None = None,
    progress: Progress | None = None,
) -> SimulatedLoop:
    """Make a loop of random cells in flow, by an ordinary instrument with all its faults but a wandering clock.

    Parameters
    ----------
    loop_samples : int, optional
        Length, rounded up to whole blocks and to a multiple of the number of converters [samples].
    block_samples : int, optional
        Block into which the loop can be divided [samples].
    cells_per_s : float, optional
        Cells per second of signal. They pass in single file while there is room for that, at random distances and
        with ``CLEAR_LINES`` between them where these fit; beyond that side by side, none on top of another.
    cell_diameter_um : pair of float, optional
        Limits between which their diameters are spread evenly; a cell too large for the line is made smaller.
    sample_rate_hz, line_rate_hz, pulse_duration_s, flow_speed_m_per_s, field_of_view_um, bits
        As in ``Optics`` and ``Digitiser``. The line rate is changed until whole lines fill the loop, by half a
        line per loop at most.
    seed : int, optional
        The same seed gives the same samples, with any number of workers.
    workers : int, optional
        Threads; as many as there are CPUs by default, four at most.
    progress : callable, optional
        Called with (samples made, samples in all) now and then.

    Returns
    -------
    SimulatedLoop
        Samples and truth.

    Raises
    ------
    ValueError
        If an argument makes no sense, or the cells have no room.

    Notes
    -----
    Memory: the loop, and some 10 MB per thread. 1 GiB takes 8 to 15 s of CPU time, most with many cells or no dark gap.
    """
    check_count("loop_samples", loop_samples)
    check_count("block_samples", block_samples)
    check_count("seed", seed, least=0)
    if not (math.isfinite(cells_per_s) and cells_per_s >= 0):
        raise ValueError(f"cells_per_s must be a finite number, zero or more, got {cells_per_s!r}")

    def instrument_of(frequency_offset: float) -> Instrument:
        return ordinary_instrument(
            sample_rate_hz=sample_rate_hz,
            line_rate_hz=line_rate_hz,
            pulse_duration_s=pulse_duration_s,
            flow_speed_m_per_s=flow_speed_m_per_s,
            field_of_view_um=field_of_view_um,
            bits=bits,
            clock=LineClock(frequency_offset=frequency_offset, drift_per_s=0, walk_s_per_root_s=0),
        )

    nominal = instrument_of(LineClock().frequency_offset)
    unit = math.lcm(block_samples, nominal.digitiser.interleave.converters)
    length = -(-loop_samples // unit) * unit
    lines = round(length / nominal.line_period_samples)
    if lines < LEAST_LINES:
        raise ValueError(f"a loop of {length} samples holds {lines} lines; make it {LEAST_LINES} or more")
    instrument = instrument_of(sample_rate_hz * lines / (line_rate_hz * length) - 1)
    cells = round(cells_per_s * length / sample_rate_hz)
    scene = _scene(instrument, lines, cells, cell_diameter_um, seed)
    made = _Loop(scene, instrument, seed, length, lines)

    samples = np.empty(length, dtype=instrument.digitiser.dtype)
    done = 0
    with ThreadPoolExecutor(
        workers or min(os.cpu_count() or 1, _MOST_WORKERS), thread_name_prefix="simulated-loop"
    ) as pool:
        runs = [pool.submit(made.write, samples, tile) for tile in range(0, made.tiles, _RUN_TILES)]
        try:
            for run in as_completed(runs):
                done += run.result()
                if progress is not None:
                    progress(done, length)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return SimulatedLoop(
        samples=samples,
        metadata=operator_metadata(instrument),
        lines=lines,
        line_period_samples=length / lines,
        first_line_start_samples=made.start,
        cells=seen_cells(scene, instrument, lines),
        kinds=scene.kinds,
        instrument=instrument,
    )


class _Loop:
    """The simulator's engine on a ring: any tile can be made at any time, from the tiles before it."""

    def __init__(self, scene: StampScene, instrument: Instrument, seed: int, length: int, lines: int) -> None:
        self.length = length
        self.tiles = -(-length // TILE_SAMPLES)
        self.pulses = _Pulses(instrument)
        self.shadows = _Shadows(scene, instrument)
        self.converter = _Converter(instrument, self.pulses, seed)
        coupling_hz = instrument.digitiser.ac_coupling_hz
        self.settle = (
            _SETTLED * instrument.digitiser.sample_rate_hz / (2 * math.pi * coupling_hz) if coupling_hz else 0.0
        )
        clock = line_tiles(instrument, seed)
        self.start = float(next(clock).starts[-1] + instrument.line_period_samples)
        parts, known = [], 0
        while known < lines:
            parts.append(next(clock))
            known += parts[-1].starts.size
        starts = np.concatenate([part.starts for part in parts])[:lines]
        energies = np.concatenate([part.energies for part in parts])[:lines]
        beyond = min(math.ceil(self.pulses.reach / instrument.line_period_samples) + 2, lines)
        self.lines = _Lines(  # with those of the passes before and after that still shine into this one
            -beyond,
            np.concatenate([starts[-beyond:] - length, starts, starts[:beyond] + length]),
            np.concatenate([energies[-beyond:], energies, energies[:beyond]]),
        )

    def write(self, samples: NDArray[np.integer], first_tile: int) -> int:
        """Make a run of tiles in their place; returns the number of samples made. Threads may share the loop."""
        converter = copy.copy(self.converter)
        converter.baseline, converter.noise = np.zeros_like(converter.baseline), np.empty_like(converter.noise)
        light = np.empty(TILE_SAMPLES, dtype=np.float32)
        for tile in self._before(first_tile):
            seen = self._shine(light, tile)
            converter.state = kernels.low_pass(
                light[:seen], converter.state, converter.rate, converter.mean, converter.baseline
            )
        made = 0
        for tile in range(first_tile, min(first_tile + _RUN_TILES, self.tiles)):
            seen = self._shine(light, tile)
            samples[tile * TILE_SAMPLES :][:seen] = converter.digitise(light, tile)[:seen]
            made += seen
        return made

    def _before(self, tile: int) -> Iterator[int]:
        """The tiles before one, across the seam, that AC coupling remembers; in order."""
        before: list[int] = []
        samples = 0
        while samples < self.settle:
            tile = (tile - 1) % self.tiles
            before.append(tile)
            samples += min(TILE_SAMPLES, self.length - tile * TILE_SAMPLES)
        return reversed(before)

    def _shine(self, light: NDArray[np.float32], tile: int) -> int:
        """The light of a tile, and how many of its samples lie in the loop."""
        first = tile * TILE_SAMPLES
        begin, end = np.searchsorted(
            self.lines.starts, (first - self.pulses.reach, first + TILE_SAMPLES + self.pulses.reach)
        )
        visible = _Lines(
            self.lines.first + int(begin), self.lines.starts[begin:end] - first, self.lines.energies[begin:end]
        )
        light.fill(0)
        self.pulses.add_to(light, visible, first)
        self.shadows.take_from(light, visible, first)
        return min(TILE_SAMPLES, self.length - first)


def _scene(instrument: Instrument, lines: int, cells: int, diameter_um: tuple[float, float], seed: int) -> StampScene:
    """Cells on the loop's lines, none on those next to the seam."""
    stamps = cell_stamps(seed)
    pitch, field_um = instrument.optics.um_per_line, instrument.optics.field_of_view_um
    if not (0 < diameter_um[0] <= diameter_um[1] < math.inf):
        raise ValueError(f"cell_diameter_um must be a pair (least, greatest) above zero, got {diameter_um}")
    in_file = _single_file(stamps, lines * pitch, CLEAR_LINES * pitch, field_um, cells, diameter_um, seed)
    if in_file is not None:
        # Both ascend: a search finds what is touched, without a copy if they lie together.
        first, last = (np.ascontiguousarray(in_file[name]) for name in ("y_first_um", "y_last_um"))
        return StampScene(
            stamps, lambda low, high: in_file[np.searchsorted(last, low) : np.searchsorted(first, high, side="right")]
        )
    length_um = lines * pitch
    return random_scene(
        stamps,
        field_of_view_um=field_um,
        per_mm=1000 * cells / length_um,
        length_um=length_um,
        seed=seed,
        diameter_um=diameter_um,
        gap_um=max(2.0, 8 * pitch),  # half of it stays clear at the seam, and must hold the lines that shine across
    )


def _single_file(
    stamps: Stamps,
    length_um: float,
    clear_um: float,
    field_of_view_um: float,
    count: int,
    diameter_um: tuple[float, float],
    seed: int,
) -> NDArray[np.void] | None:
    """Cells one after the other at random distances, in order; None if they have no room for that.

    All arrangements are equally likely: random places on what the cells leave free, then the cells put in between.
    """
    random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(count,)))
    kind = random.integers(len(stamps.kinds), size=count)
    given = {
        "x_um": np.zeros(count),
        "y_um": np.zeros(count),
        "diameter_um": random.uniform(*diameter_um, count),
        "contrast": random.uniform(0.35, 0.7, count),
        "angle_rad": random.uniform(0, 2 * math.pi, count),
        "kind": kind,
    }
    room = field_of_view_um * (1 - 2 * _FAINT_ENDS)
    cells = place(stamps, **given)
    given["diameter_um"] *= np.minimum(1, room / (cells["x_last_um"] - cells["x_first_um"]))
    cells = place(stamps, **given)
    height = cells["y_last_um"] - cells["y_first_um"]
    free = length_um - clear_um - height.sum()  # half of clear_um at each end
    if free < 0:
        return None
    gap = min(clear_um, free / (2 * max(count, 1)))
    y_first = np.sort(random.uniform(0, free - gap * max(count - 1, 0), count)) + clear_um / 2
    y_first[1:] += np.cumsum(height[:-1] + gap)
    low = field_of_view_um * _FAINT_ENDS - cells["x_first_um"]
    high = field_of_view_um * (1 - _FAINT_ENDS) - cells["x_last_um"]
    x = low + random.uniform(0, 1, count) * (high - low)
    for name, shift in (("x", x), ("y", y_first - cells["y_first_um"])):
        for limit in (f"{name}_um", f"{name}_first_um", f"{name}_last_um"):
            cells[limit] += shift
    return cells
