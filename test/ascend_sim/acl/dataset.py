"""acl.mdl: datasets, gears, and running a model on them."""

from dataclasses import dataclass, field
import math
from typing import Any

import numpy as np

from acl import codes
from acl.errors import Failure, Violation
from acl.library import DataBuffer
from acl.memory import Allocation
from acl.model import Model, size_of
from acl.plan import Gear
from acl.process import call, current
from acl.streams import stream_of


@dataclass(eq=False)
class Dataset:
    """The data buffers of all inputs, or of all outputs."""

    buffers: list[int] = field(default_factory=list)


@dataclass
class Work:
    """One execution: addresses checked and translated."""

    model: Model
    gear: Gear
    inputs: list[int]
    outputs: list[int]
    reads: list[Allocation]
    writes: list[Allocation]

    def run(self) -> None:
        self.model.run(self.gear, self.inputs, self.outputs)


@call('', None, bare=0)
def create_dataset() -> int:
    return current().handles.add(Dataset())


@call('k')
def destroy_dataset(handle: int) -> None:
    if not handle:
        raise Failure(codes.INVALID_PARAM, 'the dataset is null')
    current().handles.remove(handle, Dataset, 'destroy_dataset')


@call('kk', (0,))
def add_dataset_buffer(handle: int, buffer: int) -> int:
    if not handle or not buffer:
        raise Failure(codes.INVALID_PARAM, 'the dataset or the data buffer is null')
    handles = current().handles
    handles.get(buffer, DataBuffer, 'add_dataset_buffer')
    handles.get(handle, Dataset, 'add_dataset_buffer').buffers.append(buffer)
    return handle


@call('kk', None, bare=0)
def get_dataset_buffer(handle: int, index: int) -> int:
    buffers = current().handles.get(handle, Dataset, 'get_dataset_buffer').buffers
    return buffers[index] if index < len(buffers) else 0


@call('k', None, bare=0)
def get_dataset_num_buffers(handle: int) -> int:
    return len(current().handles.get(handle, Dataset, 'get_dataset_num_buffers').buffers)


@call('Ikk', needs='context')
def execute(model_id: int, inputs: int, outputs: int) -> None:
    process = current()
    work = _prepare(model_id, inputs, outputs)
    try:
        work.run()
    except Failure as failure:
        process.lose(process.context(), failure.code)
        raise


@call('Ikkk', needs='context')
def execute_async(model_id: int, inputs: int, outputs: int, stream: int) -> None:
    process = current()
    order = stream_of(stream, 'execute_async')
    users = {user for made in process.memory.live() for user in made.used_by}
    for user in users:
        if f'(model {model_id},' in user and not user.startswith(f'{order.name} '):
            raise Violation(f'model {model_id} still runs on {user}')
    work = _prepare(model_id, inputs, outputs, order.name)
    order.submit(work.run, work.reads, work.writes, f'model {model_id}')


@call('IkkO')
def set_input_dynamic_dims(model_id: int, inputs: int, index: int, dims: Any) -> None:
    count, values = _read_dims(dims)
    model, buffer = _gear_buffer(model_id, inputs, index)
    gear = next((gear for gear in model.plan.gears
                 if values == [dim for shape in gear.inputs for dim in shape]), None)
    if gear is None or count != len(values):
        raise Failure(codes.GE_DYNAMIC_BATCH_SIZE, f'{values} is no compiled gear of model '
                      f'{model_id}: the shapes of all inputs, one after another, of '
                      f'{[gear.inputs for gear in model.plan.gears]}')
    _set_gear(model, buffer, gear)


@call('Ikkk')
def set_dynamic_batch_size(model_id: int, inputs: int, index: int, batch: int) -> None:
    if batch == 0:
        raise Failure(codes.INVALID_PARAM, 'the batch is 0')
    model, buffer = _gear_buffer(model_id, inputs, index)
    gear = next((gear for gear in model.plan.gears if gear.values == (batch,)), None)
    if model.plan.kind != 'batch' or gear is None:
        raise Failure(codes.GE_DYNAMIC_BATCH_SIZE, f'{batch} is no compiled batch')
    _set_gear(model, buffer, gear)


def find_model(number: int) -> Model:
    """Return a loaded model; raises Failure for another context than its own."""
    process = current()
    model = process.models.get(number)
    if model is None:
        raise Failure(codes.GE_MODEL_ID_INVALID, f'no model {number} is loaded')
    if model.context is not process.context():
        raise Failure(codes.RT_MODEL_CONTEXT, f'model {number} was loaded in another context')
    return model


def _read_dims(dims: Any) -> tuple[int, list[int]]:
    """Return dimCount and dims of a dict; as strict as the real binding."""
    if not isinstance(dims, dict):
        raise TypeError(f'a dict is wanted, not {type(dims).__name__}')
    count, values = dims.get('dimCount'), dims.get('dims')
    if not isinstance(values, list) or not all(isinstance(dim, int) for dim in values):
        raise TypeError('dims must be a list of int')
    if not isinstance(count, int):
        raise TypeError('dimCount must be an int')
    if len(values) > codes.MAX_DIMS:
        raise Failure(codes.INVALID_PARAM, f'more than {codes.MAX_DIMS} dims')
    return count, values


def _gear_buffer(model_id: int, inputs: int, index: int) -> tuple[Model, DataBuffer]:
    process = current()
    if not inputs:
        raise Failure(codes.INVALID_PARAM, 'the dataset is null')
    model = find_model(model_id)
    if model.plan.kind == 'static':
        raise Failure(codes.MODEL_NOT_DYNAMIC, f'model {model_id} has no gears')
    dataset = process.handles.get(inputs, Dataset, 'set_input_dynamic_dims')
    if index != len(model.inputs) - 1 or index >= len(dataset.buffers):
        raise Failure(codes.GE_DYNAMIC_INPUT_ADDR, f'input {index} does not take the gear')
    buffer = process.handles.get(dataset.buffers[index], DataBuffer, 'set_input_dynamic_dims')
    if not buffer.address:
        raise Failure(codes.GE_DYNAMIC_INPUT_ADDR, 'the buffer of the gear is null')
    if buffer.size < 4 * len(model.plan.gears[0].values):
        raise Failure(codes.GE_DYNAMIC_INPUT_LENGTH, f'{buffer.size} bytes do not hold a gear')
    return model, buffer


def _gear_type(model: Model, buffer: DataBuffer) -> str:
    return 'int64' if buffer.size >= 8 * len(model.plan.gears[0].values) else 'int32'


def _set_gear(model: Model, buffer: DataBuffer, gear: Gear) -> None:
    """Write the gear into the buffer from which the model reads it."""
    process = current()
    values = np.array(gear.values, _gear_type(model, buffer))
    place, kind = process.memory.bytes_at(buffer.address, values.nbytes, use='gear', writes=True)
    if kind != 'device':
        raise Violation(f'the gear goes into device memory, not {buffer.address:#x}')
    process.memory.view(place, values.shape, values.dtype)[:] = values
    process.moved['h2d'] += values.nbytes
    model.gear = gear


def _chosen_gear(model: Model, addresses: list[int], buffers: list[DataBuffer]) -> Gear:
    """Return the gear in the buffer; the largest one if none was set."""
    if model.plan.kind == 'static' or model.gear is None:
        return model.plan.largest
    count = len(model.plan.gears[0].values)
    values = current().memory.view(addresses[-1], (count,), _gear_type(model, buffers[-1]))
    for gear in model.plan.gears:
        if gear.values == tuple(values.tolist()):
            return gear
    raise Failure(codes.GE_DYNAMIC_BATCH_SIZE, f'{values.tolist()} is no compiled gear')


def _prepare(model_id: int, inputs: int, outputs: int, stream: str = '') -> Work:
    """Check everything that an execution needs; return its work."""
    process = current()
    model = find_model(model_id)
    if not inputs or not outputs:
        raise Failure(codes.INVALID_PARAM, 'a dataset is null')
    buffers = [_buffers(handle, 'execute') for handle in (inputs, outputs)]
    if len(buffers[0]) < len(model.inputs) or len(buffers[1]) < len(model.outputs):
        raise Failure(codes.INVALID_PARAM, f'{len(buffers[0])} inputs and {len(buffers[1])} '
                      f'outputs; model {model_id} has {len(model.inputs)} and '
                      f'{len(model.outputs)}')
    if len(buffers[0]) > len(model.inputs) or len(buffers[1]) > len(model.outputs):
        raise Failure(codes.INPUT_NOT_MATCH, f'model {model_id} has {len(model.inputs)} inputs '
                      f'and {len(model.outputs)} outputs')
    for index, buffer in enumerate(buffers[1]):
        if not buffer.address and not buffer.size:
            buffer.size = model.output_size(index)
            buffer.address = process.memory.allocate(buffer.size, 'device').address
    sizes = [[model.input_size(index) for index in range(len(model.inputs))],
             [model.output_size(index) for index in range(len(model.outputs))]]
    places = [[_place(buffer, size, f'{word} {index} of model {model_id}', writes, stream)
               for index, (buffer, size) in enumerate(zip(*both, strict=True))]
              for word, writes, both in (('input', False, (buffers[0], sizes[0])),
                                         ('output', True, (buffers[1], sizes[1])))]
    _refuse_overlap(places[0], sizes[0], places[1], sizes[1])
    gear = _chosen_gear(model, places[0], buffers[0])
    if process.settings.watch and process.is_rc:
        _watch(model, places[0], gear)
    reads, writes = ([made for buffer in side for made in [process.memory.find(buffer.address)]
                      if made] for side in buffers)
    return Work(model, gear, places[0], places[1], reads, writes)


def _buffers(handle: int, use: str) -> list[DataBuffer]:
    handles = current().handles
    found = [handles.get(buffer, DataBuffer, use)
             for buffer in handles.get(handle, Dataset, use).buffers]
    return found


def _place(buffer: DataBuffer, size: int, what: str, writes: bool, stream: str) -> int:
    if not buffer.address:
        raise Failure(codes.INVALID_PARAM, f'the buffer of {what} is null')
    if buffer.size < size:
        raise Failure(codes.OUTPUT_NOT_MATCH if writes else codes.INPUT_NOT_MATCH,
                      f'the buffer of {what} has {buffer.size} bytes; {size} are needed')
    place, kind = current().memory.bytes_at(buffer.address, size, use=what, writes=writes,
                                            stream=stream)
    if kind == 'pageable' or kind == 'host' and not current().is_rc:
        raise Violation(f'{what} is at {buffer.address:#x}, which is not device memory')
    return place


def _refuse_overlap(inputs: list[int], input_sizes: list[int], outputs: list[int],
                    output_sizes: list[int]) -> None:
    for start, size in zip(inputs, input_sizes, strict=True):
        for place, length in zip(outputs, output_sizes, strict=True):
            if start < place + length and place < start + size:
                raise Violation('an input and an output share memory')


def _watch(model: Model, places: list[int], gear: Gear) -> None:
    """Count the bytes, in lines of 64, that changed in the inputs since the last execution."""
    process = current()
    seen = process.watched.setdefault(model.number, {})
    for port, shape, place in zip(model.inputs, model.input_shapes(gear), places, strict=True):
        size = size_of(shape, port.dtype)
        now = process.memory.view(place, (size,), np.uint8)
        before = seen.get((place, size))
        if before is not None:
            lines = math.ceil(size / 64)
            changed = np.zeros(lines * 64, bool)
            changed[:size] = now != before
            rows = changed.reshape(lines, 64).any(1)
            count = int(rows.sum()) * 64
            process.moved['written'] += min(count, size)
        seen[place, size] = now.copy()
