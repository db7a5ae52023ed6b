"""The two ways in which the CPU dialect multiplies by a weight."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from tinyllama_ros.model.graph_writer import GraphWriter, MICROSOFT
from tinyllama_ros.model.quantize import FINER, QMAX, quantize_weight


class Linear(Protocol):
    """Adds products with weights to a graph."""

    embedding_cast: int
    """Type that embedding rows are cast to, 0 where they need no cast."""

    def __init__(self, writer: GraphWriter) -> None: ...

    def apply(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        """Return the name of x (..., in) times weight (out, in), transposed: (..., out)."""

    def apply_finely(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        """Return the same, where rounding x to 8 bits would cost too much."""

    def embedding(self, path: str, weight: NDArray[np.float32]) -> str:
        """Return the name of the embedding table (vocabulary, hidden)."""

    def head(self, path: str, x: str, weight: NDArray[np.float32], *, is_tied: bool) -> str:
        """Return the name of x (tokens, in) times the head; a tied one is the embedding table."""


class FloatLinear:
    """fp32: the product as it stands in the paper, and the table shared by a tied head."""

    embedding_cast = 0

    def __init__(self, writer: GraphWriter) -> None:
        self._writer = writer

    def apply(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        return self._product(path, x, self._writer.weight(f'{path}/weight', weight))

    def apply_finely(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        return self.apply(path, x, weight)

    def embedding(self, path: str, weight: NDArray[np.float32]) -> str:
        self._table = self._writer.weight(f'{path}/weight', weight)
        return self._table

    def head(self, path: str, x: str, weight: NDArray[np.float32], *, is_tied: bool) -> str:
        return self._product(path, x, self._table) if is_tied else self.apply(path, x, weight)

    def _product(self, path: str, x: str, weight: str) -> str:
        return self._writer.node('FusedMatMul', path, [x, weight], domain=MICROSOFT, transB=1)


class Int8Linear:
    """
    W8A8: int8 weights with a scale per output channel, activations with a scale per token.

    ::

        x -> Abs -> ReduceMax = peak
        x / peak -> QuantizeLinear(scale 1/127, zero point 128) = uint8
        uint8 x int8 -> MatMulIntegerToFloat(weight scale / 127) -> * peak

    A token of zeros has peak 0, so its codes are arbitrary, and the last product makes it zero
    again: no guard is needed.

    Activations travel as uint8 with zero point 128, which is symmetric int8 to the letter:
    MLAS has no fast int8 x int8 kernel on x86.

    The embedding table is fp16: it is looked up, not multiplied, and only the rows in use are
    ever read from its file.
    """

    embedding_cast = int(TensorProto.FLOAT)

    def __init__(self, writer: GraphWriter) -> None:
        self._writer = writer
        for name, value in (('one', np.float32(1)), ('zero_point', np.uint8(128)),
                            ('step', np.float32(1 / QMAX)),
                            ('fine_step', np.float32(1 / (QMAX * FINER))),
                            ('fine_share', np.float32(1 / FINER))):
            writer.constant(f'w8a8/{name}', np.array(value))

    def apply(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        scaled, peak = self._scaled(path, x)
        product = self._product(path, self._codes(f'{path}/codes', scaled, 'step'), weight)
        return self._writer.node('Mul', path, [product, peak])

    def apply_finely(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        """
        Return the product, from activations of nearly 16 bits.

        What rounding to 8 bits leaves of a token is rounded to 8 bits again, and travels as a
        second row through the same product. With few rows that takes the time to read the
        weights, so the second row is free; with many it doubles the time.
        """
        writer = self._writer
        scaled, peak = self._scaled(path, x)
        coarse = self._codes(f'{path}/coarse', scaled, 'step')
        rounded = writer.node('DequantizeLinear', f'{path}/rounded',
                              [coarse, 'w8a8/step', 'w8a8/zero_point'])
        rest = writer.node('Sub', f'{path}/rest', [scaled, rounded])
        fine = self._codes(f'{path}/fine', rest, 'fine_step')
        codes = writer.node('Concat', f'{path}/codes', [coarse, fine], axis=0)
        product = self._product(path, codes, weight)
        halves = [f'{path}/halves', f'{path}/halves:1']
        writer.node('Split', f'{path}/halves', [product], outputs=halves, axis=0)
        fine = writer.node('Mul', f'{path}/fine_part', [halves[1], 'w8a8/fine_share'])
        total = writer.node('Add', f'{path}/total', [halves[0], fine])
        return writer.node('Mul', path, [total, peak])

    def embedding(self, path: str, weight: NDArray[np.float32]) -> str:
        return self._writer.weight(f'{path}/weight', weight.astype(np.float16))

    def head(self, path: str, x: str, weight: NDArray[np.float32], *, is_tied: bool) -> str:
        return self.apply_finely(path, x, weight)

    def _scaled(self, path: str, x: str) -> tuple[str, str]:
        """Return x divided by the largest magnitude of each token, and that magnitude."""
        magnitude = self._writer.node('Abs', f'{path}/abs', [x])
        peak = self._writer.node('ReduceMax', f'{path}/peak', [magnitude], axes=[-1])
        return self._writer.node('Div', f'{path}/scaled', [x, peak]), peak

    def _codes(self, path: str, scaled: str, step: str) -> str:
        return self._writer.node('QuantizeLinear', path,
                                 [scaled, f'w8a8/{step}', 'w8a8/zero_point'])

    def _product(self, path: str, codes: str, weight: NDArray[np.float32]) -> str:
        quantized, scale = quantize_weight(weight)
        return self._writer.node(
            'MatMulIntegerToFloat', f'{path}/product',
            [codes, self._writer.weight(f'{path}/weight', quantized.T), 'w8a8/one',
             self._writer.constant(f'{path}/scale', scale / np.float32(QMAX)),
             'w8a8/zero_point'], domain=MICROSOFT)
