"""The empty line in every form that a kernel asks for, each made once."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .background import Background
from .detect import DetectorTables, bin_columns, detector_tables
from .line_fit import LineTables, line_tables
from .screen import ScreenTables, screen_tables


@dataclass(frozen=True)
class EmptyLine:
    """A :class:`Background` and its tables, for samples of ``sample_bytes`` bytes."""

    background: Background
    sample_bytes: int

    @cached_property
    def tables(self) -> LineTables:
        return line_tables(self.background)

    @cached_property
    def screen(self) -> ScreenTables:
        return screen_tables(self.background, bin_columns(self.background), self.sample_bytes)

    @cached_property
    def detector(self) -> DetectorTables:
        return detector_tables(self.background, self.tables)

    @cached_property
    def contrast_codes(self) -> float:
        """Standard deviation of an empty line's codes."""
        return float(np.std(self.background.profile.light(np.arange(0.0, self.background.period_samples, 0.25))))
