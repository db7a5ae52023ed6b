"""Start the speech node, with or beside the model's node."""

from ament_index_python.packages import get_package_share_path
from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.conditions import UnlessCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from tinyllama_ros.ros.parameter_file import BOOLEANS, launch_parameters

SHARE = get_package_share_path('tinyllama_ros')
FROM_FILE = '; empty: as speak_params_file says, or the default'
PASSED_ON = ('model', 'namespace', 'name', 'params_file')


def start_speech(context: LaunchContext) -> list[Node]:
    """Return the speech node; arguments that were given win over its parameter file."""
    def value(name: str) -> str:
        return LaunchConfiguration(name).perform(context)

    # As text: launch_ros would read the voice no (Norwegian) as YAML
    given = {name: ParameterValue(value(name), value_type=str)
             for name in ('voice', 'sink') if value(name)}
    namespace = value('namespace').strip('/')
    given['model_node'] = '/'.join(['', *filter(None, [namespace]), value('name')])
    return [Node(
        package='tinyllama_ros', executable='tinyllama_speak', output='screen', emulate_tty=True,
        namespace=value('namespace'),
        parameters=launch_parameters(value('speak_params_file'), given))]


def generate_launch_description() -> LaunchDescription:
    def argument(name: str, default: str, description: str, **more: list[str]):
        return DeclareLaunchArgument(name, default_value=default, description=description, **more)

    return LaunchDescription([
        argument('only_voice', 'false', "the model's node runs elsewhere already",
                 choices=[*BOOLEANS]),
        argument('voice', '', 'voice of espeak-ng, or voice file of Piper (.onnx)' + FROM_FILE),
        argument('sink', '', 'aplay, paplay, or a folder for wav files' + FROM_FILE),
        argument('speak_params_file', '', 'parameters of the speech node, a YAML file; its '
                 'model_node follows namespace and name; empty: the defaults'),
        argument('model', '', 'artifact folder, or name of a model built here'),
        argument('namespace', '', "namespace of both nodes, such as a robot's name"),
        argument('name', 'tinyllama', "name of the model's node"),
        argument('params_file', '', "parameters of the model's node, a YAML file; empty: the "
                 'defaults'),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(SHARE / 'launch' / 'tinyllama.launch.py')),
            launch_arguments=[(name, LaunchConfiguration(name)) for name in PASSED_ON],
            condition=UnlessCondition(LaunchConfiguration('only_voice'))),
        OpaqueFunction(function=start_speech)])
