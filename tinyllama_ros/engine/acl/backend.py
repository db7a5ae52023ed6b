"""
Runs the static graph on an Ascend NPU, through pyACL.

The cache is device memory that stays where it is: the graph reads it as past_key_values, and the
rows that come out as out_key_values are written into it. In RC form (Orange Pi) host and device
share their memory, and arrays over it do all that; in EP form everything is copied.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.contract import ASCEND_INPUTS, ASCEND_OUTPUTS
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.engine.acl.device import Device, view
from tinyllama_ros.engine.acl.errors import AclError, NOT_SUPPORTED
from tinyllama_ros.engine.acl.model import Model, Tensor
from tinyllama_ros.engine.backend import BackendShape
from tinyllama_ros.errors import BackendError, BackendLost, model_command

HOST_TO_DEVICE, DEVICE_TO_HOST, DEVICE_TO_DEVICE = 1, 2, 3


class AclBackend:
    """
    Runs the Ascend dialect of the graph, compiled.

    Of each step only the new tokens go in, and only the logits come out.
    """

    def __init__(self, artifact: Artifact, *, device: int = 0, form: str = 'auto') -> None:
        """
        Load an artifact.

        :raises BackendError: the artifact or the device is not fit; what was done is undone.
        """
        manifest = artifact.manifest
        if manifest.dialect != 'ascend':
            raise BackendError(f'{artifact.folder} holds a graph in the {manifest.dialect} '
                               'dialect; the acl backend runs the ascend dialect: build that '
                               f'({model_command()} build --target ascend)')
        if manifest.om is None:
            raise BackendError(f'{artifact.folder} is not compiled for the NPU yet; run: '
                               f'{model_command()} atc {artifact.folder}')
        arch = manifest.architecture
        self.shape = BackendShape(manifest.kv_length, arch.vocab_size, manifest.chunk_sizes,
                                  pads=True)
        self._rows = _Rows(arch.layers * 2 * arch.kv_heads, manifest.kv_length, arch.head_dim)
        self._device: Device | None = Device(device, form)
        try:
            _check_chip(self._device, artifact)
            self._model = Model(self._device, artifact)
            self._prepare(self._device)
        except BaseException:
            self.close()
            raise

    def _prepare(self, device: Device) -> None:
        """Make what each step uses."""
        inputs, outputs = self._model.inputs, self._model.outputs
        self._tokens, self._mask, self._positions, self._cache = (
            inputs[name] for name in ASCEND_INPUTS)
        self._logits, self._new_rows = (outputs[name] for name in ASCEND_OUTPUTS)
        make_memory = _SharedMemory if device.is_shared else _SeparateMemory
        self._memory: _Memory = make_memory(device, [
            self._tokens, self._mask, self._positions, self._logits, self._new_rows])
        # Slots are masked by a number that is added: a NaN in one would come through
        for tensor in (self._cache, self._mask):
            device.call('rt.memset', tensor.address, tensor.size, 0, tensor.size)
        self._shown: int | None = 0
        """Slots that the mask on the device shows; None: it was written in part."""
        self._end: tuple[int, int] | None = None
        """Chunk length and tokens for which the end of the mask was written."""
        self._found = np.zeros((1, self.shape.vocab_size), np.float32)

    def forward(self, tokens: NDArray[np.int64], start: int, *, logits: int = 1
                ) -> NDArray[np.float32]:
        """Run one chunk, padded to the next length that was compiled; see Backend."""
        assert self._device is not None, 'the backend is closed'
        length, shape = len(tokens), self.shape
        assert 0 < length <= min(shape.chunk_sizes[-1], shape.kv_length - start), (length, start)
        assert 0 <= tokens.min() and tokens.max() < shape.vocab_size, 'no such token'
        assert 0 <= logits <= length, (logits, length)
        chunk = next(size for size in shape.chunk_sizes if size >= length)
        self._device.enter()
        self._model.choose(chunk)
        self._memory.write(self._tokens, 0, padded(tokens, chunk))
        self._memory.write(self._positions, 0, np.arange(start, start + chunk))
        self._show(start, chunk, length)
        self._model.run()
        self._memory.append(self._cache, self._new_rows, self._rows, chunk, length, start)
        found = self._read_logits(length - logits, length)
        if not np.isfinite(found).all():
            raise BackendLost(f'the logits of {length} tokens at slot {start} are not all finite; '
                              'should loading the model again not help, build it with another '
                              'quantisation')
        return found

    def _show(self, start: int, chunk: int, length: int) -> None:
        """Let the mask show the slots before a start and the tokens of a chunk; no padding."""
        shown, self._shown = self._shown, None  # should it fail
        if shown is None:
            self._memory.write(self._mask, 0,
                               (np.arange(self.shape.kv_length) < start).astype(np.int64))
        elif shown < start:
            self._memory.write(self._mask, shown, np.ones(start - shown, np.int64))
        elif shown > start:
            self._memory.write(self._mask, start, np.zeros(shown - start, np.int64))
        self._shown = start
        if self._end != (chunk, length):
            self._end = None
            self._memory.write(self._mask, self.shape.kv_length,
                               padded(np.ones(length, np.int64), chunk))
            self._end = chunk, length

    def _read_logits(self, first: int, end: int) -> NDArray[np.float32]:
        """Return the logits of some tokens of the chunk, as the next call will overwrite them."""
        if end - first > len(self._found):
            self._found = np.zeros((self.shape.chunk_sizes[-1], self.shape.vocab_size),
                                   np.float32)
        found = self._found[:end - first]
        if len(found):
            found[...] = self._memory.read(self._logits, first * self.shape.vocab_size, found.size
                                           ).reshape(found.shape)
        return found

    def close(self) -> None:
        """Free all that is on the device, in reverse order; nothing is raised."""
        if self._device is not None:
            self._device.close()
        self._device = None


@dataclass(frozen=True)
class _Rows:
    """The cache as rows of slots: one row for the keys or values of a layer's head."""

    count: int
    slots: int
    size: int
    """Numbers in a slot."""


class _Memory(Protocol):
    """How the host reaches what is on the device."""

    def write(self, tensor: Tensor, first: int, values: NDArray[Any]) -> None:
        """Put values into an input, from its first number on."""

    def read(self, tensor: Tensor, first: int, count: int) -> NDArray[Any]:
        """Return so many numbers of an output, valid until the next run."""

    def append(self, cache: Tensor, new: Tensor, rows: _Rows, chunk: int, count: int, start: int
               ) -> None:
        """Write the first of a chunk's slots, count of them, to the cache from a start on."""


class _SharedMemory:
    """RC form: arrays over the device's memory."""

    def __init__(self, device: Device, tensors: Sequence[Tensor]) -> None:
        self._views: dict[int, NDArray[Any]] = {}

    def write(self, tensor: Tensor, first: int, values: NDArray[Any]) -> None:
        self._view(tensor)[first:first + len(values)] = values

    def read(self, tensor: Tensor, first: int, count: int) -> NDArray[Any]:
        return self._view(tensor)[first:first + count]

    def append(self, cache: Tensor, new: Tensor, rows: _Rows, chunk: int, count: int, start: int
               ) -> None:
        held = self.read(cache, 0, rows.count * rows.slots * rows.size)
        come = self.read(new, 0, rows.count * chunk * rows.size)
        held.reshape(rows.count, rows.slots, rows.size)[:, start:start + count] = come.reshape(
            rows.count, chunk, rows.size)[:, :count]

    def _view(self, tensor: Tensor) -> NDArray[Any]:
        if tensor.address not in self._views:
            self._views[tensor.address] = view(tensor.address, tensor.size, tensor.dtype)
        return self._views[tensor.address]


class _SeparateMemory:
    """EP form: every tensor that the host touches has a twin in host memory, and is copied."""

    def __init__(self, device: Device, tensors: Sequence[Tensor]) -> None:
        self._device = device
        self._twins = {tensor.address: device.malloc_host(tensor.size) for tensor in tensors}
        self._views = {tensor.address: view(self._twins[tensor.address], tensor.size, tensor.dtype)
                       for tensor in tensors}
        self._can_copy_rows = hasattr(device.acl.rt, 'memcpy2d')

    def write(self, tensor: Tensor, first: int, values: NDArray[Any]) -> None:
        self._views[tensor.address][first:first + len(values)] = values
        offset, size = first * tensor.item_size, len(values) * tensor.item_size
        self._device.call('rt.memcpy', tensor.address + offset, tensor.size - offset,
                          self._twins[tensor.address] + offset, size, HOST_TO_DEVICE)

    def read(self, tensor: Tensor, first: int, count: int) -> NDArray[Any]:
        offset, size = first * tensor.item_size, count * tensor.item_size
        self._device.call('rt.memcpy', self._twins[tensor.address] + offset, tensor.size - offset,
                          tensor.address + offset, size, DEVICE_TO_HOST)
        return self._views[tensor.address][first:first + count]

    def append(self, cache: Tensor, new: Tensor, rows: _Rows, chunk: int, count: int, start: int
               ) -> None:
        slot = rows.size * cache.item_size  # bytes
        if self._can_copy_rows:
            try:
                self.read(new, 0, rows.count * chunk * rows.size)
                self._device.call('rt.memcpy2d', cache.address + start * slot, rows.slots * slot,
                                  self._twins[new.address], chunk * slot, count * slot,
                                  rows.count, HOST_TO_DEVICE)
                return
            except AclError as error:
                if error.code not in NOT_SUPPORTED:
                    raise
                self._can_copy_rows = False
        for row in range(rows.count):
            offset = (row * rows.slots + start) * slot
            self._device.call('rt.memcpy', cache.address + offset, cache.size - offset,
                              new.address + row * chunk * slot, count * slot, DEVICE_TO_DEVICE)


def padded(values: NDArray[np.int64], length: int) -> NDArray[np.int64]:
    """Return values with zeros at their end."""
    return np.pad(values, (0, length - len(values)))


def _check_chip(device: Device, artifact: Artifact) -> None:
    """Refuse a graph that was compiled for another chip."""
    found, compiled = device.acl.get_soc_name(), artifact.manifest.om
    assert compiled is not None
    if found and compiled.soc_version and found != compiled.soc_version:
        raise BackendError(f'{artifact.om} was compiled for {compiled.soc_version}, this is '
                           f'{found}; run: {model_command()} atc {artifact.folder} '
                           f'--soc-version {found}')
