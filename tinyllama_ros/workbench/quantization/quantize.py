"""Weights as symmetric int8, one scale per output channel."""

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.contract import LOGITS
from tinyllama_ros.errors import ConfigError, ModelError

QMAX = 127
"""Largest magnitude; -128 stays unused, so that the grid is symmetric."""
RESIDUAL_STEPS = 2 * QMAX
"""Fine steps in a coarse one: rounding leaves half a step, and that is cut into QMAX."""
GROUP = 128
"""Input channels of a token that share a scale in the CPU's products; more make them coarser."""
W8A16_CHOICES = ('none', 'down', 'all')
"""Linears whose activations have nearly 16 bits, beside the head: none, every down_proj, all."""
HEAD = LOGITS
"""Path of the head in a graph, as of its output."""
ROWS_AT_ONCE = 4096
"""Rows that are quantised together: bounds the float temporaries of a wide head."""


def is_w8a16(linear: str, w8a16: str) -> bool:
    """
    Return whether a linear gets activations of nearly 16 bits.

    The input of down_proj is the hardest to round. That costs next to nothing where a product of
    two rows takes as long as one of one: in decoding. See docs/quantisation.md.

    :param linear: its path in the graph.
    :param w8a16: out of W8A16_CHOICES; the head is W8A16 in any case.
    """
    return linear == HEAD or w8a16 == 'all' or (w8a16 == 'down' and linear.endswith('/down'))


def check_w8a16(w8a16: str) -> None:
    """Raise a ConfigError that lists what may be W8A16, where it is something else."""
    if w8a16 not in W8A16_CHOICES:
        raise ConfigError(f'w8a16 is {w8a16!r}; it must be one of {", ".join(W8A16_CHOICES)}')


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """
    Return a weight as symmetric int8 with one scale per output channel.

    :param weight: (out, in); left as it is.
    :return: q (out, in) in -127..127, scale (out,); weight is close to q * scale[:, None].
    :raises ModelError: names the first channel that is not finite.

    Source: SmoothQuant, arXiv 2211.10438, section 2.
    """
    quantized = np.empty(weight.shape, np.int8)
    scale = np.empty(weight.shape[0], np.float32)
    for start in range(0, weight.shape[0], ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        scale[rows] = np.abs(weight[rows]).max(axis=1) / np.float32(QMAX)
        if not np.isfinite(scale[rows]).all():
            channel = start + int(np.argmin(np.isfinite(scale[rows])))
            raise ModelError(f'output channel {channel} of a weight {weight.shape} is not finite; '
                             'the checkpoint is damaged, fetch it again')
        divisor = np.where(scale[rows] > 0, scale[rows], np.float32(1))
        quantized[rows] = np.rint(weight[rows] / divisor[:, None])
    return quantized, scale
