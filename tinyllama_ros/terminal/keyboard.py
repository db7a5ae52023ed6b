"""What a person types, or a program pipes in."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
import os
from pathlib import Path
import select
import signal
import sys
import termios
from typing import TextIO

try:
    import readline
except ImportError:  # a Python built without it has no editing and no history
    readline = None  # type: ignore[assignment]

PROMPT = '> '
KEPT_LINES = 1000


def history_file() -> Path:
    """Return where the lines that were typed are kept (XDG base directories)."""
    state = os.environ.get('XDG_STATE_HOME') or Path.home() / '.local' / 'state'
    return Path(state) / 'tinyllama_ros' / 'chat_history'


class Keyboard:
    """Lines as they are entered, and the wish to stop an answer while it is written."""

    def __init__(self, stream: TextIO, commands: Sequence[str]) -> None:
        """
        Read lines from a stream.

        :param commands: what the tab key completes.
        """
        self._stream = stream
        self.is_terminal = stream.isatty()
        self._ahead: deque[str] = deque()  # typed while an answer was written
        self._is_ended = False
        self._interrupted = False
        self._history: Path | None = None
        if self.is_terminal and readline is not None:
            self._history = history_file()
            _prepare_editing(self._history, commands)

    def lines(self) -> Iterator[str]:
        """Yield each line until Ctrl-D, or the end of what is piped in."""
        if self.is_terminal:
            yield from self._typed_lines()
            return
        for line in self._stream:
            print(f'{PROMPT}{line.rstrip()}', flush=True)
            yield line

    @contextmanager
    def watched(self) -> Iterator[None]:
        """
        Let Ctrl-C or a typed /stop be asked for; the second Ctrl-C is a KeyboardInterrupt.

        What is typed meanwhile is not echoed into the answer.
        """
        self._interrupted = False
        before = signal.signal(signal.SIGINT, self._interrupt)
        try:
            with self.quiet():
                yield
        finally:
            signal.signal(signal.SIGINT, before)

    def quiet(self) -> AbstractContextManager[None]:
        """Do not echo what is typed; where it is not read meanwhile, the next line has it."""
        return _without_echo(self._stream) if self.is_terminal else nullcontext()

    def wants_stop(self) -> bool:
        """Whether a stop was asked for since the last call."""
        wants_stop, self._interrupted = self._interrupted, False
        while self.is_terminal and not self._is_ended and self._can_read():
            line = os.read(self._stream.fileno(), 4096).decode(errors='replace')  # one line
            self._is_ended = not line
            if line.strip() == '/stop':
                wants_stop = True
            elif line:
                self._ahead.append(line)
        return wants_stop

    def _interrupt(self, *_: object) -> None:
        self._interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def _can_read(self) -> bool:
        return bool(select.select([self._stream], [], [], 0)[0])

    def _typed_lines(self) -> Iterator[str]:
        while True:
            try:
                yield self._next_line()
            except EOFError:
                break
            except KeyboardInterrupt:
                print('\n[Ctrl-D leaves]', file=sys.stderr)
        print(file=sys.stderr)

    def _next_line(self) -> str:
        """Return a line; :raises EOFError: there is none."""
        if self._ahead:
            line = self._ahead.popleft()
            print(f'{PROMPT}{line.rstrip()}', file=sys.stderr)
            return line
        if self._is_ended:
            raise EOFError
        if sys.stdout.isatty():
            return self._edited_line()
        print(PROMPT, end='', file=sys.stderr, flush=True)  # input() would use stdout
        line = self._stream.readline()
        if not line:
            raise EOFError
        return line

    def _edited_line(self) -> str:
        if self._history is None:
            return input(PROMPT)
        known = readline.get_current_history_length()
        line = input(PROMPT)
        added = readline.get_current_history_length() - known  # none where it repeats the last
        with suppress(OSError):
            readline.append_history_file(added, self._history)  # now: no crash shall lose it
        return line


def _prepare_editing(history: Path, commands: Sequence[str]) -> None:
    def complete(text: str, index: int) -> str | None:
        found = [command for command in commands if text and command.startswith(text)]
        return found[index] if index < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(' ')
    is_libedit = 'libedit' in (readline.__doc__ or '')
    readline.parse_and_bind('bind ^I rl_complete' if is_libedit else 'tab: complete')
    readline.set_history_length(KEPT_LINES)
    with suppress(OSError):  # a home that cannot be written only costs the history
        history.parent.mkdir(parents=True, exist_ok=True)
        history.touch(mode=0o600)
        readline.read_history_file(history)


@contextmanager
def _without_echo(stream: TextIO) -> Iterator[None]:
    before = termios.tcgetattr(stream)
    quiet = before[:3] + [before[3] & ~termios.ECHO] + before[4:]
    termios.tcsetattr(stream, termios.TCSADRAIN, quiet)
    try:
        yield
    finally:
        termios.tcsetattr(stream, termios.TCSADRAIN, before)
