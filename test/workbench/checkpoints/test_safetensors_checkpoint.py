"""A Hugging Face folder gives back the weights that were written, or says what is wrong."""

import json

import numpy as np
import pytest
from support.tiny_models import rounded, tiny, write_folder

from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.safetensors_checkpoint import SafetensorsCheckpoint


@pytest.mark.parametrize('shards', [1, 3])
@pytest.mark.parametrize('dtype', ['F32', 'F16', 'BF16'])
def test_written_weights_come_back(tmp_path, dtype, shards):
    written = tiny()
    read = SafetensorsCheckpoint(write_folder(tmp_path, written, dtype, shards))
    for name in written.architecture.weight_shapes():
        np.testing.assert_array_equal(read.tensor(name), rounded(written.tensor(name), dtype))
        assert read.tensor(name).dtype == np.float32


@pytest.mark.parametrize('config', [
    pytest.param({}, id='older'),
    pytest.param({'rope_theta': None, 'rope_parameters': {
        'rope_theta': 50000.0, 'rope_type': 'default'}}, id='newer'),
])
def test_architecture_comes_back(tmp_path, config):
    written = tiny(tied_embeddings=True, rope_base=50000.0)
    read = SafetensorsCheckpoint(write_folder(tmp_path, written, **config))
    assert read.architecture == written.architecture


def test_head_that_repeats_tied_embeddings_is_left_aside(tmp_path):
    write_folder(tmp_path, tiny(), tie_word_embeddings=True)
    read = SafetensorsCheckpoint(tmp_path)
    assert read.architecture.tied_embeddings


@pytest.mark.parametrize(('config', 'message'), [
    ({'model_type': 'mistral'}, r"model_type is 'mistral'; supported: llama"),
    ({'rope_scaling': {'factor': 2.0}}, r"rope_scaling is \{'factor': 2.0\}, which is not supp"),
    ({'rope_parameters': {'rope_type': 'llama3'}}, r"rope_parameters has the type 'llama3'"),
    ({'attention_bias': True}, r'attention_bias is True.*use a checkpoint where it is False'),
    ({'mlp_bias': True}, r'mlp_bias is True, which is not supported'),
    ({'hidden_act': 'gelu'}, r"hidden_act is 'gelu'"),
    ({'hidden_size': None}, r'config\.json: hidden_size is missing'),
    ({'num_hidden_layers': 3}, r'weight model\.layers\.2\.\S+ is missing'),
    ({'intermediate_size': 64}, r'gate_proj\.weight has shape \(160, 64\); .* asks for \(64,'),
    ({'num_key_value_heads': 3}, r'4 query heads cannot share 3'),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_unfit_configuration_is_refused(tmp_path, config, message):
    write_folder(tmp_path, tiny(), **config)
    with pytest.raises(ModelError, match=message):
        SafetensorsCheckpoint(tmp_path)


def test_missing_shard_is_named(tmp_path):
    write_folder(tmp_path, tiny(), shards=3)
    (tmp_path / 'model-00002-of-00003.safetensors').unlink()
    with pytest.raises(ModelError, match='shard model-00002-of-00003.safetensors is missing'):
        SafetensorsCheckpoint(tmp_path)


def test_file_cut_short_within_a_weight_names_it(tmp_path):
    path = write_folder(tmp_path, tiny()) / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r'cut short: \S+\.weight ends at \d+, the file at \d+'):
        SafetensorsCheckpoint(tmp_path)


@pytest.mark.parametrize('size', [0, 4, 8, 500])
def test_file_cut_short_within_the_header_is_refused(tmp_path, size):
    path = write_folder(tmp_path, tiny()) / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match=r'model\.safetensors is (cut short|altered)'):
        SafetensorsCheckpoint(tmp_path)


def test_file_cut_short_after_opening_is_refused(tmp_path):
    read = SafetensorsCheckpoint(write_folder(tmp_path, tiny()))
    (tmp_path / 'model.safetensors').write_bytes(b'')
    with pytest.raises(ModelError, match=r'cut short while in use: model\.norm\.weight has 0 of'):
        read.tensor('model.norm.weight')


@pytest.mark.parametrize(('entry', 'message'), [
    ({'dtype': 'I8', 'shape': [2], 'data_offsets': [0, 2]}, 'stored as I8; supported: F32'),
    ({'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 4]}, r'altered: x of shape \(2,\)'),
    ({'dtype': 'F32', 'shape': [1], 'data_offsets': [-4, 0]}, r'altered: x of shape'),
    ({'dtype': 'F32', 'shape': [1]}, r"header cannot be read: KeyError\('data_offsets'\)"),
    ([], 'header cannot be read: TypeError'),
], ids=['type', 'size', 'place', 'key', 'list'])
def test_altered_header_is_refused(tmp_path, entry, message):
    path = write_folder(tmp_path, tiny()) / 'model.safetensors'
    header = json.dumps({'x': entry}).encode()
    path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(4))
    with pytest.raises(ModelError, match=message):
        SafetensorsCheckpoint(tmp_path)


def test_pickles_are_never_opened(tmp_path):
    (write_folder(tmp_path, tiny()) / 'model.safetensors').rename(tmp_path / 'pytorch_model.bin')
    with pytest.raises(ModelError, match=r'pytorch_model\.bin only; no pickle is ever opened'):
        SafetensorsCheckpoint(tmp_path)


def test_folder_without_weights_is_refused(tmp_path):
    (write_folder(tmp_path, tiny()) / 'model.safetensors').unlink()
    with pytest.raises(ModelError, match=r'has no model\.safetensors and no model\.safetens'):
        SafetensorsCheckpoint(tmp_path)


@pytest.mark.parametrize(('content', 'message'), [
    (b'{', r'config\.json cannot be read'), (b'[]', r'config\.json holds no JSON object')])
def test_damaged_configuration_is_refused(tmp_path, content, message):
    write_folder(tmp_path, tiny())
    (tmp_path / 'config.json').write_bytes(content)
    with pytest.raises(ModelError, match=message):
        SafetensorsCheckpoint(tmp_path)


def test_weight_of_another_name_is_refused(tmp_path):
    read = SafetensorsCheckpoint(write_folder(tmp_path, tiny()))
    with pytest.raises(ModelError, match=r'has no weight lm_head\.bias'):
        read.tensor('lm_head.bias')
