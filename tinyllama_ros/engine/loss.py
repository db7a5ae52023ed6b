"""How badly logits predict what followed."""

import numpy as np
from numpy.typing import NDArray


def losses(logits: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the negative log-likelihood (nats) of each target (n,) by its row of logits."""
    peak = logits.max(axis=1)
    total = np.exp(logits - peak[:, None]).sum(axis=1, dtype=np.float64)
    return np.asarray(np.log(total) + peak - logits[np.arange(len(targets)), targets])
