"""A plain Llama in torch, with the parameter names of transformers' ``LlamaForCausalLM``.

Touvron et al. (2023), arXiv:2302.13971: RMS normalisation (Zhang and Sennrich 2019), rotary
positions (Su et al. 2021), grouped-query attention (Ainslie et al. 2023), SwiGLU (Shazeer 2020).
In float32 its logits equal those of transformers to 1e-5; a test compares them.

Making a model touches no global random state: parameters start unset and are filled either from a
checkpoint or by `initialise` from a generator.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from evomerge.objectives.llama_config import LlamaConfig


class Cache:
    """Keys and values of the tokens read so far, for generation; `length` tokens are valid."""

    def __init__(self, config: LlamaConfig, *, rows: int, length: int, like: Tensor) -> None:
        shape = (config.num_hidden_layers, rows, config.key_value_heads, length, config.head_size)
        self.keys = torch.empty(shape, dtype=like.dtype, device=like.device)
        self.values = torch.empty_like(self.keys)
        self.length = 0

    def chosen(self, rows: Sequence[int], *, room: int) -> Cache:
        """A cache of its own for some of the rows, with room for further tokens.

        Args:
            rows: indices, repeats allowed.
        """
        picked = torch.tensor(rows, device=self.keys.device)
        made = copy.copy(self)
        made.keys = _roomy(self.keys[:, picked, :, : self.length], room)
        made.values = _roomy(self.values[:, picked, :, : self.length], room)
        return made

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store ``(rows, heads, new, size)`` after the valid tokens; everything up to them."""
        end = self.length + keys.shape[2]
        self.keys[layer, :, :, self.length : end] = keys
        self.values[layer, :, :, self.length : end] = values
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


def _roomy(x: Tensor, room: int) -> Tensor:
    """The same with `room` more tokens, not set, in ``(..., tokens, size)``."""
    return torch.cat((x, x.new_empty(*x.shape[:-2], room, x.shape[-1])), dim=-2)


class Linear(nn.Module):
    """``x @ weight.T``; the parameter starts unset."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight)


class Embedding(nn.Module):
    """Rows of ``weight`` by token id; the parameter starts unset."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, size))

    def forward(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.weight)


class Norm(nn.Module):
    """RMS normalisation, computed in float32."""

    def __init__(self, size: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight * (wide * scale).to(x.dtype)


class Attention(nn.Module):
    """Causal grouped-query attention with rotary positions."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.layer, self.size = layer, config.head_size
        self.shared = config.num_attention_heads // config.key_value_heads
        queries = config.num_attention_heads * config.head_size
        keys = config.key_value_heads * config.head_size
        self.q_proj = Linear(config.hidden_size, queries)
        self.k_proj = Linear(config.hidden_size, keys)
        self.v_proj = Linear(config.hidden_size, keys)
        self.o_proj = Linear(queries, config.hidden_size)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        rows, tokens, _ = x.shape
        query = rotate(self._heads(self.q_proj(x)), *rotary)
        key = rotate(self._heads(self.k_proj(x)), *rotary)
        value = self._heads(self.v_proj(x))
        if cache is not None:
            key, value = cache.extend(self.layer, key, value)
        mixed = causal_attention(
            query,
            key.repeat_interleave(self.shared, dim=1) if self.shared > 1 else key,
            value.repeat_interleave(self.shared, dim=1) if self.shared > 1 else value,
        )
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(rows, tokens, -1))
        return out

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:2], -1, self.size).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(functional.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Block(nn.Module):
    """One layer: attention and feed-forward, each behind a norm and beside a residual."""

    def __init__(self, config: LlamaConfig, layer: int) -> None:
        super().__init__()
        self.self_attn = Attention(config, layer)
        self.mlp = FeedForward(config)
        self.input_layernorm = Norm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor], cache: Cache | None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), rotary, cache)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class Body(nn.Module):
    """Everything below the head; named ``model`` inside `Llama`."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = Norm(config.hidden_size, config.rms_norm_eps)

    def forward(self, ids: Tensor, cache: Cache | None) -> Tensor:
        x: Tensor = self.embed_tokens(ids)
        past = 0 if cache is None else cache.length
        rotary = rotations(self.config, past, past + ids.shape[1], like=x)
        for block in self.layers:
            x = block(x, rotary, cache)
        if cache is not None:
            cache.length += ids.shape[1]
        out: Tensor = self.norm(x)
        return out


class Llama(nn.Module):
    """A causal language model; parameters start unset, on the current default device.

    Args:
        config: its shape; a tied head shares the embedding's parameter.
    """

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Body(config)
        self.lm_head = Linear(config.hidden_size, config.vocab_size)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def forward(
        self, ids: Tensor, *, cache: Cache | None = None, keep: int | None = None
    ) -> Tensor:
        """Logits ``(rows, tokens, vocabulary)``; those of the last `keep` tokens only, if given.

        Args:
            ids: ``(rows, tokens)`` int64; shorter rows are padded on the right with any id,
                which no earlier token sees.
            cache: tokens read before these; extended by them.
            keep: 1 or more.
        """
        hidden = self.model(ids, cache)
        logits: Tensor = self.lm_head(hidden if keep is None else hidden[:, -keep:])
        return logits

    def cache(self, *, rows: int, length: int) -> Cache:
        """An empty cache for up to `length` tokens per row."""
        return Cache(self.config, rows=rows, length=length, like=self.lm_head.weight)


def initialise(model: Llama, generator: torch.Generator) -> None:
    """Fill the parameters in place: norms with 1, the rest from N(0, initializer_range²)."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, Norm):
                module.weight.fill_(1.0)
            elif isinstance(module, Linear | Embedding):
                module.weight.normal_(0.0, model.config.initializer_range, generator=generator)


def rotations(config: LlamaConfig, start: int, stop: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of positions [start, stop), each ``(stop - start, head size)``.

    Frequencies ``theta^(-2i/d)`` in float32 (Su et al. 2021, eq. 15), halves repeated as
    transformers lays them out.
    """
    steps = torch.arange(0, config.head_size, 2, dtype=torch.float32, device=like.device)
    frequencies = 1.0 / config.rope_theta ** (steps / config.head_size)
    positions = torch.arange(start, stop, dtype=torch.float32, device=like.device)
    angles = torch.outer(positions, frequencies).repeat(1, 2)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn every pair (i, i + size/2) of ``(..., tokens, size)`` by its position's angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cosine + torch.cat((-second, first), dim=-1) * sine


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention of the last tokens to everything up to themselves, ``(rows, heads, tokens, size)``.

    `key` and `value` may reach further back than `query`, as a cache makes them.
    """
    new, total = query.shape[2], key.shape[2]
    attend = functional.scaled_dot_product_attention
    if new == total:
        return attend(query, key, value, is_causal=True)
    if new == 1:
        return attend(query, key, value)
    seen = torch.ones(new, total, dtype=torch.bool, device=query.device).tril(total - new)
    return attend(query, key, value, attn_mask=seen)
