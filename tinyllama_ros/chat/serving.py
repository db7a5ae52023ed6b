"""
Queues prompts and requests, and answers them one after another.

Prompts and requests (which bring their own history) wait in one queue, because the model answers
one at a time. Prompts, requests, cancels and resets may come from any thread; one thread calls
`serve`, and only that thread uses the conversation. `tell` is called without any lock held, so it
may call the server. Nothing here depends on ROS.
"""

from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import count
import logging
from threading import Event, Lock

from tinyllama_ros.chat.completion import CompletionRequest
from tinyllama_ros.chat.conversation import Conversation
from tinyllama_ros.chat.early_cancels import EarlyCancels
from tinyllama_ros.chat.events import Answer, CacheReset, ChatOptions, TextDelta, TurnEvent
from tinyllama_ros.chat.interruption import InterruptionOptions, Speech, WhenBusy
from tinyllama_ros.chat.jobs import (
    End,
    Job,
    JobKind,
    Outcome,
    PromptJob,
    refusal,
    request_error,
    RequestJob,
    RunningJob,
    Tell,
)
from tinyllama_ros.chat.notices import (
    ErrorNotice,
    InterruptedNotice,
    State,
    StateNotice,
    TurnNotice,
)
from tinyllama_ros.chat.statistics import Statistics
from tinyllama_ros.chat.worker import Worker
from tinyllama_ros.errors import PromptError, RequestError, TinyLlamaError

CANCELLED = End('cancelled', code='cancelled')
STOPPED = End('cancelled', 'the node is stopping; send it again', 'stopping')
"""How an answer ends that is under way when the server is closed."""
REPLACED = End('refused', 'a newer prompt took its place (when_busy)')
ECHO = End('refused', 'the robot was speaking, and it may be its own voice (when_speaking)')

log = logging.getLogger(__name__)


class Server:
    """Answers prompts and requests in their order of arrival."""

    def __init__(self, conversation: Conversation, tell: Tell, *,
                 options: Callable[[], ChatOptions], depth: int,
                 interruption: Callable[[], InterruptionOptions] = InterruptionOptions) -> None:
        """
        Serve a conversation.

        :param tell: called with each notice, in the thread that serves, submits or cancels.
        :param options: called at the start of each turn.
        :param depth: prompts and requests that may wait; one more is refused.
        :param interruption: asked for each prompt.
        """
        self.statistics = Statistics()
        self.speech = Speech()
        self.state: State = 'loading'
        self._conversation = conversation
        self._tell = tell
        self._options = options
        self._depth = depth
        self._interruption = interruption
        self._turns = count(1)
        self._worker: Worker | None = None
        self._serving = Lock()  # held by the thread that serves
        self._lock = Lock()  # guards all below, and the counts
        self._is_open = True
        self._queue: deque[Job] = deque()
        self._entering = 0  # jobs that have room in the queue and are being accepted
        self._resets: deque[Event] = deque()
        self._running: RunningJob | None = None
        self._early_cancels = EarlyCancels()

    @property
    def waiting(self) -> int:
        """Prompts and requests in the queue."""
        return len(self._queue)

    def start(self) -> None:
        """Take prompts, also after a `close`, and answer them in a thread of its own."""
        with self._lock:
            self._is_open = True
        self._worker = Worker(self.serve)
        self._wake()  # the first call of `serve` says that the server is idle

    def submit(self, prompt: str) -> None:
        """Queue a prompt, or report why it is refused; it may interrupt or replace others."""
        job = PromptJob(next(self._turns), prompt, self.speech, self._tell)
        if (when_busy := self.speech.when_busy(self._interruption())) is None:
            self._end(job, ECHO)
        else:
            self._submit(job, when_busy)

    def submit_request(self, request: CompletionRequest) -> None:
        """Queue a request, or report why it is refused."""
        self._submit(RequestJob(request, self._tell))

    def refuse_request(self, request_id: str, error: RequestError) -> None:
        """Count a request that could not be parsed, and report the error."""
        self._count_end('request', 'refused')
        self._tell(request_error(request_id, refusal(error)))

    def cancel_request(self, request_id: str) -> None:
        """Take a request out of the queue, or stop its answer, or refuse it once it comes."""
        with self._lock:
            waiting = [job for job in self._queue if job.id == request_id]
            for job in waiting:
                self._queue.remove(job)
            if self._running is not None and self._running.job.id == request_id:
                self._cut(CANCELLED)
            elif not waiting:
                self._early_cancels.add(request_id)
        for job in waiting:
            self._end(job, CANCELLED)

    def cancel(self) -> Event | None:
        """
        Stop the answer under way before its next forward pass, or what is spoken of the last one.

        :return: is set when the last of the answer was told; None where there is none.
        """
        with self._lock:
            is_answering = self._is_answering_prompt()
            ended = self._cut(CANCELLED)
        if not is_answering:
            self._interrupt_speech()
        return ended

    def reset(self) -> Event:
        """
        Request that the conversation is cleared; cancels the current answer, keeps the queue.

        After a failure the backend is opened again, too: where that fails, the state stays error.

        :return: set when the conversation is cleared.
        """
        done = Event()
        with self._lock:  # both at once, or the cancel could meet the next answer
            if not self._is_open:  # no thread serves, so the caller would wait for ever
                done.set()
                return done
            self._resets.append(done)
            self._cut(CANCELLED)
        self._wake()
        return done

    def serve(self) -> None:
        """Answer until nothing waits."""
        with self._serving:
            while (task := self._next()) is not None:
                try:
                    task()
                finally:
                    with self._lock:
                        running, self._running = self._running, None
                    if running is not None:
                        running.ended.set()
                        if running.cut is not None and running.end is not running.cut:
                            self._interrupt_speech()  # the cut came when the answer had ended
            if self._is_open and self.state != 'error':
                self._set_state('idle')

    def close(self) -> None:
        """Stop the current answer, report waiting jobs as dropped, and end the thread."""
        worker, self._worker = self._worker, None
        try:
            with self._lock:
                self._is_open = False
                self._cut(STOPPED)
            with self._serving:
                self._drop_waiting()
                while self._resets:
                    self._clear(self._resets.popleft())
                self.state = 'loading'
        finally:
            if worker is not None:
                worker.close()

    def abandon(self) -> None:
        """Tell that all is stopped, whatever the model is at; the process must end then."""
        with self._lock:
            self._is_open = False
            running = self._running
        if running is not None:
            self._end_running(running, STOPPED)
        self._drop_waiting()

    def _submit(self, job: Job, when_busy: WhenBusy = 'queue') -> None:
        try:
            job.check(self._conversation)
        except PromptError as error:
            self._end(job, refusal(error))
            return
        with self._lock:
            end = self._refusal(job, when_busy)
            self._entering += end is None
        if end is not None:
            self._end(job, end)
            return
        try:
            job.accept()  # before the job can be answered, and outside of the lock
        finally:
            with self._lock:
                self._entering -= 1
        with self._lock:
            is_open = self._is_open
            is_cancelled = is_open and self._early_cancels.take(job.id)
            is_answering = self._is_answering_prompt()
            replaced: list[Job] = []
            if is_open and not is_cancelled:
                replaced = self._replaceable(when_busy)
                self._queue = deque(other for other in self._queue if other not in replaced)
                self._queue.append(job)
                if when_busy == 'interrupt' and is_answering:
                    self._cut(CANCELLED)
        for other in replaced:
            self._end(other, REPLACED)
        if is_cancelled:
            self._end(job, CANCELLED)
        elif is_open:
            if when_busy == 'interrupt' and not is_answering:
                self._interrupt_speech()
            self._wake()
        else:
            self._drop(job)

    def _replaceable(self, when_busy: WhenBusy) -> list[Job]:
        """Return those jobs in the queue that a new prompt replaces."""
        return [job for job in self._queue
                if when_busy in ('latest', 'interrupt') and job.kind == 'prompt']

    def _is_answering_prompt(self) -> bool:
        """Return whether a prompt is being answered, whose end interrupts its speech, too."""
        return self._running is not None and self._running.job.kind == 'prompt'

    def _interrupt_speech(self) -> None:
        """Make the speech node stop if it still speaks an answer that has ended."""
        if self.speech.is_speaking():
            self.speech.interrupt()
            self._tell(InterruptedNotice())

    def _refusal(self, job: Job, when_busy: WhenBusy) -> End | None:
        """Return why a job may not enter the queue, None if it may."""
        if self._early_cancels.take(job.id):
            return CANCELLED
        if not self._is_open:
            return End('refused', 'the node is stopping; send it again when it is idle',
                       'stopping')
        waiting = len(self._queue) + self._entering
        if when_busy == 'refuse' and (waiting or self._running is not None):
            return End('refused', 'another answer is under way (when_busy); send it again when '
                       'the state is idle', 'busy')
        if waiting - len(self._replaceable(when_busy)) >= self._depth:
            return End('refused', f'{self._depth} prompts are waiting already; send it again when '
                       'an answer has come, or raise queue_depth', 'busy')
        return None

    def _cut(self, end: End) -> Event | None:
        """End the current answer before its next forward pass; the lock is held."""
        if self._running is None:
            return None
        self._running.cut = self._running.cut or end
        return self._running.ended

    def _wake(self) -> None:
        if (worker := self._worker) is not None:
            worker.wake()

    def _next(self) -> Callable[[], None] | None:
        with self._lock:
            if self._resets:
                return partial(self._clear, self._resets.popleft())
            if self._queue and self._is_open:
                self._running = RunningJob(self._queue.popleft())
                return partial(self._answer, self._running)
            return None

    def _answer(self, running: RunningJob) -> None:
        job, answer = running.job, None
        job.begin()
        try:
            with closing(job.events(self._conversation, self._options(),
                                    running.is_cut)) as events:
                for event in events:
                    if running.end is not None:  # the server was abandoned meanwhile
                        break
                    self._pass_on(event, job)
                    if running.is_cut():
                        break
                    if isinstance(event, Answer):
                        answer = event
            end = End('answered', answer=answer)
        except PromptError as error:
            end = refusal(error)
        except TinyLlamaError as error:
            end = End('failed', str(error))
        except Exception as error:  # whatever was raised, the node goes on
            log.exception('an answer failed')
            end = End('failed', repr(error))
        self._end_running(running, end)
        if end.outcome == 'failed':
            self._set_state('error')

    def _pass_on(self, event: TurnEvent, job: Job) -> None:
        """Report an event of the turn to its job, and count it."""
        if isinstance(event, TextDelta):
            self._set_state('answering')
            if event.text:
                job.add_text(event.text)
        elif isinstance(event, CacheReset):
            self.statistics.resets[event.reason] += 1
            job.reset(event.reason)
        elif isinstance(event, Answer):
            self.statistics.prefill_tokens += event.prefill_tokens
            self.statistics.generated_tokens += event.generated_tokens
            self.statistics.last = event
            log.info('%s', event.summary)
        elif not job.has_text:
            self._set_state('reading')

    def _end_running(self, running: RunningJob, end: End) -> None:
        """Report how the current answer ended, if that was not reported yet."""
        with self._lock:
            if running.end is not None:
                return
            if running.cut is not None and end.outcome != 'failed':
                end = running.cut
            running.end = end
        self._end(running.job, end)

    def _end(self, job: Job, end: End) -> None:
        self._count_end(job.kind, end.outcome)
        if job.id is not None:
            with self._lock:
                self._early_cancels.end(job.id)
        job.end(end)
        if job.kind == 'request' and end.outcome == 'failed':
            self._tell(ErrorNotice(f'the answer to a request failed: {end.why}'))

    def _drop_waiting(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    return
                job = self._queue.popleft()
            self._drop(job)

    def _drop(self, job: Job) -> None:
        self._end(job, replace(STOPPED, outcome='dropped'))

    def _count_end(self, kind: JobKind, outcome: Outcome) -> None:
        with self._lock:
            self.statistics.ends[kind, outcome] += 1

    def _clear(self, done: Event) -> None:
        try:
            self._reset_conversation()
        finally:  # also after an unexpected error, because a caller waits
            done.set()

    def _reset_conversation(self) -> None:
        try:
            self._conversation.reset(self._options().system_prompt)
        except TinyLlamaError as error:  # the messages are cleared all the same
            self._tell(ErrorNotice(f'the system prompt cannot be used: {error}'))
        self.statistics.resets['requested'] += 1
        self._tell(TurnNotice(0, 'reset', 'requested'))
        self._set_state('idle' if self._recover() else 'error')

    def _recover(self) -> bool:
        """Reopen a backend that failed; return False if that failed."""
        if not self._is_open:  # it is not needed after a close
            return True
        try:
            self._conversation.recover()
        except TinyLlamaError as error:
            self._tell(ErrorNotice(f'the model could not be loaded again: {error}'))
            return False
        return True

    def _set_state(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self._tell(StateNotice(state))
