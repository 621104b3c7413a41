"""The forward model, its adjoint and the solver, against dense linear algebra in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stretchscope.sr import _refine_kernels as kernels

pytestmark = pytest.mark.kernel


def lay(rng: np.random.Generator, lines: int, rows: int, phases: int, across: int, response: float) -> tuple:
    """Lines at random places, some of them beyond the image."""
    place = rng.uniform(-1.5, 1.5, lines) * phases
    row = np.sort(rng.uniform(-0.5, rows - 0.5, lines))
    taps = np.empty((lines, 2 * (1 + int(np.ceil(3.5 * response)))), np.float32)
    first, span = np.empty(lines, np.int64), np.empty((lines, 2), np.int64)
    upper = np.empty((lines, 2), np.float32)
    kernels.lay_lines(place, row, rows, phases, across, response, across + 2, first, span, upper, taps)
    return place, (row, first, span, upper, taps)


def phased(image: np.ndarray, phases: int) -> np.ndarray:
    """Columns in order to phase by phase."""
    rows, columns = image.shape
    return np.ascontiguousarray(
        image.reshape(rows, columns // phases, phases).transpose(0, 2, 1).reshape(rows, columns), dtype=np.float32
    )


def matrix(laid: tuple, shape: tuple[int, int], phases: int, samples: tuple[int, int]) -> np.ndarray:
    """The forward model, column by column; pixels phase by phase."""
    seen, columns = np.empty(samples, np.float32), []
    for pixel in range(shape[0] * shape[1]):
        image = np.zeros(shape, np.float32)
        image.flat[pixel] = 1
        kernels.forward(image, laid, phases, seen)
        columns.append(seen.ravel().astype(float))
    return np.array(columns).T


def smoothness(size: int, stiffness: float) -> np.ndarray:
    bend = np.diff(np.eye(size), 2, axis=0)
    return np.eye(size) + stiffness * bend.T @ bend


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(2, 7),
    phases=st.integers(1, 4),
    across=st.integers(3, 8),
    response=st.sampled_from((0.0, 0.3, 1.1)),
)
def test_adjoint_is_the_adjoint(seed: int, rows: int, phases: int, across: int, response: float) -> None:
    rng = np.random.default_rng(seed)
    _, laid = lay(rng, 9, rows, phases, across, response)
    image = rng.normal(size=(rows, phases * across)).astype(np.float32)
    values = rng.normal(size=(9, across + 2)).astype(np.float32)
    seen, back = np.empty_like(values), np.empty_like(image)
    kernels.forward(image, laid, phases, seen)
    kernels.adjoint(values, laid, phases, back)
    one, other = np.vdot(seen.astype(float), values), np.vdot(image.astype(float), back)
    assert one == pytest.approx(other, abs=float(2e-6 * np.linalg.norm(seen) * np.linalg.norm(values)) + 1e-12)


@pytest.mark.parametrize("response", [0.0, 0.8])
def test_a_plane_is_seen_as_it_is(response: float) -> None:
    """Straight lines between pixels, blurred by a symmetric response, pass through a plane's own values."""
    rng = np.random.default_rng(1)
    place, (row, *laid) = lay(rng, 30, 6, 3, 9, response)
    r, c = np.mgrid[:6, :27]
    seen = np.empty((30, 11), np.float32)
    kernels.forward(phased(1 + 0.1 * r - 0.03 * c, 3), (row, *laid), 3, seen)
    expected = 1 + 0.1 * row[:, None] - 0.03 * (place[:, None] + 3 * np.arange(11))
    span = laid[1]
    inside = (np.arange(11) >= span[:, :1]) & (np.arange(11) < span[:, 1:])
    assert inside.sum() > 100
    assert not inside[(row < 0) | (row > 5)].any()
    np.testing.assert_allclose(seen[inside], expected[inside], atol=2e-3 if response else 2e-6)
    assert not seen[~inside].any()


def test_taps_are_the_response_of_straight_lines() -> None:
    """Against the integral of hat function times Gaussian, on a fine grid."""
    taps = np.empty(10, np.float32)
    kernels.pixel_taps(0.3, 0.9, taps)
    x = np.arange(-12, 12, 1e-3)
    gauss = np.exp(-0.5 * ((x - 0.3) / 0.9) ** 2)
    hats = np.clip(1 - np.abs(x - np.arange(-4, 6)[:, None]), 0, None) @ gauss
    np.testing.assert_allclose(taps, hats / hats.sum(), atol=1e-6)


@pytest.mark.parametrize("size", [2, 3, 4, 17])
def test_smoothing_inverts_the_operator(size: int) -> None:
    factor = np.empty((3, size), np.float32)
    kernels.factor_smoothness(2.5, factor)
    values = np.random.default_rng(2).normal(size=(size, 5)).astype(np.float32)
    expected = np.linalg.solve(smoothness(size, 2.5), values)
    kernels._smooth_rows(values, factor)
    np.testing.assert_allclose(values, expected, atol=2e-6)


def problem(seed: int, response: float) -> tuple:
    """Samples of a random scene, unevenly lit, some of them saturated."""
    rng = np.random.default_rng(seed)
    rows, phases, across, lines = 6, 2, 7, 25
    _, laid = lay(rng, lines, rows, phases, across, response)
    power = (rng.uniform(0.2, 1.5, (lines, across + 2)) * (rng.random((lines, across + 2)) > 0.1)).astype(np.float32)
    image = 1 + rng.normal(size=(rows, phases * across)).astype(np.float32)
    seen = np.empty_like(power)
    kernels.forward(image, laid, phases, seen)
    signal = (power * seen + np.sqrt(power) * rng.normal(size=power.shape)).astype(np.float32)
    return signal, power, laid, phases, (rows, phases * across)


@pytest.mark.parametrize("response", [0.0, 0.7])
def test_solution_is_that_of_the_normal_equations(response: float) -> None:
    signal, power, laid, phases, shape = problem(3, response)
    density, stiffness = 1.7, (1.3, 0.6)
    factors = tuple(np.empty((3, size), np.float32) for size in shape)
    for factor, one in zip(factors, stiffness, strict=True):
        kernels.factor_smoothness(one, factor)
    image, support = np.empty(shape, np.float32), np.empty(shape, np.float32)
    steps = kernels.solve(signal, power, laid, phases, density, factors, 1e-6, 80, image, support)
    assert steps < 40
    model = matrix(laid, shape, phases, power.shape)
    order = phased(np.arange(shape[0] * shape[1]).reshape(shape), phases).astype(int).ravel()
    product = np.kron(smoothness(shape[0], stiffness[0]), smoothness(shape[1], stiffness[1]))[np.ix_(order, order)]
    normal = model.T @ (power.ravel()[:, None] * model) + density * (product - np.eye(len(product)))
    expected = np.linalg.solve(normal, model.T @ signal.ravel().astype(float))
    np.testing.assert_allclose(image.ravel(), expected, atol=2e-4)
    np.testing.assert_allclose(support.ravel(), np.linalg.solve(product, model.T @ power.ravel()), atol=1e-4)


def test_few_steps_suffice() -> None:
    """The residual falls to a thousandth of the signal within a dozen steps, however stiff the image is."""
    signal, power, laid, phases, shape = problem(4, 0.0)
    for stiffness in (0.1, 1.0, 10.0):
        factors = tuple(np.empty((3, size), np.float32) for size in shape)
        for factor in factors:
            kernels.factor_smoothness(stiffness, factor)
        image, support = np.empty(shape, np.float32), np.empty(shape, np.float32)
        density = float(power.sum()) / (shape[0] * shape[1])
        assert kernels.solve(signal, power, laid, phases, density, factors, 1e-3, 80, image, support) <= 12
