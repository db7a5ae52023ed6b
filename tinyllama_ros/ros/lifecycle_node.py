"""The lifecycle node: topics, services, parameters and diagnostics around one conversation."""

from collections.abc import Callable, Sequence
from contextlib import suppress
import sys
from threading import Event, Lock, Thread
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup, ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.executors import MultiThreadedExecutor
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter as RosParameter
from std_srvs.srv import Trigger

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.places import find_artifact
from tinyllama_ros.chat.conversation import Conversation, open_conversation
from tinyllama_ros.chat.events import ChatOptions
from tinyllama_ros.chat.serving import Server
from tinyllama_ros.engine.backend import open_backend, OPTIONS
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.errors import ConfigError, RequestError, TinyLlamaError
from tinyllama_ros.ros.diagnostics import describe_status
from tinyllama_ros.ros.interface import ENDPOINTS, endpoints
from tinyllama_ros.ros.notice_publisher import NoticePublisher
from tinyllama_ros.ros.parameter_node import ParameterMixin
from tinyllama_ros.ros.parameters import chat_options, interruption_options, PARAMETERS
from tinyllama_ros.ros.process import (
    end_in_time,
    log_through,
    name_is_taken,
    name_lock,
    run_in_ros,
    SIGNAL_PERIOD_S,
    spinning,
    stop_on_signals,
)
from tinyllama_ros.ros.topic_input import TopicInput
from tinyllama_ros.ros.wire import read_id, read_request

CANCEL_TIMEOUT_S = 10.0
RESET_TIMEOUT_S = 60.0
THREADS = 8
"""Of the executor: a reset and a cancel block one each, and the others stay responsive."""


class TinyLlamaNode(ParameterMixin, LifecycleNode):
    """Serves prompts while it is active."""

    def __init__(self, **options: Any) -> None:
        super().__init__('tinyllama', automatically_declare_parameters_from_overrides=True,
                         **options)
        self.declare_table(PARAMETERS)
        self.add_on_set_parameters_callback(self._check_parameters)
        self._conversation: Conversation | None = None
        self._server: Server | None = None
        self._inputs: list[TopicInput] = []  # while active
        self._lost = 0  # messages that never reached them
        self._has_ended = False
        # Held during each transition, which runs in the executor's thread or in the main thread
        self._transition = Lock()
        self._receiving = Lock()  # held while a prompt or request is passed on
        self._publisher = NoticePublisher(self)
        self._group = ReentrantCallbackGroup()
        handlers = {'~/reset': self._on_reset, '~/cancel': self._on_cancel}
        for name, endpoint in endpoints('service').items():
            self.create_service(endpoint.type, name, handlers[name], callback_group=self._group)
        diagnostics = ENDPOINTS['/diagnostics']
        self._diagnostics = self.create_publisher(diagnostics.type, '/diagnostics',
                                                  diagnostics.qos)
        # Steady time, so that diagnostics go on if ROS time is simulated, set back or absent
        self.create_timer(1.0, self._publish_diagnostics, callback_group=self._group,
                          clock=Clock(clock_type=ClockType.STEADY_TIME))

    def start(self) -> bool:
        """
        Configure and activate; return False if that failed, which was logged.

        :raises RuntimeError: the node was shut down meanwhile.
        """
        return bool(self.trigger_configure() == TransitionCallbackReturn.SUCCESS
                    and self.trigger_activate() == TransitionCallbackReturn.SUCCESS)

    def end(self) -> None:
        """Shut down from any state, after the current transition has ended."""
        try:
            self.trigger_shutdown()
        except RuntimeError:  # shut down already, or in a transition
            with self._transition:
                self._finalize()
        with self._receiving:  # what was received last is refused before the publishers go
            pass
        self._has_ended = True

    def abandon(self) -> None:
        """Tell that all is stopped, whatever the model is at; the process must end then."""
        if self._has_ended:  # all is told, and the publishers may be going at this moment
            return
        if (server := self._server) is not None:
            server.abandon()
        self._publisher.tell_state('finalized')

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model."""
        with self._transition:
            self._publisher.tell_state('loading')
            try:
                self._load()
            except TinyLlamaError as error:
                return self._fail(str(error))
            except Exception as error:  # the edge: rclpy would swallow it without a word
                return self._fail(f'the model could not be loaded: {error!r}')
            return super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start to serve, then subscribe to the inputs, so that every subscriber answers."""
        with self._transition:
            assert self._server is not None
            self._server.start()
            callbacks: dict[str, Callable[[Any], None]] = {
                '~/chat_request': self._on_request, '~/chat_cancel': self._on_chat_cancel,
                '~/speaking': self._on_speaking, '~/spoken': self._on_spoken,
                '~/prompt': self._on_prompt}
            # Keeps prompts in order; a new one, as rclpy keeps a trace of each subscription in it
            receivers = MutuallyExclusiveCallbackGroup()
            for name, endpoint in endpoints('subscription').items():
                depth = self.value('prompt_depth') if name == '~/prompt' else endpoint.depth
                self._inputs.append(TopicInput(
                    self, name, callbacks[name], busy=self._receiving, group=receivers,
                    depth=depth))
            return super().on_activate(state)

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop the current answer and accept no further prompts."""
        with self._transition:
            self._stop()
            self._publisher.tell_state('loading')
            return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free the model."""
        with self._transition:
            self._release()
            return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop and free everything, from any state."""
        with self._transition:
            self._finalize()
            return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Free everything after a transition that failed unexpectedly."""
        with self._transition:
            self._stop()
            self._fail('a transition failed and all is freed; configure the node again')
            return super().on_error(state)

    def _LifecycleNodeMixin__on_change_state(self, request: Any, response: Any) -> Any:
        # rclpy has no public hook here: an impossible transition raises, and sends no reply
        try:
            return super()._LifecycleNodeMixin__on_change_state(request, response)
        except RuntimeError:
            _, state = self._state_machine.current_state
            possible = [label for _, label, *_ in self._state_machine.available_transitions
                        if not label.startswith(('transition_', 'on_'))]
            self.get_logger().warning(
                f'the transition {request.transition.label or request.transition.id} is '
                f'impossible in the state {state}; possible: '
                f'{", ".join(possible) or "none before the one under way has ended"}')
            response.success = False
            return response

    def _load(self) -> None:
        folder = find_artifact(self.value('model'))
        artifact = Artifact.open(folder)
        name = self.value('backend')
        options = {option.name: self.value(option.parameter) for option in OPTIONS}
        engine = Engine(lambda: open_backend(name, artifact, **options))
        conversation = open_conversation(artifact, engine)
        try:
            conversation.check(self._options())
        except ConfigError:
            conversation.close()
            raise
        self._serve(conversation)
        if self._has_namesake():
            raise name_is_taken(self)
        self._publisher.begin_run()
        self.get_logger().info(f'loaded {folder} ({artifact.manifest.kv_length} slots)')

    def _serve(self, conversation: Conversation) -> None:
        self._conversation = conversation
        self._server = Server(conversation, self._publisher.tell, options=self._options,
                              depth=self.value('queue_depth'),
                              interruption=lambda: interruption_options(self.values()))

    def _fail(self, message: str) -> TransitionCallbackReturn:
        self._release()
        self._publisher.tell_error(message)
        self._publisher.tell_state('error')
        return TransitionCallbackReturn.FAILURE

    def _has_namesake(self) -> bool:
        own = self.get_name(), self.get_namespace()
        namesakes: int = self.get_node_names_and_namespaces().count(own)
        return namesakes > 1

    def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
        while self._inputs:
            self._inputs.pop().end()  # the closed server refuses what they still hold

    def _finalize(self) -> None:
        self._stop()
        self._release()
        self._publisher.tell_state('finalized')

    def _release(self) -> None:
        if self._conversation is not None:
            self._conversation.close()
        self._conversation = self._server = None

    def _options(self) -> ChatOptions:
        return chat_options(self.values())

    def _check_parameters(self, changes: Sequence[RosParameter]) -> SetParametersResult:
        """Refuse values that a turn could not use, and changes that need another configure."""
        changed = {change.name: change.value for change in changes if change.name in PARAMETERS}
        for name in changed:
            if PARAMETERS[name].is_fixed and self._server is not None:
                return SetParametersResult(successful=False, reason=f'{name} is read when the '
                                           'node is configured; clean it up first')
        try:
            values = self.values() | changed
            interruption_options(values)
            options = chat_options(values)
            if self._conversation is not None:
                self._conversation.check(options)
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _on_prompt(self, prompt: str) -> None:
        if (server := self._server) is not None:
            server.submit(prompt)

    def _on_request(self, text: str) -> None:
        if (server := self._server) is None:
            return
        try:
            request = read_request(text)
        except RequestError as error:
            server.refuse_request(read_id(text), error)
        else:
            server.submit_request(request)

    def _on_chat_cancel(self, request_id: str) -> None:
        if (server := self._server) is not None:
            server.cancel_request(request_id)

    def _on_speaking(self, is_speaking: bool) -> None:
        if (server := self._server) is not None:
            server.speech.set_speaking(is_speaking)

    def _on_spoken(self, text: str) -> None:
        if (server := self._server) is not None:
            server.speech.set_spoken(text)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        server = self._server
        if server is None or not self._inputs:
            response.message = 'the node is not active'
            return response
        done = server.reset()
        if not done.wait(RESET_TIMEOUT_S):
            response.message = f'not done within {RESET_TIMEOUT_S:.0f} s; see ~/error'
        elif server.state == 'error':
            response.message = 'the conversation is cleared, the model is not loaded; see ~/error'
        else:
            response.success = True
            response.message = 'the conversation is cleared'
        return response

    def _on_cancel(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        server = self._server
        ended = server.cancel() if server is not None else None
        response.success = ended is None or ended.wait(CANCEL_TIMEOUT_S)
        if ended is None:
            response.message = 'nothing was being answered'
        elif response.success:
            response.message = 'the answer is stopped'
        else:
            response.message = f'not stopped within {CANCEL_TIMEOUT_S:.0f} s; see ~/error'
        return response

    def _tell_lost(self) -> None:
        for each in list(self._inputs):
            if lost := each.newly_lost():
                self._lost += lost
                advice = ', or raise prompt_depth' if each.name == '~/prompt' else ''
                self._publisher.tell_error(
                    f'{lost} messages on {each.name} were lost before the node could take them: '
                    f'its queue holds {each.depth}; publish more slowly{advice}')

    def _publish_diagnostics(self) -> None:
        self._tell_lost()
        status = describe_status(self.get_fully_qualified_name(), self.value('model'),
                                 self.value('backend'), self._server, self._conversation,
                                 self._has_namesake(), self._lost)
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)


def run(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; 1 where it could not start."""
    return run_in_ros('tinyllama_node', _run_node, args)


def _run_node() -> int:
    stop = stop_on_signals()
    node = TinyLlamaNode()
    node.warn_of_files(sys.argv)
    with name_lock(node), log_through(node):
        return _run(node, stop)


def _run(node: TinyLlamaNode, stop: Event) -> int:
    failed = Event()
    with spinning(node, MultiThreadedExecutor(THREADS)):
        if node.value('autostart'):  # in a thread, or a signal would wait for the model
            Thread(target=_start, args=(node, failed, stop), daemon=True).start()
        while not stop.wait(SIGNAL_PERIOD_S):
            pass
        status = int(failed.is_set())
        end_in_time(status, node.abandon)
        node.end()
    node.destroy_node()
    return status


def _start(node: TinyLlamaNode, failed: Event, stop: Event) -> None:
    with suppress(RuntimeError):
        if node.start():
            return
    failed.set()
    stop.set()
