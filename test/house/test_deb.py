"""The Debian package holds all that a robot needs, and its removal leaves nothing."""

import os
from pathlib import Path
import shutil
import subprocess
import sys
from unittest.mock import patch

import deb
from deb import control, make_deb
from install import SourcedRos
import pytest
from support.sourced_ros import SOURCED

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.commands.cli import main as tinyllama_model

pytest.importorskip('colcon_ros', reason="pip install -e '.[test]'")
pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')
pytestmark = pytest.mark.skipif(not shutil.which('dpkg-deb'), reason='needs dpkg-deb')


@pytest.fixture(scope='module')
def package(tmp_path_factory):
    """Return a package with a tiny model; Python's packages are those of this environment."""
    folder = tmp_path_factory.mktemp('deb')
    assert tinyllama_model(['random', 'tiny', str(folder / 'tiny-model')]) == 0
    with patch.dict(os.environ, SOURCED), patch.object(deb, 'requirements', lambda _: ([], [])):
        ros = SourcedRos.find(sys.executable)
        offline = SourcedRos(ros.distro, ros.python, 'pip')  # it is there already
        return make_deb(folder, offline, folder / 'tiny-model')


@pytest.fixture
def scratch(tmp_path, package):
    """Return a root into which the package was installed."""
    for name in ('info', 'updates', 'triggers'):
        (tmp_path / 'var/lib/dpkg' / name).mkdir(parents=True)
    (tmp_path / 'var/lib/dpkg/status').touch()
    dpkg(tmp_path, '--install', package)
    return tmp_path


def dpkg(root, *arguments):
    subprocess.run(['dpkg', f'--root={root}', '--force-depends', '--force-not-root', *arguments],
                   check=True, capture_output=True)


def prefix(root):
    return next((root / 'opt' / 'ros').iterdir())


def test_package_has_the_name_that_ros_gives_to_packages(package):
    assert package.name.startswith(f'ros-{SOURCED["ROS_DISTRO"]}-tinyllama-ros_')
    assert os.listdir(package.parent).count(package.name) == 1


def test_scripts_name_the_path_on_the_robot_and_no_file_that_of_this_machine(scratch, package):
    place = f'/{prefix(scratch).relative_to(scratch)}/lib/tinyllama_ros/venv'
    for name in ('tinyllama_node', 'tinyllama_web', 'tinyllama_speak', 'tinyllama-model', 'chat'):
        script = prefix(scratch) / 'lib' / 'tinyllama_ros' / name
        assert script.read_text().startswith(f'#!{place}/bin/python\n')
        assert os.access(script, os.X_OK)
    files = [path for path in prefix(scratch).rglob('*')
             if path.is_file() and not path.is_symlink()]
    named = [path for path in files if str(package.parent).encode() in path.read_bytes()]
    assert named == []


def test_package_overwrites_no_setup_file_of_ros(scratch):
    assert [path.name for path in prefix(scratch).iterdir() if path.is_file()] == []


def test_shipped_model_is_found_by_its_name_where_the_prefix_is_sourced(scratch, tmp_path):
    code = ('from tinyllama_ros.artifact.places import find_artifact; import tinyllama_ros;'
            'print(tinyllama_ros.__file__, find_artifact("tiny-model"))')
    packages = next(prefix(scratch).glob('lib/python3*/site-packages'))
    environment = SOURCED | {'PYTHONPATH': f'{packages}:{SOURCED["PYTHONPATH"]}',
                             'AMENT_PREFIX_PATH': str(prefix(scratch)),
                             'TINYLLAMA_ROS_CACHE': str(tmp_path / 'empty')}
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          cwd=tmp_path, env=environment)
    module, model = done.stdout.split()
    assert module.startswith(str(packages)), done.stderr
    assert Artifact.open(Path(model)).manifest.name == 'random-tiny'


def test_removal_leaves_nothing(scratch):
    dpkg(scratch, '--remove', f'ros-{SOURCED["ROS_DISTRO"]}-tinyllama-ros')
    assert not (scratch / 'opt').exists()


def test_control_file_depends_on_ros_and_on_the_python_that_it_was_built_for():
    fields = dict(line.split(': ', 1) for line in control(
        'ros-jazzy-tinyllama-ros', '1.2.3', 'arm64', 'jazzy', 123, '3.12').splitlines()
        if not line.startswith(' '))
    depends = fields['Depends'].split(', ')
    assert depends[:2] == ['python3 (>= 3.12)', 'python3 (<< 3.13)']
    assert 'ros-jazzy-rclpy' in depends and 'ros-jazzy-std-srvs' in depends
    assert not [name for name in depends[2:] if not name.startswith('ros-jazzy-')]
    assert (fields['Version'], fields['Architecture']) == ('1.2.3', 'arm64')
