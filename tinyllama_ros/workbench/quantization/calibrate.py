"""
Calibration: runs a model on a text, and samples the inputs of each of its linears.

The fp32 graph is run with the input of every linear as a further output. The samples are kept in a
safetensors file, which later builds of the same model use.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import hashlib
from importlib.resources import files
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open, SafetensorError
from safetensors.numpy import save_file

from tinyllama_ros.artifact.contract import (
    cpu_cache_names,
    FILL_AFTER,
    INPUT_IDS,
    LAST_SLOT,
    LOGIT_ROWS,
    LOGITS,
    past_of,
)
from tinyllama_ros.artifact.disk import replacing, scratch_beside
from tinyllama_ros.artifact.manifest import GRAPH
from tinyllama_ros.engine.loss import losses
from tinyllama_ros.engine.ort_session import open_session
from tinyllama_ros.errors import ArtifactError, ConfigError
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.graphs.cpu_graph import write_cpu_graph
from tinyllama_ros.workbench.graphs.linear import FloatLinear
from tinyllama_ros.workbench.progress import track

Float32Array = NDArray[np.float32]
Pieces = Sequence[Sequence[int]]
LONGEST = 256
"""Maximum tokens of a piece; longer pieces are split."""
SAMPLE = 512
"""Number of tokens whose inputs are sampled."""
HELD_OUT = 7
"""Every seventh piece is held out: the loss of quantisation is measured on it."""
TAP = '/input'
LOSSES = 'held_out_losses'

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """The samples of a calibration, in their file."""

    path: Path
    held_out_losses: NDArray[np.float64]
    """Losses (nats) of the fp32 model, for each held-out token but the first of a piece."""

    def inputs(self, linear: str) -> Float32Array:
        """Return the sampled inputs of a linear, by its path in the graph: (tokens, in)."""
        with safe_open(self.path, 'numpy') as file:
            return np.asarray(file.get_tensor(linear), np.float32)


def own_text() -> str:
    """Return the project's calibration text, pieces between lines of three hyphens."""
    return (files(__package__) / 'calibration.txt').read_text(encoding='utf-8')


def calibrated(pieces: Pieces) -> list[Sequence[int]]:
    """Return the pieces for the calibration."""
    return [piece for index, piece in enumerate(_cut(pieces)) if index % HELD_OUT != HELD_OUT - 1]


def held_out(pieces: Pieces) -> list[Sequence[int]]:
    """Return the pieces that are held out."""
    return _cut(pieces)[HELD_OUT - 1::HELD_OUT]


def _cut(pieces: Pieces) -> list[Sequence[int]]:
    """Return pieces of 2 to LONGEST tokens."""
    return [piece[start:start + LONGEST] for piece in pieces
            for start in range(0, len(piece) - 1, LONGEST)]


def calibrate(checkpoint: Checkpoint, pieces: Pieces, path: Path) -> Calibration:
    """
    Run a model on pieces of text, and return sampled inputs of its linears.

    :param path: file that keeps the result; an existing file of the same model and text is used.
    :raises ConfigError: the text is too short.
    :raises ArtifactError: the file, or the graph beside it, cannot be written.
    """
    pieces_read, pieces_held_out = calibrated(pieces), held_out(pieces)
    tokens = sum(map(len, pieces_read))
    if not pieces_held_out or tokens < SAMPLE:
        raise ConfigError(
            f'the calibration text has {len(_cut(pieces))} pieces (of at most {LONGEST} tokens), '
            f'and {tokens} tokens to calibrate on; it needs {HELD_OUT} and {SAMPLE} at least: '
            'give a longer text')
    log.info('reading the weights, to identify the model for the calibration')
    digest = _digest(checkpoint, pieces)
    if calibration := _load(path, digest):
        return calibration
    with scratch_beside(path, 'partial') as folder:
        tapped = _Tapped(checkpoint, folder)
        samples: dict[str, list[NDArray[np.float16]]] = {}
        stride, passed = tokens // SAMPLE, 0
        for piece in track(pieces_read, 'calibrate'):
            for linear, values in tapped.read(piece)[0].items():
                samples.setdefault(linear, []).append(_half(values[-passed % stride::stride]))
            passed += len(piece)
        held_out_losses = np.concatenate([
            tapped.read(piece)[1] for piece in track(pieces_held_out, 'measure fp32')])
        _save(path, samples, held_out_losses, digest)
    return Calibration(path, held_out_losses)


class _Tapped:
    """The fp32 graph of a checkpoint, whose further outputs are the inputs of linears (taps)."""

    def __init__(self, checkpoint: Checkpoint, folder: Path) -> None:
        for _ in write_cpu_graph(checkpoint, _TappedLinear, LONGEST, folder):
            pass
        arch = checkpoint.architecture
        # Weights stay mapped from their file, so the system can free their memory
        self._session = open_session(
            folder / GRAPH, enable_cpu_mem_arena=False, use_deterministic_compute=True,
            entries={'session.disable_prepacking': '1'})
        self._taps = [output.name for output in self._session.get_outputs()
                      if output.name.endswith(TAP)]
        rows = np.zeros((1, arch.kv_heads, LONGEST, arch.head_dim), np.float32)
        self._empty: dict[str, NDArray[Any]] = {
            past_of(name): rows for layer in range(arch.layers) for name in cpu_cache_names(layer)}

    def read(self, piece: Sequence[int]) -> tuple[dict[str, Float32Array], NDArray[np.float64]]:
        """Return the input of every linear (tokens, in), and the losses of all but one token."""
        length = len(piece)
        feeds = self._empty | {INPUT_IDS: np.array([piece], np.int64),
                               LAST_SLOT: np.array([length - 1], np.int32),
                               FILL_AFTER: np.array(length, np.int32),
                               LOGIT_ROWS: np.arange(length)}
        logits, *inputs = self._session.run([LOGITS, *self._taps], feeds)
        return ({name.removesuffix(TAP): values.reshape(length, -1)
                 for name, values in zip(self._taps, inputs, strict=True)},
                losses(logits[:-1], np.asarray(piece[1:])))


class _TappedLinear(FloatLinear):
    """Like FloatLinear, with the input of each product as an output of the graph."""

    def _product(self, path: str, x: str, weight: str) -> str:
        tap = self._writer.node('Identity', f'{path}{TAP}', [x])
        self._writer.tap(tap)
        return super()._product(path, x, weight)


def _half(values: Float32Array) -> NDArray[np.float16]:
    return np.clip(values, -65504, 65504).astype(np.float16)  # the largest number of float16


def _digest(checkpoint: Checkpoint, pieces: Pieces) -> str:
    """Return a checksum of the model and the text."""
    digest = hashlib.sha256(repr((checkpoint.architecture, LONGEST, SAMPLE, HELD_OUT)).encode())
    digest.update(repr([list(piece) for piece in pieces]).encode())
    for name in checkpoint.architecture.weight_shapes():
        digest.update(checkpoint.tensor(name).data)
    return digest.hexdigest()


def _load(path: Path, digest: str) -> Calibration | None:
    try:
        with safe_open(path, 'numpy') as file:
            metadata: Mapping[str, str] = file.metadata() or {}
            if metadata.get('digest') == digest:
                return Calibration(path, file.get_tensor(LOSSES))
    except (OSError, SafetensorError):
        pass  # missing or damaged: calibrate again
    return None


def _save(path: Path, samples: Mapping[str, Sequence[NDArray[np.float16]]],
          held_out_losses: NDArray[np.float64], digest: str) -> None:
    tensors = {linear: np.concatenate(values) for linear, values in samples.items()}
    try:  # only one entry of metadata, because safetensors writes several in random order
        with replacing(path) as part:
            save_file(tensors | {LOSSES: held_out_losses}, part, {'digest': digest})
    except SafetensorError as error:
        raise ArtifactError(f'{path} could not be written: {error}') from error
