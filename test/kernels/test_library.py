"""The library is compiled, found, and run in place of the functions of a graph."""

import os
import shutil
import subprocess
import sys

import numpy as np
from onnx import parser, TensorProto
import onnxruntime as ort
import pytest
from support.kernel_sessions import open_session, SOURCES
from support.paths import ROOT
from support.tiny_models import tiny

from tinyllama_ros import kernels
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.graphs.decoder_weights import DecoderWeights
from tinyllama_ros.workbench.options import BuildOptions
from tinyllama_ros.workbench.quantization.quantize import quantize_weight
from tinyllama_ros.workbench.quantization.smooth import SmoothedCheckpoint

needs_compiler = pytest.mark.skipif(not shutil.which('g++'), reason='needs g++')


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


def test_operator_under_its_former_name_is_run_by_the_kernel(library):
    weight = np.random.default_rng(0).integers(-127, 128, (33, 64), dtype=np.int8)
    scale = np.linspace(0.001, 0.01, 33, dtype=np.float32)
    x = np.random.default_rng(1).standard_normal((1, 3, 64), np.float32)
    named = {'weight': weight, 'scale': scale}
    [expected] = open_session('W8A16Product', {'x': (TensorProto.FLOAT, None)}, ['y'], named,
                              library).run(None, {'x': x})
    # Graphs of earlier versions have the function beside it; here is none that could run instead
    former = open_session('FineProduct', {'x': (TensorProto.FLOAT, None)}, ['y'], named, library)
    np.testing.assert_array_equal(former.run(None, {'x': x})[0], expected)
    with pytest.raises(Exception, match='FineProduct'):
        open_session('FineProduct', {'x': (TensorProto.FLOAT, None)}, ['y'], named, None)


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


@pytest.fixture(scope='module')
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp('artifact') / 'tiny'
    build(tiny(), folder, BuildOptions('tiny', quantization='w8a8', kv_length=64))
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


def test_library_runs_where_there_is_one(artifact, installed):
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
