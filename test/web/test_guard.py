"""Who is let in, and the status with which the others are sent away."""

import gzip
import json

from hypothesis import given, strategies as st
import pytest

pytest.importorskip('aiohttp', reason='pip install aiohttp')

from support.web_server import FakeChatModel, PIECES, running, status_of  # noqa: E402

from tinyllama_ros.web import guard  # noqa: E402
from tinyllama_ros.web.guard import COOKIE, host_name  # noqa: E402
from tinyllama_ros.web.settings import is_loopback  # noqa: E402

TOKEN = 'correct-horse-battery'
APP = 'app://obsidian.md'
HELLO = {'messages': [{'role': 'user', 'content': 'hello'}]}


@pytest.fixture(scope='module')
def server():
    with running(FakeChatModel()) as server:
        yield server


@pytest.fixture(scope='module')
def locked():
    """Give a server that wants a token."""
    with running(FakeChatModel(), token=TOKEN) as server:
        yield server


@pytest.mark.parametrize('host', ['localhost', '127.0.0.1:8080', '[::1]', 'LOCALHOST:1'])
def test_own_hosts_are_let_in(server, host):
    assert server.request('/v1/models', Host=host).status == 200


@pytest.mark.parametrize('host', ['evil.example', 'localhost.evil.example', 'localhost@evil', '',
                                  'localhost:evil', '[localhost]', '192.168.0.7'])
def test_other_hosts_are_misdirected(server, host):
    assert server.request('/v1/models', Host=host).status == 421


@pytest.mark.parametrize('hosts', [[], ['localhost', 'evil.example']], ids=['none', 'two'])
def test_host_must_be_said_once(server, hosts):
    lines = ''.join(f'Host: {host}\r\n' for host in hosts)
    head = f'GET /v1/models HTTP/1.1\r\n{lines}Connection: close\r\n\r\n'
    assert status_of(server.exchange(head.encode())) in (400, 421)


def test_old_client_that_names_no_host_is_misdirected(server):
    assert status_of(server.exchange(b'GET /v1/models HTTP/1.0\r\n\r\n')) == 421


def test_own_origin_is_let_in(server):
    origin = f'http://127.0.0.1:{server.port}'
    assert server.post(HELLO, Origin=origin).status == 200


@pytest.mark.parametrize('origin', ['http://evil.example', 'null', 'http://127.0.0.1:1', 'file://',
                                    'http://127.0.0.1.evil.example', ''])
def test_other_origins_are_forbidden(server, origin):
    for path in ('/v1/models', '/', '/ws'):
        assert server.request(path, Origin=origin).status == 403
    assert server.post(HELLO, Origin=origin).status == 403


def test_preflight_of_another_origin_is_forbidden(server):
    reply = server.request('/v1/chat/completions', method='OPTIONS', Origin='http://evil.example',
                           Access_Control_Request_Method='POST')
    assert (reply.status, reply.headers['Access-Control-Allow-Origin']) == (403, None)


@pytest.mark.parametrize('header', [
    {}, {'Authorization': 'Bearer'}, {'Authorization': 'Bearer wrong-horse-battery-x'},
    {'Authorization': f'Basic {TOKEN}'}, {'Authorization': f'Bearer {TOKEN}x'},
    {'Authorization': f'Bearer {TOKEN[:-1]}'}, {'Authorization': 'Bearer \xff'},
    {'Cookie': f'{COOKIE}=wrong'}, {'Cookie': f'other={TOKEN}'}], ids=str)
def test_missing_or_wrong_token_is_unauthorized(locked, header):
    reply = locked.post(HELLO, **header)
    assert (reply.status, reply.error['code']) == (401, 'invalid_api_key')
    assert reply.headers['WWW-Authenticate'] == 'Bearer'


@pytest.mark.parametrize('header', [{'Authorization': f'Bearer {TOKEN}'},
                                    {'Authorization': f'bearer  {TOKEN}'},
                                    {'Cookie': f'{COOKIE}={TOKEN}'}], ids=str)
def test_token_is_let_in(locked, header):
    assert locked.post(HELLO, **header).status == 200


def test_paths_that_do_not_exist_need_the_token_too(locked):
    assert locked.request('/nothing').status == 401


def test_printed_address_puts_the_token_into_a_cookie(locked):
    reply = locked.request(f'/?token={TOKEN}')
    assert (reply.status, reply.headers['Location']) == (303, './')
    cookie = reply.headers['Set-Cookie']
    assert cookie.startswith(f'{COOKIE}={TOKEN};')
    assert 'HttpOnly' in cookie and 'SameSite=Strict' in cookie


def test_printed_address_with_a_wrong_token_sets_no_cookie(locked):
    reply = locked.request('/?token=wrong-horse-battery')
    assert (reply.status, reply.headers['Set-Cookie']) == (401, None)


def test_token_in_the_address_counts_at_the_page_only(locked):
    assert locked.request(f'/v1/models?token={TOKEN}').status == 401


@pytest.mark.parametrize('path', ['/v1/models', '/nothing', '/v1/chat/completions'])
def test_every_response_carries_the_security_headers(server, path):
    headers = server.request(path).headers
    policy = headers['Content-Security-Policy']
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert 'unsafe' not in policy and '*' not in policy and 'http' not in policy
    assert headers['X-Content-Type-Options'] == 'nosniff'
    assert headers['Referrer-Policy'] == 'no-referrer'
    assert headers['Cache-Control'] == 'no-store'


def test_refusals_carry_the_security_headers(server):
    headers = server.request('/', Origin='http://evil.example').headers
    assert headers['X-Content-Type-Options'] == 'nosniff'


def test_stream_carries_the_security_headers(server):
    reply = server.post({**HELLO, 'stream': True})
    assert (reply.status, reply.headers['X-Content-Type-Options']) == (200, 'nosniff')


def test_body_is_bounded_by_its_announced_length():
    with running(FakeChatModel(), max_body_bytes=1000) as server:
        assert server.post(b'x' * 1001).status == 413
        assert server.post(json.dumps(HELLO).encode().ljust(1000)).status == 200


def test_body_is_bounded_where_its_length_is_not_announced():
    chat_model = FakeChatModel()
    chunk = b'100\r\n' + b' ' * 256 + b'\r\n'
    with running(chat_model, max_body_bytes=1000) as server:
        reply = server.exchange(
            b'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n'
            b'Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n'
            + chunk * 4 + b'0\r\n\r\n')
    assert status_of(reply) == 413
    assert chat_model.requests == []


def test_compressed_body_is_refused_unopened(server):
    bomb = gzip.compress(b' ' * 10_000_000)
    assert server.post(bomb, Content_Encoding='gzip').status == 415


@pytest.mark.parametrize('kind', ['text/plain', 'application/x-www-form-urlencoded',
                                  'multipart/form-data; boundary=x'])
def test_what_a_form_of_another_page_could_send_is_refused(server, kind):
    assert server.post(HELLO, **{'Content-Type': kind}).status == 415


@pytest.mark.parametrize('request_', [
    b'GET /' + b'x' * 9000 + b' HTTP/1.1\r\nHost: localhost\r\n\r\n',
    b'GET / HTTP/1.1\r\nHost: localhost\r\nX: ' + b'x' * 9000 + b'\r\n\r\n',
    b'GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n',
    b'\x16\x03\x01\x02\x00\x01\x00\r\n\r\n'], ids=['line', 'header', 'smuggling', 'TLS'])
def test_what_is_no_http_or_too_long_is_a_bad_request_and_no_traceback(server, request_, caplog):
    assert status_of(server.exchange(request_)) == 400
    assert caplog.records == []


def test_200_requests_of_this_machine_one_after_the_other_are_all_answered():
    with running(FakeChatModel(), requests_per_second=0.001, burst=5) as server:
        statuses = [server.request('/v1/models').status for _ in range(200)]
    assert statuses == [200] * 200


def test_burst_of_another_address_is_bounded(monkeypatch):
    monkeypatch.setattr(guard, 'is_loopback', lambda address: address == '127.0.0.1')
    with running(FakeChatModel(), requests_per_second=0.001, burst=5) as server:
        replies = [server.request('/v1/models', source='127.0.0.2') for _ in range(7)]
        assert server.request('/v1/models').status == 200
    assert [reply.status for reply in replies] == [200] * 5 + [429] * 2
    assert (replies[-1].error['code'], replies[-1].headers['Retry-After']) == (
        'rate_limit_exceeded', '1')


@pytest.mark.parametrize(('address', 'expected'), [
    ('127.0.0.1', True), ('127.9.9.9', True), ('::1', True), ('::ffff:127.0.0.1', True),
    ('192.168.0.7', False), ('::ffff:192.168.0.7', False), ('2001:db8::1', False), ('', False)])
def test_only_this_machine_is_loopback(address, expected):
    assert is_loopback(address) == expected


@pytest.fixture(scope='module')
def obsidian():
    """Give a server that wants a token and allows one origin."""
    with running(FakeChatModel(), token=TOKEN, allowed_origins=(APP,)) as server:
        yield server


def test_allowed_origin_may_use_the_api(obsidian):
    preflight = obsidian.request(
        '/v1/chat/completions', method='OPTIONS', Origin=APP, Access_Control_Request_Method='POST',
        Access_Control_Request_Headers='authorization,content-type,x-stainless-lang')
    assert (preflight.status, preflight.headers['Access-Control-Allow-Origin']) == (204, APP)
    assert preflight.headers['Access-Control-Allow-Headers'] == (
        'authorization,content-type,x-stainless-lang')
    assert 'POST' in preflight.headers['Access-Control-Allow-Methods']
    for extra in ({}, {'stream': True}):
        reply = obsidian.post(HELLO | extra, Origin=APP, Authorization=f'Bearer {TOKEN}')
        assert (reply.status, reply.headers['Access-Control-Allow-Origin']) == (200, APP)
        assert reply.headers['Vary'] == 'Origin'


def test_errors_can_be_read_by_an_allowed_origin(obsidian):
    for reply in (obsidian.post(HELLO, Origin=APP), obsidian.request('//v1/models', Origin=APP)):
        assert (reply.status, reply.headers['Access-Control-Allow-Origin']) == (401, APP)


@pytest.mark.parametrize('path', ['/', '/ws', '/static/chat.js'])
def test_allowed_origin_may_not_use_the_chat_page(obsidian, path):
    assert obsidian.request(path, Origin=APP, Authorization=f'Bearer {TOKEN}').status == 403


@pytest.mark.parametrize('origin', ['app://obsidian.md.evil.example', 'app://', 'null',
                                    'http://obsidian.md', 'APP://OBSIDIAN.MD'])
def test_other_origins_stay_forbidden_beside_an_allowed_one(obsidian, origin):
    reply = obsidian.post(HELLO, Origin=origin, Authorization=f'Bearer {TOKEN}')
    assert (reply.status, reply.headers['Access-Control-Allow-Origin']) == (403, None)
    assert 'allowed_origins' in reply.error['message']


@given(st.text() | st.from_regex(r'[a-z0-9.:\[\]]+', fullmatch=True))
def test_host_name_is_part_of_its_header_or_nothing(header):
    name = host_name(header)
    assert name in header
    assert not set(name) & set('/@?# ')


def test_answer_comes_through_the_guard(locked):
    reply = locked.post(HELLO, Authorization=f'Bearer {TOKEN}')
    assert json.loads(reply.body)['choices'][0]['message']['content'] == ''.join(PIECES)
