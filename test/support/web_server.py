"""A web server in a thread of its own, on a free port, and a fake model that answers."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPResponse
import json
import socket
from threading import Event, Thread
from typing import Any

from tinyllama_ros.chat.completion import CompletionEvent, CompletionRequest
from tinyllama_ros.web.api_server import make_app
from tinyllama_ros.web.listener import Listener
from tinyllama_ros.web.settings import WebSettings

DEADLINE_S = 20.0
PIECES = ('I am', ' one', '.')


def _set_event() -> Event:
    event = Event()
    event.set()
    return event


@dataclass
class FakeChatModel:
    """Answers every request with the same pieces."""

    model: str = '/models/tiny'
    pieces: tuple[str, ...] = PIECES
    error: CompletionEvent | None = None
    """What comes after the pieces, instead of the end."""
    endless: bool = False
    """The last piece comes again and again."""
    is_free: Event = field(default_factory=_set_event)
    """While it is not set, requests wait in the queue."""
    queue_depth: int = 10**6
    """Requests at once; one more is refused as busy."""
    at_once: int = 0
    """Requests that are waiting or being answered now."""
    requests: list[CompletionRequest] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    async def complete(self, request: CompletionRequest
                       ) -> AsyncGenerator[CompletionEvent | None, None]:
        self.requests.append(request)
        is_over = False
        self.at_once += 1
        try:
            if self.at_once > self.queue_depth:
                is_over = True
                yield CompletionEvent(request.id, 'error', 'the queue is full', 'busy')
                return
            yield CompletionEvent(request.id, 'accepted')
            yield None
            while not self.is_free.is_set():
                await asyncio.sleep(0.001)
                yield None
            for piece in self.pieces:
                yield CompletionEvent(request.id, 'token', piece)
            while self.endless:
                await asyncio.sleep(0.001)
                yield CompletionEvent(request.id, 'token', self.pieces[-1])
            is_over = True
            yield replace(self.error, id=request.id) if self.error else CompletionEvent(
                request.id, 'done', ''.join(self.pieces), finish='stop', prompt_tokens=9,
                cached_tokens=4, completion_tokens=3)
        finally:
            self.at_once -= 1
            if not is_over:
                self.cancelled.append(request.id)


class Reply:
    """A response that was read to its end."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def error(self) -> dict[str, Any]:
        """The error object, in OpenAI's form."""
        body = json.loads(self.body)
        assert list(body) == ['error'] and set(body['error']) == {'message', 'type', 'param',
                                                                  'code'}
        error: dict[str, Any] = body['error']
        return error


class Running:
    """A running server, and requests to it."""

    def __init__(self, listener: Listener, loop: asyncio.AbstractEventLoop) -> None:
        self._listener, self._loop = listener, loop
        self.port = listener.port

    @property
    def url(self) -> str:
        return f'http://127.0.0.1:{self.port}'

    def connect(self, source: str = '') -> socket.socket:
        """Return a connection, from another address of this machine where one is given."""
        return socket.create_connection(('127.0.0.1', self.port), DEADLINE_S, (source, 0))

    def exchange(self, request: bytes) -> bytes:
        """Return all that comes back for some bytes, until the server closes."""
        with self.connect() as connection:
            connection.sendall(request)
            return read_all(connection)

    def request(self, path: str, *, method: str = 'GET', body: bytes | None = None,
                source: str = '', **headers: str) -> 'Reply':
        """Return the reply to one request; an underscore in a header's name is a hyphen."""
        connection = HTTPConnection('127.0.0.1', self.port, timeout=DEADLINE_S,
                                    source_address=(source, 0))
        named = {name.replace('_', '-'): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, named)
            return Reply(connection.getresponse())
        finally:
            connection.close()

    def post(self, body: object, path: str = '/v1/chat/completions', **headers: str) -> 'Reply':
        """Return the reply to JSON; bytes are sent as they are."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request(path, method='POST', body=data,
                            **{'Content-Type': 'application/json', **headers})


@contextmanager
def running(chat_model: Any, **settings: Any) -> Iterator[Running]:
    """Run a server with these settings."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def wait(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(DEADLINE_S)

    async def start() -> Listener:
        wanted = WebSettings(**{'port': 0, 'requests_per_second': 1e6, 'burst': 10**6,
                                **settings})
        listener = Listener(make_app(wanted, chat_model), wanted)
        await listener.start()
        return listener

    listener = wait(start())
    try:
        yield Running(listener, loop)
    finally:
        wait(listener.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(DEADLINE_S)
        loop.close()


def read_all(connection: socket.socket) -> bytes:
    """Return all that comes, also where the connection is broken off in the end."""
    found = b''
    try:
        while piece := connection.recv(65536):
            found += piece
    except ConnectionResetError:
        pass
    return found


def status_of(response: bytes) -> int:
    """Return the status in the first line of a response, 0 where there was none."""
    return int(response.split(b' ', 2)[1]) if response.startswith(b'HTTP/1.') else 0
