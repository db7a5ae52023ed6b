"""Prepares the weights for the graphs: checks that they are finite, and joins related ones."""

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.architecture import EMBEDDING, HEAD
from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.quantization.quantize import QMAX, quantize_weight

Float32Array = NDArray[np.float32]


class DecoderWeights:
    """Reads weights from a checkpoint; every one holds finite numbers only."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.is_tied = checkpoint.architecture.tied_embeddings
        """Whether the embedding is also the head."""

    def read(self, *names: str) -> Float32Array:
        """
        Return a weight, or matrices (out, in) of linears with the same input as one.

        :raises ModelError: one holds a number that is not finite.
        """
        weights = []
        for name in names:
            weights.append(self._checkpoint.tensor(name))
            if not np.isfinite(weights[-1]).all():
                raise ModelError(f'{name} holds a number that is not finite; use an undamaged '
                                 'copy of the checkpoint')
        return weights[0] if len(weights) == 1 else np.concatenate(weights)

    def embedding(self) -> Float32Array:
        """Return the table (vocabulary, hidden) that tokens are looked up in."""
        return self.read(EMBEDDING)

    def head(self) -> Float32Array:
        """Return the matrix (vocabulary, hidden) that makes the logits."""
        return self.read(EMBEDDING if self.is_tied else HEAD)

    def rounded_embedding(self) -> Float32Array:
        """Return the embedding table of W8A8; if tied to the head, made from the head's codes."""
        gain = self.tied_gain()
        if gain is None:
            return self.embedding()
        codes, scale = quantize_weight(self.head())
        # As cpu_functions.py does, to the bit
        table: Float32Array = codes * (scale / np.float32(QMAX))[:, None]
        table *= QMAX * gain
        return table

    def tied_gain(self) -> Float32Array | None:
        """Return factors (hidden,) from the head's rows to the embedding's; None if not tied."""
        if self.is_tied:
            return np.ones(self._checkpoint.architecture.hidden, np.float32)
        return self._checkpoint.tied_gain
