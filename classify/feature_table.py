"""Features of cells as an ensemble of trees takes them: those that can tell classes apart, one row per cell."""

from collections.abc import Mapping

import numpy as np

from .features import FEATURES

# Where a cell lies, and how much of it was seen, says nothing of what it is.
_NOT_OF_THE_CELL = {"position_x", "position_y", "centroid_x", "centroid_y", "touches_border", "unknown_fraction"}
#: The slope of transmission over the cell's own size, which needs no scale.
_ROUGHNESS = "gradient_rms·equivalent_diameter"
_BY_NAME = {feature.name: feature for feature in FEATURES}


def feature_names(*, in_um: bool) -> tuple[str, ...]:
    """Features that tell classes apart: all where lengths are known in µm, else those that have no scale."""
    own = [f for f in FEATURES if f.name not in _NOT_OF_THE_CELL]
    return (*(f.name for f in own if in_um or f.unit in ("", "rad")), _ROUGHNESS)


def feature_table(columns: Mapping[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray:
    """Table of features, float32 (N, names).

    Parameters
    ----------
    columns : mapping of str to ndarray of shape (N,)
        Columns of the table of cells, with their units, as ``feature_columns`` names them.
    names : tuple of str
        As ``feature_names`` gives them. What is not finite becomes 0.

    Raises
    ------
    KeyError
        If a feature is missing.
    """
    table = np.stack([_column(columns, name) for name in names], axis=1).astype(np.float32)
    return np.nan_to_num(table, copy=False, nan=0.0, posinf=0.0, neginf=0.0)


def _column(columns: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name == _ROUGHNESS:
        return _column(columns, "gradient_rms") * _column(columns, "equivalent_diameter")
    feature = _BY_NAME[name]
    calibrated = feature.column(True)
    return np.asarray(columns[calibrated if calibrated in columns else feature.column(False)], dtype=np.float64)
