"""
The decoder in the CPU dialect: ONNX Runtime's fused operators, the cache appended in place.

One layer, with the operators as they run::

    residual, sum of the last block
        |
    SkipSimplifiedLayerNormalization          residual = residual + sum
        |
    linear q,k,v (one matrix)
        |
    GroupQueryAttention   <- past keys/values, appended in the same buffer; rotates q and k
        |
    linear o
        |
    SkipSimplifiedLayerNormalization
        |
    linear gate,up (one matrix) - SiLU(gate) * up - linear down
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from tinyllama_ros.errors import ModelError
from tinyllama_ros.model.architecture import Architecture
from tinyllama_ros.model.artifact import GRAPH, WEIGHTS
from tinyllama_ros.model.checkpoint import Checkpoint
from tinyllama_ros.model.graph_writer import GraphWriter, MICROSOFT
from tinyllama_ros.model.linear import Linear

OPSETS = {'': 17, MICROSOFT: 1}


def write_cpu_graph(checkpoint: Checkpoint, linear: type[Linear], kv_length: int,
                    folder: Path) -> Iterator[str]:
    """
    Write the graph and its weights into a folder; yield the name of each part when it is done.

    ========================== ================================== =======================
    input                      shape                              type
    ========================== ================================== =======================
    input_ids                  1, S                               int64
    last_slot                  1                                  int32; fill after, - 1
    fill_after                 scalar                             int32
    logit_rows                 R                                  int64; rows of the chunk
    past_key.N, past_value.N   1, kv_heads, kv_length, head_dim   float32
    ========================== ================================== =======================

    Outputs: logits (R, vocabulary) float32, and key.N, value.N, to be bound to the same memory as
    past_key.N, past_value.N.
    """
    with (folder / WEIGHTS).open('wb') as weights:
        writer = GraphWriter(weights, WEIGHTS)
        decoder = _Decoder(writer, checkpoint, linear, kv_length)
        yield from decoder.write()
    writer.save(folder / GRAPH, 'decoder', OPSETS)


def rope_tables(architecture: Architecture, length: int
                ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """
    Return cosine and sine (length, head_dim / 2) of every position's rotation angles.

    Source: RoFormer, arXiv 2104.09864, section 3.2.2.
    """
    half = np.arange(0, architecture.head_dim, 2, dtype=np.float64) / architecture.head_dim
    angles = np.outer(np.arange(length), architecture.rope_base ** -half)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


class _Decoder:
    """The parts of the graph, in the order in which data passes them."""

    def __init__(self, writer: GraphWriter, checkpoint: Checkpoint, linear: type[Linear],
                 kv_length: int) -> None:
        self._writer = writer
        self._checkpoint = checkpoint
        self._arch = checkpoint.architecture
        self._linear = linear(writer)
        self._kv_length = kv_length

    def write(self) -> Iterator[str]:
        writer, arch = self._writer, self._arch
        input_ids = writer.input('input_ids', TensorProto.INT64, (1, 'S'))
        writer.input('last_slot', TensorProto.INT32, (1,))
        writer.input('fill_after', TensorProto.INT32, ())
        rows = writer.input('logit_rows', TensorProto.INT64, ('R',))
        for table, name in zip(rope_tables(arch, self._kv_length), ('cos', 'sin'), strict=True):
            writer.weight(f'rope/{name}', table)
        embedding = self._linear.embedding('embed', self._weight('model.embed_tokens'))
        block = writer.node('Gather', 'embed/rows', [embedding, input_ids])
        if embedding_cast := self._linear.embedding_cast:
            block = writer.node('Cast', 'embed/float', [block], to=embedding_cast)
        yield 'embedding'
        residual = ''
        for layer in range(arch.layers):
            block, residual = self._layer(f'layer.{layer}', layer, block, residual)
            yield f'layer {layer}'
        hidden, _ = self._norm('final', self._weight('model.norm'), block, residual)
        hidden = writer.node('Gather', 'head/rows', [hidden, rows], axis=1)
        hidden = writer.node('Squeeze', 'head/flat',
                             [hidden, writer.constant('head/axis', np.array([0]))])
        head = self._weight('model.embed_tokens' if arch.tied_embeddings else 'lm_head')
        logits = self._linear.head('logits', hidden, head, is_tied=arch.tied_embeddings)
        writer.output(logits, TensorProto.FLOAT, ('R', arch.vocab_size))
        yield 'head'

    def _weight(self, name: str) -> NDArray[np.float32]:
        weight = self._checkpoint.tensor(f'{name}.weight')
        if not np.isfinite(weight).all():
            raise ModelError(f'{name}.weight holds a number that is not finite; the checkpoint is '
                             'damaged, fetch it again')
        return weight

    def _stack(self, prefix: str, names: tuple[str, ...]) -> NDArray[np.float32]:
        return np.concatenate([self._weight(f'{prefix}.{name}') for name in names])

    def _norm(self, path: str, weight: NDArray[np.float32], block: str, residual: str
              ) -> tuple[str, str]:
        """Return the normalised sum of block and residual, and the sum itself."""
        scale = self._writer.constant(f'{path}/norm/weight', weight)
        epsilon = self._arch.norm_eps
        if not residual:
            name = self._writer.node('SimplifiedLayerNormalization', f'{path}/norm',
                                     [block, scale], axis=-1, epsilon=epsilon)
            return name, block
        name = self._writer.node(
            'SkipSimplifiedLayerNormalization', f'{path}/norm', [block, residual, scale],
            outputs=[f'{path}/norm', '', '', f'{path}/norm:3'], domain=MICROSOFT, epsilon=epsilon)
        return name, f'{name}:3'

    def _layer(self, path: str, layer: int, block: str, residual: str) -> tuple[str, str]:
        prefix = f'model.layers.{layer}'
        hidden, residual = self._norm(f'{path}/attention',
                                      self._weight(f'{prefix}.input_layernorm'), block, residual)
        block = self._attention(f'{path}/attention', layer, hidden)
        hidden, residual = self._norm(f'{path}/mlp',
                                      self._weight(f'{prefix}.post_attention_layernorm'),
                                      block, residual)
        return self._mlp(f'{path}/mlp', f'{prefix}.mlp', hidden), residual

    def _attention(self, path: str, layer: int, hidden: str) -> str:
        writer, arch = self._writer, self._arch
        prefix = f'model.layers.{layer}.self_attn'
        qkv = self._linear.apply(f'{path}/qkv', hidden,
                                 self._stack(prefix, ('q_proj', 'k_proj', 'v_proj')))
        shape = (1, arch.kv_heads, self._kv_length, arch.head_dim)
        past = [writer.input(f'past_{kind}.{layer}', TensorProto.FLOAT, shape)
                for kind in ('key', 'value')]
        present = [f'{kind}.{layer}' for kind in ('key', 'value')]
        attended = writer.node(
            'GroupQueryAttention', f'{path}/attend',
            [qkv, '', '', *past, 'last_slot', 'fill_after', 'rope/cos', 'rope/sin'],
            outputs=[f'{path}/attend', *present], domain=MICROSOFT,
            num_heads=arch.heads, kv_num_heads=arch.kv_heads, do_rotary=1)
        for name in present:
            writer.output(name, TensorProto.FLOAT, shape)
        return self._linear.apply(f'{path}/o', attended, self._weight(f'{prefix}.o_proj'))

    def _mlp(self, path: str, prefix: str, hidden: str) -> str:
        writer = self._writer
        both = self._linear.apply(f'{path}/gate_up', hidden,
                                  self._stack(prefix, ('gate_proj', 'up_proj')))
        gate, up = f'{path}/split', f'{path}/split:1'
        writer.node('Split', f'{path}/split', [both], outputs=[gate, up], axis=-1)
        # QuickGelu is x * sigmoid(alpha * x); alpha = 1 makes it SiLU
        gated = writer.node('QuickGelu', f'{path}/silu', [gate], domain=MICROSOFT, alpha=1.0)
        product = writer.node('Mul', f'{path}/gated', [gated, up])
        return self._linear.apply(f'{path}/down', product, self._weight(f'{prefix}.down_proj'))
