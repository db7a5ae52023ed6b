"""Random models: reproducible, well scaled, and readable."""

import json

from hypothesis import given, strategies as st
import numpy as np
import pytest
from tokenizers import Tokenizer

from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.random_checkpoint import (
    byte_tokenizer,
    RandomCheckpoint,
    SHAPES,
)

TOKENIZER = Tokenizer.from_str(byte_tokenizer(400).content.decode())
QUERY, NORM = 'model.layers.1.self_attn.q_proj.weight', 'model.norm.weight'


def test_weights_do_not_depend_on_the_order_they_are_asked_in():
    first, second = RandomCheckpoint.named('tiny'), RandomCheckpoint.named('tiny')
    wanted = first.tensor(NORM), first.tensor(QUERY)
    found = second.tensor(QUERY), second.tensor(NORM)
    np.testing.assert_array_equal(wanted[0], found[1])
    np.testing.assert_array_equal(wanted[1], found[0])


@pytest.mark.parametrize(('name', 'seed'), [(QUERY, 1), (QUERY.replace('q_', 'o_'), 0)],
                         ids=['seed', 'name'])
def test_another_seed_or_name_gives_other_weights(name, seed):
    one = RandomCheckpoint.named('tiny').tensor(QUERY)
    other = RandomCheckpoint.named('tiny', seed).tensor(name)
    assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 0.06  # 4 deviations at 64 * 64


def test_weights_have_the_shapes_of_the_architecture():
    checkpoint = RandomCheckpoint.named('tiny')
    for name, shape in SHAPES['tiny'].weight_shapes().items():
        weight = checkpoint.tensor(name)
        assert (weight.shape, weight.dtype) == (shape, np.float32)


def test_matrix_keeps_the_size_of_what_goes_through():
    weight = RandomCheckpoint.named('smollm2-135m').tensor(QUERY)
    through = weight @ np.ones(weight.shape[1], np.float32)
    assert 0.9 < through.std() < 1.1


def test_norm_lies_near_one():
    weight = RandomCheckpoint.named('tiny').tensor(NORM)
    assert 0.5 < weight.min() < weight.max() < 1.5


@given(text=st.text())
def test_text_is_one_token_for_each_byte(text):
    assert TOKENIZER.encode(text).ids == list(text.encode())


def test_every_token_can_be_decoded_and_no_two_are_alike():
    words = [TOKENIZER.decode([token]) for token in range(258, 400)]
    assert len(set(words)) == len(words)
    assert all(word[0] == ' ' and word[1:].isalpha() and word.islower() for word in words)


@pytest.mark.parametrize('name', ['tinyllama-1.1b', 'tiny'])
def test_vocabulary_is_as_large_as_the_shape_says(name):
    checkpoint = RandomCheckpoint.named(name)
    vocabulary = json.loads(checkpoint.tokenizer.content)['model']['vocab']
    assert sorted(vocabulary.values()) == list(range(SHAPES[name].vocab_size))


def test_control_tokens_come_after_the_bytes():
    assert byte_tokenizer(300).settings.control_tokens == {'<|im_start|>': 256, '<|im_end|>': 257}


def test_unknown_shape_lists_the_known_ones():
    with pytest.raises(ModelError, match=r"'huge' is unknown; known: tinyllama-1\.1b, smollm2"):
        RandomCheckpoint.named('huge')


def test_unknown_weight_is_refused():
    with pytest.raises(ModelError, match='has no weight x'):
        RandomCheckpoint.named('tiny').tensor('x')


def test_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ModelError, match='vocab_size is 257; a random model needs 258'):
        byte_tokenizer(257)
