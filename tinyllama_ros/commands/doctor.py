"""Reports what this machine has and lacks, line by line, and whether a backend works on it."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
import json
import os
from pathlib import Path
import platform
import shutil
import subprocess
import sys
import time

import numpy as np
import psutil

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.places import find_artifact
from tinyllama_ros.cann.atc import SMALL_MEMORY
from tinyllama_ros.cann.npu import Npu, read_npu
from tinyllama_ros.cann.toolkit import newest_python, Toolkit
from tinyllama_ros.engine.backend import BACKENDS, open_backend
from tinyllama_ros.errors import last_line, model_command, TinyLlamaError
from tinyllama_ros.kernels import find_library

OK, NOTE, FAULT = 'ok', 'note', 'FAULT'
DEVICE_FILE = Path('/dev/davinci0')
ROS_PLACE = Path('/opt/ros')
OLDEST_PYTHON = (3, 10)
"""What the code is written for; ROS 2 and CANN, which set upper limits, are checked apart."""
HOT_C = 90
PROBE_TIMEOUT_S = 60


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    subject: str
    state: str
    """``ok``; ``note``: it could be better, or is missing and not needed; ``FAULT``."""
    text: str
    remedy: str = ''

    def __str__(self) -> str:
        remedy = f'\n      {"":10}-> {self.remedy}' if self.remedy else ''
        return f'{self.state:5} {self.subject:10}{self.text}{remedy}'


def examine(backend: str, model: str) -> Iterator[Finding]:
    """
    Yield what was found, each as soon as it is known.

    :param backend: must work; what only other backends need is at most a note.
    :param model: an artifact, as find_artifact takes it.
    """
    needs_npu = backend == 'acl'
    npu, toolkit = read_npu(), Toolkit.find()
    yield _python()
    yield _ros()
    yield _memory()
    yield _swap(needs_npu)
    if not needs_npu:
        yield _kernels()
    yield _npu(npu, needs_npu)
    yield _toolkit(toolkit, needs_npu)
    acl, soc = _acl(toolkit, needs_npu)
    yield acl
    yield _plugin(toolkit)
    yield _atc(toolkit)
    try:
        artifact = Artifact.open(find_artifact(model))
    except TinyLlamaError as error:
        yield Finding('artifact', FAULT, str(error))
        return
    finding = _artifact(artifact, backend, soc or (npu.soc_version if npu else ''), toolkit)
    yield finding
    if finding.state != FAULT:
        yield _backend(backend, artifact)


def _python() -> Finding:
    text = (f'{platform.python_version()} on {platform.machine()}, {sys.executable}; numpy '
            f'{np.__version__}')
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Finding('python', FAULT, text, 'use Python 3.10 or newer; Ubuntu 22.04 has 3.10 as '
                       '/usr/bin/python3, which a conda environment may hide: conda deactivate')
    return Finding('python', OK, text)


def _ros() -> Finding:
    distro = os.environ.get('ROS_DISTRO', '')
    run = subprocess.run([sys.executable, '-c', 'import rclpy'], capture_output=True, text=True)
    if run.returncode == 0:
        return Finding('ros', OK, f'{distro or "rclpy without a sourced ROS 2"}')
    installed = sorted(path.name for path in ROS_PLACE.glob('*') if (path / 'setup.bash').exists())
    reason = last_line(run.stderr, 'it crashed')
    text = f'rclpy cannot be imported ({reason}), so there is no node; the backend runs without'
    if distro:
        return Finding('ros', NOTE, text, f'ROS 2 {distro} is sourced, for another Python than '
                       f'{platform.python_version()}: use /usr/bin/python3')
    if installed:
        return Finding('ros', NOTE, text, f'source /opt/ros/{installed[-1]}/setup.bash')
    return Finding('ros', NOTE, text, 'install ROS 2: docs/orange-pi.md, or work in .venv as make '
                   'does')


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    return Finding('memory', OK, f'{_gb(memory.available)} of {_gb(memory.total)} free')


def _swap(needs_npu: bool) -> Finding:
    swap = psutil.swap_memory()
    text = f'{_gb(swap.used)} of {_gb(swap.total)} in use'
    if needs_npu and swap.total:
        return Finding('swap', NOTE, text, 'good for compiling, but it slows down answers: sudo '
                       'swapoff -a')
    if not swap.total and psutil.virtual_memory().total <= SMALL_MEMORY and shutil.which('atc'):
        return Finding('swap', OK, f'{text}; to compile a model here, add some for that time: '
                       'docs/orange-pi.md')
    return Finding('swap', OK, text)


def _kernels() -> Finding:
    library = find_library()
    if not library:
        return Finding('kernels', NOTE, 'were not compiled: answers on the CPU are slower',
                       'sudo apt install g++, then install tinyllama_ros again')
    if not library.instructions:
        return Finding('kernels', NOTE, 'this processor has no AVX2 and no AVX-512, which they '
                       "need: ONNX Runtime's own kernels run, which are slower")
    return Finding('kernels', OK, library.instructions)


def _npu(npu: Npu | None, needs_npu: bool) -> Finding:
    if DEVICE_FILE.exists() and not os.access(DEVICE_FILE, os.R_OK | os.W_OK):
        return Finding('npu', FAULT if needs_npu else NOTE, f'{DEVICE_FILE} may not be used by '
                       'this user', 'sudo usermod -aG HwHiAiUser $USER, then log in again')
    if not npu:
        remedy = 'on a board, is its driver loaded? try npu-smi info, then sudo reboot'
        return Finding('npu', NOTE, 'npu-smi is missing or shows none',
                       remedy if needs_npu else '')
    text = npu.soc_version
    if npu.temperature_c is not None:
        text += f', {npu.temperature_c} C'
    if npu.memory_total:
        text += f', {_gb(npu.memory_used)} of {_gb(npu.memory_total)} in use'
    text += f', health {npu.health}'
    if npu.temperature_c is not None and npu.temperature_c >= HOT_C:
        return Finding('npu', NOTE, text, 'it is hot and will slow down: check its fan')
    return Finding('npu', OK, text)


def _toolkit(toolkit: Toolkit | None, needs_npu: bool) -> Finding:
    if not toolkit:
        return Finding('toolkit', NOTE, 'there is no CANN toolkit here',
                       'install it, or use the image of the board that has it: docs/orange-pi.md'
                       if needs_npu else '')
    version = toolkit.version()
    text = f'CANN {version or "of a version that cannot be read"} in {toolkit.home}'
    newest = newest_python(version)
    if newest and sys.version_info[:2] > newest:
        return Finding('toolkit', NOTE, f'{text}, whose Python is at most '
                       f'{newest[0]}.{newest[1]}; this is {platform.python_version()}',
                       'install a newer CANN, or use that Python: docs/orange-pi.md')
    if 'ASCEND_OPP_PATH' not in os.environ:
        return Finding('toolkit', NOTE, f'{text}, whose environment is not set',
                       f'source {toolkit.set_env}')
    return Finding('toolkit', OK, text)


def _acl(toolkit: Toolkit | None, needs_npu: bool) -> tuple[Finding, str]:
    """Return what pyACL reports, and the name of the chip if it is known."""
    bad = FAULT if needs_npu else NOTE
    source = f'source {toolkit.set_env}' if toolkit else 'install the CANN toolkit'
    try:
        run = subprocess.run([sys.executable, '-m', 'tinyllama_ros.engine.acl.probe'],
                             capture_output=True, text=True, timeout=PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Finding('acl', bad, f'does not answer within {PROBE_TIMEOUT_S} s',
                       'end other programs that use the NPU, or sudo reboot'), ''
    try:
        found = json.loads(run.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = last_line(run.stderr, f'status {run.returncode}')
        return Finding('acl', bad, f'crashed ({reason})', 'the module acl, the toolkit and the '
                       f'driver may be of different versions: {source} of the one that fits'), ''
    if 'failed' in found:
        return Finding('acl', bad, found['failed'], '' if 'code' in found['failed'] else source
                       ), ''
    form = 'RC form, it has the memory of this machine' if found['is_shared'] else 'EP form'
    text = f'{found["soc"]}, {form}'
    if found['memory'] is None:
        text += '; it does not report how much memory is free'
        return Finding('acl', NOTE, text), found['soc']
    free, total = found['memory']
    return Finding('acl', OK, f'{text}, {_gb(free)} of {_gb(total)} free'), found['soc']


def _plugin(toolkit: Toolkit | None) -> Finding:
    if not toolkit:
        return Finding('plugin', NOTE, 'MatMulInteger: no toolkit to look in')
    if plugin := toolkit.plugin():
        return Finding('plugin', OK, f'MatMulInteger: {plugin}')
    return Finding('plugin', NOTE, f'MatMulInteger is not installed in {toolkit.opp}, so w8a8 '
                   'cannot be compiled here', 'custom_op/install.sh')


def _atc(toolkit: Toolkit | None) -> Finding:
    path = shutil.which('atc')
    if not path:
        return Finding('atc', NOTE, 'is not on PATH, so nothing can be compiled here',
                       f'source {toolkit.set_env}' if toolkit else
                       'compile on a machine that has the toolkit and copy the artifact')
    try:
        run = subprocess.run([path, '--help'], capture_output=True, text=True,
                             timeout=PROBE_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding('atc', NOTE, f'{path} cannot be run: {error}', 'install the toolkit again')
    printed = f'{run.stdout}\n{run.stderr}'
    if '--framework' not in printed:  # its exit status does not show it
        reason = last_line(printed, f'status {run.returncode}')
        return Finding('atc', NOTE, f'{path} does not print its options ({reason})',
                       f'source {toolkit.set_env}' if toolkit else
                       'source the set_env.sh of its toolkit')
    return Finding('atc', OK, path)


def _artifact(artifact: Artifact, backend: str, soc: str, toolkit: Toolkit | None) -> Finding:
    manifest, folder = artifact.manifest, artifact.folder
    text = f'{folder}: sound, {manifest.quantization}, {manifest.kv_length} slots'
    dialect = BACKENDS[backend].dialect
    if manifest.dialect != dialect:
        return Finding('artifact', FAULT, f'{text}, but of the {manifest.dialect} dialect',
                       f'{model_command()} build NAME --target {dialect}')
    if backend != 'acl':
        return Finding('artifact', OK, text)
    om = manifest.om
    if not om:
        return Finding('artifact', FAULT, f'{text}, but not compiled',
                       f'{model_command()} atc {folder}')
    text += f', compiled for {om.soc_version or "an unknown chip"}'
    if soc and om.soc_version and om.soc_version != soc:
        return Finding('artifact', FAULT, f'{text}, but this is an {soc}',
                       f'{model_command()} atc {folder} --soc-version {soc}')
    here = toolkit.version() if toolkit else ''
    if om.toolkit and here and om.toolkit != here:
        return Finding('artifact', NOTE, f'{text} with CANN {om.toolkit}; this machine has {here}',
                       'if it does not load: the CANN that runs it must not be older than the one '
                       'that compiled it')
    return Finding('artifact', OK, text)


def _backend(name: str, artifact: Artifact) -> Finding:
    """Load the artifact and run one token."""
    began = time.perf_counter()
    try:
        with closing(open_backend(name, artifact)) as backend:
            loaded = time.perf_counter()
            logits = backend.forward(np.zeros(1, np.int64), 0)
            ran = time.perf_counter()
            is_finite = bool(np.isfinite(logits).all())
    except ModuleNotFoundError as error:
        return Finding('backend', FAULT, f'{name}: the Python package {error.name} is missing',
                       f'{sys.executable} -m pip install {error.name}')
    except TinyLlamaError as error:
        return Finding('backend', FAULT, f'{name}: {error}')
    if not is_finite:
        return Finding('backend', FAULT, f'{name} runs, but its logits are not finite numbers',
                       'build and compile the artifact again')
    return Finding('backend', OK, f'{name} works: loaded in {loaded - began:.1f} s, one token in '
                   f'{(ran - loaded) * 1e3:.1f} ms')


def _gb(size: int) -> str:
    return f'{size / 1e9:.1f} GB'
