"""Fit single lines with the empty line: baseline, pulse energy and delay of each, on its empty positions."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from . import _kernels
from .background import Background

# Steps per sample in which light is tabled for images; between them it is a straight line.
IMAGE_STEPS = 32
# Float32 of a cache line, as many as the widest vector.
VECTOR = 16
# Dark samples that tell a row's baseline; more cost more than they tell.
_ROW_DARK_SAMPLES = 64


@dataclass(frozen=True)
class LineTables:
    """A :class:`Background` laid out for the kernels: one row per sub-sample phase of the line's first sample."""

    arrays: tuple  # scale, shift, light, slope, weight, dark_first, gram, reach; see _kernels.fit_line
    limits: tuple[float, float]
    chi2_limit: float
    width: int
    background: Background

    @cached_property
    def image(self) -> "ImageTables":
        """Tables of the same background for imaging, made when first asked for."""
        return image_tables(self.background)

    @property
    def phases(self) -> int:
        return self.arrays[2].shape[0] - 1


def aligned_zeros(shape: tuple[int, ...]) -> np.ndarray:
    """Zeros, float32, from the beginning of a cache line on: vectors across two take twice the time."""
    size = int(np.prod(shape))
    room = np.zeros(size + VECTOR, np.float32)
    ahead = -(room.ctypes.data // 4) % VECTOR
    return room[ahead : ahead + size].reshape(shape)


@dataclass(frozen=True)
class ImageTables:
    """A :class:`Background` laid out for :func:`_grid_kernels.grid_image`.

    arrays : tuple
        scale, shift : float32 (converters + K,), what turns codes into light, for a line that begins at any converter.
        light : float32 (:data:`IMAGE_STEPS`, 4, K), per fraction of a sample and whole sample: light p, its change to
        the next fraction, p / variance, and its change; the last two are 0 where either end is not usable.
        variance : float64 (K,), the largest within a sample; usable : bool (K * 256,); peak : float.
    limits : (float, float)
        The rails [codes].
    power : float64 (IMAGE_STEPS, K)
        p² / variance per fraction of a sample and whole sample, 0 where not usable.
    mean_power : float
        Its mean over the lit part of the line.
    """

    arrays: tuple
    limits: tuple[float, float]
    power: np.ndarray
    mean_power: float

    def power_at(self, tau: np.ndarray) -> np.ndarray:
        """p² / variance at positions τ [samples], to the nearest step; 0 outside the table."""
        step = np.round(np.asarray(tau) * IMAGE_STEPS).astype(np.int64)
        inside = (step >= 0) & (step < self.power.size)
        step = np.where(inside, step, 0)
        return np.where(inside, self.power[step % IMAGE_STEPS, step // IMAGE_STEPS], 0.0)


def image_tables(background: Background) -> ImageTables:
    """Tables of light, weight and usability over position, for images; some 10 ms, so once per background."""
    positions = int(np.ceil(background.lit_samples)) + 1
    nodes = np.arange(positions) + np.arange(IMAGE_STEPS + 1)[:, None] / IMAGE_STEPS
    light, variance, usable = background.profile.light(nodes), background.variance(nodes), background.usable(nodes)
    weight = light / variance
    both = usable[:-1] & usable[1:]
    light_and_weight = np.stack(
        [
            light[:-1],
            np.diff(light, axis=0),
            np.where(both, weight[:-1], 0),
            np.where(both, np.diff(weight, axis=0), 0),
        ],
        axis=1,
    )
    gains = np.array(background.interleave_gain)
    # no light and no weight up to a whole number of vectors, so that every fraction's tables begin with one
    room = -(-positions // VECTOR) * VECTOR
    converter = np.arange(_kernels.CONVERTERS + room) % gains.size
    scale = 1 / gains[converter]
    shift = np.array(background.interleave_offset_codes)[converter] * scale
    aligned = aligned_zeros((IMAGE_STEPS, 4, room))
    aligned[:, :, :positions] = light_and_weight
    fine = background.usable(np.arange(256 * positions) / 256)
    arrays = (
        scale.astype(np.float32),
        shift.astype(np.float32),
        aligned,
        variance.max(axis=0),
        fine,
        background.peak(),
    )
    low, high = background.code_limits
    power = np.where(usable, light * weight, 0.0)[:-1]
    return ImageTables(
        arrays, (float(low), float(high)), power, float(power[nodes[:-1] < background.lit_samples].mean())
    )


def line_tables(background: Background) -> LineTables:
    """Tables of light, slope and weight of the empty line over (phase, sample)."""
    profile = background.profile
    width = int(np.floor(profile.period_samples))
    grid = np.arange(profile.knots) * (profile.period_samples / profile.knots) - profile.origin_samples
    slope = profile.slope(grid)
    curvature = np.abs(np.diff(slope)).max() * profile.knots / profile.period_samples
    # half a phase step off, the line may miss its second-order term by a tenth of the noise
    phases = int(2 ** np.ceil(np.log2(np.sqrt(curvature / max(0.8 * background.noise_std_codes, 1e-9)) + 1)))
    phases = int(np.clip(phases, 8, 128))
    tau = np.arange(phases + 1)[:, None] / phases + np.arange(width)
    light, slope_rows = profile.light(tau), profile.slope(tau)
    weight = np.where(background.is_censored(tau), 0.0, 1 / background.variance(tau))
    # all positions from here on are dark, but for those without weight
    dark_first = np.count_nonzero(tau < background.lit_samples, axis=1)
    arrays = _arrays(background, light, slope_rows, weight, dark_first)
    return LineTables(
        arrays,
        (float(background.code_limits[0]), float(background.code_limits[1])),
        chi2_limit(width),
        width,
        background,
    )


def row_tables(background: Background, tables: LineTables, lines: int) -> tuple[tuple, np.ndarray, np.ndarray]:
    """The same for the sum of some consecutive lines.

    Returns
    -------
    arrays : tuple
        As in :class:`LineTables`.
    offsets : ndarray of shape (phases + 1, lines), int64
        First sample of each line that is summed, after the first line's.
    usable : ndarray of shape (phases + 1, W), bool
        Where all lines are usable.
    """
    phases = min(2 * tables.phases, 128)  # summed up, what a phase is off weighs more against the noise
    width = min(tables.width, (int(background.lit_samples) + 16 + _ROW_DARK_SAMPLES) // 16 * 16)
    phase, line = np.arange(phases + 1) / phases, np.arange(lines)
    # the first line's first sample is the row's, also where its phase rounds up to a whole sample
    offsets = np.ceil(line * background.period_samples - np.minimum(phase, 1 - 1e-9)[:, None]).astype(np.int64)
    tau = (offsets - line * background.period_samples + phase[:, None])[:, :, None] + np.arange(width)
    profile = background.profile
    censored = background.is_censored(tau).any(axis=1)
    weight = np.where(censored, 0.0, 1 / background.variance(tau).sum(axis=1))
    dark_first = np.count_nonzero(tau.min(axis=1) < background.lit_samples, axis=1)
    arrays = _arrays(background, profile.light(tau).sum(axis=1), profile.slope(tau).sum(axis=1), weight, dark_first)
    return arrays, offsets, np.all(background.usable(tau), axis=1)


def line_priors(background: Background) -> tuple[float, float]:
    """1/variance of pulse energy and of line starts [1, 1/samples²]."""
    return (1 / background.gain_std**2, 1 / background.delay_std_samples**2)


def chi2_limit(values: int) -> float:
    """Chi-square of so many values up to which they show nothing but the empty line."""
    return float(1.15 * values + 6 * np.sqrt(2 * values))


def _arrays(
    background: Background, light: np.ndarray, slope: np.ndarray, weight: np.ndarray, dark_first: np.ndarray
) -> tuple:
    """Arrays of :class:`LineTables` from those over (phase, sample)."""
    columns = np.stack([np.ones_like(light), light, slope])
    gram = np.einsum("ipj,pj,kpj->pik", columns, weight, columns)[:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    n = background.interleave_gain
    converter = np.arange(_kernels.CONVERTERS + light.shape[1]) % len(n)
    scale = 1 / np.array(n)[converter]
    shift = np.array(background.interleave_offset_codes)[converter] * scale
    arrays = tuple(
        np.ascontiguousarray(a, dtype=t)
        for a, t in (
            (scale, np.float32),
            (shift, np.float32),
            (light, np.float32),
            (slope, np.float32),
            (weight, np.float32),
            (dark_first, np.int64),
            (gram, np.float64),
        )
    )
    # a cell's faint skirt goes on beyond what is seen to differ; objects are some fraction of the line
    return (*arrays, max(2, round(background.lit_samples / 40)))


def line_fits(
    samples: np.ndarray,
    origin: int,
    starts: np.ndarray,
    tables: LineTables,
    *,
    gain_std: float,
    delay_std: float,
    for_image: bool = False,
) -> np.ndarray:
    """Fit baseline, gain and delay of lines; see :func:`_kernels.fit_lines` for the columns of the result (N, 9).

    ``for_image`` leaves out how well the fit explains the line, and is faster; see :func:`_kernels.register_lines`.
    """
    out = np.empty((starts.size, 9))
    priors = (1 / gain_std**2, 1 / delay_std**2)
    known = samples, origin, starts, tables.arrays, tables.limits, priors, tables.chi2_limit
    if for_image:
        _kernels.register_lines(*known, (0.0, 0.0), out)
    else:
        _kernels.fit_lines(*known, out)
    return out
