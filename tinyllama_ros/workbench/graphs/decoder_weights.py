"""Prepares the weights for the graphs: checks that they are finite, and joins related ones."""

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.architecture import EMBEDDING, FINAL_NORM, HEAD, LayerNames
from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.quantization.quantize import QMAX, quantize_weight

Float32Array = NDArray[np.float32]


class DecoderWeights:
    """Reads one weight after another from a checkpoint; every one holds finite numbers only."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.is_tied = checkpoint.architecture.tied_embeddings
        """Whether the embedding is the head, too."""

    def layer(self, number: int) -> 'LayerWeights':
        """Return what reads the weights of one layer."""
        return LayerWeights(self._checkpoint, LayerNames.of(number))

    def final_norm(self) -> Float32Array:
        """Return the weight (hidden,) of the norm before the head."""
        return finite_weight(self._checkpoint, FINAL_NORM)

    def embedding(self) -> Float32Array:
        """Return the table (vocabulary, hidden) that tokens are looked up in."""
        return finite_weight(self._checkpoint, EMBEDDING)

    def head(self) -> Float32Array:
        """Return the matrix (vocabulary, hidden) that makes the logits."""
        return finite_weight(self._checkpoint, EMBEDDING if self.is_tied else HEAD)

    def rounded_embedding(self) -> Float32Array:
        """Return the table of W8A8: where it is tied to the head, from the head's codes."""
        gain = self.tied_gain()
        if gain is None:
            return self.embedding()
        codes, scale = quantize_weight(self.head())
        # As cpu_functions.py does, to the bit
        table: Float32Array = codes * (scale / np.float32(QMAX))[:, None]
        table *= QMAX * gain
        return table

    def tied_gain(self) -> Float32Array | None:
        """Return what makes the head's rows the embedding's (hidden,); None where nothing does."""
        if self.is_tied:
            return np.ones(self._checkpoint.architecture.hidden, np.float32)
        return self._checkpoint.tied_gain


class LayerWeights:
    """Reads the weights of one layer; those of linears with the same input are one matrix."""

    def __init__(self, checkpoint: Checkpoint, names: LayerNames) -> None:
        self._checkpoint, self._names = checkpoint, names

    def input_norm(self) -> Float32Array:
        """Return the weight (hidden,) of the norm before the attention."""
        return self._one(self._names.input_norm)

    def qkv(self) -> Float32Array:
        """Return the matrix ((heads + 2 kv_heads) head_dim, hidden) of queries, keys, values."""
        return np.concatenate([*map(self._one, (self._names.q, self._names.k, self._names.v))])

    def o(self) -> Float32Array:
        """Return the matrix (hidden, heads head_dim) behind the attention."""
        return self._one(self._names.o)

    def post_norm(self) -> Float32Array:
        """Return the weight (hidden,) of the norm before the MLP."""
        return self._one(self._names.post_norm)

    def gate_up(self) -> Float32Array:
        """Return the matrix (2 ffn, hidden) of gate and up."""
        return np.concatenate([*map(self._one, (self._names.gate, self._names.up))])

    def down(self) -> Float32Array:
        """Return the matrix (hidden, ffn) of the MLP's end."""
        return self._one(self._names.down)

    def _one(self, name: str) -> Float32Array:
        return finite_weight(self._checkpoint, name)


def finite_weight(checkpoint: Checkpoint, name: str) -> Float32Array:
    """Return a weight; ModelError where it holds a number that is not finite."""
    weight = checkpoint.tensor(name)
    if not np.isfinite(weight).all():
        raise ModelError(f'{name} holds a number that is not finite; use an undamaged copy of the '
                         'checkpoint')
    return weight
