"""Five-fold cross-validation on labelled photographs of phytoplankton: our two classifiers beside two others.

The collection is the folder ``phytoplankton`` of the shared data, 15 classes of PlanktonSet 1.0. All methods see the
same images in the same folds:

- network: ``classify.networks``' accurate one, over pictures;
- ensemble: gradient-boosted trees over the features of the main job;
- hog: histograms of oriented gradients and a support vector machine, both scikit-learn's and scikit-image's own;
- resnet: ResNet-18 without transfer, trained as the network is, on pictures of 48 pixels a side.

Sizes are in pixels, the same for all images, and count. Results are kept method by method and fold by fold, so that a
study of hours can be made in parts:

    python benchmarks/plankton.py [--methods network ensemble hog resnet] [--folds 0 1 2 3 4] [--epochs 100]
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from record import DATA, RESULTS, as_digits, from_digits, write_result
from scipy.special import softmax
from skimage.feature import hog
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import nn

from stretchscope.classify.calibration import fit_temperature
from stretchscope.classify.estimator import FeatureClassifier
from stretchscope.classify.feature_table import feature_names
from stretchscope.classify.networks import CellNetwork
from stretchscope.classify.scores import balanced_accuracy, calibration_error
from stretchscope.classify.training import TrainingSettings, score_pictures, train_network
from stretchscope.data.collections import fold, open_collection
from stretchscope.pipeline.training import read_features, read_pictures

FOLDS, ASIDE = 5, 0.1
METHODS = ("network", "ensemble", "hog", "resnet")


class ResNet18(CellNetwork):
    """ResNet-18 (He et al., CVPR 2016) for pictures of one channel and half the side, with the network's methods."""

    def __init__(self, classes: int) -> None:
        super().__init__(classes, "fast", sized=True)
        layers: list[nn.Module] = [
            nn.AvgPool2d(2), nn.Conv2d(1, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
        ]  # fmt: skip
        before = 64
        for channels, step in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
            layers.append(_Block(before, channels, step))
            before = channels
        self.layers = nn.Sequential(*layers)
        self.scores = nn.Linear(2 * 512 + 1, classes)


class _Block(nn.Module):
    def __init__(self, before: int, channels: int, step: int) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(before, channels, 3, step, 1, bias=False), nn.BatchNorm2d(channels), nn.ReLU(),
            nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip
        same = before == channels and step == 1
        self.short = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv2d(before, channels, 1, step, bias=False), nn.BatchNorm2d(channels))
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.way(x) + self.short(x))


def by_network(
    pictures: np.ndarray, labels: np.ndarray, train: np.ndarray, aside: np.ndarray, test: np.ndarray,
    epochs: int, form: CellNetwork | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:  # fmt: skip
    """Scores of the images put aside and of those to test on, and the number of parameters."""
    classes = int(labels.max()) + 1
    settings = TrainingSettings(epochs=epochs, patience=epochs)
    trained = train_network(
        pictures[train], labels[train], (pictures[aside], labels[aside]), classes, settings, form=form,
        progress=lambda epoch: print(f"\r{epoch.number}: {epoch.balanced_accuracy:.3f}", end="", flush=True),
    )  # fmt: skip
    print()
    module = trained.module()
    parameters = sum(values.numel() for values in module.parameters())
    return score_pictures(module, pictures[aside])[0], score_pictures(module, pictures[test])[0], parameters


def by_trees(
    table: np.ndarray, labels: np.ndarray, train: np.ndarray, aside: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """The same by trees over features."""
    trees = FeatureClassifier().fit(table[train], labels[train])
    nodes = sum(len(tree.nodes) for stage in trees._predictors for tree in stage)
    return trees.decision_function(table[aside]), trees.decision_function(table[test]), nodes


def by_hog(
    table: np.ndarray, labels: np.ndarray, train: np.ndarray, aside: np.ndarray, test: np.ndarray
) -> tuple[np.ndarray, np.ndarray, int]:
    """The same by a support vector machine over histograms of oriented gradients."""
    machine = make_pipeline(StandardScaler(), SVC(C=10, class_weight="balanced")).fit(table[train], labels[train])
    return machine.decision_function(table[aside]), machine.decision_function(table[test]), machine[-1].support_.size


def histograms(pictures: np.ndarray) -> np.ndarray:
    """Histograms of oriented gradients of pictures, at half their side."""
    halved = pictures["levels"].reshape(-1, 48, 2, 48, 2).mean(axis=(2, 4))
    return np.array([hog(one, 9, (8, 8), (2, 2)) for one in halved])


def run_fold(
    method: str, number: int, folds: np.ndarray, labels: np.ndarray, prepared: dict[str, np.ndarray], epochs: int
) -> dict[str, object]:
    """What a method makes of one fold, trained on the others."""
    rest, test = np.flatnonzero(folds != number), np.flatnonzero(folds == number)
    random = np.random.default_rng(number)
    aside = np.sort(random.choice(rest, int(ASIDE * rest.size), replace=False))
    train = np.setdiff1d(rest, aside)
    begun = time.perf_counter()
    if method in ("network", "resnet"):
        torch.manual_seed(number)
        form = ResNet18(int(labels.max()) + 1) if method == "resnet" else None
        first, scores, size = by_network(prepared["pictures"], labels, train, aside, test, epochs, form)
    else:
        by, table = (by_trees, prepared["features"]) if method == "ensemble" else (by_hog, prepared["hog"])
        first, scores, size = by(table, labels, train, aside, test)
    probabilities = softmax(scores / fit_temperature(first, labels[aside]), axis=1)
    found = scores.argmax(axis=1)
    print(f"{method}, fold {number}: balanced accuracy {balanced_accuracy(labels[test], found):.4f}", flush=True)
    return {
        "found": as_digits(found),
        "ece": calibration_error(probabilities.max(axis=1), found == labels[test]),
        "parameters": size,
        "epochs": epochs if method in ("network", "resnet") else None,
        "seconds": time.perf_counter() - begun,
    }


def summary(kept: dict[str, dict[str, dict]], folds: np.ndarray, labels: np.ndarray) -> dict[str, object]:
    """Accuracies of the methods whose folds are all there, with intervals, and differences from our network."""
    found = {method: _joined(parts, folds) for method, parts in kept.items() if len(parts) == FOLDS}
    random = np.random.default_rng(0)
    own = [np.flatnonzero(labels == label) for label in range(int(labels.max()) + 1)]
    draws = [np.concatenate([random.choice(of, of.size) for of in own]) for _ in range(1000)]

    def interval(values: list[float]) -> list[float]:
        return [float(v) for v in np.percentile(values, (2.5, 97.5))]

    result: dict[str, object] = {}
    many = {m: [balanced_accuracy(labels[d], f[d]) for d in draws] for m, f in found.items()}
    for method, one in found.items():
        figures = {
            "accuracy": float((one == labels).mean()),
            "balanced_accuracy": balanced_accuracy(labels, one),
            "balanced_accuracy_interval": interval(many[method]),
            "ece": float(np.mean([part["ece"] for part in kept[method].values()])),
            "parameters": int(np.mean([part["parameters"] for part in kept[method].values()])),
        }
        if "network" in many and method != "network":
            figures["network_is_better_by_interval"] = interval(list(np.subtract(many["network"], many[method])))
        result[method] = figures
    return result


def _joined(parts: dict[str, dict], folds: np.ndarray) -> np.ndarray:
    found = np.empty(folds.size, dtype=int)
    for number, part in parts.items():
        found[folds == int(number)] = from_digits(part["found"])
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    options.add_argument("--folds", nargs="+", type=int, choices=range(FOLDS), default=range(FOLDS))
    options.add_argument("--epochs", type=int, default=100)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = options.parse_args()
    torch.set_num_threads(given.threads)

    collection = open_collection(DATA / "phytoplankton")
    labels, folds = collection.labels.astype(np.int64), fold(collection, FOLDS)
    collection = replace(collection, pixel_um=1.0)  # of one instrument: sizes count
    makers: dict[str, Callable[[], np.ndarray]] = {
        "pictures": lambda: read_pictures(collection),
        "features": lambda: read_features(collection, feature_names(in_um=True)),
        "hog": lambda: histograms(prepared["pictures"]),
    }
    needed = {"network": ("pictures",), "resnet": ("pictures",), "ensemble": ("features",), "hog": ("pictures", "hog")}
    prepared: dict[str, np.ndarray] = {}
    path = RESULTS / "plankton.json"
    for method in given.methods:
        for name in needed[method]:
            if name not in prepared:
                prepared[name] = makers[name]()
        for number in given.folds:
            part = run_fold(method, number, folds, labels, prepared, given.epochs)
            kept = json.loads(path.read_text())["kept"] if path.exists() else {}
            kept.setdefault(method, {})[str(number)] = part
            write_result("plankton", {"summary": summary(kept, folds, labels), "kept": kept})
    for method, figures in summary(kept, folds, labels).items():
        print(method, figures)


if __name__ == "__main__":
    main()
