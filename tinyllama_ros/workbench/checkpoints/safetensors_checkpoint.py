"""
A checkpoint in a Hugging Face folder: config.json and safetensors, in one file or in shards.

The header is read here and not by the safetensors package, whose NumPy side has no bfloat16.
Format: README.md of github.com/huggingface/safetensors, "Format".
"""

from dataclasses import dataclass
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.artifact.architecture import Architecture
from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.checkpoint import check_weights
from tinyllama_ros.workbench.checkpoints.named_values import NamedValues
from tinyllama_ros.workbench.checkpoints.vocabulary import tokenizer_from_folder

_SINGLE = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
# bfloat16 is the upper half of a float32, so it is read as bits and shifted.
_STORED_TYPES: dict[str, np.dtype[Any]] = {
    'F32': np.dtype('<f4'), 'F16': np.dtype('<f2'), 'BF16': np.dtype('<u2')}
# Keys that change nothing as long as they have this value.
_NEUTRAL_KEYS = {
    'attention_bias': False, 'mlp_bias': False, 'hidden_act': 'silu', 'rope_scaling': None,
    'partial_rotary_factor': 1.0, 'sliding_window': None, 'quantization_config': None,
}


@dataclass(frozen=True)
class _Stored:
    """Where one tensor lies."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int


class SafetensorsCheckpoint:
    """Weights read one at a time; the files are closed in between."""

    def __init__(self, folder: Path) -> None:
        """Open a folder; ModelError where it is no Llama in safetensors, or not complete."""
        self._folder = folder
        self.architecture = read_architecture(folder)
        self._stored: dict[str, _Stored] = {}
        for path in _files(folder):
            self._stored |= _header(path)
        check_weights(folder, self.architecture, {
            name: stored.shape for name, stored in self._stored.items()
            if not _is_redundant(name, self.architecture)})
        self.tokenizer = tokenizer_from_folder(folder)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Return a fresh float32 copy of one weight, as the Checkpoint protocol says."""
        if name not in self._stored:
            raise ModelError(f'{self._folder} has no weight {name}')
        stored = self._stored[name]
        count = math.prod(stored.shape)
        try:
            values = np.fromfile(stored.path, _STORED_TYPES[stored.dtype], count,
                                 offset=stored.offset)
        except OSError as error:
            raise ModelError(f'{stored.path}: {name} cannot be read: {error}') from error
        if values.size < count:
            raise ModelError(f'{stored.path} was cut short while in use: {name} has '
                             f'{values.size} of {count} numbers; fetch the model again')
        if stored.dtype == 'BF16':
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32, copy=False).reshape(stored.shape)


def read_architecture(folder: Path) -> Architecture:
    """Return what the config.json of a folder describes; ModelError where it is no Llama."""
    config = NamedValues.from_json(folder / 'config.json')
    _refuse_unsupported(config)
    hidden = config.required('hidden_size', int)
    heads = config.required('num_attention_heads', int)
    rope: dict[str, Any] = config.optional('rope_parameters', dict, {})
    return Architecture(
        layers=config.required('num_hidden_layers', int),
        hidden=hidden,
        ffn=config.required('intermediate_size', int),
        heads=heads,
        kv_heads=config.optional('num_key_value_heads', int, heads),
        head_dim=config.optional('head_dim', int, hidden // max(heads, 1)),
        vocab_size=config.required('vocab_size', int),
        context_length=config.required('max_position_embeddings', int),
        rope_base=float(rope.get('rope_theta', config.optional('rope_theta', float, 10000.0))),
        norm_eps=config.required('rms_norm_eps', float),
        tied_embeddings=config.optional('tie_word_embeddings', bool, False))


def _refuse_unsupported(config: NamedValues) -> None:
    """Refuse another model type, and whatever would change the numbers unheeded."""
    model_type = config.required('model_type', str)
    if model_type != 'llama':
        raise ModelError(f'{config.path}: model_type is {model_type!r}; supported: llama')
    for key, neutral in _NEUTRAL_KEYS.items():
        if key in config and config.raw(key) != neutral:
            raise ModelError(f'{config.path}: {key} is {config.raw(key)!r}, which is not '
                             f'supported; use a checkpoint where it is {neutral!r}')
    rope: dict[str, Any] = config.optional('rope_parameters', dict, {})
    if rope.get('rope_type', 'default') != 'default':
        raise ModelError(f'{config.path}: rope_parameters has the type {rope["rope_type"]!r}, '
                         "which is not supported; use a checkpoint where it is 'default'")


def _files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder, every shard that its index names."""
    if (folder / _INDEX).exists():
        index = NamedValues.from_json(folder / _INDEX)
        names = {Path(str(name)).name for name in index.required('weight_map', dict).values()}
        missing = sorted(name for name in names if not (folder / name).exists())
        if missing:
            raise ModelError(f'{folder}: the shard {missing[0]} is missing; fetch it again')
        return [folder / name for name in sorted(names)]
    if (folder / _SINGLE).exists():
        return [folder / _SINGLE]
    pickles = sorted(path.name for suffix in ('bin', 'pt', 'pth')
                     for path in folder.glob(f'*.{suffix}'))
    if pickles:
        raise ModelError(f'{folder} has its weights in {pickles[0]} only; no pickle is ever '
                         'opened, use the safetensors form of the model')
    raise ModelError(f'{folder} has no {_SINGLE} and no {_INDEX}; fetch the model again')


def _header(path: Path) -> dict[str, _Stored]:
    """Return where the tensors of one file lie, each of them checked to lie within it."""
    try:
        file_size = path.stat().st_size
        with path.open('rb') as file:
            header_size = int.from_bytes(file.read(8), 'little')
            header = file.read(min(header_size, file_size))
    except OSError as error:
        raise ModelError(f'{path} cannot be read: {error}') from error
    if 8 + header_size > file_size:
        raise ModelError(f'{path} is cut short: its header ends at {8 + header_size}, '
                         f'the file at {file_size}; fetch it again')
    try:
        entries = json.loads(header)
        entries.pop('__metadata__', None)
        return {name: _stored(path, name, entry, 8 + header_size, file_size)
                for name, entry in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f'{path} is altered, its header cannot be read: {error!r}; '
                         'fetch it again') from error


def _stored(path: Path, name: str, entry: dict[str, Any], base: int, file_size: int) -> _Stored:
    begin, end = (base + int(offset) for offset in entry['data_offsets'])
    if entry['dtype'] not in _STORED_TYPES:
        raise ModelError(f'{path}: {name} is stored as {entry["dtype"]}; '
                         f'supported: {", ".join(_STORED_TYPES)}')
    if end > file_size:
        raise ModelError(f'{path} is cut short: {name} ends at {end}, the file at {file_size}; '
                         'fetch it again')
    shape = tuple(int(size) for size in entry['shape'])
    if begin < base or end - begin != math.prod(shape) * _STORED_TYPES[entry['dtype']].itemsize:
        raise ModelError(f'{path} is altered: {name} of shape {shape} cannot lie at '
                         f'{begin} to {end}; fetch it again')
    return _Stored(path, entry['dtype'], shape, begin)


def _is_redundant(name: str, architecture: Architecture) -> bool:
    """Whether a tensor only repeats what the architecture says, as old files do."""
    return (name.endswith('.rotary_emb.inv_freq')
            or (name == 'lm_head.weight' and architecture.tied_embeddings))
