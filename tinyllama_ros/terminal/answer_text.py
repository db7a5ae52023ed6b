"""An answer in order, although two topics carry it."""


class AnswerText:
    """
    An answer in order, although its tokens and its response come on different topics.

    The response may overtake the last tokens: then it completes the answer, and the tokens that
    come late are dropped.
    """

    def __init__(self) -> None:
        self._shown = ''
        self._late = 0

    def token(self, piece: str) -> str:
        """Return what of a piece is not shown yet."""
        dropped = min(self._late, len(piece))
        self._late -= dropped
        self._shown += piece[dropped:]
        return piece[dropped:]

    def response(self, answer: str) -> str:
        """End the answer; return what of it is not shown yet."""
        joined_midway = not answer.startswith(self._shown)
        rest = '' if joined_midway else answer[len(self._shown):]
        self._shown, self._late = '', len(rest)
        return rest
