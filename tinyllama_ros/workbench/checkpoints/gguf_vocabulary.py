"""Makes a tokenizer from the metadata of a GGUF file."""

from collections.abc import Mapping
from typing import Any

from tinyllama_ros.artifact.tokenizer_settings import TokenizerKind, TokenizerSettings
from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.checkpoint import tokenizer_settings_of, TokenizerFile
from tinyllama_ros.workbench.checkpoints.named_values import NamedValues
from tinyllama_ros.workbench.checkpoints.sentencepiece_model import (
    llama_options,
    Piece,
    PieceType,
)
from tinyllama_ros.workbench.checkpoints.vocabulary import (
    bpe_file,
    BYTE_LEVEL,
    control_tokens_of,
    GPT2_BYTES,
    known_pieces,
    sentencepiece_file,
)

_LLAMA3_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                 r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+')

# Pre-tokenizers (they split text before the merges) by their GGUF name, tokenizer.ggml.pre.
PRE_TOKENIZERS: Mapping[str, Mapping[str, Any]] = {
    'gpt-2': GPT2_BYTES,
    'smollm': {'type': 'Sequence', 'pretokenizers': [
        {'type': 'Digits', 'individual_digits': True}, GPT2_BYTES]},
    'llama-bpe': {'type': 'Sequence', 'pretokenizers': [
        {'type': 'Split', 'pattern': {'Regex': _LLAMA3_WORDS}, 'behavior': 'Isolated',
         'invert': False},
        BYTE_LEVEL | {'use_regex': False}]},
}
_GGUF_STOP_TOKENS = ('tokenizer.ggml.eot_token_id', 'tokenizer.ggml.eom_token_id')
"""End of a turn and of a message; they end an answer, as the end of text does."""


def tokenizer_from_metadata(metadata: NamedValues) -> TokenizerFile:
    """
    Return the tokenizer that the metadata of a GGUF file describes.

    :raises ModelError: the kind is not supported, or the metadata are inconsistent.
    """
    model = metadata.required('tokenizer.ggml.model', str)
    if model == 'gpt2':
        return _bpe_from_metadata(metadata)
    if model == 'llama':
        return _sentencepiece_from_metadata(metadata)
    raise ModelError(f'{metadata.path}: tokenizer {model!r} is not supported; '
                     'supported: gpt2 (byte-level BPE), llama (SentencePiece)')


def _bpe_from_metadata(metadata: NamedValues) -> TokenizerFile:
    words = metadata.optional('tokenizer.ggml.pre', str, 'gpt-2')
    if words not in PRE_TOKENIZERS:
        raise ModelError(f'{metadata.path}: pre-tokenizer {words!r} is not supported; '
                         f'supported: {", ".join(PRE_TOKENIZERS)}')
    tokens = _tokens(metadata)
    settings = _settings(
        'bpe', metadata, tokens, add_bos=words == 'llama-bpe')
    vocabulary = {piece.text: number for number, piece in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise ModelError(f'{metadata.path}: two tokens have the same text; use another file')
    added = [_added_token(number, piece.text) for number, piece in enumerate(tokens)
             if piece.type == PieceType.USER_DEFINED
             and piece.text not in settings.control_tokens]
    model = {'type': 'BPE', 'vocab': vocabulary, 'ignore_merges': words == 'llama-bpe',
             'merges': metadata.several('tokenizer.ggml.merges', str)}
    return bpe_file(settings, metadata.path, {
        'version': '1.0', 'added_tokens': added, 'normalizer': None,
        'pre_tokenizer': PRE_TOKENIZERS[words], 'decoder': GPT2_BYTES, 'model': model})


def _sentencepiece_from_metadata(metadata: NamedValues) -> TokenizerFile:
    pieces = _tokens(metadata)
    settings = _settings('sentencepiece', metadata, pieces, add_bos=True)
    unknown = 'tokenizer.ggml.unknown_token_id'
    options = llama_options(
        len(pieces), _token_id(metadata, pieces, unknown) if unknown in metadata else 0,
        settings.control_tokens.get(settings.bos_token, -1),
        settings.control_tokens[settings.eos_token],
        dummy_prefix=metadata.optional('tokenizer.ggml.add_space_prefix', bool, True))
    return sentencepiece_file(settings, metadata.path, pieces, options)


def _tokens(metadata: NamedValues) -> list[Piece]:
    """Return the vocabulary of a GGUF file; a BPE vocabulary need not have scores."""
    texts = metadata.several('tokenizer.ggml.tokens', str)
    types = metadata.several('tokenizer.ggml.token_type', int)
    scores = (metadata.several('tokenizer.ggml.scores', float)
              if 'tokenizer.ggml.scores' in metadata else [0.0] * len(texts))
    if not len(texts) == len(types) == len(scores):
        raise ModelError(f'{metadata.path}: {len(texts)} tokens, {len(types)} types and '
                         f'{len(scores)} scores; their numbers must be equal; use another file')
    try:
        pieces = [Piece(text, score, PieceType(kind))
                  for text, score, kind in zip(texts, scores, types, strict=True)]
    except ValueError as error:
        raise ModelError(f'{metadata.path}: tokenizer.ggml.token_type: {error}; '
                         'use another file') from error
    vocab_size = metadata.optional('llama.vocab_size', int, len(pieces))
    return known_pieces(metadata.path, pieces, vocab_size)


def _settings(kind: TokenizerKind, metadata: NamedValues, tokens: list[Piece], *,
              add_bos: bool) -> TokenizerSettings:
    end = tokens[_token_id(metadata, tokens, 'tokenizer.ggml.eos_token_id')].text
    begin = (tokens[_token_id(metadata, tokens, 'tokenizer.ggml.bos_token_id')].text
             if 'tokenizer.ggml.bos_token_id' in metadata else '')
    stops = [tokens[_token_id(metadata, tokens, key)].text
             for key in _GGUF_STOP_TOKENS if key in metadata]
    control, text_tokens = control_tokens_of(tokens, (begin, end, *stops))
    return tokenizer_settings_of(
        metadata.path, kind=kind,
        chat_template=metadata.optional('tokenizer.chat_template', str, ''),
        bos_token=begin, eos_token=end,
        add_bos=bool(begin) and metadata.optional('tokenizer.ggml.add_bos_token', bool, add_bos),
        control_tokens=control, stop_tokens=tuple(control[text] for text in stops),
        text_tokens=text_tokens)


def _token_id(metadata: NamedValues, tokens: list[Piece], key: str) -> int:
    number = metadata.required(key, int)
    if not 0 <= number < len(tokens):
        raise ModelError(f'{metadata.path}: {key} is {number}, the vocabulary ends at '
                         f'{len(tokens) - 1}; use another file')
    return number


def _added_token(number: int, text: str) -> dict[str, Any]:
    return {'id': number, 'content': text, 'single_word': False, 'lstrip': False,
            'rstrip': False, 'normalized': False, 'special': False}
