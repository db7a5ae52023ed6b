"""A signal that comes while a program imports ends it without a traceback."""

import signal
import subprocess
import sys

import pytest

SIGNALLED = """
import importlib.abc, os, sys

class Signal(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == sys.argv[2]:
            os.kill(os.getpid(), int(sys.argv[1]))

sys.meta_path.insert(0, Signal())
"""
INTERRUPTED = 'tinyllama-model: interrupted; nothing is left half-written\n'


@pytest.mark.parametrize(('module', 'imported', 'number', 'status', 'said'), [
    ('ros.node', 'tinyllama_ros.ros.lifecycle_node', signal.SIGINT, 0, ''),
    ('ros.node', 'tinyllama_ros.ros.lifecycle_node', signal.SIGTERM, 0, ''),
    ('web.node', 'tinyllama_ros.web.serving', signal.SIGINT, 0, ''),
    ('web.node', 'tinyllama_ros.web.serving', signal.SIGTERM, 0, ''),
    ('terminal.cli', 'tinyllama_ros.terminal.session', signal.SIGINT, 130, ''),
    ('commands.cli', 'tinyllama_ros.commands.command_line', signal.SIGINT, 130, INTERRUPTED)])
def test_signal_during_the_imports_ends_a_program_with_its_status(module, imported, number, status,
                                                                  said):
    program = f'{SIGNALLED}\nfrom tinyllama_ros.{module} import main; sys.exit(main([]))'
    done = subprocess.run([sys.executable, '-c', program, str(int(number)), imported],
                          capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (status, '', said)
