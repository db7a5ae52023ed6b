"""The entry point of the program `chat`."""

from collections.abc import Sequence
import signal
import sys

from tinyllama_ros.ros.imports import advice
from tinyllama_ros.signals import exit_on_signals


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status, 1 with one line where a library is missing."""
    exit_on_signals(130, signal.SIGINT)
    try:
        from tinyllama_ros.terminal.session import run
    except ImportError as error:
        print(f'chat: {advice(error)}', file=sys.stderr)
        return 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return run(argv)
    except KeyboardInterrupt:
        return 130


if __name__ == '__main__':
    sys.exit(main())
