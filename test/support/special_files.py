"""Files of kinds that a reader could wait for, or read, for ever."""

from collections.abc import Callable, Mapping
import os
from pathlib import Path
import socket


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        before = os.getcwd()
        os.chdir(path.parent)  # the path of a socket may have 107 bytes
        try:
            server.bind(path.name)
        finally:
            os.chdir(before)


SPECIAL_FILES: Mapping[str, Callable[[Path], object]] = {
    'pipe': os.mkfifo, 'socket': _socket, 'folder': Path.mkdir,
    'device': lambda path: path.symlink_to('/dev/zero')}
"""What makes one at a path, by its kind."""


def put_in_place(kind: str, path: Path) -> None:
    """Replace a file by a special one."""
    path.unlink(missing_ok=True)
    SPECIAL_FILES[kind](path)
