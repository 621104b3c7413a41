"""Cells in transmission images: where they are, what they measure, what they are."""

from .features import FEATURES, Feature, feature_columns, measure_cell, measure_images
from .segment import segment_cell, segment_images, separate_parts

__all__ = [
    "FEATURES",
    "Feature",
    "feature_columns",
    "measure_cell",
    "measure_images",
    "segment_cell",
    "segment_images",
    "separate_parts",
]
