"""Sends what a person types to the node, and shows the answers and the notes about them."""

from collections.abc import Callable, Iterator, Mapping
from io import StringIO
from queue import Empty, Queue
import re

from tinyllama_ros.ros.client import (
    AT_WORK,
    beginning,
    clean_text,
    ConversationEvent,
    NodeClient,
    NodeError,
)
from tinyllama_ros.terminal.keyboard import Keyboard
from tinyllama_ros.terminal.screen import Screen

POLL_S = 0.1
ACCEPT_S = 10.0
"""Time within which a node that is idle must start on a prompt."""
COMMANDS = {
    '/reset': "clears the model's memory",
    '/stop': 'stops the answer, also while it is being written; so does Ctrl-C',
    '/stats': 'shows the fill of the cache, speed and counts',
    '/help': 'shows this list',
    '/quit': 'ends the program; so does Ctrl-D',
}


class Conversation:
    """Passes prompts and commands from a terminal to the node, and shows what comes back."""

    def __init__(self, client: NodeClient, events: Queue[ConversationEvent], screen: Screen,
                 keyboard: Keyboard) -> None:
        """
        Use a client that is connected to a node.

        :param events: the events of the node's conversation; the client puts them there.
        """
        self._client = client
        self._events = events
        self._screen = screen
        self._keyboard = keyboard
        self._commands: Mapping[str, Callable[[], None]] = {
            '/reset': lambda: self._screen.note(self._client.call('reset')),
            '/stop': lambda: self._screen.note(self._client.call('cancel')),
            '/stats': lambda: self._screen.table(self._client.statistics()),
            '/help': lambda: self._screen.table(COMMANDS),
        }

    def ask(self, prompt: str) -> bool:
        """
        Publish a prompt and show the answer as it comes; Ctrl-C or a typed /stop stops it.

        :return: whether the prompt was answered without a failure.
        :raises NodeError: the node went away.
        """
        text = clean_text(prompt)
        self._show_missed()
        with self._keyboard.catching_stop():
            self._client.publish('~/prompt', text)
            return self._show_turn(text)

    def converse(self, wait_s: float) -> None:
        """
        Answer each line of the input, until it ends or a line is /quit.

        :param wait_s: how long to wait, before each prompt, for a node that is ready.
        :raises NodeError: the node is not there; if a person types, it is shown instead.
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
        """
        Wait until the node is ready for a prompt, and show meanwhile that this waits.

        :raises NodeError: it is not ready in time; says in which state it is.
        """
        self._screen.status(f'waiting for {self._client.target} …')
        try:
            self._client.wait_until_ready(wait_s)
        finally:
            self._screen.status('')

    def _serve(self, text: str, wait_s: float) -> None:
        if text in self._commands:
            self._commands[text]()
        elif re.fullmatch('/[a-z]+', text):
            self._screen.note(f'there is no command {text}; /help lists the commands')
        elif text:
            self.wait_until_ready(wait_s)
            self.ask(text)

    def _show_turn(self, prompt: str) -> bool:
        """Show the events of the turn of a prompt; return whether it was answered."""
        turn, shown, wants_stop = 0, StringIO(), False
        for event in self._events_and_pauses():
            wants_stop |= self._keyboard.wants_stop()
            if event is not None and event.kind == 'begun' and turn:  # an earlier one is history
                self._raise_lost()
            if event is not None and not turn and event.text in (prompt, beginning(prompt)):
                if event.kind in ('asked', 'refused', 'dropped'):
                    turn = event.turn
            if wants_stop and turn:  # without a turn yet, it would stop another answer
                wants_stop = False
                self._client.trigger('cancel', lambda *_: None)
            if event is None or event.turn != turn or not turn:
                continue
            if event.kind == 'asked':
                self._screen.status('reading … (Ctrl-C stops)')
            elif event.kind == 'token':
                shown.write(event.text)
                self._screen.write(event.text)
            elif event.kind == 'reset':
                self._show_reset(event)
            else:
                return self._end_answer(event, shown.getvalue())
        raise AssertionError('events never end')

    def _end_answer(self, event: ConversationEvent, shown: str) -> bool:
        if event.kind in ('answered', 'stopped', 'failed'):
            if event.text.startswith(shown):  # a token that was lost is in the whole answer
                self._screen.write(event.text[len(shown):])
            self._screen.end_line()
        if event.why:
            self._screen.note(f'error: {event.why}')
        return event.kind in ('answered', 'stopped') and bool(event.text) and not event.why

    def _events_and_pauses(self) -> Iterator[ConversationEvent | None]:
        """
        Yield events, and None after each POLL_S without one.

        :raises NodeError: the node went away, or does not start on the prompt.
        """
        quiet_s = 0.0
        while True:
            try:
                yield self._events.get(timeout=POLL_S)
                quiet_s = 0.0
            except Empty:
                quiet_s += POLL_S
                self._check_alive(quiet_s)
                yield None

    def _check_alive(self, quiet_s: float) -> None:
        if not self._client.is_alive():
            self._raise_lost()
        if quiet_s > ACCEPT_S and self._client.state not in AT_WORK:
            raise NodeError(f'{self._client.target} is {self._client.state or "silent"} and did '
                            f'not accept the prompt within {ACCEPT_S:.0f} s; its log says why')

    def _raise_lost(self) -> None:
        self._screen.end_line()
        raise NodeError(f'{self._client.target} went away before it answered; its log says why')

    def _show_missed(self) -> None:
        """Show the resets since the last turn, but not the answers to other clients."""
        while not self._events.empty():
            event = self._events.get()
            if event.kind == 'reset':
                self._show_reset(event)

    def _show_reset(self, event: ConversationEvent) -> None:
        self._screen.note(f'the memory was cleared: {event.text}')
