"""Tiny checkpoints: a vocabulary of each kind, and files of each format written from them."""

import json
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
import numpy as np
from numpy.typing import NDArray

from support.tiny_tokenizers import BPE, bpe_file, SENTENCEPIECE, sentencepiece_file
from tinyllama_ros.artifact.architecture import Architecture
from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint, TokenizerFile
from tinyllama_ros.workbench.checkpoints.random_checkpoint import RandomCheckpoint, SHAPES

_TYPES = {'F64': np.float64, 'F32': np.float32, 'F16': np.float16}


def bpe_tokenizer() -> TokenizerFile:
    """Return a small byte-level BPE vocabulary with merges and SmolLM2's template."""
    return TokenizerFile(BPE, bpe_file())


def sentencepiece_tokenizer() -> TokenizerFile:
    """Return a small SentencePiece vocabulary with Llama's options and TinyLlama's template."""
    return TokenizerFile(SENTENCEPIECE, sentencepiece_file())


def tiny(**changes: Any) -> RandomCheckpoint:
    """Return a model of two layers with bpe_tokenizer; `changes` to its architecture."""
    size = len(json.loads(bpe_file())['model']['vocab'])
    shape = Architecture(**(vars(SHAPES['tiny']) | {'vocab_size': size} | changes))
    return RandomCheckpoint(shape, bpe_tokenizer())


def write_gguf(path: Path, checkpoint: Checkpoint, *,
               kind: GGMLQuantizationType = GGMLQuantizationType.F32,
               leave_out: tuple[str, ...] = (), **metadata: Any) -> Path:
    """
    Write a checkpoint with a byte-level vocabulary as a GGUF file.

    :param metadata: keys with __ for the dot, put in or put in place of the usual ones; None
        leaves a key out.
    """
    shape, writer = checkpoint.architecture, GGUFWriter(path, 'llama')
    values = _metadata(checkpoint) | {
        key.replace('__', '.'): value for key, value in metadata.items()}
    for key, value in values.items():
        _add(writer, key, value)
    for name in shape.weight_shapes():
        if name in leave_out:
            continue
        weight = checkpoint.tensor(name)
        if name.endswith(('q_proj.weight', 'k_proj.weight')):
            weight = interleaved(weight, shape.head_dim)
        stored = quantize(weight, kind) if weight.ndim == 2 else weight
        writer.add_tensor(_gguf_name(name), stored,
                          raw_dtype=kind if weight.ndim == 2 else None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def interleaved(rows: NDArray[np.float32], head_dim: int) -> NDArray[np.float32]:
    """Return q or k rows in GGUF's order, one row at a time, so that it is plain to see."""
    result = np.empty_like(rows)
    for head in range(0, len(rows), head_dim):
        for i in range(head_dim // 2):
            result[head + 2 * i] = rows[head + i]
            result[head + 2 * i + 1] = rows[head + i + head_dim // 2]
    return result


def write_folder(folder: Path, checkpoint: Checkpoint, dtype: str = 'F32',
                 shards: int = 1, **config: Any) -> Path:
    """Write a checkpoint as a Hugging Face folder; `config` replaces keys of config.json."""
    shape = checkpoint.architecture
    (folder / 'config.json').write_text(json.dumps({
        'model_type': 'llama', 'num_hidden_layers': shape.layers, 'hidden_size': shape.hidden,
        'intermediate_size': shape.ffn, 'num_attention_heads': shape.heads,
        'num_key_value_heads': shape.kv_heads, 'head_dim': shape.head_dim,
        'vocab_size': shape.vocab_size, 'max_position_embeddings': shape.context_length,
        'rope_theta': shape.rope_base, 'rms_norm_eps': shape.norm_eps,
        'tie_word_embeddings': shape.tied_embeddings, 'rope_scaling': None,
        'attention_bias': False} | config))
    names = list(shape.weight_shapes())
    files = {f'model-{i + 1:05}-of-{shards:05}.safetensors': names[i::shards]
             for i in range(shards)} if shards > 1 else {'model.safetensors': names}
    for file, members in files.items():
        write_safetensors(folder / file, {n: checkpoint.tensor(n) for n in members}, dtype)
    if shards > 1:
        weight_map = {name: file for file, members in files.items() for name in members}
        (folder / 'model.safetensors.index.json').write_text(
            json.dumps({'weight_map': weight_map}))
    write_tokenizer(folder, checkpoint.tokenizer)
    return folder


def write_tokenizer(folder: Path, tokenizer: TokenizerFile, **config: Any) -> None:
    """Write a tokenizer as a Hugging Face folder has it; `config` replaces keys."""
    settings = tokenizer.settings
    content = tokenizer.content
    if settings.kind == 'bpe':
        added = [{'id': number, 'content': text, 'special': True, 'single_word': False,
                  'lstrip': False, 'rstrip': False, 'normalized': False}
                 for text, number in settings.control_tokens.items()]
        content = json.dumps(json.loads(content) | {'added_tokens': added}).encode()
    (folder / settings.file_name).write_bytes(content)
    (folder / 'tokenizer_config.json').write_text(json.dumps({
        'chat_template': settings.chat_template, 'bos_token': settings.bos_token,
        'eos_token': {'content': settings.eos_token}} | config))


def write_safetensors(path: Path, tensors: dict[str, NDArray[np.float32]], dtype: str) -> None:
    """Write tensors with the safetensors library, bfloat16 included."""
    from safetensors import serialize_file, TensorSpec
    names = {'F64': 'float64', 'F32': 'float32', 'F16': 'float16', 'BF16': 'bfloat16'}
    stored = {name: _stored(values, dtype) for name, values in tensors.items()}
    serialize_file({name: TensorSpec(dtype=names[dtype], shape=list(values.shape),
                                     data_ptr=values.ctypes.data, data_len=values.nbytes)
                    for name, values in stored.items()}, path)


def rounded(values: NDArray[np.float32], dtype: str) -> NDArray[np.float32]:
    """Return values as they come back from a file of a type."""
    if dtype == 'BF16':  # cut off, not rounded: half the digits of the mantissa do not matter here
        return (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    return values.astype(_TYPES[dtype]).astype(np.float32)


def _stored(values: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    if dtype == 'BF16':
        return (values.view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(_TYPES[dtype])


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    shape, settings = checkpoint.architecture, checkpoint.tokenizer.settings
    model = json.loads(checkpoint.tokenizer.content)['model']
    tokens = sorted(model['vocab'], key=model['vocab'].get)
    return {
        'llama.block_count': shape.layers, 'llama.embedding_length': shape.hidden,
        'llama.feed_forward_length': shape.ffn, 'llama.attention.head_count': shape.heads,
        'llama.attention.head_count_kv': shape.kv_heads,
        'llama.context_length': shape.context_length, 'llama.rope.freq_base': shape.rope_base,
        'llama.rope.dimension_count': shape.head_dim,
        'llama.attention.layer_norm_rms_epsilon': shape.norm_eps,
        'tokenizer.ggml.model': 'gpt2', 'tokenizer.ggml.pre': 'smollm',
        'tokenizer.ggml.tokens': tokens,
        'tokenizer.ggml.token_type': [3 if text in settings.control_tokens else 1
                                      for text in tokens],
        'tokenizer.ggml.merges': [' '.join(merge) for merge in model['merges']],
        'tokenizer.ggml.bos_token_id': settings.control_tokens[settings.bos_token],
        'tokenizer.ggml.eos_token_id': settings.control_tokens[settings.eos_token],
        'tokenizer.chat_template': settings.chat_template}


def _add(writer: GGUFWriter, key: str, value: Any) -> None:
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
              str: writer.add_string, list: writer.add_array}
    if value is not None:
        adders[type(value)](key, value)


def _gguf_name(name: str) -> str:
    parts = {
        'model.embed_tokens': 'token_embd', 'model.norm': 'output_norm', 'lm_head': 'output',
        'model.layers': 'blk', 'input_layernorm': 'attn_norm', 'self_attn.q_proj': 'attn_q',
        'self_attn.k_proj': 'attn_k', 'self_attn.v_proj': 'attn_v',
        'self_attn.o_proj': 'attn_output', 'post_attention_layernorm': 'ffn_norm',
        'mlp.gate_proj': 'ffn_gate', 'mlp.up_proj': 'ffn_up', 'mlp.down_proj': 'ffn_down'}
    for theirs, ours in parts.items():
        name = name.replace(theirs, ours)
    return name
