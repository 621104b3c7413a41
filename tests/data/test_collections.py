"""Collections of images: what is found, how it is read and split, and that bad input says so."""

import numpy as np
import pytest
from PIL import Image

from stretchscope.data.collections import (
    CollectionError,
    check_for_training,
    class_weights,
    collection_of,
    fold,
    open_collection,
    split,
)


def picture(seed=0, shape=(24, 30), ground=200.0):
    """A dark blob on an even ground; uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    middle, size = random.uniform(0.4, 0.6, 2) * shape, random.uniform(0.1, 0.25, 2) * shape
    r2 = ((y - middle[0]) / size[0]) ** 2 + ((x - middle[1]) / size[1]) ** 2
    texture = random.uniform(0.3, 0.7, (4, 4)).repeat(-(-shape[0] // 4), 0).repeat(-(-shape[1] // 4), 1)
    return np.rint(ground * (1 - texture[: shape[0], : shape[1]] * (r2 < 1))).astype(np.uint8)


def write_classes(folder, counts, first=0):
    for name, count in counts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed = first + sum(map(ord, name)) * 1000 + number
            Image.fromarray(picture(seed)).save(folder / name / f"{seed}.png")


def test_class_folders(tmp_path):
    write_classes(tmp_path, {"b": 3, "a/deep": 2})
    Image.fromarray(picture(5)).save(tmp_path / "z.tif")
    (tmp_path / "b" / ".hidden.png").write_bytes(b"no image")
    (tmp_path / "b" / "notes.txt").write_text("no image")
    collection = open_collection(tmp_path)
    assert collection.classes == ("a", "b")
    assert collection.labels.tolist() == [0, 0, 1, 1, 1, -1]
    assert collection.names[-1] == "z.tif"
    assert list(collection.names) == sorted(collection.names)
    assert len(collection) == 6
    image = collection.read(5)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, picture(5) / 200, atol=1e-6)


def test_split_moves_nothing_when_images_are_added_or_renamed(tmp_path):
    write_classes(tmp_path, {"a": 30, "b": 20})
    before = open_collection(tmp_path)
    parts, folds = split(before, (0.6, 0.2, 0.2)), fold(before)
    assert sorted(np.concatenate(parts)) == list(range(50))
    for number, path in enumerate(sorted((tmp_path / "a").iterdir())):
        path.rename(path.with_name(f"renamed{29 - number:02d}.png"))
    write_classes(tmp_path, {"a": 10, "c": 10}, first=500)
    after = open_collection(tmp_path)
    place = {key: index for index, key in enumerate(after.groups.tolist())}
    moved = [place[key] for key in before.groups.tolist()]
    new_parts = split(after, (0.6, 0.2, 0.2))
    for old, new in zip(parts, new_parts, strict=True):
        assert {moved[i] for i in old} <= set(new.tolist())
    assert (fold(after)[moved] == folds).all()


def test_subsets_keep_keys():
    images = [picture(seed) / 200 for seed in range(12)]
    whole = collection_of(images, ["a", "b", "c", None] * 3)
    part = whole.with_classes(["c", "a"])
    assert part.classes == ("a", "c")
    assert part.labels.tolist() == [0, 1] * 3
    assert part.groups.tolist() == whole.groups[whole.labels % 2 == 0].tolist()
    np.testing.assert_array_equal(part.read(3), whole.read(6))
    with pytest.raises(CollectionError, match="no class 'x'; there are a, b, c"):
        whole.with_classes("x")


def test_class_weights_make_all_classes_count_alike():
    labels = np.array([0] * 30 + [1] * 10 + [3] * 5 + [-1] * 7)
    weights = class_weights(labels)
    assert weights[2] == 0
    np.testing.assert_allclose(weights[[0, 1, 3]] * [30, 10, 5], 15)


def test_what_cannot_be_trained_on_says_so():
    images = [picture(seed) / 200 for seed in range(4)]
    for labels, message in (
        ([None] * 4, "no labels"),
        (["a"] * 4, r"one class only \(a\)"),
        (["a", "a", "a", "b"], "class 'b' has 1 image"),
    ):
        with pytest.raises(CollectionError, match=message):
            check_for_training(collection_of(images, labels))
    collection = collection_of(images, ["a", "a", "b", "b"])
    check_for_training(collection)
    with pytest.raises(CollectionError, match="no image of class 'b' fell into the part"):
        check_for_training(collection, np.array([0, 1]))
    twins = collection_of([*images[:3], images[2]], ["a", "a", "b", "b"])
    with pytest.raises(CollectionError, match="all images of class 'b' are duplicates"):
        check_for_training(twins)
