"""
The tokenizer of a checkpoint, as an artifact holds it.

Whatever a checkpoint says, the result obeys one rule: plain encoding never finds a control token.
In a tokenizer.json they stand in the vocabulary and not among the added tokens; in a SentencePiece
model they are of the control type.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
import json
from pathlib import Path
import re
import sys
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import Tokenizer

from tinyllama_ros.artifact.fields import shorten
from tinyllama_ros.artifact.tokenizer_settings import FILE_NAMES, TokenizerKind, TokenizerSettings
from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.checkpoint import TokenizerFile
from tinyllama_ros.workbench.checkpoints.named_values import NamedValues
from tinyllama_ros.workbench.checkpoints.sentencepiece_model import (
    llama_options,
    Piece,
    PieceType,
    read_pieces,
    write_pieces,
)

_BYTE_LEVEL = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True}
_GPT2 = _BYTE_LEVEL | {'use_regex': True}
_LLAMA3_WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
                 r'| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+')

# How text is cut before the merges, by the name that GGUF gives it (tokenizer.ggml.pre).
PRE_TOKENIZERS: Mapping[str, Mapping[str, Any]] = {
    'gpt-2': _GPT2,
    'smollm': {'type': 'Sequence', 'pretokenizers': [
        {'type': 'Digits', 'individual_digits': True}, _GPT2]},
    'llama-bpe': {'type': 'Sequence', 'pretokenizers': [
        {'type': 'Split', 'pattern': {'Regex': _LLAMA3_WORDS}, 'behavior': 'Isolated',
         'invert': False},
        _BYTE_LEVEL | {'use_regex': False}]},
}
# Keys of a BPE model that change how text is encoded unless they have one of these values.
_NEUTRAL_BPE_KEYS = {
    'dropout': (0.0,), 'continuing_subword_prefix': ('',), 'end_of_word_suffix': ('',)}
_MOST_TOKENS = 1 << 24
_LONGEST_PATTERN = 2000
"""Characters; the patterns of known models have at most some 400."""
_TRIAL = 'A robot says "hi", 42 times: ' + 'a' * 200 + ' ' * 200 + '1' * 200 + '!' * 200
_GGUF_STOP_TOKENS = ('tokenizer.ggml.eot_token_id', 'tokenizer.ggml.eom_token_id')
"""End of a turn and of a message, which end an answer as the end of the text does."""
_LOOKS_SPECIAL = re.compile(r'<\S+>|\[/?[A-Z_]+\]')


def tokenizer_from_metadata(metadata: NamedValues) -> TokenizerFile:
    """
    Return the tokenizer that the metadata of a GGUF file describes.

    :raises ModelError: a kind that is not supported, or metadata that contradict themselves.
    """
    model = metadata.required('tokenizer.ggml.model', str)
    if model == 'gpt2':
        return _bpe_from_metadata(metadata)
    if model == 'llama':
        return _sentencepiece_from_metadata(metadata)
    raise ModelError(f'{metadata.path}: tokenizer {model!r} is not supported; '
                     'supported: gpt2 (byte-level BPE), llama (SentencePiece)')


def tokenizer_from_folder(folder: Path) -> TokenizerFile:
    """
    Return the tokenizer of a Hugging Face folder: tokenizer.model, else tokenizer.json.

    :raises ModelError: neither is there, or one of its files cannot be read or used.
    """
    config = NamedValues.from_json(folder / 'tokenizer_config.json')
    if (folder / FILE_NAMES['sentencepiece']).exists():
        return _sentencepiece_from_folder(folder, config)
    if (folder / FILE_NAMES['bpe']).exists():
        return _bpe_from_folder(folder, config)
    raise ModelError(f'{folder} has no tokenizer.model and no tokenizer.json; '
                     'fetch the model again')


def _bpe_from_metadata(metadata: NamedValues) -> TokenizerFile:
    words = metadata.optional('tokenizer.ggml.pre', str, 'gpt-2')
    if words not in PRE_TOKENIZERS:
        raise ModelError(f'{metadata.path}: pre-tokenizer {words!r} is not supported; '
                         f'supported: {", ".join(PRE_TOKENIZERS)}')
    settings = _settings_from_metadata('bpe', metadata, add_bos=words == 'llama-bpe')
    tokens = _tokens(metadata)
    vocabulary = {piece.text: number for number, piece in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        raise ModelError(f'{metadata.path}: two tokens have the same text; use another file')
    added = [_added_token(number, piece.text) for number, piece in enumerate(tokens)
             if piece.type == PieceType.USER_DEFINED
             and piece.text not in settings.control_tokens]
    model = {'type': 'BPE', 'vocab': vocabulary, 'ignore_merges': words == 'llama-bpe',
             'merges': metadata.several('tokenizer.ggml.merges', str)}
    return _bpe_file(settings, metadata.path, {
        'version': '1.0', 'added_tokens': added, 'normalizer': None,
        'pre_tokenizer': PRE_TOKENIZERS[words], 'decoder': _GPT2, 'model': model})


def _sentencepiece_from_metadata(metadata: NamedValues) -> TokenizerFile:
    settings = _settings_from_metadata('sentencepiece', metadata, add_bos=True)
    pieces = _tokens(metadata)
    options = llama_options(
        len(pieces), metadata.optional('tokenizer.ggml.unknown_token_id', int, 0),
        settings.control_tokens.get(settings.bos_token, -1),
        settings.control_tokens[settings.eos_token],
        dummy_prefix=metadata.optional('tokenizer.ggml.add_space_prefix', bool, True))
    return _sentencepiece_file(settings, metadata.path, pieces, options)


def _tokens(metadata: NamedValues) -> list[Piece]:
    """Return the vocabulary of a GGUF file; merges need no scores, so they may be absent."""
    texts = metadata.several('tokenizer.ggml.tokens', str)
    types = metadata.several('tokenizer.ggml.token_type', int)
    scores = (metadata.several('tokenizer.ggml.scores', float)
              if 'tokenizer.ggml.scores' in metadata else [0.0] * len(texts))
    if not len(texts) == len(types) == len(scores):
        raise ModelError(f'{metadata.path}: {len(texts)} tokens, {len(types)} types and '
                         f'{len(scores)} scores; they must be as many, fetch the model again')
    try:
        pieces = [Piece(text, score, PieceType(kind))
                  for text, score, kind in zip(texts, scores, types, strict=True)]
    except ValueError as error:
        raise ModelError(f'{metadata.path}: tokenizer.ggml.token_type: {error}; '
                         'fetch the model again') from error
    return _known(metadata.path, pieces, metadata.optional('llama.vocab_size', int, len(pieces)))


def _known(path: Path, pieces: list[Piece], vocab_size: int) -> list[Piece]:
    """
    Return the tokens that the model knows.

    The model cannot produce a token beyond its embedding, such as a padding token that was added
    for training, so those are left out.

    :raises ModelError: an ordinary token is among those.
    """
    for number, piece in enumerate(pieces[vocab_size:], vocab_size):
        if piece.type not in (PieceType.CONTROL, PieceType.USER_DEFINED, PieceType.UNUSED):
            raise _beyond(path, piece.text, number, vocab_size)
    return pieces[:vocab_size]


def _beyond(path: Path, text: str, number: int, vocab_size: int) -> ModelError:
    return ModelError(f'{path}: the token {text!r} has id {number}, the model knows {vocab_size} '
                      'tokens; use the tokenizer that the model was trained with')


def _settings_from_metadata(kind: TokenizerKind, metadata: NamedValues, *,
                            add_bos: bool) -> TokenizerSettings:
    tokens = _tokens(metadata)
    end = _token_text(metadata, tokens, 'tokenizer.ggml.eos_token_id')
    begin = (_token_text(metadata, tokens, 'tokenizer.ggml.bos_token_id')
             if 'tokenizer.ggml.bos_token_id' in metadata else '')
    stops = [_token_text(metadata, tokens, key) for key in _GGUF_STOP_TOKENS if key in metadata]
    control, text_tokens = _control_tokens(tokens, (begin, end, *stops))
    return TokenizerSettings(
        kind=kind, chat_template=metadata.optional('tokenizer.chat_template', str, ''),
        bos_token=begin, eos_token=end,
        add_bos=bool(begin) and metadata.optional('tokenizer.ggml.add_bos_token', bool, add_bos),
        control_tokens=control, stop_tokens=tuple(control[text] for text in stops),
        text_tokens=text_tokens)


def _token_text(metadata: NamedValues, tokens: list[Piece], key: str) -> str:
    number = metadata.required(key, int)
    if not 0 <= number < len(tokens):
        raise ModelError(f'{metadata.path}: {key} is {number}, the vocabulary ends at '
                         f'{len(tokens) - 1}; fetch the model again')
    return tokens[number].text


def _control_tokens(pieces: list[Piece], always: Iterable[str]
                    ) -> tuple[dict[str, int], tuple[int, ...]]:
    """
    Return the tokens that structure a conversation, and those of them that are not special.

    :param always: texts of tokens that are special, whatever their type.
    """
    special = {piece.text: number for number, piece in enumerate(pieces)
               if piece.type == PieceType.CONTROL or piece.text in always}
    others = {piece.text: number for number, piece in enumerate(pieces)
              if piece.type == PieceType.USER_DEFINED and piece.text not in special
              and _LOOKS_SPECIAL.fullmatch(piece.text)}
    return special | others, tuple(others.values())


def _sentencepiece_from_folder(folder: Path, config: NamedValues) -> TokenizerFile:
    path = folder / FILE_NAMES['sentencepiece']
    try:
        pieces, others = read_pieces(path.read_bytes())
    except (OSError, ModelError) as error:
        raise ModelError(f'{path} cannot be read: {error}; fetch the model again') from error
    pieces += _pieces_added(config, len(pieces))
    pieces = _known(path, pieces, _vocab_size(folder))
    begin = _special_token(config, 'bos_token', '<s>')
    end = _special_token(config, 'eos_token', '</s>')
    stops = [number for number in _stop_tokens(folder) if number < len(pieces)]
    control, text_tokens = _control_tokens(
        pieces, (begin, end, *(pieces[number].text for number in stops)))
    settings = _settings_from_folder('sentencepiece', folder, config, begin, end, control, stops,
                                     text_tokens)
    return _sentencepiece_file(settings, path, pieces, others)


def _pieces_added(config: NamedValues, first: int) -> list[Piece]:
    """Return the tokens that the configuration adds after the vocabulary's last."""
    decoder: dict[str, Any] = config.optional('added_tokens_decoder', dict, {})
    added = {}
    for key, token in decoder.items():
        if not (key.isdecimal() and len(key) < 10 and _is_token(token)):
            raise ModelError(f'{config.path}: added_tokens_decoder has {key!r} as '
                             f'{str(token)[:60]!r}; it must map ids to tokens with their content, '
                             'fetch the model again')
        added[int(key)] = Piece(token['content'], 0.0, PieceType.CONTROL if token.get('special')
                                else PieceType.USER_DEFINED)
    numbers = sorted(number for number in added if number >= first)
    if numbers != list(range(first, first + len(numbers))):
        raise ModelError(f'{config.path}: added_tokens_decoder leaves ids out after {first - 1}; '
                         'fetch the model again')
    return [added[number] for number in numbers]


def _bpe_from_folder(folder: Path, config: NamedValues) -> TokenizerFile:
    path = folder / FILE_NAMES['bpe']
    content = NamedValues.from_json(path)
    model: dict[str, Any] = content.required('model', dict)
    if model.get('type') != 'BPE' or not _is_byte_level(content.raw('pre_tokenizer')):
        raise ModelError(f'{path} is not a byte-level BPE; put the tokenizer.model '
                         'of the same model beside it')
    begin, end = (_special_token(config, key, '') for key in ('bos_token', 'eos_token'))
    section = content.section('model')
    section.refuse_others(_NEUTRAL_BPE_KEYS)
    for key in ('pre_tokenizer', 'normalizer'):
        _refuse_long_texts(path, key, content.raw(key))
    vocab_size = _vocab_size(folder)
    all_added = _tokens_added(content)
    added = [token for token in all_added if token['id'] < vocab_size]
    words: dict[str, Any] = section.required('vocab', dict)
    for text, number in words.items():
        _check_id(path, text, number)
    beyond = {text: number for text, number in words.items() if number >= vocab_size}
    for text in beyond.keys() - {token['content'] for token in all_added}:
        raise _beyond(path, text, beyond[text], vocab_size)
    words = {text: number for text, number in words.items() if text not in beyond}
    vocabulary = words | {token['content']: token['id'] for token in added}
    texts = {number: text for text, number in vocabulary.items()}
    stops = [number for number in _stop_tokens(folder) if number in texts]
    special = {token['content']: token['id'] for token in added if token.get('special')}
    special |= {text: vocabulary[text] for text in (begin, end) if text in vocabulary}
    special |= {texts[number]: number for number in stops}
    others = {token['content']: token['id'] for token in added
              if token['content'] not in special and _LOOKS_SPECIAL.fullmatch(token['content'])}
    control = special | others
    settings = _settings_from_folder('bpe', folder, config, begin, end, control, stops,
                                     tuple(others.values()))
    return _bpe_file(settings, path, {
        'version': '1.0', 'normalizer': content.raw('normalizer'),
        'model': model | {'vocab': vocabulary},
        'added_tokens': [token for token in added if token['content'] not in control],
        'pre_tokenizer': content.raw('pre_tokenizer'), 'decoder': _GPT2})


def _tokens_added(content: NamedValues) -> list[dict[str, Any]]:
    """Return the tokens that a tokenizer.json adds to its vocabulary, each with text and id."""
    added: list[Any] = content.optional('added_tokens', list, [])
    for token in added:
        if not _is_token(token):
            raise ModelError(f'{content.path}: added_tokens has {shorten(token)}; it must be '
                             'a token with its id and content: fetch the file again')
        _check_id(content.path, token['content'], token.get('id'))
    return added


def _check_id(path: Path, text: str, number: Any) -> None:
    if type(number) is not int or not 0 <= number < _MOST_TOKENS:
        raise ModelError(f'{path}: the token {shorten(text)} has the id {shorten(number)}; it '
                         f'must be a whole number below {_MOST_TOKENS}: fetch the file again')


def _refuse_long_texts(path: Path, key: str, value: Any) -> None:
    """Refuse patterns and replacements that would make every encoding slow."""
    if isinstance(value, str) and len(value) > _LONGEST_PATTERN:
        raise ModelError(f'{path}: {key} has a text of {len(value)} characters; at most '
                         f'{_LONGEST_PATTERN} are supported: use another checkpoint')
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _refuse_long_texts(path, key, item)


def _is_token(token: Any) -> bool:
    return isinstance(token, dict) and isinstance(token.get('content'), str)


def _is_byte_level(pre_tokenizer: Any) -> bool:
    """Return whether a pre-tokenizer writes bytes, by itself or in one of its steps."""
    if not isinstance(pre_tokenizer, dict):
        return False
    steps = pre_tokenizer.get('pretokenizers')
    return (pre_tokenizer.get('type') == 'ByteLevel'
            or (isinstance(steps, list) and any(map(_is_byte_level, steps))))


def _settings_from_folder(kind: TokenizerKind, folder: Path, config: NamedValues, begin: str,
                          end: str, control: dict[str, int], stops: list[int],
                          text_tokens: tuple[int, ...]) -> TokenizerSettings:
    for key, text in (('bos_token', begin), ('eos_token', end)):
        if text not in control and (text or key == 'eos_token'):
            raise ModelError(f'{config.path}: {key} is {text!r}, which the vocabulary does not '
                             'have; fetch the model again')
    return TokenizerSettings(
        kind=kind, chat_template=_folder_template(folder, config), bos_token=begin, eos_token=end,
        add_bos=bool(begin) and config.optional('add_bos_token', bool, kind == 'sentencepiece'),
        control_tokens=control, stop_tokens=tuple(stops), text_tokens=text_tokens)


def _vocab_size(folder: Path) -> int:
    """Return how many tokens the model of a folder knows, as far as the folder says that."""
    path = folder / 'config.json'
    if not path.exists():
        return sys.maxsize
    return NamedValues.from_json(path).optional('vocab_size', int, sys.maxsize)


def _stop_tokens(folder: Path) -> list[int]:
    """
    Return the ids that the configurations of the model and of its generation call the end.

    Some may be beyond the vocabulary: those are never produced.
    """
    stops: list[int] = []
    for name in ('config.json', 'generation_config.json'):
        if (folder / name).exists():
            config = NamedValues.from_json(folder / name)
            if isinstance(config.raw('eos_token_id'), list):
                stops += config.several('eos_token_id', int)
            else:
                stops.append(config.optional('eos_token_id', int, -1))
    return sorted({number for number in stops if number >= 0})


def _folder_template(folder: Path, config: NamedValues) -> str:
    """Return the chat template of a folder: its own file's, else the configuration's, else ''."""
    path = folder / 'chat_template.jinja'
    if path.exists():
        return _text_of(path)
    template = config.raw('chat_template')
    if isinstance(template, list):
        templates = config.several('chat_template', dict)
        template = next((entry.get('template') for entry in templates
                         if entry.get('name') == 'default'), None)
    return template if isinstance(template, str) else ''


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f'{path} cannot be read: {error}; fetch the model again, or write the '
                         'file as UTF-8') from error


def _special_token(config: NamedValues, key: str, default: str) -> str:
    """Return the text of a token that the configuration gives as a string or as an object."""
    value = config.raw(key)
    text = value.get('content') if isinstance(value, dict) else value
    return text if isinstance(text, str) else default


def _added_token(number: int, text: str) -> dict[str, Any]:
    return {'id': number, 'content': text, 'single_word': False, 'lstrip': False,
            'rstrip': False, 'normalized': False, 'special': False}


def _bpe_file(settings: TokenizerSettings, path: Path,
              content: Mapping[str, Any]) -> TokenizerFile:
    """Return a tokenizer.json, which the tokenizers library has read and used once."""
    text = json.dumps(content, ensure_ascii=False)
    try:
        Tokenizer.from_str(text).encode(_TRIAL)
    except BaseException as error:
        if not (isinstance(error, Exception) or type(error).__name__ == 'PanicException'):
            raise  # a panic of the library is no Exception
        raise ModelError(f'{path}: the vocabulary cannot be used: {error}; '
                         'fetch the file again, or use another checkpoint') from error
    return TokenizerFile(settings, text.encode())


def _sentencepiece_file(settings: TokenizerSettings, path: Path, pieces: list[Piece],
                        others: bytes) -> TokenizerFile:
    """Return a tokenizer.model, which the sentencepiece library has read once."""
    sealed = [replace(piece, type=PieceType.CONTROL)
              if piece.text in settings.control_tokens and piece.type != PieceType.UNKNOWN
              else piece for piece in pieces]
    try:
        content = write_pieces(sealed, others)
        SentencePieceProcessor(model_proto=content)
    except (RuntimeError, UnicodeEncodeError) as error:
        raise ModelError(f'{path}: the vocabulary cannot be used: {error}; '
                         'fetch the model again') from error
    return TokenizerFile(settings, content)
