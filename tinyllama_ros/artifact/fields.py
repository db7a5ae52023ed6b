"""
Builds dataclasses from parsed JSON, and checks the type of each value.

A file may come from anywhere, so no value is converted silently: a text in place of a number, a
fraction in place of a count, and an unknown field are refused by name.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass, MISSING
import json
import types
from typing import Any, get_args, get_origin, get_type_hints, Literal, TypeVar, Union

T = TypeVar('T')
_LARGEST = 1 << 63
_KINDS = {str: 'text', int: 'a whole number', float: 'a number', bool: 'true or false'}


def parse_json(content: bytes | str) -> Any:
    """
    Return what a JSON text holds.

    :raises ValueError: it is not valid JSON, is nested too deeply, or holds half a character.
    """
    try:
        value = json.loads(content)
        json.dumps(value, ensure_ascii=False).encode()  # refuses half a character ("\\ud800")
    except RecursionError as error:
        raise ValueError('it is nested too deeply') from error
    return value


def from_fields(kind: type[T], values: Any, where: str = '') -> T:
    """
    Return a dataclass whose fields have the values of a JSON object.

    :param where: path of the object in the file, for messages.
    :raises ValueError: names the field that is missing, unknown or of another type.
    :raises TinyLlamaError: what the dataclass itself refuses.
    """
    if not isinstance(values, dict):
        raise ValueError(f'{where or "the content"} is {shorten(values)}; it must be an object')
    types_ = get_type_hints(kind)
    known = {field.name: field for field in fields(kind)}  # type: ignore[arg-type]
    prefix = f'{where}.' if where else ''
    if unknown := sorted(values.keys() - known.keys()):
        raise ValueError(f'{prefix}{shorten(unknown[0])} is unknown')
    for name, field in known.items():
        has_default = field.default is not MISSING or field.default_factory is not MISSING
        if name not in values and not has_default:
            raise ValueError(f'{prefix}{name} is missing')
    return kind(**{name: _value(types_[name], value, f'{prefix}{name}')
                   for name, value in values.items()})


def shorten(value: Any) -> str:
    """Return a value for a message, in one line and not too long."""
    text = repr(value)
    return text if len(text) <= 80 else f'{text[:77]}...'


def _value(kind: Any, value: Any, where: str) -> Any:
    """Return a value of the kind of a field."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return from_fields(kind, value, where)  # type: ignore[arg-type]
    if origin in (Union, types.UnionType):  # only `... | None` is used
        return None if value is None else _value(arguments[0], value, where)
    if origin is tuple:
        return tuple(_value(arguments[0], item, f'{where}[{i}]')
                     for i, item in enumerate(_require(list, value, where, 'a list')))
    if origin is Mapping:
        return {name: _value(arguments[1], item, f'{where}[{shorten(name)}]')
                for name, item in _require(dict, value, where, 'an object').items()}
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f'{where} is {shorten(value)}; it must be one of '
                             f'{", ".join(map(repr, arguments))}')
        return value
    return _scalar(kind, value, where)


def _scalar(kind: type, value: Any, where: str) -> Any:
    if kind is float and type(value) is int and abs(value) < _LARGEST:
        value = float(value)
    value = _require(kind, value, where, _KINDS[kind])
    if kind in (int, float) and not abs(value) < _LARGEST:  # also where it is no number
        raise ValueError(f'{where} is {shorten(value)}, which is out of range')
    return value


def _require(kind: type[T], value: Any, where: str, name: str) -> T:
    if type(value) is not kind:
        raise ValueError(f'{where} is {shorten(value)}; it must be {name}')
    return value
