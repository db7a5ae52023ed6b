"""A build makes the same artifact from the same weights, in little memory, or leaves no trace."""

from collections.abc import Callable
import os
from pathlib import Path
import signal
import subprocess
import sys

import numpy as np
from numpy.typing import NDArray
import onnx
import pytest
from support import numpy_llama
from support.paths import TEST
from support.probes import ChangedCheckpoint
from support.tiny_models import tiny, write_folder, write_gguf

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.manifest import WEIGHTS
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.errors import ArtifactError, ConfigError, ModelError
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint
from tinyllama_ros.workbench.checkpoints.gguf_checkpoint import GgufCheckpoint
from tinyllama_ros.workbench.checkpoints.random_checkpoint import RandomCheckpoint
from tinyllama_ros.workbench.checkpoints.safetensors_checkpoint import SafetensorsCheckpoint
from tinyllama_ros.workbench.options import BuildOptions

MEGABYTE = 1 << 20
CHECKPOINTS: dict[str, Callable[[Path], Checkpoint]] = {
    'random': lambda folder: tiny(),
    'gguf': lambda folder: GgufCheckpoint(write_gguf(folder / 'm.gguf', tiny())),
    'safetensors': lambda folder: SafetensorsCheckpoint(write_folder(folder, tiny()))}


def make(folder: Path, checkpoint: Checkpoint, quantization: str = 'w8a8', kv_length: int = 64,
         **options: object) -> Artifact:
    build(checkpoint, folder, BuildOptions(
        name='tiny', quantization=quantization, kv_length=kv_length, **options))
    return Artifact.open(folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class Broken(Checkpoint):
    """A checkpoint with one weight that is not as it should be."""

    def __init__(self, weight: str, action: Callable[[NDArray[np.float32]], object]) -> None:
        self._whole = tiny()
        self._weight, self._action = weight, action
        self.architecture, self.tokenizer = self._whole.architecture, self._whole.tokenizer

    def tensor(self, name: str) -> NDArray[np.float32]:
        weight = self._whole.tensor(name)
        if name == self._weight:
            self._action(weight)
        return weight


def fail(weight: NDArray[np.float32]) -> None:
    raise ModelError('the last weight is cut short')


def set_nan(weight: NDArray[np.float32]) -> None:
    weight[3, 1] = np.nan


@pytest.mark.parametrize('quantization', ['fp32', 'w8a8'])
@pytest.mark.parametrize('source', CHECKPOINTS)
def test_same_weights_make_the_same_artifact(tmp_path, source, quantization):
    (tmp_path / 'source').mkdir()
    checkpoint = CHECKPOINTS[source](tmp_path / 'source')
    expected = make(tmp_path / 'expected', tiny(), quantization).manifest
    found = make(tmp_path / 'found', checkpoint, quantization).manifest
    for name in ('decoder.onnx', WEIGHTS):
        assert found.files[name] == expected.files[name]


@pytest.mark.parametrize('quantization', ['fp32', 'w8a8'])
def test_manifest_says_what_was_built(tmp_path, quantization):
    manifest = make(tmp_path / 'tiny', tiny(), quantization).manifest
    assert (manifest.name, manifest.quantization, manifest.dialect, manifest.kv_length) == (
        'tiny', quantization, 'cpu', 64)
    assert manifest.architecture == tiny().architecture
    assert manifest.tokenizer == tiny().tokenizer.settings


@pytest.mark.parametrize(('options', 'chunk_sizes'), [
    ({}, (1, 16, 64)), ({'chunk_sizes': (1, 8)}, (1, 8)), ({'target': 'ascend'}, (1,)),
    ({'target': 'ascend', 'chunk_sizes': (1, 16)}, (1, 16))], ids=str)
def test_manifest_says_what_it_was_built_for(tmp_path, options, chunk_sizes):
    manifest = make(tmp_path / 'tiny', tiny(), **options).manifest
    assert (manifest.dialect, manifest.chunk_sizes) == (
        options.get('target', 'cpu'), chunk_sizes)


@pytest.mark.parametrize('quantization', ['fp32', 'fp16', 'w8a8'])
def test_same_weights_make_the_same_artifact_for_ascend(tmp_path, quantization):
    one, other = (make(tmp_path / name, tiny(), quantization, target='ascend').manifest.files
                  for name in ('one', 'other'))
    assert one == other


def test_tokenizer_is_copied_to_the_letter(tmp_path):
    artifact = make(tmp_path / 'tiny', tiny())
    assert artifact.tokenizer.read_bytes() == tiny().tokenizer.content


def test_graph_is_small_and_its_weights_begin_at_pages(tmp_path):
    artifact = make(tmp_path / 'tiny', tiny())
    graph = onnx.load(artifact.graph, load_external_data=False).graph
    offsets = [int(entry.value) for tensor in graph.initializer for entry in tensor.external_data
               if entry.key == 'offset']
    assert len(offsets) > 10
    assert all(offset % 4096 == 0 for offset in offsets)
    assert artifact.graph.stat().st_size < artifact.folder.joinpath(WEIGHTS).stat().st_size / 4


@pytest.mark.parametrize(('quantization', 'size'), [('fp32', 4), ('w8a8', 2)])
def test_tied_table_is_stored_once(tmp_path, quantization, size):
    tied, untied = (make(tmp_path / str(tied), tiny(tied_embeddings=tied), quantization)
                    for tied in (True, False))
    table = size * tied.manifest.architecture.vocab_size * tied.manifest.architecture.hidden
    saved = untied.manifest.files[WEIGHTS].size - tied.manifest.files[WEIGHTS].size
    assert abs(saved - table) < 4096


def test_build_takes_the_place_of_an_older_one(tmp_path):
    make(tmp_path / 'tiny', tiny(), kv_length=64)
    assert make(tmp_path / 'tiny', tiny(), kv_length=128).manifest.kv_length == 128


def test_empty_folder_may_be_built_into(tmp_path):
    (tmp_path / 'tiny').mkdir()
    make(tmp_path / 'tiny', tiny())


@pytest.mark.parametrize(('changes', 'error', 'message'), [
    ({'quantization': 'int4'}, ConfigError, r"'int4' is unknown for the target cpu; known: w8a8"),
    ({'quantization': 'fp16'}, ConfigError, r"'fp16' is unknown for the target cpu; known: w8a8"),
    ({'target': 'tpu'}, ConfigError, r"target 'tpu' is unknown; known: cpu, ascend"),
    ({'chunk_sizes': (16, 1)}, ModelError, r'chunk_sizes are \(16, 1\); they must ascend'),
    ({'kv_length': 1}, ModelError, r'kv_length is 1; a cache needs at least 2'),
    ({'kv_length': 513}, ModelError, r'kv_length is 513; tiny was trained on at most 512'),
], ids=str)
def test_unfit_options_are_refused_before_anything_is_written(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        make(tmp_path / 'tiny', tiny(), **changes)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('head_dim', [8, 20, 24, 100, 120])
@pytest.mark.parametrize('quantization', ['fp32', 'w8a8'])
def test_head_dim_that_onnx_runtime_cannot_run_is_refused_before_a_weight_is_read(
        tmp_path, head_dim, quantization):
    checkpoint = ChangedCheckpoint(tiny(head_dim=head_dim), {'model.embed_tokens.weight': fail})
    with pytest.raises(ModelError, match=f'head_dim is {head_dim}; ONNX Runtime on a CPU runs '
                                         'only multiples of 16: build for the target ascend'):
        make(tmp_path / 'tiny', checkpoint, quantization)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize('head_dim', [16, 48, 80, 112])
def test_head_dim_of_any_multiple_of_16_runs_on_a_cpu(tmp_path, head_dim):
    checkpoint = tiny(head_dim=head_dim)
    backend = OnnxBackend(make(tmp_path / 'tiny', checkpoint, 'fp32'))
    tokens = np.arange(9, 29)
    found = np.concatenate([backend.forward(tokens[:16], 0, logits=16).copy(),
                            backend.forward(tokens[16:], 16, logits=4)])
    backend.close()
    np.testing.assert_allclose(found, numpy_llama.logits(checkpoint, tokens), atol=1e-3)


def test_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / 'diary.txt').write_text('dear diary')
    with pytest.raises(ArtifactError, match='exists and is not an artifact.*; choose'):
        make(tmp_path, tiny())
    assert os.listdir(tmp_path) == ['diary.txt']


def test_file_in_the_folders_place_is_left_alone(tmp_path):
    (tmp_path / 'tiny').write_text('dear diary')
    with pytest.raises(ArtifactError, match='/tiny exists and is not an artifact.*; choose'):
        make(tmp_path / 'tiny', tiny())
    assert (tmp_path / 'tiny').read_text() == 'dear diary'


@pytest.mark.parametrize(('weight', 'action', 'message'), [
    ('lm_head.weight', fail, 'the last weight is cut short'),
    ('model.layers.1.self_attn.k_proj.weight', set_nan, r'k_proj.weight holds .* not finite'),
    ('lm_head.weight', set_nan, 'lm_head.weight holds .* not finite'),
], ids=['cut_short', 'nan_in_a_layer', 'nan_in_the_head'])
def test_damaged_checkpoint_leaves_the_old_artifact(tmp_path, weight, action, message):
    before = contents(make(tmp_path / 'tiny', tiny()).folder)
    with pytest.raises(ModelError, match=message):
        make(tmp_path / 'tiny', Broken(weight, action))
    assert contents(tmp_path / 'tiny') == before
    assert os.listdir(tmp_path) == ['tiny']


def run(program: str, *arguments: object) -> 'subprocess.CompletedProcess[str]':
    """Run a program with this test's imports in a process of its own."""
    folder = Path(__file__).parent
    path = os.pathsep.join([str(folder), str(TEST)])
    return subprocess.run([sys.executable, '-c', f'from test_build import *\n{program}',
                           *map(str, arguments)], capture_output=True, text=True,
                          env=os.environ | {'PYTHONPATH': path})


def test_killed_build_leaves_the_old_artifact(tmp_path):
    before = contents(make(tmp_path / 'tiny', tiny()).folder)
    ended = run('make(Path(sys.argv[1]), Broken("lm_head.weight",'
                ' lambda weight: os.kill(os.getpid(), signal.SIGKILL)))', tmp_path / 'tiny')
    assert ended.returncode == -signal.SIGKILL
    assert contents(tmp_path / 'tiny') == before
    make(tmp_path / 'tiny', tiny())
    assert os.listdir(tmp_path) == ['tiny']


def test_file_that_cannot_grow_leaves_the_old_artifact(tmp_path):
    before = contents(make(tmp_path / 'tiny', tiny()).folder)
    ended = run('import resource\n'
                'resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))\n'
                'make(Path(sys.argv[1]), tiny())', tmp_path / 'tiny')
    assert 'ArtifactError' in ended.stderr and 'tiny could not be written' in ended.stderr
    assert contents(tmp_path / 'tiny') == before


def peak() -> int:
    """
    Return the most memory (bytes) that this process held so far.

    Not getrusage: it counts what the parent held when this process was started.
    """
    status = Path('/proc/self/status').read_text()
    return 1024 * int(status.partition('VmHWM:')[2].split()[0])


def measure(folder: Path, target: str, quantization: str, head: str) -> None:
    """Print the bytes that a build held, and those of its model in fp16."""
    make(folder / 'warm', tiny(), quantization, target=target)
    shape = tiny(layers=6, hidden=512, ffn=1536, heads=8, head_dim=64, vocab_size=32000,
                 tied_embeddings=head == 'tied').architecture
    before = peak()
    make(folder / 'large', RandomCheckpoint(shape, tiny().tokenizer), quantization, target=target)
    numbers = sum(int(np.prod(each)) for each in shape.weight_shapes().values())
    print(peak() - before, 2 * numbers)


@pytest.mark.parametrize(('target', 'quantization'), [
    ('cpu', 'fp32'), ('cpu', 'w8a8'), ('ascend', 'fp16'), ('ascend', 'w8a8')])
@pytest.mark.parametrize('head', ['tied', 'untied'])
def test_build_holds_less_than_twice_the_model_in_fp16(tmp_path, target, quantization, head):
    ended = run('measure(Path(sys.argv[1]), *sys.argv[2:])', tmp_path, target, quantization, head)
    held, fp16_size = map(int, ended.stdout.split())
    assert fp16_size > 60 * MEGABYTE
    assert held < 2 * fp16_size
