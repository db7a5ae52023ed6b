"""acl.mdl: loading and unloading; the rest of the area is gathered here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from acl import codes
from acl.dataset import (
    add_dataset_buffer,
    create_dataset,
    destroy_dataset,
    execute,
    execute_async,
    find_model,
    get_dataset_buffer,
    get_dataset_num_buffers,
    set_dynamic_batch_size,
    set_input_dynamic_dims,
)
from acl.description import (
    create_desc,
    destroy_desc,
    get_cur_output_dims,
    get_desc,
    get_dynamic_batch,
    get_input_data_type,
    get_input_dims,
    get_input_dims_v2,
    get_input_dynamic_dims,
    get_input_dynamic_gear_count,
    get_input_format,
    get_input_index_by_name,
    get_input_name_by_index,
    get_input_size_by_index,
    get_num_inputs,
    get_num_outputs,
    get_output_data_type,
    get_output_dims,
    get_output_format,
    get_output_index_by_name,
    get_output_name_by_index,
    get_output_size_by_index,
    get_tensor_real_name,
)
from acl.errors import Failure, Violation
from acl.model import from_file, from_memory, Model, Source
from acl.process import call, current

__all__ = [
    'add_dataset_buffer', 'create_config_handle', 'create_dataset', 'create_desc',
    'destroy_config_handle', 'destroy_dataset', 'destroy_desc', 'execute', 'execute_async',
    'get_cur_output_dims', 'get_dataset_buffer', 'get_dataset_num_buffers', 'get_desc',
    'get_dynamic_batch', 'get_input_data_type', 'get_input_dims', 'get_input_dims_v2',
    'get_input_dynamic_dims', 'get_input_dynamic_gear_count', 'get_input_format',
    'get_input_index_by_name', 'get_input_name_by_index', 'get_input_size_by_index',
    'get_num_inputs', 'get_num_outputs', 'get_output_data_type', 'get_output_dims',
    'get_output_format', 'get_output_index_by_name', 'get_output_name_by_index',
    'get_output_size_by_index', 'get_tensor_real_name', 'load_from_file',
    'load_from_file_with_mem', 'load_from_mem', 'load_from_mem_with_mem', 'load_with_config',
    'query_size', 'query_size_from_mem', 'set_config_opt', 'set_dynamic_batch_size',
    'set_input_dynamic_dims', 'unload',
]


@dataclass(eq=False)
class LoadConfig:
    """What set_config_opt was told."""

    options: dict[int, Any] = field(default_factory=dict)


_OPTIONS = {0: int, 1: int, 2: str, 3: int, 4: int, 5: int, 6: int, 7: int, 8: int}
_LOAD_TYPE, _PATH, _ADDRESS, _SIZE, _WEIGHTS, _WEIGHTS_SIZE, _WORK, _WORK_SIZE = range(1, 9)


@call('s', (0,), needs='context')
def load_from_file(path: str) -> int:
    return _load(from_file(current(), Path(path)))


@call('kk', (0,), needs='context')
def load_from_mem(address: int, size: int) -> int:
    return _load(_in_memory(address, size))


@call('skkkk', (0,), needs='context')
def load_from_file_with_mem(path: str, work: int, work_size: int, weights: int, weights_size: int
                            ) -> int:
    return _load(from_file(current(), Path(path)), (work, work_size), (weights, weights_size))


@call('kkkkkk', (0,), needs='context')
def load_from_mem_with_mem(address: int, size: int, work: int, work_size: int, weights: int,
                           weights_size: int) -> int:
    return _load(_in_memory(address, size), (work, work_size), (weights, weights_size))


@call('s', (0, 0))
def query_size(path: str) -> tuple[int, int]:
    plan = from_file(current(), Path(path)).plan
    return plan.work_size, plan.weight_size


@call('kk', (0, 0))
def query_size_from_mem(address: int, size: int) -> tuple[int, int]:
    plan = _in_memory(address, size).plan
    return plan.work_size, plan.weight_size


@call('', None, bare=0)
def create_config_handle() -> int:
    return current().handles.add(LoadConfig())


@call('k')
def destroy_config_handle(handle: int) -> None:
    if not handle:
        raise Failure(codes.INVALID_PARAM, 'the handle is null')
    current().handles.remove(handle, LoadConfig, 'destroy_config_handle')


@call('kiO')
def set_config_opt(handle: int, option: int, value: Any) -> None:
    config = current().handles.get(handle, LoadConfig, 'set_config_opt')
    if option not in _OPTIONS:
        raise Failure(codes.INVALID_PARAM, f'there is no load option {option} here')
    if not isinstance(value, _OPTIONS[option]):
        raise TypeError(f'option {option} wants {_OPTIONS[option].__name__}, '
                        f'not {type(value).__name__}')
    config.options[option] = value


@call('k', (0,), needs='context')
def load_with_config(handle: int) -> int:
    options = current().handles.get(handle, LoadConfig, 'load_with_config').options
    load_type = options.get(_LOAD_TYPE)
    if load_type not in (1, 2, 3, 4):
        raise Failure(codes.INVALID_PARAM, f'load type {load_type} is not modelled')
    needed = [_PATH] if load_type < 3 else [_ADDRESS, _SIZE]
    if load_type in (2, 4):
        needed += [_WEIGHTS, _WEIGHTS_SIZE, _WORK, _WORK_SIZE]
    for option in needed:
        if option not in options:
            raise Failure(codes.INVALID_PARAM, f'load type {load_type} needs option {option}')
    source = (from_file(current(), Path(options[_PATH])) if load_type < 3
              else _in_memory(options[_ADDRESS], options[_SIZE]))
    if load_type in (1, 3):
        return _load(source)
    return _load(source, (options[_WORK], options[_WORK_SIZE]),
                 (options[_WEIGHTS], options[_WEIGHTS_SIZE]))


@call('I', needs='thread')
def unload(model_id: int) -> None:
    process = current()
    model = find_model(model_id)
    users = [user for made in process.memory.live() for user in made.used_by]
    if any(f'(model {model_id},' in user for user in users):
        raise Violation(f'model {model_id} unloaded while it runs; synchronize first')
    for made in process.memory.live():
        made.used_by.pop(_owner(model), None)
    model.close()
    del process.models[model_id]


def _load(source: Source, work: tuple[int, int] = (0, 0), weights: tuple[int, int] = (0, 0)
          ) -> int:
    process = current()
    lent, own = [], 0
    for (address, size), needed, what in ((work, source.plan.work_size, 'work'),
                                          (weights, source.plan.weight_size, 'weight')):
        if not address:
            own += needed
            continue
        if size < needed:
            raise Failure(codes.GE_PARAM_INVALID,
                          f'{size} bytes of {what} memory; {needed} are needed')
        _, kind = process.memory.bytes_at(address, size, use=f'{what} memory', writes=False)
        if kind != 'device' and not (kind == 'host' and process.is_rc):
            raise Violation(f'{what} memory {address:#x} is not device memory')
        lent.append(process.memory.find(address))
    model = Model(process, process.model_count + 1, process.context(), source, own)
    process.model_count += 1
    process.models[model.number] = model
    for made in lent:
        made.used_by[_owner(model)] = False
    return model.number


def _owner(model: Model) -> str:
    return f'loaded model {model.number}'


def _in_memory(address: int, size: int) -> Source:
    process = current()
    if not address or not size:
        raise Failure(codes.INVALID_PARAM, 'no address or no size')
    place, kind = process.memory.bytes_at(address, size, use='load_from_mem', writes=False)
    if kind == 'device' and not process.is_rc:
        raise Violation('load_from_mem of device memory: in EP form it wants host memory')
    return from_memory(process, place, size)
