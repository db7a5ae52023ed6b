"""Runs one turn: encodes the messages, generates the answer, and recovers from a lost model."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from io import StringIO
import logging
import time

from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.chat.events import (
    Answer,
    CacheReset,
    ChatOptions,
    Exchange,
    Finish,
    PrefillProgress,
    TextDelta,
    TurnEvent,
)
from tinyllama_ros.chat.message import Message
from tinyllama_ros.chat.rendering import Cancelled
from tinyllama_ros.chat.rollover import RolloverPolicy
from tinyllama_ros.chat.streams import StopStream, TextStream
from tinyllama_ros.chat.template import ChatTemplate
from tinyllama_ros.chat.tokenizer import Tokenizer
from tinyllama_ros.engine.drafting import Drafter, LONGEST_DRAFT
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.sampling import Sampler
from tinyllama_ros.errors import BackendError, BackendLost

RECOVERIES = 3
"""How often the model is loaded again for one answer, before the answer fails."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChatModel:
    """The parts of the model that a turn uses."""

    engine: Engine
    tokenizer: Tokenizer
    template: ChatTemplate
    stop_tokens: frozenset[int]
    """Tokens that end an answer: those that the model's files name, and the end of a turn."""

    @classmethod
    def of(cls, engine: Engine, settings: TokenizerSettings, tokenizer: Tokenizer) -> 'ChatModel':
        """
        Return the model that an engine runs, with its tokenizer and its chat template.

        :raises ModelError: the chat template cannot be used.
        """
        template = ChatTemplate(settings, tokenizer)
        end_of_turn = template.end_of_turn()
        return cls(engine, tokenizer, template, frozenset(settings.stop_tokens).union(
            () if end_of_turn is None else (end_of_turn,)))

    @property
    def longest_text(self) -> int:
        """Bytes that would fit the cache if every token were the longest one."""
        return self.engine.cache.capacity * self.tokenizer.longest_token

    def encode(self, system_prompt: str, exchanges: Sequence[Exchange],
               messages: Sequence[Message],
               is_cancelled: Callable[[], bool] = lambda: False) -> list[int]:
        """Return the tokens of a conversation, up to where the answer begins."""
        system = [Message('system', system_prompt)] if system_prompt else []
        earlier = [message for exchange in exchanges for message in exchange]
        return self.template.encode([*system, *earlier, *messages], is_cancelled=is_cancelled)


class Turn:
    """Answers messages; if the cache is full, the oldest exchanges before them are forgotten."""

    def __init__(self, model: ChatModel, exchanges: Sequence[Exchange],
                 messages: Sequence[Message], options: ChatOptions,
                 is_cancelled: Callable[[], bool]) -> None:
        self._model = model
        self._engine = model.engine
        self._options = options
        self._rollover = RolloverPolicy(
            model.engine.cache.capacity, options.room, exchanges, model.longest_text,
            lambda kept: model.encode(options.system_prompt, kept, messages, is_cancelled))
        self._answer = StringIO()
        self._generated: list[int] = []
        self._drafter = Drafter() if options.drafting else None
        self._recoveries = 0

    @property
    def exchanges(self) -> Sequence[Exchange]:
        """The earlier exchanges that are not forgotten."""
        return self._rollover.exchanges

    @property
    def text(self) -> str:
        """The answer so far, as it was yielded."""
        return self._answer.getvalue()

    def run(self) -> Iterator[TurnEvent]:
        """
        Yield the events of the turn, an Answer last unless it is cancelled.

        :raises LengthError: the messages do not fit the cache; nothing was yielded or changed.
        """
        with suppress(Cancelled):
            yield from self._run()

    def _run(self) -> Iterator[TurnEvent]:
        began_s = time.monotonic()
        stream, stop = TextStream(self._model.tokenizer), StopStream(self._options.stop)
        sampler = Sampler(self._options.sampling)
        if self._rollover.fits():
            tokens = self._rollover.whole()
        else:
            tokens = self._rollover.roll_over()
            yield CacheReset('full')
        prefilled = yield from self._prefill(tokens)
        first_s = time.monotonic()
        finish: Finish = 'length'
        while not self._is_at_length():
            token = self._engine.sample(sampler)
            if token in self._model.stop_tokens:
                finish = 'stop'
                break
            self._generated.append(token)
            yield self._delta(stop.push(stream.push(token)))
            if stop.has_ended:
                finish = 'stop'
                break
            if not self._is_at_length():
                yield from self._decode(token)
        if rest := stop.push(stream.finish()) + stop.finish():
            yield self._delta(rest)
        yield Answer(self.text, finish, len(tokens) - prefilled, prefilled, len(self._generated),
                     first_s - began_s, time.monotonic() - first_s)

    def _is_at_length(self) -> bool:
        return 0 < self._options.max_tokens <= len(self._generated)

    def _longest_draft(self) -> int:
        """Return how many tokens a draft may have; the last token of an answer is not decoded."""
        limit = self._options.max_tokens
        return limit - len(self._generated) - 1 if limit else LONGEST_DRAFT

    def _delta(self, text: str) -> TextDelta:
        self._answer.write(text)
        return TextDelta(text)

    def _decode(self, token: int) -> Iterator[TurnEvent]:
        """Decode the token that was just sampled, or roll over first if no slot is free."""
        if not self._engine.cache.room:
            yield CacheReset('full')
            yield from self._prefill(self._rollover.roll_over(self._generated))
            return
        try:
            self._engine.decode(token, self._drafter, self._longest_draft())
        except BackendLost as error:
            tokens = [*self._engine.cache.tokens, token]
            yield from self._recover(error)
            yield from self._prefill(tokens)

    def _prefill(self, tokens: list[int]) -> Generator[TurnEvent, None, int]:
        """
        Make the cache hold these tokens; if the backend is lost, open it again and start over.

        :return: the number of tokens that were not in the cache.
        """
        while True:
            try:
                count = 0
                for count in self._engine.prefill(tokens):
                    yield PrefillProgress(count)
                return count
            except BackendLost as error:
                yield from self._recover(error)

    def _recover(self, error: BackendError) -> Iterator[TurnEvent]:
        """
        Open the backend again, with an empty cache.

        :raises BackendError: it cannot be opened, or it was lost too often.
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
