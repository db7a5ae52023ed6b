"""
Writes the decoder in the Ascend dialect: static shapes, and operators that the AI core has.

One layer, with the operators as they run (kv: key/value heads, group: query heads that share one,
S: tokens of the chunk)::

    residual = residual + last block
        |
    Mul, ReduceMean, Add, Sqrt, Div, Mul           RMSNorm, in float32
        |
    linear q,k,v (one matrix)
        |
    Split, Concat, Mul, Add                        rotate q and k
        |                    \
        |                    new rows (1, 2 kv, S, head_dim) float16 -> out_key_values
        |                    /
    past keys x q, new keys x q                    (1, kv, slots, group S), (1, kv, S, group S)
        |
    Concat, Transpose, Add penalty, Softmax        (1, kv, group S, slots + S), in float32
        |
    x past values + x new values
        |
    linear o, residual, RMSNorm
        |
    linear gate,up (one matrix) - gate * Sigmoid(gate) * up - linear down

Keys are the left factor of their product, so the cache is never transposed. Past and new keys are
scored separately, so the cache is never concatenated, and each step reads it once. The factor
1/sqrt(head_dim) is folded into the weight of q, which keeps the scores small enough for float16.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto

from tinyllama_ros.artifact.architecture import FINAL_NORM, LayerNames
from tinyllama_ros.artifact.contract import (
    ASCEND_INPUTS,
    ascend_inputs,
    ASCEND_OUTPUTS,
    ascend_outputs,
    CHUNK,
    Dim,
)
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.graphs.ascend_linear import AscendLinear
from tinyllama_ros.workbench.graphs.decoder_weights import DecoderWeights
from tinyllama_ros.workbench.graphs.graph_writer import graph_in, GraphWriter
from tinyllama_ros.workbench.graphs.rope import rope_tables

OPSETS = {'': 13}
HIDDEN = 60000.0
"""Subtracted from the scores of hidden slots; it fits float16."""
TO_THE_END = 2 ** 31 - 1


def write_ascend_graph(checkpoint: Checkpoint, linear: type[AscendLinear], kv_length: int,
                       folder: Path, chunk_sizes: Sequence[int] = (1,), w8a16: str = 'none'
                       ) -> Iterator[str]:
    """
    Write the graph and its weights into a folder; yield the name of each part when it is done.

    Its inputs and outputs are those of contract.ascend_inputs and contract.ascend_outputs.

    A token of the chunk never attends to a token with a higher position, whatever the mask is.
    Position ids of padding may be beyond the last slot.

    :param chunk_sizes: the chunk lengths S to compile for. If there are several, S is symbolic,
        and each becomes a gear of ATC.
    :param w8a16: out of quantize.W8A16_CHOICES; which linears are applied as W8A16.
    """
    with graph_in(folder, OPSETS) as writer:
        yield from _Decoder(writer, checkpoint, linear, kv_length, chunk_sizes, w8a16).write()


class _Decoder:
    """Adds the parts of the graph, in the order of the data flow."""

    def __init__(self, writer: GraphWriter, checkpoint: Checkpoint, linear: type[AscendLinear],
                 kv_length: int, chunk_sizes: Sequence[int], w8a16: str) -> None:
        self._writer = writer
        self._weights = DecoderWeights(checkpoint)
        self._arch = checkpoint.architecture
        self._linear = linear(writer, w8a16)
        self._kv_length = kv_length
        self._longest = chunk_sizes[-1]
        is_static = len(chunk_sizes) == 1
        self._chunk: Dim = self._longest if is_static else CHUNK
        self._new_rows: list[str] = []
        writer.inputs(ascend_inputs(self._arch, kv_length, self._chunk))
        self._input_ids, mask, positions, past = ASCEND_INPUTS
        self._add_constants()
        self._past = self._reshaped('past', past, 'shape/past')
        self._penalty = self._make_penalty(mask, positions)
        self._rotation = [writer.node('Gather', f'rope/{name}', [f'rope/{name}/table', positions])
                          for name in ('cos', 'sin')]

    def write(self) -> Iterator[str]:
        writer, arch = self._writer, self._arch
        yield from self._layers()
        rows = self._joined('rows', self._new_rows, axis=0)
        _, new_rows = ASCEND_OUTPUTS
        self._reshaped(new_rows, rows, 'shape/out')
        writer.outputs(ascend_outputs(arch, self._chunk))

    def _add_constants(self) -> None:
        """Add the constants that all layers share."""
        writer, arch = self._writer, self._arch
        kv, size = arch.kv_heads, arch.head_dim
        for name, value in {
                'shape/past': (2 * arch.layers, kv, self._kv_length, size),
                'shape/heads': (1, -1, arch.heads + 2 * kv, size),
                'shape/groups': (-1, kv, arch.group, size),
                'shape/queries': (1, kv, size, -1),
                'shape/rows': (1, 2 * kv, -1, size),
                'shape/by_head': (arch.heads, -1, size),
                'shape/by_token': (-1, arch.heads, size),
                'shape/side_by_side': (1, -1, arch.heads * size),
                'shape/out': (arch.layers, 2, 1, kv, -1, size),
                'split/turned': (arch.heads + kv, kv), 'split/queries': (arch.heads, kv),
                'slice/start': (0,), 'slice/past': (self._kv_length,), 'slice/end': (TO_THE_END,),
                'slice/columns': (3,), 'slice/layers': (0,)}.items():
            writer.constant(name, np.array(value, np.int64))
        for name, number in (('one', 1), ('hidden', HIDDEN), ('norm_eps', arch.norm_eps)):
            writer.constant(name, np.array(number, np.float32))
        cos, sin = rope_tables(arch, self._kv_length + self._longest - 1)
        for name, table in (('cos', np.concatenate([cos, cos], axis=1)),
                            ('sin', np.concatenate([-sin, sin], axis=1))):
            writer.weight(f'rope/{name}/table', table[:, None])  # (positions, 1, head_dim)

    def _make_penalty(self, mask: str, positions: str) -> str:
        """Return what is added to the scores (1, 1, 1 or group S, slots + S)."""
        writer = self._writer
        number = writer.node('Cast', 'mask/float', [mask], to=TensorProto.FLOAT)
        less = writer.node('Sub', 'mask/less', [number, 'one'])
        flat = writer.node('Mul', 'mask/flat', [less, 'hidden'])
        penalty = self._unsqueezed('mask/penalty', flat, (1, 2))
        return penalty if self._chunk == 1 else self._causal(penalty, positions)

    def _causal(self, penalty: str, positions: str) -> str:
        """Return a penalty with a row for each query, which hides later tokens of the chunk."""
        writer = self._writer
        writer.constant('mask/slots', np.zeros((1, self._kv_length), np.float32))
        writer.constant('mask/hidden', np.array(-HIDDEN, np.float32))
        number = writer.node('Cast', 'mask/positions', [positions], to=TensorProto.FLOAT)
        columns = self._joined('mask/columns', ['mask/slots', number], axis=1)
        is_later = writer.node('Greater', 'mask/is_later', [
            self._unsqueezed('mask/keys', columns, (1, 2)),
            self._unsqueezed('mask/queries', number, (1, 3))])
        causal = writer.node('Where', 'mask/causal', [is_later, 'mask/hidden', penalty])
        return self._joined('mask/by_group', [causal] * self._arch.group, axis=2)

    def _layers(self) -> Iterator[str]:
        writer, arch, linear = self._writer, self._arch, self._linear
        residual = linear.rows(self._input_ids, self._weights)
        yield 'embedding'
        for layer in range(arch.layers):
            path, names = f'layer.{layer}', LayerNames.of(layer)
            hidden = self._norm(f'{path}/attention', residual, names.input_norm)
            block = self._attention(f'{path}/attention', layer, names, hidden)
            residual = writer.node('Add', f'{path}/attention/residual', [residual, block])
            hidden = self._norm(f'{path}/mlp', residual, names.post_norm)
            block = self._mlp(f'{path}/mlp', names, hidden)
            residual = writer.node('Add', f'{path}/mlp/residual', [residual, block])
            yield f'layer {layer}'
        hidden = self._norm('final', residual, FINAL_NORM)
        linear.head(hidden, self._weights)
        yield 'head'

    def _norm(self, path: str, x: str, weight: str) -> str:
        writer = self._writer
        square = writer.node('Mul', f'{path}/norm/square', [x, x])
        mean = writer.node('ReduceMean', f'{path}/norm/mean', [square], axes=[-1], keepdims=1)
        more = writer.node('Add', f'{path}/norm/more', [mean, 'norm_eps'])
        root = writer.node('Sqrt', f'{path}/norm/root', [more])
        plain = writer.node('Div', f'{path}/norm/plain', [x, root])
        return writer.node('Mul', f'{path}/norm', [
            plain, writer.constant(f'{path}/norm/weight', self._weights.read(weight))])

    def _attention(self, path: str, layer: int, names: LayerNames, hidden: str) -> str:
        weight = self._weights.read(names.q, names.k, names.v)
        weight[:self._arch.heads * self._arch.head_dim] *= self._arch.head_dim ** -0.5
        q, keys, values = self._heads(path, self._linear.apply(f'{path}/qkv', hidden, weight))
        past_keys, past_values = (self._past_rows(f'{path}/past_{kind}', 2 * layer + number)
                                  for number, kind in enumerate(('keys', 'values')))
        scores = self._joined(f'{path}/scores', [
            self._writer.node('MatMul', f'{path}/past_scores', [past_keys, q]),
            self._writer.node('MatMul', f'{path}/new_scores', [keys, q])], axis=2)
        past_share, new_share = self._attention_weights(path, scores)
        gathered = self._writer.node('Add', f'{path}/gathered', [
            self._writer.node('MatMul', f'{path}/past_gathered', [past_share, past_values]),
            self._writer.node('MatMul', f'{path}/new_gathered', [new_share, values])])
        by_head = self._reshaped(f'{path}/by_head', gathered, 'shape/by_head')
        by_token = self._exchanged(f'{path}/by_token', by_head, (1, 0, 2), 'shape/by_token')
        flat = self._reshaped(f'{path}/side_by_side', by_token, 'shape/side_by_side')
        attended = self._cast(f'{path}/attended', flat, self._linear.attention_type,
                              TensorProto.FLOAT)
        return self._linear.apply(f'{path}/o', attended, self._weights.read(names.o))

    def _heads(self, path: str, qkv: str) -> tuple[str, str, str]:
        """Return q (1, kv, head_dim, group S), new keys and new values (1, kv, S, head_dim)."""
        kind = self._linear.attention_type
        heads = self._reshaped(f'{path}/heads', qkv, 'shape/heads')
        straight, values = self._split(f'{path}/turned_values', heads, 2, 'split/turned')
        q, keys = self._split(f'{path}/queries_keys', self._rotated(f'{path}/turned', straight), 2,
                              'split/queries')
        groups = self._reshaped(f'{path}/groups', q, 'shape/groups')
        by_group = self._writer.node('Transpose', f'{path}/by_group', [groups], perm=(1, 3, 2, 0))
        queries = self._reshaped(f'{path}/queries', by_group, 'shape/queries')
        rows = self._joined(f'{path}/keys_values', [keys, values], axis=2)
        half = self._writer.node('Cast', f'{path}/half', [rows], to=TensorProto.FLOAT16)
        rows = self._exchanged(f'{path}/rows', half, (0, 2, 1, 3), 'shape/rows')
        self._new_rows.append(rows)
        rows = self._cast(f'{path}/rows/cast', rows, TensorProto.FLOAT16, kind)
        new_keys, new_values = self._split(f'{path}/new_rows', rows, 1)
        return (self._cast(f'{path}/queries/cast', queries, TensorProto.FLOAT, kind), new_keys,
                new_values)

    def _rotated(self, path: str, x: str) -> str:
        """Return heads (1, S, any, head_dim) rotated to their positions."""
        writer = self._writer
        cos, sin = self._rotation
        first, second = self._split(f'{path}/halves', x, 3)
        swapped = self._joined(f'{path}/swapped', [second, first], axis=3)
        return writer.node('Add', path, [writer.node('Mul', f'{path}/cos', [x, cos]),
                                         writer.node('Mul', f'{path}/sin', [swapped, sin])])

    def _attention_weights(self, path: str, scores: str) -> tuple[str, str]:
        """Return the attention weights of each query for the past slots and for the chunk."""
        writer, kind = self._writer, self._linear.attention_type
        by_query = writer.node('Transpose', f'{path}/scores/by_query', [scores],
                               perm=(0, 1, 3, 2))
        number = self._cast(f'{path}/scores/float', by_query, kind, TensorProto.FLOAT)
        seen = writer.node('Add', f'{path}/scores/seen', [number, self._penalty])
        share = writer.node('Softmax', f'{path}/share', [seen], axis=-1)
        share = self._cast(f'{path}/share/cast', share, TensorProto.FLOAT, kind)
        return (self._sliced(f'{path}/share/past', share, 'slice/start', 'slice/past'),
                self._sliced(f'{path}/share/new', share, 'slice/past', 'slice/end'))

    def _mlp(self, path: str, names: LayerNames, hidden: str) -> str:
        writer, read, apply = self._writer, self._weights.read, self._linear.apply
        both = apply(f'{path}/gate_up', hidden, read(names.gate, names.up))
        gate, up = self._split(f'{path}/split', both, -1)
        sigmoid = writer.node('Sigmoid', f'{path}/sigmoid', [gate])
        silu = writer.node('Mul', f'{path}/silu', [gate, sigmoid])
        product = writer.node('Mul', f'{path}/gated', [silu, up])
        return apply(f'{path}/down', product, read(names.down))

    def _past_rows(self, path: str, number: int) -> str:
        """Return one layer's keys or values of the past (1, kv, slots, head_dim)."""
        start, end = (self._writer.constant(f'{path}/{name}', np.array([value], np.int64))
                      for name, value in (('start', number), ('end', number + 1)))
        rows = self._writer.node('Slice', path, [self._past, start, end, 'slice/layers'])
        return self._cast(f'{path}/cast', rows, TensorProto.FLOAT16, self._linear.attention_type)

    def _sliced(self, path: str, x: str, start: str, end: str) -> str:
        return self._writer.node('Slice', path, [x, start, end, 'slice/columns'])

    def _split(self, path: str, x: str, axis: int, sizes: str = '') -> tuple[str, str]:
        """Return two parts, of equal size unless sizes are given."""
        parts = path, f'{path}:1'
        self._writer.node('Split', path, [x, sizes] if sizes else [x], outputs=parts, axis=axis)
        return parts

    def _joined(self, path: str, parts: Sequence[str], axis: int) -> str:
        return self._writer.node('Concat', path, parts, axis=axis)

    def _reshaped(self, path: str, x: str, shape: str) -> str:
        return self._writer.node('Reshape', path, [x, shape])

    def _exchanged(self, path: str, x: str, perm: Sequence[int], shape: str) -> str:
        """Return x with the chunk's axis and its neighbour exchanged; a Reshape for one token."""
        if self._chunk == 1:
            return self._reshaped(path, x, shape)
        return self._writer.node('Transpose', path, [x], perm=perm)

    def _unsqueezed(self, path: str, x: str, axes: Sequence[int]) -> str:
        return self._writer.node('Unsqueeze', path, [
            x, self._writer.constant(f'{path}/axes', np.array(axes, np.int64))])

    def _cast(self, path: str, x: str, before: Any, after: Any) -> str:
        return x if before == after else self._writer.node('Cast', path, [x], to=after)
