"""Models are found where the user keeps them."""

from pathlib import Path
import pwd

import pytest

from tinyllama_ros.artifact.manifest import MANIFEST
from tinyllama_ros.artifact.places import artifacts_folder, default_cache, find_artifact
from tinyllama_ros.cann.toolkit import Toolkit
from tinyllama_ros.commands.command_line import run
from tinyllama_ros.errors import ArtifactError, ConfigError


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


@pytest.fixture
def no_home(monkeypatch) -> None:
    """Take the home folder from this user: no HOME, and no line in /etc/passwd."""
    def unknown_user(uid):
        raise KeyError(uid)
    for name in ('TINYLLAMA_ROS_CACHE', 'XDG_CACHE_HOME', 'XDG_STATE_HOME', 'HOME'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, 'getpwuid', unknown_user)


def test_model_is_found_by_its_path_where_there_is_no_home(no_home, tmp_path):
    folder = put(tmp_path / 'model')
    assert find_artifact(str(folder)) == folder
    with pytest.raises(ConfigError, match='no home folder, and HOME is not set; set TINYLLAMA'):
        find_artifact('mine')


@pytest.mark.parametrize('arguments', [['build', 'm.gguf'], ['doctor'], ['bench', 'mine']])
def test_command_says_in_one_line_that_there_is_no_home(no_home, capsys, arguments):
    assert run(arguments) == 1
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith('tinyllama-model: this user has no home folder, and HOME is not set')


def test_prompts_are_not_kept_where_there_is_no_home(no_home):
    pytest.importorskip('prompt_toolkit', reason='pip install prompt_toolkit')
    from tinyllama_ros.terminal.keyboard import history_file, PrivateHistory
    history = PrivateHistory(history_file())
    history.store_string('hello')
    assert list(history.load_history_strings()) == []


def test_toolkit_is_looked_for_where_there_is_no_home(no_home):
    assert Toolkit.find({'ASCEND_TOOLKIT_HOME': '~/nowhere'}) is None


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
