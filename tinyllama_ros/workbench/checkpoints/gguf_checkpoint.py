"""
Reads a checkpoint from a GGUF file.

The names of tensors and the order of q and k rows are those of llama.cpp's convert_hf_to_gguf.py;
docs/gguf.md of github.com/ggml-org/ggml calls this layout "Meta AI original pth".
"""

from pathlib import Path
import re

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize
import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.architecture import Architecture
from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.checkpoint import (
    architecture_of,
    check_weights,
    Checkpoint,
)
from tinyllama_ros.workbench.checkpoints.gguf_file import GgufFile, StoredTensor
from tinyllama_ros.workbench.checkpoints.gguf_vocabulary import tokenizer_from_metadata
from tinyllama_ros.workbench.checkpoints.named_values import NamedValues

_NAMES = {
    'token_embd': 'model.embed_tokens',
    'output_norm': 'model.norm',
    'output': 'lm_head',
}
_LAYER_NAMES = {
    'attn_norm': 'input_layernorm',
    'attn_q': 'self_attn.q_proj',
    'attn_k': 'self_attn.k_proj',
    'attn_v': 'self_attn.v_proj',
    'attn_output': 'self_attn.o_proj',
    'ffn_norm': 'post_attention_layernorm',
    'ffn_gate': 'mlp.gate_proj',
    'ffn_up': 'mlp.up_proj',
    'ffn_down': 'mlp.down_proj',
}
# Keys of the family that are read, and those that change nothing where they have this value.
_USED_KEYS = (
    'block_count', 'embedding_length', 'feed_forward_length', 'attention.head_count',
    'attention.head_count_kv', 'attention.key_length', 'attention.value_length', 'vocab_size',
    'context_length', 'rope.freq_base', 'rope.dimension_count',
    'attention.layer_norm_rms_epsilon')
_NEUTRAL_KEYS = {
    'rope.scaling.type': ('none',), 'rope.scaling.factor': (1,), 'rope.scale_linear': (1,),
    'expert_count': (0,), 'expert_used_count': (0,), 'attention.causal': (True,),
    'tensor_data_layout': ('Meta AI original pth',)}


class GgufCheckpoint(Checkpoint):
    """Dequantises weights one at a time from a memory-mapped file."""

    def __init__(self, path: Path) -> None:
        """Open a file; ModelError if it is not a Llama model in GGUF, or is damaged."""
        self._file = GgufFile(path)
        metadata = NamedValues(path, self._file.metadata)
        self._stored = {_weight_name(name): _readable(path, tensor)
                        for name, tensor in self._file.tensors.items()}
        self.architecture = architecture_from_metadata(
            metadata, tied='lm_head.weight' not in self._stored)
        check_weights(path, self.architecture,
                      {name: tensor.shape for name, tensor in self._stored.items()})
        self.tokenizer = tokenizer_from_metadata(metadata)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Return a fresh float32 copy of one weight, as the Checkpoint protocol says."""
        if name not in self._stored:
            raise ModelError(f'{self._file.path} has no weight {name}')
        stored = self._stored[name]
        values = _floats(self._file.data(stored), stored.kind).reshape(stored.shape)
        if name.endswith(('q_proj.weight', 'k_proj.weight')):
            values = _halves_together(values, self.architecture.head_dim)
        values = np.require(values, np.float32, ('C', 'W'))
        self._file.check()
        return values


def _readable(path: Path, stored: StoredTensor) -> StoredTensor:
    """Return a tensor; ModelError names its type if it cannot be converted to float32."""
    try:
        _floats(np.zeros((1, GGML_QUANT_SIZES[stored.kind][1]), np.uint8), stored.kind)
    except NotImplementedError as error:
        raise ModelError(f'{path}: {stored.name} is stored as {stored.kind.name}, which is not '
                         'supported; use a file in F16 or Q8_0') from error
    return stored


def _floats(rows: NDArray[np.uint8], kind: GGMLQuantizationType) -> NDArray[np.float32]:
    if kind == GGMLQuantizationType.F64:
        return rows.view(np.float64).astype(np.float32)
    values: NDArray[np.float32] = dequantize(rows, kind)
    return values


def _weight_name(name: str) -> str:
    """Return the name of a tensor in Architecture; an unknown name is not changed."""
    stem, _, kind = name.rpartition('.')
    if stem in _NAMES:
        return f'{_NAMES[stem]}.{kind}'
    match = re.fullmatch(r'blk\.(\d+)\.(\w+)', stem)
    if match and match[2] in _LAYER_NAMES:
        return f'model.layers.{match[1]}.{_LAYER_NAMES[match[2]]}.{kind}'
    return name


def architecture_from_metadata(metadata: NamedValues, *, tied: bool) -> Architecture:
    """
    Return the architecture that metadata describe; ModelError if it is not Llama.

    :param tied: whether the embedding is also the head.
    """
    family = metadata.required('general.architecture', str)
    if family != 'llama':
        raise ModelError(f'{metadata.path} is of the architecture {family!r}; supported: llama')
    llama = metadata.with_prefix('llama.')
    llama.refuse_others(_NEUTRAL_KEYS)
    llama.refuse_unknown({*_USED_KEYS, *_NEUTRAL_KEYS})
    hidden = llama.required('embedding_length', int)
    heads = llama.required('attention.head_count', int)
    vocab_size = len(metadata.required('tokenizer.ggml.tokens', list))
    architecture = architecture_of(
        metadata.path,
        layers=llama.required('block_count', int),
        hidden=hidden,
        ffn=llama.required('feed_forward_length', int),
        heads=heads,
        kv_heads=llama.optional('attention.head_count_kv', int, heads),
        head_dim=llama.optional('attention.key_length', int, hidden // max(heads, 1)),
        vocab_size=llama.optional('vocab_size', int, vocab_size),
        context_length=llama.required('context_length', int),
        rope_base=llama.optional('rope.freq_base', float, 10000.0),
        norm_eps=llama.required('attention.layer_norm_rms_epsilon', float),
        tied_embeddings=tied)
    for key in ('rope.dimension_count', 'attention.value_length'):
        if (size := llama.optional(key, int, architecture.head_dim)) != architecture.head_dim:
            raise ModelError(f'{metadata.path}: llama.{key} is {size}, but head_dim is '
                             f'{architecture.head_dim}; only equal sizes are supported')
    return architecture


def _halves_together(rows: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Return q or k rows with the two halves of each head apart; GGUF interleaves them."""
    out, size = rows.shape
    pairs = rows.reshape(out // head_dim, head_dim // 2, 2, size)
    halves: NDArray[np.float32] = pairs.swapaxes(1, 2).reshape(out, size)
    return halves
