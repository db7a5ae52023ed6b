"""The files of the chat page: what they must not do, and that vendored files are those of npm."""

import re

import pytest
from support.paths import ROOT

STATIC = ROOT / 'tinyllama_ros' / 'web' / 'static'
OURS = sorted(path for path in STATIC.iterdir() if path.suffix in ('.html', '.css', '.js', '.svg'))


import vendor  # noqa: E402


@pytest.mark.parametrize('path', OURS, ids=lambda path: path.name)
def test_file_makes_no_html_of_text_and_asks_nobody_else(path):
    text = path.read_text(encoding='utf-8').replace('xmlns="http://www.w3.org/2000/svg"', '')
    assert not re.search(r'innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b', text)
    assert not re.search(r"""['"(](https?:)?//""", text)


@pytest.mark.parametrize('path', OURS, ids=lambda path: path.name)
def test_page_works_below_a_path_of_a_proxy(path):
    """No address begins with a slash: that would leave the proxy's path."""
    assert not re.search(r"""(?:href|src|action)="/|(?:URL|WebSocket|fetch|import)\(?\s*['"`]/"""
                         r"""|from '/|url\(/|location\.host\b""", path.read_text('utf-8'))


def test_page_runs_no_script_and_no_style_of_its_own_html():
    """The content security policy would refuse both, and only the console would say so."""
    html = (STATIC / 'index.html').read_text(encoding='utf-8')
    assert not re.search(r'<script(?![^>]*src=)|<style|\sstyle=|\son\w+=', html)


def test_every_text_of_the_page_is_defined():
    html = (STATIC / 'index.html').read_text(encoding='utf-8')
    named = set(re.findall(r'data-(?:text|label|title|placeholder)="(\w+)"', html))
    defined = re.findall(r'^  (\w+):', (STATIC / 'text.js').read_text(encoding='utf-8'), re.M)
    assert named <= set(defined)


def test_everything_vendored_carries_its_licence():
    text = (vendor.VENDOR / 'LICENSES.txt').read_text(encoding='utf-8')
    for name in ('markdown-it', 'entities', 'linkify-it', 'mdurl', 'punycode.js', 'uc.micro'):
        assert re.search(rf'^{re.escape(name)} \d', text, re.M), name
    assert {path.name for path in vendor.VENDOR.iterdir()} == {'markdown-it.js', 'LICENSES.txt'}


def test_what_is_vendored_is_what_npm_installs():
    if not vendor.MODULES.is_dir():
        pytest.skip('npm has installed nothing here: npm ci')
    assert (vendor.VENDOR / 'markdown-it.js').read_text(encoding='utf-8') == vendor.bundle()
    assert (vendor.VENDOR / 'LICENSES.txt').read_text(encoding='utf-8') == vendor.licences()
