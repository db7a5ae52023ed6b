"""
The decoder in the CPU dialect: a few large operators, the cache appended in place.

One layer, with the operators as they run::

    residual, sum of the last block
        |
    SkipSimplifiedLayerNormalization          residual = residual + sum
        |
    linear q,k,v (one matrix)
        |
    Attention             <- past keys/values, appended in the same buffer; rotates q and k
        |
    linear o
        |
    SkipSimplifiedLayerNormalization
        |
    linear gate,up (one matrix) - Gate, SiLU(gate) * up - linear down
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from tinyllama_ros.model.artifact import GRAPH, WEIGHTS
from tinyllama_ros.model.checkpoint import Checkpoint
from tinyllama_ros.model.cpu_functions import cpu_functions, OPSETS, OURS
from tinyllama_ros.model.decoder_weights import DecoderWeights
from tinyllama_ros.model.graph_writer import GraphWriter, MICROSOFT
from tinyllama_ros.model.linear import Linear
from tinyllama_ros.model.rope import rope_tables


def write_cpu_graph(checkpoint: Checkpoint, linear: type[Linear], kv_length: int,
                    folder: Path, fine_layers: int = 0) -> Iterator[str]:
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

    :param fine_layers: in so many layers, from the first, down_proj is applied finely.
    """
    with (folder / WEIGHTS).open('wb') as weights:
        writer = GraphWriter(weights, WEIGHTS)
        decoder = _Decoder(writer, checkpoint, linear, kv_length, fine_layers)
        yield from decoder.write()
    writer.save(folder / GRAPH, 'decoder', OPSETS, cpu_functions())


class _Decoder:
    """The parts of the graph, in the order in which data passes them."""

    def __init__(self, writer: GraphWriter, checkpoint: Checkpoint, linear: type[Linear],
                 kv_length: int, fine_layers: int) -> None:
        self._writer = writer
        self._weights = DecoderWeights(checkpoint)
        self._arch = checkpoint.architecture
        self._linear = linear(writer)
        self._kv_length = kv_length
        self._fine_layers = fine_layers

    def write(self) -> Iterator[str]:
        writer, arch = self._writer, self._arch
        input_ids = writer.input('input_ids', TensorProto.INT64, (1, 'S'))
        writer.input('last_slot', TensorProto.INT32, (1,))
        writer.input('fill_after', TensorProto.INT32, ())
        rows = writer.input('logit_rows', TensorProto.INT64, ('R',))
        for table, name in zip(rope_tables(arch, self._kv_length), ('cos', 'sin'), strict=True):
            writer.weight(f'rope/{name}', table)
        embedding = self._linear.embedding('embed', self._weights.one('model.embed_tokens'))
        block = writer.node('Gather', 'embed/rows', [embedding, input_ids])
        if embedding_cast := self._linear.embedding_cast:
            block = writer.node('Cast', 'embed/float', [block], to=embedding_cast)
        yield 'embedding'
        residual = ''
        for layer in range(arch.layers):
            block, residual = self._layer(f'layer.{layer}', layer, block, residual)
            yield f'layer {layer}'
        hidden, _ = self._norm('final', self._weights.one('model.norm'), block, residual)
        hidden = writer.node('Gather', 'head/rows', [hidden, rows], axis=1)
        hidden = writer.node('Squeeze', 'head/flat',
                             [hidden, writer.constant('head/axis', np.array([0]))])
        logits = self._linear.head('logits', hidden, self._weights.head(),
                                   is_tied=arch.tied_embeddings)
        writer.output(logits, TensorProto.FLOAT, ('R', arch.vocab_size))
        yield 'head'

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
        gain = self._weights.one(f'{prefix}.input_layernorm')
        hidden, residual = self._norm(f'{path}/attention', gain, block, residual)
        block = self._attention(f'{path}/attention', layer, hidden)
        gain = self._weights.one(f'{prefix}.post_attention_layernorm')
        hidden, residual = self._norm(f'{path}/mlp', gain, block, residual)
        return self._mlp(f'{path}/mlp', layer, hidden), residual

    def _attention(self, path: str, layer: int, hidden: str) -> str:
        writer, arch = self._writer, self._arch
        prefix = f'model.layers.{layer}.self_attn'
        qkv = self._linear.apply(f'{path}/qkv', hidden,
                                 self._weights.stack(prefix, ('q_proj', 'k_proj', 'v_proj')))
        shape = (1, arch.kv_heads, self._kv_length, arch.head_dim)
        past = [writer.input(f'past_{kind}.{layer}', TensorProto.FLOAT, shape)
                for kind in ('key', 'value')]
        present = [f'{kind}.{layer}' for kind in ('key', 'value')]
        attended = writer.node(
            'Attention', f'{path}/attend',
            [qkv, *past, 'last_slot', 'fill_after', 'rope/cos', 'rope/sin'],
            outputs=[f'{path}/attend', *present], domain=OURS,
            num_heads=arch.heads, kv_num_heads=arch.kv_heads)
        for name in present:
            writer.output(name, TensorProto.FLOAT, shape)
        return self._linear.apply(f'{path}/o', attended, self._weights.one(f'{prefix}.o_proj'))

    def _mlp(self, path: str, layer: int, hidden: str) -> str:
        writer, prefix = self._writer, f'model.layers.{layer}.mlp'
        both = self._linear.apply(f'{path}/gate_up', hidden,
                                  self._weights.stack(prefix, ('gate_proj', 'up_proj')))
        gated = writer.node('Gate', f'{path}/gate', [both], domain=OURS)
        is_fine = layer < self._fine_layers
        apply = self._linear.apply_finely if is_fine else self._linear.apply
        return apply(f'{path}/down', gated, self._weights.one(f'{prefix}.down_proj'))
