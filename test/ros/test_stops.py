"""A node that is told to stop ends soon, whatever it is at, and loses no response."""

import json
import signal

import pytest

rclpy = pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')

from support.robot import ECHO_NODE, Robots  # noqa: E402

from tinyllama_ros.ros.process import LAST_WORDS_S, STOP_S  # noqa: E402

WHY = 'the node is stopping; send it again'


@pytest.fixture
def robots(tmp_path):
    robots = Robots(tmp_path)
    yield robots
    robots.close()


def start(robots, **parameters):
    """Return a node whose model repeats the prompt, and a client that it knows."""
    namespace = robots.new_namespace()
    client = robots.connect(namespace)
    process = robots.start(namespace=namespace, program=ECHO_NODE, parameters=parameters)
    client.connect()
    return process, client


def listen_to_requests(client):
    """Return a list that fills with the events of requests."""
    events = []
    client._requests.receive = lambda data: events.append(json.loads(data))
    return events


def test_stop_takes_less_than_two_seconds():
    assert STOP_S + LAST_WORDS_S < 2


def test_stop_while_a_model_loads_waits_for_nothing(robots):
    process, client = start(robots, model='endless')
    client.wait_for_state('loading')
    assert process.stop(signal.SIGTERM) == 0
    client.wait_for_state('finalized')
    assert process.log == ''


def test_stop_in_a_forward_pass_that_does_not_end_loses_no_response(robots):
    process, client = start(robots)
    client.wait_for_state('idle')
    client.wait_for_subscriber()
    events = listen_to_requests(client)
    client.say('hang')
    client.wait_for_texts('token')
    client.say('wait')
    client.publish('~/chat_request', '{"id": "a", "messages": [{"role": "user", "content": "x"}]}')
    client.wait_until(lambda: events, 'accepted request')
    assert process.stop(signal.SIGTERM) == 0
    client.wait_until(lambda: len(events) == 2, 'end of the request')
    assert client.wait_for_texts('response', 2) == ['so far', '']
    assert (events[1]['kind'], events[1]['code'], events[1]['text']) == ('error', 'stopping', WHY)
    ends = [(event.kind, event.why) for event in client.stream if event.why]
    assert ends == [('stopped', WHY), ('dropped', WHY)]
    assert 'Traceback' not in process.log
