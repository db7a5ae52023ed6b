"""Tokens to text as they come."""

from codecs import getincrementaldecoder

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
