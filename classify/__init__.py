"""Cells in transmission images: where they are, what they measure, what they are."""

from .features import FEATURES, Feature, feature_columns, measure_cell, measure_sound
from .segment import segment_cell, segment_sound, separate_parts

__all__ = [
    "FEATURES",
    "Feature",
    "feature_columns",
    "measure_cell",
    "measure_sound",
    "segment_cell",
    "segment_sound",
    "separate_parts",
]
