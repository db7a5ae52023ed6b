from concurrent.futures import ThreadPoolExecutor

import pytest
from support.tiny_models import tiny

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.commands import measure as bench
from tinyllama_ros.commands.measure import measure, Measurement, weight_bytes
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.options import BuildOptions


@pytest.fixture(autouse=True)
def little_memory(monkeypatch):
    monkeypatch.setattr(bench, 'MEMORY', 1 << 20)


@pytest.mark.parametrize('is_tied', [True, False], ids=['tied', 'untied'])
@pytest.mark.parametrize(('quantization', 'size'), [('w8a8', 1), ('fp32', 4)])
def test_token_is_multiplied_by_every_weight_but_the_table_it_is_looked_up_in(
        tmp_path, quantization, size, is_tied):
    checkpoint = tiny(layers=2, hidden=256, tied_embeddings=is_tied)
    build(checkpoint, tmp_path / 'out', BuildOptions(
        name='x', quantization=quantization, kv_length=64))
    arch = checkpoint.architecture
    attention = 2 * 256 * (arch.heads + arch.kv_heads) * arch.head_dim
    layer = attention + 3 * 256 * arch.ffn
    found = weight_bytes(Artifact.open(tmp_path / 'out').manifest)
    assert found == size * (2 * layer + 256 * arch.vocab_size)


def test_share_of_the_bandwidth_is_that_of_the_bytes_read(tmp_path, monkeypatch):
    build(tiny(), tmp_path / 'out', BuildOptions(name='x', quantization='w8a8', kv_length=128))
    monkeypatch.setattr(bench, '_rate', lambda backend, size, fill: 1000.0)
    monkeypatch.setattr(bench, '_read_bandwidth', lambda threads, size: 0.5)
    found = {m.name: m for m in measure(tmp_path / 'out', backend='onnx', threads=1, runs=2)}
    read = 1000 * weight_bytes(Artifact.open(tmp_path / 'out').manifest)
    share = 100 * read / 0.5e9
    assert found['read bandwidth used at fill 0'] == Measurement(
        'read bandwidth used at fill 0', '%', *3 * [pytest.approx(share)], 2)


@pytest.mark.parametrize(('size', 'count'), [(1, 1), (1 << 20, 1), (5 << 19, 3)])
def test_every_thread_reads_its_own_part_of_all_the_memory(monkeypatch, size, count):
    passes = []

    class Pool(ThreadPoolExecutor):
        def map(self, reader, parts):
            passes.append([part.nbytes for part in parts])
            return super().map(reader, parts)

    monkeypatch.setattr(bench, 'ThreadPoolExecutor', Pool)
    monkeypatch.setattr(bench.time, 'perf_counter', iter((10.0, 12.0)).__next__)
    assert bench._read_bandwidth(3, size) == pytest.approx(count * (1 << 20) / 2e9)
    assert [(len(sizes), sum(sizes)) for sizes in passes] == count * [(3, 1 << 20)]
