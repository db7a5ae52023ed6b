"""GPTQ's rounding costs less than rounding to the nearest, and fits the same int8."""

import numpy as np
import pytest
from support.probes import ChangedCheckpoint, set_nan
from support.smoothing import random_scales
from support.tiny_models import tiny

from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.graphs.decoder_weights import DecoderWeights
from tinyllama_ros.workbench.quantization.gptq import BLOCK, RoundedCheckpoint, Rounding
from tinyllama_ros.workbench.quantization.quantize import quantize_weight, ROWS_AT_ONCE
from tinyllama_ros.workbench.quantization.smooth import groups, SmoothedCheckpoint

CHANNELS = 2 * BLOCK + 5


def weight_of(rows=40, channels=CHANNELS, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, channels), np.float32)


def inputs_of(tokens=600, channels=CHANNELS, factors=None, seed=1):
    """Return inputs that a few factors and a little noise make; independent ones without."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((tokens, channels), np.float32)
    if factors is None:
        return noise
    mixed = random.standard_normal((tokens, factors), np.float32) @ random.standard_normal(
        (factors, channels), np.float32)
    return mixed + np.float32(0.1) * noise


def nearest(weight):
    codes, step = quantize_weight(weight)
    return codes * step[:, None]


def output_error(weight, rounded, inputs):
    return np.square(inputs @ (rounded - weight).T).mean()


def test_correlated_inputs_have_less_than_half_the_error():
    weight, inputs = weight_of(), inputs_of(factors=20)
    found = output_error(weight, Rounding(inputs).apply(weight), inputs)
    assert found < output_error(weight, nearest(weight), inputs) / 2


def test_less_is_lost_on_tokens_that_were_not_seen_too():
    weight, inputs = weight_of(), inputs_of(tokens=1200, factors=20)
    found = output_error(weight, Rounding(inputs[:600]).apply(weight), inputs[600:])
    assert found < output_error(weight, nearest(weight), inputs[600:]) / 2


@pytest.mark.parametrize('tokens', [1, 30, CHANNELS, 600])
@pytest.mark.parametrize('factors', [None, 1, 20], ids=str)
def test_error_is_hardly_ever_larger(tokens, factors):
    weight, inputs = weight_of(), inputs_of(tokens, factors=factors)
    found = output_error(weight, Rounding(inputs).apply(weight), inputs)
    assert found < 1.05 * output_error(weight, nearest(weight), inputs)


def test_blocks_give_what_one_channel_after_the_other_gives():
    weight, inputs = weight_of(rows=9), inputs_of(factors=5)
    step = quantize_weight(weight)[1].astype(np.float64)
    moments = inputs.astype(np.float64).T @ inputs.astype(np.float64)
    moments += 0.3 * moments.trace() / CHANNELS * np.eye(CHANNELS)
    left, found = weight / step[:, None], np.empty((9, CHANNELS))
    peaks = np.abs(weight).argmax(axis=1)
    order = list(np.argsort(-moments.diagonal()))
    while order:  # as in GPTQ's paper, equations 2 and 3: by the inverse for what is left
        channel, inverse = order[0], np.linalg.inv(moments[np.ix_(order, order)])
        codes = np.clip(np.rint(left[:, channel]), -127, 127)
        codes = np.where(peaks == channel, np.sign(weight[:, channel]) * 127, codes)
        left[:, order] -= np.outer(left[:, channel] - codes, inverse[0] / inverse[0, 0])
        found[:, channel], order = codes, order[1:]
    rounded = quantize_weight(Rounding(inputs).apply(weight))[0]
    assert (rounded != found).mean() < 0.002  # ties aside: float32 against float64


@pytest.mark.parametrize('factor', [1, 0.125, 64 ** -0.5 / 3, 1e-20, 1e20], ids=str)
def test_quantize_weight_finds_the_steps_and_multiples_again(factor):
    weight, rounding = weight_of(rows=ROWS_AT_ONCE + 3, channels=16), Rounding(inputs_of(
        channels=16, factors=3))
    rounded = rounding.apply(weight)
    codes, step = quantize_weight(rounded * np.float32(factor))
    before = quantize_weight(weight)[1]
    np.testing.assert_allclose(step, before * factor, rtol=1e-6)
    np.testing.assert_allclose(codes * before[:, None], rounded, rtol=1e-6)
    assert np.abs(codes.astype(int)).max(axis=1).tolist() == [127] * len(weight)


def test_multiples_stay_in_range_where_all_weights_are_nearly_as_large():
    random = np.random.default_rng(0)
    signs = random.choice(np.array([-1, 1], np.float32), (40, CHANNELS))
    weight = signs * random.uniform(0.98, 1, signs.shape).astype(np.float32)
    step = quantize_weight(weight)[1]
    multiples = Rounding(inputs_of(factors=20)).apply(weight) / step[:, None]
    assert np.abs(multiples).max() < 127.001
    np.testing.assert_allclose(multiples, np.rint(multiples), atol=1e-4)


def test_rows_do_not_meet():
    weight, rounding = weight_of(rows=ROWS_AT_ONCE + 3, channels=16), Rounding(inputs_of(
        channels=16, factors=3))
    whole = rounding.apply(weight)
    for rows in (slice(0, 5), slice(ROWS_AT_ONCE - 2, None)):
        np.testing.assert_array_equal(rounding.apply(weight[rows]), whole[rows])


def test_independent_inputs_change_no_code_by_more_than_one():
    weight = weight_of()
    rounded = Rounding(inputs_of(tokens=10000)).apply(weight)
    step = quantize_weight(weight)[1][:, None]
    assert np.abs(rounded - nearest(weight)).max() < 1.001 * step.max()


@pytest.mark.parametrize('cleared', [slice(3, 4), slice(None)], ids=['one', 'all'])
def test_channels_that_are_never_used_are_rounded_to_the_nearest(cleared):
    weight, inputs = weight_of(), inputs_of(factors=5)
    inputs[:, cleared] = 0
    rounded = Rounding(inputs).apply(weight)
    np.testing.assert_allclose(rounded[:, cleared], nearest(weight)[:, cleared], rtol=1e-6)


def test_weights_of_zeros_stay_zero():
    weight = weight_of()
    weight[[2, 7]] = 0
    with np.errstate(all='raise'):
        rounded = Rounding(inputs_of(factors=5)).apply(weight)
    assert not rounded[[2, 7]].any() and rounded[[0, 1, 3]].any()


def test_weight_is_left_as_it_is():
    weight = weight_of()
    Rounding(inputs_of(factors=5)).apply(weight)
    np.testing.assert_array_equal(weight, weight_of())


def rounded_checkpoint(checkpoint, asked=None):
    shapes = checkpoint.architecture.weight_shapes()
    width = {group.path: (shapes.get(group.linears[0]) or shapes['model.embed_tokens.weight'])[1]
             for group in groups(checkpoint.architecture)}

    def inputs(path):
        if asked is not None:
            asked.append(path)
        return inputs_of(100, width[path], factors=8)
    smoothed = SmoothedCheckpoint(checkpoint, random_scales(checkpoint.architecture))
    return smoothed, RoundedCheckpoint(smoothed, inputs), inputs


@pytest.mark.parametrize('tied', [True, False], ids=['tied', 'untied'])
def test_linears_are_rounded_for_their_smoothed_inputs_and_nothing_else_is(tied):
    smoothed, rounded, inputs = rounded_checkpoint(tiny(tied_embeddings=tied))
    linears = {name: group.path for group in groups(smoothed.architecture)
               for name in group.linears}
    for name in rounded.architecture.weight_shapes():
        expected = smoothed.tensor(name)
        if name in linears:
            x = inputs(linears[name]) / smoothed.column_scales(name)
            expected = Rounding(x).apply(expected)
        np.testing.assert_array_equal(rounded.tensor(name), expected)


def test_linears_with_the_same_input_share_what_is_made_of_it():
    asked = []
    _, rounded, _ = rounded_checkpoint(tiny(), asked)
    for name in ('q', 'k', 'v', 'o'):
        rounded.tensor(f'model.layers.1.self_attn.{name}_proj.weight')
    assert asked == ['layer.1/attention/qkv', 'layer.1/attention/o']


@pytest.mark.parametrize('name', ['model.layers.1.mlp.down_proj', 'lm_head'])
def test_weight_that_is_not_finite_is_named_by_who_reads_it(name):
    _, rounded, _ = rounded_checkpoint(ChangedCheckpoint(tiny(tied_embeddings=False),
                                               {f'{name}.weight': set_nan}))
    with pytest.raises(ModelError, match=f'{name}.weight holds a number that is not finite'):
        DecoderWeights(rounded).read(f'{name}.weight')
