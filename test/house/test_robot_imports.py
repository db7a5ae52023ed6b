"""What is imported on a robot, and what importing does."""

import subprocess
import sys

import pytest

IMPORT_ALL = """
import importlib, pkgutil, sys, tinyllama_ros
for module in pkgutil.walk_packages(tinyllama_ros.__path__, 'tinyllama_ros.'):
    if not module.name.startswith(tuple(sys.argv[1].split(','))):
        importlib.import_module(module.name)
"""
WORKBENCH = ('onnx', 'gguf', 'safetensors', 'huggingface_hub', 'matplotlib')
ROS = ('rclpy', 'std_msgs', 'std_srvs', 'diagnostic_msgs', 'rcl_interfaces')
NOT_ON_A_ROBOT = 'tinyllama_ros.workbench,tinyllama_ros.commands'
WITH_ROS = ','.join(f'tinyllama_ros.{name}'
                    for name in ('ros', 'terminal', 'voice', 'web'))
NONE = 'no.such.module'


def run(program, *arguments):
    """Return what a Python of its own prints; it must succeed."""
    done = subprocess.run([sys.executable, '-c', program, *arguments], capture_output=True,
                          text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded(names):
    """Return a program's last line, which prints those of the modules that were imported."""
    return f'\nprint(*(name for name in {names} if name in sys.modules))'


def test_robot_needs_nothing_of_the_workbench():
    pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')
    assert run(IMPORT_ALL + loaded(WORKBENCH), NOT_ON_A_ROBOT).strip() == ''


def test_nothing_below_the_nodes_imports_ros():
    assert run(IMPORT_ALL + loaded(ROS), WITH_ROS).strip() == ''


def test_importing_neither_reads_arguments_nor_prints():
    assert run(IMPORT_ALL, WITH_ROS, '--no-such-option', 'nor-such-command') == ''


def test_importing_the_nodes_starts_nothing():
    pytest.importorskip('rclpy', reason='no ROS 2 is sourced or installed')
    assert run('import rclpy' + IMPORT_ALL + 'print(rclpy.ok())', NONE, '--ros-args', '-p',
               'nonsense') == 'False\n'
