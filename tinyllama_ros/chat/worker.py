"""A background thread that runs a function each time it is woken."""

from collections.abc import Callable
import logging
from threading import Event, Thread

log = logging.getLogger(__name__)


class Worker:
    """
    Calls a function in a thread of its own after each `wake`; wakes during a call cause one more.

    A guard condition of ROS is not used, because its trigger can be lost: rmw_fastrtps reads its
    value and clears it in two steps at the end of each wait (`rmw_wait.cpp`; ros2/rclcpp#3240 has
    an analysis), and a trigger in between is lost. A prompt would wait until the next one comes.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._woken = Event()
        self._is_closed = False
        self._thread = Thread(target=self._run, name='worker', daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Request a call of the function, which starts after this; from any thread."""
        self._woken.set()

    def close(self) -> None:
        """End the thread, after the current call of the function."""
        self._is_closed = True
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        while self._woken.wait() and not self._is_closed:
            self._woken.clear()  # before the work, so that a wake during the work is not lost
            try:
                self._work()
            except Exception:  # the edge: whatever went wrong, the next call may go well
                log.exception('while working')
