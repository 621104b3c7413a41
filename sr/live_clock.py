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

from . import _kernels
from .empty_line import EmptyLine
from .tracking import correlate_start

# Lines of one measurement of the clock, and most lines from one to the next.
BURST_LINES = 32
MOST_LINES_BETWEEN = 2048
# Uncertainty of the predicted start up to which the next burst may wait [samples].
_PULL_IN_SAMPLES = 0.05
# Standard deviation of the period when the clock sets out, as a share of it.
_FIRST_PERIOD_STD = 1e-5
# Bursts, one right after the other, that must agree before the clock counts as locked, and missed ones that end it.
_BURSTS_TO_LOCK, _MISSES_TO_LOSE = 4, 3
# A burst further off than this is none of the clock's [samples]; nor is one that shows the clock in so few lines.
_FURTHEST_SAMPLES, _LEAST_LINES_SHARE = 0.5, 0.2
# Least correlation of some lines with the empty line where the clock is looked for.
_LEAST_CORRELATION = 0.7
# Light of a line, of an empty line's, below which the laser is off.
_DARK_SHARE = 0.3
# Blocks with light in which the clock was looked for in vain, after which the empty line itself must have changed.
_BLOCKS_IN_VAIN = 4
# Least wander the filter allows for, as variance per burst interval: start [samples²] and period [samples²/line²].
_START_WALK, _PERIOD_WALK = (2e-4) ** 2, (1e-7) ** 2
_MOST_WALK_SCALE = 1e8
# Changes that the empty line follows: pulse energy and baseline, in shares of their scatter from line to line and of
# the noise; and the period, in samples. Slow changes, averaged over this many bursts.
_GAIN_STEP, _BASELINE_STEP, _PERIOD_STEP_SAMPLES = 0.5, 0.25, 0.005
_SLOW_BURSTS = 64
_BURST = np.arange(BURST_LINES)
# A gain that changed by more than this at once, while the clock was lost, is looked for.
_GAIN_JUMP = 0.03


@dataclass(frozen=True)
class LockedLines:
    """Lines of one block whose starts are known: ``first_line`` … ``stop_line`` - 1, which all start in the block.

    knot_line : ndarray of shape (K,), int64
        Line numbers, ascending; the first at most ``first_line``, the last at least ``stop_line`` - 1.
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
        """Starts of lines [samples after the block's first one], the outer straight lines continued; float64."""
        n = np.asarray(line, dtype=np.float64)
        i = np.clip(np.searchsorted(self.knot_line, n, side="right") - 1, 0, self.knot_line.size - 2)
        period = np.diff(self.knot_start) / np.diff(self.knot_line)
        return self.knot_start[i] + (n - self.knot_line[i]) * period[i]


class TrackingClock:
    """Follows the line clock through consecutive blocks of a stream; one thread at a time.

    Parameters
    ----------
    empty_line : EmptyLine
        What to look for; see ``sr.calibrate.measure_background``.

    Attributes
    ----------
    locked : bool
    period_samples : float
    lines : int
        Next line's number: lines counted so far, those estimated while the clock was lost included.
    losses : int
        How many times the lock was lost.
    in_vain : bool
        Whether there is light that the empty line does not explain: measure it anew.
    """

    def __init__(self, empty_line: EmptyLine) -> None:
        self.empty_line = empty_line
        self.locked = False
        self.losses = 0
        self._line = 0
        self._origin = 0  # the filter's start is this sample and an offset
        self._start = 0.0
        self._period = empty_line.background.period_samples
        self._covariance = np.zeros(3)
        self._walk_scale = 1.0
        self._expected_index: int | None = None
        self._next_line = 0
        self._misses = 0
        self._blocks_in_vain = 0
        self._gain, self._baseline = 1.0, 0.0
        self._fits = np.empty((BURST_LINES, 9))
        self._mean = np.empty(4)

    @property
    def period_samples(self) -> float:
        return self._period

    @property
    def lines(self) -> int:
        return self._next_line

    @property
    def in_vain(self) -> bool:
        return self._blocks_in_vain >= _BLOCKS_IN_VAIN

    def replace_empty_line(self, empty_line: EmptyLine) -> None:
        """Look for another empty line from the next block on; the count of lines goes on."""
        self._lose()
        self.empty_line = empty_line
        self._period = empty_line.background.period_samples
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
        """
        continues = self._expected_index == index
        self._expected_index = index + samples.size
        self._start += self._origin - index
        self._origin = index
        if self.locked and not continues:
            self._leap(index)
        found: list[LockedLines] = []
        position = 0
        tried = False
        while True:
            if not self.locked:
                begin = self._lit_from(samples, position)
                if begin is None:
                    break
                tried = True
                if not self._acquire(samples, begin):
                    position = begin + samples.size // 8
                    if position > samples.size - 2 * BURST_LINES * _BURSTS_TO_LOCK * self._period:
                        break
                    continue
                continues = False
            lines, position = self._follow_locked(samples, continues)
            if lines is not None:
                found.append(lines)
            if self.locked:
                break
        self._blocks_in_vain = self._blocks_in_vain + 1 if tried and not found else 0
        return found

    def _leap(self, index: int) -> None:
        """Over missing samples: the clock goes on where it is due, if that is sure enough, else it is lost."""
        missed = max(0, math.ceil(-self._start / self._period))
        if math.sqrt(self._variance_after(missed)) > 4 * _PULL_IN_SAMPLES:
            self._lose()
            return
        self._predict(missed)
        self._next_line = self._line

    def _follow_locked(self, samples: np.ndarray, continues: bool) -> tuple[LockedLines | None, int]:
        """Follow a locked clock to the block's end, or to where it is lost: the lines, and where to look again."""
        width = self.empty_line.tables.width
        first_line = self._next_line
        knots = [(self._line, self._start, self._period)]
        last_possible = samples.size - (BURST_LINES - 1) * self._period - width - 4
        while True:
            room = math.floor((last_possible - self._start) / self._period)
            if room < BURST_LINES // 2:  # the last burst was measured at the end of the block
                break
            wait = self._lines_to_wait()
            ahead = min(wait, room) if room < 1.5 * wait else wait
            if self._start + ahead * self._period < 0:  # the burst due lies in the block before
                ahead = min(room, math.ceil(-self._start / self._period))
            self._predict(ahead)
            if self._measure(samples):
                knots.append((self._line, self._start, self._period))
                self._misses = 0
                continue
            self._misses += 1
            if self._misses >= _MISSES_TO_LOSE or self._is_dark(samples, int(self._start)):
                lost_at = int(self._start)
                self._lose()
                return self._lines(knots, first_line, knots[-1][0], continues), max(lost_at, 0) + BURST_LINES * width
        end = self._line + math.ceil((samples.size - self._start) / self._period)
        self._follow_changes()
        return self._lines(knots, first_line, end, continues), samples.size

    def _lines(
        self, knots: list[tuple[int, float, float]], first_line: int, stop_line: int, continues: bool
    ) -> LockedLines | None:
        """Lines between these, on straight lines between the knots, which are continued with the last period."""
        self._next_line = max(stop_line, first_line)
        if stop_line <= first_line:
            return None
        if knots[-1][0] < stop_line:
            line, start, period = knots[-1]
            knots = [*knots, (stop_line, start + (stop_line - line) * period, period)]
        if len(knots) < 2:
            return None
        line, start, _ = zip(*knots, strict=True)
        return LockedLines(first_line, stop_line, np.array(line), np.array(start), continues, self.empty_line)

    def _lines_to_wait(self) -> int:
        """Lines to the next burst: as many as leave the predicted start certain enough."""
        wait = BURST_LINES
        while wait < MOST_LINES_BETWEEN and math.sqrt(self._variance_after(2 * wait)) < _PULL_IN_SAMPLES:
            wait *= 2
        return wait

    def _variance_after(self, lines: int) -> float:
        xx, xv, vv = self._covariance
        walk = self._walk_scale * lines / MOST_LINES_BETWEEN
        return xx + 2 * lines * xv + lines**2 * vv + walk * (_START_WALK + _PERIOD_WALK * lines**2 / 3)

    def _predict(self, lines: int) -> None:
        _, xv, vv = self._covariance
        walk = self._walk_scale * lines / MOST_LINES_BETWEEN
        self._start += lines * self._period
        self._line += lines
        self._covariance = np.array(
            (self._variance_after(lines), xv + lines * vv + walk * _PERIOD_WALK * lines / 2, vv + walk * _PERIOD_WALK)
        )

    def _measure(self, samples: np.ndarray) -> bool:
        """Measure the burst at the predicted start and correct the filter; False where it does not show the clock."""
        background, tables = self.empty_line.background, self.empty_line.tables
        turn = self._origin % _kernels.CONVERTERS  # so that samples meet their converters
        starts = turn + self._start + _BURST * self._period
        priors = (1 / (3 * background.gain_std) ** 2, 1.0)
        _kernels.fit_lines(
            samples, turn, starts, tables.arrays, tables.limits, priors, tables.chi2_limit, self._fits
        )  # fmt: skip
        _kernels.block_delay(self._fits, 1.0, self._mean)
        delay, variance, centre, share = self._mean
        xx, xv, vv = self._covariance
        # what is measured is the start of the middle of the burst
        lever = xx + 2 * centre * xv + centre**2 * vv
        if not (share > _LEAST_LINES_SHARE and math.isfinite(variance)):
            return False
        surprise = lever + variance
        if abs(delay) > max(_FURTHEST_SAMPLES, 6 * math.sqrt(surprise)):
            return False
        k_start, k_period = (xx + centre * xv) / surprise, (xv + centre * vv) / surprise
        self._start += k_start * delay
        self._period += k_period * delay
        self._covariance = np.array(
            (
                xx - k_start * (xx + centre * xv),
                xv - k_start * (xv + centre * vv),
                vv - k_period * (xv + centre * vv),
            )
        )
        # surprises larger than expected: the clock wanders more than was allowed for
        excess = min(delay * delay / surprise, 16.0) - 1.0
        self._walk_scale = float(np.clip(self._walk_scale * math.exp(0.15 * excess), 1.0, _MOST_WALK_SCALE))
        clear = self._fits[:, 5] < tables.chi2_limit
        if clear.sum() >= BURST_LINES // 2:
            self._gain += (float(np.median(self._fits[clear, 4])) - self._gain) / _SLOW_BURSTS
            self._baseline += (float(np.median(self._fits[clear, 3])) - self._baseline) / _SLOW_BURSTS
        return True

    def _follow_changes(self) -> None:
        """Let the empty line follow slow changes of light, baseline and period; the lock is kept."""
        background = self.empty_line.background
        if (
            abs(self._gain - 1) < _GAIN_STEP * background.gain_std
            and abs(self._baseline) < _BASELINE_STEP * background.noise_std_codes
            and abs(self._period - background.period_samples) < _PERIOD_STEP_SAMPLES
        ):
            return
        self.empty_line = _changed(self.empty_line, self._gain, self._baseline, self._period)
        self._gain, self._baseline = 1.0, 0.0

    def _lose(self) -> None:
        if self.locked:
            self.losses += 1
        self.locked = False
        self._misses = 0

    def _is_dark(self, samples: np.ndarray, position: int) -> bool:
        """Whether two lines' worth of samples hold next to no light."""
        some = samples[max(position, 0) : max(position, 0) + math.ceil(2 * self._period)]
        return some.size == 0 or float(np.std(some)) < _DARK_SHARE * self.empty_line.contrast_codes

    def _lit_from(self, samples: np.ndarray, position: int) -> int | None:
        """The next place from which the light is on; None where it stays off to the block's end."""
        step = math.ceil(2 * BURST_LINES * self._period)
        last = samples.size - math.ceil(BURST_LINES * (_BURSTS_TO_LOCK + 1) * self._period)
        while position < last:
            if not self._is_dark(samples, position):
                return position
            position += step
        return None

    def _acquire(self, samples: np.ndarray, position: int) -> bool:
        """Find the clock from ``position`` on: by correlation, then by bursts that follow each other."""
        known = self.empty_line
        window = samples[position : position + math.ceil((BURST_LINES + 2) * known.background.period_samples)]
        offset, correlation = correlate_start(window, known.background, lines=BURST_LINES // 2)
        if correlation < _LEAST_CORRELATION:
            return False
        start = position + float(offset)
        passed = round((start - self._start) / self._period) if self._next_line else 0
        line = max(self._line + passed, self._next_line)
        if self._lock(samples, line, start):
            return True
        changed = self._after_jump(window, float(offset), (self._origin + position) % _kernels.CONVERTERS)
        if changed is not None:
            self.empty_line = changed
            if self._lock(samples, line, start):
                return True
            self.empty_line = known
        return False

    def _lock(self, samples: np.ndarray, line: int, start: float) -> bool:
        """Lock to a line that starts there, if some bursts from it on agree."""
        held = self._line, self._start, self._period
        self._line, self._start, self._period = line, start, self.empty_line.background.period_samples
        self._covariance = np.array((0.1**2, 0.0, (_FIRST_PERIOD_STD * self._period) ** 2))
        self._walk_scale = 1.0
        self._gain, self._baseline = 1.0, 0.0
        for burst in range(_BURSTS_TO_LOCK):
            if burst:
                self._predict(BURST_LINES)
            if not self._measure(samples):
                self._line, self._start, self._period = held
                return False
            if burst == 0:
                self._lean_period()
        # from its first line on, with what is known now
        back = self._line - line
        self._start -= back * self._period
        self._line = self._next_line = line
        self._covariance[0] = self._variance_after(back)
        self.locked = True
        return True

    def _lean_period(self) -> None:
        """Set the period by how the delays of the burst just measured lean, where that is sure."""
        good = np.isfinite(self._fits[:, 1]) & (self._fits[:, 2] > _kernels.LEAST_SHARE)
        good &= np.abs(self._fits[:, 0]) < 1.0
        if good.sum() < BURST_LINES // 2:
            return
        n, delay, weight = _BURST[good], self._fits[good, 0], 1 / self._fits[good, 1]
        n = n - np.average(n, weights=weight)
        lean = float(np.sum(weight * n * delay) / np.sum(weight * n * n))
        variance = float(np.average((delay - np.average(delay, weights=weight) - lean * n) ** 2) / np.sum(n * n))
        if lean * lean > 16 * variance:
            self._period += lean
            self._covariance[2] = max(self._covariance[2], variance)

    def _after_jump(self, window: np.ndarray, offset: float, converter: int) -> EmptyLine | None:
        """The empty line scaled to what is seen now, where the light or the digitiser's gain has jumped."""
        background = self.empty_line.background
        k = np.arange(window.size)
        gains = np.array(background.interleave_gain)
        turn = (k + converter) % gains.size
        light = (window - np.array(background.interleave_offset_codes)[turn]) / gains[turn]
        low, high = background.code_limits
        clear = (window > low) & (window < high)
        model = background.profile.light(k - offset)
        slope, zero = np.polyfit(model[clear], light[clear], 1)
        if abs(slope - 1) < _GAIN_JUMP or not 0.1 < slope < 10:
            return None
        return _changed(self.empty_line, float(slope), float(zero), background.period_samples)


def _changed(empty_line: EmptyLine, gain: float, baseline_codes: float, period_samples: float) -> EmptyLine:
    """The empty line with its light multiplied, its zero raised [codes of light], at another period."""
    background = empty_line.background
    profile = replace(
        background.profile, coefficients=background.profile.coefficients * gain, period_samples=period_samples
    )
    offsets = tuple(
        o + g * baseline_codes
        for o, g in zip(background.interleave_offset_codes, background.interleave_gain, strict=True)
    )
    dark = None if background.dark_level_codes is None else float(np.mean(offsets))
    changed = replace(background, profile=profile, interleave_offset_codes=offsets, dark_level_codes=dark)
    return EmptyLine(changed, empty_line.sample_bytes)
