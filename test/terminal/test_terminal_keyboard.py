"""Typing on a real pseudo-terminal."""

import os
import pty
import select
import signal
import subprocess
import sys
import termios

import pytest

from tinyllama_ros.terminal.keyboard import history_file

PROGRAM = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
from tinyllama_ros.terminal.keyboard import Keyboard
from contextlib import ExitStack
stack = ExitStack()
keyboard = stack.enter_context(Keyboard(sys.stdin, ['/reset', '/stop']))
for line in keyboard.lines():
    print('got', len(line), ascii(line), flush=True)
    if line == 'answer':
        with keyboard.catching_stop():
            print('answering', flush=True)
            while not keyboard.wants_stop():
                time.sleep(0.01)
            print('stopped', flush=True)
    elif line == 'fail':
        stack.close()
        print('closed', flush=True)
        print('read', sys.stdin.readline(), flush=True)
        break
    elif line == 'go on':
        with keyboard.catching_stop():
            print('going on', flush=True)
            while True:
                time.sleep(0.01)
                if keyboard.wants_stop():
                    print('goes on', flush=True)
stack.close()
"""
PASTE = b'\x1b[200~%s\x1b[201~'
READY = b'>'  # the cursor moves over the space behind it


class TerminalProgram:
    """A program with a terminal of its own, and the keys that are pressed there."""

    def __init__(self, state):
        # The terminal stays open here: where its last user closes it, what it shows can be lost.
        self.controller, self.terminal = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, '-c', PROGRAM], stdin=self.terminal, stdout=self.terminal,
            stderr=self.terminal,
            env=os.environ | {'XDG_STATE_HOME': str(state), 'TERM': 'xterm',
                              'PROMPT_TOOLKIT_NO_CPR': '1'},
            start_new_session=True)
        self.wait_for(READY)

    def press(self, keys):
        while keys:
            keys = keys[os.write(self.controller, keys[:1000]):]

    def wait_for(self, text):
        """Return what the terminal shows until a text appears."""
        shown = b''
        while text not in shown:
            assert select.select([self.controller], [], [], 8)[0], f'no {text} in {shown}'
            shown += os.read(self.controller, 4096)
        return shown

    def press_and_wait(self, keys, text):
        self.press(keys)
        return self.wait_for(text)

    def end(self):
        self.process.kill()
        self.process.wait()
        os.close(self.controller)
        os.close(self.terminal)


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a program; all of them end with the test."""
    programs = []

    def start():
        programs.append(TerminalProgram(tmp_path))
        return programs[-1]

    yield start
    for program in programs:
        program.end()


def test_paste_of_several_lines_is_one_prompt(start):
    start().press_and_wait(PASTE % b'one\rtwo\rthree' + b'\r', b"'one\\ntwo\\nthree'")


def test_paste_of_several_lines_while_it_answers_is_one_prompt(start):
    program = start()
    program.press_and_wait(b'answer\r', b'answering')
    program.press(PASTE % b'one\rtwo\rthree' + b'\r')
    program.press_and_wait(b'/stop\r', b'stopped')
    program.wait_for(b"'one\\ntwo\\nthree'")


@pytest.mark.parametrize('is_answering', [False, True], ids=['prompt', 'answer'])
def test_6000_characters_are_not_cut(start, is_answering):
    program = start()
    if is_answering:
        program.press_and_wait(b'answer\r', b'answering')
        program.press(b'x' * 6000 + b'\r' + b'/stop\r')
        program.wait_for(b'stopped')
    else:
        program.press(PASTE % (b'x' * 6000) + b'\r')
    program.wait_for(b'got 6000 ')


def test_typed_stop_is_heard_while_it_answers_and_not_echoed(start):
    program = start()
    program.press_and_wait(b'answer\r', b'answering')
    assert b'/st' not in program.press_and_wait(b'/stpp\x7f\x7fop\r', b'stopped')
    program.press_and_wait(b'next\r', b"got 4 'next'")


def test_what_is_typed_while_it_answers_is_the_next_prompts(start):
    program = start()
    program.press_and_wait(b'answer\r', b'answering')
    shown = program.press_and_wait(b'first\rsecond\rha\x7f/stop\r/stop\r', b'stopped')
    assert b'first' not in shown
    for text in (b"'first'", b"'second'", b"'h/stop'"):
        program.wait_for(text)
    program.press_and_wait(b'\x04', b'\n')
    assert program.process.wait(10) == 0


def test_half_a_line_that_is_typed_while_it_answers_can_be_edited(start):
    program = start()
    program.press_and_wait(b'answer\r', b'answering')
    program.press(b'halx')
    program.process.send_signal(signal.SIGINT)
    program.wait_for(b'stopped')
    program.press_and_wait(b'\x7ff\r', b"got 4 'half'")


def test_end_that_is_typed_while_it_answers_ends(start):
    program = start()
    program.press_and_wait(b'answer\r', b'answering')
    program.press(b'\x04\x03')
    program.wait_for(b'stopped')
    assert program.process.wait(10) == 0


def test_terminal_is_as_it_was_before_when_the_program_ends(start):
    program = start()
    before = termios.tcgetattr(program.controller)
    assert not before[3] & termios.ECHO
    program.press_and_wait(b'fail\r', b'closed\r\n')
    program.press_and_wait(b'echoed\r', b'echoed\r\nread echoed')
    assert program.process.wait(10) == 0


def test_first_interrupt_is_a_stop_and_the_second_leaves(start):
    program = start()
    program.press_and_wait(b'answer\r', b'answering')
    program.press_and_wait(b'\x03', b'stopped')
    program.press_and_wait(b'go on\r', b'going on')
    program.press_and_wait(b'\x03', b'goes on')
    program.press_and_wait(b'\x03', b'KeyboardInterrupt')
    assert program.process.wait(10) != 0


def test_history_outlives_the_program_and_is_private(start, tmp_path):
    start().press_and_wait('机器人\r'.encode(), b"'\\u673a\\u5668\\u4eba'")
    start().press_and_wait(b'\x1b[A\r', b"'\\u673a\\u5668\\u4eba'")
    kept = tmp_path / 'tinyllama_ros' / 'chat_history'
    assert kept.read_text().count('机器人') == 1, 'a line that repeats the last is kept once'
    assert kept.stat().st_mode & 0o777 == 0o600


def test_history_that_cannot_be_written_costs_only_the_history(start, tmp_path):
    (tmp_path / 'tinyllama_ros').write_text('a file, not a folder')
    program = start()
    program.press_and_wait(b'first\r', b"'first'")
    program.wait_for(READY)
    program.press_and_wait(b'\x1b[A\r', b"'first'")


def test_keys_edit_and_complete_the_line(start):
    start().press_and_wait(b'/re\tX\x7f\r', b"'/reset'")


@pytest.mark.parametrize('is_key', [True, False], ids=['key', 'signal'])
def test_interrupt_at_the_prompt_gives_a_fresh_one(start, is_key):
    program = start()
    program.press_and_wait(b'half', b'half')
    if is_key:
        program.press(b'\x03')
    else:
        program.process.send_signal(signal.SIGINT)
    program.wait_for(b'[Ctrl-D ends the program]')
    program.wait_for(READY)
    program.press_and_wait(b'whole\r', b"got 5 'whole'")


def test_history_lies_in_the_state_folder(monkeypatch, tmp_path):
    monkeypatch.delenv('XDG_STATE_HOME', raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert history_file() == tmp_path / '.local/state/tinyllama_ros/chat_history'
