"""From a checkpoint to a token through the commands of a user, on stand-ins for atc and acl."""

import os
import shutil
import subprocess
import sys

import pytest
from support.fake_toolkit import CUSTOM_OP, make_toolkit
from support.paths import SIMULATOR

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.commands import doctor
from tinyllama_ros.commands.cli import main

pytestmark = pytest.mark.skipif(not shutil.which('g++'), reason='needs g++')


@pytest.fixture
def toolkit(tmp_path, monkeypatch):
    """Install a toolkit of stand-ins and set its environment."""
    toolkit = make_toolkit(tmp_path / 'toolkit')
    for name, value in {
            'ASCEND_TOOLKIT_HOME': toolkit, 'ASCEND_OPP_PATH': toolkit / 'opp',
            'ASCEND_SIM_PYTHON': sys.executable, 'ASCEND_SIM_SOC': 'Ascend310B4',
            'PYTHONPATH': SIMULATOR, 'TINYLLAMA_ROS_CACHE': tmp_path,
            'PATH': f'{SIMULATOR / "bin"}:{os.environ["PATH"]}'}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(doctor, '_ros', lambda: doctor.Finding('ros', 'ok', 'not looked for'))
    return toolkit


def test_w8a8_is_built_compiled_and_runs_once_the_plugin_is_there(toolkit, capsys):
    from acl import simulator
    simulator.reset()
    name = 'random-tiny-w8a8-ascend'
    assert main(['random', 'tiny', '--target', 'ascend']) == 0
    assert main(['atc', name]) == 1
    assert 'ai.onnx::13::MatMulInteger]; ATC does not know that operator yet: run custom_op/' in (
        capsys.readouterr().err)
    subprocess.run([CUSTOM_OP / 'install.sh', '--via', 'compiler'], check=True,
                   capture_output=True)
    assert main(['atc', name]) == 0
    capsys.readouterr()
    assert main(['doctor', '--backend', 'acl', name]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith('ok    backend   acl works: loaded in ')
    assert not any('MatMulInteger is not known' in line for line in lines)
    assert simulator.live() == {'initialised': 1}


def test_several_chunk_lengths_become_gears(toolkit, capsys):
    name = 'random-tiny-fp16-ascend'
    assert main(['random', 'tiny', '--target', 'ascend', '--quant', 'fp16', '--chunks',
                 '1,16']) == 0
    assert main(['atc', name]) == 0
    artifact = Artifact.open(toolkit.parent / 'artifacts' / name)
    assert '--dynamic_dims=1,513,1;16,528,16' in artifact.manifest.om.command
    assert artifact.manifest.om.toolkit == '8.1.RC1'
    assert main(['doctor', '--backend', 'acl', name]) == 0


def test_chip_that_atc_does_not_know_is_explained(toolkit, capsys):
    main(['random', 'tiny', '--target', 'ascend', '--quant', 'fp16'])
    assert main(['atc', 'random-tiny-fp16-ascend', '--soc-version', 'Ascend999']) == 1
    assert 'this CANN does not know that chip: give --soc-version' in (
        capsys.readouterr().err)


def test_artifact_of_another_chip_is_refused_with_the_remedy(toolkit, capsys):
    name = 'random-tiny-fp16-ascend'
    main(['random', 'tiny', '--target', 'ascend', '--quant', 'fp16'])
    assert main(['atc', name, '--soc-version', 'Ascend310B1']) == 0
    capsys.readouterr()
    assert main(['doctor', '--backend', 'acl', name]) == 1
    assert 'compiled for Ascend310B1, but this is an Ascend310B4\n' in capsys.readouterr().out
