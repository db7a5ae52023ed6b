"""
Writes the decoder in the CPU dialect: a few large operators that append to the cache in place.

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

In the last layer, the operators after its cache run only for the rows whose logits are needed.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tinyllama_ros.artifact.architecture import FINAL_NORM, LayerNames
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
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.graphs.cpu_functions import cpu_functions, OPSETS, OURS
from tinyllama_ros.workbench.graphs.decoder_weights import DecoderWeights
from tinyllama_ros.workbench.graphs.graph_writer import graph_in, GraphWriter
from tinyllama_ros.workbench.graphs.linear import CpuLinear
from tinyllama_ros.workbench.graphs.rope import rope_tables


def write_cpu_graph(checkpoint: Checkpoint, linear: type[CpuLinear], kv_length: int,
                    folder: Path, w8a16: str = 'none') -> Iterator[str]:
    """
    Write the graph and its weights into a folder; yield the name of each part when it is done.

    Its inputs and outputs are those of contract.cpu_inputs and contract.cpu_outputs.

    :param w8a16: out of quantize.W8A16_CHOICES; which linears are applied as W8A16.
    """
    with graph_in(folder, OPSETS, cpu_functions()) as writer:
        yield from _Decoder(writer, checkpoint, linear, kv_length, w8a16).write()


class _Decoder:
    """Adds the parts of the graph, in the order of the data flow."""

    def __init__(self, writer: GraphWriter, checkpoint: Checkpoint, linear: type[CpuLinear],
                 kv_length: int, w8a16: str) -> None:
        self._writer = writer
        self._weights = DecoderWeights(checkpoint)
        self._arch = checkpoint.architecture
        self._linear = linear(writer, w8a16)
        self._kv_length = kv_length

    def write(self) -> Iterator[str]:
        writer, arch = self._writer, self._arch
        writer.inputs(cpu_inputs(arch, self._kv_length))
        for table, name in zip(rope_tables(arch, self._kv_length), ('cos', 'sin'), strict=True):
            writer.weight(f'rope/{name}', table)
        block = self._linear.rows(INPUT_IDS, self._weights)
        yield 'embedding'
        residual = ''
        for layer in range(arch.layers):
            is_last = layer == arch.layers - 1
            block, residual = self._layer(layer, block, residual, LOGIT_ROWS if is_last else '')
            yield f'layer {layer}'
        hidden, _ = self._norm('final', FINAL_NORM, block, residual)
        hidden = writer.node('Squeeze', 'head/flat',
                             [hidden, writer.constant('head/axis', np.array([0]))])
        self._linear.head(hidden, self._weights)
        writer.outputs(cpu_outputs(arch, self._kv_length))
        yield 'head'

    def _norm(self, path: str, weight: str, block: str, residual: str) -> tuple[str, str]:
        """Return the normalised sum of block and residual, and the sum itself."""
        scale = self._writer.constant(f'{path}/norm/weight', self._weights.read(weight))
        epsilon = self._arch.norm_eps
        if not residual:
            name = self._writer.node('SimplifiedLayerNormalization', f'{path}/norm',
                                     [block, scale], axis=-1, epsilon=epsilon)
            return name, block
        name = self._writer.node('Norm', f'{path}/norm', [block, residual, scale],
                                 outputs=[f'{path}/norm', f'{path}/norm:1'], domain=OURS,
                                 epsilon=epsilon)
        return name, f'{name}:1'

    def _layer(self, layer: int, block: str, residual: str, rows: str) -> tuple[str, str]:
        """
        Add a layer.

        :param rows: rows that are computed after its cache; empty: all.
        """
        path, names = f'layer.{layer}', LayerNames.of(layer)
        read, apply = self._weights.read, self._linear.apply
        hidden, residual = self._norm(f'{path}/attention', names.input_norm, block, residual)
        qkv = apply(f'{path}/attention/qkv', hidden, read(names.q, names.k, names.v))
        attended = self._attention(f'{path}/attention/attend', layer, qkv)
        if rows:
            attended, residual = (
                self._writer.node('Gather', f'{path}/{name}/rows', [tensor, rows], axis=1)
                for name, tensor in (('attended', attended), ('residual', residual)))
        block = apply(f'{path}/attention/o', attended, read(names.o))
        hidden, residual = self._norm(f'{path}/mlp', names.post_norm, block, residual)
        gated = self._linear.apply_gated(f'{path}/mlp/gate_up', hidden,
                                         read(names.gate, names.up))
        return apply(f'{path}/mlp/down', gated, read(names.down)), residual

    def _attention(self, path: str, layer: int, qkv: str) -> str:
        cache = cpu_cache_names(layer)
        return self._writer.node(
            'Attention', path,
            [qkv, *map(past_of, cache), LAST_SLOT, FILL_AFTER, 'rope/cos', 'rope/sin'],
            outputs=[path, *cache], domain=OURS,
            num_heads=self._arch.heads, kv_num_heads=self._arch.kv_heads)
