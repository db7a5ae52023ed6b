"""
What each way of quantising the default model loses, as a table in markdown.

Every variant is built as `tinyllama-model build` builds it, and the graph that would run is
measured: its perplexity on a text, and how far its predictions are from those of fp32 (the mean
Kullback-Leibler divergence per token), there and on the calibration text that is held out. Behind
+- stands the standard error, as if tokens were independent; that of the change of perplexity is of
the same tokens' losses compared. Divergence is the less noisy of the two.

    .venv/bin/python bench/quantisation.py --text FILE [--windows 12] [--window 1024]
"""

import argparse
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
import sys
import tempfile

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.places import default_cache
from tinyllama_ros.commands.perplexity import Loss, measure_loss, text_windows
from tinyllama_ros.engine.backend import Backend, open_backend
from tinyllama_ros.engine.host import prefer_plain_attention
from tinyllama_ros.errors import TinyLlamaError
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.checkpoints.sources import open_checkpoint
from tinyllama_ros.workbench.make import calibration_pieces, make_artifact
from tinyllama_ros.workbench.options import BuildOptions
from tinyllama_ros.workbench.quantization.calibrate import held_out

MODEL = 'smollm2-135m-instruct'
KV_LENGTH = 1024
VARIANTS: Mapping[str, tuple[str, str]] = {
    'no smoothing, weights rounded to the nearest': ('none', 'none'),
    'alpha 0.5 for all': ('0.5', 'none'),
    'alpha 0.7 for all': ('0.7', 'none'),
    'searched: the best alpha of each group': ('searched', 'none'),
    'refined from there (default)': ('refined', 'none'),
    'refined, down_proj W8A16': ('refined', 'down'),
    'refined, all W8A16 (default for Ascend)': ('refined', 'all'),
}
"""What is called how: smoothing, and which linears are W8A16."""

Float64Array = NDArray[np.float64]


def make(checkpoint: Checkpoint, folder: Path, quantization: str, smoothing: str,
         w8a16: str) -> Artifact:
    """Return the artifact of one variant; it takes the place of the one before."""
    make_artifact(checkpoint, folder, BuildOptions(
        name=MODEL, quantization=quantization, kv_length=KV_LENGTH, smoothing=smoothing,
        w8a16=w8a16))
    return Artifact.open(folder)


def read(backend: Backend, windows: list[NDArray[np.int64]]) -> Loss:
    """Return the loss over all windows."""
    loss: Loss
    *_, loss = tqdm(measure_loss(backend, windows), total=len(windows), unit='window')
    return loss


def change(before: Loss, after: Loss) -> str:
    """Return by how many percent the perplexity changed, and the standard error of that."""
    more = after.of_positions - before.of_positions
    return (f'{100 * (after.perplexity / before.perplexity - 1):+.2f} +- '
            f'{100 * more.std() / more.size ** 0.5:.2f} %')


def divergence(reference: Backend, backend: Backend, pieces: list[NDArray[np.int64]]
               ) -> Float64Array:
    """Return how far the predictions of a backend are from the reference's: nats, per token."""
    longest = min(reference.shape.chunk_sizes[-1], backend.shape.chunk_sizes[-1])
    found = []
    for piece in tqdm(pieces, unit='piece'):
        for start in range(0, len(piece), longest):
            chunk = piece[start:start + longest]
            true, other = (log_probabilities(each.forward(chunk, start, logits=len(chunk)))
                           for each in (reference, backend))
            found.append((np.exp(true) * (true - other)).sum(axis=1))
    return np.concatenate(found)


def mean(divergences: Float64Array) -> str:
    """Return the mean in 1e-3 nats, and its standard error."""
    thousandths = 1e3 * divergences
    return f'{thousandths.mean():.1f} +- {thousandths.std() / len(thousandths) ** 0.5:.1f}'


def log_probabilities(logits: NDArray[np.float32]) -> Float64Array:
    """Return the logarithms of what a softmax makes of logits (tokens, vocabulary)."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def print_table(text: Path, windows: int, window: int) -> None:
    """Build and measure one variant after another; print a row for each."""
    checkpoint = open_checkpoint(MODEL, default_cache())
    pieces = [np.array(piece) for piece in held_out(calibration_pieces(checkpoint, None))]
    with tempfile.TemporaryDirectory(dir=default_cache(), prefix='quantisation-') as name:
        fp32 = make(checkpoint, Path(name) / 'fp32', 'fp32', 'none', 'none')
        windows_read = text_windows(fp32, text, window, windows)
        with closing(open_backend('onnx', fp32)) as reference:
            before = read(reference, windows_read)
            print('| | perplexity | change | divergence, there | divergence, held-out text |\n'
                  '| --- | --- | --- | --- | --- |\n'
                  f'| fp32 | {before.perplexity:.3f} | | | |', flush=True)
            for title, (smoothing, w8a16) in VARIANTS.items():
                artifact = make(checkpoint, Path(name) / 'w8a8', 'w8a8', smoothing, w8a16)
                with closing(open_backend('onnx', artifact)) as backend:
                    after = read(backend, windows_read)
                    there, own = (mean(divergence(reference, backend, texts))
                                  for texts in (windows_read, pieces))
                print(f'| w8a8, {title} | {after.perplexity:.3f} | {change(before, after)} | '
                      f'{there} | {own} |', flush=True)
    print(f'\n{MODEL}; {len(windows_read)} windows of {window} tokens; held-out text of '
          f'{sum(map(len, pieces))} tokens; divergence from fp32 in 1e-3 nats per token')


def main() -> int:
    """Print the table; an error is one line on stderr."""
    prefer_plain_attention()
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--text', type=Path, required=True, metavar='FILE',
                        help='UTF-8 text that perplexity is measured on')
    parser.add_argument('--windows', type=int, default=12, metavar='N',
                        help='windows of it (default: %(default)s)')
    parser.add_argument('--window', type=int, default=KV_LENGTH, metavar='TOKENS',
                        help='tokens of a window (default: %(default)s)')
    arguments = parser.parse_args()
    try:
        print_table(arguments.text, arguments.windows, arguments.window)
    except TinyLlamaError as error:
        print(f'quantisation.py: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
