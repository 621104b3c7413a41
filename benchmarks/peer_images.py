"""The real droplet by several methods: raw lines, gridding, regularised, and the objective of a published example.

    python benchmarks/peer_images.py [oil_emulsion.hdf5] [--figure docs/figures/droplet-peers.png]

The peer is ProxImaL's example on this very capture: min ‖M(W(u + u₀) - b)‖² + λ·‖∇u‖₂,₁ with λ = 1e-3 on 128 × 128
pixels, six to a sample, by at most 500 steps of linearised ADMM; u light in units of the greatest sample, W bilinear
interpolation along the shear that the file states, M without saturated samples, u₀ each column's median. Here W is one
sparse matrix; the solver, gradient and norm are those of the proximal package where it can be imported, and an own
primal-dual iteration run to convergence in any case. Only the prior differs in a third picture: total variation of the
transmission on our own forward model, with the noise known.

Measured: time; the width of the droplet's rim (10 % to 90 %) on both axes and its contrast; what images of two halves
of the lines agree on; and how well an image predicts the samples of lines left out, in units of their noise squared: 1
were perfect. Lines are halved two by two: the period here is nearly a whole number and a half of samples, so that even
lines alone see one half of the positions, and odd lines the other.
"""

import argparse
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import matplotlib
import numpy as np
import proximal_peer
from peer_solvers import cpu_seconds, run_on_one_thread, seen_pixels
from record import DATA, write_result
from scipy import ndimage, sparse
from scipy.sparse import linalg

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from stretchscope.acquisition import open_capture
from stretchscope.pipeline.cells import Job, map_lines, score_kernels
from stretchscope.pipeline.settings import Settings
from stretchscope.pipeline.survey import survey_capture
from stretchscope.sr.background import Background
from stretchscope.sr.detect import bin_columns, find_events
from stretchscope.sr.fourier_ring import fourier_ring_correlation
from stretchscope.sr.line_fit import LineTables
from stretchscope.sr.reconstruct import Grid, TransmissionImage, best_kernel, choose_grid, reconstruct, registered_fits
from stretchscope.sr.refine import SMOOTH_LENGTH, lay_window, reconstruct_regularised, weigh_window

# Window around the droplet, in lines and samples after the line's leading edge.
ROWS, TAU = (200.0, 740.0), (0.0, 19.5)
# Where samples are predicted: the droplet and a little around it.
JUDGED_ROWS, JUDGED_TAU = (220.0, 729.0), (3.9, 12.8)
# Lines without the droplet.
EMPTY = (10.0, 190.0)
# In kernels of the grid.
SMOOTH_LENGTHS = (0.35, 0.5, 0.6, 0.7, 0.8, 1.0, 1.4)
VARIATIONS = (0.3, 1.0, 3.0, 10.0)
PEER_WEIGHTS = (3e-4, 1e-3, 3e-3)
PEER_SIDE, PEER_SCALE, PEER_WEIGHT, PEER_STEPS = 128, 6.0, 1e-3, 500


@dataclass(frozen=True)
class Droplet:
    """The capture, and what the pipeline makes of it before it makes images."""

    path: Path
    samples: np.ndarray
    background: Background
    tables: LineTables
    starts: np.ndarray
    grid: Grid
    smooth_grid: Grid  # for the regularised method

    def own(self, method: Any, grid: Grid, kept: np.ndarray | None = None, **options: Any) -> TransmissionImage:
        """Image by one of our methods from all lines, or from those kept."""
        return method(
            self.samples, 0, self.starts, 0, self.background, self.tables, grid, rows=ROWS, tau=TAU,
            fits=self.fits(kept), **options,
        )  # fmt: skip

    def fits(self, kept: np.ndarray | None = None) -> np.ndarray:
        """Fits of the lines; of those that are not kept none, so that they do not count."""
        fits = registered_fits(self.samples, 0, self.starts, self.background, self.tables)
        if kept is not None:
            fits[~kept] = np.nan
            fits[~kept, 6] = 0
        return fits


@dataclass(frozen=True)
class Picture:
    """An image with the places of its pixels: lines of its rows, samples after the leading edge of its columns."""

    values: np.ndarray
    line: np.ndarray
    tau: np.ndarray


def measured(path: Path) -> Droplet:
    """Clock, empty line and kernel as the pipeline finds them."""
    with open_capture(path) as capture:
        survey = survey_capture(capture, Settings().capture)
        samples = capture.read(0, capture.samples)
    job, segment, clock = Job(path, survey, Settings()), survey.segments[0], survey.clock.segments[0]
    significance = map_lines(job, segment, clock, 0, clock.lines // 4 * 4).significance
    events = find_events(significance, 0, bin_columns(survey.background))
    scores = [score_kernels(job, segment, clock, event) for event in events]
    period, ratio = survey.clock.period_samples, survey.geometry.lines_per_sample
    grids = [choose_grid(best_kernel(scores, period, averages=averages), ratio) for averages in (True, False)]
    starts = clock.line_start(np.arange(clock.lines))
    return Droplet(path, samples, survey.background, survey.tables, starts, *grids)


def picture_of(image: TransmissionImage) -> Picture:
    rows, columns = image.transmission.shape
    return Picture(
        image.transmission,
        image.first_line + np.arange(rows) * image.lines_per_row,
        image.tau_first_samples + np.arange(columns) / image.columns_per_sample,
    )


def raw_lines(droplet: Droplet) -> Picture:
    """Every line's samples over the empty line at their own place, lines at whole samples."""
    background = droplet.background
    offset = np.arange(int(TAU[0]), int(TAU[1]) + 1)
    lines = np.arange(int(ROWS[0]), int(ROWS[1]) + 1)
    index = np.rint(droplet.starts[lines]).astype(int)[:, None] + offset
    place = index - droplet.starts[lines][:, None]
    converter = index % len(background.interleave_gain)
    codes = droplet.samples[index].astype(float)
    saturated = (codes <= background.code_limits[0]) | (codes >= background.code_limits[1])
    gain, dark = (np.array(v)[converter] for v in (background.interleave_gain, background.interleave_offset_codes))
    light = (codes - dark) / gain
    usable = background.usable(place) & ~saturated
    values = np.where(usable, light / np.where(usable, background.profile.light(place), 1), np.nan)
    return Picture(values, lines.astype(float), offset.astype(float))


@dataclass(frozen=True)
class Example:
    """The published example's problem: b = M·W·(u + u₀), samples by samples and pixels, as one sparse matrix."""

    seen: sparse.csr_array
    light: np.ndarray
    beneath: np.ndarray
    scale: float
    line: np.ndarray  # of each sample
    tau: np.ndarray
    code: np.ndarray


def example_of(droplet: Droplet, *, corrected: bool = False) -> Example:
    """The problem of the samples as they are, or without the converters' offsets and gains."""
    with h5py.File(droplet.path) as file:
        width, shear = int(file.attrs["pulse_interval"]), float(file.attrs["shear_factor"])
    height = droplet.samples.size // width
    codes = droplet.samples[: height * width]
    raw, full_scale = codes.astype(float), codes.max()
    if corrected:
        converter = np.arange(raw.size) % len(droplet.background.interleave_gain)
        raw -= np.array(droplet.background.interleave_offset_codes)[converter]
        raw /= np.array(droplet.background.interleave_gain)[converter]
    # each row lies between its neighbours, three rows wide, so that a line may run on beyond the end of its row
    y, x = np.indices((height, 3 * width))
    index = (y + x // width - 1) * width + x % width
    row = (y - height / 2) * PEER_SIDE / height + PEER_SIDE / 2
    column = PEER_SCALE * (x - 1.5 * width + shear * (y - height / 2)) + PEER_SIDE / 2
    last = PEER_SIDE - 1
    inside = (column >= 0) & (column <= last) & (row >= 0) & (row <= last) & (index >= 0) & (index < raw.size)
    y, index, row, column = (value[inside] for value in (y, index, row, column))
    light = raw[index]
    lit = codes[index] < full_scale
    y, index, row, column, light = (value[lit] for value in (y, index, row, column, light))
    scale = float(light.max())
    top, left = np.minimum(row.astype(int), last - 1), np.minimum(column.astype(int), last - 1)
    parts = []
    for down in (0, 1):
        for right in (0, 1):
            share = np.abs(1 - down - (row - top)) * np.abs(1 - right - (column - left))
            at = (np.arange(row.size), (top + down) * PEER_SIDE + left + right)
            parts.append(sparse.coo_array((share, at), shape=(row.size, PEER_SIDE**2)))
    seen = sparse.csr_array(sum(parts[1:], parts[0]))
    # nearest samples of each pixel, as the example takes its background from
    near_y = np.clip(np.rint((np.arange(PEER_SIDE) - PEER_SIDE / 2) * height / PEER_SIDE + height / 2), 0, height - 1)
    near_x = (np.arange(PEER_SIDE) - PEER_SIDE / 2) / PEER_SCALE + 1.5 * width - shear * (near_y[:, None] - height / 2)
    near_x = np.rint(near_x).astype(int)
    near = (near_y[:, None].astype(int) + near_x // width - 1) * width + near_x % width
    beneath = np.tile(np.median(raw[np.clip(near, 0, raw.size - 1)], axis=0) / scale, (PEER_SIDE, 1)).ravel()
    line = np.searchsorted(droplet.starts, index + 0.5 * np.diff(droplet.starts).mean()) - 1
    line = np.clip(line, 0, droplet.starts.size - 1)
    return Example(
        seen, light / scale, beneath, scale, line, index - droplet.starts[line], light
    )  # fmt: skip


def gradients(rows: int, columns: int) -> sparse.csr_array:
    """Differences to the next row and to the next column, none at the far sides."""
    down, right = (
        sparse.diags_array([np.append(-np.ones(n - 1), 0.0), np.ones(n - 1)], offsets=[0, 1]) for n in (rows, columns)
    )
    return sparse.csr_array(
        sparse.vstack(
            [sparse.kron(down, sparse.eye_array(columns)), sparse.kron(sparse.eye_array(rows), right)], format="csr"
        )
    )


def total_variation(
    a: sparse.csr_array, b: np.ndarray, difference: sparse.csr_array, weight: float, ratio: float, first: np.ndarray
) -> Iterator[tuple[np.ndarray, float]]:
    """Images and objectives of ½·‖A x - b‖² + weight·‖∇x‖₂,₁, by primal-dual hybrid gradients with diagonal steps."""
    k = sparse.csr_array(sparse.vstack([a, difference]))
    k_t = sparse.csr_array(k.T)
    sizes = abs(k)
    tau, sigma = ratio / np.maximum(sizes.sum(axis=0), 1e-12), 1 / ratio / np.maximum(sizes.sum(axis=1), 1e-12)
    n, pixels = b.size, difference.shape[1]
    # the length of a gradient is limited as a whole: one step size for both of its parts
    sigma[n:] = np.tile(np.minimum(sigma[n : n + pixels], sigma[n + pixels :]), 2)
    x, y = first.copy(), np.zeros(k.shape[0])
    ahead, shrink = x, 1 / (1 + sigma[:n])
    while True:
        y = y + sigma * (k @ ahead)
        y[:n] = (y[:n] - sigma[:n] * b) * shrink
        steep = np.hypot(y[n : n + pixels], y[n + pixels :])
        y[n:] *= np.tile(weight / np.maximum(weight, steep), 2)
        new = x - tau * (k_t @ y)
        ahead, x = 2 * new - x, new
        slope = difference @ x
        value = 0.5 * float(np.sum((a @ x - b) ** 2))
        yield x, value + weight * float(np.hypot(slope[:pixels], slope[pixels:]).sum())


def converged(
    images: Iterator[tuple[np.ndarray, float]], *, share: float = 1e-5, every: int = 500, most: int = 4_000
) -> tuple[np.ndarray, float, int]:
    """Image, objective and steps once the objective changes by less than a share in so many steps."""
    before = np.inf
    for step, (image, value) in enumerate(images, 1):
        if step % every == 0:
            if abs(before - value) <= share * value or step >= most:
                return image, value, step
            before = value
    raise AssertionError("the iteration has no end")


def example_by_primal_dual(example: Example, chosen: np.ndarray, weight: float) -> tuple[np.ndarray, float, int]:
    """u + u₀ [codes], objective, steps; of the samples chosen."""
    a, b = sparse.csr_array(example.seen[chosen]), example.light[chosen]
    difference = gradients(PEER_SIDE, PEER_SIDE)
    images = total_variation(
        a, b - a @ example.beneath, difference, weight / 2, 30.0, np.zeros(PEER_SIDE**2)
    )  # fmt: skip
    image, value, steps = converged(images)
    return (image + example.beneath) * example.scale, 2 * value, steps


def example_by_package(package: Any, example: Example) -> tuple[np.ndarray, float, float, int]:
    """u + u₀ [codes], objective, seconds and steps of the proximal package: linearised ADMM as in the example."""
    variable = package.Variable((PEER_SIDE, PEER_SIDE))
    seen = proximal_peer.operator(package, example.seen, variable)
    problem = package.Problem(
        [
            package.sum_squares(seen, b=example.light - example.seen @ example.beneath),
            PEER_WEIGHT * package.group_norm1(package.grad(variable), group_dims=[2]),
        ],
        scale=False,
    )
    # what its own scaling comes to, which does not run with NumPy 2
    both = sparse.csr_array(sparse.vstack([example.seen, gradients(PEER_SIDE, PEER_SIDE)]))
    norm = float(linalg.svds(both, k=1, return_singular_vectors=False)[0])
    seen_steps = []
    begin = time.process_time()
    problem.solve(
        solver="ladmm", lmb=norm, mu=1 / norm, eps_abs=2e-5, eps_rel=1e-3, max_iters=PEER_STEPS,
        convlog=_Steps(seen_steps),
    )  # fmt: skip
    spent = time.process_time() - begin
    image = np.asarray(variable.value).ravel()
    slope = gradients(PEER_SIDE, PEER_SIDE) @ image
    misfit = example.seen @ (image + example.beneath) - example.light
    value = float(np.sum(misfit**2)) + PEER_WEIGHT * float(np.hypot(*np.split(slope, 2)).sum())
    return (image + example.beneath) * example.scale, value, spent, len(seen_steps) - 1


class _Steps:
    """A convergence log that counts."""

    def __init__(self, steps: list[float]) -> None:
        self.steps = steps

    def tic(self) -> None: ...

    def toc(self) -> None: ...

    def record_timing(self, _: float) -> None: ...

    def record_objective(self, value: float) -> None:
        self.steps.append(value)


def least_squares_terms(droplet: Droplet, grid: Grid, kept: np.ndarray) -> tuple[Any, sparse.csr_array, np.ndarray]:
    """Window, A and b of the samples of the lines kept: (A s - b) is the error of image s in units of the noise.

    Pixels are those of the window of ``grid`` and its margin, whatever the lines.
    """
    window = lay_window(grid, ROWS, TAU, droplet.background.lit_samples)
    signal, power, laid = weigh_window(
        droplet.samples, 0, droplet.starts, 0, droplet.background, droplet.tables, window, droplet.fits(kept), 0.0
    )
    seen = seen_pixels(window, laid, power.shape)
    sample = np.arange(power.shape[1])
    inside = (laid[2][:, :1] <= sample) & (sample < laid[2][:, 1:])
    power = np.where(inside, power, 0).astype(float).ravel()
    root = np.sqrt(power)
    b = np.divide(signal.ravel(), root, out=np.zeros(root.size), where=root > 0)
    return window, sparse.csr_array(sparse.diags_array(root) @ seen), b


def on_samples(picture: Picture, line: np.ndarray, tau: np.ndarray) -> np.ndarray:
    """A picture at lines and positions, by straight lines between its pixels; NaN where one of them is unknown."""
    row = (line - picture.line[0]) / (picture.line[1] - picture.line[0])
    column = (tau - picture.tau[0]) / (picture.tau[1] - picture.tau[0])
    return ndimage.map_coordinates(picture.values.astype(float), [row, column], order=1, cval=np.nan, prefilter=False)


@dataclass(frozen=True)
class LeftOut:
    """Samples of the lines that are not kept, where images are judged.

    Their places, the light of the empty line there, the light measured, and its noise (standard deviation) [codes].
    """

    line: np.ndarray
    tau: np.ndarray
    empty: np.ndarray
    light: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, droplet: Droplet, kept: np.ndarray) -> "LeftOut":
        background, fits = droplet.background, droplet.fits()
        lines = np.flatnonzero(~kept)
        lines = lines[(lines >= JUDGED_ROWS[0]) & (lines <= JUDGED_ROWS[1])]
        start = droplet.starts[lines] + fits[lines, 0]
        index = np.ceil(start[:, None] + JUDGED_TAU[0]).astype(int) + np.arange(int(JUDGED_TAU[1] - JUDGED_TAU[0]))
        tau, codes = index - start[:, None], droplet.samples[index].astype(float)
        converter = index % len(background.interleave_gain)
        gain, dark = (np.array(v)[converter] for v in (background.interleave_gain, background.interleave_offset_codes))
        light = ((codes - dark) / gain - fits[lines, 3][:, None]) / fits[lines, 4][:, None]
        used = background.usable(tau) & (codes < background.code_limits[1])
        place = np.broadcast_to(lines[:, None].astype(float), tau.shape)
        return cls(
            place[used], tau[used], background.profile.light(tau)[used], light[used],
            np.sqrt(background.variance(tau))[used],
        )  # fmt: skip

    def errors(self, picture: Picture) -> np.ndarray:
        """Of a picture's prediction, in units of the noise; NaN where it predicts nothing."""
        return (self.light - self.empty * on_samples(picture, self.line, self.tau)) / self.std


def prediction_errors(
    droplet: Droplet, kept: np.ndarray, pictures: dict[str, Picture]
) -> tuple[dict[str, float], float]:
    """Mean squared error of left-out samples in units of the noise, where every picture predicts; and their share."""
    left_out = LeftOut.of(droplet, kept)
    errors = {name: left_out.errors(picture) for name, picture in pictures.items()}
    known = np.all([np.isfinite(error) for error in errors.values()], axis=0)
    return {name: float(np.mean(error[known] ** 2)) for name, error in errors.items()}, float(known.mean())


def example_picture(example: Example, light: np.ndarray) -> Picture:
    """The example's u + u₀ over what it shows of the empty line: transmission, placed as the shear says."""
    grid = light.reshape(PEER_SIDE, PEER_SIDE)
    rows = np.arange(PEER_SIDE)
    # its pixels' places in lines and samples: by the samples that see them
    row = example.seen @ np.repeat(rows, PEER_SIDE)
    column = example.seen @ np.tile(rows, PEER_SIDE)
    line_fit = np.polyfit(row, example.line, 1)
    tau_fit = np.polyfit(column, example.tau, 1)
    line, tau = np.polyval(line_fit, rows), np.polyval(tau_fit, rows)
    empty = np.median(grid[(line > EMPTY[0]) & (line < EMPTY[1])], axis=0)
    usable = empty > 0.08 * empty.max()
    return Picture(np.where(usable, grid / np.where(usable, empty, 1), np.nan), line, tau)


def variation_picture(droplet: Droplet, grid: Grid, kept: np.ndarray, weight: float) -> Picture:
    """Transmission of least total variation on our own forward model; ``weight`` in units of the noise."""
    window, a, b = least_squares_terms(droplet, grid, kept)
    images = total_variation(
        a, b - a.sum(axis=1), gradients(*window.shape), weight * np.sqrt(window.density(droplet.tables.image)), 0.001,
        np.zeros(a.shape[1]),
    )  # fmt: skip
    image, _, _ = converged(images, share=1e-4, most=3000)
    top, left = window.margin
    rows, columns = window.pixels
    values = 1 + image.reshape(window.shape)[top : top + rows, left : left + columns]
    return Picture(
        values, ROWS[0] + np.arange(rows) * grid.lines_per_row, TAU[0] + np.arange(columns) / grid.columns_per_sample
    )


def rim(place: np.ndarray, values: np.ndarray) -> tuple[float | None, float | None]:
    """Way from 90 % to 10 % of the fall from 1, outside, to the rim's darkest; the rim's contrast."""
    known = np.isfinite(values)
    place, values = place[known], values[known]
    darkest = int(np.argmin(values[: values.size * 3 // 4]))
    outside, least = 1.0, float(values[darkest])
    fall = (values[: darkest + 1] - least) / (outside - least)
    crossings = []
    for level in (0.9, 0.1):
        above = np.flatnonzero(fall >= level)
        if not above.size:  # pixels too coarse to see outside and rim
            return None, None
        i = int(above[-1])
        share = (fall[i] - level) / (fall[i] - fall[i + 1])
        crossings.append(place[i] + share * (place[i + 1] - place[i]))
    return float(crossings[1] - crossings[0]), (outside - least) / (outside + least)


def mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    known = np.isfinite(values)
    number = known.sum(axis=axis)
    total = np.where(known, values, 0.0).sum(axis=axis)
    return np.divide(total, number, out=np.full(number.shape, np.nan), where=number > 0)


def sharpness(picture: Picture) -> dict[str, float | None]:
    """Rim along the line, at the droplet's left, and along the flow, at its top."""
    middle = (picture.line > 451) & (picture.line < 491)
    core = (picture.tau > 8.6) & (picture.tau < 10.2)
    across = (picture.tau > 2.6) & (picture.tau < 5.85)
    along = (picture.line > 205) & (picture.line < 400)
    fast = rim(picture.tau[across], mean_of_known(picture.values[middle][:, across], 0))
    slow = rim(picture.line[along], mean_of_known(picture.values[along][:, core], 1))
    return {
        "rim_width_samples": fast[0],
        "rim_contrast_along_the_line": fast[1],
        "rim_width_lines": slow[0],
        "rim_contrast_along_the_flow": slow[1],
    }


def smoothed(grid: Grid, length: float) -> Grid:
    """The grid with another smooth length, in its own kernels."""
    factor = length / SMOOTH_LENGTH
    return replace(grid, sigma_samples=factor * grid.sigma_samples, sigma_lines=factor * grid.sigma_lines)


def predictions(droplet: Droplet, examples: dict[str, Example]) -> dict[str, Any]:
    """Errors of samples left out, of each method with several weights, by which lines are left out."""
    line = np.arange(droplet.starts.size)
    result = {}
    for name, kept in (("every fifth line left out", line % 5 != 2), ("two of four lines left out", line % 4 < 2)):
        ours = {"gridding": picture_of(droplet.own(reconstruct, droplet.grid, kept))}
        for length in SMOOTH_LENGTHS:
            image = droplet.own(reconstruct_regularised, smoothed(droplet.smooth_grid, length), kept)
            ours[f"regularised, smooth length {length:g}"] = picture_of(image)
        for weight in VARIATIONS:
            ours[f"total variation, weight {weight:g}"] = variation_picture(droplet, droplet.grid, kept, weight)
        errors, share = prediction_errors(droplet, kept, ours)
        peers = {}
        for title, example in examples.items():
            for weight in PEER_WEIGHTS:
                light, _, _ = example_by_primal_dual(example, kept[example.line], weight)
                peers[f"{title}, weight {weight:g}"] = example_error(droplet, example, light, kept)
        left_out = LeftOut.of(droplet, kept)
        alone = {method: float(np.nanmean(left_out.errors(picture) ** 2)) for method, picture in ours.items()}
        result[name] = {
            "where all of ours predict": errors,
            "share of samples": share,
            "where each predicts": alone | peers,
        }
    return result


def example_error(droplet: Droplet, example: Example, light: np.ndarray, kept: np.ndarray) -> float:
    """Mean squared error of the example's own prediction of samples left out, in units of the noise."""
    judged = ~kept[example.line] & (example.line >= JUDGED_ROWS[0]) & (example.line <= JUDGED_ROWS[1])
    judged &= (example.tau >= JUDGED_TAU[0]) & (example.tau <= JUDGED_TAU[1]) & droplet.background.usable(example.tau)
    error = (example.seen @ light - example.code)[judged]
    return float(np.mean(error**2 / droplet.background.variance(example.tau[judged])))


def agreement(droplet: Droplet, example: Example) -> dict[str, dict[str, float]]:
    """Finest periods that images of two halves of the lines agree on (Fourier ring correlation)."""
    halves = [np.arange(droplet.starts.size) % 4 < 2, np.arange(droplet.starts.size) % 4 >= 2]
    pairs = {
        "gridding": [picture_of(droplet.own(reconstruct, droplet.grid, half)) for half in halves],
        "regularised": [picture_of(droplet.own(reconstruct_regularised, droplet.smooth_grid, half)) for half in halves],
        "published objective": [
            example_picture(example, example_by_primal_dual(example, half[example.line], PEER_WEIGHT)[0])
            for half in halves
        ],
    }
    result = {}
    for name, (one, other) in pairs.items():
        # the droplet's core, which every method shows whole
        rows, columns = (one.line > 215) & (one.line < 725), (one.tau > 8.4) & (one.tau < 12.8)
        steps = (float(one.line[1] - one.line[0]), float(one.tau[1] - one.tau[0]))
        curves = fourier_ring_correlation(one.values[rows][:, columns], other.values[rows][:, columns], pixel_um=steps)
        result[name] = {"period_lines": curves.slow.resolution, "period_samples": curves.fast.resolution}
    return result


def draw(pictures: dict[str, Picture], path: Path) -> None:
    """The pictures side by side, in true proportions, unknown pixels coloured."""
    greys = plt.get_cmap("gray").with_extremes(bad="#e39b6d")
    size = 3.3 * len(pictures), 3.6
    figure, axes = plt.subplots(1, len(pictures), figsize=size, sharey=True, layout="constrained")
    for one, letter, (title, picture) in zip(axes, "abcdef", pictures.items(), strict=False):
        line, tau = picture.line, picture.tau
        down, right = (line[1] - line[0]) / 2, (tau[1] - tau[0]) / 2
        shown = one.imshow(
            np.ma.masked_invalid(picture.values), cmap=greys, vmin=0, vmax=1.25, interpolation="nearest",
            extent=(tau[0] - right, tau[-1] + right, line[-1] + down, line[0] - down),
        )  # fmt: skip
        one.set(xlim=(2.5, 14.5), ylim=(735, 205), aspect=1 / 55, xlabel="position on the line [samples]")
        one.set_title(f"{letter}  {title}", loc="left", fontsize=10)
    axes[0].set_ylabel("line")
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.01, aspect=30)
    bar.set_label("transmission")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("capture", type=Path, nargs="?", default=DATA / "oil_emulsion.hdf5")
    figures = Path(__file__).resolve().parents[1] / "docs" / "figures"
    parser.add_argument("--figure", type=Path, default=figures / "droplet-peers.png")
    arguments = parser.parse_args()
    droplet = measured(arguments.capture)
    example, corrected = example_of(droplet), example_of(droplet, corrected=True)
    examples = {"published objective": example, "published objective, converters corrected": corrected}
    package = proximal_peer.load()
    seconds_of: dict[str, float] = {}
    images = {}
    for name, method, grid in (
        ("gridding", reconstruct, droplet.grid),
        ("regularised", reconstruct_regularised, droplet.smooth_grid),
    ):
        images[name] = picture_of(droplet.own(method, grid))
        seconds_of[name] = cpu_seconds(lambda method=method, grid=grid: droplet.own(method, grid), 5)
    begin = time.process_time()
    light, value, steps = example_by_primal_dual(example, np.ones(example.light.size, bool), PEER_WEIGHT)
    seconds_of["published objective, converged"] = time.process_time() - begin
    objectives = {"converged": value, "converged_steps": steps}
    if package is not None:
        of_package, value, spent, steps = example_by_package(package, example)
        seconds_of["published objective, proximal"] = spent
        objectives |= {"proximal": value, "proximal_steps": steps}
        objectives["largest_difference_codes"] = float(np.abs(of_package - light).max())
    pictures = {
        "lines at whole samples": raw_lines(droplet),
        "gridding": images["gridding"],
        "regularised": images["regularised"],
        "published objective": example_picture(example, light),
    }
    sharp = {name: sharpness(picture) for name, picture in pictures.items()}
    for length in SMOOTH_LENGTHS:
        image = picture_of(droplet.own(reconstruct_regularised, smoothed(droplet.smooth_grid, length)))
        sharp[f"regularised, smooth length {length:g}"] = sharpness(image)
    of_corrected, _, _ = example_by_primal_dual(corrected, np.ones(corrected.light.size, bool), PEER_WEIGHT)
    sharp["published objective, converters corrected"] = sharpness(example_picture(corrected, of_corrected))
    draw(pictures, arguments.figure)
    predicted = predictions(droplet, examples)
    try:
        agreed = agreement(droplet, example)
    except ModuleNotFoundError:
        agreed = {}
    print(f"grid {droplet.grid}")
    for name, spent in seconds_of.items():
        print(f"{name:40} {1e3 * spent:10.2f} ms")
    print(
        json.dumps(
            {"objective": objectives, "sharpness": sharp, "agreement": agreed, "prediction": predicted}, indent=1
        )
    )
    write_result(
        "peer_images",
        {
            "proximal": getattr(package, "__version__", None),
            "seconds": seconds_of,
            "objective": objectives,
            "sharpness": sharp,
            "agreement": agreed,
            "prediction": predicted,
        },
    )


if __name__ == "__main__":
    run_on_one_thread()
    main()
