import sys

import pytest

from tinyllama_ros.chat.sentences import SentenceStream
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


def test_missing_library_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'sentence_stream', None)
    with pytest.raises(ConfigError, match='pip install sentence-stream$'):
        SentenceStream()
