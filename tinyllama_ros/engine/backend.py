"""What the engine asks of whatever runs the static graph."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.errors import ConfigError

BACKENDS = ('onnx', 'acl')


class Backend(Protocol):
    """
    A static graph and its cache.

    Slot i holds the key and the value of position i, always; so a backend keeps no state beyond
    the rows themselves.
    """

    kv_length: int
    """Slots of the cache."""
    vocab_size: int
    chunk_sizes: tuple[int, ...]
    """Chunk lengths that it runs well, ascending; it takes any length up to the last."""
    pads: bool
    """Whether a chunk is padded to the next of these lengths, and takes the time of that one."""

    def forward(self, tokens: NDArray[np.int64], start: int, *, logits: int = 1
                ) -> NDArray[np.float32]:
        """
        Write the rows of tokens [S] at slots start..start+S-1, attend to slots < start+S.

        :param logits: of how many of the last tokens they are wanted, 0..S.
        :return: those logits [N, vocabulary], valid until the next call.
        :raises BackendError: the graph could not be run.
        """

    def close(self) -> None:
        """Free what the backend holds; once closed it may be closed again."""


def open_backend(name: str, artifact: Artifact, *, threads: int = 0, device: int = 0,
                 form: str = 'auto') -> Backend:
    """
    Return the backend of this name, loaded with an artifact.

    :param threads: of the CPU backend; 0 means the physical cores that this process may use.
    :param device: number of the Ascend device.
    :param form: whether its memory is the host's (``rc``) or not (``ep``); ``auto`` asks it.
    :raises ConfigError: the name or the form is unknown, or a number is negative.
    :raises BackendError: the graph could not be loaded.
    """
    if name not in BACKENDS:
        raise ConfigError(f'backend {name!r} is unknown; known: {", ".join(BACKENDS)}')
    if threads < 0:
        raise ConfigError(f'threads is {threads}; it must be 0 (physical cores) or above')
    if device < 0:
        raise ConfigError(f'acl.device is {device}; it must be 0 or above')
    if name == 'acl':
        from tinyllama_ros.engine.acl.backend import AclBackend
        return AclBackend(artifact, device=device, form=form)
    from tinyllama_ros.engine.onnx import OnnxBackend
    return OnnxBackend(artifact, threads=threads)
