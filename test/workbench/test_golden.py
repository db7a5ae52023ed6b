"""
The default model against an independent implementation: Transformers in float32.

It fetches 93 MB once, and builds 0.6 GB, into the user's cache folder; set TINYLLAMA_ROS_OFFLINE
to skip it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
from support.golden import each_case, GOLDEN, NAME, needs_default_model

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.places import artifacts_folder
from tinyllama_ros.chat.message import Message
from tinyllama_ros.chat.template import ChatTemplate
from tinyllama_ros.chat.tokenizer import open_tokenizer, Tokenizer
from tinyllama_ros.commands.cli import main
from tinyllama_ros.engine.onnx import OnnxBackend

pytestmark = needs_default_model


@dataclass(frozen=True)
class Model:
    """The default model in fp32, open."""

    backend: OnnxBackend
    tokenizer: Tokenizer
    template: ChatTemplate
    control: frozenset[int]

    def read(self, tokens: list[int]) -> np.ndarray:
        """Return the logits after tokens that are read from an empty cache on."""
        longest = self.backend.shape.chunk_sizes[-1]
        for start in range(0, len(tokens), longest):
            logits = self.backend.forward(np.array(tokens[start:start + longest]), start)
        return logits[0].astype(np.float64)

    def continue_greedily(self, tokens: list[int], end: int, most: int) -> list[int]:
        """Return the likeliest tokens after some, up to an end token or a number."""
        drawn = [int(self.read(tokens).argmax())]
        while drawn[-1] != end and len(drawn) < most:
            logits = self.backend.forward(np.array(drawn[-1:]), len(tokens) + len(drawn) - 1)
            drawn.append(int(logits[0].argmax()))
        return drawn


@pytest.fixture(scope='session')
def model() -> Iterator[Model]:
    assert main(['build', NAME, '--quant', 'fp32']) == 0
    artifact = Artifact.open(artifacts_folder() / f'{NAME}-fp32')
    settings = artifact.manifest.tokenizer
    tokenizer = open_tokenizer(artifact)
    backend = OnnxBackend(artifact)
    yield Model(backend, tokenizer, ChatTemplate(settings, tokenizer),
                frozenset(settings.control_tokens.values()))
    backend.close()


def messages(case: dict[str, object]) -> list[Message]:
    return [Message(**message) for message in case['messages']]


@each_case
def test_prompt_is_rendered_to_the_letter(model, case):
    assert model.template.render(messages(case)) == case['rendered']


@each_case
def test_prompt_has_the_same_tokens(model, case):
    assert model.template.encode(messages(case)) == case['input_ids']


@pytest.mark.parametrize('name', ['plain', 'unicode', 'spaces'])
def test_text_has_the_same_tokens(model, name):
    case = GOLDEN['tokenizer'][name]
    assert model.tokenizer.encode(case['text']) == case['ids']


@pytest.mark.parametrize('name', GOLDEN['tokenizer'])
def test_text_comes_back(model, name):
    text = GOLDEN['tokenizer'][name]['text']
    assert model.tokenizer.decode(model.tokenizer.encode(text)) == text


def test_text_that_spells_control_tokens_has_none(model):
    case = GOLDEN['tokenizer']['control']
    assert model.control.isdisjoint(model.tokenizer.encode(case['text']))
    assert not model.control.isdisjoint(case['ids'])  # where structure spells them


@each_case
def test_logits_are_the_same(model, case):
    logits = model.read(case['input_ids'])
    peak = logits.max()
    assert abs(peak + np.log(np.exp(logits - peak).sum()) - case['logsumexp']) < 2e-3
    best, values = zip(*case['top10'], strict=True)
    np.testing.assert_allclose(logits[list(best)], values, rtol=0, atol=2e-3)
    assert np.sort(logits)[-10] < min(values) + 2e-3  # no other token is among them


@each_case
def test_greedy_answer_is_the_same(model, case):
    assert model.continue_greedily(case['input_ids'], end=2, most=64) == case['greedy_ids']


@each_case
def test_greedy_answer_reads_the_same(model, case):
    assert model.tokenizer.decode(case['greedy_ids']) == case['greedy_text']
