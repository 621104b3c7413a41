"""A model at work in a run: what it says of each cell, as columns of the table, and what the run record says of it.

The model sees what goes into the .rtdc file, crops in grey levels, masks and features, and nothing else: so a cell
gets one class, whether a capture was processed, came as a stream, or is classified later from its files.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import chain, combinations, product
from pathlib import Path
from typing import Any

import numpy as np

from ..classify.onnx_file import ModelError
from ..classify.runtime import UNKNOWN, Model, read_model

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_CODE_LENGTH = 3
# Of a long name, so many letters may make its code.
_LETTERS = 24


@dataclass(frozen=True)
class CellModel:
    """A model, and the columns that it fills.

    model : Model
    name : str
        The file's name.
    sha256 : str
        Of the file's bytes.
    """

    model: Model
    name: str
    sha256: str

    @cached_property
    def classes(self) -> dict[str, str]:
        """Column of a class's score to the class, in the order of the columns; see :func:`class_codes`."""
        names = self.model.card.classes
        return {f"ml_score_{code}": name for code, name in zip(class_codes(names), names, strict=True)}

    def check_scale(self, pixel_um: float | None, where: object) -> None:
        """ModelError where the model takes sizes in µm, and they are not known."""
        try:
            self.model.check_scale(pixel_um)
        except ModelError as error:
            raise ModelError(f"{where}: {error}") from error

    def columns(
        self, crops: np.ndarray, masks: np.ndarray, table: Mapping[str, np.ndarray], *, pixel_um: float | None
    ) -> dict[str, np.ndarray]:
        """What the model says of N cells with a picture.

        Parameters
        ----------
        crops, masks, table, pixel_um
            As in ``Model.of_crops``.

        Returns
        -------
        columns : dict
            ``label``, object (N,): the class, or ``UNKNOWN``; ``probability`` of the most probable class; ``ml_class``:
            number of the class among the score columns in alphabetical order, as dclab counts, -1 where unknown; and a
            score column for each class, its probability.
        """
        verdicts = self.model.of_crops(crops, masks, table, pixel_um=pixel_um)
        scores = dict(zip(self.classes, verdicts.probabilities.T, strict=True))
        alphabetical = np.argsort(np.argsort(list(self.classes)))
        return {
            "label": verdicts.labels.astype(object),
            "probability": verdicts.probability,
            "ml_class": np.where(verdicts.rejected, -1, alphabetical[verdicts.best]),
            **scores,
        }

    def no_columns(self, count: int) -> dict[str, np.ndarray]:
        """The same columns, empty, for cells without a picture."""
        nothing = np.full(count, np.nan)
        return {"label": np.full(count, None, object), **dict.fromkeys(["probability", *score_columns(self)], nothing)}

    def all_counts(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Counts of all classes in order, and of the unknown, zeros among them."""
        return {name: counts.get(name, 0) for name in [*self.model.card.classes, UNKNOWN]}

    def as_dict(self) -> dict[str, Any]:
        """For the run record: the file, its digest, and its card without the story of the training."""
        card = {name: value for name, value in asdict(self.model.card).items() if name != "training"}
        return {"file": self.name, "sha256": self.sha256, "score_columns": self.classes, **card}


def load_cell_model(path: Path) -> CellModel:
    """Load a model for a run; ModelError as in ``classify.runtime.load_model``."""
    content = read_model(path)
    return CellModel(Model(content, str(path)), path.name, hashlib.sha256(content).hexdigest())


def score_columns(model: CellModel | None) -> tuple[str, ...]:
    """Columns that follow ``label`` and ``probability`` in the table."""
    return () if model is None else ("ml_class", *model.classes)


def class_codes(names: Sequence[str]) -> tuple[str, ...]:
    """Three characters for each class, as dclab wants them (0-9 and a-z), no two alike.

    The first letter and two that follow it, as early as possible, where an earlier name has not taken them. A model's
    classes have one order, so they always get the same codes.
    """
    codes: dict[str, None] = {}
    for name in names:
        codes[next(code for code in _candidates(name) if code not in codes)] = None
    return tuple(codes)


def _candidates(name: str) -> Iterator[str]:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    letters = re.sub(r"[^0-9a-z]", "", plain)[:_LETTERS]
    first, rest = letters[:1], letters[1:]
    spelled = (first + "".join(two) for two in combinations(rest, _CODE_LENGTH - 1))
    if len(letters) < _CODE_LENGTH:
        digits = product(_ALPHABET, repeat=_CODE_LENGTH - len(letters))
        spelled = (letters + "".join(some) for some in digits)
    return chain(spelled, ("".join(some) for some in product(_ALPHABET, repeat=_CODE_LENGTH)))
