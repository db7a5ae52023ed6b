"""The speech node in a process of its own, beside the language model's node."""

import os
import signal

import pytest

pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')

from rcl_interfaces.srv import GetParameters  # noqa: E402
from std_msgs.msg import Bool, Empty, String  # noqa: E402
from support.robot import ECHO_NODE, poll_until, Robots  # noqa: E402
from support.speech import (  # noqa: E402
    endless_player,
    Heard,
    is_running,
    is_speech,
    needs_espeak,
    sounds_in,
)

from tinyllama_ros.chat.interruption import SPEAKING_EXPIRES_S  # noqa: E402
from tinyllama_ros.ros.speech_client import REPEAT_S  # noqa: E402

SPEAK = 'import sys; from tinyllama_ros.voice.speak import main; sys.exit(main())'


@pytest.fixture
def robots(tmp_path):
    robots = Robots(tmp_path)
    yield robots
    robots.close()


class ModelNode:
    """Publishes as the language model's node does, and hears what the speech node tells."""

    def __init__(self, robots, **parameters):
        self.namespace = robots.new_namespace()
        self.client = robots.connect(self.namespace)
        self.heard = Heard()
        for kind, message in (('speaking', Bool), ('spoken', String)):
            self.client.node.create_subscription(message, f'{self.client.target}/{kind}',
                                                 self._noter(kind), 1000)
        self._publishers = {
            kind: self.client.node.create_publisher(message, f'{self.client.target}/{kind}', 1000)
            for kind, message in (('interrupted', Empty), ('response', String),
                                  ('sentence', String))}
        self.speech = robots.start(namespace=self.namespace, program=SPEAK,
                                   parameters={'model_node': self.client.target} | parameters)
        # Its reply proves that it knows all that was made before; see RecordingClient.connect
        asker = self.client.node.create_client(
            GetParameters, f'{self.namespace}/tinyllama_speak/get_parameters')
        poll_until(lambda: self.client._answers(asker), f'reply of it, but {self.speech.log}')
        poll_until(self._publishers['sentence'].get_subscription_count, 'subscriber')

    def publish(self, kind, text=None):
        self._publishers[kind].publish(Empty() if text is None else String(data=text))

    def _noter(self, kind):
        note = self.heard.note(kind)
        return lambda message: note(message.data)


def next_process(folder):
    """Return the id of the process that begins to play."""
    poll_until((folder / 'pid').exists, 'sound')
    pid = int((folder / 'pid').read_text())
    (folder / 'pid').unlink()
    return pid


@needs_espeak
def test_answers_of_the_real_node_are_spoken(robots, tmp_path):
    model = ModelNode(robots, sink=f'{tmp_path}/speech')
    robots.start(namespace=model.namespace, program=ECHO_NODE,
                 parameters={'when_speaking': 'answer'})
    model.client.connect()
    model.client.wait_for_subscriber()
    while not model.heard.values('spoken'):  # until the two nodes have found each other
        model.client.ask('Hello.')
    prompt = 'This is it. $(touch hacked) is not run.'
    model.client.say(prompt)
    model.heard.wait_for('spoken', prompt)
    model.heard.wait_for('speaking', False)
    assert model.heard.values('speaking')[:2] == [True, False]
    assert all(is_speech(sound, 1) for sound in sounds_in(tmp_path / 'speech')[:-1])
    assert is_speech(sounds_in(tmp_path / 'speech')[-1], 6)
    assert model.speech.stop() == 0
    assert model.speech.log == ''


@needs_espeak
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGKILL], ids=lambda each: each.name)
def test_sound_ends_with_an_interruption_and_with_the_node(robots, tmp_path, monkeypatch, number):
    folder = tmp_path / 'bin'
    endless_player(folder)
    monkeypatch.setenv('PATH', f'{folder}:{os.environ["PATH"]}')
    model = ModelNode(robots, sink='aplay')
    model.publish('sentence', 'A long answer,')
    model.publish('sentence', 'that is not heard to its end.')
    first = next_process(folder)
    model.heard.wait_for('speaking', True)
    model.publish('interrupted')
    model.heard.wait_for('speaking', False)
    poll_until(lambda: not is_running(first), 'end of the sound')
    model.publish('sentence', 'Another answer.')
    second = next_process(folder)
    model.heard.wait_for('speaking', True)
    assert model.speech.stop(number) == (-number if number == signal.SIGKILL else 0)
    poll_until(lambda: not is_running(second), 'end of the sound')
    if number == signal.SIGTERM:
        model.heard.wait_for('speaking', False)
    assert model.heard.values('spoken') == ['']
    assert model.speech.log == ''


def test_wrong_parameter_is_an_error_in_one_line(robots):
    process = robots.start(program=SPEAK, parameters={'sink': 'alpay'})
    assert process.wait() == 1
    assert process.log.startswith("tinyllama_speak: sink is 'alpay'; it must be")
    assert process.log.count('\n') == 1


def test_speaking_is_repeated_before_it_expires():
    assert REPEAT_S < SPEAKING_EXPIRES_S / 2
