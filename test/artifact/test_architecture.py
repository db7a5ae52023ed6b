"""The shape of a decoder, and what cannot be one."""

from dataclasses import replace

import pytest

from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.random_checkpoint import SHAPES

TINY = SHAPES['tiny']


def parameters(shape):
    sizes = 0
    for rows, *columns in shape.weight_shapes().values():
        sizes += rows * (columns[0] if columns else 1)
    return sizes


@pytest.mark.parametrize(('name', 'published'), [
    ('tinyllama-1.1b', 1_100_048_384), ('smollm2-135m', 134_515_008)])
def test_named_shapes_have_the_published_number_of_parameters(name, published):
    assert parameters(SHAPES[name]) == published


def test_tied_embeddings_have_no_head():
    tied, untied = (replace(TINY, tied_embeddings=tied).weight_shapes() for tied in (True, False))
    assert untied.keys() - tied.keys() == {'lm_head.weight'}


def test_group_is_the_number_of_heads_that_share_one():
    assert SHAPES['smollm2-135m'].group == 3


@pytest.mark.parametrize('name', ['layers', 'hidden', 'kv_heads', 'vocab_size', 'rope_base',
                                  'norm_eps'])
def test_nothing_may_be_nought(name):
    with pytest.raises(ModelError, match=f'{name} is 0; it must be above 0'):
        replace(TINY, **{name: 0})


def test_heads_must_share_evenly():
    with pytest.raises(ModelError, match='4 query heads cannot share 3 key/value heads evenly'):
        replace(TINY, kv_heads=3)


def test_head_of_odd_size_is_refused():
    with pytest.raises(ModelError, match='head_dim is 15; RoPE needs an even number'):
        replace(TINY, head_dim=15)
