"""
A Llama in plain NumPy, from the papers' formulas; graphs are compared with its results.

It reads a whole sequence at once, in float64, without a cache, and shares no code with the
builder of the graph. Sources: RMSNorm, arXiv 1910.07467; RoPE, 2104.09864; attention, 1706.03762;
grouped queries, 2305.13245; SwiGLU, 2002.05202; W8A8, 2211.10438.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tinyllama_ros.workbench.checkpoints.checkpoint import Checkpoint

Array = NDArray[np.float64]
Linear = Callable[[Array, Array], Array]
"""x (n, in) and weight (out, in) to (n, out)."""


def exact(x: Array, weight: Array) -> Array:
    """Return x times the weight."""
    return x @ weight.T


def w8a8(x: Array, weight: Array) -> Array:
    """Return x times the weight, both in steps of 1/127 of their row's largest magnitude."""
    return _in_steps(x) @ _in_steps(weight).T


def w8a8_by_group(x: Array, weight: Array) -> Array:
    """Return the same with x in steps of its own for each 128 numbers of a row."""
    rounded = [_in_steps(x[:, first:first + 128]) for first in range(0, x.shape[1], 128)]
    return np.concatenate(rounded, axis=1) @ _in_steps(weight).T


def w8a16(x: Array, weight: Array) -> Array:
    """Return x times the weight, x in steps of 1/254 of what w8a8 takes."""
    return _in_steps(x, 127 * 254) @ _in_steps(weight).T


def logits(checkpoint: Checkpoint, tokens: Sequence[int], linear: Linear = exact,
           wide_linears: str = 'none') -> Array:
    """
    Return the logits (n, vocabulary) after each token.

    :param linear: w8a8 looks embeddings up in half precision, as the quantised artifact does, and
        in the head's steps where they are tied.
    :param wide_linears: of w8a8: what is w8a16 as the head is: none, every down_proj, or all.
    """
    shape = checkpoint.architecture

    def weight(name: str) -> Array:
        return checkpoint.tensor(f'{name}.weight').astype(np.float64)

    embeddings = weight('model.embed_tokens')
    x = embeddings[list(tokens)]
    if linear in (w8a8, w8a8_by_group) and shape.tied_embeddings:
        x = _in_steps(x)
    if linear is not exact:
        x = x.astype(np.float16).astype(np.float64)
    wide = w8a16 if linear in (w8a8, w8a8_by_group) else linear
    linear, down = (wide if wide_linears in names else linear
                    for names in (('all',), ('all', 'down')))
    for layer in range(shape.layers):
        name = f'model.layers.{layer}'
        h = _rms_norm(x, weight(f'{name}.input_layernorm'), shape.norm_eps)
        q, k, v = (linear(h, weight(f'{name}.self_attn.{part}_proj')) for part in 'qkv')
        heads = _attention(_split(q, shape.head_dim), _split(k, shape.head_dim),
                           _split(v, shape.head_dim), shape.rope_base)
        x = x + linear(heads, weight(f'{name}.self_attn.o_proj'))
        h = _rms_norm(x, weight(f'{name}.post_attention_layernorm'), shape.norm_eps)
        gate, up = (linear(h, weight(f'{name}.mlp.{part}_proj')) for part in ('gate', 'up'))
        x = x + down(gate / (1 + np.exp(-gate)) * up, weight(f'{name}.mlp.down_proj'))
    x = _rms_norm(x, weight('model.norm'), shape.norm_eps)
    head = embeddings if shape.tied_embeddings else weight('lm_head')
    return wide(x, head)


def _rms_norm(x: Array, gain: Array, epsilon: float) -> Array:
    return x / np.sqrt((x ** 2).mean(axis=-1, keepdims=True) + epsilon) * gain


def _split(x: Array, head_dim: int) -> Array:
    """Return (heads, n, head_dim)."""
    return x.reshape(len(x), -1, head_dim).transpose(1, 0, 2)


def _attention(q: Array, k: Array, v: Array, base: float) -> Array:
    """Return what each head gathers, heads side by side: (n, heads * head_dim)."""
    n, head_dim = q.shape[1:]
    group = len(q) // len(k)
    k, v = (x.repeat(group, axis=0) for x in (k, v))
    scores = _rotate(q, base) @ _rotate(k, base).transpose(0, 2, 1) / np.sqrt(head_dim)
    scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf  # nobody attends to what comes later
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return (weights @ v).transpose(1, 0, 2).reshape(n, -1)


def _rotate(x: Array, base: float) -> Array:
    """Turn the pair (i, i + head_dim / 2) of position m as a complex number by m base^(-2i/d)."""
    half = x.shape[-1] // 2
    frequencies = base ** (-np.arange(half) / half)
    turns = np.exp(1j * np.arange(x.shape[1])[:, None] * frequencies)
    pairs = (x[..., :half] + 1j * x[..., half:]) * turns
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def _in_steps(rows: Array, steps: int = 127) -> Array:
    step = np.abs(rows).max(axis=-1, keepdims=True) / steps
    return np.rint(rows / np.where(step > 0, step, 1)) * step
