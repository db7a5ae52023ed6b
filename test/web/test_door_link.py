"""What the door's link makes of a node that is silent, that goes away, or that is not there."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest

pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')

from std_msgs.msg import String  # noqa: E402

from tinyllama_ros.chat.completion import CompletionEvent, CompletionRequest  # noqa: E402
from tinyllama_ros.chat.message import Message  # noqa: E402
from tinyllama_ros.ros.client import Status  # noqa: E402
from tinyllama_ros.web import door_link  # noqa: E402
from tinyllama_ros.web.door_link import DoorLink  # noqa: E402

REQUEST = CompletionRequest('one', (Message('user', 'hello'),))
SAID = [CompletionEvent('one', 'accepted'), CompletionEvent('one', 'token', 'I am'),
        CompletionEvent('one', 'token', ' one'),
        CompletionEvent('one', 'done', 'I am one', finish='stop')]


@dataclass
class FakeNode:
    """Stands for our node, and for the one at the other end of its topics."""

    subscribers: int = 1
    published: list[tuple[str, str]] = field(default_factory=list)
    hear: Callable[[String], None] = lambda _: None
    reply: Callable[[], object] = lambda: None
    """Comes when a request is published."""

    def create_subscription(self, _: Any, topic: str, hear: Any, __: Any) -> None:
        assert topic == '/tinyllama/chat_event'
        self.hear = hear

    def create_publisher(self, _: Any, topic: str, __: Any) -> 'FakePublisher':
        return FakePublisher(self, topic.rpartition('/')[2])

    def say(self, *events: CompletionEvent | str) -> None:
        for event in events:
            self.hear(String(data=event if isinstance(event, str) else event.to_json()))


@dataclass
class FakePublisher:
    node: FakeNode
    topic: str

    def publish(self, message: String) -> None:
        self.node.published.append((self.topic, message.data))
        if self.topic == 'chat_request':
            self.node.reply()

    def get_subscription_count(self) -> int:
        return self.node.subscribers


@pytest.fixture
def node(monkeypatch):
    monkeypatch.setattr(door_link, 'TICK_S', 0.01)
    return FakeNode()


@pytest.fixture
def link(node):
    link = DoorLink(node, '/tinyllama')
    link.tell_status(Status('idle', True, 'tiny'))
    return link


def complete(link: DoorLink, at_most: int = 1000) -> list[CompletionEvent | None]:
    """Return what is heard of a request, which is cancelled when that is enough."""
    async def run() -> list[CompletionEvent | None]:
        heard = []
        async with aclosing(link.complete(REQUEST)) as events:
            async for event in events:
                heard.append(event)
                if len(heard) == at_most:
                    break
        return heard

    return asyncio.run(asyncio.wait_for(run(), 10))


def error_of(heard: list[CompletionEvent | None]) -> tuple[str, str]:
    assert heard[-1] is not None and heard[-1].kind == 'error'
    return heard[-1].code, heard[-1].text


def test_request_goes_out_and_its_events_come_back(node, link):
    node.reply = lambda: node.say(*SAID)
    assert complete(link) == SAID
    assert node.published == [('chat_request', REQUEST.to_json())]


def test_events_of_others_and_nonsense_are_not_heard(node, link):
    node.reply = lambda: node.say(CompletionEvent('two', 'token', 'x'), 'nonsense', *SAID)
    assert complete(link) == SAID


def test_silence_is_told(node, link):
    node.reply = lambda: node.say(SAID[0])
    assert complete(link, 3) == [SAID[0], None, None]


def test_client_that_goes_cancels(node, link):
    node.reply = lambda: node.say(*SAID[:2])
    complete(link, 2)
    assert node.published[1:] == [('chat_cancel', 'one')]


def test_request_leaves_nothing_behind(node, link):
    node.reply = lambda: node.say(*SAID)
    complete(link)
    complete(link, 1)
    assert link._clients == {}


def test_node_that_is_not_there_gets_no_request(node, link):
    node.subscribers = 0
    assert error_of(complete(link)) == ('offline', 'the node /tinyllama is not there')
    assert node.published == []


def test_node_that_goes_away_in_an_answer_is_an_error(node, link):
    def reply():
        node.say(*SAID[:2])
        link.tell_status(Status())

    node.reply = reply
    heard = complete(link)
    assert heard[:2] == SAID[:2]
    assert error_of(heard) == ('offline', 'the node /tinyllama went away')


def test_node_that_does_not_take_a_request_is_an_error(node, link, monkeypatch):
    monkeypatch.setattr(door_link, 'ACCEPT_S', 0.05)
    code, text = error_of(complete(link))
    assert code == 'offline' and 'did not take it within' in text


def test_node_may_take_its_time_once_it_has_a_request(node, link, monkeypatch):
    monkeypatch.setattr(door_link, 'ACCEPT_S', 0.05)
    node.reply = lambda: node.say(SAID[0])
    assert complete(link, 20)[1:] == [None] * 19


def test_piece_that_was_lost_is_an_error(node, link):
    node.reply = lambda: node.say(SAID[0], SAID[1], SAID[3])
    code, text = error_of(complete(link))
    assert code == 'failed' and 'a piece of the answer was lost' in text


def test_there_is_a_model_while_the_node_is_ready(node, link):
    assert link.model == 'tiny'
    link.tell_status(Status('loading', False, 'tiny'))
    assert link.model == ''
