"""Writes products with weights in the CPU dialect: fp32 and W8A8."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from tinyllama_ros.workbench.graphs.cpu_functions import OURS
from tinyllama_ros.workbench.graphs.decoder_weights import DecoderWeights
from tinyllama_ros.workbench.graphs.graph_writer import GraphWriter, MICROSOFT
from tinyllama_ros.workbench.quantization.quantize import (
    GROUP,
    HEAD,
    is_w8a16,
    QMAX,
    quantize_weight,
)

EMBED = 'embed'
"""Path of the embedding in a graph."""


class Linear(Protocol):
    """Adds products with weights to a graph."""

    def __init__(self, writer: GraphWriter, w8a16: str = 'none') -> None:
        """
        Write into a graph.

        :param w8a16: out of quantize.W8A16_CHOICES: which products of w8a8 are W8A16.
        """

    def apply(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        """Return the name of x (..., in) times weight (out, in), transposed: (..., out)."""

    def rows(self, tokens: str, weights: DecoderWeights) -> str:
        """Return the name of the embedding rows of tokens (1, S): (1, S, hidden) float32."""

    def head(self, x: str, weights: DecoderWeights) -> str:
        """Return the name of x (..., in) times the head; a tied one is the embedding table."""


class CpuLinear(Linear, Protocol):
    """Also adds the gated product, which is one operator in the CPU dialect only."""

    def apply_gated(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        """Return the SiLU of a product's first half times the second: (..., out / 2)."""


class FloatLinear:
    """fp32: plain products; a tied head shares the table of the embedding."""

    def __init__(self, writer: GraphWriter, w8a16: str = 'none') -> None:
        self._writer = writer

    def apply(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        return self._product(path, x, self._writer.weight(f'{path}/weight', weight))

    def apply_gated(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        return _gate(self._writer, path, self.apply(path, x, weight))

    def rows(self, tokens: str, weights: DecoderWeights) -> str:
        return embedding_rows(self._writer, tokens, weights.embedding())

    def head(self, x: str, weights: DecoderWeights) -> str:
        if weights.is_tied:
            return self._product(HEAD, x, f'{EMBED}/weight')
        return self.apply(HEAD, x, weights.head())

    def _product(self, path: str, x: str, weight: str) -> str:
        return self._writer.node('FusedMatMul', path, [x, weight], domain=MICROSOFT, transB=1)


class Int8Linear:
    """
    W8A8: int8 weights with a scale per output channel; see the functions of cpu_functions.py.

    Activations of GroupedLinear have a scale for each GROUP channels of a token. Activations of
    W8A16Product have nearly 16 bits and a scale per token: the rounding errors are rounded to 8
    bits again, and are a second row of the same product. With few rows a product takes the time to
    read the weights, so the second row costs nothing; with many rows it doubles the time.

    The embedding is a table lookup, and only the rows in use are read from its file: rows of the
    head's codes if they are tied, else of an fp16 table.
    """

    def __init__(self, writer: GraphWriter, w8a16: str = 'none') -> None:
        self._writer, self._w8a16 = writer, w8a16

    def apply(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        if is_w8a16(path, self._w8a16):
            return self._w8a16_product(path, x, weight)
        return self._by_groups('GroupedLinear', path, x, weight)

    def apply_gated(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        if is_w8a16(path, self._w8a16):
            return _gate(self._writer, path, self._w8a16_product(path, x, weight))
        return self._by_groups('GatedLinear', path, x, weight)

    def _by_groups(self, operator: str, path: str, x: str, weight: NDArray[np.float32]) -> str:
        quantized, scale = quantize_weight(weight)
        outputs, inputs = weight.shape
        groups = -(-inputs // GROUP)
        codes = np.full((outputs, groups * GROUP), QMAX + 1, np.uint8)
        codes[:, :inputs] = quantized.view(np.uint8) ^ (QMAX + 1)  # adds the zero point
        return self._writer.node(
            operator, path,
            [x, self._writer.weight(f'{path}/weight', codes.reshape(outputs, groups, GROUP)),
             self._writer.weight(f'{path}/scale', np.repeat(scale[:, None], groups, axis=1))],
            domain=OURS, **{'in': inputs, 'out': outputs, 'group': GROUP})

    def _w8a16_product(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        quantized, scale = quantize_weight(weight)
        return self._writer.node(
            'W8A16Product', path,
            [x, self._writer.weight(f'{path}/weight', quantized),
             self._writer.constant(f'{path}/scale', scale / np.float32(QMAX))], domain=OURS)

    def rows(self, tokens: str, weights: DecoderWeights) -> str:
        gain = weights.tied_gain()
        if gain is None:
            return embedding_rows(self._writer, tokens, weights.embedding().astype(np.float16))
        return self._writer.node(
            'Embedding', f'{EMBED}/rows', [tokens, f'{HEAD}/weight', f'{HEAD}/scale',
                                           self._writer.constant(f'{EMBED}/gain', QMAX * gain)],
            domain=OURS)

    def head(self, x: str, weights: DecoderWeights) -> str:
        return self.apply(HEAD, x, weights.head())


def embedding_rows(writer: GraphWriter, tokens: str, table: NDArray[np.floating[Any]]) -> str:
    """Return the name of the rows of tokens in an embedding table, in float32."""
    weight = writer.weight(f'{EMBED}/weight', table)
    rows = writer.node('Gather', f'{EMBED}/rows', [weight, tokens])
    if table.dtype == np.float32:
        return rows
    return writer.node('Cast', f'{EMBED}/float', [rows], to=TensorProto.FLOAT)


def _gate(writer: GraphWriter, path: str, both: str) -> str:
    return writer.node('Gate', f'{path}/gate', [both], domain=OURS)
