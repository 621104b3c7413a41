"""Screen rows of lines for anything that is not the empty line, as fast as memory is read.

The first look at every sample. A row is the sum of four lines, less what the empty line makes of it at the row's
sub-sample phase; where a box of neighbouring samples deviates by more than noise, pulse energy and timing explain,
the row is flagged. Only what lies near a flagged row is looked at closely (:mod:`.detect`).
"""

from dataclasses import dataclass

import numpy as np

from . import _screen_kernels
from ._screen_kernels import READ_VECTORS, ROW_LINES, VECTOR_BYTES
from .background import Background

# Sub-sample phases told apart; half a step is 1/32 sample. More phases say little more, and take more of the cache.
_PHASES = 16
# A box this many standard deviations off flags a row: noise does it about once in 50 000 rows.
FLAG_SIGNIFICANCE = 5.0
# Error of a row's predicted start that must not flag it [samples].
_START_SLACK_SAMPLES = 0.02
# Light that lies on a rail in empty lines is not known, but its codes are, roughly.
_ON_RAIL_VARIANCE = 16.0
# Dark samples that tell a row's baseline, and their distance from the lit part.
_BASELINE_SAMPLES, _BASELINE_GUARD = 64, 8
# What a row may be longer than four periods.
_SLACK_SAMPLES = 8


@dataclass(frozen=True)
class ScreenTables:
    """A :class:`Background` as integers for the kernel; see ``_screen_kernels``.

    A box is 2, 4 or 8 neighbouring samples of a row's four lines. They overlap by half, but those of 2 samples do not:
    with the stride s = 2, 2 or 4 samples, box k ends before sample (k + 1)·s of the line.

    arrays : tuple
        offsets, int64 (P + 1, 4): first sample of each line, after the first sample of the row, at phase 0 … P.
        expected, (C or 1, P + 1, K): what box k of the empty line adds up to, if the row's first sample is that of
        converter c; whole vectors of samples. limits, (P + 1, K): what it may deviate, beyond reach of any where it is
        not searched. int16 for samples of 8 bits, else int32.
        doublings: 1, 2 or 3; a box has 2 to this power samples.
        base_first, base_stop: even numbers, the samples of each line that tell the baseline.
        base_sums, float64 (C, P + 1): what these add up to in the empty line.
    limits : (int, int)
        The rails [codes].
    reach : int
        Samples beyond a row's start that the kernel reads.
    inverse_light : ndarray of shape (P + 1, K), float32
        1/light of each box [1/codes], 0 where it is not searched.
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
        return self.arrays[2].dtype.type

    @property
    def width(self) -> int:
        """Samples of each line that boxes and baseline lie in."""
        return max(self.arrays[2].shape[1] * max(self.box_samples // 2, 2), self.arrays[5])


def screen_tables(background: Background, columns: int, sample_bytes: int) -> ScreenTables:
    """Tables for samples of 1 or 2 bytes and a detector whose bins are ``columns`` samples wide."""
    period, profile = background.period_samples, background.profile
    doublings = 1 if columns <= 2 else 2 if columns <= 8 else 3  # about as wide as a bin
    box = 1 << doublings
    stride = max(box // 2, 2)
    vector = VECTOR_BYTES // sample_bytes
    lit = int(np.ceil(background.lit_samples))
    searched = -(-(lit + box - stride) // vector) * vector
    base = _baseline(period, lit, vector)
    width = max(searched, -(-base[1] // vector) * vector)
    phase = np.arange(_PHASES + 1) / _PHASES
    line = np.arange(ROW_LINES)
    # the first line's first sample is the row's, also where its phase rounds up to a whole sample
    offsets = np.ceil(line * period - np.minimum(phase, 1 - 1e-9)[:, None]).astype(np.int64)
    position = np.arange(stride - box, width)  # the first boxes begin before the line
    tau = (offsets - line * period + phase[:, None])[:, :, None] + position

    def boxes(values: np.ndarray) -> np.ndarray:
        return _boxes(values[..., : searched + box - stride], box)[..., ::stride]

    light, slope = profile.light_and_slope(tau)
    variance = background.variance_of(light, slope)
    variance = np.where(background.is_censored(tau), _ON_RAIL_VARIANCE * variance, variance)
    gains, zeros = np.array(background.interleave_gain), np.array(background.interleave_offset_codes)
    expected, base_sums = np.empty((gains.size, _PHASES + 1, searched // stride)), np.empty((gains.size, _PHASES + 1))
    for first in range(gains.size):
        converter = (first + offsets[:, :, None] + position) % gains.size
        codes = np.clip(zeros[converter] + gains[converter] * light, *background.code_limits).sum(axis=1)
        expected[first] = boxes(codes)
        base_sums[first] = codes[:, box - stride :][:, slice(*base)].sum(axis=1)
    mismatch = np.zeros_like(expected[0])
    if box % gains.size == 0:  # every converter is in every box: whichever comes first, the sum is nearly the same
        expected, each = expected.mean(axis=0, keepdims=True), expected
        mismatch = np.abs(each - expected).max(axis=0)
    # what one box adds up to, per line: scatter common to its samples grows with its width, noise with the root
    noise = boxes(variance).sum(axis=1)
    energy = np.square(boxes(light) * background.gain_std).sum(axis=1)
    timing = np.square(boxes(slope) * background.delay_std_samples).sum(axis=1)
    steepness = np.abs(boxes(slope).sum(axis=1))
    # the row's own start and phase are off together for its four lines
    rounding = np.square(steepness * np.hypot(_START_SLACK_SAMPLES, 1 / (_PHASES * np.sqrt(12)))) + 1 / 12
    baseline = background.noise[0] * ROW_LINES * box**2 / (base[1] - base[0])
    gain = float(np.mean(np.abs(gains)))
    limit = FLAG_SIGNIFICANCE * np.sqrt(gain**2 * (noise + energy + timing + rounding + baseline) + mismatch**2)
    sums_type = np.int16 if sample_bytes == 1 else np.int32
    most = np.iinfo(sums_type).max // 2  # no deviation gets there, and both together fit
    known = boxes(np.any(background.usable(tau), axis=1)) > 0
    known[:, : box // stride - 1] = False  # part of the line before
    in_box = gain * boxes(light).sum(axis=1)
    inverse = np.where(known & (in_box > 0), 1 / np.maximum(in_box, 1e-9), 0.0)
    arrays = (
        offsets,
        np.rint(expected).astype(sums_type),
        np.where(known, np.minimum(np.ceil(limit), most), most).astype(sums_type),
        doublings,
        *base,
        base_sums,
    )
    # a row's last vectors may begin with its last sample
    row = int(np.ceil(ROW_LINES * period)) + READ_VECTORS * vector
    reach = max(int(offsets.max()) + width, row) + _SLACK_SAMPLES
    return ScreenTables(arrays, background.code_limits, reach, inverse.astype(np.float32))


def _baseline(period: float, lit: int, vector: int) -> tuple[int, int]:
    """First and last + 1 of the samples that tell the baseline: dark ones, and as many as cost no more than that."""
    first = (lit + _BASELINE_GUARD + 1) // 2 * 2
    dark_stop = (int(period) - _BASELINE_GUARD) // 2 * 2
    if dark_stop - first >= 8:
        return first, min(dark_stop, -(-(first + _BASELINE_SAMPLES) // vector) * vector)
    return 0, int(period) // 2 * 2  # no dark gap: the mean of the whole line


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
    saturated = _screen_kernels.screen_rows(samples, origin, row_starts, tables.arrays, *tables.limits, flags)
    return flags, int(saturated)
