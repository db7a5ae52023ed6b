"""Manifests of the ascend dialect, and the command that converts TinyLlama."""

from dataclasses import replace

from support.tiny_models import tiny
from tinyllama_ros.artifact.manifest import Manifest
from tinyllama_ros.workbench.checkpoints.random_checkpoint import SHAPES

# Design, section 5.
REFERENCE = ('atc --framework=5 --model=tiny-llama.onnx --output=tiny-llama --input_format=ND '
             '--input_shape="input_ids:1,1;attention_mask:1,1025;position_ids:1,1;'
             'past_key_values:22,2,1,4,1024,64" --soc_version=Ascend310B4 '
             '--precision_mode=must_keep_origin_dtype')


def manifest(shape='tiny', **changes):
    settings = tiny().tokenizer.settings
    return replace(Manifest(
        name=shape, quantization='w8a8', recipe='', dialect='ascend', kv_length=512,
        chunk_sizes=(1,), architecture=SHAPES[shape], tokenizer=settings, files={}), **changes)
