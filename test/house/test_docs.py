"""The pages: links that lead somewhere, one version, and two READMEs that say the same."""

import ast
import re
from xml.etree import ElementTree

import pytest
from support.paths import ROOT

PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').rglob('*.md')])
README, CHINESE = (ROOT / 'README.md').read_text(), (ROOT / 'README.zh-CN.md').read_text()
CHANGES = (ROOT / 'CHANGELOG.md').read_text()
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def prose(text):
    """Return a page without its code blocks."""
    return FENCE.sub('', text)


def headings(text):
    return re.findall(r'^(#+) (.+)$', prose(text), re.MULTILINE)


def anchor(heading):
    """Return what GitHub makes of a heading."""
    return re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-')


def links(text):
    return [link for link in re.findall(r'\]\(([^)\s]+)\)', prose(text))
            if not re.match(r'[a-z]+:', link)]


def commands(text):
    """Return the lines of the shell blocks, without comments, which are translated."""
    lines = [re.sub(r'(^|\s+)#.*', '', line) for kind, block in FENCE.findall(text)
             if kind == 'sh' for line in block.splitlines()]
    return [line for line in lines if line]


def named(text):
    """Return the code in the first cell of each row of the tables."""
    return re.findall(r'^\| (`.*?`)', prose(text), re.MULTILINE)


def messages():
    """Return every text in the package, with ... where a value is put in."""
    for path in sorted((ROOT / 'tinyllama_ros').rglob('*.py')):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                yield ''.join(part.value if isinstance(part, ast.Constant) else '...'
                              for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_placeholder_of_a_command_is_a_redirection_in_a_shell(page):
    assert re.findall(r'<[\w ]+>', '\n'.join(commands(page.read_text()))) == []


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_to_a_file_and_a_heading(page):
    for link in links(page.read_text()):
        path, _, place = link.partition('#')
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f'{link} leads nowhere'
        known = [anchor(title) for _, title in headings(target.read_text())] if place else ['']
        assert place in known, f'{link} leads to no heading'


def test_index_lists_every_page():
    linked = links((ROOT / 'docs' / 'README.md').read_text())
    assert [page.name for page in (ROOT / 'docs').glob('*.md')
            if page.name not in (*linked, 'README.md')] == []


def test_version_stands_in_the_manifest_alone():
    version = ElementTree.parse(ROOT / 'package.xml').findtext('version')
    elsewhere = [name for name in ('setup.py', 'setup.cfg', 'pyproject.toml', 'README.md')
                 if f"'{version}'" in (ROOT / name).read_text()]
    assert elsewhere == []
    assert [title for _, title in headings(CHANGES) if title.startswith('[')][1] == f'[{version}]'


def test_changelog_has_the_sections_of_keep_a_changelog():
    found = headings(CHANGES)
    assert found[:2] == [('#', 'Changelog'), ('##', '[Unreleased]')]
    sections = {title for level, title in found if level == '###'}
    assert sections <= {'Added', 'Changed', 'Deprecated', 'Removed', 'Fixed', 'Security'}


def test_readmes_have_the_same_headings():
    assert [level for level, _ in headings(CHINESE)] == [level for level, _ in headings(README)]


@pytest.mark.parametrize('of', [commands, named, links], ids=['commands', 'names', 'links'])
def test_readmes_have_the_same(of):
    def other(entries):
        return [entry for entry in entries if not entry.startswith('README')]  # each the other
    assert other(of(CHINESE)) == other(of(README))


def test_readmes_state_the_same_numbers():
    def numbers(text):
        return re.findall(r'\d[\d.]*\d|\d', ' '.join(re.findall(r'^\|.*', text, re.MULTILINE)))
    assert numbers(CHINESE) == numbers(README)


def test_troubleshooting_quotes_messages_that_the_code_has():
    page = (ROOT / 'docs' / 'troubleshooting.md').read_text()
    quoted = [part.strip(" '") for cell in re.findall(r'^\| (`.*?) \| ', page, re.MULTILINE)
              for message in re.findall('`(.+?)`', cell) for part in message.split('...')]
    said = '\n'.join(messages())
    assert [part for part in quoted if len(part) > 8 and part not in said] == []
