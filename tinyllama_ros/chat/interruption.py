"""Decides what a new prompt does during an answer or during speech of the robot."""

from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
import time
from typing import get_args, Literal

from tinyllama_ros.errors import ConfigError

WhenBusy = Literal['queue', 'latest', 'interrupt', 'refuse']
"""
What happens to a prompt that arrives while another one is answered or waits.

queue: it waits. latest: it replaces the waiting prompts. interrupt: it also stops the current
answer. refuse: it is refused.
"""
WhenSpeaking = Literal['answer', 'ignore', 'interrupt']
"""What happens to a prompt that arrives while the robot speaks: it may be an echo."""
SPEAKING_EXPIRES_S = 10.0
"""A speech node counts as silent if it does not repeat `~/speaking` within this time."""


@dataclass(frozen=True)
class InterruptionOptions:
    """Options that may change from prompt to prompt."""

    when_busy: WhenBusy = 'queue'
    when_speaking: WhenSpeaking = 'ignore'
    echo_tail_s: float = 0.5
    """Seconds after the end of speech in which a prompt still counts as during speech."""

    def __post_init__(self) -> None:
        for name, values in (('when_busy', WhenBusy), ('when_speaking', WhenSpeaking)):
            if (value := getattr(self, name)) not in get_args(values):
                raise ConfigError(f'{name} is {value!r}; it must be one of '
                                  f'{", ".join(get_args(values))}')


class Speech:
    """
    The state of a speech node: whether it speaks, and what it has spoken of the newest answer.

    Its methods can be called from any thread.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        """
        Start as silent.

        :param now: seconds of a steady clock.
        """
        self._now = now
        self._lock = Lock()
        self._speaks_until_s = self._ended_s = float('-inf')
        self._spoken: str | None = None  # of the answer that began last
        self._has_sentence = self._is_interrupted = False

    def set_speaking(self, is_speaking: bool) -> None:
        """Process a message of ~/speaking."""
        with self._lock:
            now_s = self._now()
            if is_speaking:
                self._speaks_until_s = now_s + SPEAKING_EXPIRES_S
            elif now_s < self._speaks_until_s:
                self._speaks_until_s = self._ended_s = now_s

    def set_spoken(self, text: str) -> None:
        """Process a message of ~/spoken: the part of the newest answer that was spoken so far."""
        with self._lock:
            if self._has_sentence:  # without a sentence yet, it is about the previous answer
                self._spoken = text

    def is_speaking(self, tail_s: float = 0.0) -> bool:
        """Return whether the robot speaks, or has spoken within the last seconds."""
        with self._lock:
            return (self._now() < self._speaks_until_s
                    or self._now() - self._ended_s < tail_s)

    def when_busy(self, options: InterruptionOptions) -> WhenBusy | None:
        """Return what a prompt does that arrives now; None if it counts as an echo."""
        is_speaking = self.is_speaking(options.echo_tail_s)
        if not is_speaking or options.when_speaking == 'answer':
            return options.when_busy
        return 'interrupt' if options.when_speaking == 'interrupt' else None

    def add_sentence(self) -> None:
        """Note that a sentence of the newest answer was published."""
        with self._lock:
            self._has_sentence = True

    def interrupt(self) -> None:
        """Note that the newest answer is interrupted, or only its speech if it has ended."""
        with self._lock:
            self._is_interrupted = True

    def begin_answer(self) -> str | None:
        """
        Begin the next answer.

        :return: what was spoken of the one before, where it was interrupted and a speech node
            has said so; None leaves that answer as it is.
        """
        with self._lock:
            spoken = self._spoken if self._is_interrupted else None
            self._spoken, self._has_sentence, self._is_interrupted = None, False, False
            return spoken
