import re
import socket

from hypothesis import given, strategies as st
import pytest

from tinyllama_ros.errors import ConfigError
from tinyllama_ros.web.settings import is_token, new_token, read_token, WebSettings

TOKEN = 'correct-horse-battery'


@pytest.mark.parametrize('host', ['127.0.0.1', '127.3.2.1', '::1', 'localhost'])
def test_loopback_needs_no_token(host):
    assert WebSettings(host=host).is_loopback


@pytest.mark.parametrize('host', ['0.0.0.0', '::', '192.168.0.7', 'robot.local', ''])
def test_other_addresses_need_a_token(host):
    with pytest.raises(ConfigError, match='which other machines may reach: that requires a token'):
        WebSettings(host=host)
    assert not WebSettings(host=host, token=TOKEN).is_loopback


@pytest.mark.parametrize(('name', 'value'), [
    ('max_connections', 0), ('max_body_bytes', -1), ('slow_s', 0.0), ('burst', 0),
    ('requests_per_second', float('nan'))])
def test_limit_must_leave_something(name, value):
    with pytest.raises(ConfigError, match=f'{name} is {value}; it must be above 0'):
        WebSettings(**{name: value})


@pytest.mark.parametrize('port', [-1, 65536])
def test_port_is_held_in_its_range(port):
    with pytest.raises(ConfigError, match=f'port is {port}; it must be in 0..65535'):
        WebSettings(port=port)


@pytest.mark.parametrize('token', ['short', 'with space in between', 'semicolon;semicolon',
                                   'ümläütümläütümläüt', 'line\nline\nline\nline'])
def test_token_that_cannot_travel_is_refused(token):
    with pytest.raises(ConfigError, match='16 or more visible ASCII characters'):
        WebSettings(token=token)


def test_token_is_not_shown():
    assert TOKEN not in repr(WebSettings(token=TOKEN))


def test_new_tokens_differ_and_can_travel():
    assert new_token() != new_token()
    assert is_token(new_token())


def test_token_file_is_read_without_its_line_end(tmp_path):
    (tmp_path / 'token').write_text(f'{TOKEN}\n')
    assert read_token(str(tmp_path / 'token')) == TOKEN


@pytest.mark.parametrize(('text', 'why'), [
    (None, 'cannot be read'), (b'\xff' * 20, 'cannot be read'), (b'', 'must hold one line'),
    (b'one-line-that-is-long\nanother-line-of-it', 'must hold one line')])
def test_unusable_token_file_is_named(tmp_path, text, why):
    path = tmp_path / 'token'
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ConfigError, match=f"token_file '{path}' {why}"):
        read_token(str(path))


@pytest.mark.parametrize('name', ['localhost', 'LocalHost.', '127.0.0.1', '::1'])
def test_loopback_is_known_by_its_names(name):
    assert WebSettings().knows_host(name)


@pytest.mark.parametrize('name', ['', 'evil.example', 'localhost.evil.example', '192.168.0.7',
                                  socket.gethostname() + '.'])
def test_loopback_knows_no_other_name(name):
    assert not WebSettings().knows_host(name)


@pytest.mark.parametrize('name', ['192.168.0.7', '2001:db8::1', 'localhost', socket.gethostname(),
                                  f'{socket.gethostname()}.local', 'Robot.Lan'])
def test_open_address_is_known_by_addresses_and_given_names(name):
    settings = WebSettings(host='0.0.0.0', token=TOKEN, allowed_hosts=('robot.lan',))
    assert settings.knows_host(name)
    assert not settings.knows_host(f'{name}.evil.example')


@given(st.text())
def test_no_text_is_known_by_accident(name):
    settings = WebSettings(host='0.0.0.0', token=TOKEN)
    assert not settings.knows_host(f'x{name}.example')


@pytest.mark.parametrize('origin', ['*', 'null', 'obsidian.md', 'app://', 'http://a.example/',
                                    'http://a.example/path', 'http://*.example', 'HTTP://A'])
def test_what_is_no_origin_is_refused_by_name(origin):
    with pytest.raises(ConfigError, match=f'allowed_origins holds {re.escape(repr(origin))}'):
        WebSettings(allowed_origins=('app://obsidian.md', 'http://localhost:3000', origin))
