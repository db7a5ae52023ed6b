"""Writes an artifact: the graph in the dialect of its target, the tokenizer, the manifest."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from tinyllama_ros.artifact.folder import new_artifact, refuse_other
from tinyllama_ros.artifact.manifest import Manifest
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.graphs.ascend_graph import write_ascend_graph
from tinyllama_ros.workbench.graphs.ascend_linear import (
    AscendFloatLinear,
    AscendHalfLinear,
    AscendInt8Linear,
    AscendLinear,
)
from tinyllama_ros.workbench.graphs.cpu_graph import write_cpu_graph
from tinyllama_ros.workbench.graphs.linear import CpuLinear, FloatLinear, Int8Linear
from tinyllama_ros.workbench.options import BuildOptions
from tinyllama_ros.workbench.progress import track

CPU_LINEARS: Mapping[str, type[CpuLinear]] = {'fp32': FloatLinear, 'w8a8': Int8Linear}
ASCEND_LINEARS: Mapping[str, type[AscendLinear]] = {
    'fp32': AscendFloatLinear, 'fp16': AscendHalfLinear, 'w8a8': AscendInt8Linear}


def build(checkpoint: Checkpoint, folder: Path, options: BuildOptions) -> None:
    """
    Write the artifact of a checkpoint; only one weight at a time is in memory.

    :raises ModelError: the checkpoint cannot be read or built, or the options do not fit it.
    :raises ArtifactError: the folder cannot be written, or is not an artifact.
    """
    tokenizer = checkpoint.tokenizer
    manifest = options.manifest(checkpoint.architecture, tokenizer.settings)
    refuse_other(folder)
    with new_artifact(folder, manifest) as partial:
        (partial / tokenizer.settings.file_name).write_bytes(tokenizer.content)
        for _ in track(_write(checkpoint, manifest, partial), f'write {options.name}',
                       checkpoint.architecture.layers + 2):
            pass


def _write(checkpoint: Checkpoint, manifest: Manifest, folder: Path) -> Iterator[str]:
    """Write the graph that a manifest describes; yield the name of each part when it is done."""
    if manifest.dialect == 'cpu':
        return write_cpu_graph(checkpoint, CPU_LINEARS[manifest.quantization],
                               manifest.kv_length, folder, manifest.w8a16)
    return write_ascend_graph(checkpoint, ASCEND_LINEARS[manifest.quantization],
                              manifest.kv_length, folder, manifest.chunk_sizes, manifest.w8a16)
