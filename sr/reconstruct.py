"""Pixel super-resolution: place every sample of some lines where it belongs, and grid them into a transmission image.

Successive lines meet the scene at different sub-sample phases, so together they sample it more finely than any
of them. Rows run along the flow (slow axis), columns along the line (fast axis).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import _kernels
from .background import Background
from .errors import SignalError
from .line_fit import LineTables, line_fits

# Samples under one Gaussian kernel (4π·sigma_lines·sigma_samples): fewer leave holes between the lines' phases,
# more blur. See benchmarks/decimation.py for what this does to the real capture.
SAMPLES_PER_KERNEL = 15.0
# The kernel is cut at this many standard deviations.
_REACH = 3.0


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
    lines_per_sample: float | None, *, oversampling: int | None = None, period_samples: float | None = None
) -> Grid:
    """Grid whose pixels are square on the specimen and as fine as the lines and samples together allow.

    Parameters
    ----------
    lines_per_sample : float or None
        Lines that pass while the flow moves by the width of one sample; None where the geometry is unknown (the
        grid is then a modest one, and its pixels are not known to be square).
    oversampling : int, optional
        Pixels per sample along the line; by default the next whole number above sqrt(lines_per_sample), since the
        best isotropic pixel of a lattice has the area of its cell.
    """
    aspect = lines_per_sample if lines_per_sample is not None else 16.0
    columns = oversampling if oversampling is not None else max(1, int(np.ceil(np.sqrt(aspect) - 1e-9)))
    sigma = np.sqrt(SAMPLES_PER_KERNEL / (4 * np.pi * aspect))
    return Grid(float(columns), aspect / columns, float(sigma), float(sigma * aspect))


@dataclass(frozen=True)
class TransmissionImage:
    """A super-resolved image: transmission 1 where the channel is empty.

    transmission : ndarray of shape (rows, columns), float32
        NaN where nothing is known.
    std : ndarray of shape (rows, columns), float32
        Standard deviation of the transmission by the noise of the samples; inf where nothing is known.
    first_line, lines_per_row : float
        Line number of the centre of row 0, and step.
    tau_first_samples, columns_per_sample : float
        Position of the centre of column 0 on the line, and columns per sample.
    saturated : int
        Samples on a rail within the image's extent, left out.
    """

    transmission: np.ndarray
    std: np.ndarray
    first_line: float
    lines_per_row: float
    tau_first_samples: float
    columns_per_sample: float
    saturated: int

    @cached_property
    def known(self) -> np.ndarray:
        return np.isfinite(self.transmission)


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
) -> TransmissionImage:
    """Transmission image of a window of lines and positions.

    Parameters
    ----------
    samples : ndarray of shape (S,)
        Waveform [codes], ``origin`` the digitiser's index of its first sample; holds the lines below, as far as they exist.
    starts : ndarray of shape (N,), float64
        Predicted starts of consecutive lines, from line ``first_line`` on; give a few more lines on either side than the window
        has, ``3 · grid.sigma_lines``.
    rows : (float, float)
        First and last line of the window.
    tau : (float, float)
        First and last position of the window on the line [samples].

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
    if background.dark_level_codes is None:
        raise SignalError(
            "the dark level is unknown: the lines leave no dark gap, and the capture does not state dark_level_codes; "
            "give it with --dark-level or in the capture's attributes"
        )
    n_rows = max(2, int(np.floor((rows[1] - rows[0]) / grid.lines_per_row)) + 1)
    n_columns = max(2, int(np.floor((tau[1] - tau[0]) * grid.columns_per_sample)) + 1)
    line_of_row = rows[0] - first_line + np.arange(n_rows) * grid.lines_per_row
    tau_of_column = tau[0] + np.arange(n_columns) / grid.columns_per_sample
    fits = line_fits(
        samples, origin, starts, tables, gain_std=background.gain_std, delay_std=background.delay_std_samples
    )
    reach = _REACH * grid.sigma_samples
    steps = 32
    fine = tau_of_column[0] - reach + np.arange(int((tau_of_column[-1] - tau_of_column[0] + 2 * reach) * steps) + 3) / steps
    numerator, weight, square = (np.zeros((n_rows, n_columns)) for _ in range(3))
    low, high = background.code_limits
    _kernels.grid_lines(
        samples, origin, starts, fits, 0,
        1 / np.array(background.interleave_gain), np.array(background.interleave_offset_codes), low, high,
        background.profile.light(fine), background.variance(fine), background.usable(fine), float(steps),
        line_of_row, tau_of_column, grid.sigma_lines, grid.sigma_samples, _REACH * grid.sigma_lines, reach,
        numerator, weight, square,
    )  # fmt: skip
    # a pixel that only the kernel's far tail reaches is a guess, not a measurement
    full = 2 * np.pi * grid.sigma_lines * grid.sigma_samples * background.peak() ** 2 / background.variance(fine).max()
    known = (weight > 1e-3 * full * LIT_FLOOR) & background.usable(tau_of_column)[None, :]
    transmission = np.divide(numerator, weight, out=np.full(weight.shape, np.nan), where=known)
    variance = np.divide(square, weight**2, out=np.full(weight.shape, np.inf), where=known)
    return TransmissionImage(
        transmission=transmission.astype(np.float32),
        std=np.sqrt(variance).astype(np.float32),
        first_line=rows[0],
        lines_per_row=grid.lines_per_row,
        tau_first_samples=tau[0],
        columns_per_sample=grid.columns_per_sample,
        saturated=int(fits[:, 6].sum()),
    )


# Light at the edge of the usable part counts this much of the peak's weight.
LIT_FLOOR = 0.08**2
