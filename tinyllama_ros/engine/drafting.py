"""
Speculative decoding from the context, which is also called prompt lookup.

If the last tokens of the context occurred before, the tokens that followed them there are the
draft of the next tokens. The engine verifies the whole draft in one forward pass.

Source: prompt lookup, the n-gram case of LLMA, arXiv 2304.04487.
"""

from collections.abc import Sequence

FEWEST_SHARED, MOST_SHARED = 2, 4
"""How many of the last tokens must have occurred before, and how many are compared."""
SHORTEST_DRAFT, LONGEST_DRAFT = 2, 7
LONGEST_PAUSE = 16
"""Maximum number of passes without a draft, after repeated rejections."""


class Drafter:
    """
    Drafts tokens of one answer, and pauses while drafts are rejected.

    A pass of 8 tokens costs less than two passes of 1 token, so a draft pays off if one of its
    tokens is accepted. If none was accepted, drafting pauses for some passes, each time twice as
    many, and starts again with a short draft.
    """

    def __init__(self) -> None:
        self._length = SHORTEST_DRAFT
        self._pause = 1
        self._pauses_left = 0

    def draft(self, tokens: Sequence[int], at_most: int) -> list[int]:
        """Return a draft of what follows these tokens; called once for each pass."""
        if self._pauses_left:
            self._pauses_left -= 1
            return []
        return following(tokens, min(self._length, at_most))

    def record(self, drafted: int, accepted: int) -> None:
        """Adapt the length and the pause to how many tokens of the last draft were accepted."""
        if not drafted:
            return
        if not accepted:
            self._length, self._pauses_left = SHORTEST_DRAFT, self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE)
            return
        self._length = max(SHORTEST_DRAFT, 2 * drafted if accepted == drafted else accepted)
        self._length = min(self._length, LONGEST_DRAFT)
        self._pause = 1


def following(tokens: Sequence[int], count: int) -> list[int]:
    """
    Return the tokens that followed an earlier occurrence of the last tokens.

    The occurrence with the longest match is used, and the latest one of equally long ones. If
    fewer than `count` tokens followed it, they are repeated.

    :return: `count` tokens, or none if the last tokens did not occur before.
    """
    if count < 1:
        return []
    match, longest = 0, FEWEST_SHARED - 1  # end of the best occurrence, and its length
    for end in range(len(tokens) - 1, FEWEST_SHARED - 1, -1):
        if tokens[end - 1] == tokens[-1] and (shared := _shared(tokens, end)) > longest:
            match, longest = end, shared
            if longest == MOST_SHARED:
                break
    period = len(tokens) - match
    return [tokens[match + index % period] for index in range(count)] if match else []


def _shared(tokens: Sequence[int], end: int) -> int:
    """Return how many tokens before an end equal the last tokens, at most MOST_SHARED."""
    shared = 0
    while shared < min(MOST_SHARED, end) and tokens[end - 1 - shared] == tokens[-1 - shared]:
        shared += 1
    return shared
