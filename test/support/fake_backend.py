"""A backend in NumPy that holds the engine to the contract, and forgets nothing."""

from collections.abc import Callable, Sequence
import zlib

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.engine.backend import BackendShape
from tinyllama_ros.errors import BackendError

LogitsFunction = Callable[[Sequence[int]], NDArray[np.float32]]
"""All tokens that are attended to, to logits (vocabulary,)."""
NEVER = -1


class FakeBackend:
    """
    A cache whose rows are the tokens themselves, and logits that depend on each of them.

    It asserts that slot i gets position i, that no slot is read before it was written, and that
    neither a chunk nor the cache is ever exceeded.
    """

    def __init__(self, kv_length: int, vocab_size: int, logits_of: LogitsFunction | None = None,
                 chunk_sizes: tuple[int, ...] = (1, 4, 8),
                 failure: type[BackendError] = BackendError, pads: bool = True) -> None:
        self.shape = BackendShape(kv_length, vocab_size, chunk_sizes, pads)
        self.rows: list[int] = []
        """The token in each slot that was ever written, stale ones included."""
        self.passes: list[tuple[int, int]] = []
        """Start and length of each forward pass."""
        self.passes_to_failure = NEVER
        """1 makes the next pass fail."""
        self.closed = 0
        self._logits_of = logits_of or hashed(vocab_size)
        self._failure = failure

    def forward(self, tokens: NDArray[np.int64], start: int, *, logits: int = 1
                ) -> NDArray[np.float32]:
        end = start + len(tokens)
        assert tokens.dtype == np.int64 and tokens.ndim == 1
        assert 0 < len(tokens) <= self.shape.chunk_sizes[-1]
        assert 0 <= start <= len(self.rows), f'slots {len(self.rows)}..{start - 1} hold nothing'
        assert end <= self.shape.kv_length, f'{end} rows, {self.shape.kv_length} slots'
        self.passes.append((start, len(tokens)))
        self.rows[start:end] = tokens.tolist()
        self.passes_to_failure -= 1
        if self.passes_to_failure == 0:
            self.rows[start:] = []  # what a broken pass leaves there must not be relied on
            raise self._failure('the device is gone')
        assert 0 <= logits <= len(tokens)
        rows = [self._logits_of(self.rows[:fill]) for fill in range(end - logits + 1, end + 1)]
        return np.stack(rows) if rows else np.zeros((0, self.shape.vocab_size), np.float32)

    def close(self) -> None:
        self.closed += 1


def hashed(vocab_size: int) -> LogitsFunction:
    """Return logits that depend on every token, and look random."""
    def logits_of(context: Sequence[int]) -> NDArray[np.float32]:
        seed = zlib.crc32(np.array(context, np.int64).tobytes())
        return np.random.default_rng(seed).standard_normal(vocab_size, np.float32)
    return logits_of


def repeating(vocab_size: int) -> LogitsFunction:
    """Return logits that mostly prefer what followed the last token before, else as hashed."""
    anything = hashed(vocab_size)

    def logits_of(context: Sequence[int]) -> NDArray[np.float32]:
        logits = anything(context)
        before = [place for place in range(1, len(context)) if context[place - 1] == context[-1]]
        if before and logits[0] < 1:  # five times in six
            logits[context[before[-1]]] += 5
        return logits
    return logits_of
