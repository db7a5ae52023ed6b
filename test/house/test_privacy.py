"""What a robot sends, and what it keeps of its owner's machine: nothing that was not asked for."""

import ipaddress
import json
from pathlib import Path
import re
import shutil
import socket
import subprocess
import sys
from urllib.request import Request, urlopen

import psutil
import pytest
from support.paths import ROOT

SOURCE = ROOT / 'test' / 'support' / 'socket_trace' / 'socket_trace.cc'
WEB = 'import sys; from tinyllama_ros.web.node import main; sys.exit(main())'
LOCAL_HOSTS = {address.address.partition('%')[0] for addresses in psutil.net_if_addrs().values()
               for address in addresses} | {'0.0.0.0', '::'}


@pytest.fixture(scope='module')
def tracer(tmp_path_factory):
    """Return the library that notes what a process opens; see test/support/socket_trace."""
    if not shutil.which('g++'):
        pytest.skip('needs g++')
    library = tmp_path_factory.mktemp('tracer') / 'socket_trace.so'
    subprocess.run(['g++', '-shared', '-fPIC', '-o', library, SOURCE, '-ldl'], check=True)
    return library


@pytest.fixture
def trace(tracer, tmp_path, monkeypatch):
    """Trace the processes that the test starts, in a home of their own; return what is noted."""
    monkeypatch.setenv('LD_PRELOAD', str(tracer))
    monkeypatch.setenv('SOCKET_TRACE', str(tmp_path / 'trace'))
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    for name in ('CI', 'GITHUB_ACTIONS', 'XDG_CACHE_HOME', 'ORT_DISABLE_TELEMETRY'):
        monkeypatch.delenv(name, raising=False)  # ONNX Runtime is silent in CI by itself
    (tmp_path / 'home').mkdir()
    return lambda: {tuple(line.split()) for line in (tmp_path / 'trace').read_text().splitlines()}


def is_dds(call, kind, address, port):
    """Return whether a call is DDS's: UDP to this machine or to a multicast group."""
    return kind == 'udp' and (address in LOCAL_HOSTS or ipaddress.ip_address(address).is_multicast)


def test_tracer_sees_sockets_and_names(trace):
    with socket.create_server(('127.0.0.1', 0)) as server:
        port = server.getsockname()[1]
        subprocess.run([sys.executable, '-c', f"""
import socket
socket.create_connection(('localhost', {port}))
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))
"""], check=True)
    assert trace() >= {('lookup', 'dns', 'localhost', '0'), ('send', 'udp', '127.0.0.1', '9'),
                       ('connect', 'tcp', '127.0.0.1', str(port))}


def test_nodes_open_nothing_but_dds_and_the_listener(trace, tmp_path):
    pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')
    pytest.importorskip('aiohttp', reason='pip install aiohttp')
    from support.robot import build_model, poll_until, Robots

    from tinyllama_ros.workbench.checkpoints.random_checkpoint import SHAPES

    robots = Robots(tmp_path)
    try:
        model = build_model(tmp_path / 'model', SHAPES['tiny'])
        process, recorder = robots.serve(model=str(model), threads=1, max_tokens=8, answer_room=32)
        web = robots.start(namespace=recorder.target.rpartition('/')[0], program=WEB,
                           parameters={'model_node': recorder.target, 'port': 0})
        assert recorder.ask('hello')
        poll_until(lambda: 'open http' in web.log, 'address')
        url, port = re.search(r'open (http://127.0.0.1:(\d+)/) in', web.log).groups()
        poll_until(lambda: b'"id"' in urlopen(f'{url}v1/models', timeout=20).read(), 'model')
        body = {'model': 'model', 'messages': [{'role': 'user', 'content': 'hi'}]}
        with urlopen(Request(f'{url}v1/chat/completions', json.dumps(body).encode(),
                             {'Content-Type': 'application/json'}), timeout=20) as reply:
            assert json.load(reply)['choices'][0]['message']['content']
        assert [web.stop(), process.stop()] == [0, 0]
    finally:
        robots.close()
    others = {call for call in trace() if not is_dds(*call)}
    assert others == {('bind', 'tcp', '127.0.0.1', '0')}
    home = {str(path.relative_to(tmp_path / 'home')) for path in Path.home().rglob('*')}
    assert not [path for path in home if not path.startswith('.ros')]
