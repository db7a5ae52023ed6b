import re

from hypothesis import given, strategies as st
import pytest
from support.paths import DATA

from tinyllama_ros.chat.spoken_text import RULES, spoken

CASES = [[cell.strip().replace('⏎', '\n') for cell in line.split('‖')]
         for line in (DATA / 'spoken.txt').read_text(encoding='utf-8').splitlines()
         if line and not line.startswith('#')]


@pytest.mark.parametrize(('rule', 'piece', 'said'), CASES, ids=[case[1] for case in CASES])
def test_table_of_what_is_said(rule: str, piece: str, said: str) -> None:
    assert spoken(piece) == said
    assert spoken(said) == said or rule == 'as written'


def test_each_rule_has_a_case_that_it_changes() -> None:
    changed = {rule for rule, piece, said in CASES if rule in RULES and piece != said}
    assert changed == set(RULES)


@pytest.mark.parametrize('line', ['x = [a](b) * c  # **not** bold', '1 | 2', '> x', 'a->b',
                                  '#include <b>', '- x_y_', 'print("`")'])
def test_line_of_code_is_said_as_it_stands(line: str) -> None:
    assert spoken(line, is_code=True) == line


def test_line_of_code_without_a_sound_is_not_said() -> None:
    assert [spoken(line, is_code=True) for line in ('', '}', ');')] == ['', '', '']


@pytest.mark.parametrize('piece', ['a\0b', 'a\x1b\x07b', 'a\u202eb', 'a\ufffdb', 'a\ue000b',
                                   'a\ud800b', 'a\ufeffb'])
def test_characters_that_are_no_text_are_not_said(piece: str) -> None:
    assert spoken(piece) == spoken(piece, is_code=True) == 'ab'


@given(st.text('ab12 *_`#|-+=().,~>!?$%/\\:;"\'é好ह'))
def test_no_letter_and_no_digit_of_plain_text_is_lost(text: str) -> None:
    fence = RULES['fence of a code block'][0]
    expected = '' if re.match(fence, text) else re.sub(r'[^ab12é好ह]', '', text)
    assert re.sub(r'[^ab12é好ह]', '', spoken(text)) == expected


@given(st.text(max_size=60))
def test_what_is_said_is_one_line_without_outer_space(text: str) -> None:
    said = spoken(text)
    assert said == said.strip() and '\n' not in said
