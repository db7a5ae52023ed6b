"""
Count what one token moves between host and NPU on the simulated board; print a markdown table.

Every fill of the cache is measured; where two differ, both are shown. The last rows are what two
other programs move on the same shape, derived from their sources at the commits named there.

    .venv/bin/tinyllama-model random tinyllama-1.1b --target ascend
    PYTHONPATH=test/ascend_sim .venv/bin/python bench/ascend_traffic.py MODEL [--every 1]

The simulator sees what pyACL copies, and in RC form the lines of 64 bytes of the model's inputs
that the host has changed. What the host reads in place it cannot see: those are the logits.
"""

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
import sys
import tempfile

from acl import simulator
import numpy as np
from tqdm import tqdm

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.manifest import CompiledGraph, Manifest, OM
from tinyllama_ros.artifact.places import find_artifact
from tinyllama_ros.engine.acl.backend import AclBackend
from tinyllama_ros.errors import TinyLlamaError

FORMS = {'rc': 'RC', 'ep': 'EP'}
PLACES = {'h2d': 'in', 'written': 'in', 'd2d': 'within', 'd2h': 'out'}
FLOAT32, FLOAT16, INT64 = 4, 2, 8  # bytes


@dataclass(frozen=True)
class Traffic:
    """Bytes of one token, and the calls beside the one that runs the model."""

    into: int
    within: int
    out: int
    calls: int


def sizes(manifest: Manifest) -> dict[str, int]:
    """Return the bytes of what there is to move."""
    arch = manifest.architecture
    slot = arch.layers * 2 * arch.kv_heads * arch.head_dim * FLOAT16
    return {'new rows': slot, 'cache': slot * manifest.kv_length,
            'mask': (manifest.kv_length + 1) * INT64, 'logits': arch.vocab_size * FLOAT32}


def measure(artifact: Artifact, form: str, every: int) -> Counter[Traffic]:
    """Return how many fills have which traffic, that of the first token of all left out."""
    manifest = artifact.manifest
    simulator.reset(form=form, memory=16 << 30, watch=form == 'rc')
    backend = AclBackend(artifact)
    found: Counter[Traffic] = Counter()
    random, read = np.random.default_rng(0), 0
    for fill in tqdm(range(1, manifest.kv_length, every), desc=FORMS[form], unit='fill',
                     disable=not sys.stderr.isatty()):
        for start in range(max(read, fill - 1), fill + 1):  # where not all are, its predecessor
            moved, calls = Counter(simulator.moved), len(simulator.calls)
            backend.forward(random.integers(0, backend.shape.vocab_size, 1), start)
        read = fill + 1
        found[_traffic(simulator.moved - moved, simulator.calls[calls:], manifest, form)] += 1
    backend.close()
    return found


def _traffic(moved: Counter[str], calls: list[str], manifest: Manifest, form: str) -> Traffic:
    size: Counter[str] = Counter()
    for kind, count in moved.items():
        size[PLACES[kind]] += count
    if form == 'rc':
        size['out'] += sizes(manifest)['logits']
    beside = sum(name != 'mdl.execute_async' for name in calls)
    return Traffic(size['in'], size['within'], size['out'], beside)


def others(manifest: Manifest) -> dict[str, Traffic]:
    """
    Return what other programs move for each token.

    ascend-llm copies every input and every output whole, the cache among them; in RC form it
    writes all of the mask and, in place, the new rows. qwen-ascend-llm keeps the cache on the
    device and appends there, which its layout makes one copy. Scores of attention, which
    ascend-llm's graph may give besides, are left out.

    Source: github.com/yinghuo302/ascend-llm at 1392d7fc, inference/engine.py, inference;
    github.com/Tlntin/qwen-ascend-llm at 33fc2e0d, utils/engine.py, inference and update_kv_cache.
    """
    size = sizes(manifest)
    small = 2 * INT64 + size['mask']  # a token, its position and the mask
    return {
        'ascend-llm, RC': Traffic(small + size['new rows'], 0, size['logits'], 1),
        'ascend-llm, EP': Traffic(small + size['cache'], 0, size['logits'] + size['new rows'], 15),
        'qwen-ascend-llm': Traffic(small, size['new rows'], size['logits'], 10)}


@contextmanager
def runnable(artifact: Artifact) -> Iterator[Artifact]:
    """Give an artifact that the simulator runs: where nothing is compiled, its ONNX graph."""
    if artifact.manifest.om:
        yield artifact
        return
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / OM).symlink_to(artifact.graph.absolute())
        yield replace(artifact, folder=Path(folder), manifest=replace(
            artifact.manifest, om=CompiledGraph('', (), '')))


def table(rows: list[tuple[str, Traffic]]) -> str:
    """Return the table."""
    lines = ['| | into the device | within it | out of it | in all | calls beside the run |',
             '| --- | --- | --- | --- | --- | --- |']
    for name, found in rows:
        whole = found.into + found.within + found.out
        lines.append(f'| {name} | {found.into:,} | {found.within:,} | {found.out:,} | '
                     f'{whole / 1000:,.1f} KB | {found.calls} |')
    return '\n'.join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition('\n\n')[0])
    parser.add_argument('model', help='artifact of the Ascend dialect: its folder or its name')
    parser.add_argument('--every', type=int, default=1, metavar='N',
                        help='measure each N-th fill (default: %(default)s)')
    arguments = parser.parse_args()
    try:
        artifact = Artifact.open(find_artifact(arguments.model))
        rows = []
        with runnable(artifact) as run:
            for form, name in FORMS.items():
                for found, count in measure(run, form, arguments.every).items():
                    rows.append((f'{name}, at {count} fills', found))
    except TinyLlamaError as error:
        print(f'ascend_traffic: {error}', file=sys.stderr)
        return 1
    print(table([*rows, *others(artifact.manifest).items()]))
    return 0


if __name__ == '__main__':
    sys.exit(main())
