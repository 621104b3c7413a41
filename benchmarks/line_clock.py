"""Line clock study: period error against the Cramér-Rao bound, cells found, and time per sample, on simulated captures.

    python benchmarks/line_clock.py [--lines 5000] [--seeds 3]

Every capture has an unknown period, jitter, 8 bits and noise; the bound is that of a constant period from empty lines
(a clock that wanders has another one: there the error over its stated deviation, z, counts).
"""

import argparse
import itertools
import time
from dataclasses import replace

import numpy as np
from record import write_result

from stretchscope.acquisition import _simulate_tiles as engine
from stretchscope.acquisition.optics import Digitiser, Instrument, Interleave, LineClock, Optics
from stretchscope.acquisition.simulate import blocks
from stretchscope.data.phantoms import random_scene
from stretchscope.data.stamps import cell_stamps
from stretchscope.sr.calibrate import Span, measure_background
from stretchscope.sr.detect import bin_columns, detector_tables, find_events, significance_map
from stretchscope.sr.line_clock import LineClock as Clock
from stretchscope.sr.line_clock import measure_segment_clocks
from stretchscope.sr.line_fit import line_tables

STEADY = {"drift_per_s": 0.0, "walk_s_per_root_s": 0.0}
LOCKED = STEADY | {"frequency_offset": 0.0}
FOUR = Interleave(offset_codes=(1.1, 0.1, -0.75, -0.45), gain=(0.996, 0.9965, 1.009, 0.9985), skew_s=(0.0,) * 4)
# name: sample rate, period [ns], pulse [ns], cells per 1000 lines, clock, field of view [µm], digitiser
CASES: dict[str, tuple] = {
    "5 GSa/s": (5e9, 86.2, 45, 2, STEADY, 48, {}),
    "2 GSa/s": (2e9, 86.2, 45, 2, STEADY, 48, {}),
    "20 GSa/s": (20e9, 86.2, 45, 2, STEADY, 48, {}),
    "12 of 55 ns, 5 GSa/s": (5e9, 55, 12, 2, STEADY, 48, {}),
    "12 of 55 ns, 2 GSa/s": (2e9, 55, 12, 2, STEADY, 48, {}),
    "75 of 90 ns, 5 GSa/s": (5e9, 90, 75, 2, STEADY, 48, {}),
    "75 of 80 ns, 2 GSa/s": (2e9, 80, 75, 2, STEADY, 48, {}),
    "weak light": (5e9, 86.2, 45, 2, STEADY, 48, {"light_level": 0.1}),
    "jitter 40 ps": (5e9, 86.2, 45, 2, STEADY | {"jitter_s": 40e-12}, 48, {}),
    "drift 2e-5": (2e9, 86.2, 45, 2, STEADY | {"drift_per_s": 0.05}, 48, {}),
    "default wander": (5e9, 86.2, 45, 2, {}, 48, {}),
    "dense cells, 2 GSa/s": (2e9, 86.2, 45, 12, STEADY, 96, {}),
    "dense cells, 5 GSa/s": (5e9, 86.2, 45, 12, STEADY, 96, {}),
    "locked, 350 samples": (5e9, 70.0, 45, 2, LOCKED, 48, {}),
    "350.003 samples": (5e9, 70.0006, 45, 2, LOCKED, 48, {}),
    "350.0001, 4 converters": (5e9, 70.00002, 45, 2, LOCKED, 48, {"interleave": FOUR}),
    "420.8 samples, dense": (5e9, 84.16, 45, 12, LOCKED, 96, {}),
}


def delay_bound(instrument: Instrument) -> float:
    """Cramér-Rao bound of one empty line's delay [samples]: baseline and energy unknown, jitter included."""
    digitiser, step = instrument.digitiser, 1 / 64
    first, profile = instrument.profile(step)
    light = np.zeros(int(np.ceil(instrument.line_period_samples / step)))
    np.add.at(light, (np.arange(profile.size) + round(first / step)) % light.size, profile)
    columns = np.stack([np.ones(light.size), light, np.gradient(light, step)])
    variance = digitiser.thermal_noise_codes**2 + 1 / 12
    variance = variance + digitiser.shot_noise_codes**2 * light / digitiser.light_codes
    covariance = np.linalg.inv((columns / variance) @ columns.T * step)
    return float(np.hypot(np.sqrt(covariance[2, 2]), instrument.clock.jitter_s * digitiser.sample_rate_hz))


def mean_period(instrument: Instrument, lines: int, seed: int) -> float:
    """(t_last - t_first) / (lines - 1) of the simulated line starts, their jitter left out."""
    steady = replace(instrument, clock=replace(instrument.clock, jitter_s=0.0))
    tiles = itertools.islice(engine.line_tiles(steady, seed), 1, 2 + lines // engine.TILE_LINES)
    starts = np.concatenate([tile.starts for tile in tiles])
    return float((starts[lines - 1] - starts[0]) / (lines - 1))


def run(case: tuple, lines: int, seed: int) -> dict[str, float]:
    """One capture: error and uncertainty of its period in units of the bound, events, and time per sample."""
    rate, period_ns, pulse_ns, per_thousand, clock, field, digitiser = case
    instrument = Instrument(
        optics=Optics(line_rate_hz=1e9 / period_ns, pulse_duration_s=pulse_ns * 1e-9, field_of_view_um=field),
        clock=LineClock(**clock),
        digitiser=Digitiser(sample_rate_hz=rate, **({"bandwidth_hz": min(3e9, 0.6 * rate)} | digitiser)),
    )
    length = lines * instrument.optics.um_per_line
    cells = round(per_thousand * lines / 1000)
    scene = random_scene(
        cell_stamps(seed),
        field_of_view_um=field,
        per_mm=1000 * cells / length,
        length_um=length,
        seed=seed,
        diameter_um=(8.0, 14.0),
    )
    y = np.concatenate(list(blocks(scene, instrument, seed=seed, lines=lines)))
    size = min(1 << 19, y.size)
    count = int(np.clip(y.size // size, 1, 8))
    spans = [Span(int(a), y[int(a) : int(a) + size]) for a in np.linspace(0, y.size - size, count)]
    t0 = time.perf_counter()
    background = measure_background(spans, code_limits=instrument.digitiser.code_range)
    tables = line_tables(background)
    t1 = time.perf_counter()
    (segment,) = measure_segment_clocks(lambda a, b: y[a:b], 0, y.size, background, tables)
    t2 = time.perf_counter()
    starts = segment.line_start(np.arange(segment.lines))
    significance = significance_map(y, 0, starts, tables, detector_tables(background, tables))
    t3 = time.perf_counter()
    events = find_events(significance, 0, bin_columns(background))
    measured = Clock((segment,))
    truth = mean_period(instrument, segment.lines, seed)
    bound = delay_bound(instrument) * np.sqrt(12 / (segment.lines * (segment.lines**2 - 1.0)))
    return {
        "error_per_bound": abs(measured.period_samples - truth) / bound,
        "std_per_bound": measured.period_std_samples / bound,
        "error_per_std": (measured.period_samples - truth) / measured.period_std_samples,
        "cells": cells,
        "events": len(events),
        "background_s": t1 - t0,
        "clock_ns_per_sample": (t2 - t1) / y.size * 1e9,
        "map_ns_per_sample": (t3 - t2) / y.size * 1e9,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    run(CASES["2 GSa/s"], 600, 0)  # compile
    results = {}
    print(f"{'case':24} {'err/CRB':>8} {'max':>6} {'std/CRB':>8} {'z rms':>6} {'cells':>6} {'events':>6} {'ns/Sa':>12}")
    for name, case in CASES.items():
        runs = [run(case, arguments.lines, seed) for seed in range(1, arguments.seeds + 1)]
        results[name] = runs
        column = {key: np.array([r[key] for r in runs]) for key in runs[0]}
        print(
            f"{name:24} {np.sqrt(np.mean(column['error_per_bound'] ** 2)):8.2f} {column['error_per_bound'].max():6.2f} "
            f"{column['std_per_bound'].mean():8.2f} {np.sqrt(np.mean(column['error_per_std'] ** 2)):6.2f} "
            f"{column['cells'].sum():6.0f} {column['events'].sum():6.0f} "
            f"{column['clock_ns_per_sample'].mean():5.1f} + {column['map_ns_per_sample'].mean():4.1f}",
            flush=True,
        )
    write_result("line_clock", {"lines": arguments.lines, "seeds": arguments.seeds, "cases": results})


if __name__ == "__main__":
    main()
