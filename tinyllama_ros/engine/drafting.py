"""
Drafting from the prompt: what followed the last tokens before may follow them again.

Where the last tokens occurred before, the tokens that came next are a draft, and one pass verifies
all of it. Knows tokens only; the engine runs the pass.

Source: prompt lookup, the n-gram case of LLMA, arXiv 2304.04487.
"""

from collections.abc import Sequence

FEWEST_SHARED, MOST_SHARED = 2, 4
"""Last tokens that must have occurred before, and beyond which more are no better."""
SHORTEST_DRAFT, LONGEST_DRAFT = 2, 7
LONGEST_PAUSE = 16
"""Passes without a draft after many refusals."""


class Drafter:
    """
    Drafts the tokens of one answer, and backs off where drafts are refused.

    A pass of 8 tokens costs less than two of 1, so a draft of which one token is accepted gains.
    One that is refused whole costs: the next is short, and pauses grow until one is accepted.
    """

    def __init__(self) -> None:
        self._length = SHORTEST_DRAFT
        self._pause = 1
        self._resting = 0

    def draft(self, tokens: Sequence[int], at_most: int) -> list[int]:
        """Return what may follow these tokens; called once for each pass."""
        if self._resting:
            self._resting -= 1
            return []
        return following(tokens, min(self._length, at_most))

    def record(self, drafted: int, accepted: int) -> None:
        """Learn how many tokens of the last draft were accepted."""
        if not drafted:
            return
        if not accepted:
            self._length, self._resting = SHORTEST_DRAFT, self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            return
        self._length = max(SHORTEST_DRAFT, 2 * drafted if accepted == drafted else accepted)
        self._length = min(self._length, LONGEST_DRAFT)
        self._pause = 1


def following(tokens: Sequence[int], count: int) -> list[int]:
    """
    Return what followed the longest run of last tokens that occurred before, there the latest.

    What followed up to the end goes on from its beginning, as in a text that repeats itself.

    :return: count tokens, or none.
    """
    if count < 1:
        return []
    found, longest = 0, FEWEST_SHARED - 1
    for end in range(len(tokens) - 1, FEWEST_SHARED - 1, -1):
        if tokens[end - 1] == tokens[-1] and (shared := _shared(tokens, end)) > longest:
            found, longest = end, shared
            if longest == MOST_SHARED:
                break
    period = len(tokens) - found
    return [tokens[found + index % period] for index in range(count)] if found else []


def _shared(tokens: Sequence[int], end: int) -> int:
    """Return how many tokens before an end are the last tokens, at most MOST_SHARED."""
    shared = 0
    while shared < min(MOST_SHARED, end) and tokens[end - 1 - shared] == tokens[-1 - shared]:
        shared += 1
    return shared
