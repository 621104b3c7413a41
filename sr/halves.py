"""Two images of one window, each from half of the lines: what both show is there, what only one shows is noise."""

from dataclasses import dataclass

import numpy as np

from .background import Background
from .line_fit import LineTables, line_fits
from .reconstruct import Grid, Method, TransmissionImage, reconstruct
from .sampling import phase_coverage

# Ways to deal lines to two halves, the simplest first. A later one must leave gaps this much smaller to be taken.
_PATTERNS = ((0, 1), (0, 0, 1, 1), (0, 1, 1, 0))
_WORTHWHILE = 0.8


@dataclass(frozen=True)
class Halves:
    """How lines are dealt to two halves.

    pattern : tuple of 0 and 1
        Half of line n is ``pattern[n % len(pattern)]``: (0, 1) for even and odd lines.
    largest_gap_samples : float
        Largest gap between the phases of one half's lines in the kernel. Detail along the line with a period below
        twice that is not sampled by a half alone.
    """

    pattern: tuple[int, ...]
    largest_gap_samples: float

    @property
    def finest_lines(self) -> float:
        """Finest period along the flow that a half samples: twice the way from one of its groups to the next."""
        return 2.0 * len(self.pattern)


def deal_lines(period_samples: float, kernel_lines: int) -> Halves:
    """Even and odd lines, or pairs where that leaves smaller gaps between phases in each half.

    With a period near a whole number of samples and a half, even lines all have nearly one phase, and odd lines
    another: each half would show the pattern of its own sampling.
    """
    lines = np.arange(max(4, kernel_lines))
    choices = []
    for pattern in _PATTERNS:
        half = np.array(pattern)[lines % len(pattern)]
        gap = max(phase_coverage(period_samples * lines[half == side]).largest_gap_samples for side in (0, 1))
        choices.append(Halves(pattern, gap))
    best = choices[0]
    for choice in choices[1:]:
        if choice.largest_gap_samples < _WORTHWHILE * best.largest_gap_samples:
            best = choice
    return best


def images_of_halves(
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
    pattern: tuple[int, ...] = (0, 1),
    method: Method = reconstruct,
) -> tuple[TransmissionImage, TransmissionImage]:
    """Images of a window from two halves of its lines, on the same pixels, with the same kernel.

    Parameters
    ----------
    samples, origin, starts, first_line, background, tables, grid, rows, tau
        As in :func:`reconstruct`.
    pattern : tuple of 0 and 1, optional
        How lines are dealt, see :class:`Halves`; even and odd lines by default.
    method : Method, optional
        How the images are made.

    Returns
    -------
    first, second : TransmissionImage
        No sample serves both. On detail finer than a half samples, see :class:`Halves`, they may agree by sharing their
        aliases, or disagree by opposite ones: such frequencies say nothing.
    """
    fits = line_fits(
        samples, origin, starts, tables, gain_std=background.gain_std, delay_std=background.delay_std_samples,
        for_image=True,
    )  # fmt: skip
    half = np.array(pattern)[(first_line + np.arange(starts.size)) % len(pattern)]
    images = []
    for side in (0, 1):
        own = fits.copy()
        own[half != side, 1] = np.inf  # a line of unknown delay serves no image
        own[half != side, 6] = 0  # nor do its samples on a rail count
        images.append(
            method(
                samples, origin, starts, first_line, background, tables, grid, rows=rows, tau=tau, fits=own
            )
        )  # fmt: skip
    return images[0], images[1]
