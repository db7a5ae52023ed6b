import io

import pytest

from tinyllama_ros.terminal import screen
from tinyllama_ros.terminal.screen import Screen


@pytest.fixture
def streams():
    return io.StringIO(), io.StringIO()


@pytest.fixture
def on_terminal(monkeypatch):
    monkeypatch.setattr(screen, 'columns', lambda stream: 10)
    monkeypatch.setenv('TERM', 'xterm')


def test_answers_read_by_a_program_are_as_they_were_said(streams):
    shown = Screen(*streams)
    shown.status('reading')
    shown.write('A sentence longer than any narrow window \t is.')
    shown.end_line()
    assert [stream.getvalue() for stream in streams] == [
        'A sentence longer than any narrow window \t is.\n', '']


def test_answers_and_notes_fit_the_terminal(streams, on_terminal):
    shown = Screen(*streams)
    shown.write('one two three')
    shown.end_line()
    shown.note('four five six')
    assert [stream.getvalue() for stream in streams] == [
        'one two\nthree\n', '[four five\nsix]\n']


def test_table_read_by_a_program_is_a_line_for_each_row(streams):
    Screen(*streams).table({'a': 'some words', 'bcd': ''})
    assert streams[1].getvalue() == 'a    some words\nbcd  -\n'


def test_table_on_a_narrow_terminal_hangs_values_beside_or_below_names(streams, on_terminal):
    shown = Screen(*streams)
    shown.table({'/a': 'one two', '/b': 'x'})
    shown.table({'state': 'ok', 'waiting': '1 2 3 45 6'})
    shown.table({})
    assert streams[1].getvalue() == (
        '/a  one\n    two\n/b  x\n'
        'state\n  ok\nwaiting\n  1 2 3 45\n  6\n')


def test_second_answer_begins_at_the_left(streams, on_terminal):
    shown = Screen(*streams)
    for answer in ('12345678', '12345678'):
        shown.write(answer)
        shown.end_line()
    assert streams[0].getvalue() == '12345678\n12345678\n'


def test_status_is_cut_to_the_terminal_and_erased_by_what_follows(streams, on_terminal):
    shown = Screen(*streams)
    shown.status('reading the prompt')
    shown.write('Hi')
    shown.status('not now')
    assert streams[1].getvalue() == '\r\x1b[Kreading t\r\x1b[K'


def test_dumb_terminal_gets_no_status(streams, on_terminal, monkeypatch):
    monkeypatch.setenv('TERM', 'dumb')
    Screen(*streams).status('reading')
    assert streams[1].getvalue() == ''


def test_note_in_mid_answer_waits_for_its_end(streams):
    same = streams[0]
    shown = Screen(same, same)
    shown.write('One')
    shown.note('cleared')
    shown.write(' two')
    shown.end_line()
    shown.end_line()
    assert same.getvalue() == 'One two\n[cleared]\n'


@pytest.mark.parametrize('is_closed', [True, False])
def test_stream_without_a_terminal_has_no_columns(is_closed, tmp_path):
    stream = open(tmp_path / 'log', 'w')
    if is_closed:
        stream.close()
    assert screen.columns(stream) is None
    stream.close()
