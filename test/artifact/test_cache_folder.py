"""Models are found where the user keeps them."""

from pathlib import Path

import pytest

from tinyllama_ros.artifact.manifest import MANIFEST
from tinyllama_ros.artifact.places import artifacts_folder, default_cache, find_artifact
from tinyllama_ros.errors import ArtifactError


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv('TINYLLAMA_ROS_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


def put(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / MANIFEST).write_text('{}')
    return folder


@pytest.mark.parametrize(('variables', 'expected'), [
    ({'TINYLLAMA_ROS_CACHE': '/own', 'XDG_CACHE_HOME': '/xdg', 'HOME': '/home/me'}, '/own'),
    ({'XDG_CACHE_HOME': '/xdg', 'HOME': '/home/me'}, '/xdg/tinyllama_ros'),
    ({'XDG_CACHE_HOME': '', 'HOME': '/home/me'}, '/home/me/.cache/tinyllama_ros'),
    ({'TINYLLAMA_ROS_CACHE': '', 'HOME': '/home/me'}, '/home/me/.cache/tinyllama_ros'),
], ids=['own', 'xdg', 'empty_xdg', 'empty_own'])
def test_cache_lies_where_the_environment_says(monkeypatch, variables, expected):
    for name in ('TINYLLAMA_ROS_CACHE', 'XDG_CACHE_HOME'):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_cache() == Path(expected)
    assert artifacts_folder() == Path(expected) / 'artifacts'


def test_artifact_is_found_by_its_name(cache):
    folder = put(cache / 'artifacts' / 'mine')
    assert find_artifact('mine') == folder


def test_artifact_is_found_by_its_path(cache, tmp_path):
    folder = put(tmp_path / 'mine')
    assert find_artifact(str(folder)) == folder


def test_path_may_begin_at_home(cache, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    put(tmp_path / 'mine')
    assert find_artifact('~/mine') == tmp_path / 'mine'


@pytest.mark.parametrize('model', ['', 'other', '/nowhere', 'a\0b'], ids=ascii)
def test_unknown_artifact_lists_the_known_ones(cache, tmp_path, monkeypatch, model):
    monkeypatch.chdir(put(tmp_path / 'here'))
    put(cache / 'artifacts' / 'two')
    put(cache / 'artifacts' / 'one')
    put(cache / 'artifacts' / '.three.partial')
    with pytest.raises(ArtifactError, match='no artifact .*; here are: one, two; make'):
        find_artifact(model)


def test_empty_cache_lists_none(cache):
    with pytest.raises(ArtifactError, match='here are: none; make .* tinyllama-model build'):
        find_artifact('mine')
