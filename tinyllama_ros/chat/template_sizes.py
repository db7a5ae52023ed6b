"""
Bounds what one operator, filter or method of a chat template makes.

Each runs in one piece, where no count of steps and no clock ends it. So what it would make is
estimated before, and what it has made is measured after.
"""

from collections.abc import Iterable, Mapping, Sequence
import re
from typing import Any

from tinyllama_ros.errors import ModelError

MOST_CHARACTERS = 4_000_000
"""Of a value that a template makes, rendered or on the way."""
ITEM = 16
"""Characters that an item of a list counts as."""
MOST_WORK = 100_000_000
"""Characters that may be written on the way to a value."""
_MOST_BITS = 100_000
_TEXTS, _CONTAINERS = (str, bytes), (list, tuple, dict, range, set, frozenset)
_WIDTHS = frozenset({'batch', 'center', 'expandtabs', 'indent', 'ljust', 'rjust', 'round', 'slice',
                     'to_bytes', 'zfill'})
"""Filters and methods of which a number is a length."""
_BETWEEN = frozenset({'indent', 'join', 'translate'})
"""Those that repeat another value."""
_FORMATS = re.compile(r'%(?:\([^)]*\))?[-#0 +]*\d*(?:\.\d+)?|\{[^{}]*\}')
_WIDTH_IS_A_VALUE = re.compile(r'%[-#0 +.\d]*\*|\{[^{}]*\{')


class EndlessTemplate(ModelError):
    """A chat template takes too many steps or too long, or makes too much text."""

    def __init__(self, reason: str) -> None:
        super().__init__(f'the chat template of the model does not end: {reason}; build the model '
                         'again with another one (--template FILE)')


def size_of(value: Any) -> int:
    """Return the characters in a value with all its items, or a number above MOST_CHARACTERS."""
    size, values = 0, [value]
    while values and size <= MOST_CHARACTERS:
        value = values.pop()
        if isinstance(value, _TEXTS):
            size += len(value)
        elif isinstance(value, _CONTAINERS):
            size += ITEM * len(value)
            if isinstance(value, dict):
                values += value.values()
            if not isinstance(value, range):
                values += value
    return size


def require_small(value: Any) -> Any:
    """Return a value; EndlessTemplate where it is too large."""
    if size_of(value) > MOST_CHARACTERS:
        raise EndlessTemplate(f'it makes a value of more than {MOST_CHARACTERS} characters')
    return value


def concat(texts: Iterable[str]) -> str:
    """Return texts as one; EndlessTemplate where that is too long."""
    parts, size = [], 0
    for text in texts:
        size += len(text)
        if size > MOST_CHARACTERS:
            raise EndlessTemplate(f'it makes a text of more than {MOST_CHARACTERS} characters')
        parts.append(text)
    return ''.join(parts)


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Raise EndlessTemplate where an operator would make a value that is too large."""
    if operator == '%' and isinstance(left, str):
        check_call('format', [left, right])
    elif _operator_size(operator, left, right) > MOST_CHARACTERS:
        raise EndlessTemplate(f'{operator} makes a value of more than {MOST_CHARACTERS} '
                              f'characters or {_MOST_BITS} bits')


def check_call(name: str, values: Sequence[Any]) -> None:
    """
    Raise EndlessTemplate where a filter or method would take too long.

    :param values: what it is applied to, then its other arguments.
    """
    if values and _work(name, values[0], values[1:]) > MOST_WORK:
        raise EndlessTemplate(f'{name} makes a value of more than {MOST_CHARACTERS} characters')


def _operator_size(operator: str, left: Any, right: Any) -> int:
    """Return the length of what an operator makes, 0 where it cannot be large."""
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length()
        bits = bits * abs(right) if operator == '**' else bits + right.bit_length()
        return bits * MOST_CHARACTERS // _MOST_BITS
    if operator == '*' and isinstance(left, int):
        left, right = right, left
    length = len(left) if hasattr(left, '__len__') else 0
    if operator == '*' and isinstance(right, int):
        return length * right * (1 if isinstance(left, str) else ITEM)
    return length + len(right) if length and hasattr(right, '__len__') else 0


def _work(name: str, value: Any, others: Sequence[Any]) -> int:
    """Return about how many characters a filter or method writes at most."""
    size = max(1, size_of(value))
    if name == 'replace':
        texts = [text for text in others if isinstance(text, str)]
        return sum(str(value).count(text) for text in texts) * max(map(len, texts), default=0)
    factors = [1]
    if name in _BETWEEN:
        factors += map(size_of, others)
    if name in _WIDTHS:
        factors += (abs(other) for other in others if isinstance(other, int))
    if name in ('format', 'format_map') and isinstance(value, str):
        widths = (width for spec in _FORMATS.findall(value) for width in re.findall(r'\d+', spec))
        factors += (int(width[:10]) for width in widths)
        if _WIDTH_IS_A_VALUE.search(value):
            factors += (abs(number) for number in _flat(others) if isinstance(number, int))
    return size * max(factors)


def _flat(values: Iterable[Any]) -> Iterable[Any]:
    for value in values:
        yield from (_flat(value) if isinstance(value, list | tuple)
                    else value.values() if isinstance(value, Mapping) else [value])
