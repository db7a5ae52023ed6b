"""Orders the events of a conversation for a client, also for one that joins late."""

from collections import deque
from collections.abc import Callable

from tinyllama_ros.ros.wire import ConversationEvent

MOST_EARLY = 1000
"""Events that wait for ~/history: as many as a topic's queue holds."""
PAST_RUNS = 8
"""Earlier runs that are remembered, to recognise late messages of them."""


class EventStream:
    """
    Merges ~/history, which late subscribers receive, and ~/event, which also has the tokens.

    At first it passes on the lines of ~/history, and keeps events that are ahead of them. As soon
    as an event follows the last line, it passes on ~/event only. Each event is passed on once, in
    the order of its run.
    """

    def __init__(self, on_event: Callable[[ConversationEvent], None]) -> None:
        self._on_event = on_event
        self._run = ''
        self._seq = self._line = 0  # of the last event that was passed on
        self._is_live = False
        self._early: deque[ConversationEvent] = deque(maxlen=MOST_EARLY)
        self._past: deque[str] = deque(maxlen=PAST_RUNS)

    def add_history(self, event: ConversationEvent) -> None:
        """Process an event of ~/history."""
        if event.run in self._past or (self._is_live and event.run == self._run):
            return
        self._is_live = False
        self._pass_on(event)
        early = list(self._early)
        self._early.clear()
        for waiting in early:
            self.add_live(waiting)

    def add_live(self, event: ConversationEvent) -> None:
        """Process an event of ~/event."""
        if event.run in self._past:
            return
        is_known = event.run == self._run
        if event.seq == 1 or (is_known and (self._is_live or self._lines_before(event)
                                            <= self._line)):
            self._is_live = True
            self._early.clear()
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
