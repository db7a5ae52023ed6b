"""The topics between the language model's node and a node that speaks its answers."""

from collections.abc import Callable
from threading import Lock
import time
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.subscription import Subscription
from std_msgs.msg import Bool, String

from tinyllama_ros.chat.interruption import SPEAKING_EXPIRES_S
from tinyllama_ros.ros.client import full_node_name
from tinyllama_ros.ros.interface import ENDPOINTS

REPEAT_S = SPEAKING_EXPIRES_S / 3
TAKES_INFO = hasattr(Subscription, 'CallbackType')
"""Whether callbacks are told when a message was published: not in Humble."""


class SpeechClient:
    """
    Hears the sentences, and tells what is spoken of them.

    Callbacks come in the thread that spins our node, with the time in nanoseconds at which the
    message was published (in Humble: came); the other methods can be called from any thread.
    """

    def __init__(self, node: Node, target: str) -> None:
        """
        Connect.

        :param node: ours.
        :param target: name of the language model's node.
        :raises ConfigError: the target is not a valid node name.
        """
        self._node = node
        self._target = full_node_name(target)
        self._lock = Lock()
        self._is_speaking = False
        self._speaking, self._spoken = (
            node.create_publisher(ENDPOINTS[name].type, self._full(name), ENDPOINTS[name].qos)
            for name in ('~/speaking', '~/spoken'))
        node.create_timer(REPEAT_S, self._repeat, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def listen(self, *, on_sentence: Callable[[str, int], None],
               on_answer_end: Callable[[int], None], on_interrupted: Callable[[int], None]
               ) -> None:
        """
        Subscribe.

        :param on_answer_end: is not called for an answer without text, which may be the one of a
            prompt that was replaced while another answer was under way.
        """
        self._subscribe('~/interrupted', lambda _, stamp_ns: on_interrupted(stamp_ns))
        self._subscribe('~/response', lambda message, stamp_ns: (
            on_answer_end(stamp_ns) if message.data else None))
        self._subscribe('~/sentence', lambda message, stamp_ns: on_sentence(message.data,
                                                                            stamp_ns))

    def set_speaking(self, is_speaking: bool) -> None:
        """Publish whether we are speaking; true is repeated, so that it does not expire."""
        with self._lock:
            self._is_speaking = is_speaking
            self._speaking.publish(Bool(data=is_speaking))

    def tell_spoken(self, text: str) -> None:
        """Publish what was spoken so far of the newest answer."""
        self._spoken.publish(String(data=text))

    def _repeat(self) -> None:
        with self._lock:
            if self._is_speaking:
                self._speaking.publish(Bool(data=True))

    def _subscribe(self, name: str, receive: Callable[[Any, int], None]) -> None:
        def take(message: Any, info: Any) -> None:
            receive(message, info['source_timestamp'])

        self._node.create_subscription(
            ENDPOINTS[name].type, self._full(name),
            take if TAKES_INFO else lambda message: receive(message, time.time_ns()),
            ENDPOINTS[name].qos)

    def _full(self, name: str) -> str:
        return name.replace('~', self._target, 1)
