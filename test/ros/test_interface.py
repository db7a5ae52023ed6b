"""The tables of topics and services, the page made of them, and the node that runs."""

import runpy

import pytest
from support.paths import ROOT

pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')

from tinyllama_ros.ros.interface import ENDPOINTS  # noqa: E402

OF_EVERY_NODE = ('/rosout', '/parameter_events', '/tinyllama/transition_event')


@pytest.fixture(scope='module')
def tool():
    pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')
    return runpy.run_path(str(ROOT / 'tools' / 'interface_page.py'))


def test_table_lists_all_endpoints_of_an_active_node(tmp_path):
    rclpy = pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')
    from rclpy.parameter import Parameter
    from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
    from support.robot import build_model

    from tinyllama_ros.ros.lifecycle_node import TinyLlamaNode
    from tinyllama_ros.workbench.checkpoints.random_checkpoint import SHAPES
    model = str(build_model(tmp_path / 'tiny', SHAPES['tiny']))
    context = rclpy.Context()
    rclpy.init(args=[], context=context)
    node = TinyLlamaNode(context=context, parameter_overrides=[Parameter('model', value=model)])
    assert node.start()
    topics = [('subscription', node.subscriptions), ('publisher', node.publishers)]
    found = {each.topic_name: (role, each.msg_type, each.qos_profile.depth,
                               each.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL)
             for role, endpoints in topics for each in endpoints
             if each.topic_name not in OF_EVERY_NODE}
    unreliable = [each.topic_name for _, endpoints in topics for each in endpoints
                  if each.topic_name in found
                  and each.qos_profile.reliability != ReliabilityPolicy.RELIABLE]
    services = {each.srv_name.replace('~', '/tinyllama'): ('service', each.srv_type)
                for each in node.services
                if each.srv_type.__module__.startswith('std_srvs')}
    node.trigger_shutdown()
    node.destroy_node()
    context.try_shutdown()
    listed = {name.replace('~', '/tinyllama'): each for name, each in ENDPOINTS.items()}
    assert found == {name: (each.role, each.type, each.depth, each.is_latched)
                     for name, each in listed.items() if each.role != 'service'}
    assert services == {name: (each.role, each.type)
                        for name, each in listed.items() if each.role == 'service'}
    assert unreliable == []


def test_page_is_what_the_tables_say(tool):
    assert tool['PAGE'].read_text() == tool['render'](), 'write it anew: make docs'


def test_page_has_every_endpoint_and_parameter(tool):
    from tinyllama_ros.ros.parameters import PARAMETERS
    from tinyllama_ros.voice.parameters import PARAMETERS as SPEAK_PARAMETERS
    from tinyllama_ros.web.parameters import PARAMETERS as WEB_PARAMETERS
    page = tool['render']()
    names = (*ENDPOINTS, *PARAMETERS, *WEB_PARAMETERS, *SPEAK_PARAMETERS)
    assert [name for name in names if f'| `{name}` |' not in page] == []


def test_bar_in_a_cell_does_not_end_it(tool):
    assert tool['table'](('a',), [('x|y',)]) == '| a |\n| --- |\n| x\\|y |\n'
