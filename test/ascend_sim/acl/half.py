"""
Makes ONNX Runtime round to fp16 wherever the graph says fp16.

On a CPU it computes nearly all fp16 operators in fp32, and drops the Casts in between (at any
optimization level), so that nothing is rounded and nothing overflows. What survives is arithmetic:
Veltkamp's splitting of a double rounds it to fp16's 11 bits, ties to even, and two products with
powers of two turn what is too large into infinity. Numbers below fp16's smallest normal number
keep more bits than the chip would.
"""

from collections.abc import Iterable

import numpy as np
import onnx
from onnx import helper, TensorProto

from acl.graphs import attribute, Constants, element_types, replace_nodes

_EXACT = frozenset("""
    Abs Compress Concat Constant ConstantOfShape Expand Flatten Gather GatherElements GatherND
    Identity Max Min Neg Pad ReduceMax ReduceMin Relu Reshape ScatterElements ScatterND Slice Split
    Squeeze Tile TopK Transpose Unsqueeze Where
""".split())
"""Operators whose results need no rounding where their inputs needed none."""


def round_to_half(x: str, name: str, constants: Constants) -> Iterable[onnx.NodeProto]:
    """Yield nodes that round finite doubles to the bits of fp16, without an end to their range."""
    splitter = constants.scalar(2.0**42 + 1, np.float64)
    yield helper.make_node('Mul', [x, splitter], [f'{name}/large'])
    yield helper.make_node('Sub', [f'{name}/large', x], [f'{name}/rest'])
    yield helper.make_node('Sub', [f'{name}/large', f'{name}/rest'], [name])


def round_everything(model: onnx.ModelProto) -> None:
    """Change a graph in place so that every fp16 result is what fp16 holds of it."""
    types = element_types(model)
    constants = Constants(model.graph)
    outputs = {value.name for value in model.graph.output}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        made = [name for name in node.output if types.get(name) == TensorProto.FLOAT16]
        if not made or node.op_type in _EXACT or _keeps_type(node, types):
            nodes.append(node)
            continue
        changed = onnx.NodeProto()
        changed.CopyFrom(node)
        after: list[onnx.NodeProto] = []
        for index, name in enumerate(node.output):
            if name in made:
                changed.output[index] = f'{name}/exact'
                after += _round(f'{name}/exact', name, constants)
        nodes += [changed, *after]
    assert outputs <= {name for node in nodes for name in node.output}
    replace_nodes(model.graph, nodes)


def _keeps_type(node: onnx.NodeProto, types: dict[str, int]) -> bool:
    """Return whether this is a Cast between equal types, which rounds nothing."""
    return node.op_type == 'Cast' and types.get(node.input[0]) == attribute(node, 'to', 0)


def _round(exact: str, name: str, constants: Constants) -> Iterable[onnx.NodeProto]:
    """Yield nodes from a tensor to what fp16 holds of it; infinities stay."""
    path = f'{name}/round'
    yield helper.make_node('Cast', [exact], [f'{path}/double'], to=TensorProto.DOUBLE)
    x = f'{path}/double'
    for op, value in (('Min', 1e6), ('Max', -1e6)):  # an infinity has no bits to split
        yield helper.make_node(op, [x, constants.scalar(value, np.float64)], [f'{path}/{op}'])
        x = f'{path}/{op}'
    yield from round_to_half(x, f'{path}/half', constants)
    x = f'{path}/half'
    for power in (1008, -1008):  # 65536 becomes 2**1024, which is infinite
        factor = constants.scalar(2.0**power, np.float64)
        yield helper.make_node('Mul', [x, factor], [f'{path}/{power}'])
        x = f'{path}/{power}'
    yield helper.make_node('Cast', [x], [name], to=TensorProto.FLOAT16)
