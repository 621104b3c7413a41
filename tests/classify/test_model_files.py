"""Model files from strangers: what is not ours is refused in a line, whatever its bytes; what is ours runs on anything.

Bad files are written byte by byte, see ``handmade_models``.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from handmade_models import (
    CARD,
    FEATURES,
    GOOD,
    INT64,
    WEIGHT,
    build,
    info,
    message,
    node,
    pixels_model,
    tensor,
    varint,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from stretchscope.classify import runtime
from stretchscope.classify.model import CARD_KEY, read_card
from stretchscope.classify.onnx_file import MOST_ELEMENTS, ModelError, inspect_onnx
from stretchscope.classify.runtime import UNKNOWN, Model, load_model


def test_a_model_written_by_hand_runs() -> None:
    features = np.random.default_rng(0).normal(size=(11, 3)).astype(np.float32)
    verdicts = Model(GOOD, "hand").of_features(features)
    scores = features @ WEIGHT
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(verdicts.probabilities, expected, rtol=1e-5)
    np.testing.assert_array_equal(verdicts.labels, np.array(CARD.classes)[scores.argmax(axis=1)])
    np.testing.assert_array_equal(verdicts.top(1)[:, 0], scores.argmax(axis=1))


@pytest.mark.parametrize("size", [1, 7, 8, 9, 30])
def test_a_cell_gets_the_same_bits_in_any_company(size: int) -> None:
    features = np.random.default_rng(1).normal(size=(30, 3)).astype(np.float32)
    model = Model(GOOD, "hand")
    whole = model.of_features(features).probabilities
    np.testing.assert_array_equal(model.of_features(features[-size:]).probabilities, whole[-size:])


EXTERNAL = message((1, b"location"), (2, b"../../secret"))
SUBGRAPH = message((1, "body"), (6, message((2, b"inner"))))
BAD: dict[str, tuple[bytes, str]] = {
    "external data": (build(constants=[tensor("w", WEIGHT, (13, EXTERNAL))]), "keeps its weights in another file"),
    "data location": (build(constants=[tensor("w", WEIGHT, (14, 1))]), "keeps its weights in another file"),
    "external in an attribute": (
        build(nodes=[node("MatMul", ["features", "w"], "scores", message((5, tensor("t", WEIGHT, (14, 1)))))]),
        "keeps its weights in another file",
    ),
    "terabytes of input": (build(inputs=[info("features", "N", 1 << 40)]), "more than"),
    "a negative size": (build(inputs=[info("features", "N", -3)]), "more than"),
    "terabytes of weights": (build(constants=[message((1, 1 << 20), (1, 1 << 20), (2, 1), (8, "w"))]), "declares a"),
    "packed sizes": (build(constants=[message((1, varint(1 << 20) * 2), (2, 1), (8, "w"))]), "declares a tensor"),
    "weights too short": (build(constants=[message((1, 3), (1, 2), (2, 1), (8, "w"))]), "cannot load"),
    "sub-graph": (build(nodes=[node("MatMul", ["features", "w"], "scores", SUBGRAPH)]), "holds sub-graphs"),
    "operator": (build(nodes=[node("Expand", ["features", "w"], "scores")]), "uses the operator 'Expand'"),
    "foreign domain": (
        build(nodes=[message((1, "features"), (2, "scores"), (4, "Relu"), (7, "com.microsoft"))]),
        "an operator of 'com.microsoft'",
    ),
    "functions": (build(model=[(25, b"")]), "defines functions"),
    "sparse": (build(graph=[(15, b"")]), "sparse tensors"),
    "large padding": (
        build(nodes=[node("MaxPool", ["features"], "scores", message((1, "pads"), (8, 1 << 30), (8, 1 << 30)))]),
        "'pads' of",
    ),
    "no graph": (message((1, 9)), "holds no graph"),
    "name not UTF-8": (
        build(nodes=[node("MatMul", ["features", "w"], "scores").replace(b"MatMul", b"Mat\xff\xfel")]),
        "not an ONNX model",
    ),
    "foreign": (message((1, 9), (7, message((2, b"g")))), "not one of stretchscope's"),
    "foreign metadata": (build(card="{'a': 1}"), "its card cannot be read"),
    "metadata a list": (build(card="[1]"), "its card cannot be read"),
    "unknown feature": (
        build(card=CARD.to_json().replace(FEATURES[0], "no such feature")),
        "takes 'no such feature', a feature that",
    ),
    "another form": (build(card=json.dumps({"form": 99})), "has form 99"),
    "no inputs": (build(card=json.dumps({"form": 1})), "its card cannot be read"),
    "input of another type": (build(inputs=[info("features", "N", 3, kind=INT64)]), "cannot load|not what its card"),
    "other classes": (build(outputs=[info("scores", "N", 5)]), "not what its card says"),
    "a loose end": (build(nodes=[node("MatMul", ["nowhere", "w"], "scores")]), "cannot load"),
    "text": (b"<!doctype html><html>", "not an ONNX model"),
    "nothing": (b"", "holds no graph"),
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_not_ours_is_refused_in_one_line(what: str) -> None:
    content, reason = BAD[what]
    with pytest.raises(ModelError, match=reason) as raised:
        Model(content, "m.onnx")
    assert "\n" not in str(raised.value)
    assert str(raised.value).startswith("m.onnx: ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "oracle"), ("polarity", "grey"), ("classes", ["a"]), ("classes", ["a", "a"]), ("classes", ["a", ""]),
        ("classes", ["a", "b\nc"]), ("classes", ["a", "b" * 1000]), ("classes", [1, 2]), ("temperature", 0),
        ("temperature", "hot"), ("novelty_limit", None), ("side_px", 1 << 30), ("side_px", 1.5), ("pixel_um", -1),
        ("false_reject_rate", 2), ("classes", 3), ("features", 7), ("in_um", "yes"),
    ],
)  # fmt: skip
def test_a_card_that_makes_no_sense_is_refused(name: str, value: object) -> None:
    card = json.loads(CARD.to_json()) | {name: value}
    with pytest.raises(ModelError, match="its card cannot be read"):
        read_card({CARD_KEY: json.dumps(card)}, "m.onnx")


def test_a_card_reads_back() -> None:
    assert read_card({CARD_KEY: CARD.to_json()}, "m.onnx") == CARD


def test_a_file_cut_anywhere_is_refused() -> None:
    """Between two fields as well: the card comes last."""
    for end in range(len(GOOD)):
        with pytest.raises(ModelError):
            Model(GOOD[:end], "m.onnx")


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.integers(0, 255)), min_size=1, max_size=6))
def test_bytes_changed_at_random_raise_nothing_else(changes: list[tuple[int, int]]) -> None:
    content = bytearray(GOOD)
    for place, value in changes:
        content[place] = value
    try:
        inspect_onnx(bytes(content), "m.onnx")
    except ModelError:
        return
    try:
        Model(bytes(content), "m.onnx").of_features(np.zeros((3, 3), np.float32))
    except ModelError:
        return


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_model_or_a_model_error(content: bytes) -> None:
    with pytest.raises(ModelError):
        Model(content, "m.onnx")


def test_sizes_that_multiply_beyond_64_bits_are_seen() -> None:
    shape = info("features", "N", 1 << 32, 1 << 32)
    with pytest.raises(ModelError, match="more than"):
        inspect_onnx(build(inputs=[shape]), "m.onnx")
    assert MOST_ELEMENTS < 1 << 32


def test_a_missing_file_a_folder_and_a_huge_one_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        load_model(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="cannot be read"):
        load_model(tmp_path)
    path = tmp_path / "m.onnx"
    path.write_bytes(GOOD)
    assert load_model(path).card == CARD
    monkeypatch.setattr(runtime, "MOST_BYTES", len(GOOD) - 1)
    with pytest.raises(ModelError, match="bytes are more than"):
        load_model(path)


def columns_of(values: np.ndarray) -> dict[str, np.ndarray]:
    return {name: values[:, i] for i, name in enumerate(FEATURES)}


def crops_of(count: int, side: int = 24) -> tuple[np.ndarray, np.ndarray]:
    masks = np.zeros((count, side, side), bool)
    masks[:, 6:-6, 8:-8] = True
    return np.where(masks, 80, 150).astype(np.uint8), masks


def test_features_that_are_not_finite_count_as_zero() -> None:
    model = Model(GOOD, "hand")
    values = np.array([[np.nan, 1, 2], [np.inf, 1, 2], [-np.inf, 1, 2], [0, 1, 2]])
    told = model.of_crops(*crops_of(4), columns_of(values), pixel_um=None)
    assert (told.probabilities == told.probabilities[3]).all()


def test_no_cells_have_no_verdicts() -> None:
    told = Model(GOOD, "hand").of_crops(*crops_of(0), columns_of(np.empty((0, 3))), pixel_um=None)
    assert told.probabilities.shape == (0, 2)
    assert told.labels.size == told.probability.size == told.novelty.size == 0


def test_scores_that_are_no_numbers_make_a_cell_unknown() -> None:
    """A weight of infinity, as an overflow in training leaves it, must not end up as a class, or NaN in a file."""
    model = Model(build(constants=[tensor("w", np.full((3, 2), np.inf))]), "hand")
    told = model.of_features(np.array([[1, -1, 0]], np.float32))
    assert told.labels.tolist() == [UNKNOWN]
    np.testing.assert_allclose(told.probabilities, 0.5)


def test_a_model_that_takes_um_says_what_is_missing() -> None:
    card = json.loads(CARD.to_json()) | {"in_um": True}
    model = Model(build(card=json.dumps(card)), "m.onnx")
    with pytest.raises(ModelError, match="takes sizes in µm"):
        model.of_crops(*crops_of(1), columns_of(np.zeros((1, 3))), pixel_um=None)


@pytest.mark.parametrize("alter", [
    lambda c, m: (c, np.zeros_like(m)),  # an empty mask: all of the crop is shown
    lambda c, m: (c / np.float32(150), m),  # transmission in place of grey levels
    lambda c, m: (c / 150.0, m),
    lambda c, m: (np.where(m, np.nan, c / 150.0), m),
    lambda c, m: (np.kron(c, np.ones((1, 40, 40), np.uint8)), np.kron(m, np.ones((1, 40, 40), bool))),
])  # fmt: skip
def test_odd_crops_get_a_verdict(alter: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
    told = Model(pixels_model(), "m.onnx").of_crops(*alter(*crops_of(3)), {}, pixel_um=None)
    assert np.isfinite(told.probabilities).all()
    np.testing.assert_allclose(told.probabilities.sum(axis=1), 1)


def test_transmission_and_its_grey_levels_are_told_alike() -> None:
    crops, masks = crops_of(3)
    model = Model(pixels_model(), "m.onnx")
    a = model.of_crops(crops, masks, {}, pixel_um=None)
    b = model.of_crops(crops / np.float32(150), masks, {}, pixel_um=None)
    assert a.labels.tolist() == b.labels.tolist() == ["long"] * 3  # the corner is clear, the middle dark
