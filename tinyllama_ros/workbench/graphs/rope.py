"""Makes the tables of cosines and sines of rotary position embedding (RoPE)."""

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.architecture import Architecture


def rope_tables(architecture: Architecture, length: int
                ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """
    Return cosine and sine (length, head_dim / 2) of every position's rotation angles.

    Source: RoFormer, arXiv 2104.09864, section 3.2.2.
    """
    half = np.arange(0, architecture.head_dim, 2, dtype=np.float64) / architecture.head_dim
    angles = np.outer(np.arange(length), architecture.rope_base ** -half)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
