"""
Connects the program `chat` to ROS, starts the conversation in the terminal, and ends it.

Answers go to stdout, notes about them (resets, errors, results of commands) to stderr.
"""

import argparse
from collections.abc import Sequence
from io import TextIOWrapper
import os
from queue import Queue
import signal
import sys

from tinyllama_ros.errors import TinyLlamaError
from tinyllama_ros.ros.client import ConversationEvent, NodeClient, open_client
from tinyllama_ros.terminal.conversation import COMMANDS, Conversation
from tinyllama_ros.terminal.keyboard import Keyboard
from tinyllama_ros.terminal.screen import printable, Screen


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='chat', description='Talk to the language model in the terminal.',
        epilog='While talking: ' + '; '.join(f'{name} {does}' for name, does in COMMANDS.items()))
    parser.add_argument('--node', default='/tinyllama',
                        help='full name of the node (default: %(default)s)')
    parser.add_argument('--once', metavar='PROMPT',
                        help='send this prompt, print the answer and exit')
    parser.add_argument('--wait', type=float, default=30.0, metavar='SECONDS',
                        help='how long to wait until the node is ready (default: %(default)s)')
    return parser


def converse(client: NodeClient, events: Queue[ConversationEvent], once: str | None,
             wait_s: float) -> bool:
    """Hold the conversation; return whether the single prompt, if there is one, was answered."""
    with Keyboard(sys.stdin, list(COMMANDS)) as keyboard:
        conversation = Conversation(client, events, Screen(sys.stdout, sys.stderr), keyboard)
        conversation.wait_until_ready(wait_s)
        if once is not None:
            return conversation.ask(once)
        conversation.converse(wait_s)
    return True


def run(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    arguments = make_parser().parse_args(argv)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # '?' for characters that cannot be encoded
            stream.reconfigure(errors='replace')
    events: Queue[ConversationEvent] = Queue()
    try:
        with open_client('tinyllama_terminal', arguments.node, on_event=events.put) as client:
            try:
                return 0 if converse(client, events, arguments.once, arguments.wait) else 1
            finally:
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # it would cut the end of ROS
    except TinyLlamaError as error:
        print(f'chat: {printable(str(error))}', file=sys.stderr)
        return 1
    except BrokenPipeError:  # the program that reads the answers has ended; at exit Python would
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # report it
        return 141
