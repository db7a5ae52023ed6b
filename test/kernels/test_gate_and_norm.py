"""Gate and norm give the numbers of the functions that say what they mean."""

import numpy as np
from onnx import TensorProto
import pytest
from support.kernel_sessions import open_gate, open_session


@pytest.mark.parametrize('width', [1, 15, 16, 33, 200])
def test_gate_is_the_functions(library, width):
    ours, theirs = open_gate(width, library), open_gate(width, None)
    both = 4 * np.random.default_rng(0).standard_normal((1, 5, 2 * width)).astype(np.float32)
    both[0, 0, :4] = (100, -100, 0, -87.5)[:2 * width]
    [found], [expected] = (each.run(None, {'both': both}) for each in (ours, theirs))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    gate, up = np.split(both.astype(np.float64), 2, axis=-1)  # theirs is coarse for large ones
    np.testing.assert_allclose(found, gate / (1 + np.exp(-gate)) * up, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize('width', [1, 15, 16, 33, 576])
def test_norm_is_the_functions(library, width):
    random = np.random.default_rng(0)
    weight = random.standard_normal(width).astype(np.float32)
    kind = TensorProto.FLOAT
    shape = [1, 'S', width]
    ours, theirs = (open_session('Norm', {'block': (kind, shape), 'residual': (kind, shape)},
                                 ['normed', 'sum'], {'weight': weight}, each, epsilon=1e-5)
                    for each in (library, None))
    for tokens in (1, 8, 9, 64):
        feeds = {name: random.standard_normal((1, tokens, width)).astype(np.float32)
                 for name in ('block', 'residual')}
        feeds['block'][0, -1] = -feeds['residual'][0, -1]  # a token of zeros
        found, expected = ours.run(None, feeds), theirs.run(None, feeds)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found[1], expected[1])
