"""What the package declares: manifest, executables, launch file, parameters."""

import ast
from configparser import ConfigParser
from importlib import import_module
from importlib.metadata import distribution, PackageNotFoundError
from importlib.util import find_spec
from pathlib import Path
import runpy
import sys
from types import SimpleNamespace

from catkin_pkg.package import InvalidPackage, parse_package_string
import pytest
from support.paths import ROOT
import yaml

LAUNCH = ROOT / 'launch' / 'tinyllama.launch.py'
WEB_LAUNCH = ROOT / 'launch' / 'web.launch.py'
VOICE_LAUNCH = ROOT / 'launch' / 'voice.launch.py'
CONFIG = ROOT / 'config' / 'tinyllama.yaml'
WEB_CONFIG = ROOT / 'config' / 'tinyllama_web.yaml'
SPEAK_CONFIG = ROOT / 'config' / 'tinyllama_speak.yaml'

# Looked up in ros/rosdistro: rosdep/python.yaml, and distribution.yaml of humble and jazzy. One
# key that rosdep does not know makes a user's `rosdep install` fail.
ROSDEP_KEYS = {
    'ament_index_python', 'diagnostic_msgs', 'launch', 'launch_ros', 'python3-aiohttp',
    'python3-hypothesis', 'python3-jinja2', 'python3-numpy', 'python3-prompt-toolkit',
    'python3-psutil', 'python3-pytest', 'python3-tqdm', 'python3-yaml', 'rcl_interfaces',
    'rclpy', 'ros2launch', 'std_msgs', 'std_srvs'}


def setup_arguments():
    """Return what setup.py hands to setuptools."""
    calls = [node for node in ast.walk(ast.parse((ROOT / 'setup.py').read_text()))
             if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'setup']
    return {keyword.arg: keyword.value for keyword in calls[0].keywords}


def scripts():
    """Return each executable's name with its module and function."""
    declared = ast.literal_eval(setup_arguments()['entry_points'])['console_scripts']
    return dict(line.split(' = ') for line in declared)


@pytest.fixture
def manifest():
    return (ROOT / 'package.xml').read_text()


@pytest.fixture
def launch_modules(monkeypatch):
    """Put stand-ins that keep what they are given in place of the launch system."""
    keep = SimpleNamespace
    monkeypatch.setitem(sys.modules, 'ament_index_python.packages',
                        keep(get_package_share_path=lambda name: ROOT))
    monkeypatch.setitem(sys.modules, 'launch', keep(LaunchContext=dict, LaunchDescription=list))
    monkeypatch.setitem(sys.modules, 'launch.actions', keep(
        DeclareLaunchArgument=lambda name, **options: keep(name=name, **options),
        IncludeLaunchDescription=lambda source, **options: keep(source=source, **options),
        OpaqueFunction=keep))
    monkeypatch.setitem(sys.modules, 'launch.conditions',
                        keep(UnlessCondition=lambda value: value))
    monkeypatch.setitem(sys.modules, 'launch.launch_description_sources',
                        keep(PythonLaunchDescriptionSource=Path))
    monkeypatch.setitem(sys.modules, 'launch.substitutions', keep(
        LaunchConfiguration=lambda name: keep(name=name, perform=lambda context: context[name])))
    monkeypatch.setitem(sys.modules, 'launch_ros.actions', keep(LifecycleNode=keep, Node=keep))
    monkeypatch.setitem(sys.modules, 'launch_ros.parameter_descriptions', keep(
        ParameterValue=lambda value, value_type: value_type(value)))


@pytest.fixture
def launch_file(launch_modules):
    """Run the launch file on the stand-ins."""
    *arguments, start = runpy.run_path(str(LAUNCH))['generate_launch_description']()
    defaults = {argument.name: argument.default_value for argument in arguments}
    return SimpleNamespace(arguments=arguments,
                           start=lambda **given: start.function(defaults | given)[0])


def including_launch_file(path):
    """Run a launch file that includes the one of the model's node on the stand-ins."""
    *arguments, include, start = runpy.run_path(str(path))['generate_launch_description']()
    defaults = {argument.name: argument.default_value for argument in arguments}
    return SimpleNamespace(arguments=arguments, include=include,
                           start=lambda **given: start.function(defaults | given)[0])


@pytest.fixture
def web_launch_file(launch_modules):
    return including_launch_file(WEB_LAUNCH)


@pytest.fixture
def voice_launch_file(launch_modules):
    return including_launch_file(VOICE_LAUNCH)


def parameters_in_config(path=CONFIG):
    (name, section), = yaml.safe_load(path.read_text()).items()
    assert name == '/**', 'the node may be renamed'
    return section['ros__parameters']


def test_manifest_is_valid_format_3_without_warnings(manifest):
    warnings = []
    package = parse_package_string(manifest, str(ROOT / 'package.xml'), warnings=warnings)
    assert (package.name, package.package_format, warnings) == ('tinyllama_ros', 3, [])
    assert package.get_build_type() == 'ament_python'


@pytest.mark.parametrize(('old', 'new'), [
    ('<version>0', '<version>v0'), ('<license file="LICENSE">Apache-2.0</license>', ''),
    ('exec_depend>', 'run_depend>')], ids=['version', 'license', 'format 1 tag'])
def test_broken_manifest_would_be_found(manifest, old, new):
    with pytest.raises(InvalidPackage):
        parse_package_string(manifest.replace(old, new), 'package.xml')


def test_every_dependency_is_a_rosdep_key(manifest):
    package = parse_package_string(manifest, 'package.xml')
    named = {each.name for each in package.exec_depends + package.test_depends
             + package.build_depends + package.buildtool_depends}
    assert named == ROSDEP_KEYS


@pytest.mark.parametrize('target', scripts().values(), ids=scripts())
def test_executable_names_a_function_that_exists(target):
    module, function = target.split(':')
    tree = ast.parse((ROOT / (module.replace('.', '/') + '.py')).read_text())
    assert function in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]


def test_executables_go_where_ros2_run_looks():
    config = ConfigParser(interpolation=None)
    config.read(ROOT / 'setup.cfg')
    assert config['develop']['script_dir'] == '$base/lib/tinyllama_ros'
    assert config['install']['install_scripts'] == '$base/lib/tinyllama_ros'


def test_pip_installs_the_executables_too():
    try:
        installed = distribution('tinyllama_ros').entry_points
    except PackageNotFoundError:
        pytest.skip('not installed by pip here')
    assert {entry.name: entry.value for entry in installed} == scripts()


@pytest.mark.parametrize('name', ['launch_file', 'web_launch_file', 'voice_launch_file'])
def test_launch_arguments_explain_themselves(name, request):
    arguments = request.getfixturevalue(name).arguments
    assert all(argument.description for argument in arguments)
    closed = [argument for argument in arguments if hasattr(argument, 'choices')]
    assert all(argument.default_value in argument.choices for argument in closed)


def test_launch_starts_an_executable_that_exists(launch_file):
    node = launch_file.start()
    assert node.package == 'tinyllama_ros'
    assert node.executable in scripts()


def test_launch_gives_the_file_that_was_named_and_no_other(launch_file):
    assert launch_file.start().parameters == []
    assert launch_file.start(params_file=str(CONFIG)).parameters == [str(CONFIG)]


def test_launch_sets_parameters_that_exist(launch_file):
    node = launch_file.start(model='m', backend='acl', autostart='false', namespace='robot1')
    assert node.parameters == [{'model': 'm', 'backend': 'acl', 'autostart': False}]
    assert node.parameters[0].keys() <= parameters_in_config().keys()
    assert (node.namespace, node.name) == ('robot1', 'tinyllama')


def test_web_launch_starts_both_nodes_under_one_name(web_launch_file, launch_file):
    node = web_launch_file.start(namespace='robot1', name='brain', port='0', host='::1')
    include = web_launch_file.include
    assert node.executable in scripts()
    assert node.parameters[0] == {'host': '::1', 'port': 0, 'model_node': '/robot1/brain'}
    assert web_launch_file.start().parameters[0] == {'model_node': '/tinyllama'}
    assert include.source == LAUNCH
    assert {name for name, _ in include.launch_arguments} <= {
        argument.name for argument in launch_file.arguments}
    assert include.condition.name == 'only_web'


def test_web_launch_sets_parameters_that_exist(web_launch_file):
    given = {'host': 'h', 'port': '1', 'token_file': 't', 'allowed_hosts': 'a'}
    file, parameters = web_launch_file.start(**given, web_params_file=str(WEB_CONFIG)).parameters
    assert file == str(WEB_CONFIG)
    assert parameters.keys() == {*given, 'model_node'}
    assert parameters.keys() <= parameters_in_config(WEB_CONFIG).keys()


def test_voice_launch_starts_both_nodes_under_one_name(voice_launch_file, launch_file):
    given = {'voice': 'no', 'sink': '~/1'}
    node = voice_launch_file.start(namespace='robot1', name='brain', **given,
                                   speak_params_file=str(SPEAK_CONFIG))
    include = voice_launch_file.include
    assert node.executable in scripts()
    assert node.parameters == [str(SPEAK_CONFIG), given | {'model_node': '/robot1/brain'}]
    assert node.parameters[1].keys() <= parameters_in_config(SPEAK_CONFIG).keys()
    assert voice_launch_file.start().parameters == [{'model_node': '/tinyllama'}]
    assert include.source == LAUNCH
    assert {name for name, _ in include.launch_arguments} <= {
        argument.name for argument in launch_file.arguments}
    assert include.condition.name == 'only_voice'


@pytest.mark.parametrize(('text', 'is_on'), [('True', True), ('true', True), ('False', False)])
def test_launch_takes_both_spellings_of_a_truth_value(launch_file, text, is_on):
    assert launch_file.start(autostart=text).parameters == [{'autostart': is_on}]


@pytest.fixture
def real_launch(monkeypatch):
    """Return the launch system of ROS 2, with this source tree as the installed package."""
    # Where there is none, Python takes our folder launch/ for a package without a file.
    if not getattr(find_spec('launch'), 'origin', None) or not find_spec('launch_ros'):
        pytest.skip('needs launch and launch_ros, which come with ROS 2')
    monkeypatch.setattr('ament_index_python.packages.get_package_share_path', lambda _: ROOT)
    return import_module('launch')


def start_for_real(launch, path, **given):
    """Return the action that starts a launch file's node, and the context it was made in."""
    description = runpy.run_path(str(path))['generate_launch_description']()
    context = launch.LaunchContext()
    context.launch_configurations.update(given)
    *arguments, start = description.entities
    for argument in arguments:
        if isinstance(argument, launch.actions.DeclareLaunchArgument):
            argument.execute(context)
    node, = start.execute(context)
    return node, context


@pytest.mark.parametrize(('path', 'executable'), [
    (LAUNCH, 'tinyllama_node'), (WEB_LAUNCH, 'tinyllama_web'),
    (VOICE_LAUNCH, 'tinyllama_speak')], ids=['tinyllama', 'web', 'voice'])
def test_real_launch_system_runs_the_launch_file(real_launch, path, executable):
    node, _ = start_for_real(real_launch, path, namespace='robot1')
    assert (node.node_package, node.node_executable) == ('tinyllama_ros', executable)


def test_real_launch_system_refuses_a_choice_that_there_is_not(real_launch):
    with pytest.raises(RuntimeError, match='"backend".*"gpu"'):
        start_for_real(real_launch, LAUNCH, backend='gpu')
