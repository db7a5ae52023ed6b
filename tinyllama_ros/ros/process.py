"""Starts and stops the process of a node: signals, executor, log, unique node name."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
import logging
import os
import signal
import socket
import sys
from threading import Event, Thread, Timer

import rclpy
from rclpy.exceptions import InvalidHandle, ParameterException
from rclpy.executors import (
    Executor,
    ExternalShutdownException,
    MultiThreadedExecutor,
    SingleThreadedExecutor,
)
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from tinyllama_ros.errors import ConfigError

SIGNALS = signal.SIGINT, signal.SIGTERM
SIGNAL_PERIOD_S = 0.2
"""A signal that reached another thread, as after SIGSTOP, is seen when the first one wakes."""
STOP_S = 1.2
"""How long the threads of a process that was told to stop may take."""
LAST_WORDS_S = 0.3


def run_in_ros(program: str, run: Callable[[], int], args: Sequence[str] | None) -> int:
    """
    Initialise ROS without its signal handlers, call `run`, and return its exit status.

    :param program: name in front of an error, which is one line on stderr and status 1.
    """
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
    except RuntimeError as error:  # rclpy cannot parse the arguments
        print(f'{program}: {error}', file=sys.stderr)
        return 1
    try:
        return run()
    except (ConfigError, ParameterException) as error:
        print(f'{program}: {error}', file=sys.stderr)
        return 1
    finally:
        rclpy.try_shutdown()
        for number in SIGNALS:  # what comes now would interrupt Python's own end
            signal.signal(number, signal.SIG_IGN)


def stop_on_signals() -> Event:
    """Return an event that SIGINT and SIGTERM set from here on."""
    stop = Event()
    for number in SIGNALS:
        signal.signal(number, lambda *_: stop.set())
    return stop


def end_in_time(status: int, last_words: Callable[[], None]) -> None:
    """
    Have the process end with a status where its threads do not end within STOP_S.

    A model that is being loaded and a forward pass can take longer, and nothing interrupts them.

    :param last_words: is called before the process ends so.
    """
    def end() -> None:
        speaker = Thread(target=last_words, daemon=True)
        speaker.start()
        speaker.join(LAST_WORDS_S)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(status)

    timer = Timer(STOP_S, end)
    timer.daemon = True
    timer.start()


@contextmanager
def spinning(node: Node, executor: Executor | None = None) -> Iterator[None]:
    """
    Run the callbacks of a node in separate threads; those that have begun are finished.

    :param executor: one of a single thread unless it is given.
    """
    executor = executor or SingleThreadedExecutor(context=node.context)
    executor.add_node(node)
    is_over = Event()
    thread = Thread(target=_spin, args=(executor, node, is_over.is_set), daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        executor.wake()
        thread.join()
        if isinstance(executor, MultiThreadedExecutor):
            executor._executor.shutdown()  # rclpy's own does not wait, and their replies are lost
        executor.shutdown()


def _spin(executor: Executor, node: Node, is_over: Callable[[], bool]) -> None:
    while not is_over():
        try:
            executor.spin_once(SIGNAL_PERIOD_S)
        except ExternalShutdownException:
            return
        except InvalidHandle:  # a transition destroyed a subscription meanwhile
            pass
        except Exception as error:  # whatever a callback raises
            node.get_logger().error(f'a callback failed: {error!r}')


@contextmanager
def name_lock(node: Node) -> Iterator[None]:
    """
    Hold the name of the node on this machine.

    The ROS graph shows another node of that name up to 3 s late, and by then both could have
    answered. An abstract socket is exclusive at once, and the system frees it in any case.

    :raises ConfigError: another process holds the name.
    """
    name = f'{node.context.get_domain_id()} {node.get_fully_qualified_name()}'
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        try:
            holder.bind(f'\0tinyllama_ros {sha256(name.encode()).hexdigest()}')
        except OSError as error:
            raise name_is_taken(node) from error
        yield


def name_is_taken(node: Node) -> ConfigError:
    """Return the error for a name that another node has already."""
    return ConfigError(f'another node is called {node.get_fully_qualified_name()}; give this one '
                       'another name: --ros-args -r __node:=...')


class RosLogHandler(logging.Handler):
    """Passes log messages of the other packages to the logger of a node."""

    def __init__(self, node: Node) -> None:
        super().__init__()
        self._logger = node.get_logger()

    def emit(self, record: logging.LogRecord) -> None:
        # rclpy binds a severity to the line of the call, so each has its own
        if record.levelno >= logging.ERROR:
            self._logger.error(self.format(record))
        elif record.levelno >= logging.WARNING:
            self._logger.warning(self.format(record))
        else:
            self._logger.info(self.format(record))


@contextmanager
def log_through(node: Node) -> Iterator[None]:
    """Have the layers below log through a node."""
    handler, logger = RosLogHandler(node), logging.getLogger('tinyllama_ros')
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
