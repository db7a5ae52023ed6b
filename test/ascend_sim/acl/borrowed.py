"""Addresses of bytes objects that were given out, and whether their objects still live."""

import sys

from acl.errors import Violation

_KEPT = 4


class Borrowed:
    """
    The last bytes objects whose address was asked for.

    The real library keeps no reference, so a program that drops the object copies from memory that
    is somebody else's by then. Here a reference is kept, which shows who dropped theirs.
    """

    def __init__(self) -> None:
        self._objects: dict[int, bytes] = {}

    def lend(self, address: int, data: bytes) -> None:
        """Remember an object; the oldest is forgotten."""
        self._objects.pop(address, None)
        self._objects[address] = data
        while len(self._objects) > _KEPT:
            del self._objects[next(iter(self._objects))]

    def check(self, address: int, size: int, use: str) -> None:
        """Raise Violation where these bytes are not all of a living object."""
        for start in self._objects:
            length = len(self._objects[start])
            if not start <= address < start + length:
                continue
            if sys.getrefcount(self._objects[start]) <= 2:  # ours, and the argument's
                raise Violation(f'{use}: the bytes object at {start:#x} is gone: keep it in a '
                                'variable until the copy is done')
            if address + size > start + length:
                raise Violation(f'{use}: {size} bytes from {address:#x} run over the end of a '
                                f'bytes object of {length} bytes')
