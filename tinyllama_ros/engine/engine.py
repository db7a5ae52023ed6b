"""
Token ids in, token ids out: reads tokens into the cache and draws the next ones.

Knows nothing of text, messages or ROS. Every generator yields between two forward passes, so
whoever iterates may stop there.
"""

from collections.abc import Callable, Iterator, Sequence
import math

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.engine.backend import Backend
from tinyllama_ros.engine.cache import Cache
from tinyllama_ros.engine.drafting import Drafter
from tinyllama_ros.engine.sampling import Sampler
from tinyllama_ros.errors import BackendError, BackendLost


class Engine:
    """
    One backend, and the cache that lies in it.

    Drafted tokens are verified beyond the fill, where nothing counts them: each enters the cache
    when it was drawn and is appended, and needs no pass then.
    """

    def __init__(self, backend: Backend, open_anew: Callable[[], Backend] | None = None) -> None:
        """
        Own a backend.

        :param open_anew: returns another one like it, once this one is closed; without it a
            backend that is lost stays lost.
        """
        self.cache = Cache(backend.kv_length)
        self.is_broken = False
        """The last forward pass failed."""
        self._backend: Backend | None = backend
        self._chunk = backend.chunk_sizes[-1]
        self._pads = backend.pads
        self._open_anew = open_anew
        self._logits: NDArray[np.float32] | None = None  # a row for each token of the draft, + 1
        self._draft: list[int] = []  # tokens of the last pass that nobody had drawn yet
        self._accepted = 0

    def prefill(self, tokens: Sequence[int]) -> Iterator[int]:
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
        count = math.ceil((len(tokens) - kept) / self._chunk)
        for index in range(1, count + 1):
            # Of as many tokens each where none is padded: every pass reads all the weights
            read = index * self._chunk if self._pads else index * (len(tokens) - kept) // count
            self._forward(tokens[self.cache.fill:kept + read], logits=int(index == count))
            yield self.cache.fill - kept

    def sample(self, sampler: Sampler) -> int:
        """Return the token that a sampler draws to follow the cache; it is not yet read."""
        assert self._logits is not None, 'nothing was read yet'
        return sampler.sample(self._logits[self._accepted], self.cache.tokens)

    def decode(self, token: int, drafter: Drafter | None = None, at_most: int = 0) -> None:
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
            drafter.record(len(self._draft), self._accepted)
            at_most = min(at_most, self._chunk - 1, self.cache.room - 1)
            draft = drafter.draft([*self.cache.tokens, token], at_most)
        self._forward([token], draft, logits=1 + len(draft))

    def rewind(self, fill: int) -> None:
        """Take back the newest tokens, down to a fill; something must be read before a draw."""
        self.cache.rewind(fill)
        self._draft, self._accepted = [], 0

    def clear(self) -> None:
        """Forget every token."""
        self.rewind(0)

    def reopen(self) -> None:
        """
        Put a new backend in the place of this one; nothing is in the cache then.

        :raises BackendError: there is none; every pass is BackendLost until this succeeds.
        """
        if self._open_anew is None:
            raise BackendError('the backend cannot be opened again here')
        self.clear()
        self.close()  # first: the device need not have room for two
        self._backend = self._open_anew()
        self.is_broken = False

    def close(self) -> None:
        """Free the backend."""
        if self._backend is not None:
            self._backend.close()
        self._backend, self.is_broken = None, True

    def _forward(self, tokens: Sequence[int], draft: Sequence[int] = (), *, logits: int) -> None:
        self._draft, self._accepted = [], 0  # also where the pass fails
        if self._backend is None:
            raise BackendLost('no model is loaded since the last one was lost')
        self.is_broken = True  # should it fail
        self._logits = self._backend.forward(np.asarray([*tokens, *draft], np.int64),
                                             self.cache.fill, logits=logits)
        self.is_broken = False
        self.cache.append(tokens)
        self._draft = list(draft)
