"""The engine reads what the cache lacks, and nothing else."""

from collections.abc import Sequence
from hashlib import sha256
import json

from hypothesis import given, settings, strategies as st
import numpy as np
import pytest
from support.fake_backend import FakeBackend
from support.tiny_models import tiny

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.manifest import GRAPH, MANIFEST
from tinyllama_ros.engine.backend import open_backend
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.engine.sampling import Sampler, SamplingOptions
from tinyllama_ros.errors import BackendError, ConfigError
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.options import BuildOptions

SLOTS, VOCABULARY = 32, 50
prompts = st.lists(st.integers(0, 2), min_size=1, max_size=SLOTS)


def greedy(engine: Engine) -> int:
    return engine.sample(Sampler(SamplingOptions(temperature=0)))


def start(tokens: Sequence[int] = ()) -> tuple[Engine, FakeBackend]:
    """Return an engine that has read some tokens, and what it runs on."""
    backend = FakeBackend(SLOTS, VOCABULARY)
    engine = Engine(lambda: backend)
    if tokens:
        list(engine.prefill(tokens))
        backend.passes.clear()
    return engine, backend


@settings(deadline=None)
@given(history=st.lists(prompts, min_size=1, max_size=6))
def test_resumed_equals_fresh(history):
    resumed, _ = start()
    for tokens in history:
        list(resumed.prefill(tokens))
        fresh, _ = start(tokens)
        assert resumed.cache.tokens == tokens
        assert greedy(resumed) == greedy(fresh)


@pytest.mark.parametrize(('cached', 'wanted', 'passes'), [
    pytest.param([], [1, 2, 3], [(0, 3)], id='nothing_is_held'),
    pytest.param([1, 2], [1, 2, 3, 4], [(2, 2)], id='front_is_held'),
    pytest.param([1, 2, 3], [1, 5], [(1, 1)], id='first_is_held'),
    pytest.param([1, 2, 3], [1, 2, 3], [(2, 1)], id='all_is_held'),
    pytest.param([1, 2, 3], [1, 2], [(1, 1)], id='more_is_held'),
    pytest.param([9], list(range(20)), [(0, 8), (8, 8), (16, 4)], id='three_chunks'),
    pytest.param([], [7] * SLOTS, [(0, 8), (8, 8), (16, 8), (24, 8)], id='the_whole_cache')])
def test_only_tokens_that_are_not_cached_are_prefilled(cached, wanted, passes):
    engine, backend = start(cached)
    list(engine.prefill(wanted))
    assert backend.passes == passes
    assert engine.cache.tokens == wanted


@pytest.mark.parametrize(('tokens', 'passes'), [
    (8, [(0, 8)]), (9, [(0, 4), (4, 5)]), (20, [(0, 6), (6, 7), (13, 7)]),
    (25, [(0, 6), (6, 6), (12, 6), (18, 7)])])
def test_chunks_are_cut_evenly_where_none_is_padded(tokens, passes):
    backend = FakeBackend(SLOTS, VOCABULARY, pads=False)
    engine = Engine(lambda: backend)
    assert list(engine.prefill(range(tokens)))[1:] == [start + length for start, length in passes]
    assert backend.passes == passes


def test_prefill_counts_its_tokens():
    engine, _ = start([1, 2])
    assert list(engine.prefill([1, 2, *range(20)])) == [0, 8, 16, 20]


def test_prefill_that_is_given_up_leaves_what_was_computed():
    engine, backend = start()
    prefill = engine.prefill(range(20))
    assert [next(prefill), next(prefill)] == [0, 8]
    prefill.close()
    assert engine.cache.tokens == list(range(8))
    list(engine.prefill(range(20)))
    assert backend.passes == [(0, 8), (8, 8), (16, 4)]


def test_decoded_token_changes_what_is_sampled():
    engine, backend = start([1, 2])
    engine.decode(3)
    fresh, _ = start([1, 2, 3])
    assert backend.passes == [(2, 1)]
    assert greedy(engine) == greedy(fresh)


def test_sample_leaves_the_cache_as_it_is():
    engine, backend = start([1, 2])
    assert greedy(engine) == greedy(engine)
    assert (engine.cache.tokens, backend.passes) == ([1, 2], [])


def test_penalty_looks_at_the_cache():
    engine, _ = start([1, 2])
    likeliest = greedy(engine)
    engine.cache.tokens[:] = [likeliest]
    sampler = Sampler(SamplingOptions(temperature=0, repetition_penalty=10))
    assert engine.sample(sampler) != likeliest


@pytest.mark.parametrize('fails_in', [1, 2, 3])
def test_failed_pass_leaves_what_was_prefilled_before(fails_in):
    engine, backend = start()
    backend.passes_to_failure = fails_in
    with pytest.raises(BackendError, match='the device is gone'):
        list(engine.prefill(range(20)))
    assert engine.cache.tokens == list(range(8 * (fails_in - 1)))
    list(engine.prefill(range(20)))
    assert greedy(engine) == greedy(start(range(20))[0])


def test_cleared_cache_is_prefilled_again():
    engine, backend = start([1, 2, 3])
    engine.clear()
    assert engine.cache.fill == 0
    list(engine.prefill([1, 2, 3]))
    assert backend.passes == [(0, 3)]


def test_sample_before_prefill_is_our_own_mistake():
    with pytest.raises(AssertionError, match='nothing was prefilled yet'):
        greedy(start()[0])


@pytest.mark.parametrize('tokens', [[], [1] * (SLOTS + 1)], ids=len)
def test_prefill_of_nothing_or_too_much_is_our_own_mistake(tokens):
    engine, backend = start([1])
    with pytest.raises(AssertionError, match=f'{len(tokens)} tokens'):
        list(engine.prefill(tokens))
    assert (engine.cache.tokens, backend.passes) == ([1], [])


def test_close_frees_the_backend_and_may_come_twice():
    engine, backend = start()
    engine.close()
    engine.close()
    assert backend.closed == 1


@pytest.fixture(scope='module')
def artifact(tmp_path_factory):
    folder = tmp_path_factory.mktemp('engine') / 'tiny'
    build(tiny(), folder, BuildOptions(name='tiny', quantization='fp32', kv_length=SLOTS))
    return Artifact.open(folder)


def altered(artifact: Artifact, folder, **fields: object) -> Artifact:
    """Return a copy of an artifact whose manifest was edited."""
    for path in artifact.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    manifest = json.loads((folder / MANIFEST).read_text())
    shape = {name: fields.pop(name) for name in list(fields) if name in manifest['architecture']}
    manifest['architecture'] |= shape
    (folder / MANIFEST).write_text(json.dumps(manifest | fields))
    return Artifact.open(folder)


def test_real_engine_samples_what_a_fresh_one_samples(artifact):
    engine = Engine(lambda: open_backend('onnx', artifact, threads=1))
    for tokens in ([5, 6, 7, 8], [5, 6], list(range(20, 20 + SLOTS)), [20, 21, 9]):
        list(engine.prefill(tokens))
        fresh = Engine(lambda: open_backend('onnx', artifact, threads=1))
        list(fresh.prefill(tokens))
        assert greedy(engine) == greedy(fresh)


def test_backend_may_be_closed_twice(artifact):
    backend = OnnxBackend(artifact, threads=1)
    backend.close()
    backend.close()
    with pytest.raises(AssertionError, match='the backend is closed'):
        backend.forward(np.array([1]), 0)


@pytest.mark.parametrize(('tokens', 'start_'), [
    ([], 0), ([1] * (SLOTS + 1), 0), ([1, 1], SLOTS - 1), ([-1], 0), ([10 ** 6], 0)],
    ids=['none', 'too_many', 'past_the_end', 'negative', 'no_such_token'])
def test_backend_refuses_what_would_write_elsewhere(artifact, tokens, start_):
    with pytest.raises(AssertionError):
        OnnxBackend(artifact, threads=1).forward(np.array(tokens, np.int64), start_)


@pytest.mark.parametrize(('fields', 'message'), [
    ({'kv_length': 64}, r'key\.0 has the shape \[1, 2, 32, 16\].*manifest it is \[1, 2, 64, 16\]'),
    ({'kv_heads': 4}, r'key\.0 has the shape \[1, 2, 32, 16\].*manifest it is \[1, 4, 32, 16\]'),
    ({'layers': 3}, r'key\.2 has the shape None.*manifest it is \[1, 2, 32, 16\]'),
    ({'layers': 1}, r'key\.1 has the shape \[1, 2, 32, 16\].*manifest it is None'),
    ({'vocab_size': 299}, r'logits .*400.*299'),
    ({'dialect': 'ascend'}, r'in the ascend dialect; the onnx backend runs the cpu dialect'),
], ids=str)
def test_manifest_that_differs_from_the_graph_is_named(artifact, tmp_path, fields, message):
    with pytest.raises(BackendError, match=message):
        OnnxBackend(altered(artifact, tmp_path, **fields), threads=1)


def test_graph_that_is_none_is_refused(artifact, tmp_path):
    altered(artifact, tmp_path).graph.write_bytes(b'no graph')
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    manifest['files'][GRAPH] = {'size': 8, 'sha256': sha256(b'no graph').hexdigest()}
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    broken = Artifact.open(tmp_path)
    with pytest.raises(BackendError, match=r'could not load .*decoder\.onnx'):
        OnnxBackend(broken, threads=1)


@pytest.mark.parametrize(('name', 'threads', 'message'), [
    ('cuda', 0, r"backend 'cuda' is unknown; known: onnx, acl"),
    ('onnx', -1, r'threads is -1; it must be in 0\.\.256')])
def test_unfit_backend_options_are_refused(artifact, name, threads, message):
    with pytest.raises(ConfigError, match=message):
        open_backend(name, artifact, threads=threads)
