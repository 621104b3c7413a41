"""The reconstruction methods by name: plain functions of one form, from lines and a window to an image."""

from typing import Protocol

import numpy as np

from .background import Background
from .baselines import interpolate_fully, interpolate_simply, weave_lines
from .line_fit import LineTables
from .reconstruct import Grid, TransmissionImage, reconstruct
from .refine import reconstruct_regularised


class Method(Protocol):
    """A way to make an image of a window; arguments as those of :func:`~.reconstruct.reconstruct`."""

    def __call__(
        self,
        samples: np.ndarray,
        origin: int,
        starts: np.ndarray,
        first_line: int,
        background: Background,
        tables: LineTables,
        grid: Grid,
        *,
        rows: tuple[float, float],
        tau: tuple[float, float],
        fits: np.ndarray | None = None,
    ) -> TransmissionImage:
        """Transmission image of a window of lines and positions."""


METHODS: dict[str, Method] = {
    "gridding": reconstruct,
    "regularised": reconstruct_regularised,
    "line_interleaving": weave_lines,
    "simple_interpolation": interpolate_simply,
    "full_interpolation": interpolate_fully,
}
