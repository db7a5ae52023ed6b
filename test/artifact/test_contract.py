"""The contract of either dialect is the one that existing graphs and other tools keep."""

import numpy as np
import onnx
from onnx import helper
import pytest
from support.tiny_models import tiny

from tinyllama_ros.artifact.architecture import Architecture
from tinyllama_ros.artifact.contract import (
    ascend_inputs,
    ascend_outputs,
    CHUNK,
    cpu_inputs,
    cpu_outputs,
    past_of,
)
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.options import BuildOptions

TINYLLAMA = Architecture(
    layers=22, hidden=2048, ffn=5632, heads=32, kv_heads=4, head_dim=64, vocab_size=32000,
    context_length=2048, rope_base=10000.0, norm_eps=1e-5, tied_embeddings=False)


def listed(tensors):
    return [(name, tensor.dtype, tensor.shape) for name, tensor in tensors.items()]


def test_ascend_dialect_is_that_of_existing_om_files():
    assert listed(ascend_inputs(TINYLLAMA, 1024, 1)) == [
        ('input_ids', np.int64, (1, 1)), ('attention_mask', np.int64, (1, 1025)),
        ('position_ids', np.int64, (1, 1)),
        ('past_key_values', np.float16, (22, 2, 1, 4, 1024, 64))]
    assert listed(ascend_outputs(TINYLLAMA, 16)) == [
        ('logits', np.float32, (1, 16, 32000)),
        ('out_key_values', np.float16, (22, 2, 1, 4, 16, 64))]
    assert ascend_outputs(TINYLLAMA, 1)['logits'].dtypes == (np.float32, np.float16)


def test_length_of_a_chunk_may_be_open():
    assert [tensor.shape for tensor in ascend_inputs(TINYLLAMA, 8, CHUNK).values()] == [
        (1, 'S'), (1, '8+S'), (1, 'S'), (22, 2, 1, 4, 8, 64)]


def test_cpu_dialect_appends_to_each_part_of_the_cache_in_place():
    inputs, outputs = cpu_inputs(TINYLLAMA, 1024), cpu_outputs(TINYLLAMA, 1024)
    cache = [name for name in outputs if name != 'logits']
    assert cache[:3] == ['key.0', 'value.0', 'key.1'] and len(cache) == 44
    assert all(inputs[past_of(name)] == outputs[name] for name in cache)
    assert listed(inputs)[:5] == [
        ('input_ids', np.int64, (1, 'S')), ('last_slot', np.int32, (1,)),
        ('fill_after', np.int32, ()), ('logit_rows', np.int64, ('R',)),
        ('past_key.0', np.float32, (1, 4, 1024, 64))]
    assert listed(outputs)[-1] == ('logits', np.float32, ('R', 32000))


@pytest.mark.parametrize('quantization', ['fp32', 'w8a8'])
@pytest.mark.parametrize('target', ['cpu', 'ascend'])
def test_graph_has_the_inputs_and_outputs_of_its_contract(tmp_path, target, quantization):
    build(tiny(), tmp_path / 'tiny', BuildOptions('tiny', quantization, target, 64))
    arch, graph = tiny().architecture, onnx.load(tmp_path / 'tiny' / 'decoder.onnx').graph
    contract = ((cpu_inputs(arch, 64), cpu_outputs(arch, 64)) if target == 'cpu' else
                (ascend_inputs(arch, 64, 1), ascend_outputs(arch, 1)))
    for values, tensors in zip((graph.input, graph.output), contract, strict=True):
        assert [_described(value) for value in values] == listed(tensors)


def _described(value):
    kind = value.type.tensor_type
    return (value.name, helper.tensor_dtype_to_np_dtype(kind.elem_type).type, tuple(
        dim.dim_param or dim.dim_value for dim in kind.shape.dim))
