from hypothesis import given, strategies as st
import pytest

from tinyllama_ros.chat.stop import StopStream


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
