"""
A checkpoint in a Hugging Face folder: config.json and safetensors, in one file or in shards.

Keys and defaults of config.json: configuration_llama.py and modeling_rope_utils.py of
github.com/huggingface/transformers.
"""

from pathlib import Path

import ml_dtypes  # noqa: F401 - gives numpy the bfloat16 that safetensors returns
import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open, SafetensorError

from tinyllama_ros.artifact.architecture import Architecture
from tinyllama_ros.engine.mapped_file import MappedFile
from tinyllama_ros.errors import ModelError
from tinyllama_ros.workbench.checkpoints.checkpoint import (
    architecture_of,
    check_weights,
    Checkpoint,
    require_unchanged,
)
from tinyllama_ros.workbench.checkpoints.folder_vocabulary import tokenizer_from_folder
from tinyllama_ros.workbench.checkpoints.named_values import NamedValues

_SINGLE = 'model.safetensors'
_INDEX = 'model.safetensors.index.json'
_STORED_TYPES = ('F64', 'F32', 'F16', 'BF16')
_PREFIX = 'model.'
"""A folder that was saved without its language model head has its weights without it."""
# Keys that change nothing as long as they have one of these values.
_NEUTRAL_KEYS = {
    'attention_bias': (False,), 'mlp_bias': (False,), 'hidden_act': ('silu', 'swish'),
    'partial_rotary_factor': (1,), 'sliding_window': (), 'quantization_config': (),
}
_ROPE_SECTIONS = ('rope_parameters', 'rope_scaling')
_ROPE_NEUTRAL_KEYS = {
    'rope_type': ('default',), 'type': ('default',), 'factor': (1,),
    'partial_rotary_factor': (1,), 'attention_factor': (1,)}
_ROPE_BASE = 'rope_theta'


class SafetensorsCheckpoint(Checkpoint):
    """Weights read one at a time; the files are closed in between."""

    def __init__(self, folder: Path) -> None:
        """Open a folder; ModelError where it is no Llama in safetensors, or not complete."""
        self._folder = folder
        self.architecture = read_architecture(folder)
        shapes: dict[str, tuple[int, ...]] = {}
        self._stored: dict[str, tuple[MappedFile, str]] = {}
        for path in _files(folder):
            file = _watched(path)
            for stored_name, shape in _shapes(file).items():
                name = _weight_name(stored_name)
                shapes[name], self._stored[name] = shape, (file, stored_name)
        check_weights(folder, self.architecture, {
            name: shape for name, shape in shapes.items()
            if not _is_redundant(name, self.architecture)})
        self.tokenizer = tokenizer_from_folder(folder)

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Return a fresh float32 copy of one weight, as the Checkpoint protocol says."""
        if name not in self._stored:
            raise ModelError(f'{self._folder} has no weight {name}')
        mapped, stored_name = self._stored[name]
        try:
            with safe_open(mapped.path, 'numpy') as file:
                values: NDArray[np.float32] = np.require(
                    file.get_tensor(stored_name).astype(np.float32, copy=False),
                    requirements=('C', 'W', 'O'))
        except (OSError, SafetensorError) as error:
            raise _unreadable(mapped.path, error) from error
        require_unchanged(mapped)
        return values


def read_architecture(folder: Path) -> Architecture:
    """Return what the config.json of a folder describes; ModelError where it is no Llama."""
    config = NamedValues.from_json(folder / 'config.json')
    model_type = config.required('model_type', str)
    if model_type != 'llama':
        raise ModelError(f'{config.path}: model_type is {model_type!r}; supported: llama')
    config.refuse_others(_NEUTRAL_KEYS)
    hidden = config.required('hidden_size', int)
    heads = config.required('num_attention_heads', int)
    return architecture_of(
        config.path,
        layers=config.required('num_hidden_layers', int),
        hidden=hidden,
        ffn=config.required('intermediate_size', int),
        heads=heads,
        kv_heads=config.optional('num_key_value_heads', int, heads),
        head_dim=config.optional('head_dim', int, hidden // max(heads, 1)),
        vocab_size=config.required('vocab_size', int),
        context_length=config.optional('max_position_embeddings', int, 2048),
        rope_base=_rope_base(config),
        norm_eps=config.optional('rms_norm_eps', float, 1e-6),
        tied_embeddings=config.optional('tie_word_embeddings', bool, False))


def _rope_base(config: NamedValues) -> float:
    """Return the base of RoPE; ModelError where its angles are changed in any other way."""
    places = [config]
    for name in _ROPE_SECTIONS:
        rope = config.section(name)
        rope.refuse_others(_ROPE_NEUTRAL_KEYS)
        rope.refuse_unknown({_ROPE_BASE, *_ROPE_NEUTRAL_KEYS})
        places.append(rope)
    bases = {place.required(_ROPE_BASE, float) for place in places if _ROPE_BASE in place}
    if len(bases) > 1:
        raise ModelError(f'{config.path}: {_ROPE_BASE} is {" and ".join(map(str, sorted(bases)))} '
                         'in different places; keep only the right one')
    return bases.pop() if bases else 10000.0


def _files(folder: Path) -> list[Path]:
    """Return the safetensors files of a folder, every shard that its index names."""
    if (folder / _INDEX).exists():
        index = NamedValues.from_json(folder / _INDEX)
        names = {Path(str(name)).name for name in index.required('weight_map', dict).values()}
        missing = sorted(names - {path.name for path in folder.iterdir()})
        if missing:
            raise ModelError(f'{folder}: the shard {missing[0]!r} is missing; fetch it, too')
        return [folder / name for name in sorted(names)]
    if (folder / _SINGLE).exists():
        return [folder / _SINGLE]
    pickles = sorted(path.name for suffix in ('bin', 'pt', 'pth')
                     for path in folder.glob(f'*.{suffix}'))
    if pickles:
        raise ModelError(f'{folder} has its weights in {pickles[0]} only, a pickle file, which '
                         'could run code; use the safetensors form of the model')
    raise ModelError(f'{folder} has no {_SINGLE} and no {_INDEX}; fetch the weights, too')


def _watched(path: Path) -> MappedFile:
    try:
        return MappedFile(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _shapes(mapped: MappedFile) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of one file, which the library checks to be whole."""
    path, shapes = mapped.path, {}
    try:
        with safe_open(path, 'numpy') as file:
            for name in file.keys():  # noqa: SIM118 - it is no mapping
                stored = file.get_slice(name)
                if stored.get_dtype() not in _STORED_TYPES:
                    raise ModelError(f'{path}: {name} is stored as {stored.get_dtype()}, which is '
                                     f'not supported; use a checkpoint in one of '
                                     f'{", ".join(_STORED_TYPES)}')
                shapes[name] = tuple(stored.get_shape())
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    require_unchanged(mapped)
    return shapes


def _unreadable(path: Path, error: Exception) -> ModelError:
    if isinstance(error, OSError):
        return ModelError(f'{path} cannot be read: {error}')
    return ModelError(f'{path} is cut short or altered: {error}; fetch it again')


def _weight_name(stored_name: str) -> str:
    """Return the name that Architecture gives a tensor."""
    is_bare = stored_name.startswith(('embed_tokens.', 'layers.', 'norm.'))
    return _PREFIX + stored_name if is_bare else stored_name


def _is_redundant(name: str, architecture: Architecture) -> bool:
    """Whether a tensor only repeats what the architecture says, as old files do."""
    return (name.endswith('.rotary_emb.inv_freq')
            or (name == 'lm_head.weight' and architecture.tied_embeddings))
