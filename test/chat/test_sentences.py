import re
import sys
from typing import Any

from hypothesis import given, strategies as st
import pytest
from support.golden import GOLDEN
from support.paths import DATA

from tinyllama_ros.chat.sentence_ends import LOOKAHEAD
from tinyllama_ros.chat.sentences import LONGEST, Piece, SentenceStream
from tinyllama_ros.chat.spoken_text import spoken

CASES = [line.split(' | ', 2) for line in
         (DATA / 'sentences.txt').read_text(encoding='utf-8').splitlines()
         if line and not line.startswith('#')]
FIRST = 'First line\n'
"""Before each case, for the first piece of an answer may end at a clause."""
FRAGMENTS = (
    'a', 'Hi', '.', '. ', '! ', '? ', '… ', '...', '。', '！', '」', '「', '"', '(', ')', ' ',
    '\n', '\n\n', '```\n', '`', '~~~', '1', '2.', '3. ', 'Juni ', 'am ', 'Dr', 'Dr. ', 'U.S. ',
    'The ', 'A ', '[1]', '[', '»', ' »', ' «', 'Ж', 'т.е. ', '।', '؟ ', 'ไทยไทยไทยไทยไทย',
    'x' * 70, 'y' * 160, ', ', ': ', '，', '、', '; ', 'iP', '*', '**', '_', '-', '– ', '\r\n',
    '\u2028', 'े', 'Γεια', ';', 'Ես', ':', '《', '》', '5,', '000', '  ', '\t', '\x85', '．', '(He',
    'e.g. ', 'J. ', '\u0e31', '\N{ZERO WIDTH JOINER}', '😀')


def pieces(text: str, size: int = 0) -> list[Piece]:
    """Return the pieces of a text that comes in deltas of one size, or whole."""
    size = size or len(text) or 1
    return pieces_of([text[start:start + size] for start in range(0, len(text), size)])


def pieces_of(deltas: list[str]) -> list[Piece]:
    stream = SentenceStream()
    found = [piece for delta in deltas for piece in stream.push(delta)]
    return found + stream.finish()


def texts(found: list[Piece]) -> list[str]:
    return [piece.text for piece in found]


def squeezed(text: str) -> str:
    return ''.join(text.split())


def test_table_has_200_cases_and_the_punctuation_of_15_languages() -> None:
    languages = {case[0] for case in CASES if len(case[0]) == 2}
    reports = {case[1] for case in CASES if case[1] != '-'}
    assert len(CASES) >= 200 and len(languages) >= 15 and len(reports) >= 20


@pytest.mark.parametrize(('subject', 'source', 'case'), CASES, ids=[case[2] for case in CASES])
def test_sentence_ends_where_the_table_says(subject: str, source: str, case: str) -> None:
    case = case.replace('⏎', '\n').replace('\\u037e', '\u037e').replace('\\r', '\r')
    text = FIRST + case.replace('‖', '')
    expected = [FIRST.strip(), *filter(None, (part.strip() for part in case.split('‖')))]
    whole = pieces(text)
    assert texts(whole) == expected
    assert [pieces(text, size) for size in (1, 2, 3, 7)] == [whole] * 4


@given(st.data())
def test_pieces_do_not_depend_on_how_the_text_was_cut(data: st.DataObject) -> None:
    text = ''.join(data.draw(st.lists(st.sampled_from(FRAGMENTS), max_size=40)))
    places = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    deltas = [text[start:end] for start, end in zip([0, *places], [*places, None],
                                                         strict=True)]
    assert pieces_of(deltas) == pieces(text) == pieces(text, 1)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=60).map(''.join))
def test_pieces_joined_are_the_text_and_none_is_endless(text: str) -> None:
    found = texts(pieces(text))
    assert squeezed(''.join(found)) == squeezed(text)
    assert all(0 < len(piece) <= LONGEST + 2 * LOOKAHEAD for piece in found)


@pytest.mark.parametrize(('unit', 'length'), [
    *((unit, 100_000) for unit in ('word ', 'a', '字', ' ')),
    *((unit, 5_000) for unit in ('7', '.', '. ', '`', '[', '《', ', ', '"', 'ไทย ', 'Dr. ', '.»',
                                  'U.S. A ', '```', '\t', 'e\u0301', '1. 2. '))])
def test_work_is_linear_in_text_without_an_end(unit: str, length: int) -> None:
    def calls(characters: int) -> int:
        count = 0

        def observe(frame: object, event: str, argument: object) -> None:
            nonlocal count
            count += event in ('call', 'c_call')

        text = unit * (characters // len(unit))
        deltas = [text[start:start + 50] for start in range(0, len(text), 50)]
        sys.setprofile(observe)
        try:
            found = pieces_of(deltas)
        finally:
            sys.setprofile(None)
        # Each call looks at a piece at most, which has a bound
        assert max(map(len, texts(found)), default=0) <= LONGEST + 2 * LOOKAHEAD
        return count
    assert calls(length) < 5.5 * calls(length // 5)


def test_text_without_a_stop_is_cut_at_a_clause() -> None:
    clause = 'and the robot went on and on without any stop at all, '
    found = texts(pieces(clause * 30))
    assert len(found) > 5
    assert all(piece.endswith('at all,') for piece in found)


def test_text_without_a_clause_is_cut_between_words_and_not_in_a_character() -> None:
    assert set(' '.join(texts(pieces('word ' * 500))).split()) == {'word'}
    assert {piece[0] + piece[-1] for piece in texts(pieces('कि' * 500))} == {'कि'}


def test_text_without_a_space_is_not_cut_in_a_number() -> None:
    assert all(not piece[0].isdigit() or piece.startswith('3.14') for piece in
               texts(pieces('圆周率是3.14约等于' * 200)))


@pytest.mark.parametrize(('text', 'first'), [
    ('Certainly, I can help you with that.', 'Certainly,'),
    ('Yes, I can help.', 'Yes, I can help.'),
    ('There is one thing: it works.', 'There is one thing:'),
    ('It costs 1,000,000 euros, which is much.', 'It costs 1,000,000 euros,'),
    ('Es sind jetzt 22,1 Grad, also warm.', 'Es sind jetzt 22,1 Grad,'),
    ('On November 29, 2024 we met, and left.', 'On November 29, 2024 we met,'),
    ('1, 2, 3, 4, 5, 6, 7, 8', '1, 2, 3, 4,'),
    ('It is 10:30 in the morning; wake up.', 'It is 10:30 in the morning;'),
    ('See https://a.org/b,c and then, at last, rest.', 'See https://a.org/b,c and then,'),
    ('The list [Paris, Rome, Oslo](x) is long, very.', 'The list [Paris, Rome, Oslo](x) is long,'),
    ('The call `f(a, b, c)` is right, always.', 'The call `f(a, b, c)` is right,'),
    ('当然可以，我来帮你。', '当然可以，'), ('好，我来。', '好，我来。'),
    ('この値は１，０００です、はい。', 'この値は１，０００です、'),
    ('بالطبع يمكنني، نعم أستطيع.', 'بالطبع يمكنني،'),
    ('สวัสดีครับผม ผมช่วยได้', 'สวัสดีครับผม'),
    ('# A title\nText.', '# A title'),
    ('The robot – so they say – works.', 'The robot –')])
def test_first_piece_ends_at_a_clause_and_never_in_a_number(text: str, first: str) -> None:
    found = pieces(text)
    assert found[0].text == first
    assert pieces(text, 1) == found


def test_only_the_first_sentence_is_cut_at_a_clause() -> None:
    assert texts(pieces('Of course, I can. It is easy, as you see, and quick.')) == [
        'Of course,', 'I can.', 'It is easy, as you see, and quick.']


def test_first_clause_leaves_with_the_word_after_it() -> None:
    stream = SentenceStream()
    words = ['Of', ' course', ',', ' I', ' can']
    assert [texts(stream.push(word)) for word in words] == [[], [], [], ['Of course,'], []]


@pytest.mark.parametrize('case', GOLDEN['cases'], ids=range(len(GOLDEN['cases'])))
def test_first_piece_leaves_within_eight_tokens_where_the_text_allows_it(case: Any) -> None:
    stream = SentenceStream()
    tokens = re.findall(r' ?[A-Za-z]+| ?\d|.', case['greedy_text'], re.DOTALL)
    needed = next(number for number, token in enumerate(tokens, 1) if stream.push(token))
    clause = re.match(r'.{9,}?[.,:;!?\n]', case['greedy_text'])
    own = len(re.findall(r'[A-Za-z]+|\d|[^\w\s]', clause[0]))
    assert needed <= max(8, own + 2)  # in a list of numbers two tokens more show where one ends


def test_sentence_comes_as_soon_as_the_next_begins() -> None:
    stream = SentenceStream()
    assert stream.push('First. ') == []
    assert stream.push('T') == [Piece('First.')]
    assert stream.finish() == [Piece('T')]


def test_line_comes_as_soon_as_it_ends() -> None:
    stream = SentenceStream()
    assert stream.push('It is so.\n') == [Piece('It is so.')]
    assert stream.push('- Apples\n') == [Piece('- Apples')]
    stream.finish()
    assert stream.push('The colours are:\n') == [Piece('The colours are:')]


def test_lines_of_a_code_block_are_marked_as_code() -> None:
    found = pieces('Look:\n```python\n# a. B\n\nx = 2*3*4\n```\n# Title')
    assert found == [Piece('Look:'), Piece('```python'), Piece('# a. B', is_code=True),
                     Piece('x = 2*3*4', is_code=True), Piece('```'), Piece('# Title')]
    assert [spoken(*piece) for piece in found] == ['Look:', '', '# a. B', 'x = 2*3*4', '', 'Title']


def test_nothing_is_left_after_the_end() -> None:
    stream = SentenceStream()
    stream.push('```\nCut in the mid')
    stream.finish()
    assert stream.push(' \n') + stream.finish() == []
    assert stream.push('1. One. Two') + stream.finish() == [Piece('1. One.'), Piece('Two')]
