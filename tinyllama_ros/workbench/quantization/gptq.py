"""
Rounds weights to int8 with GPTQ: later input channels correct the errors of earlier ones.

To the nearest, each weight is off by up to half a step, whatever the others are. But inputs are
correlated: when channels rise and fall together, an error in one can be taken back in another.
With E the errors (out, in) and H the inputs' second moments, the outputs are off by tr(E H E^T).
Let H = R R^T with R upper triangular; that is the sum of the squares of E R, and column c of it is

    R_cc (e_c + sum_(b < c) e_b R_bc / R_cc)

so the channels are rounded one after the other, each as near as can be to its weights less that
sum. Those with large values go first, while there are many left to make up for their errors.

Sources: GPTQ, arXiv 2210.17323, for the method, the damping and the order (``act_order`` of its
code); QuIP, arXiv 2307.13304, section 4, for this form of it, which needs no inverse.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.quantization.quantize import QMAX, quantize_weight, ROWS_AT_ONCE
from tinyllama_ros.workbench.quantization.smooth import groups, SMALLEST, SmoothedCheckpoint

Float32Array = NDArray[np.float32]
DAMPING = 0.3
"""Added to the diagonal of H, in parts of its mean: H is of few tokens; see quantisation.md."""
BLOCK = 64
"""Channels whose errors are handed on to all later ones at once, by one product of matrices."""


class RoundedCheckpoint(Checkpoint):
    """
    A smoothed checkpoint in which the weights of linears are multiples of a step per output.

    quantize_weight finds that step and those multiples again, whatever a row is multiplied by.

    What rounds the linears of one input is kept until a weight with another input is read, so read
    q, k and v one after the other, and gate and up.
    """

    def __init__(self, smoothed: SmoothedCheckpoint, inputs: Callable[[str], Float32Array]
                 ) -> None:
        """
        Round what is read from now on.

        :param inputs: those of some tokens of a linear by its path in the graph, before they were
            smoothed: (tokens, in).
        """
        self.architecture, self.tokenizer = smoothed.architecture, smoothed.tokenizer
        self.tied_gain = smoothed.tied_gain
        self._smoothed, self._inputs = smoothed, inputs
        self._paths = {name: group.path for group in groups(smoothed.architecture)
                       for name in group.linears}
        self._last: tuple[str, Rounding] | None = None

    def tensor(self, name: str) -> Float32Array:
        """Return a fresh float32 copy of one weight; see Checkpoint."""
        weight = self._smoothed.tensor(name)
        if name not in self._paths or not np.isfinite(weight).all():
            return weight  # who reads it says what is not finite
        return self._rounding(name).apply(weight)

    def _rounding(self, name: str) -> 'Rounding':
        """Return how a linear's weight is rounded, made once for those with the same input."""
        path = self._paths[name]
        if not self._last or self._last[0] != path:
            self._last = None  # frees the one before first
            inputs = self._inputs(path) / self._smoothed.column_scales(name)
            self._last = path, Rounding(inputs)
        return self._last[1]


class Rounding:
    """How to round the weights of linears with the same input."""

    def __init__(self, inputs: Float32Array) -> None:
        """
        Find the order of the channels, and what of an error each later one takes back.

        :param inputs: of some tokens (tokens, in).
        """
        channels = inputs.shape[1]
        exact = inputs.astype(np.float64)
        moments = exact.T @ exact
        moments.flat[::channels + 1] += max(DAMPING * moments.trace() / channels, SMALLEST)
        self._order = np.argsort(-moments.diagonal(), kind='stable')
        backwards = self._order[::-1]
        upper = np.linalg.cholesky(moments[np.ix_(backwards, backwards)])[::-1, ::-1]
        self._shares = (upper / upper.diagonal()).astype(np.float32)

    def apply(self, weight: Float32Array) -> Float32Array:
        """
        Return a weight (out, in) of which every number is a multiple in -127..127 of a step.

        The steps are those of quantize_weight, and the largest of each row stays where it is.
        """
        rounded = np.empty_like(weight)
        for start in range(0, len(weight), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            step = quantize_weight(weight[rows])[1]
            whole = weight[rows] / np.where(step > 0, step, np.float32(1))[:, None]
            codes = self._codes(np.ascontiguousarray(whole.T[self._order]))
            rounded[rows, self._order] = (codes * step).T
        return rounded

    def _codes(self, exact: Float32Array) -> Float32Array:
        """Return whole numbers for weights (in, out) in steps, their channels in our order."""
        codes, errors = np.empty_like(exact), np.empty_like(exact)
        peaks = np.abs(exact).argmax(axis=0)
        for start in range(0, len(exact), BLOCK):
            block = slice(start, start + BLOCK)
            aims = exact[block] - self._shares[:start, block].T @ errors[:start]
            for channel in range(start, start + len(aims)):
                aim = aims[channel - start]
                aim -= self._shares[start:channel, channel] @ errors[start:channel]
                aim = np.where(peaks == channel, exact[channel], aim)
                codes[channel] = np.clip(np.rint(aim), -QMAX, QMAX)
                errors[channel] = codes[channel] - exact[channel]
        return codes
