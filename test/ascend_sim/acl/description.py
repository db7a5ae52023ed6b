"""acl.mdl: what a model looks like."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from acl import codes
from acl.dataset import find_model
from acl.errors import Failure
from acl.model import Model
from acl.plan import Port
from acl.process import call, current


@dataclass(eq=False)
class Description:
    """What create_desc makes; without a model until get_desc."""

    model: Model | None = None


@call('', None, bare=0)
def create_desc() -> int:
    return current().handles.add(Description())


@call('kI')
def get_desc(handle: int, model_id: int) -> None:
    if not handle:
        raise Failure(codes.INVALID_PARAM, 'the description is null')
    description = current().handles.get(handle, Description, 'get_desc')
    description.model = find_model(model_id)


@call('k')
def destroy_desc(handle: int) -> None:
    if not handle:
        raise Failure(codes.INVALID_PARAM, 'the description is null')
    current().handles.remove(handle, Description, 'destroy_desc')


@call('k', None, bare=0)
def get_num_inputs(handle: int) -> int:
    return len(_model(handle).inputs)


@call('k', None, bare=0)
def get_num_outputs(handle: int) -> int:
    return len(_model(handle).outputs)


@call('kk', None, bare=0)
def get_input_size_by_index(handle: int, index: int) -> int:
    model = _model(handle)
    return model.input_size(index) if index < len(model.inputs) else 0


@call('kk', None, bare=0)
def get_output_size_by_index(handle: int, index: int) -> int:
    model = _model(handle)
    return model.output_size(index) if index < len(model.outputs) else 0


@call('kk', None, bare='')
def get_input_name_by_index(handle: int, index: int) -> str:
    inputs = _model(handle).inputs
    return inputs[index].name if index < len(inputs) else ''


@call('kk', None, bare='')
def get_output_name_by_index(handle: int, index: int) -> str:
    outputs = _model(handle).outputs
    return _output_name(outputs, index) if index < len(outputs) else ''


@call('ks', (0,))
def get_input_index_by_name(handle: int, name: str) -> int:
    return _index([port.name for port in _model(handle).inputs], name)


@call('ks', (0,))
def get_output_index_by_name(handle: int, name: str) -> int:
    outputs = _model(handle).outputs
    return _index([_output_name(outputs, index) for index in range(len(outputs))], name)


@call('kk', ({},))
def get_input_dims(handle: int, index: int) -> dict[str, Any]:
    port = _port(_model(handle).inputs, index)
    return _dims(port.name, port.shape)


@call('kk', ({},))
def get_input_dims_v2(handle: int, index: int) -> dict[str, Any]:
    port = _port(_model(handle).inputs, index)
    return _dims(port.name, port.shape)


@call('kk', ({},))
def get_output_dims(handle: int, index: int) -> dict[str, Any]:
    model = _model(handle)
    _port(model.outputs, index)
    return _dims(_output_name(model.outputs, index), model.plan.largest.outputs[index])


@call('kk', ({},))
def get_cur_output_dims(handle: int, index: int) -> dict[str, Any]:
    model = _model(handle)
    _port(model.outputs, index)
    gear = model.gear or model.plan.largest
    return _dims(_output_name(model.outputs, index), gear.outputs[index])


@call('kk', None, bare=-1)
def get_input_data_type(handle: int, index: int) -> int:
    return _data_type(_model(handle).inputs, index)


@call('kk', None, bare=-1)
def get_output_data_type(handle: int, index: int) -> int:
    return _data_type(_model(handle).outputs, index)


@call('kk', None, bare=-1)
def get_input_format(handle: int, index: int) -> int:
    model = _model(handle)
    return codes.FORMATS[model.plan.input_format] if index < len(model.inputs) else -1


@call('kk', None, bare=-1)
def get_output_format(handle: int, index: int) -> int:
    return codes.FORMATS['ND'] if index < len(_model(handle).outputs) else -1


@call('kL', (0,))
def get_input_dynamic_gear_count(handle: int, index: int) -> int:
    model = _model(handle)
    if index != -1:
        raise Failure(codes.INVALID_PARAM, f'the index is reserved: -1, not {index}')
    return len(model.plan.gears) if model.plan.kind == 'dims' else 0


@call('kLk', (None,))
def get_input_dynamic_dims(handle: int, index: int, count: int) -> list[dict[str, Any]]:
    model = _model(handle)
    gears = model.plan.gears if model.plan.kind == 'dims' else ()
    if index != -1 or count > 4096 or count < len(gears):
        raise Failure(codes.INVALID_PARAM, f'index {index}, {count} gears asked for')
    return [_dims('', tuple(dim for shape in gear.inputs for dim in shape)) for gear in gears]


@call('k', ({},))
def get_dynamic_batch(handle: int) -> dict[str, Any]:
    plan = _model(handle).plan
    batches = [gear.values[0] for gear in plan.gears] if plan.kind == 'batch' else []
    return {'batchCount': len(batches), 'batch': batches}


@call('ks', None, bare='')
def get_tensor_real_name(handle: int, name: str) -> str:
    model = _model(handle)
    names = [port.name for port in model.inputs]
    names += [_output_name(model.outputs, index) for index in range(len(model.outputs))]
    return next((real for real in names if name in (real, _short(real))), '')


def _model(handle: int) -> Model:
    description = current().handles.get(handle, Description, 'a description')
    if description.model is None:
        raise Failure(codes.INVALID_PARAM, 'get_desc has not filled this description')
    return description.model


def _port(ports: list[Port], index: int) -> Port:
    if index >= len(ports):
        raise Failure(codes.INVALID_PARAM, f'index {index}; there are {len(ports)}')
    return ports[index]


def _output_name(outputs: list[Port], index: int) -> str:
    """Return a name in the form producer:index:name, which many releases of CANN use."""
    return f'sim_{index}:0:{outputs[index].name}'


def _short(name: str) -> str:
    """Return the alias of a name that is longer than the interface holds."""
    return name if len(name) < codes.MAX_NAME else f'acl_{name[-100:]}'


def _index(names: list[str], name: str) -> int:
    if name not in names:
        raise Failure(codes.INVALID_PARAM, f'no {name!r} among {names}')
    return names.index(name)


def _dims(name: str, shape: tuple[int, ...]) -> dict[str, Any]:
    return {'name': _short(name), 'dimCount': len(shape), 'dims': list(shape)}


def _data_type(ports: list[Port], index: int) -> int:
    return codes.DATA_TYPE_OF[np.dtype(ports[index].dtype)] if index < len(ports) else -1
