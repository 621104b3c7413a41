"""Scenes for the simulator: what stands in the light, at x along the line and y along the flow.

Before ``acquisition.simulate``. Lengths in µm; transmission is 1 where the light passes. The flow carries
growing y across the line, which sees y = 0 first.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._phantom_kernels import stamp_transmission
from .stamps import DIRECTIONS, Stamps

#: What a scene tells about an object: centre, limits outside which it is clear, diameter of the circle of the
#: same area, greatest loss of light, angle of the stamp, and number in the scene's ``kinds``.
OBJECT_DTYPE = np.dtype(
    [
        ("x_um", "f8"),
        ("y_um", "f8"),
        ("x_first_um", "f8"),
        ("x_last_um", "f8"),
        ("y_first_um", "f8"),
        ("y_last_um", "f8"),
        ("diameter_um", "f8"),
        ("contrast", "f8"),
        ("angle_rad", "f8"),
        ("kind", "i4"),
    ]
)

STRIP_UM = 1000.0  # objects are drawn strip by strip along the flow
_TRIES = 500


class Scene(Protocol):
    """What the simulator needs to know of a scene.

    A scene may also have ``occupied(y_first_um, y_last_um)``, float64 (N, 4): boxes (x first, x last,
    y first, y last) outside which it is clear, at least those that touch the range; without it the whole line
    is looked at, always. Its objects are stored as truth if it has ``objects(y_first_um, y_last_um)``, an
    array of ``OBJECT_DTYPE``, and ``kinds``, a tuple of str.
    """

    def transmission(self, x_um: NDArray[np.float64], y_um: NDArray[np.float64]) -> NDArray[np.float64]:
        """Intensity transmission at each position; arguments broadcast."""


class EmptyScene:
    """Nothing in the light."""

    def transmission(self, x_um: ArrayLike, y_um: ArrayLike) -> NDArray[np.float64]:
        """1 everywhere."""
        return np.ones(np.broadcast_shapes(np.shape(x_um), np.shape(y_um)))

    def occupied(self, y_first_um: float, y_last_um: float) -> NDArray[np.float64]:
        """No box."""
        return np.empty((0, 4))


class BarTarget:
    """A resolution target: groups of opaque bars, one pitch after the other along the flow.

    Each group has bars across the line (they test the fast axis), then bars along it (the slow axis). Their
    transmission is a raised cosine, all that optics leaves of bars at its limit of resolution: the contrast
    found in an image, over the given one, is its modulation transfer at that pitch.

    Parameters
    ----------
    pitches_um : sequence of float
        Pitch of the bars of each group.
    field_of_view_um : float
        Length of the line; bars fill its middle 70 %.
    y_first_um : float, optional
        Where the first group begins.
    periods : int, optional
        Bars per group along the flow; the bars across the line are as long.
    contrast : float, optional
        Loss of light in the middle of a bar.
    """

    def __init__(
        self,
        pitches_um: ArrayLike,
        *,
        field_of_view_um: float,
        y_first_um: float = 10.0,
        periods: int = 5,
        contrast: float = 0.8,
    ) -> None:
        pitches = np.atleast_1d(np.asarray(pitches_um, dtype=float))
        if not (pitches > 0).all() or not np.isfinite(pitches).all():
            raise ValueError(f"pitches_um must be finite and above zero, got {pitches_um!r}")
        _check_contrast(contrast, contrast)
        self.contrast = contrast
        self.kinds = ("across", "along")
        heights = np.repeat(periods * pitches, 2)
        y_first = y_first_um + np.concatenate([[0], np.cumsum(heights + np.repeat(2 * pitches, 2))[:-1]])
        groups = np.zeros(heights.size, dtype=OBJECT_DTYPE)
        groups["x_first_um"] = 0.15 * field_of_view_um
        bars = np.maximum(np.floor(0.7 * field_of_view_um / pitches), 1)
        groups["x_last_um"] = groups["x_first_um"] + np.repeat(bars * pitches, 2)
        groups["y_first_um"], groups["y_last_um"] = y_first, y_first + heights
        groups["x_um"] = (groups["x_first_um"] + groups["x_last_um"]) / 2
        groups["y_um"] = y_first + heights / 2
        groups["diameter_um"] = np.repeat(pitches, 2)
        groups["contrast"] = contrast
        groups["kind"] = np.arange(heights.size) % 2
        self._groups = groups

    def transmission(self, x_um: ArrayLike, y_um: ArrayLike) -> NDArray[np.float64]:
        """1 between the groups, 1 − contrast in the middle of a bar."""
        x, y = np.broadcast_arrays(np.asarray(x_um, dtype=float), np.asarray(y_um, dtype=float))
        transmission = np.ones(x.shape)
        for group in self._groups:
            inside = (x >= group["x_first_um"]) & (x <= group["x_last_um"])
            inside &= (y >= group["y_first_um"]) & (y <= group["y_last_um"])
            way = y[inside] - group["y_first_um"] if group["kind"] else x[inside] - group["x_first_um"]
            bars = 0.5 - 0.5 * np.cos(2 * np.pi * way / group["diameter_um"])
            side = np.minimum(x[inside] - group["x_first_um"], group["x_last_um"] - x[inside])
            if group["kind"]:  # bars along the line end smoothly too
                bars *= 0.5 - 0.5 * np.cos(np.pi * np.clip(2 * side / group["diameter_um"], 0, 1))
            transmission[inside] = 1 - self.contrast * bars
        return transmission

    def occupied(self, y_first_um: float, y_last_um: float) -> NDArray[np.float64]:
        """Boxes of the groups in a range of y."""
        return _boxes(self.objects(y_first_um, y_last_um))

    def objects(self, y_first_um: float, y_last_um: float) -> NDArray[np.void]:
        """Groups in a range of y; their diameter is the pitch."""
        return _touching(self._groups, y_first_um, y_last_um)


class StampScene:
    """Stamped objects, wherever ``find`` says they are.

    Parameters
    ----------
    stamps : Stamps
        Pictures of the objects.
    find : callable
        ``find(y_first_um, y_last_um)`` gives the objects that touch a range of y, as ``place`` makes them.

    Examples
    --------
    >>> beads = bead_stamps()
    >>> two = place(beads, x_um=[10, 30], y_um=[20, 25], diameter_um=6.0, contrast=0.8)
    >>> scene = StampScene.of(beads, two)
    """

    def __init__(self, stamps: Stamps, find: Callable[[float, float], NDArray[np.void]]) -> None:
        self.stamps = stamps
        self.objects = find
        self.kinds = stamps.kinds

    @classmethod
    def of(cls, stamps: Stamps, objects: NDArray[np.void]) -> "StampScene":
        """Scene of given objects; the light through overlapping ones is their product."""
        return cls(stamps, lambda y_first_um, y_last_um: _touching(objects, y_first_um, y_last_um))

    def transmission(self, x_um: ArrayLike, y_um: ArrayLike) -> NDArray[np.float64]:
        """Transmission at each position; arguments broadcast."""
        x, y = np.broadcast_arrays(np.asarray(x_um, dtype=float), np.asarray(y_um, dtype=float))
        transmission = np.ones(x.shape)
        if not x.size:
            return transmission
        objects = self.objects(float(y.min()), float(y.max()))
        scale = self.stamps.radius[objects["kind"]] / (objects["diameter_um"] / 2)
        cos, sin = scale * np.cos(objects["angle_rad"]), scale * np.sin(objects["angle_rad"])
        stamp_transmission(
            np.ascontiguousarray(x).ravel(),
            np.ascontiguousarray(y).ravel(),
            _boxes(objects),
            np.column_stack([objects["x_um"], objects["y_um"], cos, sin]),
            np.ascontiguousarray(objects["kind"]),
            np.ascontiguousarray(objects["contrast"]),
            self.stamps.darkness,
            transmission.ravel(),  # a view
        )
        return transmission

    def occupied(self, y_first_um: float, y_last_um: float) -> NDArray[np.float64]:
        """Boxes of the objects in a range of y."""
        return _boxes(self.objects(y_first_um, y_last_um))


def place(
    stamps: Stamps,
    *,
    x_um: ArrayLike,
    y_um: ArrayLike,
    diameter_um: ArrayLike,
    contrast: ArrayLike,
    angle_rad: ArrayLike = 0.0,
    kind: ArrayLike = 0,
) -> NDArray[np.void]:
    """Objects of given place and size, for ``StampScene.of``.

    Parameters
    ----------
    stamps : Stamps
        Pictures of the objects.
    x_um, y_um, diameter_um, contrast, angle_rad, kind : array-like
        Fields of ``OBJECT_DTYPE``; they broadcast to shape (N,). ``kind`` numbers the stamp.

    Returns
    -------
    ndarray of shape (N,), ``OBJECT_DTYPE``
        With the objects' limits, which depend on size, angle and stamp.

    Raises
    ------
    ValueError
        If a diameter is not above zero, or a contrast not from 0 to 1.
    """
    given = np.broadcast_arrays(*np.atleast_1d(x_um, y_um, diameter_um, contrast, angle_rad, kind))
    objects = np.zeros(given[0].shape, dtype=OBJECT_DTYPE)
    names = ("x_um", "y_um", "diameter_um", "contrast", "angle_rad", "kind")
    for name, values in zip(names, given, strict=True):
        objects[name] = values
    if not (objects["diameter_um"] > 0).all():
        raise ValueError("diameter_um must be above zero for every object")
    if objects.size:
        _check_contrast(objects["contrast"].min(), objects["contrast"].max())
    um_per_pixel = objects["diameter_um"] / 2 / stamps.radius[objects["kind"]]
    for axis, direction in (("x", 0.0), ("y", math.pi / 2)):
        for end, sign, turn in (("first", -1, math.pi), ("last", 1, 0.0)):
            # The stamp's own columns lie at angle_rad to x: what points along x is at -angle_rad to them.
            step = np.rint((direction + turn - objects["angle_rad"]) * DIRECTIONS / (2 * math.pi))
            reach = um_per_pixel * stamps.reach[objects["kind"], step.astype(int) % DIRECTIONS]
            objects[f"{axis}_{end}_um"] = objects[f"{axis}_um"] + sign * reach
    return objects


def random_scene(
    stamps: Stamps,
    *,
    field_of_view_um: float,
    per_mm: float,
    seed: int,
    length_um: float = math.inf,
    diameter_um: tuple[float, float] = (8.0, 16.0),
    contrast: tuple[float, float] = (0.35, 0.7),
    gap_um: float = 2.0,
) -> StampScene:
    """Random objects in flow, apart from each other and whole within the line.

    They are drawn when they are asked for, strip by strip along the flow: a scene may go on without end.

    Parameters
    ----------
    stamps : Stamps
        Pictures of the objects, of which each object takes one at random.
    field_of_view_um : float
        Length of the line; an eighth at each end, where the light is weak, stays clear.
    per_mm : float
        Objects per millimetre of flow; each strip of about a millimetre holds its share.
    seed : int
        The same seed gives the same scene.
    length_um : float, optional
        Length of the scene along the flow; round(per_mm·length_um / 1000) objects lie in it.
    diameter_um, contrast : pair of float, optional
        Limits between which they are spread evenly; an object too long for the line is drawn smaller.
    gap_um : float, optional
        Least distance between two objects' circumscribed circles.

    Returns
    -------
    StampScene
        The scene.

    Raises
    ------
    ValueError
        If a limit makes no sense, or there is no room for so many objects; where a later strip turns out too
        full, only when it is asked for.
    """
    if not (0 < diameter_um[0] <= diameter_um[1] < math.inf):
        raise ValueError(f"diameter_um must be a pair (least, greatest) above zero, got {diameter_um}")
    _check_contrast(*contrast)
    if not (0 <= per_mm < math.inf and length_um > 0):
        raise ValueError(f"per_mm must be zero or more and length_um above zero, got {per_mm} and {length_um}")
    strips = math.inf if length_um == math.inf else max(round(length_um / STRIP_UM), 1)
    strip_um = STRIP_UM if length_um == math.inf else length_um / strips
    per_strip = per_mm * strip_um / 1000
    margin = field_of_view_um / 8
    room = min(field_of_view_um - 2 * margin, strip_um - gap_um)
    furthest = stamps.reach.max(axis=1) / stamps.radius  # of the stamp, in radii of the circle of its area
    if per_mm and room < diameter_um[0] / 4 * furthest.max():
        raise ValueError(
            f"objects of {diameter_um[0]:g} µm have no room in {max(room, 0):.1f} µm; "
            "take smaller ones, a longer line or more lines"
        )

    @lru_cache(maxsize=16)
    def strip(index: int) -> NDArray[np.void]:
        count = round((index + 1) * per_strip) - round(index * per_strip)
        random = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(index,)))
        kind = random.integers(len(stamps.kinds), size=count)
        reach = random.uniform(*diameter_um, count) / 2 * furthest[kind]
        reach = np.minimum(reach, 0.49 * room)
        places = np.full((count, 2), np.inf)  # not placed yet
        for i in np.argsort(-reach, kind="stable"):  # the largest first, while there is room
            low = np.array([margin, gap_um / 2]) + reach[i]
            high = np.array([field_of_view_um - margin, strip_um - gap_um / 2]) - reach[i]
            places[i] = _free_place(random, low, high, places, reach + reach[i] + gap_um)
        objects = place(
            stamps,
            x_um=places[:, 0],
            y_um=index * strip_um + places[:, 1],
            diameter_um=2 * reach / furthest[kind],
            contrast=random.uniform(*contrast, count),
            angle_rad=random.uniform(0, 2 * math.pi, count),
            kind=kind,
        )
        return np.sort(objects, order="y_um")

    def find(y_first_um: float, y_last_um: float) -> NDArray[np.void]:
        first = max(math.floor(y_first_um / strip_um), 0)
        last = min(math.floor(y_last_um / strip_um), strips - 1)
        touched = [strip(index) for index in range(first, int(last) + 1)]
        return _touching(np.concatenate(touched) if touched else strip(0)[:0], y_first_um, y_last_um)

    strip(0)  # a scene that cannot be says so at once
    return StampScene(stamps, find)


def _free_place(
    random: np.random.Generator,
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    taken: NDArray[np.float64],
    distance: NDArray[np.float64],
) -> NDArray[np.float64]:
    """A place (x, y) between low and high, at its distance or more from each of the taken ones."""
    for _ in range(_TRIES):
        place = random.uniform(low, high)
        if (np.hypot(*(taken - place).T) >= distance).all():
            return place
    raise ValueError(f"no room for {len(taken)} objects in {high[1] + low[1]:.0f} µm of flow; take fewer")


def _touching(objects: NDArray[np.void], y_first_um: float, y_last_um: float) -> NDArray[np.void]:
    return objects[(objects["y_last_um"] >= y_first_um) & (objects["y_first_um"] <= y_last_um)]


def _boxes(objects: NDArray[np.void]) -> NDArray[np.float64]:
    return np.column_stack([objects[f"{name}_um"] for name in ("x_first", "x_last", "y_first", "y_last")])


def _check_contrast(least: float, greatest: float) -> None:
    if not 0 <= least <= greatest <= 1:
        raise ValueError(f"contrast must lie between 0 and 1, the least first, got {least} and {greatest}")
