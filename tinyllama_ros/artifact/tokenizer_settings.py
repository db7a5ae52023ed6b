"""Describes the tokenizer settings of a model: chat template, control tokens, end tokens."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import get_args, Literal

from tinyllama_ros.artifact.fields import shorten
from tinyllama_ros.errors import ModelError

TokenizerKind = Literal['bpe', 'sentencepiece']
FILE_NAMES: Mapping[str, str] = {'bpe': 'tokenizer.json', 'sentencepiece': 'tokenizer.model'}

LONGEST_CONTROL_TOKEN = 1000
"""Characters; those of known models have at most some 30."""


@dataclass(frozen=True)
class TokenizerSettings:
    """How to read a tokenizer file, and how the model writes a conversation."""

    kind: TokenizerKind
    chat_template: str
    """Jinja, as the model's authors wrote it."""
    bos_token: str
    """The text of the begin token, '' if there is none."""
    eos_token: str
    add_bos: bool
    """Whether a conversation gets a begin token even if the template has none."""
    control_tokens: Mapping[str, int] = field(default_factory=dict)
    """Ids by text of the tokens that structure a conversation; plain text never becomes one."""
    stop_tokens: tuple[int, ...] = ()
    """
    Ids of the tokens that end an answer: the end token, and those that the model's files name.

    The chat adds the token with which the chat template ends a turn of the assistant.
    """
    text_tokens: tuple[int, ...] = ()
    """Ids of control tokens that are not marked as special; in an answer they are text."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(TokenizerKind):
            raise ModelError(f'tokenizer kind {self.kind!r} is unknown; '
                             f'known: {", ".join(get_args(TokenizerKind))}')
        if self.eos_token not in self.control_tokens:
            raise ModelError(f'the end token {self.eos_token!r} is not among the control tokens; '
                             'without it an answer never ends')
        for text in self.control_tokens:  # each becomes a part of a pattern
            if len(text) > LONGEST_CONTROL_TOKEN:
                raise ModelError(f'the control token {shorten(text)} has {len(text)} characters; '
                                 f'it may have {LONGEST_CONTROL_TOKEN}')
        for name in ('stop_tokens', 'text_tokens'):
            if not all(type(token) is int for token in getattr(self, name)):
                raise ModelError(f'{name} is {getattr(self, name)}; it must hold ids of tokens')
        stop_tokens = {self.control_tokens[self.eos_token], *self.stop_tokens}
        object.__setattr__(self, 'stop_tokens', tuple(sorted(stop_tokens)))
        object.__setattr__(self, 'text_tokens', tuple(self.text_tokens))

    @property
    def file_name(self) -> str:
        """Name of the tokenizer's file within an artifact."""
        return FILE_NAMES[self.kind]
