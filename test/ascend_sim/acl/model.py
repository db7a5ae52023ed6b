"""A loaded model: an ONNX Runtime session behind what acl.mdl shows of it."""

from collections.abc import Callable
import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
import onnx
import onnxruntime as ort

from acl import codes, container
from acl.errors import Failure
from acl.graphs import GraphError
from acl.half import round_everything
from acl.plan import Gear, GEAR_INPUT, make_plan, Plan, Port
from acl.process import Context, Process
from acl.rewrite import embed_small_constants, rewrite


@dataclass
class Source:
    """A plan, and how to make the session for it."""

    plan: Plan
    open: Callable[[], ort.InferenceSession]


class Model:
    """One loaded model and the device memory that it takes."""

    def __init__(self, process: Process, number: int, context: Context, source: Source,
                 own_memory: int) -> None:
        self.number = number
        self.context = context
        self.plan = source.plan
        self.gear: Gear | None = None
        self._process = process
        self._charge = own_memory
        try:
            process.memory.charge(own_memory, 'a model')
        except Failure as failure:
            raise Failure(codes.GE_DEVICE_MEMORY, str(failure)) from None
        try:
            self._session: ort.InferenceSession | None = source.open()
        except Failure:
            process.memory.charge(-own_memory, '')
            raise
        self.inputs = list(self.plan.inputs)
        if self.plan.kind != 'static':
            self.inputs.append(Port(GEAR_INPUT, 'int32', (len(self.plan.gears[0].values),)))
        self.outputs = list(self.plan.outputs)

    def input_shapes(self, gear: Gear) -> list[tuple[int, ...]]:
        """Return the shapes of all inputs, that for the gear too."""
        extra = [port.shape for port in self.inputs[len(self.plan.inputs):]]
        return [*gear.inputs, *extra]

    def input_size(self, index: int) -> int:
        """Return the bytes of an input in the largest gear."""
        return size_of(self.input_shapes(self.plan.largest)[index], self.inputs[index].dtype)

    def output_size(self, index: int) -> int:
        """Return the bytes of an output in the largest gear."""
        return size_of(self.plan.largest.outputs[index], self.outputs[index].dtype)

    def run(self, gear: Gear, inputs: list[int], outputs: list[int]) -> None:
        """Compute; the addresses are those where the bytes really live."""
        assert self._session is not None, 'the model is unloaded'
        binding = self._session.io_binding()
        view = self._process.memory.view
        kept = []
        for port, shape, address in zip(self.plan.inputs, gear.inputs, inputs, strict=False):
            value = _ort_value(view(address, shape, port.dtype))
            binding.bind_ortvalue_input(port.name, value)
            kept.append(value)
        for port, shape, address in zip(self.outputs, gear.outputs, outputs, strict=True):
            value = _ort_value(view(address, shape, port.dtype))
            binding.bind_ortvalue_output(port.name, value)
            kept.append(value)
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's errors share no base class but this
            raise Failure(codes.MODEL_EXECUTE, str(error)) from None

    def close(self) -> None:
        """Free the session and what it took of the device's memory."""
        self._session = None
        self._process.memory.charge(-self._charge, '')
        self._charge = 0


def size_of(shape: tuple[int, ...], dtype: str) -> int:
    """Return bytes."""
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize


def from_file(process: Process, path: Path) -> Source:
    """Return the source of an .om or, in its place, an .onnx."""
    try:
        file = open(path, 'rb')
    except OSError as error:
        raise Failure(codes.GE_MODEL_PATH_INVALID, str(error)) from None
    with file:
        size = path.stat().st_size
        if not container.is_container(file.read(16)):
            return _from_onnx(process, path.read_bytes(), path.parent)

        def fetch(start: int, length: int) -> bytes:
            file.seek(start)
            return file.read(length)
        content = container.read(fetch, size)
    _check_soc(process, content.plan)
    if process.settings.half:
        round_everything(content.model)
    graph = content.weights_in(path.name)
    return Source(content.plan, lambda: _session(graph, path.parent))


def from_memory(process: Process, place: int, size: int) -> Source:
    """Return the source of the same in memory; the caller may free that after the load."""
    if not container.is_container(ctypes.string_at(place, min(size, 16))):
        return _from_onnx(process, ctypes.string_at(place, size), mapped_folder(place))
    content = container.read(lambda start, length: ctypes.string_at(place + start, length), size)
    _check_soc(process, content.plan)
    if process.settings.half:
        round_everything(content.model)

    def open_session() -> ort.InferenceSession:
        weights = {}
        for tensor in content.model.graph.initializer:
            found = {entry.key: entry.value for entry in tensor.external_data}
            if found:
                weights[tensor.name] = np.frombuffer(ctypes.string_at(
                    place + int(found['offset']), int(found['length'])),
                    onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).reshape(tensor.dims)
        return _session(content.weights_in('weights'), Path(), weights)
    return Source(content.plan, open_session)


def mapped_folder(place: int) -> Path:
    """Return the folder of the file that is mapped at an address, where a file is."""
    with open('/proc/self/maps', encoding='utf-8', errors='replace') as maps:
        for line in maps:
            area, _, rest = line.partition(' ')
            start, _, end = area.partition('-')
            if int(start, 16) <= place < int(end, 16):
                path = rest.split(maxsplit=4)[4:]
                return Path(path[0].strip()).parent if path else Path()
    return Path()


def _from_onnx(process: Process, data: bytes, folder: Path) -> Source:
    try:
        model = onnx.ModelProto.FromString(data)
        if not model.graph.node:
            raise GraphError('it has no nodes')
    except Exception as error:  # protobuf's errors, by implementation
        raise Failure(codes.PARSE_MODEL,
                      f'this is neither an offline model nor an ONNX graph: {error}') from None
    try:
        embed_small_constants(model, folder)
        rewrite(model)
        plan = make_plan(model, parse_shapes(process.settings.shapes))
    except (GraphError, OSError) as error:
        raise Failure(codes.PARSE_MODEL, str(error)) from None
    if process.settings.half:
        round_everything(model)
    graph = model.SerializeToString()
    return Source(plan, lambda: _session(graph, folder))


def parse_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes that `a:1,1;b:1,1025` gives; raises ValueError for another form."""
    shapes = {}
    for part in filter(None, text.split(';')):
        name, found, dims = part.rpartition(':')
        if not found:
            raise ValueError(part)
        shapes[name] = tuple(int(dim) for dim in dims.split(',') if dim.strip())
    return shapes


def _check_soc(process: Process, plan: Plan) -> None:
    if plan.soc_version != process.settings.soc:
        raise Failure(codes.PARSE_MODEL, f'the model was compiled for {plan.soc_version}, '
                      f'this device is {process.settings.soc}')


def _ort_value(array: NDArray[Any]) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(array)


def _session(graph: bytes, folder: Path, weights: dict[str, NDArray[Any]] | None = None
             ) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry('session.model_external_initializers_file_folder_path',
                                     str(folder.resolve()))
    options.add_session_config_entry('session.x64quantprecision', _exact())
    if weights:
        options.add_external_initializers(list(weights), [
            ort.OrtValue.ortvalue_from_numpy(array) for array in weights.values()])
    try:
        session = ort.InferenceSession(graph, options, providers=['CPUExecutionProvider'])
    except Exception as error:  # see run
        raise Failure(codes.GE_LOAD_MODEL, str(error)) from None
    session.weights = weights  # ONNX Runtime may go on using their memory
    return session


def _exact() -> str:
    """Ask x86 without VNNI for products that do not saturate."""
    try:
        flags = Path('/proc/cpuinfo').read_text(encoding='ascii', errors='replace')
    except OSError:
        return '1'
    return '0' if '_vnni' in flags else '1'
