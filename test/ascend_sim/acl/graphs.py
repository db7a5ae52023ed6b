"""What every change of an ONNX graph needs."""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, numpy_helper

SMALL = 1024
"""Constants up to this many bytes belong into the graph."""


class GraphError(ValueError):
    """A graph that the chip, or this stand-in for it, cannot run."""


class Constants:
    """Small constants of a graph, each made once."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._names = {tensor.name for tensor in graph.initializer}

    def scalar(self, value: float, dtype: type) -> str:
        """Return the name of a scalar."""
        name = f'sim/{np.dtype(dtype).name}/{value}'
        if name not in self._names:
            self._names.add(name)
            self._graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name


def element_types(model: onnx.ModelProto) -> dict[str, int]:
    """Return the type of every tensor whose type is known."""
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph
    except Exception as error:  # onnx raises errors of several unrelated types
        raise GraphError(f'types do not fit together: {error}') from None
    types = {value.name: value.type.tensor_type.elem_type
             for value in (*inferred.value_info, *inferred.input, *inferred.output)}
    types.update((tensor.name, tensor.data_type) for tensor in inferred.initializer)
    return types


def attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    """Return the value of an attribute."""
    for found in node.attribute:
        if found.name == name:
            value = helper.get_attribute_value(found)
            return value.decode() if isinstance(value, bytes) else value
    return default


def replace_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    """Let a graph have other nodes."""
    nodes = list(nodes)
    del graph.node[:]
    graph.node.extend(nodes)
