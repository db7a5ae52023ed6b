"""Values of a file, with errors that name the file and the key."""

from pathlib import Path

import pytest

from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.named_values import NamedValues

VALUES = NamedValues(Path('c.json'), {'one': 1, 'yes': True, 'half': 0.5, 'none': None,
                                      'names': ['a', 'b'], 'mixed': ['a', 1], 'rope.a': 1})


@pytest.mark.parametrize(('key', 'kind', 'value'), [
    ('one', int, 1), ('one', float, 1.0), ('yes', bool, True), ('half', float, 0.5)])
def test_value_of_its_kind_is_returned(key, kind, value):
    found = VALUES.required(key, kind)
    assert (type(found), found) == (kind, value)


@pytest.mark.parametrize('key', ['none', 'absent'])
def test_missing_value_gives_way_to_its_default(key):
    assert VALUES.optional(key, int, 7) == 7
    with pytest.raises(ModelError, match=rf'c\.json: {key} is missing'):
        VALUES.required(key, int)


@pytest.mark.parametrize(('key', 'kind'), [
    ('yes', int), ('half', int), ('one', bool), ('names', str)])
def test_value_of_another_kind_is_refused(key, kind):
    with pytest.raises(ModelError, match=rf'c\.json: {key} is .*; it must be of kind'):
        VALUES.optional(key, kind, kind())


def test_list_holds_one_kind():
    assert VALUES.several('names', str) == ['a', 'b']
    with pytest.raises(ModelError, match=r"c\.json: mixed is '1'; it must be of kind str"):
        VALUES.several('mixed', str)


def test_values_are_found_by_prefix():
    assert VALUES.with_prefix('rope.') == {'rope.a': 1}
