"""
One conversation: its messages, and what of them the cache can hold.

A turn renders the whole conversation, keeps the longest prefix that the cache already holds and
reads the rest; so a changed system prompt, a cancelled answer and a reset need no special case.
"""

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
import logging
from os.path import commonprefix
import time
from typing import Literal

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.chat.message import Message
from tinyllama_ros.chat.stop import StopStream
from tinyllama_ros.chat.template import ChatTemplate
from tinyllama_ros.chat.text_stream import TextStream
from tinyllama_ros.chat.tokenizer import load_tokenizer, Tokenizer
from tinyllama_ros.engine.drafting import Drafter, LONGEST_DRAFT
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.sampling import Sampler, SamplingOptions
from tinyllama_ros.errors import (
    ArtifactError,
    BackendError,
    BackendLost,
    ConfigError,
    LengthError,
    PromptError,
)

REPLACEMENT = '\N{REPLACEMENT CHARACTER}'
Finish = Literal['stop', 'length']
RECOVERIES = 3
"""Times that the model is loaded again for one answer; a device that fails more often is ill."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChatOptions:
    """What may change from one turn to the next."""

    system_prompt: str = ''
    """Empty leaves it to the model's template."""
    max_tokens: int = 512
    """Tokens of an answer; 0 lets the model say when it ends."""
    answer_room: int = 256
    """Slots that must be free when an answer begins."""
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    drafting: bool = True
    """
    Verify several tokens in one pass where the conversation repeats itself.

    Every token is drawn as without. Where our kernels do not run (see kernels/), a pass of several
    rows differs from passes of one by a last bit of attention, which W8A8 may round up to another,
    equally likely word.
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
        """Slots that an answer is sure to find, at least 2."""
        return max(2, min(self.answer_room, self.max_tokens or self.answer_room))


@dataclass(frozen=True)
class PrefillProgress:
    """A piece of the conversation was read; nothing is said yet."""

    tokens: int
    """Tokens read so far."""


@dataclass(frozen=True)
class TextDelta:
    """A token was drawn; its text may still be held back, and empty, for half a character."""

    text: str


@dataclass(frozen=True)
class CacheReset:
    """The cache was full and is being cleared, or was lost with the backend that held it."""

    reason: Literal['full', 'recovered'] = 'full'


@dataclass(frozen=True)
class Answer:
    """The answer is whole."""

    text: str
    finish: Finish
    cached_tokens: int
    """Tokens of the conversation that the cache still held when the turn began."""
    prefill_tokens: int
    """Tokens that had to be read before the first word."""
    generated_tokens: int
    prefill_s: float
    """Seconds from the beginning of the turn to its first token."""
    decode_s: float
    """Seconds from the first token to the last."""

    @property
    def tokens_per_second(self) -> float:
        """Speed of answering."""
        return self.generated_tokens / self.decode_s if self.decode_s > 0 else 0.0

    @property
    def summary(self) -> str:
        """One line for a log."""
        return (f'{self.cached_tokens} tokens kept, {self.prefill_tokens} read in '
                f'{self.prefill_s:.2f} s, {self.generated_tokens} drawn at '
                f'{self.tokens_per_second:.1f} tok/s ({self.finish})')


TurnEvent = PrefillProgress | TextDelta | CacheReset | Answer
Exchange = tuple[Message, Message]
"""A prompt and its answer."""


class Conversation:
    """Owns the messages; asks the engine for the rest."""

    def __init__(self, engine: Engine, settings: TokenizerSettings, tokenizer: Tokenizer) -> None:
        self._model = _Model(engine, tokenizer, ChatTemplate(settings, tokenizer),
                             frozenset(settings.control_tokens.values()))
        self._exchanges: list[Exchange] = []

    @property
    def messages(self) -> list[Message]:
        """What was said, the system prompt aside."""
        return [message for exchange in self._exchanges for message in exchange]

    @property
    def fill(self) -> int:
        """Slots of the cache that hold a token."""
        return self._model.engine.cache.fill

    @property
    def capacity(self) -> int:
        """Slots of the cache."""
        return self._model.engine.cache.capacity

    def answer(self, prompt: str, options: ChatOptions) -> Generator[TurnEvent, None, None]:
        """
        Yield what happens while a prompt is answered, an Answer last.

        There is a yield between any two forward passes. Whoever closes the iterator there cancels
        the answer: what was yielded of it stays in the conversation, and when that is nothing the
        turn is forgotten. The same holds when the backend fails for good; one that is lost is
        opened again, and the answer goes on where it stopped.

        :raises PromptError: the prompt is blank, or does not fit the cache; nothing has changed.
        :raises BackendError: the backend failed, and opening it again was no help.
        """
        _check_says_something(prompt)
        asked = Message('user', prompt)
        turn = _Turn(self._model, self._exchanges, [asked], options)
        turn.check()
        try:
            yield from turn.run()
        finally:
            if said := ''.join(turn.said):
                self._exchanges = [*turn.kept, (asked, Message('assistant', said))]

    def complete(self, messages: Sequence[Message], options: ChatOptions
                 ) -> Generator[TurnEvent, None, None]:
        """
        Yield what happens while messages that are not ours are answered, as `answer` does.

        Our own stay as they are, though not in the cache. None of those messages is ever left
        out: they must fit whole, and a reset in the answer keeps them all.

        :raises PromptError: they do not fit, or the model does not take them.
        """
        turn = _Turn(self._model, [], messages, options)
        turn.check()
        yield from turn.run()

    def reset(self, system_prompt: str = '') -> None:
        """Forget everything said; the cache keeps the system prompt, if it holds it."""
        self._exchanges = []
        first, second = (self._model.encode(system_prompt, [], [Message('user', text)])
                         for text in ('a', 'b'))
        engine = self._model.engine
        engine.rewind(engine.cache.shared_prefix(commonprefix([first, second])))

    def mend(self) -> None:
        """
        Open the backend again where its last pass failed.

        :raises BackendError: it cannot be opened.
        """
        if self._model.engine.is_broken:
            self._model.engine.reopen()

    def close(self) -> None:
        """Free the engine."""
        self._model.engine.close()


@dataclass(frozen=True)
class _Model:
    """What a turn needs of the model."""

    engine: Engine
    tokenizer: Tokenizer
    template: ChatTemplate
    stop_tokens: frozenset[int]

    def encode(self, system_prompt: str, exchanges: list[Exchange], asked: Sequence[Message]
               ) -> list[int]:
        """Return the tokens of a conversation, up to where the answer begins."""
        system = [Message('system', system_prompt)] if system_prompt else []
        said = [message for exchange in exchanges for message in exchange]
        return self.template.encode([*system, *said, *asked])


class _Turn:
    """
    One prompt on its way to its answer.

    Of the exchanges the oldest may be forgotten; the messages that are asked are always kept.
    """

    def __init__(self, model: _Model, exchanges: list[Exchange], asked: Sequence[Message],
                 options: ChatOptions) -> None:
        self._model = model
        self._engine = model.engine
        self._options = options
        self._asked = asked
        self.kept = exchanges
        self.said: list[str] = []
        self._drawn: list[int] = []
        self._drafter = Drafter() if options.drafting else None
        self._recoveries = 0

    def check(self) -> None:
        """Refuse what does not fit the cache."""
        capacity, room = self._engine.cache.capacity, self._options.room
        alone = len(self._tokens([]))
        if alone + room > capacity:
            raise LengthError(
                f'it is too long: with the system prompt it is {alone} tokens, and at most '
                f'{max(0, capacity - room)} fit beside the {room} kept for the answer; shorten it')

    def run(self) -> Iterator[TurnEvent]:
        """Yield the events of the turn."""
        began_s = time.monotonic()
        stream, stop = TextStream(self._model.tokenizer), StopStream(self._options.stop)
        sampler = Sampler(self._options.sampling)
        tokens = yield from self._begin()
        cache = self._engine.cache
        kept = min(cache.shared_prefix(tokens), len(tokens) - 1)
        yield from self._read(tokens)
        first_s = time.monotonic()
        finish: Finish = 'length'
        while not self._is_at_length():
            token = self._engine.sample(sampler)
            if token in self._model.stop_tokens:
                finish = 'stop'
                break
            self._drawn.append(token)
            yield self._say(stop.push(stream.push(token)))
            if stop.has_ended:
                finish = 'stop'
                break
            if not self._is_at_length():
                yield from self._advance(token)
        if rest := stop.push(stream.finish()) + stop.finish():
            yield self._say(rest)
        yield Answer(''.join(self.said), finish, kept, len(tokens) - kept, len(self._drawn),
                     first_s - began_s, time.monotonic() - first_s)

    def _is_at_length(self) -> bool:
        return 0 < self._options.max_tokens <= len(self._drawn)

    def _draftable(self) -> int:
        """Return how many tokens a draft may have; the last of an answer is never read."""
        limit = self._options.max_tokens
        return limit - len(self._drawn) - 1 if limit else LONGEST_DRAFT

    def _say(self, text: str) -> TextDelta:
        self.said.append(text)
        return TextDelta(text)

    def _begin(self) -> Generator[TurnEvent, None, list[int]]:
        """Return the tokens to read before the answer, with a reset where all do not fit."""
        tokens = self._tokens(self.kept)
        if len(tokens) + self._options.room > self._engine.cache.capacity:
            yield CacheReset()
            tokens = self._rolled_over()
        return tokens

    def _advance(self, token: int) -> Iterator[TurnEvent]:
        """Read the token just drawn, with a reset where no slot is free."""
        if not self._engine.cache.room:
            yield CacheReset()
            yield from self._read(self._rolled_over())
            return
        try:
            self._engine.decode(token, self._drafter, self._draftable())
        except BackendLost as error:
            tokens = [*self._engine.cache.tokens, token]
            yield from self._recover(error)
            yield from self._read(tokens)

    def _rolled_over(self) -> list[int]:
        """
        Return what the cache shall hold after a reset, and keep only the turns that are in it.

        That is the prompt, the end of the answer so far, and the newest turns, together about half
        of the cache: a cache that was filled to the brim again would be full again at once. Before
        the answer begins, its room stays free.
        """
        capacity, room = self._engine.cache.capacity, self._options.room
        alone = len(self._tokens([]))
        least = alone + (room // 2 if self._drawn else 0)
        target = max(least, min(capacity // 2, capacity - room))
        answer = self._drawn[max(0, len(self._drawn) - (target - alone)):]
        while self.kept and len(self._tokens(self.kept)) + len(answer) > target:
            self.kept = self.kept[1:]
        return self._tokens(self.kept) + answer

    def _read(self, tokens: list[int]) -> Iterator[TurnEvent]:
        """Make the cache hold these tokens, from the first one on where it was lost."""
        while True:
            try:
                for count in self._engine.prefill(tokens):
                    yield PrefillProgress(count)
                return
            except BackendLost as error:
                yield from self._recover(error)

    def _recover(self, error: BackendError) -> Iterator[TurnEvent]:
        """
        Put a new backend in the place of the one that is lost; the cache is empty then.

        :raises BackendError: there is none, or too many were lost already.
        """
        while self._recoveries < RECOVERIES:
            self._recoveries += 1
            log.warning('%s; loading the model again (%d of at most %d times)', error,
                        self._recoveries, RECOVERIES)
            try:
                self._engine.reopen()
            except BackendLost as failure:
                error = failure
                continue
            except BackendError as failure:
                raise BackendError(f'{error}; loading the model again failed: {failure}'
                                   ) from failure
            yield CacheReset('recovered')
            return
        raise BackendError(f'{error}; the model was loaded again {RECOVERIES} times, which did '
                           'not help') from error

    def _tokens(self, exchanges: list[Exchange]) -> list[int]:
        return self._model.encode(self._options.system_prompt, exchanges, self._asked)


def _check_says_something(prompt: str) -> None:
    # What ROS cannot decode as UTF-8 arrives as replacement characters
    if not any(char.isprintable() and not char.isspace() and char != REPLACEMENT
               for char in prompt):
        raise PromptError('it is blank, or no text in UTF-8; say something')


def open_conversation(artifact: Artifact, engine: Engine) -> Conversation:
    """
    Return a conversation with the model of an artifact.

    :raises ArtifactError: its tokenizer is damaged.
    """
    settings = artifact.manifest.tokenizer
    tokenizer = load_tokenizer(artifact.tokenizer, settings)
    size = artifact.manifest.architecture.vocab_size
    if tokenizer.vocab_size > size:
        raise ArtifactError(f'{artifact.tokenizer} has {tokenizer.vocab_size} tokens, the graph '
                            f'knows {size}; use the tokenizer that the model was trained with')
    return Conversation(engine, settings, tokenizer)
