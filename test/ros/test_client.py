"""The client of a node: when it may send."""

import pytest

rclpy = pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')

from support.robot import poll_until  # noqa: E402

from tinyllama_ros.ros.client import open_client  # noqa: E402
from tinyllama_ros.ros.interface import ENDPOINTS  # noqa: E402


class Target:
    """A node of the target's name, in a participant of its own, with the endpoints it is given."""

    def __init__(self, *topics):
        self._context = rclpy.Context()
        rclpy.init(args=[], context=self._context)
        self.node = rclpy.create_node('target', context=self._context)
        self._publishers = {}
        self.open(*topics)

    def open(self, *topics):
        for topic in topics:
            endpoint = ENDPOINTS[topic]
            if endpoint.role == 'publisher':
                self._publishers[topic] = self.node.create_publisher(endpoint.type, topic,
                                                                     endpoint.qos)
            else:
                self.node.create_subscription(endpoint.type, topic, lambda _: None, endpoint.qos)

    def tell_state(self, state):
        self._publishers['~/state'].publish(ENDPOINTS['~/state'].type(data=state))

    def close(self):
        self.node.destroy_node()
        self._context.try_shutdown()


@pytest.fixture
def make_target():
    targets = []

    def make(*topics):
        targets.append(Target(*topics))
        return targets[-1]

    yield make
    for target in targets:
        target.close()


def test_node_that_took_the_place_of_a_killed_one_gets_nothing_before_it_subscribes(make_target):
    make_target('~/state', '~/event', '~/prompt')  # is killed, and discovered for a while
    with open_client('asker', '/target') as client:
        poll_until(client.is_connected, 'connection to the first node')
        second = make_target('~/state', '~/event')
        second.tell_state('idle')
        client.wait_for(lambda: client.state == 'idle', 20)
        assert not client.is_connected()
        assert not client.send('lost')
        assert client.is_alive(), 'the first node may still answer what it was sent before'
        second.open('~/prompt')
        poll_until(client.is_connected, 'connection to both')


def test_other_subscribers_to_the_prompts_are_no_nodes_that_take_them(make_target):
    other = make_target()
    topic = ENDPOINTS['~/prompt']
    recorder = rclpy.create_node('recorder', context=other._context)
    recorder.create_subscription(topic.type, '/target/prompt', lambda _: None, topic.qos)
    second = make_target('~/state', '~/event')
    second.tell_state('idle')
    with open_client('asker', '/target') as client:
        client.wait_for(lambda: client.state == 'idle', 20)
        poll_until(lambda: client._publishers['~/prompt'].get_subscription_count(), 'recorder')
        assert not client.is_connected()
        second.open('~/prompt')
        poll_until(client.is_connected, 'connection')
    recorder.destroy_node()
