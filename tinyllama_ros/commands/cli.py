"""The entry point of the program `tinyllama-model`."""

from collections.abc import Sequence
import signal
import sys

from tinyllama_ros.signals import exit_on_signals, interrupt_once

INTERRUPTED = 'tinyllama-model: interrupted; nothing is left half-written'


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status, 130 where it was interrupted."""
    exit_on_signals(130, signal.SIGINT, message=INTERRUPTED)
    from tinyllama_ros.commands.command_line import run
    from tinyllama_ros.engine.host import prefer_plain_attention
    prefer_plain_attention()
    try:
        signal.signal(signal.SIGINT, interrupt_once)
        return run(argv)
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        return 130


if __name__ == '__main__':
    sys.exit(main())
