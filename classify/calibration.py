"""Make a classifier's numbers mean what they say: probabilities that hold, and a limit beyond which a cell is none."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """Temperature T for which softmax(scores / T) fits labels best that the classifier was not trained on.

    scores, float (N, classes); labels, int (N,). Least negative log likelihood, as Guo et al., ICML 2017; T lies
    between 0.05 and 20.
    """
    scores = np.asarray(scores, dtype=np.float64)

    def surprise(log_temperature: float) -> float:
        likelihood = log_softmax(scores / np.exp(log_temperature), axis=1)
        return float(-likelihood[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(surprise, bounds=(np.log(0.05), np.log(20.0)), method="bounded").x))


@dataclass(frozen=True)
class Familiar:
    """What is known of the classes' embeddings, to tell how unlike all of them a cell is.

    A cell's novelty is its squared Mahalanobis distance from the nearest class, less that from all classes taken as one
    (Ren et al., arXiv:2106.09022): what makes any cell unusual does not count, what makes it none of its class does.

    whiten, offset : ndarray of shape (features, features), (features,)
        z = whiten · embedding + offset has unit covariance within the classes.
    middles : ndarray of shape (classes, features)
        z of each class's mean.
    whiten_all, offset_all : ndarray
        The same for all classes as one.
    """

    whiten: np.ndarray
    offset: np.ndarray
    middles: np.ndarray
    whiten_all: np.ndarray
    offset_all: np.ndarray

    @classmethod
    def of(cls, embeddings: np.ndarray, labels: np.ndarray, classes: int) -> "Familiar":
        """From embeddings (N, features) of the cells trained on; classes count alike."""
        embeddings = np.asarray(embeddings, dtype=np.float64)
        means = np.array([embeddings[labels == c].mean(axis=0) for c in range(classes)])
        weight = 1 / np.bincount(labels, minlength=classes)[labels]
        within = _whitening(embeddings - means[labels], weight)
        middle = means.mean(axis=0)
        overall = _whitening(embeddings - middle, weight)
        return cls(within, -within @ middle, (means - middle) @ within.T, overall, -overall @ middle)

    def novelty(self, embeddings: np.ndarray) -> np.ndarray:
        """Novelty of each embedding, float64 (N,)."""
        z = embeddings @ self.whiten.T + self.offset
        nearest = ((z[:, None] - self.middles) ** 2).sum(axis=2).min(axis=1)
        return nearest - ((embeddings @ self.whiten_all.T + self.offset_all) ** 2).sum(axis=1)


def _whitening(deviations: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Matrix that gives deviations unit covariance, those of next to no variance left out in proportion."""
    covariance = (deviations * weight[:, None]).T @ deviations / weight.sum()
    # shrunk towards a sphere, as few cells of a class cannot tell all directions
    covariance += 0.01 * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    values, directions = np.linalg.eigh(covariance)
    whitening: np.ndarray = (directions / np.sqrt(values)) @ directions.T
    return whitening
