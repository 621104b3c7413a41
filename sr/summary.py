"""Objects in a nutshell: place, extent and lost light of each, from the sums of the screen, without an image.

For when there are more cells than can be imaged in time. Resolution: four lines by a box of two to eight samples.
"""

import threading
from dataclasses import dataclass

import numpy as np

from . import _summary_kernels as kernels
from .screen import FLAG_SIGNIFICANCE, ROW_LINES, ScreenTables

# Objects of one call; more are left out. Objects of fewer boxes are noise.
_MOST_OBJECTS, _LEAST_BOXES = 4096, 3

_own = threading.local()  # each thread's work arrays


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


def sum_up(
    samples: np.ndarray, origin: int, starts: np.ndarray, wanted: np.ndarray, tables: ScreenTables
) -> np.ndarray:
    """Sums of the objects in some lines, for :func:`summary_of`.

    Parameters
    ----------
    samples : ndarray of shape (S,)
        Waveform [codes]; ``origin`` is the digitiser's index of its first sample.
    starts : ndarray of shape (N + 1,), float64
        Starts of consecutive lines, from the first line of a row on [samples after ``samples[0]``].
    wanted : ndarray of shape (N / ROW_LINES,), bool
        Rows to look at.
    tables : ScreenTables

    Returns
    -------
    sums : ndarray of shape (objects, SUMS), float64
        See ``_summary_kernels``; rows are counted from the first line.
    """
    row_starts = starts[::ROW_LINES]
    rows = min(wanted.size, row_starts.size - 1)
    while rows > 0 and row_starts[rows - 1] + 1 + tables.reach > samples.size:
        rows -= 1
    if not hasattr(_own, "objects"):
        _own.objects, _own.parent = np.empty((_MOST_OBJECTS, kernels.SUMS)), np.empty(_MOST_OBJECTS, np.int64)
    kernel = kernels.summarise_rows_int16 if tables.sums_type is np.int16 else kernels.summarise_rows_int32
    count = kernel(
        samples, origin, row_starts[: rows + 1], wanted, tables.arrays, tables.inverse_light,
        np.zeros((2, tables.width + 8), tables.sums_type), _own.objects, _own.parent,
    )  # fmt: skip
    found = _own.objects[:count]
    return found[found[:, kernels.BOXES] >= _LEAST_BOXES]


def summary_of(sums: np.ndarray, first_line: int, box_samples: int) -> Summary:
    """What sums of objects mean; rows are counted from ``first_line``."""
    number = sums[:, kernels.BOXES]
    loss = sums[:, kernels.LOSS]
    # what brightens as much as it darkens has no centre of loss: its extent has one
    sure = np.abs(loss) > 0.2 * number * sums[:, kernels.MOST_LOSS]
    divisor = np.where(sure, loss, 1.0)
    row, box = (
        np.where(sure, sums[:, moment] / divisor, (sums[:, first] + sums[:, last]) / 2)
        for moment, first, last in (
            (kernels.LOSS_ROW, kernels.ROW_FIRST, kernels.ROW_LAST),
            (kernels.LOSS_BOX, kernels.BOX_FIRST, kernels.BOX_LAST),
        )
    )
    return Summary(
        line_first=first_line + ROW_LINES * sums[:, kernels.ROW_FIRST].astype(np.int64),
        line_last=first_line + ROW_LINES * sums[:, kernels.ROW_LAST].astype(np.int64) + ROW_LINES - 1,
        tau_first_samples=box_samples * sums[:, kernels.BOX_FIRST],
        tau_last_samples=box_samples * (sums[:, kernels.BOX_LAST] + 1),
        line_centre=first_line + ROW_LINES * row + (ROW_LINES - 1) / 2,
        tau_centre_samples=box_samples * (box + 0.5),
        boxes=number.astype(np.int64),
        transmission_mean=1 - loss / number,
        transmission_least=1 - sums[:, kernels.MOST_LOSS],
        significance=FLAG_SIGNIFICANCE * sums[:, kernels.SIGNIFICANCE],
    )
