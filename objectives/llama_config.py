"""What a plain Llama's ``config.json`` says, read from either spelling that transformers writes.

Defaults are those of transformers' ``LlamaConfig``, for a key that is absent means them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoint.folder import read_json
from evomerge.errors import CheckpointError

DTYPES = ("float32", "bfloat16", "float16", "float64")


@dataclass(frozen=True)
class LlamaConfig:
    """The shape of a plain Llama; field names are those of ``config.json``.

    Attributes:
        head_dim: of queries, keys and values; None means ``hidden_size / num_attention_heads``.
        num_key_value_heads: grouped-query attention where it is less than the query heads.
        rope_theta: base of the rotary frequencies.
        max_position_embeddings: the longest sequence, in tokens.
        eos_token_id: token ids that end a generation; none, one or several.
        dtype: storage dtype of the tensors, a torch name.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10_000.0
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    bos_token_id: int | None = None
    eos_token_id: tuple[int, ...] = ()
    pad_token_id: int | None = None
    dtype: str = "float32"

    @property
    def key_value_heads(self) -> int:
        """Heads of keys and values, >= 1, a divisor of the query heads."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        """Numbers per head."""
        return self.head_dim or self.hidden_size // self.num_attention_heads

    def to_json(self) -> dict[str, Any]:
        """As ``config.json`` holds it, readable by transformers 4 and 5 alike."""
        ends: int | list[int] | None = list(self.eos_token_id)
        if len(self.eos_token_id) < 2:
            ends = self.eos_token_id[0] if self.eos_token_id else None
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab_size,
            "hidden_size": self.hidden_size,
            "intermediate_size": self.intermediate_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "num_key_value_heads": self.key_value_heads,
            "head_dim": self.head_size,
            "hidden_act": "silu",
            "max_position_embeddings": self.max_position_embeddings,
            "rms_norm_eps": self.rms_norm_eps,
            "rope_theta": self.rope_theta,
            "tie_word_embeddings": self.tie_word_embeddings,
            "initializer_range": self.initializer_range,
            "attention_bias": False,
            "mlp_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": self.bos_token_id,
            "eos_token_id": ends,
            "pad_token_id": self.pad_token_id,
            "torch_dtype": self.dtype,
            "use_cache": True,
        }

    @classmethod
    def from_json(cls, config: Mapping[str, Any], *, place: str = "config.json") -> LlamaConfig:
        """Read what `to_json` or transformers wrote.

        Raises:
            CheckpointError: if `obstacles` finds any, or a number is missing or senseless.
        """
        if found := obstacles(config):
            raise CheckpointError(f"not a plain Llama: {'; '.join(found)}", place=place)
        read = cls(
            vocab_size=_count(config, "vocab_size", 32_000, place),
            hidden_size=_count(config, "hidden_size", 4096, place),
            intermediate_size=_count(config, "intermediate_size", 11_008, place),
            num_hidden_layers=_count(config, "num_hidden_layers", 32, place),
            num_attention_heads=_count(config, "num_attention_heads", 32, place),
            num_key_value_heads=_count(config, "num_key_value_heads", None, place),
            head_dim=_count(config, "head_dim", None, place),
            max_position_embeddings=_count(config, "max_position_embeddings", 2048, place),
            rms_norm_eps=_real(config, "rms_norm_eps", 1e-6, place),
            rope_theta=_real(_rope(config), "rope_theta", 10_000.0, place),
            tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
            initializer_range=_real(config, "initializer_range", 0.02, place),
            bos_token_id=_token(config.get("bos_token_id", 1), "bos_token_id", place),
            eos_token_id=tuple(_tokens(config.get("eos_token_id", 2), "eos_token_id", place)),
            pad_token_id=_token(config.get("pad_token_id"), "pad_token_id", place),
            dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
        )
        _check_heads(read, place)
        return read

    @classmethod
    def read(cls, folder: Path) -> LlamaConfig:
        """From a checkpoint folder's ``config.json``."""
        return cls.from_json(read_json(folder, "config.json"), place=str(folder / "config.json"))


def obstacles(config: Mapping[str, Any]) -> list[str]:
    """What a ``config.json`` asks for that a plain Llama does not do; empty if it is one."""
    rope = _rope(config)
    kind = rope.get("rope_type", rope.get("type", "default"))
    wanted: dict[str, tuple[object, tuple[object, ...]]] = {
        "model_type": (config.get("model_type"), ("llama",)),
        "hidden_act": (config.get("hidden_act", "silu"), ("silu", "swish")),
        "rope_type": (kind, ("default", None)),
        "partial_rotary_factor": (rope.get("partial_rotary_factor"), (1, None)),
        "attention_bias": (config.get("attention_bias", False), (False, None)),
        "mlp_bias": (config.get("mlp_bias", False), (False, None)),
        "quantization_config": (config.get("quantization_config"), (None,)),
        "dtype": (config.get("dtype") or config.get("torch_dtype"), (*DTYPES, None)),
    }
    return [f"{key} is {got!r}" for key, (got, allowed) in wanted.items() if got not in allowed]


def _rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """Rotary settings: flat keys (transformers 4), ``rope_scaling``, ``rope_parameters`` (5)."""
    flat = {key: config[key] for key in ("rope_theta", "partial_rotary_factor") if key in config}
    nested = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return flat | (nested if isinstance(nested, dict) else {"rope_type": nested})


def _count(config: Mapping[str, Any], key: str, default: int | None, place: str) -> Any:
    """A positive integer, or the default where the key is absent or null."""
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise CheckpointError(f"{key} is {value!r}; a positive integer is wanted", place=place)
    return value


def _real(config: Mapping[str, Any], key: str, default: float, place: str) -> float:
    """A positive number, or the default where the key is absent."""
    value = config.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise CheckpointError(f"{key} is {value!r}; a positive number is wanted", place=place)
    return float(value)


def _token(value: Any, key: str, place: str) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise CheckpointError(f"{key} is {value!r}; a token id is wanted", place=place)


def _tokens(value: Any, key: str, place: str) -> list[int]:
    """Token ids out of none, one or a list."""
    values = value if isinstance(value, list) else [value]
    found = [_token(each, key, place) for each in values]
    return [token for token in found if token is not None]


def _check_heads(config: LlamaConfig, place: str) -> None:
    heads, shared = config.num_attention_heads, config.key_value_heads
    if heads % shared:
        raise CheckpointError(
            f"{heads} query heads cannot share {shared} key-value heads evenly", place=place
        )
    if config.head_dim is None and config.hidden_size % heads:
        raise CheckpointError(
            f"hidden_size {config.hidden_size} does not divide into {heads} heads", place=place
        )
    if config.head_size % 2:
        raise CheckpointError(
            f"heads of {config.head_size} numbers cannot be rotated in pairs", place=place
        )
