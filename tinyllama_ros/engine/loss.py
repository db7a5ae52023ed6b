"""The loss of logits: the negative log-likelihood of the tokens that followed."""

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.engine.backend import Backend


def losses(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the negative log-likelihood (nats) of each target (n,) by its row of logits."""
    peak = logits.max(axis=1)
    total = np.exp(logits - peak[:, None]).sum(axis=1, dtype=np.float64)
    return np.asarray(np.log(total) + peak - logits[np.arange(len(targets)), targets])


def window_loss(backend: Backend, tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the negative log-likelihood (nats) of every token but the first: (window - 1,)."""
    longest = backend.shape.chunk_sizes[-1]
    parts = []
    for start in range(0, len(tokens) - 1, longest):
        chunk = tokens[start:min(start + longest, len(tokens) - 1)]
        logits = backend.forward(chunk, start, logits=len(chunk))
        parts.append(losses(logits, tokens[start + 1:start + 1 + len(chunk)]))
    return np.concatenate(parts)
