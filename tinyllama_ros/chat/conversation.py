"""
Keeps the messages of one conversation, and tracks which of them are in the KV cache.

A turn renders the whole conversation, keeps the longest prefix that the cache already holds and
prefills the rest; so a changed system prompt, a cancelled answer and a reset need no special case.
"""

from collections.abc import Callable, Generator, Iterable, Sequence
from os.path import commonprefix

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.chat.events import ChatOptions, Exchange, TurnEvent
from tinyllama_ros.chat.message import Message, size_of
from tinyllama_ros.chat.tokenizer import open_tokenizer, Tokenizer
from tinyllama_ros.chat.turn import ChatModel, Turn
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.errors import (
    ArtifactError,
    ConfigError,
    LengthError,
    ModelError,
    PromptError,
)

REPLACEMENT = '\N{REPLACEMENT CHARACTER}'


class Conversation:
    """The messages of one conversation, and the model that answers them."""

    def __init__(self, engine: Engine, settings: TokenizerSettings, tokenizer: Tokenizer) -> None:
        self._model = ChatModel.of(engine, settings, tokenizer)
        self._exchanges: Sequence[Exchange] = ()

    @property
    def messages(self) -> list[Message]:
        """Prompts and answers in their order, without the system prompt."""
        return [message for exchange in self._exchanges for message in exchange]

    @property
    def fill(self) -> int:
        """Slots of the cache that hold a token."""
        return self._model.engine.cache.fill

    @property
    def capacity(self) -> int:
        """Slots of the cache."""
        return self._model.engine.cache.capacity

    def check_prompt(self, prompt: str) -> None:
        """
        Refuse a prompt that is no text, or is too long for the cache; from any thread.

        :raises PromptError: says which.
        """
        self.check_size([prompt])
        _check_is_text(prompt)

    def check_size(self, texts: Iterable[str]) -> None:
        """
        Refuse texts that are too long for the cache, however few tokens they have.

        It may be called from any thread, also while a prompt is answered. A turn encodes its texts
        to count their tokens, which takes seconds and gigabytes for megabytes.

        :raises LengthError: they have more bytes than the longest token in every slot would have.
        """
        size, most = size_of(texts), self._model.longest_text
        if size > most:
            raise LengthError(
                f'it is too long: it has {size} bytes, and at most {most} can fit the '
                f'{self.capacity} slots of the cache, as no token has more than '
                f'{self._model.tokenizer.longest_token} bytes; shorten it')

    def check(self, options: ChatOptions) -> None:
        """
        Refuse options with which no prompt could be answered.

        It may be called from any thread, also while a prompt is answered.

        :raises ConfigError: the room for the answer or the system prompt is too large for the
            cache, or the model takes no such system prompt.
        """
        if options.answer_room > self.capacity // 2:
            raise ConfigError(f'answer_room is {options.answer_room}; it may be at most half of '
                              f'the {self.capacity} slots of the cache')
        try:
            self.check_size([options.system_prompt])
            shortest = len(self._model.encode(options.system_prompt, (), [Message('user', 'a')]))
        except (ModelError, PromptError) as error:
            raise ConfigError(f'system_prompt cannot be used: {error}') from error
        most = self.capacity - options.room
        if shortest > most:
            raise ConfigError(f'system_prompt is too long: with the shortest prompt it is '
                              f'{shortest} tokens, and at most {most} fit beside the '
                              f'{options.room} slots reserved for the answer; shorten it')

    def answer(self, prompt: str, options: ChatOptions,
               is_cancelled: Callable[[], bool] = lambda: False
               ) -> Generator[TurnEvent, None, None]:
        """
        Yield what happens while a prompt is answered, an Answer last.

        It yields between any two forward passes. Closing the iterator there cancels the answer:
        the part that was yielded stays in the conversation; if that is empty, the turn is removed.
        The same holds if the backend fails for good. A backend that is lost is opened again, and
        the answer continues where it stopped.

        :param is_cancelled: called at each step of the chat template, which may take long; once it
            returns true, nothing more is yielded, not even an Answer.

        :raises PromptError: the prompt is empty, or does not fit the cache; nothing has changed.
        :raises BackendError: the backend failed, and opening it again did not help.
        """
        _check_is_text(prompt)
        message = Message('user', prompt)
        turn = Turn(self._model, self._exchanges, [message], options, is_cancelled)
        try:
            yield from turn.run()
        finally:
            if turn.text:
                self._exchanges = [*turn.exchanges, (message, Message('assistant', turn.text))]

    def complete(self, messages: Sequence[Message], options: ChatOptions,
                 is_cancelled: Callable[[], bool] = lambda: False
                 ) -> Generator[TurnEvent, None, None]:
        """
        Yield what happens while messages of another conversation are answered, as `answer` does.

        The messages of this conversation do not change, but they leave the cache. All given
        messages must fit the cache; none of them is left out, also after a reset in the answer.

        :raises PromptError: they do not fit, or the chat template refuses them.
        """
        yield from Turn(self._model, (), messages, options, is_cancelled).run()

    def cut_last_answer(self, text: str) -> None:
        """Keep of the last answer what was spoken; where nothing was, forget the turn."""
        if self._exchanges:
            *earlier, (prompt, answer) = self._exchanges
            self._exchanges = [*earlier, *([(prompt, Message(answer.role, text))] if text else [])]

    def reset(self, system_prompt: str = '') -> None:
        """Forget all messages; the cache keeps the system prompt if it holds it."""
        self._exchanges = ()
        # The common prefix of two conversations with different prompts is the system prompt
        first, second = (self._model.encode(system_prompt, (), [Message('user', text)])
                         for text in ('a', 'b'))
        engine = self._model.engine
        engine.rewind(engine.cache.shared_prefix(commonprefix([first, second])))

    def recover(self) -> None:
        """
        Open the backend again if its last pass failed.

        :raises BackendError: it cannot be opened.
        """
        if self._model.engine.is_broken:
            self._model.engine.reopen()

    def close(self) -> None:
        """Free the engine."""
        self._model.engine.close()


def _check_is_text(prompt: str) -> None:
    # What ROS cannot decode as UTF-8 arrives as replacement characters
    if not any(char.isprintable() and not char.isspace() and char != REPLACEMENT
               for char in prompt):
        raise PromptError('it is empty, or not valid UTF-8; send a text')


def open_conversation(artifact: Artifact, engine: Engine) -> Conversation:
    """
    Return a conversation with the model of an artifact.

    :raises ArtifactError: its tokenizer is damaged.
    """
    tokenizer = open_tokenizer(artifact)
    size = artifact.manifest.architecture.vocab_size
    if tokenizer.vocab_size > size:
        raise ArtifactError(f'{artifact.tokenizer} has {tokenizer.vocab_size} tokens, but the '
                            f'graph has {size}; use the tokenizer that the model was trained with')
    return Conversation(engine, artifact.manifest.tokenizer, tokenizer)
