"""What a model file says of itself: its card, kept as one metadata property of the ONNX file."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .onnx_file import ModelError

__all__ = ["CARD_FORM", "CARD_KEY", "KINDS", "ModelCard", "ModelError", "read_card"]

#: Key of the metadata property that holds the card, and version of its form.
CARD_KEY, CARD_FORM = "stretchscope", 1
#: Kinds of model: a network sees pictures, an ensemble features.
KINDS = ("network", "ensemble")
_MOST_CLASSES, _LONGEST_NAME = 4096, 200


@dataclass(frozen=True)
class ModelCard:
    """What must be known of a model to use it.

    Attributes
    ----------
    kind : str
        One of ``KINDS``.
    classes : tuple of str
        Names, in order of the scores.
    side_px : int
        Side of the pictures that a network takes; 0 for an ensemble.
    features : tuple of str
        Names of the features that an ensemble takes, see ``feature_table``; none for a network.
    in_um : bool
        Whether lengths are in µm: then the pixel size of what is classified must be known. Otherwise no length counts.
    pixel_um : float or None
        Side of a pixel of the images that it was trained on [µm].
    polarity : str
        "dark" where the cells are mostly darker than the ground, else "bright".
    temperature : float
        What the scores are divided by to become probabilities that hold.
    novelty_limit : float
        A cell of greater novelty is unknown.
    false_reject_rate : float
        Share of the validation cells that the limit rejects.
    training : dict
        How it was trained: plain values only.
    """

    kind: str
    classes: tuple[str, ...]
    side_px: int
    in_um: bool
    pixel_um: float | None
    polarity: str
    temperature: float
    novelty_limit: float
    false_reject_rate: float
    features: tuple[str, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        return json.dumps({"form": CARD_FORM} | asdict(self), allow_nan=False)


def read_card(metadata: dict[str, str], where: str) -> ModelCard:
    """The card of a model file.

    Raises
    ------
    ModelError
        If there is none, or it makes no sense.
    """
    if CARD_KEY not in metadata:
        raise ModelError(f"{where}: an ONNX model, but not one of stretchscope's: make one with 'stretchscope train'")
    try:
        values = json.loads(metadata[CARD_KEY])
        form = values.pop("form")
        if form != CARD_FORM:
            raise ModelError(f"{where}: its card has form {form}; this version reads form {CARD_FORM}: train it anew")
        known = {f.name for f in fields(ModelCard)}
        arguments: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in values.items() if n in known}
        card = ModelCard(**arguments)
        _check(card)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{where}: its card cannot be read: {error}") from error
    return card


def _check(card: ModelCard) -> None:
    names = [*card.classes, *card.features]
    if card.kind not in KINDS or card.polarity not in ("dark", "bright"):
        raise ValueError(f"kind '{card.kind}' or polarity '{card.polarity}' is unknown")
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError("a class or feature has no name")
    if not all(name.isprintable() and len(name) <= _LONGEST_NAME for name in names):
        raise ValueError(f"a name holds what cannot be printed, or is longer than {_LONGEST_NAME} characters")
    if not 1 < len(set(card.classes)) == len(card.classes) <= _MOST_CLASSES:
        raise ValueError(f"{len(card.classes)} classes, not 2 to {_MOST_CLASSES} different ones")
    if not isinstance(card.in_um, bool):
        raise ValueError(f"in_um is {card.in_um!r}, neither true nor false")
    if not isinstance(card.side_px, int) or not 0 <= card.side_px <= 1024:
        raise ValueError(f"pictures of {card.side_px} pixels a side")
    if card.pixel_um is not None and not 0 < card.pixel_um < math.inf:
        raise ValueError(f"a pixel of {card.pixel_um} µm")
    if not (0 < card.temperature < math.inf and math.isfinite(card.novelty_limit) and 0 <= card.false_reject_rate < 1):
        raise ValueError("temperature, novelty limit or false-reject rate is no sensible number")
