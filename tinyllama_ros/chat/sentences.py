"""Cuts a stream of text into whole sentences, for a speech node."""

from tinyllama_ros.errors import ConfigError

LONGEST_SENTENCE = 1000
"""
Characters, after which a sentence that has no end is cut between two words.

The library searches all that has no end yet again with each token.
"""


class SentenceStream:
    """Yields each sentence of one answer as soon as the text after it shows where it ends."""

    def __init__(self) -> None:
        try:
            from sentence_stream import SentenceBoundaryDetector
        except ImportError as error:
            raise ConfigError('sentences need the package sentence-stream: '
                              'pip install sentence-stream') from error
        self._detector = SentenceBoundaryDetector()
        self._pending = 0  # characters since the last sentence

    def push(self, text: str) -> list[str]:
        """Return the sentences that the text completes, without asterisks and outer space."""
        is_cut = self._pending > LONGEST_SENTENCE and (
            text[:1].isspace() or self._pending > 2 * LONGEST_SENTENCE)
        sentences = self.finish() if is_cut else []
        found = list(self._detector.add_chunk(text))
        self._pending = len(text) + (0 if found else self._pending)
        return sentences + found

    def finish(self) -> list[str]:
        """Return the last sentence, if any is left; begin a new answer."""
        self._pending = 0
        sentence = self._detector.finish()
        return [sentence] if sentence else []
