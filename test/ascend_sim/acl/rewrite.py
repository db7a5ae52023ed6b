"""
Turns a graph for ATC into one that ONNX Runtime computes alike on a CPU.

AscendQuant becomes standard operators: to fp16, times the scale, plus the offset, to the nearest
whole number with ties to even, limited to int8. MatMulInteger of int8 by int8, which ONNX Runtime
computes tens of times slower, becomes uint8 by int8 with zero point 128: the same numbers exactly.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto

from acl.graphs import attribute, Constants, element_types, GraphError, replace_nodes, SMALL
from acl.half import round_to_half

_ROUNDING = {'Round': 'Round', 'Floor': 'Floor', 'Ceil': 'Ceil', 'Trunc': ''}


def rewrite(model: onnx.ModelProto) -> None:
    """Change a graph in place; weights may be in other files."""
    nodes = list(model.graph.node)
    if any(node.op_type == 'AscendQuant' for node in nodes):
        constants = Constants(model.graph)
        replace_nodes(model.graph, (part for node in nodes for part in (
            _quantize(node, constants) if node.op_type == 'AscendQuant' else [node])))
    if any(node.op_type == 'MatMulInteger' for node in nodes):
        _shift_integer_products(model)


def embed_small_constants(model: onnx.ModelProto, folder: Path) -> None:
    """Take small constants from other files into the graph, where shapes may depend on them."""
    for tensor in model.graph.initializer:
        found = {entry.key: entry.value for entry in tensor.external_data}
        length = int(found.get('length', SMALL + 1))
        if found and length <= SMALL:  # onnx's own reader refuses files that are links
            with open(folder / found['location'], 'rb') as weights:
                weights.seek(int(found.get('offset', 0)))
                tensor.raw_data = weights.read(length)
            if len(tensor.raw_data) != length:
                raise GraphError(f'{tensor.name} is cut short')
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]


def _quantize(node: onnx.NodeProto, constants: Constants) -> Iterable[onnx.NodeProto]:
    """Yield standard nodes for one AscendQuant."""
    scale = float(attribute(node, 'scale', 0.0))  # type: ignore[arg-type]
    offset = float(attribute(node, 'offset', 0.0))  # type: ignore[arg-type]
    if attribute(node, 'sqrt_mode', 0):
        scale *= scale
    dst_type = attribute(node, 'dst_type', 'INT8')
    rounding = attribute(node, 'round_mode', 'Round')
    if dst_type != 'INT8' or rounding not in _ROUNDING:
        raise GraphError(f'{node.name}: AscendQuant to {dst_type} by {rounding} is not modelled')
    path, x = node.output[0], node.input[0]
    yield helper.make_node('Cast', [x], [f'{path}/wide'], to=TensorProto.DOUBLE)
    x = f'{path}/wide'
    yield from round_to_half(x, f'{path}/half', constants)
    x = f'{path}/half'
    for op, value, neutral in (('Mul', scale, 1.0), ('Add', offset, 0.0)):
        if value != neutral:
            operand = constants.scalar(float(np.float16(value)), np.float64)
            yield helper.make_node(op, [x, operand], [f'{path}/{op}'])
            yield from round_to_half(f'{path}/{op}', f'{path}/{op}/half', constants)
            x = f'{path}/{op}/half'
    yield helper.make_node('Cast', [x], [f'{path}/float'], to=TensorProto.FLOAT)
    x = f'{path}/float'
    if _ROUNDING[str(rounding)]:
        yield helper.make_node(_ROUNDING[str(rounding)], [x], [f'{path}/whole'])
        x = f'{path}/whole'
    for op, limit in (('Min', 127.0), ('Max', -128.0)):
        yield helper.make_node(op, [x, constants.scalar(limit, np.float32)], [f'{path}/{op}'])
        x = f'{path}/{op}'
    yield helper.make_node('Cast', [x], [path], name=node.name, to=TensorProto.INT8)


def _shift_integer_products(model: onnx.ModelProto) -> None:
    types = element_types(model)
    constants = Constants(model.graph)
    by_output = {node.output[0]: node for node in model.graph.node}
    shifted: dict[str, list[onnx.NodeProto]] = {}
    result: list[onnx.NodeProto] = []
    for node in model.graph.node:
        if node.op_type == 'MatMulInteger' and types.get(node.input[0]) == TensorProto.INT8:
            if len(node.input) > 2:
                raise GraphError(f'{node.name}: MatMulInteger with zero points; they would land '
                                 'on another input of BatchMatMulV2: use exactly two inputs')
            codes = node.input[0]
            if codes not in shifted:
                shifted[codes] = _shift(codes, by_output.get(codes), constants)
                result.extend(shifted[codes])
            product = onnx.NodeProto()
            product.CopyFrom(node)
            product.input[0] = f'{codes}/shifted'
            product.input.append(constants.scalar(128, np.uint8))
            product.input.append(_zero_point(model.graph, node))
            result.append(product)
        else:
            result.append(node)
    replace_nodes(model.graph, result)


def _zero_point(graph: onnx.GraphProto, node: onnx.NodeProto) -> str:
    """
    Return the name of a zero point of the weights, which is the node's own.

    Without one, ONNX Runtime 1.23 aborts on x86 without VNNI; one that several nodes share,
    ONNX Runtime 1.32 refuses there. Both are faults of its Avx2WeightS8ToU8Transformer.
    """
    name = f'sim/{node.output[0]}/weight_zero_point'
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.int8), name))
    return name


def _shift(codes: str, maker: onnx.NodeProto | None, constants: Constants
           ) -> list[onnx.NodeProto]:
    """Return nodes that add 128 to int8 codes, from the float before them where there is one."""
    wide = f'{codes}/int32'
    nodes = [helper.make_node('Cast', [codes], [wide], to=TensorProto.INT32)]
    offset = constants.scalar(128, np.int32)
    if maker is not None and maker.op_type == 'Cast' and maker.input[0] == f'{codes}/Max':
        nodes, wide, offset = [], f'{codes}/Max', constants.scalar(128.0, np.float32)
    return [*nodes, helper.make_node('Add', [wide, offset], [f'{codes}/raised']),
            helper.make_node('Cast', [f'{codes}/raised'], [f'{codes}/shifted'],
                             to=TensorProto.UINT8)]
