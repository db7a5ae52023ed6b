"""The package as a robot gets it: built by colcon, started from the install space."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from support.paths import ROOT

pytest.importorskip('colcon_ros', reason="pip install -e '.[test]'")

BUILT = ('tinyllama_ros', 'launch', 'config', 'resource', 'setup.py', 'setup.cfg', 'package.xml',
         'LICENSE')


@pytest.fixture(scope='module')
def workspace(tmp_path_factory):
    """Build the package in a workspace of its own."""
    workspace = tmp_path_factory.mktemp('workspace')
    source = workspace / 'src' / 'tinyllama_ros'
    source.mkdir(parents=True)
    for name in BUILT:
        (source / name).symlink_to(ROOT / name)
    environment = os.environ | {'COLCON_HOME': str(workspace), 'COLCON_LOG_PATH': 'log'}
    subprocess.run([sys.executable, '-m', 'colcon', 'build'], cwd=workspace, env=environment,
                   check=True, capture_output=True, text=True, timeout=120)
    return workspace


@pytest.fixture(scope='module')
def installed(workspace):
    """Return a function that runs a command in the sourced install space."""
    def start(*command, **options):
        script = f'. {workspace}/install/local_setup.sh && exec "$@"'
        return subprocess.Popen(['sh', '-c', script, 'sh', *map(str, command)], cwd=workspace,
                                text=True, stdout=subprocess.PIPE, **options)
    return start


def executable(workspace, name):
    return workspace / 'install' / 'tinyllama_ros' / 'lib' / 'tinyllama_ros' / name


def test_build_installs_what_ros_looks_for(workspace):
    share = workspace / 'install' / 'tinyllama_ros' / 'share'
    assert (share / 'ament_index/resource_index/packages/tinyllama_ros').is_file()
    for name in ('package.xml', 'launch/tinyllama.launch.py', 'launch/web.launch.py',
                 'config/tinyllama.yaml', 'config/tinyllama_web.yaml'):
        assert (share / 'tinyllama_ros' / name).is_file()
    for name in ('tinyllama_node', 'tinyllama_web', 'tinyllama-model', 'chat'):
        assert os.access(executable(workspace, name), os.X_OK)


def test_installed_package_is_the_one_that_runs(workspace, installed):
    run = installed(sys.executable, '-c', 'import tinyllama_ros; print(tinyllama_ros.__file__)')
    assert run.communicate(timeout=60)[0].startswith(str(workspace / 'install'))


def test_build_installs_the_page_and_its_licences(workspace):
    installed = {path.name for path in workspace.glob('install/**/web/static/**/*')}
    assert installed >= {path.name for path in (ROOT / 'tinyllama_ros/web/static').rglob('*')}
    assert {'index.html', 'markdown-it.js', 'LICENSES.txt'} <= installed


@pytest.mark.skipif(not shutil.which('g++'), reason='needs g++')
def test_build_compiles_the_kernels(workspace):
    assert list(workspace.glob('install/**/tinyllama_ros/kernels/library.so.1'))


def test_installed_node_answers_a_prompt(workspace, installed):
    model = workspace / 'model'
    build = installed(executable(workspace, 'tinyllama-model'), 'random', 'tiny', model)
    build.communicate(timeout=60)
    assert build.returncode == 0
    node = installed(executable(workspace, 'tinyllama_node'),
                     '--ros-args', '-p', f'model:={model}', stderr=subprocess.STDOUT)
    try:
        client = installed(executable(workspace, 'chat'), '--wait', '60', '--once', 'Hello')
        answer = client.communicate(timeout=90)[0]
    finally:
        node.send_signal(signal.SIGINT)
        log = node.communicate(timeout=30)[0]
    assert client.returncode == 0, log
    assert answer.strip(), log
