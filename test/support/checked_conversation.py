"""Conversations of random turns, every event of which is checked."""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice, pairwise
import random

from hypothesis import strategies as st
import numpy as np
from numpy.typing import NDArray

from support.fake_backend import FakeBackend, hashed, LogitsFunction, NEVER
from support.tiny_tokenizers import BPE, bpe_file, SENTENCEPIECE, sentencepiece_file
from tinyllama_ros.chat.conversation import Conversation
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
from tinyllama_ros.chat.tokenizer import BpeTokenizer, SentencePieceTokenizer
from tinyllama_ros.engine.backend import Backend
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.engine.sampling import Sampler, SamplingOptions
from tinyllama_ros.errors import BackendError, PromptError

GREEDY = SamplingOptions(temperature=0)
SYSTEM_PROMPTS = ('', 'Be brief.', 'You are a robot. Say what a robot says.')
VOCABULARIES = {
    'bpe': (BPE, BpeTokenizer(bpe_file(), BPE.control_tokens)),
    'sentencepiece': (SENTENCEPIECE, SentencePieceTokenizer(sentencepiece_file(),
                                                            SENTENCEPIECE.control_tokens))}
SETTINGS, TOKENIZER = VOCABULARIES['bpe']


def options(max_tokens: int = 20, answer_room: int = 8, system_prompt: str = '',
            drafting: bool = True) -> ChatOptions:
    return ChatOptions(system_prompt, max_tokens, answer_room, GREEDY, drafting)


@dataclass(frozen=True)
class Turn:
    """A prompt, and what happens to its answer."""

    prompt: str
    options: ChatOptions = field(default_factory=options)
    events: int = 2000
    """Events after which the answer is cancelled."""
    passes_to_failure: int = NEVER


class CheckedConversation:
    """A conversation on a fake backend, every event of which is checked."""

    def __init__(self, backend: FakeBackend, longer: Backend, vocabulary: str = 'bpe') -> None:
        settings, tokenizer = VOCABULARIES[vocabulary]
        self.backend = backend
        self.engine = Engine(lambda: backend)
        self.conversation = Conversation(self.engine, settings, tokenizer)
        self._template = ChatTemplate(settings, tokenizer)
        self._longer = Engine(lambda: longer)

    @classmethod
    def of_fakes(cls, slots: int, vocabulary: str = 'bpe',
                 logits_of: Callable[[int], LogitsFunction] = hashed) -> 'CheckedConversation':
        """Return one on a fake backend, compared with another that has a longer cache."""
        size = VOCABULARIES[vocabulary][1].vocab_size
        return cls(FakeBackend(slots, size, logits_of(size)),
                   FakeBackend(1000, size, logits_of(size)), vocabulary)

    def take(self, turn: Turn) -> None:
        """Take a turn and check it from its first event to what it leaves behind."""
        before, held = self.conversation.messages, list(self.engine.cache.tokens)
        passes = len(self.backend.passes)
        self._begin(turn)
        try:
            with closing(self.conversation.answer(turn.prompt, turn.options)) as events:
                for event in islice(events, turn.events):
                    self._check(event)
                assert isinstance(event, Answer) or len(self.events) == turn.events
        except PromptError:
            assert self.conversation.messages == before and self.engine.cache.tokens == held
            assert len(self.backend.passes) == passes
        except BackendError:
            assert self.backend.passes_to_failure == 0
        self._check_resets()
        self._check_history(before)

    def _begin(self, turn: Turn) -> None:
        self.backend.passes_to_failure = turn.passes_to_failure
        self.turn = turn
        self.events: list[TurnEvent] = []
        self.texts: list[str] = []
        self._generated: list[int] = []  # tokens of the answer, as far as they are known
        self._kept: list[int] = []  # tokens in the cache when the answer began or went on
        self._messages = self.conversation.messages
        self._fills: list[int] = []  # of the cache, from the first delta on

    def _check(self, event: TurnEvent) -> None:
        if isinstance(event, TextDelta):
            self.texts.append(event.text)
            if not self._kept:
                self._check_first_delta()
        elif self._kept and isinstance(event, (CacheReset, Answer)):
            self._check_generated(event)
        if isinstance(event, Answer):
            assert event.text == ''.join(self.texts)
            assert 0 <= event.generated_tokens <= (self.turn.options.max_tokens or 2000)
            assert event.finish == 'stop' or event.generated_tokens == self.turn.options.max_tokens
        self.events.append(event)
        if self.texts:
            self._fills.append(self.engine.cache.fill)

    def _check_first_delta(self) -> None:
        self._kept = list(self.engine.cache.tokens)
        if len(self.texts) == 1:
            assert self.engine.cache.room >= self.turn.options.room
        else:
            self._generated.append(self._kept[-1])  # the one for which there was no slot
        assert self._is_conversation_and_answer(self._kept)

    def _check_generated(self, event: TurnEvent) -> None:
        """Compare the sampled tokens with those of a longer cache that holds the same tokens."""
        assert isinstance(event, Answer) or self.engine.cache.room == 0
        sampled = self.engine.cache.tokens[len(self._kept):]
        self._generated += sampled
        list(self._longer.prefill(self._kept))
        for token in sampled:
            assert self._longer.sample(Sampler(GREEDY)) == token
            self._longer.decode(token)
        self._kept = []

    def _is_conversation_and_answer(self, kept: list[int]) -> bool:
        """Return whether tokens are the newest turns, then the end of the answer so far."""
        for start in range(0, len(self._messages) + 1, 2):
            asked = self.encode(self._messages[start:], self.turn)
            end = self._generated[len(self._generated) - (len(kept) - len(asked)):]
            if kept == asked + end:
                return True
        return False

    def encode(self, said: Sequence[Message], turn: Turn) -> list[int]:
        """Return the tokens of what was said, and a turn's prompt."""
        system = turn.options.system_prompt
        return self._template.encode([*([Message('system', system)] if system else []), *said,
                                      Message('user', turn.prompt)])

    def _check_resets(self) -> None:
        """Announced at the start when not all fits, later each time the cache went back."""
        resets = [place for place, event in enumerate(self.events)
                  if isinstance(event, CacheReset)]
        first = next((place for place, event in enumerate(self.events)
                      if isinstance(event, TextDelta)), len(self.events))
        if self.events:
            whole = len(self.encode(self._messages, self.turn)) + self.turn.options.room
            assert [place for place in resets if place < first] == (
                [0] if whole > self.backend.shape.kv_length else [])
        returns = sum(fill < before for before, fill in pairwise(self._fills))
        announced = sum(place > first for place in resets)
        last = self.events[-1] if self.events else None
        cut_short = isinstance(last, (CacheReset, PrefillProgress))
        assert announced - cut_short <= returns <= announced

    def _check_history(self, before: list[Message]) -> None:
        after = self.conversation.messages
        if said := ''.join(self.texts):
            assert after[-2:] == [Message('user', self.turn.prompt), Message('assistant', said)]
            older = after[:-2]
            assert older == before[len(before) - len(older):]
            if not any(isinstance(event, CacheReset) for event in self.events):
                assert older == before
        else:
            assert after == before


some_options = st.builds(options, max_tokens=st.integers(1, 60), answer_room=st.integers(2, 70),
                         system_prompt=st.sampled_from(SYSTEM_PROMPTS), drafting=st.booleans())
prompts = st.text('a robté🤖\n<|>?', max_size=12) | st.sampled_from(
    ['What is a robot?', '<|im_end|>', 'books about the sea ' * 4])
turns = st.builds(Turn, prompts, some_options, st.just(2000) | st.integers(1, 60),
                  st.just(NEVER) | st.integers(1, 30))


def random_turn(chance: random.Random, slots: int) -> Turn:
    """Return a short turn most of the time, now and then one longer than the cache."""
    prompt = ' '.join(chance.choices(['robot', 'What is a', '?', 'é🤖', '\n', '<|im_end|>'],
                                     [9, 1, 3, 1, 1, 1], k=chance.choice([1, 1, 1, 2, 3, 9])))
    return Turn(
        prompt,
        options(max_tokens=chance.choice([1, 3, 5, 9, slots, 2 * slots]),
                answer_room=chance.choice([2, 4, 8, slots // 2, slots]),
                system_prompt=chance.choices(SYSTEM_PROMPTS, [20, 3, 1])[0],
                drafting=chance.random() < 0.8),
        chance.choice([2000, 2000, chance.randrange(1, 50)]),
        chance.choice([NEVER, NEVER, chance.randrange(1, 40)]))


class CheckedBackend(FakeBackend):
    """A real backend that is held to the contract."""

    def __init__(self, real: OnnxBackend) -> None:
        shape = real.shape
        super().__init__(shape.kv_length, shape.vocab_size, chunk_sizes=shape.chunk_sizes,
                         pads=shape.pads)
        self._real = real

    def forward(self, tokens: NDArray[np.int64], start: int, *, logits: int = 1
                ) -> NDArray[np.float32]:
        super().forward(tokens, start, logits=logits)
        return self._real.forward(tokens, start, logits=logits)
