"""From a checkpoint to a finished artifact: calibrate, smooth, quantise, build, measure."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
import shutil
import tempfile

import numpy as np

from tinyllama_ros.artifact.folder import Artifact, record_held_out
from tinyllama_ros.artifact.manifest import check_cpu_head_dim, HeldOutLoss
from tinyllama_ros.chat.tokenizer import load_tokenizer
from tinyllama_ros.engine.backend import open_backend
from tinyllama_ros.engine.loss import window_loss
from tinyllama_ros.errors import ConfigError
from tinyllama_ros.workbench.build import build, plan, TARGETS
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.quantization.calibrate import (
    calibrate,
    Calibration,
    held_out,
    own_text,
)
from tinyllama_ros.workbench.quantization.gptq import RoundedCheckpoint
from tinyllama_ros.workbench.quantization.smooth import check_smoothing, smooth

SEPARATOR = '\n---\n'


def make_artifact(checkpoint: Checkpoint, folder: Path, *, name: str, quantization: str,
                  kv_length: int, target: str = 'cpu', chunk_sizes: tuple[int, ...] = (),
                  smoothing: str = 'refined', text: Path | None = None,
                  w8a16: str = '', recipe: str = '', progress: bool = False) -> None:
    """
    Write the artifact of a checkpoint, for w8a8 with its activations smoothed and GPTQ's weights.

    :param kv_length: slots of the cache.
    :param target: ``cpu`` or ``ascend``.
    :param chunk_sizes: chunk lengths, ascending; the target's own where there are none.
    :param smoothing: ``refined``, ``searched``, an alpha, or ``none``; see model/smooth.py. With
        none nothing is calibrated, and weights are rounded to the nearest.
    :param text: to calibrate on, UTF-8; pieces may be parted by lines of three hyphens. The
        project's own where there is none.
    :param w8a16: see build.
    :param recipe: noted in the manifest.
    :param progress: show bars on stderr.
    :raises ConfigError: an option is out of range, or the text is too short.
    :raises ModelError: the checkpoint cannot be read or built.
    :raises ArtifactError: the folder cannot be written, or holds something else.
    """
    check_smoothing(smoothing)
    planned = plan(checkpoint, folder, name=name, quantization=quantization, target=target,
                   kv_length=kv_length, chunk_sizes=chunk_sizes, w8a16=w8a16)
    write = partial(build, name=name, quantization=quantization, kv_length=kv_length,
                    w8a16=planned.w8a16, recipe=recipe, progress=progress)
    write_target = partial(write, folder=folder, target=target, chunk_sizes=chunk_sizes)
    if quantization != 'w8a8' or smoothing == 'none':
        write_target(checkpoint)
        return
    check_cpu_head_dim(checkpoint.architecture, 'the model is calibrated on a CPU whatever the '
                       'target is, so take the quantization fp16, or the smoothing none')
    pieces = calibration_pieces(checkpoint, text)
    path = folder.with_name(f'{name}.calibration.safetensors')
    calibration = calibrate(checkpoint, pieces, path, progress=progress)
    smoothed = smooth(checkpoint, calibration.inputs, smoothing, w8a16=planned.w8a16,
                      group=TARGETS[target].group, progress=progress)
    rounded = RoundedCheckpoint(smoothed, calibration.inputs)
    write_target(rounded)
    if target == 'cpu':
        loss = _measured(folder, calibration, pieces)
    else:
        # The same codes and scales in a graph that runs here. Coarse activations, which an NPU's
        # are only where they are asked for, have steps by the group in it, so a smaller loss
        with _scratch(folder) as scratch:
            write(rounded, folder=scratch)
            loss = _measured(scratch, calibration, pieces)
    record_held_out(Artifact.open(folder), loss)


def calibration_pieces(checkpoint: Checkpoint, text: Path | None) -> list[list[int]]:
    """
    Return the tokens of each piece of a calibration text; None is the project's own.

    :raises ConfigError: the text cannot be read.
    """
    try:
        content = own_text() if text is None else text.read_text(encoding='utf-8')
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f'{text} cannot be read as UTF-8 text: {error}') from error
    settings = checkpoint.tokenizer.settings
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / settings.file_name
        path.write_bytes(checkpoint.tokenizer.content)
        tokenizer = load_tokenizer(path, settings)
    return [tokenizer.encode(piece) for piece in content.split(SEPARATOR) if piece.strip()]


def _measured(folder: Path, calibration: Calibration, pieces: list[list[int]]) -> HeldOutLoss:
    """Return what a finished graph of the CPU dialect loses on the text that was held out."""
    artifact = Artifact.open(folder)
    backend = open_backend('onnx', artifact)
    slots, read = backend.shape.kv_length, held_out(pieces)
    try:
        found = np.concatenate([window_loss(backend, np.array(piece[:slots])) for piece in read])
    finally:
        backend.close()
    fits = np.concatenate([np.arange(1, len(piece)) < slots for piece in read])
    return HeldOutLoss(float(calibration.held_out_losses[fits].mean()), float(found.mean()),
                       len(found))


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """Give a path beside a folder; what is there in the end, or was left there, is deleted."""
    scratch = folder.with_name(f'.{folder.name}.measured')
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
