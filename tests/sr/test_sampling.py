"""The lattice of samples and lines against number theory."""

from fractions import Fraction

import numpy as np
import pytest

from stretchscope.sr.sampling import local_phase_coverage, phase_coverage


@pytest.mark.parametrize("ratio", [Fraction(1024, 3), Fraction(551, 2), Fraction(3014, 7), Fraction(430)])
def test_locked_clock_has_q_phases_one_qth_apart(ratio: Fraction) -> None:
    for lines in (ratio.denominator, 5 * ratio.denominator):
        coverage = phase_coverage(0.37 + float(ratio) * np.arange(lines))
        assert coverage.phases == ratio.denominator
        assert coverage.largest_gap_samples == pytest.approx(1 / ratio.denominator, abs=1e-9)
        assert coverage.factor == pytest.approx(ratio.denominator)


def test_free_running_clock_has_at_most_three_gaps() -> None:
    """Three-distance theorem, and the real capture's clock: 25 lines cover it 19-fold, fewer cover it badly."""
    period = 275.519503
    for lines in range(2, 120):
        phase = np.sort(period * np.arange(lines) % 1)
        gaps = np.diff(np.append(phase, phase[0] + 1))
        assert np.unique(gaps.round(7)).size <= 3
        assert phase_coverage(period * np.arange(lines)).largest_gap_samples == pytest.approx(gaps.max())
    factors = {n: phase_coverage(period * np.arange(n)).factor for n in (2, 4, 8, 16, 25, 27, 52, 77)}
    assert [round(v, 1) for v in factors.values()] == pytest.approx([1.9, 2.1, 2.5, 4.1, 19, 26, 38, 71], rel=0.03)


def test_local_coverage_counts_what_the_kernel_sees() -> None:
    """A locked clock: one sample of each line in reach, gaps 1/q; with all but one phase lost, one sample's gap."""
    starts = 0.2 + np.arange(40) * (101 + 1 / 4)
    rows, tau = np.arange(8, 32, 1.5), np.arange(10.0, 30.0, 0.37)
    coverage = local_phase_coverage(starts, rows, tau, reach_lines=4.0)
    assert set(np.unique(coverage.samples)) == {8, 9}  # half-way between lines: four on either side
    np.testing.assert_allclose(coverage.largest_gap_samples, 0.25, atol=1e-9)

    def first_phase(index: np.ndarray, place: np.ndarray) -> np.ndarray:
        return np.broadcast_to((np.arange(40) % 4 == 0)[:, None], index.shape)

    thinned = local_phase_coverage(starts, rows, tau, reach_lines=4.0, known=first_phase)
    assert thinned.samples.max() <= 3
    np.testing.assert_allclose(thinned.largest_gap_samples, 1.0, atol=1e-9)


def test_local_coverage_leaves_out_what_is_unknown() -> None:
    """Dark and saturated places: no sample right there, the whole coverage elsewhere; counted by brute force."""
    period, tau = 57.3819, np.linspace(2, 50, 97)
    starts = 3.3 + period * np.arange(30)
    saturated = {int(np.ceil(starts[12] + 20))}

    def known(index: np.ndarray, place: np.ndarray) -> np.ndarray:
        return ((place < 30) | (place > 33)) & ~np.isin(index, list(saturated))

    rows = np.array([12.0, 14.5, 40.0])
    coverage = local_phase_coverage(starts, rows, tau, reach_lines=3.0, known=known)
    for i, row in enumerate(rows):
        for j, t in enumerate(tau):
            places = [
                k - s
                for n, s in enumerate(starts)
                if abs(n - row) <= 3
                for k in range(int(s), int(s + period))
                if t - 0.5 <= k - s < t + 0.5 and (k - s < 30 or k - s > 33) and k not in saturated
            ]
            assert coverage.samples[i, j] == len(places)
            phase = np.sort(np.mod(places, 1))
            gap = np.diff(np.append(phase, phase[0] + 1)).max() if places else np.inf
            assert coverage.largest_gap_samples[i, j] == pytest.approx(gap)
    assert (coverage.samples[:2, np.abs(tau - 31.5) < 0.9] == 0).all()
    assert (coverage.samples[2] == 0).all()
