"""
Accepts connections: never more than so many, and none that is slow to ask.

aiohttp bounds neither: a client that connects and says nothing, or sends a byte a minute, holds
its connection for ever. Between two requests of one connection aiohttp's own keep-alive does it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
import logging
import socket

from aiohttp import web

from tinyllama_ros.errors import ConfigError
from tinyllama_ros.web.settings import WebSettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BACKLOG = 1024
FULL = b'too many connections; try again later\n'
SLOW = b'the request came too slowly\n'
LEAVE_S = 0.5
LEAVE_BYTES = 65536
END_S = 0.5
"""How long an answer under way may go on when the server closes."""
NO_FILES_S = 1.0
"""How long nothing is accepted when the process has run out of files."""

log = logging.getLogger(__name__)


class Listener:
    """The server's socket, and the connections that came in through it."""

    def __init__(self, app: web.Application, settings: WebSettings) -> None:
        """Watch over an application; before it is started, as this adds a middleware to it."""
        self._settings = settings
        self._runner = web.AppRunner(
            app, access_log=None,  # an address with a token in it stays out of logs
            keepalive_timeout=2 * settings.slow_s,  # says nothing when it closes; we are first
            lingering_time=settings.slow_s / 5,  # for the rest of a body that was refused
            auto_decompress=False)  # or a few kilobytes unfold to fill the memory as they come
        self._watches: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}
        self._leaving: set[socket.socket] = set()
        self._socket: socket.socket | None = None
        self._task: asyncio.Task[None] | None = None
        listener = self

        @web.middleware
        async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
            listener._forget(request.transport)
            return await handler(request)

        app.middlewares.insert(0, note)

    @property
    def port(self) -> int:
        """The port at which it listens."""
        assert self._socket is not None, 'not started'
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """
        Listen.

        :raises ConfigError: the address cannot be listened at.
        """
        self._socket = _listen(self._settings.host, self._settings.port)
        await self._runner.setup()
        self._task = asyncio.create_task(self._accept())

    async def close(self) -> None:
        """Take no more connections and end those that are there."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        for transport in list(self._watches):
            self._forget(transport)
        for connection in list(self._leaving):
            self._leave(connection)
        if (server := self._runner.server) is not None:
            await self._runner.shutdown()
            await server.shutdown(END_S)
        await self._runner.cleanup()

    async def _accept(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                log.error('no connection can be accepted: %s', error)
                await asyncio.sleep(NO_FILES_S)
                continue
            connection.setblocking(False)
            try:
                await self._take(connection)
            except OSError:  # it has gone already
                connection.close()

    async def _take(self, connection: socket.socket) -> None:
        server = self._runner.server
        assert server is not None
        if len(server.connections) >= self._settings.max_connections:
            self._turn_away(connection)
            return
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(server, connection)
        if len(self._watches) >= self._settings.max_connections:
            for gone in [each for each in self._watches if each.is_closing()]:
                self._forget(gone)
        self._watches[transport] = loop.call_later(self._settings.slow_s, self._end, transport)

    def _turn_away(self, connection: socket.socket) -> None:
        """Say why and close; a little later, or what comes meanwhile would undo the saying."""
        connection.send(_response('503 Service Unavailable', FULL, 'Retry-After: 1\r\n'))
        connection.shutdown(socket.SHUT_WR)
        if len(self._leaving) < self._settings.max_connections:
            self._leaving.add(connection)
            asyncio.get_running_loop().call_later(LEAVE_S, self._leave, connection)
        else:
            connection.close()

    def _leave(self, connection: socket.socket) -> None:
        if connection in self._leaving:
            self._leaving.remove(connection)
            with connection, suppress(OSError):
                connection.recv(LEAVE_BYTES)

    def _forget(self, transport: asyncio.BaseTransport | None) -> None:
        """Stop watching a connection, on which a request has come."""
        if transport is not None and (watch := self._watches.pop(transport, None)) is not None:
            watch.cancel()

    def _end(self, transport: asyncio.WriteTransport) -> None:
        """Close a connection on which nothing whole has come."""
        del self._watches[transport]
        if not transport.is_closing():
            transport.write(_response('408 Request Timeout', SLOW))
            transport.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f'host {host!r} is no address to listen at: {error}') from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(f'port {port} of {host} cannot be listened at: {error.strerror}; '
                          'give another with the parameter port') from error
    listening.setblocking(False)
    return listening


def _response(status: str, text: bytes, headers: str = '') -> bytes:
    head = (f'HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n{headers}'
            f'Content-Length: {len(text)}\r\nConnection: close\r\n\r\n')
    return head.encode() + text
