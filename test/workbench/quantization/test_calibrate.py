"""Calibration sees what the oracle sees, once, and to the bit."""

import os
from pathlib import Path
import resource

import numpy as np
import pytest
from support.probes import ChangedCheckpoint, oracle_inputs, oracle_losses, round_to_half, set_nan
from support.tiny_models import tiny

from tinyllama_ros.artifact.disk import locked
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.errors import ArtifactError, ConfigError, ModelError
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.options import BuildOptions
from tinyllama_ros.workbench.quantization import calibrate as module
from tinyllama_ros.workbench.quantization.calibrate import (
    calibrate,
    calibrated,
    held_out,
    LONGEST,
    SAMPLE,
)
from tinyllama_ros.workbench.quantization.smooth import groups

EMBEDDING = 'model.embed_tokens.weight'
LAST = 'lm_head.weight'


def some_pieces(*lengths, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(tiny().architecture.vocab_size, size=n).tolist() for n in lengths]


PIECES = some_pieces(*[90] * 7)


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'tiny.calibration.safetensors'


@pytest.mark.parametrize('lengths', [
    [90] * 7, [131] * 14, [30, 2, 1, 5, 0, 70, 90, 90, 90, 90, 90, 90], [300, 300, 258, 40]],
    ids=['all_tokens', 'every_third_token', 'uneven', 'longer_than_a_piece'])
def test_sampled_inputs_are_those_of_the_oracle(path, lengths):
    checkpoint = ChangedCheckpoint(tiny(), {EMBEDDING: round_to_half})
    pieces = some_pieces(*lengths)
    calibration = calibrate(checkpoint, pieces, path)
    seen = [oracle_inputs(checkpoint, piece) for piece in calibrated(pieces)]
    for group in groups(checkpoint.architecture):
        expected = np.concatenate([inputs[group.path] for inputs in seen])
        expected = expected[::len(expected) // SAMPLE]
        np.testing.assert_allclose(calibration.inputs(group.path), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize('tied', [True, False], ids=['tied', 'untied'])
def test_held_out_losses_are_those_of_the_oracle(path, tied):
    checkpoint = tiny(tied_embeddings=tied)
    pieces = some_pieces(*[40] * 21)
    expected = [oracle_losses(checkpoint, pieces[index]) for index in (6, 13, 20)]
    found = calibrate(checkpoint, pieces, path).held_out_losses
    np.testing.assert_allclose(found, np.concatenate(expected), rtol=0, atol=1e-4)


def test_every_seventh_piece_is_held_out_and_no_other():
    pieces = some_pieces(*range(2, 30))
    assert held_out(pieces) == pieces[6::7]
    assert sorted(calibrated(pieces) + held_out(pieces)) == sorted(pieces)


def test_long_pieces_are_cut_and_nothing_is_lost():
    pieces = some_pieces(2 * LONGEST + 5, *[LONGEST] * 11)
    cut = calibrated(pieces) + held_out(pieces)
    assert max(map(len, cut)) == LONGEST
    assert sorted(token for piece in cut for token in piece) == sorted(sum(pieces, []))


def test_two_runs_write_the_same_file(tmp_path):
    for run in range(6):  # an order left to chance would have differed by now, 31 times in 32
        calibrate(tiny(), PIECES, tmp_path / str(run))
    assert len({(tmp_path / str(run)).read_bytes() for run in range(6)}) == 1


def test_other_sessions_of_the_process_change_nothing(tmp_path, monkeypatch):
    monkeypatch.delenv('ORT_GQA_DISABLE_FLASH_ATTENTION', raising=False)
    paths = [tmp_path / 'before.safetensors', tmp_path / 'after.safetensors']
    calibrate(tiny(), PIECES, paths[0])
    build(tiny(), tmp_path / 'tiny', BuildOptions(name='tiny', quantization='fp32', kv_length=64))
    OnnxBackend(Artifact.open(tmp_path / 'tiny')).close()
    calibrate(tiny(), PIECES, paths[1])
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_second_call_reads_the_file_and_runs_no_graph(path):
    reads = []
    checkpoint = ChangedCheckpoint(tiny(), {LAST: lambda weight: reads.append(weight)})
    first = calibrate(checkpoint, PIECES, path)
    written, reads[:] = path.stat().st_mtime_ns, []
    second = calibrate(checkpoint, PIECES, path)
    assert len(reads) == 1  # to tell that it is the same model; a graph would need it again
    assert path.stat().st_mtime_ns == written
    np.testing.assert_array_equal(second.held_out_losses, first.held_out_losses)


@pytest.mark.parametrize(('checkpoint', 'pieces'), [
    (ChangedCheckpoint(tiny(), {LAST: lambda weight: np.negative(weight, out=weight)}), PIECES),
    (tiny(rope_base=5000.0), PIECES),
    (tiny(), some_pieces(*[90] * 7, seed=1)),
    (tiny(), [*PIECES[:6], [5, *PIECES[6][1:]]]),
], ids=['weight', 'architecture', 'text', 'held_out_text'])
def test_what_is_of_something_else_is_gathered_anew(path, tmp_path, checkpoint, pieces):
    calibrate(tiny(), PIECES, path)
    calibrate(checkpoint, pieces, path)
    calibrate(checkpoint, pieces, tmp_path / 'expected')
    assert path.read_bytes() == (tmp_path / 'expected').read_bytes()


@pytest.mark.parametrize('damage', [
    lambda whole: b'', lambda whole: whole[:100], lambda whole: whole[:-1],
    lambda whole: b'\xff' * 8 + whole[8:], lambda whole: b'{"not": "ours"}'],
    ids=['empty', 'header_cut', 'last_byte_cut', 'header_length_wrong', 'something_else'])
def test_damaged_file_is_gathered_anew(path, damage):
    calibrate(tiny(), PIECES, path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    calibrate(tiny(), PIECES, path)
    assert path.read_bytes() == whole


def interrupt_building(monkeypatch):
    reads = []

    def stop(weight):
        reads.append(weight)
        if len(reads) == 2:  # the first is to tell which model it is
            raise KeyboardInterrupt
    return ChangedCheckpoint(tiny(), {LAST: stop})


def interrupt_reading(monkeypatch):
    def stop(pieces, title):
        yield from pieces[:3]
        raise KeyboardInterrupt
    monkeypatch.setattr(module, 'track', stop)
    return tiny()


def interrupt_saving(monkeypatch):
    def stop(tensors, path, metadata):
        Path(path).write_bytes(b'half of it')
        raise KeyboardInterrupt
    monkeypatch.setattr(module, 'save_file', stop)
    return tiny()


@pytest.mark.parametrize('interrupt', [interrupt_building, interrupt_reading, interrupt_saving])
@pytest.mark.parametrize('before', [[], ['tiny.calibration.safetensors']], ids=['new', 'again'])
def test_interrupted_calibration_leaves_what_was_there(path, monkeypatch, interrupt, before):
    for name in before:
        path.with_name(name).write_bytes(b'of another model')
    with pytest.raises(KeyboardInterrupt):
        calibrate(interrupt(monkeypatch), PIECES, path)
    assert os.listdir(path.parent) == before
    assert all(path.with_name(name).read_bytes() == b'of another model' for name in before)


def test_left_overs_of_a_killed_run_are_cleared(path):
    left = path.with_name(f'.{path.name}.partial')
    left.mkdir()
    (left / 'decoder.onnx.data').write_bytes(b'half of it')
    calibrate(tiny(), PIECES, path)
    assert os.listdir(path.parent) == [path.name]


def test_two_calibrations_at_once_do_not_meet(path):
    under_way = path.with_name(f'.{path.name}.partial')
    under_way.mkdir()
    with locked(under_way), pytest.raises(ArtifactError, match='another process is writing'):
        calibrate(tiny(), PIECES, path)
    assert under_way.exists() and not path.exists()


@pytest.mark.parametrize(('lengths', 'message'), [
    ([], 'has 0 pieces .* and 0 tokens'), ([1, 0, 1], 'has 0 pieces .* and 0 tokens'),
    ([200] * 6, 'has 6 pieces .* and 1200 tokens'), ([20] * 10, 'has 10 pieces .* and 180 tokens'),
    ([511, 1, 300], 'has 4 pieces .* and 811 tokens'),
    ([86, 85, 85, 85, 85, 85, 9], 'has 7 pieces .* and 511 tokens')], ids=str)
def test_text_that_is_too_short_is_refused_with_its_numbers(path, lengths, message):
    with pytest.raises(ConfigError, match=rf'{message} to calibrate on; it needs 7 and 512'):
        calibrate(tiny(), some_pieces(*lengths), path)
    assert os.listdir(path.parent) == []


def test_shortest_text_that_will_do_is_taken(path):
    calibration = calibrate(tiny(), some_pieces(*[86, 86, 85, 85, 85, 85, 2]), path)
    assert calibration.inputs('logits').shape == (512, 64)
    assert len(calibration.held_out_losses) == 1


@pytest.mark.parametrize('name', [EMBEDDING, 'model.layers.1.mlp.down_proj.weight', LAST])
def test_weight_that_is_not_finite_is_named(path, name):
    with pytest.raises(ModelError, match=f'{name} holds a number that is not finite'):
        calibrate(ChangedCheckpoint(tiny(), {name: set_nan}), PIECES, path)
    assert os.listdir(path.parent) == []


def test_activations_past_half_precision_are_clipped(path):
    huge = ChangedCheckpoint(tiny(), {
        'model.norm.weight': lambda weight: np.multiply(weight, 1e6, weight)})
    inputs = calibrate(huge, PIECES, path).inputs('logits')
    assert np.abs(inputs).max() == 65504


def test_channel_of_zeros_stays_zero(path):
    def clear(weight):
        weight[5] = 0
    dead = ChangedCheckpoint(tiny(), {'model.layers.0.mlp.up_proj.weight': clear})
    inputs = calibrate(dead, PIECES, path).inputs('layer.0/mlp/down')
    assert not inputs[:, 5].any() and inputs[:, 6].any()


def test_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'diary.txt').write_text('dear diary')
    with pytest.raises(ArtifactError, match=r'diary.txt/x could not be written: .*Not a dir'):
        calibrate(tiny(), PIECES, tmp_path / 'diary.txt' / 'x')


def test_file_that_cannot_grow_leaves_nothing_behind(path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, before[1]))  # the graph would still fit
    try:
        with pytest.raises(ArtifactError, match=f'{path} could not be written: .*too large'):
            calibrate(tiny(), some_pieces(*[170] * 7), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(path.parent) == []
