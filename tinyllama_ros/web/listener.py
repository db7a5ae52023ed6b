"""
Accepts connections up to a limit, and closes those whose client is too slow.

aiohttp alone has no such limits: a client that connects and sends nothing, or sends a byte a
minute, or does not read its response, would hold its connection for ever. Between two requests of
one connection aiohttp's own keep-alive time-out applies.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
import logging
import socket

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from tinyllama_ros.errors import ConfigError
from tinyllama_ros.web.limits import network_of, share_of
from tinyllama_ros.web.settings import WebSettings

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

BACKLOG = 1024
TOO_MANY = b'too many connections; try again later\n'
SEND_BUFFER_BYTES = 65536
"""Of the kernel, for each connection; its default would buffer megabytes for a slow client."""
CHECKS = 4
"""How many times in `slow_s` all connections are checked for clients that do not read."""
TOO_SLOW = b'the request came too slowly\n'
REFUSED_OPEN_S = 0.5
"""How long a refused connection stays open, so that the client receives the reason."""
REFUSED_READ_BYTES = 65536
SHUTDOWN_S = 0.5
"""How long responses may still be written when the server closes."""
RETRY_ACCEPT_S = 1.0
"""Pause after a connection could not be accepted, as without a free file descriptor."""

log = logging.getLogger(__name__)
http_log = logging.getLogger(f'{__name__}.http')
http_log.addFilter(lambda record: not (
    record.exc_info and isinstance(record.exc_info[1], (HttpProcessingError, ConnectionError))))
"""The log of aiohttp, without the tracebacks of errors that clients cause."""


@dataclass
class _Connection:
    """An open connection, and the deadlines of its client."""

    transport: asyncio.WriteTransport
    socket: socket.socket
    network: str
    deadline: asyncio.TimerHandle
    """For the first request."""
    unread_bytes: int = 0
    unread_since_s: float = 0.0

    @property
    def is_closed(self) -> bool:
        return self.socket.fileno() < 0


class Listener:
    """The server's socket and its connections."""

    def __init__(self, app: web.Application, settings: WebSettings) -> None:
        """Prepare to serve an application; it must not have started, as a middleware is added."""
        self._settings = settings
        self._runner = web.AppRunner(
            app, logger=http_log,
            access_log=None,  # it would contain the token of the URL
            keepalive_timeout=2 * settings.slow_s,  # later than ours, which sends a reason
            lingering_time=settings.slow_s / 5,  # for the rest of a body that was refused
            auto_decompress=False)  # a few kilobytes could become gigabytes
        self._open: dict[asyncio.BaseTransport, _Connection] = {}
        self._refused: set[socket.socket] = set()
        self._socket: socket.socket | None = None
        self._tasks: list[asyncio.Task[None]] = []
        listener = self

        @web.middleware
        async def cancel_deadline(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.transport in listener._open:
                listener._open[request.transport].deadline.cancel()
            return await handler(request)

        app.middlewares.insert(0, cancel_deadline)

    @property
    def port(self) -> int:
        """The port on which it listens."""
        assert self._socket is not None, 'not started'
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """
        Listen.

        :raises ConfigError: it cannot listen on this address.
        """
        self._socket = _listen(self._settings.host, self._settings.port)
        await self._runner.setup()
        self._tasks = [asyncio.create_task(self._accept()),
                       asyncio.create_task(self._drop_slow_readers())]

    async def close(self) -> None:
        """Accept no more connections, and close the open ones."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        self._tasks = []
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        for open_connection in self._open.values():
            open_connection.deadline.cancel()
        for connection in list(self._refused):
            self._close_refused(connection)
        if (server := self._runner.server) is not None:
            await self._runner.shutdown()
            await server.shutdown(SHUTDOWN_S)
        await self._runner.cleanup()

    async def _accept(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._socket)
            except OSError as error:
                log.error('no connection can be accepted: %s', error)
                await asyncio.sleep(RETRY_ACCEPT_S)
                continue
            connection.setblocking(False)
            try:
                await self._admit(connection, str(address[0]))
            except OSError:  # the client has gone already
                connection.close()

    async def _drop_slow_readers(self) -> None:
        """Close connections whose client has read nothing of a response for `slow_s`."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._settings.slow_s / CHECKS)
            self._forget_closed()
            for connection in self._open.values():
                size = connection.transport.get_write_buffer_size()
                if size == 0 or size != connection.unread_bytes:
                    connection.unread_bytes, connection.unread_since_s = size, loop.time()
                elif loop.time() - connection.unread_since_s >= self._settings.slow_s:
                    connection.transport.abort()

    def _forget_closed(self) -> None:
        self._open = {transport: connection for transport, connection in self._open.items()
                      if not connection.is_closed}

    async def _admit(self, connection: socket.socket, address: str) -> None:
        server = self._runner.server
        assert server is not None
        self._forget_closed()
        network, most = network_of(address), self._settings.max_connections
        same = sum(other.network == network for other in self._open.values())
        if len(self._open) >= most or same >= share_of(most):
            self._refuse(connection)
            return
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(server, connection)
        self._open[transport] = _Connection(
            transport, connection, network,
            loop.call_later(self._settings.slow_s, self._time_out, transport))

    def _refuse(self, connection: socket.socket) -> None:
        """
        Send the reason, and close the connection a little later.

        If data arrived at a closed socket, the client's system would drop the response.
        """
        connection.send(_response('503 Service Unavailable', TOO_MANY, 'Retry-After: 1\r\n'))
        connection.shutdown(socket.SHUT_WR)
        if len(self._refused) < self._settings.max_connections:
            self._refused.add(connection)
            asyncio.get_running_loop().call_later(REFUSED_OPEN_S, self._close_refused, connection)
        else:
            connection.close()

    def _close_refused(self, connection: socket.socket) -> None:
        if connection in self._refused:
            self._refused.remove(connection)
            with connection, suppress(OSError):
                connection.recv(REFUSED_READ_BYTES)

    def _time_out(self, transport: asyncio.WriteTransport) -> None:
        """Close a connection on which no whole request has come in time."""
        if not transport.is_closing():
            transport.write(_response('408 Request Timeout', TOO_SLOW))
            transport.close()


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f'the server cannot listen on host {host!r}: {error}; set the '
                          'parameter host to an address of this machine') from error
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise ConfigError(f'the server cannot listen on host {host} port {port}: '
                          f'{error.strerror}; set the parameters host and port to a free port of '
                          'an address of this machine') from error
    listening.setblocking(False)
    return listening


def _response(status: str, text: bytes, headers: str = '') -> bytes:
    head = (f'HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n{headers}'
            f'Content-Length: {len(text)}\r\nConnection: close\r\n\r\n')
    return head.encode() + text
