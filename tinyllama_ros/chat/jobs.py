"""Defines the jobs in the queue of the server: how each is answered and reported."""

from collections.abc import Callable, Generator
from dataclasses import dataclass, field, replace
from io import StringIO
from threading import Event
from typing import Any, Literal, Protocol

from tinyllama_ros.chat.completion import (
    CompletionEvent,
    CompletionRequest,
    ErrorCode,
    EventKind,
)
from tinyllama_ros.chat.conversation import Conversation
from tinyllama_ros.chat.events import Answer, ChatOptions, ResetReason, TurnEvent
from tinyllama_ros.chat.interruption import Speech
from tinyllama_ros.chat.notices import (
    beginning,
    InterruptedNotice,
    Notice,
    TurnKind,
    TurnNotice,
)
from tinyllama_ros.chat.sentences import Piece, SentenceStream
from tinyllama_ros.chat.spoken_text import spoken
from tinyllama_ros.errors import LengthError, PromptError, RequestError

JobKind = Literal['prompt', 'request']
Outcome = Literal['answered', 'cancelled', 'failed', 'refused', 'dropped']
Tell = Callable[[Notice], None]


@dataclass(frozen=True)
class End:
    """How a job ended."""

    outcome: Outcome
    why: str = ''
    """The reason; empty if the job was answered or a client cancelled it."""
    code: ErrorCode = 'failed'
    """The reason as a code, if the job was not answered."""
    param: str = ''
    """The part of a request that is wrong, if it is one part."""
    answer: Answer | None = None
    """The answer, if the job was answered."""


class Job(Protocol):
    """
    One prompt or request.

    The server calls `accept`, `begin`, `add_text` and `reset` as these things happen, and `end`
    exactly once, as the last of them. It holds no lock meanwhile.
    """

    @property
    def kind(self) -> JobKind:
        """Prompts and requests are counted apart."""

    @property
    def id(self) -> str | None:
        """The id by which the job can be cancelled, if it has one."""

    @property
    def has_text(self) -> bool:
        """Whether the answer has begun."""

    def check(self, conversation: Conversation) -> None:
        """Raise PromptError for what can never be answered, before the job is queued."""

    def events(self, conversation: Conversation, options: ChatOptions,
               is_cancelled: Callable[[], bool]) -> Generator[TurnEvent, None, None]:
        """Answer the job in the conversation; yield the events of the turn."""

    def accept(self) -> None:
        """Report that the queue has room; the job is queued afterwards."""

    def begin(self) -> None:
        """Report that the job has left the queue and is being answered."""

    def add_text(self, delta: str) -> None:
        """Report a text delta of the answer, which is not empty."""

    def reset(self, reason: ResetReason) -> None:
        """Report that the cache was cleared during the answer."""

    def end(self, end: End) -> None:
        """Report how the job ended."""


@dataclass(eq=False)
class RunningJob:
    """The job that is being answered."""

    job: Job
    cut: End | None = None
    """How it is to end at once, where somebody wants that."""
    end: End | None = None
    """How it ended, once that is or was reported."""
    ended: Event = field(default_factory=Event)
    """Set when its last notice was sent."""

    def is_cut(self) -> bool:
        return self.cut is not None


class PromptJob:
    """A turn of the robot's own conversation."""

    kind: JobKind = 'prompt'
    id: str | None = None

    def __init__(self, turn: int, prompt: str, speech: Speech, tell: Tell) -> None:
        self._turn = turn
        self._prompt = prompt
        self._speech = speech
        self._tell_all = tell
        self._sentences = SentenceStream()
        self._answer = StringIO()
        self.has_text = False

    def check(self, conversation: Conversation) -> None:
        conversation.check_prompt(self._prompt)

    def events(self, conversation: Conversation, options: ChatOptions,
               is_cancelled: Callable[[], bool]) -> Generator[TurnEvent, None, None]:
        if (spoken := self._speech.begin_answer()) is not None:
            conversation.cut_last_answer(spoken)
        return conversation.answer(self._prompt, options, is_cancelled)

    def accept(self) -> None:
        """Report nothing: the publisher of a prompt waits for its answer."""

    def begin(self) -> None:
        self._tell('asked', self._prompt)

    def add_text(self, delta: str) -> None:
        self._answer.write(delta)
        self.has_text = True
        self._tell('token', delta)
        self._tell_sentences(self._sentences.push(delta))

    def reset(self, reason: ResetReason) -> None:
        self._tell('reset', reason)

    def end(self, end: End) -> None:
        quoted = repr(self._prompt if len(self._prompt) <= 40 else f'{self._prompt[:40]}…')
        if end.outcome == 'answered':
            self._tell_sentences(self._sentences.finish())
            self._tell('answered', self._answer.getvalue())
        elif end.outcome == 'cancelled':
            self._speech.interrupt()
            self._tell('stopped', self._answer.getvalue(), end.why)
            self._tell_all(InterruptedNotice())
        elif end.outcome == 'failed':
            self._tell('failed', self._answer.getvalue(), end.why,
                       f'the answer to {quoted} failed: {end.why}')
        elif end.outcome == 'refused':
            self._tell('refused', beginning(self._prompt), end.why,
                       f'the prompt {quoted} was refused: {end.why}')
        else:
            self._tell('dropped', self._prompt, end.why,
                       f'the prompt {quoted} was not answered: {end.why}')

    def _tell_sentences(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            if said := spoken(piece.text, piece.is_code):
                self._speech.add_sentence()
                self._tell('sentence', said)

    def _tell(self, kind: TurnKind, text: str, why: str = '', error: str = '') -> None:
        self._tell_all(TurnNotice(self._turn, kind, text, why, error))


class RequestJob:
    """A request that brings its own history."""

    kind: JobKind = 'request'

    def __init__(self, request: CompletionRequest, tell: Tell) -> None:
        self.id: str | None = request.id
        self._request = request
        self._tell_all = tell
        self.has_text = False

    def check(self, conversation: Conversation) -> None:
        conversation.check_size(message.content for message in self._request.messages)

    def events(self, conversation: Conversation, options: ChatOptions,
               is_cancelled: Callable[[], bool]) -> Generator[TurnEvent, None, None]:
        return conversation.complete(self._request.messages, self._options(options), is_cancelled)

    def accept(self) -> None:
        self._tell('accepted')

    def begin(self) -> None:
        """Report nothing: the first text delta shows it."""

    def add_text(self, delta: str) -> None:
        self.has_text = True
        self._tell('token', delta)

    def reset(self, reason: ResetReason) -> None:
        self._tell('reset', reason)

    def end(self, end: End) -> None:
        if end.answer is None:
            self._tell_all(request_error(self._request.id, end))
            return
        answer = end.answer
        self._tell_all(CompletionEvent(
            self._request.id, 'done', answer.text, finish=answer.finish,
            prompt_tokens=answer.cached_tokens + answer.prefill_tokens,
            cached_tokens=answer.cached_tokens, completion_tokens=answer.generated_tokens))

    def _tell(self, kind: EventKind, text: str = '') -> None:
        self._tell_all(CompletionEvent(self._request.id, kind, text))

    def _options(self, defaults: ChatOptions) -> ChatOptions:
        """Return the options of the turn; a system prompt is among the request's messages."""
        request = self._request
        limits = [limit for limit in (request.max_tokens, defaults.max_tokens) if limit]
        given: dict[str, Any] = {name: value for name in ('temperature', 'top_p', 'seed')
                                 if (value := getattr(request, name)) is not None}
        return replace(defaults, system_prompt='', stop=request.stop,
                       max_tokens=min(limits, default=0),
                       sampling=replace(defaults.sampling, **given))


def request_error(request_id: str, end: End) -> CompletionEvent:
    """Return the event for a request that was not answered."""
    return CompletionEvent(request_id, 'error', end.why or 'it was cancelled', end.code, end.param)


def refusal(error: PromptError) -> End:
    """Return the end of a prompt or request that is refused."""
    code: ErrorCode = 'too_long' if isinstance(error, LengthError) else 'invalid_request'
    param = error.param if isinstance(error, RequestError) else ''
    return End('refused', str(error), code, param)
