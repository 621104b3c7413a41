"""How sharp an image shows an edge: edge spread function and modulation transfer function."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import interpolate, signal

from .fourier_ring import PixelSize, pixel_size

# Bins per pixel of a super-sampled edge.
_EDGE_BINS = 4


@dataclass(frozen=True)
class EdgeResponse:
    """How an image shows a straight edge.

    position : ndarray of shape (P,), float64
        Distance from the edge, across it [µm, or pixels].
    response : ndarray of shape (P,), float64
        Edge spread function, 0 on one side and 1 on the other.
    width : float
        Distance from 10 % to 90 % of the response.
    frequency, mtf : ndarray of shape (F,), float64
        Modulation transfer function, 1 at frequency 0, up to the pixels' Nyquist frequency.
    mtf50 : float
        Frequency at which it falls to one half; NaN where it does not.
    slope : float
        By how many pixels the edge moves along the measured axis from pixel to pixel of the other one.
    """

    position: NDArray[np.float64]
    response: NDArray[np.float64]
    width: float
    frequency: NDArray[np.float64]
    mtf: NDArray[np.float64]
    mtf50: float
    slope: float


def edge_response(image: ArrayLike, *, axis: int = 1, pixel_um: PixelSize | None = None) -> EdgeResponse:
    """Edge spread function and MTF across one straight edge, slanted or not.

    Parameters
    ----------
    image : array_like of shape (rows, columns)
        A window with one edge, from side to side, and nothing else; NaN where unknown.
    axis : int, optional
        The axis that the edge is measured along: 1, the fast one, for an edge along the flow; 0 for one along the
        line. The edge may slant by up to 45°.
    pixel_um : float or (float, float), optional
        Size of a pixel, (slow, fast) where it is not square.

    Returns
    -------
    edge : EdgeResponse

    Raises
    ------
    ValueError
        If the image shows no edge across the axis.

    Notes
    -----
    Slanted-edge method, after ISO 12233: the edge's place in each line of pixels is the centroid of its
    derivative, a straight line through these places gives each pixel's distance from the edge, and the pixels of all
    lines together draw the edge in bins of a quarter of a pixel. Its derivative is the line spread function, whose
    Fourier transform, divided by that of the bins and of the difference, is the MTF. An edge that does not slant is
    drawn by pixels one apart, with straight lines between.
    """
    pixels = np.asarray(image, dtype=float)
    sizes = pixel_size(pixel_um)
    if axis not in (0, 1) or pixels.ndim != 2 or pixels.shape[axis] < 8 or pixels.shape[1 - axis] < 2:
        raise ValueError(
            f"an edge is measured along axis 0 or 1 of an image with at least 8 pixels along it; got axis {axis} of "
            f"shape {pixels.shape}"
        )
    across, along = sizes[axis], sizes[1 - axis]
    lines = pixels if axis == 1 else pixels.T
    offset, slope = _edge_line(lines)
    cosine = 1 / np.hypot(1.0, slope * across / along)
    row, column = np.indices(lines.shape)
    distance = (column - offset - slope * row) * across * cosine
    step = across * cosine / _EDGE_BINS
    known = np.isfinite(lines)
    reach = int(np.median(np.minimum(distance.max(axis=1), -distance.min(axis=1))) / step)
    if reach < 3 * _EDGE_BINS:
        raise ValueError("the edge comes too close to the image's sides: cut the window so that it lies in the middle")
    bins = np.rint(distance[known] / step).astype(np.int64) + reach
    inside = (bins >= 0) & (bins <= 2 * reach)
    number = np.bincount(bins[inside], minlength=2 * reach + 1)
    place = (np.arange(2 * reach + 1) - reach) * step
    filled = number > 0
    if filled.sum() < 8:
        raise ValueError("too few known pixels around the edge")
    total = np.bincount(bins[inside], lines[known][inside], minlength=2 * reach + 1)
    where = np.bincount(bins[inside], distance[known][inside], minlength=2 * reach + 1)
    mean_place = where[filled] / number[filled]
    square = np.bincount(bins[inside], distance[known][inside] ** 2, minlength=2 * reach + 1)
    blur = float(np.mean(np.maximum(square[filled] / number[filled] - mean_place**2, 0)))
    response = interpolate.CubicSpline(mean_place, total[filled] / number[filled])(place)
    tail = max(2, response.size // 6)
    low, high = float(response[:tail].mean()), float(response[-tail:].mean())
    if not abs(high - low) > 0:
        raise ValueError("both sides of the edge are equally bright: there is no edge across this axis")
    response = (response - low) / (high - low)
    frequency, mtf = _transfer(response, step, 0.5 / (across * cosine), blur)
    below = np.flatnonzero(mtf < 0.5)
    mtf50 = float("nan")
    if below.size:
        i = int(below[0])
        mtf50 = float(np.interp(0.5, mtf[[i, i - 1]], frequency[[i, i - 1]]))
    return EdgeResponse(
        position=place,
        response=response,
        width=_crossing(place, response, 0.9) - _crossing(place, response, 0.1),
        frequency=frequency,
        mtf=mtf,
        mtf50=mtf50,
        slope=slope,
    )


def _edge_line(lines: NDArray[np.float64]) -> tuple[float, float]:
    """Place of the edge in the first line of pixels, and by how much it moves from line to line [pixels]."""
    change = np.diff(lines, axis=1)
    middle = np.arange(change.shape[1]) + 0.5
    sign = np.sign(np.nansum(change))
    if sign == 0:
        raise ValueError("both sides of the edge are equally bright: there is no edge across this axis")
    rows = np.arange(lines.shape[0])
    offset, slope = 0.0, 0.0
    reach = np.inf  # narrower in each round, so that noise far from the edge does not pull the centroid
    for step in range(6):
        distance = middle[None, :] - (offset + slope * rows)[:, None]
        near = (
            np.ones_like(change) if step == 0 else np.clip(np.cos(np.pi / 2 * np.clip(distance / reach, -1, 1)), 0, 1)
        )
        near = np.where(np.isfinite(change), near, 0.0)
        weight = near * np.nan_to_num(sign * change)
        mass = weight.sum(axis=1)
        usable = (mass > 0.2 * np.median(mass)) & (near.max(axis=1) > 0)
        if usable.sum() < 2:
            raise ValueError("the edge was found in fewer than two lines of pixels")
        centroid = (weight * middle).sum(axis=1)[usable] / mass[usable]
        slope, offset = (float(v) for v in np.polyfit(rows[usable], centroid, 1))
        if step == 0:
            reach = lines.shape[1] / 2
        else:
            spread = np.sqrt(max(float((weight * distance**2).sum() / weight.sum()), 1.0))
            reach = max(4.0, min(reach, 5 * spread))
    return offset, slope


def _crossing(place: NDArray[np.float64], response: NDArray[np.float64], level: float) -> float:
    """Where the response crosses a level, nearest to the edge."""
    above = response >= level
    crossings = np.flatnonzero(above[1:] != above[:-1])
    if not crossings.size:
        return float("nan")
    share = (level - response[crossings]) / (response[crossings + 1] - response[crossings])
    at = place[crossings] + share * (place[crossings + 1] - place[crossings])
    return float(at[np.argmin(np.abs(at))])


def _transfer(
    response: NDArray[np.float64], step: float, limit: float, blur: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Frequencies up to the limit, and the MTF of an edge spread function in steps; blur: variance within bins."""
    spread = np.gradient(response)
    spread *= signal.windows.tukey(spread.size, 0.5)
    frequency = np.fft.rfftfreq(4 * spread.size, step)
    transfer: NDArray[np.float64] = np.abs(np.fft.rfft(spread, 4 * spread.size)).astype(float)
    shown = frequency <= limit * (1 + 1e-9)
    frequency, transfer = frequency[shown], transfer[shown]
    # of the difference over two steps, and of the mean over a bin
    correction = np.sinc(2 * frequency * step) * np.exp(-2 * np.pi**2 * blur * frequency**2)
    return frequency.astype(float), np.asarray(transfer / transfer[0] / correction, dtype=float)
