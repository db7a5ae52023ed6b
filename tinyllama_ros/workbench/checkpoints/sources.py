"""Opens the checkpoint that a user names: a known model, a .gguf file or a folder."""

from dataclasses import replace
from pathlib import Path

from tinyllama_ros.artifact.disk import required_text
from tinyllama_ros.artifact.fields import shorten
from tinyllama_ros.errors import missing_package, ModelError
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.checkpoints.fetch import fetch, KNOWN_MODELS


def open_checkpoint(source: str | Path, cache: Path, template: Path | None = None) -> Checkpoint:
    """
    Return the checkpoint of a known name (fetched if need be), a .gguf file or a folder.

    :param source: a known name has priority over a path of the same spelling.
    :param template: a file with the chat template, UTF-8, in place of the checkpoint's own.
    :raises FetchError: a known model could not be fetched.
    :raises ModelError: there is no such model, or it cannot be read.
    """
    known = str(source) in KNOWN_MODELS
    try:
        path = fetch(str(source), cache) if known else Path(source).expanduser()
        with missing_package(str(source), ModelError):
            checkpoint = _open_path(path)
    except (OSError, RuntimeError, ValueError) as error:  # too long, no such user, a NUL
        raise ModelError(f'the model {shorten(str(source))} cannot be opened: '
                         f'{shorten(str(error))}') from error
    if template:
        settings = replace(checkpoint.tokenizer.settings, chat_template=required_text(
            template, 'the chat template', ModelError))
        checkpoint.tokenizer = replace(checkpoint.tokenizer, settings=settings)
    return checkpoint


def _open_path(path: Path) -> Checkpoint:
    """Return the checkpoint at a path; only the reader that it needs is imported."""
    if path.is_dir():
        from tinyllama_ros.workbench.checkpoints.safetensors_checkpoint import (
            SafetensorsCheckpoint,
        )
        return SafetensorsCheckpoint(path)
    if path.is_file():
        from tinyllama_ros.workbench.checkpoints.gguf_checkpoint import GgufCheckpoint
        return GgufCheckpoint(path)
    raise ModelError(f'there is no model {str(path)!r}; give a known name '
                     f'({", ".join(KNOWN_MODELS)}), the path of a .gguf file, or a Hugging Face '
                     'folder with config.json and safetensors')
