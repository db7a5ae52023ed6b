"""Smoothing changes nothing but what rounding does."""

from functools import partial

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest
from support import numpy_llama
from support.probes import oracle_inputs
from support.smoothing import random_scales, with_outliers
from support.tiny_models import tiny

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.errors import ConfigError
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.options import BuildOptions
from tinyllama_ros.workbench.quantization.smooth import (
    ALPHAS,
    check_smoothing,
    choose_scale,
    gather,
    groups,
    RoundingError,
    smooth,
    SmoothedCheckpoint,
    spread,
)

MODELS = {
    'nine_share_three_tied': partial(tiny, heads=9, kv_heads=3, hidden=144, tied_embeddings=True),
    'four_share_one_untied': partial(tiny, kv_heads=1, head_dim=64, layers=3),
    'four_of_four_tied': partial(tiny, kv_heads=4, tied_embeddings=True),
    'six_share_two_untied': partial(tiny, heads=6, kv_heads=2, hidden=96, ffn=112)}


def fp32_logits(checkpoint, tokens, folder):
    build(checkpoint, folder, BuildOptions(name='tiny', quantization='fp32', kv_length=64))
    backend = OnnxBackend(Artifact.open(folder), threads=1)
    found = backend.forward(np.array(tokens), 0, logits=len(tokens)).copy()
    backend.close()
    return found


def some_tokens(checkpoint, count, seed=0):
    size = checkpoint.architecture.vocab_size
    return np.random.default_rng(seed).integers(size, size=count).tolist()


@pytest.mark.parametrize('model', MODELS)
def test_folding_leaves_the_fp32_function_unchanged(tmp_path, model):
    checkpoint = MODELS[model]()
    tokens = some_tokens(checkpoint, 40)
    smoothed = SmoothedCheckpoint(checkpoint, random_scales(checkpoint.architecture))
    found = fp32_logits(smoothed, tokens, tmp_path / 'smoothed')
    np.testing.assert_allclose(found, fp32_logits(checkpoint, tokens, tmp_path / 'plain'),
                               rtol=0, atol=1e-4)
    np.testing.assert_allclose(found, numpy_llama.logits(checkpoint, tokens), rtol=0, atol=1e-4)


@pytest.mark.parametrize('model', MODELS)
def test_every_input_is_divided_by_its_scale(model):
    checkpoint = MODELS[model]()
    shape, tokens = checkpoint.architecture, some_tokens(checkpoint, 10)
    scales = random_scales(shape)
    before = oracle_inputs(checkpoint, tokens)
    after = oracle_inputs(SmoothedCheckpoint(checkpoint, scales), tokens)
    for group in groups(shape):
        scale = spread(scales[group.path], group.query_groups, shape.head_dim)
        np.testing.assert_allclose(after[group.path] * scale, before[group.path],
                                   rtol=0, atol=1e-4)


@pytest.mark.parametrize('model', MODELS)
def test_every_matrix_but_the_embedding_belongs_to_one_group(model):
    shapes = MODELS[model]().architecture.weight_shapes()
    linears = [name for group in groups(MODELS[model]().architecture) for name in group.linears]
    matrices = {name for name, shape in shapes.items() if len(shape) == 2}
    assert len(linears) == len(set(linears))
    assert set(linears) == matrices - {'model.embed_tokens.weight'} | {'lm_head.weight'}


@pytest.mark.parametrize('tied', [True, False], ids=['tied', 'untied'])
def test_embedding_is_not_scaled_with_the_head(tied):
    checkpoint = tiny(tied_embeddings=tied)
    scale = random_scales(checkpoint.architecture)['logits']
    smoothed = SmoothedCheckpoint(checkpoint, {'logits': scale})
    embedding = 'model.embed_tokens.weight'
    head = checkpoint.tensor(embedding if tied else 'lm_head.weight')
    np.testing.assert_array_equal(smoothed.tensor(embedding), checkpoint.tensor(embedding))
    np.testing.assert_array_equal(smoothed.tensor('lm_head.weight'), head * scale)


def test_group_without_scales_is_left_alone():
    checkpoint = tiny()
    smoothed = SmoothedCheckpoint(checkpoint, {})
    for name in checkpoint.architecture.weight_shapes():
        np.testing.assert_array_equal(smoothed.tensor(name), checkpoint.tensor(name))


heads = st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))


@given(heads=heads, rows=st.integers(1, 4))
def test_gathered_rows_are_the_query_heads_of_a_group(heads, rows):
    kv_heads, group, head_dim = heads
    values = np.arange(rows * kv_heads * group * head_dim, dtype=np.float32).reshape(rows, -1)
    found = gather(values, group, head_dim)
    assert found.shape == (rows * group, kv_heads * head_dim)
    for row in range(rows):
        for head in range(kv_heads * group):
            shared, place = divmod(head, group)
            np.testing.assert_array_equal(
                found[row * group + place, shared * head_dim:(shared + 1) * head_dim],
                values[row, head * head_dim:(head + 1) * head_dim])


@given(heads=heads)
def test_spread_gives_query_heads_the_scales_of_their_group(heads):
    kv_heads, group, head_dim = heads
    scale = np.arange(kv_heads * head_dim, dtype=np.float32)
    expected = [scale[head // group * head_dim + channel]
                for head in range(kv_heads * group) for channel in range(head_dim)]
    assert spread(scale, group, head_dim).tolist() == expected


def problem(seed, tokens=48, outputs=40, channels=24):
    """Return inputs with some large channels, and a weight."""
    random = np.random.default_rng(seed)
    sizes = np.exp(random.normal(0, 1.2, channels))
    inputs = random.standard_normal((tokens, channels)) * sizes
    return inputs.astype(np.float32), random.standard_normal((outputs, channels), np.float32)


@pytest.mark.parametrize('group', [0, 7, 8, 24, 100])
@pytest.mark.parametrize(('is_w8a16', 'steps'), [(False, 127), (True, 127 * 254)],
                         ids=['8_bits', '16_bits'])
@pytest.mark.parametrize('seed', range(3))
def test_error_is_the_variance_of_every_output_summed(seed, is_w8a16, steps, group):
    inputs, weight = problem(seed)
    scale = np.exp(np.random.default_rng(seed + 9).normal(0, 1, 24)).astype(np.float32)
    x, w = inputs.astype(np.float64) / scale, weight.astype(np.float64) * scale
    expected = 0.0
    for token in x:
        for output in w:
            output_step = np.abs(output).max() / 127
            expected += ((token * output_step) ** 2).sum() / 12
            for first in range(0, 24, group or 24):
                part = slice(first, first + (group or 24))
                step = np.abs(token[part]).max() / steps
                expected += ((output[part] * step) ** 2).sum() / 12
    found = RoundingError(inputs, weight, is_w8a16=is_w8a16, group=group).at(scale)
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(('linear', 'group'), [(numpy_llama.w8a8, 0),
                                               (numpy_llama.w8a8_by_group, 128)])
@pytest.mark.parametrize('alpha', [0.0, 0.5, 1.0])
def test_error_is_what_rounding_really_does(alpha, linear, group):
    inputs, weight = problem(0, tokens=300, outputs=200, channels=320)
    error = RoundingError(inputs, weight, group=group)
    scale = error.textbook_scale(alpha)
    smoothed = inputs.astype(np.float64) / scale, weight.astype(np.float64) * scale
    measured = ((linear(*smoothed) - numpy_llama.exact(*smoothed)) ** 2).sum()
    # The largest of a row is met exactly, and so are small channels whose steps are all 0
    assert error.at(scale) == pytest.approx(measured, rel=0.1)


@pytest.mark.parametrize('group', [0, 7, 8])
@pytest.mark.parametrize('is_w8a16', [False, True], ids=['8_bits', '16_bits'])
@pytest.mark.parametrize('seed', range(3))
def test_slope_is_that_of_finite_differences(seed, is_w8a16, group):
    inputs, weight = problem(seed)
    error = RoundingError(inputs, weight, is_w8a16=is_w8a16, group=group)
    at = np.random.default_rng(seed + 9).normal(0, 1, 24)
    slope = error._value_and_slope(np.exp(at))[1]
    for channel, found in enumerate(slope):
        low, high = (error.at(np.exp(at + step * (np.arange(24) == channel)))
                     for step in (-1e-6, 1e-6))
        assert found == pytest.approx((np.log(high) - np.log(low)) / 2e-6, abs=1e-5)


@pytest.mark.parametrize(('alpha', 'expected'), [
    (0.0, [4, 0.25]), (0.5, [1, 1]), (0.75, [0.5, 2]), (1.0, [0.25, 4])])
def test_textbook_scale_is_that_of_the_paper(alpha, expected):
    # s = max|x|^alpha / max|w|^(1 - alpha), and then the geometric mean is made 1
    inputs = np.array([[0.5, -16], [-1, 3]], np.float32)
    weight = np.array([[1, 2], [-0.5, -16], [0.1, 0]], np.float32)
    np.testing.assert_allclose(RoundingError(inputs, weight).textbook_scale(alpha), expected,
                               rtol=1e-6)


# Of one token and one output, alpha 0.5 is the optimum, and a descent only leaves it
@pytest.mark.parametrize('size', [(48, 40), (1, 1)], ids=['several', 'one_token'])
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000))
def test_refined_is_never_worse_than_the_best_textbook_scale(size, seed):
    inputs, weight = problem(seed, *size)
    error = RoundingError(inputs, weight)
    best = min(error.at(error.textbook_scale(alpha)) for alpha in ALPHAS)
    assert error.at(choose_scale(error, 'searched')) == best
    assert error.at(choose_scale(error, 'refined')) <= best * (1 + 1e-7)


@pytest.mark.parametrize('seed', range(3))
def test_refined_is_better_where_channels_differ(seed):
    inputs, weight = problem(seed)
    error = RoundingError(inputs, weight)
    searched, refined = (error.at(choose_scale(error, how))
                         for how in ('searched', 'refined'))
    assert refined < 0.99 * searched


def test_one_alpha_for_all_is_taken_as_it_is():
    inputs, weight = problem(0)
    error = RoundingError(inputs, weight)
    np.testing.assert_array_equal(choose_scale(error, '0.65'), error.textbook_scale(0.65))


@pytest.mark.parametrize('smoothing', ['refined', 'searched', '0', '0.5', '1'])
@pytest.mark.parametrize(('inputs_zero', 'weight_zero'), [
    ([3], []), ([], [3]), ([3], [3]), ([3], [4]), (range(24), []), ([], range(24)),
    (range(24), range(24))], ids=['inputs', 'weight', 'both', 'apart', 'all_inputs', 'all_weight',
                                  'everything'])
def test_channels_of_zeros_give_finite_scales(smoothing, inputs_zero, weight_zero):
    inputs, weight = problem(0)
    inputs[:, list(inputs_zero)] = 0
    weight[:, list(weight_zero)] = 0
    with np.errstate(all='raise', under='ignore'):
        scale = choose_scale(RoundingError(inputs, weight), smoothing)
        assert np.isfinite([scale, 1 / scale]).all()
    assert scale.dtype == np.float32


def test_inputs_and_weight_are_left_as_they_are():
    inputs, weight = problem(0)
    choose_scale(RoundingError(inputs, weight), 'refined')
    for found, expected in zip((inputs, weight), problem(0), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('smoothing', ['refined', 'searched', 'none', '0', '0.7', '1', '1e-1'])
def test_known_smoothing_is_accepted(smoothing):
    check_smoothing(smoothing)


@pytest.mark.parametrize('smoothing', ['1.1', '-0.1', 'nan', 'inf', 'best', '', '0,5'])
def test_unknown_smoothing_is_refused_with_what_there_is(smoothing):
    with pytest.raises(ConfigError, match=f"smoothing is '{smoothing}'; it must be refined, "
                       r'searched, none, or one alpha for all linears, in 0\.\.1'):
        check_smoothing(smoothing)


@pytest.mark.parametrize('smoothing', ['searched', 'refined'])
def test_outliers_are_taken_away(smoothing):
    checkpoint = with_outliers(tiny())
    inputs = oracle_inputs(checkpoint, some_tokens(checkpoint, 60))
    smoothed = smooth(checkpoint, lambda path: inputs[path].astype(np.float32), smoothing)
    tokens = some_tokens(checkpoint, 60, seed=1)
    exact = numpy_llama.logits(checkpoint, tokens)
    before, after = (np.square(numpy_llama.logits(each, tokens, numpy_llama.w8a8) - exact).mean()
                     for each in (checkpoint, smoothed))
    assert after < before / 100  # of the square: ten times smaller


@pytest.mark.parametrize(('w8a16', 'moved'), [
    ('none', ''), ('down', 'mlp.down'), ('all', 'self_attn.q self_attn.o mlp.gate mlp.down')])
def test_smoothing_heeds_what_is_w8a16(w8a16, moved):
    checkpoint = tiny(layers=1)
    inputs = oracle_inputs(checkpoint, some_tokens(checkpoint, 60))
    plain, wide = (smooth(checkpoint, lambda path: inputs[path].astype(np.float32), 'refined',
                          w8a16=each) for each in ('none', w8a16))
    names = {name: f'model.layers.0.{name}_proj.weight'
             for name in ('self_attn.q', 'self_attn.o', 'mlp.gate', 'mlp.down')}
    assert [name for name, weight in names.items()
            if (plain.tensor(weight) != wide.tensor(weight)).any()] == moved.split()
