"""Start the default model's node and the page to chat in; print the page's address."""

import argparse
from collections.abc import Sequence
import socket
import subprocess
import sys

from demo import beside_node, BIN, in_front

PORT = 8080


def free_port(host: str, wanted: int) -> int:
    """Return the wanted port, or a free one if it is in use."""
    family = socket.AF_INET6 if ':' in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except OSError:
            probe.bind((host, 0))
        return int(probe.getsockname()[1])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--host', default='127.0.0.1',
                        help='address to serve at; 0.0.0.0 lets other machines in, with the '
                        'token that is then printed (default: %(default)s)')
    parser.add_argument('--port', type=int, default=PORT,
                        help='port to serve at, or another where it is taken '
                        '(default: %(default)s)')
    arguments = parser.parse_args(argv)

    def front(node: subprocess.Popen[bytes]) -> int:
        port = free_port(arguments.host, arguments.port)
        return in_front([str(BIN / 'tinyllama_web'), '--ros-args', '-p',
                         f'host:={arguments.host}', '-p', f'port:={port}'], node)

    return beside_node(front)


if __name__ == '__main__':
    sys.exit(main())
