"""The toolkit is found where ATC would look, and so is what it was taught."""

import pytest
from support.fake_toolkit import add_plugin, make_toolkit

from tinyllama_ros.cann.toolkit import Toolkit


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    return tmp_path


@pytest.fixture
def toolkit(tmp_path):
    return make_toolkit(tmp_path / 'toolkit')


@pytest.mark.parametrize('variable', ['ASCEND_TOOLKIT_HOME', 'ASCEND_HOME_PATH'])
def test_environment_names_the_toolkit(toolkit, variable):
    found = Toolkit.find({variable: str(toolkit)})
    assert (found.home, found.opp) == (toolkit, toolkit / 'opp')


@pytest.mark.parametrize('place', ['ascend-toolkit/latest', 'cann', 'latest'])
def test_toolkit_in_a_usual_place_is_found(home, place):
    toolkit = make_toolkit(home / 'Ascend' / place)
    assert Toolkit.find({'ASCEND_TOOLKIT_HOME': '/nowhere'}).home == toolkit


def test_operators_of_the_environment_go_before_those_of_the_toolkit(toolkit, tmp_path):
    found = Toolkit.find({'ASCEND_TOOLKIT_HOME': str(toolkit), 'ASCEND_OPP_PATH': '/other/opp'})
    assert str(found.opp) == '/other/opp'
    assert str(Toolkit.find({'ASCEND_OPP_PATH': '/other/opp'}).home) == '/other'


def test_machine_without_a_toolkit_has_none():
    assert Toolkit.find({}) is None


@pytest.mark.parametrize(('name', 'line', 'version'), [
    ('ascend_toolkit_install.info', 'package_name=x\nversion=7.0.0\n', '7.0.0'),
    ('compiler/version.info', 'Version=7.7.0\nversion_dir=8.3.RC2\n', '8.3.RC2'),
    ('compiler/version.info', 'nothing of the kind\n', ''),
])
def test_version_is_read_from_what_the_installer_left(toolkit, name, line, version):
    (toolkit / 'compiler' / 'version.info').unlink()
    (toolkit / name).write_text(line)
    assert Toolkit.find({'ASCEND_HOME_PATH': str(toolkit)}).version() == version


@pytest.mark.parametrize('place', ['toolkit', '.'])
def test_script_that_sets_the_environment_is_named(toolkit, home, place):
    (home / place / 'set_env.sh').write_text('')
    found = Toolkit.find({'ASCEND_HOME_PATH': str(toolkit)})
    assert found.set_env == (home / place / 'set_env.sh').resolve()


@pytest.mark.parametrize(('config', 'is_loaded'), [
    ('load_priority=own\n', True), ('load_priority = a, own ,b\n', True),
    ('load_priority=a\n,own\n', False), ('own\n', False), ('a=own=b\n', False),
    (None, False)])
def test_plugin_counts_only_where_its_vendor_is_listed(toolkit, config, is_loaded):
    plugin = add_plugin(toolkit / 'opp' / 'vendors' / 'own')
    if config is not None:
        (toolkit / 'opp' / 'vendors' / 'config.ini').write_text(config)
    found = Toolkit.find({'ASCEND_HOME_PATH': str(toolkit)}).plugin()
    assert found == (plugin if is_loaded else None)


def test_plugin_of_another_operator_does_not_count(toolkit):
    add_plugin(toolkit / 'opp' / 'vendors' / 'own', b'ai.onnx::13::MatMul')
    (toolkit / 'opp' / 'vendors' / 'config.ini').write_text('load_priority=own')
    assert Toolkit.find({'ASCEND_HOME_PATH': str(toolkit)}).plugin() is None


def test_plugin_in_a_folder_of_its_own_counts(toolkit, tmp_path):
    plugin = add_plugin(tmp_path / 'mine')
    found = Toolkit.find({'ASCEND_HOME_PATH': str(toolkit),
                          'ASCEND_CUSTOM_OPP_PATH': f'/nowhere:{tmp_path / "mine"}:'})
    assert found.plugin() == plugin
