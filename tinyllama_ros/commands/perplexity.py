"""Measures how well an artifact predicts a text, with the graph that will run."""

from collections.abc import Iterator
from dataclasses import dataclass
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.disk import required_text
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.chat.tokenizer import open_tokenizer
from tinyllama_ros.engine.backend import Backend
from tinyllama_ros.engine.loss import window_loss
from tinyllama_ros.errors import ConfigError


@dataclass(frozen=True)
class Loss:
    """Negative log-likelihoods (nats) of the tokens of some windows."""

    of_positions: NDArray[np.float64]
    """(windows, window - 1): position p of a window predicts its token p + 1."""

    @property
    def mean(self) -> float:
        """Mean over all predicted tokens, in nats."""
        return float(self.of_positions.mean())

    @property
    def perplexity(self) -> float:
        """Exponential of the mean."""
        return math.exp(self.mean)


def text_windows(artifact: Artifact, path: Path, window: int, windows: int | None
                 ) -> list[NDArray[np.int64]]:
    """
    Return consecutive windows of a text's tokens; a rest shorter than a window is left out.

    :param windows: maximum number; None means all.
    :raises ConfigError: the text cannot be read, or has no whole window; the numbers are wrong.
    """
    capacity = artifact.manifest.kv_length
    if not 2 <= window <= capacity:
        raise ConfigError(f'window is {window}; it must be in 2..{capacity} (the slots of the '
                          'cache)')
    if windows is not None and windows < 1:
        raise ConfigError(f'windows is {windows}; it must be at least 1')
    text = required_text(path, 'the text', ConfigError)
    tokens = np.array(open_tokenizer(artifact).encode(text), np.int64)
    whole = len(tokens) // window
    if not whole:
        raise ConfigError(f'{path} has {len(tokens)} tokens, which is less than one window of '
                          f'{window}; give a longer text or a smaller --window')
    return list(tokens[:whole * window].reshape(whole, window)[:windows])


def measure_loss(backend: Backend, windows: list[NDArray[np.int64]]) -> Iterator[Loss]:
    """Yield the loss so far after each window; each starts with an empty cache."""
    losses: list[NDArray[np.float64]] = []
    for window in windows:
        losses.append(window_loss(backend, window))
        yield Loss(np.stack(losses))


