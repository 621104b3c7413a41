"""Phantoms of phytoplankton: the same for the same seed, no two alike, each with what its group is known by."""

import numpy as np
import pytest
from scipy import ndimage

from stretchscope.data.plankton import foreign_stamps, plankton_stamps
from stretchscope.data.stamps import Stamps, label_of

KINDS = ("chain_diatom", "pennate_diatom", "dinoflagellate", "coccolithophore", "flagellate", "colony")


@pytest.fixture(scope="module")
def plankton() -> Stamps:
    return plankton_stamps(3, 5)


@pytest.fixture(scope="module")
def foreign() -> Stamps:
    return foreign_stamps(3, 3)


def of_label(stamps: Stamps, label: str) -> np.ndarray:
    return stamps.darkness[[label_of(kind) == label for kind in stamps.kinds]]


def elongation(stamp: np.ndarray) -> float:
    """Root of the ratio of the second moments of the dark area."""
    places = np.argwhere(stamp > 0.05)
    values = np.linalg.eigvalsh(np.cov(places.T))
    return float(np.sqrt(values[1] / values[0]))


def test_every_kind_is_there_and_named(plankton: Stamps, foreign: Stamps) -> None:
    assert [label_of(kind) for kind in plankton.kinds[::5]] == list(KINDS)
    assert plankton.kinds[:2] == ("chain_diatom/00", "chain_diatom/01")
    assert [label_of(kind) for kind in foreign.kinds[::3]] == ["acantharia", "ring", "fibre", "bubble"]
    assert label_of("cell00") == ""


def test_seed_and_number_decide_the_shape(plankton: Stamps) -> None:
    fewer = plankton_stamps(3, 2)
    for label in KINDS:
        np.testing.assert_array_equal(of_label(fewer, label), of_label(plankton, label)[:2])
    assert not np.array_equal(plankton_stamps(4, 1).darkness[0], plankton.darkness[0])
    flat = plankton.darkness.reshape(len(plankton.kinds), -1)
    alike = np.corrcoef(flat) - np.eye(len(flat))
    assert alike.max() < 0.97


def test_stamps_are_clear_at_the_border_and_darkest_at_one(plankton: Stamps, foreign: Stamps) -> None:
    taps = np.array([1, 4, 1]) / 6
    for stamps in (plankton, foreign):
        seen = ndimage.convolve1d(ndimage.convolve1d(stamps.darkness.astype(float), taps, axis=1), taps, axis=2)
        np.testing.assert_allclose(seen.max(axis=(1, 2)), 1, atol=1e-6)
        assert stamps.darkness.min() >= 0
        border = np.ones(stamps.darkness.shape[1:], dtype=bool)
        border[5:-5, 5:-5] = False
        assert not stamps.darkness[:, border].any()


def test_shapes_are_whole(plankton: Stamps) -> None:
    """At most a fiftieth of the dark area lies apart from the body, or a detector would see two cells."""
    for kind, stamp in zip(plankton.kinds, plankton.darkness, strict=True):
        parts, count = ndimage.label(stamp > 0.05)
        sizes = ndimage.sum_labels(stamp > 0.05, parts, np.arange(1, count + 1))
        assert sizes.max() > 0.98 * sizes.sum(), kind


def test_shapes_are_those_of_their_group(plankton: Stamps, foreign: Stamps) -> None:
    for label, (least, most) in {
        "pennate_diatom": (2.5, 20),
        "chain_diatom": (1.8, 20),
        "coccolithophore": (1, 1.25),
        "colony": (1, 1.6),
    }.items():
        for stamp in of_label(plankton, label):
            assert least <= elongation(stamp) <= most, label
    for ring in of_label(foreign, "ring"):
        assert ring[50:62, 50:62].max() < 0.05
    for bubble in of_label(foreign, "bubble"):
        assert bubble[50:62, 50:62].mean() < 0.5 < np.median(bubble[bubble > 0.3])
    for fibre in of_label(foreign, "fibre"):  # long and thin: its skeleton's length, over its width
        area = np.count_nonzero(fibre > 0.3)
        assert area / (2 * ndimage.distance_transform_edt(fibre > 0.3).max()) > 50


def test_bad_number_says_so() -> None:
    with pytest.raises(ValueError, match="per_kind must lie between 1 and 1000"):
        plankton_stamps(1, 0)
