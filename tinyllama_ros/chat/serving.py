"""
The queue in front of one conversation: prompts in, what is to be published out.

Requests that bring their own history wait in the same queue, so that nothing is ever said in two
conversations at once. Prompts, requests, cancels and resets come from any thread; one worker calls
`serve`, and only it touches the conversation. Knows nothing of ROS.
"""

from collections import Counter, deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
import logging
from threading import Event, Lock
from typing import Any, Literal, Protocol

from tinyllama_ros.chat.completion import (
    CompletionEvent,
    CompletionRequest,
    ErrorCode,
    EventKind,
)
from tinyllama_ros.chat.conversation import Conversation
from tinyllama_ros.chat.events import (
    Answer,
    CacheReset,
    ChatOptions,
    PrefillProgress,
    ResetReason,
    TextDelta,
    TurnEvent,
)
from tinyllama_ros.chat.sentences import SentenceStream
from tinyllama_ros.errors import LengthError, PromptError, TinyLlamaError

State = Literal['loading', 'idle', 'reading', 'answering', 'error']
RecordKind = Literal['asked', 'answered', 'stopped', 'failed', 'refused', 'dropped', 'reset']

OVERTAKEN = 64
"""Cancels that are remembered until their request comes; topics keep no order between them."""

log = logging.getLogger(__name__)


class Listener(Protocol):
    """Who is told what happens: in the worker's thread, or in that of whoever submits."""

    def on_state(self, state: State) -> None:
        """Hear that the server is in another state."""

    def on_token(self, text: str) -> None:
        """Hear a piece of the answer: never empty, whole characters."""

    def on_sentence(self, text: str) -> None:
        """Hear a sentence of the answer."""

    def on_response(self, text: str) -> None:
        """Hear the answer to an accepted prompt, whole or cut short."""

    def on_reset(self, reason: ResetReason) -> None:
        """Hear that the cache was cleared."""

    def on_error(self, message: str) -> None:
        """Hear that a prompt was refused, or that an answer failed."""

    def on_completion(self, event: CompletionEvent) -> None:
        """Hear what happens to a request; nothing of it is told anywhere else."""

    def on_record(self, kind: RecordKind, text: str, why: str = '') -> None:
        """
        Hear a line of the record of the conversation, all in one order.

        :param text: the prompt when asked, refused or dropped (never asked); what was said when
            answered, stopped or failed; the reason of a reset.
        """


@dataclass
class Statistics:
    """What was counted since the model was loaded."""

    answers: int = 0
    """Responses published; those cut short by a cancel count too."""
    completions: int = 0
    """Requests that were answered."""
    cancelled: int = 0
    refused: int = 0
    failed: int = 0
    prefill_tokens: int = 0
    generated_tokens: int = 0
    resets: Counter[str] = field(default_factory=Counter)
    last: Answer | None = None
    """The newest answer that was not cut short."""


class Server:
    """Serves prompts in the order in which they came."""

    def __init__(self, conversation: Conversation, listener: Listener, *,
                 options: Callable[[], ChatOptions], depth: int) -> None:
        """
        Serve a conversation.

        :param options: asked at the start of each turn.
        :param depth: prompts and requests that may wait; one more is refused.
        :raises ConfigError: the library that finds sentences is not installed.
        """
        SentenceStream()  # to fail here rather than at the first answer
        self.statistics = Statistics()
        self.state: State = 'loading'
        self._conversation = conversation
        self._listener = listener
        self._options = options
        self._depth = depth
        self._serving = Lock()  # held by the worker while it serves
        self._lock = Lock()  # guards all below
        self._is_open = True
        self._prompts: deque[str | CompletionRequest] = deque()
        self._resets: deque[Event] = deque()
        self._cancelled: Event | None = None
        self._completing = ''  # id of the request under way
        self._overtaken: deque[str] = deque(maxlen=OVERTAKEN)  # cancelled before they came

    @property
    def waiting(self) -> int:
        """Prompts and requests in the queue."""
        return len(self._prompts)

    def submit(self, prompt: str) -> None:
        """Queue a prompt, or tell the listener why not; then have `serve` called."""
        with self._lock:
            is_open, is_full = self._is_open, len(self._prompts) >= self._depth
            if is_open and not is_full:
                self._prompts.append(prompt)
        if not is_open:
            self._refuse(prompt, 'the node is stopping; send it again when ~/state is idle')
        elif is_full:
            self._refuse(prompt, f'{self._depth} prompts are waiting already; send it again when '
                         'an answer has come, or raise queue_depth')

    def submit_request(self, request: CompletionRequest) -> None:
        """Queue a request, or tell the listener why not; then have `serve` called."""
        client = _Client(self._listener, request.id)
        with self._lock:
            if request.id in self._overtaken:
                client.fail('cancelled', 'it was cancelled')
            elif not self._is_open:
                client.fail('stopping', 'the node is stopping')
            elif len(self._prompts) >= self._depth:
                client.fail('busy', f'{self._depth} prompts are waiting already')
            else:
                client.tell('accepted')
                self._prompts.append(request)

    def cancel_request(self, request_id: str) -> None:
        """Take a request out of the queue, or stop its answer, or refuse it when it comes."""
        with self._lock:
            waiting = [each for each in self._prompts
                       if isinstance(each, CompletionRequest) and each.id == request_id]
            for request in waiting:
                self._prompts.remove(request)
                _Client(self._listener, request_id).fail('cancelled', 'it was cancelled')
            if self._completing == request_id and self._cancelled is not None:
                self._cancelled.set()
            elif not waiting:
                self._overtaken.append(request_id)

    def cancel(self) -> bool:
        """Stop the answer under way before its next forward pass; False where there is none."""
        with self._lock:
            if self._cancelled is None:
                return False
            self._cancelled.set()
            return True

    def reset(self) -> Event:
        """
        Ask for a cleared conversation; the answer under way is cancelled, the queue stays.

        After a failure the backend is opened again, too: where that fails, the state stays error.
        Then have `serve` called; the flag returned is set when the conversation is cleared.
        """
        done = Event()
        with self._lock:  # both at once, or the cancel could meet the next answer
            if not self._is_open:  # nobody serves any more, and whoever waits would wait in vain
                done.set()
                return done
            self._resets.append(done)
            if self._cancelled is not None:
                self._cancelled.set()
        return done

    def open(self) -> None:
        """Take prompts again after a close."""
        with self._lock:
            self._is_open = True

    def serve(self) -> None:
        """Serve until nothing waits."""
        with self._serving:
            while (job := self._next()) is not None:
                try:
                    job()
                finally:
                    with self._lock:
                        self._cancelled, self._completing = None, ''
            if self._is_open and self.state != 'error':
                self._become('idle')

    def close(self) -> None:
        """Cut the answer under way short, and answer what waits with nothing, saying so."""
        with self._lock:
            self._is_open = False
            dropped = list(self._prompts)
            self._prompts.clear()
        self.cancel()
        with self._serving:
            for prompt in dropped:
                if isinstance(prompt, CompletionRequest):
                    _Client(self._listener, prompt.id).fail('stopping', 'the node is stopping')
                    continue
                why = 'the node is stopping; send it again'
                self._listener.on_record('dropped', prompt, why)
                self._fail(f'the prompt {_quote(prompt)} was not answered: {why}', '')
            while self._resets:
                self._clear(self._resets.popleft())
            self.state = 'loading'

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            if self._resets:
                return partial(self._clear, self._resets.popleft())
            if self._prompts:
                self._cancelled, prompt = Event(), self._prompts.popleft()
                if isinstance(prompt, CompletionRequest):
                    self._completing = prompt.id
                    return partial(self._complete, prompt, self._cancelled)
                return partial(self._answer, prompt, self._cancelled)
            return None

    def _clear(self, done: Event) -> None:
        try:
            self._forget()
        finally:  # also where something unforeseen fails, for somebody waits
            done.set()

    def _forget(self) -> None:
        try:
            self._conversation.reset(self._options().system_prompt)
        except TinyLlamaError as error:  # all is forgotten, but the system prompt cannot be kept
            self._listener.on_error(f'the system prompt cannot be used: {error}')
        self.statistics.resets['requested'] += 1
        _Voice(self._listener).reset('requested')
        self._become('idle' if self._mend() else 'error')

    def _mend(self) -> bool:
        """Open a backend that failed again; False where it could not be opened."""
        if not self._is_open:  # nobody needs it any more
            return True
        try:
            self._conversation.recover()
        except TinyLlamaError as error:
            self._listener.on_error(f'the model could not be loaded again: {error}')
            return False
        return True

    def _answer(self, prompt: str, cancelled: Event) -> None:
        voice = _Voice(self._listener)
        self._listener.on_record('asked', prompt)
        try:
            with closing(self._conversation.answer(prompt, self._options())) as events:
                for event in events:
                    self._tell(event, voice)
                    if cancelled.is_set():
                        break
        except PromptError as error:
            self._refuse(prompt, str(error))
            return
        except TinyLlamaError as error:
            self._fail_answer(prompt, str(error), voice.text)
            return
        except Exception as error:  # the edge: whatever went wrong, the node lives on
            log.exception('while answering')
            self._fail_answer(prompt, repr(error), voice.text)
            return
        if cancelled.is_set():
            self.statistics.cancelled += 1
        else:
            voice.finish()
        self.statistics.answers += 1
        self._listener.on_record('stopped' if cancelled.is_set() else 'answered', voice.text)
        self._listener.on_response(voice.text)

    def _complete(self, request: CompletionRequest, cancelled: Event) -> None:
        client = _Client(self._listener, request.id)
        try:
            options = _options_of(request, self._options())
            with closing(self._conversation.complete(request.messages, options)) as events:
                for event in events:
                    self._tell(event, client)
                    if cancelled.is_set():
                        break
        except PromptError as error:
            self.statistics.refused += 1
            client.fail('too_long' if isinstance(error, LengthError) else 'invalid_request',
                        str(error))
        except Exception as error:  # the edge: whatever went wrong, the node lives on
            why = str(error)
            if not isinstance(error, TinyLlamaError):
                log.exception('while answering a request')
                why = repr(error)
            self.statistics.failed += 1
            client.fail('failed', why)
            self._listener.on_error(f'the answer to a request failed: {why}')
            self._become('error')
        else:
            self._end_completion(client)

    def _end_completion(self, client: '_Client') -> None:
        if client.answer is None:
            self.statistics.cancelled += 1
            client.fail('cancelled', 'it was cancelled')
        else:
            self.statistics.completions += 1
            client.finish(client.answer)

    def _tell(self, event: TurnEvent, voice: '_Voice | _Client') -> None:
        if isinstance(event, TextDelta):
            self._become('answering')
            voice.say(event.text)
        elif isinstance(event, CacheReset):
            self.statistics.resets[event.reason] += 1
            voice.reset(event.reason)
        elif isinstance(event, PrefillProgress):
            if not voice.text:
                self._become('reading')
        else:
            self._count(event)
            voice.answer = event

    def _count(self, answer: Answer) -> None:
        self.statistics.prefill_tokens += answer.prefill_tokens
        self.statistics.generated_tokens += answer.generated_tokens
        self.statistics.last = answer
        log.info('%s', answer.summary)

    def _become(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._listener.on_state(state)

    def _refuse(self, prompt: str, why: str) -> None:
        self.statistics.refused += 1
        self._listener.on_record('refused', prompt, why)
        self._listener.on_error(f'the prompt {_quote(prompt)} was refused: {why}')

    def _fail_answer(self, prompt: str, why: str, said: str) -> None:
        self._listener.on_record('failed', said, why)
        self._fail(f'the answer to {_quote(prompt)} failed: {why}', said)

    def _fail(self, message: str, said: str) -> None:
        self.statistics.failed += 1
        self._listener.on_error(message)
        self._listener.on_response(said)
        self._become('error')


class _Voice:
    """What was said of one answer: pieces as they come, sentences when they end."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self._sentences = SentenceStream()
        self.text = ''
        self.answer: Answer | None = None

    def say(self, piece: str) -> None:
        if piece:
            self.text += piece
            self._listener.on_token(piece)
            self._tell(self._sentences.push(piece))

    def reset(self, reason: ResetReason) -> None:
        self._listener.on_record('reset', reason)
        self._listener.on_reset(reason)

    def finish(self) -> None:
        self._tell(self._sentences.finish())

    def _tell(self, sentences: list[str]) -> None:
        for sentence in sentences:
            self._listener.on_sentence(sentence)


class _Client:
    """Who asked for a completion, and what was said to it."""

    def __init__(self, listener: Listener, request_id: str) -> None:
        self._listener = listener
        self._id = request_id
        self.text = ''
        self.answer: Answer | None = None

    def say(self, piece: str) -> None:
        if piece:
            self.text += piece
            self.tell('token', piece)

    def reset(self, reason: ResetReason) -> None:
        self.tell('reset', reason)

    def finish(self, answer: Answer) -> None:
        self._listener.on_completion(CompletionEvent(
            self._id, 'done', self.text, finish=answer.finish,
            prompt_tokens=answer.cached_tokens + answer.prefill_tokens,
            cached_tokens=answer.cached_tokens, completion_tokens=answer.generated_tokens))

    def fail(self, code: ErrorCode, why: str) -> None:
        self._listener.on_completion(CompletionEvent(self._id, 'error', why, code))

    def tell(self, kind: EventKind, text: str = '') -> None:
        self._listener.on_completion(CompletionEvent(self._id, kind, text))


def _options_of(request: CompletionRequest, usual: ChatOptions) -> ChatOptions:
    """Return the options of a request's turn; the system prompt is the request's own affair."""
    limits = [limit for limit in (request.max_tokens, usual.max_tokens) if limit]
    given: dict[str, Any] = {name: value for name in ('temperature', 'top_p', 'seed')
                             if (value := getattr(request, name)) is not None}
    return replace(usual, system_prompt='', stop=request.stop, max_tokens=min(limits, default=0),
                   sampling=replace(usual.sampling, **given))


def _quote(prompt: str) -> str:
    """Return a prompt short enough for a message."""
    return repr(prompt if len(prompt) <= 40 else f'{prompt[:40]}…')
