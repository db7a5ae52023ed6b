"""Chooses the next token from the logits: temperature, top-k, top-p, min-p and penalty."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.errors import ConfigError

Logits = NDArray[np.float32]
Probabilities = NDArray[np.float32]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class SamplingOptions:
    """How the next token is sampled; the defaults do not change the model's distribution."""

    temperature: float = 1.0
    """Divides the logits; 0 selects the likeliest token (greedy)."""
    top_k: int = 0
    """Keep the k likeliest tokens; 0 keeps all."""
    top_p: float = 1.0
    """Keep the fewest likeliest tokens whose probabilities sum up to this; 1 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the likeliest one; 0 keeps all."""
    repetition_penalty: float = 1.0
    """Divides positive logits of tokens in the context, multiplies negative ones; 1 is off."""
    seed: int = -1
    """Seed of the random numbers, 0 or more; -1 means a new seed for each sampler."""

    def __post_init__(self) -> None:
        for name, low, high in (('temperature', 0, 10), ('top_k', 0, math.inf), ('top_p', 0, 1),
                                ('min_p', 0, 1), ('repetition_penalty', 1, 10),
                                ('seed', -1, math.inf)):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ConfigError(f'{name} is {value}; it must be in {low}..{high}')


class LogitsProcessor(Protocol):
    """Returns changed logits (vocabulary,); it does not change its argument."""

    def __call__(self, logits: Logits, context: Sequence[int]) -> Logits:
        """Return the logits for the next token; `context` holds the tokens before it."""


class Sampler:
    """
    Samples tokens by the options, with its own random numbers.

    Processors change the logits, softmax with the temperature turns them into probabilities,
    filters remove unlikely tokens, and one of the remaining tokens is drawn at random.
    """

    def __init__(self, options: SamplingOptions, processors: Sequence[LogitsProcessor] = ()
                 ) -> None:
        """
        Seed the random numbers.

        :param processors: applied in their order, after those that the options ask for.
        """
        self._options = options
        self._processors = [*_processors(options), *processors]
        self._filters = _filters(options)
        self._random = np.random.default_rng(None if options.seed < 0 else options.seed)

    def sample(self, logits: Logits, context: Sequence[int]) -> int:
        """
        Return a token.

        :param logits: (vocabulary,); left as they are.
        :param context: the tokens before it.
        """
        for processor in self._processors:
            logits = processor(logits, context)
        if self._options.temperature == 0:
            return int(logits.argmax())
        probabilities = softmax(logits, self._options.temperature)
        tokens = np.arange(len(probabilities))
        for keep in self._filters:
            kept = keep(probabilities)
            tokens, probabilities = tokens[kept], probabilities[kept]
        total = probabilities.cumsum(dtype=np.float64)
        return int(tokens[np.searchsorted(total, self._random.random() * total[-1], 'right')])


def _processors(options: SamplingOptions) -> list[LogitsProcessor]:
    """Return the processors that the options ask for."""
    penalty = options.repetition_penalty
    return [partial(penalize, penalty=penalty)] if penalty != 1 else []


def _filters(options: SamplingOptions) -> list[Callable[[Probabilities], Indices]]:
    """Return the filters that the options ask for, in the order in which they apply."""
    filters: list[Callable[[Probabilities], Indices]] = []
    if options.top_k:
        filters.append(partial(keep_top_k, top_k=options.top_k))
    if options.min_p:
        filters.append(partial(keep_min_p, min_p=options.min_p))
    if options.top_p < 1:
        filters.append(partial(keep_top_p, top_p=options.top_p))
    return filters


def penalize(logits: Logits, context: Sequence[int], penalty: float) -> Logits:
    """
    Return logits in which every token of the context is less likely.

    Source: CTRL, arXiv 1909.05858, section 4.1, and by the sign of the logit, as is usual.
    """
    seen = np.unique(np.asarray(context, np.int64))
    penalized: Logits = logits.copy()
    values = logits[seen]
    penalized[seen] = np.where(values > 0, values / penalty, values * penalty)
    return penalized


def softmax(logits: Logits, temperature: float) -> Probabilities:
    """Return probabilities (vocabulary,) that add up to 1."""
    divisor = np.float32(max(temperature, 1e-6))  # a smaller divisor overflows float32
    weights: Probabilities = np.exp((logits - logits.max()) / divisor)
    weights /= weights.sum(dtype=np.float64)
    return weights


def keep_top_k(probabilities: Probabilities, top_k: int) -> Indices:
    """Return the indices of the k largest probabilities."""
    if top_k >= len(probabilities):
        return np.arange(len(probabilities))
    return np.argpartition(probabilities, -top_k)[-top_k:]


def keep_min_p(probabilities: Probabilities, min_p: float) -> Indices:
    """
    Return the indices of probabilities that are at least min_p times the largest one.

    Source: arXiv 2407.01082, section 3.
    """
    return np.flatnonzero(probabilities >= min_p * probabilities.max())


def keep_top_p(probabilities: Probabilities, top_p: float) -> Indices:
    """
    Return the indices of the fewest probabilities that add up to top_p of their sum.

    Source: nucleus sampling, arXiv 1904.09751, section 3.1.
    """
    total = probabilities.sum(dtype=np.float64)
    # Tokens below this bound sum up to less than 1 - top_p, so they need no sorting
    candidates = np.flatnonzero(probabilities >= (1 - top_p) * total / len(probabilities))
    order = candidates[np.argsort(-probabilities[candidates])]
    cumulated = probabilities[order].cumsum(dtype=np.float64)
    return order[:int(np.searchsorted(cumulated, top_p * total)) + 1]
