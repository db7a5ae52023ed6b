"""The node in the test's own process: transitions, parameters, and passes let through singly."""

from contextlib import suppress
import logging
import re
from threading import Condition, Event, Thread
from types import SimpleNamespace

import pytest

rclpy = pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')

from rclpy.exceptions import InvalidHandle  # noqa: E402
from rclpy.executors import MultiThreadedExecutor  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.logging import get_logger  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from support.robot import build_model, DEADLINE_S, KV_LENGTH, poll_until, Robots  # noqa: E402

from tinyllama_ros.chat.completion import CompletionRequest  # noqa: E402
from tinyllama_ros.chat.message import Message  # noqa: E402
from tinyllama_ros.chat.notices import beginning, TurnNotice  # noqa: E402
from tinyllama_ros.chat.template import ChatTemplate  # noqa: E402
from tinyllama_ros.engine.backend import open_backend  # noqa: E402
from tinyllama_ros.errors import BackendError, BackendLost  # noqa: E402
from tinyllama_ros.ros import lifecycle_node as node_module  # noqa: E402
from tinyllama_ros.ros.lifecycle_node import THREADS, TinyLlamaNode  # noqa: E402
from tinyllama_ros.ros.parameters import PARAMETERS  # noqa: E402
from tinyllama_ros.ros.process import RosLogHandler  # noqa: E402
from tinyllama_ros.ros.wire import request_to_json  # noqa: E402
from tinyllama_ros.workbench.checkpoints.random_checkpoint import SHAPES  # noqa: E402

DONE, REFUSED = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
LONG_PROMPT = 'x' * 300
"""Some 330 tokens: 6 chunks."""
NO_SYSTEM = ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}"
             '{% endif %}')


class GatedBackend:
    """A backend whose passes wait, while it is shut, until the test lets them through."""

    def __init__(self, backend):
        self.shape = backend.shape
        self.begun = 0
        self.closed = 0
        self.failure = None
        self._backend = backend
        self._let = float('inf')
        self._changed = Condition()

    def forward(self, tokens, start, *, logits=1):
        with self._changed:
            self.begun += 1
            self._changed.notify_all()
            assert self._changed.wait_for(lambda: self.begun <= self._let, DEADLINE_S)
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
        return self._backend.forward(tokens, start, logits=logits)

    def close(self):
        self.closed += 1
        self._backend.close()

    def let(self, passes):
        """Let so many more passes through, and return when the next one waits."""
        with self._changed:
            self._let = self.begun + passes if self._let == float('inf') else self._let + passes
            self._changed.notify_all()
            waiting = self._let + 1
            return self._changed.wait_for(lambda: self.begun >= waiting, DEADLINE_S)

    def shut(self):
        with self._changed:
            self._let = self.begun

    def open(self):
        with self._changed:
            self._let = float('inf')
            self._changed.notify_all()


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return str(build_model(tmp_path_factory.mktemp('model') / 'tiny', SHAPES['tiny']))


@pytest.fixture
def gates(monkeypatch):
    """Return the backends that nodes have opened."""
    gates = []

    def open_gated(*arguments, **options):
        gates.append(GatedBackend(open_backend(*arguments, **options)))
        return gates[-1]

    monkeypatch.setattr(node_module, 'open_backend', open_gated)
    return gates


@pytest.fixture
def robots(tmp_path):
    robots = Robots(tmp_path)
    yield robots
    robots.close()


@pytest.fixture
def make_node(model, robots, gates):
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    executor = MultiThreadedExecutor(THREADS, context=context)
    stop = Event()
    thread = Thread(target=spin, args=(executor, stop))
    nodes = []

    def make(**values):
        values = {'model': model, 'threads': 1, 'answer_room': 32, 'max_tokens': 8,
                  'sampling.temperature': 0.0} | values
        parameters = [Parameter(name, value=value) for name, value in values.items()]
        node = TinyLlamaNode(context=context, namespace=robots.new_namespace(),
                             parameter_overrides=parameters)
        nodes.append(node)
        executor.add_node(node)
        return node

    thread.start()
    yield make
    for gate in gates:
        gate.open()
    for node in nodes:
        node.on_shutdown(None)
    stop.set()
    thread.join()
    executor.shutdown()
    for node in nodes:
        node.destroy_node()
    context.try_shutdown()


@pytest.fixture
def node(make_node):
    return make_node()


@pytest.fixture
def serving(node, robots, gates):
    """Return an active node, its client and its gated backend."""
    client = robots.connect(node.get_namespace())
    client.connect()
    assert node.start()
    client.wait_for_state('idle')
    client.wait_for_subscriber()
    return node, client, gates[0]


def spin(executor, stop):
    """Run callbacks; rclpy's own spin can fail where it is shut down under way."""
    while not stop.is_set():
        with suppress(InvalidHandle):  # as the node does
            executor.spin_once(timeout_sec=0.1)


def set_parameter(node, name, value):
    """Return why a parameter was refused, '' where it was set."""
    result, = node.set_parameters([Parameter(name, value=value)])
    return '' if result.successful else result.reason


def test_transitions_go_round_twice(node):
    for _ in range(2):
        assert [node.trigger_configure(), node.trigger_activate(), node.trigger_deactivate(),
                node.trigger_activate(), node.trigger_deactivate(),
                node.trigger_cleanup()] == [DONE] * 6


def test_failed_configuration_can_be_mended(node, model):
    set_parameter(node, 'model', 'nope')
    assert node.trigger_configure() == REFUSED
    assert set_parameter(node, 'model', model) == ''
    assert node.trigger_configure() == DONE


def test_failed_configuration_is_announced(node, robots):
    client = robots.connect(node.get_namespace())
    client.connect()
    set_parameter(node, 'model', 'nope')
    assert not node.start()
    assert "there is no artifact 'nope'" in client.wait_for_texts('error')[0]
    client.wait_for_state('error')
    assert client.texts('state') == ['loading', 'error']


def test_prompts_are_received_only_while_active(node):
    def subscribers():
        return node.count_subscribers(f'{node.get_fully_qualified_name()}/prompt')

    node.trigger_configure()
    assert subscribers() == 0
    node.trigger_activate()
    assert subscribers() == 1
    node.trigger_deactivate()
    # rclpy destroys a subscription when its executor has let go of it
    poll_until(lambda: subscribers() == 0, 'end of the subscription')


def test_cleanup_frees_the_backend_and_deactivation_does_not(node, gates):
    node.start()
    node.trigger_deactivate()
    assert gates[0].closed == 0
    node.trigger_cleanup()
    assert gates[0].closed == 1


@pytest.mark.parametrize('transitions', [[], ['configure'], ['configure', 'activate']],
                         ids=['unconfigured', 'inactive', 'active'])
def test_shutdown_frees_the_backend_from_any_state(node, gates, transitions):
    for name in transitions:
        assert getattr(node, f'trigger_{name}')() == DONE
    assert node.trigger_shutdown() == DONE
    assert [gate.closed for gate in gates] == [1] * bool(transitions)


@pytest.mark.parametrize('name', PARAMETERS)
def test_parameter_is_declared_with_its_range(node, name):
    descriptor = node.describe_parameter(name)
    assert descriptor.description == PARAMETERS[name].description
    ranges = [*descriptor.integer_range, *descriptor.floating_point_range]
    assert [(limits.from_value, limits.to_value) for limits in ranges] == (
        [PARAMETERS[name].range] if PARAMETERS[name].range else [])


def test_given_parameter_that_is_unknown_is_warned_of_and_left_out(make_node, capfd):
    node = make_node(**{'sampling.temprature': 1.5, 'max_tokens': 7})
    said = capfd.readouterr().err
    assert said.count('is ignored') == 1
    assert 'the parameter sampling.temprature is ignored' in said
    assert not node.has_parameter('sampling.temprature')
    assert node.get_parameter('max_tokens').value == 7


def test_parameters_of_ros_are_not_warned_of_and_count(make_node, capfd):
    depth = 'qos_overrides./clock.subscription.depth'
    node = make_node(**{'use_sim_time': True, 'start_type_description_service': False, depth: 3})
    assert 'is ignored' not in capfd.readouterr().err
    assert node.get_parameter('use_sim_time').value
    assert node.get_parameter(depth).value == 3


@pytest.mark.parametrize('name', [name for name in PARAMETERS if PARAMETERS[name].is_fixed])
def test_fixed_parameter_is_refused_while_configured(node, name):
    value = node.get_parameter(name).value
    node.trigger_configure()
    assert f'{name} is read when the node is configured' in set_parameter(node, name, value)
    node.trigger_cleanup()
    assert set_parameter(node, name, value) == ''


@pytest.mark.parametrize('name', [
    name for name, parameter in PARAMETERS.items() if parameter.range and not parameter.is_fixed])
def test_parameter_takes_its_limits_and_nothing_beyond(node, name):
    low, high = (type(PARAMETERS[name].default)(limit) for limit in PARAMETERS[name].range)
    assert set_parameter(node, name, low) == set_parameter(node, name, high) == ''
    for value in (low - 1, high + 1):
        assert name in set_parameter(node, name, value)
    assert node.get_parameter(name).value == high


def test_room_for_answers_is_held_against_the_cache(node):
    node.trigger_configure()
    assert set_parameter(node, 'answer_room', KV_LENGTH // 2) == ''
    assert (f'answer_room is {KV_LENGTH // 2 + 1}; it may be at most half of the {KV_LENGTH} slots'
            in set_parameter(node, 'answer_room', KV_LENGTH // 2 + 1))


def test_one_refused_parameter_changes_none_of_those_set_with_it(node):
    result = node.set_parameters_atomically([Parameter('max_tokens', value=99),
                                             Parameter('sampling.top_p', value=2.0)])
    assert not result.successful
    assert node.get_parameter('max_tokens').value == 8


def test_diagnostics_warn_before_a_model_is_loaded(node, robots):
    client = robots.connect(node.get_namespace())
    client.connect()
    assert client.diagnostics() == {}
    status = client.statuses[-1]
    assert (status.level, status.message) == (b'\1', 'no model is loaded')


def cancel_under_way(node, client):
    """Return the future of a cancel that the node has got, and that waits for the pass to end."""
    future = client.call_async('cancel')
    poll_until(lambda: node._server._running.is_cut(), 'cancel')
    assert not future.done()
    return future


def test_cancel_while_reading_begins_no_further_pass(serving):
    node, client, gate = serving
    gate.shut()
    client.say(LONG_PROMPT)
    assert gate.let(1)
    cancel = cancel_under_way(node, client)
    gate.open()
    assert client.reply(cancel, 'cancel').success
    assert client.wait_for_responses() == ['']
    assert gate.begun == 2


def test_cancel_while_answering_begins_no_further_pass(serving):
    node, client, gate = serving
    set_parameter(node, 'max_tokens', 0)
    gate.shut()
    client.say('hello')
    assert gate.let(4)
    cancel = cancel_under_way(node, client)
    gate.open()
    assert client.reply(cancel, 'cancel').success
    client.wait_for_responses()
    assert gate.begun == 5


def test_services_and_diagnostics_answer_during_a_pass(serving):
    node, client, gate = serving
    gate.shut()
    client.say('hello', 'again')
    assert gate.let(1)
    assert client.set({'max_tokens': 3}) == ''
    values = client.diagnostics()
    assert (values['state'], values['prompts waiting']) == ('answering', '1')
    gate.open()
    assert all(client.wait_for_responses(2))


def test_services_answer_while_resets_wait_for_a_pass(serving):
    _, client, gate = serving
    gate.shut()
    client.say('hello')
    assert gate.let(1)
    calls = [client.call_async(name) for name in ['cancel', *['reset'] * (THREADS - 2)]]
    assert client.set({'max_tokens': 3}) == ''
    assert not any(call.done() for call in calls)
    gate.open()
    assert all(client.reply(call, 'reply').success for call in calls)


@pytest.mark.parametrize('failure', [BackendError('the device is gone'), RuntimeError('a bug')],
                         ids=['known', 'unknown'])
@pytest.mark.parametrize('passes', [0, 4], ids=['reading', 'answering'])
def test_failed_pass_is_an_error_and_the_next_prompt_is_answered(serving, failure, passes):
    _, client, gate = serving
    gate.shut()
    client.say('hello')
    assert gate.let(passes) or passes == 0
    gate.failure = failure
    gate.open()
    error, = client.wait_for_texts('error')
    assert error.startswith("the answer to 'hello' failed: ") and str(failure) in error
    response, = client.wait_for_texts('response')
    assert bool(response) == bool(passes)
    client.wait_for_state('error')
    assert client.ask('again')
    assert client.texts('state')[-4:] == ['error', 'reading', 'answering', 'idle']


def test_failed_answer_shows_in_the_diagnostics(serving):
    _, client, gate = serving
    gate.failure = BackendError('the device is gone')
    client.say('hello')
    client.wait_for_state('error')
    assert client.diagnostics()['answers failed'] == '1'
    status = client.statuses[-1]
    assert (status.level, status.message) == (b'\2', 'the last answer failed')


@pytest.mark.parametrize('passes', [1, 4], ids=['reading', 'answering'])
def test_lost_backend_is_opened_again_and_the_answer_has_no_seam(serving, gates, passes):
    _, client, gate = serving
    whole = client.ask('hello')
    assert client.request('reset').success
    client.forget()
    gate.shut()
    client.say('hello')
    assert gate.let(passes)
    gate.failure = BackendLost('the device is gone')
    gate.open()
    assert client.wait_for_responses() == [whole]
    assert client.texts('cache_reset') == ['recovered']
    assert client.texts('error') == []
    assert [gate.closed for gate in gates] == [1, 0]
    assert client.diagnostics()['resets, recovered'] == '1'


def test_reset_loads_the_model_again_after_a_failure(serving, gates, monkeypatch):
    _, client, gate = serving
    gate.failure = BackendError('the device is gone')
    client.say('hello')
    client.wait_for_state('error')
    client.forget()
    with monkeypatch.context() as patch:
        patch.setattr(node_module, 'open_backend', fail)
        reply = client.request('reset')
    assert (reply.success, reply.message) == (
        False, 'the conversation is cleared, the model is not loaded; see ~/error')
    assert client.wait_for_texts('error') == [
        'the model could not be loaded again: no such device']
    assert client.request('reset').success
    client.wait_for_state('idle')
    assert client.ask('hello')
    assert [gate.closed for gate in gates] == [1, 0]


def fail(*_, **__):
    raise BackendError('no such device')


def test_deactivation_in_a_pass_gives_each_prompt_its_response(serving):
    node, client, gate = serving
    gate.shut()
    client.say('one', 'two', 'three')
    assert gate.let(3)
    client.wait_for_texts('token')
    poll_until(lambda: node._server.waiting == 2, 'prompts in the queue')
    stopping = Thread(target=node.trigger_deactivate)
    stopping.start()
    gate.open()
    stopping.join(DEADLINE_S)
    first, *others = client.wait_for_texts('response', 3)
    assert first and others == ['', '']
    assert [prompt in error for prompt, error in zip(("'two'", "'three'"),
            client.wait_for_texts('error', 2), strict=True)] == [True, True]


def test_prompts_that_nobody_heard_before_a_deactivation_are_refused_and_not_lost(
        serving, monkeypatch):
    node, client, _ = serving
    held, hold = Event(), Event()
    submit = node._server.submit

    def submit_slowly(prompt):
        if prompt == 'one':
            held.set()
            assert hold.wait(DEADLINE_S)
        submit(prompt)
    monkeypatch.setattr(node._server, 'submit', submit_slowly)
    client.say('one')
    assert held.wait(DEADLINE_S)
    client.say('two', 'three')  # wait in the subscription: prompts are heard one after another
    assert client.set({'max_tokens': 3}) == ''  # the reply to what was sent later: they are there
    assert node.trigger_deactivate() == DONE
    hold.set()
    errors = client.wait_for_texts('error', 3)
    assert sorted(re.findall(r"'(one|two|three)' was refused: the node is stopping",
                             ' '.join(errors))) == ['one', 'three', 'two']


def test_prompts_that_the_middleware_loses_are_counted_and_told_once(
        make_node, robots, monkeypatch):
    node = make_node(prompt_depth=2)
    client = robots.connect(node.get_namespace())
    client.connect()
    assert node.start()
    client.wait_for_state('idle')
    client.wait_for_subscriber()
    held, hold = Event(), Event()
    submit = node._server.submit

    def submit_slowly(prompt):
        held.set()
        assert hold.wait(DEADLINE_S)
        submit(prompt)
    monkeypatch.setattr(node._server, 'submit', submit_slowly)
    client.say('first')
    assert held.wait(DEADLINE_S)
    client.say(*map(str, range(10)))
    assert client.set({'max_tokens': 3}) == ''  # the reply to what was sent later: they are there
    hold.set()
    assert len(client.wait_for_responses(3)) == 3
    error, = client.wait_for_texts('error')
    assert error.startswith('8 messages on ~/prompt were lost') and 'holds 2' in error
    assert [event.text for event in client.stream if event.kind == 'asked'] == ['first', '8', '9']
    assert client.diagnostics()['messages lost'] == '8'


def test_transition_that_fails_frees_all_and_can_be_mended(serving, gates, monkeypatch):
    node, client, gate = serving
    destroy, failures = node.destroy_subscription, [ZeroDivisionError()]

    def fail_once(subscription):
        if failures:
            raise failures.pop()
        destroy(subscription)
    monkeypatch.setattr(node, 'destroy_subscription', fail_once)
    assert node.trigger_deactivate() == TransitionCallbackReturn.ERROR
    assert 'configure the node again' in client.wait_for_texts('error')[0]
    client.wait_for_state('error')
    assert gate.closed == 1
    assert node.start()
    client.wait_for_state('idle')
    assert client.ask('hello')
    assert len(gates) == 2


def test_reactivated_node_is_idle_and_remembers(serving):
    node, client, _ = serving
    client.ask('hello')
    node.trigger_deactivate()
    client.wait_for_state('loading')
    node.trigger_activate()
    client.wait_for_state('idle')
    client.wait_for_subscriber()
    before = int(client.diagnostics()['fill (slots)'])
    client.ask('again')
    assert int(client.diagnostics()['fill (slots)']) > before


@pytest.mark.parametrize(('text', 'request_id', 'param'), [
    ('{"id": "a", "messages": []}', 'a', 'messages'), ('nonsense', '', '')])
def test_wrong_request_is_refused_with_what_is_known_of_it(serving, monkeypatch, text, request_id,
                                                           param):
    node, client, gate = serving
    told = []
    monkeypatch.setattr(node._server, '_tell', told.append)
    node._on_request(text)
    event, = told
    assert (event.id, event.kind, event.code, event.param) == (
        request_id, 'error', 'invalid_request', param)
    assert gate.begun == 0
    assert client.diagnostics()['prompts refused'] == '1'


def test_nul_in_an_answer_does_not_cut_it(serving):
    node, client, _ = serving
    node._publisher.tell(TurnNotice(1, 'answered', 'a\0b'))
    assert client.wait_for_texts('response') == ['a\N{REPLACEMENT CHARACTER}b']


def test_system_prompt_that_the_model_does_not_take_is_refused_when_it_is_set(
        make_node, tmp_path, capfd):
    folder = build_model(tmp_path / 'strict', SHAPES['tiny'], template=NO_SYSTEM)
    node = make_node(model=str(folder), system_prompt='Be brief.')
    assert not node.start()
    assert 'system_prompt cannot be used' in capfd.readouterr().err
    assert set_parameter(node, 'system_prompt', '') == ''
    assert node.start()
    assert 'no system role' in set_parameter(node, 'system_prompt', 'Be brief.')


def test_system_prompt_that_leaves_no_room_is_refused_when_it_is_set(make_node, capfd):
    long = 'Be brief. ' * 100
    node = make_node(system_prompt=long)
    assert not node.start()
    assert 'system_prompt is too long: with the shortest prompt it is' in capfd.readouterr().err
    assert set_parameter(node, 'system_prompt', 'Be brief.') == ''
    assert node.start()
    assert 'system_prompt is too long' in set_parameter(node, 'system_prompt', long)
    assert node.value('system_prompt') == 'Be brief.'


def test_whole_number_is_taken_for_a_float(make_node):
    node = make_node(**{'sampling.temperature': 0, 'sampling.top_p': 1})
    assert node.value('sampling.temperature') == 0.0
    assert isinstance(node.value('sampling.temperature'), float)
    assert set_parameter(node, 'sampling.temperature', 2) == ''
    assert isinstance(node.value('sampling.temperature'), float)
    assert node.set_parameters_atomically([Parameter('sampling.top_p', value=0)]).successful
    assert node.value('sampling.top_p') == 0.0
    assert 'sampling.temperature' in set_parameter(node, 'sampling.temperature', 11)
    assert 'Wrong parameter type' in set_parameter(node, 'sampling.temperature', True)


def test_whole_number_is_taken_for_a_float_from_another_process(serving):
    node, client, _ = serving
    assert client.set({'sampling.temperature': 1}) == ''
    assert node.value('sampling.temperature') == 1.0


@pytest.mark.parametrize('name', ['tinyllama', '/other/tinyllama'])
def test_parameter_file_that_holds_nothing_for_the_node_is_warned_of(node, tmp_path, capfd, name):
    path = tmp_path / 'x.yaml'
    path.write_text(f'{name}:\n  ros__parameters:\n    max_tokens: 7\n')
    node.warn_of_files(['node', '--ros-args', '--params-file', str(path)])
    said = capfd.readouterr().err
    assert f'holds no parameters for {node.get_fully_qualified_name()}, only for ' in said


def test_diagnostics_go_on_where_the_clock_of_ros_stands_still(make_node, robots):
    node = make_node(use_sim_time=True)
    client = robots.connect(node.get_namespace())
    client.connect()
    assert node.start()
    client.wait_until(lambda: len(client.statuses) > 2 and client.status.is_ready, 'diagnostics')
    assert client.statuses[-1].message == 'idle'
    assert node.get_clock().now().nanoseconds == 0


def test_end_during_a_deactivation_loses_no_response(serving):
    node, client, gate = serving
    gate.shut()
    client.say('one', 'two', 'three')
    assert gate.let(3)
    client.wait_for_texts('token')
    poll_until(lambda: node._server.waiting == 2, 'prompts in the queue')
    stopping = Thread(target=node.trigger_deactivate)
    stopping.start()
    poll_until(lambda: not node._server._is_open, 'deactivation')
    ending = Thread(target=node.end)
    ending.start()
    ending.join(0.1)
    assert ending.is_alive()  # it waits for the transition, as the first of which it must stop
    gate.open()
    ending.join(DEADLINE_S)
    stopping.join(DEADLINE_S)
    first, *others = client.wait_for_texts('response', 3)
    assert first and others == ['', '']
    assert gate.closed == 1


def test_nothing_is_published_after_the_end(serving, monkeypatch):
    node, client, _ = serving
    node.end()
    client.wait_for_state('finalized')
    with monkeypatch.context() as patch:
        patch.setattr(node, '_publisher', None)  # where it is used, that raises
        node.abandon()


def test_activations_leave_nothing_of_their_subscriptions(serving):
    node, _, _ = serving

    def count_entities():
        return sum(len(group.entities) for group in {
            subscription.callback_group for subscription in node.subscriptions})

    before = count_entities()
    for _ in range(3):
        node.trigger_deactivate()
        node.trigger_activate()
    assert count_entities() == before


def test_events_are_on_one_topic_in_the_order_of_their_numbers(serving):
    _, client, _ = serving
    first, second = client.ask('hello'), client.ask('again')
    events = client.stream
    client.wait_until(lambda: [event.kind for event in events].count('answered') == 2, 'events')
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert len({event.run for event in events}) == 1
    kinds = [event.kind for event in events]
    assert kinds[:2] == ['begun', 'asked']
    for turn, answer in ((1, first), (2, second)):
        texts = [event.text for event in events if (event.turn, event.kind) == (turn, 'token')]
        assert ''.join(texts) == answer


def test_history_keeps_the_beginning_of_long_texts(serving, robots):
    node, client, _ = serving
    prompt, answer = 'p' * 30_000, 'a' * 40_000
    node._publisher.tell(TurnNotice(7, 'asked', prompt))
    node._publisher.tell(TurnNotice(7, 'answered', answer))
    client.wait_until(lambda: len(client.stream) == 3, 'events')
    assert [event.text for event in client.stream[1:]] == [prompt, answer]
    late = robots.connect(node.get_namespace())
    late.wait_until(lambda: len(late.stream) == 3, 'history')
    assert [event.text for event in late.stream[1:]] == [beginning(prompt), beginning(answer)]


def test_prompt_and_request_and_system_prompt_of_megabytes_are_refused_unread(
        serving, monkeypatch):
    node, client, gate = serving
    monkeypatch.setattr(ChatTemplate, 'encode', None)
    long = 'robots ' * 200_000
    client.say(long)
    refusal, = client.wait_for_texts('error')
    assert "the prompt 'robots robots" in refusal and 'it has 1400000 bytes' in refusal
    client.wait_until(lambda: client.stream[-1].kind == 'refused', 'event')
    assert client.stream[-1].text == beginning(long)
    told = []
    monkeypatch.setattr(node._server, '_tell', told.append)
    node._on_request(request_to_json(CompletionRequest('one', (Message('user', long),))))
    assert [(event.id, event.code) for event in told] == [('one', 'too_long')]
    assert 'it has 1400000 bytes' in set_parameter(node, 'system_prompt', long)
    assert gate.begun == 0


def test_client_that_comes_late_is_told_what_happened_and_goes_on_in_order(serving, robots):
    node, client, _ = serving
    first = client.ask('hello')
    late = robots.connect(node.get_namespace())
    late.connect()
    late.wait_until(lambda: len(late.stream) == 3, 'history')
    assert [(event.turn, event.kind, event.text) for event in late.stream] == [
        (0, 'begun', ''), (1, 'asked', 'hello'), (1, 'answered', first)]
    client.ask('again')
    late.wait_until(lambda: late.stream[-1].kind == 'answered' and late.stream[-1].turn == 2,
                    'answer')
    seqs = [event.seq for event in late.stream]
    assert seqs[3:] == list(range(seqs[3], seqs[-1] + 1))
    assert seqs[3] == seqs[2] + 1


def test_log_of_the_layers_below_reaches_ros_at_every_severity(capfd):
    handler = RosLogHandler(SimpleNamespace(get_logger=lambda: get_logger('layers')))
    for level in (logging.INFO, logging.ERROR, logging.INFO):
        handler.handle(logging.LogRecord('below', level, '', 0, 'line %d', (level,), None))
    heard = capfd.readouterr()
    assert [line in heard.out + heard.err for line in ('line 20', 'line 40')] == [True, True]


def test_model_that_cannot_be_looked_up_fails_with_its_reason(make_node, capfd):
    assert make_node(model='~no-such-user/model').trigger_configure() == REFUSED
    heard = capfd.readouterr()
    assert "the model '~no-such-user/model' cannot be looked up" in heard.out + heard.err
