"""Defines the errors that a user can fix; a message says what, where, the value, what to do."""

from collections.abc import Iterator
from contextlib import contextmanager
import shutil

LONGEST_MESSAGE = 2000
"""Characters; what stands in the middle of a longer one is left out."""


class TinyLlamaError(Exception):
    """Whatever this project raises on purpose; its message is one line that can be printed."""

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
    """The backend cannot go on; one that is made anew may."""


class PromptError(TinyLlamaError):
    """A prompt cannot be answered; nothing else is wrong."""


class LengthError(PromptError):
    """A prompt does not fit the cache."""


class RequestError(PromptError):
    """A request that brings its own history is not as it must be."""

    def __init__(self, message: str, param: str = '') -> None:
        """
        Say what is wrong.

        :param param: name of the part of the request in which it is, where it is in one.
        """
        super().__init__(message)
        self.param = param


def _one_line(message: str) -> str:
    """Return a message without line breaks, control characters and endless values in it."""
    if len(message) > LONGEST_MESSAGE:
        half = LONGEST_MESSAGE // 2
        message = f'{message[:half]} [...] {message[-half:]}'
    return ''.join(character if character.isprintable() else
                   ' ' if character in '\r\n\t' else ascii(character)[1:-1]
                   for character in message)


def model_command() -> str:
    """Return what starts `tinyllama-model` here: colcon puts it on no PATH, pip does."""
    name = 'tinyllama-model'
    return name if shutil.which(name) else f'ros2 run tinyllama_ros {name}'


@contextmanager
def missing_package(who: str, kind: type[TinyLlamaError]) -> Iterator[None]:
    """Turn the absence of a Python package into an error that says who needs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise kind(f'{who} needs the Python package {error.name}, which is missing here; run: '
                   f'pip install {error.name}') from error
