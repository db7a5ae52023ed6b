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
from tinyllama_ros.engine.drafting import Drafter
from tinyllama_ros.engine.sampling import Sampler


class Engine:
    """
    One backend, and the cache that lies in it.

    Drafted tokens are verified beyond the fill, where nothing counts them: each enters the cache
    when it was drawn and is appended, and needs no pass then.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.cache = Cache(backend.kv_length)
        self._logits: NDArray[np.float32] | None = None  # a row for each token of the draft, + 1
        self._draft: list[int] = []  # tokens of the last pass that nobody had drawn yet
        self._accepted = 0

    def read(self, tokens: Sequence[int]) -> Iterator[int]:
        """
        Make the cache hold exactly these tokens, reading only those that it does not hold.

        At least the last token is read, for its logits. Yields the number of tokens read, once
        before the first pass (0) and after each.

        :param tokens: at least one, at most as many as the cache has slots.
        """
        assert 0 < len(tokens) <= self.cache.capacity, f'{len(tokens)} tokens'
        kept = min(self.cache.shared_prefix(tokens), len(tokens) - 1)
        self.rewind(kept)
        yield 0
        longest = self._backend.chunk_sizes[-1]
        for start in range(kept, len(tokens), longest):
            self._forward(tokens[start:start + longest])
            yield self.cache.fill - kept

    def draw(self, sampler: Sampler) -> int:
        """Return the token that a sampler draws to follow the cache; it is not yet read."""
        assert self._logits is not None, 'nothing was read yet'
        return sampler.draw(self._logits[self._accepted], self.cache.tokens)

    def append(self, token: int, drafter: Drafter | None = None, at_most: int = 0) -> None:
        """
        Count one more token, read with what is drafted to follow it; the cache must have room.

        :param at_most: tokens that may be drafted.
        """
        if self._draft[self._accepted:self._accepted + 1] == [token]:
            self._accepted += 1
            self.cache.append([token])
            return
        draft: list[int] = []
        if drafter:
            drafter.judge(len(self._draft), self._accepted)
            at_most = min(at_most, self._backend.chunk_sizes[-1] - 1, self.cache.room - 1)
            draft = drafter.draft([*self.cache.tokens, token], at_most)
        self._forward([token], draft)

    def rewind(self, fill: int) -> None:
        """Take back the newest tokens, down to a fill; something must be read before a draw."""
        self.cache.rewind(fill)
        self._draft, self._accepted = [], 0

    def clear(self) -> None:
        """Forget every token."""
        self.rewind(0)

    def close(self) -> None:
        """Free the backend."""
        self._backend.close()

    def _forward(self, tokens: Sequence[int], draft: Sequence[int] = ()) -> None:
        self._draft, self._accepted = [], 0  # also where the pass fails
        self._logits = self._backend.forward(np.asarray([*tokens, *draft], np.int64),
                                             self.cache.fill, all_logits=bool(draft))
        self.cache.append(tokens)
        self._draft = list(draft)
