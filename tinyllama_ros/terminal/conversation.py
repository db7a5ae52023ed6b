"""The talk between a person and the node."""

from collections.abc import Callable, Mapping
import re

from tinyllama_ros.terminal.answer_text import AnswerText
from tinyllama_ros.terminal.keyboard import Keyboard
from tinyllama_ros.terminal.link import AT_WORK, Event, Link, NodeError, QUIET_S, REPLY_S
from tinyllama_ros.terminal.screen import Screen

COMMANDS = {
    '/reset': "clears the model's memory",
    '/stop': 'stops the answer, also while it is being written, as Ctrl-C does',
    '/stats': 'shows the fill of the cache, speed and counts',
    '/help': 'shows this',
    '/quit': 'leaves, as Ctrl-D does',
}


class Conversation:
    """What a person at a terminal says to the node, and is shown of it."""

    def __init__(self, link: Link, screen: Screen, keyboard: Keyboard) -> None:
        self._link = link
        self._screen = screen
        self._keyboard = keyboard
        self._answer = AnswerText()
        self._commands: Mapping[str, Callable[[], None]] = {
            '/reset': lambda: self._screen.note(self._link.reset()),
            '/stop': lambda: self._screen.note(self._link.cancel()),
            '/stats': lambda: self._screen.table(self._link.statistics()),
            '/help': lambda: self._screen.table(COMMANDS),
        }

    def ask(self, prompt: str) -> bool:
        """
        Publish a prompt and show the answer as it comes; Ctrl-C or a typed /stop stops it.

        :return: whether there is an answer, and nothing failed.
        :raises NodeError: the node went away.
        """
        for event in self._link.waiting_events():
            self._catch_up(event)
        with self._keyboard.watched():
            self._link.send(prompt)
            return self._follow()

    def converse(self, wait_s: float) -> None:
        """
        Serve each line that is entered until the lines end or one is /quit.

        :param wait_s: how long the node may take until it serves.
        :raises NodeError: the node is not there; where a person types, that is only shown.
        """
        for line in self._keyboard.lines():
            text = line.strip()
            if text == '/quit':
                return
            try:
                self._serve(text, wait_s)
            except NodeError as error:
                if not self._keyboard.is_terminal:
                    raise
                self._screen.note(f'error: {error}')

    def wait_until_ready(self, wait_s: float) -> None:
        """Wait until the node serves, and say so; :raises NodeError: says how far it came."""
        self._screen.status(f'waiting for {self._link.target} …')
        try:
            self._link.wait_until_ready(wait_s)
        finally:
            self._screen.status('')

    def _serve(self, text: str, wait_s: float) -> None:
        if text in self._commands:
            self._commands[text]()
        elif re.fullmatch('/[a-z]+', text):
            self._screen.note(f'there is no {text}; /help lists what there is')
        elif text:
            self.wait_until_ready(wait_s)
            self.ask(text)

    def _follow(self) -> bool:
        has_failed = wants_stop = False
        quiet_s = 0.0
        for event in self._link.events():
            wants_stop |= self._keyboard.wants_stop()
            if wants_stop and self._link.state in AT_WORK:  # before, it would stop nothing
                wants_stop = False
                self._link.request_cancel()
            if event is None:
                quiet_s += QUIET_S
                if has_failed and self._link.state not in AT_WORK:
                    return False
                self._check_alive(quiet_s)
                continue
            quiet_s = 0.0
            has_failed |= event.kind == 'error'
            self._show(event)
            if event.kind == 'response':
                return not self._trails_an_error() and bool(event.text) and not has_failed
        raise AssertionError('events never end')

    def _trails_an_error(self) -> bool:
        """Show what the response has overtaken; return whether an error was among it."""
        has_failed = False
        for event in self._link.events():
            if event in (None, ('state', 'reading')):  # or another's turn has begun
                break
            has_failed |= event.kind == 'error'
            self._catch_up(event)
        return has_failed

    def _check_alive(self, quiet_s: float) -> None:
        if not self._link.is_connected():
            self._screen.end_line()
            raise NodeError(f'{self._link.target} went away before it answered; its log says why')
        if quiet_s > REPLY_S and self._link.state not in AT_WORK:
            raise NodeError(f'{self._link.target} is {self._link.state} and did not take the '
                            f'prompt within {REPLY_S:.0f} s; its log says why')

    def _catch_up(self, event: Event) -> None:
        """Show what came since the last turn, but not an answer to somebody else."""
        if event.kind == 'token':
            self._answer.token(event.text)
        elif event.kind == 'response':
            self._answer.response(event.text)
        elif event.kind != 'state':
            self._show(event)

    def _show(self, event: Event) -> None:
        if event.kind == 'token':
            self._screen.write(self._answer.token(event.text))
        elif event.kind == 'response':
            self._screen.write(self._answer.response(event.text))
            self._screen.end_line()
        elif event.kind == 'cache_reset':
            self._screen.note(f'the memory was cleared: {event.text}')
        elif event.kind == 'error':
            self._screen.note(f'error: {event.text}')
        elif event == ('state', 'reading'):
            self._screen.status('reading … (Ctrl-C stops)')
