"""Attention gives the numbers of the function that says what it means, and writes nowhere else."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto
import onnxruntime as ort
import pytest
from support.kernel_sessions import open_session


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
    with pytest.raises(Exception, match='does not fit the cache of 70 slots|bound to '
                                        'the same memory'):
        layer.run(layer.qkv(3), 4, **change)
    for name, rows in layer.cache.items():
        np.testing.assert_array_equal(rows, before[name])
