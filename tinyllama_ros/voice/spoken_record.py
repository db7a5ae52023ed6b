"""Keeps what was spoken of the newest answer."""


class SpokenRecord:
    """
    Assigns spoken sentences to answers.

    Sentences and ends of answers come on two topics, between which there is no order; but their
    stamps, in nanoseconds, have one.
    """

    def __init__(self) -> None:
        self._ends: list[int] = []
        self._newest_sentence = 0
        self._spoken: list[tuple[int, str]] = []
        self._told: tuple[int, str] | None = None

    def add_sentence(self, stamp_ns: int) -> None:
        """Note that a sentence was published."""
        self._newest_sentence = max(self._newest_sentence, stamp_ns)

    def end_answer(self, stamp_ns: int) -> None:
        """Note that an answer has come to its end, so that later sentences are of another one."""
        self._ends.append(stamp_ns)

    def add_spoken(self, text: str, stamp_ns: int) -> None:
        """Note that a sentence was spoken to its end."""
        self._spoken.append((stamp_ns, text))

    def news(self) -> str | None:
        """Return what was spoken of the newest answer so far, None where that was returned."""
        began_ns = max((end for end in self._ends if end < self._newest_sentence), default=0)
        self._ends = [end for end in self._ends if end >= began_ns]
        self._spoken = [each for each in self._spoken if each[0] > began_ns]
        newest = began_ns, ' '.join(text for _, text in self._spoken)
        if newest == self._told or not self._newest_sentence:
            return None
        self._told = newest
        return newest[1]
