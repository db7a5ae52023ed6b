"""
Read and write the pieces of a SentencePiece model file.

The messages are declared here, because the generated code that sentencepiece ships works with one
version of protobuf only. Field numbers: sentencepiece_model.proto of sentencepiece 0.2.3.
"""

from dataclasses import dataclass
from enum import IntEnum

from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from tinyllama_ros.errors import ModelError

# Fields that are not named here are kept as they stand. Enumerations are declared as integers.
_SCHEMA = """
name: "pieces.proto"
message_type { name: "Piece"
    field { name: "text" number: 1 type: TYPE_BYTES }
    field { name: "score" number: 2 type: TYPE_FLOAT }
    field { name: "type" number: 3 type: TYPE_INT32 default_value: "1" } }
message_type { name: "Pieces"
    field { name: "pieces" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE
            type_name: "Piece" } }
message_type { name: "Trainer"
    field { name: "model_type" number: 3 type: TYPE_INT32 }
    field { name: "vocab_size" number: 4 type: TYPE_INT32 }
    field { name: "byte_fallback" number: 35 type: TYPE_BOOL }
    field { name: "unk_id" number: 40 type: TYPE_INT32 }
    field { name: "bos_id" number: 41 type: TYPE_INT32 }
    field { name: "eos_id" number: 42 type: TYPE_INT32 }
    field { name: "pad_id" number: 43 type: TYPE_INT32 } }
message_type { name: "Normalizer"
    field { name: "name" number: 1 type: TYPE_STRING }
    field { name: "add_dummy_prefix" number: 3 type: TYPE_BOOL }
    field { name: "remove_extra_whitespaces" number: 4 type: TYPE_BOOL }
    field { name: "escape_whitespaces" number: 5 type: TYPE_BOOL } }
message_type { name: "Options"
    field { name: "trainer" number: 2 type: TYPE_MESSAGE type_name: "Trainer" }
    field { name: "normalizer" number: 3 type: TYPE_MESSAGE type_name: "Normalizer" } }
"""
_POOL = DescriptorPool()
_POOL.AddSerializedFile(text_format.Parse(_SCHEMA, FileDescriptorProto()).SerializeToString())
_Pieces, _Options = (GetMessageClass(_POOL.FindMessageTypeByName(name))
                     for name in ('Pieces', 'Options'))
_BPE = 2
"""Type of a model, for the trainer."""


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


def read_pieces(content: bytes) -> tuple[list[Piece], bytes]:
    """
    Return the pieces of a model file, and all its other fields as they stand.

    :raises ModelError: the bytes are no SentencePiece model, or are cut short.
    """
    try:
        file = _Pieces.FromString(content)
        pieces = [Piece(piece.text.decode(), piece.score, PieceType(piece.type))
                  for piece in file.pieces]
    except (DecodeError, ValueError) as error:
        raise ModelError(f'not a SentencePiece model, or cut short ({error})') from error
    if not pieces:
        raise ModelError('not a SentencePiece model: it holds no pieces')
    file.ClearField('pieces')
    return pieces, file.SerializeToString()


def write_pieces(pieces: list[Piece], others: bytes) -> bytes:
    """Return a model file; `others` as read_pieces or llama_options gave them."""
    file = _Pieces(pieces=[vars(piece) | {'text': piece.text.encode()} for piece in pieces])
    return bytes(file.SerializeToString()) + others


def llama_options(vocab_size: int, unknown: int, begin: int, end: int, *,
                  dummy_prefix: bool) -> bytes:
    """Return the trainer's and the normalizer's fields as Llama's own vocabulary has them."""
    options = _Options(
        trainer={'model_type': _BPE, 'vocab_size': vocab_size, 'byte_fallback': True,
                 'unk_id': unknown, 'bos_id': begin, 'eos_id': end, 'pad_id': -1},
        normalizer={'name': 'identity', 'add_dummy_prefix': dummy_prefix,
                    'remove_extra_whitespaces': False, 'escape_whitespaces': True})
    return bytes(options.SerializeToString())

