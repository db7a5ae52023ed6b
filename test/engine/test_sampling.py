"""Sampling: what each option keeps, and how it is drawn from."""

from hypothesis import given, strategies as st
from hypothesis.extra import numpy as npst
import numpy as np
import pytest

from tinyllama_ros.engine.sampling import (
    keep_min_p,
    keep_top_k,
    keep_top_p,
    penalize,
    Sampler,
    SamplingOptions,
    softmax,
)
from tinyllama_ros.errors import ConfigError

PROBABILITIES = np.array([0.125, 0.5, 0.0625, 0.25, 0.0625], np.float32)
LOGITS = np.log(PROBABILITIES)
SAMPLES = 4000

distributions = npst.arrays(
    np.float32, st.integers(1, 50), elements=st.floats(0, 30, width=32)).map(
        lambda logits: softmax(logits, 1))


def frequencies(options: SamplingOptions, logits=LOGITS) -> np.ndarray:
    """Return how often each token is drawn."""
    sampler = Sampler(options)
    tokens = [sampler.sample(logits, []) for _ in range(SAMPLES)]
    return np.bincount(tokens, minlength=len(logits)) / SAMPLES


@pytest.mark.parametrize(('temperature', 'expected'), [
    (1, [0.125, 0.5, 0.0625, 0.25, 0.0625]),
    (0.5, [0.0465, 0.7442, 0.0116, 0.1860, 0.0116]),  # squares, over their sum
    (2, [0.1716, 0.3431, 0.1213, 0.2426, 0.1213])])  # roots
def test_temperature_divides_the_logits(temperature, expected):
    np.testing.assert_allclose(softmax(LOGITS, temperature), expected, atol=1e-4)


def test_smallest_temperature_takes_the_likeliest():
    np.testing.assert_array_equal(softmax(LOGITS, 1e-300), [0, 1, 0, 0, 0])


@pytest.mark.parametrize('shift', [0, -1e4, 1e4])
def test_softmax_does_not_overflow(shift):
    logits = np.array([0, 1], np.float32) + np.float32(shift)
    np.testing.assert_allclose(softmax(logits, 1), [0.2689, 0.7311], atol=1e-4)


@pytest.mark.parametrize(('top_k', 'kept'), [
    (1, {1}), (2, {1, 3}), (3, {0, 1, 3}), (5, {0, 1, 2, 3, 4}), (9, {0, 1, 2, 3, 4})])
def test_top_k_keeps_the_likeliest(top_k, kept):
    assert set(keep_top_k(PROBABILITIES, top_k)) == kept


@pytest.mark.parametrize(('min_p', 'kept'), [
    (0.5, {1, 3}), (0.51, {1}), (0.25, {0, 1, 3}), (0.1, {0, 1, 2, 3, 4}), (1, {1})])
def test_min_p_keeps_a_share_of_the_likeliest(min_p, kept):
    assert set(keep_min_p(PROBABILITIES, min_p)) == kept


@pytest.mark.parametrize(('top_p', 'kept'), [
    (0, {1}), (0.4, {1}), (0.5, {1}), (0.51, {1, 3}), (0.75, {1, 3}), (0.8, {0, 1, 3})])
def test_top_p_keeps_the_fewest_that_hold_the_share(top_p, kept):
    assert set(keep_top_p(PROBABILITIES, top_p)) == kept


@given(probabilities=distributions, top_p=st.floats(0, 0.999))
def test_top_p_leaves_out_nothing_likelier_than_what_it_keeps(probabilities, top_p):
    kept = keep_top_p(probabilities, top_p)
    others = np.delete(probabilities, kept)
    assert probabilities[kept].sum() >= top_p - 1e-5
    assert len(others) == 0 or others.max() <= probabilities[kept].min()
    assert probabilities[kept].sum() - probabilities[kept].min() <= top_p + 1e-5


# 4000 draws leave a frequency within 0.04 of its probability, 5 deviations; the odds that one of
# the five goes further are 1 in 300000, and the seeds are fixed.
@pytest.mark.parametrize(('changes', 'expected'), [
    ({}, [0.125, 0.5, 0.0625, 0.25, 0.0625]),
    ({'temperature': 0.5}, [0.0465, 0.7442, 0.0116, 0.1860, 0.0116]),
    ({'temperature': 0}, [0, 1, 0, 0, 0]),
    ({'top_k': 2}, [0, 0.6667, 0, 0.3333, 0]),
    ({'top_p': 0.8}, [0.1429, 0.5714, 0, 0.2857, 0]),
    ({'min_p': 0.2}, [0.1429, 0.5714, 0, 0.2857, 0]),
    ({'top_k': 3, 'top_p': 0.7}, [0, 0.6667, 0, 0.3333, 0]),  # 0.7 of the 0.875 that are left
    ({'top_p': 0.0}, [0, 1, 0, 0, 0]),
], ids=str)
def test_tokens_are_sampled_as_often_as_they_are_likely(changes, expected):
    found = frequencies(SamplingOptions(seed=5, **changes))
    np.testing.assert_allclose(found, expected, atol=0.04)
    np.testing.assert_array_equal(found[np.array(expected) == 0], 0)


def test_penalty_makes_tokens_of_the_context_less_likely():
    logits = np.array([2, -2, 2, -2, 0], np.float32)
    found = penalize(logits, [0, 1, 4, 0], 2)
    np.testing.assert_array_equal(found, [1, -4, 2, -2, 0])
    np.testing.assert_array_equal(logits, [2, -2, 2, -2, 0])


@pytest.mark.parametrize('temperature', [0, 0.01])
def test_sampler_penalizes_tokens_of_the_context(temperature):
    sampler = Sampler(SamplingOptions(temperature=temperature, repetition_penalty=2))
    logits = np.array([3, 2, 1], np.float32)
    assert [sampler.sample(logits, context) for context in ([], [0], [0, 1], [2])] == [0, 1, 0, 0]


def test_processors_apply_in_their_order_after_those_of_the_options():
    seen = []

    def forbid_likeliest(logits, context):
        seen.append((logits.tolist(), list(context)))
        return np.where(logits == logits.max(), -np.inf, logits)
    sampler = Sampler(SamplingOptions(temperature=0, repetition_penalty=2),
                      [forbid_likeliest, forbid_likeliest])
    assert sampler.sample(np.array([3, 2, 1], np.float32), [0]) == 2
    assert seen == [([1.5, 2, 1], [0]), ([1.5, -np.inf, 1], [0])]


def test_same_seed_samples_the_same():
    one, other = (Sampler(SamplingOptions(seed=3)) for _ in range(2))
    assert ([one.sample(LOGITS, []) for _ in range(50)]
            == [other.sample(LOGITS, []) for _ in range(50)])


def test_no_seed_samples_afresh():
    # Alike with the odds (0.125**2 + 0.5**2 + ...)**100, below 1e-40
    one, other = (Sampler(SamplingOptions()) for _ in range(2))
    assert ([one.sample(LOGITS, []) for _ in range(100)]
            != [other.sample(LOGITS, []) for _ in range(100)])


def test_logits_are_left_as_they_are():
    logits = LOGITS.copy()
    Sampler(SamplingOptions(0.7, 3, 0.9, 0.05, 1.3)).sample(logits, [1, 2])
    np.testing.assert_array_equal(logits, LOGITS)


@given(logits=npst.arrays(np.float32, 20, elements=st.floats(-50, 50, width=32)),
       temperature=st.floats(0, 10), top_k=st.integers(0, 25), top_p=st.floats(0, 1),
       min_p=st.floats(0, 1), penalty=st.floats(1, 10))
def test_any_options_sample_a_token(logits, temperature, top_k, top_p, min_p, penalty):
    options = SamplingOptions(temperature, top_k, top_p, min_p, penalty, seed=0)
    with np.errstate(over='raise', divide='raise', invalid='raise'):
        assert 0 <= Sampler(options).sample(logits, [3, 4]) < 20


@pytest.mark.parametrize(('name', 'value', 'range_'), [
    ('temperature', -0.1, r'0\.\.10'), ('temperature', 10.1, r'0\.\.10'),
    ('temperature', float('nan'), r'0\.\.10'), ('top_k', -1, r'0\.\.inf'),
    ('top_p', -0.1, r'0\.\.1'), ('top_p', 1.1, r'0\.\.1'), ('min_p', -0.1, r'0\.\.1'),
    ('min_p', 1.1, r'0\.\.1'), ('repetition_penalty', 0.9, r'1\.\.10'),
    ('repetition_penalty', 11, r'1\.\.10'), ('seed', -2, r'-1\.\.inf')])
def test_option_out_of_range_is_refused(name, value, range_):
    with pytest.raises(ConfigError, match=rf'{name} is {value}; it must be in {range_}'):
        SamplingOptions(**{name: value})
