"""What is lost with a slower digitiser: one scene at 20, 10, 5, 3 and 2 GSa/s, reconstructed by every method.

    python benchmarks/super_resolution.py [--lines 5000] [--seed 1]

The scene: cells with granules finer than the optics resolve, seen through optics of 0.9 µm (full width at half
maximum), in a field of 48 µm, 20 lines per µm; 8 bits, noise of 1.2 codes, no blur by the detector. Clock, empty line
and kernel are measured from each capture itself, as `process` does; only the windows around cells are known beforehand.
All images are compared with the scene as the optics show it, on pixels of about 0.1 µm:

- correlation and PSNR over the cells,
- resolution: the width of the optics and of the blur that maps the scene onto the image, along the line and the flow,
- the frequency up to which the image correlates with the scene by more than a half (Fourier ring correlation).

Writes results/super_resolution.json and docs/figures/super-resolution.png.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from record import RESULTS, write_result
from scipy import ndimage

from stretchscope.acquisition import _simulate_tiles as engine
from stretchscope.acquisition.optics import Digitiser, Instrument, LineClock, Optics
from stretchscope.acquisition.simulate import blocks
from stretchscope.data.phantoms import random_scene
from stretchscope.data.stamps import cell_stamps
from stretchscope.sr.background import Background
from stretchscope.sr.calibrate import Span, measure_background
from stretchscope.sr.errors import SignalError
from stretchscope.sr.line_clock import SegmentClock, measure_segment_clocks
from stretchscope.sr.line_fit import LineTables, line_tables
from stretchscope.sr.methods import METHODS
from stretchscope.sr.profile import fit_profile
from stretchscope.sr.quality import FWHM, correlation, effective_resolution_um, fourier_ring_correlation, psnr
from stretchscope.sr.reconstruct import (
    KERNEL_LINES,
    Grid,
    TransmissionImage,
    best_kernel,
    choose_grid,
    kernel_scores,
    window_pixels,
)

FIELD_UM, LINES_PER_UM, LINE_RATE_HZ = 48.0, 20.0, 11.614e6
OPTICS_UM, NOISE_CODES, PIXEL_UM = 0.9, 1.2, 0.1
RATES_HZ = (20e9, 10e9, 5e9, 3e9, 2e9)
PULSE_S, SHORT_PULSE_S = 24e-9, 12e-9
# Fractions of the line period at 2 GSa/s, the awkward ones first.
FRACTIONS = (0.0, 0.5, 1 / 3, 0.25, 0.51, 0.206, 0.1, 0.4142, 0.618)
_FINE_UM, _BEYOND_LINES = 0.05, 30


class PaintedScene:
    """Cells with granules, on a fine grid, as the optics show them."""

    def __init__(self, length_um: float, seed: int) -> None:
        cells = random_scene(
            cell_stamps(seed), field_of_view_um=FIELD_UM, per_mm=50, length_um=length_um, seed=seed, diameter_um=(8, 13)
        )
        self.objects = cells.objects(0.0, length_um)
        y, x = np.arange(0, length_um, _FINE_UM), np.arange(0, FIELD_UM + _FINE_UM, _FINE_UM)
        picture = np.concatenate([cells.transmission(x, y[i : i + 500, None]) for i in range(0, y.size, 500)])
        rng = np.random.default_rng(seed)
        for cell in self.objects:
            radius = 0.4 * cell["diameter_um"] * np.sqrt(rng.random(60))
            angle = 2 * np.pi * rng.random(60)
            rows = ((cell["y_um"] + radius * np.sin(angle)) / _FINE_UM).astype(int)
            columns = ((cell["x_um"] + radius * np.cos(angle)) / _FINE_UM).astype(int)
            for r, c in zip(rows, columns, strict=True):
                picture[r - 3 : r + 4, c - 3 : c + 4] *= 0.35
        self._picture = ndimage.gaussian_filter(picture, OPTICS_UM / FWHM / _FINE_UM)

    def transmission(self, x_um: np.ndarray, y_um: np.ndarray) -> np.ndarray:
        x, y = np.broadcast_arrays(x_um, y_um)
        seen: np.ndarray = ndimage.map_coordinates(self._picture, [y / _FINE_UM, x / _FINE_UM], order=1, mode="nearest")
        return seen

    def occupied(self, y_first_um: float, y_last_um: float) -> np.ndarray:
        near = (self.objects["y_last_um"] >= y_first_um - 2) & (self.objects["y_first_um"] <= y_last_um + 2)
        sides = (("x_first_um", -2.0), ("x_last_um", 2.0), ("y_first_um", -2.0), ("y_last_um", 2.0))
        return np.column_stack([self.objects[near][name] + beyond for name, beyond in sides])


@dataclass(frozen=True)
class Captured:
    """A capture of the scene, and what is measured of it."""

    scene: PaintedScene
    instrument: Instrument
    samples: np.ndarray
    background: Background
    tables: LineTables
    clock: SegmentClock
    true_starts: np.ndarray
    offset: float  # from a line's true start to the measured one [samples]

    @property
    def lines_per_sample(self) -> float:
        return self.instrument.um_per_sample * LINES_PER_UM

    def windows(self) -> list[tuple[tuple[float, float], tuple[float, float]]]:
        """Lines and positions around each cell that lies wholly in the capture and in the light."""
        step, windows = self.instrument.um_per_sample, []
        for cell in self.scene.objects:
            rows = cell["y_first_um"] * LINES_PER_UM - 20, cell["y_last_um"] * LINES_PER_UM + 20
            tau = (cell["x_first_um"] - 1) / step - self.offset, (cell["x_last_um"] + 1) / step - self.offset
            if rows[0] > _BEYOND_LINES and rows[1] < self.clock.lines - _BEYOND_LINES:
                windows.append((rows, tau))
        return windows

    def truth(self, grid: Grid, rows: tuple[float, float], tau: tuple[float, float]) -> np.ndarray:
        """The scene at the pixels of a window."""
        shape = window_pixels(grid, rows, tau)
        line = rows[0] + np.arange(shape[0]) * grid.lines_per_row
        place = tau[0] + np.arange(shape[1]) / grid.columns_per_sample + self.offset
        return self.scene.transmission(place * self.instrument.um_per_sample, line[:, None] / LINES_PER_UM)


def capture(
    scene: PaintedScene, rate_hz: float, pulse_s: float, line_rate_hz: float, lines: int, seed: int
) -> Captured:
    """Digitise the scene, and measure clock and empty line."""
    instrument = Instrument(
        optics=Optics(
            line_rate_hz=line_rate_hz,
            pulse_duration_s=pulse_s,
            field_of_view_um=FIELD_UM,
            flow_speed_m_per_s=line_rate_hz / LINES_PER_UM * 1e-6,
        ),
        clock=LineClock(frequency_offset=0, drift_per_s=0, walk_s_per_root_s=0),
        digitiser=Digitiser(
            sample_rate_hz=rate_hz,
            bandwidth_hz=8 * rate_hz,
            thermal_noise_codes=float(np.sqrt(NOISE_CODES**2 - 1 / 12)),
            shot_noise_codes=0.0,
        ),
    )
    samples = np.concatenate(list(blocks(scene, instrument, seed=seed, lines=lines)))
    size = min(1 << 19, samples.size)
    spans = [Span(int(i), samples[int(i) : int(i) + size]) for i in np.linspace(0, samples.size - size, 4)]
    background = measure_background(spans, code_limits=instrument.digitiser.code_range)
    tables = line_tables(background)
    (clock,) = measure_segment_clocks(lambda a, b: samples[a:b], 0, samples.size, background, tables)
    tiles = itertools.islice(engine.line_tiles(instrument, seed), 1, 2 + lines // engine.TILE_LINES)
    true_starts = np.concatenate([tile.starts for tile in tiles])
    offset = np.mean(clock.line_start(np.arange(lines // 2)) - true_starts[: lines // 2])
    return Captured(scene, instrument, samples, background, tables, clock, true_starts, float(offset))


def exact(captured: Captured) -> Captured:
    """The same with the true clock and the true empty line."""
    digitiser, period = captured.instrument.digitiser, captured.instrument.line_period_samples
    tau = np.arange(-0.1 * period, 0.9 * period, 1 / 24)
    profile = fit_profile(
        tau, captured.instrument.illumination_codes(tau), np.ones(tau.size), period_samples=period, most_per_sample=16
    )
    background = replace(
        captured.background,
        profile=profile,
        lit_samples=captured.instrument.pulse_samples,
        censored=np.zeros(profile.knots, bool),
        noise=(NOISE_CODES**2, 0.0, 0.0),
        dark_level_codes=digitiser.dark_codes,
        interleave_offset_codes=(digitiser.dark_codes,),
        interleave_gain=(1.0,),
    )
    lines = np.arange(captured.clock.lines, dtype=float)
    starts = captured.true_starts[: lines.size]
    clock = replace(
        captured.clock,
        line=lines,
        start_samples=starts,
        period_samples=np.gradient(starts),
        start_std_samples=np.zeros(lines.size),
    )
    return replace(captured, background=background, tables=line_tables(background), clock=clock, offset=0.0)


def choose_kernel(captured: Captured, *, averages: bool) -> tuple[float, float]:
    """As `process` chooses it, from the cells themselves."""
    scores = []
    for rows, tau in captured.windows():
        starts, _ = starts_around(captured, rows)
        scores.append(kernel_scores(captured.samples, 0, starts, captured.background, captured.tables, tau))
    return best_kernel(scores, captured.background.period_samples, averages=averages)


def starts_around(captured: Captured, rows: tuple[float, float]) -> tuple[np.ndarray, int]:
    first = int(rows[0]) - _BEYOND_LINES
    return captured.clock.line_start(np.arange(first, int(rows[1]) + _BEYOND_LINES)), first


def raw_lines(
    samples: np.ndarray, origin: int, starts: np.ndarray, first_line: int, background: Background, tables: LineTables,
    grid: Grid, *, rows: tuple[float, float], tau: tuple[float, float], registered: bool = False,
) -> TransmissionImage:  # fmt: skip
    """Each row the nearest line, interpolated linearly; placed at whole samples unless registered."""
    shape = window_pixels(grid, rows, tau)
    place = tau[0] + np.arange(shape[1]) / grid.columns_per_sample
    offset, gain = background.interleave_offset_codes[0], background.interleave_gain[0]
    image = np.empty(shape, np.float32)
    for r in range(shape[0]):
        start = starts[round(rows[0] + r * grid.lines_per_row) - first_line]
        start = start if registered else np.round(start)
        index = np.arange(int(start + tau[0]) - 2, int(start + tau[1]) + 4)
        light = np.where(background.usable(index - start), background.profile.light(index - start), np.nan)
        image[r] = np.interp(start + place, index, (samples[index - origin] - offset) / gain / light)
    known = np.isfinite(image)
    return TransmissionImage(
        image,
        np.full(shape, np.inf, np.float32),
        known,
        rows[0],
        grid.lines_per_row,
        tau[0],
        grid.columns_per_sample,
        0,
    )


def registered_lines(*lines: Any, **window: Any) -> TransmissionImage:
    return raw_lines(*lines, **window, registered=True)


COMPARED: dict[str, Callable[..., TransmissionImage]] = {
    "raw lines": raw_lines,
    "registered lines": registered_lines,
    "line interleaving": METHODS["line_interleaving"],
    "simple interpolation": METHODS["simple_interpolation"],
    "full interpolation": METHODS["full_interpolation"],
    "gridding": METHODS["gridding"],
    "regularised": METHODS["regularised"],
}


OURS = ("gridding", "regularised")


def judge(captured: Captured, method: Callable[..., TransmissionImage], grid: Grid) -> dict[str, float]:
    """Mean over the cells of each measure of an image's quality."""
    measures = []
    for rows, tau in captured.windows():
        starts, first = starts_around(captured, rows)
        begin = time.perf_counter()
        image = method(
            captured.samples, 0, starts, first, captured.background, captured.tables, grid, rows=rows, tau=tau
        )
        seconds = time.perf_counter() - begin
        truth = captured.truth(grid, rows, tau)
        cell = ndimage.binary_dilation(truth < 0.97, iterations=2) & image.known
        seen = np.where(image.known, image.transmission, np.nan)
        pixel = grid.lines_per_row / LINES_PER_UM, captured.instrument.um_per_sample / grid.columns_per_sample
        blur = effective_resolution_um(seen, truth, pixel_um=pixel)
        ring = fourier_ring_correlation(seen, truth, pixel_um=pixel)
        measures.append(
            {
                "correlation": correlation(seen, truth, mask=cell),
                "psnr_db": psnr(seen, truth, mask=cell),
                "resolution_fast_um": float(np.hypot(OPTICS_UM, blur.fast_um)),
                "resolution_slow_um": float(np.hypot(OPTICS_UM, blur.slow_um)),
                "frc_half_per_um": half_frequency(ring.rings.frequency, ring.rings.correlation),
                "known": float(image.known.mean()),
                "ms": 1e3 * seconds,
            }
        )
    return {key: float(np.mean([m[key] for m in measures])) for key in measures[0]}


def half_frequency(frequency: np.ndarray, values: np.ndarray) -> float:
    """Where a curve falls below a half for good enough: the first of two rings in a row below."""
    below = values < 0.5
    below[:-1] &= below[1:]
    i = int(np.argmax(below)) if below.any() else values.size
    if i == 0 or i == values.size:
        return float(frequency[min(i, values.size - 1)])
    share = (values[i - 1] - 0.5) / max(values[i - 1] - values[i], 1e-12)
    return float(frequency[i - 1] + share * (frequency[i] - frequency[i - 1]))


def grids_for(captured: Captured) -> dict[bool, Grid]:
    """Grid for what averages, and for the regularised method."""
    return {averages: grid_for(captured, choose_kernel(captured, averages=averages)) for averages in (True, False)}


def grid_for(captured: Captured, kernel: tuple[float, float]) -> Grid:
    columns = max(1, round(captured.instrument.um_per_sample / PIXEL_UM))
    return choose_grid(kernel, captured.lines_per_sample, oversampling=columns)


def study_rates(scene: PaintedScene, pulse_s: float, rates: tuple[float, ...], lines: int, seed: int) -> dict[str, Any]:
    """Every method at every rate."""
    results: dict[str, Any] = {}
    for rate in rates:
        captured = capture(scene, rate, pulse_s, LINE_RATE_HZ, lines, seed)
        grids = grids_for(captured)
        row = {name: judge(captured, method, grids[name != "regularised"]) for name, method in COMPARED.items()}
        row["gridding, exact clock and profile"] = judge(exact(captured), METHODS["gridding"], grids[True])
        name = f"{rate / 1e9:g} GSa/s"
        results[name] = {
            "period_samples": captured.instrument.line_period_samples,
            "kernel_um": {
                name: [grid.sigma_samples * captured.instrument.um_per_sample, grid.sigma_lines / LINES_PER_UM]
                for name, grid in zip(OURS, grids.values(), strict=True)
            },
            "methods": row,
        }
        print(f"{name}, pulse {pulse_s * 1e9:g} ns, period {captured.instrument.line_period_samples:.3f} samples")
        for method, m in row.items():
            print(
                f"  {method:34} r {m['correlation']:.5f}  PSNR {m['psnr_db']:5.1f} dB  resolution "
                f"{m['resolution_fast_um']:.3f} x {m['resolution_slow_um']:.3f} µm  FRC {m['frc_half_per_um']:.2f}/µm  "
                f"{m['ms']:5.2f} ms",
                flush=True,
            )
    return results


def study_lines(scene: PaintedScene, lines: int, seed: int) -> dict[str, Any]:
    """PSNR at 5 and 2 GSa/s against the lines that the kernel averages."""
    results: dict[str, Any] = {}
    for rate in (5e9, 2e9):
        captured = capture(scene, rate, PULSE_S, LINE_RATE_HZ, lines, seed)
        grids = dict(zip(OURS, grids_for(captured).values(), strict=True))
        rows = []
        for sigma in KERNEL_LINES[:9].tolist():
            row = {"sigma_lines": sigma}
            for method, grid in grids.items():
                row[method] = judge(captured, METHODS[method], replace(grid, sigma_lines=sigma))["psnr_db"]
            rows.append(row)
            print(f"{rate / 1e9:g} GSa/s", row, flush=True)
        chosen = {method: grid.sigma_lines for method, grid in grids.items()}
        results[f"{rate / 1e9:g} GSa/s"] = {"chosen_lines": chosen, "rows": rows}
    return results


def study_fractions(scene: PaintedScene, lines: int, seed: int) -> list[dict[str, Any]]:
    """PSNR at 2 GSa/s against the fractional part of the line period."""
    rows = []
    for fraction in FRACTIONS:
        line_rate = 2e9 / (172 + fraction)
        row: dict[str, Any] = {"fraction": fraction}
        try:
            captured = capture(scene, 2e9, PULSE_S, line_rate, lines, seed)
        except SignalError as error:
            row["refused"] = str(error)
        else:
            grids = grids_for(captured)
            for method in ("simple_interpolation", *OURS):
                row[method] = judge(captured, METHODS[method], grids[method != "regularised"])["psnr_db"]
        rows.append(row)
        print("fraction", row, flush=True)
    return rows


def draw(scene: PaintedScene, results: dict[str, Any], lines: int, seed: int) -> None:
    """One cell by four methods at 20, 5 and 2 GSa/s, and the figures."""
    shown = ("raw lines", "simple interpolation", "gridding", "regularised")
    figure = Figure(figsize=(12, 10.5), layout="constrained")
    pictures, curves = figure.subfigures(2, 1, height_ratios=(3, 1.3))
    axes = pictures.subplots(3, 1 + len(shown))
    for row, rate in zip(axes, (20e9, 5e9, 2e9), strict=True):
        captured = capture(scene, rate, PULSE_S, LINE_RATE_HZ, lines, seed)
        grids = grids_for(captured)
        rows, tau = captured.windows()[1]
        starts, first = starts_around(captured, rows)
        images, grid = {"the scene": captured.truth(grids[True], rows, tau)}, grids[True]
        for name in shown:
            images[name] = COMPARED[name](
                captured.samples, 0, starts, first, captured.background, captured.tables, grids[name != "regularised"],
                rows=rows, tau=tau,
            ).transmission  # fmt: skip
        for axis, (name, image) in zip(row, images.items(), strict=True):
            pixel = grid.lines_per_row / LINES_PER_UM, captured.instrument.um_per_sample / grid.columns_per_sample
            axis.imshow(
                image,
                cmap="gray",
                vmin=0.3,
                vmax=1.05,
                extent=(0, image.shape[1] * pixel[1], image.shape[0] * pixel[0], 0),
            )
            axis.set(xticks=[], yticks=[])
            if rate == RATES_HZ[0]:
                axis.set_title(name, fontsize=10)
        row[0].set_ylabel(f"{rate / 1e9:g} GSa/s")
    by_rate, by_resolution, by_fraction = curves.subplots(1, 3)
    rates = [float(name.split()[0]) for name in results["rates"]]
    colours = dict(
        zip(COMPARED, ("#9a9a9a", "#5c5c5c", "#b9a16b", "#c0563b", "#d99a86", "#1f6f8b", "#0b2f4a"), strict=True)
    )
    for name in COMPARED:
        measures = [row["methods"][name] for row in results["rates"].values()]
        style = {"linewidth": 2.5 if name in OURS else 1, "marker": ".", "label": name, "color": colours[name]}
        by_rate.semilogx(rates, [m["psnr_db"] for m in measures], **style)
        by_resolution.semilogx(rates, [m["resolution_fast_um"] for m in measures], **style)
    by_rate.set(xlabel="GSa/s", ylabel="PSNR over the cells [dB]")
    by_rate.set_ylim(20, 58)
    by_rate.legend(frameon=False, fontsize=7, ncols=2, loc="lower right")
    by_resolution.set(xlabel="GSa/s", ylabel="resolution along the line [µm]", ylim=(0.85, 1.65))
    for axis in (by_rate, by_resolution):
        axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axis.minorticks_off()
    places = sorted((row for row in results["fractions"] if "refused" not in row), key=lambda row: row["fraction"])
    for key in ("simple_interpolation", *OURS):
        name = key.replace("_", " ")
        by_fraction.plot(
            [p["fraction"] for p in places], [p[key] for p in places], ".-", label=name, color=colours[name]
        )
    by_fraction.set(xlabel="fraction of the line period, 2 GSa/s [samples]", ylabel="PSNR [dB]")
    by_fraction.legend(frameon=False, fontsize=7)
    path = Path(__file__).resolve().parents[1] / "docs" / "figures" / "super-resolution.png"
    figure.savefig(path, dpi=100)
    print(f"drawn to {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--draw", action="store_true", help="only draw the figure, of the last results")
    arguments = parser.parse_args()
    scene = PaintedScene(arguments.lines / LINES_PER_UM, arguments.seed)
    known = arguments.lines, arguments.seed
    if arguments.draw:
        draw(scene, json.loads((RESULTS / "super_resolution.json").read_text()), *known)
        return
    results = {
        "lines": arguments.lines,
        "rates": study_rates(scene, PULSE_S, RATES_HZ, *known),
        "short_pulse": study_rates(scene, SHORT_PULSE_S, (20e9, 5e9), *known),
        "lines_averaged": study_lines(scene, *known),
        "fractions": study_fractions(scene, *known),
    }
    write_result("super_resolution", results)
    draw(scene, results, *known)


if __name__ == "__main__":
    main()
