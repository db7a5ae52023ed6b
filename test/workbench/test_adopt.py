"""An .om from elsewhere becomes an artifact."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from support import numpy_llama
from support.paths import SIMULATOR
from support.tiny_models import tiny, write_tokenizer

from tinyllama_ros.artifact.folder import Artifact
from tinyllama_ros.artifact.manifest import OM
from tinyllama_ros.cann.atc import plan_conversion
from tinyllama_ros.commands.cli import main
from tinyllama_ros.engine.acl.backend import AclBackend
from tinyllama_ros.errors import ArtifactError, ModelError
from tinyllama_ros.workbench.adopt import adopt
from tinyllama_ros.workbench.build import build
from tinyllama_ros.workbench.options import BuildOptions

import acl  # isort: skip  # after ascend, which puts it on the path
from acl import simulator  # isort: skip

CONFIG = {'model_type': 'llama', 'num_hidden_layers': 2, 'hidden_size': 64,
          'intermediate_size': 96, 'num_attention_heads': 4, 'num_key_value_heads': 2,
          'vocab_size': tiny().architecture.vocab_size, 'max_position_embeddings': 512,
          'rms_norm_eps': 1e-5}


@pytest.fixture
def om(tmp_path):
    path = tmp_path / 'tiny-llama.om'
    path.write_bytes(b'compiled elsewhere')
    return path


@pytest.fixture
def words(tmp_path):
    folder = tmp_path / 'words'
    folder.mkdir()
    write_tokenizer(folder, tiny().tokenizer)
    (folder / 'config.json').write_text(json.dumps(CONFIG))
    return folder


def test_adopted_artifact_says_what_the_files_say(om, words, tmp_path):
    adopt(om, words, tmp_path / 'out', kv_length=48, soc_version='Ascend310B1')
    artifact = Artifact.open(tmp_path / 'out')
    manifest = artifact.manifest
    assert artifact.om.read_bytes() == b'compiled elsewhere'
    assert (manifest.dialect, manifest.kv_length, manifest.chunk_sizes) == ('ascend', 48, (1,))
    assert (manifest.architecture.layers, manifest.architecture.head_dim) == (2, 16)
    assert manifest.tokenizer == tiny().tokenizer.settings
    assert manifest.om.soc_version == 'Ascend310B1'


def test_adopted_om_is_not_there_twice(om, words, tmp_path):
    adopt(om, words, tmp_path / 'out', kv_length=48)
    assert (tmp_path / 'out' / OM).samefile(om)


def test_adopted_om_that_is_altered_is_refused(om, words, tmp_path):
    adopt(om, words, tmp_path / 'out', kv_length=48)
    om.write_bytes(b'compiled elsewhere, later')
    with pytest.raises(ArtifactError, match=r'decoder.om has 25 bytes, its manifest says 18'):
        Artifact.open(tmp_path / 'out')


def test_missing_om_is_named(words, tmp_path):
    with pytest.raises(ArtifactError, match=r'nope\.om does not exist; give the path'):
        adopt(tmp_path / 'nope.om', words, tmp_path / 'out', kv_length=48)


@pytest.mark.parametrize('name', ['config.json', 'tokenizer_config.json', 'tokenizer.json'])
def test_folder_that_lacks_a_file_is_refused_by_name(om, words, tmp_path, name):
    (words / name).unlink()
    with pytest.raises(ModelError, match=name):
        adopt(om, words, tmp_path / 'out', kv_length=48)
    assert not (tmp_path / 'out').exists()


def test_folder_that_holds_something_else_is_left_alone(om, words, tmp_path):
    with pytest.raises(ArtifactError, match='exists and is not an artifact'):
        adopt(om, words, words, kv_length=48)


def test_command_prints_the_folder_of_the_artifact(om, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('TINYLLAMA_ROS_CACHE', str(tmp_path))
    assert main(['adopt', str(om), '--tokenizer', str(words), '--kv-length', '48', '--chunks',
                 '1,16']) == 0
    folder = tmp_path / 'artifacts' / 'tiny-llama'
    assert capsys.readouterr().out == f'{folder}\n'
    manifest = Artifact.open(folder).manifest
    assert (manifest.kv_length, manifest.chunk_sizes) == (48, (1, 16))


def compile_elsewhere(folder, chunk_sizes):
    """Return an .om as others make it: logits in float16, and a third output."""
    build(tiny(), folder, BuildOptions(
        name='x', quantization='fp32', kv_length=48, target='ascend', chunk_sizes=chunk_sizes))
    artifact = Artifact.open(folder)
    model = onnx.load(artifact.graph, load_external_data=False)
    graph, half = model.graph, onnx.TensorProto.FLOAT16
    for node in graph.node:
        node.output[:] = [f'{name}/wide' if name == 'logits' else name for name in node.output]
    graph.node.append(onnx.helper.make_node('Cast', ['logits/wide'], ['logits'], to=half))
    graph.node.append(onnx.helper.make_node('Identity', ['out_key_values'], ['attn_scores']))
    graph.output[0].type.tensor_type.elem_type = half
    graph.output.append(onnx.helper.make_tensor_value_info('attn_scores', half, None))
    onnx.save(model, folder / 'tiny-llama.onnx')
    command = plan_conversion(artifact.manifest).command
    subprocess.run([SIMULATOR / 'bin' / command[0], *command[1:]], cwd=folder, check=True,
                   capture_output=True, env=os.environ | {'ASCEND_SIM_PYTHON': sys.executable})
    return folder / 'tiny-llama.om', artifact.manifest.architecture


@pytest.mark.parametrize('chunk_sizes', [(1,), (1, 4)], ids=['one_length', 'gears'])
@pytest.mark.parametrize('form', ['rc', 'ep'])
def test_adopted_om_runs(words, tmp_path, form, chunk_sizes):
    simulator.reset(form=form)
    om, shape = compile_elsewhere(tmp_path / 'elsewhere', chunk_sizes)
    (words / 'config.json').write_text(json.dumps(CONFIG | {
        'num_hidden_layers': shape.layers, 'num_attention_heads': shape.heads,
        'num_key_value_heads': shape.kv_heads, 'head_dim': shape.head_dim,
        'vocab_size': shape.vocab_size}))
    adopt(om, words, tmp_path / 'out', kv_length=48, chunk_sizes=chunk_sizes,
          soc_version='Ascend310B4')
    backend = AclBackend(Artifact.open(tmp_path / 'out'))
    tokens, longest = np.array([5, 9, 3]), chunk_sizes[-1]
    chunks = {start: tokens[start:start + longest] for start in range(0, 3, longest)}
    found = np.concatenate([backend.forward(chunk, start, logits=len(chunk)).copy()
                            for start, chunk in chunks.items()])
    backend.close()
    np.testing.assert_allclose(found, numpy_llama.logits(tiny(), tokens), rtol=0, atol=2e-3)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, found.astype(np.float16))
    acl.finalize()
    simulator.assert_clean()
