"""The shape of a Llama-family decoder."""

from dataclasses import dataclass

from tinyllama_ros.errors import ModelError

_LARGEST = (1 << 31) - 1
"""Graphs count in 32 bits; the bases of RoPE that are in use are far below."""


@dataclass(frozen=True)
class Architecture:
    """Everything about a decoder that is not a weight."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    context_length: int
    rope_base: float
    norm_eps: float
    tied_embeddings: bool

    def __post_init__(self) -> None:
        for name in ('layers', 'hidden', 'ffn', 'heads', 'kv_heads', 'head_dim', 'vocab_size',
                     'context_length', 'rope_base', 'norm_eps'):
            if not 0 < getattr(self, name) <= _LARGEST:
                raise ModelError(f'{name} is {getattr(self, name)!s:.40}; it must be above 0 and '
                                 f'at most {_LARGEST}')
        if self.heads % self.kv_heads:
            raise ModelError(f'{self.heads} query heads cannot share {self.kv_heads} key/value '
                             'heads evenly')
        if self.head_dim % 2:
            raise ModelError(f'head_dim is {self.head_dim}; RoPE needs an even number')

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.heads // self.kv_heads

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """
        Return the shape of every weight by name, matrices as (out, in).

        The names are those of the Llama checkpoints in safetensors; ``lm_head.weight`` is absent
        where the embeddings are tied.
        """
        shapes: dict[str, tuple[int, ...]] = {
            'model.embed_tokens.weight': (self.vocab_size, self.hidden)}
        for layer in range(self.layers):
            shapes |= {f'model.layers.{layer}.{name}': shape
                       for name, shape in self._layer_shapes().items()}
        shapes['model.norm.weight'] = (self.hidden,)
        if not self.tied_embeddings:
            shapes['lm_head.weight'] = (self.vocab_size, self.hidden)
        return shapes

    def _layer_shapes(self) -> dict[str, tuple[int, ...]]:
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            'input_layernorm.weight': (self.hidden,),
            'self_attn.q_proj.weight': (query, self.hidden),
            'self_attn.k_proj.weight': (key, self.hidden),
            'self_attn.v_proj.weight': (key, self.hidden),
            'self_attn.o_proj.weight': (self.hidden, query),
            'post_attention_layernorm.weight': (self.hidden,),
            'mlp.gate_proj.weight': (self.ffn, self.hidden),
            'mlp.up_proj.weight': (self.ffn, self.hidden),
            'mlp.down_proj.weight': (self.hidden, self.ffn),
        }
