"""Defines the common interface of checkpoints, and checks names and shapes of their weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.architecture import Architecture
from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.engine.mapped_file import MappedFile
from tinyllama_ros.errors import ModelError


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer in the form in which the artifact holds it."""

    settings: TokenizerSettings
    content: bytes


class Checkpoint(Protocol):
    """Reads weights by name, one at a time, so that a build does not hold all in memory."""

    architecture: Architecture
    tokenizer: TokenizerFile
    tied_gain: NDArray[np.float32] | None = None
    """
    Factors (hidden,) by which the head's rows give the embedding's, if smoothing untied them.

    A checkpoint that wraps another one passes its factors on.
    """

    def tensor(self, name: str) -> NDArray[np.float32]:
        """
        Return a fresh float32 copy of one weight; names and shapes as Architecture.weight_shapes.

        Rows of q_proj and k_proj are in the order of the Hugging Face checkpoints: RoPE rotates
        element i with element i + head_dim / 2.

        :raises ModelError: names the weight that is missing, cut short or of another shape.
        """


def architecture_of(path: Path, **numbers: Any) -> Architecture:
    """Return an architecture; ModelError names the file whose numbers are invalid."""
    try:
        return Architecture(**numbers)
    except ModelError as error:
        raise ModelError(f'{path}: {error}; use a checkpoint of the Llama family') from error


def tokenizer_settings_of(path: Path, **settings: Any) -> TokenizerSettings:
    """Return the settings of a tokenizer; ModelError names the file if they are invalid."""
    try:
        return TokenizerSettings(**settings)
    except ModelError as error:
        raise ModelError(f'{path}: {error}; use another checkpoint') from error


def require_unchanged(file: MappedFile) -> None:
    """Raise ModelError where a file changed, so that what was read of it may be wrong."""
    if not file.is_unchanged():
        raise ModelError(f'{file.path} was altered or cut short while it was read; build again '
                         'when it is whole')


def check_weights(path: Path, architecture: Architecture,
                  stored: Mapping[str, tuple[int, ...]]) -> None:
    """
    Refuse weights that are not exactly those of the architecture.

    :param path: the file or folder of the weights, for the message.
    :param stored: shapes by name. An additional weight is refused as well, because the answers
        would be wrong without it.
    """
    expected = architecture.weight_shapes()
    for name, shape in expected.items():
        if name not in stored:
            raise ModelError(f'{path}: the weight {name} is missing; use a complete checkpoint '
                             'of the Llama family')
        if stored[name] != shape:
            raise ModelError(f'{path}: {name} has shape {stored[name]}; '
                             f'by the other weights it must be {shape}')
    extra = sorted(stored.keys() - expected.keys())
    if extra:
        raise ModelError(f'{path}: the weight {extra[0]} has no place in a Llama decoder '
                         '(no biases, adapters or rope tables); use a plain Llama checkpoint')
