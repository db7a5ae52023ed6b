"""The entry point of the program `tinyllama_speak`."""

from collections.abc import Sequence
import signal
import sys

from tinyllama_ros.ros.imports import advice
from tinyllama_ros.signals import exit_on_signals


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 1 where it could not start."""
    exit_on_signals(0, signal.SIGINT, signal.SIGTERM)
    try:
        from tinyllama_ros.voice.speak_node import run
    except ImportError as error:
        print(f'tinyllama_speak: {advice(error)}', file=sys.stderr)
        return 1
    return run(args)


if __name__ == '__main__':
    sys.exit(main())
