import sys

import pytest

from tinyllama_ros.chat.sentences import LONGEST_SENTENCE, SentenceStream
from tinyllama_ros.errors import ConfigError


@pytest.mark.parametrize('size', [1, 3, 100])
def test_sentences_do_not_depend_on_the_pieces(size: int) -> None:
    text = 'I am a robot. I cost 3.50 euros! Dr. Who asked?\n\nYes'
    stream = SentenceStream()
    pieces = [text[start:start + size] for start in range(0, len(text), size)]
    sentences = [sentence for piece in pieces for sentence in stream.push(piece)]
    assert sentences + stream.finish() == [
        'I am a robot.', 'I cost 3.50 euros!', 'Dr. Who asked?', 'Yes']


def test_sentence_comes_as_soon_as_the_next_begins() -> None:
    stream = SentenceStream()
    assert stream.push('First. ') == []
    assert stream.push('T') == ['First.']
    assert stream.finish() == ['T']


def test_nothing_is_left_after_the_end() -> None:
    stream = SentenceStream()
    stream.push('Cut in the mid')
    stream.finish()
    assert stream.push(' \n') + stream.finish() == []


def test_text_without_the_end_of_a_sentence_is_cut_between_two_words() -> None:
    words = [f' word{number}' for number in range(1000)]
    stream = SentenceStream()
    searched: list[int] = []
    detector = stream._detector
    add_chunk = detector.add_chunk
    detector.add_chunk = lambda text: (
        searched.append(len(detector.remaining_text) + len(text)) or add_chunk(text))
    sentences = [sentence for word in words for sentence in stream.push(word)] + stream.finish()
    assert ' '.join(sentences) == ''.join(words).strip()
    assert len(sentences) > 5 and max(searched) < LONGEST_SENTENCE + 20


def test_word_without_end_is_cut_too() -> None:
    stream = SentenceStream()
    sentences = [sentence for _ in range(5000) for sentence in stream.push('x')]
    assert set(sentences) == {'x' * (2 * LONGEST_SENTENCE + 1)}
    assert len(sentences) == 2


def test_missing_library_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'sentence_stream', None)
    with pytest.raises(ConfigError, match='pip install sentence-stream$'):
        SentenceStream()
