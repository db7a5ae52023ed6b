"""Single changes of a JSON value and of a file's bytes, each reproducible by its number."""

from collections.abc import Iterator
import copy
import json
import random
from typing import Any

LONG = 50_000
"""Characters: enough to show whatever takes more than its length in time."""
VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2, 7, 255, 2 ** 31, 10 ** 9, 2 ** 63, 2 ** 64, 10 ** 400, 0.5,
    -0.0, 1e308, float('nan'), float('inf'), '', ' ', 'x', '0', '\0', '\n', '\ud800', '../x',
    '\u2581', '<x>', '{{', '{%', '[' * 500, 'a' * LONG, '<' * LONG, '{{' * LONG,
    '(a+)+' * (LONG // 5), '\u00e9\u0301' * (LONG // 2), [], [[]], [None], [0], ['x'], {},
    {'x': 0}, {'type': 'x'}, {'content': 'x'})

NAMES = ('x', 'type', 'factor', 'rope_theta', 'id', 'content', '<' * LONG)


def json_mutations(value: Any, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield what was changed, and the JSON text with that one change."""
    paths = list(_paths(value))
    for number in range(count):
        chance = random.Random(f'{seed} {number}')
        changed = copy.deepcopy(value)
        path = chance.choice(paths)
        if not path:
            label, changed = f'{number}: all', chance.choice(VALUES)
        else:
            label = f'{number}: {"/".join(map(str, path))} {_change(changed, path, chance)}'
        yield label, json.dumps(changed).encode()


def byte_mutations(content: bytes, seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield what was changed, and the content with that one change."""
    for number in range(count):
        chance = random.Random(f'{seed} {number}')
        at = chance.randrange(min(len(content), chance.choice((64, 1024, len(content)))))
        kind = chance.choice(('flip', 'set', 'cut', 'drop', 'insert', 'run'))
        if kind == 'flip':
            changed = bytes([content[at] ^ 1 << chance.randrange(8)])
            changed = content[:at] + changed + content[at + 1:]
        elif kind == 'set':
            size = chance.choice((1, 4, 8))
            new = chance.choice((0, 1, 255, 10 ** 9, 2 ** 31, 2 ** 63 - 1, 2 ** 64 - 1))
            new_bytes = (new % (1 << 8 * size)).to_bytes(size, 'little')
            changed = content[:at] + new_bytes + content[at + size:]
        elif kind == 'cut':
            changed = content[:at]
        elif kind == 'drop':
            changed = content[:at] + content[at + chance.choice((1, 4, 8, 1000)):]
        elif kind == 'run':
            byte = chance.choice((0, 10, 57, 91, 128, 255))
            changed = content[:at] + bytes([byte]) * LONG + content[at:]
        else:
            changed = content[:at] + chance.randbytes(chance.choice((1, 4, 8))) + content[at:]
        yield f'{number}: {kind} at {at}', changed


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value; of a long list or object only some, or they would be all."""
    yield path
    keys = list(value) if isinstance(value, dict) else (
        list(range(len(value))) if isinstance(value, list) else [])
    for key in keys if len(keys) <= 32 else keys[:3] + keys[-3:]:
        yield from _paths(value[key], (*path, key))


def _change(value: Any, path: tuple[Any, ...], chance: random.Random) -> str:
    """Change what lies at a path, in place, and return how."""
    *above, last = path
    for key in above:
        value = value[key]
    kind = chance.choice(('replace', 'replace', 'replace', 'replace', 'delete', 'add'))
    if kind == 'delete':
        del value[last]
        return kind
    new = chance.choice(VALUES)
    if kind == 'replace':
        value[last] = new
    elif isinstance(value, dict):
        value[chance.choice(NAMES)] = new
    else:
        value.insert(last, new)
    return f'{kind} {str(new)[:20]!a}'
