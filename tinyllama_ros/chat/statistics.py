"""Counts how prompts and requests ended, the tokens of their answers, and the resets."""

from collections import Counter
from dataclasses import dataclass, field

from tinyllama_ros.chat.events import Answer
from tinyllama_ros.chat.jobs import JobKind, Outcome


@dataclass
class Statistics:
    """Counts since the model was loaded."""

    ends: Counter[tuple[JobKind, Outcome]] = field(default_factory=Counter)
    """Prompts and requests by how they ended."""
    prefill_tokens: int = 0
    generated_tokens: int = 0
    resets: Counter[str] = field(default_factory=Counter)
    last: Answer | None = None
    """The newest answer that was not cancelled and did not fail."""

    @property
    def answers(self) -> int:
        """Answers to prompts; those that were cancelled count too."""
        return self.ends['prompt', 'answered'] + self.ends['prompt', 'cancelled']

    @property
    def completions(self) -> int:
        """Requests that were answered."""
        return self.ends['request', 'answered']

    @property
    def cancelled(self) -> int:
        """Prompts and requests that were cancelled, while they waited or were answered."""
        return self._both('cancelled')

    @property
    def refused(self) -> int:
        """Prompts and requests that were refused."""
        return self._both('refused')

    @property
    def failed(self) -> int:
        """Prompts and requests whose answer failed, or that a closed server left unanswered."""
        return self._both('failed') + self._both('dropped')

    def _both(self, outcome: Outcome) -> int:
        return self.ends['prompt', outcome] + self.ends['request', outcome]
