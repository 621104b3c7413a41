"""The reconstruction methods by name: plain functions of one form, from lines and a window to an image."""

import numpy as np

from .background import Background
from .baselines import MOST_LINES_WOVEN, interpolate_fully, interpolate_simply, weave_lines
from .line_fit import LineTables
from .reconstruct import Grid, Method, Windows, reconstruct, window_fits
from .refine import MARGIN, SMOOTH_LENGTH, reconstruct_regularised

METHODS: dict[str, Method] = {
    "gridding": reconstruct,
    "regularised": reconstruct_regularised,
    "line_interleaving": weave_lines,
    "simple_interpolation": interpolate_simply,
    "full_interpolation": interpolate_fully,
}


def reach_lines(method: str, grid: Grid) -> int:
    """Lines beyond an image's rows that a method makes use of."""
    if method == "regularised":
        return int(np.ceil(MARGIN * SMOOTH_LENGTH * grid.sigma_lines + grid.lines_per_row))
    if method == "gridding":
        return int(np.ceil(3 * grid.sigma_lines)) + 1
    return 2 * MOST_LINES_WOVEN


def reconstruct_one_by_one(
    method: Method,
    grid: Grid,
    samples: np.ndarray,
    origin: int,
    starts: np.ndarray,
    background: Background,
    tables: LineTables,
    windows: Windows,
    transmission: np.ndarray,
    std: np.ndarray,
    known: np.ndarray,
) -> np.ndarray:
    """What :func:`~.reconstruct.reconstruct_windows` does, by any method."""
    saturated = np.empty(len(windows.place), np.int64)
    for i, (first, rows, columns) in enumerate(windows.place.tolist()):
        lines = slice(*windows.lines[i])
        tau = windows.tau[i, 0], windows.tau[i, 1]
        fits = window_fits(samples, origin, starts[lines], background, tables, tau)
        top = windows.grids[i, 0]  # counted from the first of these lines
        image = method(
            samples, origin, starts[lines], 0, background, tables, grid,
            rows=(top, top + windows.rows[i, 1] - windows.rows[i, 0]), tau=tau, fits=fits,
        )  # fmt: skip
        pixels = slice(first, first + rows * columns)
        for flat, values in ((transmission, image.transmission), (std, image.std), (known, image.known)):
            flat[pixels] = values.ravel()
        saturated[i] = image.saturated
    return saturated
