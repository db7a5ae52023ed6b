"""
The node in a process of its own, seen from outside through its topics and services.

Each test runs on the CPU and on a simulated NPU.
"""

import json
import re
import shutil
import signal
import time

import pytest

rclpy = pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')

from std_msgs.msg import Bool  # noqa: E402
from support.paths import SIMULATOR  # noqa: E402
from support.robot import (  # noqa: E402
    build_model,
    KV_LENGTH,
    NODE,
    poll_until,
    Robots,
    split_like,
)

DEFAULTS = {'when_busy': 'queue', 'when_speaking': 'ignore', 'echo_tail': 0.0,
            'system_prompt': '', 'max_tokens': 12,
            'answer_room': 32, 'sampling.temperature': 0.0,
            'sampling.top_p': 1.0, 'sampling.seed': -1}
QUEUE_DEPTH = 5
LONG_PROMPT = 'tell me more ' * 33
"""Some 430 tokens: 7 chunks."""
WITHOUT_ROS = f"""
import sys
class NoRos:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('rclpy', 'std_msgs', 'std_srvs', 'diagnostic_msgs'):
            raise ModuleNotFoundError(f'No module named {{name!r}}', name=name)
sys.meta_path.insert(0, NoRos())
{NODE}"""


@pytest.fixture(scope='module', params=['onnx', 'acl'])
def backend(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('PYTHONPATH', str(SIMULATOR))
        yield request.param


@pytest.fixture(scope='module')
def model(tmp_path_factory, backend):
    return str(build_model(tmp_path_factory.mktemp('model') / 'talkative', backend=backend))


@pytest.fixture(scope='module')
def robots(tmp_path_factory):
    robots = Robots(tmp_path_factory.mktemp('robots'))
    yield robots
    robots.close()


@pytest.fixture(scope='module')
def start(robots, model, backend):
    """Return a function that starts a node of the test's own, and a client to it."""
    def start(**parameters):
        return robots.serve(**{'model': model, 'backend': backend, 'threads': 1, **DEFAULTS,
                               **parameters})
    return start


@pytest.fixture(scope='module')
def shared(start):
    process, client = start(queue_depth=QUEUE_DEPTH)
    yield client
    assert process.stop() == 0, process.log
    assert 'Traceback' not in process.log


@pytest.fixture
def robot(shared):
    """Give a client to an idle node with default parameters, which remembers nothing."""
    assert shared.set(DEFAULTS) == ''
    shared.forget()
    assert shared.request('reset').success
    shared.wait_for_texts('cache_reset')
    shared.wait_for_state('idle')
    shared.forget()
    return shared


def test_five_prompts_at_once_are_answered_in_order(robot):
    prompts = ['one', 'two words', 'three of them', 'a fourth', 'last']
    in_turn = [robot.ask(prompt) for prompt in prompts]
    robot.request('reset')
    robot.forget()
    robot.say(*prompts)
    responses = robot.wait_for_responses(5)
    assert len(set(in_turn)) > 1
    assert responses == in_turn


def test_tokens_joined_are_each_response(robot):
    robot.say('one', 'two', 'three')
    responses = robot.wait_for_responses(3)
    assert all(responses)
    assert '' not in robot.texts('token')
    assert split_like(responses, robot.texts('token')) == responses


def test_events_of_a_turn_come_in_order(robot):
    robot.ask('hello')
    topics = [event.topic if event.topic != 'state' else event.text for event in robot.events
              if event.topic != 'sentence']
    tokens = len(robot.texts('token'))
    assert topics == ['reading', 'answering', *['token'] * tokens, 'response', 'idle']


def test_sentences_say_each_letter_and_digit_of_the_response(robot):
    response = robot.ask('hello')
    said = ''.join(robot.texts('sentence'))
    assert list(filter(str.isalnum, said)) == list(filter(str.isalnum, response)) != []


def test_states_follow_the_life_of_the_node(start):
    process, client = start(autostart=False)
    assert client.texts('state') == []
    assert client.change_state('configure')
    assert client.change_state('activate')
    client.wait_for_state('idle')
    client.say('one', 'two')
    client.wait_for_responses(2)
    turn = ['reading', 'answering']
    assert client.texts('state') == ['loading', 'idle', *turn, *turn, 'idle']
    assert process.stop() == 0


def test_unconfigured_node_takes_no_prompt_and_no_reset(start):
    process, client = start(autostart=False)
    assert client.prompts.get_subscription_count() == 0
    reply = client.request('reset')
    assert (reply.success, reply.message) == (False, 'the node is not active')
    assert process.stop() == 0


def test_impossible_transition_is_refused_in_one_line_that_says_what_is_possible(start):
    process, client = start()
    for _ in range(3):
        assert not client.change_state('configure')
    assert client.ask('hello')
    lines = [line for line in process.log.splitlines() if 'impossible' in line]
    assert len(lines) == 3
    assert 'is impossible in the state active; possible: deactivate, shutdown' in lines[0]
    assert 'callback failed' not in process.log
    assert process.stop() == 0


def test_cancel_while_reading_stops_before_the_next_chunk(robot):
    for _ in range(10):  # on a busy machine the reading may end before the cancel arrives
        robot.forget()
        robot.say(LONG_PROMPT)
        robot.wait_for_state('reading')
        robot.request('cancel')
        response, = robot.wait_for_responses()
        fill = int(robot.diagnostics()['fill (slots)'])
        if fill < len(LONG_PROMPT) and not robot.texts('token'):
            break
        robot.request('reset')
    assert (response, robot.texts('token')) == ('', [])
    assert 0 < fill < len(LONG_PROMPT)


def test_nothing_of_an_answer_is_published_after_the_reply_of_cancel(robot):
    robot.set({'max_tokens': 0})
    robot.say('hello')
    robot.wait_for_texts('token', 5)
    assert robot.request('cancel').message == 'the answer is stopped'
    replied_ns = time.time_ns()
    response, = robot.wait_for_responses()
    robot.wait_for_texts('interrupted')
    assert all(event.published_ns < replied_ns for event in robot.events
               if event.topic in ('token', 'sentence', 'response', 'interrupted'))
    assert split_like([response], robot.texts('token')) == [response]


def test_cancel_stops_one_answer_and_not_the_queue(robot):
    robot.set({'max_tokens': 0})
    robot.say('one', 'two')
    robot.wait_for_texts('token', 3)
    robot.set({'max_tokens': 4})
    robot.request('cancel')
    first, second = robot.wait_for_responses(2)
    assert first and second


def test_cancel_without_an_answer_says_so(robot):
    reply = robot.request('cancel')
    assert (reply.success, reply.message) == (True, 'nothing was being answered')


def test_cancelled_answer_is_remembered_as_far_as_it_was_published(robot):
    robot.set({'max_tokens': 0})
    robot.say('hello')
    robot.wait_for_texts('token', 5)
    robot.request('cancel')
    response, = robot.wait_for_responses()
    robot.set({'max_tokens': 1})
    robot.ask('more')
    both = int(robot.diagnostics()['fill (slots)'])
    robot.request('reset')
    robot.ask('more')
    assert both >= int(robot.diagnostics()['fill (slots)']) + len('hello') + len(response)


def test_prompt_interrupts_the_answer_under_way_where_it_is_so_configured(robot):
    robot.set({'max_tokens': 0, 'when_busy': 'interrupt'})
    robot.say('hello')
    robot.wait_for_texts('token', 5)
    robot.set({'max_tokens': 12})
    robot.say('again')
    cut, whole = robot.wait_for_responses(2)
    assert cut and whole
    order = [event.topic for event in robot.events if event.topic in ('response', 'interrupted')]
    assert order == ['response', 'interrupted', 'response']


def test_prompt_during_speech_is_refused_as_an_echo(robot):
    speaking = robot.node.create_publisher(Bool, f'{robot.target}/speaking', 10)
    poll_until(speaking.get_subscription_count, 'subscriber to the speech')
    speaking.publish(Bool(data=True))
    poll_until(lambda: not _is_answered(robot, 'echo'), 'refusal')  # topics keep no order
    assert 'the robot was speaking' in robot.texts('error')[0]
    speaking.publish(Bool(data=False))
    poll_until(lambda: _is_answered(robot, 'question'), 'answer after the speech')


def _is_answered(robot, prompt):
    robot.forget()
    robot.say(prompt)
    robot.wait_until(lambda: robot.texts('error') or robot.texts('response'), 'end')
    return robot.texts('response')


def test_reset_while_idle_forgets_the_conversation(robot):
    first = robot.ask('hello')
    second = robot.ask('hello')
    reply = robot.request('reset')
    assert (reply.success, reply.message) == (True, 'the conversation is cleared')
    assert robot.wait_for_texts('cache_reset') == ['requested']
    assert robot.ask('hello') == first != second


def test_reset_while_answering_cuts_the_answer_and_keeps_the_queue(robot):
    first = robot.ask('hello')
    robot.set({'max_tokens': 0})
    robot.forget()
    robot.say('count', 'hello')
    robot.wait_for_texts('token', 5)
    robot.set({'max_tokens': 12})
    robot.request('reset')
    cut, after = robot.wait_for_responses(2)
    assert cut
    assert after == first
    order = [event.topic for event in robot.events if event.topic in ('response', 'cache_reset')]
    assert order == ['response', 'cache_reset', 'response']


def test_many_resets_at_once_are_all_done(robot):
    replies = [robot.call_async('reset') for _ in range(8)]
    assert all(robot.reply(reply, 'reset').success for reply in replies)
    assert robot.wait_for_texts('cache_reset', 8) == ['requested'] * 8


def test_full_cache_is_announced_and_the_answer_goes_on(robot):
    robot.set({'max_tokens': 200})
    robot.say(LONG_PROMPT[:380])
    response, = robot.wait_for_responses()
    tokens, events = robot.texts('token'), [event.topic for event in robot.events]
    assert robot.texts('cache_reset') == ['full']
    assert events.index('token') < events.index('cache_reset')
    assert 'token' in events[events.index('cache_reset'):]
    assert split_like([response], tokens) == [response]
    assert int(robot.diagnostics()['fill (slots)']) <= KV_LENGTH


def test_full_cache_between_turns_is_announced(robot):
    robot.ask(LONG_PROMPT)
    assert robot.texts('cache_reset') == []
    robot.ask('and now something longer ' * 4)
    assert robot.texts('cache_reset') == ['full']


@pytest.mark.parametrize(('seed', 'is_same'), [(7, True), (-1, False)], ids=['fixed', 'fresh'])
def test_seed_repeats_an_answer(robot, seed, is_same):
    robot.set({'sampling.temperature': 1.5, 'sampling.seed': seed, 'max_tokens': 20})
    first = robot.ask('hello')
    robot.request('reset')
    assert (robot.ask('hello') == first) == is_same


def test_system_prompt_counts_from_the_next_prompt(robot):
    robot.set({'max_tokens': 40})
    without = robot.ask('hello')
    robot.request('reset')
    robot.say('hello')
    robot.wait_for_texts('token', 45)
    assert robot.set({'system_prompt': 'You are a robot.'}) == ''
    assert robot.wait_for_responses(2)[-1] == without
    robot.request('reset')
    assert robot.ask('hello') != without


@pytest.mark.parametrize(('values', 'reason'), [
    ({'sampling.top_p': 1.5}, 'sampling.top_p'),
    ({'max_tokens': -1}, 'max_tokens'),
    ({'answer_room': 1}, 'answer_room'),
    ({'answer_room': KV_LENGTH}, 'answer_room'),
    ({'sampling.temperature': float('nan')}, 'temperature'),
    ({'max_tokens': 'many'}, 'Wrong parameter type'),
    ({'model': 'another'}, 'model is read when the node is configured'),
    ({'queue_depth': 3}, 'queue_depth is read when the node is configured'),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_refused_parameter_says_why_and_changes_nothing(robot, values, reason):
    answer = robot.ask('hello')
    assert reason in robot.set(values)
    robot.request('reset')
    assert robot.ask('hello') == answer


def test_late_subscriber_hears_the_state(robot, robots):
    robot.ask('hello')
    late = robots.connect(robot.target.rpartition('/')[0])
    late.wait_for_state('idle')
    assert late.texts('state') == ['idle']
    assert late.texts('token') == []


def test_diagnostics_come_once_a_second(robot):
    assert robot.diagnostics_periods_s(3) == pytest.approx([1.0] * 3, abs=0.3)


def test_diagnostics_count_what_happened(robot):
    before = robot.diagnostics()
    robot.ask('hello')
    robot.say(' ')
    robot.wait_for_texts('error')
    robot.request('reset')
    after = robot.diagnostics()
    grown = {name for name in before if before[name].isdigit() and after[name].isdigit()
             and int(after[name]) > int(before[name])}
    assert {'resets, requested', 'answers', 'prompts refused', 'prefill tokens',
            'generated tokens'} <= grown
    assert after['capacity (slots)'] == str(KV_LENGTH)
    assert after['state'] == 'idle'
    assert float(after['speed (tok/s)']) > 0
    assert float(after['time to first token (s)']) > 0


@pytest.mark.parametrize(('prompt', 'message'), [
    ('', 'is empty'), (' \n\t', 'is empty'), ('\x07\x1b\x01', 'is empty'),
    ('x' * KV_LENGTH, r'too long: with the system prompt it is \d+ tokens, and at most 500 fit'),
    ('x' * 200_000, 'too long'),
], ids=['empty', 'white', 'control characters', 'too long', 'huge'])
def test_bad_prompt_is_refused_and_the_next_one_answered(robot, prompt, message):
    robot.say(prompt, 'hello')
    assert all(robot.wait_for_responses())
    error, = robot.wait_for_texts('error')
    assert error.startswith('the prompt ')
    assert re.search(message, error)
    assert len(error) < 400
    assert len(robot.texts('response')) == 1


def test_prompt_that_is_not_utf8_is_refused_and_the_next_one_answered(robot):
    robot.say(b'\xff\xfe\x80', 'hello')
    assert all(robot.wait_for_responses())
    assert 'not valid UTF-8' in ''.join(robot.wait_for_texts('error'))
    assert len(robot.texts('response')) == 1


def test_control_tokens_in_a_prompt_are_plain_text(robot):
    plain = robot.ask('a' * len('<|im_end|>'))
    fill = robot.diagnostics()['fill (slots)']
    robot.request('reset')
    assert robot.ask('<|im_end|>')
    assert robot.diagnostics()['fill (slots)'] == fill
    assert plain
    assert robot.texts('error') == []


def test_full_queue_refuses_and_loses_nothing(robot):
    robot.set({'max_tokens': 0})
    robot.say('long')
    robot.wait_for_texts('token')
    robot.set({'max_tokens': 2})
    robot.say(*(f'prompt {number}' for number in range(QUEUE_DEPTH + 2)))
    errors = robot.wait_for_texts('error', 2)
    robot.request('cancel')
    assert len(robot.wait_for_responses(1 + QUEUE_DEPTH)) == 1 + QUEUE_DEPTH
    assert [f"'prompt {QUEUE_DEPTH + number}' was refused: {QUEUE_DEPTH} prompts are waiting"
            in error for number, error in enumerate(errors)] == [True, True]


def test_deactivated_node_answers_what_waits_and_serves_again(start):
    process, client = start(max_tokens=0)
    client.say('one', 'two', 'three')
    client.wait_for_texts('token', 3)
    assert client.change_state('deactivate')
    first, *dropped = client.wait_for_texts('response', 3)
    assert first and dropped == ['', '']
    assert all('not answered: the node is stopping' in error
               for error in client.wait_for_texts('error', 2))
    poll_until(lambda: not client.prompts.get_subscription_count(), 'end of the subscription')
    assert client.set({'max_tokens': 5}) == ''
    assert client.change_state('activate')
    client.wait_for_state('idle')
    client.wait_for_subscriber()
    assert client.ask('again')
    assert process.stop() == 0
    assert 'Traceback' not in process.log


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_signal_in_mid_answer_ends_it_and_the_node(start, number):
    process, client = start(max_tokens=0)
    client.say('one', 'two')
    client.wait_for_texts('token', 5)
    assert process.stop(number) == 0
    first, second = client.wait_for_texts('response', 2)
    assert first and not second
    assert split_like([first], client.texts('token')) == [first]
    assert 'Traceback' not in process.log


def test_signal_to_a_node_that_was_stopped_ends_it(start):
    node, _ = start()
    for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGCONT):
        node.send(number)  # another thread than the first may take the second
    assert node.wait() == 0


def test_signal_after_a_shutdown_from_outside_is_no_error(start):
    process, client = start()
    assert client.change_state('active_shutdown')
    client.wait_for_state('finalized')
    assert process.stop() == 0
    assert 'Traceback' not in process.log


def test_second_node_of_the_name_goes_and_the_first_serves_on(start, robots, model, backend):
    process, client = start()
    second = robots.start(namespace=client.target.rpartition('/')[0],
                          parameters={'model': model, 'backend': backend})
    assert second.wait() == 1
    assert f'another node is called {client.target}; give this one another name' in second.log
    assert 'Traceback' not in second.log
    assert client.ask('hello')
    assert client.texts('error') == []
    assert 'error' not in client.texts('state')
    assert process.stop() == 0


@pytest.mark.parametrize(('arguments', 'message'), [
    ({'model': 'nope'}, "there is no artifact 'nope'"),
    ({'backend': 'gpu'}, "backend 'gpu' is unknown; known: onnx, acl"),
    ({'answer_room': KV_LENGTH}, f'answer_room is {KV_LENGTH}; it may be at most half'),
    ({'threads': 'two'}, "'threads' to 'two' of type 'STRING', expecting type 'INTEGER'"),
    ({'sampling.top_p': 7.0}, 'sampling.top_p out of range Min: 0.0, Max: 1.0, value: 7.0'),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_bad_parameter_at_start_is_one_line_and_status_1(robots, model, backend, arguments,
                                                         message):
    process = robots.start(parameters={'model': model, 'backend': backend, **arguments})
    assert process.wait() == 1
    line, = process.log.splitlines()
    assert message in line


def test_arguments_that_ros_cannot_read_are_one_line_and_status_1(robots):
    process = robots.start(arguments=('-p', 'nonsense'))
    assert process.wait() == 1
    assert "Couldn't parse parameter override rule: '-p nonsense'" in process.log
    assert 'Traceback' not in process.log


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def alter(path):
    path.write_bytes(path.read_bytes()[:-1] + b'!')


def other_version(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {'format_version': 99}))


def other_length(path):
    path.write_text(json.dumps(json.loads(path.read_text()) | {'kv_length': 256}))


WEIGHTS, GRAPH = ({'onnx': 'decoder.onnx.data', 'acl': 'decoder.om'},
                  {'onnx': 'decoder.onnx', 'acl': 'decoder.om'})
LENGTHS = {'onnx': 'key.0 has the shape', 'acl': 'kv_length is 512 in the .om, 256 in the'}


@pytest.mark.parametrize(('damage', 'name', 'message'), [
    (cut, WEIGHTS, 'cut short'),
    (alter, GRAPH, 'was altered'),
    (lambda path: path.unlink(), 'tokenizer.json', 'is missing'),
    (cut, 'manifest.json', 'is not a valid manifest'),
    (other_version, 'manifest.json', 'has format version 99'),
    (other_length, 'manifest.json', LENGTHS),
], ids=['cut short', 'altered', 'missing', 'manifest', 'version', 'kv_length'])
def test_damaged_artifact_is_named_and_status_1(robots, model, backend, tmp_path, damage, name,
                                                message):
    folder = shutil.copytree(model, tmp_path / 'damaged')
    damage(folder / (name if isinstance(name, str) else name[backend]))
    process = robots.start(parameters={'model': str(folder), 'backend': backend,
                                       'answer_room': 32})
    assert process.wait() == 1
    line, = process.log.splitlines()
    assert str(folder) in line
    assert (message if isinstance(message, str) else message[backend]) in line


def test_device_lost_in_mid_answer_is_recovered_with_no_seam(robots, model, backend):
    if backend == 'onnx':
        pytest.skip('faults are injected into the simulated NPU only')
    answers = []
    for faults in ('', 'execute_async:9=507014'):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv('ASCEND_SIM_FAULTS', faults)
            process, client = robots.serve(**{'model': model, 'backend': backend, **DEFAULTS})
        answers.append(client.ask('hello'))
        assert client.texts('cache_reset') == ['recovered'] * bool(faults)
        assert client.texts('error') == []
        assert process.stop() == 0
    assert answers[0] == answers[1]
    assert 'loading the model again (1 of at most 3 times)' in process.log


def test_missing_ros_is_one_line_and_status_1(robots):
    process = robots.start(program=WITHOUT_ROS)
    assert process.wait() == 1
    line, = process.log.splitlines()
    assert 'rclpy' in line or 'diagnostic_msgs' in line
    assert 'source a ROS 2' in line
