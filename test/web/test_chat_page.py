"""The chat page's routes and its websocket, without a browser and without ROS."""

import asyncio
from contextlib import asynccontextmanager
import gc
from random import randbytes
from socket import create_connection

from aiohttp import ClientSession, WSCloseCode, WSMsgType, WSServerHandshakeError
import psutil
import pytest

pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')

from support.web_server import FakeChatModel  # noqa: E402

from tinyllama_ros.ros.client import Status  # noqa: E402
from tinyllama_ros.ros.wire import ConversationEvent  # noqa: E402
from tinyllama_ros.web import chat_page  # noqa: E402
from tinyllama_ros.web.api_server import make_app  # noqa: E402
from tinyllama_ros.web.chat_page import ChatPage, MOST_PAGES, PER_SECOND  # noqa: E402
from tinyllama_ros.web.limits import share_of  # noqa: E402
from tinyllama_ros.web.listener import Listener  # noqa: E402
from tinyllama_ros.web.log import ConversationLog  # noqa: E402
from tinyllama_ros.web.settings import WebSettings  # noqa: E402

TOKEN = 'a' * 32


class PageServer:
    """A chat page without ROS: the prompts that it published, and the services that it called."""

    def __init__(self, client, base, reply):
        self.client, self.base, self.reply = client, base, reply
        self.sent, self.called = [], []
        self.conversation = ConversationLog(self._send)
        self.conversation.receive(ConversationEvent('a', 0, 1, 1, 'begun'))
        self.page = ChatPage(self.conversation, self)

    def _send(self, prompt):
        self.sent.append(prompt)
        return True

    def trigger(self, service, reply):
        self.called.append(service)
        reply(*self.reply)

    @asynccontextmanager
    async def open(self, **options):
        async with self.client.ws_connect(f'{self.base}/ws', **options) as socket:
            yield socket

    async def greet(self, socket, epoch='', version=0):
        """Return the log that a page gets, of all its parts."""
        await socket.send_json({'type': 'hello', 'epoch': epoch, 'version': version})
        log = part = await receive(socket, 'log')
        while not part['is_last']:
            part = await receive(socket, 'log')
            assert not part['is_whole']
            log['items'] += part['items']
        return log


async def receive(socket, kind):
    """Return the next message of a kind."""
    while True:
        message = await socket.receive_json(timeout=10)
        if message['type'] == kind:
            return message


@pytest.fixture
def page_server():
    """Return a function that runs a test with a server, which ends with it."""
    def run(test, reply=(True, ''), **settings):
        async def main():
            async with ClientSession() as client:
                page_server = PageServer(client, '', reply)
                options = WebSettings(**{'port': 0, 'requests_per_second': 1000.0} | settings)
                app = make_app(options, FakeChatModel())
                page_server.page.add_routes(app)
                listener = Listener(app, options)
                await listener.start()
                page_server.base = f'http://127.0.0.1:{listener.port}'
                try:
                    await test(page_server)
                finally:
                    await listener.close()
        asyncio.run(main())
    return run


@pytest.mark.parametrize(('path', 'kind'), [
    ('/', 'text/html'), ('/static/chat.js', 'javascript'), ('/static/chat.css', 'text/css'),
    ('/static/icon.svg', 'image/svg+xml'), ('/static/vendor/markdown-it.js', 'javascript')])
def test_files_are_served_under_the_policy(page_server, path, kind):
    async def test(page_server):
        async with page_server.client.get(page_server.base + path) as reply:
            assert reply.status == 200
            assert kind in reply.headers['Content-Type']
            assert "default-src 'none'" in reply.headers['Content-Security-Policy']
            assert reply.headers['Cache-Control'] == 'no-cache'
    page_server(test)


def test_file_that_the_browser_has_is_not_sent_again(page_server):
    async def test(page_server):
        async with page_server.client.get(page_server.base) as reply:
            etag = reply.headers['ETag']
        for known, status in ((etag, 304), ('"another"', 200)):
            async with page_server.client.get(page_server.base,
                                              headers={'If-None-Match': known}) as reply:
                assert (reply.status, reply.headers['ETag']) == (status, etag)
                assert bool(await reply.read()) == (status == 200)
    page_server(test)


def test_files_that_nobody_reads_do_not_keep_a_connection(page_server):
    async def test(page_server):
        async def wait_for(status):
            while (await page_server.client.get(page_server.base)).status != status:
                await asyncio.sleep(0.01)

        host, port = page_server.base.removeprefix('http://').split(':')
        request = f'GET /static/vendor/markdown-it.js HTTP/1.1\r\nHost: {host}\r\n\r\n'
        with create_connection((host, int(port))) as connection:
            connection.sendall(request.encode() * 20)
            await wait_for(503)
            await asyncio.wait_for(wait_for(200), 10)
    page_server(test, slow_s=0.2, max_connections=2)


@pytest.mark.parametrize('path', ['/static/node.py', '/static/..%2fnode.py', '/static/',
                                  '/static/%2fetc%2fpasswd', '/nothing'])
def test_nothing_else_is_served(page_server, path):
    async def test(page_server):
        async with page_server.client.get(page_server.base + path) as reply:
            assert reply.status == 404
    page_server(test)


def test_page_is_told_the_log_then_what_happens(page_server):
    async def test(page_server):
        async with page_server.open() as socket:
            assert (await page_server.greet(socket))['items'] == []
            assert (await receive(socket, 'status'))['state'] == 'offline'
            await socket.send_json({'type': 'prompt', 'key': 'k', 'text': 'hello'})
            assert (await receive(socket, 'item'))['item']['prompt'] == 'hello'
            page_server.conversation.receive(ConversationEvent('a', 1, 2, 2, 'asked', 'hello'))
            page_server.conversation.receive(ConversationEvent('a', 1, 3, 2, 'token', 'Hi'))
            assert (await receive(socket, 'piece'))['text'] == 'Hi'
            page_server.page.on_status(Status('answering', is_ready=True, fill=3.0))
            assert (await receive(socket, 'status'))['fill'] == 3.0
        assert page_server.sent == ['hello']
    page_server(test)


def test_page_that_comes_back_is_told_what_it_missed(page_server):
    async def test(page_server):
        async with page_server.open() as socket:
            log = await page_server.greet(socket)
        page_server.conversation.submit('meanwhile', 'k')
        async with page_server.open() as socket:
            again = await page_server.greet(socket, log['epoch'], log['version'])
            assert [item['prompt'] for item in again['items']] == ['meanwhile']
            assert not again['is_whole']
            seen = again['epoch'], again['version']
            assert (await page_server.greet(socket, *seen))['items'] == []
            assert (await page_server.greet(socket, 'another', 99))['is_whole']
    page_server(test)


@pytest.mark.parametrize(('kind', 'service'), [('stop', 'cancel'), ('reset', 'reset')])
def test_services_are_called_and_their_failure_told(page_server, kind, service):
    async def test(page_server):
        async with page_server.open() as socket:
            await page_server.greet(socket)
            await socket.send_json({'type': kind})
            assert (await receive(socket, 'error'))['why'] == 'it is gone'
        assert page_server.called == [service]
    page_server(test, reply=(False, 'it is gone'))


def test_refused_prompt_comes_back_with_the_reason(page_server):
    async def test(page_server):
        async with page_server.open() as socket:
            await page_server.greet(socket)
            await socket.send_json({'type': 'prompt', 'key': 'k', 'text': ' '})
            message = await receive(socket, 'error')
            assert (message['key'], message['why']) == ('k', 'the prompt is empty; type a text')
    page_server(test)


@pytest.mark.parametrize('text', [
    'nonsense', '[]', '{}', '{"type": 1}', '{"type": "prompt", "key": 1, "text": []}', '[' * 9000,
    '{"type": "hello", "epoch": {}, "version": "x"}', '{"type": "hello", "version": 1e999}'])
def test_nonsense_is_survived(page_server, text):
    async def test(page_server):
        async with page_server.open() as socket:
            await socket.send_str(text)
            await page_server.greet(socket)
        assert page_server.sent == []
    page_server(test)


@pytest.mark.parametrize('kind', ['binary', 'flood', 'huge'])
def test_page_that_breaks_the_rules_is_sent_away(page_server, kind):
    async def test(page_server):
        async with page_server.open() as socket:
            if kind == 'binary':
                await socket.send_bytes(b'hello')
            elif kind == 'huge':
                await socket.send_str('x' * (chat_page.LONGEST_MESSAGE + 1))
            else:
                for _ in range(3 * PER_SECOND):
                    await socket.send_json({'type': 'nothing'})
            while (message := await socket.receive(timeout=10)).type == WSMsgType.TEXT:
                pass
            assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
            assert socket.close_code == (WSCloseCode.MESSAGE_TOO_BIG if kind == 'huge'
                                         else WSCloseCode.POLICY_VIOLATION)
    page_server(test)


def test_page_that_does_not_listen_is_sent_away(page_server, monkeypatch):
    monkeypatch.setattr(chat_page, 'BACKLOG', 20)

    async def test(page_server):
        async with page_server.open() as socket:
            await page_server.greet(socket)
            page_server.conversation.receive(ConversationEvent('a', 1, 2, 2, 'asked', 'hello'))
            for number in range(40):  # at once, so that none of it can be sent
                page_server.conversation.receive(
                    ConversationEvent('a', 1, 3 + number, 2, 'token', 'la'))
            while (await socket.receive(timeout=10)).type == WSMsgType.TEXT:
                pass
            assert socket.closed
    page_server(test)


def test_long_log_comes_in_parts_and_in_order(page_server):
    async def test(page_server):
        for number in range(2, 60):
            page_server.conversation.receive(
                ConversationEvent('a', 0, number, number, 'reset', f'{number}'))
        async with page_server.open() as socket:
            log = await page_server.greet(socket)
            assert log['is_whole']
            assert [item['why'] for item in log['items']] == [str(n) for n in range(2, 60)]
    page_server(test)


def test_pages_that_do_not_read_hold_no_logs_in_memory(page_server):
    async def test(page_server):
        conversation = page_server.conversation
        for number in range(2, 202, 2):
            conversation.receive(ConversationEvent('a', number, number, 0, 'asked', 'hello'))
            conversation.receive(
                ConversationEvent('a', number, number + 1, 0, 'answered', 'x' * 20_000))
        memory = psutil.Process().memory_info().rss
        sockets = [await page_server.client.ws_connect(f'{page_server.base}/ws')
                   for _ in range(share_of(MOST_PAGES))]
        for socket in sockets:
            socket._response.connection.transport.pause_reading()
            await socket.send_json({'type': 'hello'})
        while not all(page._wanted_log is None and page._task for page in page_server.page._pages):
            await asyncio.sleep(0.01)
        memory = psutil.Process().memory_info().rss - memory
        for socket in sockets:
            socket._response.connection.transport.abort()
        assert memory < 20_000_000  # of 48 MB of logs
    page_server(test)


def test_page_that_asks_for_the_log_again_and_again_gets_it_once_at_a_time(page_server):
    async def test(page_server):
        conversation, made = page_server.conversation, []
        since = conversation.since
        conversation.since = lambda *seen: made.append(seen) or since(*seen)
        async with page_server.open() as socket:
            for number in range(PER_SECOND - 1):
                await socket.send_json({'type': 'hello', 'epoch': '', 'version': number})
            while not made or made[-1] != ('', PER_SECOND - 2):
                await receive(socket, 'log')
            conversation.submit('hello', 'k')
            assert (await receive(socket, 'item'))['item']['prompt'] == 'hello'
        assert len(made) < PER_SECOND - 1
    page_server(test)


def test_page_that_leaves_in_mid_answer_leaves_no_traceback(page_server, caplog):
    async def test(page_server):
        conversation = page_server.conversation
        conversation.receive(ConversationEvent('a', 1, 2, 2, 'asked', 'hello'))
        for number in range(20):
            socket = await page_server.client.ws_connect(f'{page_server.base}/ws', compress=15)
            await page_server.greet(socket)
            for _ in range(3):  # large, and hard to compress
                conversation.receive(
                    ConversationEvent('a', 1, 3, 2, 'token', randbytes(10_000).hex()))
            for _ in range(number):
                await asyncio.sleep(0)
            socket._response.connection.transport.abort()
    page_server(test)
    gc.collect()
    assert caplog.records == []


def test_only_so_many_pages_of_one_address_are_open_at_once(page_server):
    async def test(page_server):
        sockets = [await page_server.client.ws_connect(f'{page_server.base}/ws')
                   for _ in range(share_of(MOST_PAGES))]
        with pytest.raises(WSServerHandshakeError) as refused:
            async with page_server.open():
                pass
        assert refused.value.status == 503
        await sockets[0].close()
        async with page_server.open() as socket:
            await page_server.greet(socket)
    page_server(test)


@pytest.mark.parametrize(('headers', 'status'), [
    ({'Origin': 'http://elsewhere.example'}, 403), ({'Host': 'elsewhere.example'}, 421),
    ({'Authorization': ''}, 401)], ids=['origin', 'host', 'token'])
def test_strangers_do_not_get_a_websocket(page_server, headers, status):
    async def test(page_server):
        with pytest.raises(WSServerHandshakeError) as refused:
            async with page_server.open(headers={'Authorization': f'Bearer {TOKEN}'} | headers):
                pass
        assert refused.value.status == status
    page_server(test, token=TOKEN)


def test_printed_address_lets_a_browser_in(page_server):
    async def test(page_server):
        async with page_server.client.get(f'{page_server.base}/') as reply:
            assert reply.status == 401
        page_server.client._cookie_jar._unsafe = True  # cookies of an address
        async with page_server.client.get(f'{page_server.base}/?token={TOKEN}') as reply:
            assert (reply.status, str(reply.url)) == (200, f'{page_server.base}/')
        async with page_server.open() as socket:
            await page_server.greet(socket)
    page_server(test, token=TOKEN)


def test_server_that_ends_tells_its_pages(page_server):
    sockets = []

    async def test(page_server):
        socket = await page_server.client.ws_connect(f'{page_server.base}/ws')
        await page_server.greet(socket)
        sockets.append(asyncio.ensure_future(last_of(socket)))
        await asyncio.sleep(0)

    async def last_of(socket):
        while (message := await socket.receive(timeout=10)).type == WSMsgType.TEXT:
            pass
        return message.data

    page_server(test)
    assert sockets[0].result() == WSCloseCode.GOING_AWAY
