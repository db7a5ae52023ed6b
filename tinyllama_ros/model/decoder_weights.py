"""The weights of a decoder as the graphs take them: finite, and stacked where they share input."""

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.errors import ModelError
from tinyllama_ros.model.checkpoint import Checkpoint


class DecoderWeights:
    """Reads one weight after another from a checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint

    def one(self, name: str) -> NDArray[np.float32]:
        """Return a weight; ModelError where it holds a number that is not finite."""
        weight = self._checkpoint.tensor(f'{name}.weight')
        if not np.isfinite(weight).all():
            raise ModelError(f'{name}.weight holds a number that is not finite; the checkpoint is '
                             'damaged, fetch it again')
        return weight

    def stack(self, prefix: str, names: tuple[str, ...]) -> NDArray[np.float32]:
        """Return the weights of linears with the same input as one matrix (all outputs, in)."""
        return np.concatenate([self.one(f'{prefix}.{name}') for name in names])

    def head(self) -> NDArray[np.float32]:
        """Return the matrix (vocabulary, hidden) that makes the logits."""
        is_tied = self._checkpoint.architecture.tied_embeddings
        return self.one('model.embed_tokens' if is_tied else 'lm_head')
