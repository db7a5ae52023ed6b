"""
Writes and reads the JSON of topics of type std_msgs/String.

Why JSON and not own message types: those need rosidl, which supports ament_cmake only, so pip
could not install this package, and each client would have to build the types. A service could not
stream its answer. ROS does not check JSON, so both sides check everything here, and each error
names what is wrong.

A client chooses an id, publishes a request on ~/chat_request, and receives the events with this id
on ~/chat_event: first `accepted`; then `token` for each text delta, and `reset` whenever the cache
was cleared; at the end one `done` or one `error`, which may also be the first event. The id on
~/chat_cancel cancels the request, even if it arrives before the request.
"""

from dataclasses import asdict, dataclass
import json
from typing import Any, get_type_hints

from tinyllama_ros.chat.completion import CompletionEvent, CompletionRequest, ID, RANGES
from tinyllama_ros.chat.message import Message
from tinyllama_ros.errors import PromptError, RequestError

LONGEST_JSON = 2_000_000
"""Characters; JSON may write one character as twelve."""


@dataclass(frozen=True)
class ConversationEvent:
    """An event of the robot's conversation; see the topic ~/event."""

    run: str
    """Identifies a run: each time the model is loaded, a new run begins."""
    turn: int
    """Number of the prompt in the run; 0 if the event belongs to no prompt."""
    seq: int
    """Number of the event in the run: 1, 2, 3, ..."""
    line: int
    """How many events of the run were published on ~/history, with this one if it was."""
    kind: str
    """`begun`, `token`, or a RecordKind (chat/notices.py)."""
    text: str = ''
    """As in TurnNotice (chat/notices.py)."""
    why: str = ''

    def to_json(self) -> str:
        """Return the text that holds the event; plain ASCII."""
        return json.dumps(asdict(self))


_EVENT_TYPES = get_type_hints(ConversationEvent)


def read_event(data: str) -> ConversationEvent | None:
    """Return the event in a message of ~/event or ~/history, None if it is not valid."""
    try:
        known = read_object(data)
        fields = {name: known[name] for name in _EVENT_TYPES}
    except (RequestError, KeyError):
        return None
    if any(type(fields[name]) is not kind for name, kind in _EVENT_TYPES.items()):
        return None
    return ConversationEvent(**fields)


def request_to_json(request: CompletionRequest) -> str:
    """Return the text that holds a request; plain ASCII."""
    return json.dumps({name: value for name, value in asdict(request).items()
                       if value not in (None, ())})


def read_request(text: str) -> CompletionRequest:
    """
    Return the request that a text holds.

    :raises RequestError: says what is wrong with it.
    """
    known = read_object(text)
    unknown = known.keys() - {'id', 'messages', 'stop', *RANGES}
    if unknown:
        name = min(unknown)[:100]
        raise RequestError(f'{name} is unknown', name)
    request_id, stop = known.get('id'), known.get('stop', [])
    if not isinstance(request_id, str):
        raise RequestError('id must be a text', 'id')
    if not isinstance(stop, list):
        raise RequestError('stop must be a list of texts', 'stop')
    numbers = {name: known.get(name) for name in RANGES}
    return CompletionRequest(request_id, read_messages(known.get('messages')), **numbers,
                             stop=tuple(stop))


def read_id(text: str) -> str:
    """Return the id in the text of an invalid request, '' if it has none."""
    try:
        request_id = read_object(text).get('id')
    except RequestError:
        return ''
    return request_id if isinstance(request_id, str) and ID.fullmatch(request_id) else ''


def completion_event_to_json(event: CompletionEvent) -> str:
    """Return the text that holds an event, without empty fields; plain ASCII."""
    return json.dumps({name: value for name, value in asdict(event).items()
                       if value or name == 'id'})


def read_completion_event(text: str) -> CompletionEvent:
    """
    Return the event that a text holds.

    :raises RequestError: it holds none.
    """
    known = read_object(text)
    try:
        event = CompletionEvent(**known)
    except TypeError as error:
        raise RequestError(f'this is not a valid event: {error}') from error
    for name, default in _COMPLETION_EVENT_DEFAULTS.items():
        if type(getattr(event, name)) is not type(default):
            raise RequestError(f'{name} of an event must be {type(default).__name__}', name)
    return event


_COMPLETION_EVENT_DEFAULTS = asdict(CompletionEvent('', 'token'))


def read_object(text: str) -> dict[str, Any]:
    """
    Return the JSON object that a text holds.

    :raises RequestError: it holds none.
    """
    if len(text) > LONGEST_JSON:
        raise RequestError(f'{len(text)} characters are too many; at most {LONGEST_JSON} are read')
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f'this is not valid JSON: {error}') from error
    if not isinstance(value, dict):
        raise RequestError('this is not a JSON object')
    return value


def read_messages(value: object) -> tuple[Message, ...]:
    """
    Return the messages in a JSON value.

    :raises RequestError: names the first part that is wrong.
    """
    if not isinstance(value, list):
        raise RequestError('messages must be a list of messages', 'messages')
    return tuple(_read_message(item, f'messages[{index}]') for index, item in enumerate(value))


def _read_message(value: object, name: str) -> Message:
    if not isinstance(value, dict) or not all(
            isinstance(value.get(part), str) for part in ('role', 'content')):
        raise RequestError(f'{name} must be an object with a role and a content, both texts', name)
    try:
        return Message(value['role'], value['content'])
    except PromptError as error:
        raise RequestError(f'{name}: {error}', name) from error
