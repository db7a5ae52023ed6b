"""Sends chat requests from asyncio code to a language model node, and returns their events."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from io import StringIO
import time

from tinyllama_ros.chat.completion import CompletionEvent, CompletionRequest
from tinyllama_ros.errors import RequestError
from tinyllama_ros.ros.wire import LONGEST_JSON, read_completion_event, request_to_json

TICK_S = 0.2
MOST_EVENTS = 4096
"""Events that may wait for the reader of the answer; with one more the request is cancelled."""
ACCEPT_S = 5.0
"""Time in which the node must confirm a request, also with a long queue."""


@dataclass
class RequestClient:
    """Publishes requests, and passes each event of the node to its request."""

    target: str
    publish: Callable[[str], None]
    """Publishes a request."""
    publish_cancel: Callable[[str], None]
    """Publishes the id of a request to cancel."""
    is_ready: Callable[[], bool]
    """Whether the node accepts requests."""
    _receivers: dict[str, Callable[[CompletionEvent], None]] = field(default_factory=dict)

    def receive(self, data: str) -> None:
        """Process a message of ~/chat_event; called in the executor's thread."""
        try:
            event = read_completion_event(data)
        except RequestError:
            return  # not a message of the node
        if (receiver := self._receivers.get(event.id)) is not None:
            receiver(event)

    async def complete(self, request: CompletionRequest
                       ) -> AsyncGenerator[CompletionEvent | None, None]:
        """
        Publish a request and yield its events, and None after each TICK_S without one.

        The last event is `done` or `error`. Closing the generator earlier cancels the request.
        """
        if not self.is_ready():
            yield self._offline(request, 'does not run or is not ready')
            return
        data = request_to_json(request)
        if len(data) > LONGEST_JSON:
            yield CompletionEvent(request.id, 'error', f'it is too long: {len(data)} characters '
                                  f'as JSON, and the node reads {LONGEST_JSON}', 'too_long')
            return
        loop, events = asyncio.get_running_loop(), asyncio.Queue[CompletionEvent]()

        def put(event: CompletionEvent) -> None:
            if events.qsize() < MOST_EVENTS:
                events.put_nowait(event)
            elif self._receivers.pop(request.id, None) is not None:
                self.publish_cancel(request.id)
                events.put_nowait(CompletionEvent(
                    request.id, 'error', f'the answer is read too slowly, {MOST_EVENTS} events '
                    'are waiting; it was cancelled', 'cancelled'))

        self._receivers[request.id] = lambda event: _call(loop, put, event)
        is_over = False
        try:
            self.publish(data)
            async for event in self._follow(request, events):
                is_over = event is not None and event.kind in ('done', 'error')
                yield event
                if is_over:
                    return
        finally:
            self._receivers.pop(request.id, None)
            if not is_over:
                self.publish_cancel(request.id)

    async def _follow(self, request: CompletionRequest, events: 'asyncio.Queue[CompletionEvent]'
                      ) -> AsyncGenerator[CompletionEvent | None, None]:
        """Yield the events of a request, None after each TICK_S without one, or an error."""
        deadline_s = time.monotonic() + ACCEPT_S
        text = StringIO()
        while True:
            try:
                event = await asyncio.wait_for(events.get(), TICK_S)
            except asyncio.TimeoutError:
                if not self.is_ready():
                    yield self._offline(request, 'went away')
                elif time.monotonic() > deadline_s:
                    yield self._offline(request, f'did not confirm it within {ACCEPT_S:.0f} s')
                else:
                    yield None
                continue
            deadline_s = float('inf')
            text.write(event.text if event.kind == 'token' else '')
            if event.kind == 'done' and event.text != text.getvalue():
                yield CompletionEvent(request.id, 'error', 'a part of the answer was lost in '
                                      'transit; send the request again', 'failed')
            yield event

    def _offline(self, request: CompletionRequest, how: str) -> CompletionEvent:
        return CompletionEvent(request.id, 'error', f'the node {self.target} {how}', 'offline')


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[CompletionEvent], None],
          event: CompletionEvent) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback, event)
