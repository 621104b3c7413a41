"""Figures of merit against scikit-learn and closed forms; temperatures and novelty against known distributions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import balanced_accuracy_score

from stretchscope.classify.calibration import Familiar, fit_temperature
from stretchscope.classify.scores import (
    balanced_accuracy,
    calibration_curve,
    calibration_error,
    evaluate,
    risk_coverage,
)


@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.integers(1, 60))
@pytest.mark.filterwarnings("ignore:A single label was found")
def test_balanced_accuracy_is_that_of_scikit_learn(seed: int, classes: int, count: int) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=count)
    found = np.where(random.random(count) < 0.5, labels, random.choice(np.unique(labels), count))
    assert balanced_accuracy(labels, found) == pytest.approx(balanced_accuracy_score(labels, found))


def test_probabilities_that_hold_have_no_calibration_error() -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1.0, 200_000)
    right = random.random(confidence.size) < confidence
    assert calibration_error(confidence, right) < 0.005
    assert calibration_error(np.full(1000, 0.9), np.arange(1000) % 2 == 0) == pytest.approx(0.4)
    assert sum(count for _, _, count in calibration_curve(confidence, right)) == confidence.size


def test_leaving_out_the_least_confident_leaves_the_right_ones() -> None:
    confidence = np.array([0.9, 0.2, 0.8, 0.3])
    kept, wrong = risk_coverage(confidence, np.array([True, False, True, False]))
    assert kept.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert wrong.tolist() == [0.0, 0.0, pytest.approx(1 / 3), 0.5]


def test_figures_of_a_known_confusion() -> None:
    labels = np.repeat([0, 1], [8, 2])
    found = np.array([0] * 6 + [1] * 2 + [1, 0])
    figures = evaluate(labels, np.eye(3)[found], np.arange(10) == 0, ("a", "b", "c"))
    assert figures["accuracy"] == pytest.approx(0.7)
    assert figures["balanced_accuracy"] == pytest.approx((6 / 8 + 1 / 2) / 2)
    assert figures["confusion"] == [[6, 2, 0], [1, 1, 0], [0, 0, 0]]
    assert figures["per_class"]["b"]["precision"] == pytest.approx(1 / 3)
    assert figures["per_class"]["c"]["n"] == 0
    assert figures["rejected_fraction"] == pytest.approx(0.1)
    low, high = figures["balanced_accuracy_interval"]
    assert low < figures["balanced_accuracy"] < high


def test_bootstrap_interval_has_the_width_of_the_binomial_one() -> None:
    random = np.random.default_rng(1)
    labels = np.zeros(400, dtype=int)
    found = (random.random(400) < 0.2).astype(int)
    figures = evaluate(labels, np.eye(2)[found], np.zeros(400, bool), ("a", "b"), repeats=4000)
    low, high = figures["accuracy_interval"]
    expected = 2 * 1.96 * np.sqrt(figures["accuracy"] * (1 - figures["accuracy"]) / 400)
    assert high - low == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_temperature_is_found_again(temperature: float) -> None:
    random = np.random.default_rng(2)
    scores = random.normal(size=(20_000, 5)) * 2
    cumulated = softmax(scores, axis=1).cumsum(axis=1)
    labels = (random.random((20_000, 1)) > cumulated).sum(axis=1).clip(max=4)
    assert fit_temperature(scores * temperature, labels) == pytest.approx(temperature, rel=0.05)


def test_novelty_is_low_within_the_classes_and_high_elsewhere() -> None:
    random = np.random.default_rng(3)
    middles = np.array([[3.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 3.0, 0]])
    labels = random.integers(3, size=3000)
    familiar = Familiar.of(middles[labels] + 0.3 * random.normal(size=(3000, 4)), labels, 3)
    known = familiar.novelty(middles[labels] + 0.3 * random.normal(size=(3000, 4)))
    strange = familiar.novelty(np.array([1.0, 1, 1, 0]) + 0.3 * random.normal(size=(3000, 4)))
    limit = np.quantile(known, 0.95)
    assert (strange > limit).mean() > 0.95
