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
    with pytest.raises(ModelError, match=rf'c\.json: {key} is .*; it must be of type'):
        VALUES.optional(key, kind, kind())


def test_list_holds_one_kind():
    assert VALUES.several('names', str) == ['a', 'b']
    with pytest.raises(ModelError, match=r'c\.json: mixed is 1; it must be of type str'):
        VALUES.several('mixed', str)


def test_values_are_found_by_prefix():
    rope = VALUES.with_prefix('rope.')
    assert rope.required('a', int) == 1 and 'one' not in rope
    with pytest.raises(ModelError, match=r'c\.json: rope\.a is 1; it must be of type str'):
        rope.required('a', str)


def test_section_is_named_in_messages():
    rope = NamedValues(Path('c.json'), {'rope': {'base': 'x'}}).section('rope')
    with pytest.raises(ModelError, match=r"c\.json: rope\.base is 'x'; it must be of type float"):
        rope.required('base', float)
    assert 'base' not in VALUES.section('absent')


def test_number_too_large_for_a_float_is_refused():
    with pytest.raises(ModelError, match=r'c\.json: n is 1000+\.\.\.; it must be of type float'):
        NamedValues(Path('c.json'), {'n': 10 ** 400}).required('n', float)


@pytest.mark.parametrize(('value', 'allowed'), [
    (1.0, True), (1, True), (None, True), (True, False), (2, False), ([1], False)], ids=repr)
def test_key_that_changes_numbers_is_refused_unless_it_is_neutral(value, allowed):
    values = NamedValues(Path('c.json'), {'factor': value})
    if allowed:
        values.refuse_others({'factor': (1,)})
    else:
        with pytest.raises(ModelError, match=r'factor is .*, which is not .* in which it is 1$'):
            values.refuse_others({'factor': (1,)})


@pytest.mark.parametrize('content', [b'{', b'\xff', b'[' * 100_000, b'{"a": "\\ud800"}'],
                         ids=['cut', 'no_utf8', 'deep', 'half_a_character'])
def test_file_that_is_no_json_is_refused(tmp_path, content):
    (tmp_path / 'c.json').write_bytes(content)
    with pytest.raises(ModelError, match=r'c\.json is not valid JSON, so it may be .*again$'):
        NamedValues.from_json(tmp_path / 'c.json')


def test_missing_file_is_named(tmp_path):
    with pytest.raises(ModelError, match=r'c\.json is missing; fetch it, too'):
        NamedValues.from_json(tmp_path / 'c.json')
