"""Every package imports only what the picture in docs/contributing.md lets it import."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT

PACKAGE = ROOT / 'tinyllama_ros'
# A package, and what it may import of this project beside itself; `a.b` allows that module alone.
ALLOWED = {
    'errors': set(),
    'signals': set(),
    'kernels': {'errors'},
    'artifact': {'errors'},
    'engine': {'artifact', 'errors', 'kernels'},
    'engine.acl': {'artifact', 'engine.backend', 'engine.mapped_file', 'errors'},
    'chat': {'artifact', 'engine', 'errors'},
    'cann': {'artifact', 'errors'},
    'ros': {'artifact', 'chat', 'engine', 'errors', 'signals'},
    'terminal': {'errors', 'ros.client', 'ros.imports', 'signals'},
    'web': {'chat.completion', 'chat.message', 'errors', 'ros.client', 'ros.imports',
            'ros.parameter_node', 'ros.parameters', 'ros.process', 'ros.wire', 'signals'},
    'voice': {'errors', 'ros.imports', 'ros.parameter_node', 'ros.parameters', 'ros.process',
              'ros.speech_client', 'signals'},
    'workbench': {'artifact', 'chat', 'engine', 'errors'},
    'commands': {'artifact', 'cann', 'chat', 'engine', 'errors', 'kernels', 'signals',
                 'workbench'},
}
ROS = {'diagnostic_msgs', 'launch', 'launch_ros', 'lifecycle_msgs', 'rcl_interfaces', 'rclpy',
       'std_msgs', 'std_srvs'}
# An outside module, and the packages that alone may import it.
OWNERS = {'acl': {'engine.acl'}, 'onnxruntime': {'engine'}, 'jinja2': {'chat'},
          **{name: {'ros'} for name in ROS}}


def package_of(module: str) -> str:
    """Return the longest key of ALLOWED that a module of this project lies in."""
    return max((key for key in ALLOWED if f'{module}.'.startswith(f'{key}.')), key=len)


def imports(path: Path) -> Iterator[str]:
    """Yield the full names that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


FILES = [path for path in sorted(PACKAGE.rglob('*.py')) if path != PACKAGE / '__init__.py']


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_module_imports_only_what_lies_below_it(path):
    own = package_of('.'.join(path.relative_to(PACKAGE).with_suffix('').parts))
    for name in imports(path):
        top, _, rest = name.partition('.')
        if top == 'tinyllama_ros':
            allowed = {own} | ALLOWED[own]
            assert any(f'{rest}.'.startswith(f'{each}.') for each in allowed), \
                f'{own} must not import {name}'
        assert own in OWNERS.get(top, {own}), f'{own} must not import {name}'


@pytest.mark.parametrize('path', sorted(PACKAGE.rglob('__init__.py')),
                         ids=lambda path: str(path.parent.relative_to(PACKAGE.parent)))
def test_package_says_what_it_is_for(path):
    doc = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
    assert doc and (path.parent == PACKAGE or 'must not import' in doc), path


def test_no_test_imports_a_test():
    for path in (ROOT / 'test').rglob('*.py'):
        assert not [name for name in imports(path) if name.startswith('test_')], path


def calls(path: Path) -> Iterator[str]:
    """Yield what a file calls or assigns to, as its source has it."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
        elif isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
            yield ast.unparse(node.value)


def test_environment_is_set_by_entry_points_alone():
    changes = {'os.environ', 'os.environ.setdefault', 'os.environ.update', 'os.environ.pop',
               'os.putenv', 'os.unsetenv'}
    setters = {path for path in FILES if changes.intersection(calls(path))}
    assert setters == {PACKAGE / 'engine' / 'host.py'}
    callers = [path for path in FILES if 'turn_off_telemetry' in calls(path)]
    assert callers == [PACKAGE / 'engine' / 'ort_session.py']  # see the test below
    callers = [path for path in FILES if 'prefer_plain_attention' in calls(path)]
    assert {path.parent.name for path in callers} == {'commands', 'ros'}
    assert all('\ndef main(' in path.read_text(encoding='utf-8') for path in callers)


def test_onnx_runtime_is_imported_only_where_its_telemetry_is_turned_off_before():
    programs = [*FILES, *(ROOT / 'tools').glob('*.py'), *(ROOT / 'bench').glob('*.py')]
    importers = [path for path in programs
                 if any(name.split('.')[0] == 'onnxruntime' for name in imports(path))]
    assert importers == [PACKAGE / 'engine' / 'ort_session.py']
    source = importers[0].read_text(encoding='utf-8')
    assert source.index('\nturn_off_telemetry()') < source.index('from onnxruntime import')
