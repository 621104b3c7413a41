"""Screen rows of lines for anything that is not the empty line, as fast as memory is read.

The first look at every sample. A row is the sum of four lines, less what the empty line makes of it at the row's
sub-sample phase; where a box of neighbouring samples deviates by more than noise, pulse energy and timing explain,
the row is flagged. Only what lies near a flagged row is looked at closely (:mod:`.detect`).
"""

from dataclasses import dataclass

import numpy as np

from . import _screen_kernels
from ._screen_kernels import ROW_LINES
from .background import Background

# Sub-sample phases told apart; half a step is 1/128 sample.
_PHASES = 64
# A box this many standard deviations off flags a row: noise does it about once in 20 000 rows.
FLAG_SIGNIFICANCE = 5.0
# Error of a row's predicted start that must not flag it [samples].
_START_SLACK_SAMPLES = 0.02
# Light that lies on a rail in empty lines is not known, but its codes are, roughly.
_ON_RAIL_VARIANCE = 16.0
# Dark samples that tell a row's baseline, and their distance from the lit part.
_BASELINE_SAMPLES, _BASELINE_GUARD = 64, 8
# The width of the tables is a whole number of vectors.
_VECTOR = 32


@dataclass(frozen=True)
class ScreenTables:
    """A :class:`Background` as integers for the kernel; see ``_screen_kernels``.

    arrays : tuple
        Offsets, expected sums, limits, doublings, positions of the baseline.
    limits : (int, int)
        The rails [codes].
    reach : int
        Samples beyond a row's last line start that the kernel reads.
    inverse_light : ndarray of shape (phases + 1, W), float32
        1/light of a box of a row's four lines [1/codes], 0 where it is not searched.
    """

    arrays: tuple
    limits: tuple[int, int]
    reach: int
    inverse_light: np.ndarray

    @property
    def box_samples(self) -> int:
        return 1 << self.arrays[3]

    @property
    def sums_type(self) -> type:
        return self.arrays[1].dtype.type


def screen_tables(background: Background, columns: int, sample_bytes: int) -> ScreenTables:
    """Tables for samples of 1 or 2 bytes and a detector whose bins are ``columns`` samples wide."""
    period, profile = background.period_samples, background.profile
    doublings = 1 if columns <= 2 else 2 if columns <= 8 else 3  # about as wide as a bin
    box = 1 << doublings
    lit = int(np.ceil(background.lit_samples))
    dark = int(period) - lit - 2 * _BASELINE_GUARD
    if dark >= 8:
        base = (lit + _BASELINE_GUARD, lit + _BASELINE_GUARD + min(dark, _BASELINE_SAMPLES))
    else:  # no dark gap: the mean of the whole line
        base = (0, int(period))
    width = -(-base[1] // _VECTOR) * _VECTOR
    phase = np.arange(_PHASES + 1) / _PHASES
    line = np.arange(ROW_LINES)
    # the first line's first sample is the row's, also where its phase rounds up to a whole sample
    offsets = np.ceil(line * period - np.minimum(phase, 1 - 1e-9)[:, None]).astype(np.int64)
    tau = (offsets - line * period + phase[:, None])[:, :, None] + np.arange(width + box - 1)
    light, slope = profile.light_and_slope(tau)
    usable = np.any(background.usable(tau), axis=1)
    # what one box adds up to, per line: scatter common to its samples grows with its width, noise with the root
    variance = background.variance_of(light, slope)
    variance = np.where(background.is_censored(tau), _ON_RAIL_VARIANCE * variance, variance)
    noise = _boxes(variance, box).sum(axis=1)
    energy = np.square(_boxes(light, box) * background.gain_std).sum(axis=1)
    timing = np.square(_boxes(slope, box) * background.delay_std_samples).sum(axis=1)
    steepness = np.abs(_boxes(slope, box).sum(axis=1))
    # the row's own start and phase are off together for its four lines
    rounding = np.square(steepness * np.hypot(_START_SLACK_SAMPLES, 1 / (_PHASES * np.sqrt(12)))) + box / 12
    baseline = background.noise[0] * ROW_LINES * box**2 / (base[1] - base[0])
    gain = float(np.mean(np.abs(background.interleave_gain)))
    limit = FLAG_SIGNIFICANCE * gain * np.sqrt(noise + energy + timing + rounding + baseline)
    sums_type = np.int16 if sample_bytes == 1 else np.int32
    searched = _boxes(usable, box) > 0
    limit = np.where(searched, np.ceil(limit), np.iinfo(sums_type).max)
    in_box = gain * _boxes(light, box).sum(axis=1)
    inverse = np.where(searched & (in_box > 0), 1 / np.maximum(in_box, 1e-9), 0.0)
    gains, zeros = np.array(background.interleave_gain), np.array(background.interleave_offset_codes)
    low, high = background.code_limits
    expected = np.empty((gains.size, _PHASES + 1, width))
    for first in range(gains.size):
        converter = (first + offsets[:, :, None] + np.arange(width)) % gains.size
        codes = zeros[converter] + gains[converter] * light[:, :, :width]
        expected[first] = np.clip(codes, low, high).sum(axis=1)
    arrays = (
        offsets,
        np.rint(expected).astype(sums_type),
        np.minimum(limit, np.iinfo(sums_type).max).astype(sums_type),
        doublings,
        *base,
    )
    return ScreenTables(arrays, background.code_limits, int(offsets.max()) + width + 8, inverse.astype(np.float32))


def _boxes(values: np.ndarray, box: int) -> np.ndarray:
    """Sums of ``box`` neighbours along the last axis."""
    total = np.cumsum(np.pad(values, [(0, 0)] * (values.ndim - 1) + [(1, 0)]), axis=-1)
    return total[..., box:] - total[..., :-box]


def screen_rows(
    samples: np.ndarray, origin: int, row_starts: np.ndarray, tables: ScreenTables
) -> tuple[np.ndarray, int]:
    """Flag rows that hold more than the empty line; count saturated samples.

    Parameters
    ----------
    samples : ndarray of shape (S,), int8, uint8, int16 or uint16
        Waveform [codes]; ``origin`` is the digitiser's index of its first sample.
    row_starts : ndarray of shape (R + 1,), float64
        Starts of every fourth line, counted from ``samples[0]``; the last one ends the last row.
        ``tables.reach`` samples after the last row's start lie in ``samples``.

    Returns
    -------
    flags : ndarray of shape (R,), bool
    saturated : int
        Samples on a rail from the first row's first sample to the last row's end.
    """
    flags = np.zeros(row_starts.size - 1, dtype=np.bool_)
    if flags.size == 0:
        return flags, 0
    kernel = _screen_kernels.screen_rows_int16 if tables.sums_type is np.int16 else _screen_kernels.screen_rows_int32
    work = np.zeros((2, tables.arrays[1].shape[2] + 8), dtype=tables.sums_type)
    saturated = kernel(samples, origin, row_starts, tables.arrays, *tables.limits, work[0], work[1], flags)
    return flags, int(saturated)
