"""Connections: not too many, none for ever, and nothing left of them."""

from contextlib import ExitStack
from itertools import count
import os
import socket
import time

import psutil
import pytest

pytest.importorskip('aiohttp', reason='pip install aiohttp')

from support.web_server import FakeChatModel, read_all, running, status_of  # noqa: E402

from tinyllama_ros.errors import ConfigError  # noqa: E402

MODELS = b'GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n'
POST = (b'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n'
        b'Content-Type: application/json\r\n')
STREAM = b'{"stream": true, "messages": [{"role": "user", "content": "hello"}]}'


def post(body: bytes) -> bytes:
    return POST + b'Content-Length: %d\r\n\r\n' % len(body) + body


def poll(condition):
    """Wait until a condition holds; the deadline is the test's failure."""
    deadline_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def descriptors() -> int:
    return len(os.listdir('/proc/self/fd'))


def test_of_200_connections_at_once_those_beyond_the_limit_are_told_so():
    with running(FakeChatModel(), max_connections=64) as server, ExitStack() as stack:
        held = [stack.enter_context(server.connect(source)) for _ in range(32)
                for source in ('127.0.0.1', '127.0.0.2')]
        poll(lambda: status_of(server.exchange(MODELS)) == 503)  # all of them are taken in
        late = [stack.enter_context(server.connect()) for _ in range(136)]
        for connection in (*late, *held):
            connection.sendall(MODELS)
        replies = [read_all(connection) for connection in late]
        assert [status_of(reply) for reply in replies] == [503] * 136
        assert all(b'Retry-After: 1' in reply for reply in replies)
        assert [status_of(read_all(connection)) for connection in held] == [200] * 64


def test_idle_connections_leave_room_for_nobody_until_they_are_slow():
    with running(FakeChatModel(), max_connections=8, slow_s=0.5) as server, ExitStack() as stack:
        idle = [stack.enter_context(server.connect(source)) for _ in range(4)
                for source in ('127.0.0.1', '127.0.0.2')]
        assert status_of(server.exchange(MODELS)) == 503
        assert [status_of(read_all(each)) for each in idle] == [408] * 8
        poll(lambda: status_of(server.exchange(MODELS)) == 200)


def test_200_connections_leave_nothing_behind():
    with running(FakeChatModel(), max_connections=64, slow_s=0.2) as server:
        def flood():
            with ExitStack() as stack:
                for number in range(200):
                    connection = stack.enter_context(server.connect())
                    connection.sendall(post(STREAM) if number % 2 else b'GET /v1')
            poll(lambda: status_of(server.exchange(MODELS)) == 200)

        flood()
        poll(lambda: status_of(server.exchange(MODELS)) == 200)
        before, memory = descriptors(), psutil.Process().memory_info().rss
        for _ in range(5):
            flood()
        poll(lambda: descriptors() <= before + 2)
        assert psutil.Process().memory_info().rss - memory < 4_000_000


def test_one_address_leaves_connections_for_others():
    with running(FakeChatModel(), max_connections=8) as server, ExitStack() as stack:
        for _ in range(6):
            stack.enter_context(server.connect())
        poll(lambda: status_of(server.exchange(MODELS)) == 503)
        assert server.request('/v1/models', source='127.0.0.2').status == 200


@pytest.mark.parametrize('begin', [b'', b'GET', MODELS[:-2]], ids=['nothing', 'line', 'headers'])
def test_slow_headers_end_with_their_status(begin):
    with running(FakeChatModel(), slow_s=0.2) as server:
        assert status_of(server.exchange(begin)) == 408


def test_headers_that_trickle_do_not_keep_a_connection():
    with running(FakeChatModel(), slow_s=0.3) as server, server.connect() as connection:
        connection.settimeout(0.02)
        connection.sendall(b'GET / HTTP/1.1\r\n')
        for number in count():
            assert number < 500
            try:
                connection.sendall(b'X%d: y\r\n' % number)
                if connection.recv(1):
                    break
            except TimeoutError:
                continue
            except (BrokenPipeError, ConnectionResetError):
                break


def test_slow_body_ends_with_its_status():
    chat_model = FakeChatModel()
    with running(chat_model, slow_s=0.3) as server:
        assert status_of(server.exchange(POST + b'Content-Length: 100\r\n\r\n{')) == 408
    assert chat_model.requests == []


def test_quiet_connection_is_closed_after_its_request():
    with running(FakeChatModel(), slow_s=0.2) as server:
        reply = server.exchange(MODELS.replace(b'close', b'keep-alive'))
        assert status_of(reply) == 200


def test_answer_may_take_longer_than_a_slow_client():
    chat_model = FakeChatModel(endless=True)
    with running(chat_model, slow_s=0.2) as server:
        with server.connect() as connection:
            connection.sendall(post(STREAM))
            began_s, found = time.monotonic(), b''
            while time.monotonic() - began_s < 0.6:
                assert (piece := connection.recv(65536))
                found += piece
        assert status_of(found) == 200
        poll(lambda: chat_model.cancelled)


def test_client_that_does_not_take_its_answer_is_given_up():
    chat_model = FakeChatModel(endless=True, pieces=('x' * 100_000,))
    with running(chat_model, slow_s=0.3) as server, server.connect() as connection:
        connection.sendall(post(STREAM))
        poll(lambda: chat_model.cancelled)


@pytest.mark.parametrize('ending', [b'close', b'keep-alive'], ids=bytes.decode)
def test_responses_that_nobody_reads_do_not_keep_a_connection(ending):
    """Also those of a short request, and of one that was to be the last of its connection."""
    with running(FakeChatModel(pieces=('x' * 100_000,) * 20), slow_s=0.2,
                 max_connections=2) as server:
        with server.connect() as connection:
            connection.sendall(post(b'{"messages": [{"role": "user", "content": "hello"}]}')
                               .replace(b'close', ending))
            poll(lambda: status_of(server.exchange(MODELS)) == 503)
            poll(lambda: status_of(server.exchange(MODELS)) == 200)


def test_memory_goes_back_down_after_slow_readers():
    chat_model = FakeChatModel(endless=True, pieces=('x' * 10_000,))
    request = post(STREAM).replace(b'close', b'keep-alive')
    with running(chat_model, slow_s=0.5) as server:
        def read_slowly():
            with ExitStack() as stack:
                for _ in range(8):
                    stack.enter_context(server.connect()).sendall(request * 80)
                poll(lambda: len(chat_model.cancelled) >= 8)
            chat_model.cancelled.clear()

        read_slowly()
        memory = psutil.Process().memory_info().rss
        for _ in range(3):
            read_slowly()
        poll(lambda: psutil.Process().memory_info().rss - memory < 4_000_000)


def test_closing_ends_what_is_under_way():
    chat_model = FakeChatModel(endless=True)
    with running(chat_model) as server:
        connection = server.connect()
        connection.sendall(post(STREAM))
        assert status_of(connection.recv(1000)) == 200
    assert b'the server is stopping; send it again' in read_all(connection)
    connection.close()
    assert len(chat_model.cancelled) == 1


def test_port_that_is_taken_is_named():
    with socket.create_server(('127.0.0.1', 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f'cannot listen on host 127.0.0.1 port {port}: '):
            with running(FakeChatModel(), port=port):
                pass


def test_address_of_another_machine_is_named():
    with pytest.raises(ConfigError, match='cannot listen on host .*; set the'):
        with running(FakeChatModel(), host='192.0.2.1', token='correct-horse-battery'):
            pass


def test_version_6_is_served():
    if not socket.has_ipv6:
        pytest.skip('no IPv6 here')
    try:
        with running(FakeChatModel(), host='::1') as server:
            with socket.create_connection(('::1', server.port), 10) as connection:
                connection.sendall(MODELS)
                assert status_of(read_all(connection)) == 200
    except ConfigError as error:
        pytest.skip(str(error))
