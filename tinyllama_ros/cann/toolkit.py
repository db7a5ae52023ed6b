"""Finds the CANN toolkit on this machine, its version and its installed operator plugins."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
import os
from pathlib import Path
import platform
import re

PLACES = tuple(f'{root}/{name}' for root in ('/usr/local/Ascend', '~/Ascend')
               for name in ('ascend-toolkit/latest', 'cann', 'latest'))
VARIABLES = ('ASCEND_TOOLKIT_HOME', 'ASCEND_HOME_PATH')
CUSTOM_OPERATOR = b'::MatMulInteger'


@dataclass(frozen=True)
class Toolkit:
    """An installed CANN toolkit."""

    home: Path
    opp: Path
    """Folder of its operators."""
    custom: tuple[Path, ...] = ()
    """Further folders of operators, from $ASCEND_CUSTOM_OPP_PATH."""

    @classmethod
    def find(cls, environment: Mapping[str, str] = os.environ) -> 'Toolkit | None':
        """Return the toolkit that the environment names, else one in a usual place."""
        places = [environment.get(variable, '') for variable in VARIABLES] + list(PLACES)
        found = (Path(os.path.expanduser(place)) for place in places if place)
        home = next((place for place in found if (place / 'opp').is_dir()), None)
        opp = environment.get('ASCEND_OPP_PATH')
        if not home and not opp:
            return None
        custom = environment.get('ASCEND_CUSTOM_OPP_PATH', '').split(':')
        return cls(home or Path(opp or '').parent, Path(opp) if opp else (home or Path()) / 'opp',
                   tuple(Path(place) for place in custom if place))

    @property
    def set_env(self) -> Path:
        """Path of the script that sets the environment of this toolkit."""
        beside = self.home / 'set_env.sh', self.home.parent / 'set_env.sh'
        return next((path for path in beside if path.exists()), beside[0])

    def version(self) -> str:
        """Return the version of CANN, such as ``8.1.RC1``; empty if it cannot be read."""
        machine = f'{platform.machine()}-linux'
        for name in ('ascend_toolkit_install.info', f'{machine}/ascend_toolkit_install.info',
                     'compiler/version.info', 'opp/version.info'):
            try:
                text = (self.home / name).read_text(errors='replace')
            except OSError:
                continue
            if found := re.search(r'^(?:version|version_dir)=(.+)$', text, re.MULTILINE):
                return found[1].strip()
        return ''

    def plugin(self) -> Path | None:
        """Return the plugin for MatMulInteger, among the plugins that ATC loads."""
        for folder in (*self.custom, *self._vendors()):
            for library in sorted((folder / 'framework').rglob('*.so')):
                try:
                    if CUSTOM_OPERATOR in library.read_bytes():
                        return library
                except OSError:  # ATC could not read it either
                    continue
        return None

    def _vendors(self) -> Iterator[Path]:
        """
        Yield the folders of the vendors that ATC loads: those that config.ini lists.

        Of that file only the first line is read, and it must be ``load_priority=NAME,...``.
        """
        vendors = self.opp / 'vendors'
        try:
            line = (vendors / 'config.ini').read_text(errors='replace').partition('\n')[0]
        except OSError:
            return
        parts = line.split('=')
        if len(parts) == 2:
            yield from (vendors / name.strip() for name in parts[1].split(',') if name.strip())


def installed_version() -> str:
    """Return the version of the CANN that is installed here; empty where none can be read."""
    toolkit = Toolkit.find()
    return toolkit.version() if toolkit else ''


def newest_python(version: str) -> tuple[int, int] | None:
    """
    Return the newest Python that a version of CANN supports; None if the version is unknown.

    Source: the installation guides of CANN, hiascend.com: 7.0 names 3.7 to 3.9, 8.0.RC2 adds 3.10,
    8.0.0 goes to 3.11, 8.5 to 3.13.
    """
    found = re.match(r'(\d+)\.(\d+)(?:\.RC(\d+))?', version)
    if not found:
        return None
    major, minor, candidate = int(found[1]), int(found[2]), found[3]
    if (major, minor) >= (8, 5):
        return 3, 13
    if (major, minor) > (8, 0) or ((major, minor) == (8, 0) and not candidate):
        return 3, 11
    return (3, 10) if (major, minor) == (8, 0) and int(candidate or 0) >= 2 else (3, 9)
