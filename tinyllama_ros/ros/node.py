"""The entry point of the program `tinyllama_node`."""

from collections.abc import Sequence
import signal
import sys

from tinyllama_ros.ros.imports import advice
from tinyllama_ros.signals import exit_on_signals


def main(args: Sequence[str] | None = None) -> int:
    """Run the node; return its exit status, 1 with one line where a library is missing."""
    exit_on_signals(0, signal.SIGINT, signal.SIGTERM)
    try:
        from tinyllama_ros.engine.host import prefer_plain_attention, return_large_buffers
        from tinyllama_ros.ros.lifecycle_node import run
    except ImportError as error:
        print(f'tinyllama_node: {advice(error)}', file=sys.stderr)
        return 1
    prefer_plain_attention()
    return_large_buffers()
    return run(args)


if __name__ == '__main__':
    sys.exit(main())
