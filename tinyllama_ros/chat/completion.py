"""Defines a chat request that carries its own message history, and the events that answer it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
import re
from typing import Literal

from tinyllama_ros.chat.message import Message
from tinyllama_ros.errors import RequestError

EventKind = Literal['accepted', 'token', 'reset', 'done', 'error']
ErrorCode = Literal['invalid_request', 'too_long', 'busy', 'stopping', 'offline', 'cancelled',
                    'failed']

ID = re.compile(r'[\w.-]{1,64}', re.ASCII)
MOST_MESSAGES = 2048
MOST_STOPS = 4
LONGEST_STOP = 256
RANGES: Mapping[str, tuple[type, float, float]] = {
    'temperature': (float, 0, 2),
    'top_p': (float, 0, 1),
    'max_tokens': (int, 1, 2**31 - 1),
    'seed': (int, 0, 2**63 - 1),
}


@dataclass(frozen=True)
class CompletionRequest:
    """Messages to answer; for a field that is None the node's parameter is used."""

    id: str
    messages: tuple[Message, ...] = field(repr=False)
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    """The node's own limit applies as well, if it has one."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Texts before which the answer ends."""

    def __post_init__(self) -> None:
        if not ID.fullmatch(self.id):
            raise RequestError('id must be 1 to 64 of the characters A-Z a-z 0-9 _ . -', 'id')
        if not 0 < len(self.messages) <= MOST_MESSAGES:
            raise RequestError(f'there are {len(self.messages)} messages; it must be 1 to '
                               f'{MOST_MESSAGES}', 'messages')
        for name, (kind, low, high) in RANGES.items():
            _check_number(name, getattr(self, name), kind, low, high)
        if len(self.stop) > MOST_STOPS or not all(
                isinstance(each, str) and 0 < len(each) <= LONGEST_STOP for each in self.stop):
            raise RequestError(f'stop must be at most {MOST_STOPS} texts of 1 to {LONGEST_STOP} '
                               'characters', 'stop')


@dataclass(frozen=True)
class CompletionEvent:
    """Something that happens to a request."""

    id: str
    kind: EventKind
    text: str = ''
    """A text delta; when done, the whole answer; the reason of a reset; an error message."""
    code: ErrorCode | Literal[''] = ''
    """The kind of the error."""
    param: str = ''
    """The part of the request that is wrong, if it is one part."""
    finish: Literal['stop', 'length', ''] = ''
    """Why the answer ends, when done."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """How many of the prompt's tokens were in the cache already."""
    completion_tokens: int = 0


def _check_number(name: str, value: object, kind: type, low: float, high: float) -> None:
    if value is None:
        return
    is_number = isinstance(value, int if kind is int else (int, float))
    if isinstance(value, bool) or not is_number or not low <= value <= high:  # type: ignore[operator]
        what = 'a whole number' if kind is int else 'a number'
        raise RequestError(f'{name} is {value!r:.40}; it must be {what} in {low}..{high}', name)
