"""Converts a graph of the Ascend dialect to an .om file with the toolkit's compiler ATC."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
import os
from pathlib import Path
import re
import shlex
import shutil
import signal
import subprocess
import time

import psutil

from tinyllama_ros.artifact.contract import ascend_inputs, CHUNK
from tinyllama_ros.artifact.disk import link_or_copy, scratch_beside
from tinyllama_ros.artifact.folder import Artifact, record_om
from tinyllama_ros.artifact.manifest import CompiledGraph, Manifest, WEIGHTS
from tinyllama_ros.cann.atc_errors import find_failure, last_line, MEMORY
from tinyllama_ros.cann.toolkit import installed_version, Toolkit
from tinyllama_ros.errors import ConfigError, ConversionError, model_command

DEFAULT_SOC = 'Ascend310B4'
SMALL_MEMORY = 16 << 30
"""Bytes: a board with 16 GB has less. By default ATC compiles eight operators at once."""
ONE_AT_A_TIME = {'TE_PARALLEL_COMPILER': '1', 'MAX_COMPILE_CORE_NUMBER': '1'}
MODEL, OUTPUT = 'tiny-llama.onnx', 'tiny-llama'
MAX_GEARS = 100
POLL_S = 1.0
_STAGE = re.compile(r'\[GEPERFTRACE\] The time cost of (\S+) is')


@dataclass(frozen=True)
class Progress:
    """The progress of a conversion."""

    seconds: float
    memory: int
    """Bytes of ATC and the compilers that it started."""
    stage: str
    """The stage that ended last, if ATC logs it."""


@dataclass(frozen=True)
class Conversion:
    """The command and the environment of a conversion."""

    command: tuple[str, ...]
    soc_version: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """Additional environment variables."""

    @property
    def shell_line(self) -> str:
        """The command as it is typed in a shell."""
        return ' '.join(map(_quoted, self.command))


def plan_conversion(manifest: Manifest, soc_version: str = DEFAULT_SOC, *, jobs: int | None = None,
                    log: str | None = None, memory: int | None = None) -> Conversion:
    """
    Return how an artifact's graph is converted.

    :param soc_version: the chip, such as ``Ascend310B4``.
    :param jobs: operators that are compiled at once; None means 1 on a machine with little memory,
        else ATC's default.
    :param log: level of ATC's log, which is then part of its output.
    :param memory: of this machine, in bytes; None: it is measured.
    :raises ConfigError: an option is outside its range, or the artifact is of another dialect.
    """
    if manifest.dialect != 'ascend':
        raise ConfigError(f'{manifest.name} holds a graph in the {manifest.dialect} dialect; ATC '
                          f'converts the ascend dialect: {model_command()} build --target ascend')
    if not re.fullmatch(r'Ascend\d{3}\w*', soc_version):
        raise ConfigError(f'soc_version is {soc_version!r}; it must be Ascend and the name that '
                          'npu-smi info shows, such as Ascend310B4')
    if jobs is not None and not 1 <= jobs <= 32:
        raise ConfigError(f'jobs is {jobs}; it must be within 1 to 32')
    if len(manifest.chunk_sizes) > MAX_GEARS:
        raise ConfigError(f'{manifest.name} has {len(manifest.chunk_sizes)} chunk lengths; ATC '
                          f'takes at most {MAX_GEARS} gears: build it with fewer --chunks')
    command = (
        'atc', '--framework=5', f'--model={MODEL}', f'--output={OUTPUT}', '--input_format=ND',
        *_shapes(manifest), f'--soc_version={soc_version}',
        '--precision_mode=must_keep_origin_dtype', *([f'--log={log}'] if log else []))
    settings = {}
    if jobs is not None:
        settings = dict.fromkeys(ONE_AT_A_TIME, str(jobs))
    elif (memory or psutil.virtual_memory().total) <= SMALL_MEMORY:
        settings = {name: value for name, value in ONE_AT_A_TIME.items() if name not in os.environ}
    if log:
        settings['ASCEND_SLOG_PRINT_TO_STDOUT'] = '1'
    return Conversion(command, soc_version, settings)


def _shapes(manifest: Manifest) -> Iterator[str]:
    """Yield the options that fix all shapes; several chunk lengths become gears."""
    sizes, slots = manifest.chunk_sizes, manifest.kv_length
    arch = manifest.architecture
    inputs = ascend_inputs(arch, slots, sizes[0] if len(sizes) == 1 else CHUNK)
    yield '--input_shape=' + ';'.join(
        f'{name}:' + ','.join(str(-1 if isinstance(size, str) else size) for size in tensor.shape)
        for name, tensor in inputs.items())
    if len(sizes) > 1:
        gears = [ascend_inputs(arch, slots, size) for size in sizes]
        yield '--dynamic_dims=' + ';'.join(
            ','.join(str(gear[name].axes[axis]) for name, tensor in inputs.items()
                     for axis, size in tensor.axes.items() if isinstance(size, str))
            for gear in gears)


def _quoted(argument: str) -> str:
    """Return one argument for a shell, with its value in double quotes where it needs any."""
    name, equals, value = argument.partition('=')
    if equals and shlex.quote(value) != value and not set('"$`\\!') & set(value):
        return f'{name}="{value}"'
    return argument if shlex.quote(argument) == argument else shlex.quote(argument)


def convert(artifact: Artifact, conversion: Conversion,
            report: Callable[[Progress], None] = lambda progress: None) -> Artifact:
    """
    Run ATC and move the .om into the artifact, in place of an earlier one.

    ATC leaves files in its working folder, so it gets a temporary one beside the artifact.

    :param report: called about once a second.
    :return: the artifact as it is now.
    :raises ArtifactError: the graph is missing or was altered; no space; no permission.
    :raises ConversionError: there is no ATC here, it failed, or its output is incomplete.
    """
    artifact.verify_graph()
    executable = find_atc()
    beside = artifact.folder.absolute()
    log = beside.with_name(f'{beside.name}.atc.log')
    with scratch_beside(artifact.folder, 'atc') as folder:
        link_or_copy(artifact.graph, folder / MODEL)
        link_or_copy(artifact.folder / WEIGHTS, folder / WEIGHTS)
        status = _run([executable, *conversion.command[1:]], folder, log,
                      os.environ | conversion.settings, report)
        om = folder / f'{OUTPUT}.om'
        _check(status, om, artifact, log)
        log.unlink()
        return record_om(artifact, om, CompiledGraph(
            conversion.soc_version, conversion.command, installed_version()))


def find_atc() -> str:
    """
    Return the path of ATC.

    :raises ConversionError: it is not on PATH; says how to get it.
    """
    if found := shutil.which('atc'):
        return found
    if toolkit := Toolkit.find():
        raise ConversionError(f'atc is not on PATH, but a CANN toolkit is in {toolkit.home}; run: '
                              f'source {toolkit.set_env}')
    raise ConversionError('atc is not on PATH, and no CANN toolkit is on this machine; install '
                          'one (it needs no NPU), or convert on a machine that has it and copy '
                          'the artifact: docs/orange-pi.md says how')


def _run(command: list[str], folder: Path, log: Path, environment: Mapping[str, str],
         report: Callable[[Progress], None]) -> int:
    """Run ATC with its output in a file; return its exit status, and end its child processes."""
    began = time.monotonic()
    with log.open('wb') as output:
        try:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                       start_new_session=True)
        except OSError as error:
            raise ConversionError(f'{command[0]} cannot be run: {error.strerror}; is it made for '
                                  'the architecture of this machine?') from error
        try:
            with log.open(errors='replace') as printed:
                stage = ''
                while True:
                    with suppress(subprocess.TimeoutExpired):
                        return process.wait(timeout=POLL_S)
                    stage = ([stage] + _STAGE.findall(printed.read()))[-1]
                    report(Progress(time.monotonic() - began, _memory(process.pid), stage))
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _memory(pid: int) -> int:
    """Return the bytes that a process and its descendants hold."""
    size = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                size += each.memory_info().rss
    return size


def _check(status: int, om: Path, artifact: Artifact, log: Path) -> None:
    """Raise ConversionError if ATC failed, with the reason from its output."""
    output = log.read_text(errors='replace')
    whole = f"ATC's whole output is in {log}"
    if status in (-signal.SIGKILL, 128 + signal.SIGKILL):
        raise ConversionError(f'atc was killed, most likely for lack of memory; {_more_memory()}; '
                              f'{whole}')
    if status:
        line, remedy = find_failure(output) or (last_line(output), '')
        remedy = _more_memory() if remedy == MEMORY else remedy
        raise ConversionError('; '.join(filter(None, (
            f'atc failed with status {status}: {line.rstrip(".")}', remedy, whole))))
    if not om.is_file():
        raise ConversionError(f'atc ended with status 0 but wrote no {om.name}: '
                              f'{last_line(output)}; is {find_atc()} the ATC of CANN? {whole}')
    size, weights = om.stat().st_size, artifact.manifest.files[WEIGHTS].size
    if size < weights // 4:
        raise ConversionError(f'atc wrote {om.name} of {size} bytes for {weights} bytes of '
                              'weights, so it was cut short; is the disk full, or a quota '
                              f'reached? {whole}')


def _more_memory() -> str:
    memory, swap = psutil.virtual_memory().total, psutil.swap_memory().total
    return (f'this machine has {memory / 1e9:.1f} GB and {swap / 1e9:.1f} GB of swap: compile one '
            'operator at a time with --jobs 1, close other programs, add swap (sudo fallocate -l '
            '8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && sudo swapon '
            '/swapfile), or convert on another machine')
