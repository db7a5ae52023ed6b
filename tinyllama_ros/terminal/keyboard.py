"""
Reads prompts from a person at a terminal, or lines from a pipe.

prompt_toolkit edits and completes prompts, keeps their history, and reads pasted text as one
prompt. Between two prompts a thread reads the keys: /stop and Ctrl-C take effect at once, and all
other keys are kept for the next prompt. The terminal stays in raw mode, because its line mode cuts
lines at 4095 characters.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, ExitStack, suppress
import os
from pathlib import Path
import select
import signal
import sys
from threading import Event, Thread
from typing import TextIO

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import WordCompleter
from prompt_toolkit.history import FileHistory
from prompt_toolkit.input import create_input
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.key_binding import KeyPress
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import create_output
from prompt_toolkit.shortcuts import CompleteStyle

PROMPT = '> '
STOP = '/stop'
TICK_S = 0.02
ENTER = (Keys.ControlM, Keys.ControlJ)


def history_file() -> Path:
    """Return where the prompts that were typed are kept (XDG base directories)."""
    try:
        state = Path(os.environ.get('XDG_STATE_HOME') or Path.home() / '.local' / 'state')
    except RuntimeError:  # the user has no home folder: nothing is kept
        state = Path(os.devnull)
    return state / 'tinyllama_ros' / 'chat_history'


class Keyboard:
    """Reads prompts, and between them /stop and Ctrl-C, which stop the answer."""

    def __init__(self, stream: TextIO, commands: Sequence[str]) -> None:
        """
        Read prompts from a stream, within a `with` statement.

        :param commands: what the tab key completes.
        """
        self._stream = stream
        self.is_terminal = stream.isatty()
        self._is_stop_typed = Event()
        self._has_interrupt = False
        self._stack = ExitStack()
        self._is_prompting = Event()
        if self.is_terminal:
            self._input = create_input(stream)
            self._output = create_output(sys.stdout if sys.stdout.isatty() else sys.stderr)
            self._session: PromptSession[str] = PromptSession(
                PROMPT, input=self._input, output=self._output,
                history=PrivateHistory(history_file()), enable_suspend=True,
                completer=WordCompleter(list(commands), sentence=True),
                complete_while_typing=False, complete_style=CompleteStyle.READLINE_LIKE)

    def __enter__(self) -> 'Keyboard':
        if self.is_terminal:
            self._stack.enter_context(self._input.raw_mode())
            self._start_reading()
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_terminal:
            self._stop_reading()
        self._stack.close()

    def lines(self) -> Iterator[str]:
        """Yield each typed prompt until Ctrl-D, or each line of a pipe until its end."""
        if self.is_terminal:
            yield from self._typed_prompts()
            return
        for line in self._stream:
            print(f'{PROMPT}{line.rstrip()}', flush=True)
            yield line

    @contextmanager
    def catching_stop(self) -> Iterator[None]:
        """Let Ctrl-C and /stop set `wants_stop`; a second Ctrl-C raises KeyboardInterrupt."""
        self._has_interrupt = False
        self._is_stop_typed.clear()
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def wants_stop(self) -> bool:
        """Return whether a stop was asked for since the last call."""
        wants_stop = self._has_interrupt or self._is_stop_typed.is_set()
        self._has_interrupt = False
        self._is_stop_typed.clear()
        return wants_stop

    def _interrupt(self, *_: object) -> None:
        self._has_interrupt = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _start_reading(self) -> None:
        self._output.enable_bracketed_paste()
        self._output.flush()
        self._is_prompting.clear()
        self._reader = Thread(target=self._read_keys, daemon=True)
        self._reader.start()

    def _stop_reading(self) -> None:
        self._is_prompting.set()
        self._reader.join()
        self._output.disable_bracketed_paste()
        self._output.flush()

    def _read_keys(self) -> None:
        """Read keys, in a thread, until the next prompt; in raw mode Ctrl-C is a key, too."""
        typed: list[KeyPress] = []
        while not self._is_prompting.is_set() and not self._input.closed:
            if select.select([self._input.fileno()], [], [], TICK_S)[0]:
                self._add_keys(self._input.read_keys(), typed)
        self._add_keys(self._input.flush_keys(), typed)
        store_typeahead(self._input, typed)

    def _add_keys(self, keys: Iterable[KeyPress], typed: list[KeyPress]) -> None:
        """Append keys to those typed before; act on Ctrl-C and on a line that is /stop."""
        for key in keys:
            if key.key == Keys.ControlC:
                os.kill(os.getpid(), signal.SIGINT)
            elif key.key in ENTER and (start := _start_of_stop(typed)) is not None:
                del typed[start:]
                self._is_stop_typed.set()
            elif key.key != Keys.CPRResponse:  # sent by the terminal, not by a person
                typed.append(key)

    def _typed_prompts(self) -> Iterator[str]:
        while True:
            self._stop_reading()
            try:
                prompt = self._session.prompt()
            except EOFError:
                return
            except KeyboardInterrupt:
                print('[Ctrl-D ends the program]', file=sys.stderr)
                continue
            finally:
                self._start_reading()
            yield prompt


class PrivateHistory(FileHistory):
    """A history in a file that only its owner may read; nothing is kept if that is impossible."""

    def __init__(self, path: Path) -> None:
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)
        super().__init__(str(path))

    def load_history_strings(self) -> Iterable[str]:
        try:
            return list(super().load_history_strings())
        except OSError:
            return []

    def store_string(self, string: str) -> None:
        with suppress(OSError):
            super().store_string(string)


def _start_of_stop(typed: Sequence[KeyPress]) -> int | None:
    """Return where the last line of some keys begins, if that line is /stop."""
    start = 1 + max((index for index, key in enumerate(typed) if key.key in ENTER), default=-1)
    line = ''
    for key in typed[start:]:
        line = line[:-1] if key.key == Keys.Backspace else line + key.data
    return start if line.strip() == STOP else None
