"""
Soak the real node with hostile and unlucky input; account for every prompt, and for its memory.

The node runs a tiny random model in a process of its own. Three publishers send prompts of 1 byte
to 1 MB, in bursts now and then, a fourth sends requests; blank texts and bytes that are no UTF-8
are among them. Meanwhile answers are cancelled, the conversation is reset, parameters change, and
the node is deactivated and configured anew. Every prompt and every request must end exactly once,
in the order in which its publisher sent them; the numbers of the events must have no gap; and the
tokens of an answer joined must be the answer.

Printed are the counts and the resident memory each minute, and at the end the memory's slope with
its standard error: a line through the means of 20 blocks of time, the first quarter left out. The
status is 1 where something was lost, doubled, out of order or other than it must be.

    .venv/bin/python bench/soak.py MINUTES [--seed 0]
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
import os
from pathlib import Path
import random
import re
import signal
import subprocess
import sys
import tempfile
from threading import Condition, Event, Lock, Thread
import time
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
import numpy as np
import psutil
from rcl_interfaces.srv import SetParameters
import rclpy
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile
from rclpy.serialization import serialize_message
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import Trigger

from tinyllama_ros.chat.completion import CompletionRequest
from tinyllama_ros.chat.message import Message
from tinyllama_ros.errors import RequestError
from tinyllama_ros.ros.interface import diagnostics_name, ENDPOINTS
from tinyllama_ros.ros.process import spinning
from tinyllama_ros.ros.wire import (
    ConversationEvent,
    read_completion_event,
    read_event,
    request_to_json,
)
from tinyllama_ros.voice.programs import DIES_WITH_US
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.checkpoints.random_checkpoint import RandomCheckpoint
from tinyllama_ros.workbench.options import BuildOptions

PROMPTERS = ('p0', 'p1', 'p2')
REQUESTER = 'r0'
OUTSTANDING = 3
"""Prompts of one publisher that wait for their end, save in a burst."""
BURST = 30
DEADLINE_S = 60.0
SAMPLE_S = 2.0
BLOCKS = 20
SHOWN_FAULTS = 50
KEY = re.compile(r'([pr]\d)-(\d+)\b')
QUEUE = QoSProfile(depth=20_000)
NODE = 'import sys; from tinyllama_ros.ros.node import main; sys.exit(main())'
PARAMETERS = {'max_tokens': 16, 'answer_room': 32, 'sampling.temperature': 1.0, 'threads': 1}

Key = tuple[str, int]
"""A publisher, and the number of what it sent."""


class Ledger:
    """What was sent, what became of it, and what was wrong with that."""

    def __init__(self) -> None:
        self.changed = Condition()
        self.open: dict[Key, str] = {}
        """What has not ended, and a text by which it is known where that holds no key."""
        self.ends: Counter[str] = Counter()
        self.faults: list[str] = []
        self._answers: dict[Key, list[str]] = {}
        self._turns: dict[int, Key] = {}
        self._newest: dict[tuple[str, str], int] = {}  # by publisher and kind of event
        self._run, self._seq = '', 0
        self._told: list[str] = []  # the answers as ~/event has them
        self._responses: list[str] = []  # as ~/response has them

    def send(self, key: Key, text: str) -> None:
        with self.changed:
            self.open[key] = text

    def count_open(self, publisher: str) -> int:
        return sum(name == publisher for name, _ in list(self.open))

    def hear_event(self, event: ConversationEvent) -> None:
        """Take an event of ~/event."""
        with self.changed:
            self._check_number(event)
            if event.kind == 'asked':
                self._turns[event.turn] = key = self._find(event.text)
                self._begin('asked', key)
            elif event.kind == 'token':
                self._answers[self._turns[event.turn]].append(event.text)
            elif event.kind in ('answered', 'stopped', 'failed', 'refused', 'dropped'):
                self._hear_end(event)
            self.changed.notify_all()

    def hear_response(self, text: str) -> None:
        """Take a text of ~/response."""
        with self.changed:
            self._responses.append(text)

    def hear_completion(self, data: str) -> None:
        """Take an event of ~/chat_event."""
        with self.changed:
            try:
                event = read_completion_event(data)
            except RequestError as error:
                self.fault(f'~/chat_event holds {data[:100]!r}: {error}')
                return
            if not event.id:
                self.ends['bad request, refused'] += 1
                return
            key = self._find(event.id)
            if event.kind == 'accepted':
                self._begin('accepted', key)
            elif event.kind == 'token':
                self._answers[key].append(event.text)
            elif event.kind in ('done', 'error'):
                said = ''.join(self._answers.pop(key, []))
                if event.kind == 'done' and said != event.text:
                    self.fault(f'{key}: the tokens are {said!r}, the answer is {event.text!r}')
                self._end(key, f'request, {event.code or event.kind}')
            self.changed.notify_all()

    def close(self) -> None:
        """Note what has not ended, and what ~/response said too much or too little."""
        with self.changed:
            for key in self.open:
                self.fault(f'{key} never ended')
            if self._responses != self._told:
                self.fault(f'~/response has {len(self._responses)} answers, ~/event '
                           f'{len(self._told)}, or they differ')

    def fault(self, text: str) -> None:
        self.faults.append(text)
        if len(self.faults) <= SHOWN_FAULTS:
            print(f'FAULT: {text[-2000:]}', flush=True)

    def _check_number(self, event: ConversationEvent) -> None:
        if event.kind == 'begun':
            self._run, self._seq, self._turns = event.run, 0, {}
        elif not self._run:  # the node began before we were there
            self._run, self._seq = event.run, event.seq - 1
        if (event.run, event.seq) != (self._run, self._seq + 1):
            self.fault(f'event {event.seq} of run {event.run} follows {self._seq} of {self._run}')
        self._seq = event.seq

    def _find(self, text: str) -> Key:
        if found := KEY.match(text):
            return found[1], int(found[2])
        for key, sent in self.open.items():
            if sent == text:
                return key
        self.fault(f'{text[:100]!r} was never sent, or has ended already')
        return '', 0

    def _begin(self, kind: str, key: Key) -> None:
        self._check_order(kind, key)
        if key in self._answers:
            self.fault(f'{key} was {kind} twice')
        self._answers[key] = []

    def _hear_end(self, event: ConversationEvent) -> None:
        key = self._turns.pop(event.turn, None) or self._find(event.text)
        said = ''.join(self._answers.pop(key, []))
        if event.kind in ('answered', 'stopped', 'failed') and said != event.text:
            self.fault(f'{key}: the tokens are {said!r}, the answer is {event.text!r}')
        if event.kind != 'refused':
            text = '' if event.kind == 'dropped' else event.text
            self._told.append(text.replace('\0', '\N{REPLACEMENT CHARACTER}'))
        why = re.sub(r'\d+', 'N', event.why.partition(';')[0])[:60]
        self._end(key, f'prompt, {event.kind}{": " if why else ""}{why}')

    def _end(self, key: Key, how: str) -> None:
        self.ends[how] += 1
        if self.open.pop(key, None) is None:
            self.fault(f'{key} ended without being open: {how}')

    def _check_order(self, kind: str, key: Key) -> None:
        publisher, number = key
        if number <= self._newest.get((publisher, kind), -1):
            self.fault(f'{key} was {kind} after {self._newest[publisher, kind]}')
        self._newest[publisher, kind] = number


class Soak:
    """The node under test, and our end of its topics and services."""

    def __init__(self, node: Node, target: str, process: subprocess.Popen[bytes], log: Path,
                 seed: int) -> None:
        self.ledger = Ledger()
        self.is_over = Event()
        self.slowest_s: dict[str, float] = {'~/cancel': 0.0, '/diagnostics': 0.0}
        """The longest that a cancel took, and the longest between two diagnostics."""
        self._node, self._target, self._process, self._log = node, target, process, log
        self._seed = seed
        self._sending = Lock()  # held while something is sent, and while nothing may be
        self._numbers: dict[str, int] = {}
        self._diagnosed_s = 0.0
        self._state = ''
        self._publishers = {
            **{name: self._publisher('~/prompt') for name in PROMPTERS},
            REQUESTER: self._publisher('~/chat_request'), '': self._publisher('~/chat_cancel')}
        self._clients = {name: node.create_client(kind, f'{target}/{name}') for name, kind in (
            ('cancel', Trigger), ('reset', Trigger), ('change_state', ChangeState),
            ('set_parameters', SetParameters))}
        for name, callback in (('event', self._on_event),
                           ('response', lambda message: self.ledger.hear_response(message.data)),
                           ('chat_event', lambda message: self.ledger.hear_completion(
                               message.data))):
            node.create_subscription(String, f'{target}/{name}', callback, QUEUE)
        node.create_subscription(String, f'{target}/state', self._on_state,
                                 ENDPOINTS['~/state'].qos)
        node.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def run(self, minutes: float) -> list[tuple[float, float]]:
        """Return the resident memory over time: (s, MB)."""
        self._wait_until_active()
        threads = [Thread(target=self._guarded, args=(work, number)) for number, work in enumerate(
            [*(lambda chance, name=name: self._prompt(name, chance) for name in PROMPTERS),
             self._request, self._meddle])]
        for thread in threads:
            thread.start()
        memory = self._watch(minutes * 60)
        self.is_over.set()
        for thread in threads:
            thread.join()
        with self.ledger.changed:
            self.ledger.changed.wait_for(lambda: not self.ledger.open, DEADLINE_S)
        time.sleep(2 * SAMPLE_S)  # for what is too much: a second answer, or a late event
        self.ledger.close()
        return memory

    def _watch(self, seconds: float) -> list[tuple[float, float]]:
        process, began_s = psutil.Process(self._process.pid), time.monotonic()
        memory: list[tuple[float, float]] = []
        while (now_s := time.monotonic() - began_s) < seconds and self._process.poll() is None:
            memory.append((now_s, process.memory_info().rss / 1e6))
            if len(memory) % int(60 / SAMPLE_S) == 1:
                print(f'{now_s / 60:5.1f} min  {memory[-1][1]:7.1f} MB  '
                      f'{self.ledger.ends.total():7} ended  {len(self.ledger.open):3} open  '
                      f'{len(self.ledger.faults)} faults', flush=True)
            time.sleep(SAMPLE_S)
        if self._process.poll() is not None:
            self.ledger.fault(f'the node ended with status {self._process.returncode}')
        return memory

    def _guarded(self, work: Callable[[random.Random], None], number: int) -> None:
        chance = random.Random(f'{self._seed} {number}')
        try:
            while not self.is_over.is_set():
                work(chance)
        except Exception as error:  # the edge of a thread: say it, and end as a failure
            self.ledger.fault(f'thread {number} failed: {error!r}')

    def _prompt(self, name: str, chance: random.Random) -> None:
        count = BURST if chance.random() < 0.01 else 1
        for _ in range(count):
            number = self._next(name)
            text, data = some_prompt(chance, f'{name}-{number} ')
            self._send(name, number, text, data)
        self._pause(name, chance)

    def _request(self, chance: random.Random) -> None:
        number = self._next(REQUESTER)
        name = f'{REQUESTER}-{number}'
        text, _ = some_prompt(chance, name)
        messages = (Message('user', text[:200_000] if chance.random() < 0.5 else 'hello'),)
        self._send(REQUESTER, number, name, String(data=request_to_json(
            CompletionRequest(name, messages, max_tokens=chance.randrange(1, 40)))))
        if chance.random() < 0.1:  # the newest, one that has ended, one that is to come, nonsense
            self._publishers[''].publish(String(data=chance.choice([
                name, f'{REQUESTER}-{number // 2}', f'{REQUESTER}-{number + 2}', 'x' * 10_000])))
        if chance.random() < 0.05:
            with self._sending:
                self._publishers[REQUESTER].publish(String(data=chance.choice(
                    ['{', '[]', '{"id": 7}', '[' * 100_000, '{"messages": 1}'])))
        self._pause(REQUESTER, chance)

    def _meddle(self, chance: random.Random) -> None:
        """Do something to the node that is no prompt."""
        what = chance.choices(['cancel', 'reset', 'set', 'deactivate', 'clean up'],
                              [60, 20, 15, 4, 1])[0]
        if what == 'cancel':
            began_s = time.monotonic()
            self._call('cancel', Trigger.Request())
            self.slowest_s['~/cancel'] = max(self.slowest_s['~/cancel'],
                                             time.monotonic() - began_s)
        elif what == 'reset':
            self._call('reset', Trigger.Request())
        elif what == 'set':
            values = {'max_tokens': chance.choice([1, 16, 64]),
                      'system_prompt': chance.choice(['', 'Be brief.', 'x' * 2000, 'x' * 10**6]),
                      'drafting': chance.random() < 0.5}
            self._call('set_parameters', SetParameters.Request(parameters=[
                Parameter(name, value=value).to_parameter_msg()
                for name, value in values.items()]))
        else:
            self._transit(Transition.TRANSITION_DEACTIVATE, *(
                (Transition.TRANSITION_CLEANUP, Transition.TRANSITION_CONFIGURE)
                if what == 'clean up' else ()), Transition.TRANSITION_ACTIVATE)
        self.is_over.wait(chance.expovariate(2.0))

    def _transit(self, *transitions: int) -> None:
        with self._sending:
            time.sleep(0.2)  # a prompt that is on its way to a subscriber that goes is lost
            for transition in transitions:
                if transition == Transition.TRANSITION_ACTIVATE:  # not the subscriptions before
                    self._wait_for(lambda: not any(self._counts()), 'end of the subscriptions')
                if not self._call('change_state', ChangeState.Request(
                        transition=Transition(id=transition))).success:
                    self.ledger.fault(f'transition {transition} failed')
            self._wait_until_active()

    def _wait_until_active(self) -> None:
        self._wait_for(lambda: all(self._counts()) and self._state == 'idle', 'active node')

    def _counts(self) -> list[int]:
        return [publisher.get_subscription_count() for publisher in self._publishers.values()]

    def _wait_for(self, condition: Callable[[], Any], what: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            if self._process.poll() is not None:
                raise ChildProcessError(f'the node has ended; its log: {self._log.read_text()}')
            if time.monotonic() > deadline_s:
                raise TimeoutError(f'no {what} within {DEADLINE_S:.0f} s')
            time.sleep(0.02)

    def _call(self, service: str, request: Any) -> Any:
        future = self._clients[service].call_async(request)
        self._wait_for(future.done, f'reply of {service}')
        return future.result()

    def _next(self, name: str) -> int:
        number = self._numbers[name] = self._numbers.get(name, -1) + 1
        return number

    def _send(self, name: str, number: int, text: str, data: String | bytes) -> None:
        with self._sending:
            self.ledger.send((name, number), text)
            self._publishers[name].publish(data)

    def _pause(self, name: str, chance: random.Random) -> None:
        """Wait until not too much of a publisher is open, then for a moment."""
        with self.ledger.changed:
            self.ledger.changed.wait_for(
                lambda: self.ledger.count_open(name) < OUTSTANDING or self.is_over.is_set(),
                DEADLINE_S)
        time.sleep(chance.expovariate(20.0))

    def _publisher(self, topic: str) -> Any:
        return self._node.create_publisher(String, topic.replace('~', self._target),
                                           ENDPOINTS[topic].qos)

    def _on_event(self, message: String) -> None:
        if (event := read_event(message.data)) is None:
            self.ledger.fault(f'~/event holds {message.data[:100]!r}')
        else:
            self.ledger.hear_event(event)

    def _on_state(self, message: String) -> None:
        self._state = message.data

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        now_s = time.monotonic()
        if any(status.name == diagnostics_name(self._target) for status in array.status):
            if self._diagnosed_s:
                self.slowest_s['/diagnostics'] = max(self.slowest_s['/diagnostics'],
                                                     now_s - self._diagnosed_s)
            self._diagnosed_s = now_s


def some_prompt(chance: random.Random, key: str) -> tuple[str, String | bytes]:
    """Return a text that begins with a key, or is blank, and the message that holds it."""
    kind = chance.random()
    if kind < 0.01:  # as many blanks as make it another one each time
        text = ''.join(chance.choices(' \t\n', k=40))
        return text, String(data=text)
    high = 2e2 if kind < 0.7 else 6e2 if kind < 0.9 else 1e4 if kind < 0.96 else 1e6
    size = int(np.exp(chance.uniform(0, np.log(high))))
    letters = chance.choice(['abcdefgh ', 'user: <|im_end|>\n', 'éß字🤖 ', ' '])
    body = ''.join(chance.choices(letters, k=min(size, 500)))
    text = (key + body * (size // len(body)))[:size + len(key)]
    if 0.01 <= kind < 0.03:
        return text, serialize_message(String(data=text)).replace(
            key.encode(), key[:-1].encode() + b'\xff')
    return text, String(data=text)


def slope(memory: list[tuple[float, float]]) -> tuple[float, float]:
    """Return how memory grows, in MB an hour, and the standard error of that."""
    late = np.array([sample for sample in memory if sample[0] >= memory[-1][0] / 4])
    blocks = np.array([block.mean(0) for block in np.array_split(late, BLOCKS)])
    hours = blocks[:, 0] / 3600
    factors, residuals, *_ = np.polyfit(hours, blocks[:, 1], 1, full=True)
    variance = float(residuals[0]) / (BLOCKS - 2)
    return float(factors[0]), float(np.sqrt(variance / ((hours - hours.mean())**2).sum()))


@contextmanager
def running_node(folder: Path, namespace: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the node in a process of its own, which ends with this one, also if that is killed."""
    build(RandomCheckpoint.named('tiny'), folder / 'tiny', BuildOptions(
        name='tiny', quantization='fp32', kv_length=512))
    parameters = {'model': folder / 'tiny', **PARAMETERS}
    with (folder / 'log').open('w') as log:
        process = subprocess.Popen(
            [*DIES_WITH_US, sys.executable, '-c', NODE, '--ros-args', '-r', f'__ns:={namespace}',
             *(text for name, value in parameters.items() for text in ('-p', f'{name}:={value}'))],
            stdout=log, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def run(minutes: float, seed: int, folder: Path) -> list[str]:
    """Soak, print what came of it, and return the faults."""
    namespace = f'/soak_{os.getpid()}'
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node('soak', start_parameter_services=False)
    try:
        with running_node(folder, namespace) as process, spinning(node):
            soak = Soak(node, f'{namespace}/tinyllama', process, folder / 'log', seed)
            memory = soak.run(minutes)
            began_s = time.monotonic()
            process.send_signal(signal.SIGTERM)
            status = process.wait(DEADLINE_S)
            print(f'\nSIGTERM: status {status} after {time.monotonic() - began_s:.1f} s')
    finally:
        node.destroy_node()
        rclpy.shutdown()
    for how, count in sorted(soak.ledger.ends.items()):
        print(f'{count:8} {how}')
    print(f'{soak.ledger.ends.total():8} in all; {len(soak.ledger.faults)} faults')
    for name, seconds in soak.slowest_s.items():
        print(f'{name}: at most {seconds:.2f} s')
    growth, error = slope(memory)
    print(f'resident memory: {memory[0][1]:.1f} MB, then {memory[-1][1]:.1f} MB; '
          f'{growth:+.2f} MB an hour, standard error {error:.2f}')
    return soak.ledger.faults + (['SIGTERM'] if status else [])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('minutes', type=float, help='how long')
    parser.add_argument('--seed', type=int, default=0, help='of all chance (default: %(default)s)')
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 1 if run(arguments.minutes, arguments.seed, Path(folder)) else 0


if __name__ == '__main__':
    sys.exit(main())
