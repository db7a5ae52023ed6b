"""The web node as it is started: its parameters, its address, and what it refuses."""

from dataclasses import replace
import json
import re
import signal
import socket

import pytest

rclpy = pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')

from support.robot import ECHO_NODE, poll_until, Robots  # noqa: E402

from tinyllama_ros.errors import ConfigError  # noqa: E402
from tinyllama_ros.web.parameters import address, PARAMETERS, web_settings  # noqa: E402
from tinyllama_ros.web.settings import WebSettings  # noqa: E402

WEB = 'import sys; from tinyllama_ros.web.node import main; sys.exit(main())'
DEFAULTS = {name: parameter.default for name, parameter in PARAMETERS.items()}


@pytest.fixture(scope='module')
def robots(tmp_path_factory):
    robots = Robots(tmp_path_factory.mktemp('web_node'))
    yield robots
    robots.close()


def test_defaults_are_those_of_the_settings():
    assert web_settings(DEFAULTS) == WebSettings()


def test_every_parameter_reaches_the_settings(tmp_path):
    token = tmp_path / 'token'
    token.write_text('t' * 32 + '\n')
    given = {'host': '::1', 'port': 1234, 'max_connections': 2, 'max_body_bytes': 3, 'slow_s': 4.0,
             'requests_per_second': 5.0, 'burst': 6}
    values = DEFAULTS | given | {'token_file': str(token), 'allowed_hosts': 'one, two.example,',
                         'allowed_origins': 'app://obsidian.md'}
    assert web_settings(values) == WebSettings(
        token='t' * 32, allowed_hosts=('one', 'two.example'),
        allowed_origins=('app://obsidian.md',), **given)


def test_other_machines_need_a_token_that_is_new_each_time():
    first, second = (web_settings(DEFAULTS | {'host': '0.0.0.0'}).token for _ in range(2))
    assert len(first) >= 32
    assert first != second


def test_token_file_that_is_missing_is_named():
    with pytest.raises(ConfigError, match="token_file '/no/such' cannot be read"):
        web_settings(DEFAULTS | {'token_file': '/no/such'})


@pytest.mark.parametrize(('host', 'start'), [
    ('127.0.0.1', 'http://127.0.0.1:80/'), ('::1', 'http://[::1]:80/'),
    ('localhost', 'http://localhost:80/')])
def test_address_can_be_opened(host, start):
    settings = WebSettings(host=host)
    assert address(settings, 80) == start
    assert address(replace(settings, token='t' * 32), 80) == f'{start}?token={"t" * 32}'


def test_address_for_other_machines_is_a_real_one():
    text = address(WebSettings(host='0.0.0.0', token='t' * 32), 80)
    host = re.fullmatch(r'http://([\d.]+):80/\?token=t{32}', text)[1]
    assert host != '0.0.0.0'


def test_taken_port_is_an_error_in_one_line(robots):
    with socket.socket() as holder:
        holder.bind(('127.0.0.1', 0))
        holder.listen()
        port = holder.getsockname()[1]
        process = robots.start(program=WEB, parameters={'port': port})
        assert process.wait() == 1
    assert f'the server cannot listen on host 127.0.0.1 port {port}: ' in process.log
    assert 'Traceback' not in process.log


def test_parameter_out_of_range_is_an_error_in_one_line(robots):
    process = robots.start(program=WEB, parameters={'port': 70000})
    assert process.wait() == 1
    assert 'port' in process.log
    assert 'Traceback' not in process.log


def test_misspelt_parameter_of_a_file_is_named_and_the_node_starts(robots, tmp_path):
    (tmp_path / 'web.yaml').write_text('/**: {ros__parameters: {port: 0, brust: 9}}')
    process = robots.start(program=WEB, arguments=('--params-file', str(tmp_path / 'web.yaml')))
    poll_until(lambda: 'open http' in process.log, 'address')
    assert process.stop() == 0
    assert process.log.count('the parameter brust is ignored') == 1
    assert 'did you mean burst?' in process.log


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM], ids=lambda each: each.name)
def test_node_ends_cleanly_on_a_signal(robots, number):
    process = robots.start(program=WEB, parameters={'port': 0})
    poll_until(lambda: 'open http' in process.log, 'address')
    assert process.stop(number) == 0
    assert process.log.count('\n') == 1, process.log


def test_history_is_there_for_whoever_comes_late(robots):
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from std_msgs.msg import String

    namespace = robots.new_namespace()
    client = robots.connect(namespace)
    robots.start(namespace=namespace, program=ECHO_NODE)
    client.connect()
    client.wait_for_subscriber()
    client.ask('hello you')
    client.request('reset')
    heard = []
    late = robots.connect(namespace)
    late.node.create_subscription(
        String, f'{late.target}/history', lambda message: heard.append(json.loads(message.data)),
        QoSProfile(depth=200, durability=DurabilityPolicy.TRANSIENT_LOCAL))
    poll_until(lambda: len(heard) == 4, 'four lines')
    assert [(line['line'], line['kind'], line['text']) for line in heard] == [
        (1, 'begun', ''), (2, 'asked', 'hello you'), (3, 'answered', 'hello you'),
        (4, 'reset', 'requested')]
    assert len({line['run'] for line in heard}) == 1
