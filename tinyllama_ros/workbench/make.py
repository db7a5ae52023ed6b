"""Runs all steps of `tinyllama-model build`: calibrate, smooth, quantise, write, measure."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from tinyllama_ros.artifact.disk import required_text, scratch_beside
from tinyllama_ros.artifact.folder import Artifact, record_held_out, refuse_other
from tinyllama_ros.artifact.manifest import check_cpu_head_dim, HeldOutLoss
from tinyllama_ros.engine.backend import open_backend
from tinyllama_ros.engine.loss import window_loss
from tinyllama_ros.errors import ConfigError
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.chat_check import check_chat, open_tokenizer
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.options import BuildOptions, TARGETS
from tinyllama_ros.workbench.progress import track
from tinyllama_ros.workbench.quantization.calibrate import (
    calibrate,
    Calibration,
    held_out,
    own_text,
)
from tinyllama_ros.workbench.quantization.gptq import RoundedCheckpoint
from tinyllama_ros.workbench.quantization.smooth import smooth

SEPARATOR = '\n---\n'


def make_artifact(checkpoint: Checkpoint, folder: Path, options: BuildOptions) -> None:
    """
    Write the artifact of a checkpoint; w8a8 is calibrated, smoothed and rounded by GPTQ.

    With smoothing none, nothing is calibrated, and weights are rounded to the nearest step.

    :raises ConfigError: the calibration text cannot be read, or is too short.
    :raises ModelError: the checkpoint cannot be read or built, the options do not fit it, or the
        chat could not use its tokenizer or its chat template.
    :raises ArtifactError: the folder cannot be written, or is not an artifact.
    """
    manifest = options.manifest(checkpoint.architecture, checkpoint.tokenizer.settings)
    refuse_other(folder)
    check_chat(checkpoint.tokenizer, checkpoint.architecture.vocab_size)
    if not options.is_calibrated:
        build(checkpoint, folder, options)
        return
    check_cpu_head_dim(checkpoint.architecture, 'the model is calibrated on a CPU whatever the '
                       'target is, so use --quant fp16 or --smoothing none')
    pieces = calibration_pieces(checkpoint, options.text)
    path = folder.with_name(f'{options.name}.calibration.safetensors')
    calibration = calibrate(checkpoint, pieces, path)
    smoothed = smooth(checkpoint, calibration.inputs, options.smoothing, w8a16=manifest.w8a16,
                      group=TARGETS[options.target].group)
    rounded = RoundedCheckpoint(smoothed, calibration.inputs)
    build(rounded, folder, options)
    if options.target == 'cpu':
        loss = _measured(folder, calibration, pieces)
    else:
        # A CPU graph with the same codes and scales runs here. Its W8A8 linears have an activation
        # scale per group, an NPU's have one per token, so the measured loss is a little too small.
        with scratch_beside(folder, 'measured') as scratch:
            build(rounded, scratch / 'cpu', replace(options, target='cpu', chunk_sizes=(),
                                                    w8a16=manifest.w8a16))
            loss = _measured(scratch / 'cpu', calibration, pieces)
    record_held_out(Artifact.open(folder), loss)


def calibration_pieces(checkpoint: Checkpoint, text: Path | None) -> list[list[int]]:
    """
    Return the tokens of each piece of a calibration text; None means the project's own text.

    :raises ConfigError: the text cannot be read.
    """
    content = required_text(text, 'the calibration text', ConfigError) if text else own_text()
    tokenizer = open_tokenizer(checkpoint.tokenizer)
    return [tokenizer.encode(piece) for piece in content.split(SEPARATOR) if piece.strip()]


def _measured(folder: Path, calibration: Calibration, pieces: list[list[int]]) -> HeldOutLoss:
    """Return the loss of a finished CPU graph on the pieces that were held out."""
    pieces_held_out = held_out(pieces)
    with closing(open_backend('onnx', Artifact.open(folder))) as backend:
        slots = backend.shape.kv_length
        losses = np.concatenate([
            window_loss(backend, np.array(piece[:slots]))
            for piece in track(pieces_held_out, 'measure the loss')])
    fits = np.concatenate([np.arange(1, len(piece)) < slots for piece in pieces_held_out])
    return HeldOutLoss(float(calibration.held_out_losses[fits].mean()), float(losses.mean()),
                       len(losses))
