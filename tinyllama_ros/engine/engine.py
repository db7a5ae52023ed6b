"""
Token ids in, token ids out: prefills the cache with tokens and samples the next ones.

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
from tinyllama_ros.errors import BackendLost


class Engine:
    """
    One backend, and the cache that lies in it.

    Drafted tokens are computed in the pass of the token before them, in slots beyond the fill. One
    that is then sampled needs no pass of its own: `decode` only counts it.
    """

    def __init__(self, open_backend: Callable[[], Backend]) -> None:
        """
        Open a backend and own it.

        :param open_backend: called again to replace a backend that was lost, once that is closed.
        :raises BackendError: it cannot be opened.
        """
        self._open_backend = open_backend
        self._backend: Backend | None = open_backend()
        self._shape = self._backend.shape
        self.cache = Cache(self._shape.kv_length)
        self.is_broken = False
        """The last forward pass failed."""
        self._logits: NDArray[np.float32] | None = None  # a row for each token of the draft, + 1
        self._draft: list[int] = []  # tokens of the last pass that were not sampled before it
        self._accepted = 0

    def prefill(self, tokens: Sequence[int]) -> Iterator[int]:
        """
        Make the cache hold exactly these tokens, computing only those that it does not hold.

        At least the last token is computed, for its logits. Yields the number of tokens that were
        computed, once before the first pass (0) and after each.

        :param tokens: at least one, at most as many as the cache has slots.
        """
        assert 0 < len(tokens) <= self.cache.capacity, f'{len(tokens)} tokens'
        cached = min(self.cache.shared_prefix(tokens), len(tokens) - 1)
        self.rewind(cached)
        yield 0
        longest, missing = self._shape.chunk_sizes[-1], len(tokens) - cached
        passes = math.ceil(missing / longest)
        for index in range(1, passes + 1):
            # Chunks of equal length where none is padded: every pass reads all the weights
            end = index * longest if self._shape.pads else index * missing // passes
            self._forward(tokens[self.cache.fill:cached + end], logits=int(index == passes))
            yield self.cache.fill - cached

    def sample(self, sampler: Sampler) -> int:
        """Return the token that a sampler takes to follow the cache; `decode` adds it there."""
        assert self._logits is not None, 'nothing was prefilled yet'
        return sampler.sample(self._logits[self._accepted], self.cache.tokens)

    def decode(self, token: int, drafter: Drafter | None = None, at_most: int = 0) -> None:
        """
        Put one more token into the cache, which must have room, and compute what follows it.

        One pass computes it together with the tokens that are drafted to follow it, unless an
        earlier pass did.

        :param at_most: tokens that may be drafted.
        """
        if self._draft[self._accepted:self._accepted + 1] == [token]:
            self._accepted += 1
            self.cache.append([token])
            return
        draft: list[int] = []
        if drafter:
            drafter.record(len(self._draft), self._accepted)
            at_most = min(at_most, self._shape.chunk_sizes[-1] - 1, self.cache.room - 1)
            draft = drafter.draft([*self.cache.tokens, token], at_most)
        self._forward([token], draft, logits=1 + len(draft))

    def rewind(self, fill: int) -> None:
        """Forget the newest tokens, down to a fill; `prefill` must come before the next sample."""
        self.cache.rewind(fill)
        self._draft, self._accepted = [], 0

    def clear(self) -> None:
        """Forget every token."""
        self.rewind(0)

    def reopen(self) -> None:
        """
        Close the backend and open it again, with an empty cache.

        :raises BackendError: it cannot be opened; every pass is BackendLost until this succeeds.
        """
        self.clear()
        self.close()  # first: the device need not have room for two
        self._backend = self._open_backend()
        self.is_broken = False

    def close(self) -> None:
        """Free the backend."""
        if self._backend is not None:
            self._backend.close()
        self._backend, self.is_broken = None, True

    def _forward(self, tokens: Sequence[int], draft: Sequence[int] = (), *, logits: int) -> None:
        self._draft, self._accepted = [], 0  # also where the pass fails
        if self._backend is None:
            raise BackendLost('the model is not loaded, because the backend failed before; '
                              'it has to be loaded again')
        self.is_broken = True  # should it fail
        self._logits = self._backend.forward(np.asarray([*tokens, *draft], np.int64),
                                             self.cache.fill, logits=logits)
        self.is_broken = False
        self.cache.append(tokens)
        self._draft = list(draft)
