"""Defines the errors that a user can fix; a message says what, where, the value, what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
import shutil

LONGEST_MESSAGE = 2000
"""Characters; the middle of a longer message is left out."""


class TinyLlamaError(Exception):
    """Base class of all errors here; the message is one printable line."""

    def __init__(self, message: str) -> None:
        super().__init__(_one_line(message))


class ConfigError(TinyLlamaError):
    """An option or a parameter is outside its range."""


class FetchError(TinyLlamaError):
    """A model could not be fetched."""


class ModelError(TinyLlamaError):
    """A checkpoint cannot be read, or cannot be built into a graph."""


class ArtifactError(TinyLlamaError):
    """An artifact is missing, cut short, altered or of another version."""


class ConversionError(TinyLlamaError):
    """ATC could not be run, or could not convert a graph."""


class BackendError(TinyLlamaError):
    """The static graph could not be loaded or run."""


class BackendLost(BackendError):
    """The backend is lost; loading the model again may help."""


class PromptError(TinyLlamaError):
    """A prompt cannot be answered; later ones can."""


class LengthError(PromptError):
    """A prompt does not fit the cache."""


class RequestError(PromptError):
    """A request with its own message history is not valid."""

    def __init__(self, message: str, param: str = '') -> None:
        """
        Make an error.

        :param param: name of the part of the request that is wrong, if it is one part.
        """
        super().__init__(message)
        self.param = param


def reason_of(error: Exception) -> str:
    """Return what an error of a library says; its name where it says nothing, as MemoryError."""
    return str(error).strip() or type(error).__name__


def _one_line(message: str) -> str:
    """Return a message in one line, without control characters, and not too long."""
    if len(message) > LONGEST_MESSAGE:
        half = LONGEST_MESSAGE // 2
        message = f'{message[:half]} [...] {message[-half:]}'
    return ''.join(character if character.isprintable() else
                   ' ' if character in '\r\n\t' else ascii(character)[1:-1]
                   for character in message)


def model_command() -> str:
    """Return the command that starts `tinyllama-model` here; after colcon it is not on PATH."""
    name = 'tinyllama-model'
    return name if shutil.which(name) else f'ros2 run tinyllama_ros {name}'


def last_line(printed: str, otherwise: str = 'no reason given') -> str:
    """Return the last line that a program printed, which mostly says why it failed."""
    return (printed.strip().splitlines() or [otherwise])[-1].strip()


@contextmanager
def missing_package(who: str, kind: type[TinyLlamaError]) -> Iterator[None]:
    """Turn the absence of a Python package into an error that says who needs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise kind(f'{who} needs the Python package {error.name}, which is missing here; run: '
                   f'pip install {error.name}') from error
