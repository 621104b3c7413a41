"""Stamps: small pictures of how an object darkens the light, to be placed in scenes.

Before ``phantoms``, which gives them place, size, angle and contrast. A stamp's darkness is 0 where the light
passes and 1 where the object is darkest.
"""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.transform import resize

from .images import IMAGE_SUFFIXES, ground_level, read_grey

STAMP_PIXELS = 112
DIRECTIONS = 256  # at which a stamp's reach is tabulated
MOST_IMAGES = 8192  # 0.4 GB of stamps

_BORDER = 5  # pixels that stay clear: the spline's support, and room for smoothing
_INNER = STAMP_PIXELS - 2 * _BORDER
_FAINT = 0.05  # darkness that counts as part of the object


@dataclass(frozen=True)
class Stamps:
    """A library of stamps.

    Attributes
    ----------
    darkness : ndarray of shape (K, STAMP_PIXELS, STAMP_PIXELS), float32
        Coefficients of a cubic B-spline, 0 to 1, axis 0 along the flow; zero along the border.
    kinds : tuple of str, of length K
        Name of each, "class/name" where it has a label; see ``label_of``.
    radius : ndarray of shape (K,), float64
        Radius of the circle of the area that is darker than 0.05 [pixels].
    reach : ndarray of shape (K, DIRECTIONS), float64
        How far a stamp reaches from its middle in the direction at 2π·i / DIRECTIONS to its columns [pixels].
    """

    darkness: NDArray[np.float32]
    kinds: tuple[str, ...]
    radius: NDArray[np.float64] = field(init=False)
    reach: NDArray[np.float64] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "radius", np.sqrt((self.darkness > _FAINT).sum(axis=(1, 2)) / np.pi))
        object.__setattr__(self, "reach", np.array([_reach(stamp) for stamp in self.darkness]))


def label_of(kind: str) -> str:
    """Label in a name "class/name": what stands before the first slash, nothing where there is none."""
    label, slash, _ = kind.partition("/")
    return label if slash else ""


def bead_stamps() -> Stamps:
    """One transparent sphere: its refraction leaves a dark rim and a bright core."""
    r = np.hypot(*stamp_grid())
    rim = np.exp(-0.5 * ((r - 0.8) / 0.1) ** 2)
    return Stamps(finished([(rim + 0.06) * soft_step((1 - r) / 0.06)], 1), ("bead",))


def disc_stamps() -> Stamps:
    """One evenly dark disc with a soft edge."""
    r = np.hypot(*stamp_grid())
    return Stamps(finished([soft_step((1 - r) / 0.06)], 1), ("disc",))


def cell_stamps(seed: int = 0, count: int = 24) -> Stamps:
    """Elliptical cells with a membrane, a nucleus and granular texture, all different.

    Parameters
    ----------
    seed : int, optional
        Of the shapes and textures.
    count : int, optional
        Number of cells K.
    """
    pictures = []
    for index in range(count):
        random = np.random.default_rng([seed, index])
        y, x = stamp_grid()
        aspect = random.uniform(0.7, 1.0)
        angle = np.arctan2(y / aspect, x)
        lobes = sum(random.uniform(-0.03, 0.03) * np.cos(m * angle + random.uniform(0, 2 * np.pi)) for m in (2, 3, 4))
        rho = np.hypot(x, y / aspect) / (0.9 + lobes)
        turn, away = random.uniform(0, 2 * np.pi), random.uniform(0, 0.25)
        nucleus = np.hypot(x - away * np.cos(turn), y - aspect * away * np.sin(turn)) / random.uniform(0.35, 0.5)
        grains = ndimage.gaussian_filter(random.standard_normal(x.shape), 3)
        body = 0.4 + 0.1 * grains / grains.std()
        membrane = 0.45 * np.exp(-0.5 * ((rho - 0.93) / 0.05) ** 2)
        picture = body + membrane + 0.45 * soft_step((1 - nucleus) / 0.1)
        pictures.append(np.clip(picture, 0.12, None) * soft_step((1 - rho) / 0.05))
    return Stamps(finished(pictures, count), tuple(f"cell{index:02d}" for index in range(count)))


def image_stamps(folder: str | os.PathLike[str], *, most: int = MOST_IMAGES) -> Stamps:
    """Objects from the images of a folder and its sub-folders: a dark object on a bright ground.

    Parameters
    ----------
    folder : path-like
        Its PNG, JPEG and TIFF files are read in order of name.
    most : int, optional
        Of more images, and of more than :data:`MOST_IMAGES`, as many spread evenly are taken.

    Returns
    -------
    Stamps
        Named by path from the folder on, so that the label is the folder in it. The ground is the median along the
        image's border; the object is cut out, and keeps its proportions.

    Raises
    ------
    ValueError
        If there is no such folder, no image in it, one that cannot be read or is larger than 2^24 pixels,
        or one without a dark object.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; name one that holds images")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise ValueError(f"{folder}: holds no PNG, JPEG or TIFF image; name a folder of images")
    paths = [paths[i] for i in np.linspace(0, len(paths) - 1, min(len(paths), most, MOST_IMAGES)).astype(int)]
    kinds = tuple(path.relative_to(folder).as_posix() for path in paths)
    return Stamps(finished(map(_cut_out, paths), len(paths)), kinds)


def stamp_grid() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Positions y and x of a stamp's pixels; the unit circle fits in the part that need not stay clear."""
    axis = (np.arange(STAMP_PIXELS) - 0.5 * (STAMP_PIXELS - 1)) / (0.5 * _INNER - 2)
    return axis[:, None] * np.ones(STAMP_PIXELS), axis * np.ones((STAMP_PIXELS, 1))


def soft_step(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 below z = −1, 1 above z = 1, smooth between."""
    return 0.5 + 0.5 * np.sin(np.pi / 2 * np.clip(z, -1, 1))


def finished(pictures: Iterable[NDArray[np.float64]], count: int) -> NDArray[np.float32]:
    """Stamps from pictures of darkness: clear borders, no faint tails, peak 1 after the spline's own smoothing."""
    stamps = np.empty((count, STAMP_PIXELS, STAMP_PIXELS), dtype=np.float32)
    inner = np.zeros(stamps.shape[1:], dtype=bool)
    inner[_BORDER:-_BORDER, _BORDER:-_BORDER] = True
    taps = np.array([1, 4, 1]) / 6
    for stamp, picture in zip(stamps, pictures, strict=True):
        darkness = np.where(inner & (picture >= 0.02 * picture.max()), picture, 0)
        stamp[:] = darkness / ndimage.convolve1d(ndimage.convolve1d(darkness, taps, axis=0), taps, axis=1).max()
    return stamps


def _reach(stamp: NDArray[np.float32]) -> NDArray[np.float64]:
    dark = stamp > 0
    rows = np.nonzero(dark.any(axis=1))[0]
    left, right = dark.argmax(axis=1)[rows], stamp.shape[1] - 1 - dark[:, ::-1].argmax(axis=1)[rows]
    x = np.append(left, right) - 0.5 * (stamp.shape[1] - 1)  # the ends of the rows: all that can be furthest
    y = np.append(rows, rows) - 0.5 * (stamp.shape[0] - 1)
    angle = 2 * np.pi * np.arange(DIRECTIONS)[:, None] / DIRECTIONS
    furthest = np.max(x * np.cos(angle) + y * np.sin(angle), axis=1)
    return furthest + 2 * math.sqrt(2)  # a coefficient acts on less than two pixels each way


def _cut_out(path: Path) -> NDArray[np.float64]:
    """Darkness of the object in an image, made to fit a stamp."""
    image = read_grey(path).astype(float)
    ground = ground_level(image)
    darkness = np.nan_to_num(np.clip(1 - image / ground, 0, None)) if ground > 0 else np.zeros_like(image)
    if darkness.max() < _FAINT:
        raise ValueError(f"{path}: shows nothing darker than its border; give a dark object on a bright ground")
    darkness = np.clip(darkness / darkness.max() - _FAINT, 0, None)
    labels, _ = ndimage.label(darkness > _FAINT)
    object_label = labels[np.unravel_index(np.argmax(darkness), darkness.shape)]
    rows, columns = ndimage.find_objects(labels)[object_label - 1]
    cut = darkness[rows, columns]
    scale = (_INNER - 6) / max(cut.shape)
    small = resize(cut, [max(round(n * scale), 1) for n in cut.shape], order=1, anti_aliasing=scale < 1)
    stamp = np.zeros((STAMP_PIXELS, STAMP_PIXELS))
    top, left = ((STAMP_PIXELS - n) // 2 for n in small.shape)
    stamp[top : top + small.shape[0], left : left + small.shape[1]] = small
    return ndimage.gaussian_filter(stamp, 1.0, truncate=3)
