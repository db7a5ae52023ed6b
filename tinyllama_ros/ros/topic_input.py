"""Subscribes to an input of the node, and counts the messages that the middleware has lost."""

from collections.abc import Callable
from dataclasses import replace
from threading import Lock
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.subscription import Subscription

from tinyllama_ros.ros.interface import ENDPOINTS

MOST_PUBLISHERS = 64
"""Publishers whose numbers are kept; when there are more, the one idle longest is removed."""


class SequenceNumbers:
    """
    Finds the gaps in the sequence numbers of all publishers of a topic.

    A message has the number that its publisher gave it, but does not say which publisher it was.
    So a number is taken to follow the nearest lower one, even if that was of another publisher:
    after each has published again, the sum of the gaps is the same.
    """

    def __init__(self, unheard: int) -> None:
        """
        Start without numbers.

        :param unheard: further publishers that may have published before: the first message of
            each of them can look like a gap, which is not counted.
        """
        self._unheard = unheard
        self._newest: list[int] = []  # of each publisher, the most recent last

    def add(self, number: int) -> int:
        """Add the number of a message; return how many messages are missing before it."""
        before = max((each for each in self._newest if each < number), default=0)
        if before and before < number - 1 and self._unheard:
            self._unheard -= 1
            before = 0
        if before:
            self._newest.remove(before)
        self._newest = [*self._newest[1 - MOST_PUBLISHERS:], number]
        return number - 1 - before if before else 0


class TopicInput:
    """
    A subscription that passes the value of each message to a function.

    A message that arrives while the queue is full overwrites the oldest one. The event
    `message_lost` of ROS does not report that: rmw_fastrtps raises it only for messages that never
    reached the queue, and rmw_cyclonedds never raises it (ros2/demos#642). Sequence numbers show
    both losses; rclpy has them since Iron, and rmw_cyclonedds has none.
    """

    def __init__(self, node: Node, name: str, receive: Callable[[Any], None], *,
                 busy: Lock, group: CallbackGroup, depth: int) -> None:
        """
        Subscribe.

        :param name: of the topic, as in ENDPOINTS.
        :param receive: called with the field `data` of each message.
        :param busy: held during that call.
        """
        self.name = name
        self._lost = self._told = 0
        self._node = node
        self._receive = receive
        self._busy = busy
        endpoint = replace(ENDPOINTS[name], depth=depth)
        self._numbers = SequenceNumbers(
            max(0, node.count_publishers(node.resolve_topic_name(name)) - 1))
        takes_info = hasattr(Subscription, 'CallbackType')
        self._subscription: Any = node.create_subscription(
            endpoint.type, name,
            self._take if takes_info else lambda message: self._take(message, {}), endpoint.qos,
            callback_group=group)

    @property
    def depth(self) -> int:
        """Maximum number of messages in its queue."""
        return int(self._subscription.qos_profile.depth)

    def newly_lost(self) -> int:
        """Return how many messages were lost since the last call; called by one thread only."""
        new = self._lost - self._told
        self._told += new
        return new

    def end(self) -> None:
        """Pass on the messages in the queue, and destroy the subscription."""
        for _ in range(self.depth):  # others may go on publishing
            received = self._subscription.handle.take_message(self._subscription.msg_type, False)
            if received is None:
                break
            self._receive(received[0].data)
        self._node.destroy_subscription(self._subscription)

    def _take(self, message: Any, info: dict[str, Any]) -> None:
        if (number := info.get('publication_sequence_number')) is not None:
            self._lost += self._numbers.add(number)
        with self._busy:
            self._receive(message.data)
