"""Weights as symmetric int8, one scale per output channel."""

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.contract import LOGITS
from tinyllama_ros.errors import ConfigError, ModelError

QMAX = 127
"""Largest magnitude; -128 is not used, so that the codes are symmetric."""
RESIDUAL_STEPS = 2 * QMAX
"""W8A16: steps of the residual in a step; its largest value, half a step, has QMAX of them."""
GROUP = 128
"""Input channels that share an activation scale on the CPU; larger groups are less accurate."""
W8A16_CHOICES = ('none', 'down', 'all')
"""Linears, besides the head, with activations of nearly 16 bits: none, each down_proj, all."""
HEAD = LOGITS
"""Path of the head in a graph, which is the name of its output."""
ROWS_AT_ONCE = 4096
"""Rows that are quantised together; this limits the memory for a wide head."""


def is_w8a16(linear: str, w8a16: str) -> bool:
    """
    Return whether a linear gets activations of nearly 16 bits.

    Rounding the input of down_proj loses most. In decoding, W8A16 costs almost no time, because a
    product of two rows takes as long as one of one row. See docs/quantisation.md.

    :param linear: its path in the graph.
    :param w8a16: out of W8A16_CHOICES; the head is W8A16 in any case.
    """
    return linear == HEAD or w8a16 == 'all' or (w8a16 == 'down' and linear.endswith('/down'))


def check_w8a16(w8a16: str) -> None:
    """Raise a ConfigError that lists the choices if w8a16 is none of them."""
    if w8a16 not in W8A16_CHOICES:
        raise ConfigError(f'w8a16 is {w8a16!r}; it must be one of {", ".join(W8A16_CHOICES)}')


def quantize_weight(weight: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """
    Return a weight as symmetric int8 with one scale per output channel.

    :param weight: (out, in); it is not changed.
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
