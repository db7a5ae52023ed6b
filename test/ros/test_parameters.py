from importlib import import_module
import re

import pytest
from support.paths import ROOT
import yaml

from tinyllama_ros.chat.events import ChatOptions
from tinyllama_ros.engine.sampling import SamplingOptions
from tinyllama_ros.errors import ConfigError
from tinyllama_ros.ros.parameters import chat_options, describe_unknown, PARAMETERS

DEFAULTS = {name: parameter.default for name, parameter in PARAMETERS.items()}



def flat(section: dict[str, object], prefix: str = '') -> dict[str, object]:
    """Return nested values by their dotted names."""
    found: dict[str, object] = {}
    for name, value in section.items():
        found |= (flat(value, f'{prefix}{name}.') if isinstance(value, dict)
                  else {prefix + name: value})
    return found


def test_config_file_holds_every_parameter_with_its_default():
    text = (ROOT / 'config' / 'tinyllama.yaml').read_text()
    assert flat(yaml.safe_load(text)['/**']['ros__parameters']) == DEFAULTS


@pytest.mark.parametrize('name', PARAMETERS)
def test_config_file_comments_every_parameter_as_the_table_does(name):
    text = (ROOT / 'config' / 'tinyllama.yaml').read_text()
    mark = ' (configure)' if PARAMETERS[name].is_fixed else ''
    line = rf'# {re.escape(PARAMETERS[name].description + mark)}\n +{name.split(".")[-1]}:'
    assert re.search(line, text)


@pytest.mark.parametrize('name', ['web', 'speak'])
def test_config_file_of_another_node_is_as_its_table(name):
    pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')
    module = import_module({'web': 'tinyllama_ros.web.parameters',
                            'speak': 'tinyllama_ros.voice.parameters'}[name])
    text = (ROOT / 'config' / f'tinyllama_{name}.yaml').read_text()
    assert yaml.safe_load(text)['/**']['ros__parameters'] == {
        name: parameter.default for name, parameter in module.PARAMETERS.items()}
    assert re.findall(r'# (.*)\n +(\w+):', text) == [
        (parameter.description, name) for name, parameter in module.PARAMETERS.items()]


def test_readme_lists_every_parameter_with_its_default():
    readme = (ROOT / 'README.md').read_text()
    rows = re.findall(r'^\| `([\w.]+)` \| (\S+) \|', readme, re.MULTILINE)
    assert {name: yaml.safe_load(value.strip('`')) for name, value in rows
            if name in PARAMETERS} == DEFAULTS


def test_parameters_become_the_options_of_a_turn():
    values = DEFAULTS | {'system_prompt': 'Be brief.', 'max_tokens': 7, 'sampling.top_k': 5}
    assert chat_options(values) == ChatOptions(
        system_prompt='Be brief.', max_tokens=7, answer_room=256,
        sampling=SamplingOptions(temperature=0.2, top_k=5, top_p=0.9))


def test_defaults_lie_in_their_ranges():
    for parameter in PARAMETERS.values():
        low, high = parameter.range or (0, 0)
        assert parameter.range is None or low <= parameter.default <= high


def test_value_out_of_range_is_refused():
    with pytest.raises(ConfigError, match='temperature is nan; it must be in 0..10'):
        chat_options(DEFAULTS | {'sampling.temperature': float('nan')})


@pytest.mark.parametrize(('name', 'meant'), [
    ('sampling.temprature', 'sampling.temperature'), ('temperature', 'sampling.temperature'),
    ('topk', 'sampling.top_k'), ('systemprompt', 'system_prompt'), ('acl.devise', 'acl.device')],
    ids=['letter', 'no group', 'no group, letter', 'underscore', 'in a group'])
def test_unknown_parameter_is_told_with_the_nearest(name, meant):
    said = describe_unknown(name, PARAMETERS, '/tinyllama')
    assert f'/tinyllama has none of that name: did you mean {meant}?' in said


def test_unknown_parameter_with_none_near_is_told_where_they_are_listed():
    said = describe_unknown('max_velocity', PARAMETERS, '/tinyllama')
    assert 'did you mean' not in said
    assert 'ros2 param list /tinyllama' in said
