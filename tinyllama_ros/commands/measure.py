"""
Measures an artifact on this machine: speed, memory, load time, time outside the graph.

Decoding reads all weights for each token, so the read bandwidth of the machine is measured, too.
"""

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
import logging
import math
from pathlib import Path
from statistics import median
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
import psutil

from tinyllama_ros.artifact.architecture import EMBEDDING
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.manifest import Manifest
from tinyllama_ros.chat.conversation import Conversation
from tinyllama_ros.chat.events import ChatOptions
from tinyllama_ros.chat.notices import Notice, TurnNotice
from tinyllama_ros.chat.serving import Server
from tinyllama_ros.chat.tokenizer import open_tokenizer
from tinyllama_ros.engine.backend import Backend, BACKENDS, open_backend
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.host import physical_cores
from tinyllama_ros.engine.sampling import Sampler, SamplingOptions
from tinyllama_ros.errors import ConfigError, PromptError
from tinyllama_ros.workbench.progress import track

STEPS = 16
"""Forward passes in one run of a speed measurement."""
PROMPTS = (20, 200)
"""Lengths (tokens) for which the time to the first token is measured."""
PROMPT = 'Tell me about robots.'
ANSWER = 128
"""Tokens of the answer for which the time outside the graph is measured."""
MEMORY = 256 << 20
"""Bytes that are read to measure the bandwidth; much more than the processor's caches."""


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Measurement:
    """The median of some runs, and their range."""

    name: str
    unit: str
    median: float
    lowest: float
    highest: float
    runs: int

    @classmethod
    def of(cls, name: str, unit: str, values: list[float]) -> 'Measurement':
        """Return the measurement of these runs."""
        return cls(name, unit, median(values), min(values), max(values), len(values))


def measure(folder: Path, *, backend: str, runs: int, **options: Any) -> list[Measurement]:
    """
    Measure an artifact; return the measurements in the order of the report.

    :param options: of the backend, as open_backend takes them.
    :raises ArtifactError, BackendError, ConfigError: it could not be loaded.
    :raises ConfigError: runs is below 1.
    """
    if runs < 1:
        raise ConfigError(f'runs is {runs}; it must be 1 or above')
    log.info('verifying and loading %s', folder)
    began_s = time.perf_counter()
    artifact = Artifact.open(folder)
    verified_s = time.perf_counter()
    with closing(open_backend(backend, artifact, **options)) as loaded:
        ready_s = time.perf_counter()
        measurements = [Measurement.of('verify', 's', [verified_s - began_s]),
                        Measurement.of('load', 's', [ready_s - verified_s])]
        measurements += _speeds(loaded, runs)
        if BACKENDS[backend].hardware == 'CPU':  # an NPU reads its weights by a bus of its own
            measurements += _bus(loaded, artifact.manifest, options.get('threads', 0), runs)
        measurements += [_first_token(loaded, length, runs) for length in PROMPTS
                         if length < loaded.shape.kv_length]
        measurements += _outside(loaded, artifact, runs)
        resident = psutil.Process().memory_info().rss / 1e6
        return [*measurements, Measurement.of('resident memory', 'MB', [resident])]


def as_table(measurements: list[Measurement]) -> str:
    """Return a table to read in a terminal."""
    rows = [('', 'median', 'lowest', 'highest', 'runs', 'unit')]
    rows += [(m.name, f'{m.median:.4g}', f'{m.lowest:.4g}', f'{m.highest:.4g}', str(m.runs),
              m.unit) for m in measurements]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return '\n'.join(
        row[0].ljust(widths[0]) + '  '
        + '  '.join(row[i].rjust(widths[i]) for i in range(1, len(row) - 1))
        + f'  {row[-1]}' for row in rows)


def _speeds(backend: Backend, runs: int) -> list[Measurement]:
    """
    Measure every chunk size that fits at an empty, a half full and a full cache.

    They are measured alternately, because the speed of a virtual machine changes over minutes.
    """
    slots = backend.shape.kv_length
    sizes = [size for size in backend.shape.chunk_sizes if size <= slots]
    last = slots - sizes[-1]
    cases = [(size, fill) for fill in sorted({0, min(slots // 2, last), last})
             for size in sizes]
    rates = [[_rate(backend, size, fill) for size, fill in cases]
             for _ in track(range(runs), 'speed, runs')]
    return [Measurement.of(f'chunk {size} at fill {fill}', 'tok/s', list(values))
            for (size, fill), values in zip(cases, zip(*rates, strict=True), strict=True)]


def _rate(backend: Backend, size: int, fill: int) -> float:
    """Return tokens per second, after a pass to warm up."""
    tokens = np.arange(size, dtype=np.int64) % backend.shape.vocab_size
    backend.forward(tokens, fill)
    steps = max(2, STEPS // size)
    began_s = time.perf_counter()
    for _ in range(steps):
        backend.forward(tokens, fill)
    return steps * size / (time.perf_counter() - began_s)


def _bus(backend: Backend, manifest: Manifest, threads: int, runs: int) -> list[Measurement]:
    """
    Measure how fast memory can be read, and how much of that decoding uses at an empty cache.

    Both in turn, and as many bytes of either: the bandwidth of a virtual machine may be higher for
    a moment than it is for long.
    """
    threads = threads or physical_cores()
    size = weight_bytes(manifest)
    bandwidths, shares = [], []
    for _ in track(range(runs), 'read bandwidth, runs'):
        bandwidths.append(_read_bandwidth(threads, STEPS * size))
        shares.append(100 * _rate(backend, 1, 0) * size / 1e9 / bandwidths[-1])
    return [Measurement.of('read bandwidth', 'GB/s', bandwidths),
            Measurement.of('read bandwidth used at fill 0', '%', shares)]


def _read_bandwidth(threads: int, size: int) -> float:
    """Return how many GB/s threads read, each its own part of memory, at least size bytes."""
    parts = np.array_split(np.ones(MEMORY // 8, np.int64), threads)
    passes = math.ceil(size / MEMORY)
    with ThreadPoolExecutor(threads) as pool:
        began_s = time.perf_counter()
        for _ in range(passes):
            list(pool.map(np.bitwise_or.reduce, parts))  # as little arithmetic as can be
        return passes * MEMORY / 1e9 / (time.perf_counter() - began_s)


def weight_bytes(manifest: Manifest) -> int:
    """
    Return the bytes of the weights that every token is multiplied by.

    That is every matrix but the embedding, of which a token needs one row, where it is not the
    head as well.
    """
    shapes = manifest.architecture.weight_shapes()
    if not manifest.architecture.tied_embeddings:
        del shapes[EMBEDDING]
    weights = sum(math.prod(shape) for shape in shapes.values() if len(shape) == 2)
    return weights * {'w8a8': 1, 'fp16': 2, 'fp32': 4}[manifest.quantization]


def _first_token(backend: Backend, length: int, runs: int) -> Measurement:
    """Measure the time from an empty cache to the first token sampled."""
    tokens = [index % backend.shape.vocab_size for index in range(length)]
    sampler = Sampler(SamplingOptions())
    times_s = []
    name = f'time to first token, {length} tokens'
    for _ in track(range(runs + 1), f'{name}, runs'):
        engine = Engine(lambda: backend)
        began_s = time.perf_counter()
        for _ in engine.prefill(tokens):
            pass
        engine.sample(sampler)
        times_s.append(time.perf_counter() - began_s)
    return Measurement.of(name, 's', times_s[1:])


def _outside(backend: Backend, artifact: Artifact, runs: int) -> list[Measurement]:
    """
    Measure an answer through the server, and the time of each token outside the graph.

    :return: nothing if the cache is too short for a prompt and an answer.
    """
    settings = artifact.manifest.tokenizer
    timed = _Timed(backend, sorted(settings.control_tokens.values()))
    conversation = Conversation(Engine(lambda: timed), settings,
                                open_tokenizer(artifact))
    room = max(2, min(ANSWER, backend.shape.kv_length // 2))
    options = ChatOptions(max_tokens=room, answer_room=room, drafting=False,
                          sampling=SamplingOptions(temperature=0.7, top_p=0.9))
    try:
        with closing(conversation.answer(PROMPT, options)) as events:
            next(events)
    except PromptError:
        return []
    server = Server(conversation, _ignore, options=lambda: options, depth=1)
    whole_ms, outside_ms = [], []
    for _ in track(range(runs + 1), 'answer, runs'):
        conversation.reset()
        timed.steps, timed.seconds = 0, 0.0
        server.submit(PROMPT)
        began_s = time.perf_counter()
        server.serve()
        total_s = time.perf_counter() - began_s
        whole_ms.append(total_s / timed.steps * 1e3)
        outside_ms.append((total_s - timed.seconds) / timed.steps * 1e3)
    return [Measurement.of('one token of an answer, sampled', 'ms', whole_ms[1:]),
            Measurement.of('of that, outside the graph', 'ms', outside_ms[1:])]


class _Timed:
    """A backend that counts its passes and their time, and never returns a stop token."""

    def __init__(self, backend: Backend, stop_tokens: list[int]) -> None:
        self._backend = backend
        self._stop_tokens = stop_tokens
        self.shape = backend.shape
        self.steps = 0
        self.seconds = 0.0

    def forward(self, tokens: NDArray[np.int64], start: int, *, logits: int = 1
                ) -> NDArray[np.float32]:
        began_s = time.perf_counter()
        values = self._backend.forward(tokens, start, logits=logits)
        values[:, self._stop_tokens] = -np.inf
        self.seconds += time.perf_counter() - began_s
        self.steps += 1
        return values

    def close(self) -> None:
        """Do nothing: the caller closes the backend."""


def _ignore(notice: Notice) -> None:
    """Raise AssertionError if a notice of the server is an error."""
    if isinstance(notice, TurnNotice) and notice.error:
        raise AssertionError(notice.error)
