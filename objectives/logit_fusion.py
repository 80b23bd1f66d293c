"""A large language model whose logits small models move; nothing is merged.

Proxy-tuning (Liu et al. 2024, arXiv:2401.08565), with a weight for each small model:
``large + sum_i weight_i * (model_i - base)``, token by token, in float32. Tokens that only the
large model knows keep their logits; those that it does not know are left out.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from evomerge.errors import CheckpointError, UsageError
from evomerge.objectives.models import load_model
from evomerge.objectives.subject import LanguageModel, LiveModel, Prefix, Reader
from evomerge.recipe.logit_fusion import FusionFile, LogitFusion, Mode
from evomerge.recipe.logit_fusion_checks import token_conflict, token_table

if TYPE_CHECKING:
    from evomerge.objectives.endpoint.client import Client
    from evomerge.objectives.remote_language import RemoteLanguage

LARGEST = 2.0
"""Of the scales that ``matched`` chooses from."""
HALVINGS = 24
"""Of the interval of scales: it ends 1e-7 wide."""


@dataclass(frozen=True)
class Rule:
    """How logits are fused.

    Attributes:
        weights: of the small models beside the base.
        mode: as in `evomerge.recipe.logit_fusion.LogitFusion`.
    """

    weights: tuple[float, ...]
    mode: Mode = "static"

    def fuse(self, logits: Sequence[Tensor]) -> Tensor:
        """Logits ``(..., vocabulary)`` of the large model, moved; float32, or float64 as it was.

        Args:
            logits: of the large model, and behind it of the base and each small model, if there
                are any; their last dimensions may differ.
        """
        large, *small = map(_wide, logits)
        if not small:
            return large
        shared = min(one.shape[-1] for one in (large, *small))
        base, *models = (one[..., :shared] for one in small)
        shift = torch.zeros_like(large)
        for weight, model in zip(self.weights, models, strict=True):
            shift[..., :shared] += weight * (model - base)
        if self.mode == "matched":
            target = divergence(base, shift[..., :shared])
            shift = matching_scale(large, shift, target) * shift
        return large + shift


def divergence(logits: Tensor, shift: Tensor) -> Tensor:
    """How far a shift moves a model: KL(softmax(logits + shift) || softmax(logits)) in nats.

    ``(..., vocabulary)`` -> ``(..., 1)``, 0 or more but for rounding.
    """
    before, after = logits.log_softmax(dim=-1), (logits + shift).log_softmax(dim=-1)
    return (after.exp() * (after - before)).sum(dim=-1, keepdim=True)


def matching_scale(logits: Tensor, shift: Tensor, target: Tensor) -> Tensor:
    """The scale of a shift, in [0, 2], that moves a model as far as `target` says, token by token.

    evomerge's own rule, after dynamic logit fusion (Fan et al. 2024, arXiv:2406.15480), which
    learns one scale for each small model: here the weights say which way to go, and one scale for
    each token how far, so that the large model moves as far as the small base does under the same
    weights. It minimises (divergence(logits, a * shift) - target)^2 over a; as the divergence
    grows with a (its derivative is a times the variance of the shift), halving finds it.

    Args:
        logits, shift: ``(..., vocabulary)``.
        target: ``(..., 1)``, in nats, at least 0.

    Returns:
        ``(..., 1)``; 2 where no scale moves the model as far.
    """
    low, high = torch.zeros_like(target), torch.full_like(target, LARGEST)
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        near = divergence(logits, middle * shift) < target
        low, high = torch.where(near, middle, low), torch.where(near, high, middle)
    return high


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


@dataclass(frozen=True)
class FusedReader:
    """`evomerge.objectives.subject.Reader` over several models."""

    readers: tuple[Reader, ...]
    rule: Rule

    def read(self, ids: Tensor, *, rows: Collection[int] | None = None) -> Tensor:
        """Logits after the last token, ``(rows, vocabulary)``."""
        return self.rule.fuse([reader.read(ids, rows=rows) for reader in self.readers])


@dataclass(frozen=True)
class FusedPrefix:
    """`evomerge.objectives.subject.Prefix` over several models."""

    prefixes: tuple[Prefix, ...]
    rule: Rule

    def logits(self, rows: Sequence[int], ids: Tensor, *, keep: int) -> Tensor:
        """Logits of the last `keep` new tokens, ``(n, keep, vocabulary)``."""
        return self.rule.fuse([prefix.logits(rows, ids, keep=keep) for prefix in self.prefixes])


@dataclass(frozen=True)
class FusedLanguageModel:
    """`evomerge.objectives.subject.LanguageModel` over several models.

    Attributes:
        models: the large one, whose tokenizer and ends of text count; behind it the base and the
            small models, or nothing.
        context: the longest sequence that all of the campaign's models read.
    """

    models: tuple[LanguageModel, ...]
    rule: Rule
    context: int | None

    @property
    def vocabulary(self) -> int:
        """How many logits there are per token."""
        return self.models[0].vocabulary

    @property
    def ends(self) -> frozenset[int]:
        """Token ids that end a generation."""
        return self.models[0].ends

    @property
    def start(self) -> int | None:
        """The token before an empty prompt."""
        return self.models[0].start

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids."""
        return self.models[0].encode(text, special=special)

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        return self.models[0].decode(ids)

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text of turns, by the large model's template."""
        return self.models[0].chat(messages)

    def logits(self, ids: Tensor, *, keep: int, places: Sequence[range] | None = None) -> Tensor:
        """Logits of the last `keep` tokens, ``(rows, keep, vocabulary)``."""
        logits = [model.logits(ids, keep=keep, places=places) for model in self.models]
        return self.rule.fuse(logits)

    def reader(self, *, rows: int, length: int) -> FusedReader:
        """A reader that has read nothing yet."""
        readers = tuple(model.reader(rows=rows, length=length) for model in self.models)
        return FusedReader(readers, self.rule)

    def prefix(self, ids: Tensor) -> FusedPrefix | None:
        """Read ``(rows, tokens)`` once; None where one of the models cannot."""
        prefixes = [model.prefix(ids) for model in self.models]
        found = tuple(prefix for prefix in prefixes if prefix is not None)
        return FusedPrefix(found, self.rule) if len(found) == len(prefixes) else None


@dataclass(frozen=True)
class Ensemble:
    """The models of a fusion, loaded.

    Attributes:
        large: or what asks for it, where it is behind an API.
        models: the small ones by name.
    """

    large: LiveModel | RemoteLanguage
    base: LiveModel
    models: Mapping[str, LiveModel]
    mode: Mode

    @classmethod
    def load(
        cls, fusion: LogitFusion, base: Path, models: Mapping[str, Path], *, dtype: str | None
    ) -> Ensemble:
        """Load all models.

        Args:
            dtype: of all of them; None for what each one stores.

        Raises:
            CheckpointError: if a model is broken, or the tokenizers differ.
            UsageError: if one is no causal language model, or an API's options are not in order.
        """
        for path in (base, *models.values()):
            conflict = token_conflict(fusion.large or base, path)
            if conflict is not None:
                raise CheckpointError(conflict)
        small = load_model(base, dtype=dtype)
        large: LiveModel | RemoteLanguage
        if fusion.large is not None:
            large = load_model(fusion.large, dtype=dtype)
        else:
            from evomerge.objectives.remote_language import RemoteLanguage

            large = RemoteLanguage(fusion.server or {}, _language(small), token_table(base))
        loaded = {name: load_model(path, dtype=dtype) for name, path in models.items()}
        return cls(large, small, loaded, fusion.mode)

    @classmethod
    def of_file(cls, file: FusionFile) -> Ensemble:
        """Load the models that an exported file names; as `load` raises."""
        return cls.load(file.fusion, file.base, file.models, dtype=file.dtype)

    @property
    def client(self) -> Client | None:
        """Of the large model's API; None where it is here."""
        return None if isinstance(self.large, LiveModel) else self.large.client

    def at(self, weights: Mapping[str, float]) -> LiveModel:
        """The large model as these weights move it; small models of weight 0 are not asked.

        Args:
            weights: by name, of all models.
        """
        used = [name for name, weight in weights.items() if weight != 0]
        small = [self.base, *(self.models[name] for name in used)] if used else []
        rule = Rule(tuple(weights[name] for name in used), self.mode)
        everybody = map(_language, (self.large, self.base, *self.models.values()))
        contexts = [one.context for one in everybody if one.context is not None]
        languages = tuple(map(_language, (self.large, *small)))
        fused = FusedLanguageModel(languages, rule, min(contexts, default=None))
        one = self.large if isinstance(self.large, LiveModel) else self.base
        return LiveModel(one.module, one.tokenizer, one.device, one.folder, fused)


def _language(model: LiveModel | RemoteLanguage) -> LanguageModel:
    if not isinstance(model, LiveModel):
        return model
    if model.language is None:
        raise UsageError(
            "it is no causal language model that evomerge knows; logits are fused "
            "between such models",
            place=str(model.folder),
        )
    return model.language
