"""Make the figures of the documentation from the real capture.

    python docs/make_figures.py [oil_emulsion.hdf5] [-o docs/figures]

Without a path the capture is looked for in the folder that STRETCHSCOPE_DATA names, or in ../shared/data beside
the checkout. Prints the numbers that the documentation quotes with the figures.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from PIL import Image
from scipy import ndimage

from stretchscope.acquisition import open_capture
from stretchscope.sr.background import Background
from stretchscope.sr.calibrate import Span, measure_background
from stretchscope.sr.line_clock import SegmentClock, measure_segment_clocks
from stretchscope.sr.line_fit import LineTables, line_tables
from stretchscope.sr.reconstruct import (
    Grid,
    TransmissionImage,
    best_kernel,
    choose_grid,
    kernel_scores,
    reconstruct,
)
from stretchscope.sr.sampling import EVEN_ENOUGH, evenness, phase_coverage

LINES_PER_SAMPLE = 55.0  # stated by the file, for its 5 GSa/s
EMPTY = np.r_[0:208, 735:990]  # lines without the droplet
WINDOW_LINES = (200, 740)
WINDOW_SAMPLES = (3.4, 13.6)
DARK, BRIGHT = 0.0, 1.25
UNKNOWN = "#e39b6d"
INK, ACCENT, SECOND, PALE = "#22313f", "#1f6f8b", "#c0563b", "#8fb8c6"
FINE = 24  # pixels per sample where single lines are drawn

STYLE = {
    "font.size": 9.5,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


@dataclass(frozen=True)
class Measured:
    """What the samples alone say: empty line, line clock, image."""

    samples: np.ndarray
    background: Background
    tables: LineTables
    clock: SegmentClock
    starts: np.ndarray
    grid: Grid
    image: TransmissionImage


def measure(samples: np.ndarray, lines_per_sample: float) -> Measured:
    """Super-resolve all lines of a capture that holds one droplet between lines 200 and 740."""
    background = measure_background([Span(0, samples)])
    tables = line_tables(background)
    (clock,) = measure_segment_clocks(lambda first, stop: samples[first:stop], 0, samples.size, background, tables)
    starts = clock.line_start(np.arange(clock.lines))
    lit = background.lit_samples
    scores = kernel_scores(samples, 0, starts[200:740], background, tables, (0.15 * lit, 0.7 * lit))
    grid = choose_grid(best_kernel([scores], float(np.diff(starts).mean())), lines_per_sample)
    image = reconstruct(
        samples, 0, starts, 0, background, tables, grid, rows=(0, clock.lines - 1), tau=(0, background.lit_samples)
    )
    return Measured(samples, background, tables, clock, starts, grid, image)


def nearest_samples(m: Measured, tau: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every line the samples nearest to positions τ, shape (lines, positions).

    Light [codes] without the converters' offsets and gains, NaN on a rail; index of the sample; its true τ.
    """
    index = np.rint(m.starts[:, None] + tau).astype(int)
    codes = m.samples[np.minimum(index, m.samples.size - 1)].astype(float)
    low, high = m.background.code_limits
    offset, gain = (np.array(v) for v in (m.background.interleave_offset_codes, m.background.interleave_gain))
    light = (codes - offset[index % offset.size]) / gain[index % gain.size]
    light[(codes <= low) | (codes >= high)] = np.nan
    return light, index, index - m.starts[:, None]


def whole_samples(m: Measured) -> np.ndarray:
    """Transmission without sub-sample phases: lines cut at whole samples, over the mean of the empty ones."""
    light, _, _ = nearest_samples(m, np.arange(np.ceil(m.background.lit_samples)))
    known = np.isfinite(light[EMPTY])
    empty = np.where(known, light[EMPTY], 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    usable = (empty > 0.08 * empty.max()) & (known.mean(axis=0) > 0.5)
    return np.where(usable, light / np.where(usable, empty, 1), np.nan)


def single_lines(m: Measured) -> np.ndarray:
    """Transmission with the line clock but line by line: every sample over the empty line at its own place."""
    light, _, tau = nearest_samples(m, np.arange(0, m.background.lit_samples, 1 / FINE))
    usable = m.background.usable(tau)
    return np.where(usable, light / np.where(usable, m.background.profile.light(tau), 1), np.nan)


def draw_transmission(
    axes: Axes, picture: np.ndarray, extent: tuple[float, float, float, float], title: str
) -> AxesImage:
    """Grey picture in true proportions, unknown pixels coloured; extent in samples of 5 GSa/s and lines."""
    greys = plt.get_cmap("gray").with_extremes(bad=UNKNOWN)
    shown = axes.imshow(
        np.ma.masked_invalid(picture),
        cmap=greys,
        vmin=DARK,
        vmax=BRIGHT,
        extent=extent,
        interpolation="nearest",
    )
    axes.set_aspect(1 / LINES_PER_SAMPLE)
    axes.set(
        xlim=WINDOW_SAMPLES, ylim=WINDOW_LINES[::-1], title=title, xlabel="position on the line [samples of 0.2 ns]"
    )
    return shown


def droplet_figure(m: Measured, step: int, offset: float) -> Figure:
    """The droplet cut at whole samples, line by line, and super-resolved.

    Samples are ``step`` samples of 5 GSa/s apart; ``offset`` [samples of 5 GSa/s] is added to their positions.
    """
    figure, axes = plt.subplots(1, 3, figsize=(11.4, 4.1), sharey=True, layout="constrained")
    plain, alone, image = whole_samples(m), single_lines(m), m.image
    bottom = plain.shape[0] - 0.5
    extent = (-0.5 * step + offset, (plain.shape[1] - 0.5) * step + offset, bottom, -0.5)
    draw_transmission(axes[0], plain, extent, "a  lines cut at whole samples")
    edge = 0.5 / FINE
    extent = (-edge * step + offset, (alone.shape[1] / FINE - edge) * step + offset, bottom, -0.5)
    draw_transmission(axes[1], alone, extent, "b  with the line clock, each line by itself")
    pitch = step / image.columns_per_sample
    left = image.tau_first_samples * step - pitch / 2 + offset
    top = image.first_line - image.lines_per_row / 2
    rows, columns = image.transmission.shape
    extent = (left, left + columns * pitch, top + rows * image.lines_per_row, top)
    shown = draw_transmission(axes[2], image.transmission, extent, "c  super-resolved")
    axes[0].set_ylabel("line")
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.01, aspect=30)
    bar.set_label("transmission")
    bar.outline.set_visible(False)
    return figure


def stack_figure(m: Measured) -> Figure:
    """The stream cut every 276 samples, and at the line clock."""
    width = round(m.background.period_samples)
    first = int(m.starts[0])
    lines = (m.samples.size - first) // width
    stack = m.samples[first : first + lines * width].reshape(lines, width)
    aligned = m.samples[np.minimum(np.rint(m.starts).astype(int)[:, None] + np.arange(-8, 40), m.samples.size - 1)]
    figure, axes = plt.subplots(1, 3, figsize=(9.2, 4.4), layout="constrained", width_ratios=(2.2, 1.3, 1.3))
    shades = {"cmap": "gray", "vmin": -10, "vmax": 128, "aspect": "auto"}
    shown = axes[0].imshow(stack, interpolation="antialiased", **shades)
    axes[0].set(title=f"a  cut every {width} samples", xlabel="sample of the row", ylabel="row")
    axes[1].imshow(stack[:40], extent=(-0.5, width - 0.5, 39.5, -0.5), interpolation="nearest", **shades)
    axes[1].set(xlim=(-0.5, 30), title="b  the first 40 rows of a", xlabel="sample of the row")
    axes[2].imshow(aligned, extent=(-8.5, 39.5, aligned.shape[0] - 0.5, -0.5), interpolation="antialiased", **shades)
    axes[2].set(title="c  cut at the line clock", xlabel="sample from the line start", ylabel="line", xlim=(-6, 30))
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.015)
    bar.set_label("ADC code")
    bar.outline.set_visible(False)
    return figure


def phase_figure(m: Measured) -> Figure:
    """Phases of the first lines, and the empty line that all phases draw together."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.7), layout="constrained", width_ratios=(1, 1.7))
    count = 78
    phase = (np.ceil(m.starts[:count]) - m.starts[:count]) % 1
    left.plot(phase, np.arange(count), "o", ms=3.2, color=ACCENT)
    left.plot(phase[:2], np.arange(2), "o", ms=6, mfc="none", color=SECOND)
    left.set(
        xlim=(-0.02, 1.02), ylim=(count, -2), xlabel="phase of the first sample [samples]", ylabel="line",
        title="a  where the samples fall",
    )  # fmt: skip
    light, _, tau = nearest_samples(m, np.arange(-1, 30))
    chosen = EMPTY[::2]
    right.plot(tau[chosen].ravel(), light[chosen].ravel(), ".", ms=1.6, color=PALE)
    line = np.linspace(-1, 26, 1500)
    censored = m.background.is_censored(line)
    right.plot(line, np.where(censored, np.nan, m.background.profile.light(line)), color=INK, lw=1)
    one = EMPTY[100]
    right.plot(tau[one], light[one], "o", ms=5, mfc="none", mew=1.3, color=SECOND)
    edges = np.flatnonzero(np.diff(censored.astype(int)))
    for a, b in zip(line[edges[::2]], line[edges[1::2]], strict=True):
        right.axvspan(a, b, color=UNKNOWN, alpha=0.45, lw=0)
    right.plot([], [], ".", color=PALE, label=f"samples of {chosen.size} empty lines")
    right.plot([], [], "o", mfc="none", color=SECOND, label="samples of one of them")
    right.plot([], [], color=INK, lw=1, label="empty line, fitted")
    right.fill([], [], color=UNKNOWN, alpha=0.45, label="saturated: unknown")
    right.legend(frameon=False, fontsize=8.5)
    right.set(xlim=(-1, 26), ylim=(-6, 142), xlabel="position on the line, τ [samples]", ylabel="light [codes]")
    right.set_title("b  the line that they draw together")
    return figure


def numbers(m: Measured) -> dict[str, float]:
    """Line clock, pixels, and the texture that empty lines show before and after."""
    line = m.image.first_line + np.arange(m.image.transmission.shape[0]) * m.image.lines_per_row
    after = m.image.transmission[(line < 208) | (line > 735)]
    return {
        "line_period_samples": round(m.clock.period_samples.mean(), 6),
        "line_period_std_samples": float(f"{m.clock.period_std_samples:.1g}"),
        "columns_per_sample": m.grid.columns_per_sample,
        "lines_per_row": round(m.grid.lines_per_row, 3),
        "texture_whole_samples": round(float(np.nanstd(whole_samples(m)[EMPTY])), 4),
        "texture_single_lines": round(float(np.nanstd(single_lines(m)[EMPTY])), 4),
        "texture_super_resolved": round(float(np.nanstd(after)), 4),
    }


def planning_figure() -> Figure:
    """How finely lines sample together, over their number and over the fraction of a sample in the line period."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9.2, 3.5), layout="constrained")
    lines = np.arange(1, 49)
    left.plot(lines, lines, color="0.75", linewidth=0.8, linestyle="--")
    for period, label, colour in (
        (430.618, "430.618, far from any fraction", ACCENT),
        (430.0 + 1 / 3, "430 1/3, locked", PALE),
        (430.515, "430.515, near 430 1/2", SECOND),
        (431.0345, "431.0345, near 431", "#b8912f"),
    ):
        left.step(
            lines,
            [phase_coverage(period * np.arange(n)).factor for n in lines],
            color=colour,
            label=label,
            where="post",
        )
    left.set(xlabel="lines used together", ylabel="finer than one line by", xlim=(0, 48), ylim=(0, 40))
    left.set_title("a  line period [samples]")
    left.legend(frameon=False, fontsize=8, loc="upper left")
    fraction = np.arange(0, 1.0001, 0.001)
    for used, colour in ((3, PALE), (5, ACCENT), (10, SECOND)):
        right.plot(fraction, [evenness(430 + f, used) for f in fraction], color=colour, linewidth=1.1, label=f"{used}")
    right.axhline(EVEN_ENOUGH, color="0.5", linewidth=0.8, linestyle=":")
    right.set(xlabel="fraction of a sample in the line period", ylabel="evenness", xlim=(0, 1), ylim=(0, 1))
    right.set_title("b  lines used together")
    right.legend(frameon=False, fontsize=8, loc="upper center", ncols=3)
    return figure


def save(figure: Figure, path: Path, *, mode: str = "RGB", dots_per_inch: int = 180) -> None:
    """As a small PNG: without transparency, in the given mode of Pillow."""
    figure.set_dpi(dots_per_inch)
    figure.canvas.draw()
    Image.fromarray(np.asarray(figure.canvas.buffer_rgba())).convert(mode).save(path, optimize=True)


def difference(coarse: Measured, fine: Measured, step: int, offset: float) -> float:
    """Root mean square difference of two images around the droplet, where both are known."""
    image, other = coarse.image, fine.image
    rows, columns = image.transmission.shape
    line = image.first_line + np.arange(rows) * image.lines_per_row
    tau = (image.tau_first_samples + np.arange(columns) / image.columns_per_sample) * step + offset
    row = (line - other.first_line) / other.lines_per_row
    column = (tau - other.tau_first_samples) * other.columns_per_sample
    there = ndimage.map_coordinates(
        other.transmission, np.meshgrid(row, column, indexing="ij"), order=1, cval=np.nan, prefilter=False
    )
    inside = np.outer(
        (line >= WINDOW_LINES[0]) & (line <= WINDOW_LINES[1]), (tau >= WINDOW_SAMPLES[0]) & (tau <= WINDOW_SAMPLES[1])
    )
    return float(np.sqrt(np.nanmean((image.transmission - there)[inside] ** 2)))


def find_capture(named: Path | None) -> Path:
    """The capture named, or the one among the data."""
    if named is not None:
        return named
    folder = os.environ.get("STRETCHSCOPE_DATA")
    data = Path(folder) if folder else Path(__file__).resolve().parents[2] / "shared" / "data"
    return data / "oil_emulsion.hdf5"


def main() -> None:
    """Measure, draw, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("capture", type=Path, nargs="?")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "figures")
    arguments = parser.parse_args()
    path = find_capture(arguments.capture)
    if not path.exists():
        sys.exit(f"{path} does not exist: give the path of the capture, or set STRETCHSCOPE_DATA")
    with open_capture(path) as capture:
        samples = capture.read(0, capture.samples)
    full = measure(samples, LINES_PER_SAMPLE)
    fourth = measure(samples[::4].copy(), 4 * LINES_PER_SAMPLE)
    # the two captures put τ = 0 elsewhere on the edge, and may number the lines differently
    shift = 4 * fourth.starts[100] - full.starts
    nearest = int(np.argmin(np.abs(shift)))
    if nearest != 100:
        sys.exit(f"line 100 of the decimated capture is line {nearest} of the whole one")
    folder = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    save(stack_figure(full), folder / "line-stack.png", mode="L", dots_per_inch=130)
    save(phase_figure(full), folder / "phases.png")
    save(droplet_figure(full, 1, 0.0), folder / "droplet.png")
    save(droplet_figure(fourth, 4, shift[nearest]), folder / "droplet-decimated.png")
    save(planning_figure(), folder / "planning.png", mode="P", dots_per_inch=150)
    printed: dict[str, dict[str, float]] = {"5 GSa/s": numbers(full), "1.25 GSa/s": numbers(fourth)}
    printed["1.25 GSa/s"]["rms_difference_from_5_gsa_s"] = round(difference(fourth, full, 4, shift[nearest]), 4)
    print(json.dumps(printed, indent=2))


if __name__ == "__main__":
    with plt.rc_context(STYLE):
        main()
