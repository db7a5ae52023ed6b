"""
The decoder in the CPU dialect: a few large operators, the cache appended in place.

One layer, with the operators as they run::

    residual, sum of the last block
        |
    Norm                  residual = residual + sum
        |
    linear q,k,v (one matrix)
        |
    Attention             <- past keys/values, appended in the same buffer; rotates q and k
        |
    linear o
        |
    Norm
        |
    linear gate,up (one matrix): SiLU(gate) * up
        |
    linear down

Behind the last layer's cache only the rows go on whose logits are wanted.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.contract import (
    cpu_cache_names,
    cpu_inputs,
    cpu_outputs,
    FILL_AFTER,
    INPUT_IDS,
    LAST_SLOT,
    LOGIT_ROWS,
    past_of,
)
from tinyllama_ros.artifact.manifest import GRAPH, WEIGHTS
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.graphs.cpu_functions import cpu_functions, OPSETS, OURS
from tinyllama_ros.workbench.graphs.decoder_weights import DecoderWeights
from tinyllama_ros.workbench.graphs.graph_writer import GraphWriter
from tinyllama_ros.workbench.graphs.linear import CpuLinear
from tinyllama_ros.workbench.graphs.rope import rope_tables
from tinyllama_ros.workbench.quantization.quantize import HEAD, is_w8a16


def write_cpu_graph(checkpoint: Checkpoint, linear: type[CpuLinear], kv_length: int,
                    folder: Path, w8a16: str = 'none') -> Iterator[str]:
    """
    Write the graph and its weights into a folder; yield the name of each part when it is done.

    Its inputs and outputs are those of contract.cpu_inputs and contract.cpu_outputs.

    :param w8a16: out of quantize.W8A16_CHOICES; which linears are applied as W8A16.
    """
    with (folder / WEIGHTS).open('wb') as weights:
        writer = GraphWriter(weights, WEIGHTS)
        decoder = _Decoder(writer, checkpoint, linear, kv_length, w8a16)
        yield from decoder.write()
    writer.save(folder / GRAPH, 'decoder', OPSETS, cpu_functions())


class _Decoder:
    """The parts of the graph, in the order in which data passes them."""

    def __init__(self, writer: GraphWriter, checkpoint: Checkpoint, linear: type[CpuLinear],
                 kv_length: int, w8a16: str) -> None:
        self._writer = writer
        self._weights = DecoderWeights(checkpoint)
        self._arch = checkpoint.architecture
        self._linear = linear(writer)
        self._kv_length = kv_length
        self._w8a16 = w8a16

    def write(self) -> Iterator[str]:
        writer, arch = self._writer, self._arch
        writer.inputs(cpu_inputs(arch, self._kv_length))
        for table, name in zip(rope_tables(arch, self._kv_length), ('cos', 'sin'), strict=True):
            writer.weight(f'rope/{name}', table)
        block = self._linear.rows('embed', INPUT_IDS, self._weights)
        yield 'embedding'
        residual = ''
        for layer in range(arch.layers):
            is_last = layer == arch.layers - 1
            block, residual = self._layer(f'layer.{layer}', layer, block, residual,
                                          LOGIT_ROWS if is_last else '')
            yield f'layer {layer}'
        hidden, _ = self._norm('final', self._weights.one('model.norm'), block, residual)
        hidden = writer.node('Squeeze', 'head/flat',
                             [hidden, writer.constant('head/axis', np.array([0]))])
        self._linear.head(HEAD, hidden, self._weights.head(), is_tied=arch.tied_embeddings)
        writer.outputs(cpu_outputs(arch, self._kv_length))
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
        name = self._writer.node('Norm', f'{path}/norm', [block, residual, scale],
                                 outputs=[f'{path}/norm', f'{path}/norm:1'], domain=OURS,
                                 epsilon=epsilon)
        return name, f'{name}:1'

    def _layer(self, path: str, layer: int, block: str, residual: str, rows: str
               ) -> tuple[str, str]:
        """
        Add a layer.

        :param rows: those that go on behind its cache, where that are not all.
        """
        prefix = f'model.layers.{layer}'
        gain = self._weights.one(f'{prefix}.input_layernorm')
        hidden, residual = self._norm(f'{path}/attention', gain, block, residual)
        attended = self._attention(f'{path}/attention', layer, hidden)
        if rows:
            attended, residual = (
                self._writer.node('Gather', f'{path}/{name}/rows', [each, rows], axis=1)
                for name, each in (('attended', attended), ('residual', residual)))
        block = self._product(f'{path}/attention/o', attended,
                              self._weights.one(f'{prefix}.self_attn.o_proj'))
        gain = self._weights.one(f'{prefix}.post_attention_layernorm')
        hidden, residual = self._norm(f'{path}/mlp', gain, block, residual)
        return self._mlp(f'{path}/mlp', layer, hidden), residual

    def _attention(self, path: str, layer: int, hidden: str) -> str:
        writer, arch = self._writer, self._arch
        prefix = f'model.layers.{layer}.self_attn'
        qkv = self._product(f'{path}/qkv', hidden,
                            self._weights.stack(prefix, ('q_proj', 'k_proj', 'v_proj')))
        cache = cpu_cache_names(layer)
        return writer.node(
            'Attention', f'{path}/attend',
            [qkv, *map(past_of, cache), LAST_SLOT, FILL_AFTER, 'rope/cos', 'rope/sin'],
            outputs=[f'{path}/attend', *cache], domain=OURS,
            num_heads=arch.heads, kv_num_heads=arch.kv_heads)

    def _mlp(self, path: str, layer: int, hidden: str) -> str:
        prefix, both = f'model.layers.{layer}.mlp', f'{path}/gate_up'
        weight = self._weights.stack(prefix, ('gate_proj', 'up_proj'))
        gated = self._linear.apply_gated(both, hidden, weight,
                                         is_w8a16=is_w8a16(both, self._w8a16))
        return self._product(f'{path}/down', gated, self._weights.one(f'{prefix}.down_proj'))

    def _product(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        """Return x times a weight, from activations of 8 or 16 bits, as the linear wants them."""
        linear = self._linear
        apply = linear.apply_w8a16 if is_w8a16(path, self._w8a16) else linear.apply
        return apply(path, x, weight)
