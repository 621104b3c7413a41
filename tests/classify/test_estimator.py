"""The two classifiers behind scikit-learn's interface."""

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from stretchscope.classify.estimator import FeatureClassifier, NetworkClassifier
from stretchscope.classify.feature_table import feature_names, feature_table
from stretchscope.classify.features import feature_columns
from stretchscope.classify.photographs import measure_photographs
from stretchscope.classify.pictures import pictures_of_images


def shapes(count: int, seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Photographs of discs, rings and bars of any size and angle, with noise, and their classes."""
    random = np.random.default_rng(seed)
    images, labels = [], np.arange(count) % 3
    for label in labels:
        side = int(random.integers(30, 70))
        y, x = np.mgrid[:side, :side] - side / 2 + random.uniform(-3, 3, (2, 1, 1))
        angle, radius = random.uniform(0, np.pi), side / random.uniform(2.8, 4)
        across = np.abs(x * np.sin(angle) + y * np.cos(angle))
        along = np.abs(x * np.cos(angle) - y * np.sin(angle))
        r = np.hypot(x, y)
        dark = (r < radius, np.abs(r - radius) < 3, (across < 3) & (along < radius))[label]
        images.append((1 - 0.6 * dark + 0.01 * random.normal(size=dark.shape)).astype(np.float32))
    return images, labels


@pytest.mark.filterwarnings("ignore")  # the checks warn of what they skip, and of what is known to fail
def test_trees_are_an_estimator_of_scikit_learn() -> None:
    binned = "bins are laid by counts of samples, not by their weights, as scikit-learn's own class has it"
    check_estimator(
        FeatureClassifier(max_iter=10),
        expected_failed_checks={
            "check_sample_weight_equivalence_on_dense_data": binned,
            "check_sample_weight_equivalence_on_sparse_data": binned,
        },
    )


def test_trees_tell_shapes_apart_by_their_features() -> None:
    images, labels = shapes(120)
    for pixel_um in (None, 0.3):
        names = feature_names(in_um=pixel_um is not None)
        table = feature_table(measure_photographs(images, pixel_um=pixel_um), names)
        assert cross_val_score(FeatureClassifier(max_iter=20), table, labels, cv=3).mean() > 0.9


def test_features_without_a_scale_do_not_know_it() -> None:
    images, _ = shapes(12)
    names = feature_names(in_um=False)
    tables = [feature_table(measure_photographs(images, pixel_um=um), names) for um in (None, 0.1, 3.0)]
    np.testing.assert_allclose(tables[1], tables[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(tables[2], tables[0], rtol=1e-4, atol=1e-5)


def test_what_is_not_finite_becomes_zero() -> None:
    columns = {name: np.array([np.nan, np.inf, 2.0]) for name in feature_columns(calibrated=True)}
    table = feature_table(columns, feature_names(in_um=True))
    assert table.dtype == np.float32
    assert (table[:2] == 0).all()
    assert (table[2] > 0).all()


@pytest.mark.train
def test_a_network_tells_shapes_apart_and_is_the_same_twice() -> None:
    pytest.importorskip("torch", reason="training needs torch: make test-all")
    images, labels = shapes(150)
    pictures = pictures_of_images(images)
    names = np.array(["disc", "ring", "bar"])[labels]
    first, second = (
        NetworkClassifier(network="fast", epochs=12, batch=16, random_state=1).fit(pictures, names) for _ in range(2)
    )
    fresh, truth = shapes(60, seed=9)
    drawn = pictures_of_images(fresh)
    assert (first.predict(drawn) == np.array(["disc", "ring", "bar"])[truth]).mean() > 0.9
    np.testing.assert_array_equal(first.predict_proba(drawn), second.predict_proba(drawn))
    np.testing.assert_allclose(first.predict_proba(drawn).sum(axis=1), 1)


@pytest.mark.train
def test_a_training_broken_off_ends_as_one_that_was_not(tmp_path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("torch", reason="training needs torch: make test-all")
    images, labels = shapes(60)
    pictures = pictures_of_images(images)
    whole = NetworkClassifier(network="fast", epochs=4, batch=16).fit(pictures, labels)

    class BrokenOffError(Exception):
        pass

    def stop(epoch) -> None:  # type: ignore[no-untyped-def]
        if epoch.number == 2:
            raise BrokenOffError

    kept = tmp_path / "kept.npz"
    with pytest.raises(BrokenOffError):
        NetworkClassifier(network="fast", epochs=4, batch=16).fit(pictures, labels, progress=stop, checkpoint=kept)
    seen: list[int] = []
    resumed = NetworkClassifier(network="fast", epochs=4, batch=16).fit(
        pictures, labels, progress=lambda epoch: seen.append(epoch.number), checkpoint=kept
    )
    assert seen == [3, 4]
    np.testing.assert_array_equal(resumed.decision_function(pictures), whole.decision_function(pictures))


def test_a_network_refuses_what_is_no_picture() -> None:
    with pytest.raises(ValueError, match="PICTURE_DTYPE"):
        NetworkClassifier().fit(np.zeros((4, 9216)), np.array([0, 1, 0, 1]))
