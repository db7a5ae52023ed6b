"""What becomes of requests to a node that is silent, that goes away, or that is not there."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field

import pytest

from tinyllama_ros.chat.completion import CompletionEvent, CompletionRequest
from tinyllama_ros.chat.message import Message
from tinyllama_ros.ros import requests
from tinyllama_ros.ros.requests import RequestClient
from tinyllama_ros.ros.wire import completion_event_to_json, request_to_json

REQUEST = CompletionRequest('one', (Message('user', 'hello'),))
SAID = [CompletionEvent('one', 'accepted'), CompletionEvent('one', 'token', 'I am'),
        CompletionEvent('one', 'token', ' one'),
        CompletionEvent('one', 'done', 'I am one', finish='stop')]


@dataclass
class FakeNode:
    """The node at the other end of the topics."""

    is_ready: bool = True
    published: list[tuple[str, str]] = field(default_factory=list)
    receive: Callable[[str], None] = lambda _: None
    reply: Callable[[], object] = lambda: None
    """Called when a request is published."""

    def on_request(self, text: str) -> None:
        self.published.append(('chat_request', text))
        self.reply()

    def on_cancel(self, text: str) -> None:
        self.published.append(('chat_cancel', text))

    def say(self, *events: CompletionEvent | str) -> None:
        for event in events:
            self.receive(event if isinstance(event, str) else completion_event_to_json(event))


@pytest.fixture
def node(monkeypatch):
    monkeypatch.setattr(requests, 'TICK_S', 0.01)
    return FakeNode()


@pytest.fixture
def client(node):
    client = RequestClient('/tinyllama', node.on_request, node.on_cancel, lambda: node.is_ready)
    node.receive = client.receive
    return client


def complete(client: RequestClient, at_most: int = 1000) -> list[CompletionEvent | None]:
    """Return what is heard of a request, which is cancelled when that is enough."""
    async def run() -> list[CompletionEvent | None]:
        heard = []
        async with aclosing(client.complete(REQUEST)) as events:
            async for event in events:
                heard.append(event)
                if len(heard) == at_most:
                    break
        return heard

    return asyncio.run(asyncio.wait_for(run(), 10))


def error_of(heard: list[CompletionEvent | None]) -> tuple[str, str]:
    assert heard[-1] is not None and heard[-1].kind == 'error'
    return heard[-1].code, heard[-1].text


def test_request_goes_out_and_its_events_come_back(node, client):
    node.reply = lambda: node.say(*SAID)
    assert complete(client) == SAID
    assert node.published == [('chat_request', request_to_json(REQUEST))]


def test_events_of_others_and_nonsense_are_not_heard(node, client):
    node.reply = lambda: node.say(CompletionEvent('two', 'token', 'x'), 'nonsense', *SAID)
    assert complete(client) == SAID


def test_silence_is_told(node, client):
    node.reply = lambda: node.say(SAID[0])
    assert complete(client, 3) == [SAID[0], None, None]


def test_client_that_goes_cancels(node, client):
    node.reply = lambda: node.say(*SAID[:2])
    complete(client, 2)
    assert node.published[1:] == [('chat_cancel', 'one')]


def test_request_leaves_nothing_behind(node, client):
    node.reply = lambda: node.say(*SAID)
    complete(client)
    complete(client, 1)
    assert client._receivers == {}


def test_request_that_the_node_would_not_read_is_refused_at_once(node, client, monkeypatch):
    monkeypatch.setattr(requests, 'LONGEST_JSON', len(request_to_json(REQUEST)) - 1)
    code, text = error_of(complete(client))
    assert code == 'too_long' and 'characters as JSON' in text
    assert node.published == []


def test_answer_that_is_read_too_slowly_is_cancelled_and_says_so(node, client, monkeypatch):
    monkeypatch.setattr(requests, 'MOST_EVENTS', 3)
    node.reply = lambda: node.say(SAID[0], *[SAID[1]] * 9)
    heard = complete(client)
    assert heard[:3] == [*SAID[:2], SAID[1]] and len(heard) == 4
    code, text = error_of(heard)
    assert code == 'cancelled' and 'read too slowly, 3 events are waiting' in text
    assert node.published[1:] == [('chat_cancel', 'one')]


def test_node_that_is_not_there_gets_no_request(node, client):
    node.is_ready = False
    assert error_of(complete(client)) == (
        'offline', 'the node /tinyllama does not run or is not ready')
    assert node.published == []


def test_node_that_goes_away_in_an_answer_is_an_error(node, client):
    def reply():
        node.say(*SAID[:2])
        node.is_ready = False

    node.reply = reply
    heard = complete(client)
    assert heard[:2] == SAID[:2]
    assert error_of(heard) == ('offline', 'the node /tinyllama went away')


def test_node_that_does_not_take_a_request_is_an_error(node, client, monkeypatch):
    monkeypatch.setattr(requests, 'ACCEPT_S', 0.05)
    code, text = error_of(complete(client))
    assert code == 'offline' and 'did not confirm it within' in text


def test_node_may_take_its_time_once_it_has_a_request(node, client, monkeypatch):
    monkeypatch.setattr(requests, 'ACCEPT_S', 0.05)
    node.reply = lambda: node.say(SAID[0])
    assert complete(client, 20)[1:] == [None] * 19


def test_piece_that_was_lost_is_an_error(node, client):
    node.reply = lambda: node.say(SAID[0], SAID[1], SAID[3])
    code, text = error_of(complete(client))
    assert code == 'failed' and 'a part of the answer was lost' in text
