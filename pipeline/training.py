"""Train a classifier on a collection of images, and write it as one model file.

From ``data.collections`` to ``classify.runtime``: images become pictures or features, a classifier is fitted to some,
and what is kept aside says when to stop, what its probabilities mean and where the unknown begins.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..classify.calibration import Familiar, fit_temperature
from ..classify.estimator import FeatureClassifier, NetworkClassifier
from ..classify.feature_table import feature_names, feature_table
from ..classify.model import ModelCard
from ..classify.photographs import measure_photographs
from ..classify.pictures import LEVELS_PER_TRANSMISSION, PICTURE_DTYPE, SIDE_PX, pictures_of_images
from ..classify.runtime import Model
from ..classify.scores import balanced_accuracy
from ..data.collections import Collection, CollectionError, check_for_training, split
from .whole_file import check_new, write_whole

#: Share of the images that is kept aside to stop by and to calibrate on.
VALIDATION_SHARE = 0.2
#: Share of the validation images that the novelty limit rejects.
FALSE_REJECT_RATE = 0.05
#: Images read at once.
_AT_ONCE = 256

Progress = Callable[[str, int, int], None]


class TrainingError(ValueError):
    """A training that cannot be done; the message says why and what to do."""


@dataclass(frozen=True)
class TrainingPlan:
    """What to train.

    Attributes
    ----------
    classifier : str
        "network" or "ensemble".
    network : str
        A name in ``classify.networks.NETWORKS``.
    epochs : int
        Passes over the images, at most.
    turn : bool
        Whether images are turned by any angle in training.
    seed : int
    """

    classifier: str = "network"
    network: str = "accurate"
    epochs: int = 120
    turn: bool = True
    seed: int = 0


def train_model(
    collection: Collection,
    output: Path,
    plan: TrainingPlan,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Train a classifier on the labelled images of a collection.

    Parameters
    ----------
    collection : Collection
        Its unlabelled images are left out.
    output : Path
        Model file to write. A training broken off leaves ``<output>.checkpoint.part`` beside it.
    plan : TrainingPlan
    overwrite, resume : bool, optional
        Replace a file of that name; go on with a training broken off.
    progress : callable, optional
        Called with what is done, how much of it, and of how much.
    say : callable, optional
        Called with a line of text after each pass.

    Returns
    -------
    summary : dict
        ``model, classes, parameters, macs, bytes, validation, seconds``.

    Raises
    ------
    CollectionError
        If the collection cannot be trained on.
    OutputError
        If the file exists or cannot be written.
    TrainingError
        If what it takes to train is not installed.
    """
    begun = time.perf_counter()
    checkpoint = output.with_name(output.name + ".checkpoint.part")
    check_new(output, overwrite=overwrite or resume)
    if not resume:
        checkpoint.unlink(missing_ok=True)
    labelled = collection.select(collection.labels >= 0)
    check_for_training(labelled)
    _need("onnx", *(("torch",) if plan.classifier == "network" else ()))
    train, aside = _train_and_validation(labelled, plan.seed)
    if plan.classifier == "network":
        content, counts = network_file(
            read_pictures(labelled, progress), labelled.labels, labelled.classes, (train, aside), plan,
            pixel_um=labelled.pixel_um, progress=progress, say=say, checkpoint=checkpoint,
        )  # fmt: skip
    else:
        content, counts = _ensemble_file(labelled, train, aside, plan.seed, progress, say)
    model = Model(content, output.name)  # what is written can be read
    write_whole(output, content)
    checkpoint.unlink(missing_ok=True)
    return {
        "model": str(output),
        "classes": list(model.card.classes),
        **counts,
        "bytes": len(content),
        "validation": model.card.training["validation"],
        "seconds": time.perf_counter() - begun,
    }


def read_pictures(collection: Collection, progress: Progress | None = None) -> np.ndarray:
    """Pictures of a collection's images, ndarray of shape (N,), PICTURE_DTYPE."""
    pictures = np.empty(len(collection), PICTURE_DTYPE)
    for own, images, masks in _read(collection, "reading", progress):
        pictures[own] = pictures_of_images(images, masks, pixel_um=collection.pixel_um)
    return pictures


def read_features(collection: Collection, names: tuple[str, ...], progress: Progress | None = None) -> np.ndarray:
    """Features of a collection's images, float32 (N, names)."""
    table = np.empty((len(collection), len(names)), np.float32)
    for own, images, masks in _read(collection, "measuring", progress):
        table[own] = feature_table(measure_photographs(images, masks, pixel_um=collection.pixel_um), names)
    return table


def _read(
    collection: Collection, what: str, progress: Progress | None
) -> Iterator[tuple[slice, list[np.ndarray], list[np.ndarray | None]]]:
    """Images and masks, some at a time, and which ones they are."""
    for first in range(0, len(collection), _AT_ONCE):
        own = slice(first, min(first + _AT_ONCE, len(collection)))
        some = range(own.start, own.stop)
        yield own, [collection.read(index) for index in some], [collection.mask(index) for index in some]
        if progress is not None:
            progress(what, own.stop, len(collection))


def _train_and_validation(collection: Collection, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images to train on and to validate with; a class of which chance left none to train on gives all it has."""
    train, aside = split(collection, (1 - VALIDATION_SHARE, VALIDATION_SHARE), seed=seed)
    missing = np.setdiff1d(np.arange(len(collection.classes)), collection.labels[train])
    lent = np.isin(collection.labels[aside], missing)
    train, aside = np.sort(np.concatenate([train, aside[lent]])), aside[~lent]
    if not len(aside):
        raise CollectionError(f"{len(collection)} images are too few: none was left to validate with; add images")
    return train, aside


def network_file(
    pictures: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    parts: tuple[np.ndarray, np.ndarray],
    plan: TrainingPlan,
    *,
    pixel_um: float | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
    checkpoint: Path | None = None,
) -> tuple[bytes, dict[str, int]]:
    """Train a network on pictures, and make its model file.

    Parameters
    ----------
    pictures : ndarray of shape (N,), PICTURE_DTYPE
    labels : ndarray of shape (N,), int
        Class of each, by number.
    classes : tuple of str
    parts : pair of ndarray of int
        Which pictures to train on, and which to stop by and to calibrate on.
    plan : TrainingPlan
    pixel_um : float, optional
        Side of a pixel of the images that the pictures were drawn from [µm]; without it, sizes do not count.
    progress, say, checkpoint
        As for `train_model`.

    Returns
    -------
    content : bytes
    counts : dict
        ``parameters`` and ``macs``, multiplications with addition per picture.
    """
    from ..classify.export import network_to_onnx
    from ..classify.networks import multiply_adds
    from ..classify.training import Epoch, score_pictures

    train, aside = parts
    labels = labels.astype(np.int64)

    def report(epoch: Epoch) -> None:
        say(
            f"pass {epoch.number} of {plan.epochs}: loss {epoch.loss:.3f}, validation accuracy "
            f"{epoch.accuracy:.3f}, balanced {epoch.balanced_accuracy:.3f}"
        )
        if progress is not None:
            progress("training", epoch.number, plan.epochs)

    classifier = NetworkClassifier(
        network=plan.network, epochs=plan.epochs, turn=plan.turn, sized=pixel_um is not None, random_state=plan.seed
    )
    classifier.fit(
        pictures[train], labels[train], validation=(pictures[aside], labels[aside]), progress=report,
        checkpoint=checkpoint,
    )  # fmt: skip
    trained = classifier.trained_
    module = trained.module()
    familiar = Familiar.of(score_pictures(module, pictures[train])[1], labels[train], trained.classes)
    scores, embeddings = score_pictures(module, pictures[aside])
    card = make_card(
        "network", classes, labels, (scores, labels[aside], familiar.novelty(embeddings)), plan.seed,
        asdict(trained.settings) | {"passes": [asdict(epoch) for epoch in trained.epochs]}, pixel_um=pixel_um,
        darkness=1 - pictures["levels"][train].mean() / LEVELS_PER_TRANSMISSION, side_px=SIDE_PX,
    )  # fmt: skip
    parameters = sum(values.numel() for values in module.parameters())
    return network_to_onnx(trained, familiar, card), {"parameters": parameters, "macs": multiply_adds(module)}


def _ensemble_file(
    collection: Collection,
    train: np.ndarray,
    aside: np.ndarray,
    seed: int,
    progress: Progress | None,
    say: Callable[[str], None],
) -> tuple[bytes, dict[str, int]]:
    """The same for trees over the features of a collection's images."""
    from ..classify.export import ensemble_to_onnx

    names = feature_names(in_um=collection.pixel_um is not None)
    table, labels = read_features(collection, names, progress), collection.labels
    say("growing trees")
    trees = FeatureClassifier(random_state=seed).fit(table[train], labels[train])
    scores = trees.decision_function(table[aside])
    if scores.ndim == 1:  # of the second of two classes, against the first
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    nodes = sum(len(tree.nodes) for stage in trees._predictors for tree in stage)
    card = make_card(
        "ensemble", collection.classes, labels, (scores, labels[aside], -scores.max(axis=1)), seed,
        trees.get_params(), pixel_um=collection.pixel_um, darkness=_mean_darkness(collection, train), features=names,
    )  # fmt: skip
    return ensemble_to_onnx(trees, card), {"parameters": nodes, "macs": 0}


def _mean_darkness(collection: Collection, train: np.ndarray) -> float:
    some = train[np.linspace(0, len(train) - 1, min(len(train), _AT_ONCE)).astype(int)]
    return float(np.mean([1 - collection.read(int(index)).mean() for index in some]))


def make_card(
    kind: str,
    classes: tuple[str, ...],
    labels: np.ndarray,
    validation: tuple[np.ndarray, np.ndarray, np.ndarray],
    seed: int,
    settings: dict[str, Any],
    *,
    pixel_um: float | None,
    darkness: float,
    side_px: int = 0,
    features: tuple[str, ...] = (),
) -> ModelCard:
    """The card of a classifier: calibrated on the scores, labels and novelty of its validation images."""
    scores, truth, novelty = validation
    found = scores.argmax(axis=1)
    training = {
        "stretchscope": __version__,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "images_per_class": np.bincount(labels, minlength=len(classes)).tolist(),
        "seed": seed,
        "settings": settings,
        "validation": {
            "n": len(truth),
            "accuracy": float((found == truth).mean()),
            "balanced_accuracy": balanced_accuracy(truth, found),
        },
    }
    return ModelCard(
        kind=kind,
        classes=classes,
        side_px=side_px,
        in_um=pixel_um is not None,
        pixel_um=pixel_um,
        polarity="dark" if darkness >= 0 else "bright",
        temperature=fit_temperature(scores, truth),
        novelty_limit=float(np.quantile(novelty, 1 - FALSE_REJECT_RATE)),
        false_reject_rate=FALSE_REJECT_RATE,
        features=features,
        training=training,
    )


def _need(*packages: str) -> None:
    from importlib.util import find_spec

    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise TrainingError(
            f"training needs {' and '.join(missing)}: install stretchscope with its extra, stretchscope[train]"
        )
