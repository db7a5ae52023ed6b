"""The page's routes and its websocket, without a browser and without ROS."""

import asyncio
from contextlib import asynccontextmanager

from aiohttp import ClientSession, WSCloseCode, WSMsgType, WSServerHandshakeError
import pytest

pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')

from support.web_server import FakeDoor  # noqa: E402

from tinyllama_ros.ros.client import Status  # noqa: E402
from tinyllama_ros.ros.wire import Line, Piece  # noqa: E402
from tinyllama_ros.web import page as page_module  # noqa: E402
from tinyllama_ros.web.listener import Listener  # noqa: E402
from tinyllama_ros.web.log import ConversationLog  # noqa: E402
from tinyllama_ros.web.page import MOST_PAGES, Page, PER_SECOND  # noqa: E402
from tinyllama_ros.web.server import make_app  # noqa: E402
from tinyllama_ros.web.settings import WebSettings  # noqa: E402

TOKEN = 'a' * 32


class Stage:
    """A page without ROS: what it sent, and which services it called."""

    def __init__(self, client, base, reply):
        self.client, self.base, self.reply = client, base, reply
        self.sent, self.called = [], []
        self.conversation = ConversationLog(self._send)
        self.conversation.hear(Line('a', 1, 'begun', '', ''), 1)
        self.page = Page(self.conversation, self)

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
        await socket.send_json({'type': 'hello', 'epoch': epoch, 'version': version})
        return await receive(socket, 'log')


async def receive(socket, kind):
    """Return the next message of a kind."""
    while True:
        message = await socket.receive_json(timeout=10)
        if message['type'] == kind:
            return message


@pytest.fixture
def stage():
    """Return a function that runs a test on a stage; its server ends with it."""
    def run(test, reply=(True, ''), **settings):
        async def main():
            async with ClientSession() as client:
                stage = Stage(client, '', reply)
                options = WebSettings(**{'port': 0, 'requests_per_second': 1000.0} | settings)
                app = make_app(options, FakeDoor())
                stage.page.add_routes(app)
                listener = Listener(app, options)
                await listener.start()
                stage.base = f'http://127.0.0.1:{listener.port}'
                try:
                    await test(stage)
                finally:
                    await listener.close()
        asyncio.run(main())
    return run


@pytest.mark.parametrize(('path', 'kind'), [
    ('/', 'text/html'), ('/static/chat.js', 'javascript'), ('/static/chat.css', 'text/css'),
    ('/static/icon.svg', 'image/svg+xml'), ('/static/vendor/markdown-it.js', 'javascript')])
def test_files_are_served_under_the_policy(stage, path, kind):
    async def test(stage):
        async with stage.client.get(stage.base + path) as reply:
            assert reply.status == 200
            assert kind in reply.headers['Content-Type']
            assert "default-src 'none'" in reply.headers['Content-Security-Policy']
            assert reply.headers['Cache-Control'] == 'no-cache'
    stage(test)


@pytest.mark.parametrize('path', ['/static/page.py', '/static/..%2fpage.py', '/static/',
                                  '/static/%2fetc%2fpasswd', '/nothing'])
def test_nothing_else_is_served(stage, path):
    async def test(stage):
        async with stage.client.get(stage.base + path) as reply:
            assert reply.status == 404
    stage(test)


def test_page_is_told_the_log_then_what_happens(stage):
    async def test(stage):
        async with stage.open() as socket:
            assert (await stage.greet(socket))['items'] == []
            assert (await receive(socket, 'status'))['state'] == 'offline'
            await socket.send_json({'type': 'say', 'key': 'k', 'text': 'hello'})
            assert (await receive(socket, 'item'))['item']['prompt'] == 'hello'
            stage.conversation.hear(Line('a', 2, 'asked', 'hello', ''), 2)
            stage.conversation.piece(Piece(3, 'Hi'))
            assert (await receive(socket, 'piece'))['text'] == 'Hi'
            stage.page.tell_status(Status('answering', is_ready=True, fill=3.0))
            assert (await receive(socket, 'status'))['fill'] == 3.0
        assert stage.sent == ['hello']
    stage(test)


def test_page_that_comes_back_is_told_what_it_missed(stage):
    async def test(stage):
        async with stage.open() as socket:
            log = await stage.greet(socket)
        stage.conversation.say('meanwhile', 'k')
        async with stage.open() as socket:
            again = await stage.greet(socket, log['epoch'], log['version'])
            assert [item['prompt'] for item in again['items']] == ['meanwhile']
            assert not again['is_whole']
            assert (await stage.greet(socket, again['epoch'], again['version']))['items'] == []
            assert (await stage.greet(socket, 'another', 99))['is_whole']
    stage(test)


@pytest.mark.parametrize(('kind', 'service'), [('stop', 'cancel'), ('reset', 'reset')])
def test_services_are_called_and_their_failure_told(stage, kind, service):
    async def test(stage):
        async with stage.open() as socket:
            await stage.greet(socket)
            await socket.send_json({'type': kind})
            assert (await receive(socket, 'error'))['why'] == 'it is gone'
        assert stage.called == [service]
    stage(test, reply=(False, 'it is gone'))


def test_refused_prompt_comes_back_with_the_reason(stage):
    async def test(stage):
        async with stage.open() as socket:
            await stage.greet(socket)
            await socket.send_json({'type': 'say', 'key': 'k', 'text': ' '})
            message = await receive(socket, 'error')
            assert (message['key'], message['why']) == ('k', 'it is blank; say something')
    stage(test)


@pytest.mark.parametrize('text', [
    'nonsense', '[]', '{}', '{"type": 1}', '{"type": "say", "key": 1, "text": []}', '[' * 9000,
    '{"type": "hello", "epoch": {}, "version": "x"}', '{"type": "hello", "version": 1e999}'])
def test_nonsense_is_survived(stage, text):
    async def test(stage):
        async with stage.open() as socket:
            await socket.send_str(text)
            await stage.greet(socket)
        assert stage.sent == []
    stage(test)


@pytest.mark.parametrize('kind', ['binary', 'flood', 'huge'])
def test_page_that_breaks_the_rules_is_sent_away(stage, kind):
    async def test(stage):
        async with stage.open() as socket:
            if kind == 'binary':
                await socket.send_bytes(b'hello')
            elif kind == 'huge':
                await socket.send_str('x' * (page_module.LONGEST_MESSAGE + 1))
            else:
                for _ in range(3 * PER_SECOND):
                    await socket.send_json({'type': 'nothing'})
            while (message := await socket.receive(timeout=10)).type == WSMsgType.TEXT:
                pass
            assert message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED)
            assert socket.close_code == (WSCloseCode.MESSAGE_TOO_BIG if kind == 'huge'
                                         else WSCloseCode.POLICY_VIOLATION)
    stage(test)


def test_page_that_does_not_listen_is_sent_away(stage, monkeypatch):
    monkeypatch.setattr(page_module, 'BACKLOG', 20)

    async def test(stage):
        async with stage.open() as socket:
            await stage.greet(socket)
            stage.conversation.hear(Line('a', 2, 'asked', 'hello', ''), 2)
            for number in range(40):  # at once, so that none of it can be sent
                stage.conversation.piece(Piece(3 + number, 'la'))
            while (await socket.receive(timeout=10)).type == WSMsgType.TEXT:
                pass
            assert socket.closed
    stage(test)


def test_only_so_many_pages_are_open_at_once(stage):
    async def test(stage):
        sockets = [await stage.client.ws_connect(f'{stage.base}/ws') for _ in range(MOST_PAGES)]
        with pytest.raises(WSServerHandshakeError) as refused:
            async with stage.open():
                pass
        assert refused.value.status == 503
        await sockets[0].close()
        async with stage.open() as socket:
            await stage.greet(socket)
    stage(test)


@pytest.mark.parametrize(('headers', 'status'), [
    ({'Origin': 'http://elsewhere.example'}, 403), ({'Host': 'elsewhere.example'}, 421),
    ({'Authorization': ''}, 401)], ids=['origin', 'host', 'token'])
def test_strangers_do_not_get_a_websocket(stage, headers, status):
    async def test(stage):
        with pytest.raises(WSServerHandshakeError) as refused:
            async with stage.open(headers={'Authorization': f'Bearer {TOKEN}'} | headers):
                pass
        assert refused.value.status == status
    stage(test, token=TOKEN)


def test_printed_address_lets_a_browser_in(stage):
    async def test(stage):
        async with stage.client.get(f'{stage.base}/') as reply:
            assert reply.status == 401
        stage.client._cookie_jar._unsafe = True  # cookies of an address
        async with stage.client.get(f'{stage.base}/?token={TOKEN}') as reply:
            assert (reply.status, str(reply.url)) == (200, f'{stage.base}/')
        async with stage.open() as socket:
            await stage.greet(socket)
    stage(test, token=TOKEN)


def test_server_that_ends_tells_its_pages(stage):
    sockets = []

    async def test(stage):
        socket = await stage.client.ws_connect(f'{stage.base}/ws')
        await stage.greet(socket)
        sockets.append(asyncio.ensure_future(last_of(socket)))
        await asyncio.sleep(0)

    async def last_of(socket):
        while (message := await socket.receive(timeout=10)).type == WSMsgType.TEXT:
            pass
        return message.data

    stage(test)
    assert sockets[0].result() == WSCloseCode.GOING_AWAY
