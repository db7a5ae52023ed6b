"""Cuts a stream of text into whole sentences, for a speech node."""

from tinyllama_ros.errors import ConfigError


class SentenceStream:
    """Yields each sentence of one answer as soon as the text after it shows where it ends."""

    def __init__(self) -> None:
        try:
            from sentence_stream import SentenceBoundaryDetector
        except ImportError as error:
            raise ConfigError('sentences need the package sentence-stream: '
                              'pip install sentence-stream') from error
        self._detector = SentenceBoundaryDetector()

    def push(self, text: str) -> list[str]:
        """Return the sentences that the text completes, without asterisks and outer space."""
        return list(self._detector.add_chunk(text))

    def finish(self) -> list[str]:
        """Return the last sentence, if any is left; begin a new answer."""
        sentence = self._detector.finish()
        return [sentence] if sentence else []
