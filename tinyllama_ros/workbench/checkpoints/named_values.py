"""Reads named values of a file (GGUF metadata, a JSON object); errors name file and key."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tinyllama_ros.artifact.disk import read_file
from tinyllama_ros.artifact.fields import parse_json, shorten
from tinyllama_ros.errors import ModelError

T = TypeVar('T')


class NamedValues:
    """Values by key; None (null in JSON) means that the key is missing."""

    def __init__(self, path: Path, values: Mapping[str, Any], prefix: str = '') -> None:
        """
        Hold the values of a file.

        :param prefix: put in front of keys in messages: the name of a section and a dot.
        """
        self.path = path
        self._values = {key: value for key, value in values.items() if value is not None}
        self._prefix = prefix

    @classmethod
    def from_json(cls, path: Path) -> 'NamedValues':
        """
        Return the values of the JSON object in a file.

        :raises ModelError: the file is missing, cannot be read, or holds no JSON object.
        """
        try:
            values = parse_json(read_file(path))
        except FileNotFoundError as error:
            raise ModelError(f'{path} is missing; fetch it, too') from error
        except OSError as error:
            raise ModelError(f'{path} cannot be read: {error}') from error
        except ValueError as error:
            raise ModelError(f'{path} is not valid JSON, so it may be damaged: {error}; fetch it '
                             'again') from error
        if not isinstance(values, dict):
            raise ModelError(f'{path} does not hold a JSON object; fetch it again')
        return cls(path, values)

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def section(self, key: str) -> 'NamedValues':
        """Return the values under a key, none if it is missing; ModelError if it is no object."""
        values: dict[str, Any] = self.optional(key, dict, {})
        return NamedValues(self.path, values, f'{self._prefix}{key}.')

    def with_prefix(self, prefix: str) -> 'NamedValues':
        """Return the values whose key begins with a prefix, by the rest of their key."""
        values = {key.removeprefix(prefix): value for key, value in self._values.items()
                  if key.startswith(prefix)}
        return NamedValues(self.path, values, prefix)

    def raw(self, key: str) -> Any:
        """Return a value of any type, None if it is missing."""
        return self._values.get(key)

    def required(self, key: str, kind: type[T]) -> T:
        """Return a value; ModelError if it is missing or of another type."""
        if key not in self._values:
            raise ModelError(f'{self.path}: {self._prefix}{key} is missing; use a complete '
                             'checkpoint')
        return self._of_kind(key, self._values[key], kind)

    def optional(self, key: str, kind: type[T], default: T) -> T:
        """Return a value or its default; ModelError if it is of another type."""
        return self.required(key, kind) if key in self._values else default

    def several(self, key: str, kind: type[T]) -> list[T]:
        """Return a list of values; ModelError if it is missing or has values of another type."""
        values = self.required(key, list)
        return [self._of_kind(key, value, kind) for value in values]

    def refuse_others(self, neutral: Mapping[str, Collection[Any]]) -> None:
        """Refuse each of these keys that is there and has none of its neutral values."""
        for key, values in neutral.items():
            if key in self._values and not _is_one_of(self._values[key], values):
                raise self._unsupported(key, f'in which it is {" or ".join(map(repr, values))}'
                                        if values else 'without it')

    def refuse_unknown(self, known: Collection[str]) -> None:
        """Refuse each key that is not known, because it may change the numbers."""
        for key in self._values:
            if key not in known:
                raise self._unsupported(key, 'without it')

    def _unsupported(self, key: str, remedy: str) -> ModelError:
        return ModelError(f'{self.path}: {self._prefix}{key} is {shorten(self._values[key])}, '
                          f'which is not supported; use a checkpoint {remedy}')

    def _of_kind(self, key: str, value: Any, kind: type[T]) -> T:
        if kind is float and type(value) is int and abs(value) < 1 << 64:
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ModelError(f'{self.path}: {self._prefix}{key} is {shorten(value)}; '
                             f'it must be of type {kind.__name__}')
        return value


def _is_one_of(value: Any, values: Collection[Any]) -> bool:
    """Return whether a value is among others; True does not equal 1."""
    return any(value == known and isinstance(value, bool) == isinstance(known, bool)
               for known in values)
