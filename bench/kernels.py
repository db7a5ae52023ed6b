"""
How fast ONNX Runtime's kernels read weights and attend here: the floor below the graph.

Products are of the shapes of TinyLlama-1.1B, with so many copies of the weights that no cache
holds them; GB/s counts each weight once. Attention is one GroupQueryAttention of that model, in
the tiled (flash) form and in the plain one that the backend asks for.

    .venv/bin/python bench/kernels.py [--threads 2]
"""

import argparse
from collections.abc import Callable
import os
from statistics import median
import sys
import time

import numpy as np
from onnx import helper, numpy_helper, TensorProto
import onnxruntime as ort

from tinyllama_ros.engine.onnx import physical_cores
from tinyllama_ros.model.graph_writer import MICROSOFT

WEIGHTS = 200e6
"""Bytes of all copies of a weight together."""
RUNS = 10
SHAPES = {'gate, up': (2048, 11264), 'down': (5632, 2048)}
CHUNKS = (1, 2, 16, 64)
HEADS, KV_HEADS, HEAD_DIM, SLOTS = 32, 4, 64, 1024
FILLS = (0, 200, 500, 950)
BLOCK = 128
"""Weights that share a scale in MatMulNBits."""

Node = Callable[[int, int, int], tuple[helper.NodeProto, list[TensorProto]]]


def seconds(action: Callable[[], object]) -> float:
    """Return the median time of an action, after one run to warm up."""
    times_s = []
    for _ in range(RUNS + 1):
        began_s = time.perf_counter()
        action()
        times_s.append(time.perf_counter() - began_s)
    return median(times_s[1:])


def session(nodes: list[helper.NodeProto], inputs: list[helper.ValueInfoProto],
            outputs: list[str], weights: list[TensorProto], threads: int) -> ort.InferenceSession:
    """Return a graph of nodes, ready to run."""
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, 'kernels', inputs, results, weights)
    model = helper.make_model(graph, ir_version=8, opset_imports=[
        helper.make_opsetid('', 17), helper.make_opsetid(MICROSOFT, 1)])
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(model.SerializeToString(), options)


def w8a8(number: int, rows: int, columns: int) -> tuple[helper.NodeProto, list[TensorProto]]:
    """Return the product that the CPU dialect uses, with its weight (rows, columns)."""
    random = np.random.default_rng(number)
    weights = {'weight': random.integers(-127, 128, (rows, columns), dtype=np.int8),
               'one': np.array(1, np.float32), 'scale': np.ones(columns, np.float32),
               'zero_point': np.array(128, np.uint8)}
    return product('MatMulIntegerToFloat', number, weights)


def eight_bit_blocks(number: int, rows: int, columns: int
                     ) -> tuple[helper.NodeProto, list[TensorProto]]:
    """Return the product with 8-bit weights in blocks, as other runtimes of language models do."""
    random = np.random.default_rng(number)
    blocks = rows // BLOCK
    weights = {'weight': random.integers(0, 256, (columns, blocks, BLOCK), dtype=np.uint8),
               'scale': np.full(columns * blocks, 0.01, np.float32)}
    return product('MatMulNBits', number, weights, K=rows, N=columns, bits=8, block_size=BLOCK,
                   accuracy_level=4)


def product(operator: str, number: int, weights: dict[str, np.ndarray], **attributes: int
            ) -> tuple[helper.NodeProto, list[TensorProto]]:
    """Return a node called by its number, and what it multiplies by."""
    node = helper.make_node(operator, ['x', *(f'{name}.{number}' for name in weights)],
                            [f'y.{number}'], domain=MICROSOFT, **attributes)
    return node, [numpy_helper.from_array(value, f'{name}.{number}')
                  for name, value in weights.items()]


def print_products(kernels: dict[str, tuple[Node, type]], threads: int) -> None:
    """Print the speed of each kind of product at each length of a chunk."""
    print(f'{"product":40}' + ''.join(f'{f"{chunk} row(s)":>22}' for chunk in CHUNKS))
    for name, (make, dtype) in kernels.items():
        for shape_name, (rows, columns) in SHAPES.items():
            copies = max(1, int(WEIGHTS / (rows * columns)))
            made = [make(number, rows, columns) for number in range(copies)]
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            runner = session([node for node, _ in made],
                             [helper.make_tensor_value_info('x', kind, ('S', rows))],
                             [f'y.{number}' for number in range(copies)],
                             [weight for _, weights in made for weight in weights], threads)
            found = []
            for chunk in CHUNKS:
                x = np.random.default_rng(0).uniform(0, 255, (chunk, rows)).astype(dtype)
                taken_s = seconds(lambda: runner.run(None, {'x': x}))  # noqa: B023
                size = copies * rows * columns
                found.append(f'{size / taken_s / 1e9:5.1f} GB/s '
                             f'{2 * chunk * size / taken_s / 1e12:5.2f} TOP/s')
            print(f'{name + ", " + shape_name:40}' + ''.join(f'{text:>22}' for text in found))


def attention(threads: int) -> ort.InferenceSession:
    """Return one layer's attention, the cache bound in place by whoever runs it."""
    float_ = TensorProto.FLOAT
    cache = (1, KV_HEADS, SLOTS, HEAD_DIM)
    node = helper.make_node(
        'GroupQueryAttention',
        ['qkv', '', '', 'past_key', 'past_value', 'last', 'fill', 'cos', 'sin'],
        ['out', 'key', 'value'], domain=MICROSOFT, num_heads=HEADS, kv_num_heads=KV_HEADS,
        do_rotary=1)
    inputs = [helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in (
        ('qkv', float_, (1, 'S', (HEADS + 2 * KV_HEADS) * HEAD_DIM)), ('past_key', float_, cache),
        ('past_value', float_, cache), ('last', TensorProto.INT32, (1,)),
        ('fill', TensorProto.INT32, ()), ('cos', float_, (SLOTS, HEAD_DIM // 2)),
        ('sin', float_, (SLOTS, HEAD_DIM // 2)))]
    return session([node], inputs, ['out', 'key', 'value'], [], threads)


def print_attention(threads: int) -> None:
    """Print the time of one layer's attention, tiled and plain."""
    print(f'\n{"attention of one layer (microseconds)":40}'
          + ''.join(f'{f"at fill {fill}":>14}' for fill in FILLS))
    for name, is_plain in (('tiled', '0'), ('plain', '1')):
        os.environ['ORT_GQA_DISABLE_FLASH_ATTENTION'] = is_plain
        runner = attention(threads)
        for chunk in (1, 64):
            times_s = [seconds(bound(runner, chunk, fill)) for fill in FILLS]
            print(f'{f"{name}, {chunk} row(s)":40}'
                  + ''.join(f'{1e6 * taken_s:14.0f}' for taken_s in times_s))


def bound(runner: ort.InferenceSession, chunk: int, fill: int) -> Callable[[], object]:
    """Return what runs a chunk at a fill."""
    random = np.random.default_rng(0)
    cache = {name: random.standard_normal((1, KV_HEADS, SLOTS, HEAD_DIM), np.float32)
             for name in ('key', 'value')}
    angles = np.outer(np.arange(SLOTS), np.linspace(0.001, 1, HEAD_DIM // 2))
    width = (HEADS + 2 * KV_HEADS) * HEAD_DIM
    feeds = {'qkv': random.standard_normal((1, chunk, width), np.float32),
             'last': np.array([fill + chunk - 1], np.int32),
             'fill': np.array(fill + chunk, np.int32),
             'cos': np.cos(angles).astype(np.float32), 'sin': np.sin(angles).astype(np.float32),
             **{f'past_{name}': rows for name, rows in cache.items()}}
    binding = runner.io_binding()
    for name, array in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(array))
    out = np.zeros((1, chunk, HEADS * HEAD_DIM), np.float32)
    for name, array in {'out': out, **cache}.items():
        binding.bind_ortvalue_output(name, ort.OrtValue.ortvalue_from_numpy(array))
    kept_alive = feeds, cache, out  # the values above only point into them
    return lambda: (runner.run_with_iobinding(binding), kept_alive)


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=physical_cores(),
                        help='threads (default: the physical cores, %(default)s)')
    threads = parser.parse_args().threads
    print_products({'uint8 x int8 (ours)': (w8a8, np.uint8),
                    'MatMulNBits, 8 bits': (eight_bit_blocks, np.float32)}, threads)
    print_attention(threads)
    return 0


if __name__ == '__main__':
    sys.exit(main())
