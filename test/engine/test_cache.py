"""The book-keeping of the cache, against a list."""

from hypothesis import given, strategies as st
import pytest

from tinyllama_ros.engine.cache import Cache

tokens = st.lists(st.integers(0, 3), max_size=12)


@given(steps=st.lists(tokens | st.integers(0, 12)), capacity=st.integers(0, 30))
def test_tokens_are_those_appended_and_not_taken_back(steps, capacity):
    cache, expected = Cache(capacity), []
    for step in steps:
        if isinstance(step, int):
            expected = expected[:step]
            cache.rewind(min(step, cache.fill))
        elif len(expected) + len(step) <= capacity:
            expected = expected + step
            cache.append(step)
    assert cache.tokens == expected
    assert (cache.fill, cache.room) == (len(expected), capacity - len(expected))


@given(cached=tokens, wanted=tokens)
def test_shared_prefix_is_as_long_as_it_can_be(cached, wanted):
    cache = Cache(12)
    cache.append(cached)
    shared = cache.shared_prefix(wanted)
    assert cached[:shared] == wanted[:shared]
    assert cached[:shared + 1] != wanted[:shared + 1] or shared == len(cached) == len(wanted)


def test_shared_prefix_leaves_the_cache_as_it_is():
    cache = Cache(4)
    cache.append([1, 2])
    assert (cache.shared_prefix([1, 3]), cache.tokens) == (1, [1, 2])


def test_append_does_not_keep_the_callers_list():
    cache, mine = Cache(4), [1, 2]
    cache.append(mine)
    mine.append(3)
    assert cache.tokens == [1, 2]


def test_more_than_the_slots_is_our_own_mistake():
    cache = Cache(2)
    with pytest.raises(AssertionError, match='3 tokens, room for 2'):
        cache.append([1, 2, 3])
    assert cache.tokens == []


@pytest.mark.parametrize('fill', [-1, 3])
def test_rewind_only_goes_back(fill):
    cache = Cache(4)
    cache.append([1, 2])
    with pytest.raises(AssertionError, match=f'cannot rewind from 2 to {fill}'):
        cache.rewind(fill)
