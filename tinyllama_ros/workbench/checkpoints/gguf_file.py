"""
Reads the header of a GGUF file: its metadata, and the location of each tensor.

The reader of the gguf library is not used, because it trusts every count: a short file that claims
an array of a thousand million numbers would fill the memory. Here a count that the rest of the
file cannot hold is refused before any memory is allocated for it.

Format: docs/gguf.md of github.com/ggml-org/ggml at 01f0d4d.
"""

from dataclasses import dataclass
import math
from mmap import ACCESS_READ, mmap
from pathlib import Path
import struct
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.disk import open_file
from tinyllama_ros.engine.mapped_file import MappedFile
from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.checkpoint import require_unchanged

VERSIONS = (2, 3)
_AGAIN = 'fetch it again'
_OTHER = 'use a file in F16 or Q8_0'
# struct's letter for each type of a metadata value, by its number.
_NUMBERS = dict(enumerate('BbHhIif?')) | {10: 'Q', 11: 'q', 12: 'd'}
_STRING, _ARRAY = 8, 9
_MOST_DIMENSIONS = 4
_ALIGNMENT = 32


@dataclass(frozen=True)
class StoredTensor:
    """Type, shape and location of one tensor in the file."""

    name: str
    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    """In the order of numpy, rows first; GGUF stores the reverse order."""
    offset: int
    """Bytes from the beginning of the file."""
    size: int
    """bytes"""


class GgufFile:
    """Metadata by key and tensors by name; the data of tensors are memory-mapped."""

    def __init__(self, path: Path) -> None:
        """
        Read the header.

        :raises ModelError: the file is not a GGUF file, is cut short or altered, or has a version
            or a type that is not supported.
        """
        self.path = path
        try:
            self._file = MappedFile(path)
            with open_file(path) as file:
                magic = file.read(4)
                if magic != b'GGUF':
                    raise ModelError(f'{path} is not a GGUF file: it begins with {magic!r}; '
                                     'give the path of a .gguf file')
                content = mmap(file.fileno(), 0, access=ACCESS_READ)
        except OSError as error:
            raise ModelError(f'{path} cannot be read: {error}') from error
        self._data = np.frombuffer(content, np.uint8)
        cursor = _Cursor(path, content, 4)
        version = cursor.number('I', 'the version')
        if version not in VERSIONS:
            raise ModelError(
                f'{path} is of GGUF version {version}; supported: little-endian files of version '
                f'{" and ".join(map(str, VERSIONS))}: convert the model again')
        tensors = cursor.count('the list of tensors', least=8 + 4 + 4 + 8)
        entries = cursor.count('the metadata', least=8 + 4 + 1)
        self.metadata = _metadata(cursor, entries)
        self.tensors = _tensors(cursor, tensors, self.metadata.get('general.alignment'))
        self.check()

    def check(self) -> None:
        """Raise ModelError where the file changed, so that what was read of it may be wrong."""
        require_unchanged(self._file)

    def data(self, tensor: StoredTensor) -> NDArray[np.uint8]:
        """Return the bytes of a tensor, mapped and read-only, one row for each of its rows."""
        rows = tensor.shape[:-1] or (1,)
        return self._data[tensor.offset:tensor.offset + tensor.size].reshape(*rows, -1)


class _Cursor:
    """Reads one value after another; each must lie within the file."""

    def __init__(self, path: Path, content: mmap, at: int) -> None:
        self.path, self.at, self.size = path, at, len(content)
        self._content = content

    def bytes(self, size: int, what: str) -> bytes:
        """Return the next bytes; ModelError names what is cut short."""
        end = self.at + size
        if end > self.size:
            raise ModelError(f'{self.path} is cut short or altered: {what} ends at {end}, the '
                             f'file at {self.size}; {_AGAIN}')
        content = self._content[self.at:end]
        self.at = end
        return content

    def number(self, letter: str, what: str) -> Any:
        """Return the next number; `letter` is the format character of struct."""
        return struct.unpack(f'<{letter}', self.bytes(struct.calcsize(f'<{letter}'), what))[0]

    def count(self, what: str, least: int) -> int:
        """Return the next count; the rest of the file must hold `least` bytes for each item."""
        count: int = self.number('Q', what)
        if count * least > self.size - self.at:
            raise ModelError(f'{self.path} is cut short or altered: {what} has {count} entries, '
                             f'{self.size - self.at} bytes are left in the file; {_AGAIN}')
        return count

    def string(self, what: str) -> str:
        """Return the next text."""
        content = self.bytes(self.count(what, least=1), what)
        try:
            return content.decode()
        except UnicodeDecodeError as error:
            raise ModelError(f'{self.path} is altered: {what} is not UTF-8 ({error}); {_AGAIN}'
                             ) from error

    def value(self, what: str) -> Any:
        """Return the next value of the metadata; its type precedes it."""
        kind: int = self.number('I', what)
        if kind == _STRING:
            return self.string(what)
        if kind == _ARRAY:
            return self._array(what)
        return self._numbers(kind, 1, what)[0]

    def _array(self, what: str) -> list[Any]:
        kind: int = self.number('I', what)
        if kind == _STRING:
            return [self.string(what) for _ in range(self.count(what, least=8))]
        return self._numbers(kind, self.count(what, least=1), what)

    def _numbers(self, kind: int, count: int, what: str) -> list[Any]:
        if kind not in _NUMBERS:
            raise ModelError(f'{self.path}: {what} is of the value type {kind}, which is not '
                             'supported; convert the model again')
        letters = f'<{count}{_NUMBERS[kind]}'
        return list(struct.unpack(letters, self.bytes(struct.calcsize(letters), what)))


def _metadata(cursor: _Cursor, entries: int) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for number in range(entries):
        key = cursor.string(f'key {number} of the metadata')
        if key in metadata:
            raise ModelError(f'{cursor.path} is altered: it has {key!r} twice; {_AGAIN}')
        metadata[key] = cursor.value(repr(key))
    return metadata


def _tensors(cursor: _Cursor, count: int, alignment: Any) -> dict[str, StoredTensor]:
    infos = [_info(cursor, number) for number in range(count)]
    if alignment is None:
        alignment = _ALIGNMENT
    if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
        raise ModelError(f'{cursor.path} is altered: general.alignment is {alignment!r}; it must '
                         f'be a power of two: {_AGAIN}')
    start = -cursor.at % alignment + cursor.at
    tensors: dict[str, StoredTensor] = {}
    for name, shape, kind, offset in infos:
        if name in tensors:
            raise ModelError(f'{cursor.path} is altered: it has the tensor {name!r} twice; '
                             f'{_AGAIN}')
        tensors[name] = _stored(cursor, name, shape, kind, start + offset)
    return tensors


def _info(cursor: _Cursor, number: int) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string(f'the name of tensor {number}')
    dimensions: int = cursor.number('I', name)
    if dimensions > _MOST_DIMENSIONS:
        raise ModelError(f'{cursor.path} is altered: {name} has {dimensions} dimensions; it may '
                         f'have {_MOST_DIMENSIONS}: {_AGAIN}')
    shape = tuple(cursor.number('Q', name) for _ in range(dimensions))
    return name, shape[::-1], cursor.number('I', name), cursor.number('Q', name)


def _stored(cursor: _Cursor, name: str, shape: tuple[int, ...], number: int,
            offset: int) -> StoredTensor:
    try:
        kind = GGMLQuantizationType(number)
        block, block_size = GGML_QUANT_SIZES[kind]
    except (ValueError, KeyError) as error:
        raise ModelError(f'{cursor.path}: {name} is stored as GGML type {number}, which is not '
                         f'supported; {_OTHER}') from error
    columns = shape[-1] if shape else 1
    if columns % block:
        raise ModelError(f'{cursor.path} is altered: {name} of shape {shape} cannot be stored as '
                         f'{kind.name}, in blocks of {block}; {_AGAIN}')
    size = math.prod(shape) // block * block_size
    if offset + size > cursor.size:
        raise ModelError(f'{cursor.path} is cut short: {name} ends at {offset + size}, the file '
                         f'at {cursor.size}; {_AGAIN}')
    return StoredTensor(name, kind, shape, offset, size)
