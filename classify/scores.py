"""How good a classifier is: accuracy, per class, with intervals; if its probabilities hold; what rejecting buys."""

from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

#: Bins of the calibration curve, of equal width.
CALIBRATION_BINS = 15
_INTERVAL = (2.5, 97.5)


def balanced_accuracy(labels: np.ndarray, found: np.ndarray) -> float:
    """Mean over the classes that occur of the share of each that was found."""
    right = labels == found
    counts = np.bincount(labels)
    hits = np.bincount(labels, weights=right)
    return float(np.mean(hits[counts > 0] / counts[counts > 0]))


def calibration_error(confidence: np.ndarray, right: np.ndarray) -> float:
    """Expected calibration error: how far confidence and success lie apart, mean over bins of equal width.

    confidence, float (N,): probability of the class chosen. right, bool (N,). Guo et al., ICML 2017.
    """
    return float(sum(c * abs(p - r) for p, r, c in calibration_curve(confidence, right)) / max(len(right), 1))


def calibration_curve(confidence: np.ndarray, right: np.ndarray) -> list[tuple[float, float, int]]:
    """Mean confidence, share right and number of each bin that is not empty."""
    bins = np.minimum((confidence * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    return [
        (float(confidence[bins == b].mean()), float(right[bins == b].mean()), int((bins == b).sum()))
        for b in np.unique(bins)
    ]


def risk_coverage(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of cells kept, and share of those that are wrong, as the least confident are left out one by one."""
    order = np.argsort(-confidence, kind="stable")
    kept = np.arange(1, len(order) + 1)
    return kept / len(order), np.cumsum(~right[order]) / kept


def evaluate(
    labels: np.ndarray,
    probabilities: np.ndarray,
    rejected: np.ndarray,
    classes: tuple[str, ...],
    *,
    repeats: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of merit of a classifier on labelled cells.

    Parameters
    ----------
    labels : ndarray of shape (N,), int
        True class of each.
    probabilities : ndarray of shape (N, classes), float
    rejected : ndarray of shape (N,), bool
        Which ones were called unknown; accuracies do not heed it.
    classes : tuple of str
    repeats : int, optional
        Bootstrap repeats for the 95 % intervals; cells are drawn anew within each class.

    Returns
    -------
    figures : dict
        ``n, accuracy, balanced_accuracy, per_class, ece, rejected_fraction``; beside each accuracy its interval, under
        ``…_interval``. ``confusion[i][j]`` counts class i taken for class j.
    """
    found = probabilities.argmax(axis=1)
    confidence, right = probabilities.max(axis=1), found == labels
    count = len(classes)
    confusion = np.zeros((count, count), dtype=np.int64)
    np.add.at(confusion, (labels, found), 1)
    drawn = np.random.default_rng(seed)
    # a class's row of the confusion matrix, drawn anew, is multinomial
    many = np.stack(
        [
            drawn.multinomial(row.sum(), row / row.sum(), size=repeats)
            if row.sum()
            else np.zeros((repeats, count), int)
            for row in confusion
        ],
        axis=1,
    )
    sums = many.sum(axis=2)
    hits = np.einsum("rii->ri", many)
    with np.errstate(invalid="ignore", divide="ignore"):
        recall, precision = hits / sums, hits / many.sum(axis=1)
        f1 = 2 * hits / (sums + many.sum(axis=1))
    seen = confusion.sum(axis=1) > 0
    exact = precision_recall_fscore_support(labels, found, labels=range(count), zero_division=0.0)
    per_class = {
        name: {
            "precision": float(exact[0][i]),
            "recall": float(exact[1][i]),
            "f1": float(exact[2][i]),
            "n": int(exact[3][i]),
            "precision_interval": _interval(precision[:, i]),
            "recall_interval": _interval(recall[:, i]),
            "f1_interval": _interval(f1[:, i]),
        }
        for i, name in enumerate(classes)
    }
    return {
        "n": len(labels),
        "accuracy": float(right.mean()),
        "accuracy_interval": _interval(hits.sum(axis=1) / max(len(labels), 1)),
        "balanced_accuracy": balanced_accuracy(labels, found),
        "balanced_accuracy_interval": _interval(recall[:, seen].mean(axis=1)),
        "per_class": per_class,
        "confusion": confusion.tolist(),
        "ece": calibration_error(confidence, right),
        "rejected_fraction": float(rejected.mean()),
    }


def _interval(values: np.ndarray) -> list[float] | None:
    """95 % interval of bootstrap values; None where they say nothing."""
    values = values[np.isfinite(values)]
    return [float(v) for v in np.percentile(values, _INTERVAL)] if values.size else None
