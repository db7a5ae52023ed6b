from dataclasses import replace
import json
from pathlib import Path
import random
import sys
from types import SimpleNamespace
from typing import Any

from hypothesis import given, strategies as st
import psutil
import pytest
from support.tiny_tokenizers import BPE, bpe_file, SENTENCEPIECE, sentencepiece_file

from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.chat.tokenizer import (
    BpeTokenizer,
    load_tokenizer,
    open_tokenizer,
    SentencePieceTokenizer,
    SPACE,
    Tokenizer,
)
from tinyllama_ros.errors import ArtifactError, ConfigError, ModelError

bpe = BpeTokenizer(bpe_file(), BPE.control_tokens)
sentencepiece = SentencePieceTokenizer(sentencepiece_file(), SENTENCEPIECE.control_tokens)
kinds = pytest.mark.parametrize('tokenizer, settings', [
    pytest.param(bpe, BPE, id='bpe'),
    pytest.param(sentencepiece, SENTENCEPIECE, id='sentencepiece')])
files = pytest.mark.parametrize('data, settings', [
    pytest.param(bpe_file(), BPE, id='bpe'),
    pytest.param(sentencepiece_file(), SENTENCEPIECE, id='sentencepiece')])
hostile = st.lists(st.sampled_from(
    [*BPE.control_tokens, *SENTENCEPIECE.control_tokens, '<0x0A>', '<|', '|>', ' ', 'a', '🤖'])
    | st.text(st.characters(exclude_categories=['Cs'], exclude_characters=SPACE), max_size=5)
).map(''.join)


@kinds
@given(text=hostile, at_start=st.booleans())
def test_text_comes_back_and_is_never_a_control_token(
        tokenizer: Tokenizer, settings: TokenizerSettings, text: str, at_start: bool) -> None:
    tokens = tokenizer.encode(text, at_start=at_start)
    space = ' ' if tokenizer.starts_with_space and at_start and text else ''
    assert tokenizer.decode(tokens) == space + text
    assert not set(tokens) & set(settings.control_tokens.values())


@kinds
@given(text=hostile)
def test_no_text_has_more_bytes_than_its_tokens_can_hold(
        tokenizer: Tokenizer, settings: TokenizerSettings, text: str) -> None:
    assert len(text.encode()) <= len(tokenizer.encode(text)) * tokenizer.longest_token


@kinds
def test_longest_token_is_that_of_the_vocabulary(
        tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    assert tokenizer.longest_token == max(
        len(tokenizer.token_bytes(token)) for token in range(tokenizer.vocab_size))


def test_words_that_were_encoded_are_not_kept_in_memory():
    chance = random.Random(0)

    def resident_bytes_after(words: int) -> int:
        for _ in range(words):
            bpe.encode(''.join(chance.choices('abcdefghij', k=250)))
        return psutil.Process().memory_info().rss
    before = resident_bytes_after(100)
    assert resident_bytes_after(2000) - before < 4e6  # 16 MB with the library's cache


@kinds
@given(text=hostile)
def test_spelled_text_has_at_most_a_character_per_token(
        tokenizer: Tokenizer, settings: TokenizerSettings, text: str) -> None:
    tokens = tokenizer.spell(text)
    assert tokenizer.decode(tokens) == text
    assert len(text) <= len(tokens) <= len(text.encode())
    assert not set(tokens) & set(settings.control_tokens.values())


@kinds
def test_spelled_marker_differs_from_the_encoded_one(
        tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    assert len(tokenizer.spell('<|user|>')) == 8
    assert len(tokenizer.encode('<|user|>')) < 8


@kinds
def test_tokens_without_text_stand_for_nothing(
        tokenizer: Tokenizer, settings: TokenizerSettings) -> None:
    silent = [*settings.control_tokens.values(), tokenizer.vocab_size, 10 ** 6]
    assert [tokenizer.token_bytes(token) for token in silent] == [b''] * len(silent)


def test_control_token_that_merges_would_build_is_spelled() -> None:
    file = json.loads(bpe_file())
    file['model']['vocab']['ab'] = token = len(file['model']['vocab'])
    file['model']['merges'].insert(0, ['a', 'b'])
    tokenizer = BpeTokenizer(json.dumps(file).encode(), BPE.control_tokens | {'ab': token})
    assert tokenizer.encode('xaby') == tokenizer.spell('xaby')


def test_control_token_that_sentencepiece_finds_in_text_is_spelled() -> None:
    tokenizer = SentencePieceTokenizer(sentencepiece_file(('<turn>',)),
                                       SENTENCEPIECE.control_tokens | {'<turn>': 3})
    assert tokenizer.token_text(3) == '<turn>'
    assert tokenizer.encode('a<turn>b', at_start=False) == tokenizer.spell('a<turn>b')
    assert tokenizer.token_bytes(3) == b''


def test_control_token_of_one_character_is_not_even_spelled() -> None:
    token = sentencepiece.spell('a')[0]
    tokenizer = SentencePieceTokenizer(sentencepiece_file(), {'a': token})
    assert tokenizer.decode(tokenizer.encode('xax', at_start=False)) == 'xax'
    assert token not in tokenizer.encode('xax')
    assert bpe.spell('a')[0] not in BpeTokenizer(bpe_file(), {'a': bpe.spell('a')[0]}).spell('xax')


def test_silent_tokens_of_sentencepiece_need_not_be_listed() -> None:
    tokenizer = SentencePieceTokenizer(sentencepiece_file(), {'</s>': 2})
    assert [tokenizer.token_bytes(token) for token in (0, 1, 2)] == [b''] * 3


def test_spelled_space_is_sentencepieces_own() -> None:
    assert [sentencepiece.token_text(token) for token in sentencepiece.spell('a b')] == [
        'a', SPACE, 'b']


def test_character_without_byte_fallback_is_left_out() -> None:
    tokenizer = SentencePieceTokenizer(sentencepiece_file(byte_fallback=False), {'</s>': 2})
    assert tokenizer.decode(tokenizer.spell('a🤖b')) == 'ab'
    assert tokenizer.spell('🤖') == []


def test_added_token_of_a_bpe_file_stands_for_its_own_text() -> None:
    file = json.loads(bpe_file())
    token = len(file['model']['vocab'])
    file['added_tokens'] = [{'id': token, 'content': '→ ', 'special': False, 'normalized': False,
                             'single_word': False, 'lstrip': False, 'rstrip': False}]
    tokenizer = BpeTokenizer(json.dumps(file).encode(), BPE.control_tokens)
    assert tokenizer.decode(tokenizer.encode('a→ b')) == 'a→ b'
    assert token in tokenizer.encode('a→ b')


def test_byte_that_the_vocabulary_lacks_is_left_out() -> None:
    file = json.loads(bpe_file())
    file['model']['vocab']['no byte'] = file['model']['vocab'].pop('ñ')  # the byte F1
    tokenizer = BpeTokenizer(json.dumps(file).encode(), BPE.control_tokens)
    assert tokenizer.spell('a\U00040000') == tokenizer.encode('a\U00040000')
    assert len(tokenizer.spell('a\U00040000')) == 1 + 3


@pytest.mark.parametrize('tokenizer', [BpeTokenizer, SentencePieceTokenizer])
def test_vocabulary_reaches_to_the_last_control_token(tokenizer: type) -> None:
    data = bpe_file() if tokenizer is BpeTokenizer else sentencepiece_file()
    assert tokenizer(data, {'<|im_end|>': 499}).vocab_size == 500
    assert tokenizer(data, {'<|im_end|>': 2}).vocab_size == 400


@files
def test_file_loads_as_the_kind_it_is(data: bytes, settings: TokenizerSettings) -> None:
    tokenizer = load_tokenizer(data, settings)
    assert type(tokenizer) is {'bpe': BpeTokenizer,
                               'sentencepiece': SentencePieceTokenizer}[settings.kind]
    assert tokenizer.vocab_size == 400


@files
@pytest.mark.parametrize('keep', [0, 10, 1000], ids=['empty', 'head', 'half'])
def test_damaged_content_is_refused(data: bytes, settings: TokenizerSettings, keep: int) -> None:
    with pytest.raises(ModelError, match=f'it is not a valid {settings.kind} tokenizer'):
        load_tokenizer(data[:keep], settings)


@files
def test_content_of_another_model_is_refused(data: bytes, settings: TokenizerSettings) -> None:
    wrong = replace(settings, control_tokens={settings.eos_token: 1})
    with pytest.raises(ModelError, match="token 1 is '<.*>', but the model has '</s>'|'<.im_end"):
        load_tokenizer(data, wrong)


@files
def test_missing_library_is_named_with_its_command(
        monkeypatch: pytest.MonkeyPatch, data: bytes, settings: TokenizerSettings) -> None:
    library = {'bpe': 'tokenizers', 'sentencepiece': 'sentencepiece'}[settings.kind]
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ConfigError, match=f'pip install {library}$'):
        load_tokenizer(data, settings)


@files
def test_file_of_an_artifact_that_cannot_be_used_is_named(
        tmp_path: Path, data: bytes, settings: TokenizerSettings) -> None:
    artifact: Any = SimpleNamespace(tokenizer=tmp_path / settings.file_name,
                                    manifest=SimpleNamespace(tokenizer=settings))
    with pytest.raises(ArtifactError, match=rf'/{settings.file_name} cannot be used: .*No such'):
        open_tokenizer(artifact)
    artifact.tokenizer.write_bytes(data[:100])
    with pytest.raises(ArtifactError, match='used: it is not a valid .* build the artifact again'):
        open_tokenizer(artifact)
    artifact.tokenizer.write_bytes(data)
    assert open_tokenizer(artifact).vocab_size == 400
