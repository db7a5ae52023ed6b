"""What test/support/fuzz.py runs: damaged requests and events, as clients and nodes read them."""

from collections.abc import Callable, Iterator
import json
from pathlib import Path
from typing import Any

from support.fuzz import fuzz
from support.mutations import byte_mutations, json_mutations
from tinyllama_ros.errors import RequestError
from tinyllama_ros.ros.wire import (
    completion_event_to_json,
    ConversationEvent,
    read_completion_event,
    read_event,
    read_id,
    read_object,
    read_request,
    request_to_json,
)
from tinyllama_ros.web.chat_request import ChatRequest

MESSAGES = [{'role': 'system', 'content': 'Be kind.'}, {'role': 'user', 'content': 'hi'},
            {'role': 'assistant', 'content': 'hello'}, {'role': 'user', 'content': 'who?'}]
NUMBERS = {'temperature': 0.5, 'top_p': 0.9, 'max_tokens': 9, 'seed': 7}
REQUEST = {'id': 'a1', 'messages': MESSAGES, 'stop': ['x', 'y'], **NUMBERS}
PARTS = [{'type': 'text', 'text': 'a'}, {'type': 'text', 'text': 'b'}]
BODY = {'model': 'tiny', 'messages': [*MESSAGES, {'role': 'user', 'name': 'me', 'content': PARTS}],
        'stream': True, 'stream_options': {'include_usage': True}, 'stop': 'x', 'n': 1,
        'response_format': {'type': 'text'}, 'tools': [], 'logit_bias': None, 'user': 'u',
        'max_completion_tokens': 5, **NUMBERS}
DONE = {'id': 'a1', 'kind': 'done', 'text': 'hi', 'finish': 'stop', 'prompt_tokens': 3,
        'cached_tokens': 1, 'completion_tokens': 2}
EVENT = vars(ConversationEvent('r', 1, 2, 3, 'token', 'a', ''))


def mutations(value: Any, seed: int) -> Iterator[tuple[str, bytes]]:
    """Yield two thousand damaged texts of a JSON value."""
    yield from json_mutations(value, seed, 1500)
    yield from byte_mutations(json.dumps(value).encode(), seed, 500)


def texts(read: Callable[[str], object], value: Any, seed: int) -> None:
    """Give a reader damaged texts, as a topic or a body brings them."""
    def use(content: bytes, _: Path) -> None:
        read(content.decode(errors='replace'))

    fuzz(use, mutations(value, seed))


def requests() -> None:
    """Damage requests on ~/chat_request; what is taken comes through unchanged."""
    def read(text: str) -> None:
        try:
            request = read_request(text)
        except RequestError:
            read_id(text)  # names the request that is refused
            raise
        assert read_request(request_to_json(request)) == request

    texts(read, REQUEST, 20)


def bodies() -> None:
    """Damage bodies of POST /v1/chat/completions; what is taken, the node takes, too."""
    def read(text: str) -> None:
        request = ChatRequest(read_object(text)).request
        assert read_request(request_to_json(request)) == request

    texts(read, BODY, 21)


def events() -> None:
    """Damage what a node publishes for its clients."""
    def read(text: str) -> None:
        event = read_completion_event(text)
        assert read_completion_event(completion_event_to_json(event)) == event

    texts(read, DONE, 22)
    texts(lambda text: read_event(text), EVENT, 23)
