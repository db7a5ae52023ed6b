"""Reads the tokenizer of a Hugging Face folder: tokenizer.model or .json, and its settings."""

from pathlib import Path
import sys
from typing import Any

from tinyllama_ros.artifact.disk import read_file, required_text
from tinyllama_ros.artifact.fields import shorten
from tinyllama_ros.artifact.tokenizer_settings import FILE_NAMES, TokenizerKind, TokenizerSettings
from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.checkpoint import tokenizer_settings_of, TokenizerFile
from tinyllama_ros.workbench.checkpoints.named_values import NamedValues
from tinyllama_ros.workbench.checkpoints.sentencepiece_model import (
    Piece,
    PieceType,
    read_pieces,
)
from tinyllama_ros.workbench.checkpoints.vocabulary import (
    beyond_embedding,
    bpe_file,
    control_tokens_of,
    GPT2_BYTES,
    known_pieces,
    LOOKS_SPECIAL,
    sentencepiece_file,
)

# Keys of a BPE model that change how text is encoded unless they have one of these values.
_NEUTRAL_BPE_KEYS = {
    'dropout': (0.0,), 'continuing_subword_prefix': ('',), 'end_of_word_suffix': ('',)}
_MOST_TOKENS = 1 << 24
_LONGEST_PATTERN = 2000
"""Characters; the patterns of known models have at most some 400."""


def tokenizer_from_folder(folder: Path) -> TokenizerFile:
    """
    Return the tokenizer of a Hugging Face folder: tokenizer.model, else tokenizer.json.

    :raises ModelError: both are missing, or a file cannot be read or used.
    """
    config = NamedValues.from_json(folder / 'tokenizer_config.json')
    if (folder / FILE_NAMES['sentencepiece']).exists():
        return _sentencepiece_from_folder(folder, config)
    if (folder / FILE_NAMES['bpe']).exists():
        return _bpe_from_folder(folder, config)
    raise ModelError(f'{folder} has no tokenizer.model and no tokenizer.json; '
                     'download that file of the model into the folder, too')


def _sentencepiece_from_folder(folder: Path, config: NamedValues) -> TokenizerFile:
    path = folder / FILE_NAMES['sentencepiece']
    try:
        pieces, others = read_pieces(read_file(path))
    except OSError as error:
        raise ModelError(f'{path} cannot be read: {error}') from error
    except ModelError as error:
        raise ModelError(f'{path} cannot be read: {error}; fetch it again') from error
    pieces += _pieces_added(config, len(pieces))
    pieces = known_pieces(path, pieces, _vocab_size(folder))
    begin = _special_token(config, 'bos_token', '<s>')
    end = _special_token(config, 'eos_token', '</s>')
    stops = [number for number in _stop_tokens(folder) if number < len(pieces)]
    control, text_tokens = control_tokens_of(
        pieces, (begin, end, *(pieces[number].text for number in stops)))
    settings = _settings_from_folder('sentencepiece', folder, config, begin, end, control, stops,
                                     text_tokens)
    return sentencepiece_file(settings, path, pieces, others)


def _pieces_added(config: NamedValues, first: int) -> list[Piece]:
    """Return the tokens that the configuration appends to the vocabulary."""
    decoder: dict[str, Any] = config.optional('added_tokens_decoder', dict, {})
    added = {}
    for key, token in decoder.items():
        if not (key.isdecimal() and len(key) < 10 and _is_token(token)):
            raise ModelError(f'{config.path}: added_tokens_decoder has {shorten(key)} as '
                             f'{shorten(token)}; it must map ids to tokens with their content, '
                             'use another checkpoint')
        added[int(key)] = Piece(token['content'], 0.0, PieceType.CONTROL if token.get('special')
                                else PieceType.USER_DEFINED)
    numbers = sorted(number for number in added if number >= first)
    if numbers != list(range(first, first + len(numbers))):
        raise ModelError(f'{config.path}: added_tokens_decoder has a gap in its ids after '
                         f'{first - 1}; use another checkpoint')
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
        raise beyond_embedding(path, text, beyond[text], vocab_size)
    words = {text: number for text, number in words.items() if text not in beyond}
    vocabulary = words | {token['content']: token['id'] for token in added}
    texts = {number: text for text, number in vocabulary.items()}
    stops = [number for number in _stop_tokens(folder) if number in texts]
    special = {token['content']: token['id'] for token in added if token.get('special')}
    special |= {text: vocabulary[text] for text in (begin, end) if text in vocabulary}
    special |= {texts[number]: number for number in stops}
    others = {token['content']: token['id'] for token in added
              if token['content'] not in special and LOOKS_SPECIAL.fullmatch(token['content'])}
    control = special | others
    settings = _settings_from_folder('bpe', folder, config, begin, end, control, stops,
                                     tuple(others.values()))
    return bpe_file(settings, path, {
        'version': '1.0', 'normalizer': content.raw('normalizer'),
        'model': model | {'vocab': vocabulary},
        'added_tokens': [token for token in added if token['content'] not in control],
        'pre_tokenizer': content.raw('pre_tokenizer'), 'decoder': GPT2_BYTES})


def _tokens_added(content: NamedValues) -> list[dict[str, Any]]:
    """Return the tokens that a tokenizer.json adds to its vocabulary, each with text and id."""
    added: list[Any] = content.optional('added_tokens', list, [])
    for token in added:
        if not _is_token(token):
            raise ModelError(f'{content.path}: added_tokens has {shorten(token)}; it must be '
                             'a token with its id and content: use another checkpoint')
        _check_id(content.path, token['content'], token.get('id'))
    return added


def _check_id(path: Path, text: str, number: Any) -> None:
    if type(number) is not int or not 0 <= number < _MOST_TOKENS:
        raise ModelError(f'{path}: the token {shorten(text)} has the id {shorten(number)}; it '
                         f'must be a whole number below {_MOST_TOKENS}: use another checkpoint')


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
    """Return whether a pre-tokenizer, or one of its steps, is byte-level."""
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
                             'have; use another checkpoint')
    return tokenizer_settings_of(
        config.path, kind=kind, chat_template=_folder_template(folder, config),
        bos_token=begin, eos_token=end,
        add_bos=bool(begin) and config.optional('add_bos_token', bool, kind == 'sentencepiece'),
        control_tokens=control, stop_tokens=tuple(stops), text_tokens=text_tokens)


def _vocab_size(folder: Path) -> int:
    """Return how many tokens the model has by config.json; sys.maxsize if it does not say."""
    path = folder / 'config.json'
    if not path.exists():
        return sys.maxsize
    return NamedValues.from_json(path).optional('vocab_size', int, sys.maxsize)


def _stop_tokens(folder: Path) -> list[int]:
    """
    Return the ids of end tokens in config.json and generation_config.json.

    They may be beyond the vocabulary; such tokens are never produced.
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
    """Return the chat template: of chat_template.jinja, else of the configuration, else ''."""
    path = folder / 'chat_template.jinja'
    if path.exists():
        return required_text(path, 'the chat template', ModelError)
    template = config.raw('chat_template')
    if isinstance(template, list):
        templates = config.several('chat_template', dict)
        template = next((entry.get('template') for entry in templates
                         if entry.get('name') == 'default'), None)
    return template if isinstance(template, str) else ''


def _special_token(config: NamedValues, key: str, default: str) -> str:
    """Return the text of a token that the configuration gives as a string or as an object."""
    value = config.raw(key)
    text = value.get('content') if isinstance(value, dict) else value
    return text if isinstance(text, str) else default
