"""Compiled loop of the phantoms: transmission of stamped objects at many points. Nothing is checked here."""

import math

import numpy as np
from numba import njit

SIXTH = 1 / 6


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def stamp_transmission(
    x: np.ndarray,
    y: np.ndarray,
    boxes: np.ndarray,
    frames: np.ndarray,
    kinds: np.ndarray,
    contrasts: np.ndarray,
    darkness: np.ndarray,
    transmission: np.ndarray,
) -> None:
    """Multiply ``transmission`` (P,) at the points (x, y) by 1 − contrast·darkness of every object.

    ``boxes`` (N, 4): x and y limits outside which an object is clear. ``frames`` (N, 4): centre x and y, and
    the cosine and sine of its angle times stamp pixels per unit length. ``darkness`` float32 (K, B, B):
    coefficients of a cubic B-spline, zero along the border; its middle lies at the centre.
    """
    middle = 0.5 * (darkness.shape[1] - 1)
    last = darkness.shape[1] - 3
    for point in range(x.shape[0]):
        px, py = x[point], y[point]
        for i in range(boxes.shape[0]):
            if not (boxes[i, 0] <= px <= boxes[i, 1] and boxes[i, 2] <= py <= boxes[i, 3]):
                continue
            dx, dy = px - frames[i, 0], py - frames[i, 1]
            column = middle + frames[i, 2] * dx + frames[i, 3] * dy
            row = middle - frames[i, 3] * dx + frames[i, 2] * dy
            c, r = math.floor(column), math.floor(row)
            if not (1 <= c <= last and 1 <= r <= last):
                continue
            u, v = column - c, row - r
            c0, c1 = SIXTH * (1 - u) ** 3, SIXTH * (3 * u * u * (u - 2) + 4)
            c3 = SIXTH * u * u * u
            c2 = 1 - c0 - c1 - c3
            r0, r1 = SIXTH * (1 - v) ** 3, SIXTH * (3 * v * v * (v - 2) + 4)
            r3 = SIXTH * v * v * v
            r2 = 1 - r0 - r1 - r3
            s = darkness[kinds[i]]
            value = (
                r0 * (c0 * s[r - 1, c - 1] + c1 * s[r - 1, c] + c2 * s[r - 1, c + 1] + c3 * s[r - 1, c + 2])
                + r1 * (c0 * s[r, c - 1] + c1 * s[r, c] + c2 * s[r, c + 1] + c3 * s[r, c + 2])
                + r2 * (c0 * s[r + 1, c - 1] + c1 * s[r + 1, c] + c2 * s[r + 1, c + 1] + c3 * s[r + 1, c + 2])
                + r3 * (c0 * s[r + 2, c - 1] + c1 * s[r + 2, c] + c2 * s[r + 2, c + 1] + c3 * s[r + 2, c + 2])
            )
            transmission[point] *= 1 - contrasts[i] * value
