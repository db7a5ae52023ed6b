"""
Draw docs/static-graph.svg: the fill of the cache in a real conversation, and the slots of a reset.

Runs the default model, whose artifact must be built (tinyllama-model build smollm2-135m-instruct).
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
import sys
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.places import find_artifact
from tinyllama_ros.chat.conversation import open_conversation
from tinyllama_ros.chat.events import CacheReset, ChatOptions, TextDelta
from tinyllama_ros.engine.backend import Backend, open_backend
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.host import prefer_plain_attention
from tinyllama_ros.engine.sampling import SamplingOptions

PICTURE = Path(__file__).parents[1] / 'docs' / 'static-graph.svg'
MODEL = 'smollm2-135m-instruct-w8a8'
OPTIONS = ChatOptions(system_prompt='You are a helpful robot that explains things in detail.',
                      max_tokens=220, answer_room=128, sampling=SamplingOptions(temperature=0))
PROMPTS = ('What is a robot?', 'How does a robot arm move?', 'What does a gripper do?',
           'How do wheels differ from legs?', 'What is a sensor?', 'How do you plan a path?',
           'What should a robot never do?')

WIDTH, MARGIN = 760, 60
PLOT_TOP, PLOT_HEIGHT = 64, 200
STRIP_HEIGHT = 26
INK, FAINT = '#24292f', '#6e7781'
FILL = {'reading': '#8250df', 'answering': '#54aeff'}
KEPT, STALE, EMPTY, CHUNK = '#2da44e', '#d0d7de', '#f6f8fa', '#fb8f44'


@dataclass
class Run:
    """What a conversation did to the cache."""

    kv_length: int
    passes: list[tuple[int, int, str]] = field(default_factory=list)
    """Of each forward pass: first slot, slots written, and what it was for."""
    turns: list[int] = field(default_factory=list)
    """Number of the pass with which each turn began."""
    resets: list[int] = field(default_factory=list)
    """Number of the first pass after each reset."""


class Recorder:
    """A backend that notes its passes."""

    def __init__(self, backend: Backend, run: Run) -> None:
        self.shape = backend.shape
        self.purpose = 'reading'
        self._backend = backend
        self._run = run

    def forward(self, tokens: NDArray[np.int64], start: int, *, logits: int = 1
                ) -> NDArray[np.float32]:
        self._run.passes.append((start, len(tokens), self.purpose))
        return self._backend.forward(tokens, start, logits=logits)

    def close(self) -> None:
        self._backend.close()


def converse() -> Run:
    """Hold the conversation, until two turns after the first reset."""
    artifact = Artifact.open(find_artifact(MODEL))
    run = Run(artifact.manifest.kv_length)
    recorder = Recorder(open_backend('onnx', artifact), run)
    with closing(open_conversation(artifact, Engine(lambda: recorder))) as conversation:
        for prompt in PROMPTS:
            run.turns.append(len(run.passes))
            recorder.purpose = 'reading'
            for event in conversation.answer(prompt, OPTIONS):
                if isinstance(event, CacheReset):
                    run.resets.append(len(run.passes))
                    recorder.purpose = 'reading'
                elif isinstance(event, TextDelta):
                    recorder.purpose = 'answering'
    return run


def draw(run: Run) -> str:
    """Return the picture; raises ValueError where the conversation met no reset."""
    if not run.resets:
        raise ValueError('the conversation met no reset; give it more prompts')
    reset = run.resets[0]
    before = run.passes[reset - 1][0] + run.passes[reset - 1][1]
    kept = run.passes[reset][0]
    after = next(start for start, _, purpose in run.passes[reset:] if purpose == 'answering')
    body = [*_plot(run)]
    top = PLOT_TOP + PLOT_HEIGHT + 84
    body += [_text(MARGIN, top - 22, 'The slots at that reset: the cache keeps its shape, only '
                   'the mask moves', size=15, weight='bold')]
    chunk = max(length for _, length, _ in run.passes)
    states: list[tuple[str, list[tuple[int, int, str]]]] = [
        (f'the last pass before: {before} slots filled, the mask hides the rest',
         [(0, before - 1, FILL['answering']), (before - 1, before, CHUNK)]),
        (f'reset: fill goes back to {kept}, the system prompt; nothing is moved or zeroed, the '
         'old rows are masked',
         [(0, kept, KEPT), (kept, before, STALE)]),
        (f'the first pass after: a chunk of {chunk} written at slot {kept}, over old rows',
         [(0, kept, KEPT), (kept, kept + chunk, CHUNK), (kept + chunk, before, STALE)]),
        (f'the newest turns are read again, {after} slots filled: the talk goes on',
         [(0, kept, KEPT), (kept, after, FILL['reading']), (after, after + 1, CHUNK),
          (after + 1, before, STALE)]),
    ]
    for index, (caption, parts) in enumerate(states):
        body += _strip(top + index * 62, caption, parts, run.kv_length)
    legend_top = top + len(states) * 62 + 8
    body += _legend(legend_top, [
        (KEPT, 'kept'), (FILL['reading'], 'read'), (FILL['answering'], 'filled'),
        (CHUNK, 'written by this pass'), (STALE, 'masked, old'), (EMPTY, 'masked, empty')])
    height = legend_top + 36
    return '\n'.join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Fill of the cache over a conversation, and its slots at a reset" '
        'font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="white"/>', *body, '</svg>', ''])


def _plot(run: Run) -> Iterator[str]:
    right, bottom = WIDTH - 24, PLOT_TOP + PLOT_HEIGHT
    x_of = (right - MARGIN) / len(run.passes)
    y_of = PLOT_HEIGHT / run.kv_length
    yield _text(MARGIN, 28, f'Fill of the cache: {len(run.turns)} turns, {len(run.passes)} '
                'forward passes of one static graph', size=15, weight='bold')
    yield from _legend(36, [(FILL['reading'], 'reading a prompt, chunk by chunk'),
                            (FILL['answering'], 'answering, token by token')])
    for purpose, color in FILL.items():
        bars = ''.join(
            f'M{MARGIN + index * x_of:.2f} {bottom}v{-(start + length) * y_of:.1f}h{x_of:.2f}'
            f'V{bottom}z' for index, (start, length, what) in enumerate(run.passes)
            if what == purpose)
        width = ' stroke-width="1.5"' if purpose == 'reading' else ' stroke-width="0.2"'
        yield f'<path d="{bars}" fill="{color}" stroke="{color}"{width}/>'
    for slots in range(0, run.kv_length + 1, run.kv_length // 4):
        y = bottom - slots * y_of
        dash = '' if slots in (0, run.kv_length) else ' stroke-dasharray="2 4"'
        yield _line(MARGIN, y, right, y, INK if slots in (0, run.kv_length) else FAINT, dash)
        yield _text(MARGIN - 8, y + 4, str(slots), anchor='end')
    for number, index in enumerate(run.turns, 1):
        x = MARGIN + index * x_of
        yield _line(x, bottom, x, bottom + 6, INK)
        if x < right - 40:
            yield _text(x + 3, bottom + 17, f'turn {number}', size=11)
    for index in run.resets:
        x = MARGIN + index * x_of
        yield _line(x, PLOT_TOP - 6, x, bottom, '#cf222e', ' stroke-width="1.5"')
        yield _text(x + 5, PLOT_TOP + 14, 'reset: full', color='#cf222e', weight='bold')
    yield _text(right, bottom + 36, 'forward passes', anchor='end', color=FAINT)


def _strip(top: float, caption: str, parts: Sequence[tuple[int, int, str]], slots: int
           ) -> Iterator[str]:
    """Draw the cache as a row of slots; parts are first slot, end and colour."""
    scale = (WIDTH - 24 - MARGIN) / slots
    yield _text(MARGIN, top, caption)
    box = f'y="{top + 6}" height="{STRIP_HEIGHT}"'
    yield (f'<rect x="{MARGIN}" {box} width="{slots * scale:.1f}" fill="{EMPTY}" '
           f'stroke="{FAINT}"/>')
    for start, end, color in parts:
        if end > start:  # one slot alone would be too thin to see
            yield (f'<rect x="{MARGIN + start * scale:.1f}" {box} '
                   f'width="{max(3.0, (end - start) * scale):.1f}" fill="{color}"/>')
    yield _text(MARGIN - 8, top + 24, 'slot 0', anchor='end', size=11)


def _legend(top: float, entries: Sequence[tuple[str, str]]) -> Iterator[str]:
    x = float(MARGIN)
    for color, text in entries:
        yield (f'<rect x="{x:.0f}" y="{top}" width="12" height="12" fill="{color}" '
               f'stroke="{FAINT}" stroke-width="0.5"/>')
        yield _text(x + 17, top + 10.5, text, size=12)
        x += 36 + 6.4 * len(text)


def _line(x1: float, y1: float, x2: float, y2: float, color: str, more: str = '') -> str:
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
            f'stroke="{color}"{more}/>')


def _text(x: float, y: float, text: str, *, size: int = 13, anchor: str = 'start',
          color: str = INK, weight: str = 'normal') -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{color}" font-weight="{weight}">{escape(text)}</text>')


def main(argv: Sequence[str] | None = None) -> int:
    prefer_plain_attention()
    argparse.ArgumentParser(description=__doc__).parse_args(argv)
    PICTURE.write_text(draw(converse()), encoding='utf-8')
    print(PICTURE)
    return 0


if __name__ == '__main__':
    sys.exit(main())
