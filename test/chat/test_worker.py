from threading import Event, Semaphore, Thread

import pytest

from tinyllama_ros.chat.worker import Worker

DEADLINE_S = 10.0


class Bench:
    """A worker whose calls begin and end where the test says so."""

    def __init__(self):
        self.begun, self._ends = Semaphore(0), Semaphore(0)
        self.calls = 0
        self.failure = None
        self.worker = Worker(self._work)

    def wait_until_it_begins(self):
        assert self.begun.acquire(timeout=DEADLINE_S)

    def let_it_end(self, times=1):
        self._ends.release(times)

    def close(self):
        """Close, and return how many calls there were."""
        self.worker.close()
        return self.calls

    def _work(self):
        self.calls += 1
        self.begun.release()
        assert self._ends.acquire(timeout=DEADLINE_S)
        if self.failure is not None:
            raise self.failure


@pytest.fixture
def bench():
    bench = Bench()
    yield bench
    bench.let_it_end(9)
    bench.close()


def test_nothing_is_called_before_it_is_woken(bench):
    assert bench.close() == 0


def test_each_wake_of_an_idle_worker_is_a_call(bench):
    for _ in range(3):
        bench.worker.wake()
        bench.wait_until_it_begins()
        bench.let_it_end()
    assert bench.close() == 3


def test_wakes_during_a_call_are_one_more_call(bench):
    bench.worker.wake()
    bench.wait_until_it_begins()
    for _ in range(5):
        bench.worker.wake()
    bench.let_it_end()
    bench.wait_until_it_begins()
    bench.let_it_end()
    assert not bench.begun.acquire(timeout=0.05)
    assert bench.close() == 2


def test_no_wake_is_lost_in_a_thousand():
    done = Semaphore(0)
    calls = []

    def work():  # each call asks for the next one while it is under way
        calls.append(None)
        worker.wake() if len(calls) < 1000 else done.release()
    worker = Worker(work)
    worker.wake()
    assert done.acquire(timeout=DEADLINE_S)
    worker.close()
    assert len(calls) == 1000


def test_failed_call_is_logged_and_the_next_wake_is_a_call(bench, caplog):
    bench.failure = RuntimeError('a bug')
    bench.worker.wake()
    bench.wait_until_it_begins()
    bench.let_it_end()
    bench.worker.wake()
    bench.wait_until_it_begins()
    bench.failure = None
    bench.let_it_end()
    assert bench.close() == 2
    assert 'a bug' in caplog.text


def test_close_waits_for_the_call_under_way_and_begins_none(bench):
    bench.worker.wake()
    bench.wait_until_it_begins()
    bench.worker.wake()
    closed = Event()
    closing = Thread(target=lambda: (bench.worker.close(), closed.set()))
    closing.start()
    assert not closed.wait(0.05)
    bench.let_it_end()
    assert closed.wait(DEADLINE_S)
    assert bench.calls == 1
