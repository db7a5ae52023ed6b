"""
Give a reader thousands of damaged files, under a limit of time and memory.

Run as a program in a process of its own, so that a reader that hangs or dies fails one test.
"""

from collections.abc import Callable, Iterable
import importlib
from pathlib import Path
import resource
import signal
import subprocess
import sys
import tempfile
import traceback
from types import FrameType

from tinyllama_ros.errors import TinyLlamaError

MUTATION_CPU_S = 2.0
"""A reader takes some milliseconds for such a small file."""
ALL_CPU_S = 120
MEMORY_BYTES = 1 << 30
"""More than the process has mapped before the first file."""


class TooSlow(BaseException):
    """Raised in a reader that takes too long; no `except Exception` hides it."""


def check(target: str) -> None:
    """Run a target, `module:function`, in a process of its own; AssertionError lists failures."""
    done = subprocess.run([sys.executable, '-m', 'support.fuzz', target], capture_output=True,
                          text=True, timeout=600, cwd=Path(__file__).parent.parent)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert int(done.stdout.split()[-1]) > 100, 'too little was read'


def fuzz(read: Callable[[bytes, Path], object], mutations: Iterable[tuple[str, bytes]]) -> None:
    """
    Print each mutation that a reader neither takes nor refuses in one line, and how many it met.

    :param read: is given the content of a file, and a folder to write it to, always the same.
    """
    count = failures = 0
    with tempfile.TemporaryDirectory() as folder:
        for label, content in mutations:
            if failure := _failure(read, content, Path(folder)):
                failures += 1
                print(f'{label}: {failure}', flush=True)
            count += 1
    print(f'{failures} failures of', count, flush=True)
    if failures:
        sys.exit(1)


def _failure(read: Callable[[bytes, Path], object], content: bytes, folder: Path) -> str:
    signal.setitimer(signal.ITIMER_PROF, MUTATION_CPU_S)
    try:
        read(content, folder)
    except TinyLlamaError as error:
        return '' if str(error).isprintable() and len(str(error)) < 2500 else f'message {error!r}'
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)[-3:]
        return f'{error!r:.200} at ' + ', '.join(f'{Path(at.filename).name}:{at.lineno}'
                                                 for at in where)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return ''


def _raise(number: int, frame: FrameType | None) -> None:
    raise TooSlow


def main() -> None:
    """Set the limits and run the target that the command line names."""
    module, function = sys.argv[1].split(':')
    target = getattr(importlib.import_module(module), function)
    signal.signal(signal.SIGPROF, _raise)
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    memory = pages * resource.getpagesize() + MEMORY_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CPU, (ALL_CPU_S, ALL_CPU_S))
    target()


if __name__ == '__main__':
    main()
