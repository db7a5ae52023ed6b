"""The report says what a machine lacks, with the remedy, and whether a backend works on it."""

from collections import namedtuple
from dataclasses import replace
from pathlib import Path
import sys

import numpy as np
import pytest
from support.fake_backend import FakeBackend
from support.fake_toolkit import add_plugin, make_toolkit
from support.npu_smi import ORANGE_PI
from support.paths import SIMULATOR
from support.tiny_models import tiny

from tinyllama_ros.artifact.folder import Artifact, new_artifact, record_om
from tinyllama_ros.artifact.manifest import CompiledGraph, GRAPH, Manifest, WEIGHTS
from tinyllama_ros.commands import doctor
from tinyllama_ros.commands.cli import main
from tinyllama_ros.engine.acl.probe import probe
from tinyllama_ros.errors import BackendError, model_command
from tinyllama_ros.kernels import Library

CANN = '8.5.0'
"""Of the stand-in toolkit; one that takes every Python of the tests."""

Swap = namedtuple('Swap', 'total used')
Memory = namedtuple('Memory', 'total available')

LOOK_FOR_ROS, LOOK_FOR_ACL = doctor._ros, doctor._acl


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """Leave a machine with Python, a shell and nothing that has to do with an NPU."""
    for name in ('ASCEND_TOOLKIT_HOME', 'ASCEND_HOME_PATH', 'ASCEND_OPP_PATH', 'ROS_DISTRO',
                 'ASCEND_CUSTOM_OPP_PATH', 'PYTHONPATH'):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / 'bin').mkdir()
    monkeypatch.setenv('PATH', f'{tmp_path / "bin"}:/usr/bin:/bin')
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('TINYLLAMA_ROS_CACHE', str(tmp_path))
    monkeypatch.setattr(doctor, 'DEVICE_FILE', tmp_path / 'davinci0')
    monkeypatch.setattr(doctor, 'ROS_PLACE', tmp_path / 'ros')
    monkeypatch.setattr(doctor, '_ros', lambda: doctor.Finding('ros', 'ok', 'not looked for'))
    monkeypatch.setattr(doctor, '_acl', lambda toolkit, needs_npu: (
        doctor.Finding('acl', 'ok', 'not looked for'), ''))


@pytest.fixture
def tool(tmp_path):
    """Return a function that puts a shell script on PATH."""
    def tool(name, script):
        (tmp_path / 'bin' / name).write_text(f'#!/bin/sh\n{script}\n')
        (tmp_path / 'bin' / name).chmod(0o755)
    return tool


@pytest.fixture
def look_for_acl(monkeypatch):
    """Let a Python of its own look for acl, which takes its time."""
    monkeypatch.setattr(doctor, '_acl', LOOK_FOR_ACL)


@pytest.fixture
def board(monkeypatch, look_for_acl):
    """Put a module acl where Python finds it, with an Orange Pi of 8 GB behind it."""
    monkeypatch.setenv('PYTHONPATH', str(SIMULATOR))
    monkeypatch.setenv('ASCEND_SIM_MEMORY', str(8 << 30))


@pytest.fixture
def broken_acl(tmp_path, monkeypatch, look_for_acl):
    """Return a function that puts a module acl of this content where Python finds it."""
    def broken_acl(content):
        (tmp_path / 'acl.py').write_text(content)
        monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    return broken_acl


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """Install a toolkit and set its environment."""
    toolkit = make_toolkit(tmp_path / 'toolkit', version=CANN)
    monkeypatch.setenv('ASCEND_TOOLKIT_HOME', str(toolkit))
    monkeypatch.setenv('ASCEND_OPP_PATH', str(toolkit / 'opp'))
    return toolkit


@pytest.fixture
def make_artifact(tmp_path):
    """Return a function that makes an artifact, compiled for a chip where one is given."""
    def make_artifact(dialect='ascend', soc='Ascend310B4', cann=CANN):
        model = tiny()
        manifest = Manifest(name='tiny', quantization='w8a8', recipe='', dialect=dialect,
                            kv_length=64, chunk_sizes=(1,), architecture=model.architecture,
                            tokenizer=model.tokenizer.settings, files={})
        with new_artifact(tmp_path / 'model', manifest) as partial:
            for name in (GRAPH, WEIGHTS, 'tokenizer.json'):
                (partial / name).write_text('content')
        artifact = Artifact.open(tmp_path / 'model')
        if dialect == 'ascend' and soc is not None:
            (tmp_path / 'made.om').write_text('compiled')
            record_om(artifact, tmp_path / 'made.om', CompiledGraph(soc, ('atc',), cann))
        return str(tmp_path / 'model')
    return make_artifact


@pytest.fixture
def loaded(monkeypatch):
    """Let any artifact open as this backend."""
    backend = FakeBackend(64, 8)
    monkeypatch.setattr(doctor, 'open_backend', lambda name, artifact: backend)
    return backend


def report(backend='onnx', model='nothing'):
    return {finding.subject: finding for finding in doctor.examine(backend, model)}


def test_every_subject_of_a_working_board(board, toolkit, make_artifact, loaded, tool):
    tool('npu-smi', f"echo '{ORANGE_PI}'")
    tool('atc', 'echo "  --framework  Framework type"; exit 1')
    add_plugin(toolkit / 'opp' / 'vendors' / 'own')
    (toolkit / 'opp' / 'vendors' / 'config.ini').write_text('load_priority=own')
    found = report('acl', make_artifact())
    assert {'python', 'ros', 'memory', 'swap', 'npu', 'toolkit', 'acl', 'plugin', 'atc',
            'artifact', 'backend'} == found.keys()
    states = {subject: finding.state for subject, finding in found.items()}
    assert states | {'ros': 'ok', 'swap': 'ok'} == dict.fromkeys(found, 'ok')
    assert 'Ascend310B4, 50 C, 2.4 GB of 7.9 GB in use, health Alarm' in found['npu'].text
    assert f'CANN {CANN} in ' in found['toolkit'].text
    assert found['acl'].text == ('Ascend310B4, RC form, it has the memory of this machine, '
                                 '8.6 GB of 8.6 GB free')
    assert found['backend'].text.startswith('acl works: loaded in 0.0 s, one token in ')
    assert loaded.closed == 1


@pytest.mark.parametrize(('backend', 'state'), [('onnx', 'note'), ('acl', 'FAULT')])
def test_missing_acl_matters_to_its_backend_only(look_for_acl, backend, state):
    found = report(backend)['acl']
    assert (found.state, found.remedy) == (state, 'install the CANN toolkit')
    assert "needs the Python module acl of the CANN toolkit (No module named 'acl')" in found.text


def test_missing_acl_beside_a_toolkit_wants_its_environment(toolkit, monkeypatch, look_for_acl):
    (toolkit / 'set_env.sh').write_text('')
    monkeypatch.delenv('ASCEND_OPP_PATH')
    found = report('acl')
    assert found['acl'].remedy == found['toolkit'].remedy == f'source {toolkit}/set_env.sh'
    assert found['toolkit'].text.endswith('whose environment is not set')


def test_acl_that_crashes_is_reported(broken_acl):
    broken_acl('import os; os.abort()')
    found = report('acl')['acl']
    assert (found.state, found.text) == ('FAULT', 'crashed (status -6)')
    assert 'may be of different versions' in found.remedy


def test_acl_that_is_no_acl_is_reported(broken_acl):
    broken_acl('init = None')
    assert report('acl')['acl'].text == "crashed (TypeError: 'NoneType' object is not callable)"


def test_acl_that_hangs_is_reported(board, monkeypatch):
    monkeypatch.setattr(doctor, 'PROBE_TIMEOUT_S', 0)
    assert report('acl')['acl'].text == 'does not answer within 0 s'


def test_failed_call_is_named_with_its_code(board, monkeypatch):
    monkeypatch.setenv('ASCEND_SIM_FAULTS', 'set_device:1=207006')
    found = report('acl')['acl']
    assert found.state == 'FAULT' and 'acl.rt.set_device failed with code 207006' in found.text


def test_card_in_a_host_is_told_from_a_board(board, monkeypatch):
    monkeypatch.setenv('ASCEND_SIM_FORM', 'ep')
    assert report('acl')['acl'].text.startswith('Ascend310B4, EP form, 8.6 GB of')


def test_device_that_does_not_tell_its_memory_is_no_fault(board, monkeypatch):
    monkeypatch.setenv('ASCEND_SIM_FAULTS', 'get_mem_info:1=500000')
    acl = report('acl')['acl']
    assert (acl.state, acl.remedy) == ('note', '')
    assert acl.text.endswith('it does not report how much memory is free')


def test_device_that_did_not_start_is_explained_by_versions(board, monkeypatch):
    monkeypatch.setenv('ASCEND_SIM_FAULTS', 'set_device:1=507033')
    acl = report('acl')['acl']
    assert acl.state == 'FAULT' and 'driver and CANN do not match' in acl.text


@pytest.mark.parametrize(('cann', 'python', 'state'), [
    ('7.0.0', (3, 10), 'note'), ('8.0.RC1', (3, 10), 'note'), ('8.0.RC2', (3, 10), 'ok'),
    ('8.0.0', (3, 12), 'note'), ('8.0.0', (3, 11), 'ok'), ('8.5.0', (3, 13), 'ok')])
def test_python_is_compared_with_what_cann_takes(toolkit, monkeypatch, cann, python, state):
    monkeypatch.setattr(doctor.Toolkit, 'version', lambda self: cann)
    monkeypatch.setattr(doctor.sys, 'version_info', python + (0, 'final', 0))
    finding = report('acl')['toolkit']
    assert finding.state == state, finding
    assert (state == 'ok') == (finding.remedy == '')


def test_missing_model_for_the_npu_advises_a_build_for_the_npu():
    artifact = report('acl', 'smollm2-135m-instruct-w8a8-ascend')['artifact']
    assert 'build smollm2-135m-instruct --target ascend' in artifact.text


def test_advice_names_a_command_that_exists_here(monkeypatch):
    monkeypatch.setenv('PATH', '')
    text = report('onnx', 'nothing')['artifact'].text
    assert 'ros2 run tinyllama_ros tinyllama-model build' in text


@pytest.mark.parametrize('call', ['create_stream'])
def test_probe_gives_everything_back_also_when_a_call_fails(monkeypatch, call):
    monkeypatch.syspath_prepend(SIMULATOR)
    from acl import simulator
    simulator.reset()
    simulator.fail(call, 1, 500000)
    with pytest.raises(BackendError, match=f'acl.rt.{call} failed with code 500000'):
        probe()
    assert simulator.live() == {'initialised': 1}  # until the process ends
    simulator.reset()


@pytest.mark.parametrize(('soc', 'cann', 'state', 'text', 'remedy'), [
    (None, '', 'FAULT', 'but not compiled', 'tinyllama-model atc {}'),
    ('Ascend310B1', CANN, 'FAULT', 'compiled for Ascend310B1, but this is an Ascend310B4',
     'tinyllama-model atc {} --soc-version Ascend310B4'),
    ('Ascend310B4', '8.6.0', 'note', f'with CANN 8.6.0; this machine has {CANN}',
     'must not be older'),
    ('Ascend310B4', CANN, 'ok', 'compiled for Ascend310B4', ''),
    ('', '', 'ok', 'compiled for an unknown chip', ''),
])
def test_artifact_that_does_not_fit_this_machine(make_artifact, toolkit, tool, loaded, soc, cann,
                                                 state, text, remedy):
    tool('npu-smi', f"echo '{ORANGE_PI}'")
    folder = make_artifact(soc=soc, cann=cann)
    found = report('acl', folder)
    assert found['artifact'].state == state
    assert text in found['artifact'].text
    assert remedy.format(folder) in found['artifact'].remedy
    assert ('backend' in found) == (state != 'FAULT')


@pytest.mark.parametrize(('backend', 'dialect', 'wanted'), [
    ('acl', 'cpu', 'ascend'), ('onnx', 'ascend', 'cpu')])
def test_artifact_of_the_other_dialect(make_artifact, backend, dialect, wanted):
    found = report(backend, make_artifact(dialect, soc=None))['artifact']
    assert found.state == 'FAULT'
    assert found.remedy == f'{model_command()} build NAME --target {wanted}'


def test_damaged_artifact_is_a_fault(make_artifact, tmp_path):
    model = make_artifact()
    (tmp_path / 'model' / 'decoder.om').write_text('compile!')
    found = report('acl', model)['artifact']
    assert found.state == 'FAULT' and 'decoder.om was altered' in found.text


def test_backend_that_cannot_load_is_a_fault(make_artifact, monkeypatch):
    def fail(name, artifact):
        raise BackendError('acl.mdl.load_from_file returned 245002; out of memory')
    monkeypatch.setattr(doctor, 'open_backend', fail)
    found = report('onnx', make_artifact('cpu'))['backend']
    assert (found.state, found.text) == (
        'FAULT', 'onnx: acl.mdl.load_from_file returned 245002; out of memory')


def test_backend_whose_package_is_missing_is_a_fault(make_artifact, monkeypatch):
    def fail(name, artifact):
        raise ModuleNotFoundError(name='onnxruntime')
    monkeypatch.setattr(doctor, 'open_backend', fail)
    found = report('onnx', make_artifact('cpu'))['backend']
    assert (found.state, found.remedy) == (
        'FAULT', f'{sys.executable} -m pip install onnxruntime')


def test_logits_that_are_no_numbers_are_a_fault(make_artifact, loaded, monkeypatch):
    monkeypatch.setattr(loaded, 'forward', lambda tokens, start: np.full((1, 8), np.nan))
    found = report('onnx', make_artifact('cpu'))['backend']
    assert found.state == 'FAULT' and 'not finite numbers' in found.text


@pytest.mark.parametrize(('printed', 'text'), [
    ('echo "error while loading shared libraries: libge.so" >&2; exit 127',
     'does not print its options (error while loading shared libraries: libge.so)'),
    ('exit 3', 'does not print its options (status 3)'),
])
def test_atc_that_does_not_start_is_a_note(tool, printed, text):
    tool('atc', printed)
    found = report('acl')['atc']
    assert found.state == 'note' and text in found.text
    assert 'source' in found.remedy


def test_missing_plugin_is_a_note(toolkit):
    found = report('acl')['plugin']
    assert (found.state, found.remedy) == ('note', 'custom_op/install.sh')


def test_device_of_others_names_the_group(tmp_path, monkeypatch):
    (tmp_path / 'davinci0').write_text('')
    monkeypatch.setattr('os.access', lambda path, mode: False)
    found = report('acl')['npu']
    assert found.state == 'FAULT' and 'usermod -aG HwHiAiUser' in found.remedy
    assert report('onnx')['npu'].state == 'note'


def test_hot_npu_is_pointed_out(tool):
    tool('npu-smi', f"echo '{ORANGE_PI.replace(' 50 ', ' 95 ')}'")
    assert 'check its fan' in report('acl')['npu'].remedy


def test_swap_slows_down_an_npu_that_shares_the_memory(monkeypatch):
    monkeypatch.setattr('psutil.swap_memory', lambda: Swap(4_000_000_000, 1_000_000_000))
    found = report('acl')['swap']
    assert (found.state, found.text) == ('note', '1.0 GB of 4.0 GB in use')
    assert 'sudo swapoff -a' in found.remedy
    assert report('onnx')['swap'].state == 'ok'


@pytest.mark.parametrize('library, state, words', [
    (Library(Path('library'), 'AVX-512 VNNI'), 'ok', 'AVX-512 VNNI'),
    (Library(Path('library'), ''), 'note', 'this processor has no AVX2'),
    (None, 'note', 'sudo apt install g++')], ids=str)
def test_kernels_that_do_not_run_are_noted(monkeypatch, library, state, words):
    monkeypatch.setattr(doctor, 'find_library', lambda: library)
    found = report('onnx')['kernels']
    assert found.state == state and words in str(found)
    assert 'kernels' not in report('acl')


def test_board_without_swap_is_told_when_to_add_some(tool, monkeypatch):
    tool('atc', 'echo --framework')
    monkeypatch.setattr('psutil.swap_memory', lambda: Swap(0, 0))
    monkeypatch.setattr('psutil.virtual_memory', lambda: Memory(7_900_000_000, 5_000_000_000))
    assert 'to compile a model here, add some' in report('acl')['swap'].text


@pytest.mark.parametrize(('version', 'state'), [
    ((3, 9, 18), 'FAULT'), ((3, 10, 0), 'ok'), ((3, 13, 1), 'ok'), ((3, 14, 0), 'ok')])
def test_python_is_a_fault_only_where_it_is_too_old(monkeypatch, version, state):
    monkeypatch.setattr(sys, 'version_info', version)
    assert report()['python'].state == state


@pytest.mark.parametrize(('distro', 'is_installed', 'remedy'), [
    ('humble', True, 'ROS 2 humble is sourced, for another Python than'),
    ('', True, 'source /opt/ros/humble/setup.bash'),
    ('', False, 'install ROS 2: docs/orange-pi.md'),
])
def test_missing_ros_is_a_note_with_its_remedy(tmp_path, monkeypatch, distro, is_installed,
                                               remedy):
    monkeypatch.setattr(doctor, '_ros', LOOK_FOR_ROS)
    (tmp_path / 'python' / 'rclpy').mkdir(parents=True)
    (tmp_path / 'python' / 'rclpy' / '__init__.py').write_text('import no_such_extension')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path / 'python'))
    monkeypatch.setenv('ROS_DISTRO', distro)
    if is_installed:
        (tmp_path / 'ros' / 'humble').mkdir(parents=True)
        (tmp_path / 'ros' / 'humble' / 'setup.bash').write_text('')
    found = report()['ros']
    assert found.state == 'note'
    assert "cannot be imported (ModuleNotFoundError: No module named 'no_such" in found.text
    assert remedy in found.remedy


def test_finding_puts_its_remedy_below():
    finding = doctor.Finding('acl', 'FAULT', 'is missing', 'install it')
    assert str(finding) == 'FAULT acl       is missing\n                -> install it'
    assert str(replace(finding, state='ok', remedy='')) == 'ok    acl       is missing'


@pytest.mark.parametrize(('backend', 'status'), [('onnx', 0), ('acl', 1)])
def test_exit_status_says_whether_the_backend_works(tmp_path, capsys, monkeypatch, backend,
                                                    status):
    monkeypatch.setattr(doctor, '_ros', LOOK_FOR_ROS)
    main(['random', 'tiny', str(tmp_path / 'tiny')])
    capsys.readouterr()
    assert main(['doctor', '--backend', backend, str(tmp_path / 'tiny')]) == status
    lines = capsys.readouterr().out.splitlines()
    assert ('backend   onnx works: loaded in' in lines[-1]) == (backend == 'onnx')


def test_default_model_is_named_where_it_is_missing(capsys):
    assert main(['doctor']) == 1
    assert "FAULT artifact  there is no artifact 'smollm2-135m-instruct-w8a8'" in (
        capsys.readouterr().out)
