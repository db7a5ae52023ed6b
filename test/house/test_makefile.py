"""What `make` says before it runs anything, and which Pythons it refuses."""

import os
import shutil
import subprocess
import sys

import pytest
from support.paths import ROOT

pytestmark = pytest.mark.skipif(not shutil.which('make'), reason='needs make')

# Answers as a Python of another version; its environments have a pip that finds no wheel.
OTHER_PYTHON = """\
#!/bin/sh
case "$1 $2" in
-c*) exec {python} -c 'import sys; sys.version_info = {version}; exec(sys.argv[1])' "$2" ;;
"-m venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
"-m pip") echo 'ERROR: No matching distribution found for ros-jazzy-rclpy' >&2; exit 1 ;;
*) exit 2 ;;
esac
"""


@pytest.fixture
def make(tmp_path):
    """Return a function that runs `make lint` with a Python of some version, without a ROS 2."""
    for name in ('Makefile', 'setup.py', 'setup.cfg', 'pyproject.toml'):
        (tmp_path / name).symlink_to(ROOT / name)

    def run(version):
        python = tmp_path / 'other-python'
        python.write_text(OTHER_PYTHON.format(python=sys.executable, version=version))
        python.chmod(0o755)
        environment = {name: value for name, value in os.environ.items()
                       if name not in ('ROS_DISTRO', 'MAKEFLAGS', 'MAKELEVEL')}
        return subprocess.run(['make', f'PYTHON={python}', 'lint'], cwd=tmp_path, text=True,
                              env=environment, capture_output=True, timeout=60)
    return run


def test_python_that_is_too_old_is_refused_before_anything_is_made(make, tmp_path):
    done = make((3, 9, 18))
    assert done.returncode and 'written for 3.10 and newer' in done.stderr
    assert not (tmp_path / '.venv').exists()


def test_new_python_is_refused_only_where_its_wheels_are_missing_and_by_that_reason(make):
    done = make((3, 15, 0))
    assert done.returncode
    assert 'No matching distribution found for ros-jazzy-rclpy' in done.stderr
    assert 'for Python 3.15' in done.stderr
    assert 'ROS 2 Jazzy has no wheel for this Python' in done.stderr
    assert 'source a ROS 2' in done.stderr and 'make PYTHON=' in done.stderr


def test_long_steps_say_what_they_do_where_stderr_is_no_terminal(make):
    said = make((3, 12, 0)).stderr
    assert 'creating the virtual environment' in said and 'installing into .venv' in said
