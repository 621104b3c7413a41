"""Compiled loop of scenes made of images: transmission at many points. Nothing is checked here."""

import math

import numpy as np
from numba import njit

SIXTH = 1 / 6


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def image_transmission(
    x: np.ndarray,
    y: np.ndarray,
    per_um: float,
    places: np.ndarray,
    first: np.ndarray,
    shapes: np.ndarray,
    darkness: np.ndarray,
    transmission: np.ndarray,
) -> None:
    """Write the transmission (P,) at the points (x, y) [µm]: 1 minus the darkness of the image there.

    ``places`` float64 (N, 2): x and y of the centre of each image's first pixel; the images lie apart along y, in
    this order. ``shapes`` int64 (N, 2): its rows and columns, which begin at ``first`` (N,) of ``darkness``
    float32, flat: coefficients of a cubic B-spline, near zero along the border. Points come row by row: what
    depends on y alone is worked out when y changes.
    """
    image, y_before = 0, math.nan
    inside = False
    at, rows, columns = 0, 0, 0
    r0 = r1 = r2 = r3 = 0.0
    for point in range(x.shape[0]):
        transmission[point] = 1.0
        if y[point] != y_before:
            y_before = y[point]
            image = np.searchsorted(places[:, 1], y_before, side="right") - 1
            inside = False
            if image < 0:
                continue
            row = (y_before - places[image, 1]) * per_um
            r = math.floor(row)
            rows, columns = shapes[image, 0], shapes[image, 1]
            inside = 1 <= r <= rows - 3
            v = row - r
            r0, r1 = SIXTH * (1 - v) ** 3, SIXTH * (3 * v * v * (v - 2) + 4)
            r3 = SIXTH * v * v * v
            r2 = 1 - r0 - r1 - r3
            at = first[image] + (r - 1) * columns
        if not inside:
            continue
        column = (x[point] - places[image, 0]) * per_um
        c = math.floor(column)
        if not 1 <= c <= columns - 3:
            continue
        u = column - c
        c0, c1 = SIXTH * (1 - u) ** 3, SIXTH * (3 * u * u * (u - 2) + 4)
        c3 = SIXTH * u * u * u
        c2 = 1 - c0 - c1 - c3
        a = at + c - 1
        b, d, e = a + columns, a + 2 * columns, a + 3 * columns
        value = (
            r0 * (c0 * darkness[a] + c1 * darkness[a + 1] + c2 * darkness[a + 2] + c3 * darkness[a + 3])
            + r1 * (c0 * darkness[b] + c1 * darkness[b + 1] + c2 * darkness[b + 2] + c3 * darkness[b + 3])
            + r2 * (c0 * darkness[d] + c1 * darkness[d + 1] + c2 * darkness[d + 2] + c3 * darkness[d + 3])
            + r3 * (c0 * darkness[e] + c1 * darkness[e + 1] + c2 * darkness[e + 2] + c3 * darkness[e + 3])
        )
        # between pixels the spline may swing beyond them: light is neither made nor negative
        transmission[point] = 1.0 - min(max(value, 0.0), 1.0)
