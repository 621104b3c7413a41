"""Pixel super-resolution: place every sample of some lines where it belongs, and grid them into a transmission image.

Successive lines meet the scene at different sub-sample phases, so together they sample it more finely than any
of them. Rows run along the flow (slow axis), columns along the line (fast axis).
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from . import _grid_kernels, _kernels
from .background import Background
from .errors import SignalError
from .line_fit import ImageTables, LineTables, image_tables, line_fits, line_priors
from .sampling import WIDEST_GAP, phase_coverage

# The kernel is cut at this many standard deviations.
_REACH = 3.0
# Table steps per sample in which light and noise are handed to the kernels.
_STEPS = 32
# Kernel sizes tried, and the one taken where nothing was seen to choose by.
KERNEL_SAMPLES = np.array([0.02, 0.03, 0.045, 0.07, 0.1, 0.15, 0.22, 0.33, 0.5, 0.75])
KERNEL_LINES = np.array([0.5, 0.75, 1.1, 1.7, 2.5, 3.7, 5.5, 8.0, 12.0, 18.0])
DEFAULT_KERNEL = (0.22, 3.7)
# Among kernels that predict within this factor of the best, the largest is taken: the least noise.
NEARLY_BEST = 1.15
# The same for a kernel that does not average, but tells how smooth the image is; and the finest one along the line
# [samples], since where lines share few phases they predict each other however small it is.
NEARLY_BEST_SMOOTHNESS, FINEST_SMOOTHNESS = 1.05, 0.1
MOST_COLUMNS_PER_SAMPLE = 32
# A window is judged on about this many of its samples, from this many of its lines.
_TARGETS, _TARGET_LINES = 600, 64


@dataclass(frozen=True)
class Grid:
    """How an image is laid over lines and samples.

    columns_per_sample : float
        Pixels per ADC sample along the line (the oversampling).
    lines_per_row : float
        Lines per pixel along the flow.
    sigma_samples, sigma_lines : float
        Standard deviations of the Gaussian kernel.
    """

    columns_per_sample: float
    lines_per_row: float
    sigma_samples: float
    sigma_lines: float


def choose_grid(
    kernel: tuple[float, float], lines_per_sample: float | None, *, oversampling: int | None = None
) -> Grid:
    """Grid fine enough for the kernel, with square pixels where the geometry is known.

    Parameters
    ----------
    kernel : (float, float)
        Standard deviations of the kernel [samples, lines], see :func:`kernel_scores`.
    lines_per_sample : float or None
        Lines that pass while the flow moves by the width of one sample; None where the geometry is unknown (the
        pixels are then not known to be square).
    oversampling : int, optional
        Pixels per sample along the line. By default enough to resolve the kernel, and no coarser than the square
        root of ``lines_per_sample``: the best isotropic pixel of a lattice has the area of its cell.
    """
    sigma_samples, sigma_lines = kernel
    finest = int(np.ceil(0.6 / sigma_samples))
    if lines_per_sample is None:
        columns = oversampling or min(finest, MOST_COLUMNS_PER_SAMPLE)
        return Grid(float(columns), max(1.0, sigma_lines), sigma_samples, sigma_lines)
    columns = oversampling or min(max(finest, int(np.ceil(np.sqrt(lines_per_sample)))), MOST_COLUMNS_PER_SAMPLE)
    return Grid(float(columns), lines_per_sample / columns, sigma_samples, sigma_lines)


def kernel_scores(
    samples: np.ndarray,
    origin: int,
    starts: np.ndarray,
    background: Background,
    tables: LineTables,
    tau: tuple[float, float],
) -> np.ndarray:
    """How well each kernel size predicts samples of a window from the other lines.

    Parameters
    ----------
    samples, origin, starts, background, tables
        As in :func:`reconstruct`.
    tau : (float, float)
        Positions of the window on the line [samples].

    Returns
    -------
    scores : ndarray of shape (KERNEL_SAMPLES.size, KERNEL_LINES.size)
        Mean squared error in units of the noise; the smallest marks the kernel that blurs as little as the
        lattice of samples and the noise allow. NaN where nothing could be predicted.

    Notes
    -----
    Leave-one-line-out cross-validation. No knowledge of flow speed or field of view enters.
    """
    fits = registered_fits(samples, origin, starts, background, tables)
    scores = np.zeros((KERNEL_SAMPLES.size, KERNEL_LINES.size))
    inverse_gain, offset, low, high = _converters(background)
    table_start, light, variance, usable = _light_table(background, tau, _REACH * KERNEL_SAMPLES[-1])
    skip = max(1, round((tau[1] - tau[0]) * min(starts.size, _TARGET_LINES) / _TARGETS))
    count = _kernels.leave_one_line_out(
        samples, origin, starts, fits, inverse_gain, offset, low, high, light, variance, usable, table_start,
        float(_STEPS), tau[0], tau[1], max(1, starts.size // _TARGET_LINES), skip, KERNEL_SAMPLES, KERNEL_LINES, scores,
    )  # fmt: skip
    return scores / count if count else np.full(scores.shape, np.nan)


def best_kernel(scores: list[np.ndarray], period_samples: float, *, averages: bool = True) -> tuple[float, float]:
    """Kernel for a capture, from its scores in several windows.

    Parameters
    ----------
    scores : list of ndarray
        From :func:`kernel_scores`; windows in which nothing could be predicted are passed over.
    period_samples : float
        Line period; its fraction decides how evenly successive lines fill the phases.
    averages : bool, optional
        Whether the kernel is to average with, as gridding does, or only to tell how fast the image changes.

    Returns
    -------
    sigma_samples, sigma_lines : float
        Among the kernels that predict nearly best, and, if they are to average, whose lines leave no gap between phases
        that shows as a comb, the largest; :data:`DEFAULT_KERNEL` where there is none.
    """
    usable = [s / s.min() for s in scores if np.all(np.isfinite(s)) and s.min() > 0]
    counts = [int(np.ceil(2 * n)) for n in KERNEL_LINES]
    gaps = np.array([phase_coverage(period_samples * np.arange(n)).largest_gap_samples for n in counts])
    if averages:
        fit, nearly_best = gaps <= WIDEST_GAP * KERNEL_SAMPLES[:, None], NEARLY_BEST
    else:
        fit, nearly_best = np.repeat(KERNEL_SAMPLES[:, None] >= FINEST_SMOOTHNESS, gaps.size, 1), NEARLY_BEST_SMOOTHNESS
    if not usable or not fit.any():
        return DEFAULT_KERNEL
    mean = np.where(fit, np.mean(usable, axis=0), np.inf)
    area = np.where(mean <= nearly_best * mean.min(), KERNEL_SAMPLES[:, None] * KERNEL_LINES, 0.0)
    a, b = np.unravel_index(int(np.argmax(area)), area.shape)
    return float(KERNEL_SAMPLES[a]), float(KERNEL_LINES[b])


@dataclass(frozen=True)
class TransmissionImage:
    """A super-resolved image: transmission 1 where the channel is empty.

    transmission : ndarray of shape (rows, columns), float32
        NaN where nothing is known.
    std : ndarray of shape (rows, columns), float32
        Standard deviation of the transmission by the noise of the samples; inf where nothing is known.
    known : ndarray of shape (rows, columns), bool
    first_line, lines_per_row : float
        Line number of the centre of row 0, and step.
    tau_first_samples, columns_per_sample : float
        Position of the centre of column 0 on the line, and columns per sample.
    saturated : int
        Samples on a rail within the image's extent, left out.
    """

    transmission: np.ndarray
    std: np.ndarray
    known: np.ndarray
    first_line: float
    lines_per_row: float
    tau_first_samples: float
    columns_per_sample: float
    saturated: int


class Method(Protocol):
    """A way to make an image of a window; arguments as those of :func:`reconstruct`."""

    def __call__(
        self,
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
        """Transmission image of a window of lines and positions."""


def reconstruct(
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
    skipped_rows: int = 0,
    fits: np.ndarray | None = None,
) -> TransmissionImage:
    """Transmission image of a window of lines and positions.

    Parameters
    ----------
    samples : ndarray of shape (S,)
        Waveform [codes], ``origin`` the digitiser's index of its first sample; holds the lines below, as far as they
        exist.
    starts : ndarray of shape (N,), float64
        Predicted starts of consecutive lines, from line ``first_line`` on; give a few more lines on either side than
        the window has, ``3 · grid.sigma_lines``.
    rows : (float, float)
        First and last line of the window.
    tau : (float, float)
        First and last position of the window on the line [samples].
    skipped_rows : int, optional
        Rows of pixels at the window's beginning that are left out. The others are the same to the last bit, so that a
        long image can be made in pieces.
    fits : ndarray of shape (N, 9), optional
        Baseline, pulse energy and delay of the lines, as ``line_fit.line_fits`` gives them; by default they are fitted
        here.

    Returns
    -------
    image : TransmissionImage

    Notes
    -----
    Per pixel the weighted least-squares estimate of a constant transmission s from y = s·p(τ): Σ h·p·y/v ÷ Σ h·p²/v
    with the Gaussian h in line and position, the empty line p and the noise variance v at each sample's own τ
    (dividing by p at its own τ, not at the pixel's, keeps the profile's texture out). Baseline, pulse energy and
    delay of each line are those fitted on its empty positions. Source of the idea: A. C. S. Chan et al., Sci. Rep.
    7, 44608 (2017), doi:10.1038/srep44608.
    """
    require_dark_level(background)
    own = image_tables_of(background, tables)
    rows_laid, columns = window_pixels(grid, rows, tau)
    shape = max(2, rows_laid - skipped_rows), columns
    transmission, std, known = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.bool_)
    place = grid_place(grid, rows[0] - first_line, tau[0])
    if fits is None:
        fits = registered_fits(samples, origin, starts, background, tables)
    _grid_kernels.grid_image(
        samples, origin, starts, fits, own.arrays, own.limits, place, transmission, std, known, skipped_rows
    )
    return TransmissionImage(
        transmission=transmission,
        std=std,
        first_line=rows[0] + skipped_rows * grid.lines_per_row,
        lines_per_row=grid.lines_per_row,
        tau_first_samples=tau[0],
        columns_per_sample=grid.columns_per_sample,
        known=known,
        saturated=int(fits[:, 6].sum()),
    )


@dataclass(frozen=True)
class Windows:
    """Windows of lines and positions to be imaged, N of them, and where their pixels lie in flat arrays.

    rows : ndarray of shape (N, 2), float64
        First and last line.
    tau : ndarray of shape (N, 2), float64
        First and last position on the line [samples].
    lines : ndarray of shape (N, 2), int64
        First line and last + 1 of those that the image is made of, counted from the first of all lines given.
    grids : ndarray of shape (N, 6), float64
        How each image is laid, see :func:`grid_place`.
    place : ndarray of shape (N, 3), int64
        First pixel in the flat arrays, rows, columns.
    """

    rows: np.ndarray
    tau: np.ndarray
    lines: np.ndarray
    grids: np.ndarray
    place: np.ndarray

    @classmethod
    def of(cls, grid: Grid, rows: np.ndarray, tau: np.ndarray, lines: np.ndarray, first_line: int) -> "Windows":
        """Lay pixels over windows, one window's behind the other's; lines are counted from ``first_line``."""
        shape = np.stack(
            [
                np.maximum(2, np.floor((rows[:, 1] - rows[:, 0]) / grid.lines_per_row) + 1),
                np.maximum(2, np.floor((tau[:, 1] - tau[:, 0]) * grid.columns_per_sample) + 1),
            ],
            axis=1,
        ).astype(np.int64)
        ends = np.cumsum(shape[:, 0] * shape[:, 1])
        grids = np.tile(grid_place(grid, 0.0, 0.0), (len(rows), 1))
        grids[:, 0], grids[:, 2] = rows[:, 0] - lines[:, 0], tau[:, 0]
        return cls(rows, tau, lines - first_line, grids, np.column_stack([np.append(0, ends[:-1]), shape]))

    def some(self, part: slice) -> "Windows":
        """Some windows that follow each other, with flat arrays of their own."""
        place = self.place[part].copy()
        place[:, 0] -= place[0, 0]
        return Windows(self.rows[part], self.tau[part], self.lines[part], self.grids[part], place)

    @property
    def pixels(self) -> int:
        """Length of the flat arrays."""
        first, rows, columns = self.place[-1].tolist()
        return int(first + rows * columns)


def reconstruct_windows(
    samples: np.ndarray,
    origin: int,
    starts: np.ndarray,
    background: Background,
    tables: LineTables,
    windows: Windows,
    transmission: np.ndarray,
    std: np.ndarray,
    known: np.ndarray,
) -> np.ndarray:
    """Images of windows around objects, as :func:`reconstruct` makes them, many at once.

    Lines are registered on what lies beside their window, in one step, where that explains it.

    Parameters
    ----------
    samples, origin, starts, background, tables
        As in :func:`reconstruct`.
    windows : Windows
    transmission, std : ndarray of shape (pixels,), float32
        Where the images go.
    known : ndarray of shape (pixels,), bool

    Returns
    -------
    saturated : ndarray of shape (N,), int64
        Samples on a rail within each image's extent, left out.
    """
    require_dark_level(background)
    saturated = np.empty(len(windows.place), np.int64)
    own = image_tables_of(background, tables)
    fits = np.empty((int((windows.lines[:, 1] - windows.lines[:, 0]).sum()), 9))
    _kernels.register_windows(
        samples, origin, starts, windows.lines, windows.tau, tables.arrays, tables.limits, line_priors(background),
        tables.chi2_limit, fits, saturated,
    )  # fmt: skip
    _grid_kernels.grid_windows(
        samples, origin, starts, fits, windows.lines, windows.grids, windows.place, own.arrays, own.limits,
        transmission, std, known,
    )  # fmt: skip
    return saturated


def require_dark_level(background: Background) -> None:
    """SignalError where nothing tells what no light looks like."""
    if background.dark_level_codes is None:
        raise SignalError(
            "the dark level is unknown: the lines leave no dark gap, and the capture does not state dark_level_codes; "
            "give it with --dark-level or in the capture's attributes"
        )


def image_tables_of(background: Background, tables: LineTables) -> ImageTables:
    """Tables for images of a background, those of ``tables`` where it is their own."""
    return tables.image if tables.background is background else image_tables(background)


def grid_place(grid: Grid, first_row: float, first_tau: float) -> tuple[float, float, float, float, float, float]:
    """``grid`` of :func:`_grid_kernels.grid_image`; the first row is counted from the first line."""
    return (
        float(first_row),
        float(grid.lines_per_row),
        float(first_tau),
        float(grid.columns_per_sample),
        float(grid.sigma_lines),
        float(grid.sigma_samples),
    )


def window_pixels(grid: Grid, rows: tuple[float, float], tau: tuple[float, float]) -> tuple[int, int]:
    """Rows and columns of a window's image."""
    return (
        max(2, int(np.floor((rows[1] - rows[0]) / grid.lines_per_row)) + 1),
        max(2, int(np.floor((tau[1] - tau[0]) * grid.columns_per_sample)) + 1),
    )


def registered_fits(
    samples: np.ndarray, origin: int, starts: np.ndarray, background: Background, tables: LineTables
) -> np.ndarray:
    """Baseline, pulse energy and delay of lines, fitted on their empty positions; see ``line_fit.line_fits``."""
    return line_fits(
        samples, origin, starts, tables, gain_std=background.gain_std, delay_std=background.delay_std_samples,
        for_image=True,
    )  # fmt: skip


def window_fits(
    samples: np.ndarray,
    origin: int,
    starts: np.ndarray,
    background: Background,
    tables: LineTables,
    tau: tuple[float, float],
) -> np.ndarray:
    """The same for a window around an object: lines are fitted in one step beside it, where that explains them."""
    fits = np.empty((starts.size, 9))
    _kernels.register_lines(
        samples, origin, starts, tables.arrays, tables.limits, line_priors(background), tables.chi2_limit, tau, fits
    )
    return fits


def _converters(background: Background) -> tuple[np.ndarray, np.ndarray, int, int]:
    offset = np.array(background.interleave_offset_codes)
    return (1 / np.array(background.interleave_gain), offset, *background.code_limits)


def _light_table(
    background: Background, tau: tuple[float, float], reach: float
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """First position, light, variance and usability of the empty line over the window and ``reach`` beyond."""
    fine = tau[0] - reach + np.arange(int((tau[1] - tau[0] + 2 * reach) * _STEPS) + 3) / _STEPS
    return float(fine[0]), background.profile.light(fine), background.variance(fine), background.usable(fine)
