"""A server whose conversation was decided beforehand, and a listener that writes all down."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tinyllama_ros.chat.completion import CompletionEvent, CompletionRequest
from tinyllama_ros.chat.events import (
    Answer,
    CacheReset,
    ChatOptions,
    PrefillProgress,
    TextDelta,
    TurnEvent,
)
from tinyllama_ros.chat.interruption import InterruptionOptions
from tinyllama_ros.chat.message import Message
from tinyllama_ros.chat.notices import (
    ErrorNotice,
    InterruptedNotice,
    Notice,
    StateNotice,
    TurnNotice,
)
from tinyllama_ros.chat.serving import Server
from tinyllama_ros.errors import LengthError, PromptError

LONGEST = 50_000
SAID = 'I am one. You are two.'
READ = [PrefillProgress(0), PrefillProgress(5)]
PIECES = [TextDelta('I am one.'), TextDelta(' You'), TextDelta(''), TextDelta(' are two.')]
ANSWER = Answer(SAID, 'stop', 0, 5, 4, 0.5, 2.0)


class Script:
    """
    A conversation in which everything was decided beforehand.

    A step is an event, an error to raise, or something to do between two events.
    """

    def __init__(self, **answers: list[TurnEvent | Exception | Callable[[], object]]) -> None:
        self._answers = answers
        self.prompts: list[str] = []
        self.options: list[ChatOptions] = []
        self.ended: list[str] = []
        self.reset_to: list[str] = []
        self.recovered: list[Exception | None] = []
        self.recover_error: Exception | None = None
        self.kept: list[str] = []
        """To what the last answer was cut."""

    def answer(self, prompt: str, options: ChatOptions,
               is_cancelled: Callable[[], bool]) -> Iterator[TurnEvent]:
        self.prompts.append(prompt)
        self.options.append(options)
        try:
            for step in self._answers.get(prompt, [*READ, *PIECES, ANSWER]):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, (PrefillProgress, TextDelta, CacheReset, Answer)):
                    yield step
                else:
                    step()
        finally:
            self.ended.append(prompt)

    def complete(self, messages: tuple[Message, ...], options: ChatOptions,
                 is_cancelled: Callable[[], bool]) -> Iterator[TurnEvent]:
        return self.answer(messages[-1].content, options, is_cancelled)

    def check_prompt(self, prompt: str) -> None:
        self.check_size([prompt])
        if not prompt:
            raise PromptError('it is empty; send a text')

    def check_size(self, texts: Iterable[str]) -> None:
        if any(len(text) > LONGEST for text in texts):
            raise LengthError('it is too long; shorten it')

    def cut_last_answer(self, text: str) -> None:
        self.kept.append(text)

    def reset(self, system_prompt: str) -> None:
        self.reset_to.append(system_prompt)

    def recover(self) -> None:
        self.recovered.append(self.recover_error)
        if self.recover_error:
            raise self.recover_error


@dataclass
class Recorder:
    """A listener that writes everything down."""

    received: list[tuple[str, str]] = field(default_factory=list)
    record: list[tuple[str, ...]] = field(default_factory=list)
    completions: list[CompletionEvent] = field(default_factory=list)
    turns: list[tuple[int, str]] = field(default_factory=list)
    then: Callable[[Notice], object] = lambda notice: None
    """Called after each notice."""

    def tell(self, notice: Notice) -> None:
        if isinstance(notice, CompletionEvent):
            self.completions.append(notice)
        elif isinstance(notice, StateNotice):
            self.received.append(('state', notice.state))
        elif isinstance(notice, InterruptedNotice):
            self.received.append(('interrupted', ''))
        elif isinstance(notice, ErrorNotice):
            self.received.append(('error', notice.message))
        else:
            self._tell_turn(notice)
        self.then(notice)

    def _tell_turn(self, notice: TurnNotice) -> None:
        self.turns.append((notice.turn, notice.kind))
        if notice.kind in ('token', 'sentence', 'reset'):
            self.received.append((notice.kind, notice.text))
        if notice.kind not in ('token', 'sentence'):
            why = (notice.why,) if notice.why else ()
            self.record.append((notice.kind, notice.text, *why))
        if notice.error:
            self.received.append(('error', notice.error))
        if notice.kind in ('answered', 'stopped', 'failed'):
            self.received.append(('response', notice.text))
        elif notice.kind == 'dropped':
            self.received.append(('response', ''))

    def all(self, kind: str) -> list[str]:
        """Return the received texts of one kind."""
        return [text for each, text in self.received if each == kind]


class Scripted:
    """A server, its script and its listener."""

    def __init__(self, depth: int = 3,
                 **answers: list[TurnEvent | Exception | Callable[[], object]]) -> None:
        self.script, self.recorder = Script(**answers), Recorder()
        self.interruption = InterruptionOptions()
        self.server = Server(self.script, self.recorder.tell, depth=depth,
                             options=lambda: ChatOptions(system_prompt='Be brief.'),
                             interruption=lambda: self.interruption)

    def serve(self, *prompts: str | CompletionRequest) -> list[tuple[str, str]]:
        """Return what was received while prompts are answered."""
        for prompt in prompts:
            if isinstance(prompt, str):
                self.server.submit(prompt)
            else:
                self.server.submit_request(prompt)
        self.server.serve()
        return self.recorder.received

    def told(self, request_id: str = 'one') -> list[tuple[str, str]]:
        """Return what was told of a request."""
        return [(event.kind, event.code or event.text) for event in self.recorder.completions
                if event.id == request_id]


def request(text: str = 'a', name: str = 'one', **options: Any) -> CompletionRequest:
    return CompletionRequest(name, (Message('user', text),), **options)
