"""Regularised reconstruction: the image that explains the samples of a window best and is no rougher than need be.

Gridding averages neighbours, and so blurs by its kernel. Here every sample is explained by the pixels that it sees,
through the true position of its line on the digitiser's clock, the light there and the detector's response; what the
samples leave open, the image's smoothness decides.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from . import _grid_kernels
from . import _refine_kernels as _refine
from .background import Background
from .line_fit import ImageTables, LineTables
from .reconstruct import (
    Grid,
    TransmissionImage,
    image_tables_of,
    registered_fits,
    require_dark_level,
    window_pixels,
)

# Smoothness of the image, in kernels of the grid: a wave of 2π of these lengths is damped to half in even light.
SMOOTH_LENGTH = 1.0
# Width at half maximum of what the method makes of a point in even light, along one axis, in smooth lengths.
RESPONSE_WIDTH = 2.87
# Pixels solved for beyond the window, in smooth lengths: what lies beyond it is not felt within.
MARGIN = 8.0
# What the solver leaves undone, as its preconditioner measures it, in standard deviations of a pixel.
TOLERANCE = 0.003
MOST_STEPS = 200
# Pixels that a smooth length has at least.
_FEWEST_PIXELS = 0.6
# The detector's response is cut at this many standard deviations.
_RESPONSE_REACH = 3.5
# Share of the usual power of the samples around it from which a pixel is known.
_LEAST_SUPPORT = 0.25
_PER_OCTAVE, _OCTAVES = 4, 24


def reconstruct_regularised(
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
    response_samples: float = 0.0,
    tolerance: float = TOLERANCE,
) -> TransmissionImage:
    """Transmission image of a window of lines and positions, by regularised weighted least squares.

    Parameters
    ----------
    samples, origin, starts, first_line, background, tables, grid, rows, tau, fits
        As in :func:`~.reconstruct.reconstruct`; ``grid.columns_per_sample`` a whole number. Where pixels are coarser
        than the smooth length, finer ones are solved for, and every so manieth given.
    response_samples : float, optional
        Standard deviation of the Gaussian response of detector and digitiser [samples], taken out of the image as far
        as the noise allows.
    tolerance : float, optional
        What the solver leaves undone, in standard deviations of a pixel.

    Returns
    -------
    image : TransmissionImage
        ``std`` is that of the posterior: it grows where few samples fell.

    Raises
    ------
    SignalError
        If the dark level is unknown.
    ValueError
        If the grid's columns are no whole share of a sample.

    Notes
    -----
    With the transmission s, the light p and the noise v at each sample's own τ, and B the interpolation at the
    sample's place, blurred by the detector, the image minimises

        ½·Σ (y - p·(B s))² / v + ½·ρ·(‖a·D₁₁ s‖² + ‖b·D₂₂ s‖² + ‖a·b·D₁₁ D₂₂ s‖²)

    D₁₁ and D₂₂ being second differences along lines and samples, ρ the usual Σ p²/v per pixel, and a, b the squares of
    the smooth length in pixels. Optics pass a product of a function of each axis, and so does this penalty's inverse,
    which makes it both a better prior for what a microscope can show than total variation, and one that two banded
    systems invert. Solved by conjugate gradients, preconditioned with that inverse, from the empty channel on.
    """
    finer = _finer(grid)
    window = lay_window(finer.of(grid), rows, tau, background.lit_samples, response_samples)
    if fits is None:
        fits = registered_fits(samples, origin, starts, background, tables)
    signal, power, laid = weigh_window(
        samples, origin, starts, first_line, background, tables, window, fits, response_samples
    )
    own = image_tables_of(background, tables)
    image, support = np.empty(window.shape, np.float32), np.empty(window.shape, np.float32)
    _refine.solve(
        signal, power, laid, window.phases, window.density(own), window.factors(), tolerance, MOST_STEPS, image,
        support,
    )  # fmt: skip
    fine = _finished(window, own, image, support, int(fits[:, 6].sum()))
    return finer.thinned(fine, grid, window_pixels(grid, rows, tau))


@dataclass(frozen=True)
class _Finer:
    """How many rows and columns are solved for per one that is asked for: the pixels must show the smooth length."""

    rows: int
    columns: int

    def of(self, grid: Grid) -> Grid:
        return replace(
            grid,
            lines_per_row=grid.lines_per_row / self.rows,
            columns_per_sample=grid.columns_per_sample * self.columns,
        )

    def thinned(self, image: TransmissionImage, grid: Grid, shape: tuple[int, int]) -> TransmissionImage:
        """Every so manieth row and column, in the pixels that were asked for."""
        if self.rows == self.columns == 1:
            return image
        part = slice(None, shape[0] * self.rows, self.rows), slice(None, shape[1] * self.columns, self.columns)
        return replace(
            image,
            transmission=np.ascontiguousarray(image.transmission[part]),
            std=np.ascontiguousarray(image.std[part]),
            known=np.ascontiguousarray(image.known[part]),
            lines_per_row=grid.lines_per_row,
            columns_per_sample=grid.columns_per_sample,
        )


def _finer(grid: Grid) -> _Finer:
    return _Finer(*(max(1, math.ceil(_FEWEST_PIXELS / length)) for length in smooth_lengths(grid)))


@dataclass(frozen=True)
class Window:
    """The pixels of a window, and a margin of pixels beyond it that is solved for too.

    grid : Grid
    pixels : (int, int)
        Rows and columns of the window.
    margin : (int, int)
        Rows before (and after) the window, and columns before it.
    columns_after : int
        Columns after it.
    first_line, first_tau : float
        Line of row 0 and position of column 0, of the window.
    """

    grid: Grid
    pixels: tuple[int, int]
    margin: tuple[int, int]
    columns_after: int
    first_line: float
    first_tau: float

    @property
    def phases(self) -> int:
        """Columns per sample."""
        return int(self.grid.columns_per_sample)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns that are solved for; whole samples along the line."""
        columns = self.margin[1] + self.pixels[1] + self.columns_after
        return self.pixels[0] + 2 * self.margin[0], -(-columns // self.phases) * self.phases

    @property
    def stiffness(self) -> tuple[float, float]:
        """Fourth powers of the smooth length, in rows and in columns."""
        return tuple(length**4 for length in smooth_lengths(self.grid))  # type: ignore[return-value]

    def factors(self) -> tuple[np.ndarray, np.ndarray]:
        """The two smoothness operators, factored."""
        factors = []
        for size, stiffness in zip(self.shape, self.stiffness, strict=True):
            factors.append(np.empty((3, size), np.float32))
            _refine.factor_smoothness(stiffness, factors[-1])
        return factors[0], factors[1]

    def density(self, tables: ImageTables) -> float:
        """Usual Σ p²/v per pixel: of samples in the light, where their lines lie evenly."""
        return tables.mean_power * self._samples_per_pixel

    @property
    def _samples_per_pixel(self) -> float:
        return self.grid.lines_per_row / self.grid.columns_per_sample

    def least_support(self, tables: ImageTables) -> np.ndarray:
        """Support that makes a pixel of the window known, by column, float32."""
        tau = self.first_tau + np.arange(self.pixels[1]) / self.phases
        # next to what cannot be used only one side tells of a pixel
        beside, power = self.grid.sigma_samples, tables.power_at(tau)
        seen = (power > 0) & (tables.power_at(tau - beside) > 0) & (tables.power_at(tau + beside) > 0)
        least = np.where(seen, _LEAST_SUPPORT * self._samples_per_pixel * power, np.inf)
        return least.astype(np.float32)


def smooth_lengths(grid: Grid) -> tuple[float, float]:
    """Smooth length in rows and in columns."""
    return (
        SMOOTH_LENGTH * grid.sigma_lines / grid.lines_per_row,
        SMOOTH_LENGTH * grid.sigma_samples * grid.columns_per_sample,
    )


def lay_window(
    grid: Grid, rows: tuple[float, float], tau: tuple[float, float], lit_samples: float, response_samples: float = 0.0
) -> Window:
    """Lay pixels over a window and its margin, which ends with the light: beyond it there is nothing to solve for."""
    if grid.columns_per_sample != int(grid.columns_per_sample):
        raise ValueError(f"columns_per_sample must be a whole number, got {grid.columns_per_sample}")
    pixels = window_pixels(grid, rows, tau)
    above, beside = (math.ceil(MARGIN * length) + 1 for length in smooth_lengths(grid))
    seen = 2 + math.ceil(_RESPONSE_REACH * response_samples * grid.columns_per_sample)
    last_tau = tau[0] + (pixels[1] - 1) / grid.columns_per_sample
    before, after = (
        min(beside, max(0, math.ceil(lit * grid.columns_per_sample)) + seen) for lit in (tau[0], lit_samples - last_tau)
    )
    return Window(grid, pixels, (above, before), after, rows[0], tau[0])


def weigh_window(
    samples: np.ndarray,
    origin: int,
    starts: np.ndarray,
    first_line: int,
    background: Background,
    tables: LineTables,
    window: Window,
    fits: np.ndarray,
    response_samples: float,
) -> tuple[np.ndarray, np.ndarray, tuple[np.ndarray, ...]]:
    """Signal and power of the samples, float32 (N, W), and where they fall; see :func:`_refine_kernels.lay_lines`."""
    require_dark_level(background)
    grid, (rows, columns), phases = window.grid, window.shape, window.phases
    top, first_tau = (
        window.first_line - window.margin[0] * grid.lines_per_row,
        window.first_tau - window.margin[1] / phases,
    )
    row = (first_line + np.arange(starts.size) - top) / grid.lines_per_row
    inside = slice(*np.searchsorted(row, (0.0, rows - 1.0)))
    own, row = starts[inside], row[inside]
    width = columns // phases
    signal, power = np.empty((own.size, width), np.float32), np.empty((own.size, width), np.float32)
    place = np.empty(own.size)
    image = image_tables_of(background, tables)
    _grid_kernels.weigh_lines(
        samples, origin, own, fits[inside], image.arrays, image.limits, first_tau, signal, power, place
    )
    response = response_samples * phases
    taps = np.empty((own.size, 2 * (1 + math.ceil(_RESPONSE_REACH * response))), np.float32)
    first, span, upper = (
        np.empty(own.size, np.int64),
        np.empty((own.size, 2), np.int64),
        np.empty((own.size, 2), np.float32),
    )
    _refine.lay_lines((place - first_tau) * phases, row, rows, phases, width, response, width, first, span, upper, taps)
    return signal, power, (row, first, span, upper, taps)


def _finished(
    window: Window, tables: ImageTables, image: np.ndarray, support: np.ndarray, saturated: int
) -> TransmissionImage:
    transmission, std = np.empty(window.pixels, np.float32), np.empty(window.pixels, np.float32)
    known = np.empty(window.pixels, np.bool_)
    density = window.density(tables)
    levels = _posterior_std(*window.stiffness) / np.float32(math.sqrt(density))
    lowest = density * 2.0 ** (-_OCTAVES / 2)
    _refine.finish(
        image, support, window.phases, window.margin, levels, _PER_OCTAVE, lowest, window.least_support(tables),
        transmission, std, known,
    )  # fmt: skip
    return TransmissionImage(
        transmission=transmission,
        std=std,
        known=known,
        first_line=window.first_line,
        lines_per_row=window.grid.lines_per_row,
        tau_first_samples=window.first_tau,
        columns_per_sample=window.grid.columns_per_sample,
        saturated=saturated,
    )


@lru_cache(maxsize=64)
def _posterior_std(row_stiffness: float, column_stiffness: float) -> np.ndarray:
    """Standard deviation of a pixel for even support of 2^(-_OCTAVES/2) … times the density, where that is 1."""
    angle = np.pi * (np.arange(128) + 0.5) / 128
    bend = (2 * np.sin(angle / 2)) ** 4
    rough = (1 + row_stiffness * bend[:, None]) * (1 + column_stiffness * bend) - 1
    support = 2.0 ** (np.arange(_OCTAVES * _PER_OCTAVE + 1) / _PER_OCTAVE - _OCTAVES / 2)
    return np.sqrt([np.mean(1 / (s + rough)) for s in support]).astype(np.float32)
