"""Regularised images against the scene that was simulated, and against gridding of the same samples."""

import dataclasses

import numpy as np
import pytest

from stretchscope.sr import _refine_kernels as kernels
from stretchscope.sr import refine
from stretchscope.sr.errors import SignalError
from stretchscope.sr.reconstruct import Grid, reconstruct
from stretchscope.sr.refine import lay_window, reconstruct_regularised

GRID = Grid(3.0, 2.0, 0.4, 2.0)


def lines_of(found: object, first: int, last: int) -> tuple[np.ndarray, int]:
    first = max(0, first)
    return found.starts[first : last + 1], first


def image_and_truth(method: object, simulated: object, found: object, index: int, grid: Grid, **options: float):
    """Image of a cell, and the scene at its pixels, not blurred by anything."""
    cell, instrument = simulated.objects()[index], simulated.instrument
    pitch, step = instrument.optics.um_per_line, instrument.um_per_sample
    offset = found.starts[0] - simulated.starts[0]
    rows = float(int(cell["y_first_um"] / pitch) - 8), float(int(cell["y_last_um"] / pitch) + 8)
    tau = cell["x_first_um"] / step - offset - 5, cell["x_last_um"] / step - offset + 5
    starts, first = lines_of(found, int(rows[0]) - 12, int(rows[1]) + 12)
    image = method(
        simulated.samples, 0, starts, first, found.background, found.tables, grid, rows=rows, tau=tau, **options
    )
    line = image.first_line + np.arange(image.transmission.shape[0]) * image.lines_per_row
    x = image.tau_first_samples + np.arange(image.transmission.shape[1]) / image.columns_per_sample + offset
    return image, simulated.scene.transmission(x[None, :] * step, line[:, None] * pitch)


def rms(image: object, truth: np.ndarray) -> float:
    return float(np.sqrt(np.mean((image.transmission - truth)[image.known] ** 2)))


def test_sharper_than_gridding(usual: tuple) -> None:
    """Nearer to the scene itself; nearer still with the detector's response in the model."""
    simulated, found = usual
    grid = Grid(4.0, 2.0, 0.3, 0.7)
    response = simulated.instrument.digitiser.response_samples
    for index in (0, 4):
        gridded, truth = image_and_truth(reconstruct, simulated, found, index, grid)
        image, _ = image_and_truth(reconstruct_regularised, simulated, found, index, grid)
        through, _ = image_and_truth(reconstruct_regularised, simulated, found, index, grid, response_samples=response)
        assert image.transmission.shape == truth.shape
        assert image.known.mean() > 0.98
        assert image.saturated == 0
        assert rms(image, truth) < 0.6 * rms(gridded, truth)
        assert rms(through, truth) < 0.99 * rms(image, truth)


def test_image_does_not_depend_on_the_window(usual: tuple) -> None:
    """No artefact where a window ends: what lies beyond it is not felt within, to a tenth of the noise."""
    simulated, found = usual

    def image(first: int, last: int, tau: tuple[float, float]) -> np.ndarray:
        starts = found.starts[first : last + 1]
        return reconstruct_regularised(
            simulated.samples, 0, starts, first, found.background, found.tables, GRID,
            rows=(first + 20.0, last - 20.0), tau=tau, tolerance=1e-5,
        )  # fmt: skip

    long, short = image(0, 2000, (0.0, 200.0)), image(400, 500, (30.0, 80.0))
    part = long.transmission[200:231, 90:241]
    assert np.nanmax(np.abs(part - short.transmission) / short.std) < 0.1
    np.testing.assert_array_equal(long.known[200:231, 90:241], short.known)


def test_what_the_solver_leaves_undone_is_far_below_the_noise(usual: tuple) -> None:
    simulated, found = usual
    for index in range(4):
        done, _ = image_and_truth(reconstruct_regularised, simulated, found, index, GRID, tolerance=1e-5)
        image, _ = image_and_truth(reconstruct_regularised, simulated, found, index, GRID)
        both = image.known & done.known
        left = ((image.transmission - done.transmission) / done.std)[both]
        assert np.sqrt(np.mean(left**2)) < 0.05
        assert np.abs(left).max() < 0.5


def test_posterior_is_that_of_scenes_drawn_from_the_prior() -> None:
    """Error over stated deviation is a unit normal, where the light is strong and where it is weak."""
    rng = np.random.default_rng(1)
    window = lay_window(Grid(2.0, 2.0, 0.7, 2.8), (0.0, 78.0), (0.0, 39.0), 1000.0)
    rows, columns = window.shape
    lines, width, phases = 2 * rows, columns // 2, 2
    density = 400.0
    precision = [np.eye(n) + s * np.diff(np.eye(n), 2, axis=0).T @ np.diff(np.eye(n), 2, axis=0)
                 for n, s in zip((rows, columns), window.stiffness, strict=True)]  # fmt: skip
    (a, u), (b, v) = (np.linalg.eigh(p) for p in precision)
    rough = density * (np.outer(a, b) - 1)
    free = rough > 1e-6 * density
    z = []
    for power_per_sample in (0.1, 1.0):
        for _ in range(4):
            modes = np.where(free, rng.normal(size=rough.shape) / np.sqrt(np.where(free, rough, 1)), 0)
            scene = (1 + u @ modes @ v.T).astype(np.float32)
            place, row = rng.uniform(0, 2, lines), (np.arange(lines) + 0.3) / 2
            taps = np.empty((lines, 2), np.float32)
            first, span = np.empty(lines, np.int64), np.empty((lines, 2), np.int64)
            upper = np.empty((lines, 2), np.float32)
            kernels.lay_lines(place, row, rows, phases, width, 0.0, width, first, span, upper, taps)
            laid = row, first, span, upper, taps
            power = np.full((lines, width), power_per_sample * density, np.float32)
            seen = np.empty_like(power)
            kernels.forward(
                np.ascontiguousarray(scene.reshape(rows, width, 2).transpose(0, 2, 1).reshape(rows, columns)),
                laid, phases, seen,
            )  # fmt: skip
            signal = (power * seen + np.sqrt(power) * rng.normal(size=power.shape)).astype(np.float32)
            image, support = np.empty(window.shape, np.float32), np.empty(window.shape, np.float32)
            kernels.solve(signal, power, laid, phases, density, window.factors(), 1e-4, 100, image, support)
            levels = refine._posterior_std(*window.stiffness) / np.float32(np.sqrt(density))
            shape = window.pixels
            transmission, std = np.empty(shape, np.float32), np.empty(shape, np.float32)
            kernels.finish(
                image, support, phases, window.margin, levels, refine._PER_OCTAVE,
                density * 2.0 ** (-refine._OCTAVES / 2), np.zeros(shape[1], np.float32), transmission, std,
                np.empty(shape, bool),
            )  # fmt: skip
            inner = tuple(slice(m, m + n) for m, n in zip(window.margin, shape, strict=True))
            z.append(((transmission - scene[inner]) / std).ravel())
        assert 0.9 < np.concatenate(z[-4:]).std() < 1.1


def test_saturated_spot_is_unknown_and_leaves_no_trace(usual: tuple) -> None:
    simulated, found = usual
    cell, pitch = simulated.objects()[0], simulated.instrument.optics.um_per_line
    middle = int(cell["y_um"] / pitch)
    rows, tau = (middle - 30.0, middle + 30.0), (40.0, 90.0)
    starts, first = lines_of(found, middle - 60, middle + 60)
    blinded = simulated.samples.copy()
    for line in range(middle - 6, middle + 7):
        blinded[int(found.starts[line]) + 60 : int(found.starts[line]) + 68] = found.background.code_limits[1]

    def image(samples: np.ndarray):
        return reconstruct_regularised(
            samples, 0, starts, first, found.background, found.tables, GRID, rows=rows, tau=tau
        )

    before, after = image(simulated.samples), image(blinded)
    assert not after.known[15, int((64 - tau[0]) * 3)]
    assert np.isnan(after.transmission[~after.known]).all()
    assert np.isinf(after.std[~after.known]).all()
    assert after.saturated > before.saturated
    lost = ~after.known & before.known
    # as large as the hole, less the rim that the samples around it tell
    assert 0.4 * (13 / 2 * 8 * 3) < lost.sum() < 1.2 * (13 / 2 * 8 * 3)
    both = after.known & before.known
    assert np.abs(after.transmission - before.transmission)[both].max() < 0.1
    far = both.copy()
    far[:, int((54 - tau[0]) * 3) : int((74 - tau[0]) * 3)] = False
    assert np.abs(after.transmission - before.transmission)[far].max() < 0.01


def test_where_no_line_fell_is_unknown(usual: tuple) -> None:
    simulated, found = usual
    starts, first = lines_of(found, 100, 160)
    image = reconstruct_regularised(
        simulated.samples, 0, starts, first, found.background, found.tables, GRID, rows=(80.0, 150.0), tau=(40.0, 90.0)
    )
    assert not image.known[:9].any()  # lines 80 to 97
    assert image.known[11:].all()


def test_needs_a_dark_level_and_whole_columns(usual: tuple) -> None:
    simulated, found = usual
    known = simulated.samples, 0, found.starts[:50], 0
    window = {"rows": (0.0, 40.0), "tau": (10.0, 50.0)}
    background = dataclasses.replace(found.background, dark_level_codes=None)
    with pytest.raises(SignalError, match="dark level is unknown"):
        reconstruct_regularised(*known, background, found.tables, GRID, **window)
    with pytest.raises(ValueError, match=r"columns_per_sample must be a whole number, got 2\.5"):
        reconstruct_regularised(*known, found.background, found.tables, Grid(2.5, 2.0, 0.4, 2.0), **window)


def test_response_width_is_that_of_a_point() -> None:
    """Of 1 / (1 + ω⁴), which is what even light leaves of a wave."""
    frequency = np.arange(0, 200, 1e-3)
    x = np.linspace(1.3, 1.6, 301)
    response = np.array([np.sum(np.cos(frequency * place) / (1 + frequency**4)) for place in (0.0, *x)])
    half = x[np.argmax(response[1:] < response[0] / 2)]
    assert 2 * half == pytest.approx(refine.RESPONSE_WIDTH, abs=0.005)
