"""
Makes a Debian package of this package, which robots can install without a network.

It contains the result of colcon, a virtual environment with the Python packages for running, and
the default model. It depends on ROS packages only, and installs into /opt/ros/<distro> like them.
Other models are prepared with tinyllama-model.
"""

import argparse
from collections.abc import Sequence
import os
from pathlib import Path
import shutil
import subprocess
import sys
from xml.etree import ElementTree

from install import InstallError, MODEL, PACKAGE, requirements, ROOT, run, say, SourcedRos

VENV = Path('lib', PACKAGE, 'venv')
"""Within the prefix."""
MODELS = Path('share', PACKAGE, 'models')
"""Within the prefix; tinyllama_ros/artifact/places.py looks there."""
PYTHON = '/usr/bin/python3'
"""Of the machine that the package is for."""


def build_tree(tree: Path, ros: SourcedRos, model: Path | None) -> None:
    """Put all files into a folder, at their paths below /."""
    prefix = tree / 'opt' / 'ros' / ros.distro
    venv = prefix / VENV
    say(f'Python environment in {venv}')
    # Without system packages, because the robot may not have those of this machine
    run([ros.python, '-m', 'venv', venv])
    run([venv / 'bin/python', '-m', 'pip', 'install', '--quiet', '--disable-pip-version-check',
         *requirements(Path(sys.executable))[0], ros.numpy], env=_without_ros())
    say('colcon build')
    work = tree.with_name('colcon')
    run([sys.executable, '-m', 'colcon', 'build', '--base-paths', ROOT, '--packages-select',
         PACKAGE, '--build-base', work / 'build', '--install-base', prefix, '--merge-install'],
        cwd=tree.parent, env=os.environ | {'COLCON_LOG_PATH': str(work / 'log')})
    _drop_colcon(prefix)
    _relocate(tree, prefix / VENV)
    for path in (prefix / 'lib' / PACKAGE).iterdir():
        if path.is_file():
            _, _, script = path.read_text(encoding='utf-8').partition('\n')
            path.write_text(f'#!{_final(tree, venv)}/bin/python\n{script}', encoding='utf-8')
    if model:
        shutil.copytree(model, prefix / MODELS / model.name)
    for cache in list(tree.rglob('__pycache__')):
        shutil.rmtree(cache)


def _drop_colcon(prefix: Path) -> None:
    """Remove files that only a colcon workspace uses; /opt/ros has its own setup files."""
    shutil.rmtree(prefix / 'share' / 'colcon-core')
    shutil.rmtree(prefix / 'share' / PACKAGE / 'hook')
    for path in (*prefix.iterdir(), *(prefix / 'share' / PACKAGE).glob('package.*'),
                 *prefix.glob('lib/python3*/site-packages/*.egg-info/SOURCES.txt')):
        if path.is_file() and path.name != 'package.xml':
            path.unlink()


def _without_ros() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}


def _final(tree: Path, path: Path) -> Path:
    """Return the path on the robot of a path in the tree."""
    return Path('/') / path.relative_to(tree)


def _relocate(tree: Path, venv: Path) -> None:
    """Make an environment work at its final path, with the robot's Python and its packages."""
    binaries = venv / 'bin'
    for path in list(binaries.iterdir()):  # pip and others, which name the path of this machine
        if not path.name.startswith('python'):
            path.unlink()
    for name in ('python', 'python3'):
        (binaries / name).unlink(missing_ok=True)
        (binaries / name).symlink_to(PYTHON)
    (venv / 'pyvenv.cfg').write_text(
        f'home = {Path(PYTHON).parent}\ninclude-system-site-packages = true\n', encoding='utf-8')


def control(package: str, version: str, architecture: str, distro: str, size_kb: int,
            python: str) -> str:
    """
    Return the control file of the package.

    :param python: version of the interpreter that the environment's compiled packages are for.
    """
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    ros = sorted(f'ros-{distro}-{name.replace("_", "-")}'
                 for name in (entry.text or '' for entry in manifest.iter('exec_depend'))
                 if not name.startswith('python3-'))
    major, minor = map(int, python.split('.'))
    depends = [f'python3 (>= {python})', f'python3 (<< {major}.{minor + 1})', *ros]
    maintainer = manifest.find('maintainer')
    assert maintainer is not None, 'package.xml names no maintainer'
    summary = ' '.join((manifest.findtext('description') or '').split())
    return (f'Package: {package}\nVersion: {version}\nArchitecture: {architecture}\n'
            f'Maintainer: {maintainer.text} <{maintainer.get("email")}>\n'
            f'Installed-Size: {size_kb}\nDepends: {", ".join(depends)}\n'
            f'Section: misc\nPriority: optional\n'
            f'Description: small language model on the robot, as a ROS 2 node\n {summary}\n')


def make_deb(folder: Path, ros: SourcedRos, model: Path | None) -> Path:
    """
    Return the Debian package made in a folder.

    :raises InstallError: names the step that failed.
    """
    work = folder / 'deb-build'
    shutil.rmtree(work, ignore_errors=True)
    tree = work / 'tree'
    try:
        build_tree(tree, ros, model)
        return _pack(tree, folder, ros)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _pack(tree: Path, folder: Path, ros: SourcedRos) -> Path:
    package = f'ros-{ros.distro}-{PACKAGE.replace("_", "-")}'
    version = ElementTree.parse(ROOT / 'package.xml').findtext('version') or ''
    architecture = _output('dpkg', '--print-architecture')
    python = _output(ros.python, '-c', 'import sys; print("%d.%d" % sys.version_info[:2])')
    size_kb = sum(path.lstat().st_size for path in tree.rglob('*')) // 1024
    (tree / 'DEBIAN').mkdir()
    (tree / 'DEBIAN' / 'control').write_text(
        control(package, version, architecture, ros.distro, size_kb, python), encoding='utf-8')
    deb = folder / f'{package}_{version}_{architecture}.deb'
    say(f'packing {deb}')
    part = deb.with_name(f'.{deb.name}.part')
    run(['dpkg-deb', '--build', '--root-owner-group', '-Zxz', '-z1', tree, part])
    part.replace(deb)
    return deb


def _output(*command: str) -> str:
    """Return the output of a command; InstallError if it fails or is missing."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        raise InstallError(f'{command[0]} is needed to make a Debian package: {error}') from error


def main(argv: Sequence[str] | None = None) -> int:
    """Make the package; an error is one line on stderr and status 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--folder', type=Path, default=ROOT,
                        help='where the package goes (default: %(default)s)')
    parser.add_argument('--model', type=Path, metavar='ARTIFACT',
                        help='artifact to put in (default: the default model, built if need be)')
    parser.add_argument('--no-model', action='store_true', help='put no model in')
    parser.add_argument('--python', default='python3',
                        help='interpreter that the sourced ROS 2 is for (default: %(default)s)')
    arguments = parser.parse_args(argv)
    try:
        ros = SourcedRos.find(arguments.python)
        model = None if arguments.no_model else arguments.model or default_model()
        deb = make_deb(arguments.folder.absolute(), ros, model)
    except (InstallError, OSError) as error:
        print(f'make deb: {error}', file=sys.stderr)
        return 1
    print(f'\nInstall it on a robot with:\nsudo dpkg -i {deb.name}\n'
          f'source /opt/ros/{ros.distro}/setup.bash\nros2 launch {PACKAGE} tinyllama.launch.py')
    return 0


def default_model() -> Path:
    """Return the artifact of the default model; build it first if needed."""
    say(f'default model {MODEL}')
    return Path(_output(str(Path(sys.executable).with_name('tinyllama-model')), 'build', MODEL))


if __name__ == '__main__':
    sys.exit(main())
