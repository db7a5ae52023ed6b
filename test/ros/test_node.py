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
from std_msgs.msg import String  # noqa: E402
from support.robot import build_model, DEADLINE_S, KV_LENGTH, poll_until, Robots  # noqa: E402

from tinyllama_ros.engine.backend import open_backend  # noqa: E402
from tinyllama_ros.errors import BackendError, BackendLost  # noqa: E402
from tinyllama_ros.ros import node as node_module  # noqa: E402
from tinyllama_ros.ros.node import THREADS, TinyLlamaNode  # noqa: E402
from tinyllama_ros.ros.parameters import PARAMETERS  # noqa: E402
from tinyllama_ros.workbench.checkpoints.random_checkpoint import SHAPES  # noqa: E402

DONE, REFUSED = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE
LONG_PROMPT = 'x' * 300
"""Some 330 tokens: 6 chunks."""
NO_SYSTEM = ("{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}"
             '{% endif %}')


class Gate:
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
        gates.append(Gate(open_backend(*arguments, **options)))
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
    """Return an active node, its ear and its gate."""
    ear = robots.listen(node.get_namespace())
    ear.connect()
    assert node.start()
    ear.wait_for_state('idle')
    ear.wait_for_subscriber()
    return node, ear, gates[0]


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
    ear = robots.listen(node.get_namespace())
    ear.connect()
    set_parameter(node, 'model', 'nope')
    assert not node.start()
    assert "there is no artifact 'nope'" in ear.wait_for_texts('error')[0]
    ear.wait_for_state('error')
    assert ear.texts('state') == ['loading', 'error']


def test_prompts_are_heard_only_while_active(node):
    heard = []
    for transition in (node.trigger_configure, node.trigger_activate, node.trigger_deactivate):
        transition()
        heard.append(node.count_subscribers(f'{node.get_fully_qualified_name()}/prompt'))
    assert heard == [0, 1, 0]


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
    ear = robots.listen(node.get_namespace())
    ear.connect()
    assert ear.diagnostics() == {}
    assert (ear.statuses[-1].level, ear.statuses[-1].message) == (b'\1', 'no model is loaded')


def test_cancel_while_reading_begins_no_further_pass(serving):
    _, ear, gate = serving
    gate.shut()
    ear.say(LONG_PROMPT)
    assert gate.let(1)
    assert ear.call('cancel').success
    gate.open()
    assert ear.wait_for_responses() == ['']
    assert gate.begun == 2


def test_cancel_while_answering_begins_no_further_pass(serving):
    node, ear, gate = serving
    set_parameter(node, 'max_tokens', 0)
    gate.shut()
    ear.say('hello')
    assert gate.let(4)
    assert ear.call('cancel').success
    gate.open()
    ear.wait_for_responses()
    assert gate.begun == 5


def test_services_and_diagnostics_answer_during_a_pass(serving):
    node, ear, gate = serving
    gate.shut()
    ear.say('hello', 'again')
    assert gate.let(1)
    assert ear.set({'max_tokens': 3}) == ''
    values = ear.diagnostics()
    assert (values['state'], values['prompts waiting']) == ('answering', '1')
    gate.open()
    assert all(ear.wait_for_responses(2))


def test_services_answer_while_resets_wait_for_a_pass(serving):
    _, ear, gate = serving
    gate.shut()
    ear.say('hello')
    assert gate.let(1)
    resets = [ear.call_async('reset') for _ in range(THREADS - 1)]
    assert ear.set({'max_tokens': 3}) == ''
    assert ear.call('cancel').message == 'the answer is stopped'
    assert not any(reset.done() for reset in resets)
    gate.open()
    assert all(ear.reply(reset, 'reset').success for reset in resets)


@pytest.mark.parametrize('failure', [BackendError('the device is gone'), RuntimeError('a bug')],
                         ids=['known', 'unknown'])
@pytest.mark.parametrize('passes', [0, 4], ids=['reading', 'answering'])
def test_failed_pass_is_an_error_and_the_next_prompt_is_answered(serving, failure, passes):
    _, ear, gate = serving
    gate.shut()
    ear.say('hello')
    assert gate.let(passes) or passes == 0
    gate.failure = failure
    gate.open()
    error, = ear.wait_for_texts('error')
    assert error.startswith("the answer to 'hello' failed: ") and str(failure) in error
    response, = ear.wait_for_texts('response')
    assert bool(response) == bool(passes)
    ear.wait_for_state('error')
    assert ear.ask('again')
    assert ear.texts('state')[-4:] == ['error', 'reading', 'answering', 'idle']


def test_failed_answer_shows_in_the_diagnostics(serving):
    _, ear, gate = serving
    gate.failure = BackendError('the device is gone')
    ear.say('hello')
    ear.wait_for_state('error')
    assert ear.diagnostics()['answers failed'] == '1'
    assert (ear.statuses[-1].level, ear.statuses[-1].message) == (b'\2', 'the last answer failed')


@pytest.mark.parametrize('passes', [1, 4], ids=['reading', 'answering'])
def test_lost_backend_is_opened_again_and_the_answer_has_no_seam(serving, gates, passes):
    _, ear, gate = serving
    whole = ear.ask('hello')
    assert ear.call('reset').success
    ear.forget()
    gate.shut()
    ear.say('hello')
    assert gate.let(passes)
    gate.failure = BackendLost('the device is gone')
    gate.open()
    assert ear.wait_for_responses() == [whole]
    assert ear.texts('cache_reset') == ['recovered']
    assert ear.texts('error') == []
    assert [gate.closed for gate in gates] == [1, 0]
    assert ear.diagnostics()['resets, recovered'] == '1'


def test_reset_loads_the_model_again_after_a_failure(serving, gates, monkeypatch):
    _, ear, gate = serving
    gate.failure = BackendError('the device is gone')
    ear.say('hello')
    ear.wait_for_state('error')
    ear.forget()
    with monkeypatch.context() as patch:
        patch.setattr(node_module, 'open_backend', fail)
        reply = ear.call('reset')
    assert (reply.success, reply.message) == (
        False, 'the conversation is cleared, the model is not loaded; see ~/error')
    assert ear.wait_for_texts('error') == ['the model could not be loaded again: no such device']
    assert ear.call('reset').success
    ear.wait_for_state('idle')
    assert ear.ask('hello')
    assert [gate.closed for gate in gates] == [1, 0]


def fail(*_, **__):
    raise BackendError('no such device')


def test_deactivation_in_a_pass_gives_each_prompt_its_response(serving):
    node, ear, gate = serving
    gate.shut()
    ear.say('one', 'two', 'three')
    assert gate.let(3)
    ear.wait_for_texts('token')
    poll_until(lambda: node._server.waiting == 2, 'prompts in the queue')
    stopping = Thread(target=node.trigger_deactivate)
    stopping.start()
    gate.open()
    stopping.join(DEADLINE_S)
    first, *others = ear.wait_for_texts('response', 3)
    assert first and others == ['', '']
    assert [prompt in error for prompt, error in zip(("'two'", "'three'"),
            ear.wait_for_texts('error', 2), strict=True)] == [True, True]


def test_prompts_that_nobody_heard_before_a_deactivation_are_refused_and_not_lost(
        serving, monkeypatch):
    node, ear, _ = serving
    held, hold = Event(), Event()
    submit = node._server.submit

    def submit_slowly(prompt):
        if prompt == 'one':
            held.set()
            assert hold.wait(DEADLINE_S)
        submit(prompt)
    monkeypatch.setattr(node._server, 'submit', submit_slowly)
    ear.say('one')
    assert held.wait(DEADLINE_S)
    ear.say('two', 'three')  # wait in the subscription: prompts are heard one after another
    assert ear.set({'max_tokens': 3}) == ''  # the reply to what was sent later: they are there
    assert node.trigger_deactivate() == DONE
    hold.set()
    errors = ear.wait_for_texts('error', 3)
    assert sorted(re.findall(r"'(one|two|three)' was refused: the node is stopping",
                             ' '.join(errors))) == ['one', 'three', 'two']


def test_transition_that_fails_frees_all_and_can_be_mended(serving, gates, monkeypatch):
    node, ear, gate = serving
    destroy, failures = node.destroy_subscription, [ZeroDivisionError()]

    def fail_once(subscription):
        if failures:
            raise failures.pop()
        destroy(subscription)
    monkeypatch.setattr(node, 'destroy_subscription', fail_once)
    assert node.trigger_deactivate() == TransitionCallbackReturn.ERROR
    assert 'configure the node again' in ear.wait_for_texts('error')[0]
    ear.wait_for_state('error')
    assert gate.closed == 1
    assert node.start()
    ear.wait_for_state('idle')
    assert ear.ask('hello')
    assert len(gates) == 2


def test_reactivated_node_is_idle_and_remembers(serving):
    node, ear, _ = serving
    ear.ask('hello')
    node.trigger_deactivate()
    ear.wait_for_state('loading')
    node.trigger_activate()
    ear.wait_for_state('idle')
    ear.wait_for_subscriber()
    before = int(ear.diagnostics()['fill (slots)'])
    ear.ask('again')
    assert int(ear.diagnostics()['fill (slots)']) > before


@pytest.mark.parametrize(('text', 'request_id', 'param'), [
    ('{"id": "a", "messages": []}', 'a', 'messages'), ('nonsense', '', '')])
def test_wrong_request_is_refused_with_what_is_known_of_it(serving, monkeypatch, text, request_id,
                                                           param):
    node, _, gate = serving
    heard = []
    monkeypatch.setattr(node._topics, 'on_completion', heard.append)
    node._hear_request(String(data=text))
    event, = heard
    assert (event.id, event.kind, event.code, event.param) == (
        request_id, 'error', 'invalid_request', param)
    assert gate.begun == 0


def test_nul_in_an_answer_does_not_cut_it(serving):
    node, ear, _ = serving
    node._topics.on_response('a\0b')
    assert ear.wait_for_texts('response') == ['a\N{REPLACEMENT CHARACTER}b']


def test_reset_is_done_where_the_model_takes_no_system_prompt(make_node, robots, tmp_path):
    folder = build_model(tmp_path / 'strict', SHAPES['tiny'], template=NO_SYSTEM)
    node = make_node(model=str(folder), system_prompt='Be brief.')
    ear = robots.listen(node.get_namespace())
    ear.connect()
    assert node.start()
    ear.wait_for_subscriber()
    assert ear.call('reset').success
    ear.say('hello')
    assert 'no system role' in ear.wait_for_texts('error')[-1]


def test_log_of_the_layers_below_reaches_ros_at_every_severity(capfd):
    handler = node_module._ToRosLog(SimpleNamespace(get_logger=lambda: get_logger('layers')))
    for level in (logging.INFO, logging.ERROR, logging.INFO):
        handler.handle(logging.LogRecord('below', level, '', 0, 'line %d', (level,), None))
    heard = capfd.readouterr()
    assert [line in heard.out + heard.err for line in ('line 20', 'line 40')] == [True, True]


def test_model_that_cannot_be_looked_up_fails_with_its_reason(make_node, capfd):
    assert make_node(model='~no-such-user/model').trigger_configure() == REFUSED
    heard = capfd.readouterr()
    assert "the model '~no-such-user/model' cannot be looked up" in heard.out + heard.err
