"""
Applies SmoothQuant: scales large activation channels down, and their weights up.

Input channel c of a linear is divided by s[c], and column c of the weight is multiplied by it; in
floating point the result is the same. The division costs nothing, because it is folded into the
operator before: the RMSNorm before q/k/v, gate/up and the head; the rows of up_proj before
down_proj; the rows of v_proj before o_proj, which the query heads of a group share.

Source: SmoothQuant, arXiv 2211.10438, section 4. It sets s[c] to max|x_c|^alpha over
max|w_c|^(1 - alpha) with one alpha for all; here alpha is chosen for each linear by the error
that it predicts, and the scales are then refined by descending along that error.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.architecture import (
    Architecture,
    EMBEDDING,
    FINAL_NORM,
    HEAD as HEAD_WEIGHT,
    LayerNames,
)
from tinyllama_ros.errors import ConfigError
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.progress import track
from tinyllama_ros.workbench.quantization.quantize import HEAD, is_w8a16, QMAX, RESIDUAL_STEPS

Float32Array = NDArray[np.float32]
SMOOTHINGS = ('refined', 'searched', 'none')
ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
STEPS = 100
RATE = 0.03
"""Learning rate for the logarithm of a scale, at the first step."""
SMALLEST = 1e-6
"""Replaces the largest value of a channel that is all zeros."""


@dataclass(frozen=True)
class Group:
    """Linears with the same input, and the weight that their smoothing is folded into."""

    path: str
    """Path of the linear in the graph."""
    linears: tuple[str, ...]
    source: str
    query_groups: int = 1
    """Query heads that share one head of the source; 1 if source and linears share channels."""


def groups(architecture: Architecture) -> Iterator[Group]:
    """Yield every group of a model, in the order of the data flow."""
    for layer in range(architecture.layers):
        names, path = LayerNames.of(layer), f'layer.{layer}'
        yield Group(f'{path}/attention/qkv', (names.q, names.k, names.v), names.input_norm)
        yield Group(f'{path}/attention/o', (names.o,), names.v, architecture.group)
        yield Group(f'{path}/mlp/gate_up', (names.gate, names.up), names.post_norm)
        yield Group(f'{path}/mlp/down', (names.down,), names.up)
    yield Group(HEAD, (HEAD_WEIGHT,), FINAL_NORM)


class SmoothedCheckpoint(Checkpoint):
    """A checkpoint with the scales of some groups folded into its weights."""

    def __init__(self, checkpoint: Checkpoint, scales: Mapping[str, Float32Array]) -> None:
        """
        Fold scales.

        :param scales: by the path of a group: (in,), or (in / query_groups,) for o_proj.
        """
        self.tokenizer = checkpoint.tokenizer
        # The head is scaled and the embedding is not; tied_gain converts between them
        self.architecture = replace(checkpoint.architecture, tied_embeddings=False)
        self._checkpoint = checkpoint
        self._rows: dict[str, Float32Array] = {}
        self._columns: dict[str, Float32Array] = {}
        for group in groups(checkpoint.architecture):
            if group.path in scales:
                scale = scales[group.path]
                self._rows[group.source] = np.float32(1) / scale
                columns = spread(scale, group.query_groups, checkpoint.architecture.head_dim)
                self._columns |= dict.fromkeys(group.linears, columns)
        if checkpoint.architecture.tied_embeddings:
            self.tied_gain = self._rows.get(FINAL_NORM,
                                            np.ones(checkpoint.architecture.hidden, np.float32))

    def tensor(self, name: str) -> Float32Array:
        """Return a fresh float32 copy of one weight; see Checkpoint."""
        weight = head_or(self._checkpoint, name)
        if name in self._rows:
            rows = self._rows[name]
            weight *= rows if weight.ndim == 1 else rows[:, None]
        if name in self._columns:
            weight *= self._columns[name]
        return weight

    def column_scales(self, name: str) -> Float32Array:
        """Return what the columns of a linear's weight were multiplied by: (in,)."""
        return self._columns[name]


def head_or(checkpoint: Checkpoint, name: str) -> Float32Array:
    """Return a weight by name; for a tied head the embedding."""
    if name == HEAD_WEIGHT and checkpoint.architecture.tied_embeddings:
        name = EMBEDDING
    return checkpoint.tensor(name)


def spread(scale: Float32Array, query_groups: int, head_dim: int) -> Float32Array:
    """Return the scales of key/value heads, repeated for the query heads that share each."""
    if query_groups == 1:
        return scale
    return np.repeat(scale.reshape(-1, head_dim), query_groups, axis=0).reshape(-1)


def gather(values: Float32Array, query_groups: int, head_dim: int) -> Float32Array:
    """
    Return inputs (tokens, in) or weights (out, in) as rows of the channels that share a scale.

    The query heads of a group become further rows: (rows * query_groups, in / query_groups).
    """
    if query_groups == 1:
        return values
    heads = values.reshape(len(values), -1, query_groups, head_dim).swapaxes(1, 2)
    return np.ascontiguousarray(heads).reshape(len(values) * query_groups, -1)


class RoundingError:
    """
    The expected error of one linear's outputs by rounding, as a function of its scales.

    Rounding to steps of d adds an error of variance d^2 / 12. The step of a group of a token's
    channels is the largest smoothed activation there over 127 (W8A16: over 127 * 254), that of
    an output channel its largest smoothed weight over 127, and the error of either is multiplied
    by the other. Over all tokens, groups and output channels, with f = 1 (W8A16: 254)::

        E(s) = [sum_g sum_t max_c (x_tc / s_c)^2 / f^2 * sum_oc (w_oc s_c)^2
                + sum_o max_c (w_oc s_c)^2 * sum_tc (x_tc / s_c)^2] / (12 * 127^2)

    where c in the first line is of the group g.
    """

    def __init__(self, inputs: Float32Array, weight: Float32Array, *, is_w8a16: bool = False,
                 group: int = 0) -> None:
        """
        Precompute what the sum needs.

        :param inputs: of some tokens (tokens, in).
        :param weight: (out, in).
        :param is_w8a16: the activations have nearly 16 bits.
        :param group: channels that share a step; 0: all.
        """
        channels = inputs.shape[1]
        self._firsts = np.arange(0, channels, group or channels)
        self._sizes = np.diff(self._firsts, append=channels)
        self._steps = RESIDUAL_STEPS if is_w8a16 else 1
        self._inputs = np.abs(inputs)
        self._weight = np.abs(weight)
        self._input_squares = np.square(self._inputs).sum(axis=0, dtype=np.float64)
        self._weight_squares = np.square(self._weight).sum(axis=0, dtype=np.float64)

    def textbook_scale(self, alpha: float) -> Float32Array:
        """Return SmoothQuant's scales (in,) for one strength, with the geometric mean 1."""
        log_scale = (alpha * np.log(np.maximum(self._inputs.max(axis=0), SMALLEST))
                     - (1 - alpha) * np.log(np.maximum(self._weight.max(axis=0), SMALLEST)))
        return np.asarray(np.exp(log_scale - log_scale.mean()), np.float32)

    def at(self, scale: Float32Array) -> float:
        """Return the error with these scales (in,)."""
        return self._value_and_slope(scale)[0]

    def refined(self, scale: Float32Array) -> Float32Array:
        """Return better scales: the best that Adam (arXiv 1412.6980) finds from there."""
        log_scale = np.log(scale.astype(np.float64))
        mean, square = np.zeros_like(log_scale), np.zeros_like(log_scale)
        best, least = scale, math.inf
        for step in range(STEPS):
            value, slope = self._value_and_slope(np.exp(log_scale).astype(np.float32))
            if value < least:
                best, least = np.exp(log_scale).astype(np.float32), value
            mean = 0.9 * mean + 0.1 * slope
            square = 0.99 * square + 0.01 * slope ** 2
            unbiased = mean / (1 - 0.9 ** (step + 1))
            spread = np.sqrt(square / (1 - 0.99 ** (step + 1))) + 1e-9
            log_scale -= RATE * (1 - step / STEPS) * unbiased / spread
        return best

    def _value_and_slope(self, scale: Float32Array) -> tuple[float, NDArray[np.float64]]:
        """Return the error, and the slope of its logarithm in the logarithm of each scale."""
        smoothed = self._inputs / scale
        peaks = [_peaks(smoothed[:, first:first + size])
                 for first, size in zip(self._firsts, self._sizes, strict=True)]
        input_peak = np.stack([peak for peak, _ in peaks]) / self._steps ** 2
        input_channel = np.stack([channel for _, channel in peaks]) + self._firsts[:, None]
        output_peak, output_channel = _peaks(self._weight * scale)
        input_squares = self._input_squares / scale.astype(np.float64) ** 2
        weight_squares = self._weight_squares * scale.astype(np.float64) ** 2
        input_steps, output_steps = input_peak.sum(axis=1), output_peak.sum()
        inputs, weights = input_squares.sum(), np.add.reduceat(weight_squares, self._firsts)
        value = (input_steps * weights).sum() + output_steps * inputs
        slope = 2 * (np.repeat(input_steps, self._sizes) * weight_squares
                     - output_steps * input_squares)
        channels = len(scale)
        slope -= 2 * np.bincount(input_channel.ravel(), (input_peak * weights[:, None]).ravel(),
                                 channels)
        slope += 2 * inputs * np.bincount(output_channel, output_peak, channels)
        return float(value) / (12 * QMAX ** 2), slope / max(value, SMALLEST)


def _peaks(magnitudes: NDArray[np.floating[Any]]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the square of the largest value of each row, and its index."""
    channel = magnitudes.argmax(axis=1)
    peak = magnitudes[np.arange(len(channel)), channel]
    return peak.astype(np.float64) ** 2, channel


def choose_scale(error: RoundingError, smoothing: str) -> Float32Array:
    """
    Return the scales (in,) of one group.

    :param smoothing: ``refined``; ``searched`` for the best alpha alone; or an alpha.
    """
    if smoothing not in ('searched', 'refined'):
        return error.textbook_scale(float(smoothing))
    best = min((error.textbook_scale(alpha) for alpha in ALPHAS), key=error.at)
    return error.refined(best) if smoothing == 'refined' else best


def check_smoothing(smoothing: str) -> None:
    """Raise a ConfigError that lists the values of smoothing if it is none of them."""
    if smoothing in SMOOTHINGS:
        return
    try:
        if 0 <= float(smoothing) <= 1:
            return
    except ValueError:
        pass
    raise ConfigError(f'smoothing is {smoothing!r}; it must be {", ".join(SMOOTHINGS)}, or one '
                      'alpha for all linears, in 0..1')


def smooth(checkpoint: Checkpoint, inputs: Callable[[str], Float32Array], smoothing: str, *,
           w8a16: str = 'none', group: int = 0) -> SmoothedCheckpoint:
    """
    Return a checkpoint that computes the same and is easier to quantise.

    :param inputs: returns the inputs (tokens, in) of some tokens for a linear, by its path.
    :param smoothing: see choose_scale.
    :param w8a16: out of quantize.W8A16_CHOICES.
    :param group: channels of a token that share a scale where it is W8A8; 0: all.
    """
    scales = {}
    head_dim = checkpoint.architecture.head_dim
    for linears in track(groups(checkpoint.architecture), 'smooth'):
        weight = np.concatenate([head_or(checkpoint, name) for name in linears.linears])
        is_wide = is_w8a16(linears.path, w8a16)
        error = RoundingError(gather(inputs(linears.path), linears.query_groups, head_dim),
                              gather(weight, linears.query_groups, head_dim), is_w8a16=is_wide,
                              group=0 if is_wide else group)
        scales[linears.path] = choose_scale(error, smoothing)
    return SmoothedCheckpoint(checkpoint, scales)
