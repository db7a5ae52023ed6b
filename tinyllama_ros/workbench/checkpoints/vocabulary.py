"""
The tokenizer of a checkpoint, as an artifact holds it.

The result always obeys one rule: encoding plain text never gives a control token. Therefore in a
tokenizer.json the control tokens are in the vocabulary and not among the added tokens; in a
SentencePiece model they have the type CONTROL.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
import json
from pathlib import Path
import re
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.checkpoint import TokenizerFile
from tinyllama_ros.workbench.checkpoints.sentencepiece_model import (
    Piece,
    PieceType,
    write_pieces,
)

BYTE_LEVEL = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True}
GPT2_BYTES = BYTE_LEVEL | {'use_regex': True}
LOOKS_SPECIAL = re.compile(r'<\S+>|\[/?[A-Z_]+\]')
_TRIAL = 'A robot says "hi", 42 times: ' + 'a' * 200 + ' ' * 200 + '1' * 200 + '!' * 200


def known_pieces(path: Path, pieces: list[Piece], vocab_size: int) -> list[Piece]:
    """
    Return the tokens that the embedding of the model has.

    The model cannot produce other tokens, such as a padding token that was added for training, so
    those are left out.

    :raises ModelError: an ordinary token is beyond the embedding.
    """
    for number, piece in enumerate(pieces[vocab_size:], vocab_size):
        if piece.type not in (PieceType.CONTROL, PieceType.USER_DEFINED, PieceType.UNUSED):
            raise beyond_embedding(path, piece.text, number, vocab_size)
    return pieces[:vocab_size]


def beyond_embedding(path: Path, text: str, number: int, vocab_size: int) -> ModelError:
    return ModelError(f'{path}: the token {text!r} has id {number}, the model knows {vocab_size} '
                      'tokens; use the tokenizer that the model was trained with')


def control_tokens_of(pieces: list[Piece], always: Iterable[str]
                    ) -> tuple[dict[str, int], tuple[int, ...]]:
    """
    Return the ids by text of the tokens that structure a conversation, and which are not special.

    :param always: texts of tokens that are special, whatever their type.
    """
    special = {piece.text: number for number, piece in enumerate(pieces)
               if piece.type == PieceType.CONTROL or piece.text in always}
    others = {piece.text: number for number, piece in enumerate(pieces)
              if piece.type == PieceType.USER_DEFINED and piece.text not in special
              and LOOKS_SPECIAL.fullmatch(piece.text)}
    return special | others, tuple(others.values())


def bpe_file(settings: TokenizerSettings, path: Path,
              content: Mapping[str, Any]) -> TokenizerFile:
    """Return a tokenizer.json, after a test with the tokenizers library."""
    text = json.dumps(content, ensure_ascii=False)
    try:
        Tokenizer.from_str(text).encode(_TRIAL)
    except BaseException as error:
        if not (isinstance(error, Exception) or type(error).__name__ == 'PanicException'):
            raise  # a panic of the library is not an Exception
        raise ModelError(f'{path}: the vocabulary cannot be used: {error}; '
                         'use another checkpoint') from error
    return TokenizerFile(settings, text.encode())


def sentencepiece_file(settings: TokenizerSettings, path: Path, pieces: list[Piece],
                        others: bytes) -> TokenizerFile:
    """Return a tokenizer.model, after a test with the sentencepiece library."""
    sealed = [replace(piece, type=PieceType.CONTROL)
              if piece.text in settings.control_tokens and piece.type != PieceType.UNKNOWN
              else piece for piece in pieces]
    try:
        content = write_pieces(sealed, others)
        SentencePieceProcessor(model_proto=content)
    except (RuntimeError, UnicodeEncodeError) as error:
        raise ModelError(f'{path}: the vocabulary cannot be used: {error}; '
                         'use another checkpoint') from error
    return TokenizerFile(settings, content)
