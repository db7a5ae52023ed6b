"""A conversation never exceeds its cache, and says all that it was to say."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
import json
from os.path import commonprefix
import random

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest
from support.checked_conversation import (
    CheckedBackend,
    CheckedConversation,
    options,
    random_turn,
    SETTINGS,
    SYSTEM_PROMPTS,
    TOKENIZER,
    Turn,
    turns,
)
from support.fake_backend import FakeBackend, hashed, LogitsFunction, repeating
from support.tiny_models import tiny
from support.tiny_tokenizers import bpe_file, CHATML

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.chat.conversation import Conversation, open_conversation
from tinyllama_ros.chat.events import (
    Answer,
    CacheReset,
    ChatOptions,
    PrefillProgress,
    TextDelta,
    TurnEvent,
)
from tinyllama_ros.chat.message import Message
from tinyllama_ros.chat.template import ChatTemplate
from tinyllama_ros.chat.tokenizer import BpeTokenizer
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.engine.sampling import SamplingOptions
from tinyllama_ros.errors import BackendError, ConfigError, LengthError, PromptError
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.options import BuildOptions


@settings(deadline=None, max_examples=200)
@given(slots=st.integers(24, 64), talk=st.lists(turns | st.sampled_from(SYSTEM_PROMPTS),
                                                min_size=1, max_size=12),
       logits_of=st.sampled_from([hashed, repeating]))
def test_any_turns_are_answered_within_the_cache(slots, talk, logits_of):
    checked = CheckedConversation.of_fakes(slots, logits_of=logits_of)
    for step in talk:
        if isinstance(step, Turn):
            checked.take(step)
        else:
            checked.conversation.reset(step)
            assert checked.conversation.messages == []


@pytest.mark.parametrize(('slots', 'vocabulary', 'logits_of'), [
    (24, 'bpe', hashed), (37, 'bpe', hashed), (64, 'bpe', hashed), (96, 'bpe', hashed),
    (64, 'sentencepiece', hashed), (128, 'sentencepiece', hashed), (24, 'bpe', repeating),
    (64, 'bpe', repeating), (96, 'sentencepiece', repeating)])
def test_hundreds_of_turns_are_answered_within_the_cache(slots, vocabulary, logits_of):
    chance = random.Random(slots)
    checked = CheckedConversation.of_fakes(slots, vocabulary, logits_of)
    for _ in range(500):
        checked.take(random_turn(chance, slots))


@pytest.fixture(scope='module')
def open_real(tmp_path_factory):
    """Return a function that opens a tiny model with a number of slots."""
    def open_real(slots: int) -> OnnxBackend:
        folder = tmp_path_factory.mktemp('artifacts') / 'tiny'
        build(tiny(), folder, BuildOptions(name='tiny', quantization='fp32', kv_length=slots))
        return OnnxBackend(Artifact.open(folder), threads=1)
    return open_real


@pytest.mark.parametrize('slots', [40, 80])  # shorter and longer than the longest chunk
def test_turns_are_answered_within_the_cache_of_a_real_model(open_real, slots):
    chance = random.Random(slots)
    checked = CheckedConversation(CheckedBackend(open_real(slots)), open_real(512))
    for _ in range(30):
        checked.take(random_turn(chance, slots))


END = SETTINGS.control_tokens[SETTINGS.eos_token]
COUNT = tuple(range(100, 200))
"""Tokens that stand one after the other in the answer of `talk`."""


def saying(tokens: Sequence[int], vocab_size: int = TOKENIZER.vocab_size) -> LogitsFunction:
    """Return what answers each prompt with the same tokens, all different."""
    begin = TOKENIZER.encode('assistant\n')[-1]
    following = dict(pairwise([begin, *tokens, END]))
    return lambda seen: np.eye(vocab_size, dtype=np.float32)[
        following.get(seen[-1], END)]


def talk(slots: int = 128, count: int = 4, tokens: Sequence[int] = COUNT
         ) -> tuple[Conversation, FakeBackend]:
    """Return a conversation whose answers are the first of some tokens, and what it runs on."""
    backend = FakeBackend(slots, TOKENIZER.vocab_size, saying(tokens[:count]))
    return Conversation(Engine(lambda: backend), SETTINGS, TOKENIZER), backend


def answer(conversation: Conversation, prompt: str = 'robot?', **changes: object) -> Answer:
    *_, last = conversation.answer(prompt, options(**changes))
    assert isinstance(last, Answer)
    return last


def text(count: int) -> str:
    return TOKENIZER.decode(COUNT[:count])


def encode(said: Sequence[Message], prompt: str = 'robot?', system_prompt: str = '') -> list[int]:
    system = [Message('system', system_prompt)] if system_prompt else []
    return ChatTemplate(SETTINGS, TOKENIZER).encode([*system, *said, Message('user', prompt)])


def test_answer_ends_where_the_model_ends_it():
    conversation, _ = talk()
    last = answer(conversation)
    assert (last.text, last.finish, last.generated_tokens) == (text(4), 'stop', 4)


def test_answer_ends_at_its_limit():
    last = answer(talk()[0], max_tokens=3)
    assert (last.text, last.finish, last.generated_tokens) == (text(3), 'length', 3)


@pytest.mark.parametrize(('is_marked', 'text'), [(False, 'a<think>b'), (True, 'ab')])
def test_token_that_only_looks_special_does_not_end_an_answer(is_marked, text):
    file = json.loads(bpe_file())
    think = file['model']['vocab']['<think>'] = TOKENIZER.vocab_size
    kind = replace(SETTINGS, control_tokens=SETTINGS.control_tokens | {'<think>': think},
                   text_tokens=() if is_marked else (think,))
    tokenizer = BpeTokenizer(json.dumps(file).encode(), kind.control_tokens, kind.text_tokens)
    (a,), (b,) = map(TOKENIZER.encode, 'ab')
    backend = FakeBackend(128, tokenizer.vocab_size, saying([a, think, b], tokenizer.vocab_size))
    last = answer(Conversation(Engine(lambda: backend), kind, tokenizer))
    assert (last.text, last.finish, last.generated_tokens) == (text, 'stop', 3)


@pytest.mark.parametrize('field', ['eos_token', 'stop_tokens', 'chat_template'])
def test_every_end_that_the_model_names_ends_an_answer(field):
    ends = {'eos_token': {'eos_token': '<|endoftext|>'}, 'stop_tokens': {'stop_tokens': (0,)},
            'chat_template': {'chat_template': CHATML.replace('<|im_end|>', '<|endoftext|>')}}
    kind = replace(SETTINGS, **ends[field])
    one, two = COUNT[:2]
    backend = FakeBackend(128, TOKENIZER.vocab_size, saying([one, 0, two]))
    last = answer(Conversation(Engine(lambda: backend), kind, TOKENIZER))
    assert (last.text, last.finish) == (TOKENIZER.decode([one]), 'stop')


def test_cancel_while_the_conversation_is_rendered_is_a_stop():
    conversation, backend = talk()
    asked = iter([False, False])
    assert list(conversation.answer('robot?', options(), lambda: next(asked, True))) == []
    assert list(conversation.complete([Message('user', 'robot?')], options(), lambda: True)) == []
    assert (conversation.messages, backend.passes) == ([], [])


@pytest.fixture
def renderings(monkeypatch):
    """Return the numbers of messages with which the chat template is rendered."""
    renderings: list[int] = []
    encode = ChatTemplate.encode

    def counted(template, messages, **options):
        renderings.append(len(messages))
        return encode(template, messages, **options)
    monkeypatch.setattr(ChatTemplate, 'encode', counted)
    return renderings


def test_turn_that_fits_renders_the_conversation_once(renderings):
    conversation, _ = talk(512)
    for turn in range(4):
        answer(conversation, 'robot?')
        assert renderings == [1 + 2 * turn]
        renderings.clear()


def test_answer_longer_than_the_cache_renders_the_conversation_once(renderings):
    conversation, _ = talk(48, 100)
    events = list(conversation.answer('robot?', options(max_tokens=0)))
    assert sum(isinstance(event, CacheReset) for event in events) > 1
    assert renderings == [1]


def test_roll_over_of_n_exchanges_renders_the_conversation_log_n_times(renderings):
    conversation, _ = talk(1000)
    for _ in range(32):
        answer(conversation, 'robot?')
    renderings.clear()
    events = list(conversation.answer('robot?', options(0, answer_room=700)))
    assert events[0] == CacheReset('full')
    assert len(renderings) <= 2 + 5 and renderings[0] == 65


def test_last_token_of_an_answer_is_not_decoded():
    size = len(encode([]))
    conversation, _ = talk(size + 2)
    events = list(conversation.answer('robot?', options(max_tokens=3, answer_room=2)))
    assert CacheReset() not in events
    assert conversation.fill == size + 2


def test_limit_of_zero_is_none():
    assert answer(talk(256, 100)[0], max_tokens=0).text == text(100)


@pytest.mark.parametrize('slots', [24, 32, 48])
def test_answer_longer_than_the_cache_has_no_seam(slots):
    conversation, _ = talk(slots, 100)
    events = list(conversation.answer('robot?', options(max_tokens=0)))
    assert sum(isinstance(event, CacheReset) for event in events) > 1
    assert ''.join(event.text for event in events if isinstance(event, TextDelta)) == text(100)
    assert conversation.messages[-1].content == text(100)


def test_answer_without_text_is_forgotten():
    conversation, _ = talk(count=0)
    assert answer(conversation).text == ''
    assert conversation.messages == []


def test_first_turn_prefills_all():
    last = answer(talk()[0], system_prompt='Be brief.')
    assert (last.cached_tokens, last.prefill_tokens) == (
        0, len(encode([], system_prompt='Be brief.')))


def test_second_turn_prefills_only_what_is_new():
    conversation, backend = talk(tokens=TOKENIZER.encode('robot'), count=9)
    answer(conversation)
    fill = conversation.fill
    whole = len(encode(conversation.messages, 'and?'))
    backend.passes.clear()
    last = answer(conversation, 'and?')
    assert (last.cached_tokens, last.prefill_tokens) == (fill, whole - fill)
    assert min(start for start, _ in backend.passes) == fill


def test_changed_system_prompt_is_prefilled_with_all_that_follows():
    conversation, _ = talk()
    answer(conversation, system_prompt='Be brief.')
    whole = encode(conversation.messages, 'and?', 'Be a robot.')
    last = answer(conversation, 'and?', system_prompt='Be a robot.')
    shared = len(commonprefix([whole, encode([], system_prompt='Be brief.')]))
    assert (last.cached_tokens, last.prefill_tokens) == (shared, len(whole) - shared)


def test_roll_over_keeps_the_system_prompt_and_the_newest_turns():
    conversation, backend = talk(96)
    prompts = [f'{number} robots' for number in range(20)]
    for prompt in prompts:
        events = list(conversation.answer(prompt, options(system_prompt='Be brief.')))
        if CacheReset() in events:
            break
        backend.passes.clear()
    kept = [message.content for message in conversation.messages if message.role == 'user']
    system = len(commonprefix([encode([], mark, 'Be brief.') for mark in 'ab']))
    assert kept == prompts[prompts.index(prompt) - len(kept) + 1:prompts.index(prompt) + 1]
    assert len(kept) > 1
    assert backend.passes[0][0] >= system


def test_roll_over_leaves_the_room_of_the_answer_free():
    conversation, _ = talk(96)
    while conversation.fill < 80:
        answer(conversation)
    events = conversation.answer('robot?', options(max_tokens=70, answer_room=70))
    assert next(events) == CacheReset()
    assert isinstance(next(event for event in events if not isinstance(event, PrefillProgress)),
                      TextDelta)
    assert conversation.fill <= 96 - 70


def test_system_prompt_that_leaves_no_room_is_refused_when_it_is_set():
    system_prompt = 'robot ' * 40
    shortest = len(encode([], 'a', system_prompt))
    fitting, _ = talk(shortest + 8)
    fitting.check(options(system_prompt=system_prompt))
    assert answer(fitting, 'a', system_prompt=system_prompt).text == text(4)
    with pytest.raises(ConfigError, match=rf'system_prompt is too long: with the shortest prompt '
                       rf'it is {shortest} tokens, and at most {shortest - 1} fit beside the 8 '):
        talk(shortest + 7)[0].check(options(system_prompt=system_prompt))


def test_system_prompt_that_the_model_does_not_take_is_refused_when_it_is_set():
    strict = replace(SETTINGS, chat_template="{% if messages[0].role == 'system' %}"
                     "{{ raise_exception('no system role') }}{% endif %}.")
    backend = FakeBackend(64, TOKENIZER.vocab_size)
    conversation = Conversation(Engine(lambda: backend), strict, TOKENIZER)
    conversation.check(options())
    with pytest.raises(ConfigError, match='system_prompt cannot be used: .*no system role'):
        conversation.check(options(system_prompt='Be brief.'))


def test_room_of_more_than_half_of_the_cache_is_refused():
    talk(64)[0].check(options(answer_room=32))
    with pytest.raises(ConfigError, match='answer_room is 33; it may be at most half of the 64 s'):
        talk(64)[0].check(options(answer_room=33))


def test_prompt_that_just_fits_is_answered():
    fits = len(encode([])) + 8
    assert answer(talk(fits)[0], answer_room=8).text == text(4)


def test_prompt_that_cannot_fit_is_refused_with_its_length():
    conversation, backend = talk(64)
    answer(conversation)
    before, fill, passes = conversation.messages, conversation.fill, list(backend.passes)
    long = 'robot ' * 40
    size = len(encode([], long, 'Be brief.'))
    with pytest.raises(PromptError, match=rf'too long.* it is {size} tokens.*at most 56 fit'):
        answer(conversation, long, answer_room=8, system_prompt='Be brief.')
    assert (conversation.messages, conversation.fill, backend.passes) == (before, fill, passes)


def test_text_that_can_never_fit_is_refused_without_encoding_it(monkeypatch):
    monkeypatch.setattr(ChatTemplate, 'encode', None)
    conversation, _ = talk(64)
    most = 64 * TOKENIZER.longest_token
    conversation.check_size(['é' * (most // 4), 'a' * (most // 2)])
    with pytest.raises(LengthError, match=rf'it has {most + 1} bytes, and at most {most} can fit '
                       'the 64 slots of the cache.*shorten it'):
        conversation.check_size(['é' * (most // 4), 'a' * (most // 2 + 1)])
    with pytest.raises(ConfigError, match='system_prompt cannot be used: it is too long: it has'):
        conversation.check(options(system_prompt='a' * (most + 1)))


def test_answer_that_can_never_fit_again_is_forgotten_without_encoding_it(monkeypatch):
    conversation, _ = talk(64)
    answer(conversation)
    monkeypatch.setattr('tinyllama_ros.chat.conversation.Turn.text', property(
        lambda turn: 'a' * (64 * TOKENIZER.longest_token + 1)))
    answer(conversation)
    monkeypatch.undo()
    encoded = []
    encode = ChatTemplate.encode
    monkeypatch.setattr(ChatTemplate, 'encode', lambda self, messages, **options: (
        encoded.append(messages) or encode(self, messages, **options)))
    assert CacheReset('full') in list(conversation.answer('robot?', options()))
    assert encoded and {len(messages) for messages in encoded} == {1}
    assert [message.content for message in conversation.messages] == ['robot?', text(4)]


@pytest.mark.parametrize('prompt', ['', ' ', '\n\t', '\u200b', '\0'], ids=ascii)
def test_blank_prompt_is_refused(prompt):
    with pytest.raises(PromptError, match='is empty, or not valid UTF-8; send a text'):
        answer(talk()[0], prompt)


def test_half_a_character_is_refused():
    with pytest.raises(PromptError, match='character 2 of a user message is half'):
        answer(talk()[0], 'ab\ud83e')


@pytest.mark.parametrize(('changes', 'message'), [
    ({'max_tokens': -1}, r'max_tokens is -1; it must be 0 \(no limit\) or above'),
    ({'answer_room': 1}, r'answer_room is 1; it must be at least 2')])
def test_option_out_of_range_is_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        options(**changes)


def test_there_is_an_event_between_any_two_passes():
    conversation, backend = talk(48, 60)
    passes = [len(backend.passes) for _ in conversation.answer('robot ' * 8, options(60))]
    assert passes[0] == 0
    assert set(np.diff(passes)) == {0, 1}


def test_cancelled_answer_stays_as_far_as_it_was_yielded():
    conversation, backend = talk(count=50)
    with closing(conversation.answer('robot?', options(50))) as events:
        pieces = [next(event for event in events if isinstance(event, TextDelta))
                  for _ in range(3)]
        passes = len(backend.passes)
    assert conversation.messages[-1] == Message('assistant', ''.join(p.text for p in pieces))
    assert len(backend.passes) == passes


def test_cut_answer_is_kept_as_it_was_spoken_and_the_next_prompt_follows_it():
    conversation, _ = talk(count=9)
    answer(conversation, 'robot?')
    conversation.cut_last_answer('one')
    assert conversation.messages == [Message('user', 'robot?'), Message('assistant', 'one')]
    fresh, _ = talk(count=9)
    fresh._exchanges = [(Message('user', 'robot?'), Message('assistant', 'one'))]
    assert answer(conversation, 'and?').text == answer(fresh, 'and?').text


def test_answer_of_which_nothing_was_spoken_is_forgotten():
    conversation, _ = talk(count=9)
    answer(conversation, 'robot?')
    conversation.cut_last_answer('')
    conversation.cut_last_answer('')
    assert conversation.messages == []


def test_prompt_cancelled_during_prefill_is_forgotten():
    conversation, backend = talk()
    with closing(conversation.answer('robot ' * 8, options())) as events:
        assert [next(events), next(events)] == [PrefillProgress(0), PrefillProgress(8)]
    assert (conversation.messages, len(backend.passes)) == ([], 1)


def test_what_was_prefilled_of_a_cancelled_prompt_is_not_prefilled_again():
    conversation, _ = talk()
    with closing(conversation.answer('robot ' * 8, options())) as events:
        assert [next(events), next(events)] == [PrefillProgress(0), PrefillProgress(8)]
    assert answer(conversation, 'robot ' * 8).cached_tokens == 8


def test_failed_answer_stays_as_far_as_it_was_yielded():
    conversation, backend = talk()
    backend.passes_to_failure = len(encode([])) // 8 + 1 + 2  # chunks of 8, then two tokens
    with pytest.raises(BackendError, match='the device is gone'):
        answer(conversation)
    assert conversation.messages[-1] == Message('assistant', text(2))


def test_answer_after_a_failure_is_whole():
    conversation, backend = talk()
    backend.passes_to_failure = 1
    with pytest.raises(BackendError, match='the device is gone'):
        answer(conversation)
    assert answer(conversation).text == text(4)


def test_reset_forgets_all_but_the_slots_of_the_system_prompt():
    conversation, backend = talk()
    answer(conversation, system_prompt='Be brief.')
    conversation.reset('Be brief.')
    system = len(commonprefix([encode([], mark, 'Be brief.') for mark in 'ab']))
    assert (conversation.messages, conversation.fill) == ([], system)
    assert answer(conversation, 'and?', system_prompt='Be brief.').cached_tokens == system


def test_character_in_two_tokens_is_yielded_whole():
    conversation, _ = talk(tokens=TOKENIZER.spell('é'))
    events = list(conversation.answer('robot?', options()))
    assert [event for event in events if isinstance(event, TextDelta)] == [
        TextDelta(''), TextDelta('é')]


def test_answer_that_ends_inside_a_character_says_so():
    conversation, _ = talk(tokens=TOKENIZER.spell('é'), count=1)
    assert answer(conversation).text == '\ufffd'
    assert conversation.messages[-1].content == '\ufffd'


def test_same_seed_gives_the_same_answer():
    texts = []
    for seed in (1, 1, 2):
        checked = CheckedConversation.of_fakes(64)
        chat = ChatOptions(max_tokens=20, answer_room=8, sampling=SamplingOptions(seed=seed))
        texts.append(list(checked.conversation.answer('robot?', chat))[-1].text)
    assert texts[0] == texts[1] != texts[2]


def test_conversation_of_an_artifact_answers(tmp_path):
    build(tiny(), tmp_path / 'tiny', BuildOptions(name='tiny', quantization='w8a8', kv_length=48))
    artifact = Artifact.open(tmp_path / 'tiny')
    conversation = open_conversation(artifact, Engine(lambda: OnnxBackend(artifact, threads=1)))
    assert answer(conversation, max_tokens=5).generated_tokens <= 5
    assert conversation.capacity == 48
    conversation.close()
    conversation.close()


def complete(conversation: Conversation, *messages: Message, stop: tuple[str, ...] = (),
             **changes: object) -> list[TurnEvent]:
    return list(conversation.complete(messages, replace(options(**changes), stop=stop)))


def test_messages_of_others_are_answered_as_our_own():
    conversation, _ = talk()
    *_, last = complete(conversation, Message('system', 'Be brief.'), Message('user', 'robot?'))
    assert last == replace(answer(talk()[0], system_prompt='Be brief.'),
                           prefill_s=last.prefill_s, decode_s=last.decode_s)


def test_messages_of_others_leave_our_own_alone():
    conversation, backend = talk(256)
    answer(conversation)
    before = conversation.messages
    complete(conversation, Message('user', 'another'))
    assert conversation.messages == before
    assert answer(conversation, 'and?').text == text(4)
    assert backend.rows[:len(encode(before, 'and?'))] == encode(before, 'and?')


def test_prefix_that_others_share_is_kept():
    conversation, _ = talk(256)
    said = [Message('user', 'robot?')]
    complete(conversation, *said)
    *_, last = complete(conversation, *said, Message('assistant', 'A machine.'),
                        Message('user', 'why?'))
    assert last.cached_tokens >= len(encode([])) - 1


@pytest.mark.parametrize('roles', ['a', 's', 'ua', 'uu', 'sua', 'uas'])
def test_messages_of_others_may_come_in_any_order(roles):
    speakers = {'u': 'user', 'a': 'assistant', 's': 'system'}
    messages = [Message(speakers[role], f'{role} says') for role in roles]
    *_, last = complete(talk()[0], *messages)
    assert last.prefill_tokens == len(ChatTemplate(SETTINGS, TOKENIZER).encode(messages))


def test_messages_of_others_must_fit_whole():
    conversation, backend = talk(64)
    messages = [Message('user', 'robot?'), Message('assistant', 'A machine. ' * 9)] * 3
    with pytest.raises(LengthError, match=r'it is too long: .* is \d+ tokens, and at most 56 fit'):
        complete(conversation, *messages, Message('user', 'why?'))
    assert backend.passes == []


def test_reset_in_an_answer_keeps_all_messages_of_others():
    messages = [Message('user', 'robot?'), Message('assistant', 'Yes.'), Message('user', 'why?')]
    asked = ChatTemplate(SETTINGS, TOKENIZER).encode(messages)
    conversation, backend = talk(len(asked) + 12, 60)
    events = complete(conversation, *messages, max_tokens=0, answer_room=8)
    assert CacheReset() in events
    assert events[-1].text == text(60)
    assert backend.rows[:len(asked)] == asked


WORDS = 'books about sea'


def say_words(*stop: str) -> tuple[Answer, FakeBackend]:
    """Return the end of an answer of three words, and what it ran on."""
    tokens = TOKENIZER.encode(WORDS)
    conversation, backend = talk(tokens=tokens, count=len(tokens))
    *_, last = complete(conversation, Message('user', 'robot?'), stop=stop)
    return last, backend


@pytest.mark.parametrize(('stop', 'said'), [
    (['ks a'], 'boo'), ([' sea', 'about'], 'books '), (['b'], ''), (['x'], WORDS)],
    ids=['across words', 'the first of two', 'at once', 'none'])
def test_answer_ends_before_a_stop_text(stop, said):
    last, _ = say_words(*stop)
    assert (last.text, last.finish) == (said, 'stop')


def test_nothing_is_decoded_after_a_stop_text():
    asked = len(say_words('b')[1].passes)
    assert len(say_words(WORDS[:6])[1].passes) < len(say_words()[1].passes)
    assert asked == -(-len(encode([])) // 8)
