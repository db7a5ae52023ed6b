"""Named values of a file (GGUF metadata, a JSON object), read with errors that name them."""

from collections.abc import Mapping
import json
from pathlib import Path
from typing import Any, TypeVar

from tinyllama_ros.errors import ModelError

T = TypeVar('T')


class NamedValues:
    """Values by key. One that is None counts as missing, as JSON files write it."""

    def __init__(self, path: Path, values: Mapping[str, Any]) -> None:
        self.path = path
        self._values = {key: value for key, value in values.items() if value is not None}

    @classmethod
    def from_json(cls, path: Path) -> 'NamedValues':
        """
        Return the values of the JSON object in a file.

        :raises ModelError: says that the file is missing, unreadable or no JSON object.
        """
        try:
            values = json.loads(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ModelError(f'{path} cannot be read: {error}; fetch the model again') from error
        if not isinstance(values, dict):
            raise ModelError(f'{path} holds no JSON object; fetch the model again')
        return cls(path, values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def with_prefix(self, prefix: str) -> dict[str, Any]:
        """Return the values whose key begins with a prefix."""
        return {key: value for key, value in self._values.items() if key.startswith(prefix)}

    def raw(self, key: str) -> Any:
        """Return a value of any kind, None where it is missing."""
        return self._values.get(key)

    def required(self, key: str, kind: type[T]) -> T:
        """Return a value; ModelError where it is missing or of another kind."""
        if key not in self._values:
            raise ModelError(f'{self.path}: {key} is missing; the file is not complete, '
                             'fetch the model again')
        return self._of_kind(key, self._values[key], kind)

    def optional(self, key: str, kind: type[T], default: T) -> T:
        """Return a value or its default; ModelError where it is of another kind."""
        return self.required(key, kind) if key in self._values else default

    def several(self, key: str, kind: type[T]) -> list[T]:
        """Return a list of values; ModelError where it is missing or holds another kind."""
        values = self.required(key, list)
        return [self._of_kind(key, value, kind) for value in values]

    def _of_kind(self, key: str, value: Any, kind: type[T]) -> T:
        if kind is float and type(value) is int:
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ModelError(f'{self.path}: {key} is {str(value)[:60]!r}; '
                             f'it must be of kind {kind.__name__}')
        return value
