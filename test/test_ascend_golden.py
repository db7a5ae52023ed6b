"""The default model in the Ascend dialect gives the golden answers, token by token."""

import shutil

from ascend_reference import open_session, ReferenceBackend
import numpy as np
import pytest
from test_golden import each_case, NAME, pytestmark  # noqa: F401

from tinyllama_ros.model.artifact import GRAPH
from tinyllama_ros.model.ascend_graph import write_ascend_graph
from tinyllama_ros.model.ascend_linear import AscendFloatLinear
from tinyllama_ros.model.cache_folder import default_cache
from tinyllama_ros.model.sources import open_checkpoint

SLOTS = 128


@pytest.fixture(scope='module')
def backend(tmp_path_factory):
    """Return the model in fp32; its 650 MB do not outlive the tests."""
    folder = tmp_path_factory.mktemp('ascend')
    checkpoint = open_checkpoint(NAME, default_cache())
    for _ in write_ascend_graph(checkpoint, AscendFloatLinear, SLOTS, folder, (1, SLOTS)):
        pass
    arch = checkpoint.architecture
    yield ReferenceBackend(open_session(folder / GRAPH, threads=2), arch, SLOTS)
    shutil.rmtree(folder)


@each_case
def test_greedy_answer_is_the_same(backend, case):
    # All in one pass: each token is the likeliest after the ones before it
    prompt, answer = case['input_ids'], case['greedy_ids']
    logits = backend.forward(np.array([*prompt, *answer[:-1]]), 0, all_logits=True)
    assert logits[len(prompt) - 1:].argmax(axis=1).tolist() == answer
