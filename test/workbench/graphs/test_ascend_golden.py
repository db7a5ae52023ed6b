"""The default model in the Ascend dialect: golden answers in fp32, the CPU's in w8a8."""

from contextlib import closing
import shutil

import numpy as np
import pytest
from support.ascend_reference import open_session, ReferenceBackend
from support.golden import each_case, NAME, needs_default_model

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.manifest import GRAPH
from tinyllama_ros.artifact.places import default_cache
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.checkpoints.sources import open_checkpoint
from tinyllama_ros.workbench.graphs.ascend_graph import write_ascend_graph
from tinyllama_ros.workbench.graphs.ascend_linear import AscendFloatLinear
from tinyllama_ros.workbench.options import BuildOptions

pytestmark = needs_default_model
SLOTS = 128


@pytest.fixture(scope='module')
def checkpoint():
    return open_checkpoint(NAME, default_cache())


@pytest.fixture(scope='module')
def backend(checkpoint, tmp_path_factory):
    """Return the model in fp32; its 650 MB do not outlive the tests."""
    folder = tmp_path_factory.mktemp('ascend')
    for _ in write_ascend_graph(checkpoint, AscendFloatLinear, SLOTS, folder, (1, SLOTS)):
        pass
    arch = checkpoint.architecture
    yield ReferenceBackend(open_session(folder / GRAPH, threads=2), arch, SLOTS)
    shutil.rmtree(folder)


@each_case
def test_greedy_answer_is_the_same(backend, case):
    # All in one pass: each token is the likeliest after the ones before it
    prompt, answer = case['input_ids'], case['greedy_ids']
    tokens = np.array([*prompt, *answer[:-1]])
    logits = backend.forward(tokens, 0, logits=len(tokens))
    assert logits[len(prompt) - 1:].argmax(axis=1).tolist() == answer


@pytest.fixture(scope='module')
def w8a8(checkpoint, tmp_path_factory):
    """Return the model in w8a8 in both dialects, every linear W8A16."""
    folder = tmp_path_factory.mktemp('w8a8')
    for target in ('cpu', 'ascend'):
        build(checkpoint, folder / target, BuildOptions(
            name=NAME, quantization='w8a8', kv_length=SLOTS, target=target, chunk_sizes=(1,
            SLOTS), w8a16='all'))
    cpu, ascend = (Artifact.open(folder / target) for target in ('cpu', 'ascend'))
    with closing(OnnxBackend(cpu, threads=2)) as backend:
        yield backend, ReferenceBackend(open_session(ascend.graph, threads=2),
                                        ascend.manifest.architecture, SLOTS)
    shutil.rmtree(folder)


@each_case
def test_w8a8_says_what_the_cpu_says(w8a8, case):
    prompt, answer = case['input_ids'], case['greedy_ids']
    tokens = np.array([*prompt, *answer[:-1]])
    cpu, ascend = (each.forward(tokens, 0, logits=len(tokens))[len(prompt) - 1:] for each in w8a8)
    rows, said = np.arange(len(answer)), ascend.argmax(axis=1)
    gap = cpu.max(axis=1) - cpu[rows, said]
    assert (gap < np.spacing(cpu.max(axis=1).astype(np.float16))).all()
