"""
The chat page: its files, and the websocket between an open page and the conversation.

All messages are JSON objects with a `type`. The page sends `hello` first, and again when it finds
that a message is missing, and gets the `log` in parts; then `item` and `piece` (text of an
answer, or a reset within it) as they come, `status` when it changes and at least every few
seconds, and `error` for a request that failed. It may send `prompt`, `stop` and `reset`.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from aiohttp import web, WSCloseCode, WSMsgType

from tinyllama_ros.errors import PromptError, RequestError
from tinyllama_ros.ros.client import Reply, Status
from tinyllama_ros.ros.wire import read_object
from tinyllama_ros.web.limits import network_of, share_of
from tinyllama_ros.web.log import ConversationLog, LONGEST_PROMPT, Message

STATIC = Path(__file__).parent / 'static'
TYPES = {'.html': 'text/html', '.css': 'text/css', '.js': 'text/javascript',
         '.svg': 'image/svg+xml'}
FILES = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob('*')
         if path.suffix in TYPES}
HEARTBEAT_S = 3.0
"""A page that gets no message for some of these periods connects again."""
BACKLOG = 2000
"""Messages that may wait for a slow page; one more disconnects it, and it connects again."""
ITEMS_AT_ONCE = 4
"""Items in one message of a log, so that no whole log is in memory for each slow page."""
LONGEST_MESSAGE = 4 * LONGEST_PROMPT + 1000
"""Bytes."""
LONGEST_KEY = 100
"""Characters of a page's identifier of a prompt, which all pages are sent."""
MOST_PAGES = 32
PER_SECOND = 20
"""Messages of a page."""


class Services(Protocol):
    """The services of the language model's node."""

    def trigger(self, service: str, reply: Reply) -> None:
        """Call a service from any thread; `reply` is called with its response."""


class ChatPage:
    """The routes of the chat page, and the pages that are open."""

    def __init__(self, conversation: ConversationLog, services: Services) -> None:
        self._conversation = conversation
        self._services = services
        self._status = Status()
        self._pages: list[_OpenPage] = []

    def add_routes(self, app: web.Application) -> None:
        """Add the page's routes to an application."""
        app.router.add_get('/', _send_index)
        app.router.add_get('/static/{name:.+}', _send_file)
        app.router.add_get('/ws', self._connect)
        app.on_shutdown.append(self._close)

    def on_status(self, status: Status) -> None:
        """Send the state of the node to all pages; send waiting prompts if the node is ready."""
        self._status = status
        for page in self._pages:
            page.put(self._status_message())
        if status.is_ready:
            self._conversation.send_waiting()

    async def _connect(self, request: web.Request) -> web.StreamResponse:
        address = network_of(request.remote or '')
        same = sum(page.address == address for page in self._pages)
        if len(self._pages) >= MOST_PAGES or same >= share_of(MOST_PAGES):
            raise web.HTTPServiceUnavailable(
                text='too many pages are open already; close one')
        # Without compression: aiohttp compresses large messages in a task of its own, which fails
        # with a traceback in the log where the page has gone meanwhile
        socket = web.WebSocketResponse(max_msg_size=LONGEST_MESSAGE, heartbeat=20, timeout=0.5,
                                       compress=False)
        await socket.prepare(request)
        page = _OpenPage(socket, request.transport, address, self._conversation)
        self._pages.append(page)
        unsubscribe = None
        try:
            async for message in socket:
                if message.type != WSMsgType.TEXT or not page.allow():
                    await socket.close(code=WSCloseCode.POLICY_VIOLATION)
                    break
                unsubscribe = self._handle(page, _read(message.data)) or unsubscribe
        finally:
            self._pages.remove(page)
            page.end()
            if unsubscribe is not None:
                unsubscribe()
        return socket

    def _handle(self, page: '_OpenPage', message: Message) -> Callable[[], None] | None:
        """Handle a message of a page; if it subscribes the page, return what unsubscribes it."""
        kind = message.get('type')
        if kind == 'hello':
            page.put_log(_text(message, 'epoch'), _count(message.get('version')))
            page.put(self._status_message())
            if page.start(self._status_message):
                return self._conversation.listen(page.put)
        if kind == 'prompt':
            self._publish(page, _text(message, 'text'), _text(message, 'key')[:LONGEST_KEY])
        elif kind in ('stop', 'reset'):
            self._trigger(page, kind)
        return None

    def _publish(self, page: '_OpenPage', text: str, key: str) -> None:
        try:
            self._conversation.submit(text, key)
        except PromptError as error:
            page.put({'type': 'error', 'what': 'prompt', 'key': key, 'why': str(error)})

    def _trigger(self, page: '_OpenPage', kind: str) -> None:
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


class _OpenPage:
    """One open page: a bounded queue of messages for it, and the task that sends them."""

    def __init__(self, socket: web.WebSocketResponse, transport: asyncio.Transport | None,
                 address: str, conversation: ConversationLog) -> None:
        self.socket = socket
        self.address = address
        self._transport = transport
        self._conversation = conversation
        self._wanted_log: tuple[str, int] | None = None  # epoch, version
        self._messages: deque[Message] = deque()
        self._has_messages = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._second, self._count = 0, 0

    def put(self, message: Message) -> None:
        """Queue a message for the page; disconnect a page whose queue is full."""
        self._messages.append(message)
        self._has_messages.set()
        if len(self._messages) > BACKLOG:
            self.end()
            if self._transport is not None:
                self._transport.abort()

    def put_log(self, epoch: str, version: int) -> None:
        """
        Send the items that changed since the version that the page has.

        They are collected at the moment of sending, once even if the page asks several times.
        """
        self._wanted_log = epoch, version
        self._has_messages.set()

    def allow(self) -> bool:
        """Count a message of the page; return whether it is within the limit."""
        second = int(self._loop.time())
        self._count = self._count + 1 if second == self._second else 1
        self._second = second
        return self._count <= PER_SECOND

    def start(self, heartbeat: Callable[[], Message]) -> bool:
        """
        Start to send messages, and a heartbeat whenever there is none for HEARTBEAT_S.

        :return: False if it was started before.
        """
        if self._task is not None:
            return False
        self._task = self._loop.create_task(self._send(heartbeat))
        return True

    def end(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _send(self, heartbeat: Callable[[], Message]) -> None:
        with suppress(ConnectionError):  # the page has gone; the task that reads ends, too
            while True:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._has_messages.wait(), HEARTBEAT_S)
                for message in self._next() or [heartbeat()]:
                    await self.socket.send_json(message)

    def _next(self) -> list[Message]:
        """Remove from the queue what is sent next: a log in parts, one message, or nothing."""
        messages = []
        if self._wanted_log is not None:
            messages = _in_parts(self._conversation.since(*self._wanted_log))
            self._wanted_log = None
            self._messages = deque(message for message in self._messages
                                   if message['type'] not in ('item', 'piece'))  # the log has them
        elif self._messages:
            messages = [self._messages.popleft()]
        if not self._messages:
            self._has_messages.clear()
        return messages


def _in_parts(log: Message) -> list[Message]:
    """Return a log as messages of a few items each, which are sent one after the other."""
    items = log['items']
    parts = [{**log, 'items': items[start:start + ITEMS_AT_ONCE], 'is_last': False}
             for start in range(0, len(items) or 1, ITEMS_AT_ONCE)]
    for part in parts[1:]:
        part['is_whole'] = False
    parts[-1]['is_last'] = True
    return parts


def _read(text: str) -> Message:
    try:
        return read_object(text)
    except RequestError:
        return {}


def _text(message: Message, name: str) -> str:
    value = message.get(name)
    return value if isinstance(value, str) else ''


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


async def _send_index(request: web.Request) -> web.StreamResponse:
    return _file(request, 'index.html')


async def _send_file(request: web.Request) -> web.StreamResponse:
    return _file(request, request.match_info['name'])


def _file(request: web.Request, name: str) -> web.StreamResponse:
    """
    Return a file of the page, from memory.

    What aiohttp sends from the file itself is not in the connection's buffer, so that nobody would
    see that a client does not read it.
    """
    if (path := FILES.get(name)) is None:
        raise web.HTTPNotFound(text='there is no such file')
    content = path.read_bytes()
    etag = sha256(content).hexdigest()
    is_known = any(each.value == etag for each in request.if_none_match or ())
    response = web.Response(status=304) if is_known else web.Response(
        body=content, content_type=TYPES[path.suffix], charset='utf-8')
    response.headers['Cache-Control'] = 'no-cache'
    response.etag = etag
    return response
