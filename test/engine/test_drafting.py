"""Drafts save passes and change nothing else."""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import product

from hypothesis import given, strategies as st
import numpy as np
from numpy.typing import NDArray
import pytest
from support.fake_backend import FakeBackend, LogitsFunction, repeating
from support.tiny_models import tiny
from support.tiny_tokenizers import BPE, bpe_file

from tinyllama_ros import kernels
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.chat.conversation import Conversation
from tinyllama_ros.chat.events import ChatOptions, TextDelta, TurnEvent
from tinyllama_ros.chat.tokenizer import BpeTokenizer
from tinyllama_ros.engine.drafting import (
    Drafter,
    FEWEST_SHARED,
    following,
    LONGEST_DRAFT,
    LONGEST_PAUSE,
    MOST_SHARED,
    SHORTEST_DRAFT,
)
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.engine.sampling import Sampler, SamplingOptions, softmax
from tinyllama_ros.errors import BackendError
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.options import BuildOptions

GREEDY = SamplingOptions(temperature=0)
TOKENIZER = BpeTokenizer(bpe_file(), BPE.control_tokens)
SIZE = TOKENIZER.vocab_size
CYCLE = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20]
few_tokens = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@pytest.mark.parametrize(('tokens', 'found'), [
    pytest.param([], [], id='no_tokens'),
    pytest.param([1], [], id='one_token'),
    pytest.param([1, 2, 3, 4], [], id='nothing_occurred_before'),
    pytest.param([1, 9, 2, 1], [], id='only_one_token_occurred_before'),
    pytest.param([1, 2, 7, 8, 9, 1, 2], [7, 8, 9], id='two_tokens'),
    pytest.param([1, 2, 7, 7, 7, 1, 2, 8, 8, 8, 1, 2], [8, 8, 8], id='the_latest'),
    pytest.param([5, 1, 2, 7, 7, 7, 4, 1, 2, 8, 8, 5, 1, 2], [7, 7, 7], id='the_longest'),
    pytest.param([3, 5, 5, 1, 2, 7, 7, 7, 5, 5, 1, 2, 8, 8, 8, 3, 5, 5, 1, 2], [8, 8, 8],
                 id='beyond_four_the_latest'),
    pytest.param([6, 6, 6, 6], [6, 6, 6], id='one_token_again_and_again'),
    pytest.param([1, 2, 1, 2], [1, 2, 1], id='two_tokens_again_and_again')])
def test_draft_is_what_followed_before(tokens, found):
    assert following(tokens, 3) == found


@given(few_tokens, st.integers(0, LONGEST_DRAFT))
def test_draft_is_what_a_plain_search_finds(tokens, count):
    found = next((tokens[place:] for shared in range(MOST_SHARED, FEWEST_SHARED - 1, -1)
                  for place in range(len(tokens) - 1, shared - 1, -1)
                  if tokens[place - shared:place] == tokens[len(tokens) - shared:]), [])
    assert following(tokens, count) == (found * count)[:count]


@pytest.mark.parametrize('at_most', [-3, 0])
def test_where_nothing_may_be_drafted_nothing_is(at_most):
    assert Drafter().draft([1, 2] * 5, at_most) == []


def test_drafts_grow_while_they_are_accepted():
    drafter, lengths = Drafter(), []
    for _ in range(4):
        lengths.append(len(drafter.draft([1, 2] * 5, 100)))
        drafter.record(lengths[-1], lengths[-1])
    assert lengths == [SHORTEST_DRAFT, 4, LONGEST_DRAFT, LONGEST_DRAFT]


def test_draft_accepted_in_part_makes_the_next_as_long_as_that_part():
    drafter = Drafter()
    drafter.record(7, 3)
    assert len(drafter.draft([1, 2] * 5, 100)) == 3


def pauses(drafter: Drafter, count: int) -> list[int]:
    """Refuse some drafts, and return how many passes have none after each."""
    found = []
    for _ in range(count):
        drafter.record(SHORTEST_DRAFT, 0)
        found.append(next(n for n in range(100) if drafter.draft([1, 2] * 5, 7)))
    return found


def test_drafts_pause_longer_with_each_refusal():
    assert pauses(Drafter(), 6) == [1, 2, 4, 8, LONGEST_PAUSE, LONGEST_PAUSE]


def test_accepted_token_ends_the_long_pauses():
    drafter = Drafter()
    pauses(drafter, 5)
    drafter.record(SHORTEST_DRAFT, 1)
    assert pauses(drafter, 1) == [1]


def test_refused_draft_makes_the_next_short():
    drafter = Drafter()
    drafter.record(LONGEST_DRAFT, LONGEST_DRAFT)
    drafter.record(LONGEST_DRAFT, 0)
    drafts = [drafter.draft([1, 2] * 5, 100) for _ in range(2)]
    assert [len(draft) for draft in drafts] == [0, SHORTEST_DRAFT]


def cycling(vocab_size: int = SIZE) -> LogitsFunction:
    """Return logits by which the same tokens follow each other again and again."""
    after = dict(zip(CYCLE, CYCLE[1:] + CYCLE[:1], strict=True))
    return lambda seen: np.eye(vocab_size, dtype=np.float32)[after[seen[-1]]]


def start(tokens: list[int], slots: int = 64, chunk_sizes: tuple[int, ...] = (1, 4, 16)
          ) -> tuple[Engine, FakeBackend]:
    """Return an engine that has read some tokens, and its backend, which goes round."""
    backend = FakeBackend(slots, 30, cycling(30), chunk_sizes)
    engine = Engine(lambda: backend)
    list(engine.prefill(tokens))
    backend.passes.clear()
    return engine, backend


def test_accepted_token_needs_no_pass():
    engine, backend = start(CYCLE + CYCLE[:1])
    for token in CYCLE[1:4]:
        engine.decode(token, Drafter(), 7)
        assert engine.sample(Sampler(GREEDY)) == token + 1
    assert backend.passes == [(11, 3)]
    assert engine.cache.tokens == CYCLE + CYCLE[:4]


def test_rejected_token_is_decoded_in_the_place_of_the_draft():
    engine, backend = start(CYCLE + CYCLE[:1])
    for token in (12, 20, 11):
        engine.decode(token, Drafter(), 7)
    assert backend.passes == [(11, 3), (12, 1), (13, 3)]
    assert engine.cache.tokens == [*CYCLE, 11, 12, 20, 11]


@pytest.mark.parametrize(('slots', 'chunk_sizes', 'at_most', 'length'), [
    pytest.param(64, (1, 16), 7, 3, id='as_long_as_the_drafter_wants'),
    pytest.param(64, (1,), 7, 1, id='a_backend_of_single_tokens'),
    pytest.param(64, (1, 2), 7, 2, id='a_backend_of_two_tokens'),
    pytest.param(64, (1, 16), 1, 2, id='one_token_to_come'),
    pytest.param(64, (1, 16), 0, 1, id='no_token_to_come'),
    pytest.param(13, (1, 16), 7, 2, id='one_slot_beside'),
    pytest.param(12, (1, 16), 7, 1, id='the_last_slot')])
def test_draft_is_no_longer_than_it_may_be(slots, chunk_sizes, at_most, length):
    engine, backend = start(CYCLE + CYCLE[:1], slots, chunk_sizes)
    engine.decode(CYCLE[1], Drafter(), at_most)
    assert backend.passes == [(11, length)]


@pytest.mark.parametrize('change', [
    lambda engine: engine.rewind(12), lambda engine: list(engine.prefill(CYCLE))],
    ids=['rewound', 'read_anew'])
def test_draft_does_not_outlive_the_tokens_before_it(change):
    engine, backend = start(CYCLE + CYCLE[:1])
    engine.decode(CYCLE[1], Drafter(), 7)
    change(engine)
    fill = engine.cache.fill
    engine.decode(CYCLE[2])
    assert backend.passes[-1] == (fill, 1)


def test_draft_does_not_outlive_a_failed_pass():
    engine, backend = start(CYCLE + CYCLE[:1])
    engine.decode(CYCLE[1], Drafter(), 7)
    backend.passes_to_failure = 1
    with pytest.raises(BackendError, match='the device is gone'):
        engine.decode(20)
    engine.decode(CYCLE[2])
    assert backend.passes == [(11, 3), (12, 1), (12, 1)]  # the second of them failed
    assert engine.cache.tokens == CYCLE + CYCLE[:3]


def endless(logits_of: LogitsFunction) -> LogitsFunction:
    """Return logits that never end an answer."""
    def logits_without_end(seen: Sequence[int]) -> NDArray[np.float32]:
        logits = logits_of(seen)
        logits[list(BPE.control_tokens.values())] = -np.inf
        return logits
    return logits_without_end


def pieces_and_passes(slots: int, options: ChatOptions) -> tuple[list[TurnEvent], int]:
    """Return the pieces of a conversation that repeats itself, and what it takes."""
    backend = FakeBackend(slots, SIZE, endless(repeating(SIZE)))
    conversation = Conversation(Engine(lambda: backend), BPE, TOKENIZER)
    events = [event for prompt in ('robot', 'What is a robot?', 'robot')
              for event in conversation.answer(prompt, options)]
    return [event for event in events if isinstance(event, TextDelta)], len(backend.passes)


@pytest.mark.parametrize('seed', range(5))
@pytest.mark.parametrize('sampling', [
    {'temperature': 0}, {'temperature': 0.5}, {'temperature': 0.7, 'top_p': 0.8},
    {'temperature': 0.3, 'repetition_penalty': 1.2}], ids=str)
@pytest.mark.parametrize('slots', [48, 512])  # in the first, answers roll over
def test_drafting_changes_no_token_and_saves_passes(sampling, slots, seed):
    options = ChatOptions(max_tokens=60, answer_room=8, drafting=True,
                          sampling=SamplingOptions(seed=seed, **sampling))
    plain, plain_passes = pieces_and_passes(slots, replace(options, drafting=False))
    drafted, passes = pieces_and_passes(slots, options)
    assert len(plain) >= 3 * 60 and drafted == plain
    assert passes < plain_passes


def greedy_answer(engine: Engine, prompt: list[int], drafter: Drafter | None) -> list[int]:
    list(engine.prefill(prompt))
    drawn = []
    while engine.cache.room > 1:
        drawn.append(engine.sample(Sampler(GREEDY)))
        engine.decode(drawn[-1], drafter, engine.cache.room - 2)
    return drawn


library = kernels.find_library()


@pytest.fixture(scope='module', params=['fp32', 'w8a8'])
def artifact(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp('drafting') / 'tiny'
    build(tiny(), folder, BuildOptions(name='tiny', quantization=request.param, kv_length=128))
    return Artifact.open(folder)


@pytest.mark.parametrize('seed', range(8))
def test_greedy_answers_of_a_real_model_are_the_same(artifact, seed):
    prompt = np.random.default_rng(seed).integers(0, SIZE, 10).tolist() * 2
    plain, drafted = (
        greedy_answer(Engine(lambda: OnnxBackend(artifact, threads=1)), prompt, drafter)
        for drafter in (None, Drafter()))
    assert drafted == plain


# ONNX Runtime's attention does not promise it: of one row, it sums in another order.
@pytest.mark.skipif(not (library and library.instructions), reason='no kernel of ours runs here')
@pytest.mark.parametrize('fill', [4, 60, 110])
def test_rows_of_a_real_model_do_not_depend_on_the_length_of_a_draft(artifact, fill):
    backend = OnnxBackend(artifact, threads=1)
    tokens = np.random.default_rng(0).integers(0, SIZE, 128)
    for slot in range(fill):
        backend.forward(tokens[slot:slot + 1], slot)
    whole = backend.forward(tokens[fill:fill + 8], fill, logits=8).copy()
    for length in range(1, 8):
        logits = backend.forward(tokens[fill:fill + length], fill, logits=length)
        np.testing.assert_array_equal(logits, whole[:length])


def test_repetitive_text_takes_a_fifth_of_the_passes():
    engine, backend = start(CYCLE + CYCLE[:1], slots=128)
    drafter = Drafter()
    for _ in range(100):
        engine.decode(engine.sample(Sampler(GREEDY)), drafter, LONGEST_DRAFT)
    assert len(backend.passes) < 20


CHAIN = np.log(np.array([[0.2, 0.7, 0.1], [0.1, 0.3, 0.6], [0.5, 0.2, 0.3]], np.float32))
"""Logits of what follows each of three tokens."""


def test_drafted_samples_have_the_distribution_of_the_model():
    options = SamplingOptions(seed=7)
    sampler, counts, backend = Sampler(options), Counter(), FakeBackend(
        16, 3, lambda seen: CHAIN[seen[-1]])
    engine, runs = Engine(lambda: backend), 4000
    for _ in range(runs):
        list(engine.prefill([0, 1, 2, 0, 1, 2, 0, 1]))
        drafter, drawn = Drafter(), []
        for _ in range(4):
            drawn.append(engine.sample(sampler))
            engine.decode(drawn[-1], drafter, 3)
        counts[tuple(drawn)] += 1
    chain = [softmax(row, 1) for row in CHAIN]
    square = 0.0
    for drawn in product(range(3), repeat=4):
        path = zip((1, *drawn), drawn, strict=False)
        expected = runs * float(np.prod([chain[before][after] for before, after in path]))
        square += (counts[drawn] - expected) ** 2 / expected
    assert square < 137  # 80 degrees of freedom: a right sampler fails once in 10 000 seeds
    assert len(backend.passes) < 4.5 * runs  # of 5, so that drafts were accepted


def talk() -> tuple[Conversation, FakeBackend]:
    backend = FakeBackend(512, SIZE, lambda seen: cycling()(
        [seen[-1] if seen[-1] in CYCLE else CYCLE[-1]]))
    return Conversation(Engine(lambda: backend), BPE, TOKENIZER), backend


@pytest.mark.parametrize('max_tokens', [1, 2, 12, 14, 15, 40])
def test_nothing_is_drafted_beyond_the_end_of_an_answer(max_tokens):
    conversation, backend = talk()
    list(conversation.answer('?', ChatOptions(max_tokens=max_tokens, sampling=GREEDY,
                                                 drafting=True)))
    assert backend.rows[conversation.fill:] == []


@pytest.mark.parametrize('pieces', range(10, 24))
def test_drafted_tokens_that_nobody_saw_are_forgotten(pieces):
    conversation, _ = talk()
    with closing(conversation.answer('?', ChatOptions(sampling=GREEDY, drafting=True))) as answer:
        begin = next(conversation.fill for event in answer if isinstance(event, TextDelta))
        for _ in range(pieces):
            next(answer)
    assert conversation.fill == begin + pieces
