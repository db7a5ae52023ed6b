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
"""Whose sequence numbers are remembered; the one that was silent longest is forgotten."""


class SequenceNumbers:
    """
    Finds the gaps in the sequence numbers of all publishers of a topic.

    A message bears the number that its publisher gave it, and not which publisher that was. So a
    number follows the nearest one below it, which need not be of the same publisher: when all have
    published again, the gaps have the same sum, whoever they belong to.
    """

    def __init__(self, unheard: int) -> None:
        """
        Begin.

        :param unheard: publishers, beside the first that is heard, that may have published before:
            what comes first from each of them can look like a gap, and is not counted.
        """
        self._unheard = unheard
        self._newest: list[int] = []  # of each publisher, the last one heard last

    def add(self, number: int) -> int:
        """Take the number of a message; return how many messages are missing before it."""
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
    A subscription, which passes the value of each message on to a function.

    What comes while its queue is full overwrites the oldest message. The event `message_lost` of
    ROS does not tell that: rmw_fastrtps raises it for what never reached the queue alone,
    rmw_cyclonedds never (ros2/demos#642). The sequence numbers tell both; rclpy has them since
    Iron, and rmw_cyclonedds has none.
    """

    def __init__(self, node: Node, name: str, receive: Callable[[Any], None], *,
                 busy: Lock, group: CallbackGroup, depth: int) -> None:
        """
        Subscribe.

        :param name: of the topic, as in ENDPOINTS.
        :param receive: takes the field `data` of each message.
        :param busy: is held while a message that has come is passed on.
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
        """Messages that its queue holds."""
        return int(self._subscription.qos_profile.depth)

    def newly_lost(self) -> int:
        """Return how many messages were lost since the last call, which one thread makes."""
        new = self._lost - self._told
        self._told += new
        return new

    def end(self) -> None:
        """Pass on what the queue still holds, and destroy the subscription."""
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
