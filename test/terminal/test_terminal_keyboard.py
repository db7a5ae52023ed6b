"""The keyboard on a real pseudo-terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import termios

import pytest

from tinyllama_ros.terminal.keyboard import history_file, Keyboard

TYPIST = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
from tinyllama_ros.terminal.keyboard import Keyboard
for line in Keyboard(sys.stdin, ['/reset', '/stop']).lines():
    print('got', ascii(line), flush=True)
"""


@pytest.fixture
def terminal():
    controller, terminal = pty.openpty()
    with open(terminal, encoding='utf-8') as stream:
        yield controller, stream
    os.close(controller)


@pytest.fixture
def typist(tmp_path):
    """Start a program with a terminal of its own; returns both, and what presses keys there."""
    started = []

    def start():
        controller, terminal = pty.openpty()
        process = subprocess.Popen(
            [sys.executable, '-c', TYPIST], stdin=terminal, stdout=terminal, stderr=terminal,
            env=os.environ | {'XDG_STATE_HOME': str(tmp_path), 'TERM': 'dumb'},
            start_new_session=True)
        os.close(terminal)
        started.append((controller, process))
        wait_for(controller, b'> ')
        return process, controller, lambda keys, text: (os.write(controller, keys),
                                                        wait_for(controller, text))

    yield start
    for controller, process in started:
        process.kill()
        process.wait()
        os.close(controller)


def wait_for(controller, text):
    """Return what a terminal shows until a text appears."""
    seen = b''
    while text not in seen:
        assert select.select([controller], [], [], 10)[0], f'{text} did not come after {seen}'
        seen += os.read(controller, 4096)
    return seen


def echoes(stream):
    return bool(termios.tcgetattr(stream)[3] & termios.ECHO)


def test_typed_stop_is_heard_and_not_echoed(terminal):
    controller, stream = terminal
    keyboard = Keyboard(stream, [])
    with keyboard.watched():
        assert not keyboard.wants_stop()
        assert not echoes(stream)
        os.write(controller, b'/stop\n')
        select.select([stream], [], [], 10)
        assert keyboard.wants_stop()
        assert not keyboard.wants_stop()
    assert echoes(stream)


def test_lines_typed_ahead_are_the_next_and_an_end_ends(terminal, capsys):
    controller, stream = terminal
    keyboard = Keyboard(stream, [])
    with keyboard.watched():
        for keys in (b'next\n', b'\x04'):
            os.write(controller, keys)
            select.select([stream], [], [], 10)
            assert not keyboard.wants_stop()
    assert list(keyboard.lines()) == ['next\n']
    assert capsys.readouterr() == ('', '> next\n\n')


def test_echo_comes_back_when_an_answer_fails(terminal):
    keyboard = Keyboard(terminal[1], [])
    with pytest.raises(ZeroDivisionError), keyboard.watched():
        raise ZeroDivisionError
    assert echoes(terminal[1])


def test_first_interrupt_is_a_stop_and_the_second_leaves(terminal):
    keyboard = Keyboard(terminal[1], [])
    with pytest.raises(KeyboardInterrupt), keyboard.watched():
        os.kill(os.getpid(), signal.SIGINT)
        assert keyboard.wants_stop()
        os.kill(os.getpid(), signal.SIGINT)


def test_history_outlives_the_program_and_is_private(typist, tmp_path):
    typist()[2]('机器人\n'.encode(), b"got '\\u673a\\u5668\\u4eba'")
    typist()[2](b'\x1b[A\n', b"got '\\u673a\\u5668\\u4eba'")
    kept = tmp_path / 'tinyllama_ros' / 'chat_history'
    assert kept.read_text().count('机器人') == 1, 'a line that repeats the last is kept once'
    assert kept.stat().st_mode & 0o777 == 0o600


def test_keys_edit_and_complete_the_line(typist):
    assert typist()[2](b'/re\tX\x7f\n', b"got '/reset")


def test_interrupt_at_the_prompt_gives_a_fresh_one(typist):
    process, controller, press = typist()
    press(b'/re\t', b'/reset')  # now the line is readline's, not the terminal's
    seen = b''
    for _ in range(20):  # readline misses an interrupt that comes just before it waits
        process.send_signal(signal.SIGINT)  # it has no session of which the terminal could be told
        while b'[Ctrl-D leaves]\r\n> ' not in seen and select.select([controller], [], [], 1)[0]:
            seen += os.read(controller, 4096)  # what was typed may be shown late
        if b'[Ctrl-D leaves]\r\n> ' in seen:
            break
    assert b'[Ctrl-D leaves]\r\n> ' in seen
    press(b'whole\n', b"got 'whole'")


def test_history_lies_in_the_state_folder(monkeypatch, tmp_path):
    monkeypatch.delenv('XDG_STATE_HOME', raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert history_file() == tmp_path / '.local/state/tinyllama_ros/chat_history'
