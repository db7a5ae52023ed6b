"""Runs programs that synthesise and play speech, and ends them at once where it is cut short."""

from collections.abc import Sequence
import os
import shutil
import signal
import subprocess
from threading import Lock

from tinyllama_ros.errors import ConfigError, TinyLlamaError

DIES_WITH_US = ('setpriv', '--pdeathsig', 'KILL', '--')
"""
Has the kernel kill a program when the thread that started it ends, so also when we are killed.

It sets PR_SET_PDEATHSIG and becomes the program. subprocess could do so only in its preexec_fn,
which can deadlock where there are threads.
"""


class SpeechError(TinyLlamaError):
    """A sentence could not be spoken; the next one may be."""


class CutShort(Exception):
    """The programs were ended on purpose."""


def find_program(name: str, package: str) -> str:
    """
    Return the path of a program.

    :param package: of Debian and Ubuntu, which holds it.
    :raises ConfigError: it is not installed.
    """
    if (path := shutil.which(name)) is None:
        raise ConfigError(f'the program {name} is missing here; run: sudo apt install {package}')
    return path


class Programs:
    """Runs the programs of one sentence, one after the other; any thread can end them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._is_cut = False
        self._process: subprocess.Popen[bytes] | None = None

    def check(self) -> None:
        """Raise CutShort where `end` was called."""
        if self._is_cut:
            raise CutShort

    def run(self, command: Sequence[str], data: bytes, timeout_s: float) -> bytes:
        """
        Return what a program writes to its standard output.

        It has a session of its own, so that Ctrl-C in a terminal is left to us, and its children
        end with it.

        :param data: its standard input.
        :raises CutShort: `end` was called.
        :raises SpeechError: it cannot be started, fails or does not end in time.
        """
        name = os.path.basename(command[0])
        with self._lock:
            self.check()
            try:
                self._process = process = subprocess.Popen(
                    [*DIES_WITH_US, *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, start_new_session=True)
            except OSError as error:
                raise SpeechError(f'{name} cannot be started: {error}') from error
        with process:
            try:
                output, errors = process.communicate(data, timeout_s)
            except subprocess.TimeoutExpired as error:
                _kill(process)
                raise SpeechError(f'{name} did not end within {timeout_s:.0f} s and was '
                                  'killed') from error
        self.check()
        if process.returncode:
            lines = errors.decode('utf-8', 'replace').strip().splitlines()
            why = f'ended with status {process.returncode}' if process.returncode > 0 else (
                f'was ended by signal {-process.returncode}')
            raise SpeechError(f'{name} {why}: {lines[-1] if lines else "it did not say why"}')
        return output

    def end(self) -> None:
        """Kill the program that runs, and start none from here on."""
        with self._lock:
            self._is_cut = True
            if self._process is not None:
                _kill(self._process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program with all that it has started."""
    if process.poll() is None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # another thread has just waited for it
