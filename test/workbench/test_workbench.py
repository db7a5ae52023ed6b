"""An artifact is smoothed, quantised and measured in one step, or not made at all."""

from dataclasses import replace
import os

import numpy as np
import onnx
import pytest
from support import numpy_llama
from support.probes import ChangedCheckpoint, oracle_losses, set_nan
from support.smoothing import with_outliers
from support.tiny_models import sentencepiece_tokenizer, tiny
from support.tiny_tokenizers import CORPUS

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.errors import ArtifactError, ConfigError, ModelError
from tinyllama_ros.workbench import make as workbench
from tinyllama_ros.workbench.checkpoints.random_checkpoint import RandomCheckpoint
from tinyllama_ros.workbench.make import calibration_pieces, make_artifact
from tinyllama_ros.workbench.options import BuildOptions
from tinyllama_ros.workbench.quantization.calibrate import held_out

TEXT = '\n---\n'.join(f'{number}. {sentence} ' * 3 for number, sentence in enumerate(CORPUS[:14]))
SMOOTHINGS = ['refined', 'searched', '0.5']


@pytest.fixture
def text(tmp_path):
    path = tmp_path / 'text.txt'
    path.write_text(TEXT)
    return path


@pytest.fixture
def make(tmp_path, text):
    """Return a function that makes an artifact and opens it."""
    def make(checkpoint=None, name='tiny', quantization='w8a8', kv_length=512, **options):
        make_artifact(checkpoint or tiny(), tmp_path / name, BuildOptions(
            name=name, kv_length=kv_length, quantization=quantization,
            **{'text': text} | options))
        return Artifact.open(tmp_path / name)
    return make


def logits(artifact, tokens):
    backend = OnnxBackend(artifact, threads=1)
    chunks = {start: np.array(tokens[start:start + 64]) for start in range(0, len(tokens), 64)}
    found = [backend.forward(chunk, start, logits=len(chunk)).copy()
             for start, chunk in chunks.items()]
    backend.close()
    return np.concatenate(found).astype(np.float64)


def losses(artifact, tokens):
    """Return what an artifact's graph loses on every token but the first, in nats."""
    found = logits(artifact, tokens)[:-1]
    return np.log(np.exp(found).sum(axis=1)) - found[np.arange(len(found)), tokens[1:]]


@pytest.mark.parametrize('kv_length', [512, 64], ids=['whole_pieces', 'as_far_as_the_cache_goes'])
@pytest.mark.parametrize('smoothing', SMOOTHINGS)
def test_manifest_says_what_was_lost_on_held_out_text(make, text, smoothing, kv_length):
    artifact = make(smoothing=smoothing, kv_length=kv_length)
    pieces = [piece[:kv_length] for piece in held_out(calibration_pieces(tiny(), text))]
    loss = artifact.manifest.held_out
    assert loss.tokens == sum(len(piece) - 1 for piece in pieces)
    fp32 = np.concatenate([oracle_losses(tiny(), piece) for piece in pieces]).mean()
    quantized = np.concatenate([losses(artifact, piece) for piece in pieces]).mean()
    assert (loss.fp32, loss.quantized) == pytest.approx((fp32, quantized), abs=1e-5)


def test_text_of_the_test_is_longer_than_a_short_cache(text):
    assert max(map(len, held_out(calibration_pieces(tiny(), text)))) > 64


def test_ascend_artifact_is_smoothed_and_says_what_its_codes_lose(make, tmp_path):
    cpu, ascend = (make(name=target, target=target, w8a16='all') for target in ('cpu', 'ascend'))
    assert ascend.manifest.held_out == cpu.manifest.held_out is not None
    codes = [_codes(cpu).T, _codes(ascend)]
    np.testing.assert_array_equal(*codes)
    plain = make(name='plain', target='ascend', smoothing='none')
    assert (_codes(plain) != codes[1]).any()
    assert not list(tmp_path.glob('.*'))


def _codes(artifact):
    """Return the int8 weight of one linear: (out, in) for a CPU, (in, out) for Ascend."""
    graph = onnx.load(artifact.graph).graph
    return next(onnx.numpy_helper.to_array(each) for each in graph.initializer
                if each.name.startswith('layer.0/mlp/gate_up')
                and each.data_type == onnx.TensorProto.INT8)


@pytest.mark.parametrize('options', [{'smoothing': 'none'}, {'quantization': 'fp32'},
                                     {'quantization': 'fp16', 'target': 'ascend'}], ids=str)
def test_what_is_not_smoothed_is_not_calibrated(make, tmp_path, options):
    assert make(**options).manifest.held_out is None
    assert sorted(os.listdir(tmp_path)) == ['text.txt', 'tiny']


@pytest.mark.parametrize('tied', [True, False], ids=['tied', 'untied'])
def test_outliers_cost_next_to_nothing(make, text, tied):
    checkpoint = with_outliers(tiny(tied_embeddings=tied))
    tokens = calibration_pieces(checkpoint, text)[6]
    exact = numpy_llama.logits(checkpoint, tokens)
    plain, refined = (np.sqrt(np.square(logits(make(checkpoint, how, smoothing=how), tokens)
                                        - exact).mean()) for how in ('none', 'refined'))
    assert refined < plain / 10


def test_embedding_tied_to_a_smoothed_head_is_read_out_of_its_codes(make):
    checkpoint = tiny(tied_embeddings=True)
    weights, ascend = ({each.name: onnx.numpy_helper.to_array(each)
                        for each in onnx.load(artifact.graph).graph.initializer}
                       for artifact in (make(checkpoint, target, target=target)
                                        for target in ('cpu', 'ascend')))
    rows = weights['logits/weight'] * weights['logits/scale'][:, None] * weights['embed/gain']
    embedding = checkpoint.tensor('model.embed_tokens.weight')
    assert 'embed/weight' not in weights
    assert np.square(rows - embedding).mean() < 0.02 ** 2 * np.square(embedding).mean()
    np.testing.assert_array_equal(rows.astype(np.float16), ascend['embed/weight'])


def test_rounding_comes_nearer_to_fp32_than_the_nearest_codes(make, text, monkeypatch):
    tokens = [token for piece in held_out(calibration_pieces(tiny(), text)) for token in piece]
    exact = numpy_llama.logits(tiny(), tokens)
    rounded = np.square(logits(make(w8a16='all'), tokens) - exact).mean()
    monkeypatch.setattr(workbench, 'RoundedCheckpoint', lambda smoothed, inputs: smoothed)
    nearest = np.square(logits(make(w8a16='all'), tokens) - exact).mean()
    assert rounded < 0.8 * nearest


def test_smoothing_makes_another_artifact_from_the_same_calibration(make, tmp_path):
    weights, written = set(), set()
    for smoothing in (*SMOOTHINGS, 'none', '0.6'):
        weights.add(make(smoothing=smoothing).manifest.files['decoder.onnx.data'].sha256)
        written.add((tmp_path / 'tiny.calibration.safetensors').stat().st_mtime_ns)
    assert (len(weights), len(written)) == (5, 1)


def test_builds_of_a_model_for_both_targets_share_their_calibration(tmp_path, text):
    written = set()
    for target in ('cpu', 'ascend'):
        make_artifact(tiny(), tmp_path / target, BuildOptions(
            name='tiny', quantization='w8a8', kv_length=64, target=target, text=text))
        written.add((tmp_path / 'tiny.calibration.safetensors').stat().st_mtime_ns)
    assert len(written) == len(list(tmp_path.glob('*.calibration.safetensors'))) == 1


def test_same_options_make_the_same_artifact(make):
    one, other = make(name='one').manifest, make(name='other').manifest
    assert (one.files, one.held_out) == (other.files, other.held_out)


def test_pieces_are_parted_by_lines_of_three_hyphens(tmp_path):
    path = tmp_path / 'text.txt'
    path.write_text('one\n---\n \n\n---\ntwo --- and\n----\na half\n---\n')
    pieces = calibration_pieces(tiny(), path)
    alone = []
    for content in ('one', 'two --- and\n----\na half'):
        path.write_text(content)
        alone += calibration_pieces(tiny(), path)
    assert pieces == alone and len(pieces) == 2


def test_either_vocabulary_reads_the_text(text):
    checkpoint = RandomCheckpoint(tiny().architecture, sentencepiece_tokenizer())
    assert len(calibration_pieces(checkpoint, text)) == 14


def test_own_text_has_pieces_enough():
    pieces = calibration_pieces(tiny(), None)
    assert len(pieces) >= 100
    assert len(held_out(pieces)) >= 10


@pytest.mark.parametrize('smoothing', ['1.5', '-0.5', 'nan', 'strong'])
@pytest.mark.parametrize('quantization', ['w8a8', 'fp32'])
def test_unknown_smoothing_is_refused_before_anything_is_read(make, tmp_path, smoothing,
                                                              quantization):
    with pytest.raises(ConfigError, match=f"smoothing is '{smoothing}'; it must be refined, sea"):
        make(smoothing=smoothing, quantization=quantization, text=tmp_path / 'missing.txt')
    assert os.listdir(tmp_path) == ['text.txt']


@pytest.mark.parametrize(('content', 'message'), [
    (None, 'text.txt cannot be read as UTF-8 text: .*No such file'),
    (b'\xff\xfe', 'text.txt cannot be read as UTF-8 text: .*invalid start byte'),
    (b'', 'has 0 pieces .* and 0 tokens to calibrate on; it needs 7 and 512'),
    (b' \n---\n\n', 'has 0 pieces'),
    (b'Hello, robot.\n---\n' * 9, r'has 9 pieces .* and \d\d tokens to calibrate on')],
    ids=['missing', 'not_utf_8', 'empty', 'blank', 'tiny'])
def test_text_that_will_not_do_is_refused(make, text, tmp_path, content, message):
    text.unlink()
    if content is not None:
        text.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        make()
    assert os.listdir(tmp_path) == ([] if content is None else ['text.txt'])


def test_weight_that_is_not_finite_leaves_nothing(make, tmp_path):
    with pytest.raises(ModelError, match='v_proj.weight holds a number that is not finite'):
        make(ChangedCheckpoint(tiny(), {'model.layers.0.self_attn.v_proj.weight': set_nan}))
    assert os.listdir(tmp_path) == ['text.txt']


@pytest.mark.parametrize('smoothing', SMOOTHINGS)
def test_channels_of_zeros_lose_as_little_as_any(make, text, smoothing):
    def clear(weight):
        weight[3] = 0
    names = [name for name, shape in tiny().architecture.weight_shapes().items()
             if len(shape) == 2 or 'norm' in name]
    checkpoint = ChangedCheckpoint(tiny(), dict.fromkeys(names, clear))
    tokens = calibration_pieces(checkpoint, text)[6]
    exact = numpy_llama.logits(checkpoint, tokens)
    found = logits(make(checkpoint, smoothing=smoothing), tokens)
    assert np.sqrt(np.square(found - exact).mean()) < 0.05 * exact.std()


@pytest.mark.parametrize('read', [1, 2, 3, 4], ids=['telling', 'calibrating', 'smoothing',
                                                    'building'])
def test_interruption_leaves_the_old_artifact(make, tmp_path, read):
    def stop(weight):
        reads.append(weight)
        if len(reads) == read:
            raise KeyboardInterrupt
    reads = []
    before = make(smoothing='none').manifest
    with pytest.raises(KeyboardInterrupt):
        make(ChangedCheckpoint(tiny(), {'lm_head.weight': stop}))
    assert Artifact.open(tmp_path / 'tiny').manifest == before
    assert not [name for name in os.listdir(tmp_path) if name.endswith(('.partial', '.part'))]


@pytest.mark.parametrize('head_dim', [8, 20, 24, 100, 120])
def test_head_dim_that_cannot_be_calibrated_is_refused_before_a_weight_is_read(make, tmp_path,
                                                                               head_dim):
    def read(weight):
        raise AssertionError('a weight was read')
    names = tiny().architecture.weight_shapes()
    checkpoint = ChangedCheckpoint(tiny(head_dim=head_dim), dict.fromkeys(names, read))
    with pytest.raises(ModelError, match=f'head_dim is {head_dim}; .*calibrated on a CPU.* fp16'):
        make(checkpoint, target='ascend')
    assert os.listdir(tmp_path) == ['text.txt']
    make(tiny(head_dim=head_dim), target='ascend', smoothing='none')


def test_template_that_cannot_be_rendered_is_refused_before_a_weight_is_read(make, tmp_path):
    def read(weight):
        raise AssertionError('a weight was read')
    names = tiny().architecture.weight_shapes()
    checkpoint = ChangedCheckpoint(tiny(), dict.fromkeys(names, read))
    settings = replace(checkpoint.tokenizer.settings, chat_template='{{ nothing() }}')
    checkpoint.tokenizer = replace(checkpoint.tokenizer, settings=settings)
    with pytest.raises(ModelError, match='chat template of the model fails'):
        make(checkpoint)
    assert os.listdir(tmp_path) == ['text.txt']


def test_what_cannot_be_built_is_refused_before_the_calibration(tmp_path):
    (tmp_path / 'diary.txt').write_text('dear diary')
    with pytest.raises(ArtifactError, match='exists and is not an artifact'):
        make_artifact(tiny(), tmp_path, BuildOptions(
            name='tiny', quantization='w8a8', kv_length=64))
    with pytest.raises(ModelError, match='kv_length is 4096'):
        make_artifact(tiny(), tmp_path / 'out', BuildOptions(
            name='tiny', quantization='w8a8', kv_length=4096))
    assert sorted(os.listdir(tmp_path)) == ['diary.txt']
    assert not list(tmp_path.parent.glob('*.calibration.safetensors'))
