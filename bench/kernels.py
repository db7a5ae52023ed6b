"""
How fast our kernels read weights, multiply and attend here, beside ONNX Runtime's own.

Products are of the shapes of TinyLlama-1.1B, with so many copies of the weights that no cache
holds them; GB/s counts each weight once, TOP/s a product and a sum as two. Attention is one layer
of that model. Times hold everything from float activations to float results.

    .venv/bin/python bench/kernels.py [--threads 2]
"""

import argparse
from collections.abc import Callable
import os
from statistics import median
import sys
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper, NodeProto, numpy_helper, TensorProto, ValueInfoProto

from tinyllama_ros.engine.host import physical_cores
from tinyllama_ros.engine.ort_session import InferenceSession, OrtValue, SessionOptions
from tinyllama_ros.kernels import find_library
from tinyllama_ros.workbench.graphs.cpu_functions import cpu_functions, OPSETS, OURS
from tinyllama_ros.workbench.quantization.quantize import GROUP

WEIGHTS = 200e6
"""Bytes of all copies of a weight together."""
RUNS = 10
SHAPES = {'gate, up': (2048, 11264), 'down': (5632, 2048)}
CHUNKS = (1, 2, 16, 64)
HEADS, KV_HEADS, HEAD_DIM, SLOTS = 32, 4, 64, 1024
FILLS = (0, 200, 500, 950)

Product = tuple[NodeProto, dict[str, NDArray[Any]]]


def seconds(action: Callable[[], object]) -> float:
    """Return the median time of an action, after one run to warm up."""
    times_s = []
    for _ in range(RUNS + 1):
        began_s = time.perf_counter()
        action()
        times_s.append(time.perf_counter() - began_s)
    return median(times_s[1:])


def session(nodes: list[NodeProto], inputs: list[ValueInfoProto],
            outputs: list[str], weights: dict[str, NDArray[Any]], threads: int, is_ours: bool
            ) -> InferenceSession:
    """Return a graph of nodes, ready to run; ours run by our kernels, or as functions."""
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, 'kernels', inputs, results, [
        numpy_helper.from_array(value, name) for name, value in weights.items()])
    model = helper.make_model(graph, ir_version=8, functions=cpu_functions(), opset_imports=[
        helper.make_opsetid(domain, version) for domain, version in OPSETS.items()])
    options = SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    library = find_library()
    if is_ours and library:
        options.register_custom_ops_library(str(library.path))
    return InferenceSession(model.SerializeToString(), options)


def linear(number: int, rows: int, columns: int) -> Product:
    """Return the product that the CPU dialect uses, with its weight (columns, rows)."""
    groups = -(-rows // GROUP)
    weight = np.random.default_rng(number).integers(
        1, 256, (columns, groups, GROUP), dtype=np.uint8)
    scale = np.full((columns, groups), 0.01, np.float32)
    return product('GroupedLinear', OURS, number, {'weight': weight, 'scale': scale},
                   **{'in': rows, 'out': columns, 'group': GROUP})


def w8a16_product(number: int, rows: int, columns: int) -> Product:
    """Return the product with activations of nearly 16 bits."""
    weight = np.random.default_rng(number).integers(-127, 128, (columns, rows), dtype=np.int8)
    return product('W8A16Product', OURS, number, {'weight': weight,
                                                 'scale': np.full(columns, 1e-4, np.float32)})


def product(operator: str, domain: str, number: int, weights: dict[str, NDArray[Any]],
            **attributes: Any) -> Product:
    """Return a node called by its number, and what it multiplies by."""
    named = {f'{name}.{number}': value for name, value in weights.items()}
    return helper.make_node(operator, ['x', *named], [f'y.{number}'], domain=domain,
                            **attributes), named


def print_products(kinds: dict[str, tuple[Callable[[int, int, int], Product], bool]],
                   threads: int) -> None:
    """Print the speed of each kind of product at each length of a chunk."""
    print(f'{"product":40}' + ''.join(f'{f"{chunk} row(s)":>22}' for chunk in CHUNKS))
    for name, (make, is_ours) in kinds.items():
        for shape_name, (rows, columns) in SHAPES.items():
            copies = max(1, int(WEIGHTS / (rows * columns)))
            made = [make(number, rows, columns) for number in range(copies)]
            x = helper.make_tensor_value_info('x', TensorProto.FLOAT, ('S', rows))
            runner = session([node for node, _ in made], [x],
                             [f'y.{number}' for number in range(copies)],
                             {key: value for _, weights in made for key, value in weights.items()},
                             threads, is_ours)
            found = []
            for chunk in CHUNKS:
                feeds = {'x': np.random.default_rng(0).standard_normal((chunk, rows), np.float32)}
                taken_s = seconds(lambda: runner.run(None, feeds))  # noqa: B023
                size = copies * rows * columns
                found.append(f'{size / taken_s / 1e9:5.1f} GB/s '
                             f'{2 * chunk * size / taken_s / 1e12:5.2f} TOP/s')
            print(f'{name + ", " + shape_name:40}' + ''.join(f'{text:>22}' for text in found))


def attention(threads: int, is_ours: bool) -> InferenceSession:
    """Return one layer's attention, the cache bound in place by whoever runs it."""
    float_ = TensorProto.FLOAT
    cache = (1, KV_HEADS, SLOTS, HEAD_DIM)
    inputs = {'qkv': (float_, (1, 'S', (HEADS + 2 * KV_HEADS) * HEAD_DIM)),
              'past_key': (float_, cache), 'past_value': (float_, cache),
              'last': (TensorProto.INT32, (1,)), 'fill': (TensorProto.INT32, ()),
              'cos': (float_, (SLOTS, HEAD_DIM // 2)), 'sin': (float_, (SLOTS, HEAD_DIM // 2))}
    outputs = ['attended', 'key', 'value']
    node = helper.make_node('Attention', list(inputs), outputs, domain=OURS, num_heads=HEADS,
                            kv_num_heads=KV_HEADS)
    return session([node], [helper.make_tensor_value_info(name, kind, shape)
                            for name, (kind, shape) in inputs.items()],
                   outputs, {}, threads, is_ours)


def print_attention(threads: int) -> None:
    """Print the time of one layer's attention: ours, and ONNX Runtime's two."""
    print(f'\n{"attention of one layer (microseconds)":40}'
          + ''.join(f'{f"at fill {fill}":>14}' for fill in FILLS))
    for name, is_ours, is_plain in (('ours', True, '1'), ("ONNX Runtime's, plain", False, '1'),
                                    ("ONNX Runtime's, tiled", False, '0')):
        os.environ['ORT_GQA_DISABLE_FLASH_ATTENTION'] = is_plain
        runner = attention(threads, is_ours)
        for chunk in (1, 64):
            times_s = [seconds(bound(runner, chunk, fill)) for fill in FILLS]
            print(f'{f"{name}, {chunk} row(s)":40}'
                  + ''.join(f'{1e6 * taken_s:14.0f}' for taken_s in times_s))


def bound(runner: InferenceSession, chunk: int, fill: int) -> Callable[[], object]:
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
        binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
    attended = np.zeros((1, chunk, HEADS * HEAD_DIM), np.float32)
    for name, array in {'attended': attended, **cache}.items():
        binding.bind_ortvalue_output(name, OrtValue.ortvalue_from_numpy(array))
    kept_alive = feeds, cache, attended  # the values above only point into them
    return lambda: (runner.run_with_iobinding(binding), kept_alive)


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, default=physical_cores(),
                        help='threads (default: the physical cores, %(default)s)')
    threads = parser.parse_args().threads
    library = find_library()
    print(f'ours: {library.instructions if library and library.instructions else "not here"}\n')
    print_products({'GroupedLinear': (linear, True),
                    "GroupedLinear of ONNX Runtime's": (linear, False),
                    'W8A16Product': (w8a16_product, True),
                    "W8A16Product of ONNX Runtime's": (w8a16_product, False)}, threads)
    print_attention(threads)
    return 0


if __name__ == '__main__':
    sys.exit(main())
