"""Defines the typed messages that the server sends to its observer, such as the ROS node."""

from dataclasses import dataclass
from typing import Literal

from tinyllama_ros.chat.completion import CompletionEvent

State = Literal['loading', 'idle', 'reading', 'answering', 'error', 'finalized']
RecordKind = Literal['asked', 'answered', 'stopped', 'failed', 'refused', 'dropped', 'reset']
"""The kinds of notices that the record of the conversation (~/history) keeps."""
TurnKind = Literal[RecordKind, 'token', 'sentence']


LONGEST_RECORD = 4_000
"""Characters of a text in the record of the conversation."""


@dataclass(frozen=True)
class StateNotice:
    """The server is in another state."""

    state: State


@dataclass(frozen=True)
class TurnNotice:
    """
    An event of a prompt.

    Each prompt has exactly one last notice: `answered`, `stopped` (cancelled), `failed`, `refused`
    or `dropped` (the server was closed before the prompt was answered).
    """

    turn: int
    """Number of the prompt; 0 for a reset between two turns."""
    kind: TurnKind
    text: str = ''
    """
    The prompt where it is asked or dropped, its `beginning` where it is refused; the text delta of
    a token; a sentence; the answer as far as it came where it is answered, stopped or failed; the
    reason of a reset.
    """
    why: str = ''
    """
    The reason why the prompt was refused or dropped, why its answer failed, or that it was stopped
    with the node.
    """
    error: str = ''
    """The same as a whole sentence that quotes the prompt."""


@dataclass(frozen=True)
class InterruptedNotice:
    """An answer was cut short: no more of it follows, and a speech node should stop."""


@dataclass(frozen=True)
class ErrorNotice:
    """A failure that belongs to no prompt."""

    message: str


Notice = StateNotice | TurnNotice | InterruptedNotice | ErrorNotice | CompletionEvent
"""Requests are reported by CompletionEvents only."""


def beginning(text: str) -> str:
    """Return a text as it is recorded: one above LONGEST_RECORD is cut there, and says so."""
    return (text if len(text) <= LONGEST_RECORD
            else f'{text[:LONGEST_RECORD]}… ({len(text)} characters)')
