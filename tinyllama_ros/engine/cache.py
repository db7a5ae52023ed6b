"""Records which token is in each slot of the KV cache; the backend stores keys and values."""

from collections.abc import Sequence


class Cache:
    """
    The tokens in slots 0..fill-1, in order.

    Slot i always holds position i. Rewinding only removes tokens here: their rows stay in the
    backend, where the mask hides them until they are overwritten.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        """Slots."""
        self.tokens: list[int] = []

    @property
    def fill(self) -> int:
        """Slots that hold a token."""
        return len(self.tokens)

    @property
    def room(self) -> int:
        """Slots that are free."""
        return self.capacity - self.fill

    def append(self, tokens: Sequence[int]) -> None:
        """Record tokens whose rows were just written at the fill."""
        assert len(tokens) <= self.room, f'{len(tokens)} tokens, room for {self.room}'
        self.tokens.extend(tokens)

    def rewind(self, fill: int) -> None:
        """Remove the newest tokens, until `fill` tokens are left."""
        assert 0 <= fill <= self.fill, f'cannot rewind from {self.fill} to {fill}'
        del self.tokens[fill:]

    def shared_prefix(self, tokens: Sequence[int]) -> int:
        """Return how many of the first tokens are in their slots already."""
        for index, (cached, wanted) in enumerate(zip(self.tokens, tokens, strict=False)):
            if cached != wanted:
                return index
        return min(self.fill, len(tokens))
