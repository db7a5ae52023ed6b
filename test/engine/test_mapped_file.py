"""Weights that change while a library has them mapped are an error, no signal and no answer."""

import os
from pathlib import Path
import subprocess
import sys

import numpy as np
import pytest
from support.tiny_models import tiny, write_folder, write_gguf

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.manifest import WEIGHTS
from tinyllama_ros.engine.backend import open_backend
from tinyllama_ros.engine.engine import Engine
from tinyllama_ros.engine.mapped_file import MappedFile
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.errors import BackendError, BackendLost, ModelError
from tinyllama_ros.kernels import find_library
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.checkpoints.gguf_checkpoint import GgufCheckpoint
from tinyllama_ros.workbench.checkpoints.safetensors_checkpoint import SafetensorsCheckpoint
from tinyllama_ros.workbench.options import BuildOptions

NORM = 'model.norm.weight'
# A process of its own, because a read beyond the end of a mapped file ends the process.
RUN_CUT_FILES = """
import os, sys
from pathlib import Path
import numpy as np
from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.engine.onnx import OnnxBackend
from tinyllama_ros.errors import BackendLost, ModelError
from tinyllama_ros.workbench.checkpoints.gguf_checkpoint import GgufCheckpoint
from tinyllama_ros.workbench.checkpoints.safetensors_checkpoint import SafetensorsCheckpoint

for folder in map(Path, sys.argv[2:]):
    for own_kernels in (True, False):
        artifact = Artifact.open(folder)
        backend = OnnxBackend(artifact, threads=1, own_kernels=own_kernels)
        content = (folder / 'decoder.onnx.data').read_bytes()
        os.truncate(folder / 'decoder.onnx.data', 100)
        try:
            backend.forward(np.arange(1, 17), 0)
        except BackendLost as error:
            print(error)
        (folder / 'decoder.onnx.data').write_bytes(content)
for kind, path in ((GgufCheckpoint, Path(sys.argv[1], 'm.gguf')),
                   (SafetensorsCheckpoint, Path(sys.argv[1], 'folder'))):
    checkpoint = kind(path)
    os.truncate(path if path.is_file() else path / 'model.safetensors', 5000)
    try:
        checkpoint.tensor('model.norm.weight')
    except ModelError as error:
        print(error)
"""


@pytest.fixture
def folders(tmp_path) -> list[Path]:
    for name in ('w8a8', 'fp32'):
        build(tiny(), tmp_path / name, BuildOptions(
            name=name, quantization=name, kv_length=32, smoothing='none'))
    return [tmp_path / 'w8a8', tmp_path / 'fp32']


@pytest.fixture
def artifact(folders) -> Artifact:
    return Artifact.open(folders[0])


@pytest.mark.skipif(not find_library(), reason='nothing compiled the kernels, which guard files')
def test_file_that_is_cut_short_while_it_is_mapped_is_an_error_and_no_signal(folders, tmp_path):
    write_gguf(tmp_path / 'm.gguf', tiny())
    (tmp_path / 'folder').mkdir()
    write_folder(tmp_path / 'folder', tiny())
    done = subprocess.run([sys.executable, '-c', RUN_CUT_FILES, tmp_path, *folders],
                          capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, '')
    *weights, gguf, safetensors = done.stdout.splitlines()
    assert len(weights) == 4
    assert all('data was altered or cut short while the model ran' in line for line in weights)
    assert 'm.gguf was altered or cut short while it was read; build again' in gguf
    assert 'model.safetensors is cut short or altered' in safetensors


@pytest.mark.parametrize('kind', [GgufCheckpoint, SafetensorsCheckpoint])
def test_checkpoint_that_is_overwritten_while_it_is_read_is_an_error(tmp_path, kind):
    write_folder(tmp_path, tiny())
    path = tmp_path / 'model.safetensors'
    if kind is GgufCheckpoint:
        path = write_gguf(tmp_path / 'm.gguf', tiny())
    checkpoint = kind(path if kind is GgufCheckpoint else tmp_path)
    checkpoint.tensor(NORM)
    with path.open('r+b') as file:
        file.seek(-4, os.SEEK_END)
        file.write(b'abcd')
    with pytest.raises(ModelError, match='was altered or cut short while it was read'):
        checkpoint.tensor(NORM)


def test_weights_that_are_overwritten_are_lost_until_they_are_as_before(artifact):
    engine = Engine(lambda: open_backend('onnx', artifact, threads=1))
    list(engine.prefill([1, 2, 3]))
    before, content = engine._logits.copy(), (artifact.folder / WEIGHTS).read_bytes()
    (artifact.folder / WEIGHTS).write_bytes(bytes(len(content)))
    with pytest.raises(BackendLost, match=rf'{WEIGHTS} was altered or cut short while'):
        list(engine.prefill([4, 5, 6]))
    with pytest.raises(BackendError, match=f'{WEIGHTS} was altered or replaced since it was'):
        engine.reopen()
    (artifact.folder / WEIGHTS).write_bytes(content)
    engine.reopen()
    list(engine.prefill([1, 2, 3]))
    np.testing.assert_array_equal(engine._logits, before)
    engine.close()


def replace(path: Path) -> None:
    """Put another file in the place of one, as whoever builds an artifact does."""
    path.with_name('new').write_bytes(b'other weights')
    path.with_name('new').replace(path)


@pytest.mark.parametrize('touch', [
    replace, Path.unlink, os.utime, lambda path: os.link(path, path.with_name('link'))],
    ids=['replaced', 'deleted', 'touched', 'linked'])
def test_weights_whose_content_stays_go_on(artifact, touch):
    backend = OnnxBackend(artifact, threads=1)
    before = backend.forward(np.array([1, 2, 3]), 0).copy()
    touch(artifact.folder / WEIGHTS)
    np.testing.assert_array_equal(backend.forward(np.array([1, 2, 3]), 0), before)
    backend.close()


def test_file_of_an_artifact_that_is_gone_is_named(artifact):
    (artifact.folder / WEIGHTS).unlink()
    with pytest.raises(BackendError, match=f'{WEIGHTS} cannot be read.*build the artifact again'):
        MappedFile.of(artifact, WEIGHTS)
