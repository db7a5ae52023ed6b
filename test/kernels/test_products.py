"""The products with a weight give the numbers of the functions that say what they mean."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
import onnxruntime as ort
import pytest
from support.kernel_sessions import open_gate, open_session


def scales(outputs: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(0.001, 0.1, outputs).astype(np.float32)


def open_linear(weight: NDArray[np.int8], library: Path | None, group: int = 16,
                op: str = 'GroupedLinear') -> ort.InferenceSession:
    """Return the product with a weight (in, out), group channels of x to a scale."""
    inputs, outputs = weight.shape
    groups = -(-inputs // group)
    codes = np.full((outputs, groups * group), 128, np.uint8)
    codes[:, :inputs] = weight.T.astype(np.int16) + 128
    return open_session(op, {'x': (TensorProto.FLOAT, [1, 'S', inputs])}, ['y'], {
        'weight': codes.reshape(outputs, groups, group),
        'scale': np.repeat(scales(outputs)[:, None], groups, axis=1)}, library,
        **{'in': inputs, 'out': outputs, 'group': group})


def open_gated_linear(weight: NDArray[np.int8], library: Path | None) -> ort.InferenceSession:
    return open_linear(weight, library, op='GatedLinear')


def open_fine_product(weight: NDArray[np.int8], library: Path | None) -> ort.InferenceSession:
    """Return the product with a weight (in, out), activations of nearly 16 bits."""
    inputs, outputs = weight.shape
    return open_session('W8A16Product', {'x': (TensorProto.FLOAT, [1, 'S', inputs])}, ['y'],
                        {'weight': weight.T, 'scale': scales(outputs)}, library)


def grouped_product(x: NDArray[np.float32], weight: NDArray[np.int8], group: int
                    ) -> NDArray[np.float64]:
    """Return what GroupedLinear means: a step of a 127th of each group's largest."""
    total = np.zeros((len(x), weight.shape[1]))
    for first in range(0, len(weight), group):
        part = x[:, first:first + group]
        peak = np.abs(part).max(axis=1, keepdims=True)
        # In float32, as it is done: a number half-way between two steps could fall to either side
        codes = np.rint(part * (np.float32(127) / np.where(peak > 0, peak, np.float32(1))))
        total += peak / 127.0 * (codes.astype(np.float64) @ weight[first:first + group])
    return total * scales(weight.shape[1])


SHAPES = [(1, 1), (3, 31), (4, 32), (6, 33), (130, 31), (64, 96), (576, 200), (257, 65), (128, 64)]
CHUNKS = (1, 2, 3, 4, 5, 8, 11, 12, 13, 16, 17, 25, 32, 33, 50, 63, 64, 70)


def some_activations(tokens: int, inputs: int) -> NDArray[np.float32]:
    """Return activations whose tokens have steps of their own, and one of five is zero."""
    x = np.random.default_rng(0).standard_normal((1, tokens, inputs)).astype(np.float32)
    x[0, tokens // 2] *= 1e4
    x[0, tokens // 3, 0] = 1e3
    x[0, -1] *= tokens != 5
    return x


@pytest.mark.parametrize('group', [16, 64, 128])
@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_product_is_what_it_means(library, shape, group):
    weight = np.random.default_rng(0).integers(-127, 128, shape, dtype=np.int8)
    session = open_linear(weight, library, group)
    for tokens in CHUNKS:
        x = some_activations(tokens, shape[0])
        [found] = session.run(None, {'x': x})
        expected = grouped_product(x[0], weight, group)
        largest = np.abs(expected).max(axis=1, keepdims=True)
        assert (np.abs(found[0] - expected) <= 2e-6 * largest).all()


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_product_is_nearly_the_functions(library, shape):
    weight = np.random.default_rng(0).integers(-127, 128, shape, dtype=np.int8)
    ours, theirs = open_linear(weight, library), open_linear(weight, None)
    for tokens in CHUNKS:
        x = some_activations(tokens, shape[0])
        [found], [expected] = (each.run(None, {'x': x}) for each in (ours, theirs))
        exact = x[0].astype(np.float64) @ weight * scales(shape[1])
        # A number half-way between two steps may fall to the other side
        difference, rounding = (np.square(each - expected).mean() for each in (found, exact))
        assert difference <= 1e-3 * rounding + 1e-12 * np.square(exact).mean()


@pytest.mark.parametrize('shape', SHAPES, ids=str)
def test_fine_product_is_the_functions_to_the_bit(library, shape):
    weight = np.random.default_rng(0).integers(-127, 128, shape, dtype=np.int8)
    ours, theirs = open_fine_product(weight, library), open_fine_product(weight, None)
    for tokens in CHUNKS:
        x = some_activations(tokens, shape[0])
        [found], [expected] = (each.run(None, {'x': x}) for each in (ours, theirs))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize('width', [1, 15, 16, 17, 33, 100])
def test_gated_product_is_product_and_gate(library, width):
    weight = np.random.default_rng(0).integers(-127, 128, (130, 2 * width), dtype=np.int8)
    gated, product, function = (open_gated_linear(weight, library), open_linear(weight, library),
                                open_gated_linear(weight, None))
    gate = open_gate(width, library)
    for tokens in CHUNKS:
        x = some_activations(tokens, 130) / np.float32(100)
        [found], [both] = (each.run(None, {'x': x}) for each in (gated, product))
        np.testing.assert_array_equal(found, gate.run(None, {'both': both})[0])
        [nearly] = function.run(None, {'x': x})  # which rounds ties, and gates, otherwise
        np.testing.assert_allclose(nearly, found, rtol=0, atol=1e-4 + 1e-2 * np.abs(found).max())


@pytest.mark.parametrize('open_product', [open_linear, open_gated_linear, open_fine_product])
@pytest.mark.parametrize('shape', [(576, 200), (130, 62)], ids=str)
def test_product_of_a_token_does_not_depend_on_its_chunk(library, open_product, shape):
    weight = np.random.default_rng(0).integers(-127, 128, shape, dtype=np.int8)
    session = open_product(weight, library)
    x = some_activations(70, shape[0])
    [expected] = session.run(None, {'x': x})
    for length in CHUNKS:
        found = [session.run(None, {'x': x[:, first:first + length]})[0]
                 for first in range(0, 70, length)]
        np.testing.assert_array_equal(np.concatenate(found, axis=1), expected)


@pytest.mark.parametrize('open_product', [open_linear, open_fine_product])
def test_extreme_codes_do_not_saturate(library, open_product):
    weight = np.full((4096, 32), 127, np.int8)
    weight[:, 1] = -127
    x = np.stack([np.ones(4096, np.float32), -np.ones(4096, np.float32)])[None]
    [found] = open_product(weight, library).run(None, {'x': x})
    shares = found[0] / (x[0] @ weight * scales(32))  # a scale of W8A16Product is a 127th
    np.testing.assert_allclose(shares, shares[0, 0], rtol=1e-5)
    assert round(shares[0, 0]) in (1, 127)


def test_weights_stay_while_those_beside_them_in_memory_come_and_go(library):
    def open_one(outputs):
        weight = np.random.default_rng(outputs).integers(-127, 128, (64, outputs), dtype=np.int8)
        return open_linear(weight, library)
    x = some_activations(3, 64)
    sessions = [open_one(outputs) for outputs in (33, 3000, 90_000, 70)]
    expected = [session.run(None, {'x': x})[0] for session in sessions]
    sessions[1] = sessions[2] = None
    others = [open_one(outputs) for outputs in (5000, 200, 90_000)]
    for index in (0, 3):
        np.testing.assert_array_equal(sessions[index].run(None, {'x': x})[0], expected[index])
    np.testing.assert_array_equal(others[2].run(None, {'x': x})[0], expected[2])


def test_weights_that_do_not_fit_one_block_do_not_disturb_each_other(installed):
    weight = np.random.default_rng(0).integers(-127, 128, (4096, 20_000), dtype=np.int8)  # 82 MB
    x = some_activations(2, 4096)
    first, second = open_linear(weight, installed, 128), open_linear(weight, installed, 128)
    [expected] = first.run(None, {'x': x})
    np.testing.assert_array_equal(second.run(None, {'x': x})[0], expected)
    del first
    other = open_linear(-weight, installed, 128)
    np.testing.assert_array_equal(second.run(None, {'x': x})[0], expected)
    np.testing.assert_array_equal(other.run(None, {'x': x})[0], -expected)
