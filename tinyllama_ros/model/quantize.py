"""Weights as symmetric int8, one scale per output channel."""

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.errors import ConfigError, ModelError
from tinyllama_ros.model.architecture import Architecture

QMAX = 127
"""Largest magnitude; -128 stays unused, so that the grid is symmetric."""
FINER = 2 * QMAX
"""Fine steps in a coarse one: rounding leaves half a step, and that is cut into QMAX."""
ROWS_AT_ONCE = 4096
"""Rows that are quantised together: bounds the float temporaries of a wide head."""


def fine_layers_of(architecture: Architecture, wanted: int | None) -> int:
    """
    Return in how many layers, from the first, down_proj gets activations of nearly 16 bits.

    Its input is the hardest to round. That costs nothing in decoding, and time in reading a
    prompt; of a part of the layers the first gain most, since what goes wrong there goes through
    all that follow. See docs/quantisation.md.

    :param wanted: None takes them all.
    :raises ConfigError: there are not so many layers.
    """
    if wanted is None:
        return architecture.layers
    if not 0 <= wanted <= architecture.layers:
        raise ConfigError(f'fine_layers is {wanted}; it must be in 0..{architecture.layers} (the '
                          'layers of the model)')
    return wanted


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
