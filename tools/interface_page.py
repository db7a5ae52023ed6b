"""Write docs/ros-interface.md from the tables that the nodes declare."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
import sys

from tinyllama_ros.ros.interface import Endpoint, ENDPOINTS
from tinyllama_ros.ros.parameters import Parameter

PAGE = Path(__file__).parents[1] / 'docs' / 'ros-interface.md'
PARAMETER_TABLES = {'tinyllama': 'tinyllama_ros.ros.parameters',
                    'tinyllama_web': 'tinyllama_ros.web.parameters',
                    'tinyllama_speak': 'tinyllama_ros.voice.parameters'}
"""Module that holds the PARAMETERS of each node."""
TITLES = {'subscription': 'Topics that it subscribes to',
          'publisher': 'Topics that it publishes', 'service': 'Services'}
HEAD = """\
<!-- Written by `make docs` from tinyllama_ros/ros/interface.py and the tables of parameters:
     change those. -->

# ROS interface

The language model's node is called `tinyllama`; `~` is its private namespace, `/tinyllama` unless
it is renamed or moved. The node of the web server, `tinyllama_web`, and the speech node,
`tinyllama_speak`, talk to it through topics and have parameters of their own.

Topics are reliable. ROS keeps the order within a topic, not between two: the last token may arrive
after the response. A program that needs the order subscribes to `~/event`, whose `seq` counts
without gaps within a `run`; earlier events are on `~/history`, with the same ids. A
*latched* topic (transient local) sends late subscribers the messages in its queue; all others are
volatile.

It is a managed node: `configure` loads the model, `activate` subscribes to the prompts. User text
is data: control tokens and role markers in a prompt are encoded as plain text.
"""
FOOT = """
Parameters marked *configure* are read when the node is configured (the web and the speech
node: when they start); the others may change at any time and take effect with the next prompt:

```sh
ros2 param set /tinyllama sampling.temperature 0.7
```

The files in `config/` are examples, one for each node, which hold all of them with their defaults:
copy one, keep the lines that you change, and give `params_file:=`, for the web node
`web_params_file:=`, for the speech node `speak_params_file:=`. Without a file the defaults are
used, or the values that a surrounding launch file sets (`SetParameter`). A missing file is an
error, and a file that holds no parameters for the node's full name causes a warning. A whole
number is accepted for a float. A parameter that the node does not have is ignored, with a warning
that suggests the nearest name.
"""


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    cells = [head, ['---'] * len(head), *rows]
    return ''.join('| ' + ' | '.join(cell.replace('|', r'\|') for cell in row) + ' |\n'
                   for row in cells)


def describe_endpoints(endpoints: Mapping[str, Endpoint]) -> str:
    """Return a section for each role that there is."""
    sections = []
    for role, title in TITLES.items():
        rows = [(f'`{name}`', f'`{endpoint.type_name}`',
                 '' if role == 'service' else _queue(endpoint), endpoint.description)
                for name, endpoint in endpoints.items() if endpoint.role == role]
        head = ('name', 'type', '' if role == 'service' else 'queue', '')
        sections.append(f'\n## {title}\n\n{table(head, rows)}')
    return ''.join(sections)


def describe_parameters(node: str, parameters: Mapping[str, Parameter]) -> str:
    """Return the section of a node's parameters."""
    rows = [(f'`{name}`', type(each.default).__name__, f'`{_literal(each.default)}`',
             '' if each.range is None else '{} to {}'.format(*each.range),
             each.description + (' *configure*' if each.is_fixed else ''))
            for name, each in parameters.items()]
    return (f'\n## Parameters of `{node}`\n\n'
            + table(('name', 'type', 'default', 'range', ''), rows))


def render() -> str:
    """Return the whole page."""
    parameters = [describe_parameters(node, import_module(module).PARAMETERS)
                  for node, module in PARAMETER_TABLES.items()]
    return HEAD + describe_endpoints(ENDPOINTS) + ''.join(parameters) + FOOT


def _queue(endpoint: Endpoint) -> str:
    return f'{endpoint.depth}, latched' if endpoint.is_latched else str(endpoint.depth)


def _literal(value: bool | int | float | str) -> str:
    """Return a value as a YAML file has it."""
    if isinstance(value, str):
        return value or "''"
    return str(value).lower()


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    PAGE.write_text(render(), encoding='utf-8')
    print(PAGE)
    return 0


if __name__ == '__main__':
    sys.exit(main())
