"""From a checkpoint to an artifact."""

from collections.abc import Mapping
from pathlib import Path

from tqdm import tqdm

from tinyllama_ros.errors import ArtifactError, ConfigError
from tinyllama_ros.model.artifact import disk_errors, MANIFEST, Manifest, new_artifact
from tinyllama_ros.model.checkpoint import Checkpoint
from tinyllama_ros.model.cpu_graph import write_cpu_graph
from tinyllama_ros.model.linear import FloatLinear, Int8Linear, Linear

QUANTIZATIONS: Mapping[str, type[Linear]] = {'fp32': FloatLinear, 'w8a8': Int8Linear}
CHUNK_SIZES = (1, 16, 64)
"""One token to decode; 64 to read: more would gain little, and a cancel would wait longer."""


def build(checkpoint: Checkpoint, folder: Path, *, name: str, quantization: str,
          kv_length: int, recipe: str = '', progress: bool = False) -> None:
    """
    Write the artifact of a checkpoint for the CPU; weights pass through memory one at a time.

    :param kv_length: slots of the cache.
    :param recipe: noted in the manifest.
    :param progress: show a bar on stderr.
    :raises ConfigError: the quantization is unknown.
    :raises ModelError: the checkpoint cannot be read or built.
    :raises ArtifactError: the folder cannot be written, or holds something else.
    """
    manifest = plan(checkpoint, folder, name=name, quantization=quantization,
                    kv_length=kv_length, recipe=recipe)
    tokenizer = checkpoint.tokenizer
    with new_artifact(folder, manifest) as partial:
        (partial / tokenizer.settings.file_name).write_bytes(tokenizer.content)
        parts = write_cpu_graph(checkpoint, QUANTIZATIONS[quantization], kv_length, partial)
        for _ in tqdm(parts, desc=f'{name} {quantization}', unit='part', disable=not progress,
                      total=checkpoint.architecture.layers + 2):
            pass


def plan(checkpoint: Checkpoint, folder: Path, *, name: str, quantization: str, kv_length: int,
         recipe: str = '') -> Manifest:
    """Return the manifest of what a build would make, refusing at once what it could not."""
    if quantization not in QUANTIZATIONS:
        raise ConfigError(f'quantization {quantization!r} is unknown; known: '
                          f'{", ".join(QUANTIZATIONS)}')
    manifest = Manifest(name=name, quantization=quantization, recipe=recipe, dialect='cpu',
                        kv_length=kv_length, chunk_sizes=CHUNK_SIZES,
                        architecture=checkpoint.architecture,
                        tokenizer=checkpoint.tokenizer.settings, files={})
    with disk_errors(folder):
        is_something = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if is_something and not (folder / MANIFEST).exists():
            raise ArtifactError(f'{folder} is or holds something that is no artifact; choose '
                                'another folder')
    return manifest
