"""
Makes models of a given shape with random weights, for measurements and tests.

Their answers have no meaning; their shapes, speed and memory are those of a trained model.
"""

from collections.abc import Mapping
import json
from typing import Any
import zlib

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.architecture import Architecture
from tinyllama_ros.artifact.tokenizer_settings import TokenizerSettings
from tinyllama_ros.chat.byte_alphabet import BYTE_TO_CHARACTER
from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint, TokenizerFile

SHAPES: Mapping[str, Architecture] = {
    'tinyllama-1.1b': Architecture(
        layers=22, hidden=2048, ffn=5632, heads=32, kv_heads=4, head_dim=64, vocab_size=32000,
        context_length=2048, rope_base=10000.0, norm_eps=1e-5, tied_embeddings=False),
    'smollm2-135m': Architecture(
        layers=30, hidden=576, ffn=1536, heads=9, kv_heads=3, head_dim=64, vocab_size=49152,
        context_length=8192, rope_base=100000.0, norm_eps=1e-5, tied_embeddings=True),
    'tiny': Architecture(
        layers=2, hidden=64, ffn=160, heads=4, kv_heads=2, head_dim=16, vocab_size=300,
        context_length=512, rope_base=10000.0, norm_eps=1e-5, tied_embeddings=False),
}
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' "
    "+ message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")
_CONTROL_TOKENS = ('<|im_start|>', '<|im_end|>')
_SYLLABLES = [consonant + vowel for consonant in 'bdfgklmnprstvz' for vowel in 'aeiou']


class RandomCheckpoint(Checkpoint):
    """Makes each weight when it is read, always with the same numbers."""

    def __init__(self, architecture: Architecture, tokenizer: TokenizerFile,
                 seed: int = 0) -> None:
        self.architecture = architecture
        self.tokenizer = tokenizer
        self._seed = seed
        self._shapes = architecture.weight_shapes()

    @classmethod
    def named(cls, shape: str, seed: int = 0) -> 'RandomCheckpoint':
        """Return a checkpoint of a named shape; ModelError lists the names."""
        if shape not in SHAPES:
            raise ModelError(f'shape {shape!r} is unknown; known: {", ".join(SHAPES)}')
        return cls(SHAPES[shape], byte_tokenizer(SHAPES[shape].vocab_size), seed)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """
        Return a fresh float32 copy of one weight, as the Checkpoint protocol says.

        The standard deviation of a matrix is 1 / sqrt(in), so that outputs are as large as inputs;
        the weight of a norm is near 1.
        """
        if name not in self._shapes:
            raise ModelError(f'a random checkpoint of this shape has no weight {name}')
        shape = self._shapes[name]
        generator = np.random.default_rng([self._seed, zlib.crc32(name.encode())])
        values = generator.standard_normal(shape, np.float32)
        if len(shape) == 1:
            values *= np.float32(0.1)
            values += np.float32(1)
        else:
            values *= np.float32(shape[1] ** -0.5)
        return values


def byte_tokenizer(vocab_size: int) -> TokenizerFile:
    """
    Return a byte-level BPE without merges: each byte of a text is one token.

    After the bytes come the two control tokens of ChatML, and then made-up words up to
    `vocab_size`, so that every id can be decoded to something readable.

    :raises ModelError: the bytes and the control tokens alone are more than `vocab_size`.
    """
    tokens = [*BYTE_TO_CHARACTER.values(), *_CONTROL_TOKENS]
    if vocab_size < len(tokens):
        raise ModelError(f'vocab_size is {vocab_size}; a random model needs {len(tokens)} tokens')
    tokens += [_word(number) for number in range(vocab_size - len(tokens))]
    byte_level = {'type': 'ByteLevel', 'add_prefix_space': False, 'trim_offsets': True,
                  'use_regex': True}
    vocabulary = {text: number for number, text in enumerate(tokens)}
    content: dict[str, Any] = {
        'version': '1.0', 'added_tokens': [], 'normalizer': None,
        'pre_tokenizer': byte_level, 'decoder': byte_level,
        'model': {'type': 'BPE', 'vocab': vocabulary, 'merges': []}}
    begin, end = _CONTROL_TOKENS
    settings = TokenizerSettings(
        kind='bpe', chat_template=CHAT_TEMPLATE, bos_token=begin, eos_token=end, add_bos=False,
        control_tokens={text: vocabulary[text] for text in _CONTROL_TOKENS})
    return TokenizerFile(settings, json.dumps(content, ensure_ascii=False).encode())


def _word(number: int) -> str:
    """Return a made-up word with the space before it, another one for each number."""
    word = ''
    number += len(_SYLLABLES)  # two syllables at least
    while number >= 0:
        number, syllable = divmod(number, len(_SYLLABLES))
        word = _SYLLABLES[syllable] + word
        number -= 1
    return BYTE_TO_CHARACTER[ord(' ')] + word
