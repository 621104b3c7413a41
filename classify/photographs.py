"""Features of single objects in photographs of any size: where no event says what belongs to the cell.

Beside :mod:`.pictures`, for ensembles. Each photograph is segmented as an event's image is.
"""

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from .features import feature_columns, measure_cell
from .segment import segment_cell

# Clear pixels set around a photograph, whose objects often reach its border.
_CLEAR_PX = 4
# Least noise [transmission]: photographs of a saturated ground have none to be seen.
_LEAST_NOISE = 0.005


def mask_of_object(image: np.ndarray) -> np.ndarray:
    """Pixels of the object in a photograph.

    Parameters
    ----------
    image : ndarray of shape (rows, columns), float
        Transmission, 1 where clear.

    Returns
    -------
    mask : ndarray of shape (rows, columns), bool
        Never empty: where nothing is significant, what deviates most.
    """
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    noise = max(1.4826 * float(np.median(np.abs(border - np.median(border)))), _LEAST_NOISE)
    padded = np.pad(image, _CLEAR_PX, constant_values=1.0)
    inner = slice(_CLEAR_PX, -_CLEAR_PX)
    mask = segment_cell(padded, np.ones(padded.shape, dtype=bool), noise)[inner, inner]
    if mask.any():
        return mask
    deviation = np.abs(ndimage.uniform_filter(image, 3, mode="nearest") - 1)
    strongest: np.ndarray = deviation >= 0.5 * deviation.max()
    return strongest


def measure_photographs(
    images: Sequence[np.ndarray], masks: Sequence[np.ndarray | None] | None = None, *, pixel_um: float | None = None
) -> dict[str, np.ndarray]:
    """Features of the objects in photographs, in columns as ``feature_columns`` names them; float64 (N,) each.

    ``masks`` are the objects' pixels, where they are known.
    """
    rows = []
    for image, given in zip(images, [None] * len(images) if masks is None else masks, strict=True):
        mask = np.pad(mask_of_object(image) if given is None else given, _CLEAR_PX)
        transmission = np.pad(np.asarray(image, dtype=np.float32), _CLEAR_PX, constant_values=1.0)
        known = np.ones(mask.shape, dtype=bool)
        rows.append(list(measure_cell(mask, transmission, known, pixel_um=pixel_um).values()))
    names = feature_columns(calibrated=pixel_um is not None)
    return dict(zip(names, np.array(rows).reshape(-1, len(names)).T, strict=True))
