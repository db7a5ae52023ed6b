"""A backend that is lost is opened again, and nobody hears it in the answer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import count

import numpy as np
from numpy.typing import NDArray
import pytest
from support.fake_backend import FakeBackend, hashed, NEVER
from support.tiny_tokenizers import BPE, bpe_file

from tinyllama_ros.chat.conversation import Conversation
from tinyllama_ros.chat.events import Answer, CacheReset, ChatOptions, TextDelta, TurnEvent
from tinyllama_ros.chat.tokenizer import BpeTokenizer
from tinyllama_ros.chat.turn import RECOVERIES
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.sampling import SamplingOptions
from tinyllama_ros.errors import BackendError, BackendLost

TOKENIZER = BpeTokenizer(bpe_file(), BPE.control_tokens)
PROMPT = 'What is a robot?'
ANYTHING = hashed(TOKENIZER.vocab_size)


def never_ending(seen: Sequence[int]) -> NDArray[np.float32]:
    """Return logits by which an answer is as long as it may be."""
    logits = ANYTHING(seen)
    logits[list(BPE.control_tokens.values())] = -100
    return logits


@dataclass
class Device:
    """Something on which backends are opened, one after the other."""

    slots: int = 200
    lives: Iterator[int] = field(default_factory=lambda: iter(()))
    """Passes of each backend, its failing one included; NEVER from the last one on."""
    opens: Callable[[int], None] = lambda number: None
    """Called with the number of the backend that is opened; may refuse."""
    opened: list[FakeBackend] = field(default_factory=list)
    attempts: int = 0

    def open(self) -> FakeBackend:
        self.attempts += 1
        self.opens(self.attempts)
        assert all(backend.closed for backend in self.opened), 'two at once'
        backend = FakeBackend(self.slots, TOKENIZER.vocab_size, never_ending, failure=BackendLost)
        backend.passes_to_failure = next(self.lives, NEVER)
        self.opened.append(backend)
        return backend

    def conversation(self) -> Conversation:
        return Conversation(Engine(self.open), BPE, TOKENIZER)


def options(max_tokens: int = 12, *, seed: int = 0, drafting: bool = False) -> ChatOptions:
    return ChatOptions(max_tokens=max_tokens, answer_room=8, drafting=drafting,
                       sampling=SamplingOptions(temperature=0.7, seed=seed))


def reasons(events: list[TurnEvent]) -> list[str]:
    return [event.reason for event in events if isinstance(event, CacheReset)]


def said(events: list[TurnEvent]) -> list[str]:
    return [event.text for event in events if isinstance(event, TextDelta)]


@pytest.mark.parametrize(('slots', 'tokens'), [(200, 12), (40, 60)], ids=['short', 'rolls over'])
@pytest.mark.parametrize('drafting', [False, True], ids=['plain', 'drafting'])
def test_loss_in_any_pass_changes_nothing_of_the_answer(slots, tokens, drafting):
    whole = Device(slots)
    wanted = list(whole.conversation().answer(PROMPT, options(tokens, drafting=drafting)))
    passes = len(whole.opened[0].passes)
    assert passes > 12
    for life in range(1, passes + 1):
        device = Device(slots, iter([life]))
        conversation = device.conversation()
        events = list(conversation.answer(PROMPT, options(tokens, drafting=drafting)))
        assert said(events) == said(wanted)
        assert sorted(reasons(events)) == sorted([*reasons(wanted), 'recovered'])
        assert conversation.messages[-1].content == ''.join(said(wanted))
        assert [backend.closed for backend in device.opened] == [1, 0]


def test_lost_conversation_is_prefilled_again_with_the_answer_so_far():
    device = Device(lives=iter([9]))
    events = list(device.conversation().answer(PROMPT, options()))
    lost, anew = device.opened
    place = next(i for i, event in enumerate(events) if isinstance(event, CacheReset))
    assert 0 < len(said(events[:place])) < len(said(events))
    assert anew.rows[:len(lost.rows)] == lost.rows
    assert anew.passes[0] == (0, 8)


def test_backends_lost_one_after_the_other_are_borne_up_to_a_limit():
    device = Device(lives=iter([5, *[1] * (RECOVERIES - 1)]))
    *_, last = device.conversation().answer(PROMPT, options())
    assert isinstance(last, Answer)
    assert device.attempts == 1 + RECOVERIES


def test_device_that_keeps_failing_is_given_up_and_the_answer_so_far_stays():
    device = Device(lives=(9 if number == 0 else 1 for number in count()))
    conversation, events = device.conversation(), []
    with pytest.raises(BackendError, match=rf'gone; the model was loaded again {RECOVERIES} '
                       'times, which did not help'):
        for event in conversation.answer(PROMPT, options()):
            events.append(event)
    assert device.attempts == 1 + RECOVERIES
    assert conversation.messages[-1].content == ''.join(said(events)) != ''


def refuse_until(number: int, error: BackendError) -> Callable[[int], None]:
    """Return what lets the first backend be opened, and no other one before a number."""
    def opens(attempt: int) -> None:
        if 1 < attempt < number:
            raise error
    return opens


def test_device_that_is_back_at_the_second_attempt_recovers():
    device = Device(lives=iter([5]), opens=refuse_until(3, BackendLost('no heartbeat')))
    events = list(device.conversation().answer(PROMPT, options()))
    assert reasons(events) == ['recovered']
    assert len(said(events)) == 12


def test_backend_that_cannot_be_opened_is_not_tried_again():
    device = Device(lives=iter([5]), opens=refuse_until(9, BackendError('no such device 7')))
    with pytest.raises(BackendError, match='the device is gone; loading the model again failed: '
                       'no such device 7'):
        list(device.conversation().answer(PROMPT, options()))
    assert device.attempts == 2


def test_next_prompt_after_a_loss_tries_again():
    device = Device(lives=iter([5]), opens=refuse_until(3, BackendError('no such device 7')))
    conversation = device.conversation()
    with pytest.raises(BackendError, match='no such device 7'):
        list(conversation.answer(PROMPT, options()))
    events = list(conversation.answer('and?', options()))
    assert reasons(events) == ['recovered']
    assert isinstance(events[-1], Answer)


def test_recover_opens_a_broken_backend_and_leaves_a_working_one():
    device = Device(lives=iter([1, 1, 1, 1, NEVER]))
    conversation = device.conversation()
    with pytest.raises(BackendError):
        list(conversation.answer(PROMPT, options()))
    conversation.recover()
    conversation.recover()
    assert device.attempts == 1 + RECOVERIES + 1
    assert reasons(list(conversation.answer(PROMPT, options()))) == []


def test_cancel_while_the_conversation_is_prefilled_again_leaves_the_answer_so_far():
    device = Device(lives=iter([9]))
    conversation, seen = device.conversation(), []
    with closing(conversation.answer(PROMPT, options())) as events:
        for event in events:
            seen.append(event)
            if isinstance(event, CacheReset):
                break
    assert conversation.messages[-1].content == ''.join(said(seen)) != ''
    assert conversation.fill == 0
    assert isinstance(list(conversation.answer('and?', options()))[-1], Answer)


def test_lost_backend_is_closed_once():
    device = Device(lives=iter([3]), opens=refuse_until(9, BackendError('no such device 7')))
    conversation = device.conversation()
    with pytest.raises(BackendError):
        list(conversation.answer(PROMPT, options()))
    conversation.close()
    conversation.close()
    assert [backend.closed for backend in device.opened] == [1]
