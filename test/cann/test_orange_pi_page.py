"""The commands of docs/orange-pi.md are ones that this project has."""

import re
import shlex

import pytest
from support.ascend_manifest import manifest, REFERENCE
from support.paths import ROOT

from tinyllama_ros.cann.atc import plan_conversion
from tinyllama_ros.cann.toolkit import newest_python
from tinyllama_ros.commands.command_line import _parser

PAGE = (ROOT / 'docs' / 'orange-pi.md').read_text(encoding='utf-8')
COMMANDS = sorted({found.strip() for found in re.findall(
    r'tinyllama-model ((?:doctor|atc|build|adopt|perplexity)(?: [^`&|;#\n\\]+)?)', PAGE)}
    - {'perplexity'})


def test_page_shows_the_command_that_tinyllama_is_compiled_with():
    assert f'\n{REFERENCE}\n' in PAGE
    assert plan_conversion(manifest('tinyllama-1.1b', kv_length=1024)).shell_line in PAGE


def test_page_asks_for_a_toolkit_that_takes_the_python_of_the_image():
    oldest = re.search(r'CANN (\S+) or newer', PAGE)[1]
    assert newest_python(oldest) >= (3, 10)
    assert newest_python('8.5.0') >= (3, 12)
    rows = re.findall(r'^\| (\d\S+)(?: to \S+)? \| 3\.7 to (\S+) \|', PAGE, re.MULTILINE)
    assert len(rows) == 4
    for version, newest in rows:
        assert newest_python(version) == tuple(map(int, newest.split('.')))


def test_page_has_commands():
    assert {command.split()[0] for command in COMMANDS} == {'adopt', 'atc', 'build', 'doctor'}


@pytest.mark.parametrize('command', COMMANDS)
def test_command_of_the_page_is_understood(command):
    _parser().parse_args(shlex.split(command))


@pytest.mark.parametrize('name', sorted(set(re.findall(r'\]\((?!https:)([^)#]+)', PAGE))))
def test_page_that_is_linked_to_exists(name):
    assert (ROOT / 'docs' / name).is_file()


@pytest.mark.parametrize('option', sorted(set(re.findall(r'install\.sh.*?(--[a-z]+)', PAGE))))
def test_option_of_the_installer_exists(option):
    assert f' {option})' in (ROOT / 'custom_op' / 'install.sh').read_text()
