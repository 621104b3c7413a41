"""Run a model file: classes, probabilities and what is none of the classes, from pictures or features of cells.

Needs ONNX Runtime and nothing that trains.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import onnxruntime
from scipy.special import softmax

from .feature_table import feature_names, feature_table
from .model import ModelCard, ModelError, read_card
from .onnx_file import MOST_BYTES, inspect_onnx
from .pictures import LEVELS_PER_TRANSMISSION, pictures_of_crops

#: Name of the model that comes with stretchscope, trained on phantoms of phytoplankton.
BUILT_IN = "phantoms"
#: What a cell is called that is none of the classes.
UNKNOWN = "unknown"
# Cells are run in batches of one size, the last one filled up: the result for a cell does not depend on its company.
_BATCH = 8
# Mean deviation from clear below which a picture's polarity is not judged.
_FAINT = 0.02
_ARRAYS = ("probabilities", "novelty", "rejected")


@dataclass(frozen=True)
class Verdicts:
    """What a model says of N cells.

    Attributes
    ----------
    classes : tuple of str
        The model's.
    probabilities : ndarray of shape (N, classes), float64
        Calibrated, on the assumption that a cell is one of the classes.
    novelty : ndarray of shape (N,), float64
        How unlike all classes each is.
    rejected : ndarray of shape (N,), bool
        Which ones are none of the classes.
    """

    classes: tuple[str, ...]
    probabilities: np.ndarray
    novelty: np.ndarray
    rejected: np.ndarray

    @classmethod
    def joined(cls, parts: Sequence["Verdicts"]) -> "Verdicts":
        """Verdicts of one model, one part after the other; at least one."""
        arrays = (np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS)
        return cls(parts[0].classes, *arrays)

    @property
    def probability(self) -> np.ndarray:
        """Probability of each cell's most probable class."""
        return self.probabilities.max(axis=1, initial=0.0)

    @property
    def best(self) -> np.ndarray:
        """Index of each cell's most probable class, int (N,)."""
        best: np.ndarray = self.probabilities.argmax(axis=1)
        return best

    @property
    def labels(self) -> np.ndarray:
        """The most probable class, or ``UNKNOWN``; str (N,)."""
        names = np.array([*self.classes, UNKNOWN])
        labels: np.ndarray = names[np.where(self.rejected, len(self.classes), self.best)]
        return labels

    def top(self, count: int) -> np.ndarray:
        """Indices of the most probable classes of each, most probable first; int (N, count)."""
        order: np.ndarray = np.argsort(-self.probabilities, axis=1, kind="stable")[:, :count]
        return order


class Model:
    """A model that is ready to run.

    Parameters
    ----------
    content : bytes
        The model file.
    where : str
        Its name, for messages.

    Raises
    ------
    ModelError
        If it is not a model of stretchscope, or a broken one.
    """

    def __init__(self, content: bytes, where: str) -> None:
        summary = inspect_onnx(content, where)
        self.where = where
        self.card = read_card(summary.metadata, where)
        unknown = sorted(set(self.card.features) - set(feature_names(in_um=self.card.in_um)))
        if unknown:
            raise ModelError(
                f"{where}: takes '{unknown[0]}', a feature that this version does not measure; train it anew"
            )
        expected = _expected_inputs(self.card)
        outputs = {"novelty": (None, 1)} | summary.outputs
        known = {"scores": (None, len(self.card.classes)), "novelty": (None, 1)}
        if summary.inputs != expected or outputs != known:
            raise ModelError(f"{where}: its inputs and outputs are not what its card says; train it anew")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 4
        try:
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's errors have no common base
            raise ModelError(f"{where}: ONNX Runtime cannot load it: {_first_line(error)}") from error
        types = {info.name: info.type for info in (*self._session.get_inputs(), *self._session.get_outputs())}
        if types != {name: "tensor(uint8)" if name == "levels" else "tensor(float)" for name in types}:
            raise ModelError(f"{where}: its inputs and outputs are not what its card says; train it anew")
        self._outputs = [name for name in ("scores", "novelty") if name in summary.outputs]

    def of_crops(
        self, crops: np.ndarray, masks: np.ndarray, columns: Mapping[str, np.ndarray], *, pixel_um: float | None
    ) -> Verdicts:
        """Verdicts on measured cells.

        Parameters
        ----------
        crops : ndarray of shape (N, rows, columns), uint8
            Grey levels as an .rtdc file has them.
        masks : ndarray of shape (N, rows, columns), bool
        columns : mapping of str to ndarray of shape (N,)
            Columns of the table of cells, features among them.
        pixel_um : float or None
            Side of a pixel [µm].

        Raises
        ------
        ModelError
            If the model needs lengths in µm and the pixel size is not known.
        """
        self.check_scale(pixel_um)
        if self.card.kind == "ensemble":
            return self.of_features(feature_table(columns, self.card.features))
        return self.of_pictures(pictures_of_crops(crops, masks, pixel_um=pixel_um))

    def check_scale(self, pixel_um: float | None) -> None:
        """ModelError where lengths must be known and are not."""
        if self.card.in_um and pixel_um is None:
            raise ModelError(
                f"{self.where}: takes sizes in µm, but the size of a pixel is not known here: "
                "give flow speed and field of view (or --pixel-um for images), or train without a pixel size"
            )

    def check_polarity(self, pictures: np.ndarray) -> None:
        """ModelError where most pictures are darker than the ground and the model's are brighter, or the other way."""
        darkness = 1 - pictures["levels"].mean(axis=(1, 2)) / LEVELS_PER_TRANSMISSION
        middle = float(np.median(darkness)) if len(darkness) else 0.0
        if abs(middle) > _FAINT and (middle > 0) != (self.card.polarity == "dark"):
            seen, wanted = ("darker", "brighter") if middle > 0 else ("brighter", "darker")
            raise ModelError(
                f"{self.where}: was trained on objects that are {wanted} than the ground; "
                f"these are {seen}: give --polarity, or another model"
            )

    def of_pictures(self, pictures: np.ndarray) -> Verdicts:
        """Verdicts on pictures, ndarray of shape (N,), PICTURE_DTYPE; for a network."""
        fed = {"levels": pictures["levels"]}
        if self.card.in_um:
            fed["side"] = pictures["side"][:, None]
        return self._run(fed, len(pictures))

    def of_features(self, features: np.ndarray) -> Verdicts:
        """Verdicts on a table of the card's features, float32 (N, features); for an ensemble."""
        return self._run({"features": features}, len(features))

    def _run(self, fed: dict[str, np.ndarray], count: int) -> Verdicts:
        scores = np.empty((count, len(self.card.classes)))
        novelty = np.empty(count)
        for first in range(0, count, _BATCH):
            own = slice(first, min(first + _BATCH, count))
            try:
                results = self._session.run(self._outputs, {name: _filled(values[own]) for name, values in fed.items()})
                scores[own] = results[0][: own.stop - first]
                if len(results) > 1:
                    novelty[own] = results[1][: own.stop - first, 0]
            except Exception as error:  # as above; or what comes out has not the shape that was declared
                raise ModelError(f"{self.where}: ONNX Runtime cannot run it: {_first_line(error)}") from error
        if len(self._outputs) == 1:
            novelty[:] = -scores.max(axis=1, initial=-np.inf)
        senseless = ~np.isfinite(scores).all(axis=1)  # a network may overflow: what it says then is nothing
        scores[senseless], novelty[senseless] = 0.0, np.inf
        probabilities = softmax(scores / self.card.temperature, axis=1)
        return Verdicts(self.card.classes, probabilities, novelty, ~(novelty <= self.card.novelty_limit))


def load_model(path: Path) -> Model:
    """Load a model file; ModelError as in :func:`read_model` or as for ``Model``."""
    return Model(read_model(path), str(path))


def read_model(path: Path) -> bytes:
    """Content of a model file; of the model that comes with stretchscope, if the path is ``BUILT_IN`` and no file.

    Raises
    ------
    ModelError
        If it cannot be read, or has more than ``MOST_BYTES``.
    """
    if str(path) == BUILT_IN and not path.exists():
        return (resources.files("stretchscope.data") / "models" / f"{BUILT_IN}.onnx").read_bytes()
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise ModelError(f"{path}: {size} bytes are more than a model of stretchscope has")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror or error}") from error


def _expected_inputs(card: ModelCard) -> dict[str, tuple[int | None, ...]]:
    if card.kind == "ensemble":
        return {"features": (None, len(card.features))}
    sides: dict[str, tuple[int | None, ...]] = {"side": (None, 1)} if card.in_um else {}
    return {"levels": (None, card.side_px, card.side_px)} | sides


def _filled(values: np.ndarray) -> np.ndarray:
    """A batch filled up to its size with copies of its last row."""
    missing = _BATCH - len(values)
    return (
        np.concatenate([values, np.repeat(values[-1:], missing, axis=0)]) if missing else np.ascontiguousarray(values)
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
