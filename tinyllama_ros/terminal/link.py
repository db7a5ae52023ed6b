"""The node as a terminal sees it: its topics and services."""

from collections.abc import Iterator, Mapping
from functools import partial
from queue import Empty, Queue
from threading import Thread
import time
from typing import Any, get_args, Literal, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray
import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_msgs.msg import String
from std_srvs.srv import Trigger

from tinyllama_ros.errors import TinyLlamaError

Kind = Literal['token', 'response', 'cache_reset', 'error', 'state']

EVENTS = QoSProfile(depth=1000)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TICK_S = 0.02
QUIET_S = 0.1
REPLY_S = 10.0
FRESH_S = 2.0
"""How old diagnostics may be that come once a second."""
DISCOVERY_S = 1.0
"""How long we may know the state of a node and not yet that it hears our prompts."""
AT_WORK = ('reading', 'answering')
AT_REST = ('idle', 'error')
"""A failed answer leaves the node in error, but it takes the next prompt and may recover."""


class Event(NamedTuple):
    """What the node said, and on which topic."""

    kind: Kind
    text: str


class NodeError(TinyLlamaError):
    """The node is not there, or cannot serve."""


class Link:
    """A connection to one node: its events in a queue, prompts and services towards it."""

    def __init__(self, target: str, context: Any) -> None:
        self.target = target
        self.state = ''
        self._events: Queue[Event] = Queue()
        self._statistics: Mapping[str, str] = {}
        self._statistics_came_s = -FRESH_S
        self._node = rclpy.create_node('tinyllama_terminal', context=context,
                                       start_parameter_services=False)
        self._prompts = self._node.create_publisher(String, f'{target}/prompt', EVENTS)
        self._cancel = self._node.create_client(Trigger, f'{target}/cancel')
        self._reset = self._node.create_client(Trigger, f'{target}/reset')
        self._node.create_subscription(DiagnosticArray, '/diagnostics', self._diagnose, 10)
        # The state comes last: subscriptions are announced in order, so that a latched state that
        # arrives proves that the node knows the others, and no token is published past us.
        for kind in get_args(Kind):
            self._node.create_subscription(String, f'{target}/{kind}', partial(self._put, kind),
                                           LATCHED if kind == 'state' else EVENTS)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self._thread = Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()

    def is_connected(self) -> bool:
        """Whether the node hears our prompts and still publishes its answers."""
        return bool(self._prompts.get_subscription_count()
                    and self._node.count_publishers(f'{self.target}/response'))

    def wait_until_ready(self, timeout_s: float) -> None:
        """
        Wait until the node serves, and nobody else's prompt is being answered.

        A node that is in error and takes no prompts could not be configured: that is not waited
        for.

        :raises NodeError: says how far the node came.
        """
        began_s = time.monotonic()
        while not (self.state in AT_REST and self.is_connected()):
            limit_s = min(DISCOVERY_S, timeout_s) if self.state == 'error' else timeout_s
            if time.monotonic() - began_s > limit_s:
                raise NodeError(self._why_not_ready(timeout_s))
            time.sleep(TICK_S)

    def send(self, prompt: str) -> None:
        self._prompts.publish(String(data=prompt))

    def events(self) -> Iterator[Event | None]:
        """Yield what the node says, and None whenever it says nothing for a while."""
        while True:
            try:
                yield self._events.get(timeout=QUIET_S)
            except Empty:
                yield None

    def waiting_events(self) -> Iterator[Event]:
        """Yield what the node has said already."""
        while not self._events.empty():
            yield self._events.get()

    def request_cancel(self) -> None:
        """Ask the node to stop its answer, whose response then comes as it always does."""
        self._cancel.call_async(Trigger.Request())

    def cancel(self) -> str:
        """Stop the answer under way, whoever asked for it; return what the node says of it."""
        return self._call(self._cancel, 'cancel')

    def reset(self) -> str:
        """Clear the conversation; return what the node says of it."""
        return self._call(self._reset, 'reset')

    def statistics(self) -> Mapping[str, str]:
        """
        Return what the node says of itself on /diagnostics: values by name.

        :raises NodeError: it says nothing.
        """
        deadline = time.monotonic() + REPLY_S
        while time.monotonic() - self._statistics_came_s > FRESH_S:
            if time.monotonic() > deadline:
                raise NodeError(f'{self.target} said nothing on /diagnostics within '
                                f'{REPLY_S:.0f} s; is the node still running?')
            time.sleep(TICK_S)
        return self._statistics

    def _call(self, client: Any, service: str) -> str:
        """Return the reply; :raises NodeError: there is none."""
        future = client.call_async(Trigger.Request())
        deadline = time.monotonic() + REPLY_S
        while not future.done():
            if time.monotonic() > deadline:
                raise NodeError(f'{self.target}/{service} did not reply within {REPLY_S:.0f} s; '
                                'is the node still running?')
            time.sleep(TICK_S)
        return str(future.result().message)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def _put(self, kind: Kind, message: Any) -> None:
        if kind == 'state':
            self.state = message.data
        self._events.put(Event(kind, message.data))

    def _diagnose(self, message: Any) -> None:
        for status in message.status:
            if status.name.partition(':')[0] == self.target:
                self._statistics = {value.key: value.value for value in status.values}
                self._statistics_came_s = time.monotonic()

    def _last_error(self) -> str:
        errors = [event.text for event in self.waiting_events() if event.kind == 'error']
        return errors[-1] if errors else 'its log says why'

    def _why_not_ready(self, timeout_s: float) -> str:
        if self.state == 'error':
            return f'{self.target} is in state error and takes no prompts: {self._last_error()}'
        if self.state:
            return (f'{self.target} is still {self.state} after {timeout_s:g} s; '
                    'wait longer with --wait SECONDS')
        return (f'no node answers on {self.target}/state within {timeout_s:g} s; start it '
                '(ros2 launch tinyllama_ros tinyllama.launch.py), or name another with --node')
