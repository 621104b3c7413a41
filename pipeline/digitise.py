"""Pictures as a time-stretch microscope would give them: flown past it, digitised at some rate, reconstructed.

What a collection of labelled photographs is worth at another sample rate: each picture becomes a scene, the scene
samples, and the samples images again, one super-resolved and one of the raw lines, both on the picture's own pixels.
Line clock, empty line and smoothness are measured from the samples, as ``process`` measures them, the empty line before
the first picture comes; only where the pictures lie is taken from the truth.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from ..acquisition._simulate_tiles import Tile, tiles
from ..acquisition.optics import Instrument
from ..acquisition.simulate import ordinary_instrument
from ..data.collections import Collection, CollectionError, collection_of
from ..data.image_scene import GAP_PIXELS, WIDEST_SHARE, ImageScene
from ..data.phantoms import EmptyScene, Scene
from ..sr.calibrate import Span, measure_background
from ..sr.empty_line import EmptyLine
from ..sr.line_clock import SegmentClock, measure_segment_clocks
from ..sr.methods import reach_lines
from ..sr.reconstruct import MOST_COLUMNS_PER_SAMPLE, Grid, best_kernel, kernel_scores, window_fits
from ..sr.refine import reconstruct_regularised
from .cells import raw_transmission
from .measure import Lines

#: Lines simulated at a time: memory is this, times the line period.
LINES_AT_ONCE = 1 << 15
#: A picture that takes more lines than this is not digitised.
MOST_LINES = 1 << 18

_FEWEST_LINES = 1 << 12  # from fewer, clock and empty line are not measured well
_SPANS, _SPAN_SAMPLES = 4, 1 << 19  # the empty line is measured on so many stretches of so many samples
_KERNEL_IMAGES = 16  # the smoothness is chosen on so many of the first pictures
_FINER = 2  # pixels solved for per pixel of the picture, each way
# Smooth length below which the picture's pixels, being as coarse as they are, would show more noise and no more detail:
# the finest wave that they show is damped to half (``sr.refine.SMOOTH_LENGTH``).
_LEAST_SMOOTH_PIXELS = 1 / math.pi


@dataclass(frozen=True)
class Digitised:
    """What became of one picture.

    index : int
        Its number.
    super_resolved, raw_lines : ndarray of the picture's shape, float32, or None
        Transmission on the picture's own pixels: by the regularised method, and of the lines' own samples, each line
        cut at whole samples, resized (mean of the lines and samples of a pixel, straight lines between samples further
        apart). NaN where nothing is known. None where the picture is missing.
    missing : str or None
        Why it is missing.
    """

    index: int
    super_resolved: NDArray[np.float32] | None = None
    raw_lines: NDArray[np.float32] | None = None
    missing: str | None = None


def slow_flow_instrument(sample_rate_hz: float) -> Instrument:
    """A 48 µm line of 45 ns in a flow of 0.3 m/s, lines 26 nm apart, with the faults of an ordinary instrument, 8 bits.

    Detector and amplifier pass 3 GHz at any sample rate: below 6 GSa/s detail aliases. The laser's 11.57 MHz suit a
    digitiser of 2, 3, 5 and 20 GSa/s: at each, the phases of successive lines lie evenly (``stretchscope plan``).
    """
    return ordinary_instrument(
        sample_rate_hz=sample_rate_hz,
        line_rate_hz=11.57e6,
        pulse_duration_s=45e-9,
        flow_speed_m_per_s=0.3,
        field_of_view_um=48.0,
        bits=8,
    )


def pixel_of_samples_um(instrument: Instrument, samples: float, sample_rate_hz: float = 20e9) -> float:
    """Side of a picture's pixel that is as wide as so many samples at a given rate [µm]."""
    return samples * instrument.um_per_sample * instrument.digitiser.sample_rate_hz / sample_rate_hz


def digitised_collection(
    collection: Collection, sample_rate_hz: float, progress: Callable[[str, int, int], None] | None = None
) -> Collection:
    """A collection as a microscope of some sample rate would give it, super-resolved: what a classifier meets there.

    The instrument is :func:`slow_flow_instrument`. Pictures that it cannot take whole are left out.

    Raises
    ------
    CollectionError
        If the size of the pictures' pixels is not known, or none of them fits.
    """
    if collection.pixel_um is None:
        raise CollectionError("to digitise images, the size of their pixels must be known: give --pixel-um")
    seen: list[Digitised] = []
    for one in digitise(
        lambda index: collection.read(index).clip(0, 1), len(collection), slow_flow_instrument(sample_rate_hz),
        pixel_um=collection.pixel_um,
    ):  # fmt: skip
        if one.super_resolved is not None:
            seen.append(one)
        if progress is not None:
            progress("digitising", one.index + 1, len(collection))
    if not seen:
        raise CollectionError("no image fits in the field of view of the microscope: is --pixel-um right?")
    kept = [one.index for one in seen]
    names = [collection.names[index] for index in kept]
    labels = [collection.classes[label] if label >= 0 else None for label in collection.labels[kept]]
    images = [one.super_resolved for one in seen if one.super_resolved is not None]
    return collection_of(images, labels, names=names, cells=names, pixel_um=collection.pixel_um)


def digitise(
    read: Callable[[int], NDArray[np.floating]],
    count: int,
    instrument: Instrument,
    *,
    pixel_um: float,
    seed: int = 1,
) -> Iterator[Digitised]:
    """Fly pictures past an instrument, one after the other, and make images of its samples.

    Parameters
    ----------
    read : callable
        ``read(index)`` gives picture ``index``: transmission 0 … 1, shape (rows, columns), rows along the flow.
    count : int
        Number of pictures.
    instrument : Instrument
        Optics, line clock and digitiser.
    pixel_um : float
        Side of a picture's pixel on the specimen [µm].
    seed : int, optional
        Of noise and clock.

    Yields
    ------
    Digitised
        Every picture, in order; missing ones too, which say why.

    Raises
    ------
    ValueError
        If a picture is no transmission image; SignalError, which is one, if the samples hold no measurable signal.

    Notes
    -----
    One thread; memory for :data:`LINES_AT_ONCE` lines. The instrument runs anew for each such stretch. The empty line
    is measured once, on an empty channel, and the smoothness on the first pictures: all lie in the middle of the line,
    where larger ones leave few lines empty. Same arguments, same images.
    """
    session = _Session(instrument, pixel_um, seed)
    waiting: list[tuple[int, NDArray[np.floating] | None, str | None]] = []
    lines = 0.0
    lines_per_pixel = pixel_um / instrument.optics.um_per_line
    widest = WIDEST_SHARE * instrument.optics.field_of_view_um / pixel_um
    for index in range(count):
        picture = np.asarray(read(index))
        if picture.ndim != 2:
            raise ValueError(f"image {index}: must have shape (rows, columns), got {picture.shape}")
        own = (picture.shape[0] + GAP_PIXELS) * lines_per_pixel
        if picture.shape[1] > widest:
            reason = f"{picture.shape[1]} pixels wide, and {int(widest)} lie in the light"
            waiting.append((index, None, reason))
        elif own > MOST_LINES:
            waiting.append((index, None, f"{picture.shape[0]} pixels long, {own:.3g} lines: at most {MOST_LINES}"))
        else:
            if lines and lines + own > LINES_AT_ONCE:
                yield from session.digitise(waiting)
                waiting, lines = [], 0.0
            waiting.append((index, picture, None))
            lines += own
    yield from session.digitise(waiting)


class _Session:
    """One instrument: what is measured of its first samples serves for all."""

    def __init__(self, instrument: Instrument, pixel_um: float, seed: int) -> None:
        self.instrument, self.pixel_um, self.seed = instrument, pixel_um, seed
        self.runs = 0
        self.grid: Grid | None = None

    def digitise(self, waiting: Sequence[tuple[int, NDArray[np.floating] | None, str | None]]) -> Iterator[Digitised]:
        there = {index: picture for index, picture, _ in waiting if picture is not None}
        images = iter(self._run(there) if there else ())
        for index, picture, missing in waiting:
            if picture is None:
                yield Digitised(index, missing=missing)
                continue
            pair = next(images)
            if pair is None:
                yield Digitised(index, missing="the line clock was lost")
            else:
                yield Digitised(index, *pair)

    def _run(
        self, pictures: Mapping[int, NDArray[np.floating]]
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]] | None]:
        """Super-resolved image and raw lines of each picture; None where the clock was lost."""
        optics = self.instrument.optics
        scene = ImageScene(
            list(pictures.values()).__getitem__,
            [str(index) for index in pictures],
            pixel_um=self.pixel_um,
            field_of_view_um=optics.field_of_view_um,
        )
        lines = max(_FEWEST_LINES, math.ceil(scene.length_um / optics.um_per_line))
        seen = self._simulate(scene, lines)
        samples = np.concatenate([tile.samples for tile in seen])
        true_starts = np.concatenate([tile.line_starts for tile in seen])
        background, tables = self.empty_line.background, self.empty_line.tables
        clocks = [
            _Matched.of(clock, true_starts)
            for clock in measure_segment_clocks(lambda a, b: samples[a:b], 0, samples.size, background, tables)
        ]
        windows = [self._window(scene, i, picture.shape, clocks) for i, picture in enumerate(pictures.values())]
        if self.grid is None:
            self.grid = self._choose_grid(samples, [w for w in windows if w is not None][:_KERNEL_IMAGES])
        for window in windows:
            if window is None:
                yield None
            else:
                yield self._super_resolved(samples, window), self._raw_lines(samples, window)

    def _simulate(self, scene: Scene, lines: int) -> list[Tile]:
        self.runs += 1
        return list(tiles(scene, self.instrument, (self.seed << 32) + self.runs, lines))

    @cached_property
    def empty_line(self) -> EmptyLine:
        """Measured when it is first asked for."""
        digitiser, optics = self.instrument.digitiser, self.instrument.optics
        samples = np.concatenate([tile.samples for tile in self._simulate(EmptyScene(), _FEWEST_LINES)])
        size = min(_SPAN_SAMPLES, samples.size)
        firsts = sorted({int(i) for i in np.linspace(0, samples.size - size, _SPANS)})
        spans = [Span(i, samples[i : i + size]) for i in firsts]
        gap = optics.pulse_duration_s * optics.line_rate_hz <= 0.9
        background = measure_background(
            spans, code_limits=digitiser.code_range, dark_level_codes=None if gap else digitiser.dark_codes
        )
        return EmptyLine(background, samples.dtype.itemsize)

    def _window(
        self, scene: ImageScene, index: int, shape: tuple[int, ...], clocks: Sequence["_Matched"]
    ) -> "_Window | None":
        x_um, y_um = scene.first_pixel_um(index)
        per_line, per_sample = self.instrument.optics.um_per_line, self.instrument.um_per_sample
        for matched in clocks:
            line = y_um / per_line - matched.line_shift
            step = self.pixel_um / per_line
            first, last = line - step, line + shape[0] * step
            if matched.clock.first_line <= first and last < matched.clock.first_line + matched.clock.lines:
                tau = x_um / per_sample - matched.delay_samples
                return _Window(matched.clock, line, step, tau, self.pixel_um / per_sample, (shape[0], shape[1]))
        return None

    def _choose_grid(self, samples: NDArray[np.integer], windows: Sequence["_Window"]) -> Grid:
        """Smoothness as ``process`` chooses it, from the pictures themselves, on pixels finer than theirs."""
        background, tables = self.empty_line.background, self.empty_line.tables
        scores = []
        for window in windows:
            starts = window.clock.line_start(np.arange(math.floor(window.rows[0]) - 8, math.ceil(window.rows[1]) + 9))
            scores.append(kernel_scores(samples, 0, starts, background, tables, window.tau))
        kernel = best_kernel(scores, background.period_samples, averages=False)
        samples_per_pixel = self.pixel_um / self.instrument.um_per_sample
        lines_per_pixel = self.pixel_um / self.instrument.optics.um_per_line
        return Grid(
            float(min(math.ceil(_FINER / samples_per_pixel), MOST_COLUMNS_PER_SAMPLE)),
            lines_per_pixel / _FINER,
            max(kernel[0], _LEAST_SMOOTH_PIXELS * samples_per_pixel),
            max(kernel[1], _LEAST_SMOOTH_PIXELS * lines_per_pixel),
        )

    def _lines(self, samples: NDArray[np.integer], window: "_Window", beyond: int) -> Lines:
        clock = window.clock
        first = max(clock.first_line, math.floor(window.rows[0]) - beyond)
        stop = min(clock.first_line + clock.lines, math.ceil(window.rows[1]) + beyond + 1)
        starts = clock.line_start(np.arange(first, stop + 1))
        begin = max(0, int(starts[0]) - 4)
        return Lines(samples[begin : int(starts[-1]) + 4], begin, first, starts - begin)

    def _super_resolved(self, samples: NDArray[np.integer], window: "_Window") -> NDArray[np.float32]:
        assert self.grid is not None
        background, tables, grid = self.empty_line.background, self.empty_line.tables, self.grid
        lines = self._lines(samples, window, reach_lines("regularised", grid) + 1)
        own, origin, starts = lines.for_kernels
        beside = 4 / grid.columns_per_sample  # room for the spline
        tau = window.tau[0] - beside, window.tau[1] + beside
        rows = window.rows[0], window.rows[1] + 0.5 * grid.lines_per_row
        image = reconstruct_regularised(
            own, origin, starts, lines.first_line, background, tables, grid, rows=rows, tau=tau,
            fits=window_fits(own, origin, starts, background, tables, tau),
        )  # fmt: skip
        column = (beside + np.arange(window.shape[1]) * window.samples_per_pixel) * grid.columns_per_sample
        known = image.known[::_FINER]
        values = np.where(known, image.transmission[::_FINER], np.float32(1))
        if not np.allclose(column, np.round(column), atol=1e-6):
            values = ndimage.spline_filter1d(values, order=3, axis=1, output=np.float32, mode="mirror")
            weights = _spline_weights(column, values.shape[1])
            values = values @ weights
        else:
            values = values[:, np.round(column).astype(int)]
        nearest = np.clip(np.round(column).astype(int), 0, known.shape[1] - 1)
        return np.where(known[:, nearest], values, np.float32(np.nan))

    def _raw_lines(self, samples: NDArray[np.integer], window: "_Window") -> NDArray[np.float32]:
        lines = self._lines(samples, window, math.ceil(window.lines_per_pixel))
        half = 0.5 * max(window.samples_per_pixel, 1.0)
        tau = window.tau[0] - half - 1, window.tau[1] + half + 1
        raw = raw_transmission(lines, self.empty_line.background, tau)
        row = window.rows[0] + np.arange(window.shape[0]) * window.lines_per_pixel - lines.first_line
        column = window.tau[0] + np.arange(window.shape[1]) * window.samples_per_pixel - math.floor(tau[0])
        down = _resizing(row, window.lines_per_pixel, raw.shape[0])
        across = _resizing(column, window.samples_per_pixel, raw.shape[1])
        known = np.isfinite(raw)
        support, total = (
            (across @ (down @ values.astype(np.float32)).T).T for values in (known, np.where(known, raw, 0))
        )
        mean: NDArray[np.float32] = np.divide(total, support, out=np.full_like(total, np.nan), where=support > 0.5)
        return mean


@dataclass(frozen=True)
class _Matched:
    """A measured clock and what turns true lines and positions into its own.

    line_shift : int
        True number of its line 0.
    delay_samples : float
        From a line's true start to the measured one.
    """

    clock: SegmentClock
    line_shift: int
    delay_samples: float

    @classmethod
    def of(cls, clock: SegmentClock, true_starts: NDArray[np.float64]) -> "_Matched":
        number = np.arange(clock.first_line, clock.first_line + clock.lines)
        starts = clock.line_start(number)
        middle = number.size // 2
        nearest = int(np.argmin(np.abs(true_starts - starts[middle])))
        shift = nearest - int(number[middle])
        both = (number + shift >= 0) & (number + shift < true_starts.size)
        delay = float(np.mean(starts[both] - true_starts[number[both] + shift]))
        return cls(clock, shift, delay)


@dataclass(frozen=True)
class _Window:
    """A picture's pixels on the lines and samples of a clock.

    line, tau_samples : float
        Centre of pixel (0, 0).
    lines_per_pixel, samples_per_pixel : float
    shape : (int, int)
    """

    clock: SegmentClock
    line: float
    lines_per_pixel: float
    tau_samples: float
    samples_per_pixel: float
    shape: tuple[int, int]

    @property
    def rows(self) -> tuple[float, float]:
        """Lines of the first and last row."""
        return self.line, self.line + (self.shape[0] - 1) * self.lines_per_pixel

    @property
    def tau(self) -> tuple[float, float]:
        """Positions of the first and last column."""
        return self.tau_samples, self.tau_samples + (self.shape[1] - 1) * self.samples_per_pixel


def _resizing(centres: NDArray[np.floating], width: float, count: int) -> sparse.csr_array:
    """Weights (pixels, count) of values at 0 … count - 1 in pixels of a width: means, or straight lines between."""
    away = np.abs(centres[:, None] - np.arange(count))
    if width < 1:
        return sparse.csr_array(np.maximum(1 - away, 0).astype(np.float32))
    return sparse.csr_array((np.clip(0.5 * (width + 1) - away, 0, 1) / width).astype(np.float32))


def _spline_weights(column: NDArray[np.floating], count: int) -> NDArray[np.float32]:
    """Weights (count, places) of cubic B-spline coefficients at 0 … count - 1."""
    away = np.abs(column - np.arange(count)[:, None])
    near, far = 2 / 3 - away**2 * (1 - away / 2), np.maximum(2 - away, 0.0) ** 3 / 6
    return np.where(away < 1, near, far).astype(np.float32)
