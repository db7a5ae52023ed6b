"""
Start the default model's node in a process of its own and talk to it from another.

One prompt and its answer, or with --chat a conversation. The node stops when the talk ends.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
import os
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import tempfile
from typing import IO

MODEL = 'smollm2-135m-instruct'
PROMPT = 'What is a robot? Answer in two sentences.'
WAIT_S = 120
STOP_S = 10
BIN = Path(sys.executable).parent  # the environment that runs this, not the python it links to


def build_model() -> str:
    """Return the model's artifact folder, after fetching and building what is not there yet."""
    done = subprocess.run([BIN / 'tinyllama-model', 'build', MODEL, '--quant', 'w8a8'],
                          stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)  # it has said why
    return done.stdout.splitlines()[-1]


def node_command(model: str) -> list[str]:
    """Return what starts the node: `ros2 launch` where the package is built into a ROS 2."""
    if shutil.which('ros2') and subprocess.run(['ros2', 'pkg', 'prefix', 'tinyllama_ros'],
                                               capture_output=True).returncode == 0:
        return ['ros2', 'launch', 'tinyllama_ros', 'tinyllama.launch.py', f'model:={model}']
    return [str(BIN / 'tinyllama_node'), '--ros-args', '-p', f'model:={model}']


@contextmanager
def running(command: list[str], log: IO[bytes] | int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command that Ctrl-C in this terminal does not reach; stop it in the end."""
    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
    finally:
        for stop in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
            if process.poll() is None:
                os.killpg(process.pid, stop)
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    continue


def in_front(command: list[str], node: subprocess.Popen[bytes]) -> int:
    """Return the exit status of a command, to which Ctrl-C belongs; 1 if the node ends first."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    client = subprocess.Popen(command)
    try:
        while client.poll() is None:
            if node.poll() is not None:
                return 1
            with suppress(subprocess.TimeoutExpired):
                client.wait(0.5)
        return client.returncode
    finally:
        client.terminate()
        client.wait()
        signal.signal(signal.SIGINT, before)


def beside_node(front: Callable[[subprocess.Popen[bytes]], int]) -> int:
    """Return the status of what talks to the default model's node, which runs as long as that."""
    # Whoever ends this ends the node too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(1))
    command = node_command(build_model())
    print('$', *command, flush=True)
    with tempfile.TemporaryFile() as log:
        with running(command, log) as node:
            status = front(node)
            has_ended = node.poll() is not None
        if has_ended or status == 1:
            log.seek(0)
            print('the node said:', log.read().decode(errors='replace'), sep='\n',
                  file=sys.stderr)
    return status


def talk(options: list[str], node: subprocess.Popen[bytes]) -> int:
    """Return the exit status of the terminal client."""
    return in_front([str(BIN / 'chat'), '--wait', str(WAIT_S), *options], node)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--chat', action='store_true', help='talk on, instead of one prompt')
    parser.add_argument('--prompt', default=PROMPT, help='the one prompt (default: %(default)s)')
    arguments = parser.parse_args(argv)

    def front(node: subprocess.Popen[bytes]) -> int:
        if arguments.chat:
            return talk([], node)
        print('>', arguments.prompt, flush=True)
        return talk(['--once', arguments.prompt], node)

    return beside_node(front)


if __name__ == '__main__':
    sys.exit(main())
