"""The package as a robot gets it: installed into a workspace, started from the install space."""

import os
import shutil
import signal
import subprocess
import sys
from unittest.mock import patch

import install
from install import InstallError, SourcedRos, Workspace
import pytest
from support.paths import ROOT
from support.sourced_ros import PACKAGES, SOURCED

pytest.importorskip('colcon_ros', reason="pip install -e '.[test]'")
pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')

PROGRAMS = ('tinyllama_node', 'tinyllama_web', 'tinyllama_speak', 'tinyllama-model', 'chat')


@pytest.fixture(scope='module')
def workspace(tmp_path_factory):
    """Install the package into a workspace of its own, with a tiny model."""
    workspace = Workspace(tmp_path_factory.mktemp('workspace'))

    def make_model(workspace):
        subprocess.run([workspace.script('tinyllama-model'), 'random', 'tiny',
                        workspace.folder / 'model'], check=True, env=SOURCED | {
                            'PYTHONPATH': f'{site_packages(workspace)}:{PACKAGES}'})
    with patch.dict(os.environ, SOURCED), patch.object(install, 'make_model', make_model):
        install.install(workspace, SourcedRos.find(sys.executable))
    return workspace


def site_packages(workspace):
    return next(workspace.prefix.glob('lib/python3*/site-packages'))


@pytest.fixture(scope='module')
def installed(workspace):
    """Return a function that runs a command in the sourced install space."""
    def start(*command, **options):
        script = f'. {workspace.install}/local_setup.sh && exec "$@"'
        return subprocess.Popen(['sh', '-c', script, 'sh', *map(str, command)], env=SOURCED,
                                cwd=workspace.folder, text=True, stdout=subprocess.PIPE, **options)
    return start


def test_build_installs_what_ros_looks_for(workspace):
    share = workspace.prefix / 'share'
    assert (share / 'ament_index/resource_index/packages/tinyllama_ros').is_file()
    for name in ('package.xml', 'launch/tinyllama.launch.py', 'launch/web.launch.py',
                 'launch/voice.launch.py', 'config/tinyllama.yaml', 'config/tinyllama_web.yaml',
                 'config/tinyllama_speak.yaml'):
        assert (share / 'tinyllama_ros' / name).is_file()
    for name in PROGRAMS:
        assert os.access(workspace.script(name), os.X_OK)


def test_installed_package_is_the_one_that_runs(workspace, installed):
    run = installed(workspace.python, '-c', 'import tinyllama_ros; print(tinyllama_ros.__file__)')
    assert run.communicate(timeout=60)[0].startswith(str(workspace.install))


def test_build_installs_the_page_and_its_licences(workspace):
    installed = {path.name for path in workspace.folder.glob('install/**/web/static/**/*')}
    assert installed >= {path.name for path in (ROOT / 'tinyllama_ros/web/static').rglob('*')}
    assert {'index.html', 'markdown-it.js', 'LICENSES.txt'} <= installed


@pytest.mark.skipif(not shutil.which('g++'), reason='needs g++')
def test_build_compiles_the_kernels(workspace):
    assert list(workspace.folder.glob('install/**/tinyllama_ros/kernels/library.so.1'))


def test_scripts_run_by_the_environment_of_the_install_space(workspace):
    for name in PROGRAMS:
        assert workspace.script(name).read_text().startswith(f'#!{workspace.python}\n')


def test_installed_node_answers_a_prompt(workspace, installed):
    node = installed(workspace.script('tinyllama_node'), '--ros-args', '-p',
                     f'model:={workspace.folder}/model', stderr=subprocess.STDOUT)
    try:
        client = installed(workspace.script('chat'), '--wait', '60', '--once', 'Hello')
        answer = client.communicate(timeout=90)[0]
    finally:
        node.send_signal(signal.SIGINT)
        log = node.communicate(timeout=30)[0]
    assert client.returncode == 0, log
    assert answer.strip(), log


def test_uninstall_leaves_nothing_of_ours_and_all_of_others(tmp_path):
    workspace = Workspace(tmp_path)
    ours = [workspace.prefix / 'venv', tmp_path / 'build' / 'tinyllama_ros']
    others = [tmp_path / name / 'other' for name in ('src', 'install', 'build')]
    for folder in ours + others:
        folder.mkdir(parents=True)
    install.uninstall(workspace)
    assert [folder for folder in ours if folder.exists()] == []
    assert [folder for folder in others if not folder.exists()] == []


@pytest.mark.parametrize('kept', ['src/other/package.xml', 'build/other/Makefile', 'build/notes',
                                  'log/build_1/other/stdout.log', 'install/other/setup.py'])
def test_uninstall_removes_only_what_install_made(tmp_path, kept):
    workspace = Workspace(tmp_path)
    made = [f'install/{name}' for name in (
        'COLCON_IGNORE', '.colcon_install_layout', 'setup.bash', 'local_setup.sh',
        '_local_setup_util_sh.py', 'tinyllama_ros/venv/bin/python')]
    made += ['build/COLCON_IGNORE', 'build/.built_by', 'build/tinyllama_ros/log/events.log']
    for name in (*made, kept):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('')
    install.uninstall(workspace)
    install.uninstall(workspace)
    top = kept.partition('/')[0]
    colcon = {name for name in made if name.startswith(top) and 'tinyllama_ros' not in name}
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob('*') if path.is_file()} == {
        kept, *colcon}
    assert os.listdir(tmp_path) == [top]


def test_uninstall_of_what_install_made_leaves_an_empty_workspace(workspace, tmp_path):
    copy = Workspace(tmp_path / 'workspace')
    shutil.copytree(workspace.folder, copy.folder, symlinks=True,
                    ignore=shutil.ignore_patterns('site-packages', 'model'))
    install.uninstall(copy)
    assert os.listdir(copy.folder) == []


def test_install_without_a_sourced_ros_says_what_to_do(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv('ROS_DISTRO', raising=False)
    assert install.main(['install', '--workspace', str(tmp_path)]) == 1
    assert capsys.readouterr().err == (
        'make install: no ROS 2 is sourced: source /opt/ros/<distro>/setup.bash, then run make '
        'install again\n')
    assert os.listdir(tmp_path) == []


def test_ros_for_another_python_is_refused_by_name(tmp_path):
    python = tmp_path / 'python3'
    python.write_text('#!/bin/sh\necho "ModuleNotFoundError: no rclpy" >&2; exit 1')
    python.chmod(0o755)
    with pytest.raises(InstallError, match='jazzy is sourced, but .*python3 cannot import it .*'
                       'rclpy.*make install PYTHON='):
        SourcedRos.find(str(python), {'ROS_DISTRO': 'jazzy'})
