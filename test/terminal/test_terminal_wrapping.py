from hypothesis import given, strategies
import pytest
from support.held_texts import longest_text
from wcwidth import wcswidth

from tinyllama_ros.terminal.wrapping import LineWrapper, wrapped

TEXTS = strategies.text('ab ,.()-\n中文字。，「」é\u0301👍👩\u200d🔬🏽', max_size=60)


@pytest.mark.parametrize(('text', 'lines'), [
    ('a robot moves', ['a robot', 'moves']),
    ('a robot. It', ['a robot.', 'It']),
    ('exactly8 next', ['exactly8', 'next']),
    ('supercalifragilistic', ['supercal', 'ifragili', 'stic']),
    ('I supercalifragil', ['I', 'supercal', 'ifragil']),
    ('机器人是机器', ['机器人是', '机器']),
    ('a机器人是机', ['a机器人', '是机']),
    ('机器人说。好', ['机器人', '说。好']),
    ('机器人「好」', ['机器人', '「好」']),
    ('one\n\ntwo', ['one', '', 'two']),
    ('  indented', ['indented']),
    ('  ind x', ['  ind x']),
    ('a\tb', ['a', 'b']),
    ('👩\u200d🔬👩\u200d🔬👩\u200d🔬👩\u200d🔬👩\u200d🔬', ['👩\u200d🔬' * 4, '👩\u200d🔬']),
    ('abcdefge\u0301', ['abcdefge\u0301']),
], ids=['words', 'stop stays', 'full line', 'long word', 'long word later', 'wide',
        'odd wide', 'no stop first', 'bracket goes along', 'empty line', 'dropped indent',
        'indent', 'tab', 'joined emoji', 'accent'])
def test_lines_of_eight_cells(text, lines):
    assert wrapped(text, 8).split('\n') == lines


@given(TEXTS, strategies.integers(4, 12), strategies.integers(1, 7))
def test_pieces_give_the_lines_of_the_whole(text, width, size):
    wrapper = LineWrapper()
    pieces = [wrapper.push(text[at:at + size], width) for at in range(0, len(text), size)]
    assert ''.join(pieces) + wrapper.finish(width) == wrapped(text, width)


@given(TEXTS, strategies.integers(4, 12))
def test_no_line_is_wider_than_the_terminal(text, width):
    assert all(wcswidth(line) <= width for line in wrapped(text, width).split('\n'))


@given(TEXTS, strategies.integers(4, 12))
def test_wrapping_changes_white_space_only(text, width):
    assert ''.join(wrapped(text, width).split()) == ''.join(text.split())


def test_only_the_growing_word_is_held_back():
    wrapper = LineWrapper()
    assert [wrapper.push(piece, 20) for piece in ('The ro', 'bot mo', 've')] == [
        'The', ' robot', '']
    assert wrapper.finish(20) == ' move'


def test_terminal_that_became_narrow_is_followed():
    wrapper = LineWrapper()
    wrapper.push('one two three four ', 20)  # 18 cells: the narrow terminal shows 8 and 8 and 2
    assert wrapper.push('five six ', 8) == ' five\nsix'


@pytest.mark.parametrize('width', [0, 1, 3])
def test_window_without_room_breaks_at_four(width):
    assert wrapped('abcdef', width) == 'abcd\nef'


@pytest.mark.parametrize('character', [' ', '\t', '\u0301'], ids=ascii)
def test_what_is_held_back_does_not_grow_for_ever(character):
    wrapper = LineWrapper()
    for _ in range(1000):
        wrapper.push(character, 40)
        assert longest_text(wrapper) <= 201
