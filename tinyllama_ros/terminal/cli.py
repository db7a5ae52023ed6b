"""The entry point of the program `chat`."""

from collections.abc import Sequence
import sys

from tinyllama_ros.ros.imports import advice


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status, 1 with one line where a library is missing."""
    try:
        from tinyllama_ros.terminal.session import run
    except ImportError as error:
        print(f'chat: {advice(error)}', file=sys.stderr)
        return 1
    return run(argv)


if __name__ == '__main__':
    sys.exit(main())
