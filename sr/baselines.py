"""Three published reconstructions without a model, to compare with: line interleaving, simple and full interpolation.

They were made for an FPGA and a digitiser locked to the laser, T = p/q samples: q lines then share p·q phases that
repeat exactly, and every sample has a column of its own on a grid of 1/q sample. Here the clock may run free: q is the
denominator of the best fraction near the period, and a sample goes to the column nearest to its true place, which is
its own column where the clock is locked. They know no light: each sample is divided by the empty line where it fell.

Source: R. Shi et al., IEEE Trans. Biomed. Circuits Syst. 13(4), 2019, doi:10.1109/TBCAS.2019.2914946.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import wraps

import numpy as np
from scipy import ndimage

from .background import Background
from .line_fit import LineTables
from .reconstruct import Grid, Method, TransmissionImage, registered_fits, require_dark_level, window_pixels

# Lines woven into one; with more, the flow within them shows as jagged edges (the source's limit).
MOST_LINES_WOVEN = 6


def lines_woven(period_samples: float) -> int:
    """Denominator q of the fraction nearest to the line period, up to :data:`MOST_LINES_WOVEN`."""
    return Fraction(period_samples).limit_denominator(MOST_LINES_WOVEN).denominator


def _on_the_grid(own_pixels: "Callable[[_Placed, Grid], TransmissionImage]") -> Method:
    """A method from what it makes of samples on their columns, in pixels of its own."""

    @wraps(own_pixels)
    def method(
        samples: np.ndarray,
        origin: int,
        starts: np.ndarray,
        first_line: int,
        background: Background,
        tables: LineTables,
        grid: Grid,
        *,
        rows: tuple[float, float],
        tau: tuple[float, float],
        fits: np.ndarray | None = None,
    ) -> TransmissionImage:
        placed = _place_samples(samples, origin, starts, first_line, background, tables, rows, tau, fits)
        return _resampled(own_pixels(placed, grid), grid, rows, tau)

    return method


@_on_the_grid
def weave_lines(placed: "_Placed", grid: Grid) -> TransmissionImage:
    """Line interleaving: the samples of q lines in order of their phase make one row of columns of 1/q sample.

    A method as :func:`~.reconstruct.reconstruct`; its own pixels are interpolated linearly. A column that no line met
    is interpolated in the row.
    """
    q = placed.woven
    lines = placed.value.shape[0] // q * q
    groups = placed.value[:lines].reshape(-1, q, placed.value.shape[1])
    seen = np.isfinite(groups)
    number = np.where(seen.any(axis=1), seen.sum(axis=1), np.nan)
    value = np.where(seen, groups, 0).sum(axis=1) / number
    spread = np.where(seen, placed.variance[:lines].reshape(groups.shape), 0).sum(axis=1) / number**2
    beside = [_neighbours(value, spread, 1, way) for way in (1, -1)]
    beside = [(a, b, np.where(distance <= q, distance, np.inf)) for a, b, distance in beside]
    value, spread = _inverse_distance_mean(value, spread, beside)
    return placed.image(value, spread, placed.first_line + 0.5 * (q - 1), float(q), q)


@_on_the_grid
def interpolate_simply(placed: "_Placed", grid: Grid) -> TransmissionImage:
    """Simple interpolation: every q-th line, its gaps filled from the nearest samples around.

    A method as :func:`~.reconstruct.reconstruct`; its own pixels, q lines by 1/q sample, are interpolated linearly. A
    pixel that its line sampled is kept, others are the mean of the nearest samples above and below in the column and
    left and right in the row, weighted by their inverse distance.
    """
    value, spread = _fill(placed, grid)
    q, middle = placed.woven, placed.woven // 2
    return placed.image(value[middle::q], spread[middle::q], placed.first_line + middle, float(q), q)


@_on_the_grid
def interpolate_fully(placed: "_Placed", grid: Grid) -> TransmissionImage:
    """Full interpolation: every line, as in :func:`interpolate_simply`, then straight lines between its columns.

    A method as :func:`~.reconstruct.reconstruct`; its own pixels, one line by 1/q² sample, are interpolated linearly.
    """
    value, spread = _fill(placed, grid)
    q = placed.woven
    columns = (value.shape[1] - 1) * q + 1
    place = np.arange(columns) / q
    left = np.minimum(place.astype(int), max(value.shape[1] - 2, 0))
    share = place - left
    right = np.minimum(left + 1, value.shape[1] - 1)

    def between(a: np.ndarray, power: int) -> np.ndarray:
        # at a column itself the neighbour does not matter, though it be unknown
        fine: np.ndarray = np.where(share > 0, a[:, right] * share**power, 0) + a[:, left] * (1 - share) ** power
        return fine

    return placed.image(between(value, 1), between(spread, 2), placed.first_line, 1.0, q * q)


def _resampled(
    image: TransmissionImage, grid: Grid, rows: tuple[float, float], tau: tuple[float, float]
) -> TransmissionImage:
    """The image at the pixels of a grid; unknown where a pixel beside is."""
    pixels = window_pixels(grid, rows, tau)
    line = rows[0] + np.arange(pixels[0]) * grid.lines_per_row
    column = np.arange(pixels[1]) / grid.columns_per_sample * image.columns_per_sample
    at = np.meshgrid((line - image.first_line) / image.lines_per_row, column, indexing="ij")
    transmission, std = (
        ndimage.map_coordinates(values, at, order=1, mode="constant", cval=np.nan)
        for values in (image.transmission, np.where(image.known, image.std, np.nan))
    )
    known = np.isfinite(transmission)
    return TransmissionImage(
        transmission=transmission,
        std=np.where(known, std, np.inf).astype(np.float32),
        known=known,
        first_line=rows[0],
        lines_per_row=grid.lines_per_row,
        tau_first_samples=tau[0],
        columns_per_sample=grid.columns_per_sample,
        saturated=image.saturated,
    )


@dataclass(frozen=True)
class _Placed:
    """Samples of lines on the columns nearest to them.

    value, variance : ndarray of shape (N, columns), float64
        Transmission and its variance; NaN where a line has no sample.
    woven : int
        Lines q that share their phases, and columns per sample.
    first_line, first_tau : float
    """

    value: np.ndarray
    variance: np.ndarray
    woven: int
    first_line: float
    first_tau: float
    saturated: int

    def image(
        self, value: np.ndarray, variance: np.ndarray, first_line: float, lines_per_row: float, columns_per_sample: int
    ) -> TransmissionImage:
        known = np.isfinite(value)
        return TransmissionImage(
            transmission=value.astype(np.float32),
            std=np.where(known, np.sqrt(variance), np.inf).astype(np.float32),
            known=known,
            first_line=first_line,
            lines_per_row=lines_per_row,
            tau_first_samples=self.first_tau,
            columns_per_sample=float(columns_per_sample),
            saturated=self.saturated,
        )


def _place_samples(
    samples: np.ndarray,
    origin: int,
    starts: np.ndarray,
    first_line: int,
    background: Background,
    tables: LineTables,
    rows: tuple[float, float],
    tau: tuple[float, float],
    fits: np.ndarray | None,
) -> _Placed:
    require_dark_level(background)
    if fits is None:
        fits = registered_fits(samples, origin, starts, background, tables)
    q = lines_woven(background.period_samples)
    # groups of q lines begin at multiples of q, wherever the window does
    first = max(0, (int(np.ceil(rows[0])) // q - 2) * q - first_line)
    first += -(first_line + first) % q
    own = slice(first, max(first, min(starts.size, int(np.floor(rows[1])) + 2 * q - first_line + 1)))
    start, fit = (starts + fits[:, 0])[own, None], fits[own]
    columns = int(np.floor((tau[1] - tau[0]) * q)) + 1
    index = np.ceil(start + tau[0] - 0.5 / q).astype(np.int64) + np.arange(int(np.ceil(tau[1] - tau[0])) + 1)
    place = index - start
    column = np.round((place - tau[0]) * q).astype(np.int64)
    inside = (column >= 0) & (column < columns) & (index >= origin) & (index < origin + samples.size)
    code = samples[np.clip(index - origin, 0, samples.size - 1)]
    low, high = background.code_limits
    inside &= (code > low) & (code < high) & background.usable(place) & np.isfinite(fit[:, 1, None])
    converter = index % len(background.interleave_gain)
    gain = np.where(np.isfinite(fit[:, 1, None]), fit[:, 4, None], 1.0)
    light = (code - np.array(background.interleave_offset_codes)[converter]) / np.array(background.interleave_gain)[
        converter
    ]
    empty = np.where(inside, background.profile.light(place), 1.0)
    line = np.broadcast_to(np.arange(index.shape[0])[:, None], index.shape)[inside]
    value, variance = np.full((2, index.shape[0], columns), np.nan)
    value[line, column[inside]] = ((light - fit[:, 3, None]) / gain / empty)[inside]
    variance[line, column[inside]] = (background.variance(place) / empty**2)[inside]
    return _Placed(value, variance, q, float(first_line + first), tau[0], int(fits[:, 6].sum()))


def _fill(placed: _Placed, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Fill what a line did not sample from the lines above and below and the columns left and right."""
    column_lines = grid.lines_per_row * grid.columns_per_sample / placed.woven  # a column is as wide as so many lines
    around = []
    for axis, pitch in ((0, 1.0), (1, column_lines)):
        for way in (1, -1):
            value, variance, distance = _neighbours(placed.value, placed.variance, axis, way)
            # as far as the next line of this phase, or a sample: beyond it there is a hole
            distance = np.where(distance < placed.woven + axis, distance, np.inf)
            around.append((value, variance, distance * pitch))
    return _inverse_distance_mean(placed.value, placed.variance, around)


def _neighbours(
    value: np.ndarray, variance: np.ndarray, axis: int, way: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The nearest known value before each place of an axis (``way`` 1) or after it (-1), its variance and distance."""
    value, variance = (np.flip(a, axis) if way < 0 else a for a in (value, variance))
    place = np.arange(value.shape[axis]).reshape((-1, 1) if axis == 0 else (1, -1))
    index = np.maximum.accumulate(np.where(np.isfinite(value), place, -1), axis=axis)
    distance = np.where(index >= 0, place - index, np.inf)
    taken = [np.take_along_axis(a, np.maximum(index, 0), axis) for a in (value, variance)] + [distance]
    one, two, three = (np.flip(a, axis) if way < 0 else a for a in taken)
    return one, two, three


def _inverse_distance_mean(
    value: np.ndarray, variance: np.ndarray, around: list[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Known values as they are, unknown ones from their neighbours; NaN where there is none."""
    weights = [1 / np.where(distance > 0, distance, np.inf) for _, _, distance in around]
    total = sum(weights)
    share = [np.divide(w, total, out=np.zeros_like(w), where=total > 0) for w in weights]
    mean = sum(np.where(w > 0, w * v, 0) for w, (v, _, _) in zip(share, around, strict=True))
    spread = sum(np.where(w > 0, w * w * v, 0) for w, (_, v, _) in zip(share, around, strict=True))
    known = np.isfinite(value)
    return (
        np.where(known, value, np.where(total > 0, mean, np.nan)),
        np.where(known, variance, np.where(total > 0, spread, np.nan)),
    )
