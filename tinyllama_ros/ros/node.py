"""The lifecycle node: topics, services, parameters and diagnostics around one conversation."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import sha256
import json
import logging
import secrets
import signal
import socket
from threading import Event, Lock, Thread
from typing import Any

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.places import find_artifact
from tinyllama_ros.chat.completion import CompletionEvent, CompletionRequest, read_id
from tinyllama_ros.chat.conversation import Conversation, open_conversation
from tinyllama_ros.chat.events import ChatOptions, ResetReason
from tinyllama_ros.chat.serving import RecordKind, Server, State
from tinyllama_ros.engine.backend import open_backend, OPTIONS
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.host import prefer_plain_attention
from tinyllama_ros.errors import ConfigError, RequestError, TinyLlamaError
from tinyllama_ros.ros.diagnostics import describe
from tinyllama_ros.ros.parameters import chat_options, PARAMETERS
from tinyllama_ros.ros.worker import Worker

try:
    from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
    from rcl_interfaces.msg import SetParametersResult
    from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
    from rclpy.exceptions import InvalidHandle
    from rclpy.executors import MultiThreadedExecutor
    from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
    from rclpy.parameter import Parameter as RosParameter
    from rclpy.qos import DurabilityPolicy, QoSProfile
    from std_msgs.msg import String
    from std_srvs.srv import Trigger

    from tinyllama_ros.ros.process import declare_parameters, run_in_ros
except ImportError as missing:
    raise SystemExit(f'{missing}: source a ROS 2 (source /opt/ros/jazzy/setup.bash), or install '
                     "its wheels: pip install -e '.[ros]'") from missing

EVENTS = QoSProfile(depth=1000)
"""Reliable and volatile, and deep enough that a slow subscriber loses no token."""
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
HISTORY = QoSProfile(depth=200, durability=DurabilityPolicy.TRANSIENT_LOCAL)
"""What was said is kept for who comes late."""
RESET_TIMEOUT_S = 60.0
SIGNAL_PERIOD_S = 1.0
"""A signal that reached another thread, as after SIGSTOP, is seen when the first one wakes."""
THREADS = 4
"""Of the executor; a reset keeps one until it is done, and the rest stays responsive beside it."""


class Topics:
    """What the node says; the listener of its server."""

    def __init__(self, node: LifecycleNode) -> None:
        self._logger = node.get_logger()
        self._events = {name: node.create_publisher(String, f'~/{name}', EVENTS)
                        for name in ('token', 'sentence', 'response', 'cache_reset', 'error')}
        self._states = node.create_publisher(String, '~/state', LATCHED)
        self._completions = node.create_publisher(String, '~/chat_event', EVENTS)
        self._history = node.create_publisher(String, '~/history', HISTORY)
        self._recording = Lock()
        self._run = ''
        self._lines = 0

    def begin(self) -> None:
        """Begin the record of a conversation of which nothing was said yet."""
        self._run, self._lines = secrets.token_hex(8), 0
        self._record('begun', '', '')

    def on_state(self, state: State) -> None:
        self._states.publish(_string(state))

    def on_token(self, text: str) -> None:
        self._events['token'].publish(_string(text))

    def on_sentence(self, text: str) -> None:
        self._events['sentence'].publish(_string(text))

    def on_response(self, text: str) -> None:
        self._events['response'].publish(_string(text))

    def on_reset(self, reason: ResetReason) -> None:
        self._events['cache_reset'].publish(_string(reason))

    def on_error(self, message: str) -> None:
        self._logger.error(message)
        self._events['error'].publish(_string(message))

    def on_completion(self, event: CompletionEvent) -> None:
        self._completions.publish(_string(event.to_json()))

    def on_record(self, kind: RecordKind, text: str, why: str = '') -> None:
        self._record(kind, text, why)

    def _record(self, kind: str, text: str, why: str) -> None:
        with self._recording:  # refusals come from another thread than the rest
            self._lines += 1
            line = {'run': self._run, 'line': self._lines, 'kind': kind, 'text': text, 'why': why}
            self._history.publish(String(data=json.dumps(line)))


class TinyLlamaNode(LifecycleNode):
    """Serves prompts while it is active."""

    def __init__(self, **options: Any) -> None:
        super().__init__('tinyllama', automatically_declare_parameters_from_overrides=True,
                         **options)
        declare_parameters(self, PARAMETERS)
        self.add_on_set_parameters_callback(self._check_parameters)
        self._conversation: Conversation | None = None
        self._server: Server | None = None
        self._worker: Worker | None = None
        self._inputs: list[Any] = []  # of prompts and requests, while active
        self._topics = Topics(self)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', 10)
        self._group = ReentrantCallbackGroup()
        self.create_timer(1.0, self._publish_diagnostics, callback_group=self._group)
        self.create_service(Trigger, '~/reset', self._reset, callback_group=self._group)
        self.create_service(Trigger, '~/cancel', self._cancel, callback_group=self._group)
        self._hearing = MutuallyExclusiveCallbackGroup()  # or prompts overtake each other

    def start(self) -> bool:
        """Configure and activate; False where that failed, which was logged."""
        return bool(self.trigger_configure() == TransitionCallbackReturn.SUCCESS
                    and self.trigger_activate() == TransitionCallbackReturn.SUCCESS)

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model."""
        self._topics.on_state('loading')
        try:
            self._load()
        except TinyLlamaError as error:
            return self._fail(str(error))
        except Exception as error:  # the edge: rclpy would swallow it without a word
            return self._fail(f'the model could not be loaded: {error!r}')
        return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Serve prompts from here on: whoever waits for a subscriber finds one that answers."""
        assert self._server is not None
        self._server.open()
        self._worker = Worker(self._server.serve)
        for name, hear in (('chat_request', self._hear_request),
                           ('chat_cancel', self._hear_cancel), ('prompt', self._hear)):
            self._inputs.append(self.create_subscription(
                String, f'~/{name}', hear, EVENTS, callback_group=self._hearing))
        self._worker.wake()  # it says that the node is idle
        return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Cut the answer under way short and take no further prompts."""
        self._stop()
        self._topics.on_state('loading')
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        self._release()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything, from whatever state."""
        self._stop()
        self._release()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything after a transition that failed in an unforeseen way."""
        self._stop()
        self._fail('a transition failed and all is freed; configure the node again')
        return super().on_error(state)

    def _load(self) -> None:
        folder = find_artifact(self._value('model'))
        artifact = Artifact.open(folder)
        _check_room(self._options(), artifact.manifest.kv_length)
        name = self._value('backend')
        options = {option.name: self._value(option.parameter) for option in OPTIONS}
        engine = Engine(lambda: open_backend(name, artifact, **options))
        self._conversation = open_conversation(artifact, engine)
        self._server = Server(self._conversation, self._topics, options=self._options,
                              depth=self._value('queue_depth'))
        if self._has_namesake():
            raise _taken(self)
        self._topics.begin()
        self.get_logger().info(f'loaded {folder} ({artifact.manifest.kv_length} slots)')

    def _fail(self, message: str) -> TransitionCallbackReturn:
        self._release()
        self._topics.on_error(message)
        self._topics.on_state('error')
        return TransitionCallbackReturn.FAILURE

    def _has_namesake(self) -> bool:
        own = self.get_name(), self.get_namespace()
        namesakes: int = self.get_node_names_and_namespaces().count(own)
        return namesakes > 1

    def _stop(self) -> None:
        worker, self._worker = self._worker, None
        try:
            if self._server is not None:
                self._server.close()
            while self._inputs:
                self._end_input(self._inputs.pop())
        finally:
            if worker is not None:
                worker.close()

    def _end_input(self, subscription: Any) -> None:
        """Destroy a subscription of a closed server, which first refuses what has come by it."""
        for _ in range(EVENTS.depth):  # what a queue can hold: others may go on publishing
            if (taken := subscription.handle.take_message(String, False)) is None:
                break
            message, _ = taken
            subscription.callback(message)
        self.destroy_subscription(subscription)

    def _release(self) -> None:
        if self._conversation is not None:
            self._conversation.close()
        self._conversation = self._server = None

    def _value(self, name: str) -> Any:
        return self.get_parameter(name).value

    def _options(self) -> ChatOptions:
        return chat_options({name: self._value(name) for name in PARAMETERS})

    def _check_parameters(self, changes: Sequence[RosParameter]) -> SetParametersResult:
        """Refuse values that the turns could not use, and what is fixed while configured."""
        values = {name: self._value(name) for name in PARAMETERS}
        known = [change for change in changes if change.name in values]
        for change in known:
            if PARAMETERS[change.name].is_fixed and self._server is not None:
                return SetParametersResult(successful=False, reason=f'{change.name} is read when '
                                           'the node is configured; clean it up first')
        try:
            options = chat_options(values | {change.name: change.value for change in known})
            if self._conversation is not None:
                _check_room(options, self._conversation.capacity)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _hear(self, prompt: String) -> None:
        if (server := self._server) is not None:
            server.submit(prompt.data)
            self._wake()

    def _hear_request(self, message: String) -> None:
        if (server := self._server) is None:
            return
        try:
            server.submit_request(CompletionRequest.from_json(message.data))
        except RequestError as error:
            self._topics.on_completion(CompletionEvent(
                read_id(message.data), 'error', str(error), 'invalid_request', error.param))
        self._wake()

    def _hear_cancel(self, message: String) -> None:
        if (server := self._server) is not None:
            server.cancel_request(message.data)

    def _wake(self) -> None:
        if (worker := self._worker) is not None:
            worker.wake()

    def _reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        server = self._server
        if server is None or self._worker is None:
            response.message = 'the node is not active'
            return response
        done = server.reset()
        self._wake()
        if not done.wait(RESET_TIMEOUT_S):
            response.message = f'not done within {RESET_TIMEOUT_S:.0f} s; see ~/error'
        elif server.state == 'error':
            response.message = 'the conversation is cleared, the model is not loaded; see ~/error'
        else:
            response.success = True
            response.message = 'the conversation is cleared'
        return response

    def _cancel(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        server = self._server
        is_stopped = server is not None and server.cancel()
        response.success = True
        response.message = 'the answer is stopped' if is_stopped else 'nothing was being answered'
        return response

    def _publish_diagnostics(self) -> None:
        status = DiagnosticStatus(name=f'{self.get_fully_qualified_name()}: language model',
                                  hardware_id=self._value('backend'))
        server, conversation = self._server, self._conversation
        if server is None or conversation is None:
            status.level, status.message = DiagnosticStatus.WARN, 'no model is loaded'
        elif server.state == 'error':
            status.level, status.message = DiagnosticStatus.ERROR, 'the last answer failed'
        elif self._has_namesake():
            status.level = DiagnosticStatus.WARN
            status.message = 'another node has the same name; both answer every prompt'
        else:
            status.level, status.message = DiagnosticStatus.OK, server.state
        if server is not None and conversation is not None:
            values = {'model': self._value('model'), 'backend': self._value('backend'),
                      **describe(server, conversation)}
            status.values = [KeyValue(key=key, value=value) for key, value in values.items()]
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


class _ToRosLog(logging.Handler):
    """Hands what the layers below log to the logger of the node."""

    def __init__(self, node: LifecycleNode) -> None:
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


def _string(text: str) -> String:
    """Return a message; a NUL, at which ROS would end the text, becomes U+FFFD."""
    return String(data=text.replace('\0', '\N{REPLACEMENT CHARACTER}'))


def _check_room(options: ChatOptions, capacity: int) -> None:
    if options.answer_room > capacity // 2:
        raise ConfigError(f'answer_room is {options.answer_room}; it may be at most half of the '
                          f'{capacity} slots of the cache')


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 1 where it could not start."""
    prefer_plain_attention()
    return run_in_ros('tinyllama_node', _run_node, args)


def _run_node() -> int:
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    node = TinyLlamaNode()
    with _sole(node):
        return _run(node, stop)


@contextmanager
def _sole(node: TinyLlamaNode) -> Iterator[None]:
    """
    Hold the name of the node on this machine.

    The graph shows a namesake up to 3 s late (DDS announces itself at that period), and by then
    both would have answered. An abstract socket is taken at once, and freed however we end.

    :raises ConfigError: another process holds it.
    """
    name = f'{node.context.get_domain_id()} {node.get_fully_qualified_name()}'
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as holder:
        try:
            holder.bind(f'\0tinyllama_ros {sha256(name.encode()).hexdigest()}')
        except OSError as error:
            raise _taken(node) from error
        yield


def _taken(node: TinyLlamaNode) -> ConfigError:
    return ConfigError(f'another node is called {node.get_fully_qualified_name()}; give this one '
                       'another name: --ros-args -r __node:=...')


def _spin(executor: MultiThreadedExecutor, node: TinyLlamaNode, stop: Event) -> None:
    """Run callbacks until the executor is shut down, also after one of them has failed."""
    while True:
        try:
            executor.spin()
            return
        except InvalidHandle:  # rclpy has met a subscription that a transition destroyed meanwhile
            pass
        except Exception as error:  # the edge; rclpy raises here where a transition is impossible
            if stop.is_set():  # rclpy fails where a callback ends while the executor does
                return
            node.get_logger().error(f'a callback failed: {error!r}')


def _run(node: TinyLlamaNode, stop: Event) -> int:
    handler = _ToRosLog(node)
    logging.getLogger('tinyllama_ros').addHandler(handler)
    logging.getLogger('tinyllama_ros').setLevel(logging.INFO)
    executor = MultiThreadedExecutor(THREADS)
    executor.add_node(node)
    spinner = Thread(target=_spin, args=(executor, node, stop))
    spinner.start()
    try:
        if node.get_parameter('autostart').value and not node.start():
            return 1
        while not stop.wait(SIGNAL_PERIOD_S):
            pass
        return 0
    finally:
        stop.set()
        with suppress(RuntimeError):  # it was shut down already, by a lifecycle manager
            node.trigger_shutdown()
        executor.shutdown()
        spinner.join()
        node.destroy_node()
