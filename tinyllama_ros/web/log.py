"""
Keeps the conversation for the chat page, and finds what a page has not received yet.

Every change gives its item the next version, so a page that comes back names the last version that
it has and is given the items that changed since; an item that comes twice replaces itself. So
nothing is lost, and nothing doubled.

`ros/client.py` delivers the events of the node in their order.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from io import StringIO
import secrets
from typing import Any, Literal

from tinyllama_ros.errors import PromptError
from tinyllama_ros.ros.client import beginning, clean_text, ConversationEvent

MOST_ITEMS = 200
"""When there are more, the oldest are removed."""
MOST_CHARACTERS = 4_000_000
"""Of all items; the oldest beyond are removed, too."""
MOST_WAITING = 16
LONGEST_PROMPT = 20_000
"""Characters; the node itself refuses a shorter prompt that does not fit the cache."""

Kind = Literal['turn', 'reset', 'restart']
Phase = Literal['waiting', 'reading', 'answering', 'answered', 'stopped', 'failed', 'refused']
Message = dict[str, Any]


@dataclass(eq=False)
class Item:
    """A turn, or a mark between turns."""

    id: str
    kind: Kind
    version: int = 0
    prompt: str = ''
    answer: StringIO = field(default_factory=StringIO)
    phase: Phase = 'waiting'
    why: str = ''
    """Why the prompt was refused, the answer failed, or the cache was reset."""
    key: str = ''
    """Identifies the prompt for the page that sent it; empty for the prompts of others."""
    length: int = 0
    """Of the answer, in UTF-16 code units, in which JavaScript counts."""
    resets: list[tuple[int, str]] = field(default_factory=list)
    """Length of the answer at each reset within it, and its reason."""
    is_joined_late: bool = False
    """A part of the answer was not received; the event that ends it brings the whole answer."""

    def write(self, text: str) -> None:
        """Add to the answer."""
        self.answer.write(text)
        self.length += len(text.encode('utf-16-le', 'surrogatepass')) // 2

    def message(self) -> Message:
        """Return the item for a page."""
        return {**vars(self), 'answer': self.answer.getvalue(), 'resets': list(self.resets)}


class ConversationLog:
    """Owns the items; all methods are called in one thread."""

    def __init__(self, send: Callable[[str], bool]) -> None:
        """
        Begin empty.

        :param send: publishes a prompt; returns False if the node accepts none now, and then the
            prompt waits for `send_waiting`.
        """
        self.epoch = secrets.token_hex(8)
        """Identifies this log; versions are compared within one log only."""
        self._send = send
        self._listeners: set[Callable[[Message], None]] = set()
        self._items: list[Item] = []  # waiting prompts come last
        self._version = 0
        self._run = ''
        self._seq = 0
        self._turn: Item | None = None  # the one that is being answered
        self._turn_number = 0  # its number in the node's events
        self._unsent: list[Item] = []
        self._sent: list[Item] = []  # to the node, which has not begun to answer them

    def listen(self, listener: Callable[[Message], None]) -> Callable[[], None]:
        """Tell a listener every change from now on; return what ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def since(self, epoch: str, version: int) -> Message:
        """Return the items that changed since a version; all items to a page of another log."""
        is_known = epoch == self.epoch
        return {'type': 'log', 'epoch': self.epoch, 'version': self._version,
                'is_whole': not is_known,
                'items': [item.message() for item in self._items
                          if not is_known or item.version > version]}

    def submit(self, prompt: str, key: str) -> None:
        """
        Accept a prompt from a page, and send it as soon as the node accepts prompts.

        :param key: the page's identifier of the prompt; a second prompt with it is ignored.
        :raises PromptError: the prompt is empty or too long, or too many prompts wait.
        """
        if any(item.key == key for item in self._items):
            return
        text = clean_text(prompt).strip()
        if not text:
            raise PromptError('the prompt is empty; type a text')
        if len(text) > LONGEST_PROMPT:
            raise PromptError(f'the prompt has {len(text)} characters; at most {LONGEST_PROMPT} '
                              'are allowed')
        if len(self._unsent) + len(self._sent) >= MOST_WAITING:
            raise PromptError(f'{MOST_WAITING} prompts are waiting already; wait for an answer')
        item = self._add(Item(f'{self.epoch}:{self._version}', 'turn', prompt=text, key=key))
        self._unsent.append(item)
        self.send_waiting()

    def send_waiting(self) -> None:
        """Send the waiting prompts in their order, until the node accepts no more."""
        while self._run and self._unsent and self._send(self._unsent[0].prompt):
            self._sent.append(self._unsent.pop(0))

    def receive(self, event: ConversationEvent) -> None:
        """Apply an event of the node; events come in their order."""
        is_new_run, had_run = event.run != self._run, bool(self._run)
        is_next = event.seq == self._seq + 1
        self._run, self._seq = event.run, event.seq
        if is_new_run:
            self._begin_run(had_run)
        if event.kind == 'asked':
            self._begin_turn(event)
        elif event.kind == 'token':
            self._add_text(event.text, is_next)
        elif event.kind in ('answered', 'stopped', 'failed'):
            self._end_turn(event)
        elif event.kind in ('refused', 'dropped'):
            self._refuse_turn(event)
        elif event.kind == 'reset':
            self._reset(event.text)

    def _begin_run(self, had_run: bool) -> None:
        """
        End what belonged to the previous run of the node, and send the waiting prompts again.

        :param had_run: there was a previous run, so the restart is shown.
        """
        if (turn := self._turn) is not None:
            turn.phase, turn.why = 'failed', 'the node ended before the answer did'
            self._turn = None
            self._changed(turn)
        self._unsent = self._sent + self._unsent  # the node that received them has ended
        self._sent = []
        if had_run:
            self._mark('restart')
        self.send_waiting()

    def _begin_turn(self, event: ConversationEvent) -> None:
        turn = self._find_turn(event.text)
        turn.phase = 'reading'
        self._turn, self._turn_number = turn, event.turn
        self._place(turn)
        self._changed(turn)

    def _add_text(self, text: str, is_next: bool) -> None:
        if (turn := self._turn) is None:
            return
        if not is_next:
            turn.is_joined_late = True
            self._changed(turn)
        at = turn.length
        self._next_version(turn)
        turn.write(text)
        turn.phase = 'answering'
        self._notify({'type': 'piece', 'id': turn.id, 'version': turn.version, 'at': at,
                    'text': text})

    def _end_turn(self, event: ConversationEvent) -> None:
        if (turn := self._turn) is None:
            turn = self._add(Item(f'{event.run}:{event.seq}', 'turn', phase='reading'))
        self._turn = None
        turn.answer, turn.length = StringIO(), 0
        turn.write(event.text)
        turn.why, turn.is_joined_late = event.why, False
        turn.phase = event.kind  # type: ignore[assignment]
        self._changed(turn)

    def _refuse_turn(self, event: ConversationEvent) -> None:
        if self._turn is not None and self._turn_number == event.turn:
            turn, self._turn = self._turn, None
        else:
            turn = self._find_turn(event.text)
        if event.kind == 'dropped' and turn.key:  # ours, and never answered: it is sent again
            self._unsent.append(turn)
            return
        turn.phase, turn.why = 'refused', event.why
        self._place(turn)
        self._changed(turn)

    def _reset(self, reason: str) -> None:
        if (turn := self._turn) is None:
            self._mark('reset', reason)
            return
        turn.resets.append((turn.length, reason))
        self._next_version(turn)
        self._notify({'type': 'piece', 'id': turn.id, 'version': turn.version, 'at': turn.length,
                      'text': '', 'reset': reason})

    def _find_turn(self, prompt: str) -> Item:
        """Return the turn of a prompt that we sent; a new one if another client sent it."""
        for item in self._sent:
            if prompt in (item.prompt, beginning(item.prompt)):
                self._sent.remove(item)
                return item
        return self._add(Item(f'{self._run}:{self._seq}', 'turn', prompt=prompt,
                              phase='reading'))

    def _mark(self, kind: Kind, why: str = '') -> None:
        self._add(Item(f'{self._run}:{self._seq}', kind, phase='answered', why=why))

    def _add(self, item: Item) -> Item:
        self._items.append(item)
        while len(self._items) > MOST_ITEMS or (
                len(self._items) > 1 and sum(map(_size, self._items)) > MOST_CHARACTERS):
            self._items.pop(0)
        self._place(item)
        self._changed(item)
        return item

    def _place(self, item: Item) -> None:
        """Move an item behind all others but the waiting ones: in the order of the answers."""
        self._items.remove(item)
        waiting = [each for each in self._items if each.phase == 'waiting']
        at = len(self._items) if item.phase == 'waiting' else len(self._items) - len(waiting)
        self._items.insert(at, item)

    def _next_version(self, item: Item) -> None:
        self._version += 1
        item.version = self._version

    def _changed(self, item: Item) -> None:
        self._next_version(item)
        self._notify({'type': 'item', 'item': item.message()})

    def _notify(self, message: Message) -> None:
        for listener in list(self._listeners):
            listener(message)


def _size(item: Item) -> int:
    return len(item.prompt) + item.length
