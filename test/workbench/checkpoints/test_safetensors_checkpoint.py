"""A Hugging Face folder gives back the weights that were written, or says what is wrong."""

import json

import numpy as np
import pytest
from support.tiny_models import rounded, tiny, write_folder, write_safetensors

from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.safetensors_checkpoint import SafetensorsCheckpoint


@pytest.mark.parametrize('shards', [1, 3])
@pytest.mark.parametrize('dtype', ['F64', 'F32', 'F16', 'BF16'])
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


@pytest.mark.parametrize('config', [
    pytest.param({'hidden_act': 'swish'}, id='swish_is_silu'),
    pytest.param({'rope_scaling': {'rope_type': 'default'}}, id='rope_scaling_of_type_default'),
    pytest.param({'rope_scaling': {'type': 'default', 'factor': 1}}, id='older_spelling'),
    pytest.param({'rope_parameters': {'rope_theta': 10000, 'rope_type': 'default'}},
                 id='same_base_in_both_places'),
])
def test_configuration_that_changes_no_number_is_taken(tmp_path, config):
    written = tiny()
    read = SafetensorsCheckpoint(write_folder(tmp_path, written, **config))
    assert read.architecture == written.architecture


def test_missing_numbers_are_the_defaults_of_the_family(tmp_path):
    write_folder(tmp_path, tiny(), rms_norm_eps=None, max_position_embeddings=None,
                 rope_theta=None, head_dim=None)
    shape = SafetensorsCheckpoint(tmp_path).architecture
    assert (shape.norm_eps, shape.context_length, shape.rope_base) == (1e-6, 2048, 10000.0)


def test_weights_without_the_prefix_of_the_model_are_read(tmp_path):
    written = tiny(tied_embeddings=True)
    write_folder(tmp_path, written)
    write_safetensors(tmp_path / 'model.safetensors', {
        name.removeprefix('model.'): written.tensor(name)
        for name in written.architecture.weight_shapes()}, 'F32')
    read = SafetensorsCheckpoint(tmp_path)
    for name in written.architecture.weight_shapes():
        np.testing.assert_array_equal(read.tensor(name), written.tensor(name))


@pytest.mark.parametrize('layers', [1001, 10 ** 6, 2 ** 40])
def test_more_layers_than_any_model_has_are_refused(tmp_path, layers):
    write_folder(tmp_path, tiny(), num_hidden_layers=layers)
    with pytest.raises(ModelError, match=rf'layers is {layers}; .* at most 1000'):
        SafetensorsCheckpoint(tmp_path)


def test_head_that_repeats_tied_embeddings_is_left_aside(tmp_path):
    write_folder(tmp_path, tiny(), tie_word_embeddings=True)
    read = SafetensorsCheckpoint(tmp_path)
    assert read.architecture.tied_embeddings


@pytest.mark.parametrize(('config', 'message'), [
    ({'model_type': 'mistral'}, r"model_type is 'mistral'; supported: llama"),
    ({'rope_scaling': {'factor': 2.0}}, r'rope_scaling\.factor is 2\.0, which is not supported'),
    ({'rope_scaling': 2.0}, r'rope_scaling is 2\.0; it must be of type dict'),
    ({'rope_parameters': {'rope_type': 'llama3'}}, r"rope_parameters\.rope_type is 'llama3', wh"),
    ({'rope_parameters': {'type': 'linear', 'factor': 4.0}},
     r"rope_parameters\.type is 'linear', .* use a checkpoint in which it is 'default'"),
    ({'rope_parameters': {'rope_type': 'default', 'factor': 4.0}},
     r'rope_parameters\.factor is 4\.0, .* use a checkpoint in which it is 1'),
    ({'rope_parameters': {'low_freq_factor': 1.0}},
     r'rope_parameters\.low_freq_factor is 1\.0, .* use a checkpoint without it'),
    ({'rope_parameters': {'rope_theta': 'far'}}, r"rope_parameters\.rope_theta is 'far'; it must"),
    ({'rope_parameters': {'rope_theta': 5e5}}, r'rope_theta is 10000\.0 and 500000\.0 in diff'),
    ({'partial_rotary_factor': 0.5}, r'partial_rotary_factor is 0\.5, which is not supported'),
    ({'attention_bias': True}, r'attention_bias is True.*use a checkpoint in which it is False'),
    ({'mlp_bias': True}, r'mlp_bias is True, which is not supported'),
    ({'hidden_act': 'gelu'}, r"hidden_act is 'gelu', .* in which it is 'silu' or 'swish'"),
    ({'hidden_size': None}, r'config\.json: hidden_size is missing'),
    ({'num_hidden_layers': 3}, r'weight model\.layers\.2\.\S+ is missing'),
    ({'intermediate_size': 64}, r'gate_proj\.weight has shape \(160, 64\); .* must be \(64,'),
    ({'num_key_value_heads': 3}, r'config\.json: 4 query heads cannot share 3'),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_unfit_configuration_is_refused(tmp_path, config, message):
    write_folder(tmp_path, tiny(), **config)
    with pytest.raises(ModelError, match=message):
        SafetensorsCheckpoint(tmp_path)


def test_missing_shard_is_named(tmp_path):
    write_folder(tmp_path, tiny(), shards=3)
    (tmp_path / 'model-00002-of-00003.safetensors').unlink()
    with pytest.raises(ModelError, match=r"shard 'model-00002-of-\S+' is missing; fetch"):
        SafetensorsCheckpoint(tmp_path)


def test_file_cut_short_within_a_weight_is_refused(tmp_path):
    path = write_folder(tmp_path, tiny()) / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r'model\.safetensors is cut short or altered: .*again'):
        SafetensorsCheckpoint(tmp_path)


@pytest.mark.parametrize('size', [0, 4, 8, 500])
def test_file_cut_short_within_the_header_is_refused(tmp_path, size):
    path = write_folder(tmp_path, tiny()) / 'model.safetensors'
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match=r'model\.safetensors is cut short or altered: .*again$'):
        SafetensorsCheckpoint(tmp_path)


def test_file_cut_short_after_opening_is_refused(tmp_path):
    read = SafetensorsCheckpoint(write_folder(tmp_path, tiny()))
    (tmp_path / 'model.safetensors').write_bytes(b'')
    with pytest.raises(ModelError, match=r'model\.safetensors is cut short or altered'):
        read.tensor('model.norm.weight')


@pytest.mark.parametrize(('entry', 'message'), [
    ({'dtype': 'I8', 'shape': [4], 'data_offsets': [0, 4]},
     'x is stored as I8, which is not supported; use a checkpoint in one of F64, F32, F16, BF16'),
    ({'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 4]}, 'altered: .* invalid shape'),
    ({'dtype': 'F32', 'shape': [1], 'data_offsets': [-4, 0]}, 'altered: .* invalid value'),
    ({'dtype': 'F32', 'shape': [1]}, 'altered: .* missing field `data_offsets`'),
    ([], 'altered: .* expected struct TensorInfo'),
], ids=['type', 'size', 'place', 'key', 'list'])
def test_altered_header_is_refused(tmp_path, entry, message):
    path = write_folder(tmp_path, tiny()) / 'model.safetensors'
    header = json.dumps({'x': entry}).encode()
    path.write_bytes(len(header).to_bytes(8, 'little') + header + bytes(4))
    with pytest.raises(ModelError, match=message):
        SafetensorsCheckpoint(tmp_path)


def test_pickles_are_never_opened(tmp_path):
    (write_folder(tmp_path, tiny()) / 'model.safetensors').rename(tmp_path / 'pytorch_model.bin')
    with pytest.raises(ModelError, match=r'pytorch_model\.bin only, a pickle file'):
        SafetensorsCheckpoint(tmp_path)


def test_folder_without_weights_is_refused(tmp_path):
    (write_folder(tmp_path, tiny()) / 'model.safetensors').unlink()
    with pytest.raises(ModelError, match=r'has no model\.safetensors and no model\.safetens'):
        SafetensorsCheckpoint(tmp_path)


@pytest.mark.parametrize(('content', 'message'), [
    (b'{', r'config\.json is not valid JSON'), (b'[]', r'config\.json does not hold a JSON')])
def test_damaged_configuration_is_refused(tmp_path, content, message):
    write_folder(tmp_path, tiny())
    (tmp_path / 'config.json').write_bytes(content)
    with pytest.raises(ModelError, match=message):
        SafetensorsCheckpoint(tmp_path)


def test_weight_of_another_name_is_refused(tmp_path):
    read = SafetensorsCheckpoint(write_folder(tmp_path, tiny()))
    with pytest.raises(ModelError, match=r'has no weight lm_head\.bias'):
        read.tensor('lm_head.bias')
