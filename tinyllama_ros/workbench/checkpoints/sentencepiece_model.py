"""
Read and write the pieces of a SentencePiece model file.

By hand, because the generated code that sentencepiece ships works with one version of protobuf
only. Field numbers: sentencepiece_model.proto of sentencepiece 0.2.3.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
import struct

from tinyllama_ros.errors import ModelError


class PieceType(IntEnum):
    """What a piece stands for; GGUF numbers its token types the same way."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Piece:
    """One entry of the vocabulary; its id is its place in the list."""

    text: str
    score: float
    type: PieceType


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
"""Bytes, for 64 bits."""
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3


def read_pieces(content: bytes) -> tuple[list[Piece], bytes]:
    """
    Return the pieces of a model file, and all its other fields as they stand.

    :raises ModelError: the bytes are no SentencePiece model, or are cut short.
    """
    pieces, others = [], []
    try:
        for number, value, raw in _fields(content):
            if number == _PIECES and isinstance(value, bytes):
                pieces.append(_piece(value))
            else:
                others.append(raw)
    except (IndexError, ValueError, struct.error) as error:
        raise ModelError(f'not a SentencePiece model, or cut short ({error})') from error
    if not pieces:
        raise ModelError('not a SentencePiece model: it holds no pieces')
    return pieces, b''.join(others)


def write_pieces(pieces: list[Piece], others: bytes) -> bytes:
    """Return a model file; `others` as read_pieces or llama_options gave them."""
    return b''.join(_bytes_field(_PIECES, _piece_bytes(piece)) for piece in pieces) + others


def llama_options(vocab_size: int, unknown: int, begin: int, end: int, *,
                  dummy_prefix: bool) -> bytes:
    """Return the trainer's and the normalizer's fields as Llama's own vocabulary has them."""
    bpe = 2
    trainer = (_varint_field(3, bpe) + _varint_field(4, vocab_size) + _varint_field(35, 1)
               + _varint_field(40, unknown) + _varint_field(41, begin) + _varint_field(42, end)
               + _varint_field(43, -1))
    normalizer = (_bytes_field(1, b'identity') + _varint_field(3, dummy_prefix)
                  + _varint_field(4, 0) + _varint_field(5, 1))
    return _bytes_field(_TRAINER, trainer) + _bytes_field(_NORMALIZER, normalizer)


def _piece(content: bytes) -> Piece:
    text, score, kind = '', 0.0, PieceType.NORMAL
    for number, value, _ in _fields(content):
        if number == 1 and isinstance(value, bytes):
            text = value.decode()
        elif number == 2 and isinstance(value, bytes):
            score = struct.unpack('<f', value)[0]
        elif number == 3 and isinstance(value, int):
            kind = PieceType(value)
    return Piece(text, score, kind)


def _piece_bytes(piece: Piece) -> bytes:
    return (_bytes_field(1, piece.text.encode())
            + _varint(2 << 3 | _FIXED32) + struct.pack('<f', piece.score)
            + _varint_field(3, piece.type))


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes, bytes]]:
    """Yield number, value (int for a varint, else bytes) and the whole field as it stands."""
    start = 0
    while start < len(content):
        tag, at = _read_varint(content, start)
        value: int | bytes
        if tag & 7 == _VARINT:
            value, end = _read_varint(content, at)
        else:
            size, at = _value_size(content, at, tag & 7)
            end = at + size
            value = content[at:end]
        if end > len(content):
            raise ValueError(f'a field ends at {end}, the file at {len(content)}')
        yield tag >> 3, value, content[start:end]
        start = end


def _value_size(content: bytes, at: int, wire_type: int) -> tuple[int, int]:
    """Return the size of a value that is no varint, and where it begins."""
    if wire_type == _BYTES:
        return _read_varint(content, at)
    sizes = {_FIXED32: 4, _FIXED64: 8}
    if wire_type not in sizes:
        raise ValueError(f'wire type {wire_type} at byte {at}')
    return sizes[wire_type], at


def _read_varint(content: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 7 * _LONGEST_VARINT, 7):
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError(f'a number of more than {_LONGEST_VARINT} bytes ends at byte {at}')


def _varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative number is written as its 64-bit complement
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3 | _VARINT) + _varint(value)


def _bytes_field(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value
