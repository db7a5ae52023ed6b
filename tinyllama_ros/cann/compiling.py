"""Runs `tinyllama-model atc`: chooses the chip, compiles the graph with ATC, shows progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
import logging
import sys

from tqdm import tqdm

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.cann.atc import Conversion, convert, DEFAULT_SOC, plan_conversion, Progress
from tinyllama_ros.cann.npu import Npu, read_npu
from tinyllama_ros.cann.toolkit import installed_version, Toolkit

REPORT_PERIOD_S = 60
"""Between two progress lines if stderr is not a terminal."""

_logger = logging.getLogger(__name__)


def plan(artifact: Artifact, soc_version: str | None = None, *, jobs: int | None = None,
         log: str | None = None) -> tuple[Conversion, list[str]]:
    """
    Return the conversion of an artifact on this machine, and notes for the user.

    :param soc_version: the chip; None: the chip of this machine if it is a 310B, else that of the
        8T board.
    :param jobs: see plan_conversion, as for log.
    """
    npu = read_npu()
    default = npu.soc_version if npu and npu.is_310b else DEFAULT_SOC
    conversion = plan_conversion(artifact.manifest, soc_version or default, jobs=jobs, log=log)
    return conversion, list(_notes(artifact, conversion, npu, soc_version))


def _notes(artifact: Artifact, conversion: Conversion, npu: Npu | None, asked: str | None
           ) -> Iterator[str]:
    if not npu and not asked:
        yield (f'npu-smi shows no NPU here; compiling for {DEFAULT_SOC}, the 8T board (the 20T '
               'one: --soc-version Ascend310B1)')
    if npu and not npu.is_310b and not asked:
        yield (f'this machine has an {npu.soc_version}, which is not the chip of a board; '
               f'compiling for {DEFAULT_SOC}, the 8T board (the 20T one: --soc-version '
               f'Ascend310B1; the chip of this machine: --soc-version {npu.soc_version})')
    elif npu and npu.soc_version != conversion.soc_version:
        yield (f'this machine has an {npu.soc_version}: what is compiled for '
               f'{conversion.soc_version} will not run here')
    toolkit = Toolkit.find()
    if artifact.manifest.quantization == 'w8a8' and toolkit and not toolkit.plugin():
        yield (f'{toolkit.opp} seems to lack the plugin for MatMulInteger; if ATC stops at that '
               'operator, run custom_op/install.sh')
    if conversion.settings:
        settings = ' '.join(f'{name}={value}' for name, value in conversion.settings.items())
        yield f'in the environment of ATC: {settings}'


def compile_artifact(artifact: Artifact, conversion: Conversion, *, force: bool = False) -> None:
    """
    Compile an artifact and show progress on stderr, unless it was compiled the same way before.

    :raises ArtifactError: see convert, as for ConversionError.
    """
    made = artifact.manifest.om
    if not force and made and (made.command, made.toolkit) == (
            conversion.command, installed_version()):
        _logger.info('%s was compiled with the same command already; --force compiles it again',
                     artifact.om)
        return
    with _progress() as report:
        convert(artifact, conversion, report)


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """Yield a function that shows progress: one changing line on a terminal, else lines."""
    shown = sys.stderr.isatty()
    last = 0.0
    with tqdm(bar_format='{desc}', disable=not shown) as line:
        def report(progress: Progress) -> None:
            nonlocal last
            minutes, seconds = divmod(int(progress.seconds), 60)
            text = f'ATC {minutes}:{seconds:02}, {progress.memory / 1e9:.1f} GB {progress.stage}'
            line.set_description_str(text.rstrip())
            if not shown and progress.seconds - last >= REPORT_PERIOD_S:
                last = progress.seconds
                _logger.info('%s', text.rstrip())
        yield report
