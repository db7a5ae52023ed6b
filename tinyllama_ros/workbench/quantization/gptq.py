"""
Rounds weights to int8 with GPTQ: later input channels correct the errors of earlier ones.

Rounding to the nearest step gives each weight an error of up to half a step. But the input
channels are correlated, so the error of one channel can be compensated in others. With the errors
E (out, in) and the second moments H of the inputs, the squared error of the outputs is
tr(E H E^T). Let H = R R^T with R upper triangular; then it is the sum of the squares of E R, and
column c of E R is

    R_cc (e_c + sum_(b < c) e_b R_bc / R_cc)

So the channels are rounded one after another, each to the steps nearest to its weights minus that
sum. Channels with large inputs come first, because later channels then compensate their errors.

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
"""Added to the diagonal of H, times its mean, as H is from few tokens; see quantisation.md."""
BLOCK = 64
"""Channels whose errors are passed on to all later ones by one matrix product."""


class RoundedCheckpoint(Checkpoint):
    """
    A smoothed checkpoint in which weights of linears are multiples of a step per output channel.

    quantize_weight finds the same step and multiples, also after a row was scaled.

    The Rounding of an input is kept until a weight with another input is read, so read q, k and v
    one after another, and gate and up.
    """

    def __init__(self, smoothed: SmoothedCheckpoint, inputs: Callable[[str], Float32Array]
                 ) -> None:
        """
        Wrap a checkpoint.

        :param inputs: returns the inputs (tokens, in) of some tokens for a linear, by its path in
            the graph, before smoothing.
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
            return weight  # the reader reports what is not finite
        return self._rounding(name).apply(weight)

    def _rounding(self, name: str) -> 'Rounding':
        """Return the Rounding of a linear, the same object for linears with the same input."""
        path = self._paths[name]
        if not self._last or self._last[0] != path:
            self._last = None  # frees its memory first
            inputs = self._inputs(path) / self._smoothed.column_scales(name)
            self._last = path, Rounding(inputs)
        return self._last[1]


class Rounding:
    """Rounds the weights of linears with the same input."""

    def __init__(self, inputs: Float32Array) -> None:
        """
        Compute the order of the channels, and how much of each error a later one compensates.

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

        The steps are those of quantize_weight; the largest weight of each row is not changed.
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
        """Return the codes of weights (in, out) in units of steps, channels in rounding order."""
        codes, errors = np.empty_like(exact), np.empty_like(exact)
        peaks = np.abs(exact).argmax(axis=0)
        for start in range(0, len(exact), BLOCK):
            block = slice(start, start + BLOCK)
            targets = exact[block] - self._shares[:start, block].T @ errors[:start]
            for channel in range(start, start + len(targets)):
                target = targets[channel - start]
                target -= self._shares[start:channel, channel] @ errors[start:channel]
                target = np.where(peaks == channel, exact[channel], target)
                codes[channel] = np.clip(np.rint(target), -QMAX, QMAX)
                errors[channel] = codes[channel] - exact[channel]
        return codes
