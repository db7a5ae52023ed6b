"""A message of a conversation: its role and its content."""

from collections.abc import Iterable
from dataclasses import dataclass

from tinyllama_ros.errors import PromptError

ROLES = ('system', 'user', 'assistant')


@dataclass(frozen=True)
class Message:
    """One message: its role says who speaks."""

    role: str
    content: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise PromptError(f'role {self.role[:100]!r} is unknown; known: {", ".join(ROLES)}')
        try:
            self.content.encode()
        except UnicodeEncodeError as error:
            raise PromptError(f'character {error.start} of a {self.role} message is half of a '
                              'surrogate pair; send valid Unicode text') from error


def size_of(texts: Iterable[str]) -> int:
    """Return how many bytes texts have in UTF-8."""
    return sum(len(text) if text.isascii() else len(text.encode('utf-8', 'surrogatepass'))
               for text in texts)
