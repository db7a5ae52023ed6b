"""
Everything between a checkpoint and an answer on an NPU, on a machine that has none.

The toolkit, its compiler and the board are the stand-ins of test/. All else is what runs on a
board: the plugin is built and installed, the model built and compiled, the node started with
backend acl in both forms, and one prompt published by another process.

    PYTHONPATH=test .venv/bin/python tools/ascend_chain.py
"""

import argparse
from collections.abc import Mapping, Sequence
import os
from pathlib import Path
import shlex
import subprocess
import sys
import tempfile

from demo import BIN, PROMPT, running, talk
from support import fake_toolkit

ROOT = Path(__file__).parents[1]
SIMULATOR = ROOT / 'test' / 'ascend_sim'


def make_toolkit(folder: Path) -> Path:
    """Return a folder laid out as a CANN toolkit, with a stand-in of the library for plugins."""
    library = fake_toolkit.compile_library(
        fake_toolkit.REGISTER / 'register.cc', folder / 'libregister.so',
        '-Wl,-soname,libregister.so', '-D_GLIBCXX_USE_CXX11_ABI=1')
    return Path(fake_toolkit.make_toolkit(folder / 'toolkit', library))


def environment(toolkit: Path) -> dict[str, str]:
    """Return what set_env.sh of a toolkit would export, with the stand-ins in its place."""
    return os.environ | {
        'ASCEND_TOOLKIT_HOME': str(toolkit), 'ASCEND_OPP_PATH': str(toolkit / 'opp'),
        'PATH': f'{SIMULATOR / "bin"}:{os.environ["PATH"]}', 'PYTHONPATH': str(SIMULATOR),
        'ASCEND_SIM_PYTHON': sys.executable, 'ASCEND_SIM_FILL': '255'}


def run(*command: str | Path, env: Mapping[str, str]) -> str:
    """Show a command and run it; return the last line that it prints."""
    print('$', shlex.join(map(str, command)), flush=True)
    done = subprocess.run(command, env=env, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)  # it has said why
    return (done.stdout.splitlines() or [''])[-1]


def ask(artifact: str, form: str, prompt: str, log_path: Path) -> int:
    """Return the exit status of one prompt to a node on a board of this form."""
    os.environ['ASCEND_SIM_FORM'] = form
    os.environ['ASCEND_SIM_MEMORY'] = str(8 << 30)
    command = [str(BIN / 'tinyllama_node'), '--ros-args', '-p', f'model:={artifact}',
               '-p', 'backend:=acl', '-p', 'max_tokens:=60']
    print('$', f'ASCEND_SIM_FORM={form}', *command, flush=True)
    with log_path.open('w+b') as log, running(command, log) as node:
        print('>', prompt, flush=True)
        status = talk(['--once', prompt], node)
    if status:
        print(log_path.read_text(errors='replace'), file=sys.stderr)
    return status


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('--model', default='smollm2-135m-instruct',
                        help='what to build (default: %(default)s)')
    parser.add_argument('--random', metavar='SHAPE', help='a random model of this shape instead, '
                        'such as tinyllama-1.1b')
    parser.add_argument('--prompt', default=PROMPT, help='(default: %(default)s)')
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        env = environment(make_toolkit(Path(folder)))
        run(ROOT / 'custom_op' / 'install.sh', '--via', 'compiler', env=env)
        what = ('random', arguments.random) if arguments.random else ('build', arguments.model)
        artifact = run(BIN / 'tinyllama-model', *what, '--target', 'ascend', env=env)
        run(BIN / 'tinyllama-model', 'atc', artifact, env=env)
        os.environ.update(env)
        return max(ask(artifact, form, arguments.prompt, Path(folder) / 'node.log')
                   for form in ('rc', 'ep'))


if __name__ == '__main__':
    sys.exit(main())
