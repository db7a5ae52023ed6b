"""Publishes the server's notices on topics: all in order on ~/event, and one topic per kind."""

from dataclasses import replace
import secrets
from threading import Lock

from rclpy.node import Node
from std_msgs.msg import Empty, String

from tinyllama_ros.chat.completion import CompletionEvent
from tinyllama_ros.chat.notices import (
    beginning,
    ErrorNotice,
    InterruptedNotice,
    Notice,
    State,
    StateNotice,
    TurnNotice,
)
from tinyllama_ros.ros.interface import endpoints
from tinyllama_ros.ros.wire import completion_event_to_json, ConversationEvent

ENDS = ('answered', 'stopped', 'failed', 'dropped')
"""The kinds of notices after which ~/response is published."""


class NoticePublisher:
    """Publishes on the topics of the conversation, and numbers its events."""

    def __init__(self, node: Node) -> None:
        self._logger = node.get_logger()
        self._publishers = {name: node.create_publisher(endpoint.type, name, endpoint.qos)
                            for name, endpoint in endpoints('publisher').items()
                            if endpoint.type in (Empty, String)}
        # Refusals and answers come from different threads; numbers and topic need one order
        self._numbering = Lock()
        self._run = ''
        self._seq = self._line = 0

    def begin_run(self) -> None:
        """Begin a new run: the events of a conversation without messages."""
        with self._numbering:
            self._run, self._seq, self._line = secrets.token_hex(8), 0, 0
        self._publish_event(0, 'begun')

    def tell(self, notice: Notice) -> None:
        """Publish a notice of the server; called from any thread."""
        if isinstance(notice, StateNotice):
            self.tell_state(notice.state)
        elif isinstance(notice, InterruptedNotice):
            self._publishers['~/interrupted'].publish(Empty())
        elif isinstance(notice, ErrorNotice):
            self.tell_error(notice.message)
        elif isinstance(notice, CompletionEvent):
            self._publish('~/chat_event', completion_event_to_json(notice))
        elif notice.kind == 'sentence':
            self._publish('~/sentence', notice.text)
        else:
            self._tell_turn(notice)

    def tell_state(self, state: State) -> None:
        """Publish the state."""
        self._publish('~/state', state)

    def tell_error(self, message: str) -> None:
        """Publish an error, and log it."""
        self._logger.error(message)
        self._publish('~/error', message)

    def _tell_turn(self, notice: TurnNotice) -> None:
        self._publish_event(notice.turn, notice.kind, notice.text, notice.why)
        if notice.kind == 'token':
            self._publish('~/token', notice.text)
        elif notice.kind == 'reset':
            self._publish('~/cache_reset', notice.text)
        if notice.error:
            self.tell_error(notice.error)
        if notice.kind in ENDS:
            self._publish('~/response', '' if notice.kind == 'dropped' else notice.text)

    def _publish_event(self, turn: int, kind: str, text: str = '', why: str = '') -> None:
        with self._numbering:
            self._seq += 1
            self._line += kind != 'token'
            event = ConversationEvent(self._run, turn, self._seq, self._line, kind, text, why)
            self._publish('~/event', event.to_json())
            if kind != 'token':
                self._publish('~/history', replace(event, text=beginning(text)).to_json())

    def _publish(self, name: str, text: str) -> None:
        # A NUL, at which ROS would end the text, becomes U+FFFD
        data = text.replace('\0', '\N{REPLACEMENT CHARACTER}')
        self._publishers[name].publish(String(data=data))
