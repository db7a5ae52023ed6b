"""
A request that brings its own history, and what is said of it: as JSON in std_msgs/String.

Why JSON, and no messages, service or action of our own: types of our own would make this a package
that compiles (rosidl knows ament_cmake only), where now pip, a wheel of ROS 2 and colcon take it
as it is, and every tool that knows String can join in. A service could not stream its answer. The
price is that ROS checks nothing; so everything is checked here, on both sides, and each refusal
names what is wrong.

Whoever asks picks an id, publishes a request on ~/chat_request and hears, of the events on
~/chat_event, those with the id: `accepted`; then `token` for each piece of text, in between
`reset` where the cache was cleared; in the end one `done` or one `error`, which may also be the
first. An id on ~/chat_cancel cancels, also when it overtakes its request.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
import json
import re
from typing import Any, Literal

from tinyllama_ros.chat.message import Message
from tinyllama_ros.errors import PromptError, RequestError

EventKind = Literal['accepted', 'token', 'reset', 'done', 'error']
ErrorCode = Literal['invalid_request', 'too_long', 'busy', 'stopping', 'offline', 'cancelled',
                    'failed']

ID = re.compile(r'[\w.-]{1,64}', re.ASCII)
LONGEST_JSON = 2_000_000
"""Characters; JSON may write one character as twelve."""
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
    """Messages that want an answer; what is None is as the node's parameters say."""

    id: str
    messages: tuple[Message, ...] = field(repr=False)
    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    """The node's own limit, where it has one, counts as well."""
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

    @classmethod
    def from_json(cls, text: str) -> 'CompletionRequest':
        """
        Return the request that a text holds.

        :raises RequestError: says what is wrong with it.
        """
        known = read_object(text)
        unknown = known.keys() - {'id', 'messages', 'stop', *RANGES}
        if unknown:
            raise RequestError(f'{min(unknown)} is unknown', min(unknown))
        request_id, stop = known.get('id'), known.get('stop', [])
        if not isinstance(request_id, str):
            raise RequestError('id must be a text', 'id')
        if not isinstance(stop, list):
            raise RequestError('stop must be a list of texts', 'stop')
        numbers = {name: known.get(name) for name in RANGES}
        return cls(request_id, read_messages(known.get('messages')), **numbers, stop=tuple(stop))

    def to_json(self) -> str:
        """Return the text that holds the request; plain ASCII."""
        return json.dumps({name: value for name, value in asdict(self).items()
                           if value not in (None, ())})


@dataclass(frozen=True)
class CompletionEvent:
    """Something that happens to a request."""

    id: str
    kind: EventKind
    text: str = ''
    """A piece of the answer, the whole of it when done; the reason of a reset; an error."""
    code: ErrorCode | Literal[''] = ''
    """What kind of error."""
    param: str = ''
    """What of the request is in error, where it is one thing."""
    finish: Literal['stop', 'length', ''] = ''
    """Why the answer ends, when done."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt's tokens, those that the cache still held."""
    completion_tokens: int = 0

    @classmethod
    def from_json(cls, text: str) -> 'CompletionEvent':
        """
        Return the event that a text holds.

        :raises RequestError: it holds none.
        """
        known = read_object(text)
        try:
            event = cls(**known)
        except TypeError as error:
            raise RequestError(f'this is no event: {error}') from error
        for name, default in _EVENT_DEFAULTS.items():
            if type(getattr(event, name)) is not type(default):
                raise RequestError(f'{name} of an event must be {type(default).__name__}', name)
        return event

    def to_json(self) -> str:
        """Return the text that holds the event, without what is empty; plain ASCII."""
        return json.dumps({name: value for name, value in asdict(self).items()
                           if value or name == 'id'})


_EVENT_DEFAULTS = asdict(CompletionEvent('', 'token'))


def read_object(text: str) -> dict[str, Any]:
    """
    Return the JSON object that a text holds.

    :raises RequestError: it holds none.
    """
    if len(text) > LONGEST_JSON:
        raise RequestError(f'{len(text)} characters are too many; at most {LONGEST_JSON} are read')
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f'this is no JSON: {error}') from error
    if not isinstance(found, dict):
        raise RequestError('this is no JSON object')
    return found


def read_id(text: str) -> str:
    """Return the id in the text of a request that is not as it must be, '' where it has none."""
    try:
        found = read_object(text).get('id')
    except RequestError:
        return ''
    return found if isinstance(found, str) and ID.fullmatch(found) else ''


def read_messages(found: object) -> tuple[Message, ...]:
    """
    Return messages out of JSON.

    :raises RequestError: they are none; names the first that is wrong.
    """
    if not isinstance(found, list):
        raise RequestError('messages must be a list of messages', 'messages')
    return tuple(_read_message(each, f'messages[{index}]') for index, each in enumerate(found))


def _read_message(found: object, name: str) -> Message:
    if not isinstance(found, dict) or not all(
            isinstance(found.get(part), str) for part in ('role', 'content')):
        raise RequestError(f'{name} must be an object with a role and a content, both texts', name)
    try:
        return Message(found['role'], found['content'])
    except PromptError as error:
        raise RequestError(f'{name}: {error}', name) from error


def _check_number(name: str, value: object, kind: type, low: float, high: float) -> None:
    if value is None:
        return
    is_number = isinstance(value, int if kind is int else (int, float))
    if isinstance(value, bool) or not is_number or not low <= value <= high:  # type: ignore[operator]
        what = 'a whole number' if kind is int else 'a number'
        raise RequestError(f'{name} is {value!r:.40}; it must be {what} in {low}..{high}', name)
