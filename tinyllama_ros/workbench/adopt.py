"""Turns an .om file that was compiled elsewhere into an artifact, by writing a manifest for it."""

from pathlib import Path

from tinyllama_ros.artifact.disk import link_or_copy
from tinyllama_ros.artifact.folder import new_artifact, refuse_other
from tinyllama_ros.artifact.manifest import CompiledGraph, Manifest, OM
from tinyllama_ros.errors import ArtifactError
from tinyllama_ros.workbench.chat_check import check_chat
from tinyllama_ros.workbench.checkpoints.folder_vocabulary import tokenizer_from_folder
from tinyllama_ros.workbench.checkpoints.safetensors_checkpoint import read_architecture


def adopt(om: Path, tokenizer: Path, folder: Path, *, kv_length: int,
          chunk_sizes: tuple[int, ...] = (1,), soc_version: str = '') -> None:
    """
    Write an artifact that holds an .om of the Ascend dialect.

    The .om itself is compared with the manifest when a device loads it.

    :param tokenizer: a Hugging Face folder: config.json, tokenizer_config.json, and
        tokenizer.model or tokenizer.json; no weights.
    :param kv_length: slots of the cache that the .om was compiled for.
    :param chunk_sizes: chunk lengths that it was compiled for, ascending.
    :param soc_version: chip that it was compiled for; '' if unknown.
    :raises ModelError: the folder cannot be read, or does not describe such a model.
    :raises ArtifactError: there is no such .om, or the artifact cannot be written.
    """
    if not om.is_file():
        raise ArtifactError(f'{om} does not exist; give the path of a compiled model (.om)')
    words, architecture = tokenizer_from_folder(tokenizer), read_architecture(tokenizer)
    check_chat(words, architecture.vocab_size)
    manifest = Manifest(
        name=om.stem, quantization='unknown', recipe=f'adopted from {om.name}', dialect='ascend',
        kv_length=kv_length, chunk_sizes=chunk_sizes, architecture=architecture,
        tokenizer=words.settings, files={}, om=CompiledGraph(soc_version, (), ''))
    refuse_other(folder)
    with new_artifact(folder, manifest) as partial:
        (partial / words.settings.file_name).write_bytes(words.content)
        link_or_copy(om, partial / OM)
