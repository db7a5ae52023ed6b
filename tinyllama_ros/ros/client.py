"""
The client of a language model's node, on which every front-end stands.

Callbacks come in the thread of the executor that spins our node; every method can be called from
any other thread.
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
import re
from threading import Condition
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import Trigger

from tinyllama_ros.chat.completion import CompletionEvent, CompletionRequest
from tinyllama_ros.chat.notices import beginning
from tinyllama_ros.errors import ConfigError, TinyLlamaError
from tinyllama_ros.ros.event_stream import EventStream
from tinyllama_ros.ros.interface import diagnostics_name, ENDPOINTS, endpoints
from tinyllama_ros.ros.process import spinning
from tinyllama_ros.ros.requests import RequestClient
from tinyllama_ros.ros.wire import ConversationEvent, read_event

__all__ = ['beginning', 'clean_text', 'ConversationEvent', 'full_node_name', 'NodeClient',
           'NodeError', 'open_client', 'Reply', 'Status']

TICK_S = 0.2
SILENCE_S = 5.0
"""A node is offline after this time without a message; diagnostics come each second."""
HISTORY_S = 3.0
"""
How long to wait for ~/history of a node that was offline, before prompts are sent to it.

The history shows whether the node was restarted; prompts that were not answered are then sent
again. A node that was only silent publishes no new history.
"""
REPLY_S = 10.0
FRESH_S = 2.0
"""Diagnostics that are older than this are outdated; they come once a second."""
DISCOVERY_S = 1.0
"""How long discovery of the prompt topic may take after the state was received."""
SERVING = ('idle', 'reading', 'answering', 'error')
AT_WORK = ('reading', 'answering')
GIVEN_UP = ('error', 'finalized')
AT_REST = ('idle', 'error')
"""A failed answer leaves the node in error, but it takes the next prompt and may recover."""
NUMBERS = {'fill': 'fill (slots)', 'capacity': 'capacity (slots)', 'speed': 'speed (tok/s)',
           'waiting': 'prompts waiting'}
"""The numbers of a Status, and their keys in the diagnostics."""
NODE_NAME = re.compile(r'(/[A-Za-z_]\w*)+', re.ASCII)

Reply = Callable[[bool, str], None]
"""Called with the success and the message of a service's response."""


class NodeError(TinyLlamaError):
    """The node does not run, or cannot answer."""


@dataclass(frozen=True)
class Status:
    """The status of the node."""

    state: str = 'offline'
    """The state of the node, or offline."""
    is_ready: bool = False
    """Whether it accepts prompts."""
    model: str = ''
    fill: float | None = None
    """Slots of the cache that hold a token."""
    capacity: float | None = None
    speed: float | None = None
    """Tokens a second of the last whole answer."""
    waiting: float | None = None
    """Prompts in the node's queue."""
    why: str = ''
    """The last error that the node published, while its state is error."""


def full_node_name(name: str) -> str:
    """
    Return the full name of a node, with the leading slash that may be missing.

    :raises ConfigError: it is not a valid node name.
    """
    full = '/' + name.strip('/')
    if not NODE_NAME.fullmatch(full):
        raise ConfigError(f'{name!r} is not a valid node name; give one such as /tinyllama '
                          'or /robot/tinyllama (ros2 node list shows those that run)')
    return full


def clean_text(text: str) -> str:
    """Return a text that ROS can send: without NUL and halves of surrogate pairs."""
    whole = text.encode('utf-8', 'replace').decode('utf-8')
    return whole.replace('\0', '\N{REPLACEMENT CHARACTER}')


def _ignore(_: Any) -> None:
    """Ignore a value: the default callback."""


class NodeClient:
    """A connection to the node of a language model, which may start and end at any time."""

    def __init__(self, node: Node, target: str, *,
                 on_event: Callable[[ConversationEvent], None] = _ignore,
                 on_status: Callable[[Status], None] = _ignore) -> None:
        """
        Connect.

        :param node: ours.
        :param target: name of the language model's node.
        :param on_event: called with each event of the conversation, in order, from the oldest
            that ~/history still holds.
        :param on_status: called with the status whenever it has changed.
        :raises ConfigError: the target is not a valid node name.
        """
        self.target = full_node_name(target)
        self.status = Status()
        self.state = ''
        """The newest state of the node; '' before the first one, and while it is offline."""
        self.error = ''
        """The newest error that the node has published."""
        self.values: Mapping[str, str] = {}
        """The newest diagnostics of the node."""
        self._node = node
        self._on_status = on_status
        self._stream = EventStream(on_event)
        self._changed = Condition()
        self._values_came_s = -FRESH_S
        self._last_message_s = self._offline_since_s = time.monotonic()
        self._has_history = False  # since the node was away
        self._publishers = {name: node.create_publisher(endpoint.type, self._full(name),
                                                        endpoint.qos)
                            for name, endpoint in endpoints('subscription').items()}
        self._services = {name: node.create_client(endpoint.type, self._full(name))
                          for name, endpoint in endpoints('service').items()}
        self._requests = RequestClient(
            self.target, partial(self.publish, '~/chat_request'),
            partial(self.publish, '~/chat_cancel'),
            lambda: self.status.is_ready and self._is_received('~/chat_request'))
        # ~/state comes last: subscriptions are announced in order, so when the latched state
        # arrives, the node knows the other subscriptions, and no event is missed.
        for name, callback in (('~/event', self._on_live), ('~/history', self._on_history),
                               ('~/chat_event', self._on_chat_event), ('~/error', self._on_error),
                               ('/diagnostics', self._on_diagnostics),
                               ('~/state', self._on_state)):
            node.create_subscription(ENDPOINTS[name].type, self._full(name), callback,
                                     ENDPOINTS[name].qos)
        node.create_timer(TICK_S, self._update_status,
                          clock=Clock(clock_type=ClockType.STEADY_TIME))

    @property
    def model(self) -> str:
        """The name of the model that answers, or its path; '' if no model is ready."""
        return self.status.model if self.status.is_ready else ''

    def is_connected(self) -> bool:
        """Return whether every node of the target's name takes our prompts and publishes."""
        return self._is_received('~/prompt') and self.is_alive()

    def is_alive(self) -> bool:
        """
        Return whether a node of the target's name takes our prompts and publishes events.

        That is true also while a second one of the name starts, which ends as soon as it notices.
        """
        return bool(self._publishers['~/prompt'].get_subscription_count()
                    and self._node.count_publishers(self._full('~/event')))

    def publish(self, name: str, text: str) -> None:
        """Publish a text on a topic of the node, whether the node runs or not."""
        self._publishers[name].publish(String(data=text))

    def send(self, prompt: str) -> bool:
        """Publish a prompt; return False, without publishing, if the node is not ready."""
        if not self.status.is_ready:
            return False
        self.publish('~/prompt', prompt)
        return True

    def complete(self, request: CompletionRequest
                 ) -> AsyncGenerator[CompletionEvent | None, None]:
        """Send a request and yield its events; see RequestClient."""
        return self._requests.complete(request)

    def trigger(self, service: str, reply: Reply) -> None:
        """Call ~/cancel or ~/reset; `reply` is called in the executor's thread."""
        client = self._services[f'~/{service}']
        if not client.service_is_ready():
            reply(False, 'the node of the language model does not run')
            return
        client.call_async(Trigger.Request()).add_done_callback(partial(_reply_with, reply))

    def call(self, service: str) -> str:
        """
        Call ~/cancel or ~/reset and wait; return the message of the response.

        :raises NodeError: there was no response in time.
        """
        replies: list[str] = []

        def reply(_: bool, message: str) -> None:
            with self._changed:
                replies.append(message)
                self._changed.notify_all()

        self._services[f'~/{service}'].wait_for_service(REPLY_S)
        self.trigger(service, reply)
        if not self.wait_for(lambda: replies, REPLY_S):
            raise NodeError(f'{self.target}/{service} did not reply within {REPLY_S:.0f} s; is '
                            'the node still running?')
        return replies[0]

    def wait_for(self, condition: Callable[[], Any], timeout_s: float) -> bool:
        """Wait until a condition on what was received holds; return whether it does."""
        with self._changed:
            return bool(self._changed.wait_for(condition, timeout_s))

    def wait_until_ready(self, timeout_s: float) -> None:
        """
        Wait until the node is ready and answers no prompt.

        This does not wait for a node that is in error and accepts no prompts, because its
        configuration failed, or for one that is finalized, because it was shut down.

        :raises NodeError: it is not ready in time; says in which state it is.
        """
        began_s = time.monotonic()
        while not (self.state in AT_REST and self.is_connected()):
            limit_s = min(DISCOVERY_S, timeout_s) if self.state in GIVEN_UP else timeout_s
            left_s = began_s + limit_s - time.monotonic()
            if left_s <= 0:
                raise NodeError(self._why_not_ready(timeout_s))
            with self._changed:  # the node graph sends no notification, so poll it
                self._changed.wait(min(TICK_S, left_s))

    def statistics(self) -> Mapping[str, str]:
        """
        Return the values of the node on /diagnostics by name.

        :raises NodeError: it publishes none.
        """
        if not self.wait_for(lambda: time.monotonic() - self._values_came_s < FRESH_S, REPLY_S):
            raise NodeError(f'{self.target} said nothing on /diagnostics within {REPLY_S:.0f} s; '
                            'is the node still running?')
        return self.values

    def _is_received(self, name: str) -> bool:
        """
        Return whether each node of the target's name receives a topic of ours.

        A node that was killed is discovered for some seconds more (in Fast DDS 20), and receives
        nothing: what is published for it alone is lost.
        """
        nodes = self._node.count_publishers(self._full('~/state'))
        receivers = sum(f'{info.node_namespace.rstrip("/")}/{info.node_name}' == self.target
                        for info in self._node.get_subscriptions_info_by_topic(self._full(name)))
        matched = self._publishers[name].get_subscription_count()
        return bool(0 < nodes <= receivers <= matched)

    def _full(self, name: str) -> str:
        return name.replace('~', self.target, 1)

    def _on_live(self, message: String) -> None:
        if (event := read_event(message.data)) is not None:
            self._stream.add_live(event)
            self._received()

    def _on_history(self, message: String) -> None:
        if (event := read_event(message.data)) is not None:
            self._has_history = True
            self._stream.add_history(event)
            self._received()

    def _on_chat_event(self, message: String) -> None:
        self._requests.receive(message.data)

    def _on_state(self, message: String) -> None:
        self.state = message.data
        self._received()
        self._update_status()

    def _on_error(self, message: String) -> None:
        self.error = message.data
        self._received()
        self._update_status()

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            if status.name == diagnostics_name(self.target):
                self.values = {value.key: value.value for value in status.values}
                self._values_came_s = time.monotonic()
                # A node that was silent for a while does not publish its state again
                self.state = self.state or self.values.get('state', '')
                self._received()
                self._update_status()

    def _received(self) -> None:
        self._last_message_s = time.monotonic()
        with self._changed:
            self._changed.notify_all()

    def _update_status(self) -> None:
        """Determine the status of the node, and report it if it has changed."""
        now_s = time.monotonic()
        is_there = (self._node.count_publishers(self._full('~/state')) > 0
                    and now_s - self._last_message_s < SILENCE_S)
        if not is_there:
            self.state, self.values, self._has_history = '', {}, False
            self._offline_since_s = now_s
        is_known = self._has_history or now_s - self._offline_since_s > HISTORY_S
        is_ready = self.state in SERVING and is_known and self._is_received('~/prompt')
        numbers = {name: _number(self.values.get(key, '')) for name, key in NUMBERS.items()}
        status = Status(self.state or 'offline', is_ready, self.values.get('model', ''),
                        **numbers, why=self.error if self.state == 'error' else '')
        if status != self.status:
            self.status = status
            self._on_status(status)

    def _why_not_ready(self, timeout_s: float) -> str:
        if self.state == 'error':
            return (f'{self.target} is in state error and takes no prompts: '
                    f'{self.error or "its log says why"}')
        if self.state == 'finalized':
            return f'{self.target} was shut down; start it again'
        if self.state:
            return (f'{self.target} is still {self.state} after {timeout_s:g} s; '
                    'wait longer with --wait SECONDS')
        return (f'no node answers on {self.target}/state within {timeout_s:g} s; start it '
                '(ros2 launch tinyllama_ros tinyllama.launch.py), or name another with --node')


@contextmanager
def open_client(name: str, target: str, *,
                on_event: Callable[[ConversationEvent], None] = _ignore
                ) -> Iterator[NodeClient]:
    """
    Open a client with a ROS context, a node and a thread of its own; signals are left alone.

    :param name: of our node.
    :raises ConfigError: the target is not a valid node name.
    """
    context = rclpy.Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    try:
        node = rclpy.create_node(name, context=context, start_parameter_services=False)
        try:
            client = NodeClient(node, target, on_event=on_event)
            with spinning(node):
                yield client
        finally:
            node.destroy_node()
    finally:
        context.try_shutdown()


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _reply_with(reply: Reply, future: Any) -> None:
    try:
        answer = future.result()
    except Exception as error:  # whatever a service raises
        reply(False, str(error))
        return
    reply(answer.success, answer.message)
