"""acl.rt: streams, the work given to them, and callbacks."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
import queue
import threading
import time
from typing import Any

from acl import codes
from acl.errors import Failure
from acl.memory import Allocation
from acl.process import call, Context, current

_LIMIT = 512
_numbers = count(1)


@dataclass
class Task:
    """Work on a stream; the memory it uses counts as in use until somebody has waited for it."""

    run: Callable[[], None]
    label: str
    uses: list[Allocation] = field(default_factory=list)

    def release(self) -> None:
        """Let go of the memory."""
        for made in self.uses:
            made.used_by.pop(self.label, None)


class Stream:
    """Does work in order in its own thread; a failure is reported to the thread that waits."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.number = next(_numbers)
        self.subscriber = 0
        self._waiting: deque[Task] = deque()
        self._unreleased: list[Task] = []
        self._busy = 0
        self._error = 0
        self._is_closed = False
        self._changed = threading.Condition()
        self._worker: threading.Thread | None = None

    @property
    def name(self) -> str:
        return f'stream {self.number}'

    def submit(self, run: Callable[[], None], reads: list[Allocation] = (),  # type: ignore
               writes: list[Allocation] = (), what: str = 'copy') -> None:  # type: ignore
        """Append work, or the fault that was injected in its place."""
        code, current().thread.late = getattr(current().thread, 'late', 0), 0
        task = Task(run, f'{self.name} ({what}, task {next(_numbers)})', [*reads, *writes])
        if code:
            def fail() -> None:
                raise Failure(code, 'injected failure')
            task.run = fail
        for made in reads:
            made.used_by[task.label] = False
        for made in writes:
            made.used_by[task.label] = True
        with self._changed:
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name=self.name, daemon=True)
                self._worker.start()
            self._waiting.append(task)
            self._unreleased.append(task)
            self._busy += 1
            self._changed.notify_all()

    def is_idle(self) -> bool:
        """Return whether all work is done; does not wait for it."""
        return self._busy == 0

    def has_unwaited(self) -> bool:
        """Return whether there was work for which no thread has waited."""
        return bool(self._unreleased)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for all work and return the code of what went wrong first, or 0."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._busy == 0, timeout_s):
                return codes.RT_STREAM_SYNC_TIMEOUT
            self.release()
            error, self._error = self._error, 0
            return error

    def drain(self) -> None:
        """Wait for all work, as a copy to ordinary memory does; errors are kept for later."""
        with self._changed:
            self._changed.wait_for(lambda: self._busy == 0)

    def release(self) -> None:
        """Let go of the memory of all work that is done."""
        waiting = set(map(id, self._waiting))
        for task in self._unreleased:
            if id(task) not in waiting:
                task.release()
        self._unreleased = [task for task in self._unreleased if id(task) in waiting]

    def close(self) -> None:
        """End the thread once it has done its work."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        if self._worker is not None and self._worker is not threading.current_thread():
            self._worker.join()
        self.release()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._is_closed)
                if not self._waiting:
                    return
                task = self._waiting.popleft()
            code = self.context.lost or self.context.device.lost
            try:
                if not code:
                    task.run()
            except Failure as failure:
                code = failure.code
                current().lose(self.context, code)
            except Exception as error:  # any error is passed to the thread that waits
                current().record(f'{self.name}: {error!r}')
                code = codes.FAILURE
            with self._changed:
                self._error = self._error or code
                self._busy -= 1
                self._changed.notify_all()


def stream_of(handle: int, use: str) -> Stream:
    """Return a stream of this thread's context; 0 is the context's own."""
    process = current()
    context = process.context()
    if handle == 0:
        if context.default_stream is None:
            context.default_stream = Stream(context)
        return context.default_stream
    stream = process.handles.find(handle, Stream)
    if stream is None:
        raise Failure(codes.RT_INVALID_HANDLE, f'{use}: {process.handles.name(handle)}')
    if stream.context is not context:
        raise Failure(codes.RT_STREAM_CONTEXT, f'{use}: {handle:#x} is of another context')
    return stream


@call('', (0,), needs='context')
def create_stream() -> int:
    process = current()
    if len(process.handles.of(Stream)) >= _LIMIT - 1:
        raise Failure(codes.RT_STREAM_RESOURCE, f'a device has {_LIMIT} streams')
    return process.handles.add(Stream(process.context()))


@call('k')
def destroy_stream(handle: int) -> None:
    process = current()
    if handle == 0:
        raise Failure(codes.INVALID_PARAM, 'the default stream goes with its context')
    stream = stream_of(handle, 'destroy_stream')
    if stream.has_unwaited() and not (stream.context.lost or stream.context.device.lost):
        process.record(f'{stream.name} destroyed before it was synchronized')
    process.handles.remove(handle, Stream, 'destroy_stream')
    stream.close()


@call('k', waits=True)
def synchronize_stream(handle: int) -> None:
    _wait(handle, None)


@call('ki', waits=True)
def synchronize_stream_with_timeout(handle: int, timeout_ms: int) -> None:
    _wait(handle, None if timeout_ms < 0 else timeout_ms / 1000)


@call('', waits=True, needs='context')
def synchronize_device() -> None:
    context = current().context()
    for stream in [*current().handles.of(Stream).values(), context.default_stream]:
        code = stream.wait() if stream is not None else 0
        if code:
            raise Failure(code, f'{stream.name} failed')


@call('k', (0,))
def stream_query(handle: int) -> int:
    return 1 - stream_of(handle, 'stream_query').is_idle()  # 0: complete


@call('kk')
def subscribe_report(thread_id: int, handle: int) -> None:
    stream_of(handle, 'subscribe_report').subscriber = thread_id
    _reports(thread_id)


@call('kk')
def unsubscribe_report(thread_id: int, handle: int) -> None:
    stream = stream_of(handle, 'unsubscribe_report')
    if stream.subscriber != thread_id:
        raise Failure(codes.RT_INVALID_PARAM, 'this thread is not subscribed to this stream')
    stream.subscriber = 0


@call('OOik', needs='context')
def launch_callback(function: Any, user_data: Any, is_blocking: int, handle: int) -> None:
    stream = stream_of(handle, 'launch_callback')
    if not stream.subscriber:
        raise Failure(107013, 'no thread is subscribed to this stream')
    reports = _reports(stream.subscriber)

    def run() -> None:
        done = threading.Event()
        reports.put((stream, function, user_data, done))
        if is_blocking:
            done.wait()
    stream.submit(run)


@call('i', waits=True)
def process_report(timeout_ms: int) -> None:
    reports = _reports(threading.get_ident())
    try:
        stream, function, user_data, done = reports.get(
            timeout=None if timeout_ms < 0 else timeout_ms / 1000)
    except queue.Empty:
        raise Failure(codes.RT_REPORT_TIMEOUT, f'no callback within {timeout_ms} ms') from None
    stream.release()  # whatever went before a callback is done
    try:
        function(user_data)
    finally:
        done.set()


def _reports(thread_id: int) -> 'queue.Queue[Any]':
    return current().reports.setdefault(thread_id, queue.Queue())


def _wait(handle: int, timeout_s: float | None) -> None:
    process = current()
    with process.lock:
        stream = stream_of(handle, 'synchronize_stream')
        lost = stream.context.lost or stream.context.device.lost
    started = time.monotonic()
    code = stream.wait(timeout_s) or lost
    process.waited_s += time.monotonic() - started
    if code:
        raise Failure(code, f'work on {stream.name} failed')
