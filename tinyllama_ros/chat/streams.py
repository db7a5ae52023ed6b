"""The text of an answer while its tokens come: whole characters, up to a stop text."""

from codecs import getincrementaldecoder
from collections.abc import Sequence

from tinyllama_ros.chat.tokenizer import Tokenizer


class TextStream:
    """
    The text of one answer, in pieces that never cut a character.

    The pieces joined are what decoding all tokens at once gives, less the one leading space that
    a SentencePiece vocabulary adds to the start of a text.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = getincrementaldecoder('utf-8')('replace')
        self._drop_space = tokenizer.starts_with_space

    def push(self, token: int) -> str:
        """Return the text that the token completes; '' where it ends inside a character."""
        return self._piece(self._decoder.decode(self._tokenizer.token_bytes(token)))

    def finish(self) -> str:
        """Return what is left, U+FFFD for a character that was never completed; start afresh."""
        text = self._piece(self._decoder.decode(b'', final=True))
        self._drop_space = self._tokenizer.starts_with_space
        return text

    def _piece(self, text: str) -> str:
        if text and self._drop_space:
            self._drop_space = False
            return text.removeprefix(' ')
        return text


class StopStream:
    """The text of one answer up to the first stop text, which may span its pieces."""

    def __init__(self, stops: Sequence[str]) -> None:
        """
        Look for some texts.

        :param stops: none of them empty.
        """
        self._stops = stops
        self._held = ''  # what could be the beginning of a stop text
        self.has_ended = False
        """A stop text was found; nothing comes any more."""

    def push(self, text: str) -> str:
        """Return the text that is sure to stand before any stop text."""
        if self.has_ended:
            return ''
        text = self._held + text
        # The one that is complete first counts, so that it does not matter how the text is cut
        found = [(place + len(stop), place) for stop in self._stops
                 if (place := text.find(stop)) >= 0]
        if found:
            self._held, self.has_ended = '', True
            return text[:min(found)[1]]
        start = len(text) - self._begun(text)
        self._held = text[start:]
        return text[:start]

    def finish(self) -> str:
        """Return what was held back for nothing."""
        text, self._held = self._held, ''
        return text

    def _begun(self, text: str) -> int:
        """Return the length of the longest end of a text with which a stop text begins."""
        longest = max(map(len, self._stops), default=1) - 1
        return next((length for length in range(min(longest, len(text)), 0, -1)
                     if any(stop.startswith(text[-length:]) for stop in self._stops)), 0)
