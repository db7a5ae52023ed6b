"""
Finds parameter files, and checks whether they hold parameters of a node.

The launch files use it, too, so it does not import ROS.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
import re
from typing import Any

import yaml

from tinyllama_ros.errors import ConfigError

PARAMETERS_KEY = 'ros__parameters'
BOOLEANS = {'true': True, 'True': True, 'TRUE': True,
            'false': False, 'False': False, 'FALSE': False}
"""Values of a launch argument that is true or false, as YAML and Python spell them."""


def find_parameter_file(path: str) -> str:
    """
    Return the path of a file that was named to a launch file, with `~` expanded.

    :raises ConfigError: the file does not exist.
    """
    try:
        found = Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f'the parameter file {path} cannot be found: {error}') from error
    if not found.is_file():
        raise ConfigError(f'the parameter file {found} does not exist; give an existing one, or '
                          'leave the argument out to use the defaults')
    return str(found)


def launch_parameters(path: str, given: Mapping[str, Any]) -> list[Any]:
    """
    Return the parameters of a node for launch_ros; those that were given by name come last.

    The files in config/ are not among them, because they would override what a surrounding launch
    file sets (SetParameter). The defaults are defined in the node.

    :raises ConfigError: the file does not exist.
    """
    return [*([find_parameter_file(path)] if path else []), *([dict(given)] if given else [])]


def parameter_files(arguments: Sequence[str]) -> list[str]:
    """Return the parameter files on the command line of a node."""
    return [arguments[index + 1] for index, option in enumerate(arguments[:-1])
            if option == '--params-file']


def describe_unmatched(path: str, node: str) -> str:
    """
    Return a warning if a parameter file holds nothing for a node, else ''.

    :param node: full name of the node.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError, yaml.YAMLError):
        return ''  # ROS itself refuses such a file
    names = list(_node_names(content, ''))
    if any(re.fullmatch(_pattern(name), node) for name in names):
        return ''
    others = f', only for {", ".join(dict.fromkeys(names))}' if names else ''
    return (f'the parameter file {path} holds no parameters for {node}{others}, so it has no '
            f'effect; write {node} or /** as the name of the node')


def _node_names(content: Any, prefix: str) -> Iterator[str]:
    """Yield the names of the nodes, maybe with wildcards, for which a file holds parameters."""
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if key == PARAMETERS_KEY:
            yield prefix or '/'
        else:
            yield from _node_names(value, f'{prefix}/{str(key).strip("/")}')


def _pattern(name: str) -> str:
    """Return the regular expression of a name: * is one part of it, ** any number of parts."""
    parts = {'*': '/[^/]+', '**': '(/[^/]+)*'}
    return ''.join(parts.get(part, '/' + re.escape(part)) for part in name.strip('/').split('/'))
