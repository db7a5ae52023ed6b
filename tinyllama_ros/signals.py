"""Ends a program cleanly on a signal that comes while it imports; needs the standard library."""

import os
import signal
import sys


def exit_on_signals(status: int, *numbers: int, message: str = '') -> None:
    """
    Have the process end at once, with a status, where one of these signals comes from here on.

    The first thing that an entry point does, before it imports what takes a second: nothing has to
    be cleaned up yet, and an import that is interrupted prints a traceback. What runs then handles
    the signals in its own way.

    :param message: a line on stderr, where it is not empty.
    """
    def leave(*_: object) -> None:
        if message:
            os.write(sys.stderr.fileno(), f'{message}\n'.encode())
        os._exit(status)  # an exception could be caught by what is being imported

    for number in numbers:
        signal.signal(number, leave)
