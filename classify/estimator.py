"""Two classifiers behind scikit-learn's interface: trees over features, and a network over pictures.

`FeatureClassifier` takes a table of features, `NetworkClassifier` an array of pictures; both can be handed to
scikit-learn's cross-validation and scorers. :mod:`.export` makes model files of what they become.
"""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any, Self

import numpy as np
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.utils.validation import check_is_fitted

from .pictures import PICTURE_DTYPE

#: Share of each class that a network keeps aside, where it is given no validation pictures.
_ASIDE = 0.1


class FeatureClassifier(HistGradientBoostingClassifier):
    """Gradient-boosted trees over features; classes count alike.

    Parameters
    ----------
    max_iter, learning_rate, max_leaf_nodes, l2_regularization, random_state
        As in scikit-learn's ``HistGradientBoostingClassifier``.
    """

    def __init__(
        self,
        *,
        max_iter: int = 100,
        learning_rate: float = 0.1,
        max_leaf_nodes: int = 15,
        l2_regularization: float = 1.0,
        random_state: int | None = 0,
    ) -> None:
        super().__init__(
            max_iter=max_iter,
            learning_rate=learning_rate,
            max_leaf_nodes=max_leaf_nodes,
            l2_regularization=l2_regularization,
            random_state=random_state,
            class_weight="balanced",
            early_stopping=False,
        )


class NetworkClassifier(ClassifierMixin, BaseEstimator):
    """A convolutional network over pictures.

    Needs torch. Pictures are an array of ``PICTURE_DTYPE``, as :mod:`.pictures` draws them.

    Parameters
    ----------
    network, epochs, patience, batch, rate, decay, smoothing, balance, turn, sized
        As in ``training.TrainingSettings``.
    random_state : int
        Its ``seed``.
    """

    def __init__(
        self,
        *,
        network: str = "accurate",
        epochs: int = 60,
        patience: int = 25,
        batch: int = 64,
        rate: float = 4e-3,
        decay: float = 0.05,
        smoothing: float = 0.05,
        balance: float = 0.75,
        turn: bool = True,
        sized: bool = True,
        random_state: int = 0,
    ) -> None:
        self.network = network
        self.epochs = epochs
        self.patience = patience
        self.batch = batch
        self.rate = rate
        self.decay = decay
        self.smoothing = smoothing
        self.balance = balance
        self.turn = turn
        self.sized = sized
        self.random_state = random_state

    def fit(
        self,
        X: np.ndarray,  # noqa: N803
        y: np.ndarray,
        *,
        validation: tuple[np.ndarray, np.ndarray] | None = None,
        progress: Callable[[Any], None] | None = None,
        checkpoint: Path | None = None,
    ) -> Self:
        """Train on pictures X of classes y.

        ``validation`` is what to stop by, pictures and classes; without it a tenth of each class is kept aside.
        ``progress`` and ``checkpoint`` as in ``training.train_network``.
        """
        _check_pictures(X)
        from .training import TrainingSettings, train_network

        self.classes_, numbers = np.unique(y, return_inverse=True)
        if len(numbers) != len(X) or len(self.classes_) < 2:
            raise ValueError(f"{len(X)} pictures of {len(self.classes_)} classes, {len(numbers)} labels: cannot train")
        settings = TrainingSettings(
            **{f.name: getattr(self, f.name) for f in fields(TrainingSettings) if f.name != "seed"},
            seed=int(self.random_state),
        )
        if validation is None:
            aside = _some_of_each(numbers, _ASIDE, settings.seed)
            validation = X[aside], self.classes_[numbers[aside]]
            X, numbers = X[~aside], numbers[~aside]  # noqa: N806
        known = np.searchsorted(self.classes_, validation[1])
        self.trained_ = train_network(
            X, numbers, (validation[0], known), len(self.classes_), settings, progress=progress, checkpoint=checkpoint
        )
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:  # noqa: N803
        """Scores, (N, classes)."""
        from .training import score_pictures

        check_is_fitted(self)
        _check_pictures(X)
        scores: np.ndarray = score_pictures(self.trained_.module(), X)[0]
        return scores

    def predict_proba(self, X: np.ndarray) -> np.ndarray:  # noqa: N803
        """Probabilities of the classes, (N, classes), not calibrated."""
        probabilities: np.ndarray = softmax(self.decision_function(X).astype(np.float64), axis=1)
        return probabilities

    def predict(self, X: np.ndarray) -> np.ndarray:  # noqa: N803
        """Class of each picture."""
        found: np.ndarray = self.classes_[self.decision_function(X).argmax(axis=1)]
        return found


def _check_pictures(pictures: np.ndarray) -> None:
    if getattr(pictures, "dtype", None) != PICTURE_DTYPE or pictures.ndim != 1:
        raise ValueError("pictures must be an array of PICTURE_DTYPE, as classify.pictures draws them")


def _some_of_each(labels: np.ndarray, share: float, seed: int) -> np.ndarray:
    """Mark a share of each class, one at least and never all; bool (N,)."""
    marked = np.zeros(len(labels), dtype=bool)
    random = np.random.default_rng(seed)
    for label in np.unique(labels):
        own = random.permutation(np.flatnonzero(labels == label))
        marked[own[: min(max(round(share * len(own)), 1), len(own) - 1)]] = True
    return marked
