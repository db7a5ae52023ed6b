"""Weights in int8 lose at most half a step."""

from hypothesis import given, settings, strategies as st
from hypothesis.extra import numpy as npst
import numpy as np
import pytest

from tinyllama_ros.errors import ConfigError, ModelError
from tinyllama_ros.workbench.quantization.quantize import (
    check_w8a16,
    is_w8a16,
    quantize_weight,
    ROWS_AT_ONCE,
)

numbers = st.floats(-2.0 ** 100, 2.0 ** 100, width=32, allow_subnormal=False)
weights = npst.arrays(np.float32, npst.array_shapes(min_dims=2, max_dims=2, max_side=8),
                      elements=st.just(0) | numbers.filter(lambda x: abs(x) > 2.0 ** -100))


@settings(deadline=None)
@given(weight=weights)
def test_error_is_at_most_half_a_step(weight):
    quantized, scale = quantize_weight(weight)
    error = np.abs(quantized.astype(np.float64) * scale[:, None] - weight)
    assert (error <= 0.5001 * scale[:, None]).all()  # the scale itself is a float32


@settings(deadline=None)
@given(weight=weights)
def test_largest_of_each_channel_is_127(weight):
    quantized, scale = quantize_weight(weight)
    assert (quantized.dtype, scale.dtype) == (np.int8, np.float32)
    peaks = np.abs(quantized.astype(int)).max(axis=1)
    np.testing.assert_array_equal(peaks, np.where(weight.any(axis=1), 127, 0))


def test_sign_does_not_matter():
    weight = np.random.default_rng(0).standard_normal((5, 9)).astype(np.float32)
    one, other = quantize_weight(weight), quantize_weight(-weight)
    np.testing.assert_array_equal(one[0], -other[0])
    np.testing.assert_array_equal(one[1], other[1])


def test_channel_of_zeros_stays_zero():
    with np.errstate(all='raise'):
        quantized, scale = quantize_weight(np.array([[0, 0], [1, -2]], np.float32))
    np.testing.assert_array_equal(quantized, [[0, 0], [64, -127]])
    np.testing.assert_allclose(scale, [0, 2 / 127])


def test_channels_do_not_meet():
    weight = np.random.default_rng(0).standard_normal((2 * ROWS_AT_ONCE + 5, 3), np.float32)
    quantized, scale = quantize_weight(weight)
    for row in (0, ROWS_AT_ONCE - 1, ROWS_AT_ONCE, 2 * ROWS_AT_ONCE, len(weight) - 1):
        alone, its_scale = quantize_weight(weight[row:row + 1])
        np.testing.assert_array_equal(quantized[row], alone[0])
        assert scale[row] == its_scale[0]


def test_weight_is_left_as_it_is():
    weight = np.random.default_rng(0).standard_normal((4, 4), np.float32)
    before = weight.copy()
    quantize_weight(weight)
    np.testing.assert_array_equal(weight, before)


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('channel', [0, 3, ROWS_AT_ONCE + 2])
def test_channel_that_is_not_finite_is_named(value, channel):
    weight = np.ones((ROWS_AT_ONCE + 5, 2), np.float32)
    weight[[channel, -1], 1] = value
    with pytest.raises(ModelError, match=rf'output channel {channel} of a weight .* not finite'):
        quantize_weight(weight)


@pytest.mark.parametrize(('w8a16', 'expected'), [
    ('none', ['logits']), ('down', ['layer.21/mlp/down', 'logits']),
    ('all', ['layer.0/attention/qkv', 'layer.21/mlp/down', 'logits'])])
def test_head_is_always_w8a16(w8a16, expected):
    paths = ['layer.0/attention/qkv', 'layer.21/mlp/down', 'logits']
    assert [path for path in paths if is_w8a16(path, w8a16)] == expected


def test_unknown_fineness_is_refused():
    with pytest.raises(ConfigError, match="w8a16 is 'most'; it must be one of none, down, all"):
        check_w8a16('most')
