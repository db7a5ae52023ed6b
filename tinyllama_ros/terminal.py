"""
A conversation in the terminal, through the node's topics and services alone.

Answers go to stdout, everything about them (resets, errors, the node's state) to stderr.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from queue import Empty, Queue
import signal
import sys
from threading import Event as Flag, Thread
import time
from typing import Any, get_args, Literal, NamedTuple, TextIO

from tinyllama_ros.errors import TinyLlamaError

try:
    import rclpy
    from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from rclpy.signals import SignalHandlerOptions
    from std_msgs.msg import String
    from std_srvs.srv import Trigger
except ImportError as missing:
    raise SystemExit(f'{missing}: source a ROS 2 (source /opt/ros/jazzy/setup.bash), or install '
                     "its wheels: pip install -e '.[ros]'") from missing

Kind = Literal['token', 'response', 'cache_reset', 'error', 'state']

EVENTS = QoSProfile(depth=1000)
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
TICK_S = 0.02
QUIET_S = 0.1
REPLY_S = 10.0
DISCOVERY_S = 1.0
"""How long we may know the state of a node and not yet that it hears our prompts."""
AT_WORK = ('reading', 'answering')
AT_REST = ('idle', 'error')
"""A failed answer leaves the node in error, but it takes the next prompt and may recover."""
UNPRINTABLE = {code: '\ufffd' for code in (*range(0x20), *range(0x7F, 0xA0))
               if chr(code) not in '\n\t'}


class Event(NamedTuple):
    """What the node said, and on which topic."""

    kind: Kind
    text: str


class NodeError(TinyLlamaError):
    """The node is not there, or cannot serve."""


def printable(text: str) -> str:
    """
    Return a text with U+FFFD for each control character except newline and tab.

    What a model writes must not move the cursor, rename the window or press keys.
    """
    return text.translate(UNPRINTABLE)


class AnswerText:
    """
    An answer in order, although its tokens and its response come on different topics.

    The response may overtake the last tokens: then it completes the answer, and the tokens that
    come late are dropped.
    """

    def __init__(self) -> None:
        self._shown = ''
        self._late = 0

    def token(self, piece: str) -> str:
        """Return what of a piece is not shown yet."""
        dropped = min(self._late, len(piece))
        self._late -= dropped
        self._shown += piece[dropped:]
        return piece[dropped:]

    def response(self, answer: str) -> str:
        """End the answer; return what of it is not shown yet."""
        joined_midway = not answer.startswith(self._shown)
        rest = '' if joined_midway else answer[len(self._shown):]
        self._shown, self._late = '', len(rest)
        return rest


class Link:
    """A connection to one node: its events in a queue, prompts and services towards it."""

    def __init__(self, target: str, context: Any) -> None:
        self.target = target
        self.state = ''
        self._events: Queue[Event] = Queue()
        self._node = rclpy.create_node('tinyllama_terminal', context=context,
                                       start_parameter_services=False)
        self._prompts = self._node.create_publisher(String, f'{target}/prompt', EVENTS)
        self._cancel = self._node.create_client(Trigger, f'{target}/cancel')
        self._reset = self._node.create_client(Trigger, f'{target}/reset')
        # The state comes last: subscriptions are announced in order, so that a latched state that
        # arrives proves that the node knows the others, and no token is published past us.
        for kind in get_args(Kind):
            self._node.create_subscription(String, f'{target}/{kind}', partial(self._put, kind),
                                           LATCHED if kind == 'state' else EVENTS)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self._node)
        self._thread = Thread(target=self._spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self._node.destroy_node()

    def is_connected(self) -> bool:
        """Whether the node hears our prompts and still publishes its answers."""
        return bool(self._prompts.get_subscription_count()
                    and self._node.count_publishers(f'{self.target}/response'))

    def wait_until_ready(self, timeout_s: float) -> None:
        """
        Wait until the node serves, and nobody else's prompt is being answered.

        A node that is in error and takes no prompts could not be configured: that is not waited
        for.

        :raises NodeError: says how far the node came.
        """
        began_s = time.monotonic()
        while not (self.state in AT_REST and self.is_connected()):
            limit_s = min(DISCOVERY_S, timeout_s) if self.state == 'error' else timeout_s
            if time.monotonic() - began_s > limit_s:
                raise NodeError(self._why_not_ready(timeout_s))
            time.sleep(TICK_S)

    def send(self, prompt: str) -> None:
        self._prompts.publish(String(data=prompt))

    def events(self) -> Iterator[Event | None]:
        """Yield what the node says, and None whenever it says nothing for a while."""
        while True:
            try:
                yield self._events.get(timeout=QUIET_S)
            except Empty:
                yield None

    def waiting_events(self) -> Iterator[Event]:
        """Yield what the node has said already."""
        while not self._events.empty():
            yield self._events.get()

    def cancel(self) -> None:
        """Ask the node to stop its answer, whose response then comes as it always does."""
        self._cancel.call_async(Trigger.Request())

    def reset(self) -> str:
        """Clear the conversation; return what the node says of it."""
        future = self._reset.call_async(Trigger.Request())
        deadline = time.monotonic() + REPLY_S
        while not future.done():
            if time.monotonic() > deadline:
                raise NodeError(f'{self.target}/reset did not reply within {REPLY_S:.0f} s; '
                                'is the node still running?')
            time.sleep(TICK_S)
        return str(future.result().message)

    def _spin(self) -> None:
        try:
            self._executor.spin()
        except ExternalShutdownException:
            pass

    def _put(self, kind: Kind, message: Any) -> None:
        if kind == 'state':
            self.state = message.data
        self._events.put(Event(kind, message.data))

    def _last_error(self) -> str:
        errors = [event.text for event in self.waiting_events() if event.kind == 'error']
        return errors[-1] if errors else 'its log says why'

    def _why_not_ready(self, timeout_s: float) -> str:
        if self.state == 'error':
            return f'{self.target} is in state error and takes no prompts: {self._last_error()}'
        if self.state:
            return (f'{self.target} is still {self.state} after {timeout_s:g} s; '
                    'wait longer with --wait SECONDS')
        return (f'no node answers on {self.target}/state within {timeout_s:g} s; start it '
                '(ros2 launch tinyllama_ros tinyllama.launch.py), or name another with --node')


class Conversation:
    """What a person at a terminal sees of the node."""

    def __init__(self, link: Link, answers: TextIO, notes: TextIO) -> None:
        self._link = link
        self._answers = answers
        self._notes = notes
        self._answer = AnswerText()
        self._held: list[str] = []
        self._is_mid_line = False

    def ask(self, prompt: str) -> bool:
        """
        Publish a prompt and show the answer as it comes; Ctrl-C stops the answer.

        :return: whether there is an answer, and nothing failed.
        :raises NodeError: the node went away.
        """
        for event in self._link.waiting_events():
            self._catch_up(event)
        self._link.send(prompt)
        with first_interrupt() as interrupted:
            return self._follow(interrupted)

    def converse(self, lines: Iterator[str], wait_s: float) -> None:
        """Ask each line in turn until the lines end or one is /quit."""
        for line in lines:
            text = line.strip()
            if text == '/quit':
                return
            if text == '/reset':
                self._note(self._link.reset())
            elif text:
                self._link.wait_until_ready(wait_s)
                self.ask(text)

    def _follow(self, interrupted: Flag) -> bool:
        has_failed = False
        quiet_s = 0.0
        for event in self._link.events():
            if interrupted.is_set():
                interrupted.clear()
                self._link.cancel()
            if event is None:
                quiet_s += QUIET_S
                if has_failed and self._link.state not in AT_WORK:
                    return False
                self._check_alive(quiet_s)
                continue
            quiet_s = 0.0
            has_failed |= event.kind == 'error'
            self._show(event)
            if event.kind == 'response':
                return not self._trails_an_error() and bool(event.text) and not has_failed
        raise AssertionError('events never end')

    def _trails_an_error(self) -> bool:
        """Show what the response has overtaken; return whether an error was among it."""
        has_failed = False
        for event in self._link.events():
            if event in (None, ('state', 'reading')):  # or another's turn has begun
                break
            has_failed |= event.kind == 'error'
            self._catch_up(event)
        return has_failed

    def _check_alive(self, quiet_s: float) -> None:
        if not self._link.is_connected():
            self._end_line()
            raise NodeError(f'{self._link.target} went away before it answered; its log says why')
        if quiet_s > REPLY_S and self._link.state not in AT_WORK:
            raise NodeError(f'{self._link.target} is {self._link.state} and did not take the '
                            f'prompt within {REPLY_S:.0f} s; its log says why')

    def _catch_up(self, event: Event) -> None:
        """Show what came since the last turn, but not an answer to somebody else."""
        if event.kind == 'token':
            self._answer.token(event.text)
        elif event.kind == 'response':
            self._answer.response(event.text)
        else:
            self._show(event)

    def _show(self, event: Event) -> None:
        if event.kind == 'token':
            self._write(self._answer.token(event.text))
        elif event.kind == 'response':
            self._write(self._answer.response(event.text))
            self._end_line()
        elif event.kind == 'cache_reset':
            self._note(f'the memory was cleared: {event.text}')
        elif event.kind == 'error':
            self._note(f'error: {event.text}')

    def _write(self, piece: str) -> None:
        self._answers.write(printable(piece))
        self._answers.flush()
        self._is_mid_line = self._is_mid_line or bool(piece)

    def _end_line(self) -> None:
        if self._is_mid_line:
            self._answers.write('\n')
            self._answers.flush()
        self._is_mid_line = False
        for note in self._held:
            self._note(note)
        self._held.clear()

    def _note(self, text: str) -> None:
        """Print a remark; in the middle of an answer it waits for the end."""
        if self._is_mid_line:
            self._held.append(text)
        else:
            print(f'[{printable(text)}]', file=self._notes, flush=True)


@contextmanager
def first_interrupt() -> Iterator[Flag]:
    """Give a flag that the first Ctrl-C sets; the second one is a KeyboardInterrupt again."""
    flag = Flag()

    def set_flag(*_: object) -> None:
        flag.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, set_flag)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, before)


def typed_lines() -> Iterator[str]:
    """Yield what is typed, or each line of what is piped in, until Ctrl-D, Ctrl-C or the end."""
    if not sys.stdin.isatty():
        for line in sys.stdin:
            print(f'> {line.rstrip()}', flush=True)
            yield line
        return
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() its editing and history
    with suppress(EOFError, KeyboardInterrupt):
        while True:
            yield input('> ')
    print()


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='chat', description='Talk to the language model in the terminal. '
        '/reset clears its memory, /quit or Ctrl-D leaves, Ctrl-C stops an answer.')
    parser.add_argument('--node', default='/tinyllama',
                        help='full name of the node (default: %(default)s)')
    parser.add_argument('--once', metavar='PROMPT', help='ask this, print the answer and leave')
    parser.add_argument('--wait', type=float, default=30.0, metavar='SECONDS',
                        help='how long the node may take until it serves (default: %(default)s)')
    return parser


def run(link: Link, once: str | None, wait_s: float) -> bool:
    """Hold the conversation; return whether the single prompt, if there is one, was answered."""
    conversation = Conversation(link, sys.stdout, sys.stderr)
    link.wait_until_ready(wait_s)
    if once is not None:
        return conversation.ask(once)
    conversation.converse(typed_lines(), wait_s)
    return True


def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    context = rclpy.Context()
    # Ctrl-C is ours: it stops an answer, not the connection.
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    link = Link(arguments.node.rstrip('/'), context)
    try:
        return 0 if run(link, arguments.once, arguments.wait) else 1
    except TinyLlamaError as error:
        print(f'chat: {printable(str(error))}', file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        link.close()
        context.try_shutdown()


if __name__ == '__main__':
    sys.exit(main())
