"""The lattice that samples and lines make: which phases are covered, how finely, and after how many lines.

Lengths along the line in samples, along the flow in lines; the phase is where on the line a line's samples fall,
modulo one sample.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Phases further apart than this many standard deviations of the kernel show as a comb along edges.
WIDEST_GAP = 2.3
#: Full width at half maximum of a Gaussian, in standard deviations.
FWHM = 2 * math.sqrt(2 * math.log(2))
# A resolution that is coarser by less than this is as good.
_AS_FINE = 0.01
#: Samples within this reach [samples] of a pixel are those that could sample it: one of every line.
_REACH = 0.5


def gaussian_response(samples_per_bandwidth: float) -> float:
    """Standard deviation [samples] of the Gaussian response whose −3 dB bandwidth is the sample rate over this many."""
    return math.sqrt(math.log(2)) / (2 * math.pi) * samples_per_bandwidth


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


@dataclass(frozen=True)
class Lattice:
    """Where an instrument's samples lie on the specimen, and what that lets one see.

    period_samples : float
        Line period T.
    um_per_sample, um_per_line : float
        Steps of the lattice along the line and along the flow [µm].
    detector_um : float
        Width of the detector's response on the specimen, full at half maximum; 0 where it is not known.
    optical_um : float
        The same of the optics.
    """

    period_samples: float
    um_per_sample: float
    um_per_line: float
    detector_um: float = 0.0
    optical_um: float = 0.0

    @classmethod
    def of_instrument(
        cls,
        *,
        sample_rate_hz: float,
        line_rate_hz: float,
        flow_speed_m_per_s: float,
        field_of_view_um: float,
        pulse_duration_s: float,
        bandwidth_hz: float | None = None,
        optical_um: float = 0.0,
    ) -> "Lattice":
        """Lattice of an instrument with a field of view that lies on a stretched pulse of some duration.

        ``bandwidth_hz`` is the -3 dB bandwidth of detector and digitiser, with a Gaussian response: 0.312 / bandwidth
        wide at half maximum, and 0.34 / bandwidth from 10 % to 90 % of an edge.
        """
        um_per_s = field_of_view_um / pulse_duration_s
        return cls(
            period_samples=sample_rate_hz / line_rate_hz,
            um_per_sample=um_per_s / sample_rate_hz,
            um_per_line=1e6 * flow_speed_m_per_s / line_rate_hz,
            detector_um=0.0 if bandwidth_hz is None else FWHM * gaussian_response(um_per_s / bandwidth_hz),
            optical_um=optical_um,
        )

    @property
    def even_lines(self) -> int:
        """Lines whose samples, evenly spread, lie as far apart along the line as these lines reach along the flow."""
        return max(1, round(math.sqrt(self.um_per_sample / self.um_per_line)))

    def coverage(self, lines: int) -> PhaseCoverage:
        """Phases that so many successive lines cover."""
        return phase_coverage(self.period_samples * np.arange(lines))

    def resolution_um(self, lines: int) -> tuple[float, float]:
        """Expected resolution along the line and along the flow, full widths at half maximum [µm].

        Notes
        -----
        Of an image gridded from so many lines at a time, with a Gaussian kernel of half as many lines (standard
        deviation) and as wide along the line as the largest gap between phases allows, gap/2.3; widths of kernel,
        detector and optics add in squares. Noise may ask for a wider kernel.
        """
        along = FWHM * self.coverage(lines).largest_gap_samples / WIDEST_GAP * self.um_per_sample
        across = FWHM * lines / 2 * self.um_per_line
        return math.hypot(along, self.detector_um, self.optical_um), math.hypot(across, self.optical_um)

    def lines_for(self, factor: float, most: int) -> int | None:
        """Fewest lines that sample every spot so many times more finely than one; None if ``most`` do not."""
        if self.coverage(most).factor < factor * (1 - 1e-9):
            return None
        low, high = 1, most  # more lines never leave a larger gap
        while low < high:
            middle = (low + high) // 2
            if self.coverage(middle).factor < factor * (1 - 1e-9):
                low = middle + 1
            else:
                high = middle
        return low

    def best_lines(self, most: int) -> int:
        """Fewest lines at which the coarser of the two axes is as fine as with any number of them, within 1 %."""
        coarser = [max(self.resolution_um(lines)) for lines in range(1, most + 1)]
        allowed = (1 + _AS_FINE) * min(coarser)
        return next(lines for lines, width in enumerate(coarser, 1) if width <= allowed)


@dataclass(frozen=True)
class Convergent:
    """A fraction that a line period is close to: ``denominator`` lines on, the phase has moved by ``slip_samples``."""

    numerator: int
    denominator: int
    slip_samples: float


def convergents(period_samples: float, most_lines: int) -> list[Convergent]:
    """Best rational approximations of a line period, up to a denominator: its continued fraction, cut off.

    Phases recur nearly after each denominator. A clock locked to the laser ends the list, with slip 0.
    """
    found: list[Convergent] = []
    numerators, denominators, rest = (1, math.floor(period_samples)), (0, 1), period_samples % 1.0
    while denominators[1] <= most_lines:
        slip = denominators[1] * period_samples - numerators[1]
        found.append(Convergent(numerators[1], denominators[1], slip))
        if abs(slip) < 1e-9 * denominators[1] or rest < 1e-9:
            break
        whole, rest = math.floor(1 / rest), 1 / rest % 1.0
        numerators = numerators[1], whole * numerators[1] + numerators[0]
        denominators = denominators[1], whole * denominators[1] + denominators[0]
    return found


#: Clocks that are less even than this are worth a warning.
EVEN_ENOUGH = 0.5
# A clock that is suggested is at least so even. The golden ratio's evenness lies between 0.66 and 0.78.
_EVEN_WELL = 0.62


def evenness(period_samples: float, lines: int) -> float:
    """How evenly the phases of about so many lines lie, 0 … 1.

    Mean, over numbers of lines from ``lines`` to twice as many (some ten of them), of the gap that as many evenly
    spread phases would leave over the largest one there is. One number of lines alone may be lucky.
    """
    counts = np.unique(np.linspace(lines, 2 * lines, 10).round()).astype(int)
    return float(np.mean([phase_coverage(period_samples * np.arange(n)).factor / n for n in counts]))


def nearest_even_period(period_samples: float, lines: int, *, relative_tolerance: float = 1e-6) -> float:
    """Line period closest to one given whose phases lie evenly for about so many lines.

    Parameters
    ----------
    period_samples : float
    lines : int
        Lines used at a time.
    relative_tolerance : float, optional
        Relative error of the period that must do no harm.

    Returns
    -------
    period_samples : float
        In thousandths of a sample, within half a sample of the one given. Where none of these is even enough, the
        golden ratio, the worst to approximate by fractions, stands in.
    """
    off = relative_tolerance * period_samples
    nearest = round(1000 * period_samples)
    for step in range(501):
        for candidate in ((nearest + step) / 1000, (nearest - step) / 1000):
            if all(evenness(p, lines) >= _EVEN_WELL for p in (candidate, candidate - off, candidate + off)):
                return candidate
    return math.floor(period_samples) + (math.sqrt(5) - 1) / 2
