"""
Runs the static graph on an Ascend NPU, through pyACL.

The cache stays in device memory: the graph reads it as past_key_values, and the backend writes the
rows of out_key_values into it. In RC form (Orange Pi) host and device share their memory, so the
backend uses arrays over device memory; in EP form it copies.
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

    For each chunk only the new tokens go in, and only the logits come out.
    """

    def __init__(self, artifact: Artifact, *, device: int = 0, form: str = 'auto') -> None:
        """
        Load an artifact.

        :raises BackendError: the artifact or the device cannot be used; all memory is freed.
        """
        manifest = artifact.manifest
        if manifest.dialect != 'ascend':
            raise BackendError(f'{artifact.folder} holds a graph in the {manifest.dialect} '
                               'dialect; the acl backend runs the ascend dialect: build the '
                               f'model again with {model_command()} build --target ascend')
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
            self._tokens, self._mask, self._positions, self._cache = (
                self._model.inputs[name] for name in ASCEND_INPUTS)
            self._logits, self._new_rows = (
                self._model.outputs[name] for name in ASCEND_OUTPUTS)
            make_memory = _SharedMemory if self._device.is_shared else _SeparateMemory
            self._memory: _Memory = make_memory(self._device, [
                self._tokens, self._mask, self._positions, self._logits, self._new_rows])
            # The mask is added to the scores, so a NaN in a hidden slot would not be hidden
            for tensor in (self._cache, self._mask):
                self._device.call('rt.memset', tensor.address, tensor.size, 0, tensor.size)
        except BaseException:
            self.close()
            raise
        self._visible_slots: int | None = 0
        """Slots that the mask on the device shows; None after a write that failed."""
        self._chunk_mask: tuple[int, int] | None = None
        """Chunk length and tokens that the end of the mask on the device is for."""
        self._logits_buffer = np.zeros((1, self.shape.vocab_size), np.float32)

    def forward(self, tokens: NDArray[np.int64], start: int, *, logits: int = 1
                ) -> NDArray[np.float32]:
        """Run one chunk, padded to the next length that was compiled; see Backend."""
        assert self._device is not None, 'the backend is closed'
        length = len(tokens)
        self.shape.check_pass(tokens, start, logits)
        chunk = next(size for size in self.shape.chunk_sizes if size >= length)
        self._device.enter()
        self._model.select(chunk)
        self._memory.write(self._tokens, 0, padded(tokens, chunk))
        self._memory.write(self._positions, 0, np.arange(start, start + chunk))
        self._update_mask(start, chunk, length)
        self._model.run()
        self._memory.append(self._cache, self._new_rows, self._rows, chunk, length, start)
        rows = self._read_logits(length - logits, length)
        if not np.isfinite(rows).all():
            raise BackendLost(f'the logits of {length} tokens at slot {start} are not all finite; '
                              'if this happens again after the model was reloaded, build it with '
                              'another --quant or with --w8a16 all')
        return rows

    def _update_mask(self, start: int, chunk: int, length: int) -> None:
        """Make the mask show the slots before `start` and the tokens of the chunk, no padding."""
        shown, self._visible_slots = self._visible_slots, None  # stays None if a write fails
        if shown is None:
            self._memory.write(self._mask, 0,
                               (np.arange(self.shape.kv_length) < start).astype(np.int64))
        elif shown < start:
            self._memory.write(self._mask, shown, np.ones(start - shown, np.int64))
        elif shown > start:
            self._memory.write(self._mask, start, np.zeros(shown - start, np.int64))
        self._visible_slots = start
        if self._chunk_mask != (chunk, length):
            self._chunk_mask = None
            self._memory.write(self._mask, self.shape.kv_length,
                               padded(np.ones(length, np.int64), chunk))
            self._chunk_mask = chunk, length

    def _read_logits(self, first: int, end: int) -> NDArray[np.float32]:
        """Return the logits of some tokens of the chunk; the next call overwrites them."""
        if end - first > len(self._logits_buffer):
            self._logits_buffer = np.zeros((self.shape.chunk_sizes[-1], self.shape.vocab_size),
                                           np.float32)
        rows = self._logits_buffer[:end - first]
        if len(rows):
            rows[...] = self._memory.read(self._logits, first * self.shape.vocab_size, rows.size
                                          ).reshape(rows.shape)
        return rows

    def close(self) -> None:
        """Free all that is on the device, in reverse order; nothing is raised."""
        if self._device is not None:
            self._device.close()
        self._device = None


@dataclass(frozen=True)
class _Rows:
    """The cache as rows of slots: one row for the keys, or the values, of a head of a layer."""

    count: int
    slots: int
    size: int
    """Numbers in each slot."""


class _Memory(Protocol):
    """Reads and writes device memory from the host."""

    def write(self, tensor: Tensor, first: int, values: NDArray[Any]) -> None:
        """Write values into an input, from the number with the index `first` on."""

    def read(self, tensor: Tensor, first: int, count: int) -> NDArray[Any]:
        """Return `count` numbers of an output from `first` on, valid until the next run."""

    def append(self, cache: Tensor, new: Tensor, rows: _Rows, chunk: int, count: int, start: int
               ) -> None:
        """Copy the first `count` slots of a chunk into the cache, from the slot `start` on."""


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
        target = self.read(cache, 0, rows.count * rows.slots * rows.size)
        source = self.read(new, 0, rows.count * chunk * rows.size)
        target.reshape(rows.count, rows.slots, rows.size)[:, start:start + count] = (
            source.reshape(rows.count, chunk, rows.size)[:, :count])

    def _view(self, tensor: Tensor) -> NDArray[Any]:
        if tensor.address not in self._views:
            self._views[tensor.address] = view(tensor.address, tensor.size, tensor.dtype)
        return self._views[tensor.address]


class _SeparateMemory:
    """EP form: each tensor that the host uses has a copy in host memory."""

    def __init__(self, device: Device, tensors: Sequence[Tensor]) -> None:
        self._device = device
        self._copies = {tensor.address: device.malloc_host(tensor.size) for tensor in tensors}
        self._views = {
            tensor.address: view(self._copies[tensor.address], tensor.size, tensor.dtype)
            for tensor in tensors}
        self._can_copy_rows = hasattr(device.acl.rt, 'memcpy2d')

    def write(self, tensor: Tensor, first: int, values: NDArray[Any]) -> None:
        self._views[tensor.address][first:first + len(values)] = values
        offset, size = first * tensor.item_size, len(values) * tensor.item_size
        self._device.call('rt.memcpy', tensor.address + offset, tensor.size - offset,
                          self._copies[tensor.address] + offset, size, HOST_TO_DEVICE)

    def read(self, tensor: Tensor, first: int, count: int) -> NDArray[Any]:
        offset, size = first * tensor.item_size, count * tensor.item_size
        self._device.call('rt.memcpy', self._copies[tensor.address] + offset, tensor.size - offset,
                          tensor.address + offset, size, DEVICE_TO_HOST)
        return self._views[tensor.address][first:first + count]

    def append(self, cache: Tensor, new: Tensor, rows: _Rows, chunk: int, count: int, start: int
               ) -> None:
        slot = rows.size * cache.item_size  # bytes
        if self._can_copy_rows:
            try:
                self.read(new, 0, rows.count * chunk * rows.size)
                self._device.call('rt.memcpy2d', cache.address + start * slot, rows.slots * slot,
                                  self._copies[new.address], chunk * slot, count * slot,
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
    chip, compiled = device.acl.get_soc_name(), artifact.manifest.om
    assert compiled is not None
    if chip and compiled.soc_version and chip != compiled.soc_version:
        raise BackendError(f'{artifact.om} was compiled for {compiled.soc_version}, but this chip '
                           f'is {chip}; run: {model_command()} atc {artifact.folder} '
                           f'--soc-version {chip}')
