"""Turns the tokens of an answer into text as they arrive, up to a stop text."""

from codecs import getincrementaldecoder
from collections.abc import Sequence

from tinyllama_ros.chat.tokenizer import Tokenizer


class TextStream:
    """
    Decodes the tokens of one answer to text deltas of whole characters.

    The joined deltas equal the text of all tokens decoded at once, without the leading space that
    a SentencePiece vocabulary adds at the start of a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = getincrementaldecoder('utf-8')('replace')
        self._drop_space = tokenizer.starts_with_space

    def push(self, token: int) -> str:
        """Return the text that the token completes; '' where it ends inside a character."""
        return self._without_space(self._decoder.decode(self._tokenizer.token_bytes(token)))

    def finish(self) -> str:
        """Return the rest, U+FFFD for an incomplete character; reset for the next answer."""
        text = self._without_space(self._decoder.decode(b'', final=True))
        self._drop_space = self._tokenizer.starts_with_space
        return text

    def _without_space(self, text: str) -> str:
        if text and self._drop_space:
            self._drop_space = False
            return text.removeprefix(' ')
        return text


class StopStream:
    """Passes on the text of one answer up to the first stop text, which may span deltas."""

    def __init__(self, stops: Sequence[str]) -> None:
        """
        Search for stop texts.

        :param stops: none of them empty.
        """
        self._stops = stops
        self._pending = ''  # text that may be the beginning of a stop text
        self.has_ended = False
        """A stop text was found; the text after it is dropped."""

    def push(self, text: str) -> str:
        """Return the text that is certain to stand before any stop text."""
        if self.has_ended:
            return ''
        text = self._pending + text
        # The stop text that ends first counts, so the result does not depend on the deltas
        matches = [(start + len(stop), start) for stop in self._stops
                   if (start := text.find(stop)) >= 0]
        if matches:
            self._pending, self.has_ended = '', True
            return text[:min(matches)[1]]
        start = len(text) - self._overlap(text)
        self._pending = text[start:]
        return text[:start]

    def finish(self) -> str:
        """Return the pending text, which did not become a stop text."""
        text, self._pending = self._pending, ''
        return text

    def _overlap(self, text: str) -> int:
        """Return the length of the longest end of a text that is the beginning of a stop text."""
        longest = max(map(len, self._stops), default=1) - 1
        return next((length for length in range(min(longest, len(text)), 0, -1)
                     if any(stop.startswith(text[-length:]) for stop in self._stops)), 0)
