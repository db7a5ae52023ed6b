"""From a checkpoint to an artifact."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from tinyllama_ros.artifact.folder import new_artifact, refuse_other
from tinyllama_ros.artifact.manifest import Manifest
from tinyllama_ros.errors import ConfigError
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.graphs.ascend_graph import write_ascend_graph
from tinyllama_ros.workbench.graphs.ascend_linear import (
    AscendFloatLinear,
    AscendHalfLinear,
    AscendInt8Linear,
)
from tinyllama_ros.workbench.graphs.cpu_graph import write_cpu_graph
from tinyllama_ros.workbench.graphs.linear import FloatLinear, Int8Linear
from tinyllama_ros.workbench.quantization.quantize import check_w8a16, GROUP

Write = Callable[[Checkpoint, int, Path, tuple[int, ...], str], Iterator[str]]
"""Checkpoint, kv_length, folder, chunk sizes, w8a16, to the names of the parts made."""


@dataclass(frozen=True)
class Dialect:
    """A way of writing the same decoder."""

    quantizations: Mapping[str, Write]
    chunk_sizes: tuple[int, ...]
    """Those of a build that is not told others."""
    w8a16: str
    """Linears, out of quantize.W8A16_CHOICES, that are W8A16 in a w8a8 build by default."""
    group: int = 0
    """Input channels of a token that share a scale in w8a8 where it is W8A8; 0: all."""


def _for_cpu(linear: type[FloatLinear] | type[Int8Linear]) -> Write:
    """Return what writes graphs of the CPU dialect, which run any chunk length."""
    return lambda checkpoint, kv_length, folder, chunk_sizes, w8a16: write_cpu_graph(
        checkpoint, linear, kv_length, folder, w8a16)


def _for_ascend(linear: type[AscendFloatLinear] | type[AscendInt8Linear]) -> Write:
    return lambda checkpoint, kv_length, folder, chunk_sizes, w8a16: write_ascend_graph(
        checkpoint, linear, kv_length, folder, chunk_sizes, w8a16)


TARGETS: Mapping[str, Dialect] = {
    # One token to decode; 64 to read: more would gain little, and a cancel would wait longer.
    # A product of many rows takes its time by the row, so all W8A16 would make a prompt's longer.
    'cpu': Dialect({'fp32': _for_cpu(FloatLinear), 'w8a8': _for_cpu(Int8Linear)}, (1, 16, 64),
                   'none', GROUP),
    # A further length makes the .om half as large again or twice. A cube multiplies 16 rows in the
    # time of one, and float16 all around moves numbers past the middle between two coarse steps.
    'ascend': Dialect({'fp32': _for_ascend(AscendFloatLinear),
                       'fp16': _for_ascend(AscendHalfLinear),
                       'w8a8': _for_ascend(AscendInt8Linear)}, (1,), 'all'),
}


def build(checkpoint: Checkpoint, folder: Path, *, name: str, quantization: str,
          kv_length: int, target: str = 'cpu', chunk_sizes: tuple[int, ...] = (),
          w8a16: str = '', recipe: str = '', progress: bool = False) -> None:
    """
    Write the artifact of a checkpoint; weights pass through memory one at a time.

    :param kv_length: slots of the cache.
    :param target: ``cpu`` or ``ascend``.
    :param chunk_sizes: chunk lengths, ascending; the target's own where there are none.
    :param w8a16: of w8a8: out of quantize.W8A16_CHOICES, which linears get activations of nearly
        16 bits; the target's own where empty.
    :param recipe: noted in the manifest.
    :param progress: show a bar on stderr.
    :raises ConfigError: the target, the quantization or the choice of w8a16 is unknown.
    :raises ModelError: the checkpoint cannot be read or built.
    :raises ArtifactError: the folder cannot be written, or holds something else.
    """
    manifest = plan(checkpoint, folder, name=name, quantization=quantization, target=target,
                    kv_length=kv_length, chunk_sizes=chunk_sizes, w8a16=w8a16, recipe=recipe)
    tokenizer = checkpoint.tokenizer
    write = TARGETS[target].quantizations[quantization]
    with new_artifact(folder, manifest) as partial:
        (partial / tokenizer.settings.file_name).write_bytes(tokenizer.content)
        parts = write(checkpoint, kv_length, partial, manifest.chunk_sizes,
                      manifest.w8a16)
        for _ in tqdm(parts, desc=f'{name} {quantization}', unit='part', disable=not progress,
                      total=checkpoint.architecture.layers + 2):
            pass


def plan(checkpoint: Checkpoint, folder: Path, *, name: str, quantization: str, kv_length: int,
         target: str = 'cpu', chunk_sizes: tuple[int, ...] = (), w8a16: str = '',
         recipe: str = '') -> Manifest:
    """Return the manifest of what a build would make, refusing at once what it could not."""
    if target not in TARGETS:
        raise ConfigError(f'target {target!r} is unknown; known: {", ".join(TARGETS)}')
    dialect = TARGETS[target]
    if quantization not in dialect.quantizations:
        raise ConfigError(f'quantization {quantization!r} is unknown for the target {target}; '
                          f'known: {", ".join(dialect.quantizations)}')
    w8a16 = w8a16 or dialect.w8a16
    check_w8a16(w8a16)
    manifest = Manifest(name=name, quantization=quantization, recipe=recipe, dialect=target,
                        kv_length=kv_length, chunk_sizes=chunk_sizes or dialect.chunk_sizes,
                        w8a16=w8a16 if quantization == 'w8a8' else '',
                        architecture=checkpoint.architecture,
                        tokenizer=checkpoint.tokenizer.settings, files={})
    refuse_other(folder)
    return manifest
