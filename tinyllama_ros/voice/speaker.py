"""Speaks sentences one after the other, and stops at once where it is interrupted."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from threading import Condition, Thread

from tinyllama_ros.voice.programs import CutShort, Programs, SpeechError
from tinyllama_ros.voice.sinks import Sink
from tinyllama_ros.voice.sound import Sound
from tinyllama_ros.voice.spoken_record import SpokenRecord
from tinyllama_ros.voice.synthesis import Synthesizer

MADE_AHEAD = 2
"""Sentences, the one that is played among them, whose sound is made while they wait."""
MOST_WAITING = 1000
"""Sentences; as deep as the queue of the topic."""


@dataclass(eq=False)
class Utterance:
    """A sentence that is to be spoken."""

    text: str
    stamp_ns: int
    """When it was published."""
    programs: Programs = field(default_factory=Programs)
    sound: Sound | None = None
    """None as long as it is not made, and where it could not be made."""
    is_made: bool = False


class Speaker:
    """
    Makes the sound of a sentence in one thread while another thread plays the one before.

    Its methods can be called from any thread.
    """

    def __init__(self, synthesizer: Synthesizer, sink: Sink, *,
                 on_speaking: Callable[[bool], None], on_spoken: Callable[[str], None],
                 on_error: Callable[[str], None]) -> None:
        """
        Begin in silence.

        :param on_speaking: told when sound begins, and when there is none any more.
        :param on_spoken: told all that was spoken of the newest answer, whenever that changes.
        :param on_error: told why a sentence is not spoken.
        """
        self._synthesizer = synthesizer
        self._sink = sink
        self._on_speaking = on_speaking
        self._on_spoken = on_spoken
        self._on_error = on_error
        self._changed = Condition()
        self._utterances: deque[Utterance] = deque()  # the first one is being played
        self._record = SpokenRecord()
        self._is_speaking = self._is_closed = False
        self._interrupted_ns = 0
        self._threads = [Thread(target=each, daemon=True) for each in (self._make, self._play)]
        for thread in self._threads:
            thread.start()

    def say(self, sentence: str, stamp_ns: int) -> None:
        """Speak a sentence after those that wait, unless it is older than the interruption."""
        with self._changed:
            if stamp_ns <= self._interrupted_ns:
                return
            if len(self._utterances) == MOST_WAITING:
                self._on_error(f'{MOST_WAITING} sentences wait; this one is not spoken: '
                               f'{sentence}')
                return
            self._utterances.append(Utterance(sentence, stamp_ns))
            self._record.add_sentence(stamp_ns)
            self._tell_spoken()
            self._changed.notify_all()

    def end_answer(self, stamp_ns: int) -> None:
        """Note that sentences with a later stamp are of another answer."""
        with self._changed:
            self._record.end_answer(stamp_ns)
            self._tell_spoken()

    def interrupt(self, stamp_ns: int) -> None:
        """Be silent at once, and forget each sentence that is not newer than that."""
        with self._changed:
            self._interrupted_ns = max(self._interrupted_ns, stamp_ns)
            self._forget(lambda utterance: utterance.stamp_ns <= stamp_ns)

    def close(self) -> None:
        """Be silent for good."""
        with self._changed:
            self._is_closed = True
            self._forget(lambda _: True)
        for thread in self._threads:
            thread.join()

    def _forget(self, is_forgotten: Callable[[Utterance], bool]) -> None:
        for utterance in filter(is_forgotten, self._utterances):
            utterance.programs.end()
        self._utterances = deque(each for each in self._utterances if not is_forgotten(each))
        if not self._first_made():
            self._set_speaking(False)
        self._changed.notify_all()

    def _make(self) -> None:
        """Make the sound of the next sentences until the end."""
        while utterance := self._wait_for(self._first_unmade):
            sound = None
            try:
                sound = self._synthesizer.synthesize(utterance.text, utterance.programs)
            except CutShort:
                continue
            except SpeechError as error:
                self._tell_failure(utterance, error)
            with self._changed:
                utterance.sound, utterance.is_made = sound, True
                self._changed.notify_all()

    def _play(self) -> None:
        """Play what was made until the end."""
        while utterance := self._wait_for(self._first_made):
            is_spoken = utterance.sound is not None
            try:
                if utterance.sound is not None and utterance.sound.samples:
                    with self._changed:
                        utterance.programs.check()
                        self._set_speaking(True)
                    self._sink.play(utterance.sound, utterance.programs)
            except CutShort:
                continue
            except SpeechError as error:
                is_spoken = False
                self._tell_failure(utterance, error)
            with self._changed:
                if utterance not in self._utterances:
                    continue  # it was interrupted at its very end
                self._utterances.popleft()
                if is_spoken:
                    self._record.add_spoken(utterance.text, utterance.stamp_ns)
                    self._tell_spoken()
                if not self._first_made():
                    self._set_speaking(False)
                self._changed.notify_all()

    def _wait_for(self, find: Callable[[], Utterance | None]) -> Utterance | None:
        """Return what is found as soon as it is there, and None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or find())
            return None if self._is_closed else find()

    def _first_unmade(self) -> Utterance | None:
        return next((each for each in islice(self._utterances, MADE_AHEAD) if not each.is_made),
                    None)

    def _first_made(self) -> Utterance | None:
        return next((each for each in islice(self._utterances, 1) if each.is_made), None)

    def _set_speaking(self, is_speaking: bool) -> None:
        if is_speaking != self._is_speaking:
            self._is_speaking = is_speaking
            self._on_speaking(is_speaking)

    def _tell_spoken(self) -> None:
        if (text := self._record.news()) is not None:
            self._on_spoken(text)

    def _tell_failure(self, utterance: Utterance, error: SpeechError) -> None:
        self._on_error(f'the sentence {utterance.text!r} is not spoken: {error}')
