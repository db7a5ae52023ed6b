"""A library that is missing raises ImportError at import, and is one line from an executable."""

import subprocess
import sys

import pytest

WITHOUT = """
import importlib.abc, sys

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition('.')[0] == sys.argv[1]:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)

sys.meta_path.insert(0, Missing())
"""
CHAT, WEB = 'tinyllama_ros.terminal.cli', 'tinyllama_ros.web.node'
NODE, SPEAK = 'tinyllama_ros.ros.node', 'tinyllama_ros.voice.speak'


def run(program, missing):
    return subprocess.run([sys.executable, '-c', WITHOUT + program, missing],
                          capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(('module', 'missing', 'advice'), [
    (CHAT, 'rclpy', 'source a ROS 2'), (CHAT, 'prompt_toolkit', 'pip install prompt_toolkit'),
    (CHAT, 'wcwidth', 'pip install wcwidth'), (WEB, 'rclpy', 'source a ROS 2'),
    (WEB, 'std_msgs', 'source a ROS 2'),
    (NODE, 'rclpy', 'source a ROS 2'), (SPEAK, 'rclpy', 'source a ROS 2'),
    (WEB, 'aiohttp', 'pip install aiohttp')])
def test_executable_says_in_one_line_how_to_get_what_is_missing(module, missing, advice):
    done = run(f'from {module} import main; sys.exit(main([]))', missing)
    assert done.returncode == 1
    line, = done.stderr.splitlines()
    assert f'No module named {missing!r}' in line or f"No module named '{missing}." in line
    assert advice in line


@pytest.mark.parametrize(('module', 'missing'), [
    ('tinyllama_ros.terminal.session', 'rclpy'), ('tinyllama_ros.ros.lifecycle_node', 'rclpy'),
    ('tinyllama_ros.web.serving', 'rclpy'), ('tinyllama_ros.web.serving', 'aiohttp')])
def test_import_without_a_library_raises_and_does_not_end_the_process(module, missing):
    done = run(f'try:\n    import {module}\nexcept ImportError as error:\n    print(error.name)',
               missing)
    assert (done.returncode, done.stdout.strip().partition('.')[0]) == (0, missing), done.stderr


# Fails as the import of a compiled module does that finds no memory, or not all its libraries.
UNLOADABLE = """
import importlib.abc, sys

class Unloadable(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == 'onnxruntime':
            raise ImportError('cannot allocate memory in static TLS block', name=name)

sys.meta_path.insert(0, Unloadable())
"""
IMPORT_RUNTIME = """
from tinyllama_ros.errors import BackendError
try:
    import tinyllama_ros.engine.ort_session
except BackendError as error:
    print(error)
"""


@pytest.mark.parametrize(('finder', 'message'), [
    (WITHOUT, 'the CPU backend needs the Python package onnxruntime, which is missing here; run: '
              'pip install onnxruntime'),
    (UNLOADABLE, 'is installed but cannot be loaded: cannot allocate memory in static TLS block; '
                 'free memory')], ids=['missing', 'too little memory'])
def test_onnx_runtime_that_is_missing_is_told_from_one_that_cannot_be_loaded(finder, message):
    done = subprocess.run([sys.executable, '-c', finder + IMPORT_RUNTIME, 'onnxruntime'],
                          capture_output=True, text=True, timeout=60)
    assert message in done.stdout, done.stderr
