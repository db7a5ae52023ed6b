"""A product in the Ascend dialect is, to a float's last places, the one of the CPU dialect."""

import numpy as np
import onnx
from onnx import helper, TensorProto
import onnxruntime as ort
import pytest
from support.ascend_reference import open_session

from tinyllama_ros.artifact.contract import TensorSpec
from tinyllama_ros.artifact.manifest import GRAPH
from tinyllama_ros.workbench.graphs.ascend_linear import (
    AscendFloatLinear,
    AscendHalfLinear,
    AscendInt8Linear,
)
from tinyllama_ros.workbench.graphs.cpu_functions import cpu_functions, OPSETS
from tinyllama_ros.workbench.graphs.graph_writer import graph_in
from tinyllama_ros.workbench.graphs.linear import FloatLinear, Int8Linear

PAIRS = {'fp32': (AscendFloatLinear, FloatLinear, 1e-6), 'fp16': (AscendHalfLinear, FloatLinear,
                                                                  1e-3),
         'w8a8': (AscendInt8Linear, Int8Linear, 1e-6)}


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


W8A16 = {'w8a8': 'none', 'w8a16': 'all'}


class Head:
    """The weights of a decoder of which only the head is read."""

    is_tied = False

    def __init__(self, weight):
        self._weight = weight

    def head(self):
        return self._weight


def float_tensor(*shape):
    return TensorSpec((np.float32,), {str(axis): size for axis, size in enumerate(shape)})


def written(folder, linear, method, weight, shape, opsets, functions=()):
    """Write one product as a graph of its own and return its path."""
    folder.mkdir()
    with graph_in(folder, opsets, functions) as writer:
        writer.inputs({'x': float_tensor(*shape, weight.shape[1])})
        if method == 'head':
            product = linear(writer).head('x', Head(weight))
        else:
            product = linear(writer, W8A16[method]).apply('y', 'x', weight)
        writer.outputs({product: float_tensor(*shape, weight.shape[0])})
    return folder / GRAPH


@pytest.mark.parametrize('method', ['w8a8', 'w8a16', 'head'])
@pytest.mark.parametrize('name', PAIRS)
def test_product_is_the_cpus(tmp_path, name, method):
    ascend, cpu, tolerance = PAIRS[name]
    weight, x = random(48, 80), random(5, 80, seed=1)
    x[1] *= 1000  # each token has a step of its own
    x[2, 3] = 500
    x[3] = 0
    options = ort.SessionOptions()
    options.add_session_config_entry('session.x64quantprecision', '1')
    [expected] = ort.InferenceSession(
        written(tmp_path / 'cpu', cpu, method, weight, (5,), OPSETS, cpu_functions()),
        options).run(None, {'x': x})
    [found] = open_session(written(tmp_path / 'ascend', ascend, method, weight, (1, 5),
                                   {'': 13})).run(None, {'x': x[None]})
    largest = np.abs(expected).max(axis=1, keepdims=True)
    np.testing.assert_allclose(found[0] / np.maximum(largest, 1), expected / np.maximum(
        largest, 1), rtol=0, atol=tolerance)


def test_fine_product_is_finer(tmp_path):
    weight, x = random(48, 80), random(1, 5, 80, seed=1)
    exact = x @ weight.T
    errors = [np.abs(open_session(written(tmp_path / method, AscendInt8Linear, method, weight,
                                          (1, 5), {'': 13})).run(None, {'x': x})[0] - exact).mean()
              for method in ('w8a8', 'w8a16')]
    assert errors[1] < 0.8 * errors[0]  # what is left is the weights' rounding


@pytest.mark.parametrize('method', ['w8a8', 'w8a16'])
def test_token_of_zeros_is_divided_by_no_zero(tmp_path, method):
    # What a chip makes int8 of something that is no number is nowhere written
    path = written(tmp_path / 'ascend', AscendInt8Linear, method, random(4, 8), (1, 2), {'': 13})
    model = onnx.load(path)
    model.graph.output.append(helper.make_tensor_value_info('y/steps', TensorProto.FLOAT, None))
    onnx.save(model, path)
    found, steps = open_session(path).run(None, {'x': np.zeros((1, 2, 8), np.float32)})
    assert not found.any() and not steps.any()


@pytest.mark.parametrize('x', [2.5, 3.5, -2.5, 126.5], ids=str)
def test_half_a_step_is_rounded_to_even(tmp_path, x):
    weight = np.eye(4, dtype=np.float32)
    session = open_session(written(tmp_path / 'ascend', AscendInt8Linear, 'w8a8', weight, (1, 1),
                                   {'': 13}))
    [found] = session.run(None, {'x': np.array([[[127, x, 0, 0]]], np.float32)})
    assert found[0, 0, 1] == np.rint(x)
