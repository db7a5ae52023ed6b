"""What an operator of ours cannot compute with is refused, with names and numbers."""

import re

import numpy as np
from onnx import TensorProto
import pytest
from support.kernel_sessions import open_session

FLOAT = TensorProto.FLOAT


def test_weight_that_is_no_constant_is_refused(installed):
    with pytest.raises(Exception, match='W8A16Product: its weight is not a constant of the graph'):
        open_session('W8A16Product', {'x': (FLOAT, [1, 4]), 'weight': (TensorProto.INT8, [4, 4]),
                                      'scale': (FLOAT, [4])}, ['y'], {}, installed)


@pytest.mark.parametrize(('op', 'weight', 'scale', 'message'), [
    ('GatedLinear', (7, 4, 16), (7, 4),
     'GatedLinear: its weight has 7 output channels, an odd number'),
    ('GatedLinear', (8, 5, 16), (8, 5),
     'GatedLinear: its weight has 5 groups of 16, which do not fit its 64 input channels'),
    ('GroupedLinear', (8, 4, 16), (8, 3),
     'GroupedLinear: its weight is (8, 4, 16) and its scale (8, 3), but they are to be '
     '(out, groups, group) and (out, groups)'),
    ('GroupedLinear', (8, 64), (8,), 'GroupedLinear: its weight is (8, 64) and its scale (8)'),
    ('GroupedLinear', (8, 3, 16), (8, 3), 'has 3 groups of 16, which do not fit its 64 input'),
    ('GroupedLinear', (8, 5, 16), (8, 5), 'has 5 groups of 16, which do not fit its 64 input'),
    ('GroupedLinear', (8, 32, 2), (8, 32), 'has 32 groups of 2, which do not fit its 64 input'),
    ('GroupedLinear', (8, 4, 0), (8, 4), 'has 4 groups of 0, which do not fit its 64 input'),
    ('GroupedLinear', (0, 4, 16), (0, 4), 'its weight has 64 input and 0 output channels')],
    ids=str)
def test_weight_of_another_shape_is_refused(installed, op, weight, scale, message):
    with pytest.raises(Exception, match=re.escape(message)):
        open_session(op, {'x': (FLOAT, [1, 64])}, ['y'],
                     {'weight': np.zeros(weight, np.uint8), 'scale': np.ones(scale, np.float32)},
                     installed, **{'in': 64, 'out': 8, 'group': 16})


@pytest.mark.parametrize(('weight', 'scale', 'message'), [
    ((8, 4, 16), (8,), 'its weight is (8, 4, 16) and its scale (8), but they are to be (out, in)'),
    ((8, 64), (7,), 'its weight is (8, 64) and its scale (7), but they are to be (out, in)'),
    ((8, 0), (8,), 'its weight has 0 input and 8 output channels')], ids=str)
def test_weight_of_another_shape_is_refused_for_w8a16(installed, weight, scale, message):
    with pytest.raises(Exception, match=re.escape(f'W8A16Product: {message}')):
        open_session('W8A16Product', {'x': (FLOAT, None)}, ['y'],
                     {'weight': np.zeros(weight, np.int8), 'scale': np.ones(scale, np.float32)},
                     installed)


@pytest.mark.parametrize('op', ['GroupedLinear', 'GatedLinear'])
def test_weight_whose_groups_have_several_scales_is_refused(installed, op):
    scale = np.ones((8, 4), np.float32)
    scale[7, 3] = 2
    with pytest.raises(Exception, match=f'{op}: the groups of output channel 7 have several '
                                        'scales, 1 and 2'):
        open_session(op, {'x': (FLOAT, [1, 64])}, ['y'],
                     {'weight': np.zeros((8, 4, 16), np.uint8), 'scale': scale},
                     installed, **{'in': 64, 'out': 8, 'group': 16})


@pytest.mark.parametrize(('op', 'weight', 'scale', 'attributes'), [
    ('GroupedLinear', np.zeros((8, 4, 16), np.uint8), np.ones((8, 4), np.float32),
     {'in': 64, 'out': 8, 'group': 16}),
    ('W8A16Product', np.zeros((8, 64), np.int8), np.ones(8, np.float32), {})], ids=str)
@pytest.mark.parametrize('shape', [(2, 63), (3, 2, 65), (64, 1), ()], ids=str)
def test_activations_of_another_width_than_the_weight_are_refused(installed, op, weight, scale,
                                                                  attributes, shape):
    session = open_session(op, {'x': (FLOAT, None)}, ['y'], {'weight': weight, 'scale': scale},
                           installed, **attributes)
    columns = shape[-1] if shape else 1
    with pytest.raises(Exception, match=f'{op}: x has {columns} columns, its weight 64 input'):
        session.run(None, {'x': np.zeros(shape, np.float32)})


def test_gate_and_up_of_different_widths_are_refused(installed):
    session = open_session('Gate', {'both': (FLOAT, None)}, ['gated'], {}, installed)
    with pytest.raises(Exception, match='Gate: its input has 7 columns, an odd number'):
        session.run(None, {'both': np.zeros((2, 7), np.float32)})


@pytest.mark.parametrize(('block', 'residual', 'weight'), [
    ((2, 8), (2, 8), (7,)), ((2, 8), (1, 8), (8,)), ((2, 8), (2, 8), (1, 8)), ((), (), (8,))],
    ids=str)
def test_norm_of_different_shapes_is_refused(installed, block, residual, weight):
    shapes = {'block': block, 'residual': residual, 'weight': weight}
    session = open_session('Norm', {name: (FLOAT, None) for name in shapes}, ['normed', 'sum'], {},
                           installed, epsilon=1e-5)
    with pytest.raises(Exception, match=r'Norm: block is .*, residual .* and weight .* are to be'):
        session.run(None, {name: np.zeros(shape, np.float32) for name, shape in shapes.items()})


ATTENTION = {'qkv': (1, 3, 64), 'past_key': (1, 1, 8, 16), 'past_value': (1, 1, 8, 16),
             'last_slot': (1,), 'fill_after': (), 'cos': (8, 8), 'sin': (8, 8)}


@pytest.mark.parametrize(('heads', 'shapes', 'message'), [
    (2, {'qkv': (1, 3, 63)},
     'qkv is (1, 3, 63), but 2 heads and 2 x 1 of 16 need (1, tokens, 64)'),
    (2, {'qkv': (2, 3, 64)}, 'qkv is (2, 3, 64), but'),
    (2, {'qkv': (3, 64)}, 'qkv is (3, 64), but'),
    (2, {'past_key': (1, 8, 16)}, 'the past keys are (1, 8, 16) and the values (1, 1, 8, 16)'),
    (2, {'past_value': (1, 1, 7, 16)}, 'the past keys are (1, 1, 8, 16) and the values (1, 1, 7'),
    (2, {'past_key': (1, 1, 8, 24), 'past_value': (1, 1, 8, 24)}, 'head_dim is 24, but'),
    (2, {'past_key': (1, 1, 8, 0), 'past_value': (1, 1, 8, 0)}, 'head_dim is 0, but'),
    (3, {'past_key': (1, 2, 8, 16), 'past_value': (1, 2, 8, 16)}, '3 heads cannot share 2 heads'),
    (2, {'past_key': (1, 0, 8, 16), 'past_value': (1, 0, 8, 16)}, '2 heads cannot share 0 heads'),
    (0, {}, '0 heads cannot share 1 heads'),
    (2, {'cos': (7, 8)}, 'cos is (7, 8) and sin (8, 8), but both are to be (8, 8)'),
    (2, {'sin': (8, 7)}, 'cos is (8, 8) and sin (8, 7), but both are to be (8, 8)'),
    (2, {'last_slot': (0,)}, 'last_slot is (0), but'),
    (2, {'qkv': (1, 9, 64)}, 'a chunk of 9 tokens whose last slot is 0 does not fit the cache of'),
    (2, {}, 'a chunk of 3 tokens whose last slot is 0 does not fit the cache of 8 slots')],
    ids=str)
def test_attention_of_sizes_that_do_not_fit_is_refused(installed, heads, shapes, message):
    shapes = ATTENTION | shapes
    kinds = {name: np.int32 if name in ('last_slot', 'fill_after') else np.float32
             for name in shapes}
    session = open_session(
        'Attention', {name: (TensorProto.INT32 if kind is np.int32 else FLOAT, None)
                      for name, kind in kinds.items()},
        ['attended', 'key', 'value'], {}, installed, num_heads=heads, kv_num_heads=1)
    with pytest.raises(Exception, match=re.escape(f'Attention: {message}')):
        session.run(None, {name: np.zeros(shape, kinds[name]) for name, shape in shapes.items()})
