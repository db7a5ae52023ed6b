"""The backend of the NPU, on a simulated board in both of its forms."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
import random
import sys
from threading import Thread

from ascend import compiled, FORMS
import numpy as np
from numpy.typing import NDArray
import pytest
from test_conversation import random_turn, Watched, Witness
from tiny_models import tiny

from tinyllama_ros.chat.conversation import ChatOptions, open_conversation, Piece, Reset
from tinyllama_ros.engine.acl import AclBackend
from tinyllama_ros.engine.backend import open_backend
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.engine.sampling import SamplingOptions
from tinyllama_ros.errors import BackendError, BackendLost, ConfigError
from tinyllama_ros.model.architecture import Architecture
from tinyllama_ros.model.artifact import Artifact, CompiledGraph, OM
from tinyllama_ros.model.build import build
from tinyllama_ros.model.random import RandomCheckpoint

import acl  # isort: skip  # after ascend, which puts it on the path
from acl import simulator  # isort: skip

SLOTS = 48
TOKENS = np.random.default_rng(0).integers(0, 290, SLOTS)
ONE_BY_ONE = (1,) * SLOTS


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('artifacts')


@pytest.fixture(scope='module')
def artifact(folder):
    return compiled(folder / 'one', tiny())


@pytest.fixture(scope='module')
def geared(folder):
    return compiled(folder / 'several', tiny(), chunk_sizes=(1, 4, 8))


@pytest.fixture(scope='module')
def longer(folder):
    """Return an artifact of the same model with more slots."""
    return compiled(folder / 'longer', tiny(), kv_length=512)


@pytest.fixture(scope='module')
def small(folder):
    """Return an artifact that is loaded fast, with gears."""
    return compiled(folder / 'small', tiny(layers=1), kv_length=8, chunk_sizes=(1, 2))


@pytest.fixture(scope='module')
def cpu(folder):
    build(tiny(), folder / 'cpu', name='cpu', quantization='fp32', kv_length=SLOTS)
    return OnnxBackend(Artifact.open(folder / 'cpu'), threads=1)


@pytest.fixture(params=FORMS)
def board(request):
    """Give a board; at the end of the test nothing may be left on it, and no rule broken."""
    simulator.reset(form=request.param)
    yield simulator
    assert acl.finalize() in (0, 100037)
    simulator.assert_clean()


@pytest.fixture
def backend(board, artifact) -> Iterator[AclBackend]:
    backend = AclBackend(artifact)
    yield backend
    backend.close()


def logits(backend: AclBackend | OnnxBackend, tokens: NDArray[np.int64],
           chunks: tuple[int, ...] = ONE_BY_ONE, start: int = 0) -> NDArray[np.float32]:
    """Return the logits of every token, read in chunks of these lengths."""
    found = []
    for length in chunks:
        chunk = tokens[:length]
        if not len(chunk):
            break
        found.append(backend.forward(chunk, start, all_logits=True).copy())
        start, tokens = start + length, tokens[length:]
    return np.concatenate(found)


def test_logits_are_those_of_the_cpu_to_the_rounding_of_the_cache(backend, cpu):
    np.testing.assert_allclose(logits(backend, TOKENS), logits(cpu, TOKENS), atol=0.01)


@pytest.mark.parametrize('chunks', [(8, 8, 8, 8, 8, 8), (3, 1, 7, 2, 5, 8, 6, 8, 8), (4, 4, 5, 8),
                                    (8, 3), (1, 8, 8, 8, 8, 8, 7)], ids=str)
def test_chunks_equal_one_token_at_a_time(board, geared, chunks):
    backend = AclBackend(geared)
    tokens = TOKENS[:sum(chunks)]
    whole = logits(backend, tokens)
    np.testing.assert_allclose(logits(backend, tokens, chunks), whole, atol=2e-3)
    backend.close()


def test_last_row_is_that_of_the_last_token_and_not_of_the_padding(board, geared):
    backend = AclBackend(geared)
    every = backend.forward(TOKENS[:3], 0, all_logits=True).copy()
    np.testing.assert_array_equal(backend.forward(TOKENS[:3], 0), every[-1:])
    backend.close()


def test_rows_that_were_taken_back_are_not_seen(backend):
    logits(backend, TOKENS[:20])
    again = logits(backend, TOKENS[30:40], start=5)
    fresh = logits(backend, np.concatenate([TOKENS[:5], TOKENS[30:40]]))
    np.testing.assert_array_equal(again, fresh[5:])


def test_padding_at_the_end_of_the_cache_writes_nothing_beyond_it(board, geared):
    backend = AclBackend(geared)
    whole = logits(backend, TOKENS)
    last = backend.forward(TOKENS[-3:], SLOTS - 3, all_logits=True)
    np.testing.assert_allclose(last, whole[-3:], atol=2e-3)
    backend.close()


def test_memory_is_allocated_once(backend, board):
    backend.forward(TOKENS[:1], 0)
    before = Counter(board.calls)
    logits(backend, TOKENS)
    new = Counter(board.calls) - before
    assert not {name for name in new if 'malloc' in name or 'create' in name or 'free' in name}


def test_another_thread_may_go_on(backend):
    whole = logits(backend, TOKENS[:3])
    found = []
    thread = Thread(target=lambda: found.append(backend.forward(TOKENS[2:3], 2).copy()))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(found[0], whole[2:])


def test_closed_backend_may_be_closed_again(board, artifact):
    backend = AclBackend(artifact)
    backend.close()
    backend.close()
    assert set(board.live()) == {'initialised'}


def test_two_backends_share_the_device(board, artifact):
    first, second = AclBackend(artifact), AclBackend(artifact)
    whole = logits(first, TOKENS[:5])
    first.close()
    np.testing.assert_array_equal(logits(second, TOKENS[:5]), whole)
    second.close()


def test_two_hundred_loads_leave_nothing(board, small):
    for _ in range(200):
        backend = AclBackend(small)
        backend.forward(TOKENS[:1], 0)
        backend.close()
        assert board.memory_used() == 0
    assert set(board.live()) == {'initialised'}


@pytest.mark.parametrize('chunks', ['one', 'several'])
def test_turns_are_answered_within_the_cache(board, artifact, geared, longer, chunks):
    chance = random.Random(chunks)
    backends = AclBackend(artifact if chunks == 'one' else geared), AclBackend(longer)
    witness = Witness(Watched(backends[0]), backends[1])
    for _ in range(15):
        witness.take(random_turn(chance, SLOTS))
    for backend in backends:
        backend.close()


# What moves


def moved_by(board, step: Callable[[], object]) -> tuple[Counter[str], Counter[str]]:
    """Return the bytes that a step moves, by kind, and its calls."""
    moved, calls = Counter(board.moved), len(board.calls)
    step()
    found = Counter(board.moved)
    found.subtract(moved)
    return Counter({kind: size for kind, size in found.items() if size}), Counter(
        board.calls[calls:])


def rows_bytes(shape: Architecture) -> int:
    return shape.layers * 2 * shape.kv_heads * shape.head_dim * 2


def test_step_on_shared_memory_copies_nothing_and_writes_the_new_rows(artifact):
    simulator.reset(form='rc', watch=True)
    backend, shape = AclBackend(artifact), artifact.manifest.architecture
    backend.forward(TOKENS[:1], 0)
    for start in range(1, SLOTS - 1):
        moved, calls = moved_by(simulator, lambda at=start: backend.forward(
            TOKENS[at:at + 1], at))
        # The rows of the step before, one number each of tokens, positions and mask; the
        # simulator counts in lines of 64 bytes
        lines = -(-shape.head_dim * 2 // 64) * 64
        assert moved['written'] <= rows_bytes(shape) * lines // (shape.head_dim * 2) + 8 + 8 + 64
        assert set(moved) == {'written'}
        assert calls == {'rt.set_context': 1, 'mdl.execute_async': 1, 'rt.synchronize_stream': 1}
    backend.close()


def test_step_on_separate_memory_moves_the_same_at_every_fill(artifact):
    simulator.reset(form='ep')
    backend, shape = AclBackend(artifact), artifact.manifest.architecture
    backend.forward(TOKENS[:1], 0)
    for start in range(1, SLOTS):
        moved, calls = moved_by(simulator, lambda at=start: backend.forward(
            TOKENS[at:at + 1], at))
        assert moved == {'h2d': 3 * 8 + rows_bytes(shape),
                         'd2h': rows_bytes(shape) + shape.vocab_size * 4}
        assert sum(calls.values()) - calls['mdl.execute_async'] <= 12
    backend.close()


def test_without_a_copy_of_rows_they_move_on_the_device_one_by_one(artifact, monkeypatch):
    simulator.reset(form='ep')
    backend, shape = AclBackend(artifact), artifact.manifest.architecture
    whole = logits(backend, TOKENS[:6])
    simulator.fail('memcpy2d', 1, 207000)
    np.testing.assert_array_equal(logits(backend, TOKENS[:6]), whole)
    moved, calls = moved_by(simulator, lambda: backend.forward(TOKENS[6:7], 6))
    assert moved['d2d'] == rows_bytes(shape)
    assert moved['d2h'] == shape.vocab_size * 4
    assert calls['rt.memcpy2d'] == 0
    backend.close()


# Failures


def session(artifact: Artifact) -> None:
    """Load, read three tokens, take one back, and close."""
    backend = AclBackend(artifact)
    try:
        for start in (0, 1, 2, 1):
            backend.forward(TOKENS[start:start + 1], start)
    finally:
        backend.close()


def calls_of(form: str, artifact: Artifact) -> list[tuple[str, int]]:
    """Return every call of a session, and which of its name it is."""
    simulator.reset(form=form)
    session(artifact)
    seen: Counter[str] = Counter()
    return [(name, seen[name]) for name in simulator.calls if not seen.update([name])]


FREES = ('destroy', 'free', 'unload', 'reset_device', 'set_context', 'synchronize')
"""Calls of the end, where nobody can do more than try once more."""
ASKED = ('get_num', 'data_type', 'size_by_index', 'index_by_name', 'soc_name')
"""Calls without a code of their own: what they answer instead is noticed later, or no matter."""


@pytest.mark.parametrize(('form', 'code'), [
    ('rc', 507011), ('ep', 507014), ('ep', 207001), ('ep', 107002)],
    ids=['context lost', 'device lost', 'no memory', 'no context'])
def test_fault_at_any_call_is_told_and_leaves_nothing(small, form, code):
    for call, nth in calls_of(form, small):
        simulator.reset(form=form)
        simulator.fail(call, nth, code)
        is_asked = any(word in call for word in ASKED)
        try:
            session(small)
            assert (code == 107002 or is_asked or any(word in call for word in FREES)
                    or call == 'mdl.load_from_mem'), (call, nth)
        except BackendError as error:
            told = call  # what fails on the stream is told to who waits for it
            if call == 'mdl.execute_async' and code > 500000:
                told = 'rt.synchronize_stream'
            assert f'acl.{told} failed with code {code}: ' in str(error) or is_asked, (call, error)
            assert isinstance(error, BackendLost) == (code != 207001) or is_asked, (call, error)
        acl.finalize()
        simulator.assert_clean()


OPTIONS = ChatOptions(max_tokens=20, answer_room=16, sampling=SamplingOptions(temperature=0))


@pytest.mark.parametrize('code', [507011, 507014, 507010], ids=['context', 'core', 'device'])
@pytest.mark.parametrize('nth', [3, 25], ids=['reading', 'answering'])
def test_answer_goes_on_after_a_failure_on_the_device(board, folder, nth, code):
    artifact = compiled(folder / 'talk', Talkative(tiny().architecture, tiny().tokenizer),
                        kv_length=128)

    def answer(*faults: int) -> list[str]:
        conversation = open_conversation(artifact, Engine(
            AclBackend(artifact), lambda: AclBackend(artifact)))
        for fault in faults:
            board.fail('execute_async', fault, code)
        events = list(conversation.answer('What?', OPTIONS))
        conversation.close()
        assert [event.reason for event in events if isinstance(event, Reset)] == (
            ['recovered'] * len(faults))
        return [event.text for event in events if isinstance(event, Piece)]

    assert answer(nth) == answer()


class Talkative(RandomCheckpoint):
    """Never ends an answer by itself."""

    def tensor(self, name: str) -> NDArray[np.float32]:
        values = super().tensor(name)
        if name == 'lm_head.weight':
            values[list(self.tokenizer.settings.control_tokens.values())] = 0
        return values
