"""
Keeps the conversation for the chat page, and finds what a page has not received yet.

Every change gives its item the next version, so a page that comes back names the last version that
it has and is given the items that changed since; an item that comes twice replaces itself. So
nothing is lost, and nothing doubled.

The events of the node come in their order, by ros/client.py.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
import secrets
from typing import Any, Literal

from tinyllama_ros.errors import PromptError
from tinyllama_ros.ros.client import clean_text, ConversationEvent

MOST_ITEMS = 200
"""The oldest beyond are forgotten."""
MOST_WAITING = 16
LONGEST_PROMPT = 20_000
"""Characters; the node says more exactly what fits."""

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
    answer: str = ''
    phase: Phase = 'waiting'
    why: str = ''
    """Of what was refused or failed; the reason of a reset."""
    key: str = ''
    """By which the page that sent the prompt knows it."""
    resets: list[tuple[int, str]] = field(default_factory=list)
    """Length of the answer at each reset within it, and its reason."""
    is_joined_late: bool = False
    """A part of the answer is missing, and comes with its end."""


class ConversationLog:
    """Owns the items. For one thread."""

    def __init__(self, send: Callable[[str], bool]) -> None:
        """
        Begin empty.

        :param send: publishes a prompt, or returns False where the node takes none now; the
            prompt then waits for `send_waiting`.
        """
        self.epoch = secrets.token_hex(8)
        """Of this log; the versions of another mean nothing here."""
        self._send = send
        self._listeners: set[Callable[[Message], None]] = set()
        self._items: list[Item] = []  # those that wait come last
        self._version = 0
        self._run = ''
        self._seq = 0
        self._turn: Item | None = None  # the one being answered
        self._turn_number = 0  # of that one, as the node counts
        self._unsent: list[Item] = []
        self._sent: list[Item] = []  # and not asked yet

    def listen(self, listener: Callable[[Message], None]) -> Callable[[], None]:
        """Tell a listener every change from now on; return what ends that."""
        self._listeners.add(listener)
        return lambda: self._listeners.discard(listener)

    def since(self, epoch: str, version: int) -> Message:
        """Return what a page must hear that has seen this log up to a version, if this log."""
        is_known = epoch == self.epoch
        return {'type': 'log', 'epoch': self.epoch, 'version': self._version,
                'is_whole': not is_known,
                'items': [asdict(item) for item in self._items
                          if not is_known or item.version > version]}

    def say(self, prompt: str, key: str) -> None:
        """
        Take a prompt of a page and send it as soon as the node listens.

        :param key: the page's own name of it; a prompt that comes again is taken once.
        :raises PromptError: it cannot be taken.
        """
        if any(item.key == key for item in self._items):
            return
        text = clean_text(prompt).strip()
        if not text:
            raise PromptError('it is blank; say something')
        if len(text) > LONGEST_PROMPT:
            raise PromptError(f'it is {len(text)} characters long; at most {LONGEST_PROMPT} fit')
        if len(self._unsent) + len(self._sent) >= MOST_WAITING:
            raise PromptError(f'{MOST_WAITING} prompts are waiting already')
        item = self._add(Item(f'{self.epoch}:{self._version}', 'turn', prompt=text, key=key))
        self._unsent.append(item)
        self.send_waiting()

    def send_waiting(self) -> None:
        """Send the prompts that wait, in their order, as long as the node takes them."""
        while self._run and self._unsent and self._send(self._unsent[0].prompt):
            self._sent.append(self._unsent.pop(0))

    def receive(self, event: ConversationEvent) -> None:
        """Take an event of the node, which comes after all that were taken before."""
        is_another_run, was_known = event.run != self._run, bool(self._run)
        is_next = event.seq == self._seq + 1
        self._run, self._seq = event.run, event.seq
        if is_another_run:
            self._begin(was_known)
        if event.kind == 'asked':
            self._ask(event)
        elif event.kind == 'token':
            self._add_text(event.text, is_next)
        elif event.kind in ('answered', 'stopped', 'failed'):
            self._end(event)
        elif event.kind in ('refused', 'dropped'):
            self._refuse(event)
        elif event.kind == 'reset':
            self._reset(event.text)

    def _begin(self, was_known: bool) -> None:
        """Take note that the node's memory is a new one, after another that was known."""
        if (turn := self._turn) is not None:
            turn.phase, turn.why = 'failed', 'the node ended before the answer did'
            self._turn = None
            self._changed(turn)
        self._unsent = self._sent + self._unsent  # the node that took them is gone
        self._sent = []
        if was_known:
            self._mark('restart')
        self.send_waiting()

    def _ask(self, event: ConversationEvent) -> None:
        turn = self._take(event.text)
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
        at = len(turn.answer)
        self._touch(turn)
        turn.answer += text
        turn.phase = 'answering'
        self._tell({'type': 'piece', 'id': turn.id, 'version': turn.version, 'at': at,
                    'text': text})

    def _end(self, event: ConversationEvent) -> None:
        if (turn := self._turn) is None:
            turn = self._add(Item(f'{event.run}:{event.seq}', 'turn', phase='reading'))
        self._turn = None
        turn.answer, turn.why, turn.is_joined_late = event.text, event.why, False
        turn.phase = event.kind  # type: ignore[assignment]
        self._changed(turn)

    def _refuse(self, event: ConversationEvent) -> None:
        if self._turn is not None and self._turn_number == event.turn:
            turn, self._turn = self._turn, None
        else:
            turn = self._take(event.text)
        if event.kind == 'dropped' and turn.key:  # ours: it was never asked, and is sent again
            self._unsent.append(turn)
            return
        turn.phase, turn.why = 'refused', event.why
        self._place(turn)
        self._changed(turn)

    def _reset(self, reason: str) -> None:
        if (turn := self._turn) is None:
            self._mark('reset', reason)
            return
        turn.resets.append((len(turn.answer), reason))
        self._changed(turn)

    def _take(self, prompt: str) -> Item:
        """Return the turn that we sent with this prompt, or a new one: another has sent it."""
        for item in self._sent:
            if item.prompt == prompt:
                self._sent.remove(item)
                return item
        return self._add(Item(f'{self._run}:{self._seq}', 'turn', prompt=prompt,
                              phase='reading'))

    def _mark(self, kind: Kind, why: str = '') -> None:
        self._add(Item(f'{self._run}:{self._seq}', kind, phase='answered', why=why))

    def _add(self, item: Item) -> Item:
        self._items.append(item)
        if len(self._items) > MOST_ITEMS:
            self._items.pop(0)
        self._place(item)
        self._changed(item)
        return item

    def _place(self, item: Item) -> None:
        """Put an item last, but in front of those that wait: in the order of the answers."""
        self._items.remove(item)
        waiting = [each for each in self._items if each.phase == 'waiting']
        at = len(self._items) if item.phase == 'waiting' else len(self._items) - len(waiting)
        self._items.insert(at, item)

    def _touch(self, item: Item) -> None:
        self._version += 1
        item.version = self._version

    def _changed(self, item: Item) -> None:
        self._touch(item)
        self._tell({'type': 'item', 'item': asdict(item)})

    def _tell(self, message: Message) -> None:
        for listener in list(self._listeners):
            listener(message)
