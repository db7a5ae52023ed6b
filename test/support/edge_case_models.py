"""Small models whose shapes and numbers are the hard cases of a graph."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from sentencepiece import SentencePieceProcessor

from support.tiny_models import sentencepiece_tokenizer, tiny
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.checkpoints.random_checkpoint import RandomCheckpoint, SHAPES

SPIKE = 7
"""A token whose embedding is one large number, so that its scale would spoil its neighbours'."""
ZERO = 8
"""A token whose embedding is all zeros."""


def tiny_sentencepiece(**changes: object) -> RandomCheckpoint:
    """Return a model with a SentencePiece vocabulary."""
    tokenizer = sentencepiece_tokenizer()
    size = SentencePieceProcessor(model_proto=tokenizer.content).vocab_size()
    return RandomCheckpoint(replace(SHAPES['tiny'], vocab_size=size, **changes), tokenizer)




class EdgeCaseTokens(Checkpoint):
    """A checkpoint with a token of zeros, and one that is a single spike."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self.architecture = checkpoint.architecture
        self.tokenizer = checkpoint.tokenizer
        self.tied_gain = checkpoint.tied_gain

    def tensor(self, name: str) -> NDArray[np.float32]:
        weight = self._checkpoint.tensor(name)
        if name == 'model.embed_tokens.weight':
            weight[[SPIKE, ZERO]] = 0
            weight[SPIKE, 3] = 100
        return weight




MODELS: dict[str, Callable[[], RandomCheckpoint]] = {
    'nine_share_three_tied_bpe': partial(
        tiny, heads=9, kv_heads=3, hidden=144, tied_embeddings=True),
    'four_share_one_of_64_untied_sentencepiece': partial(
        tiny_sentencepiece, kv_heads=1, head_dim=64, layers=3),
    'four_of_four_tied_sentencepiece': partial(
        tiny_sentencepiece, kv_heads=4, tied_embeddings=True, rope_base=100000.0),
    'six_share_two_of_64_untied_bpe': partial(
        tiny, heads=6, kv_heads=2, head_dim=64, hidden=96, ffn=112),
}
W8A16_CHOICES = dict(zip(MODELS, ('none', 'down', 'all', 'down'), strict=True))
"""What gets activations of nearly 16 bits in w8a8."""


def distance(one: NDArray[np.floating], other: NDArray[np.floating]) -> float:
    """Return the root mean square of what differs, the spike's own logit aside."""
    return float(np.sqrt(np.mean(np.delete(one - other, SPIKE, axis=1) ** 2)))
