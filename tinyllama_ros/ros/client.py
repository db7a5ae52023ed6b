"""
The ROS side of the page: what the language model's node says, and what is said to it.

Callbacks come in the executor's thread; whoever made the link takes them to a thread of its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String
from std_srvs.srv import Trigger

from tinyllama_ros.ros.wire import Line, Piece, read_line

EVENTS = QoSProfile(depth=1000)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
HISTORY = QoSProfile(depth=200, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TICK_S = 0.2
SILENCE_S = 5.0
"""The diagnostics come each second; a node that is killed is missed after this."""
NEWS_S = 3.0
"""
How long the record of a node that was away may take to come.

It says whether the node is another one, to which prompts must go that the one before did not
answer; a node that was only silent has no news.
"""
SERVING = ('idle', 'reading', 'answering', 'error')
NUMBERS = {'fill': 'fill (slots)', 'capacity': 'capacity (slots)', 'speed': 'speed (tok/s)',
           'waiting': 'prompts waiting'}
"""What a page is shown of the diagnostics."""

Reply = Callable[[bool, str], None]
"""Takes whether a service has done what it was asked, and what it says."""


@dataclass(frozen=True)
class Status:
    """How the node is."""

    state: str = 'offline'
    """That of the node, or offline."""
    is_ready: bool = False
    """Whether it takes prompts."""
    model: str = ''
    fill: float | None = None
    """Slots of the cache that hold a token."""
    capacity: float | None = None
    speed: float | None = None
    """Tokens a second of the last whole answer."""
    waiting: float | None = None
    """Prompts in the node's queue."""
    why: str = ''
    """The last error that the node told, while its state is error."""


class Link:
    """A connection to one language model's node, which may come and go."""

    def __init__(self, node: Node, target: str, *, on_line: Callable[[Line, int, bool], None],
                 on_piece: Callable[[Piece], None], on_status: Callable[[Status], None]) -> None:
        """
        Connect.

        :param node: ours.
        :param target: full name of the language model's node.
        :param on_line: takes a line of the record, when it was published, and whether that was
            before we listened.
        """
        self._node = node
        self._target = target
        self._on_line, self._on_piece, self._on_status = on_line, on_piece, on_status
        self._status = Status()
        self._state = self._error = ''
        self._values: dict[str, str] = {}
        self._heard_s = self._away_s = time.monotonic()
        self._has_news = False  # since it was away
        self._since_ns = time.time_ns()
        self._prompts = node.create_publisher(String, f'{target}/prompt', EVENTS)
        self._triggers = {name: node.create_client(Trigger, f'{target}/{name}')
                          for name in ('cancel', 'reset')}
        node.create_subscription(String, f'{target}/token', self._hear_token, EVENTS)
        node.create_subscription(String, f'{target}/history', self._hear_history, HISTORY)
        node.create_subscription(String, f'{target}/error', self._hear_error, EVENTS)
        node.create_subscription(String, f'{target}/state', self._hear_state, LATCHED)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._hear_diagnostics, 10)
        node.create_timer(TICK_S, self._look)

    def send(self, prompt: str) -> bool:
        """Publish a prompt; False where the node takes none now. From any thread."""
        if not self._status.is_ready:
            return False
        self._prompts.publish(String(data=prompt))
        return True

    def trigger(self, service: str, reply: Reply) -> None:
        """Call `cancel` or `reset`. From any thread; the reply comes in the executor's."""
        client = self._triggers[service]
        if not client.service_is_ready():
            reply(False, 'the language model is not there')
            return
        client.call_async(Trigger.Request()).add_done_callback(partial(_tell, reply))

    def _hear_token(self, message: String, info: dict[str, int]) -> None:
        self._on_piece(Piece(info['source_timestamp'], message.data))

    def _hear_history(self, message: String, info: dict[str, int]) -> None:
        if (line := read_line(message.data)) is not None:
            self._has_news, self._heard_s = True, time.monotonic()
            stamp_ns = info['source_timestamp']
            self._on_line(line, stamp_ns, stamp_ns < self._since_ns)

    def _hear_state(self, message: String) -> None:
        self._state = message.data
        self._heard_s = time.monotonic()
        self._look()

    def _hear_error(self, message: String) -> None:
        self._error = message.data
        self._look()

    def _hear_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            if status.name == f'{self._target}: language model':
                self._values = {value.key: value.value for value in status.values}
                self._heard_s = time.monotonic()
                self._look()

    def _look(self) -> None:
        """Find out how the node is, and tell it where it has changed."""
        is_there = (self._node.count_publishers(f'{self._target}/state') > 0
                    and time.monotonic() - self._heard_s < SILENCE_S)
        if not is_there:
            self._state, self._values, self._has_news = '', {}, False
            self._away_s = time.monotonic()
        is_known = self._has_news or time.monotonic() - self._away_s > NEWS_S
        is_ready = (self._state in SERVING and is_known
                    and self._prompts.get_subscription_count() > 0)
        numbers = {name: _number(self._values.get(key, '')) for name, key in NUMBERS.items()}
        why = self._error if self._state == 'error' else ''
        status = Status(self._state or 'offline', is_ready, self._values.get('model', ''),
                        **numbers, why=why)
        if status != self._status:
            self._status = status
            self._on_status(status)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _tell(reply: Reply, future: Any) -> None:
    try:
        answer = future.result()
    except Exception as error:  # the edge: whatever a service raises
        reply(False, str(error))
        return
    reply(answer.success, answer.message)
