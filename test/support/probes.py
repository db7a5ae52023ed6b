"""Checkpoints with something altered, and what flows through them by the oracle."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from support import numpy_llama
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint

Action = Callable[[NDArray[np.float32]], object]


class ChangedCheckpoint(Checkpoint):
    """A checkpoint with an action done to some weights, each time they are read."""

    def __init__(self, checkpoint: Checkpoint, actions: Mapping[str, Action]) -> None:
        self._checkpoint, self._actions = checkpoint, actions
        self.architecture, self.tokenizer = checkpoint.architecture, checkpoint.tokenizer
        self.tied_gain = checkpoint.tied_gain

    def tensor(self, name: str) -> NDArray[np.float32]:
        weight = self._checkpoint.tensor(name)
        if name in self._actions:
            self._actions[name](weight)
        return weight


def set_nan(weight: NDArray[np.float32]) -> None:
    weight.flat[1] = np.nan


def round_to_half(weight: NDArray[np.float32]) -> None:
    """Make embeddings that the oracle, which halves them when it is watched, leaves alone."""
    weight[...] = weight.astype(np.float16)


def oracle_inputs(checkpoint: Checkpoint, tokens: Sequence[int]) -> dict[str, numpy_llama.Array]:
    """Return the input (tokens, in) of every linear, by its path in the graph."""
    seen: list[numpy_llama.Array] = []

    def watch(x: numpy_llama.Array, weight: numpy_llama.Array) -> numpy_llama.Array:
        seen.append(x)
        return numpy_llama.exact(x, weight)
    numpy_llama.logits(checkpoint, tokens, watch)
    parts = ('attention/qkv',) * 3 + ('attention/o',) + ('mlp/gate_up',) * 2 + ('mlp/down',)
    paths = [f'layer.{layer}/{part}' for layer in range(checkpoint.architecture.layers)
             for part in parts]
    return dict(zip([*paths, 'logits'], seen, strict=True))


def oracle_losses(checkpoint: Checkpoint, tokens: Sequence[int]) -> numpy_llama.Array:
    """Return the negative log-likelihood (nats) of every token but the first."""
    logits = numpy_llama.logits(checkpoint, tokens)[:-1]
    total = np.log(np.exp(logits - logits.max(1, keepdims=True)).sum(1)) + logits.max(1)
    return total - logits[np.arange(len(logits)), tokens[1:]]
