"""Remembers cancels that came before their request: topics keep no order between them."""

from collections import deque

from tinyllama_ros.chat.completion import ID

EARLY_CANCELS = 64
"""Maximum number of cancels that are kept until their request arrives."""
ENDED_REQUESTS = 256
"""Ended requests that are remembered, so that a cancel that arrives too late is ignored."""


class EarlyCancels:
    """The ids of requests that were cancelled before they came."""

    def __init__(self) -> None:
        self._early: deque[str] = deque(maxlen=EARLY_CANCELS)
        self._ended: deque[str] = deque(maxlen=ENDED_REQUESTS)

    def add(self, request_id: str) -> None:
        """Remember a cancel of a request that is not here, unless it has been and has ended."""
        if request_id not in self._ended and ID.fullmatch(request_id):
            self._early.append(request_id)

    def take(self, request_id: str | None) -> bool:
        """Return whether a request was cancelled before it came, and forget the cancel."""
        if request_id is None or request_id not in self._early:
            return False
        self._early.remove(request_id)
        return True

    def end(self, request_id: str) -> None:
        """Remember that a request has ended."""
        self._ended.append(request_id)
