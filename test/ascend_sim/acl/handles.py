"""Handles: plain numbers that stand for objects, as pyACL gives them out."""

from typing import Any, TypeVar

from acl.errors import Violation

Object = TypeVar('Object')


class Handles:
    """Every live object that a handle stands for. No number is used twice."""

    def __init__(self) -> None:
        self._next = 0x5A00_0000_0040
        self._live: dict[int, Any] = {}
        self._dead: dict[int, type[Any]] = {}

    def add(self, thing: Any) -> int:
        """Return a new handle."""
        handle = self._next
        self._next += 0x40
        self._live[handle] = thing
        return handle

    def get(self, handle: int, kind: type[Object], use: str) -> Object:
        """Return what a handle stands for; raises Violation for a dead or a foreign one."""
        found = self.find(handle, kind)
        if found is None:
            raise Violation(f'{use}: {self.name(handle)}; a {kind.__name__} is wanted')
        return found

    def find(self, handle: int, kind: type[Object]) -> Object | None:
        """Return what a handle stands for, or None."""
        found = self._live.get(handle)
        return found if isinstance(found, kind) else None

    def remove(self, handle: int, kind: type[Object], use: str) -> Object:
        """Forget a handle and return what it stood for."""
        found = self.get(handle, kind, use)
        del self._live[handle]
        self._dead[handle] = kind
        return found

    def of(self, kind: type[Object]) -> dict[int, Object]:
        """Return all live handles of a kind."""
        return {handle: thing for handle, thing in self._live.items() if isinstance(thing, kind)}

    def close(self) -> None:
        """End the threads of what was left alive."""
        for thing in self._live.values():
            if hasattr(thing, 'close'):
                thing.close()

    def counts(self) -> dict[str, int]:
        """Return how many there are of each kind."""
        counts: dict[str, int] = {}
        for thing in self._live.values():
            name = type(thing).__name__
            counts[name] = counts.get(name, 0) + 1
        return counts

    def name(self, handle: int) -> str:
        """Return what a handle is, for a message."""
        if handle in self._live:
            return f'{handle:#x} is a {type(self._live[handle]).__name__}'
        if handle in self._dead:
            return f'{handle:#x} was a {self._dead[handle].__name__}, which was destroyed'
        return f'{handle:#x} is no handle'
