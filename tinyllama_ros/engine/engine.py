"""
Token ids in, token ids out: reads tokens into the cache and draws the next ones.

Knows nothing of text, messages or ROS. Every generator yields between two forward passes, so
whoever iterates may stop there.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.engine.backend import Backend
from tinyllama_ros.engine.cache import Cache
from tinyllama_ros.engine.sampling import Sampler


class Engine:
    """One backend, and the cache that lies in it."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.cache = Cache(backend.kv_length)
        self._logits: NDArray[np.float32] | None = None

    def read(self, tokens: Sequence[int]) -> Iterator[int]:
        """
        Make the cache hold exactly these tokens, reading only those that it does not hold.

        At least the last token is read, for its logits. Yields the number of tokens read, once
        before the first pass (0) and after each.

        :param tokens: at least one, at most as many as the cache has slots.
        """
        assert 0 < len(tokens) <= self.cache.capacity, f'{len(tokens)} tokens'
        kept = min(self.cache.shared_prefix(tokens), len(tokens) - 1)
        self.cache.rewind(kept)
        yield 0
        longest = self._backend.chunk_sizes[-1]
        for start in range(kept, len(tokens), longest):
            self._forward(tokens[start:start + longest])
            yield self.cache.fill - kept

    def draw(self, sampler: Sampler) -> int:
        """Return the token that a sampler draws to follow the cache; it is not yet read."""
        assert self._logits is not None, 'nothing was read yet'
        return sampler.draw(self._logits, self.cache.tokens)

    def append(self, token: int) -> None:
        """Read one more token; the cache must have room."""
        self._forward([token])

    def clear(self) -> None:
        """Forget every token."""
        self.cache.rewind(0)

    def close(self) -> None:
        """Free the backend."""
        self._backend.close()

    def _forward(self, tokens: Sequence[int]) -> None:
        logits = self._backend.forward(np.asarray(tokens, np.int64), self.cache.fill)
        self.cache.append(tokens)
        self._logits = logits[-1]
