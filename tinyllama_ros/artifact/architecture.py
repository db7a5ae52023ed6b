"""Describes the dimensions of a Llama-family decoder (layers, heads, sizes) and checks them."""

from dataclasses import dataclass

from tinyllama_ros.errors import ModelError

_LARGEST = (1 << 31) - 1
"""Graphs use 32-bit numbers; known RoPE bases are far below this."""
_MOST_LAYERS = 1000
"""Limits lists that are made before a file is read; the largest models have about 130 layers."""


EMBEDDING, FINAL_NORM, HEAD = 'model.embed_tokens.weight', 'model.norm.weight', 'lm_head.weight'
_IN_A_LAYER = ('input_layernorm', 'self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj',
               'self_attn.o_proj', 'post_attention_layernorm', 'mlp.gate_proj', 'mlp.up_proj',
               'mlp.down_proj')


@dataclass(frozen=True)
class LayerNames:
    """The names of one layer's weights: those of the Llama checkpoints in safetensors."""

    input_norm: str
    q: str
    k: str
    v: str
    o: str
    post_norm: str
    gate: str
    up: str
    down: str

    @classmethod
    def of(cls, layer: int) -> 'LayerNames':
        """Return the names of a layer's weights."""
        return cls(*(f'model.layers.{layer}.{name}.weight' for name in _IN_A_LAYER))


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
            most = _MOST_LAYERS if name == 'layers' else _LARGEST
            if not 0 < getattr(self, name) <= most:
                raise ModelError(f'{name} is {getattr(self, name)!s:.40}; it must be above 0 and '
                                 f'at most {most}')
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

        The head is absent where it is tied to the embedding.
        """
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {EMBEDDING: (self.vocab_size, self.hidden)}
        for layer in range(self.layers):
            names = LayerNames.of(layer)
            shapes |= {names.input_norm: (self.hidden,),
                       names.q: (query, self.hidden),
                       names.k: (key, self.hidden),
                       names.v: (key, self.hidden),
                       names.o: (self.hidden, query),
                       names.post_norm: (self.hidden,),
                       names.gate: (self.ffn, self.hidden),
                       names.up: (self.ffn, self.hidden),
                       names.down: (self.hidden, self.ffn)}
        shapes[FINAL_NORM] = (self.hidden,)
        if not self.tied_embeddings:
            shapes[HEAD] = (self.vocab_size, self.hidden)
        return shapes
