"""Defines the interface of a backend, which runs the model graph, and lists all backends."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.errors import ConfigError


@dataclass(frozen=True)
class BackendShape:
    """The sizes of a backend's graph."""

    kv_length: int
    """Slots of the cache."""
    vocab_size: int
    chunk_sizes: tuple[int, ...]
    """Chunk lengths that run efficiently, ascending; any length up to the last is accepted."""
    pads: bool
    """Whether a chunk is padded to the next of these lengths, and takes as long as that one."""

    def check_pass(self, tokens: NDArray[np.int64], start: int, logits: int) -> None:
        """Assert that the arguments of a forward pass fit the graph, the cache and each other."""
        length = len(tokens)
        assert 0 < length <= min(self.chunk_sizes[-1], self.kv_length - start), (length, start)
        assert 0 <= tokens.min() and tokens.max() < self.vocab_size, 'no such token'
        assert 0 <= logits <= length, (logits, length)


class Backend(Protocol):
    """
    A static graph and its cache.

    Slot i always holds the key and the value of position i, so a backend has no other state than
    these rows.
    """

    shape: BackendShape

    def forward(self, tokens: NDArray[np.int64], start: int, *, logits: int = 1
                ) -> NDArray[np.float32]:
        """
        Compute tokens [S]: write their rows at slots start..start+S-1, attend to slots < start+S.

        :param logits: for how many of the last tokens to return logits, 0..S.
        :return: those logits [N, vocabulary], valid until the next call.
        :raises BackendError: the graph could not be run.
        """

    def close(self) -> None:
        """Free all memory of the backend; it may be called again."""


@dataclass(frozen=True)
class BackendOption:
    """An option of a backend; its type is that of its default."""

    parameter: str
    """Its name as a parameter of the node."""
    default: int | str
    description: str
    range: tuple[int, int] | None = None
    """Lowest and highest value, both allowed."""
    choices: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its name on the command line, and as an argument of `open_backend`."""
        return self.parameter.rpartition('.')[2]

    def check(self, value: Any) -> None:
        """Raise ConfigError where a value is not allowed."""
        if self.range and not self.range[0] <= value <= self.range[1]:
            raise ConfigError(f'{self.parameter} is {value}; it must be in '
                              f'{self.range[0]}..{self.range[1]}')
        if self.choices and value not in self.choices:
            raise ConfigError(f'{self.parameter} is {value!r}; it must be one of '
                              f'{", ".join(self.choices)}')


@dataclass(frozen=True)
class BackendKind:
    """A kind of backend."""

    hardware: str
    dialect: str
    """The dialect of the graph that it runs."""
    options: tuple[BackendOption, ...]
    open: Callable[..., Backend]
    """Loads an artifact, with the options by name; it imports the library of the backend."""


def _open_onnx(artifact: Artifact, **options: Any) -> Backend:
    from tinyllama_ros.engine.onnx import OnnxBackend
    return OnnxBackend(artifact, **options)


def _open_acl(artifact: Artifact, **options: Any) -> Backend:
    from tinyllama_ros.engine.acl.backend import AclBackend
    return AclBackend(artifact, **options)


BACKENDS: Mapping[str, BackendKind] = {
    'onnx': BackendKind('CPU', 'cpu', (
        BackendOption('threads', 0, 'Threads of the CPU backend; 0 means one for each physical '
                      'core.', (0, 256)),
    ), _open_onnx),
    'acl': BackendKind('Ascend NPU', 'ascend', (
        BackendOption('acl.device', 0, 'Number of the Ascend device.', (0, 1023)),
        BackendOption('acl.form', 'auto', "Memory of the device: the host's (rc, Orange Pi), its "
                      'own (ep), or auto, which asks the device.', choices=('auto', 'rc', 'ep')),
    ), _open_acl),
}
"""Every kind of backend by its name; the first is the default."""
OPTIONS: tuple[BackendOption, ...] = tuple(
    option for kind in BACKENDS.values() for option in kind.options)


def open_backend(name: str, artifact: Artifact, **options: Any) -> Backend:
    """
    Return the backend of this name, loaded with an artifact.

    :param options: by the names in OPTIONS; options of other backends are ignored.
    :raises ConfigError: the name is unknown, or an option has a value that is not allowed.
    :raises BackendError: the graph could not be loaded.
    """
    if name not in BACKENDS:
        raise ConfigError(f'backend {name!r} is unknown; known: {", ".join(BACKENDS)}')
    assert options.keys() <= {option.name for option in OPTIONS}, options
    for option in OPTIONS:
        option.check(options.get(option.name, option.default))
    kind = BACKENDS[name]
    return kind.open(artifact, **{option.name: options.get(option.name, option.default)
                                  for option in kind.options})
