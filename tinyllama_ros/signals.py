"""Ends a program cleanly on a signal during its imports; imports the standard library only."""

import os
import signal
import sys
from types import FrameType


def exit_on_signals(status: int, *numbers: int, message: str = '') -> None:
    """
    Make the process end at once, with this status, on each of these signals from now on.

    An entry point calls this first, before imports that take a second: nothing has to be cleaned
    up yet, and an interrupted import would print a traceback. The program that runs later replaces
    these handlers by its own.

    :param message: a line on stderr, if not empty.
    """
    def leave(*_: object) -> None:
        if message:
            os.write(sys.stderr.fileno(), f'{message}\n'.encode())
        os._exit(status)  # an exception could be caught by what is being imported

    for number in numbers:
        signal.signal(number, leave)


def interrupt_once(number: int, _: FrameType | None) -> None:
    """Handle SIGINT: raise KeyboardInterrupt, and ignore further ones, which would cut the end."""
    signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt
