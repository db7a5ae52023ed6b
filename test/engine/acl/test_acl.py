"""The backend of the NPU, on a simulated board in both of its forms."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import islice
from pathlib import Path
import random
import sys
from threading import Thread

import numpy as np
from numpy.typing import NDArray
import onnx
from onnx import TensorProto
import pytest
from support.ascend import compiled, FORMS
from support.checked_conversation import CheckedBackend, CheckedConversation, random_turn
from support.tiny_models import tiny

from tinyllama_ros.artifact.architecture import Architecture
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.manifest import CompiledGraph, OM
from tinyllama_ros.chat.conversation import open_conversation
from tinyllama_ros.chat.events import CacheReset, ChatOptions, TextDelta
from tinyllama_ros.commands.cli import main
from tinyllama_ros.engine.acl.backend import AclBackend
from tinyllama_ros.engine.backend import open_backend
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.engine.sampling import SamplingOptions
from tinyllama_ros.errors import BackendError, BackendLost, ConfigError
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.checkpoints.random_checkpoint import RandomCheckpoint
from tinyllama_ros.workbench.options import BuildOptions

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
    build(tiny(), folder / 'cpu', BuildOptions(name='cpu', quantization='fp32', kv_length=SLOTS))
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
        found.append(backend.forward(chunk, start, logits=len(chunk)).copy())
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
    every = backend.forward(TOKENS[:3], 0, logits=3).copy()
    np.testing.assert_array_equal(backend.forward(TOKENS[:3], 0), every[-1:])
    np.testing.assert_array_equal(backend.forward(TOKENS[:3], 0, logits=2), every[-2:])
    assert backend.forward(TOKENS[:3], 0, logits=0).shape == (0, backend.shape.vocab_size)
    backend.close()


def test_rows_that_were_taken_back_are_not_seen(backend):
    logits(backend, TOKENS[:20])
    again = logits(backend, TOKENS[30:40], start=5)
    fresh = logits(backend, np.concatenate([TOKENS[:5], TOKENS[30:40]]))
    np.testing.assert_array_equal(again, fresh[5:])


def test_padding_at_the_end_of_the_cache_writes_nothing_beyond_it(board, geared):
    backend = AclBackend(geared)
    whole = logits(backend, TOKENS)
    last = backend.forward(TOKENS[-3:], SLOTS - 3, logits=3)
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


@pytest.mark.parametrize(('form', 'loads'), [('rc', 200), ('ep', 40)])
def test_hundreds_of_loads_leave_nothing(small, form, loads):
    simulator.reset(form=form)
    for _ in range(loads):
        backend = AclBackend(small)
        backend.forward(TOKENS[:1], 0)
        backend.close()
        assert simulator.memory_used() == 0
    assert acl.finalize() == 0
    simulator.assert_clean()


@pytest.mark.parametrize('chunks', ['one', 'several'])
def test_turns_are_answered_within_the_cache(board, artifact, geared, longer, chunks):
    chance = random.Random(chunks)
    backends = AclBackend(artifact if chunks == 'one' else geared), AclBackend(longer)
    checked = CheckedConversation(CheckedBackend(backends[0]), backends[1])
    for _ in range(15):
        checked.take(random_turn(chance, SLOTS))
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


@pytest.fixture(scope='module')
def aligned(folder):
    """Return an artifact whose rows are lines of 64 bytes, in which the simulator counts."""
    return compiled(folder / 'aligned', tiny(head_dim=32), kv_length=16)


def test_step_on_shared_memory_writes_the_new_rows_and_copies_nothing(aligned):
    simulator.reset(form='rc', watch=True)
    backend, rows = AclBackend(aligned), rows_bytes(aligned.manifest.architecture)
    backend.forward(TOKENS[:1], 0)
    for start in range(1, 16):
        moved, calls = moved_by(simulator, lambda at=start: backend.forward(
            TOKENS[at:at + 1], at))
        # Seen before each run: the token, its position, a line of the mask, the rows before
        assert moved == {'written': 8 + 8 + 64 + rows}
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


def calls_of(form: str, artifact: Artifact, which: str) -> list[tuple[str, int]]:
    """Return each call of a session, or the first and the last of each name."""
    simulator.reset(form=form)
    session(artifact)
    counts = Counter(simulator.calls)
    return sorted({(name, nth) for name, count in counts.items()
                   for nth in (range(1, count + 1) if which == 'each' else (1, count))})


FREES = ('destroy', 'free', 'unload', 'reset_device', 'set_context', 'synchronize')
"""Calls of the end, where nobody can do more than try once more."""
ASKED = ('get_num', 'data_type', 'size_by_index', 'index_by_name', 'soc_name')
"""Calls without a code of their own: what they answer instead is noticed later, or no matter."""
MADE = ('create_desc', 'create_dataset', 'create_data_buffer')
"""Calls that return a handle and no code."""


@pytest.mark.parametrize(('form', 'code', 'which'), [
    ('rc', 507011, 'each'), ('ep', 507014, 'each'), ('ep', 207001, 'ends'),
    ('ep', 107002, 'ends')], ids=['context lost', 'device lost', 'no memory', 'no context'])
def test_fault_at_any_call_is_told_and_leaves_nothing(small, form, code, which):
    for call, nth in calls_of(form, small, which):
        simulator.reset(form=form)
        simulator.fail(call, nth, code)
        is_asked = any(word in call for word in ASKED)
        try:
            session(small)
            assert (is_asked or any(word in call for word in FREES) or call == 'mdl.load_from_mem'
                    or code == 107002 and not call.endswith(MADE)), (call, nth)
        except BackendError as error:
            told = call  # what fails on the stream is told to who waits for it
            if call == 'mdl.execute_async' and code > 500000:
                told = 'rt.synchronize_stream'
            what = 'returned no handle' if call.endswith(MADE) else f'failed with code {code}: '
            assert f'acl.{told} {what}' in str(error) or is_asked, (call, error)
            is_lost = code != 207001 or call.endswith(MADE)
            assert isinstance(error, BackendLost) == is_lost or is_asked, (call, error)
        acl.finalize()
        simulator.assert_clean()


OPTIONS = ChatOptions(max_tokens=20, answer_room=16, sampling=SamplingOptions(temperature=0))


@pytest.mark.parametrize('code', [507011, 507014, 507010], ids=['context', 'core', 'device'])
@pytest.mark.parametrize('nth', [3, 25], ids=['reading', 'answering'])
def test_answer_goes_on_after_a_failure_on_the_device(board, talkative, nth, code):
    def answer(*faults: int) -> list[str]:
        conversation = open_conversation(talkative, Engine(
            lambda: AclBackend(talkative)))
        for fault in faults:
            board.fail('execute_async', fault, code)
        events = list(conversation.answer('What?', OPTIONS))
        conversation.close()
        assert [event.reason for event in events if isinstance(event, CacheReset)] == (
            ['recovered'] * len(faults))
        return [event.text for event in events if isinstance(event, TextDelta)]

    assert answer(nth) == answer()


def test_memory_that_runs_out_in_mid_answer_ends_the_answer_with_its_reason(board, talkative):
    backends = iter([AclBackend(talkative)])  # none a second time, for a reload cannot help
    conversation = open_conversation(talkative, Engine(lambda: next(backends)))
    board.fail('execute_async', 25, 207001)
    with pytest.raises(BackendError, match='207001: the device is out of memory'):
        list(conversation.answer('What?', OPTIONS))
    said = conversation.messages[-1].content
    assert said
    assert list(conversation.answer('And?', OPTIONS))[-1].text
    conversation.close()


def test_cancel_at_any_stage_leaves_the_next_answer_whole(board, talkative):
    conversation = open_conversation(talkative, Engine(lambda: AclBackend(talkative)))
    events = list(conversation.answer('What?', OPTIONS))
    whole = events[-1].text
    for count in range(len(events)):
        conversation.reset()
        with closing(conversation.answer('Tell me.', OPTIONS)) as cut_short:
            list(islice(cut_short, count))
        conversation.reset()
        assert list(conversation.answer('What?', OPTIONS))[-1].text == whole
    conversation.close()


@pytest.mark.parametrize(('call', 'code'), [
    ('synchronize_stream', 507046), ('execute_async', 107002), ('malloc', 200000)])
def test_call_that_succeeds_at_the_second_time_is_no_failure(board, artifact, caplog, call, code):
    board.fail(call, 1, code)
    backend = AclBackend(artifact)
    backend.forward(TOKENS[:1], 0)
    backend.close()
    assert f'{call} failed with code {code}' in caplog.text
    assert 'trying once more' in caplog.text


@pytest.fixture(scope='module')
def talkative(folder):
    model = Talkative(tiny().architecture, tiny().tokenizer)
    return compiled(folder / 'talkative', model, kv_length=128)


class Talkative(RandomCheckpoint):
    """Never ends an answer by itself."""

    def tensor(self, name: str) -> NDArray[np.float32]:
        values = super().tensor(name)
        if name == 'lm_head.weight':
            values[list(self.tokenizer.settings.control_tokens.values())] = 0
        return values


class Overflowing(RandomCheckpoint):
    """Has logits beyond what a number can hold."""

    def tensor(self, name: str) -> NDArray[np.float32]:
        return super().tensor(name) * np.float32(1e38 if name == 'model.norm.weight' else 1)


def test_logits_that_are_not_finite_are_an_error_and_no_token(board, tmp_path):
    backend = AclBackend(compiled(tmp_path / 'overflowing', Overflowing(
        tiny().architecture, tiny().tokenizer)))
    with pytest.raises(BackendLost, match='the logits of 1 tokens at slot 0 are not all finite'):
        backend.forward(TOKENS[:1], 0)
    backend.close()


# What cannot be loaded


def changed(artifact: Artifact, **changes: object) -> Artifact:
    """Return an artifact whose manifest says something else than its .om."""
    shape = artifact.manifest.architecture
    own = {name: value for name, value in changes.items() if hasattr(shape, name)}
    rest = {name: value for name, value in changes.items() if name not in own}
    return replace(artifact, manifest=replace(
        artifact.manifest, architecture=replace(shape, **own), **rest))


@pytest.mark.parametrize(('changes', 'message'), [
    ({'kv_length': 40}, 'past_key_values: kv_length is 48 in the .om, 40 in the manifest'),
    ({'layers': 3}, 'past_key_values: layers is 2 in the .om, 3 in the manifest'),
    ({'kv_heads': 4}, 'past_key_values: kv_heads is 2 in the .om, 4 in the manifest'),
    ({'head_dim': 8}, 'past_key_values: head_dim is 16 in the .om, 8 in the manifest'),
    ({'vocab_size': 999}, r'logits: vocab_size is \d+ in the .om, 999 in the manifest'),
    ({'chunk_sizes': (1, 4)}, 'chunk lengths are 1 in the .om, 1, 4 in the manifest')],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_number_that_differs_from_the_manifest_is_named(board, artifact, changes, message):
    with pytest.raises(BackendError, match=f'decoder.om does not match its manifest: {message}'):
        AclBackend(changed(artifact, **changes))


def of_type(artifact: Artifact, folder: Path, name: str, kind: int) -> Artifact:
    """Return an artifact whose .om takes or gives a tensor in another type; all else is as is."""
    graph = (model := onnx.load(artifact.graph)).graph
    for value in (*graph.input, *graph.output):
        if value.name == name:
            before, value.type.tensor_type.elem_type = value.type.tensor_type.elem_type, kind
    is_input = name in [value.name for value in graph.input]
    for node in graph.node:
        names = node.input if is_input else node.output
        names[:] = [f'{name}/cast' if each == name else each for each in names]
    ends = (name, f'{name}/cast') if is_input else (f'{name}/cast', name)
    graph.node.insert(0 if is_input else len(graph.node), onnx.helper.make_node(
        'Cast', ends[:1], ends[1:], to=before if is_input else kind))
    onnx.save(model, folder / OM)  # which the simulator loads in place of an .om
    return replace(artifact, folder=folder, stamps={})


@pytest.mark.parametrize(('name', 'kind', 'message'), [
    ('input_ids', TensorProto.INT32, 'int32 in the .om, int64 in the manifest'),
    ('attention_mask', TensorProto.FLOAT16, 'float16 in the .om, int64 in the manifest'),
    ('position_ids', TensorProto.DOUBLE, 'aclDataType 11 in the .om, int64 in the manifest'),
    ('past_key_values', TensorProto.FLOAT, 'float32 in the .om, float16 in the manifest'),
    ('logits', TensorProto.INT32, 'int32 in the .om, float16 or float32 in the manifest'),
    ('out_key_values', TensorProto.FLOAT, 'float32 in the .om, float16 in the manifest')],
    ids=['tokens', 'mask', 'positions', 'past', 'logits', 'rows'])
def test_type_that_differs_from_the_manifest_is_named(board, artifact, tmp_path, name, kind,
                                                      message):
    with pytest.raises(BackendError, match=f'decoder.om does not match its manifest: {name}: '
                       f'type is {message}'):
        AclBackend(of_type(artifact, tmp_path, name, kind))


def test_logits_in_half_precision_are_read(backend, board, artifact, tmp_path):
    # Which shows, too, that an .om made for the test above runs where its types are allowed
    with closing(AclBackend(of_type(artifact, tmp_path, 'logits', TensorProto.FLOAT16))) as half:
        found, expected = (logits(each, TOKENS[:3]) for each in (half, backend))
    np.testing.assert_array_equal(found, expected.astype(np.float16))


def test_gears_that_differ_from_the_manifest_are_named(board, geared):
    with pytest.raises(BackendError, match='chunk lengths are 1, 4, 8 in the .om, 1, 8 in the'):
        AclBackend(changed(geared, chunk_sizes=(1, 8)))


@pytest.mark.parametrize('size', [0, 10, 5000, -100], ids=['empty', 'header', 'weights', 'end'])
def test_om_that_is_cut_short_is_named_with_the_code(board, artifact, tmp_path, size):
    content = artifact.om.read_bytes()
    (tmp_path / OM).write_bytes(content[:size])
    with pytest.raises(BackendError, match=r'decoder\.om.*tinyllama-model atc') as caught:
        AclBackend(replace(artifact, folder=tmp_path, stamps={}))
    assert not isinstance(caught.value, BackendLost)


def test_om_for_another_chip_is_refused(artifact):
    simulator.reset(soc='Ascend310B1')
    with pytest.raises(BackendError, match='for Ascend310B4, but this chip is Ascend310B1; '
                       'run: .*tinyllama-model atc .* --soc-version Ascend310B1'):
        AclBackend(artifact)
    acl.finalize()
    simulator.assert_clean()


def test_om_of_which_nobody_knows_the_chip_is_left_to_the_runtime(artifact):
    simulator.reset(soc='Ascend310B1')
    with pytest.raises(BackendError, match='failed with code 100013: the .om is damaged, or was '
                       'made for another CANN or chip'):
        AclBackend(changed(artifact, om=CompiledGraph('', (), '')))


@pytest.mark.parametrize('form', FORMS)
def test_too_little_memory_to_load_says_how_much_there_is(artifact, form):
    simulator.reset(form=form)
    backend = AclBackend(artifact)
    needed = simulator.memory_used()
    backend.close()
    for memory in (10_000, needed - 1000):  # too little for the model, and for all beside it
        simulator.reset(form=form, memory=memory)
        with pytest.raises(BackendError, match=r'the device is out of memory \(.*, \d+ of \d+ MB '
                           r'are free\); end other programs that use the device'):
            AclBackend(artifact)
        acl.finalize()
        simulator.assert_clean()


def test_memory_of_another_size_than_the_shape_is_heeded(board, artifact, monkeypatch):
    whole = {name: getattr(acl.mdl, f'get_{name}_size_by_index') for name in ('input', 'output')}
    for name, ask in whole.items():  # more, as an aligned size would be
        monkeypatch.setattr(acl.mdl, f'get_{name}_size_by_index', lambda *which, ask=ask: 64 + ask(
            *which))
    backend = AclBackend(artifact)
    found = logits(backend, TOKENS[:3])
    backend.close()
    monkeypatch.setattr(acl.mdl, 'get_output_size_by_index', lambda *which: 64)
    with pytest.raises(BackendError, match='logits of the shape .* has only 64 bytes'):
        AclBackend(artifact)
    monkeypatch.undo()
    backend = AclBackend(artifact)
    np.testing.assert_array_equal(logits(backend, TOKENS[:3]), found)
    backend.close()


def test_missing_acl_says_where_it_comes_from(artifact, monkeypatch):
    monkeypatch.setitem(sys.modules, 'acl', None)
    with pytest.raises(BackendError, match='needs the Python module acl of the CANN toolkit.*run: '
                       'source /usr/local/Ascend/ascend-toolkit/set_env.sh'):
        AclBackend(artifact)


def test_missing_device_is_named(board, artifact):
    with pytest.raises(BackendError, match='107001: there is no such device.*set acl.device'):
        open_backend('acl', artifact, device=7)


def test_unknown_form_is_refused(artifact):
    with pytest.raises(ConfigError, match="acl.form is 'pci'; it must be one of auto, rc, ep"):
        open_backend('acl', artifact, form='pci')


def test_form_that_is_given_overrules_the_device(artifact, caplog):
    simulator.reset(form='rc')
    backend = AclBackend(artifact, form='ep')
    whole = logits(backend, TOKENS[:5])
    assert 'the device reports the form rc; it is used as ep, as acl.form says' in caplog.text
    backend.close()
    backend = AclBackend(artifact)
    np.testing.assert_array_equal(logits(backend, TOKENS[:5]), whole)
    backend.close()


def test_artifact_for_the_cpu_is_refused(board, folder, cpu):
    with pytest.raises(BackendError, match='holds a graph in the cpu dialect; the acl backend'):
        AclBackend(Artifact.open(folder / 'cpu'))


def test_artifact_that_is_not_compiled_is_refused(board, artifact):
    with pytest.raises(BackendError, match='is not compiled for the NPU yet; run: '
                       '.*tinyllama-model atc'):
        AclBackend(changed(artifact, om=None))


def test_commands_measure_on_the_board(board, longer, tmp_path, capsys):
    (tmp_path / 'text').write_text('a robot ' * 200)
    on_board = ['--backend', 'acl', '--form', 'ep']
    assert main(['perplexity', str(longer.folder), '--text', str(tmp_path / 'text'),
                 '--windows', '1', '--window', '16', *on_board]) == 0
    assert main(['bench', str(longer.folder), '--runs', '1', *on_board]) == 0
    heard = capsys.readouterr().out
    assert 'perplexity ' in heard and 'chunk 1 at fill 0' in heard
    assert 'read bandwidth' not in heard
