"""Decides what the cache keeps of a conversation that does not fit into it."""

from collections.abc import Callable, Sequence

from tinyllama_ros.chat.events import Exchange
from tinyllama_ros.chat.message import size_of
from tinyllama_ros.errors import LengthError


class RolloverPolicy:
    """
    Decides, for one turn, which tokens the cache holds before the answer and after a full cache.

    The system prompt and the messages of the turn are always kept. The oldest earlier exchanges
    are forgotten first, then the beginning of the answer. What is kept fills about half of the
    cache, so that the cache is not full again at once.
    """

    def __init__(self, capacity: int, room: int, exchanges: Sequence[Exchange],
                 longest_text: int, encode: Callable[[Sequence[Exchange]], list[int]]) -> None:
        """
        Start with all exchanges kept.

        :param capacity: slots of the cache.
        :param room: slots that must be free when the answer begins.
        :param longest_text: maximum bytes of exchanges that may fit; older ones are not encoded.
        :param encode: returns the tokens of the conversation with these exchanges, up to where
            the answer begins. It renders the conversation, so it is called as rarely as possible.
        """
        self.exchanges = exchanges
        """The exchanges that are kept."""
        self._capacity, self._room = capacity, room
        self._encode = encode
        self._most = _newest_within(longest_text, exchanges)
        self._encoded: dict[int, list[int]] = {}  # by the number of exchanges

    def whole(self) -> list[int]:
        """Return the tokens of the conversation with all exchanges that are kept."""
        return self._tokens(len(self.exchanges))

    def fits(self) -> bool:
        """Return whether the conversation leaves the answer its room."""
        return (self._most == len(self.exchanges)
                and len(self.whole()) + self._room <= self._capacity)

    def roll_over(self, answer: Sequence[int] = ()) -> list[int]:
        """
        Forget exchanges; return the tokens for the cache: the conversation and the answer's end.

        Before the answer begins, its room stays free. With n exchanges the conversation is
        rendered at most 2 + log2(n) times.

        :param answer: tokens of the answer so far.
        :raises LengthError: the messages do not fit even without any exchange.
        """
        alone = len(self._tokens(0))
        if alone + self._room > self._capacity:
            raise LengthError(
                f'it is too long: with the system prompt it is {alone} tokens, and at most '
                f'{max(0, self._capacity - self._room)} fit beside the {self._room} slots '
                'reserved for the answer; shorten it')
        least = alone + (self._room // 2 if answer else 0)
        target = max(least, min(self._capacity // 2, self._capacity - self._room))
        tail = list(answer[max(0, len(answer) - (target - alone)):])
        fitting, too_many = 0, min(len(self.exchanges), self._most + 1)
        while too_many - fitting > 1:
            count = (fitting + too_many) // 2
            if len(self._tokens(count)) + len(tail) <= target:
                fitting = count
            else:
                too_many = count
        self.exchanges = self.exchanges[len(self.exchanges) - fitting:]
        return self.whole() + tail

    def _tokens(self, count: int) -> list[int]:
        """Return the tokens of the conversation with its newest exchanges."""
        if count not in self._encoded:
            self._encoded[count] = self._encode(self.exchanges[len(self.exchanges) - count:])
        return self._encoded[count]


def _newest_within(size: int, exchanges: Sequence[Exchange]) -> int:
    """Return how many of the newest exchanges have together at most `size` bytes."""
    for count, exchange in enumerate(reversed(exchanges)):
        size -= size_of(message.content for message in exchange)
        if size < 0:
            return count
    return len(exchanges)
