"""
Token ids in, token ids out: prefills the cache with tokens and samples the next ones.

Text, messages and ROS do not appear here. Every generator yields between two forward passes, so
the caller may stop there.
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
    One backend, and the record of what its cache holds.

    Drafted tokens are computed in the same pass as the token before them, in slots beyond the
    fill. When the next sampled token is the drafted one, `decode` only adds it to the record.
    """

    def __init__(self, open_backend: Callable[[], Backend]) -> None:
        """
        Open a backend, which `close` closes.

        :param open_backend: also called by `reopen`, after the old backend was closed.
        :raises BackendError: it cannot be opened.
        """
        self._open_backend = open_backend
        self._backend: Backend | None = open_backend()
        self._shape = self._backend.shape
        self.cache = Cache(self._shape.kv_length)
        self.is_broken = False
        """The last forward pass failed."""
        self._logits: NDArray[np.float32] | None = None  # last and drafted tokens
        self._draft: list[int] = []  # drafted tokens of the last pass
        self._accepted = 0

    def prefill(self, tokens: Sequence[int]) -> Iterator[int]:
        """
        Make the cache hold exactly these tokens; compute only those that it does not hold yet.

        The last token is always computed, for its logits. Yields the number of tokens that were
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
            # Chunks of equal length (unless padded), because every pass reads all the weights
            end = index * longest if self._shape.pads else index * missing // passes
            self._forward(tokens[self.cache.fill:cached + end], logits=int(index == passes))
            yield self.cache.fill - cached

    def sample(self, sampler: Sampler) -> int:
        """Return the next token, chosen by a sampler; `decode` then adds it to the cache."""
        assert self._logits is not None, 'nothing was prefilled yet'
        return sampler.sample(self._logits[self._accepted], self.cache.tokens)

    def decode(self, token: int, drafter: Drafter | None = None, at_most: int = 0) -> None:
        """
        Add a token to the cache, which must have room, and compute the logits after it.

        One pass computes the token and the tokens that are drafted to follow it. There is no pass
        if an earlier draft had this token already.

        :param at_most: maximum number of drafted tokens.
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
        self.close()  # first, because the device may have no memory for two
        self._backend = self._open_backend()
        self.is_broken = False

    def close(self) -> None:
        """Free the backend."""
        if self._backend is not None:
            self._backend.close()
        self._backend, self.is_broken = None, True

    def _forward(self, tokens: Sequence[int], draft: Sequence[int] = (), *, logits: int) -> None:
        self._draft, self._accepted = [], 0  # also if the pass fails
        if self._backend is None:
            raise BackendLost('the model is not loaded, because the backend failed before; '
                              'it has to be loaded again')
        self.is_broken = True  # in case the pass raises
        self._logits = self._backend.forward(np.asarray([*tokens, *draft], np.int64),
                                             self.cache.fill, logits=logits)
        self.is_broken = False
        self.cache.append(tokens)
        self._draft = list(draft)
