"""The weights of a decoder as the graphs take them: finite, and stacked where they share input."""

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.quantization.quantize import QMAX, quantize_weight


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

    def embedding(self) -> NDArray[np.float32]:
        """Return the table (vocabulary, hidden) that tokens are looked up in."""
        return self.one('model.embed_tokens')

    def head(self) -> NDArray[np.float32]:
        """Return the matrix (vocabulary, hidden) that makes the logits."""
        is_tied = self._checkpoint.architecture.tied_embeddings
        return self.embedding() if is_tied else self.one('lm_head')

    def rounded_embedding(self) -> NDArray[np.float32]:
        """Return the table of W8A8: as the head's codes have it where they are tied."""
        gain = self.tied_gain()
        if gain is None:
            return self.embedding()
        codes, scale = quantize_weight(self.head())
        # As cpu_functions.py does, to the bit
        table: NDArray[np.float32] = codes * (scale / np.float32(QMAX))[:, None]
        table *= QMAX * gain
        return table

    def tied_gain(self) -> NDArray[np.float32] | None:
        """Return what makes the head's rows the embedding's (hidden,); None where nothing does."""
        architecture = self._checkpoint.architecture
        if architecture.tied_embeddings:
            return np.ones(architecture.hidden, np.float32)
        gain: NDArray[np.float32] | None = getattr(self._checkpoint, 'tied_gain', None)
        return gain
