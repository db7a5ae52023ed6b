"""
The page: its files, and the websocket over which it hears and speaks.

All messages are JSON objects with a `type`. The page begins with `hello`, which it repeats where
it has missed something, and is sent a `log`; then `item` and `piece` as they come, `status` when
it changes and at least every few seconds, and `error` for what could not be done. It may send
`say`, `stop` and `reset`.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
import json
import logging
from pathlib import Path
from typing import Protocol

from aiohttp import web, WSCloseCode, WSMsgType

from tinyllama_ros.errors import PromptError
from tinyllama_ros.ros.client import Reply, Status
from tinyllama_ros.web.log import ConversationLog, LONGEST_PROMPT, Message

STATIC = Path(__file__).parent / 'static'
FILES = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob('*')
         if path.suffix in ('.html', '.css', '.js', '.svg')}
BEAT_S = 3.0
"""A page that hears nothing for some of these connects anew."""
BACKLOG = 2000
"""Messages that a page may lag behind; beyond, it is sent away, and catches up on its return."""
LONGEST_MESSAGE = 4 * LONGEST_PROMPT + 1000
"""Bytes."""
MOST_PAGES = 32
PER_SECOND = 20
"""Messages of a page."""

log = logging.getLogger(__name__)


class Services(Protocol):
    """What the page asks of the node besides prompts."""

    def trigger(self, service: str, reply: Reply) -> None:
        """Call a service and hand on its reply, from any thread."""


class Page:
    """The routes of the page, and the pages that are open."""

    def __init__(self, conversation: ConversationLog, services: Services) -> None:
        self._conversation = conversation
        self._services = services
        self._status = Status()
        self._pages: set[_Connection] = set()

    def add_routes(self, app: web.Application) -> None:
        """Add the page's routes to an application."""
        app.router.add_get('/', _send_index)
        app.router.add_get('/static/{name:.+}', _send_file)
        app.router.add_get('/ws', self._connect)
        app.on_shutdown.append(self._close)

    def tell_status(self, status: Status) -> None:
        """Tell all pages how the node is."""
        self._status = status
        for page in self._pages:
            page.put(self._status_message())
        if status.is_ready:
            self._conversation.send_waiting()

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        if len(self._pages) >= MOST_PAGES:
            raise web.HTTPServiceUnavailable(
                text=f'{MOST_PAGES} pages are open already; close one')
        socket = web.WebSocketResponse(max_msg_size=LONGEST_MESSAGE, heartbeat=20, timeout=2)
        await socket.prepare(request)
        page = _Connection(socket, request.transport)
        self._pages.add(page)
        unlisten = None
        try:
            async for message in socket:
                if message.type != WSMsgType.TEXT or not page.allow():
                    await socket.close(code=WSCloseCode.POLICY_VIOLATION)
                    break
                unlisten = self._take(page, _read(message.data)) or unlisten
        finally:
            self._pages.discard(page)
            page.end()
            if unlisten is not None:
                unlisten()
        return socket

    def _take(self, page: '_Connection', message: Message
              ) -> Callable[[], None] | None:
        """Do what a page asks; return what ends its listening, where that begins."""
        kind = message.get('type')
        if kind == 'hello':
            page.put(self._conversation.since(_text(message, 'epoch'),
                                              _count(message.get('version'))))
            page.put(self._status_message())
            if page.start(self._status_message):
                return self._conversation.listen(page.put)
        if kind == 'say':
            self._say(page, _text(message, 'text'), _text(message, 'key'))
        elif kind in ('stop', 'reset'):
            self._trigger(page, kind)
        return None

    def _say(self, page: '_Connection', text: str, key: str) -> None:
        try:
            self._conversation.say(text, key)
        except PromptError as error:
            page.put({'type': 'error', 'what': 'say', 'key': key, 'why': str(error)})

    def _trigger(self, page: '_Connection', kind: str) -> None:
        loop = asyncio.get_running_loop()

        def reply(is_done: bool, why: str) -> None:
            if not is_done:
                loop.call_soon_threadsafe(
                    page.put, {'type': 'error', 'what': kind, 'key': '', 'why': why})

        self._services.trigger({'stop': 'cancel', 'reset': 'reset'}[kind], reply)

    def _status_message(self) -> Message:
        return {'type': 'status', **asdict(self._status)}

    async def _close(self, _: web.Application) -> None:
        await asyncio.gather(*[page.socket.close(code=WSCloseCode.GOING_AWAY)
                               for page in self._pages])


class _Connection:
    """One open page: a queue of what it is to hear, and the task that sends it."""

    def __init__(self, socket: web.WebSocketResponse,
                 transport: asyncio.Transport | None) -> None:
        self.socket = socket
        self._transport = transport
        self._queue: asyncio.Queue[Message] = asyncio.Queue(BACKLOG)
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._second, self._count = 0, 0

    def put(self, message: Message) -> None:
        """Have a message sent; a page that is too far behind is sent away."""
        try:
            self._queue.put_nowait(message)
        except asyncio.QueueFull:
            self.end()
            if self._transport is not None:
                self._transport.abort()

    def allow(self) -> bool:
        """Count a message of the page; return whether it is not one too many."""
        second = int(self._loop.time())
        self._count = self._count + 1 if second == self._second else 1
        self._second = second
        return self._count <= PER_SECOND

    def start(self, beat: Callable[[], Message]) -> bool:
        """
        Begin to send, and a beat whenever there was nothing to send for a while.

        :return: whether that had not begun already.
        """
        if self._task is not None:
            return False
        self._task = self._loop.create_task(self._send(beat))
        return True

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _send(self, beat: Callable[[], Message]) -> None:
        with suppress(ConnectionError):  # it has gone; the reading side notices
            while True:
                try:
                    message = await asyncio.wait_for(self._queue.get(), BEAT_S)
                except asyncio.TimeoutError:
                    message = beat()
                await self.socket.send_json(message)


def _read(text: str) -> Message:
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return message if isinstance(message, dict) else {}


def _text(message: Message, name: str) -> str:
    value = message.get(name)
    return value if isinstance(value, str) else ''


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


async def _send_index(_: web.Request) -> web.StreamResponse:
    return _file('index.html')


async def _send_file(request: web.Request) -> web.StreamResponse:
    return _file(request.match_info['name'])


def _file(name: str) -> web.StreamResponse:
    if name not in FILES:
        raise web.HTTPNotFound(text='there is no such file')
    return web.FileResponse(FILES[name], headers={'Cache-Control': 'no-cache'})
