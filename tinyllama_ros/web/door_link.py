"""The ROS side of the door for OpenAI clients: requests to the node, and what it says of them."""

import asyncio
from collections.abc import AsyncGenerator, Callable
import time

from rclpy.node import Node
from rclpy.qos import QoSProfile
from std_msgs.msg import String

from tinyllama_ros.chat.completion import CompletionEvent, CompletionRequest
from tinyllama_ros.errors import RequestError
from tinyllama_ros.ros.client import Status

EVENTS = QoSProfile(depth=1000)
TICK_S = 0.2
ACCEPT_S = 5.0
"""In which the node says that it has the request; a long queue makes it no slower."""


class DoorLink:
    """Carries the requests of all clients to one language model's node, and its events back."""

    def __init__(self, node: Node, target: str) -> None:
        """
        Connect.

        To be made before the Link to the same node: what is latched comes to that one only when
        the language model's node knows our subscription.

        :param node: ours.
        :param target: full name of the language model's node.
        """
        self._target = target
        self._status = Status()
        self._clients: dict[str, Callable[[CompletionEvent], None]] = {}
        node.create_subscription(String, f'{target}/chat_event', self._hear, EVENTS)
        self._requests = node.create_publisher(String, f'{target}/chat_request', EVENTS)
        self._cancels = node.create_publisher(String, f'{target}/chat_cancel', EVENTS)

    @property
    def model(self) -> str:
        """The name of the model that answers, or its path; '' where none does."""
        return self._status.model if self._status.is_ready else ''

    def tell_status(self, status: Status) -> None:
        """Hear how the node is, which the Link knows."""
        self._status = status

    async def complete(self, request: CompletionRequest
                       ) -> AsyncGenerator[CompletionEvent | None, None]:
        """Yield what happens to a request, as the door wants it; in the server's thread."""
        if not self._is_there():
            yield self._offline(request, 'is not there')
            return
        loop, events = asyncio.get_running_loop(), asyncio.Queue[CompletionEvent]()
        self._clients[request.id] = lambda event: _call(loop, events.put_nowait, event)
        is_over = False
        try:
            self._requests.publish(String(data=request.to_json()))
            async for event in self._follow(request, events):
                is_over = event is not None and event.kind in ('done', 'error')
                yield event
                if is_over:
                    return
        finally:
            del self._clients[request.id]
            if not is_over:
                self._cancels.publish(String(data=request.id))

    async def _follow(self, request: CompletionRequest, events: 'asyncio.Queue[CompletionEvent]'
                      ) -> AsyncGenerator[CompletionEvent | None, None]:
        """Yield events for as long as the node is there, and None where there is none."""
        deadline_s = time.monotonic() + ACCEPT_S
        said = ''
        while True:
            try:
                event = await asyncio.wait_for(events.get(), TICK_S)
            except asyncio.TimeoutError:
                if not self._is_there():
                    yield self._offline(request, 'went away')
                elif time.monotonic() > deadline_s:
                    yield self._offline(request, f'did not take it within {ACCEPT_S:.0f} s')
                else:
                    yield None
                continue
            deadline_s = float('inf')
            said += event.text if event.kind == 'token' else ''
            if event.kind == 'done' and event.text != said:
                yield CompletionEvent(request.id, 'error', 'a piece of the answer was lost on its '
                                      'way; ask again', 'failed')
            yield event

    def _is_there(self) -> bool:
        return self._status.is_ready and self._requests.get_subscription_count() > 0

    def _offline(self, request: CompletionRequest, how: str) -> CompletionEvent:
        return CompletionEvent(request.id, 'error', f'the node {self._target} {how}', 'offline')

    def _hear(self, message: String) -> None:
        try:
            event = CompletionEvent.from_json(message.data)
        except RequestError:
            return  # whoever says that is not the node
        if (client := self._clients.get(event.id)) is not None:
            client(event)


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[CompletionEvent], None],
          event: CompletionEvent) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback, event)
