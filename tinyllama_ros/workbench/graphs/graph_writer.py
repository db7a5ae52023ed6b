"""Writes an ONNX graph: collects nodes in memory, and writes weights to their file at once."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import helper, numpy_helper, TensorProto

from tinyllama_ros.artifact.contract import Dim, DType, TensorSpec
from tinyllama_ros.artifact.manifest import GRAPH, WEIGHTS

PAGE = 4096
"""Weights start at page boundaries (bytes), so that a runtime can map them."""
MICROSOFT = 'com.microsoft'


class GraphWriter:
    """
    Collects the nodes of one graph; every name is a path and is unique.

    The first output of a node has the name of the node, such as ``layer.0/attention/o``; further
    outputs have a colon and their number appended.
    """

    def __init__(self, weights: BinaryIO) -> None:
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def inputs(self, tensors: Mapping[str, TensorSpec]) -> None:
        """Declare inputs of the graph."""
        self._inputs += [_declared(name, tensor.dtype, tensor.shape)
                         for name, tensor in tensors.items()]

    def outputs(self, tensors: Mapping[str, TensorSpec]) -> None:
        """Declare outputs of the graph."""
        self._outputs += [_declared(name, tensor.dtype, tensor.shape)
                          for name, tensor in tensors.items()]

    def tap(self, name: str) -> None:
        """Declare a float32 tensor of any shape as an additional output."""
        self._outputs.append(_declared(name, np.float32, None))

    def weight(self, name: str, array: NDArray[Any]) -> str:
        """Write an array to the weights' file and return its name."""
        self._weights.write(bytes(-self._weights.tell() % PAGE))
        tensor = TensorProto(name=name, dims=array.shape,
                             data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
                             data_location=TensorProto.EXTERNAL)
        for key, value in (('location', WEIGHTS), ('offset', self._weights.tell()),
                           ('length', array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        self._weights.write(np.ascontiguousarray(array).data)
        return self._add(name, tensor)

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Store a small array in the graph and return its name."""
        return self._add(name, numpy_helper.from_array(value, name))

    def node(self, op: str, name: str, inputs: Sequence[str], *, outputs: Sequence[str] = (),
             domain: str = '', **attributes: Any) -> str:
        """Add a node; its only output has its name, unless output names are given."""
        self._nodes.append(helper.make_node(op, inputs, outputs or [name], name=name,
                                            domain=domain, **attributes))
        return name

    def save(self, path: Path, opsets: Mapping[str, int],
             functions: Sequence[onnx.FunctionProto] = ()) -> None:
        """Write the graph, which refers to its weights by the name of their file."""
        graph = helper.make_graph(self._nodes, 'decoder', self._inputs, self._outputs,
                                  list(self._initializers.values()))
        model = helper.make_model(
            graph, producer_name='tinyllama_ros', ir_version=8, functions=functions,
            opset_imports=[helper.make_opsetid(domain, version)
                           for domain, version in opsets.items()])
        path.write_bytes(model.SerializeToString())

    def _add(self, name: str, tensor: TensorProto) -> str:
        assert name not in self._initializers, f'{name} is made twice'
        self._initializers[name] = tensor
        return name


@contextmanager
def graph_in(folder: Path, opsets: Mapping[str, int],
             functions: Sequence[onnx.FunctionProto] = ()) -> Iterator[GraphWriter]:
    """Give what writes a graph and its weights into a folder."""
    with (folder / WEIGHTS).open('wb') as weights:
        writer = GraphWriter(weights)
        yield writer
    writer.save(folder / GRAPH, opsets, functions)


def _declared(name: str, dtype: DType, shape: Sequence[Dim] | None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape)
