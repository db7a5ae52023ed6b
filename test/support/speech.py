"""What tests of speech share: the real synthesiser, players that are none, how loud a sound is."""

from pathlib import Path
import shutil
import sys
from threading import Condition

import numpy as np
import pytest

from tinyllama_ros.voice.sound import read_wav, Sound

needs_espeak = pytest.mark.skipif(shutil.which('espeak-ng') is None,
                                  reason='espeak-ng is not installed')
DEADLINE_S = 20.0


def loudness(sound: Sound) -> float:
    """Return the root of the mean square of a sound's samples, of full scale."""
    samples = np.frombuffer(sound.samples, '<i2') / 32768
    return float(np.sqrt(np.mean(np.square(samples))))


def is_speech(sound: Sound, words: int) -> bool:
    """Return whether a sound is as long and as loud as a number of words."""
    return 0.1 * words < sound.length_s < 1.0 * words + 1 and loudness(sound) > 0.02


def sounds_in(folder: Path) -> list[Sound]:
    """Return the sounds of a folder of wav files in order."""
    return [read_wav(path.read_bytes()) for path in sorted(folder.glob('*.wav'))]


def write_program(path: Path, source: str) -> Path:
    """Write a program in Python that can be started by its name."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(f'#!{sys.executable} -S\nimport os, sys, time\n{source}\n')
    path.chmod(0o755)
    return path


def endless_player(folder: Path) -> Path:
    """Write an aplay that writes its process id into FOLDER/pid, and plays without end."""
    return write_program(
        folder / 'aplay', 'sys.stdin.buffer.read()\n'
        f'open({str(folder / "new")!r}, "w").write(str(os.getpid()))\n'
        f'os.rename({str(folder / "new")!r}, {str(folder / "pid")!r})\ntime.sleep(600)')


def is_running(pid: int) -> bool:
    """Return whether a process runs: one that only waits to be reaped does not."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


class Heard:
    """Notes what a speaker tells, in order."""

    def __init__(self) -> None:
        self._changed = Condition()
        self.all: list[tuple[str, object]] = []

    def note(self, kind: str):
        """Return a callback that notes its argument."""
        def add(value: object) -> None:
            with self._changed:
                self.all.append((kind, value))
                self._changed.notify_all()
        return add

    def values(self, kind: str) -> list[object]:
        return [value for each, value in self.all if each == kind]

    def wait_for(self, kind: str, value: object) -> None:
        """Wait until the newest of a kind is this value."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.values(kind)[-1:] == [value],
                                          DEADLINE_S), self.all
