"""Line clock study: errors of period and line starts over the Cramér-Rao bound, on simulated captures.

    python benchmarks/line_clock.py [--lines 2000] [--seeds 32] [--workers 2] [--cases WORD ...]

Every case is simulated with many seeds: another noise, other cells, another phase. Errors are root mean squares over
them, of the mean period and of the line starts (over all lines, against the true starts without their jitter; the
measured empty line is laid upon the true one first, since where a line starts is a convention). Bounds: sr/bounds.py,
with the true empty line and noise, jitter added, what cells hide taken off, and the clock's true order (steady, even
drift); of a random walk that of the best smoother.

So that few seeds tell a ratio, each capture is measured once more by an oracle: weighted least squares with the true
empty line on the positions that hold no cell. Its errors scatter as the bound says, and most of each capture's luck is
in both: mean square error = bound² + mean(error² - oracle's error²). The interval is a bootstrap's over seeds, 95 %.
"""

import argparse
import itertools
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from record import write_result

from stretchscope.acquisition import _simulate_tiles as engine
from stretchscope.acquisition.optics import Digitiser, Illumination, Instrument, Interleave, LineClock, Optics
from stretchscope.acquisition.simulate import blocks
from stretchscope.data.phantoms import EmptyScene, Scene, random_scene
from stretchscope.data.stamps import cell_stamps
from stretchscope.sr.background import Background
from stretchscope.sr.bounds import delay_bound, period_bound, start_bound
from stretchscope.sr.calibrate import Span, measure_background
from stretchscope.sr.errors import SignalError
from stretchscope.sr.line_clock import LineClock as Clock
from stretchscope.sr.line_clock import measure_segment_clocks
from stretchscope.sr.line_fit import line_tables
from stretchscope.sr.profile import fit_profile

SPAN_SAMPLES, MOST_SPANS = 1 << 19, 8  # as `process` reads them
# A ratio up to this is taken for the bound's.
WITHIN = 1.2
FOUR = Interleave(offset_codes=(1.1, 0.1, -0.75, -0.45), gain=(0.996, 0.9965, 1.009, 0.9985), skew_s=(0.0,) * 4)
QUIET = {"thermal_noise_codes": 0.2, "shot_noise_codes": 0.2}


@dataclass(frozen=True)
class Case:
    """One kind of capture; ``order`` is that of its clock's polynomial, ``locked`` leaves no frequency offset."""

    rate_hz: float = 5e9
    period_ns: float = 86.13
    pulse_ns: float = 45.0
    cells_per_1000: float = 2.0
    dense: bool = False
    locked: bool = False
    order: int = 1
    share_of_lines: float = 1.0
    clock: dict = field(default_factory=dict)
    optics: dict = field(default_factory=dict)
    digitiser: dict = field(default_factory=dict)

    @property
    def cells(self) -> float:
        return 12.0 if self.dense else self.cells_per_1000

    @property
    def instrument(self) -> Instrument:
        steady = {"drift_per_s": 0.0, "walk_s_per_root_s": 0.0} | ({"frequency_offset": 0.0} if self.locked else {})
        view = {"field_of_view_um": 96.0 if self.dense else 48.0}
        band = {"bandwidth_hz": min(3e9, 0.6 * self.rate_hz)}
        return Instrument(
            optics=Optics(
                line_rate_hz=1e9 / self.period_ns, pulse_duration_s=self.pulse_ns * 1e-9, **(view | self.optics)
            ),
            clock=LineClock(**(steady | self.clock)),
            digitiser=Digitiser(sample_rate_hz=self.rate_hz, **(band | self.digitiser)),
        )


WEAK = {"light_level": 0.1}
CASES = {
    "5 GSa/s": Case(),
    "2 GSa/s": Case(2e9),
    "20 GSa/s": Case(20e9, share_of_lines=0.5),
    "no cells": Case(cells_per_1000=0),
    "12 of 55 ns, 5 GSa/s": Case(5e9, 55, 12),
    "12 of 55 ns, 2 GSa/s": Case(2e9, 55, 12),
    "24 of 86 ns, 5 GSa/s": Case(5e9, 86.1, 24),
    "75 of 90 ns, 5 GSa/s": Case(5e9, 90, 75),
    "75 of 80 ns, 2 GSa/s": Case(2e9, 80, 75),
    "steep edges": Case(optics={"illumination": Illumination(edge=0.03, ripple=0.0)}),
    "bell without edges": Case(optics={"illumination": Illumination(edge=0.5, spectral_width=0.15, ripple=0.0)}),
    "strong ripple": Case(optics={"illumination": Illumination(ripple=0.3, ripple_periods=11.0)}),
    "four converters": Case(digitiser={"interleave": FOUR}),
    "noise 0.5 code": Case(digitiser={"thermal_noise_codes": 0.5, "shot_noise_codes": 0.0}),
    "noise 2 codes": Case(digitiser={"thermal_noise_codes": 2.0, "shot_noise_codes": 2.0}),
    "noise 0.2 code": Case(digitiser=QUIET),
    "12 bits": Case(digitiser={"bits": 12, "thermal_noise_codes": 8.0, "shot_noise_codes": 11.0}),
    "14 bits": Case(digitiser={"bits": 14, "thermal_noise_codes": 8.0, "shot_noise_codes": 40.0}),
    "pulse energy 5 %": Case(optics={"pulse_energy_noise": 0.05}),
    "jitter 5 ps": Case(clock={"jitter_s": 5e-12}),
    "jitter 40 ps": Case(clock={"jitter_s": 40e-12}),
    "drift 1e-5": Case(2e9, order=2, clock={"drift_per_s": 0.05}),
    "drift 1e-4": Case(2e9, order=2, clock={"drift_per_s": 0.5}),
    "walk 1 ns": Case(clock={"walk_s_per_root_s": 1e-9}),
    "weak light": Case(digitiser=WEAK),
    "dense cells, 2 GSa/s": Case(2e9, dense=True),
    "dense cells, 5 GSa/s": Case(dense=True),
    "dense cells, weak light": Case(dense=True, digitiser=WEAK),
    "dense cells, jitter 40 ps": Case(dense=True, clock={"jitter_s": 40e-12}),
    "430.994 samples": Case(period_ns=86.2),
    "420.8 samples, dense": Case(period_ns=84.16, dense=True, locked=True),
    "locked, 350 samples": Case(period_ns=70.0, locked=True),
    "locked, 350.5 samples": Case(period_ns=70.1, locked=True),
    "350.003 samples": Case(period_ns=70.0006, locked=True),
    "350.003 samples, dense": Case(period_ns=70.0006, locked=True, dense=True),
    "350.0001, 4 converters": Case(period_ns=70.00002, locked=True, digitiser={"interleave": FOUR}),
}


def true_background(instrument: Instrument) -> Background:
    """The simulated empty line, with the droop of AC coupling, and its noise; τ = 0 at the start of the pulse."""
    digitiser, period, step = instrument.digitiser, instrument.line_period_samples, 1 / 32
    first, profile = instrument.profile(step)
    tau = first + step * np.arange(profile.size)
    dark = np.arange(tau[-1] + step, first + period - step / 2, step)
    tau, light = np.append(tau, dark), np.append(profile, np.zeros(dark.size))
    corner = 2 * np.pi * digitiser.ac_coupling_hz / digitiser.sample_rate_hz
    if corner:
        frequency = 2 * np.pi * np.fft.rfftfreq(tau.size, period / tau.size)
        droop = np.fft.rfft(light) / (1 + 1j * frequency / corner)
        droop[0] = 0.0
        light = light - np.fft.irfft(droop, tau.size)
    spline = fit_profile(tau, light, np.ones(tau.size), period_samples=period, most_per_sample=16)
    return Background(
        profile=spline,
        dark_level_codes=digitiser.dark_codes,
        lit_samples=instrument.pulse_samples,
        censored=np.zeros(spline.knots, dtype=bool),
        noise=(digitiser.thermal_noise_codes**2 + 1 / 12, digitiser.shot_noise_codes**2 / digitiser.light_codes, 0.0),
        interleave_offset_codes=tuple(digitiser.dark_codes + o for o in digitiser.interleave.offset_codes),
        interleave_gain=digitiser.interleave.gain,
        code_limits=digitiser.code_range,
        gain_std=instrument.optics.pulse_energy_noise,
        delay_std_samples=instrument.clock.jitter_s * digitiser.sample_rate_hz,
    )


def true_starts(instrument: Instrument, lines: int, seed: int) -> np.ndarray:
    """Simulated line starts, their jitter left out."""
    steady = replace(instrument, clock=replace(instrument.clock, jitter_s=0.0))
    tiles = itertools.islice(engine.line_tiles(steady, seed), 1, 2 + lines // engine.TILE_LINES)
    return np.concatenate([tile.starts for tile in tiles])[:lines]


def oracle(
    scene: Scene, instrument: Instrument, truth: Background, starts: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """Delays of the lines by least squares with the true empty line, without cells but for what they hide.

    Return the delays against ``starts``, their variances, and the share of the timing information that is hidden.
    """
    samples = np.concatenate(list(blocks(EmptyScene(), instrument, seed=seed, lines=starts.size + 1)))
    width = int(truth.period_samples) - 1
    reach = 2 * instrument.digitiser.response_samples  # so far does what stands there smear
    view = instrument.optics.field_of_view_um
    offsets, gains = np.array(truth.interleave_offset_codes), np.array(truth.interleave_gain)
    delays, variances, hidden, full = [], [], 0.0, 0.0
    for part in np.array_split(np.arange(starts.size), max(1, starts.size // 500)):
        first = np.floor(starts[part]).astype(np.int64) - int(2 * reach) - 1
        index = first[:, None] + np.arange(width)
        empty = (index < samples.size) & (index > 0)
        index = np.clip(index, 0, samples.size - 1)
        value = (samples[index] - offsets[index % gains.size]) / gains[index % gains.size]
        tau = index - starts[part, None]
        clear = np.ones(tau.shape, dtype=bool)
        y = np.broadcast_to(part[:, None] * instrument.optics.um_per_line, tau.shape)
        for shift in (-reach, -reach / 2, 0.0, reach / 2, reach):
            x = (tau + shift) * (view / instrument.pulse_samples)
            clear &= (x < 0) | (x > view) | (np.abs(1 - scene.transmission(np.clip(x, 0, view), y)) < 0.01)
        delay = np.zeros(part.size)
        for _ in range(2):
            light, slope = truth.profile.light_and_slope(tau - delay[:, None])
            weight = empty / truth.variance_of(light, slope)
            columns = np.stack([np.ones_like(light), light, -slope], axis=1)
            of_all = np.linalg.inv(np.einsum("nik,nk,njk->nij", columns, weight, columns) + 1e-9 * np.eye(3))
            weight = weight * clear
            covariance = np.linalg.inv(np.einsum("nik,nk,njk->nij", columns, weight, columns) + 1e-9 * np.eye(3))
            right = np.einsum("nik,nk->ni", columns, weight * (value - light))
            delay += np.clip(np.einsum("nij,nj->ni", covariance, right)[:, 2], -1, 1)
        delays.append(delay)
        variances.append(covariance[:, 2, 2])
        full += float(np.sum(1 / of_all[:, 2, 2]))
        hidden += float(np.sum(1 / of_all[:, 2, 2] - 1 / covariance[:, 2, 2]))
    return np.concatenate(delays), np.concatenate(variances), hidden / full


def polynomial_errors(delays: np.ndarray, variances: np.ndarray, order: int) -> np.ndarray:
    """Weighted least-squares polynomial through the delays, at every line."""
    x = np.linspace(-1, 1, delays.size)
    return np.polynomial.polynomial.polyval(
        x, np.polynomial.polynomial.polyfit(x, delays, order, w=1 / np.sqrt(variances))
    )


def walk_smoother(delays: np.ndarray, variances: np.ndarray, step: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Best estimate of a clock whose starts walk by ``step`` a line: at every line, its variance, and the chord's."""
    n = delays.size
    columns = np.stack([np.ones(n), np.linspace(-1, 1, n)], axis=1)
    walk = step**2 * np.minimum.outer(np.arange(n) + 1.0, np.arange(n) + 1.0)
    weight = np.linalg.inv(walk + np.diag(variances))
    of_line = np.linalg.inv(columns.T @ weight @ columns)
    gain = walk @ weight
    trend = of_line @ columns.T @ weight
    estimate = gain @ delays + (columns - gain @ columns) @ (trend @ delays)
    lean = columns - gain @ columns
    covariance = walk - gain @ walk + lean @ of_line @ lean.T
    chord = covariance[0, 0] + covariance[-1, -1] - 2 * covariance[0, -1]
    return estimate, np.diag(covariance), float(chord) / (n - 1) ** 2


def laid_upon(background: Background, truth: Background, near: float) -> float:
    """δ with p_measured(τ) = p_true(τ + δ), by least squares, starting from ``near`` [samples]."""
    tau = np.arange(0.0, truth.period_samples, 1 / 8)
    delta = near
    weight = np.where(background.is_censored(tau - delta), 0.0, 1 / truth.variance(tau))
    for _ in range(4):
        light, slope = truth.profile.light_and_slope(tau)
        columns = np.stack([np.ones_like(light), light, slope])
        right = columns @ (weight * (background.profile.light(tau - delta) - light))
        delta += float(np.linalg.solve((columns * weight) @ columns.T, right)[2])
    return delta


def run(name: str, lines: int, seed: int) -> dict[str, float] | None:
    """One capture of a case: errors of the clock and of the oracle, bounds, stated uncertainty, time; None: refused."""
    case = CASES[name]
    instrument = case.instrument
    lines = round(lines * case.share_of_lines)
    length = lines * instrument.optics.um_per_line
    cells = round(case.cells * lines / 1000)
    scene: Scene = EmptyScene()
    if cells:
        scene = random_scene(
            cell_stamps(seed),
            field_of_view_um=instrument.optics.field_of_view_um,
            per_mm=1000 * cells / length,
            length_um=length,
            seed=seed,
            diameter_um=(8.0, 14.0),
        )
    y = np.concatenate(list(blocks(scene, instrument, seed=seed, lines=lines)))
    size = min(SPAN_SAMPLES, y.size)
    count = int(np.clip(y.size // size, 1, MOST_SPANS))
    spans = [Span(int(a), y[int(a) : int(a) + size]) for a in np.linspace(0, y.size - size, count)]
    t0 = time.perf_counter()
    try:
        background = measure_background(spans, code_limits=instrument.digitiser.code_range)
        tables = line_tables(background)
        t1 = time.perf_counter()
        (segment,) = measure_segment_clocks(lambda a, b: y[a:b], 0, y.size, background, tables)
    except SignalError:
        return None
    t2 = time.perf_counter()

    truth, expected = true_background(instrument), true_starts(instrument, lines, seed)
    starts = segment.line_start(np.arange(segment.lines))
    skipped = round((starts[0] - expected[0]) / instrument.line_period_samples)
    if skipped < 0:
        starts, skipped = starts[-skipped:], 0
    expected = expected[skipped : skipped + starts.size]
    starts = starts[: expected.size]
    m = starts.size
    error = starts - laid_upon(background, truth, float(np.median(starts - expected))) - expected

    delays, variances, hidden = oracle(scene, instrument, truth, expected, seed)
    jitter = instrument.clock.jitter_s * instrument.digitiser.sample_rate_hz
    one = delay_bound(truth, jitter_std_samples=jitter, hidden_share=hidden)
    variances = variances + jitter**2
    if instrument.clock.walk_s_per_root_s:
        rate = instrument.digitiser.sample_rate_hz
        step = instrument.clock.walk_s_per_root_s * np.sqrt(instrument.line_period_samples * rate)
        x = np.linspace(-1, 1, m)
        walk = expected - np.polynomial.polynomial.polyval(x, np.polynomial.polynomial.polyfit(x, expected, 1))
        # delays are against starts that hold the walk: with it, the oracle errs by what it cannot follow as well
        best, start_variance, chord = walk_smoother(delays + walk, np.full(m, one**2), step)
        best = best - walk
        period_std, start_rms = float(np.sqrt(chord)), float(np.sqrt(start_variance.mean()))
    else:
        best = polynomial_errors(delays, variances, case.order)
        period_std = period_bound(one, m, order=case.order)
        start_rms = float(np.sqrt(np.mean(start_bound(one, m, np.arange(m), order=case.order) ** 2)))
    measured = Clock((segment,))
    return {
        "period_error": float(error[-1] - error[0]) / (m - 1) / period_std,
        "period_oracle": float(best[-1] - best[0]) / (m - 1) / period_std,
        "start_square": float(np.mean(error**2)) / start_rms**2,
        "start_oracle_square": float(np.mean(best**2)) / start_rms**2,
        "start_mean": float(np.mean(error)) / one * np.sqrt(m),
        "period_std_per_bound": measured.period_std_samples / period_std,
        "start_std_per_bound": measured.start_std_samples / start_rms,
        "delay_bound_samples": one,
        "measured_delay_bound": float(delay_bound(background)) / delay_bound(truth),
        "hidden_share": hidden,
        "knots": segment.line.size,
        "cells": cells,
        "background_s": t1 - t0,
        "clock_ns_per_sample": (t2 - t1) / y.size * 1e9,
    }


def ratio(square: np.ndarray, oracle_square: np.ndarray) -> tuple[float, float, float]:
    """Root of the mean square over the bound's, and its interval; the oracle's luck taken off."""

    def of(pick: np.ndarray) -> np.ndarray:
        return np.sqrt(np.maximum(1 + np.mean(square[pick] - oracle_square[pick], axis=-1), 0))

    picks = np.random.default_rng(1).integers(0, square.size, (2000, square.size))
    low, high = np.quantile(of(picks), [0.025, 0.975])
    return float(of(np.arange(square.size))), float(low), float(high)


def summary(tried: list[dict[str, float] | None]) -> dict[str, object]:
    """What the captures of one case say together."""
    runs = [r for r in tried if r is not None]
    column = {key: np.array([r[key] for r in runs]) for key in runs[0]}
    period = ratio(column["period_error"] ** 2, column["period_oracle"] ** 2)
    start = ratio(column["start_square"], column["start_oracle_square"])
    return {
        "period_per_bound": period,
        "start_per_bound": start,
        "holds": max(period[0], start[0]) <= WITHIN,
        "z": float(np.sqrt(np.mean((column["period_error"] / column["period_std_per_bound"]) ** 2))),
        "stated": float(column["period_std_per_bound"].mean()),
        "refused": len(tried) - len(runs),
        "clock_ns_per_sample": float(np.median(column["clock_ns_per_sample"])),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cases", nargs="*", help="words; only cases that hold one of them, and no result is written")
    arguments = parser.parse_args()
    names = [n for n in CASES if not arguments.cases or any(word in n for word in arguments.cases)]
    results = {}
    columns = [f"<= {WITHIN}", "stated", "z", "refused", "ns/Sa"]
    print(f"{'case':26} {'period':>20} {'starts':>20} " + " ".join(f"{c:>7}" for c in columns))
    with ProcessPoolExecutor(arguments.workers) as pool:
        for name in names:
            seeds = range(1, arguments.seeds + 1)
            tried = list(pool.map(run, itertools.repeat(name), itertools.repeat(arguments.lines), seeds))
            results[name] = found = summary(tried)
            period, start = found["period_per_bound"], found["start_per_bound"]
            ranges = " ".join(f"{r[0]:6.2f} ({r[1]:5.2f}-{r[2]:5.2f})" for r in (period, start))
            print(
                f"{name:26} {ranges} {'yes' if found['holds'] else 'no':>7} {found['stated']:7.2f} {found['z']:7.2f} "
                f"{found['refused']:7} {found['clock_ns_per_sample']:7.1f}",
                flush=True,
            )
    if not arguments.cases:
        write_result("line_clock", {"lines": arguments.lines, "seeds": arguments.seeds, "cases": results})


if __name__ == "__main__":
    main()
