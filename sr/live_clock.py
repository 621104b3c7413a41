"""The line clock of a stream without end: locked in its first lines, followed block by block, found again when lost.

A burst of lines is measured now and then (:mod:`.line_fit`), the last one at the end of each block, and a Kalman
filter of start and period follows them; how fast it lets the clock wander is learnt from its own surprises. The
lines between two bursts start on the straight line between the filtered starts. Nothing here looks at the samples
between bursts: that is the screen's work.

All starts are kept as a whole sample and a small offset, so that they stay exact however long the stream is.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from . import _kernels, _screen_kernels
from .empty_line import EmptyLine
from .errors import SignalError
from .period import find_period
from .profile import Profile
from .tracking import correlate_start

# Lines of one measurement of the clock, and most lines from one to the next.
BURST_LINES = 32
MOST_LINES_BETWEEN = 4096
# Uncertainty of the predicted start up to which the next burst may wait [samples].
_PULL_IN_SAMPLES = 0.05
# Standard deviation of the period when the clock sets out, as a share of it.
_FIRST_PERIOD_STD = 1e-5
# Bursts, one right after the other, that must agree before the clock counts as locked, and lines without any that
# shows it after which it is lost: cells and droplets hide fewer.
_BURSTS_TO_LOCK, _LINES_TO_LOSE = 4, 512
# A burst further off than this is none of the clock's [samples]; nor is one that shows the clock in so few lines.
_FURTHEST_SAMPLES, _LEAST_LINES_SHARE = 0.5, 0.2
# Least correlation of some lines with the empty line where the clock is looked for.
_LEAST_CORRELATION = 0.7
# Light of a line, of an empty line's, below which the laser is off.
_DARK_SHARE = 0.3
# Most bursts of a block, and places in a block at which a lost clock is looked for.
_MOST_KNOTS, _TRIES_PER_BLOCK = 4096, 8
# Blocks with light in which the clock was looked for in vain, after which the empty line itself must have changed.
_BLOCKS_IN_VAIN = 4
# Least wander the filter allows for, as variance per burst interval: start [samples²] and period [samples²/line²].
_START_WALK, _PERIOD_WALK = (3e-4) ** 2, (1e-7) ** 2
_MOST_WALK_SCALE = 1e8
# Changes that the empty line follows: pulse energy and baseline, in shares of their scatter from line to line and of
# the noise; and the period, in samples. Slow changes, averaged over this many bursts.
_GAIN_STEP, _BASELINE_STEP, _PERIOD_STEP_SAMPLES = 2.0, 1.0, 0.005
_SLOW_BURSTS = 8
# A change of the period by less than this may stretch the line's shape [samples].
_STRETCH_SAMPLES = 0.01
# A period that changed by such a share, while the clock was lost, is looked for, in so many lines.
_LEAST_PERIOD_JUMP, _MOST_PERIOD_JUMP, _PERIOD_LINES = 1e-5, 0.02, 256
# A gain that changed by more than this at once, while the clock was lost, is looked for.
_GAIN_JUMP = 0.03
# With more of the samples on a rail than this leaves, the empty line cannot be told from the one before.
_LEAST_CLEAR_SHARE = 0.8


@dataclass(frozen=True)
class LockedLines:
    """Lines of one block whose starts are known: ``first_line`` … ``stop_line`` - 1, which all start in the block.

    knot_line : ndarray of shape (K,), int64
        Line numbers, ascending; the first at most ``first_line``, the last at least ``stop_line``.
    knot_start : ndarray of shape (K,), float64
        Their starts [samples after the block's first one]; other lines lie on the straight lines between.
    continues : bool
        Whether the lines before, in the block before, belong to the same unbroken count.
    empty_line : EmptyLine
        What their empty positions look like.
    """

    first_line: int
    stop_line: int
    knot_line: np.ndarray
    knot_start: np.ndarray
    continues: bool
    empty_line: EmptyLine

    def line_start(self, line: np.ndarray) -> np.ndarray:
        """Starts of lines from the first knot to the last [samples after the block's first one]; float64."""
        return np.interp(line, self.knot_line, self.knot_start)

    def starts(self, first_line: int, step: int, count: int) -> np.ndarray:
        """The same of every ``step``-th line."""
        return _screen_kernels.starts_between(self.knot_line, self.knot_start, first_line, step, count)


class TrackingClock:
    """Follows the line clock through consecutive blocks of a stream; one thread at a time.

    Parameters
    ----------
    empty_line : EmptyLine
        What to look for; see ``sr.calibrate.measure_background``.

    Attributes
    ----------
    empty_line : EmptyLine
        What an empty line looks like now.
    locked : bool
    losses : int
        How many times the lock was lost.
    """

    def __init__(self, empty_line: EmptyLine) -> None:
        self.empty_line = empty_line
        self.locked = False
        self.losses = 0
        # the filter: line number and place of the block's first sample from which its lines and start are counted
        self._state = np.zeros(10)
        self._state[_kernels.PERIOD] = empty_line.background.period_samples
        self._line = 0
        self._index = 0
        self._end_index: int | None = None
        self._next_line = 0
        self._blocks_in_vain = 0
        self._held = np.empty(0, dtype=np.int8)
        self._fits = np.empty((BURST_LINES, 9))
        self._knots = np.empty((_MOST_KNOTS, 3))

    @property
    def period_samples(self) -> float:
        return float(self._state[_kernels.PERIOD])

    @property
    def lines(self) -> int:
        """Lines counted so far, those estimated while the clock was lost included."""
        return self._next_line

    @property
    def in_vain(self) -> bool:
        """Whether there is light that the empty line does not explain: measure it anew."""
        return self._blocks_in_vain >= _BLOCKS_IN_VAIN

    def replace_empty_line(self, empty_line: EmptyLine) -> None:
        """Look for another empty line from the next block on; the count of lines goes on."""
        self._lose()
        self.empty_line = empty_line
        self._blocks_in_vain = 0

    def follow(self, samples: np.ndarray, index: int) -> list[LockedLines]:
        """Follow the clock through a block.

        Parameters
        ----------
        samples : ndarray of shape (S,)
            The block [codes].
        index : int
            The digitiser's index of its first sample; where it is not the end of the block before, samples are
            missing.

        Returns
        -------
        locked : list of LockedLines
            Stretches of lines that start in this block, in order; empty where there is no lock.

        Raises
        ------
        ValueError
            If the block lies before the end of the one before.

        Notes
        -----
        Of blocks too short to lock in, the clock keeps what it needs of the samples before.
        """
        if self._end_index is not None and index < self._end_index:
            raise ValueError(f"the block at sample {index} begins before the end of the one before, {self._end_index}")
        continues = self._end_index == index
        self._end_index = index + samples.size
        seen, before = self._with_held(samples, continues)
        self._state[_kernels.START] += self._index - (index - before)
        self._index = index - before
        if self.locked and not continues:
            self._leap()
        found: list[LockedLines] = []
        position, tried, tries = 0, False, 0
        while True:
            if not self.locked:
                begin = self._lit_from(seen, position)
                if begin is None:
                    break
                tried, continues = True, False
                if not self._acquire(seen, begin, thorough=tries % _TRIES_PER_BLOCK == 0):
                    step = 2 * BURST_LINES * self.empty_line.background.period_samples * 2**tries
                    position = begin + math.ceil(min(step, max(seen.size // _TRIES_PER_BLOCK, 1)))
                    tries += 1
                    continue
            lines, lost_at = self._follow_locked(seen, before, continues)
            if lines is not None:
                found.append(lines)
            if lost_at < 0:
                break
            position, tries = max(lost_at, position) + math.ceil(BURST_LINES * self.period_samples), 0
        self._blocks_in_vain = self._blocks_in_vain + 1 if tried and not found else 0
        return found

    def _with_held(self, samples: np.ndarray, continues: bool) -> tuple[np.ndarray, int]:
        """The block behind what is held of the samples before, if it is short, and how many samples that are."""
        enough = math.ceil(2 * BURST_LINES * (_BURSTS_TO_LOCK + 1) * self.empty_line.background.period_samples)
        held = self._held[max(0, samples.size + self._held.size - enough) :] if continues else self._held[:0]
        if held.size:
            samples = np.concatenate([held, samples])
            samples.flags.writeable = False  # as blocks are: kernels are compiled for either
        self._held = samples[-enough:].copy() if samples.size - held.size < enough else samples[:0]
        return samples, held.size

    def _leap(self) -> None:
        """Over missing samples: the clock goes on where it is due, if that is sure enough, else it is lost."""
        state = self._state
        missed = max(0, math.ceil(-state[_kernels.START] / state[_kernels.PERIOD]))
        if _kernels.variance_after(state, float(missed), self._rules()) > (4 * _PULL_IN_SAMPLES) ** 2:
            self._lose()
            return
        _kernels.predict_start(state, missed, self._rules())
        state[_kernels.SINCE] = 0  # the lines that are missing have hidden nothing
        self._count_lines()
        self._next_line = self._line

    def _count_lines(self) -> None:
        """Make the state count from the line it is at."""
        self._line += round(self._state[_kernels.LINES])
        self._state[_kernels.LINES] = 0

    def _rules(self) -> tuple[float, ...]:
        return (
            _PULL_IN_SAMPLES**2, float(MOST_LINES_BETWEEN), _START_WALK, _PERIOD_WALK, _FURTHEST_SAMPLES,
            _LEAST_LINES_SHARE, _MOST_WALK_SCALE, float(_SLOW_BURSTS), float(_LINES_TO_LOSE),
            _DARK_SHARE * self.empty_line.contrast_codes,
        )  # fmt: skip

    def _arguments(self, samples: np.ndarray) -> tuple:
        """What the kernels that measure bursts take first."""
        tables, gain_std = self.empty_line.tables, 3 * self.empty_line.background.gain_std
        return (
            samples, self._index % _kernels.CONVERTERS, self._state, tables.arrays, tables.limits,
            (1 / gain_std**2, 1.0), tables.chi2_limit, self._rules(), self._fits,
        )  # fmt: skip

    def _follow_locked(self, samples: np.ndarray, begin: int, continues: bool) -> tuple[LockedLines | None, int]:
        """Follow a locked clock to the block's end, or to the sample (else -1) at which it is lost.

        The block begins ``begin`` samples after ``samples[0]``.
        """
        state = self._state
        before = (self._line, state[_kernels.START], state[_kernels.PERIOD])
        arguments = (*self._arguments(samples), self._knots)
        count, lost_at = _kernels.follow_bursts(*arguments)
        found = self._knots[:count].copy()
        line = np.concatenate([[before[0]], before[0] + found[:, 0].astype(np.int64)])
        start = np.concatenate([[before[1]], found[:, 1]])
        period = float(found[-1, 2]) if count else float(before[2])
        if lost_at >= 0:
            stop_line = int(line[-1])
            self._count_lines()
            self._lose()
        else:
            stop_line = int(line[-1]) + math.ceil((samples.size - start[-1]) / period)
            self._count_lines()
            self._follow_changes()
        # beyond the last knot with the last period
        line = np.append(line, max(stop_line, int(line[-1]) + 1))
        start = np.append(start, start[-1] + (line[-1] - line[-2]) * period) - begin
        first_line = self._next_line
        if not continues:  # what came before the block is over, though the clock was found there
            first_line = max(first_line, _first_from(0.0, line, start))
        self._next_line = max(stop_line, self._next_line)
        if stop_line <= first_line:
            return None, lost_at
        return LockedLines(first_line, stop_line, line, start, continues, self.empty_line), lost_at

    def _follow_changes(self) -> None:
        """Let the empty line follow slow changes of light, baseline and period; the lock is kept."""
        state, background = self._state, self.empty_line.background
        gain, baseline = float(state[_kernels.GAIN]), float(state[_kernels.BASELINE])
        if (
            abs(gain - 1) < _GAIN_STEP * background.gain_std
            and abs(baseline) < _BASELINE_STEP * background.noise_std_codes
            and abs(self.period_samples - background.period_samples) < _PERIOD_STEP_SAMPLES
        ):
            return
        self.empty_line = _changed(self.empty_line, gain, baseline, self.period_samples)
        state[_kernels.GAIN], state[_kernels.BASELINE] = 1.0, 0.0

    def _lose(self) -> None:
        self.losses += self.locked
        self.locked = False

    def _lit_from(self, samples: np.ndarray, position: int) -> int | None:
        """The next place from which the light is on, with room to lock; None where there is none in the block."""
        period = self.empty_line.background.period_samples
        least_std = _DARK_SHARE * self.empty_line.contrast_codes
        last = samples.size - math.ceil(BURST_LINES * (_BURSTS_TO_LOCK + 1) * period)
        for place in range(position, max(last, 0), math.ceil(2 * BURST_LINES * period)):
            if not _kernels.is_dark(samples, place, place + math.ceil(2 * period), least_std):
                return place
        return None

    def _acquire(self, samples: np.ndarray, position: int, *, thorough: bool) -> bool:
        """Find the clock from ``position`` on: by correlation, then by bursts that follow each other.

        ``thorough``: at another period too.
        """
        known = self.empty_line
        if self._acquire_known(samples, position):
            return True
        changed = self._at_other_period(samples[position:]) if thorough else None
        if changed is not None:
            self.empty_line = changed
            if self._acquire_known(samples, position):
                return True
            self.empty_line = known
        return False

    def _acquire_known(self, samples: np.ndarray, position: int) -> bool:
        known, state = self.empty_line, self._state
        window = samples[position : position + math.ceil((BURST_LINES + 2) * known.background.period_samples)]
        offset, correlation = correlate_start(window, known.background, lines=BURST_LINES // 2)
        if correlation < _LEAST_CORRELATION:
            return False
        start = position + float(offset)
        passed = round((start - state[_kernels.START]) / state[_kernels.PERIOD]) if self._next_line else 0
        line = self._line + passed
        if self._lock(samples, line, start):
            return True
        changed = self._after_jump(window, float(offset), (self._index + position) % _kernels.CONVERTERS)
        if changed is not None:
            self.empty_line = changed
            if self._lock(samples, line, start):
                return True
            self.empty_line = known
        return False

    def _lock(self, samples: np.ndarray, line: int, start: float) -> bool:
        """Lock to a line that starts there, if some bursts from it on agree."""
        state, held = self._state, self._state.copy()
        period = self.empty_line.background.period_samples
        state[:] = (start, period, 0.1**2, 0.0, (_FIRST_PERIOD_STD * period) ** 2, 1.0, 1.0, 0.0, 0.0, 0.0)
        arguments = self._arguments(samples)
        for burst in range(_BURSTS_TO_LOCK):
            if burst:
                _kernels.predict_start(state, BURST_LINES, self._rules())
            if not _kernels.measure_burst(*arguments):
                state[:] = held
                return False
            if burst == 0:
                self._lean_period()
        # from its first line on, with what is known now
        back = state[_kernels.LINES]
        state[_kernels.START] -= back * state[_kernels.PERIOD]
        state[_kernels.VARIANCE] = _kernels.variance_after(state, back, self._rules())
        state[_kernels.LINES] = 0
        self._line = line
        self.locked = True
        return True

    def _lean_period(self) -> None:
        """Set the period by how the delays of the burst just measured lean, where that is sure."""
        fits, state = self._fits, self._state
        good = np.isfinite(fits[:, 1]) & (fits[:, 2] > _kernels.LEAST_SHARE) & (np.abs(fits[:, 0]) < 1.0)
        if good.sum() < BURST_LINES // 2:
            return
        n, delay, weight = np.flatnonzero(good).astype(float), fits[good, 0], 1 / fits[good, 1]
        n -= np.average(n, weights=weight)
        lean = float(np.sum(weight * n * delay) / np.sum(weight * n * n))
        scatter = delay - np.average(delay, weights=weight) - lean * n
        variance = float(np.mean(scatter**2) / np.sum(n * n))
        if lean * lean > 16 * variance:
            state[_kernels.PERIOD] += lean
            state[_kernels.PERIOD_VARIANCE] = max(state[_kernels.PERIOD_VARIANCE], variance)

    def _at_other_period(self, samples: np.ndarray) -> EmptyLine | None:
        """The empty line at the period seen now, where that is another one."""
        period = self.empty_line.background.period_samples
        few = samples[: math.ceil(_PERIOD_LINES * period)]
        if few.size < BURST_LINES * period:
            return None
        try:
            seen, _ = find_period(few)
        except SignalError:
            return None
        if not _LEAST_PERIOD_JUMP < abs(seen / period - 1) < _MOST_PERIOD_JUMP:
            return None
        return _changed(self.empty_line, 1.0, 0.0, seen)

    def _after_jump(self, window: np.ndarray, offset: float, converter: int) -> EmptyLine | None:
        """The empty line scaled to what is seen now, where the light or the digitiser's gain has jumped."""
        background = self.empty_line.background
        k = np.arange(window.size)
        gains = np.array(background.interleave_gain)
        turn = (k + converter) % gains.size
        light = (window - np.array(background.interleave_offset_codes)[turn]) / gains[turn]
        low, high = background.code_limits
        clear = (window > low) & (window < high)
        if np.mean(clear) < _LEAST_CLEAR_SHARE:
            return None
        model = background.profile.light(k - offset)
        slope, zero = np.polyfit(model[clear], light[clear], 1)
        if abs(slope - 1) < _GAIN_JUMP or not 0.1 < slope < 10:
            return None
        return _changed(self.empty_line, float(slope), float(zero), background.period_samples)


def _with_period(profile: Profile, period_samples: float, lit_samples: float) -> Profile:
    """A profile whose lines follow each other at another distance; its light keeps its shape, the dark gap does not."""
    stretched = replace(profile, period_samples=period_samples)
    gap = profile.period_samples - lit_samples
    longer = period_samples - profile.period_samples
    if abs(longer) < _STRETCH_SAMPLES or gap < 2 * abs(longer) + _STRETCH_SAMPLES:
        return stretched
    tau = np.arange(profile.knots) * (period_samples / profile.knots) - profile.origin_samples
    tau = (tau + 0.5 * gap) % period_samples - 0.5 * gap  # the cut lies in the middle of the gap
    light = profile.light(np.minimum(tau, profile.period_samples - 0.5 * gap))
    unit = replace(stretched, coefficients=np.zeros(profile.knots))
    unit.coefficients[0] = 1.0
    at_knots = unit.light(np.arange(profile.knots) * (period_samples / profile.knots) - profile.origin_samples)
    coefficients = np.fft.irfft(np.fft.rfft(light) / np.fft.rfft(at_knots), profile.knots)
    return replace(stretched, coefficients=coefficients)


def _first_from(sample: float, line: np.ndarray, start: np.ndarray) -> int:
    """The first line that starts at a sample or after it, by knots."""
    return math.ceil(np.interp(sample, start, line))


def _changed(empty_line: EmptyLine, gain: float, baseline_codes: float, period_samples: float) -> EmptyLine:
    """The empty line with its light multiplied, its zero raised [codes of light], at another period."""
    background = empty_line.background
    profile = _with_period(background.profile, period_samples, background.lit_samples)
    profile = replace(profile, coefficients=profile.coefficients * gain)
    offsets = tuple(
        o + g * baseline_codes
        for o, g in zip(background.interleave_offset_codes, background.interleave_gain, strict=True)
    )
    dark = None if background.dark_level_codes is None else float(np.mean(offsets))
    changed = replace(background, profile=profile, interleave_offset_codes=offsets, dark_level_codes=dark)
    return EmptyLine(changed, empty_line.sample_bytes)
