"""An .om from elsewhere becomes an artifact."""

import json

import pytest
from tiny_models import tiny, write_tokenizer

from tinyllama_ros.cli import main
from tinyllama_ros.errors import ArtifactError, ModelError
from tinyllama_ros.model.adopt import adopt
from tinyllama_ros.model.artifact import Artifact, OM

CONFIG = {'model_type': 'llama', 'num_hidden_layers': 2, 'hidden_size': 64,
          'intermediate_size': 96, 'num_attention_heads': 4, 'num_key_value_heads': 2,
          'vocab_size': 300, 'max_position_embeddings': 512, 'rms_norm_eps': 1e-5}


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
    with pytest.raises(ArtifactError, match=r'nope\.om is not there; give the path'):
        adopt(tmp_path / 'nope.om', words, tmp_path / 'out', kv_length=48)


@pytest.mark.parametrize('name', ['config.json', 'tokenizer_config.json', 'tokenizer.json'])
def test_folder_that_lacks_a_file_is_refused_by_name(om, words, tmp_path, name):
    (words / name).unlink()
    with pytest.raises(ModelError, match=name):
        adopt(om, words, tmp_path / 'out', kv_length=48)
    assert not (tmp_path / 'out').exists()


def test_folder_that_holds_something_else_is_left_alone(om, words, tmp_path):
    with pytest.raises(ArtifactError, match='holds something that is no artifact'):
        adopt(om, words, words, kv_length=48)


def test_command_prints_the_folder_of_the_artifact(om, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('TINYLLAMA_ROS_CACHE', str(tmp_path))
    assert main(['adopt', str(om), '--tokenizer', str(words), '--kv-length', '48']) == 0
    folder = tmp_path / 'artifacts' / 'tiny-llama'
    assert capsys.readouterr().out == f'{folder}\n'
    assert Artifact.open(folder).manifest.kv_length == 48
