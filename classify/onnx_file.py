"""Look into an ONNX file before anything runs it: what it declares, and that it can do no harm.

A model comes from a stranger, and ONNX Runtime follows what it says: it opens files that tensors name and makes
arrays as large as asked. So the file is first read here, as the bytes that it is (Protocol Buffers, wire format),
without a library that would act on them. Only what stretchscope's own models consist of is let through.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

#: Largest model file [bytes]; ours have some megabytes at most.
MOST_BYTES = 256 << 20
#: Elements of the largest array that a model may make from its own constants, and of one picture of its input.
MOST_ELEMENTS = 1 << 26

# What our models are made of. Nothing here makes an array whose size is a value in the file, save Reshape's view.
OPERATORS = frozenset(
    [
        "Add",
        "AveragePool",
        "Cast",
        "Clip",
        "Concat",
        "Conv",
        "Div",
        "Flatten",
        "Gemm",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "Log",
        "MatMul",
        "MaxPool",
        "Mul",
        "ReduceMin",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Sub",
        "TreeEnsembleRegressor",
    ]
)

_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
# Attributes whose numbers make an array larger than its input, and the largest number that is let through.
_GROWING, _MOST_GROWTH = ("pads", "kernel_shape", "strides", "dilations", "output_padding"), 1024
# Field numbers of onnx.proto: ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto, ValueInfoProto.
_MODEL_GRAPH, _MODEL_METADATA, _MODEL_FUNCTIONS = 7, 14, 25
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_INTS = 1, 8
_ATTRIBUTE_TENSOR, _ATTRIBUTE_GRAPH, _ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = 5, 6, 10, 11, (22, 23)
_TENSOR_DIMS, _TENSOR_EXTERNAL, _TENSOR_LOCATION = 1, 13, 14
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class ModelError(ValueError):
    """A model file that cannot be used; the message says which, why, and what to do."""


@dataclass(frozen=True)
class OnnxSummary:
    """What an ONNX file declares.

    metadata : dict of str to str
        Its metadata properties.
    inputs, outputs : dict of str to tuple
        Name to shape; a dimension without a fixed size is None.
    """

    metadata: dict[str, str]
    inputs: dict[str, tuple[int | None, ...]]
    outputs: dict[str, tuple[int | None, ...]]


def inspect_onnx(content: bytes, where: str) -> OnnxSummary:
    """Read what an ONNX file declares, and refuse what stretchscope's models never hold.

    Parameters
    ----------
    content : bytes
        The whole file.
    where : str
        Name of the file, for messages.

    Raises
    ------
    ModelError
        If this is not an ONNX file, or it keeps tensors in other files, holds operators or sub-graphs that our models
        do not, or declares arrays beyond ``MOST_ELEMENTS`` elements.
    """
    graph: memoryview | None = None
    metadata: dict[str, str] = {}
    try:
        for number, value in _fields(memoryview(content)):
            if number == _MODEL_GRAPH and isinstance(value, memoryview):
                graph = value
            elif number == _MODEL_METADATA and isinstance(value, memoryview):
                entry = {n: v for n, v in _fields(value) if isinstance(v, memoryview)}
                metadata[_text(entry[1])] = _text(entry.get(2, memoryview(b"")))
            elif number == _MODEL_FUNCTIONS:
                raise ModelError(f"{where}: defines functions of its own; only stretchscope's models are run")
        if graph is None:
            raise ModelError(f"{where}: not an ONNX model: it holds no graph")
        return _inspect_graph(graph, metadata, where)
    except (_BrokenError, KeyError, UnicodeDecodeError) as error:
        raise ModelError(f"{where}: not an ONNX model, or a broken one: {error}") from error


def _inspect_graph(graph: memoryview, metadata: dict[str, str], where: str) -> OnnxSummary:
    inputs: dict[str, tuple[int | None, ...]] = {}
    outputs: dict[str, tuple[int | None, ...]] = {}
    for number, value in _fields(graph):
        if not isinstance(value, memoryview):
            continue
        if number == _GRAPH_NODE:
            _check_node(value, where)
        elif number == _GRAPH_INITIALIZER:
            _check_tensor(value, where)
        elif number == _GRAPH_SPARSE:
            raise ModelError(f"{where}: holds sparse tensors; only stretchscope's models are run")
        elif number in (_GRAPH_INPUT, _GRAPH_OUTPUT):
            name, shape = _value_info(value)
            (inputs if number == _GRAPH_INPUT else outputs)[name] = shape
            if math.prod(size or 1 for size in shape) > MOST_ELEMENTS:
                shown = " x ".join("N" if size is None else str(size) for size in shape)
                raise ModelError(f"{where}: '{name}' has the shape {shown}: more than {MOST_ELEMENTS} elements")
    return OnnxSummary(metadata, inputs, outputs)


def _check_node(node: memoryview, where: str) -> None:
    for number, value in _fields(node):
        if not isinstance(value, memoryview):
            continue
        if number == _NODE_OPERATOR and _text(value) not in OPERATORS:
            raise ModelError(f"{where}: uses the operator '{_text(value)}'; only stretchscope's models are run")
        if number == _NODE_DOMAIN and _text(value) not in _DOMAINS:
            raise ModelError(f"{where}: uses an operator of '{_text(value)}'; only stretchscope's models are run")
        if number == _NODE_ATTRIBUTE:
            _check_growth(value, where)
            for inner, content in _fields(value):
                if inner in (_ATTRIBUTE_GRAPH, _ATTRIBUTE_GRAPHS, *_ATTRIBUTE_SPARSE):
                    raise ModelError(f"{where}: holds sub-graphs; only stretchscope's models are run")
                if inner in (_ATTRIBUTE_TENSOR, _ATTRIBUTE_TENSORS) and isinstance(content, memoryview):
                    _check_tensor(content, where)


def _check_growth(attribute: memoryview, where: str) -> None:
    names = [_text(v) for n, v in _fields(attribute) if n == _ATTRIBUTE_NAME and isinstance(v, memoryview)]
    for number, value in _fields(attribute):
        if number == _ATTRIBUTE_INTS and names and names[-1] in _GROWING:
            for size in [value] if isinstance(value, int) else _varints(value):
                if size > _MOST_GROWTH:  # a negative one is large, too
                    raise ModelError(f"{where}: '{names[-1]}' of {size} pixels, more than {_MOST_GROWTH}")


def _check_tensor(tensor: memoryview, where: str) -> None:
    elements = 1
    for number, value in _fields(tensor):
        if number == _TENSOR_EXTERNAL or (number == _TENSOR_LOCATION and value == 1):
            raise ModelError(f"{where}: keeps its weights in another file; save it as one file, without external data")
        if number == _TENSOR_DIMS:
            for size in [value] if isinstance(value, int) else _varints(value):
                elements *= size
    if not 0 <= elements <= MOST_ELEMENTS:
        raise ModelError(f"{where}: declares a tensor of {elements} elements, more than {MOST_ELEMENTS}")


def _value_info(info: memoryview) -> tuple[str, tuple[int | None, ...]]:
    name, shape = "", []
    for number, value in _fields(info):
        if number == 1 and isinstance(value, memoryview):
            name = _text(value)
        if number == 2 and isinstance(value, memoryview):  # TypeProto.tensor_type.shape.dim
            for tensor_type in _parts(value, 1):
                for dimensions in _parts(tensor_type, 2):
                    shape += [_dimension(one) for one in _parts(dimensions, 1)]
    return name, tuple(shape)


def _dimension(one: memoryview) -> int | None:
    sizes = [value for number, value in _fields(one) if number == 1 and isinstance(value, int)]
    return sizes[-1] if sizes else None


def _parts(message: memoryview, wanted: int) -> Iterator[memoryview]:
    for number, value in _fields(message):
        if number == wanted and isinstance(value, memoryview):
            yield value


class _BrokenError(Exception):
    """Bytes that are no message."""


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Fields of a message: number and content, the bytes of whatever has a length."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _BYTES:
            length, at = _varint(message, at)
        elif wire in (_FIXED32, _FIXED64):
            length = 4 if wire == _FIXED32 else 8
        else:
            raise _BrokenError(f"byte {at} starts no field")
        if length > len(message) - at or not number:
            raise _BrokenError("it ends in the middle of a field")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        if at >= len(message):
            raise _BrokenError("it ends in the middle of a number")
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
    raise _BrokenError("a number has no end")


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _text(raw: memoryview) -> str:
    return bytes(raw).decode("utf-8")
