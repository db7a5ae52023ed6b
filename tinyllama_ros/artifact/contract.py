"""
Names the inputs and outputs that each model graph (CPU or Ascend) must have, with shapes.

Graphs are written from these tables, ATC gets its shapes from them, and a graph is compared with
them when it is loaded.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tinyllama_ros.artifact.architecture import Architecture

Dim = int | str
"""Length of an axis; a name if it differs from pass to pass."""
DType = type[np.generic]

CHUNK, ROWS = 'S', 'R'
"""Names of lengths: tokens of a chunk, and those of them whose logits are wanted."""

INPUT_IDS = 'input_ids'
LOGITS = 'logits'
LAST_SLOT, FILL_AFTER, LOGIT_ROWS = 'last_slot', 'fill_after', 'logit_rows'
ASCEND_INPUTS = (INPUT_IDS, 'attention_mask', 'position_ids', 'past_key_values')
ASCEND_OUTPUTS = (LOGITS, 'out_key_values')


@dataclass(frozen=True)
class TensorSpec:
    """Type and shape of an input or an output of the graph."""

    dtypes: tuple[DType, ...]
    """The type in graphs of this project, then further types that compiled graphs may have."""
    axes: Mapping[str, Dim]
    """Length of each axis by its meaning, in order."""

    @property
    def dtype(self) -> DType:
        """Its type in graphs of this project."""
        return self.dtypes[0]

    @property
    def shape(self) -> tuple[Dim, ...]:
        """The lengths of its axes."""
        return tuple(self.axes.values())


Tensors = dict[str, TensorSpec]


def ascend_inputs(architecture: Architecture, kv_length: int, chunk: Dim) -> Tensors:
    """
    Return the inputs of the Ascend dialect by name, in the graph's order.

    The mask is 1 where a slot or a token of the chunk is attended to, the chunk at its end. Keys
    in the cache are rotated already.
    """
    tokens = TensorSpec((np.int64,), {'batch': 1, 'chunk length': chunk})
    columns = kv_length + chunk if isinstance(chunk, int) else f'{kv_length}+{chunk}'
    mask = TensorSpec((np.int64,), {'batch': 1, 'kv_length + chunk length': columns})
    cache = _ascend_rows(architecture, {'kv_length': kv_length})
    return dict(zip(ASCEND_INPUTS, (tokens, mask, tokens, cache), strict=True))


def ascend_outputs(architecture: Architecture, chunk: Dim) -> Tensors:
    """Return the outputs of the Ascend dialect by name, in order: logits and new cache rows."""
    logits = TensorSpec((np.float32, np.float16), {
        'batch': 1, 'chunk length': chunk, 'vocab_size': architecture.vocab_size})
    rows = _ascend_rows(architecture, {'chunk length': chunk})
    return dict(zip(ASCEND_OUTPUTS, (logits, rows), strict=True))


def _ascend_rows(architecture: Architecture, rows: Mapping[str, Dim]) -> TensorSpec:
    return TensorSpec((np.float16,), {
        'layers': architecture.layers, 'keys and values': 2, 'batch': 1,
        'kv_heads': architecture.kv_heads, **rows, 'head_dim': architecture.head_dim})


def cpu_inputs(architecture: Architecture, kv_length: int) -> Tensors:
    """
    Return the inputs of the CPU dialect by name, in the graph's order.

    fill_after is the fill when the chunk has been appended, last_slot the slot of its last token,
    and logit_rows the tokens of the chunk whose logits are wanted.
    """
    inputs = {INPUT_IDS: TensorSpec((np.int64,), {'batch': 1, 'chunk length': CHUNK}),
              LAST_SLOT: TensorSpec((np.int32,), {'batch': 1}),
              FILL_AFTER: TensorSpec((np.int32,), {}),
              LOGIT_ROWS: TensorSpec((np.int64,), {'rows': ROWS})}
    cache = _cpu_cache(architecture, kv_length)
    return inputs | {past_of(name): tensor for name, tensor in cache.items()}


def cpu_outputs(architecture: Architecture, kv_length: int) -> Tensors:
    """
    Return the outputs of the CPU dialect by name, in the graph's order.

    Each part of the cache is to be bound to the same memory as the input `past_of` it, in which
    the graph appends its rows.
    """
    logits = TensorSpec((np.float32,), {'rows': ROWS, 'vocab_size': architecture.vocab_size})
    return _cpu_cache(architecture, kv_length) | {LOGITS: logits}


def past_of(name: str) -> str:
    """Return the name of the input that a part of the cache is read from, in the CPU dialect."""
    return f'past_{name}'


def cpu_cache_names(layer: int) -> tuple[str, str]:
    """Return the names of the keys and the values of a layer, in the CPU dialect."""
    return f'key.{layer}', f'value.{layer}'


def _cpu_cache(architecture: Architecture, kv_length: int) -> Tensors:
    rows = TensorSpec((np.float32,), {
        'batch': 1, 'kv_heads': architecture.kv_heads, 'kv_length': kv_length,
        'head_dim': architecture.head_dim})
    return {name: rows for layer in range(architecture.layers) for name in cpu_cache_names(layer)}
