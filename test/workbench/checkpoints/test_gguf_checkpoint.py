"""A GGUF file gives back the weights that were written, or says what is wrong with it."""

import struct

from gguf import GGMLQuantizationType, GGUFWriter
import numpy as np
import pytest
from support.tiny_models import tiny, write_gguf

from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.gguf_checkpoint import GgufCheckpoint


@pytest.mark.parametrize('changes', [
    pytest.param({}, id='untied'),
    pytest.param({'tied_embeddings': True}, id='tied'),
    pytest.param({'heads': 6, 'kv_heads': 2, 'hidden': 96}, id='six_heads_share_two'),
])
def test_written_weights_come_back(tmp_path, changes):
    written = tiny(**changes)
    read = GgufCheckpoint(write_gguf(tmp_path / 'm.gguf', written))
    for name in written.architecture.weight_shapes():
        np.testing.assert_array_equal(read.tensor(name), written.tensor(name))


def test_architecture_comes_back(tmp_path):
    written = tiny(tied_embeddings=True, rope_base=50000.0, norm_eps=2.0 ** -17)
    read = GgufCheckpoint(write_gguf(tmp_path / 'm.gguf', written))
    assert read.architecture == written.architecture


def test_head_size_may_differ_from_hidden_over_heads(tmp_path):
    written = tiny(head_dim=32)
    path = write_gguf(tmp_path / 'm.gguf', written, llama__attention__key_length=32,
                      llama__attention__value_length=32)
    assert GgufCheckpoint(path).architecture.head_dim == 32


@pytest.mark.parametrize(('kind', 'bound'), [
    (GGMLQuantizationType.F16, 1e-3), (GGMLQuantizationType.BF16, 1e-2),
    (GGMLQuantizationType.Q8_0, 1e-2), (GGMLQuantizationType.Q4_1, 0.1)])
def test_quantised_weights_come_back_roughly(tmp_path, kind, bound):
    written = tiny(ffn=128)
    read = GgufCheckpoint(write_gguf(tmp_path / 'm.gguf', written, kind=kind))
    for name in ('model.layers.1.self_attn.q_proj.weight', 'model.layers.0.mlp.down_proj.weight'):
        error = np.abs(read.tensor(name) - written.tensor(name)).max()
        assert error < bound * np.abs(written.tensor(name)).max()


def test_weights_may_be_changed_by_the_caller(tmp_path):
    read = GgufCheckpoint(write_gguf(tmp_path / 'm.gguf', tiny()))
    read.tensor('model.norm.weight')[:] = 0
    assert read.tensor('model.norm.weight').any()


@pytest.mark.parametrize(('metadata', 'message'), [
    ({'general__architecture': 'qwen2'}, r"architecture 'qwen2'; supported: llama"),
    ({'llama__rope__scaling__type': 'linear'}, r"type is 'linear', .* in which it is 'none'"),
    ({'llama__expert_count': 8}, r'expert_count is 8, which is not supported'),
    ({'llama__rope__dimension_count': 8}, r'dimension_count is 8, but head_dim is 16'),
    ({'llama__block_count': None}, r'llama\.block_count is missing'),
    ({'llama__block_count': 'two'}, r"block_count is 'two'; it must be of type int"),
    ({'llama__block_count': 3}, r'model\.layers\.2\.\S+ is missing'),
    ({'llama__block_count': 1}, r'blk\.1|model\.layers\.1\.\S+ has no place'),
    ({'llama__feed_forward_length': 64}, r'gate_proj\.weight has shape \(160, 64\)'),
], ids=lambda value: next(iter(value)) if isinstance(value, dict) else '')
def test_unfit_metadata_are_refused(tmp_path, metadata, message):
    path = write_gguf(tmp_path / 'm.gguf', tiny(), **metadata)
    with pytest.raises(ModelError, match=message):
        GgufCheckpoint(path)


def test_weight_left_out_is_named(tmp_path):
    path = write_gguf(tmp_path / 'm.gguf', tiny(), leave_out=('model.norm.weight',))
    with pytest.raises(ModelError, match=r'm\.gguf: the weight model\.norm\.weight is missing'):
        GgufCheckpoint(path)


def test_weight_without_a_place_is_refused(tmp_path, monkeypatch):
    finish = GGUFWriter.write_header_to_file
    bias = np.zeros(64, np.float32)

    def with_bias(writer):
        writer.add_tensor('blk.0.attn_q.bias', bias)
        finish(writer)

    monkeypatch.setattr(GGUFWriter, 'write_header_to_file', with_bias)
    path = write_gguf(tmp_path / 'm.gguf', tiny())
    with pytest.raises(ModelError, match=r'q_proj\.bias has no place in a Llama decoder'):
        GgufCheckpoint(path)


def test_file_cut_short_within_a_weight_names_it(tmp_path):
    path = write_gguf(tmp_path / 'm.gguf', tiny())
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:whole - 100])
    message = rf'output\.weight ends at \d+, the file at {whole - 100}; fetch it again'
    with pytest.raises(ModelError, match=message):
        GgufCheckpoint(path)


@pytest.mark.parametrize('size', [5, 20, 100, 1000, 5000])
def test_file_cut_short_within_the_header_is_refused(tmp_path, size):
    path = write_gguf(tmp_path / 'm.gguf', tiny())
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ModelError, match=r'm\.gguf is cut short or altered.*fetch it again'):
        GgufCheckpoint(path)


@pytest.mark.parametrize('place', [4, 8, 16, 24, 40])
def test_altered_header_is_refused(tmp_path, place):
    path = write_gguf(tmp_path / 'm.gguf', tiny())
    content = bytearray(path.read_bytes())
    content[place:place + 4] = b'\xff\xff\xff\x7f'
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r'm\.gguf'):
        GgufCheckpoint(path)


@pytest.mark.parametrize('content', [b'', b'PK\x03\x04 a zip file'], ids=['empty', 'zip'])
def test_another_kind_of_file_is_refused(tmp_path, content):
    (tmp_path / 'm.gguf').write_bytes(content)
    with pytest.raises(ModelError, match=r'is not a GGUF file: it begins with'):
        GgufCheckpoint(tmp_path / 'm.gguf')


def test_weight_of_another_name_is_refused(tmp_path):
    read = GgufCheckpoint(write_gguf(tmp_path / 'm.gguf', tiny(tied_embeddings=True)))
    with pytest.raises(ModelError, match=r'has no weight lm_head\.weight'):
        read.tensor('lm_head.weight')


def altered(path, name, change):
    """Write other bytes behind a name in a GGUF file; `change` gets and gives what follows it."""
    content = path.read_bytes()
    end = content.index(name.encode()) + len(name)
    path.write_bytes(content[:end] + change(content[end:]))
    return path


@pytest.mark.parametrize('kind', [4, 31, 33, 200])
def test_unknown_tensor_type_is_named_with_what_to_use_instead(tmp_path, kind):
    path = write_gguf(tmp_path / 'm.gguf', tiny())
    altered(path, 'blk.1.attn_q.weight', lambda rest: (  # n_dims, two dims, then the type
        rest[:20] + struct.pack('<I', kind) + rest[24:]))
    message = rf'blk\.1\.attn_q\.weight is stored as GGML type {kind}, .*; use a file in F16 or Q'
    with pytest.raises(ModelError, match=message):
        GgufCheckpoint(path)


def test_known_tensor_type_without_floats_is_named(tmp_path):
    path = write_gguf(tmp_path / 'm.gguf', tiny())
    altered(path, 'output_norm.weight', lambda rest: (
        rest[:12] + struct.pack('<I', GGMLQuantizationType.I8) + rest[16:]))
    with pytest.raises(ModelError, match=r'output_norm\.weight is stored as I8, .*; use a file'):
        GgufCheckpoint(path)


def test_weights_in_f64_are_read(tmp_path):
    written = tiny()
    path = tmp_path / 'm.gguf'
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr('support.tiny_models.quantize', lambda weight, _: weight.astype(np.float64))
        write_gguf(path, written, kind=GGMLQuantizationType.F64)
    name = 'model.layers.0.self_attn.q_proj.weight'
    np.testing.assert_array_equal(GgufCheckpoint(path).tensor(name), written.tensor(name))


def test_layout_that_the_formats_page_names_is_taken(tmp_path):
    path = write_gguf(tmp_path / 'm.gguf', tiny(),
                      llama__tensor_data_layout='Meta AI original pth')
    GgufCheckpoint(path)


def test_other_layout_is_refused_by_name(tmp_path):
    path = write_gguf(tmp_path / 'm.gguf', tiny(), llama__tensor_data_layout='reference')
    with pytest.raises(ModelError, match=r"tensor_data_layout is 'reference', which is not supp"):
        GgufCheckpoint(path)


@pytest.mark.parametrize('layers', [1001, 10 ** 6, 10 ** 9])
def test_more_layers_than_any_model_has_are_refused(tmp_path, layers):
    path = write_gguf(tmp_path / 'm.gguf', tiny(), llama__block_count=layers)
    with pytest.raises(ModelError, match=rf'm\.gguf: layers is {layers}; .* at most 1000'):
        GgufCheckpoint(path)


@pytest.mark.parametrize(('key', 'skip'), [('tokenizer.ggml.tokens', 8),
                                           ('tokenizer.ggml.token_type', 8)])
def test_list_longer_than_the_file_is_refused_before_it_is_read(tmp_path, key, skip):
    path = write_gguf(tmp_path / 'm.gguf', tiny())
    altered(path, key, lambda rest: rest[:skip] + struct.pack('<Q', 10 ** 9) + rest[skip + 8:])
    with pytest.raises(ModelError, match=rf'{key}. (has|ends at) \d+'):
        GgufCheckpoint(path)


def test_file_of_the_other_byte_order_is_refused_by_its_version(tmp_path):
    path = tmp_path / 'm.gguf'
    path.write_bytes(b'GGUF' + struct.pack('>IQQ', 3, 0, 0))
    with pytest.raises(ModelError, match=r'of GGUF version 50331648; supported: little-endian'):
        GgufCheckpoint(path)
