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
"""That may wait for whoever reads the answer; with one more the request is cancelled."""
ACCEPT_S = 5.0
"""In which the node says that it has the request; a long queue makes it no slower."""


@dataclass
class RequestClient:
    """Publishes requests, and hands each event of the node to the request that it concerns."""

    target: str
    publish: Callable[[str], None]
    """Publishes a request."""
    publish_cancel: Callable[[str], None]
    """Publishes the id of a request that is not wanted any more."""
    is_ready: Callable[[], bool]
    """Whether the node takes requests."""
    _receivers: dict[str, Callable[[CompletionEvent], None]] = field(default_factory=dict)

    def receive(self, data: str) -> None:
        """Take a message of ~/chat_event; in the executor's thread."""
        try:
            event = read_completion_event(data)
        except RequestError:
            return  # whoever says that is not the node
        if (receiver := self._receivers.get(event.id)) is not None:
            receiver(event)

    async def complete(self, request: CompletionRequest
                       ) -> AsyncGenerator[CompletionEvent | None, None]:
        """
        Yield what happens to a request, and None whenever nothing has happened for a moment.

        The last event is `done` or `error`; whoever closes the generator before cancels.
        """
        if not self.is_ready():
            yield self._offline(request, 'is not there')
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
        """Yield events for as long as the node is there, and None where there is none."""
        deadline_s = time.monotonic() + ACCEPT_S
        text = StringIO()
        while True:
            try:
                event = await asyncio.wait_for(events.get(), TICK_S)
            except asyncio.TimeoutError:
                if not self.is_ready():
                    yield self._offline(request, 'went away')
                elif time.monotonic() > deadline_s:
                    yield self._offline(request, f'did not take it within {ACCEPT_S:.0f} s')
                else:
                    yield None
                continue
            deadline_s = float('inf')
            text.write(event.text if event.kind == 'token' else '')
            if event.kind == 'done' and event.text != text.getvalue():
                yield CompletionEvent(request.id, 'error', 'a piece of the answer was lost on its '
                                      'way; ask again', 'failed')
            yield event

    def _offline(self, request: CompletionRequest, how: str) -> CompletionEvent:
        return CompletionEvent(request.id, 'error', f'the node {self.target} {how}', 'offline')


def _call(loop: asyncio.AbstractEventLoop, callback: Callable[[CompletionEvent], None],
          event: CompletionEvent) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(callback, event)
