"""Our kernels give the numbers of the functions that say what they mean."""

import os
from pathlib import Path
import shutil
import subprocess
import sys

import numpy as np
from numpy.typing import NDArray
from onnx import helper, numpy_helper, parser, TensorProto
import onnxruntime as ort
import pytest
from support.paths import ROOT
from support.tiny_models import tiny

from tinyllama_ros import kernels
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.graphs.cpu_functions import cpu_functions, OPSETS, OURS
from tinyllama_ros.workbench.graphs.decoder_weights import DecoderWeights
from tinyllama_ros.workbench.options import BuildOptions
from tinyllama_ros.workbench.quantization.quantize import quantize_weight
from tinyllama_ros.workbench.quantization.smooth import SmoothedCheckpoint

SOURCES = ROOT / 'tinyllama_ros' / 'kernels'
EMULATION = ROOT / 'test' / 'amx'
THREADS = 2

needs_compiler = pytest.mark.skipif(not shutil.which('g++'), reason='needs g++')


def has_flags(*flags: str) -> bool:
    """Return whether this processor has all of these."""
    return set(flags) <= set(Path('/proc/cpuinfo').read_text().split())


def compile_variant(tmp_path_factory, *variant: str) -> Path:
    """Return a library that takes this processor for another one, and warns of nothing."""
    if not has_flags('avx512_vnni', 'avx512vl', 'avx512dq', 'avx512bw'):
        pytest.skip('this processor lacks AVX-512 VNNI')
    if not shutil.which('g++'):
        pytest.skip('needs g++')
    path = tmp_path_factory.mktemp('variant') / 'library.so.1'
    chosen = [f'-DTINYLLAMA_ROS_TEST_{each}' for each in variant]
    subprocess.run(['g++', '-std=c++17', '-O1', '-ffp-contract=off', '-Wall', '-Wextra', '-Werror',
                    '-Wno-maybe-uninitialized',  # of the compiler's own headers
                    '-fPIC', '-shared', *chosen, f'-I{EMULATION}',
                    *SOURCES.glob('*.cc'), '-o', path], check=True)
    return path


@pytest.fixture(scope='module')
def avx2(tmp_path_factory):
    """Return a library with the AVX2 kernels, in an encoding that runs here."""
    encoding = () if has_flags('avx_vnni') else ('EVEX',)
    path = compile_variant(tmp_path_factory, 'AVX2', *encoding)
    assert kernels._instructions(path) == 'AVX2 VNNI'
    return path


@pytest.fixture(scope='module')
def amx(tmp_path_factory):
    """Return a library with the AMX kernels, on an emulation."""
    path = compile_variant(tmp_path_factory, 'AMX')
    assert kernels._instructions(path) == 'AMX'
    return path


@pytest.fixture(scope='module')
def native():
    """Return the library that was installed."""
    library = kernels.find_library()
    if not library or not library.instructions:
        pytest.skip('no kernel of ours runs on this processor, or nothing compiled them')
    return library.path


@pytest.fixture(params=['native', 'avx2', 'amx'])
def library(request):
    return request.getfixturevalue(request.param)


def open_session(op: str, inputs: dict[str, tuple[int, list]], outputs: list[str],
                 weights: dict[str, NDArray], library: Path | None, **attributes: float
                 ) -> ort.InferenceSession:
    """Return one operator of ours, run by a library, or as the function that it is."""
    graph = helper.make_graph(
        [helper.make_node(op, [*inputs, *weights], outputs, domain=OURS, **attributes)], op,
        [helper.make_tensor_value_info(name, kind, shape)
         for name, (kind, shape) in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in weights.items()])
    model = helper.make_model(graph, ir_version=8, functions=cpu_functions(), opset_imports=[
        helper.make_opsetid(domain, version) for domain, version in OPSETS.items()])
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    options.log_severity_level = 4
    options.add_session_config_entry('session.x64quantprecision', '1')
    if library:
        options.register_custom_ops_library(str(library))
    return ort.InferenceSession(model.SerializeToString(), options)


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


def test_weights_that_do_not_fit_one_block_do_not_disturb_each_other(native):
    weight = np.random.default_rng(0).integers(-127, 128, (4096, 20_000), dtype=np.int8)  # 82 MB
    x = some_activations(2, 4096)
    first, second = open_linear(weight, native, 128), open_linear(weight, native, 128)
    [expected] = first.run(None, {'x': x})
    np.testing.assert_array_equal(second.run(None, {'x': x})[0], expected)
    del first
    other = open_linear(-weight, native, 128)
    np.testing.assert_array_equal(second.run(None, {'x': x})[0], expected)
    np.testing.assert_array_equal(other.run(None, {'x': x})[0], -expected)


def test_rows_of_an_embedding_are_those_of_an_npu_to_the_bit():
    checkpoint = tiny(tied_embeddings=True)
    factors = np.geomspace(0.1, 10, checkpoint.architecture.hidden, dtype=np.float32)
    weights = DecoderWeights(SmoothedCheckpoint(checkpoint, {'logits': factors}))
    codes, scale = quantize_weight(weights.head())
    session = open_session('Embedding', {'tokens': (TensorProto.INT64, [1, 'S'])}, ['rows'], {
        'weight': codes, 'scale': scale / np.float32(127),
        'gain': 127 * weights.tied_gain()}, None)
    tokens = np.arange(len(codes))
    [rows] = session.run(None, {'tokens': tokens[None]})
    np.testing.assert_array_equal(rows[0], weights.rounded_embedding().astype(np.float16))


@pytest.mark.parametrize('name', ['Linear', 'FineLinear'])
def test_operator_of_an_older_graph_runs_as_the_function_beside_it(library, name):
    older = parser.parse_model(f"""
        <ir_version: 8, opset_import: ["": 17, "tinyllama_ros": 1]>
        older (float[1, S, 4] x) => (float[1, S, 2] y)
            <int8[4, 2] weight = {{1, 2, 3, 4, 5, 6, 7, 8}}, float[2] scale = {{0.5, 2}}>
        {{ y = tinyllama_ros.{name} (x, weight, scale) }}
        <domain: "tinyllama_ros", opset_import: ["": 17]>
        {name} (x, weight, scale) => (y)
        {{ w = Cast <to = 1> (weight)  product = MatMul (x, w)  y = Mul (product, scale) }}""")
    options = ort.SessionOptions()
    options.register_custom_ops_library(str(library))
    session = ort.InferenceSession(older.SerializeToString(), options)
    [found] = session.run(None, {'x': np.ones((1, 3, 4), np.float32)})
    np.testing.assert_array_equal(found, np.full((1, 3, 2), (8, 40), np.float32))


class Layer:
    """One layer's attention, its cache bound in place, at first full of large numbers."""

    def __init__(self, library: Path | None, heads: int, kv_heads: int, head_dim: int,
                 slots: int = 70) -> None:
        kind = TensorProto.FLOAT
        cache = [1, kv_heads, slots, head_dim]
        half = [slots, head_dim // 2]
        self._width = (heads + 2 * kv_heads) * head_dim
        self._shape = heads * head_dim
        self._session = open_session('Attention', {
            'qkv': (kind, [1, 'S', self._width]), 'past_key': (kind, cache),
            'past_value': (kind, cache), 'last_slot': (TensorProto.INT32, [1]),
            'fill_after': (TensorProto.INT32, []), 'cos': (kind, half), 'sin': (kind, half)},
            ['attended', 'key', 'value'], {}, library, num_heads=heads, kv_num_heads=kv_heads)
        random = np.random.default_rng(0)
        self.cache = {name: (1e6 * random.standard_normal(cache)).astype(np.float32)
                      for name in ('key', 'value')}
        angles = np.outer(np.arange(slots), np.geomspace(1, 0.01, head_dim // 2))
        self._tables = {'cos': np.cos(angles).astype(np.float32),
                        'sin': np.sin(angles).astype(np.float32)}

    def run(self, qkv: NDArray[np.float32], start: int, *, last: int | None = None,
            is_in_place: bool = True) -> NDArray[np.float32]:
        """Append a chunk (S, width) and return what it attends to (S, heads * head_dim)."""
        end = start + len(qkv)
        present = {name: rows if is_in_place else rows.copy() for name, rows in self.cache.items()}
        attended = np.full((1, len(qkv), self._shape), np.nan, np.float32)
        feeds = {'qkv': qkv[None], 'last_slot': np.array([end - 1 if last is None else last],
                                                         np.int32),
                 'fill_after': np.array(end, np.int32), **self._tables,
                 **{f'past_{name}': rows for name, rows in self.cache.items()}}
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
        for name, array in {'attended': attended, **present}.items():
            binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
        self._session.run_with_iobinding(binding)
        return attended[0]

    def qkv(self, tokens: int, sharpness: float = 2) -> NDArray[np.float32]:
        """Return random queries, keys and values; large ones attend to few slots."""
        random = np.random.default_rng(0)
        return np.float32(sharpness) * random.standard_normal((tokens, self._width), np.float32)


HEADS = {'nine share three of 64': (9, 3, 64), 'eight share one of 16': (8, 1, 16),
         'four of four of 32': (4, 4, 32), 'six share two of 48': (6, 2, 48),
         'five share one of 80': (5, 1, 80), 'two share one of 128': (2, 1, 128)}


@pytest.mark.parametrize('sharpness', [0.1, 2, 5])
@pytest.mark.parametrize('heads', HEADS)
def test_attention_is_the_functions(library, heads, sharpness):
    ours, theirs = Layer(library, *HEADS[heads]), Layer(None, *HEADS[heads])
    qkv = ours.qkv(70, sharpness)
    start = 0
    for length in (1, 5, 16, 1, 1, 30, 2, 14):
        chunk = qkv[start:start + length]
        found, expected = ours.run(chunk, start), theirs.run(chunk, start)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5 * max(1, sharpness**2))
        start += length
        for name in ('key', 'value'):
            np.testing.assert_allclose(ours.cache[name][:, :, :start],
                                       theirs.cache[name][:, :, :start], rtol=0, atol=1e-5)
            np.testing.assert_array_equal(ours.cache[name][:, :, start:],
                                          theirs.cache[name][:, :, start:])
    assert start == 70


@pytest.mark.parametrize('lengths', [[1] * 70, [64, 6], [7, 1, 1, 8, 3, 50], [69, 1]], ids=str)
@pytest.mark.parametrize('heads', HEADS)
def test_attention_of_a_token_does_not_depend_on_its_chunk(library, heads, lengths):
    whole, parts = Layer(library, *HEADS[heads]), Layer(library, *HEADS[heads])
    qkv = whole.qkv(70)
    expected = whole.run(qkv, 0)
    ends = np.cumsum(lengths)
    found = [parts.run(qkv[end - length:end], end - length)
             for length, end in zip(lengths, ends, strict=True)]
    np.testing.assert_array_equal(np.concatenate(found), expected)


@pytest.mark.parametrize('slots', [63, 64, 65, 128])
@pytest.mark.parametrize('heads', ['nine share three of 64', 'eight share one of 16'])
def test_attention_at_the_borders_of_blocks_up_to_the_last_slot(library, heads, slots):
    # Keys are transposed in blocks of 64 or 32 slots; 48 queries are a task: 16 tokens of 3 each
    layers = [Layer(each, *HEADS[heads], slots) for each in (library, library, None)]
    qkv = layers[0].qkv(slots)
    found, whole, expected = [], layers[1].run(qkv, 0), layers[2].run(qkv, 0)
    lengths = [15, 16, 1, 17, 5, 6, 2, 1] + [1] * slots
    for end, length in zip(np.cumsum(lengths), lengths, strict=True):
        if end <= slots:
            found.append(layers[0].run(qkv[end - length:end], end - length))
    np.testing.assert_array_equal(np.concatenate(found), whole)
    np.testing.assert_allclose(whole, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize('change', [{'last': 70}, {'last': -1}, {'is_in_place': False}], ids=str)
def test_attention_refuses_what_would_write_elsewhere(library, change):
    layer = Layer(library, 2, 1, 16)
    before = {name: rows.copy() for name, rows in layer.cache.items()}
    with pytest.raises(Exception, match='fit the cache|bound to the same memory'):
        layer.run(layer.qkv(3), 4, **change)
    for name, rows in layer.cache.items():
        np.testing.assert_array_equal(rows, before[name])


def open_gate(width: int, library: Path | None) -> ort.InferenceSession:
    return open_session('Gate', {'both': (TensorProto.FLOAT, [1, 'S', 2 * width])}, ['gated'], {},
                        library)


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


def test_weight_that_is_no_constant_is_refused(library):
    kind = TensorProto.FLOAT
    with pytest.raises(Exception, match='no constant of the graph'):
        open_session('W8A16Product', {'x': (kind, [1, 4]), 'weight': (TensorProto.INT8, [4, 4]),
                                     'scale': (kind, [4])}, ['y'], {}, library)


@pytest.mark.parametrize(('op', 'weight', 'scale', 'message'), [
    ('GatedLinear', (7, 4, 16), (7, 4), 'gate and up are not as wide'),
    ('GatedLinear', (8, 5, 16), (8, 5), 'do not fit its input channels'),
    ('GroupedLinear', (8, 4, 16), (8, 3), r'is not \(out, groups, group\)'),
    ('GroupedLinear', (8, 64), (8,), r'is not \(out, groups, group\)'),
    ('GroupedLinear', (8, 3, 16), (8, 3), 'do not fit its input channels'),
    ('GroupedLinear', (8, 5, 16), (8, 5), 'do not fit its input channels')], ids=str)
def test_weight_of_another_shape_is_refused(library, op, weight, scale, message):
    with pytest.raises(Exception, match=message):
        open_session(op, {'x': (TensorProto.FLOAT, [1, 64])}, ['y'],
                     {'weight': np.zeros(weight, np.uint8), 'scale': np.ones(scale, np.float32)},
                     library, **{'in': 64, 'out': 8, 'group': 16})


@pytest.mark.parametrize('op', ['GroupedLinear', 'GatedLinear'])
def test_weight_whose_groups_have_several_scales_is_refused(library, op):
    scale = np.ones((8, 4), np.float32)
    scale[7, 3] = 2
    with pytest.raises(Exception, match='the groups of an output channel have several scales'):
        open_session(op, {'x': (TensorProto.FLOAT, [1, 64])}, ['y'],
                     {'weight': np.zeros((8, 4, 16), np.uint8), 'scale': scale},
                     library, **{'in': 64, 'out': 8, 'group': 16})


@pytest.fixture(scope='module')
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp('artifact') / 'tiny'
    build(tiny(), folder, BuildOptions(name='tiny', quantization='w8a8', kv_length=64))
    return Artifact.open(folder)


TOKENS = np.arange(20)


@pytest.mark.parametrize('content', [None, b'', b'not a library'], ids=str)
def test_without_a_library_the_functions_run(artifact, monkeypatch, tmp_path, content):
    path = tmp_path / 'library.so.1'
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(kernels, 'PATH', path)
    library = kernels.find_library()
    assert library is None if content is None else library.instructions == ''
    expected = OnnxBackend(artifact, own_kernels=False).forward(TOKENS, 0)
    np.testing.assert_array_equal(OnnxBackend(artifact).forward(TOKENS, 0), expected)


def test_library_runs_where_there_is_one(artifact, native):
    ours, theirs = (OnnxBackend(artifact, own_kernels=own) for own in (True, False))
    found = ours.forward(TOKENS, 0).copy()
    assert (found != theirs.forward(TOKENS, 0)).any()  # by a last bit of attention
    one_by_one = [ours.forward(TOKENS[slot:slot + 1], slot).copy() for slot in range(20)]
    np.testing.assert_array_equal(one_by_one[-1], found)


@needs_compiler
def test_installing_compiles_them():
    assert kernels.find_library(), 'pip install compiled nothing; see pip install -v -e .'


def test_installing_without_a_compiler_does_without(tmp_path):
    for name in ('setup.py', 'package.xml', 'setup.cfg'):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(SOURCES, tmp_path / 'tinyllama_ros' / 'kernels',
                    ignore=shutil.ignore_patterns('*.so.1'))
    done = subprocess.run([sys.executable, 'setup.py', '-q', 'build_ext', '--inplace'],
                          cwd=tmp_path, env={**os.environ, 'CC': 'false', 'CXX': 'false'},
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'failed' in done.stderr
    assert not list(tmp_path.rglob('*.so.1'))
