"""Objects in a nutshell: place, extent and lost light of each, from the sums of the screen, without an image.

For when there are more cells than can be imaged in time. Resolution: four lines by a box of two to eight samples.
"""

from dataclasses import dataclass

import numpy as np

from . import _summary_kernels as kernels
from .screen import FLAG_SIGNIFICANCE, ROW_LINES, ScreenTables

# Objects of one call; more are left out.
_MOST_OBJECTS = 4096


@dataclass(frozen=True)
class Summary:
    """Objects, in order of their first line; arrays of shape (N,).

    line_first, line_last : int64
        Lines that show them, whole rows.
    tau_first_samples, tau_last_samples : float64
        Where on the line they begin and end [samples].
    line_centre, tau_centre_samples : float64
        Centre of the lost light.
    boxes : int64
        Boxes of the screen that deviate.
    transmission_mean, transmission_least : float64
        Mean over these boxes, and 1 less the greatest deviation of any.
    significance : float64
        Greatest deviation of a box [standard deviations].
    """

    line_first: np.ndarray
    line_last: np.ndarray
    tau_first_samples: np.ndarray
    tau_last_samples: np.ndarray
    line_centre: np.ndarray
    tau_centre_samples: np.ndarray
    boxes: np.ndarray
    transmission_mean: np.ndarray
    transmission_least: np.ndarray
    significance: np.ndarray

    def some(self, which: np.ndarray) -> "Summary":
        """Some of the objects, by index or mask."""
        return Summary(**{name: values[which] for name, values in vars(self).items()})


def summarise(
    samples: np.ndarray,
    origin: int,
    starts: np.ndarray,
    first_line: int,
    wanted: np.ndarray,
    tables: ScreenTables,
    *,
    min_boxes: int = 2,
) -> Summary:
    """Summarise the objects in some lines.

    Parameters
    ----------
    samples : ndarray of shape (S,)
        Waveform [codes]; ``origin`` is the digitiser's index of its first sample.
    starts : ndarray of shape (N + 1,), float64
        Starts of consecutive lines, from the first line of a row on [samples after ``samples[0]``].
    first_line : int
        Number of the first line.
    wanted : ndarray of shape (N / ROW_LINES,), bool
        Rows to look at.
    tables : ScreenTables
    min_boxes : int, optional
        Objects of fewer boxes are noise.
    """
    row_starts = starts[::ROW_LINES]
    rows = min(wanted.size, row_starts.size - 1)
    inside = np.ceil(row_starts[:rows]) + tables.reach <= samples.size
    rows = int(np.count_nonzero(inside & (row_starts[:rows] >= 0)))
    objects, parent = np.empty((_MOST_OBJECTS, kernels.SUMS)), np.empty(_MOST_OBJECTS, np.int64)
    width = tables.arrays[1].shape[2]
    kernel = kernels.summarise_rows_int16 if tables.sums_type is np.int16 else kernels.summarise_rows_int32
    count = kernel(
        samples, origin, row_starts[: rows + 1], wanted, tables.arrays, tables.inverse_light,
        np.zeros((2, width + 8), tables.sums_type), objects, parent,
    )  # fmt: skip
    found = objects[:count]
    found = found[found[:, kernels.BOXES] >= min_boxes]
    found = found[np.lexsort((found[:, kernels.BOX_FIRST], found[:, kernels.ROW_FIRST]))]
    box = tables.box_samples
    loss = found[:, kernels.LOSS]
    # what brightens as much as it darkens has no centre of loss: its box has one
    sure = np.abs(loss) > 0.2 * found[:, kernels.BOXES] * found[:, kernels.MOST_LOSS]
    centre = [
        np.where(
            sure,
            np.divide(found[:, moment], loss, out=np.zeros_like(loss), where=sure),
            (found[:, first] + found[:, last]) / 2,
        )
        for moment, first, last in (
            (kernels.LOSS_ROW, kernels.ROW_FIRST, kernels.ROW_LAST),
            (kernels.LOSS_BOX, kernels.BOX_FIRST, kernels.BOX_LAST),
        )
    ]
    return Summary(
        line_first=first_line + ROW_LINES * found[:, kernels.ROW_FIRST].astype(np.int64),
        line_last=first_line + ROW_LINES * found[:, kernels.ROW_LAST].astype(np.int64) + ROW_LINES - 1,
        tau_first_samples=box * found[:, kernels.BOX_FIRST],
        tau_last_samples=box * (found[:, kernels.BOX_LAST] + 1),
        line_centre=first_line + ROW_LINES * centre[0] + (ROW_LINES - 1) / 2,
        tau_centre_samples=box * centre[1] + box / 2,
        boxes=found[:, kernels.BOXES].astype(np.int64),
        transmission_mean=1 - loss / np.maximum(found[:, kernels.BOXES], 1),
        transmission_least=1 - found[:, kernels.MOST_LOSS],
        significance=FLAG_SIGNIFICANCE * found[:, kernels.SIGNIFICANCE],
    )
