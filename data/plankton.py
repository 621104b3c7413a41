"""Phantoms of phytoplankton: stamps of classic shapes, drawn from random numbers, no two alike.

Like ``stamps``, before ``phantoms``. The shapes follow what a light microscope shows of each group: walls, girdles,
plates and spines refract and look dark, plastids absorb, mucilage hardly shows.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .stamps import Stamps, finished, soft_step, stamp_grid

Picture = NDArray[np.float64]
Draw = Callable[[np.random.Generator, Picture, Picture], Picture]

_PIXEL = 0.02  # of a stamp, in its unit circle's radius


def plankton_stamps(seed: int = 0, per_kind: int = 16) -> Stamps:
    """Chain and pennate diatoms, dinoflagellates, coccolithophores, flagellates and colonies.

    Parameters
    ----------
    seed : int, optional
        Of all shapes.
    per_kind : int, optional
        Stamps of each kind. More of them change none of the first.

    Returns
    -------
    Stamps
        Named "kind/00", "kind/01", …; labels are the kinds.
    """
    return _drawn(_PLANKTON, seed, per_kind)


def foreign_stamps(seed: int = 0, per_kind: int = 16) -> Stamps:
    """What a classifier of :func:`plankton_stamps` has never seen: acantharia, rings, fibres and air bubbles.

    Arguments and result alike.
    """
    return _drawn(_FOREIGN, seed, per_kind)


def _drawn(kinds: Mapping[str, Draw], seed: int, per_kind: int) -> Stamps:
    if not 1 <= per_kind <= 1000:
        raise ValueError(f"per_kind must lie between 1 and 1000, got {per_kind!r}")
    pictures, names = [], []
    for number, (kind, draw) in enumerate((_PLANKTON | _FOREIGN).items()):
        if kind not in kinds:
            continue
        for index in range(per_kind):
            random = np.random.default_rng([seed, number, index])
            y, x = stamp_grid()
            picture = np.clip(draw(random, y, x), 0, None)
            texture = ndimage.gaussian_filter(random.standard_normal(x.shape), 1.5)
            picture *= 1 + random.uniform(0.02, 0.12) * texture / texture.std()
            focus = random.uniform(0.6, 2.6)  # pixels: cells flow by at different depths
            pictures.append(ndimage.gaussian_filter(np.clip(picture, 0, None), focus))
            names.append(f"{kind}/{index:02d}")
    return Stamps(finished(pictures, len(pictures)), tuple(names))


def _chain_diatom(random: np.random.Generator, y: Picture, x: Picture) -> Picture:
    """Boxes in a row, touching at their corners, on a bent axis; some with setae."""
    cells = int(random.integers(3, 10))
    setae = random.random() < 0.4
    half = 0.78 if setae else 0.92
    pitch = 2 * half / cells
    width = np.clip(pitch * random.uniform(0.6, 2.2), 0.14, 0.62)
    x, y = _bent(x, y, random.uniform(-0.45, 0.45))
    gap, wall, body = random.uniform(0.03, 0.15), random.uniform(0.45, 0.8), random.uniform(0.12, 0.35)
    reach, slant, bristle = random.uniform(0.2, 0.4), random.uniform(-0.4, 0.4), random.uniform(0.4, 0.55)
    picture = np.zeros(x.shape)
    for cell in range(cells):
        middle = -half + pitch * (cell + 0.5)
        along, across = (x - middle) / (pitch / 2), y / (width / 2)
        # ends are hollow: cells touch at the corners and leave a window between them
        end = 1 - gap * (1 - np.clip(across, -1, 1) ** 2)
        inside = soft_step((1 - np.abs(across)) * width / 2 / _PIXEL) * soft_step(
            (end - np.abs(along)) * pitch / 2 / _PIXEL
        )
        rim = np.minimum((1 - np.abs(across)) * width, (end - np.abs(along)) * pitch) / 2
        shade = body + wall * np.exp(-0.5 * (rim / 0.025) ** 2)
        for _ in range(int(random.integers(1, 4))):
            a, b = random.uniform(-0.5, 0.5), random.uniform(-0.5, 0.5)
            size = random.uniform(0.2, 0.45)
            shade = shade + random.uniform(0.2, 0.5) * _blob((along - a) / size, (across - b) / size)
        picture = np.maximum(picture, shade * inside)
        if setae:
            for side in (-1, 1):
                corner = np.array([middle + 0.45 * pitch, side * width / 2])
                tip = corner + reach * np.array([slant, side])
                picture = np.maximum(picture, bristle * _stroke(x, y, np.array([corner, tip]), 0.015))
    return picture


def _pennate_diatom(random: np.random.Generator, y: Picture, x: Picture) -> Picture:
    """A slender valve with a raphe, striae across it, and two plastids."""
    x, y = _bent(x, y, random.uniform(-0.25, 0.25))
    y = y - random.choice([0.0, random.uniform(-0.12, 0.12)]) * np.sin(np.pi * x)  # some are sigmoid
    half = 1 / random.uniform(3.2, 9.0)
    blunt = random.uniform(1.2, 3.0)
    outline = half * np.clip(1 - np.abs(x / 0.95) ** blunt, 0, None)
    if random.random() < 0.3:  # swollen ends
        outline = np.where(np.abs(x) < 0.95, np.maximum(outline, 0.35 * half), 0)
    inside = soft_step((outline - np.abs(y)) / _PIXEL)
    wall = np.exp(-0.5 * ((outline - np.abs(y)) / 0.025) ** 2)
    striae = 0.5 + 0.5 * np.cos(2 * np.pi * x / random.uniform(0.07, 0.12))
    shade = random.uniform(0.12, 0.3) + random.uniform(0.4, 0.7) * wall + random.uniform(0.0, 0.25) * striae
    shade = shade + random.uniform(0.1, 0.4) * np.exp(-0.5 * (y / 0.018) ** 2) * (np.abs(x) > 0.07)
    for side in (-1, 1):
        place, length = side * random.uniform(0.3, 0.5), random.uniform(0.15, 0.3)
        shade = shade + random.uniform(0.2, 0.55) * _blob((x - place) / length, y / (0.75 * half))
    return shade * inside


def _dinoflagellate(random: np.random.Generator, y: Picture, x: Picture) -> Picture:
    """Two cones at a girdle, thecal plates, a nucleus; many with horns."""
    wide, upper, lower = random.uniform(0.38, 0.56), random.uniform(0.4, 0.62), random.uniform(0.38, 0.58)
    x = x - random.uniform(-0.12, 0.12) * y
    height = np.where(y < 0, upper, lower)
    peaked = np.where(y < 0, random.uniform(1.5, 2.3), random.uniform(1.7, 2.6))
    rho = np.abs(x / wide) ** 2.1 + np.abs(y / height) ** peaked
    rho = np.sqrt(rho)
    inside = soft_step((1 - rho) * wide / _PIXEL)
    shade = random.uniform(0.3, 0.5) + random.uniform(0.25, 0.45) * np.exp(-0.5 * ((rho - 0.95) / 0.06) ** 2)
    girdle = y - random.uniform(-0.08, 0.1) - random.uniform(-0.12, 0.12) * x / wide
    groove = random.uniform(0.035, 0.06)
    shade = shade + random.uniform(0.25, 0.45) * np.exp(-0.5 * ((np.abs(girdle) - groove) / 0.02) ** 2)
    shade = shade * (1 - 0.6 * np.exp(-0.5 * (girdle / (0.6 * groove)) ** 2))
    sulcus = np.exp(-0.5 * ((x - random.uniform(-0.06, 0.06)) / 0.03) ** 2) * (girdle > groove)
    shade = shade * (1 - random.uniform(0.1, 0.5) * sulcus)
    shade = shade + random.uniform(0.05, 0.2) * _mesh(random, x, y, 14)
    nucleus = np.hypot(x - random.uniform(-0.1, 0.1), y - random.uniform(-0.3, -0.1))
    shade = shade + random.uniform(0.1, 0.35) * soft_step((random.uniform(0.12, 0.2) - nucleus) / 0.05)
    picture = shade * inside
    if random.random() < 0.55:  # an apical horn, and two of unequal length behind
        lean = random.uniform(-0.15, 0.15)
        horns = [((lean * 0.5, -0.8 * upper), (lean, -0.97), 0.09)]
        for side in (-1, 1):
            reach = random.uniform(0.5, 0.95)
            horns.append(((side * 0.4 * wide, 0.7 * lower), (side * random.uniform(0.3, 0.6) * reach, reach), 0.07))
        for root, tip, thick in horns:
            picture = np.maximum(picture, random.uniform(0.5, 0.8) * _horn(x, y, np.array(root), np.array(tip), thick))
    return picture


def _coccolithophore(random: np.random.Generator, y: Picture, x: Picture) -> Picture:
    """A sphere under overlapping round shields, each with a dark rim and a bright middle."""
    radius = random.uniform(0.72, 0.85)
    out = np.hypot(x, y / random.uniform(0.9, 1.0))
    picture = random.uniform(0.2, 0.4) * soft_step((radius - out) / 0.05) * np.sqrt(np.clip(1 - (0.8 * out) ** 2, 0, 1))
    shields = int(random.integers(9, 26))
    size = radius * np.clip(random.uniform(1.5, 2.1) / np.sqrt(shields), 0.3, 0.6)
    turn = random.uniform(0, 2 * np.pi)
    dark, open_ = random.uniform(0.4, 0.7), random.uniform(0.35, 0.6)
    for number in range(shields):  # spread over the near side of the sphere
        tilt = np.sqrt((number + 0.5) / shields)
        around = turn + 2.39996 * number + random.uniform(-0.2, 0.2)
        cx, cy = radius * tilt * np.cos(around), radius * tilt * np.sin(around)
        flat = np.sqrt(max(1 - tilt**2, 0.04))  # a shield near the limb is seen from the side
        u = ((x - cx) * np.cos(around) + (y - cy) * np.sin(around)) / (size * flat)
        v = (-(x - cx) * np.sin(around) + (y - cy) * np.cos(around)) / size
        r = np.hypot(u, v)
        rim = np.exp(-0.5 * ((r - 0.85) / 0.16) ** 2)
        picture = picture * (1 - 0.5 * open_ * soft_step((0.7 - r) / 0.15)) + dark * rim * (1 - 0.4 * picture)
    return picture


def _flagellate(random: np.random.Generator, y: Picture, x: Picture) -> Picture:
    """A drop with a cup-shaped plastid, an eyespot, and one or two flagella, which some have lost."""
    x = x + 0.32
    long, wide = random.uniform(0.42, 0.6), random.uniform(0.26, 0.44)
    taper = random.uniform(-0.35, 0.35)
    rho = np.hypot(x / long, y / (wide * (1 + taper * np.clip(x / long, -1, 1))))
    inside = soft_step((1 - rho) * wide / _PIXEL)
    shade = random.uniform(0.2, 0.4) + 0.35 * np.exp(-0.5 * ((rho - 0.94) / 0.07) ** 2)
    cup = soft_step((rho - random.uniform(0.45, 0.65)) / 0.12) * soft_step((random.uniform(0.0, 0.5) - x / long) / 0.2)
    shade = shade + random.uniform(0.3, 0.6) * cup
    spot = np.hypot(x - 0.4 * long, y - random.choice([-1, 1]) * 0.4 * wide)
    shade = shade + random.uniform(0.2, 0.6) * soft_step((0.06 - spot) / 0.03)
    nucleus = np.hypot(x - random.uniform(-0.1, 0.15), y)
    shade = shade + random.uniform(0.1, 0.4) * soft_step((random.uniform(0.1, 0.16) - nucleus) / 0.04)
    picture = shade * inside
    way = np.linspace(0, 1, 40)
    for number in range(int(random.choice([0, 1, 2], p=[0.15, 0.5, 0.35]))):
        spread = random.uniform(0.1, 0.5) * (1 - 2 * number)
        wave, waves = random.uniform(0.03, 0.1), random.uniform(0.5, 2.0)
        length = random.uniform(0.45, 0.8)
        points = np.column_stack(
            [long * 0.8 + length * way, spread * way + wave * np.sin(2 * np.pi * waves * way) * np.sqrt(way)]
        )
        picture = np.maximum(picture, random.uniform(0.4, 0.65) * _stroke(x, y, points, 0.022))
    return picture


def _colony(random: np.random.Generator, y: Picture, x: Picture) -> Picture:
    """Small round cells together in mucilage: scattered, packed, or in a ring along its edge."""
    aspect, radius = random.uniform(0.7, 1.0), random.uniform(0.75, 0.93)
    out = np.hypot(x, y / aspect)
    picture = random.uniform(0.12, 0.25) * soft_step((radius - out) / 0.06)
    count = int(random.integers(8, 64))
    size = np.clip(random.uniform(0.4, 0.75) * radius / np.sqrt(count), 0.05, 0.2)
    hollow = random.random() < 0.3
    places: list[tuple[float, float]] = []
    for _ in range(40 * count):
        if len(places) == count:
            break
        distance = (radius - size) * (random.uniform(0.8, 1.0) if hollow else np.sqrt(random.random()))
        around = random.uniform(0, 2 * np.pi)
        spot = (distance * np.cos(around), aspect * distance * np.sin(around))
        if all(np.hypot(spot[0] - a, spot[1] - b) > 1.6 * size for a, b in places):
            places.append(spot)
    dark, core = random.uniform(0.35, 0.6), random.uniform(0.0, 0.4)
    for a, b in places:
        own = size * random.uniform(0.85, 1.15)
        r = np.hypot(x - a, y - b) / own
        cell = dark + 0.3 * np.exp(-0.5 * ((r - 0.85) / 0.15) ** 2) + core * soft_step((0.4 - r) / 0.2)
        picture = np.maximum(picture, cell * soft_step((1 - r) * own / _PIXEL))
    return picture


def _acantharia(random: np.random.Generator, y: Picture, x: Picture) -> Picture:
    """A dark centre and straight spicules all around."""
    middle = random.uniform(0.12, 0.25)
    r = np.hypot(x, y)
    picture = random.uniform(0.6, 0.9) * soft_step((middle - r) / 0.06)
    spicules = int(random.integers(8, 21))
    turn = random.uniform(0, 2 * np.pi)
    for number in range(spicules):
        around = turn + 2 * np.pi * (number + random.uniform(-0.2, 0.2)) / spicules
        tip = random.uniform(0.6, 0.95) * np.array([np.cos(around), np.sin(around)])
        picture = np.maximum(picture, random.uniform(0.3, 0.6) * _horn(x, y, np.zeros(2), tip, 0.03))
    return picture


def _ring(random: np.random.Generator, y: Picture, x: Picture) -> Picture:
    """An empty hoop: a wall around nothing."""
    aspect, radius, thick = random.uniform(0.6, 1.0), random.uniform(0.7, 0.88), random.uniform(0.04, 0.1)
    r = np.hypot(x, y / aspect)
    return np.exp(-0.5 * ((r - radius) / thick) ** 2)


def _fibre(random: np.random.Generator, y: Picture, x: Picture) -> Picture:
    """A long thread, bent at random."""
    way = np.linspace(-0.92, 0.92, 60)
    bends = sum(random.uniform(-0.25, 0.25) * np.sin(m * np.pi * way / 2 + random.uniform(0, 6)) for m in (1, 2, 3))
    points = np.column_stack([way, bends - np.mean(bends)])
    return random.uniform(0.6, 0.9) * _stroke(x, y, points, random.uniform(0.02, 0.045))


def _bubble(random: np.random.Generator, y: Picture, x: Picture) -> Picture:
    """A ball of air: all dark but for a bright middle."""
    radius = random.uniform(0.75, 0.92)
    r = np.hypot(x, y) / radius
    bright = random.uniform(0.3, 0.6)
    return soft_step((1 - r) * radius / _PIXEL) * (1 - random.uniform(0.7, 1.0) * soft_step((bright - r) / 0.15))


_PLANKTON: dict[str, Draw] = {
    "chain_diatom": _chain_diatom,
    "pennate_diatom": _pennate_diatom,
    "dinoflagellate": _dinoflagellate,
    "coccolithophore": _coccolithophore,
    "flagellate": _flagellate,
    "colony": _colony,
}
_FOREIGN: dict[str, Draw] = {"acantharia": _acantharia, "ring": _ring, "fibre": _fibre, "bubble": _bubble}


def _bent(x: Picture, y: Picture, bend: float) -> tuple[Picture, Picture]:
    """Coordinates along an axis that is bent to a parabola, and across it."""
    return x, y - bend * (x**2 - 0.3)


def _blob(u: Picture, v: Picture) -> Picture:
    """A soft round spot of radius 1."""
    return soft_step((1 - np.hypot(u, v)) / 0.35)


def _stroke(x: Picture, y: Picture, points: Picture, width: float) -> Picture:
    """A line of a width through points (N, 2)."""
    away = np.full(x.shape, np.inf)
    for start, end in pairwise(points):
        away = np.minimum(away, _distance(x, y, start, end)[0])
    return np.exp(-0.5 * (away / width) ** 2)


def _horn(x: Picture, y: Picture, root: Picture, tip: Picture, width: float) -> Picture:
    """A spike that grows thinner from its root to its tip."""
    away, along = _distance(x, y, root, tip)
    return soft_step((width * (1 - 0.8 * along) - away) / _PIXEL)


def _distance(x: Picture, y: Picture, start: Picture, end: Picture) -> tuple[Picture, Picture]:
    """Distance from the straight line between two points, and the share of it that lies before the nearest point."""
    step = end - start
    along = np.clip(((x - start[0]) * step[0] + (y - start[1]) * step[1]) / (step @ step), 0, 1)
    return np.hypot(x - start[0] - along * step[0], y - start[1] - along * step[1]), along


def _mesh(random: np.random.Generator, x: Picture, y: Picture, plates: int) -> Picture:
    """Seams between plates: where two of some random points are equally near."""
    points = random.uniform(-0.6, 0.6, (plates, 2))
    near = np.hypot(x - points[:, 0, None, None], y - points[:, 1, None, None])
    near.partition(1, axis=0)
    return np.exp(-0.5 * ((near[1] - near[0]) / 0.035) ** 2)
