"""Small graphs in the Ascend dialect's form, for testing the stand-ins of acl and atc."""

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto

VOCABULARY, HIDDEN, HEADS, HEAD_DIM, LAYERS, SLOTS = 64, 32, 2, 16, 2, 8


def write_decoder(path: Path, *, chunk: int | str = 1, slots: int = SLOTS, external: bool = True,
                  **attributes: object) -> Path:
    """
    Write a graph with the contract's inputs and outputs, and numbers that a test can foretell.

    logits are an int8 product of embedding rows, plus the number of attended slots; new rows are
    the chunk's embedding rows, shaped; past_key_values only counts in through its sum.
    """
    random = np.random.default_rng(1)
    weights = {'embedding': random.normal(size=(VOCABULARY, HIDDEN)).astype(np.float16),
               'head': random.integers(-127, 128, (HIDDEN, VOCABULARY)).astype(np.int8)}
    width = chunk if isinstance(chunk, int) else 'chunk'
    mask = slots + chunk if isinstance(chunk, int) else 'mask'
    rows = [LAYERS, 2, 1, HEADS, width, HEAD_DIM]
    constants = {'hundred': np.float16(30), 'layers': np.array([LAYERS, 2, 1, HEADS, 1, 1]),
                 'split': np.array([1, 1, 1, -1, HEADS, HEAD_DIM]), 'last': np.array([-1, -2]),
                 'zero': np.float16(0)}
    nodes = [
        helper.make_node('Gather', ['embedding', 'input_ids'], ['x']),
        helper.make_node('Mul', ['x', 'hundred'], ['scaled']),
        helper.make_node('AscendQuant', ['scaled'], ['codes'], name='quant', **{
            'scale': 1.0, 'offset': 0.0, 'sqrt_mode': 0, 'round_mode': 'Round',
            'dst_type': 'INT8', **attributes}),
        helper.make_node('MatMulInteger', ['codes', 'head'], ['product'], name='head_product'),
        helper.make_node('Cast', ['product'], ['float_product'], to=TensorProto.FLOAT),
        helper.make_node('Cast', ['attention_mask'], ['mask'], to=TensorProto.FLOAT),
        helper.make_node('ReduceSum', ['mask'], ['attended'], keepdims=1),
        helper.make_node('Add', ['float_product', 'attended'], ['counted']),
        helper.make_node('ReduceMax', ['past_key_values'], ['peak'], keepdims=0),
        helper.make_node('Mul', ['peak', 'zero'], ['no_peak']),
        helper.make_node('Cast', ['no_peak'], ['no_peak_wide'], to=TensorProto.FLOAT),
        helper.make_node('Add', ['counted', 'no_peak_wide'], ['logits']),
        helper.make_node('Reshape', ['x', 'split'], ['heads']),
        helper.make_node('Transpose', ['heads'], ['by_head'], perm=[0, 1, 2, 4, 3, 5]),
        helper.make_node('Expand', ['by_head', 'layers'], ['out_key_values']),
    ]
    graph = helper.make_graph(
        nodes, 'decoder',
        [helper.make_tensor_value_info('input_ids', TensorProto.INT64, [1, width]),
         helper.make_tensor_value_info('attention_mask', TensorProto.INT64, [1, mask]),
         helper.make_tensor_value_info('position_ids', TensorProto.INT64, [1, width]),
         helper.make_tensor_value_info('past_key_values', TensorProto.FLOAT16,
                                       [LAYERS, 2, 1, HEADS, slots, HEAD_DIM])],
        [helper.make_tensor_value_info('logits', TensorProto.FLOAT, [1, width, VOCABULARY]),
         helper.make_tensor_value_info('out_key_values', TensorProto.FLOAT16, rows)],
        [numpy_helper.from_array(np.asarray(array), name)
         for name, array in {**weights, **constants}.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)], ir_version=8)
    onnx.save_model(model, path, save_as_external_data=external, location=f'{path.name}.data',
                    size_threshold=0)
    return path


def expected_logits(tokens: list[int], attended: int) -> np.ndarray:
    """Return what write_decoder's graph makes of a chunk."""
    random = np.random.default_rng(1)
    embedding = random.normal(size=(VOCABULARY, HIDDEN)).astype(np.float16)
    head = random.integers(-127, 128, (HIDDEN, VOCABULARY)).astype(np.int8)
    codes = np.clip(np.rint(embedding[tokens] * np.float16(30)), -128, 127).astype(np.int32)
    return (codes @ head.astype(np.int32))[None].astype(np.float32) + attended
