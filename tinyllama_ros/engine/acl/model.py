"""Loads a compiled graph (.om) on an Ascend device, and compares its inputs with the manifest."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from tinyllama_ros.engine.acl.device import Device
from tinyllama_ros.engine.acl.errors import AclError, AclLost, OUT_OF_MEMORY
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
    """bytes; of the longest chunk where there are several."""
    dtype: type[np.generic]

    @property
    def item_size(self) -> int:
        """Bytes of one number."""
        return np.dtype(self.dtype).itemsize


class Model:
    """
    A model that was loaded once, with memory that was allocated once.

    Outputs go by their place: what ATC calls them differs between versions of CANN.
    """

    def __init__(self, device: Device, artifact: Artifact) -> None:
        """
        Load the graph of an artifact.

        :raises BackendError: it cannot be loaded, or is not what the manifest says.
        """
        self._device = device
        self._mdl = device.acl.mdl
        self._path = artifact.om
        self._manifest = artifact.manifest
        self._id = _load(device, self._path)
        device.when_closed('mdl.unload', self._id)
        self._description = device.make('mdl.create_desc')
        device.when_closed('mdl.destroy_desc', self._description)
        device.call('mdl.get_desc', self._description, self._id)
        # What has no code of its own is asked once, so that it cannot answer in two ways
        self._types = {kind: self._ask_types(kind) for kind in ('input', 'output')}
        self._places = self._find_inputs()
        self._gears = self._find_gears()
        self._check()
        self._chunk = 0
        self.inputs, self._inputs = self._allocate('input', self._places)
        outputs = {name: place for place, name in enumerate(ASCEND_OUTPUTS)}
        self.outputs, self._outputs = self._allocate('output', outputs)
        self._check_sizes()

    def choose(self, chunk: int) -> None:
        """Take the graph that was compiled for chunks of this length."""
        if self._gears and chunk != self._chunk:
            dims = self._gears[chunk]
            self._device.call('mdl.set_input_dynamic_dims', self._id, self._inputs,
                              self._places[GEARS],
                              {'name': '', 'dimCount': len(dims), 'dims': dims})
        self._chunk = chunk

    def run(self) -> None:
        """Run the graph and wait for it; other Python threads run meanwhile."""
        self._device.call('mdl.execute_async', self._id, self._inputs, self._outputs,
                          self._device.stream)
        self._device.synchronize()

    def _ask_types(self, kind: str) -> list[int]:
        """Return the aclDataType of every input or output."""
        count: int = getattr(self._mdl, f'get_num_{kind}s')(self._description)
        ask = getattr(self._mdl, f'get_{kind}_data_type')
        return [ask(self._description, place) for place in range(count)]

    def _find_inputs(self) -> dict[str, int]:
        """Return the place of each input, that of the gears included where there are any."""
        count, outputs = (len(types) for types in self._types.values())
        found = {}
        for place, name in enumerate(ASCEND_INPUTS):
            by_name, code = self._mdl.get_input_index_by_name(self._description, name)
            found[name] = place if code else by_name
        if count == len(ASCEND_INPUTS) + 1:
            found[GEARS] = self._device.call('mdl.get_input_index_by_name', self._description,
                                             GEARS)
        if sorted(found.values()) != list(range(count)):
            raise BackendError(f'{self._path} has {count} inputs; the contract has '
                               f'{len(ASCEND_INPUTS)}: {", ".join(ASCEND_INPUTS)}')
        if outputs < len(ASCEND_OUTPUTS):
            raise BackendError(f'{self._path} has {outputs} outputs; the contract has at least '
                               f'{len(ASCEND_OUTPUTS)}: {", ".join(ASCEND_OUTPUTS)}')
        return found

    def _find_gears(self) -> dict[int, list[int]]:
        """Return the shapes of all inputs, one after the other, by chunk length."""
        if GEARS not in self._places:
            return {}
        count = self._device.call('mdl.get_input_dynamic_gear_count', self._description, -1)
        gears = self._device.call('mdl.get_input_dynamic_dims', self._description, -1, count)
        all_dims = [[int(size) for size in gear['dims']] for gear in gears]
        return {self._apart(dims)[INPUT_IDS][-1]: dims for dims in all_dims}

    def _apart(self, dims: Sequence[int]) -> dict[str, list[int]]:
        """Return the shape of each input out of those of all, one after the other."""
        expected = self._expected(CHUNK)
        names = sorted(ASCEND_INPUTS, key=self._places.__getitem__)
        if len(dims) != sum(len(expected[name].shape) for name in names):
            raise BackendError(f'{self._path} was compiled for inputs of the shapes {dims}, which '
                               'are not those of the contract; compile it with '
                               f'{model_command()} atc')
        rest = iter(dims)
        return {name: list(islice(rest, len(expected[name].shape))) for name in names}

    def _check(self) -> None:
        """Hold the graph against the manifest."""
        chunks = tuple(sorted(self._gears)) or (self._dims('input', INPUT_IDS)[-1],)
        shapes = ([self._apart(dims) for dims in self._gears.values()] or
                  [{name: self._dims('input', name) for name in ASCEND_INPUTS}])
        for kind, names in (('input', ASCEND_INPUTS[-1:]), ('output', ASCEND_OUTPUTS)):
            for name in names:  # of the longest chunk, where there are several
                self._compare(name, self._dims(kind, name), chunks[-1])
        if chunks != self._manifest.chunk_sizes:
            raise self._differs('chunk lengths are', _listed(chunks),
                                _listed(self._manifest.chunk_sizes))
        for inputs in shapes:
            for name, dims in inputs.items():
                self._compare(name, dims, inputs[INPUT_IDS][-1])
        for name in (*ASCEND_INPUTS, *ASCEND_OUTPUTS):
            self._check_type(name)

    def _compare(self, name: str, found: Sequence[int], chunk: int) -> None:
        axes = self._expected(chunk)[name].axes
        if len(found) != len(axes):
            raise self._differs(f'{name} has the shape', list(found), list(axes.values()))
        for (axis, here), there in zip(axes.items(), found, strict=True):
            if there != here:
                raise self._differs(f'{name}: {axis} is', there, here)

    def _differs(self, what: str, there: object, here: object) -> BackendError:
        return BackendError(f'{self._path} is not what its manifest says: {what} {there} in the '
                            f'.om, {here} in the manifest; compile the artifact again '
                            f'({model_command()} atc), or adopt the .om anew')

    def _check_type(self, name: str) -> None:
        kind = 'input' if name in ASCEND_INPUTS else 'output'
        code = self._types[kind][self._place(kind, name)]
        allowed = self._expected(CHUNK)[name].dtypes
        if DTYPES.get(code) not in allowed:
            there = np.dtype(DTYPES[code]).name if code in DTYPES else f'aclDataType {code}'
            raise self._differs(f'{name}: type is', there,
                                ' or '.join(sorted(np.dtype(each).name for each in allowed)))

    def _check_sizes(self) -> None:
        """Refuse memory that could not hold what the shapes say; more than that is no harm."""
        tensors = self.inputs | self.outputs
        for name, expected in self._expected(self._manifest.chunk_sizes[-1]).items():
            tensor, shape = tensors[name], expected.shape
            if tensor.size < prod(map(int, shape)) * tensor.item_size:
                raise BackendError(f'{self._path}: {name} of the shape {list(shape)} has only '
                                   f'{tensor.size} bytes on the device; compile it again '
                                   f'({model_command()} atc)')

    def _expected(self, chunk: Dim) -> Tensors:
        """Return what the contract makes of the manifest, for a chunk of this length."""
        arch = self._manifest.architecture
        return (ascend_inputs(arch, self._manifest.kv_length, chunk)
                | ascend_outputs(arch, chunk))

    def _place(self, kind: str, name: str) -> int:
        return self._places[name] if kind == 'input' else ASCEND_OUTPUTS.index(name)

    def _dims(self, kind: str, name: str) -> list[int]:
        found: dict[str, Any] = self._device.call(f'mdl.get_{kind}_dims', self._description,
                                                  self._place(kind, name))
        return [int(size) for size in found['dims']]

    def _allocate(self, kind: str, places: Mapping[str, int]) -> tuple[dict[str, Tensor], int]:
        """Return the tensors by name, and a dataset of all inputs or outputs, known or not."""
        device, tensors = self._device, []
        dataset = device.make('mdl.create_dataset')
        device.when_closed('mdl.destroy_dataset', dataset)
        ask = getattr(self._mdl, f'get_{kind}_size_by_index')
        for place, code in enumerate(self._types[kind]):
            size: int = ask(self._description, place)
            tensors.append(Tensor(device.malloc(size), size, DTYPES.get(code, np.uint8)))
            buffer = device.make('create_data_buffer', tensors[-1].address, size)
            device.when_closed('destroy_data_buffer', buffer)
            device.call('mdl.add_dataset_buffer', dataset, buffer)
        return {name: tensors[place] for name, place in places.items()}, dataset


def _load(device: Device, path: Path) -> int:
    """
    Load a file without holding it twice, and return the number of the model.

    Mapped, its pages are the file's own, and go when memory is short; load_from_file would read
    all of it onto the heap. The documentation wants device memory for load_from_mem in RC form,
    in the field a mapping does (ascend-llm): so where it is refused, the file is loaded by name.
    """
    try:
        with _mapped(path) as (address, size):
            return int(device.call('mdl.load_from_mem', address, size))
    except AclError as error:
        if isinstance(error, AclLost) or error.code in OUT_OF_MEMORY:
            raise
        log.debug('%s; loading by name', error)
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
                del content  # or the mapping could not be closed
    except (OSError, ValueError) as error:  # ValueError: the file is empty
        raise BackendError(f'{path} cannot be read ({error}); convert it with '
                           f'{model_command()} atc') from error


def _listed(numbers: Sequence[int]) -> str:
    return ', '.join(map(str, numbers))
