"""The lattice that samples and lines make: which phases are covered, how finely, and after how many lines.

Lengths along the line in samples, along the flow in lines; the phase is where on the line a line's samples fall,
modulo one sample.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Samples within this reach [samples] of a pixel are those that could sample it: one of every line.
_REACH = 0.5


@dataclass(frozen=True)
class PhaseCoverage:
    """How finely some lines together sample each spot of the line.

    lines : int
        Lines counted.
    phases : int
        Phases that differ by more than 1e-9 samples.
    largest_gap_samples : float
        Largest gap between neighbouring phases, the one around the whole sample included: at least 1/lines.
    """

    lines: int
    phases: int
    largest_gap_samples: float

    @property
    def factor(self) -> float:
        """By how much finer than one line they sample everywhere: 1/gap, at most the number of lines."""
        return 1 / self.largest_gap_samples


def phase_coverage(starts: ArrayLike) -> PhaseCoverage:
    """Coverage of the phases by lines that start there.

    Parameters
    ----------
    starts : array_like of shape (N,)
        Starts of the lines [samples], of any order; ``period * np.arange(n)`` for a steady clock.

    Returns
    -------
    coverage : PhaseCoverage

    Notes
    -----
    With a steady clock at most three different gaps occur (three-distance theorem; Sós, Ann. Univ. Sci. Budapest 1, 127
    (1958)). A period of p/q samples in lowest terms has exactly q phases, 1/q apart, after q lines.
    """
    phase = np.sort(np.mod(np.asarray(starts, dtype=float).ravel(), 1.0))
    if not phase.size:
        raise ValueError("no line starts are given")
    gaps = np.diff(np.append(phase, phase[0] + 1))
    return PhaseCoverage(phase.size, max(1, int(np.count_nonzero(gaps > 1e-9))), float(gaps.max()))


@dataclass(frozen=True)
class LocalCoverage:
    """How well each pixel of an image is sampled.

    samples : ndarray of shape (rows, columns), int64
        Known samples of the lines around, within half a sample of the pixel: one of a line at most.
    largest_gap_samples : ndarray of shape (rows, columns), float64
        Largest gap between their phases; 1 where there is but one, inf where there is none.
    """

    samples: NDArray[np.int64]
    largest_gap_samples: NDArray[np.float64]


def local_phase_coverage(
    starts: ArrayLike,
    rows: ArrayLike,
    tau: ArrayLike,
    *,
    reach_lines: float,
    known: Callable[[NDArray[np.int64], NDArray[np.float64]], NDArray[np.bool_]] | None = None,
) -> LocalCoverage:
    """Samples that a kernel finds around each pixel, and the largest gap between their phases.

    Parameters
    ----------
    starts : array_like of shape (N,)
        Starts of consecutive lines [samples].
    rows : array_like of shape (R,)
        Centre of each row of pixels [lines, counted from the first start].
    tau : array_like of shape (K,)
        Centre of each column on the line [samples].
    reach_lines : float
        Lines within this distance of a row are counted, as the kernel that makes the image reaches.
    known : callable, optional
        Called with sample indices and their places on their lines, arrays of one shape; tells which hold light that is
        known, neither saturated nor where the empty line is too dark. By default all.

    Returns
    -------
    coverage : LocalCoverage
    """
    starts, rows, tau = (np.asarray(values, dtype=float) for values in (starts, rows, tau))
    index = np.ceil(starts[:, None] + tau - _REACH).astype(np.int64)
    place = index - starts[:, None]
    usable = np.ones(index.shape, bool) if known is None else np.asarray(known(index, place), dtype=bool)
    phase = np.where(usable, np.mod(place, 1.0), np.inf)
    count = np.zeros((rows.size, tau.size), np.int64)
    gap = np.full(count.shape, np.inf)
    for i, row in enumerate(rows):
        first = max(0, int(np.ceil(row - reach_lines)))
        stop = min(starts.size, int(np.floor(row + reach_lines)) + 1)
        if stop <= first:
            continue
        some = np.sort(phase[first:stop], axis=0)
        n = np.count_nonzero(np.isfinite(some), axis=0)
        around = np.concatenate([some, np.full((1, tau.size), np.inf)])
        around[n, np.arange(tau.size)] = np.where(n > 0, some[0] + 1, np.inf)  # the first one again, a sample later
        with np.errstate(invalid="ignore"):  # between unknown ones, inf - inf
            gaps = np.diff(around, axis=0)
        count[i] = n
        gap[i] = np.where(n > 0, np.where(np.isfinite(gaps), gaps, 0).max(axis=0), np.inf)
    return LocalCoverage(count, gap)
