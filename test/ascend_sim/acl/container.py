"""
The file that the stand-in atc writes and the stand-in acl loads.

::

    header, one page: magic, version, length of the file, places of what follows
    weights, each at the start of a page, so that ONNX Runtime maps them from this very file
    graph (ONNX, its weights external) and plan (JSON)
"""

from collections.abc import Callable
import json
from pathlib import Path
import struct
from typing import BinaryIO

import onnx
from onnx import TensorProto

from acl import codes
from acl.errors import Failure
from acl.graphs import SMALL
from acl.plan import Plan

_MAGIC = b'ASCEND-SIM-OM\r\n\0'
_HEADER = struct.Struct('<16sIIQQQQQ')
_VERSION = 1
_PAGE = 4096


class Content:
    """The parts of a file, and how to find its weights."""

    def __init__(self, graph: bytes, plan: Plan) -> None:
        self.model = onnx.ModelProto.FromString(graph)
        self.plan = plan

    def weights_in(self, file_name: str) -> bytes:
        """Return the graph with its weights in a file of this name."""
        for tensor in self.model.graph.initializer:
            for entry in tensor.external_data:
                if entry.key == 'location':
                    entry.value = file_name
        return self.model.SerializeToString()


def is_container(start: bytes) -> bool:
    """Return whether bytes start like such a file."""
    return start.startswith(_MAGIC)


def write(path: Path, model: onnx.ModelProto, folder: Path, plan: Plan) -> None:
    """Write a file; weights are streamed from the files beside the graph, one after another."""
    with open(path, 'wb') as file:
        file.write(bytes(_PAGE))
        for tensor in model.graph.initializer:
            _move(tensor, folder, file)
        file.write(bytes(-file.tell() % _PAGE))
        places = []
        for part in (model.SerializeToString(), json.dumps(plan.to_json()).encode()):
            places += [file.tell(), len(part)]
            file.write(part)
        length = file.tell()
        file.seek(0)
        file.write(_HEADER.pack(_MAGIC, _VERSION, 0, length, *places))


def read(fetch: Callable[[int, int], bytes], size: int) -> Content:
    """
    Return the content of a file.

    :param fetch: returns bytes for a place and a length.
    :raises Failure: with the code that the real library has for such a file.
    """
    if size < _HEADER.size or not is_container(header := fetch(0, _HEADER.size)):
        raise Failure(codes.PARSE_MODEL, 'this is no offline model')
    _, version, _, length, graph_at, graph_size, plan_at, plan_size = _HEADER.unpack(header)
    if version != _VERSION:
        raise Failure(codes.DESERIALIZE_MODEL,
                      f'offline model of version {version}; this library reads {_VERSION}')
    if size < length or plan_at + plan_size > length or graph_at + graph_size > length:
        raise Failure(codes.GE_MODEL_DATA_SIZE_INVALID,
                      f'the model is cut short: it has {size} bytes and says {length}')
    try:
        plan = Plan.from_json(json.loads(fetch(plan_at, plan_size)))
        return Content(fetch(graph_at, graph_size), plan)
    except Exception as error:  # whatever rubbish makes json or protobuf raise
        raise Failure(codes.DESERIALIZE_MODEL, f'the model is damaged: {error}') from None


def _move(tensor: TensorProto, folder: Path, file: BinaryIO) -> None:
    """Copy a weight to the end of a file and let it be found there."""
    if tensor.data_location == TensorProto.EXTERNAL:
        found = {entry.key: entry.value for entry in tensor.external_data}
        source = folder / found['location']
        with open(source, 'rb') as weights:
            start = int(found.get('offset', 0))
            length = int(found.get('length', source.stat().st_size - start))
            weights.seek(start)
            place = _start_page(file)
            _copy(weights, file, length, source)
    else:
        if not tensor.HasField('raw_data') or len(tensor.raw_data) <= SMALL:
            return
        length = len(tensor.raw_data)
        place = _start_page(file)
        file.write(tensor.raw_data)
        tensor.ClearField('raw_data')
        tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (('location', '.'), ('offset', place), ('length', length)):
        tensor.external_data.add(key=key, value=str(value))


def _start_page(file: BinaryIO) -> int:
    file.write(bytes(-file.tell() % _PAGE))
    return file.tell()


def _copy(source: BinaryIO, target: BinaryIO, length: int, path: Path) -> None:
    while length:
        piece = source.read(min(length, 1 << 24))
        if not piece:
            raise OSError(f'{path} is cut short: {length} bytes are missing')
        target.write(piece)
        length -= len(piece)
