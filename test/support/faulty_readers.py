"""Readers with a fault each, which test/support/fuzz.py must find."""

import os

from support.fuzz import fuzz
from tinyllama_ros.errors import TinyLlamaError

MANY = [(str(number), b'') for number in range(200)]


def hangs() -> None:
    """Loop for ever on the first file."""
    def read(*_):
        while True:
            pass

    fuzz(read, MANY[:1])


def raises() -> None:
    """Raise what is no error of ours."""
    fuzz(lambda *_: {}['x'], MANY)


def fills_memory() -> None:
    """Ask for more memory than a file of some bytes can need."""
    fuzz(lambda *_: bytearray(4 << 30), MANY)


def says_two_lines() -> None:
    """Refuse a file in a message of two lines."""
    error = TinyLlamaError('')
    error.args = ('one\ntwo',)

    def read(*_):
        raise error

    fuzz(read, MANY)


def dies() -> None:
    """End the process, as a fault in a library of C does."""
    fuzz(lambda *_: os.abort(), MANY)
