"""Who is let in, and the status with which the others are sent away."""

import gzip
import json

from hypothesis import given, strategies as st
import pytest

pytest.importorskip('aiohttp', reason='pip install aiohttp')

from support.web_server import FakeDoor, running, SAID, status_of  # noqa: E402

from tinyllama_ros.web.guard import COOKIE, host_name, MOST_ADDRESSES, Rates  # noqa: E402

TOKEN = 'correct-horse-battery'
HELLO = {'messages': [{'role': 'user', 'content': 'hello'}]}


@pytest.fixture(scope='module')
def server():
    with running(FakeDoor()) as server:
        yield server


@pytest.fixture(scope='module')
def locked():
    """Give a server that wants a token."""
    with running(FakeDoor(), token=TOKEN) as server:
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
    assert (reply.status, reply.headers['Location']) == (303, '/')
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
    with running(FakeDoor(), max_body_bytes=1000) as server:
        assert server.post(b'x' * 1001).status == 413
        assert server.post(json.dumps(HELLO).encode().ljust(1000)).status == 200


def test_body_is_bounded_where_its_length_is_not_announced():
    door = FakeDoor()
    chunk = b'100\r\n' + b' ' * 256 + b'\r\n'
    with running(door, max_body_bytes=1000) as server:
        reply = server.exchange(
            b'POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n'
            b'Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n'
            + chunk * 4 + b'0\r\n\r\n')
    assert status_of(reply) == 413
    assert door.requests == []


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
def test_what_is_no_http_or_too_long_is_a_bad_request(server, request_):
    assert status_of(server.exchange(request_)) == 400


def test_burst_of_one_address_is_bounded():
    with running(FakeDoor(), requests_per_second=0.001, burst=5) as server:
        replies = [server.request('/v1/models') for _ in range(7)]
    assert [reply.status for reply in replies] == [200] * 5 + [429] * 2
    assert (replies[-1].error['code'], replies[-1].headers['Retry-After']) == (
        'rate_limit_exceeded', '1')


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_bucket_fills_at_its_rate_and_never_over():
    clock = Clock()
    rates = Rates(2.0, 4, clock)
    assert [rates.allow('a') for _ in range(5)] == [True] * 4 + [False]
    clock.now_s += 1
    assert [rates.allow('a') for _ in range(3)] == [True, True, False]
    clock.now_s += 1000
    assert [rates.allow('a') for _ in range(5)] == [True] * 4 + [False]


def test_addresses_are_counted_apart_and_networks_of_version_6_together():
    rates = Rates(1.0, 1, Clock())
    assert [rates.allow(address) for address in (
        '10.0.0.1', '10.0.0.2', '2001:db8::1', '2001:db8::ffff', '2001:db8:0:1::1',
        '::ffff:10.0.0.3', '::ffff:10.0.0.4')] == [True, True, True, False, True, True, True]


def test_only_so_many_addresses_are_remembered():
    rates = Rates(1.0, 1, Clock())
    assert all(rates.allow(f'host {number}') for number in range(MOST_ADDRESSES + 1))
    assert [rates.allow('host 0'), rates.allow(f'host {MOST_ADDRESSES}')] == [True, False]


@given(st.text() | st.from_regex(r'[a-z0-9.:\[\]]+', fullmatch=True))
def test_host_name_is_part_of_its_header_or_nothing(header):
    name = host_name(header)
    assert name in header
    assert not set(name) & set('/@?# ')


def test_answer_comes_through_the_guard(locked):
    reply = locked.post(HELLO, Authorization=f'Bearer {TOKEN}')
    assert json.loads(reply.body)['choices'][0]['message']['content'] == ''.join(SAID)
