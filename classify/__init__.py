"""Cells in transmission images: where they are, what they measure, what they are."""

from .features import FEATURES, Feature, measure_cell
from .segment import segment_cell, separate_parts

__all__ = ["FEATURES", "Feature", "measure_cell", "segment_cell", "separate_parts"]
