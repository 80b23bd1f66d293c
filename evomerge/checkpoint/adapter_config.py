"""What adapter_config.json says, read strictly: what cannot be honoured is refused by name.

PEFT has many variants of LoRA that keep the same two factors and mean something else by them. A
key that is not known here, and is not empty, is therefore refused: an adapter read in part would
be merged wrongly without a word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NoReturn

from evomerge.checkpoint.names import quoted, shown
from evomerge.errors import CheckpointError

LONGEST_PATTERN = 500
LARGEST_RANK = 2**20

_IDLE = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "inference_mode",
        "lora_dropout",
        "lora_ga_config",
        "loftq_config",
        "megatron_core",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "task_type",
        "bias",
        "lora_bias",
    }
)
"""Keys of training, of loading, or of tensors that speak for themselves."""

_READ = frozenset(
    {
        "alpha_pattern",
        "exclude_modules",
        "fan_in_fan_out",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "lora_alpha",
        "r",
        "rank_pattern",
        "target_modules",
        "use_dora",
        "use_rslora",
    }
)
_PLAIN_STARTS = (True, False, None, "true", "false", "gaussian", "eva", "orthogonal")
_NOTHING: tuple[Any, ...] = (None, False, "", [], {})
_ALL_LINEAR = "all-linear"
_RISKY = re.compile(r"\)[*+{]|\\[1-9]")
_REPEATS = re.compile(r"(?<!\\)[*+{]")
_MOST_REPEATS = 3


@dataclass(frozen=True)
class AdapterConfig:
    """A LoRA adapter's settings.

    Attributes:
        rank, alpha: of the modules that no pattern names.
        rank_pattern, alpha_pattern: module name or pattern to its own; the first match counts.
        rslora: whether the scale is alpha / sqrt(rank), else alpha / rank.
        dora: whether each module has a magnitude beside its factors.
        transposed: whether linear layers store their weights as ``(in, out)``.
        targets, excluded: names that modules end in, or one pattern for the whole name.
        layers: of the modules that are adapted; None for all.
        layer_words: what stands before the layer's number; none means any word.
        base: the base model as training called it; None where it is not said.
        task: PEFT's word for what the model does; None where it is not said.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rslora: bool
    dora: bool
    transposed: bool
    targets: str | tuple[str, ...]
    excluded: str | tuple[str, ...]
    layers: tuple[int, ...] | None
    layer_words: tuple[str, ...]
    base: str | None
    task: str | None

    def rank_of(self, module: str) -> int:
        """The rank of a module's factors."""
        return self.rank_pattern.get(_pattern(self.rank_pattern, module), self.rank)

    def scale_of(self, module: str) -> float:
        """The factor of the product of a module's factors."""
        rank = self.rank_of(module)
        alpha = self.alpha_pattern.get(_pattern(self.alpha_pattern, module), self.alpha)
        return alpha / (math.sqrt(rank) if self.rslora else rank)

    def adapts(self, module: str) -> bool:
        """Whether PEFT would adapt a module of this name."""
        if _named(self.excluded, module):
            return False
        if self.targets == _ALL_LINEAR:
            return True
        if isinstance(self.targets, str):
            return _named(self.targets, module)
        return _named(self.targets, module) and self._in_layers(module)

    def _in_layers(self, module: str) -> bool:
        if self.layers is None:
            return True
        words = module.split(".")
        numbers = [
            int(word)
            for before, word in pairwise(words)
            if word.isdecimal()
            and word.isascii()
            and (not self.layer_words or before in self.layer_words)
        ]
        return bool(numbers) and numbers[0] in self.layers


def parse_config(document: Mapping[str, Any], place: object) -> AdapterConfig:
    """The settings in an adapter_config.json.

    Args:
        document: its content.
        place: of the file, for errors.

    Raises:
        CheckpointError: it is no LoRA adapter, or says what cannot be honoured.
    """
    reading = _Reading(document, place)
    _refuse_others(reading)
    return AdapterConfig(
        rank=reading.rank("r", document.get("r", 8)),
        alpha=reading.number("lora_alpha", document.get("lora_alpha", 8)),
        rank_pattern=reading.pattern("rank_pattern", reading.rank),
        alpha_pattern=reading.pattern("alpha_pattern", reading.number),
        rslora=reading.switch("use_rslora"),
        dora=reading.switch("use_dora"),
        transposed=reading.switch("fan_in_fan_out"),
        targets=reading.modules("target_modules"),
        excluded=reading.modules("exclude_modules"),
        layers=reading.layers(),
        layer_words=reading.words("layers_pattern"),
        base=reading.text("base_model_name_or_path"),
        task=reading.text("task_type"),
    )


def _refuse_others(reading: _Reading) -> None:
    kind = reading.document.get("peft_type")
    if kind != "LORA":
        reading.refuse(
            f"peft_type is {quoted(kind)}; only LORA adapters are read, DoRA and rsLoRA included"
        )
    start = reading.document.get("init_lora_weights", True)
    if (start.lower() if isinstance(start, str) else start) not in _PLAIN_STARTS:
        reading.refuse(
            f"init_lora_weights is {quoted(start)}: such an adapter belongs to a base whose "
            "weights training has changed; convert it to plain LoRA with PEFT's save_pretrained("
            "path_initial_model_for_weight_conversion=...)"
        )
    for key, value in reading.document.items():
        if key not in _IDLE | _READ and not any(value is n or value == n for n in _NOTHING):
            reading.refuse(
                f"sets {quoted(key)}, which this version cannot honour; "
                "merge the adapter into its base with PEFT and use the full checkpoint"
            )
    if reading.document.get("bias", "none") not in ("none", "all", "lora_only"):
        reading.refuse(f"bias is {quoted(reading.document['bias'])}; none, all, lora_only exist")


@dataclass(frozen=True)
class _Reading:
    """Values of the document, checked one by one."""

    document: Mapping[str, Any]
    place: object

    def refuse(self, cause: str) -> NoReturn:
        raise CheckpointError(cause, place=shown(self.place))

    def rank(self, key: str, value: Any) -> int:
        if type(value) is not int or not 1 <= value <= LARGEST_RANK:
            self.refuse(f"{key} is {quoted(value)}; a rank is a whole number from 1 on")
        return int(value)

    def number(self, key: str, value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value):
            self.refuse(f"{key} is {quoted(value)}; a number is wanted")
        return float(value)

    def switch(self, key: str) -> bool:
        value = self.document.get(key)
        if value not in (None, True, False) or type(value) is int:
            self.refuse(f"{key} is {quoted(value)}; true or false is wanted")
        return bool(value)

    def text(self, key: str) -> str | None:
        value = self.document.get(key)
        return value if isinstance(value, str) else None

    def words(self, key: str) -> tuple[str, ...]:
        value = self.document.get(key) or []
        found = [value] if isinstance(value, str) else value
        if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
            self.refuse(f"{key} is {quoted(value)}; names of modules are wanted")
        return tuple(found)

    def modules(self, key: str) -> str | tuple[str, ...]:
        value = self.document.get(key)
        return value if isinstance(value, str) and value else self.words(key)

    def layers(self) -> tuple[int, ...] | None:
        value = self.document.get("layers_to_transform")
        if value is None or value == []:
            return None
        numbers = value if isinstance(value, list) else [value]
        if not all(type(number) is int and number >= 0 for number in numbers):
            self.refuse(f"layers_to_transform is {quoted(value)}; numbers of layers are wanted")
        return tuple(numbers)

    def pattern(self, key: str, value_of: Callable[[str, Any], Any]) -> dict[str, Any]:
        value = self.document.get(key) or {}
        if not isinstance(value, dict):
            self.refuse(f"{key} is {quoted(value)}; a mapping of modules is wanted")
        for name in value:
            if not _is_safe(name):
                self.refuse(f"{key} holds {quoted(name)}, no pattern that is safe to match")
        return {
            name: value_of(f"{key} of {quoted(name)}", number) for name, number in value.items()
        }


def _pattern(patterns: Iterable[str], module: str) -> str:
    """The first pattern that a module's name ends in, whole words, as PEFT matches; else ''."""
    return next((p for p in patterns if re.match(rf"(.*\.)?({p})$", module)), "")


def _named(names: str | Sequence[str], module: str) -> bool:
    """Whether a module's name ends in one of the names, or is matched by the pattern.

    A pattern that could take for ever is taken to match: it only serves to find strange files.
    """
    if isinstance(names, str):
        return not _is_safe(names) or re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _is_safe(pattern: str) -> bool:
    """Whether matching takes a time that a module's name justifies: few repeats, none nested."""
    if len(pattern) > LONGEST_PATTERN or _RISKY.search(pattern):
        return False
    if len(_REPEATS.findall(pattern)) > _MOST_REPEATS:
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
