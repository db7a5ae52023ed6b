r"""
How near the Ascend dialect of the default model comes to the CPU's, as two tables in markdown.

The first artifact runs on the CPU, the second through pyACL: on a board, or elsewhere on the
stand-ins (see test/ascend_sim), which compile it, too. Both are to have the same codes and scales,
so the one for the CPU is built as the other is, with --w8a16 all:

    .venv/bin/tinyllama-model build smollm2-135m-instruct /tmp/all-w8a16 --w8a16 all
    .venv/bin/tinyllama-model build smollm2-135m-instruct --target ascend
    .venv/bin/tinyllama-model atc smollm2-135m-instruct-w8a8-ascend
    PYTHONPATH=test/ascend_sim .venv/bin/python bench/ascend.py \
        /tmp/all-w8a16 smollm2-135m-instruct-w8a8-ascend --text FILE

Greedy answers to the golden prompts are compared up to where they part: there stand the gap
between the two tokens in the CPU's logits, and the spacing of float16 at the larger. The last
column is what W8A8 makes of the last place of a float: the CPU against itself, reading the prompt
one token at a time, where it reads it in chunks otherwise. Behind +- stands the standard error of
the change, as if tokens were independent.
"""

import argparse
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
import json
from pathlib import Path
import sys

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.places import find_artifact
from tinyllama_ros.commands.perplexity import Loss, measure_loss, text_windows
from tinyllama_ros.engine.backend import Backend, open_backend
from tinyllama_ros.engine.host import prefer_plain_attention
from tinyllama_ros.errors import TinyLlamaError

GOLDEN = Path(__file__).parents[1] / 'test' / 'data' / 'smollm2-135m-golden.json'
MOST = 64
"""Tokens of an answer."""


@dataclass(frozen=True)
class Answer:
    """A greedy answer and what each of its tokens was taken from."""

    tokens: list[int]
    logits: list[NDArray[np.float32]]


def answer(backend: Backend, prompt: Sequence[int], end: int, chunk: int) -> Answer:
    """Return the likeliest tokens after a prompt that is read in chunks, up to an end token."""
    for start in range(0, len(prompt), chunk):
        logits = backend.forward(np.array(prompt[start:start + chunk]), start)[0].copy()
    found = Answer([int(logits.argmax())], [logits])
    while found.tokens[-1] != end and len(found.tokens) < MOST:
        position = len(prompt) + len(found.tokens) - 1
        found.logits.append(backend.forward(np.array(found.tokens[-1:]), position)[0].copy())
        found.tokens.append(int(found.logits[-1].argmax()))
    return found


def same(one: Answer, other: Answer) -> int:
    """Return how many tokens two answers begin with that are the same."""
    pairs = zip(one.tokens, other.tokens, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b),
                min(len(one.tokens), len(other.tokens)))


def parting(one: Answer, other: Answer) -> str:
    """Return the gap where two answers part and the spacing of float16 there; empty: nowhere."""
    place = same(one, other)
    if place == max(len(one.tokens), len(other.tokens)):
        return '|'
    logits = one.logits[place]
    gap = logits[one.tokens[place]] - logits[other.tokens[place]]
    return f'{gap:.4f} | {np.spacing(np.float16(logits.max())):.4f}'


def print_answers(cpu: Backend, ascend: Backend) -> None:
    """Print how long the answers of two backends are the same."""
    print('| prompt | tokens | of them the same | gap | float16 | the CPU and itself |\n'
          '| --- | --- | --- | --- | --- | --- |')
    golden = json.loads(GOLDEN.read_text(encoding='utf-8'))
    for number, case in enumerate(golden['cases']):
        prompt, end = case['input_ids'], 2
        expected, again = (answer(cpu, prompt, end, chunk)
                           for chunk in (cpu.shape.chunk_sizes[-1], 1))
        found = answer(ascend, prompt, end, ascend.shape.chunk_sizes[-1])
        print(f'| {number} | {len(expected.tokens)} | {same(expected, found)} | '
              f'{parting(expected, found)} | {same(expected, again)} |', flush=True)


def read(backend: Backend, windows: list[NDArray[np.int64]]) -> Loss:
    """Return the loss over all windows."""
    loss: Loss
    *_, loss = tqdm(measure_loss(backend, windows), total=len(windows), unit='window')
    return loss


def print_perplexity(cpu: Backend, ascend: Backend, windows: list[NDArray[np.int64]]) -> None:
    """Print the perplexity of two backends on the same text."""
    before, after = read(cpu, windows), read(ascend, windows)
    more = after.of_positions - before.of_positions
    change = 100 * (after.perplexity / before.perplexity - 1)
    print('\n| CPU | Ascend | change |\n| --- | --- | --- |\n'
          f'| {before.perplexity:.4f} | {after.perplexity:.4f} | {change:+.3f} +- '
          f'{100 * more.std() / more.size ** 0.5:.3f} % |')


def main() -> int:
    """Print the tables; an error is one line on stderr."""
    prefer_plain_attention()
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('cpu', help='artifact for the CPU: its folder, or its name in the cache')
    parser.add_argument('ascend', help='the same model for Ascend, compiled')
    parser.add_argument('--text', type=Path, metavar='FILE',
                        help='UTF-8 text that perplexity is measured on (default: none is)')
    parser.add_argument('--windows', type=int, default=12, metavar='N',
                        help='windows of it (default: %(default)s)')
    parser.add_argument('--window', type=int, default=1024, metavar='TOKENS',
                        help='tokens of a window (default: %(default)s)')
    arguments = parser.parse_args()
    try:
        artifacts = [Artifact.open(find_artifact(name))
                     for name in (arguments.cpu, arguments.ascend)]
        with (closing(open_backend('onnx', artifacts[0])) as cpu,
              closing(open_backend('acl', artifacts[1])) as ascend):
            print_answers(cpu, ascend)
            if arguments.text:
                print_perplexity(cpu, ascend, text_windows(
                    artifacts[0], arguments.text, arguments.window, arguments.windows))
    except TinyLlamaError as error:
        print(f'ascend.py: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
