"""Loads a compiled graph (.om) on an Ascend device, and compares its inputs with the manifest."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import islice
import logging
from math import prod
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from tinyllama_ros.artifact.contract import (
    ASCEND_INPUTS,
    ascend_inputs,
    ASCEND_OUTPUTS,
    ascend_outputs,
    CHUNK,
    Dim,
    INPUT_IDS,
    Tensors,
)
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.manifest import OM
from tinyllama_ros.engine.acl.device import Device
from tinyllama_ros.engine.acl.errors import AclError, AclLost, OUT_OF_MEMORY
from tinyllama_ros.engine.mapped_file import MappedFile
from tinyllama_ros.errors import BackendError, model_command

GEARS = 'ascend_mbatch_shape_data'
"""The hidden input that chooses among the shapes that a graph was compiled for."""
DTYPES: Mapping[int, type[np.generic]] = {0: np.float32, 1: np.float16, 3: np.int32, 9: np.int64}
"""Of aclDataType, those that the contract knows."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Tensor:
    """An input or an output, and its memory on the device."""

    address: int
    size: int
    """bytes; for the longest chunk if there are several"""
    dtype: type[np.generic]

    @property
    def item_size(self) -> int:
        """Bytes of one number."""
        return np.dtype(self.dtype).itemsize


class Model:
    """
    A loaded model and the memory of its inputs and outputs, allocated once.

    Outputs are found by index, because their names differ between versions of CANN.
    """

    def __init__(self, device: Device, artifact: Artifact) -> None:
        """
        Load the graph of an artifact.

        :raises BackendError: it cannot be loaded, or it differs from the manifest.
        """
        self._device = device
        self._mdl = device.acl.mdl
        self._path = artifact.om
        self._manifest = artifact.manifest
        with closing(MappedFile.of(artifact, OM)) as om:
            self._id = _load(device, self._path)
            device.on_close('mdl.unload', self._id)
            om.check()
        self._description = device.make('mdl.create_desc')
        device.on_close('mdl.destroy_desc', self._description)
        device.call('mdl.get_desc', self._description, self._id)
        # These calls return no code, so an error would look like a type: they are made once
        self._types = {kind: self._read_types(kind) for kind in ('input', 'output')}
        self._indices = self._find_inputs()
        self._gears = self._find_gears()
        self._check()
        self._chunk = 0
        self.inputs, self._inputs = self._allocate('input', self._indices)
        outputs = {name: index for index, name in enumerate(ASCEND_OUTPUTS)}
        self.outputs, self._outputs = self._allocate('output', outputs)
        self._check_sizes()

    def select(self, chunk: int) -> None:
        """Select the shapes that were compiled for chunks of this length."""
        if self._gears and chunk != self._chunk:
            dims = self._gears[chunk]
            self._device.call('mdl.set_input_dynamic_dims', self._id, self._inputs,
                              self._indices[GEARS],
                              {'name': '', 'dimCount': len(dims), 'dims': dims})
        self._chunk = chunk

    def run(self) -> None:
        """Run the graph and wait for it; other Python threads run meanwhile."""
        self._device.call('mdl.execute_async', self._id, self._inputs, self._outputs,
                          self._device.stream)
        self._device.synchronize()

    def _read_types(self, kind: str) -> list[int]:
        """Return the aclDataType of every input or output."""
        count: int = getattr(self._mdl, f'get_num_{kind}s')(self._description)
        type_of = getattr(self._mdl, f'get_{kind}_data_type')
        return [type_of(self._description, index) for index in range(count)]

    def _find_inputs(self) -> dict[str, int]:
        """Return the index of each input, and that of GEARS if there are several chunk lengths."""
        count, outputs = (len(types) for types in self._types.values())
        indices = {}
        for position, name in enumerate(ASCEND_INPUTS):
            by_name, code = self._mdl.get_input_index_by_name(self._description, name)
            indices[name] = position if code else by_name
        if count == len(ASCEND_INPUTS) + 1:
            indices[GEARS] = self._device.call('mdl.get_input_index_by_name', self._description,
                                               GEARS)
        if sorted(indices.values()) != list(range(count)):
            raise BackendError(f'{self._path} has {count} inputs; the contract has '
                               f'{len(ASCEND_INPUTS)}: {", ".join(ASCEND_INPUTS)}')
        if outputs < len(ASCEND_OUTPUTS):
            raise BackendError(f'{self._path} has {outputs} outputs; the contract has at least '
                               f'{len(ASCEND_OUTPUTS)}: {", ".join(ASCEND_OUTPUTS)}')
        return indices

    def _find_gears(self) -> dict[int, list[int]]:
        """Return, by chunk length, the dimensions of all inputs in one list (ATC's gears)."""
        if GEARS not in self._indices:
            return {}
        count = self._device.call('mdl.get_input_dynamic_gear_count', self._description, -1)
        gears = self._device.call('mdl.get_input_dynamic_dims', self._description, -1, count)
        all_dims = [[int(size) for size in gear['dims']] for gear in gears]
        return {self._split_dims(dims)[INPUT_IDS][-1]: dims for dims in all_dims}

    def _split_dims(self, dims: Sequence[int]) -> dict[str, list[int]]:
        """Split the dimensions of all inputs into the shape of each."""
        expected = self._expected(CHUNK)
        names = sorted(ASCEND_INPUTS, key=self._indices.__getitem__)
        if len(dims) != sum(len(expected[name].shape) for name in names):
            raise BackendError(f'{self._path} was compiled for inputs with the dimensions {dims}; '
                               f'the contract has other ones; compile it again with '
                               f'{model_command()} atc')
        rest = iter(dims)
        return {name: list(islice(rest, len(expected[name].shape))) for name in names}

    def _check(self) -> None:
        """Compare the graph with the manifest."""
        chunks = tuple(sorted(self._gears)) or (self._dims('input', INPUT_IDS)[-1],)
        shapes = ([self._split_dims(dims) for dims in self._gears.values()] or
                  [{name: self._dims('input', name) for name in ASCEND_INPUTS}])
        for kind, names in (('input', ASCEND_INPUTS[-1:]), ('output', ASCEND_OUTPUTS)):
            for name in names:  # for the longest chunk, if there are several
                self._compare(name, self._dims(kind, name), chunks[-1])
        if chunks != self._manifest.chunk_sizes:
            raise self._mismatch('chunk lengths are', _listed(chunks),
                                _listed(self._manifest.chunk_sizes))
        for inputs in shapes:
            for name, dims in inputs.items():
                self._compare(name, dims, inputs[INPUT_IDS][-1])
        for name in (*ASCEND_INPUTS, *ASCEND_OUTPUTS):
            self._check_type(name)

    def _compare(self, name: str, dims: Sequence[int], chunk: int) -> None:
        axes = self._expected(chunk)[name].axes
        if len(dims) != len(axes):
            raise self._mismatch(f'{name} has the shape', list(dims), list(axes.values()))
        for (axis, expected), actual in zip(axes.items(), dims, strict=True):
            if actual != expected:
                raise self._mismatch(f'{name}: {axis} is', actual, expected)

    def _mismatch(self, what: str, actual: object, expected: object) -> BackendError:
        return BackendError(f'{self._path} does not match its manifest: {what} {actual} in the '
                            f'.om, {expected} in the manifest; compile the artifact again '
                            f'({model_command()} atc), or adopt the .om again')

    def _check_type(self, name: str) -> None:
        kind = 'input' if name in ASCEND_INPUTS else 'output'
        code = self._types[kind][self._index(kind, name)]
        allowed = self._expected(CHUNK)[name].dtypes
        if DTYPES.get(code) not in allowed:
            actual = np.dtype(DTYPES[code]).name if code in DTYPES else f'aclDataType {code}'
            raise self._mismatch(f'{name}: type is', actual,
                                ' or '.join(sorted(np.dtype(each).name for each in allowed)))

    def _check_sizes(self) -> None:
        """Refuse memory that is smaller than the shapes need; it may be larger."""
        tensors = self.inputs | self.outputs
        for name, expected in self._expected(self._manifest.chunk_sizes[-1]).items():
            tensor, shape = tensors[name], expected.shape
            if tensor.size < prod(map(int, shape)) * tensor.item_size:
                raise BackendError(f'{self._path}: {name} of the shape {list(shape)} has only '
                                   f'{tensor.size} bytes on the device; compile it again '
                                   f'({model_command()} atc)')

    def _expected(self, chunk: Dim) -> Tensors:
        """Return the inputs and outputs that the manifest describes, for this chunk length."""
        arch = self._manifest.architecture
        return (ascend_inputs(arch, self._manifest.kv_length, chunk)
                | ascend_outputs(arch, chunk))

    def _index(self, kind: str, name: str) -> int:
        return self._indices[name] if kind == 'input' else ASCEND_OUTPUTS.index(name)

    def _dims(self, kind: str, name: str) -> list[int]:
        result: dict[str, Any] = self._device.call(f'mdl.get_{kind}_dims', self._description,
                                                   self._index(kind, name))
        return [int(size) for size in result['dims']]

    def _allocate(self, kind: str, indices: Mapping[str, int]) -> tuple[dict[str, Tensor], int]:
        """Return the tensors by name, and a dataset of all inputs or outputs."""
        device, tensors = self._device, []
        dataset = device.make('mdl.create_dataset')
        device.on_close('mdl.destroy_dataset', dataset)
        size_of = getattr(self._mdl, f'get_{kind}_size_by_index')
        for index, code in enumerate(self._types[kind]):
            size: int = size_of(self._description, index)
            tensors.append(Tensor(device.malloc(size), size, DTYPES.get(code, np.uint8)))
            buffer = device.make('create_data_buffer', tensors[-1].address, size)
            device.on_close('destroy_data_buffer', buffer)
            device.call('mdl.add_dataset_buffer', dataset, buffer)
        return {name: tensors[index] for name, index in indices.items()}, dataset


def _load(device: Device, path: Path) -> int:
    """
    Load a file without a second copy of it in memory, and return the id of the model.

    The pages of a memory-mapped file can be dropped when memory is short; load_from_file would
    read the whole file onto the heap. The documentation asks for device memory in load_from_mem in
    RC form, but a mapping works in practice (ascend-llm); if it fails, load_from_file is used.
    """
    try:
        with _mapped(path) as (address, size):
            return int(device.call('mdl.load_from_mem', address, size))
    except AclError as error:
        if isinstance(error, AclLost) or error.code in OUT_OF_MEMORY:
            raise
        log.debug('%s; loading the file by its path', error)
    try:
        return int(device.call('mdl.load_from_file', str(path)))
    except AclError as error:
        detail = ', '.join(filter(None, (f'loading {path}', error.detail)))
        raise type(error)(error.call, error.code, detail) from error


@contextmanager
def _mapped(path: Path) -> Iterator[tuple[int, int]]:
    """Give address and size of a file that is mapped while they are used."""
    try:
        with path.open('rb') as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
            content = np.frombuffer(pages, np.uint8)
            try:
                yield content.ctypes.data, len(content)
            finally:
                del content  # else the mapping could not be closed
    except (OSError, ValueError) as error:  # ValueError: the file is empty
        raise BackendError(f'{path} cannot be read ({error}); convert it with '
                           f'{model_command()} atc') from error


def _listed(numbers: Sequence[int]) -> str:
    return ', '.join(map(str, numbers))
