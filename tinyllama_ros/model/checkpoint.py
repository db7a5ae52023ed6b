"""What the builder asks of a checkpoint, whatever file it lies in."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.model.architecture import Architecture
from tinyllama_ros.model.tokenizer_settings import TokenizerSettings


@dataclass(frozen=True)
class TokenizerFile:
    """A tokenizer as the artifact will hold it."""

    settings: TokenizerSettings
    content: bytes


class Checkpoint(Protocol):
    """Weights by name, one at a time, so that a build never holds them all."""

    architecture: Architecture
    tokenizer: TokenizerFile

    def tensor(self, name: str) -> NDArray[np.float32]:
        """
        Return a fresh float32 copy of one weight; names and shapes as Architecture.weight_shapes.

        Rows of q_proj and k_proj are in the order of the Hugging Face checkpoints: RoPE rotates
        element i with element i + head_dim / 2.

        :raises ModelError: names the weight that is missing, cut short or of another shape.
        """
