"""Super-resolved images against the scene that was simulated."""

import dataclasses

import numpy as np
import pytest
from scipy import ndimage

from stretchscope.sr.errors import SignalError
from stretchscope.sr.reconstruct import Grid, choose_grid, kernel_scores, reconstruct


def window(simulated: object, found: object, index: int) -> tuple:
    """Lines and positions around a cell."""
    cell = simulated.objects()[index]
    pitch, step = simulated.instrument.optics.um_per_line, simulated.instrument.um_per_sample
    offset = found.starts[0] - simulated.starts[0]
    rows = float(int(cell["y_first_um"] / pitch) - 8), float(int(cell["y_last_um"] / pitch) + 8)
    tau = cell["x_first_um"] / step - offset - 5, cell["x_last_um"] / step - offset + 5
    return rows, tau, offset


def test_image_is_the_scene(usual: tuple) -> None:
    """Transmission of a cell within 1.5 % of the true one, blurred by the detector and the kernel."""
    simulated, found = usual
    grid = Grid(2.0, 2.0, 0.4, 2.0)
    for index in (0, 4):
        rows, tau, offset = window(simulated, found, index)
        first = max(0, int(rows[0]) - 8)
        starts = found.starts[first : int(rows[1]) + 9]
        image = reconstruct(
            simulated.samples, 0, starts, first, found.background, found.tables, grid, rows=rows, tau=tau
        )
        line = image.first_line + np.arange(image.transmission.shape[0]) * image.lines_per_row
        x = image.tau_first_samples + np.arange(image.transmission.shape[1]) / image.columns_per_sample + offset
        instrument = simulated.instrument
        truth = simulated.scene.transmission(
            x[None, :] * instrument.um_per_sample, line[:, None] * instrument.optics.um_per_line
        )
        blur = np.hypot(grid.sigma_samples, instrument.digitiser.response_samples) * grid.columns_per_sample
        truth = ndimage.gaussian_filter(truth, (grid.sigma_lines / grid.lines_per_row, blur), mode="nearest")
        assert image.known.mean() > 0.98
        error = (image.transmission - truth)[image.known]
        assert truth.min() < 0.7
        assert np.sqrt(np.mean(error**2)) < 0.015
        assert np.isfinite(image.std[image.known]).all()
        assert image.saturated == 0


def test_empty_window_is_one_within_its_noise(usual: tuple) -> None:
    simulated, found = usual
    quiet = np.ones(found.starts.size, bool)
    for event in found.events:
        quiet[max(0, event.line_first - 40) : event.line_last + 40] = False
    runs = np.flatnonzero(np.convolve(quiet, np.ones(70), "valid") == 70)
    first = int(runs[0])
    starts = found.starts[first : first + 70]
    image = reconstruct(
        simulated.samples, 0, starts, first, found.background, found.tables, Grid(3.0, 3.0, 0.3, 2.5),
        rows=(first + 10.0, first + 60.0), tau=(20.0, 190.0),
    )  # fmt: skip
    z = (image.transmission - 1) / image.std
    assert 0.8 < z.std() < 1.25
    assert np.std(image.transmission) < 0.02


def test_image_does_not_depend_on_the_window(usual: tuple) -> None:
    """The same pixels, cut from a long window and from a short one, and with the tables of an equal background."""
    simulated, found = usual
    grid = Grid(3.0, 2.0, 0.3, 2.0)
    background = dataclasses.replace(found.background)

    def image(first: int, last: int, tau: tuple[float, float], own: object) -> np.ndarray:
        starts = found.starts[first : last + 1]
        return reconstruct(
            simulated.samples, 0, starts, first, own, found.tables, grid,
            rows=(first + 10.0, last - 10.0), tau=tau,
        ).transmission  # fmt: skip

    long, short = image(0, 2000, (0.0, 200.0), found.background), image(400, 500, (30.0, 80.0), background)
    np.testing.assert_allclose(long[200:241, 90:241], short, atol=1e-5)
    assert long.shape == (991, 601)


def test_needs_a_dark_level(usual: tuple) -> None:
    simulated, found = usual
    background = dataclasses.replace(found.background, dark_level_codes=None)
    with pytest.raises(SignalError, match="dark level is unknown"):
        reconstruct(
            simulated.samples, 0, found.starts[:50], 0, background, found.tables, Grid(2.0, 2.0, 0.4, 2.0),
            rows=(0.0, 40.0), tau=(10.0, 50.0),
        )  # fmt: skip


def test_grid_has_square_pixels_where_the_geometry_is_known() -> None:
    grid = choose_grid((0.22, 3.7), 55.0)
    assert grid.columns_per_sample == 8  # sqrt(55), rounded up
    assert grid.lines_per_row == pytest.approx(55 / 8)
    assert choose_grid((0.05, 3.7), 55.0).columns_per_sample == 12  # the kernel's resolution asks for more
    assert choose_grid((0.22, 3.7), None) == Grid(3.0, 3.7, 0.22, 3.7)
    assert choose_grid((0.22, 3.7), 55.0, oversampling=4).columns_per_sample == 4


def test_scores_prefer_a_kernel_of_the_scene_s_size(usual: tuple) -> None:
    """Too wide a kernel blurs the cell: it predicts left-out lines worse than a small one."""
    simulated, found = usual
    rows, tau, _ = window(simulated, found, 0)
    first = max(0, int(rows[0]) - 8)
    starts = found.starts[first : int(rows[1]) + 9]
    scores = kernel_scores(simulated.samples, 0, starts, found.background, found.tables, tau)
    assert np.isfinite(scores).all()
    assert scores[:, -1].min() > 1.5 * scores.min()  # 18 lines
