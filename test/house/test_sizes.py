"""No module of the product is longer than a reader can hold in mind."""

import ast

import pytest
from support.paths import ROOT

LONGEST = 400
SOURCES = [path for suffix in ('py', 'cc', 'h', 'js', 'css')
           for path in sorted((ROOT / 'tinyllama_ros').rglob(f'*.{suffix}'))
           if 'vendor' not in path.parts]


@pytest.mark.parametrize('path', SOURCES,
                         ids=lambda path: str(path.relative_to(ROOT / 'tinyllama_ros')))
def test_module_has_no_more_than_400_lines(path):
    assert len(path.read_text(encoding='utf-8').splitlines()) <= LONGEST


@pytest.mark.parametrize('path', [path for path in SOURCES if path.suffix == '.py'],
                         ids=lambda path: str(path.relative_to(ROOT / 'tinyllama_ros')))
def test_first_line_of_a_module_is_a_sentence_about_it(path):
    doc = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    first = (doc or '').partition('\n')[0]
    assert first.endswith(('.', ':')) and len(first.split()) >= 4, first
