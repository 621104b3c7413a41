"""Two halves of the lines, each an image."""

import numpy as np
import pytest
from scipy import ndimage

from stretchscope.sr.halves import deal_lines, images_of_halves
from stretchscope.sr.quality import fourier_ring_correlation, mean_curve, of_all_data, up_to
from stretchscope.sr.reconstruct import Grid, reconstruct

GRID = Grid(3.0, 2.0, 0.3, 2.0)


def halves(simulated: object, found: object, samples: np.ndarray, first: int, pattern: tuple[int, ...]) -> tuple:
    return images_of_halves(
        samples, 0, found.starts[first : first + 120], first, found.background, found.tables, GRID,
        rows=(first + 10.0, first + 110.0), tau=(20.0, 190.0), pattern=pattern,
    )  # fmt: skip


@pytest.mark.parametrize("pattern", [(0, 1), (0, 0, 1, 1)])
@pytest.mark.parametrize("first", [600, 601])
def test_no_sample_serves_both(usual: tuple, first: int, pattern: tuple[int, ...]) -> None:
    """Samples of the lines of the second half put out: the first image stays, byte for byte, the second is no more."""
    simulated, found = usual
    before = halves(simulated, found, simulated.samples, first, pattern)
    spoilt = simulated.samples.copy()
    for line in range(first, first + 120):
        if pattern[line % len(pattern)]:
            begin = int(np.ceil(found.starts[line]))
            spoilt[begin : begin + 260] = 127
    after = halves(simulated, found, spoilt, first, pattern)
    np.testing.assert_array_equal(after[0].transmission, before[0].transmission)
    assert before[1].known.mean() > 0.95
    assert not after[1].known.any()


def test_halves_are_the_whole_with_more_noise(usual: tuple) -> None:
    """Their mean is the image of all lines; where nothing lies they scatter √2 times as much, each on its own."""
    simulated, found = usual
    quiet = np.ones(found.starts.size, bool)
    for event in found.events:
        quiet[max(0, event.line_first - 60) : event.line_last + 60] = False
    first = int(np.flatnonzero(np.convolve(quiet, np.ones(120), "valid") == 120)[0])
    one, two = halves(simulated, found, simulated.samples, first, (0, 1))
    whole = reconstruct(
        simulated.samples, 0, found.starts[first : first + 120], first, found.background, found.tables, GRID,
        rows=(first + 10.0, first + 110.0), tau=(20.0, 190.0),
    )  # fmt: skip
    np.testing.assert_allclose(
        (one.transmission + two.transmission) / 2, whole.transmission, atol=0.3 * whole.std.max()
    )
    noise = np.std(one.transmission) / np.std(whole.transmission)
    assert noise == pytest.approx(np.sqrt(2), rel=0.1)
    assert one.std.mean() / whole.std.mean() == pytest.approx(np.sqrt(2), rel=0.1)
    curve = fourier_ring_correlation(one.transmission, two.transmission).rings
    z = curve.correlation * np.sqrt(curve.independent)
    assert abs(z[2:].mean()) < 1.0
    assert one.saturated == two.saturated == 0


def test_lines_are_dealt_so_that_each_half_covers_the_phases() -> None:
    """Even and odd lines where that is good; pairs for a period near a whole number of samples and a half."""
    plain = deal_lines(430.618034, 9)
    assert plain.pattern == (0, 1)
    assert plain.finest_lines == 4.0
    paired = deal_lines(275.519503, 11)
    assert paired.pattern == (0, 0, 1, 1)
    assert paired.finest_lines == 8.0
    phase = np.sort(275.519503 * np.array([0, 1, 4, 5, 8, 9]) % 1)  # lines of the first half among eleven
    gap = np.diff(np.append(phase, phase[0] + 1)).max()
    assert paired.largest_gap_samples >= gap - 1e-9
    assert paired.largest_gap_samples < 0.5
    assert deal_lines(431.0, 20).largest_gap_samples == pytest.approx(1.0)


def test_halves_tell_how_well_the_whole_correlates_with_the_truth(lab: object) -> None:
    """2·FRC/(1 + FRC) of halves is the square of the whole's correlation with the scene, as far as they tell detail."""
    instrument = lab.instrument(period=430.618 / 5e9, clock={"frequency_offset": 0.0})
    # cells all alike: the mean of correlations is then the correlation of all
    simulated = lab.simulate(instrument, 4500, cells=12, seed=3, diameter_um=(12.0, 12.01), contrast=(0.5, 0.501))
    found = lab.process(simulated.samples, code_limits=(-128, 127))
    step, pitch = simulated.instrument.um_per_sample, simulated.instrument.optics.um_per_line
    grid = Grid(2.0, 2.0, 0.5, 2.0)
    offset, of_halves, with_truth = found.starts[0] - simulated.starts[0], [], []
    for cell in simulated.objects():
        middle = (cell["y_first_um"] + cell["y_last_um"]) / 2 / pitch
        place = (cell["x_first_um"] + cell["x_last_um"]) / 2 / step - offset
        rows, tau = (float(int(middle) - 70), float(int(middle) + 69)), (place - 40, place + 39.9)
        first = int(rows[0]) - 10
        known = simulated.samples, 0, found.starts[first : int(rows[1]) + 11], first, found.background, found.tables
        one, two = images_of_halves(*known, grid, rows=rows, tau=tau)
        whole = reconstruct(*known, grid, rows=rows, tau=tau)
        # the scene on finer pixels, blurred as the image is, so that taking each fourth aliases nothing
        line = whole.first_line + np.arange(4 * whole.transmission.shape[0]) * whole.lines_per_row / 4
        x = whole.tau_first_samples + np.arange(4 * whole.transmission.shape[1]) / whole.columns_per_sample / 4 + offset
        truth = simulated.scene.transmission(x[None, :] * step, line[:, None] * pitch)
        truth = ndimage.gaussian_filter(truth, (4.0, 4.0), mode="nearest")[::4, ::4]
        of_halves.append(fourier_ring_correlation(one.transmission, two.transmission))
        with_truth.append(fourier_ring_correlation(whole.transmission, truth))
    dealt = deal_lines(found.period, 4)
    for axis, finest_px in (("fast", 2 * dealt.largest_gap_samples * 2.0), ("slow", dealt.finest_lines / 2.0)):
        halves = mean_curve([getattr(c, axis) for c in of_halves])
        limit = min(0.9 / finest_px, 1 / up_to(halves, 1 / finest_px).resolution_half_bit)
        halves = up_to(halves, limit)
        truth = up_to(mean_curve([getattr(c, axis) for c in with_truth]), limit)
        error = truth.correlation**2 - of_all_data(halves.correlation)
        assert halves.correlation.min() < 0.9  # noise begins to show
        assert abs(error.mean()) < 0.02
        assert np.all(np.abs(error) < 4 / np.sqrt(halves.independent))
