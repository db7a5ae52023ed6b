"""
Parameter files: where they are, and whether they hold anything for a node.

The launch files use it, too; so it imports nothing of ROS.
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
"""The spellings of a launch argument that is true or false: YAML's and Python's."""


def find_parameter_file(path: str) -> str:
    """
    Return the path of a file that was named to a launch file, with `~` expanded.

    :raises ConfigError: it is not there.
    """
    try:
        found = Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f'the parameter file {path} cannot be found: {error}') from error
    if not found.is_file():
        raise ConfigError(f'the parameter file {found} is not there; name one that is, or leave '
                          'the argument out for the defaults')
    return str(found)


def launch_parameters(path: str, given: Mapping[str, Any]) -> list[Any]:
    """
    Return the parameters of a node for launch_ros, those that were given by name last.

    No file of ours is among them: what nobody has chosen would have a higher rank than what a
    launch file around this one sets (SetParameter). The defaults are the node's.

    :raises ConfigError: the file is not there.
    """
    return [*([find_parameter_file(path)] if path else []), *([dict(given)] if given else [])]


def parameter_files(arguments: Sequence[str]) -> list[str]:
    """Return the parameter files that a node was given by its command line."""
    return [arguments[index + 1] for index, option in enumerate(arguments[:-1])
            if option == '--params-file']


def describe_unmatched(path: str, node: str) -> str:
    """
    Return what to say of a parameter file that holds nothing for a node, '' where it does.

    :param node: full name of the node.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError, yaml.YAMLError):
        return ''  # ROS itself refuses such a file
    names = list(_node_names(content, ''))
    if any(re.fullmatch(_pattern(name), node) for name in names):
        return ''
    given = ', '.join(dict.fromkeys(names)) or 'no node'
    return (f'the parameter file {path} holds nothing for {node}, but for {given}: {node} is as '
            f'without the file; write {node} or /** in its place')


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
    """Return the regular expression of a name in which * is one part of a path and ** any."""
    parts = {'*': '/[^/]+', '**': '(/[^/]+)*'}
    return ''.join(parts.get(part, '/' + re.escape(part)) for part in name.strip('/').split('/'))
