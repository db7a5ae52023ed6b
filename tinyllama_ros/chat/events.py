"""The options of a turn, and the events that it yields."""

from dataclasses import dataclass, field
from typing import Literal

from tinyllama_ros.chat.message import Message
from tinyllama_ros.engine.sampling import SamplingOptions
from tinyllama_ros.errors import ConfigError

Finish = Literal['stop', 'length']
ResetReason = Literal['full', 'requested', 'recovered']
"""
Why the cache was cleared: it was full, a reset was requested, or its backend was lost.

If it was full, `RolloverPolicy` (rollover.py) decides what is kept. `Conversation.reset` keeps the
system prompt. Nothing is kept of a lost cache.
"""
Exchange = tuple[Message, Message]
"""A prompt and its answer."""


@dataclass(frozen=True)
class ChatOptions:
    """Options that may change from turn to turn."""

    system_prompt: str = ''
    """Empty: the default of the model's chat template, if it has one."""
    max_tokens: int = 512
    """Maximum tokens of an answer; 0 means no limit."""
    answer_room: int = 256
    """Slots that must be free when an answer begins."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    drafting: bool = True
    """
    Verify several tokens in one pass if the conversation repeats itself.

    The answer is the same as without. Only without this project's kernels (see kernels/) can a
    pass of several tokens differ in the last bit of attention, and W8A8 then choose another,
    equally likely token.
    """

    stop: tuple[str, ...] = ()
    """Texts before which the answer ends, none of them empty."""

    def __post_init__(self) -> None:
        if self.max_tokens < 0:
            raise ConfigError(f'max_tokens is {self.max_tokens}; it must be 0 (no limit) or above')
        if self.answer_room < 2:
            raise ConfigError(f'answer_room is {self.answer_room}; it must be at least 2 slots')

    @property
    def room(self) -> int:
        """Slots that are free when the answer begins, at least 2."""
        return max(2, min(self.answer_room, self.max_tokens or self.answer_room))


@dataclass(frozen=True)
class PrefillProgress:
    """A chunk of the conversation was prefilled."""

    tokens: int
    """Tokens prefilled so far."""


@dataclass(frozen=True)
class TextDelta:
    """A token was sampled; the text is empty while a character or a stop text is incomplete."""

    text: str


@dataclass(frozen=True)
class CacheReset:
    """The cache is being cleared."""

    reason: ResetReason = 'full'


@dataclass(frozen=True)
class Answer:
    """The answer is whole."""

    text: str
    finish: Finish
    cached_tokens: int
    """Tokens of the conversation that were in the cache already."""
    prefill_tokens: int
    """Tokens of the conversation that were prefilled before the first token of the answer."""
    generated_tokens: int
    prefill_s: float
    """Seconds from the beginning of the turn to its first token."""
    decode_s: float
    """Seconds from the first token to the last."""

    @property
    def tokens_per_second(self) -> float:
        """Speed of decoding."""
        return self.generated_tokens / self.decode_s if self.decode_s > 0 else 0.0

    @property
    def summary(self) -> str:
        """One line for a log."""
        return (f'{self.cached_tokens} tokens cached, {self.prefill_tokens} prefilled in '
                f'{self.prefill_s:.2f} s, {self.generated_tokens} generated at '
                f'{self.tokens_per_second:.1f} tok/s ({self.finish})')


TurnEvent = PrefillProgress | TextDelta | CacheReset | Answer
