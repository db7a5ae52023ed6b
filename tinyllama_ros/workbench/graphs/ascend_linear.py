"""Writes products with weights in the Ascend dialect; inputs and outputs are float32."""

from collections.abc import Iterator
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.graphs.decoder_weights import DecoderWeights
from tinyllama_ros.workbench.graphs.graph_writer import GraphWriter
from tinyllama_ros.workbench.graphs.linear import EMBED, embedding_rows, Linear
from tinyllama_ros.workbench.quantization.quantize import (
    HEAD,
    is_w8a16,
    QMAX,
    quantize_weight,
    RESIDUAL_STEPS,
)

Number = TypeVar('Number', np.int8, np.float32)
WIDEST = 32768
"""Maximum columns of a product; the tiling of the cube unit fails on wider ones."""
PIECE = 16384
"""Columns of the parts into which a wider product is split."""
LARGEST_HALF = 65504
"""Largest number that float16 holds."""
SMALLEST_PEAK = 1e-6
"""Replaces the largest magnitude of a token that is all zeros."""


class AscendLinear(Linear, Protocol):
    """Adds products with weights to a graph in the Ascend dialect."""

    attention_type: int
    """Type that scores and values are multiplied in."""


class AscendFloatLinear:
    """fp32, for comparisons: the cube unit multiplies fp16 or int8."""

    attention_type = int(TensorProto.FLOAT)

    def __init__(self, writer: GraphWriter, w8a16: str = 'none') -> None:
        self._writer = writer

    def rows(self, tokens: str, weights: DecoderWeights) -> str:
        return embedding_rows(self._writer, tokens, weights.embedding())

    def head(self, x: str, weights: DecoderWeights) -> str:
        pieces = [self.apply(path, x, rows) for path, rows in _pieces(HEAD, weights.head())]
        return _join(self._writer, HEAD, pieces)

    def apply(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        return self._writer.node('MatMul', path,
                                 [x, self._writer.weight(f'{path}/weight', weight.T)])


class AscendHalfLinear(AscendFloatLinear):
    """fp16: both factors and the product."""

    attention_type = int(TensorProto.FLOAT16)

    def rows(self, tokens: str, weights: DecoderWeights) -> str:
        return embedding_rows(self._writer, tokens, _half(EMBED, weights.embedding()))

    def apply(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        writer = self._writer
        half = writer.node('Cast', f'{path}/half', [x], to=TensorProto.FLOAT16)
        product = writer.node('MatMul', f'{path}/product', [
            half, writer.weight(f'{path}/weight', _half(path, weight).T)])
        return writer.node('Cast', path, [product], to=TensorProto.FLOAT)


class AscendInt8Linear:
    """
    W8A8: int8 weights with a scale per output channel, activations with a scale per token.

    ::

        x -> Abs -> ReduceMax -> / 127 = step
        x / step -> Round -> AscendQuant(scale 1, offset 0) = int8
        int8 x int8 -> MatMulInteger -> Cast -> * weight scale -> * step

    The AI core has no cast from float32 to int8, and its cast from float16 is not exact, but
    AscendQuant is. AscendQuant converts to float16 first, which has only 16 values in a step at 64
    steps, so Round comes before it. MatMulInteger has only two inputs here: zero points would
    become the bias of another operator (see custom_op/).

    The embedding is an fp16 table. ATC changes the layout of weights, so an embedding that is tied
    to the head has the numbers of the head's codes, as on a CPU, but not the same memory.
    """

    attention_type = int(TensorProto.FLOAT16)

    def __init__(self, writer: GraphWriter, w8a16: str = 'none') -> None:
        self._writer, self._w8a16 = writer, w8a16
        for name, value in (('smallest_peak', SMALLEST_PEAK), ('share', 1 / QMAX),
                            ('residual_steps', RESIDUAL_STEPS)):
            writer.constant(f'w8a8/{name}', np.array(value, np.float32))

    def apply(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        if is_w8a16(path, self._w8a16):
            return self._w8a16_product(path, x, weight)
        writer = self._writer
        steps, step = self._steps(path, x)
        whole = writer.node('Round', f'{path}/whole', [steps])
        total, scale = self._total(path, whole, weight)
        product = writer.node('Mul', f'{path}/product', [
            total, writer.constant(f'{path}/scale', scale)])
        return writer.node('Mul', path, [product, step])

    def _w8a16_product(self, path: str, x: str, weight: NDArray[np.float32]) -> str:
        """
        Return the product, from activations of nearly 16 bits.

        The rounding errors of a token are rounded to 8 bits again, and are further rows of the
        same product, because the cube unit multiplies 16 rows in the time of one. One operator
        then adds both results: their mean, with twice the scale.
        """
        writer = self._writer
        steps, step = self._steps(path, x)
        coarse = writer.node('Round', f'{path}/coarse', [steps])
        rest = writer.node('Sub', f'{path}/rest', [steps, coarse])
        scaled = writer.node('Mul', f'{path}/residual_steps', [rest, 'w8a8/residual_steps'])
        residual = writer.node('Round', f'{path}/residual', [scaled])
        whole = writer.node('Concat', f'{path}/whole', [coarse, residual], axis=1)
        total, scale = self._total(path, whole, weight)
        apart = writer.node('Reshape', f'{path}/apart', [
            total, writer.constant(f'{path}/apart/shape', np.array([2, -1, len(scale)]))])
        shares = np.array([2, 2 / RESIDUAL_STEPS], np.float32)[:, None, None] * scale
        scaled = writer.node('Mul', f'{path}/scaled', [
            apart, writer.constant(f'{path}/scale', shares)])
        product = writer.node('ReduceMean', f'{path}/product', [scaled], axes=[0], keepdims=1)
        return writer.node('Mul', path, [product, step])

    def rows(self, tokens: str, weights: DecoderWeights) -> str:
        return embedding_rows(self._writer, tokens, _half(EMBED, weights.rounded_embedding()))

    def head(self, x: str, weights: DecoderWeights) -> str:
        return self.apply(HEAD, x, weights.head())

    def _steps(self, path: str, x: str) -> tuple[str, str]:
        """Return x in steps of 1/127 of the largest magnitude of each token, and the step."""
        writer = self._writer
        magnitude = writer.node('Abs', f'{path}/abs', [x])
        largest = writer.node('ReduceMax', f'{path}/largest', [magnitude], axes=[-1], keepdims=1)
        peak = writer.node('Max', f'{path}/peak', [largest, 'w8a8/smallest_peak'])
        step = writer.node('Mul', f'{path}/step', [peak, 'w8a8/share'])
        return writer.node('Div', f'{path}/steps', [x, step]), step

    def _total(self, path: str, whole: str, weight: NDArray[np.float32]
               ) -> tuple[str, NDArray[np.float32]]:
        """Return the product of whole numbers with a weight's codes, and the codes' scale."""
        writer = self._writer
        codes = writer.node('AscendQuant', f'{path}/codes', [whole], scale=1.0, offset=0.0,
                            sqrt_mode=0, round_mode='Round', dst_type='INT8')
        quantized, scale = quantize_weight(weight)
        pieces = []
        for name, rows in _pieces(f'{path}/total', quantized):
            total = writer.node('MatMulInteger', f'{name}/int32', [
                codes, writer.weight(f'{name}/weight', rows.T)])
            pieces.append(writer.node('Cast', name, [total], to=TensorProto.FLOAT))
        return _join(writer, f'{path}/total', pieces), scale


def _pieces(path: str, weight: NDArray[Number]) -> Iterator[tuple[str, NDArray[Number]]]:
    """Yield a name and the rows of each piece of a matrix (out, in) that may be too wide."""
    if len(weight) <= WIDEST:
        yield path, weight
        return
    for start in range(0, len(weight), PIECE):
        yield f'{path}/{start}', weight[start:start + PIECE]


def _join(writer: GraphWriter, path: str, pieces: list[str]) -> str:
    return pieces[0] if len(pieces) == 1 else writer.node('Concat', path, pieces, axis=-1)


def _half(path: str, weight: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return a weight in float16; ModelError if it is too large."""
    if (largest := max(weight.max(), -weight.min())) > LARGEST_HALF:
        raise ModelError(f'the weight of {path} reaches {largest:g}, and float16 holds no more '
                         f'than {LARGEST_HALF}; build the model for the CPU instead')
    return weight.astype(np.float16)
