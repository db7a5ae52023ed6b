"""The two ways in which the CPU dialect multiplies by a weight."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from tinyllama_ros.model.graph_writer import GraphWriter, MICROSOFT
from tinyllama_ros.model.quantize import QMAX, quantize_weight


class Linear(Protocol):
    """Adds products with weights to a graph."""

    embedding_cast: int
    """Type that embedding rows are cast to, 0 where they need no cast."""

    def __init__(self, writer: GraphWriter) -> None: ...

    def apply(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        """Return the name of x (..., in) times weight (out, in), transposed: (..., out)."""

    def embedding(self, path: str, weight: NDArray[np.float32]) -> str:
        """Return the name of the embedding table (vocabulary, hidden)."""

    def tied_head(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        """Return the name of x times the embedding table, transposed."""


class FloatLinear:
    """fp32: the product as it stands in the paper, and the table shared by a tied head."""

    embedding_cast = 0

    def __init__(self, writer: GraphWriter) -> None:
        self._writer = writer

    def apply(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        return self._product(path, x, self._writer.weight(f'{path}/weight', weight))

    def embedding(self, path: str, weight: NDArray[np.float32]) -> str:
        self._table = self._writer.weight(f'{path}/weight', weight)
        return self._table

    def tied_head(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        return self._product(path, x, self._table)

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
        for name, value in (('one', np.float32(1)), ('step', np.float32(1 / QMAX)),
                            ('zero_point', np.uint8(128))):
            writer.constant(f'w8a8/{name}', np.array(value))

    def apply(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        writer = self._writer
        quantized, scale = quantize_weight(weight)
        weight_name = writer.weight(f'{path}/weight', quantized.T)
        scale_name = writer.constant(f'{path}/scale', scale / np.float32(QMAX))
        magnitude = writer.node('Abs', f'{path}/abs', [x])
        peak = writer.node('ReduceMax', f'{path}/peak', [magnitude], axes=[-1])
        scaled = writer.node('Div', f'{path}/scaled', [x, peak])
        codes = writer.node('QuantizeLinear', f'{path}/codes',
                            [scaled, 'w8a8/step', 'w8a8/zero_point'])
        product = writer.node(
            'MatMulIntegerToFloat', f'{path}/product',
            [codes, weight_name, 'w8a8/one', scale_name, 'w8a8/zero_point'], domain=MICROSOFT)
        return writer.node('Mul', path, [product, peak])

    def embedding(self, path: str, weight: NDArray[np.float32]) -> str:
        return self._writer.weight(f'{path}/weight', weight.astype(np.float16))

    def tied_head(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        return self.apply(path, x, weight)
