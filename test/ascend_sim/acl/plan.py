"""What is known of a model before it runs: its inputs, outputs, gears and sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from acl import codes
from acl.graphs import GraphError, SMALL

GEAR_INPUT = 'ascend_mbatch_shape_data'


@dataclass(frozen=True)
class Port:
    """An input or an output; -1 in the shape is for the gears to fix."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Gear:
    """The shapes of all inputs and outputs for one choice of the dynamic dims."""

    values: tuple[int, ...]
    inputs: tuple[tuple[int, ...], ...]
    outputs: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Plan:
    """Everything that acl.mdl tells of a model."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    gears: tuple[Gear, ...]
    kind: str
    """'static' (one gear), 'dims' or 'batch'."""
    weight_size: int
    work_size: int
    soc_version: str = ''
    precision_mode: str = ''
    input_format: str = 'ND'
    """'NCHW' or 'ND': what --input_format was."""

    @property
    def largest(self) -> Gear:
        return max(self.gears, key=lambda gear: sum(
            int(np.prod(shape)) for shape in (*gear.inputs, *gear.outputs)))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> 'Plan':
        """Return what to_json wrote; raises KeyError or TypeError if it is not valid."""
        values = dict(data)
        for kind in ('inputs', 'outputs'):
            values[kind] = tuple(Port(port['name'], port['dtype'], tuple(port['shape']))
                                 for port in data[kind])
        values['gears'] = tuple(
            Gear(tuple(gear['values']), tuple(map(tuple, gear['inputs'])),
                 tuple(map(tuple, gear['outputs']))) for gear in data['gears'])
        return cls(**values)


def numpy_type(element: int) -> np.dtype[Any]:
    """Return numpy's type; raises GraphError where ACL has none."""
    try:
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(element))
    except (KeyError, TypeError):
        dtype = np.dtype(object)
    if dtype not in codes.DATA_TYPE_OF:
        raise GraphError(f'tensors of type {element} have no aclDataType here')
    return dtype


def real_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that are no weights."""
    weights = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in weights]


def shape_of(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Return a declared shape, -1 for what is not fixed."""
    return tuple(dim.dim_value if dim.HasField('dim_value') else -1
                 for dim in value.type.tensor_type.shape.dim)


def make_plan(model: onnx.ModelProto, shapes: Mapping[str, Sequence[int]] | None = None,
              gears: Sequence[Sequence[int]] = (), kind: str = 'static', **about: str) -> Plan:
    """
    Return the plan of a rewritten graph.

    :param shapes: shapes for inputs, in place of the declared ones; -1 for what gears fix.
    :param gears: values for all -1, in order of the inputs.
    """
    bare = _without_weights(model)
    inputs = [Port(value.name, numpy_type(value.type.tensor_type.elem_type).name,
                   tuple((shapes or {}).get(value.name, shape_of(value))))
              for value in real_inputs(model.graph)]
    made, works, types = [], [], []
    for values in gears or [()]:
        filled = _fill(inputs, values)
        outputs, types, work = _infer(bare, dict(zip((port.name for port in inputs), filled,
                                                     strict=True)))
        made.append(Gear(tuple(values), tuple(filled), tuple(outputs)))
        works.append(work)
    largest = made[0].outputs if len(made) == 1 else max(
        made, key=lambda gear: sum(map(np.prod, gear.inputs))).outputs
    outputs_of = [Port(value.name, dtype, shape) for value, dtype, shape in zip(
        model.graph.output, types, largest, strict=True)]
    return Plan(tuple(inputs), tuple(outputs_of), tuple(made), kind,
                sum(map(tensor_size, model.graph.initializer)), max(works), **about)


def tensor_size(tensor: onnx.TensorProto) -> int:
    """Return the bytes of a weight."""
    return int(np.prod(tensor.dims, dtype=np.int64)) * max(
        1, helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def _fill(inputs: Sequence[Port], values: Sequence[int]) -> list[tuple[int, ...]]:
    """Return the shapes of the inputs with every -1 replaced."""
    rest = iter(values)
    filled = []
    for port in inputs:
        shape = tuple(next(rest, -1) if dim == -1 else dim for dim in port.shape)
        if -1 in shape:
            raise GraphError(f'input {port.name} has the shape {list(port.shape)}: every dim '
                             'must be fixed, by --input_shape or by gears')
        filled.append(shape)
    return filled


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy whose large constants are mere declarations."""
    bare = onnx.ModelProto()
    bare.ir_version = model.ir_version
    bare.opset_import.extend(model.opset_import)
    graph = bare.graph
    graph.name = model.graph.name or 'graph'
    graph.node.extend(model.graph.node)
    graph.input.extend(real_inputs(model.graph))
    graph.output.extend(model.graph.output)
    for tensor in model.graph.initializer:
        is_external = tensor.data_location == onnx.TensorProto.EXTERNAL
        if tensor_size(tensor) <= SMALL and not is_external:
            graph.initializer.append(tensor)
        else:
            graph.input.append(helper.make_tensor_value_info(
                tensor.name, tensor.data_type, list(tensor.dims)))
    return bare


def _infer(bare: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]
           ) -> tuple[list[tuple[int, ...]], list[str], int]:
    """Return shapes and types of the outputs, and the most that is alive between nodes (bytes)."""
    model = onnx.ModelProto()
    model.CopyFrom(bare)
    for value in model.graph.input:
        if value.name in shapes:
            value.CopyFrom(helper.make_tensor_value_info(
                value.name, value.type.tensor_type.elem_type, shapes[value.name]))
    for value in model.graph.output:
        value.type.tensor_type.ClearField('shape')
    try:
        graph = onnx.shape_inference.infer_shapes(model, data_prop=True, strict_mode=False).graph
    except Exception as error:  # onnx raises errors of several unrelated types
        raise GraphError(f'shapes do not fit together: {error}') from None
    outputs = []
    for value in graph.output:
        shape = shape_of(value)
        if not value.type.tensor_type.HasField('shape') or -1 in shape:
            raise GraphError(f'the shape of output {value.name} does not follow from the inputs')
        outputs.append(shape)
    types = [numpy_type(value.type.tensor_type.elem_type).name for value in graph.output]
    return outputs, types, _peak(graph)


def _peak(graph: onnx.GraphProto) -> int:
    sizes = {value.name: int(np.prod(shape_of(value), dtype=np.int64))
             * helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).itemsize
             for value in graph.value_info
             if value.type.tensor_type.elem_type and -1 not in shape_of(value)}
    last = {name: number for number, node in enumerate(graph.node) for name in node.input}
    ends: dict[int, int] = {}
    alive = peak = 0
    for number, node in enumerate(graph.node):
        for name in node.output:
            size = sizes.get(name, 0)
            alive += size
            end = last.get(name, number)
            ends[end] = ends.get(end, 0) + size
        peak = max(peak, alive)
        alive -= ends.get(number, 0)
    return peak
