"""A background thread that runs a function each time it is woken."""

from collections.abc import Callable
import logging
from threading import Event, Thread

log = logging.getLogger(__name__)


class Worker:
    """
    Calls a function in a thread of its own after a `wake`; wakes during a call make one more.

    In place of a guard condition of ROS, whose trigger can be lost: rmw_fastrtps reads its value
    and clears it in two steps at the end of each wait (`rmw_wait.cpp`; ros2/rclcpp#3240 has an
    analysis), and what was triggered in between is forgotten. A prompt would lie unanswered until
    the next one came.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work = work
        self._woken = Event()
        self._is_closed = False
        self._thread = Thread(target=self._run, name='worker', daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Have the function called, from its beginning, after this; from any thread."""
        self._woken.set()

    def close(self) -> None:
        """End the thread; what it is at comes to its end first."""
        self._is_closed = True
        self._woken.set()
        self._thread.join()

    def _run(self) -> None:
        while self._woken.wait() and not self._is_closed:
            self._woken.clear()  # before the work, so that a wake during it is not forgotten
            try:
                self._work()
            except Exception:  # the edge: whatever went wrong, the next call may go well
                log.exception('while working')
