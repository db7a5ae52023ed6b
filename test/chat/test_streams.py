from hypothesis import given, strategies as st
import pytest
from support.tiny_tokenizers import BPE, bpe_file, SENTENCEPIECE, sentencepiece_file

from tinyllama_ros.chat.streams import StopStream, TextStream
from tinyllama_ros.chat.tokenizer import BpeTokenizer, SentencePieceTokenizer, Tokenizer

bpe = BpeTokenizer(bpe_file(), BPE.control_tokens)
sentencepiece = SentencePieceTokenizer(sentencepiece_file(), SENTENCEPIECE.control_tokens)
kinds = pytest.mark.parametrize('tokenizer', [
    pytest.param(bpe, id='bpe'), pytest.param(sentencepiece, id='sentencepiece')])


def whole(tokenizer: Tokenizer, tokens: list[int]) -> str:
    text = tokenizer.decode(tokens)
    return text.removeprefix(' ') if tokenizer.starts_with_space else text


@kinds
@given(tokens=st.lists(st.integers(0, 399)))
def test_pieces_joined_are_the_whole(tokenizer: Tokenizer, tokens: list[int]) -> None:
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in tokens] + [stream.finish()]
    assert ''.join(pieces) == whole(tokenizer, tokens)


@kinds
@given(text=st.text(st.characters(exclude_categories=['Cs'], exclude_characters='\ufffd\u2581')))
def test_no_character_is_cut(tokenizer: Tokenizer, text: str) -> None:
    stream = TextStream(tokenizer)
    pieces = [stream.push(token) for token in tokenizer.spell(text)]
    assert ''.join(pieces) == (text.removeprefix(' ') if tokenizer is sentencepiece else text)
    assert stream.finish() == ''


@kinds
def test_unfinished_character_is_marked_at_the_end(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    assert [stream.push(token) for token in tokenizer.spell('🤖')[:3]] == ['', '', '']
    assert stream.finish() == '\ufffd'


@pytest.mark.parametrize('text, pieces', [
    pytest.param('hi', 'hi', id='none of its own'), pytest.param(' hi', 'hi', id='one'),
    pytest.param('  hi', ' hi', id='two'), pytest.param('a b', 'a b', id='inside')])
def test_only_the_first_space_of_sentencepiece_is_dropped(text: str, pieces: str) -> None:
    stream = TextStream(sentencepiece)
    eos = SENTENCEPIECE.control_tokens['</s>']
    tokens = [eos, *sentencepiece.spell(text)]
    assert ''.join(map(stream.push, tokens)) == pieces


def test_of_two_spaces_in_one_token_one_is_kept() -> None:
    tokenizer = SentencePieceTokenizer(sentencepiece_file(('\u2581\u2581',)), {'</s>': 2})
    assert tokenizer.token_bytes(3) == b'  '
    assert TextStream(tokenizer).push(3) == ' '


@kinds
def test_stream_starts_afresh_after_its_end(tokenizer: Tokenizer) -> None:
    stream = TextStream(tokenizer)
    stream.push(tokenizer.spell('🤖')[0])
    stream.finish()
    assert ''.join(map(stream.push, tokenizer.encode('new'))) == 'new'
    assert stream.finish() == ''


def told(stops: list[str], pieces: list[str]) -> list[str]:
    stream = StopStream(stops)
    return [*map(stream.push, pieces), stream.finish()]


def test_without_stop_texts_all_comes_at_once():
    assert told([], ['a', '', 'bc']) == ['a', '', 'bc', '']


def test_text_ends_before_a_stop_text_that_spans_pieces():
    stream = StopStream(['\n\nQ:'])
    assert [stream.push(piece) for piece in ('yes', '.\n', '\nQ', ': no', ' more')] == [
        'yes', '.', '', '', '']
    assert stream.has_ended and stream.finish() == ''


def test_what_only_looked_like_a_stop_text_is_not_lost():
    assert told(['abc'], ['xab', 'abd', 'ab']) == ['x', 'ab' + 'abd', '', 'ab']


def test_first_of_several_ends_the_text():
    assert told(['cd', 'b'], ['abcd']) == ['a', '']


@pytest.mark.parametrize('pieces', [['aab'], ['a', 'a', 'b'], ['aa', 'b']])
def test_overlapping_beginnings_are_found(pieces):
    assert ''.join(told(['ab'], pieces)) == 'a'


@given(st.lists(st.text('ab', min_size=1, max_size=4), max_size=3),
       st.lists(st.text('ab', max_size=4), max_size=8))
def test_text_ends_where_the_first_stop_text_is_complete_however_it_is_cut(stops, pieces):
    text = ''.join(pieces)
    begins = [end - len(stop) for end in range(len(text) + 1)
              for stop in sorted(stops, key=len, reverse=True) if text[:end].endswith(stop)]
    stream = StopStream(stops)
    said = ''.join(map(stream.push, pieces)) + stream.finish()
    assert said == text[:begins[0] if begins else None]
    assert stream.has_ended == bool(begins)
