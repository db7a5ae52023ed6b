"""
Installs the package on a robot: builds it with colcon into a workspace, with its dependencies.

Python packages that ROS does not have go into a virtual environment inside the install space. The
interpreter of that environment runs colcon, and therefore also the installed scripts. Outside of
the workspace only the default model is written, into the user's cache folder.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import json
import os
from pathlib import Path
import shutil
import subprocess
import sys

PACKAGE = 'tinyllama_ros'
MODEL = 'smollm2-135m-instruct'
ROOT = Path(__file__).resolve().parents[1]
COLCON = ['colcon-bash', 'colcon-core', 'colcon-ros', 'setuptools<80']
"""Builds the package; colcon uses commands of setup.py that setuptools 80 removed."""
REQUIREMENTS = """
import json, setuptools
from distutils.core import run_setup
package = run_setup('setup.py', stop_after='init')
print(json.dumps([package.install_requires, package.extras_require['workbench']]))
"""
COLCON_FILES = ('.built_by', '.colcon_install_layout', 'COLCON_IGNORE', 'setup.*', 'local_setup.*',
                '_local_setup_util_*.py')
"""What colcon writes beside the packages of a build space or an install space."""
STEPS_OF_MAKE = 'source /opt/ros/<distro>/setup.bash, then run make install again'


class InstallError(Exception):
    """The installation failed; the message says what is missing and what to do."""


@dataclass(frozen=True)
class SourcedRos:
    """The ROS 2 that is sourced in this shell, and its Python."""

    distro: str
    python: str
    numpy: str
    """Requirement for numpy: compiled ROS messages need the major version of their build."""

    @classmethod
    def find(cls, python: str, environment: Mapping[str, str] = os.environ) -> 'SourcedRos':
        """
        Return the sourced ROS 2.

        :raises InstallError: no ROS 2 is sourced, or it is for another Python.
        """
        distro = environment.get('ROS_DISTRO', '')
        if not distro:
            raise InstallError(f'no ROS 2 is sourced: {STEPS_OF_MAKE}')
        code = 'import numpy, rclpy.node; print(numpy.__version__)'
        done = subprocess.run([python, '-c', code], capture_output=True, text=True)
        if done.returncode:
            why = (done.stderr.strip().splitlines() or ['it says nothing'])[-1]
            raise InstallError(f'ROS 2 {distro} is sourced, but {python} cannot import it '
                               f'({why}); name its Python: make install PYTHON=/usr/bin/python3')
        return cls(distro, python, f'numpy<{int(done.stdout.split(".")[0]) + 1}')


@dataclass(frozen=True)
class Workspace:
    """The parts of a colcon workspace that this package uses."""

    folder: Path

    @property
    def install(self) -> Path:
        """Install space."""
        return self.folder / 'install'

    @property
    def prefix(self) -> Path:
        """Folder into which the package is installed."""
        return self.install / PACKAGE

    @property
    def build(self) -> Path:
        """Folder in which the package is built."""
        return self.folder / 'build' / PACKAGE

    @property
    def environment(self) -> Path:
        """Virtual environment of the package."""
        return self.prefix / 'venv'

    @property
    def python(self) -> Path:
        """Interpreter of the environment."""
        return self.environment / 'bin' / 'python'

    def script(self, name: str) -> Path:
        """Return an installed executable."""
        return self.prefix / 'lib' / PACKAGE / name


def run(command: Sequence[object], **options: object) -> None:
    """Run a command to its end, or raise an InstallError that names it."""
    line = [str(word) for word in command]
    if status := subprocess.run(line, **options).returncode:  # type: ignore[call-overload]
        raise InstallError(f'{" ".join(line)} failed with status {status}; see above')


def say(text: str) -> None:
    """Say what is done next."""
    print(f'-- {text}', flush=True)


def requirements(python: Path) -> tuple[list[str], list[str]]:
    """Return the requirements in setup.py: to run, and to prepare models."""
    done = subprocess.run([python, '-c', REQUIREMENTS], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise InstallError(f'setup.py cannot be read by {python}: {done.stderr.strip()}')
    runtime, workbench = json.loads(done.stdout.splitlines()[-1])
    return runtime, workbench


def install(workspace: Workspace, ros: SourcedRos) -> None:
    """
    Build the package into a workspace, and make the default model.

    :raises InstallError: names the step that failed.
    """
    say(f'Python environment in {workspace.environment} (a few minutes the first time)')
    workspace.prefix.mkdir(parents=True, exist_ok=True)
    run([ros.python, '-m', 'venv', '--system-site-packages', workspace.environment])
    pip = [workspace.python, '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check']
    run([*pip, *COLCON])
    runtime, workbench = requirements(workspace.python)
    run([*pip, *runtime, *workbench, ros.numpy])
    say(f'colcon build of {ROOT} into {workspace.install}')
    run([workspace.python, '-m', 'colcon', 'build', '--base-paths', ROOT, '--packages-select',
         PACKAGE, '--build-base', workspace.build.parent, '--install-base', workspace.install],
        cwd=workspace.folder, env=os.environ | {'COLCON_LOG_PATH': str(workspace.build / 'log')})
    make_model(workspace)


def make_model(workspace: Workspace) -> None:
    """Make the default model with the installed package, if it does not exist yet."""
    say(f'default model {MODEL} (downloads 93 MB and calibrates; minutes the first time)')
    script = f'. "{workspace.install}/local_setup.sh" && exec "$@"'
    run(['sh', '-c', script, 'sh', workspace.script('tinyllama-model'), 'build', MODEL])


def uninstall(workspace: Workspace) -> None:
    """Remove what `install` made in a workspace; other packages and the models stay."""
    for folder in (workspace.prefix, workspace.build):
        shutil.rmtree(folder, ignore_errors=True)
        if all(any(map(path.match, COLCON_FILES)) for path in folder.parent.glob('*')):
            shutil.rmtree(folder.parent, ignore_errors=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Install or uninstall; an error is one line on stderr and status 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('step', choices=('install', 'uninstall'))
    parser.add_argument('--workspace', type=Path, default=Path('~/ros2_ws'),
                        help='colcon workspace; created if needed (default: %(default)s)')
    arguments = parser.parse_args(argv)
    workspace = Workspace(arguments.workspace.expanduser().absolute())
    try:
        if arguments.step == 'uninstall':
            uninstall(workspace)
            print(f'{PACKAGE} is removed from {workspace.folder}; its models stay in '
                  '~/.cache/tinyllama_ros')
            return 0
        install(workspace, SourcedRos.find(sys.executable))
    except (InstallError, OSError) as error:
        print(f'make install: {error}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print('make install: interrupted; run it again to go on', file=sys.stderr)
        return 130
    print('\nInstalled. Start it with:\n'
          f'source {workspace.install}/setup.bash\n'
          f'ros2 launch {PACKAGE} tinyllama.launch.py')
    return 0


if __name__ == '__main__':
    sys.exit(main())
