"""Where a parameter file is, for whom it is, and what a launch file gives to a node."""

import pytest
from support.paths import ROOT

from tinyllama_ros.errors import ConfigError
from tinyllama_ros.ros.parameter_file import (
    BOOLEANS,
    describe_unmatched,
    launch_parameters,
    parameter_files,
)


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / 'x.yaml'
        path.write_text(text)
        return str(path)
    return write


def test_home_folder_in_the_name_of_a_file_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    (tmp_path / 'x.yaml').touch()
    assert launch_parameters('~/x.yaml', {}) == [str(tmp_path / 'x.yaml')]


@pytest.mark.parametrize('path', ['/nowhere/x.yaml', '/', '~no-such-user/x.yaml'])
def test_file_that_is_not_there_ends_the_launch_by_name(path):
    with pytest.raises(ConfigError, match=f'the parameter file {path} '):
        launch_parameters(path, {'model': 'tiny'})


def test_what_was_given_by_name_is_above_the_file_and_nothing_of_ours_is_below(write):
    path = write('')
    assert launch_parameters(path, {'model': 'tiny'}) == [path, {'model': 'tiny'}]
    assert launch_parameters('', {}) == []


@pytest.mark.parametrize('name', ['tinyllama', 'web'])
def test_launch_files_name_no_file_that_nobody_chose(name):
    text = (ROOT / 'launch' / f'{name}.launch.py').read_text()
    assert '.yaml' not in text
    assert 'launch_parameters(' in text


def test_booleans_may_be_spelled_as_in_yaml_and_in_python():
    assert [BOOLEANS[text] for text in ('true', 'True', 'false', 'False')] == [
        True, True, False, False]


def test_parameter_files_are_found_on_the_command_line():
    assert parameter_files(['node', '--ros-args', '--params-file', 'a', '-p', 'x:=1',
                            '--params-file', 'b', '--params-file']) == ['a', 'b']


@pytest.mark.parametrize('name', ['/**', '/robot/tinyllama', '/*/tinyllama', '/**/tinyllama',
                                  'robot/tinyllama'])
def test_file_for_the_node_is_not_warned_of(write, name):
    path = write(f'{name}:\n  ros__parameters:\n    max_tokens: 7\n')
    assert describe_unmatched(path, '/robot/tinyllama') == ''


def test_nested_names_are_joined(write):
    path = write('robot:\n  tinyllama:\n    ros__parameters: {max_tokens: 7}\n')
    assert describe_unmatched(path, '/robot/tinyllama') == ''


@pytest.mark.parametrize('name', ['tinyllama', '/other/tinyllama', '/*', '/robot/tinyllama_web'])
def test_file_for_other_nodes_is_told_with_their_names(write, name):
    path = write(f'{name}:\n  ros__parameters:\n    max_tokens: 7\n')
    said = describe_unmatched(path, '/robot/tinyllama')
    assert f'no parameters for /robot/tinyllama, only for /{name.strip("/")}, so it' in said


@pytest.mark.parametrize('text', ['', '[]', 'a: {b: 1}', '5'])
def test_file_without_parameters_is_told(write, text):
    assert 'no parameters for /tinyllama, so it has no effect' in describe_unmatched(
        write(text), '/tinyllama')


@pytest.mark.parametrize('text', [': {', '\x07'])
def test_file_that_is_no_yaml_is_left_to_ros(write, text):
    assert describe_unmatched(write(text), '/tinyllama') == ''
