"""A node in a process of its own, and a client that writes down all that it publishes."""

from collections.abc import Callable, Mapping
from dataclasses import replace
import functools
import json
from pathlib import Path
import signal
import subprocess
import sys
import time
from typing import Any, NamedTuple, TypeVar

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import numpy as np
from numpy.typing import NDArray
from rcl_interfaces.srv import GetParameters, SetParameters
import rclpy
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import Trigger

from support.ascend import compiled
from support.paths import ROOT
from tinyllama_ros.artifact.architecture import Architecture
from tinyllama_ros.ros.client import ConversationEvent, NodeClient
from tinyllama_ros.ros.interface import endpoints
from tinyllama_ros.ros.process import spinning
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.checkpoints.random_checkpoint import byte_tokenizer, RandomCheckpoint
from tinyllama_ros.workbench.options import BuildOptions

NODE = 'import sys; from tinyllama_ros.ros.node import main; sys.exit(main())'
ECHO_NODE = ('import runpy; runpy.run_path('
          f'{str(ROOT / "test" / "support" / "echo_model_node.py")!r}, run_name="__main__")')
TOPICS = ('token', 'sentence', 'response', 'cache_reset', 'error', 'state', 'interrupted')
QUEUE = 5000
"""So that a test that sleeps loses nothing."""
DEADLINE_S = 20.0
KV_LENGTH = 512
SLOW_SHAPE = Architecture(  # 5 ms for a token, 25 ms for a chunk: time to cancel in between
    layers=2, hidden=512, ffn=6144, heads=4, kv_heads=2, head_dim=16, vocab_size=300,
    context_length=KV_LENGTH, rope_base=10000.0, norm_eps=1e-5, tied_embeddings=False)

Reply = TypeVar('Reply')


class TalkativeCheckpoint(RandomCheckpoint):
    """A random model that, taken at its likeliest token, never ends an answer by itself."""

    def tensor(self, name: str) -> NDArray[np.float32]:
        values = super().tensor(name)
        if name == 'lm_head.weight':
            values[list(self.tokenizer.settings.control_tokens.values())] = 0
        return values


def build_model(folder: Path, shape: Architecture = SLOW_SHAPE, template: str = '',
                backend: str = 'onnx') -> Path:
    """
    Write an artifact whose greedy answers are as long as they may be; return its folder.

    :param template: goes in front of the chat template.
    :param backend: what it is for; `acl` is compiled.
    """
    tokenizer = byte_tokenizer(shape.vocab_size)
    settings = replace(tokenizer.settings,
                       chat_template=template + tokenizer.settings.chat_template)
    checkpoint = TalkativeCheckpoint(shape, replace(tokenizer, settings=settings))
    if backend == 'acl':
        compiled(folder, checkpoint, kv_length=KV_LENGTH, chunk_sizes=(1, 16, 64))
    else:
        build(checkpoint, folder, BuildOptions(
            name='talkative', quantization='fp32', kv_length=KV_LENGTH))
    return folder


class NodeProcess:
    """The node as a user starts it."""

    def __init__(self, log: Path, namespace: str, parameters: Mapping[str, Any] | None = None,
                 arguments: tuple[str, ...] = (), program: str = NODE) -> None:
        self._log = log
        options = [text for name, value in (parameters or {}).items()
                   for text in ('-p', f'{name}:={json.dumps(value)}')]
        with log.open('w') as file:
            self._process = subprocess.Popen(
                [sys.executable, '-c', program, '--ros-args', '-r', f'__ns:={namespace}',
                 *options, *arguments],
                cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, text=True)

    @property
    def log(self) -> str:
        """What it printed so far."""
        return self._log.read_text()

    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self) -> int:
        """Return the exit status, at the latest when the deadline has passed."""
        return self._process.wait(DEADLINE_S)

    def send(self, number: int) -> None:
        """Send a signal, where it still runs."""
        if self.is_running():
            self._process.send_signal(number)

    def stop(self, number: int = signal.SIGINT) -> int:
        """Send a signal; return the exit status."""
        self.send(number)
        return self.wait()

    def kill(self) -> None:
        """End it whatever happens."""
        if self.is_running():
            self._process.kill()
            self._process.wait()


class Event(NamedTuple):
    """What the node published; events sort in the order in which they were published."""

    published_ns: int
    topic: str
    text: str


class RecordingClient(NodeClient):
    """The client of a node, which also writes down each topic as it comes."""

    def __init__(self, namespace: str) -> None:
        self.statuses: list[DiagnosticStatus] = []
        self.stream: list[ConversationEvent] = []
        self._stamps_s: list[float] = []
        self._events: list[Event] = []
        self._since_ns = 0
        self._newest_state = ''
        self._more_services: dict[str, Any] = {}
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context, signal_handler_options=SignalHandlerOptions.NO)
        self.node = rclpy.create_node(f'recorder_{id(self)}', context=self._context,
                                      start_parameter_services=False)
        for name, endpoint in endpoints('publisher').items():
            if name[2:] in TOPICS:
                self.node.create_subscription(
                    endpoint.type, name.replace('~', f'{namespace}/tinyllama'),
                    functools.partial(self._record, name[2:]),
                    replace(endpoint, depth=QUEUE).qos)
        super().__init__(self.node, f'{namespace}/tinyllama', on_event=self.stream.append)
        self._spinning = spinning(self.node)
        self._spinning.__enter__()

    @property
    def prompts(self) -> Any:
        return self._publishers['~/prompt']

    def close(self) -> None:
        self._spinning.__exit__(None, None, None)
        self.node.destroy_node()
        self._context.try_shutdown()

    def connect(self) -> None:
        """
        Wait until the node receives our messages and we receive its messages.

        A reply proves both: endpoints are announced in the order in which they were made, and
        the client, for which the node must know its reply's reader, is the last.
        """
        client = self._client('get_parameters', GetParameters)
        poll_until(lambda: self._answers(client), f'reply of {self.target}')

    def texts(self, topic: str) -> list[str]:
        """Return the texts received on a topic, in the order of publishing."""
        return [event.text for event in self.events if event.topic == topic]

    @property
    def events(self) -> list[Event]:
        """All that was published since `forget`, in that order."""
        with self._changed:
            return sorted(event for event in self._events if event.published_ns > self._since_ns)

    def forget(self) -> None:
        """Count from here on only what is published from here on."""
        self._since_ns = time.time_ns()

    def wait_until(self, condition: Callable[[], Any], what: str) -> None:
        """Wait until a condition on what was received holds."""
        if not self.wait_for(condition, DEADLINE_S):
            raise AssertionError(f'no {what} within {DEADLINE_S:.0f} s, but {self.events}')

    def wait_for_state(self, *states: str) -> None:
        """Wait until the client knows of a state, and has written down what it knows of."""
        self.wait_until(lambda: self.state in states and self._newest_state == self.state,
                        f'state {" or ".join(states)}')

    def wait_for_texts(self, topic: str, count: int = 1) -> list[str]:
        """Wait for a number of texts on a topic, and return them."""
        self.wait_until(lambda: len(self.texts(topic)) >= count, f'{count} on {topic}')
        return self.texts(topic)

    def wait_for_responses(self, count: int = 1) -> list[str]:
        """Return that many responses when all their tokens have come, and the node is idle."""
        self.wait_for_texts('response', count)
        self.wait_until(lambda: len(''.join(self.texts('token')))
                      >= len(''.join(self.texts('response'))), 'token for each response')
        self.wait_for_state('idle')
        return self.texts('response')

    def say(self, *prompts: str | bytes) -> None:
        """Publish prompts; bytes as they are, in whatever encoding."""
        for prompt in prompts:
            self.prompts.publish(_serialized(prompt) if isinstance(prompt, bytes)
                                 else String(data=prompt))

    def wait_for_subscriber(self) -> None:
        poll_until(self.prompts.get_subscription_count, 'subscriber to the prompts')

    def ask(self, prompt: str) -> str:
        """Return the response of an idle node to one prompt."""
        before = len(self.texts('response'))
        self.say(prompt)
        return self.wait_for_responses(before + 1)[-1]

    def request(self, service: str, kind: Any = Trigger, request: Any = None) -> Any:
        """Return the reply of a service."""
        return self.reply(self.call_async(service, kind, request), service)

    def call_async(self, service: str, kind: Any = Trigger, request: Any = None) -> Any:
        """Return the future of a reply, for `reply`."""
        future = self._client(service, kind).call_async(request or kind.Request())
        future.add_done_callback(lambda _: self._notify())
        return future

    def reply(self, future: Any, what: str) -> Any:
        self.wait_until(future.done, f'reply of {what}')
        return future.result()

    def change_state(self, name: str) -> bool:
        """Trigger a lifecycle transition by name; return whether it succeeded."""
        return bool(self.request('change_state', ChangeState, transition(name)).success)

    def set(self, values: Mapping[str, Any]) -> str:
        """Set parameters; return the reasons why they were refused, '' where all were set."""
        parameters = [Parameter(name, value=value).to_parameter_msg()
                      for name, value in values.items()]
        reply = self.request('set_parameters', SetParameters, SetParameters.Request(
            parameters=parameters))
        return '; '.join(result.reason or 'refused' for result in reply.results
                         if not result.successful)

    def diagnostics(self) -> dict[str, str]:
        """Return the values of the next diagnostics that the node publishes from here on."""
        now_s = time.time()
        self.wait_until(lambda: self._stamps_s and self._stamps_s[-1] > now_s, 'diagnostics')
        return {value.key: value.value for value in self.statuses[-1].values}

    def diagnostics_periods_s(self, count: int) -> list[float]:
        """Return the times between the next diagnostics."""
        before = len(self._stamps_s)
        self.wait_until(lambda: len(self._stamps_s) > before + count, f'{count} diagnostics')
        return [float(period) for period in np.diff(self._stamps_s[before:before + count + 1])]

    def _client(self, service: str, kind: Any) -> Any:
        if service not in self._more_services:
            self._more_services[service] = self.node.create_client(
                kind, f'{self.target}/{service}')
            assert self._more_services[service].wait_for_service(DEADLINE_S), (
                f'no {self.target}/{service} within {DEADLINE_S:.0f} s')
        return self._more_services[service]

    def _answers(self, client: Any) -> bool:
        """Return whether a call is answered soon; a first one can be lost."""
        future = client.call_async(GetParameters.Request(names=['model']))
        future.add_done_callback(lambda _: self._notify())
        with self._changed:
            return self._changed.wait_for(future.done, 2.0)

    def _record(self, topic: str, message: Any, info: Mapping[str, int]) -> None:
        text = getattr(message, 'data', '')  # of ~/interrupted, which says nothing else
        with self._changed:
            self._events.append(Event(info['source_timestamp'], topic, text))
            if topic == 'state':
                self._newest_state = text
            self._changed.notify_all()

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        with self._changed:
            own = [status for status in array.status if status.name.startswith(self.target)]
            if own:
                self.statuses += own
                self._stamps_s.append(array.header.stamp.sec + array.header.stamp.nanosec * 1e-9)
        super()._on_diagnostics(array)

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()


class Robots:
    """Makes nodes and clients, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[NodeProcess] = []
        self._clients: list[RecordingClient] = []
        self._namespaces = 0

    def start(self, **options: Any) -> NodeProcess:
        """Start a node, in a namespace of its own unless one is named; see NodeProcess."""
        number = len(self._processes)
        options = {'namespace': self.new_namespace()} | options
        process = NodeProcess(self._folder / f'{number}.log', **options)
        self._processes.append(process)
        return process

    def connect(self, namespace: str) -> RecordingClient:
        """Return a client, which may not have found its node yet."""
        client = RecordingClient(namespace)
        self._clients.append(client)
        return client

    def serve(self, **parameters: Any) -> tuple[NodeProcess, RecordingClient]:
        """Return a node that is idle, or unconfigured without autostart, and its client."""
        namespace = self.new_namespace()
        client = self.connect(namespace)
        process = self.start(namespace=namespace, parameters=parameters)
        client.connect()
        if parameters.get('autostart', True):
            client.wait_for_state('idle')
            client.wait_for_subscriber()
        return process, client

    def new_namespace(self) -> str:
        self._namespaces += 1
        return f'/{self._folder.name}_{self._namespaces}'

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for process in self._processes:
            process.kill()


def poll_until(condition: Callable[[], Any], what: str) -> None:
    """Wait for what gives no notice of itself, such as the graph of nodes."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f'no {what} within {DEADLINE_S:.0f} s'
        time.sleep(0.01)


def split_like(responses: list[str], tokens: list[str]) -> list[str]:
    """Return the tokens joined, cut where the responses end; whole tokens only."""
    left, joined = list(tokens), []
    for response in responses:
        text = ''
        while left and len(text) < len(response):
            text += left.pop(0)
        joined.append(text)
    return [*joined, *left]


def transition(name: str) -> ChangeState.Request:
    number = getattr(Transition, f'TRANSITION_{name.upper()}')
    return ChangeState.Request(transition=Transition(id=number))


def _serialized(text: bytes) -> bytes:
    """Return a std_msgs/String as little-endian CDR, which rclpy publishes as it is."""
    return b'\0\1\0\0' + (len(text) + 1).to_bytes(4, 'little') + text + b'\0'
