"""The lattice of samples and lines against number theory, and against what simulated captures show."""

from fractions import Fraction

import numpy as np
import pytest

from stretchscope.sr.quality import effective_resolution_um
from stretchscope.sr.reconstruct import Grid, reconstruct
from stretchscope.sr.sampling import (
    WIDEST_GAP,
    Lattice,
    convergents,
    evenness,
    local_phase_coverage,
    nearest_even_period,
    phase_coverage,
)


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


def test_convergents_are_the_best_fractions() -> None:
    found = convergents(275.519503, 100)
    assert [(c.numerator, c.denominator) for c in found] == [(275, 1), (276, 1), (551, 2), (6888, 25), (21215, 77)]
    for c in found:
        assert c.slip_samples == pytest.approx(c.denominator * 275.519503 - c.numerator, abs=1e-9)
        nearest = [abs(q * 275.519503 - round(q * 275.519503)) for q in range(1, c.denominator)]
        assert all(abs(c.slip_samples) < other + 1e-9 for other in nearest)
    locked = convergents(1024 / 3, 1000)[-1]
    assert (locked.numerator, locked.denominator) == (1024, 3)
    assert locked.slip_samples == pytest.approx(0, abs=1e-9)
    assert [c.denominator for c in convergents(430.0, 1000)] == [1]


def test_lines_needed_are_the_fewest() -> None:
    lattice = Lattice(275.519503, 0.9, 0.02)
    for factor in (2, 4, 16, 20):
        lines = lattice.lines_for(factor, 100)
        assert lines is not None
        assert lattice.coverage(lines).factor >= factor > lattice.coverage(lines - 1).factor
    assert lattice.lines_for(90, 100) is None
    assert Lattice(1024 / 3, 0.9, 0.02).lines_for(4, 1000) is None  # three phases, however many lines
    assert Lattice(1024 / 3, 0.9, 0.02).lines_for(3, 1000) == 3


@pytest.mark.parametrize(
    ("lattice", "most", "best"),
    [
        # three phases: more lines only blur along the flow, and rounding alone makes their gap smaller
        (Lattice(1024 / 3, 0.26, 0.00166), 112, 3),
        (Lattice(5e9 / 11.6e6, 0.21, 1e-7), 1024, 29),  # near 12500/29
        (Lattice(5e9 / 11.6e6, 0.21, 0.0017, detector_um=3000.0), 104, 1),  # no sampling helps
        (Lattice(430 + (5**0.5 - 1) / 2, 0.2, 0.01), 50, 5),
    ],
)
def test_best_are_the_fewest_lines_that_are_as_fine(lattice: Lattice, most: int, best: int) -> None:
    assert lattice.best_lines(most) == best
    coarser = [max(lattice.resolution_um(lines)) for lines in range(1, most + 1)]
    assert coarser[best - 1] <= 1.01 * min(coarser)
    assert all(width > 1.01 * min(coarser) for width in coarser[: best - 1])


def test_golden_clock_is_even_and_suggestions_are() -> None:
    golden = [evenness(430 + (5**0.5 - 1) / 2, n) for n in range(2, 150)]
    assert 0.62 < min(golden) < max(golden) < 0.79
    for period in (430.0, 430.515, 430.0345, 430.3334, 275.519503):
        for lines in (2, 4, 7, 20):
            better = nearest_even_period(period, lines)
            assert abs(better - period) <= 0.5
            assert evenness(better, lines) > 0.6
    assert nearest_even_period(430.6, 3) == pytest.approx(430.6)  # good as it is
    assert evenness(430.515, 4) < 0.5 < evenness(430.515, 2)


@pytest.mark.parametrize(("rate", "pulse", "period", "lines"), [(2e9, 24e-9, 172.206, 5), (5e9, 12e-9, 430.515, 7)])
def test_expected_resolution_is_what_a_capture_gives(
    lab: object, rate: float, pulse: float, period: float, lines: int
) -> None:
    """Phases of the measured clock, and the blur between scene and image on both axes, within 3 %."""
    pitch_um = 0.05
    optics = {"flow_speed_m_per_s": pitch_um * 1e-6 * rate / period}
    instrument = lab.instrument(
        rate=rate, period=period / rate, pulse=pulse, optics=optics, clock={"frequency_offset": 0.0}, bandwidth_hz=4e9
    )
    simulated = lab.simulate(instrument, 4000, cells=6, seed=3, diameter_um=(10.0, 16.0))
    found = lab.process(simulated.samples, code_limits=(-128, 127))
    lattice = Lattice.of_instrument(
        sample_rate_hz=rate,
        line_rate_hz=rate / period,
        field_of_view_um=48.0,
        pulse_duration_s=pulse,
        bandwidth_hz=4e9,
        **optics,
    )
    gap = lattice.coverage(lines).largest_gap_samples
    assert phase_coverage(found.starts[50 : 50 + lines]).largest_gap_samples == pytest.approx(gap, abs=1e-4)
    grid = Grid(lattice.um_per_sample / 0.1, 2.0, gap / WIDEST_GAP, lines / 2)  # pixels of 0.1 µm
    offset, seen = found.starts[0] - simulated.starts[0], []
    for cell in simulated.objects():
        rows = float(int(cell["y_first_um"] / pitch_um) - 40), float(int(cell["y_last_um"] / pitch_um) + 40)
        tau = [
            cell[f"x_{end}_um"] / lattice.um_per_sample - offset + room for end, room in (("first", -5), ("last", 5))
        ]
        first = int(rows[0]) - 40
        if first < 0:
            continue
        image = reconstruct(
            simulated.samples, 0, found.starts[first : int(rows[1]) + 40], first, found.background, found.tables, grid,
            rows=rows, tau=(tau[0], tau[1]),
        )  # fmt: skip
        line = image.first_line + np.arange(image.transmission.shape[0]) * image.lines_per_row
        x = image.tau_first_samples + np.arange(image.transmission.shape[1]) / image.columns_per_sample + offset
        truth = simulated.scene.transmission(x[None, :] * lattice.um_per_sample, line[:, None] * pitch_um)
        blur = effective_resolution_um(image.transmission, truth, pixel_um=0.1)
        seen.append((blur.fast_um, blur.slow_um))
    assert np.median(seen, axis=0) == pytest.approx(lattice.resolution_um(lines), rel=0.03)
