"""Small models written byte by byte (Protocol Buffers), so that no library that makes models need be there."""

import json
from dataclasses import asdict

import numpy as np

from stretchscope.classify.feature_table import feature_names
from stretchscope.classify.model import CARD_KEY, ModelCard

FLOAT, UINT8, INT64 = 1, 2, 7
FEATURES = feature_names(in_um=False)[:3]
CARD = ModelCard(
    "ensemble", ("round", "long"), 0, False, None, "dark", 1.0, 1e9, 0.05, FEATURES, {"seed": 0},
)  # fmt: skip


def varint(value: int) -> bytes:
    """A number as Protocol Buffers write it; a negative one with ten bytes."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def message(*fields: tuple[int, int | str | bytes]) -> bytes:
    """A message of fields: number, and a number, text or bytes."""
    out = b""
    for number, value in fields:
        if isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            content = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(content)) + content
    return out


def info(name: str, *shape: int | str, kind: int = FLOAT) -> bytes:
    """ValueInfoProto."""
    sizes = [(1, message((1, size) if isinstance(size, int) else (2, size))) for size in shape]
    return message((1, name), (2, message((1, message((1, kind), (2, message(*sizes)))))))


def tensor(name: str, values: np.ndarray, *more: tuple[int, int | bytes]) -> bytes:
    """TensorProto of float32."""
    dims = [(1, size) for size in values.shape]
    return message(*dims, (2, FLOAT), (8, name), (9, values.astype("<f4").tobytes()), *more)


def node(operator: str, inputs: list[str], output: str, *attributes: bytes) -> bytes:
    """NodeProto."""
    return message(*((1, i) for i in inputs), (2, output), (4, operator), *((5, a) for a in attributes))


WEIGHT = np.array([[1.0, -1.0], [0.5, 0.5], [0.0, 0.0]])


def build(
    *,
    card: str | None = None,
    nodes: list[bytes] | None = None,
    constants: list[bytes] | None = None,
    inputs: list[bytes] | None = None,
    outputs: list[bytes] | None = None,
    graph: list[tuple[int, bytes]] | None = None,
    model: list[tuple[int, int | bytes]] | None = None,
) -> bytes:
    """A whole model, scores = features · weight, with anything put in its place."""
    fields = [(1, n) for n in nodes or [node("MatMul", ["features", "w"], "scores")]]
    fields += [(2, b"g"), *((5, c) for c in constants or [tensor("w", WEIGHT)]), *(graph or [])]
    fields += [(11, i) for i in inputs or [info("features", "N", 3)]]
    fields += [(12, o) for o in outputs or [info("scores", "N", 2)]]
    text = CARD.to_json() if card is None else card
    opset = message((1, b""), (2, 17))
    return message((1, 9), (7, message(*fields)), (8, opset), (14, message((1, CARD_KEY), (2, text))), *(model or []))


GOOD = build()


def pixels_model(**card: object) -> bytes:
    """A network whose scores are two pixels of the picture: its middle and a corner, in grey levels."""
    values = json.loads(CARD.to_json()) | {"kind": "network", "features": [], "side_px": 96} | card
    weight = np.zeros((96 * 96, 2))
    weight[48 * 96 + 48, 0] = weight[0, 1] = 1.0
    cast, flatten = message((1, "to"), (3, FLOAT), (20, 2)), message((1, "axis"), (3, 1), (20, 2))
    nodes = [
        node("Cast", ["levels"], "f", cast), node("Flatten", ["f"], "p", flatten), node("MatMul", ["p", "w"], "scores"),
    ]  # fmt: skip
    return build(
        card=json.dumps(values), nodes=nodes, constants=[tensor("w", weight)],
        inputs=[info("levels", "N", 96, 96, kind=UINT8)],
    )  # fmt: skip


def features_model(weights: dict[str, tuple[float, ...]], **card: object) -> bytes:
    """An ensemble whose scores are weighted sums of features, as many scores as each feature has weights."""
    values = asdict(CARD) | {"form": 1, "features": list(weights)} | card
    weight = np.array(list(weights.values()))
    return build(
        card=json.dumps(values), constants=[tensor("w", weight)], inputs=[info("features", "N", len(weight))],
        outputs=[info("scores", "N", weight.shape[1])],
    )  # fmt: skip
