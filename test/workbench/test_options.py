"""What a build is asked for is checked at once, and recognised in what was built."""

from dataclasses import replace
from pathlib import Path

import pytest
from support.tiny_models import tiny

from tinyllama_ros.artifact.manifest import FileRecord, HeldOutLoss
from tinyllama_ros.errors import ConfigError, ModelError
from tinyllama_ros.workbench.options import BuildOptions

OPTIONS = BuildOptions('tiny', source='tiny.gguf 0123', kv_length=64)


def manifest(options=OPTIONS):
    checkpoint = tiny()
    return options.manifest(checkpoint.architecture, checkpoint.tokenizer.settings)


@pytest.mark.parametrize(('change', 'message'), [
    ({'target': 'gpu'}, "target 'gpu' is unknown; known: cpu, ascend"),
    ({'quantization': 'fp16'}, "'fp16' is unknown for the target cpu; known: w8a8, fp32"),
    ({'w8a16': 'most'}, "w8a16 is 'most'; it must be one of none, down, all"),
    ({'smoothing': '1.5'}, "smoothing is '1.5'; it must be"),
], ids=lambda value: '' if isinstance(value, str) else next(iter(value)))
def test_unknown_value_is_refused_by_name(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(OPTIONS, **change)


def test_more_slots_than_the_model_was_trained_on_are_refused():
    with pytest.raises(ModelError, match='kv_length is 4096; tiny was trained on at most 512'):
        manifest(replace(OPTIONS, kv_length=4096))


@pytest.mark.parametrize(('options', 'expected'), [
    (BuildOptions('x'), (512, (1, 16, 64), 'none')),
    (BuildOptions('x', target='ascend'), (512, (1,), 'all')),
    (BuildOptions('x', 'fp32', w8a16='all'), (512, (1, 16, 64), '')),
    (BuildOptions('x', 'w8a8', 'cpu', 96, (1, 8), 'down'), (96, (1, 8), 'down')),
], ids=['cpu', 'ascend', 'fp32_has_no_w8a16', 'all_given'])
def test_what_is_left_open_is_the_default_of_the_target(options, expected):
    made = manifest(options)
    assert (made.kv_length, made.chunk_sizes, made.w8a16) == expected


def test_artifact_is_recognised_whatever_its_files_and_its_loss_are():
    made = replace(manifest(), files={'decoder.onnx': FileRecord(3, 'ab')},
                   held_out=HeldOutLoss(1.0, 1.1, 99))
    assert OPTIONS.describes(made)


@pytest.mark.parametrize('change', [
    {'name': 'other'}, {'quantization': 'fp32'}, {'target': 'ascend'}, {'kv_length': 32},
    {'chunk_sizes': (1,)}, {'w8a16': 'all'}, {'smoothing': '0.5'}, {'source': 'tiny.gguf 4567'},
    {'text': Path(__file__)}], ids=lambda change: next(iter(change)))
def test_artifact_of_other_options_is_not_taken_for_this_one(change):
    assert not replace(OPTIONS, **change).describes(manifest())


def test_new_text_of_the_same_path_is_another_build(tmp_path):
    path = tmp_path / 'text.txt'
    path.write_text('one')
    options = replace(OPTIONS, text=path)
    made = manifest(options)
    path.write_text('another')
    assert not options.describes(made)
