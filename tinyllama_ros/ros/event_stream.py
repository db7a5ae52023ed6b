"""Orders the events of a conversation for a client, also for one that joins late."""

from collections import deque
from collections.abc import Callable

from tinyllama_ros.ros.wire import ConversationEvent

PAST_RUNS = 8
"""Runs that are remembered, so that a late message of one of them is not taken for a new run."""


class EventStream:
    """
    Joins ~/history, which is kept for late comers, and ~/event, which has the tokens as well.

    Until the first event comes that follows what ~/history has told, the lines of ~/history are
    passed on, and events that are ahead of them wait; from then on ~/event alone is. Every event
    is passed on once, in the order of its run.
    """

    def __init__(self, on_event: Callable[[ConversationEvent], None]) -> None:
        self._on_event = on_event
        self._run = ''
        self._seq = self._line = 0  # of the last event that was passed on
        self._is_live = False
        self._early: list[ConversationEvent] = []
        self._past: deque[str] = deque(maxlen=PAST_RUNS)

    def add_history(self, event: ConversationEvent) -> None:
        """Take what came on ~/history."""
        if event.run in self._past or (self._is_live and event.run == self._run):
            return
        self._is_live = False
        self._pass_on(event)
        early, self._early = self._early, []
        for waiting in early:
            self.add_live(waiting)

    def add_live(self, event: ConversationEvent) -> None:
        """Take what came on ~/event."""
        if event.run in self._past:
            return
        is_known = event.run == self._run
        if event.seq == 1 or (is_known and (self._is_live or self._lines_before(event)
                                            <= self._line)):
            self._is_live, self._early = True, []
            self._pass_on(event)
        else:
            self._is_live = False
            self._early.append(event)

    @staticmethod
    def _lines_before(event: ConversationEvent) -> int:
        return event.line - (event.kind != 'token')

    def _pass_on(self, event: ConversationEvent) -> None:
        if event.run != self._run:
            self._past.append(self._run)
            self._run, self._seq, self._line = event.run, 0, 0
        if event.seq > self._seq:
            self._seq, self._line = event.seq, event.line
            self._on_event(event)
