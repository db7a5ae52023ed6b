"""Start the language model's node, which configures and activates itself unless told not to."""

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

from tinyllama_ros.engine.backend import BACKENDS
from tinyllama_ros.ros.parameter_file import BOOLEANS, launch_parameters

LEVELS = ['debug', 'info', 'warn', 'error', 'fatal']
FROM_FILE = '; empty: as params_file says, or the default'


def start_node(context: LaunchContext) -> list[LifecycleNode]:
    """Return the node; arguments that were given win over the parameter file."""
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    # As text: launch_ros would read a model called 1 or on as YAML
    given = {name: ParameterValue(value(name), value_type=str)
             for name in ('model', 'backend') if value(name)}
    if value('autostart'):
        given['autostart'] = BOOLEANS[value('autostart')]
    return [LifecycleNode(
        package='tinyllama_ros', executable='tinyllama_node', output='screen',
        name=value('name'), namespace=value('namespace'),
        parameters=launch_parameters(value('params_file'), given),
        ros_arguments=['--log-level', value('log_level')])]


def generate_launch_description() -> LaunchDescription:
    def argument(name: str, default: str, description: str, **more: list[str]):
        return DeclareLaunchArgument(name, default_value=default, description=description, **more)

    return LaunchDescription([
        argument('model', '', 'artifact folder, or name of a model built here' + FROM_FILE),
        argument('backend', '', 'what runs the model' + FROM_FILE, choices=['', *BACKENDS]),
        argument('autostart', '', 'configure and activate by itself' + FROM_FILE,
                 choices=['', *BOOLEANS]),
        argument('namespace', '', "namespace of the node, such as a robot's name"),
        argument('name', 'tinyllama', 'name of the node, and so the prefix of its topics'),
        argument('params_file', '', 'parameters of the node, a YAML file; empty: the defaults'),
        argument('log_level', 'info', 'least severe messages to log', choices=LEVELS),
        OpaqueFunction(function=start_node)])
