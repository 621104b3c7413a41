"""Apply a model to a collection of images, and measure how good it is where the truth is known."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..classify.model import ModelError
from ..classify.runtime import Model, Verdicts
from ..classify.scores import evaluate
from ..data.collections import Collection, CollectionError, split
from .training import VALIDATION_SHARE, Progress, read_features, read_pictures
from .whole_file import check_new, write_whole

#: Collections of fewer images are not judged for polarity.
_ENOUGH = 8


def classify_collection(collection: Collection, model: Model, progress: Progress | None = None) -> Verdicts:
    """Verdicts of a model on the images of a collection.

    Raises
    ------
    CollectionError
        If an image cannot be read.
    ModelError
        If the images are not what the model was trained for: their scale is not known, or their polarity another.
    """
    model.check_scale(collection.pixel_um)
    if model.card.kind == "ensemble":
        return model.of_features(read_features(collection, model.card.features, progress))
    pictures = read_pictures(collection, progress)
    if len(pictures) >= _ENOUGH:
        model.check_polarity(pictures)
    return model.of_pictures(pictures)


def held_out(collection: Collection, model: Model) -> Collection:
    """The images that the model was not trained on, where it was trained on this collection.

    Raises
    ------
    ModelError
        If the model does not say how it was trained.
    """
    seed = model.card.training.get("seed")
    if not isinstance(seed, int):
        raise ModelError(f"{model.where}: does not say which images it was trained on")
    return collection.select(split(collection, (1 - VALIDATION_SHARE, VALIDATION_SHARE), seed=seed)[1])


def evaluate_model(
    collection: Collection, model: Model, *, unknown: Sequence[str] = (), progress: Progress | None = None
) -> tuple[dict[str, Any], Collection, Verdicts]:
    """Figures of merit of a model on the labelled images of a collection.

    Parameters
    ----------
    collection : Collection
        Its unlabelled images are left out.
    model : Model
    unknown : sequence of str, optional
        Classes of the collection that the model does not know and should call unknown.
    progress : callable, optional

    Returns
    -------
    figures : dict
        As ``scores.evaluate`` gives them; with ``unknown``, also ``unknown {n, rejected_fraction}``.
    known : Collection
        The images that the figures are of.
    verdicts : Verdicts
        On those images.

    Raises
    ------
    CollectionError
        If there are no labels, or classes that the model does not know and ``unknown`` does not name.
    """
    foreign = sorted(set(collection.classes) - set(model.card.classes) - set(unknown))
    if foreign:
        raise CollectionError(
            f"the model does not know the class{'es' if len(foreign) > 1 else ''} {', '.join(foreign)}; it knows "
            f"{', '.join(model.card.classes)}: rename the folders, or give --unknown for what it should reject"
        )
    missing = sorted(set(unknown) - set(collection.classes))
    if missing:
        raise CollectionError(
            f"no class {missing[0]!r} is there to be unknown; there are {', '.join(collection.classes)}"
        )
    number = {name: index for index, name in enumerate(model.card.classes)}
    of_model = np.array([number.get(name, -1) if name not in unknown else -1 for name in collection.classes] + [-1])
    labels = of_model[collection.labels]
    if not (labels >= 0).any():
        raise CollectionError("no image has a label that the model knows: there is nothing to evaluate with")
    known = collection.select(labels >= 0)
    verdicts = classify_collection(known, model, progress)
    figures = evaluate(labels[labels >= 0], verdicts.probabilities, verdicts.rejected, model.card.classes)
    if unknown:
        strange = collection.select((labels < 0) & (collection.labels >= 0))
        rejected = classify_collection(strange, model, progress).rejected
        figures["unknown"] = {"n": len(strange), "rejected_fraction": float(rejected.mean())}
    return figures, known, verdicts


def write_predictions(path: Path, names: Sequence[str], verdicts: Verdicts, *, overwrite: bool = False) -> None:
    """Write a table of verdicts: ``path, label, probability, rejected``, and a column per class.

    Raises
    ------
    OutputError
        If the file exists and is not to be replaced, or cannot be written.
    """
    check_new(path, overwrite=overwrite)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "label", "probability", "rejected", *verdicts.classes])
    for name, label, probability, rejected, row in zip(
        names, verdicts.labels, verdicts.probability, verdicts.rejected, verdicts.probabilities, strict=True
    ):
        writer.writerow([name, label, f"{probability:.6f}", int(rejected), *(f"{value:.6f}" for value in row)])
    write_whole(path, text.getvalue().encode())
