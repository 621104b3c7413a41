"""Make a model file of a trained classifier: one ONNX file, its card inside.

Needs onnx: for training only.
"""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .calibration import Familiar
from .estimator import FeatureClassifier
from .model import CARD_KEY, ModelCard
from .networks import SIDE_UNIT, Layer
from .pictures import LEVELS_PER_TRANSMISSION, SIDE_PX
from .training import TrainedNetwork

_OPSET, _ML_OPSET, _IR_VERSION = 17, 3, 9


def network_to_onnx(trained: TrainedNetwork, familiar: Familiar, card: ModelCard) -> bytes:
    """The model file of a network.

    Its inputs are ``levels``, uint8 (N, side, side), and, where sizes count, ``side``, float32 (N, 1) [µm]; its outputs
    ``scores``, float32 (N, classes), and ``novelty``, float32 (N, 1). Batch normalisation is folded into the
    convolutions.
    """
    graph = _Graph()
    module = trained.module()
    x = graph.add("Cast", ["levels"], to=TensorProto.FLOAT)
    x = graph.add("Reshape", [x, graph.constant(np.array([-1, 1, SIDE_PX, SIDE_PX]))])
    # the first convolution takes levels as they are: its weights do the rest, its border is one of clear pixels
    x = graph.add(
        "Sub", [graph.constant(_f32(1)), graph.add("Div", [x, graph.constant(_f32(LEVELS_PER_TRANSMISSION))])]
    )
    for layer in module.layers:
        assert isinstance(layer, Layer)
        weight, bias = _folded(layer)
        convolution = layer.convolution
        assert not isinstance(convolution.padding, str)
        pads = [convolution.padding[0]] * 4
        inputs = [x, graph.constant(weight), graph.constant(bias)]
        y = graph.add("Conv", inputs, pads=pads, strides=list(convolution.stride))
        x = graph.add("Relu", [graph.add("Add", [y, x]) if layer.adds else y])
    parts = [graph.add("Flatten", [graph.add(pool, [x])]) for pool in ("GlobalAveragePool", "GlobalMaxPool")]
    sides = []
    if trained.settings.sized:
        sides = [_info("side", TensorProto.FLOAT, ["N", 1])]
        log = graph.add("Log", [graph.add("Div", ["side", graph.constant(_f32(SIDE_UNIT))])])
        parts.append(graph.add("Div", [log, graph.constant(_f32(np.log(2)))]))
    embedding = graph.add("Concat", parts, axis=1)
    graph.linear(embedding, module.scores.weight.detach().numpy(), module.scores.bias.detach().numpy(), "scores")
    _add_novelty(graph, embedding, familiar)
    return graph.model(
        [_info("levels", TensorProto.UINT8, ["N", SIDE_PX, SIDE_PX]), *sides],
        [
            _info("scores", TensorProto.FLOAT, ["N", trained.classes]),
            _info("novelty", TensorProto.FLOAT, ["N", 1]),
        ],
        card,
    )


def ensemble_to_onnx(trees: FeatureClassifier, card: ModelCard) -> bytes:
    """The model file of trees: input ``features``, float32 (N, features), output ``scores``, float32 (N, classes).

    The scores are log-likelihoods up to a constant. Thresholds are rounded down to single precision, so that a feature
    in single precision takes the way that it takes in scikit-learn.
    """
    graph = _Graph()
    classes = len(card.classes)
    columns: dict[str, list[np.ndarray]] = {}
    count = 0
    for stage in trees._predictors:
        for target, tree in enumerate(stage):
            nodes, number = tree.nodes, np.arange(len(tree.nodes))
            leaf = nodes["is_leaf"].astype(bool)
            threshold = nodes["num_threshold"].astype(np.float32)
            high = threshold > nodes["num_threshold"]
            threshold[high] = np.nextafter(threshold[high], np.float32(-np.inf))
            for name, values in {
                "nodes_treeids": np.full(len(nodes), count),
                "nodes_nodeids": number,
                "nodes_featureids": np.where(leaf, 0, nodes["feature_idx"]),
                "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ"),
                "nodes_values": np.where(leaf, np.float32(0), threshold),
                "nodes_truenodeids": np.where(leaf, 0, nodes["left"]),
                "nodes_falsenodeids": np.where(leaf, 0, nodes["right"]),
                "nodes_missing_value_tracks_true": np.where(leaf, 0, nodes["missing_go_to_left"]),
                "target_treeids": np.full(leaf.sum(), count),
                "target_nodeids": number[leaf],
                "target_ids": np.full(leaf.sum(), target),
                "target_weights": nodes["value"][leaf].astype(np.float32),
            }.items():
                columns.setdefault(name, []).append(values)
            count += 1
    base = np.ravel(trees._baseline_prediction)
    attributes = {name: np.concatenate(values).tolist() for name, values in columns.items()}
    graph.add(
        "TreeEnsembleRegressor", ["features"], output="scores" if classes > 2 else None, domain="ai.onnx.ml",
        n_targets=base.size, base_values=base.astype(np.float32).tolist(), aggregate_function="SUM",
        post_transform="NONE", **attributes,
    )  # fmt: skip
    if classes == 2:  # scikit-learn has one tree for the second class against the first
        graph.linear("v0", np.array([[0.0], [1.0]]), np.zeros(2), "scores")
    return graph.model(
        [_info("features", TensorProto.FLOAT, ["N", len(card.features)])],
        [_info("scores", TensorProto.FLOAT, ["N", classes])],
        card,
    )


def _add_novelty(graph: "_Graph", embedding: str, familiar: Familiar) -> None:
    """``Familiar.novelty``: the squared distance from a middle is |z|² - 2 z·m + |m|²."""
    z = graph.linear(embedding, familiar.whiten, familiar.offset)
    apart = graph.linear(z, -2 * familiar.middles, (familiar.middles**2).sum(axis=1))
    nearest = graph.add("Add", [graph.squared(z), graph.add("ReduceMin", [apart], axes=[1], keepdims=1)])
    overall = graph.squared(graph.linear(embedding, familiar.whiten_all, familiar.offset_all))
    graph.add("Sub", [nearest, overall], output="novelty")


def _folded(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Weight and bias of a convolution with the normalisation after it."""
    norm = layer.normalisation
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    weight = layer.convolution.weight.detach() * scale[:, None, None, None]
    bias = norm.bias.detach() - norm.running_mean * scale
    return weight.numpy(), bias.numpy()


class _Graph:
    """An ONNX graph that is being written."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, inputs: list[str], *, output: str | None = None, **attributes: Any) -> str:
        """Add a node of one output, and name it."""
        name = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, values: np.ndarray) -> str:
        """Add an array; whole numbers stay int64, others become float32."""
        values = np.asarray(values)
        dtype = np.int64 if values.dtype.kind == "i" else np.float32
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values, dtype=dtype), name))
        return name

    def linear(self, x: str, weight: np.ndarray, bias: np.ndarray, output: str | None = None) -> str:
        """weight · x + bias, for each row of x."""
        return self.add("Gemm", [x, self.constant(weight), self.constant(bias)], output=output, transB=1)

    def squared(self, x: str) -> str:
        """Squared length of each row, (N, 1)."""
        axis = self.constant(np.array([1]))
        return self.add("ReduceSum", [self.add("Mul", [x, x]), axis], keepdims=1)

    def model(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto], card: ModelCard) -> bytes:
        graph = helper.make_graph(self.nodes, "stretchscope", inputs, outputs, self.constants)
        opsets = [helper.make_opsetid("", _OPSET), helper.make_opsetid("ai.onnx.ml", _ML_OPSET)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION, producer_name="stretchscope")
        helper.set_model_props(model, {CARD_KEY: card.to_json()})
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)


def _info(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _f32(value: float) -> np.ndarray:
    return np.array(value, dtype=np.float32)
