"""Output of the program `chat`: answers on one stream, notes about them on another."""

from collections.abc import Mapping
import os
from typing import TextIO

from tinyllama_ros.terminal.wrapping import cells, LineWrapper, wrapped

UNPRINTABLE = {code: '\ufffd' for code in (*range(0x20), *range(0x7F, 0xA0))
               if chr(code) not in '\n\t'}


def printable(text: str) -> str:
    """
    Return a text with U+FFFD for each control character except newline and tab.

    So the text of a model cannot send control sequences to the terminal.
    """
    return text.translate(UNPRINTABLE)


def columns(stream: TextIO) -> int | None:
    """Return the width of the terminal that shows a stream; None if it is not a terminal."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or None
    except (OSError, ValueError):  # not a terminal, no descriptor, or closed
        return None


class Screen:
    """
    Shows an answer as it comes, and notes between answers.

    On a terminal, lines are wrapped; in a file or a pipe, they are not changed.
    """

    def __init__(self, answers: TextIO, notes: TextIO) -> None:
        self._answers = answers
        self._notes = notes
        self._wrapper = LineWrapper()
        self._waiting_notes: list[str] = []
        self._is_mid_line = False
        self._has_status = False

    def write(self, piece: str) -> None:
        """Show a piece of an answer."""
        if not piece:
            return
        self.status('')
        width = columns(self._answers)
        text = printable(piece)
        self._answers.write(text if width is None else self._wrapper.push(text, width))
        self._answers.flush()
        self._is_mid_line = True

    def end_line(self) -> None:
        """End an answer, and show the notes that waited for its end."""
        self.status('')
        if self._is_mid_line:
            width = columns(self._answers)
            self._answers.write(('' if width is None else self._wrapper.finish(width)) + '\n')
            self._answers.flush()
        self._is_mid_line = False
        for note in self._waiting_notes:
            self.note(note)
        self._waiting_notes.clear()

    def note(self, text: str) -> None:
        """Show a note; during an answer it is kept until the answer ends."""
        if self._is_mid_line:
            self._waiting_notes.append(text)
        else:
            width = columns(self._notes)
            shown = f'[{printable(text)}]'
            self._print(shown if width is None else wrapped(shown, width))

    def table(self, rows: Mapping[str, str]) -> None:
        """Show names and values in columns; a value that does not fit goes below its name."""
        width = columns(self._notes)
        indent = max(map(len, rows)) + 2 if rows else 0
        for name, value in rows.items():
            shown = printable(value) or '-'
            if width is not None and indent > width // 2 and indent + cells(shown) > width:
                self._print(f'{name}\n  {_hanging(shown, 2, width)}')
            else:
                self._print(f'{name:{indent}}{_hanging(shown, indent, width)}')

    def _print(self, text: str) -> None:
        self.status('')
        print(text, file=self._notes, flush=True)

    def status(self, text: str) -> None:
        """Show a status line until something else is shown; only on a terminal."""
        width = columns(self._notes)
        if width is None or columns(self._answers) is None or os.environ.get('TERM') == 'dumb':
            return
        if text and not self._is_mid_line or self._has_status:
            self._notes.write(f'\r\x1b[K{printable(text)[:width - 1]}')  # over the last status
            self._notes.flush()
            self._has_status = bool(text)


def _hanging(text: str, indent: int, width: int | None) -> str:
    """Return a text wrapped and indented, but for its first line, which is indented already."""
    if width is None:
        return text
    return wrapped(text, width - indent).replace('\n', '\n' + ' ' * indent)
