"""
A checkpoint in a GGUF file.

Format: docs/gguf.md of github.com/ggml-org/ggml at 9d32513; names and the order of q and k rows as
convert_hf_to_gguf.py of llama.cpp writes them.
"""

from pathlib import Path
import re

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader, ReaderField
from gguf.quants import dequantize
import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.architecture import Architecture
from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.checkpoint import check_weights
from tinyllama_ros.workbench.checkpoints.named_values import NamedValues
from tinyllama_ros.workbench.checkpoints.vocabulary import tokenizer_from_metadata

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
_USED_KEYS = {
    'llama.block_count', 'llama.embedding_length', 'llama.feed_forward_length',
    'llama.attention.head_count', 'llama.attention.head_count_kv', 'llama.attention.key_length',
    'llama.attention.value_length', 'llama.vocab_size', 'llama.context_length',
    'llama.rope.freq_base', 'llama.rope.dimension_count',
    'llama.attention.layer_norm_rms_epsilon',
}
# Keys that change nothing as long as they have this value.
_NEUTRAL_KEYS = {
    'llama.rope.scaling.type': 'none', 'llama.rope.scaling.factor': 1.0,
    'llama.rope.scale_linear': 1.0, 'llama.expert_count': 0, 'llama.expert_used_count': 0,
    'llama.attention.causal': True,
}


class GgufCheckpoint:
    """Weights dequantised one at a time from a mapped file."""

    def __init__(self, path: Path) -> None:
        """Open a file; ModelError where it is no Llama in GGUF, cut short or altered."""
        self._path = path
        reader = _open(path)
        metadata = _metadata(path, reader)
        self._stored = {_weight_name(tensor.name): tensor for tensor in reader.tensors}
        self.architecture = _architecture(metadata, tied='lm_head.weight' not in self._stored)
        check_weights(path, self.architecture, {
            name: tuple(int(size) for size in reversed(tensor.shape))
            for name, tensor in self._stored.items()})
        self.tokenizer = tokenizer_from_metadata(metadata)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Return a fresh float32 copy of one weight, as the Checkpoint protocol says."""
        if name not in self._stored:
            raise ModelError(f'{self._path} has no weight {name}')
        stored = self._stored[name]
        try:
            values = dequantize(stored.data, stored.tensor_type)
        except NotImplementedError as error:
            raise ModelError(f'{self._path}: {stored.name} is stored as '
                             f'{stored.tensor_type.name}, which cannot be read; '
                             'use a file in F16 or Q8_0') from error
        if name.endswith(('q_proj.weight', 'k_proj.weight')):
            return _halves_together(values, self.architecture.head_dim)
        return np.require(values, np.float32, ('C', 'W'))


class _Reader(GGUFReader):  # type: ignore[misc]  # gguf is not followed by mypy
    """GGUFReader that names the tensor at which a file is cut short."""

    def _build_tensors(self, start_offs: int, fields: list[ReaderField]) -> None:
        for field in fields:
            _, name, _, dims, kind, offset = field.parts
            per_block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind[0])]
            end = start_offs + int(offset[0]) + int(np.prod(dims)) // per_block * block_bytes
            if end > self.data.size:
                raise ModelError(f'{bytes(name).decode()} ends at {end}, '
                                 f'the file at {self.data.size}')
        super()._build_tensors(start_offs, fields)


def _open(path: Path) -> GGUFReader:
    _check_magic(path)
    try:
        return _Reader(path)
    except ModelError as error:
        raise ModelError(f'{path} is cut short: {error}; fetch it again') from error
    except Exception as error:  # the reader raises whatever the bytes lead it to
        raise ModelError(f'{path} is cut short or altered, its header cannot be read: {error}; '
                         'fetch it again') from error


def _check_magic(path: Path) -> None:
    try:
        with path.open('rb') as file:
            magic = file.read(4)
    except OSError as error:
        raise ModelError(f'{path} cannot be read: {error}') from error
    if magic != b'GGUF':
        raise ModelError(f'{path} is not a GGUF file: it begins with {magic!r}; '
                         'give the path of a .gguf file')


def _metadata(path: Path, reader: GGUFReader) -> NamedValues:
    try:
        return NamedValues(path, {key: field.contents() for key, field in reader.fields.items()})
    except UnicodeDecodeError as error:
        raise ModelError(f'{path} is altered, its metadata are not UTF-8: {error}; '
                         'fetch it again') from error


def _weight_name(name: str) -> str:
    """Return the name that Architecture gives a tensor; one it does not know is left as it is."""
    stem, _, kind = name.rpartition('.')
    if stem in _NAMES:
        return f'{_NAMES[stem]}.{kind}'
    match = re.fullmatch(r'blk\.(\d+)\.(\w+)', stem)
    if match and match[2] in _LAYER_NAMES:
        return f'model.layers.{match[1]}.{_LAYER_NAMES[match[2]]}.{kind}'
    return name


def _architecture(metadata: NamedValues, *, tied: bool) -> Architecture:
    _refuse_unsupported(metadata)
    hidden = metadata.required('llama.embedding_length', int)
    heads = metadata.required('llama.attention.head_count', int)
    vocab_size = len(metadata.required('tokenizer.ggml.tokens', list))
    architecture = Architecture(
        layers=metadata.required('llama.block_count', int),
        hidden=hidden,
        ffn=metadata.required('llama.feed_forward_length', int),
        heads=heads,
        kv_heads=metadata.optional('llama.attention.head_count_kv', int, heads),
        head_dim=metadata.optional('llama.attention.key_length', int, hidden // max(heads, 1)),
        vocab_size=metadata.optional('llama.vocab_size', int, vocab_size),
        context_length=metadata.required('llama.context_length', int),
        rope_base=metadata.optional('llama.rope.freq_base', float, 10000.0),
        norm_eps=metadata.required('llama.attention.layer_norm_rms_epsilon', float),
        tied_embeddings=tied)
    for key in ('llama.rope.dimension_count', 'llama.attention.value_length'):
        if metadata.optional(key, int, architecture.head_dim) != architecture.head_dim:
            raise ModelError(f'{metadata.path}: {key} is {metadata.raw(key)}, a head has '
                             f'{architecture.head_dim}; only equal sizes are supported')
    return architecture


def _refuse_unsupported(metadata: NamedValues) -> None:
    """Refuse another architecture, and whatever would change the numbers unheeded."""
    family = metadata.required('general.architecture', str)
    if family != 'llama':
        raise ModelError(f'{metadata.path} is of the architecture {family!r}; supported: llama')
    for key, value in metadata.with_prefix('llama.').items():
        if key not in _USED_KEYS and not (key in _NEUTRAL_KEYS and value == _NEUTRAL_KEYS[key]):
            raise ModelError(f'{metadata.path}: {key} is {value!r}, which is not supported; '
                             'use a plain Llama checkpoint (no rope scaling, no experts)')


def _halves_together(rows: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Return q or k rows with the two halves of each head apart, where GGUF interleaves them."""
    out, size = rows.shape
    pairs = rows.reshape(out // head_dim, head_dim // 2, 2, size)
    halves: NDArray[np.float32] = pairs.swapaxes(1, 2).reshape(out, size)
    return halves
