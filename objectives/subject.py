"""What an objective is handed when it needs the live model. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evomerge.errors import UsageError

if TYPE_CHECKING:
    import torch


class Reader(Protocol):
    """Reads rows of tokens piece by piece and remembers them."""

    def read(self, ids: torch.Tensor, *, rows: Collection[int] | None = None) -> torch.Tensor:
        """Logits after the last token, ``(rows, vocabulary)``, given new ``(rows, tokens)``.

        Args:
            rows: whose logits are looked at, None for all; the others may be anything.
        """
        ...


class Prefix(Protocol):
    """Rows of tokens that were read once, to be continued in several ways."""

    def logits(self, rows: Sequence[int], ids: torch.Tensor, *, keep: int) -> torch.Tensor:
        """Logits of the last `keep` new tokens, ``(n, keep, vocabulary)``; nothing is remembered.

        Args:
            rows: n indices of the rows that are continued, repeats allowed.
            ids: ``(n, tokens)``, behind them; may be padded on the right.
        """
        ...


class LanguageModel(Protocol):
    """A causal language model with its tokenizer, whichever library it comes from."""

    @property
    def vocabulary(self) -> int:
        """How many logits there are per token."""
        ...

    @property
    def context(self) -> int | None:
        """The longest sequence in tokens; None if there is no limit."""
        ...

    @property
    def ends(self) -> frozenset[int]:
        """Token ids that end a generation."""
        ...

    @property
    def start(self) -> int | None:
        """The token that stands before an empty prompt; None if there is none."""
        ...

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids as the tokenizer makes them.

        Args:
            special: whether the special tokens that it adds by itself come with them.
        """
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens."""
        ...

    def chat(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The text that the model's chat template makes of turns, up to the assistant's next.

        Args:
            messages: each with ``role`` and ``content``.

        Raises:
            UsageError: if there is no template, or it refuses these turns.
        """
        ...

    def logits(
        self, ids: torch.Tensor, *, keep: int, places: Sequence[range] | None = None
    ) -> torch.Tensor:
        """Logits of the last `keep` tokens, ``(rows, keep, vocabulary)``, of ``(rows, tokens)``.

        Rows may be padded on the right: no token sees a later one.

        Args:
            places: of each row, the tokens whose logits are looked at, among the last `keep`; None
                for all of these. The others may be anything: a model that is paid for each place
                leaves them out.
        """
        ...

    def reader(self, *, rows: int, length: int) -> Reader:
        """A reader that has read nothing yet, for up to `length` tokens per row."""
        ...

    def prefix(self, ids: torch.Tensor) -> Prefix | None:
        """Read ``(rows, tokens)``, none of them padding; None where the model cannot share them."""
        ...


@dataclass(frozen=True)
class LiveModel:
    """A model whose parameters are a candidate's while the objective looks at it.

    Attributes:
        module: in evaluation mode; transformers' own class, the built-in Llama, or what the
            campaign's loader returned. Its parameters must be left as they are.
        tokenizer: transformers' own, or the built-in `ByteTokenizer`; None with a loader of the
            user's that sets none.
        device: where the parameters are.
        folder: of the base, with its config and tokenizer files.
        language: the same model behind one interface; None if it is no causal language model that
            evomerge knows.
    """

    module: torch.nn.Module
    tokenizer: Any
    device: torch.device
    folder: Path
    language: LanguageModel | None = None

    @property
    def causal(self) -> LanguageModel:
        """The language model, for objectives that need one.

        Raises:
            UsageError: if it is none.
        """
        if self.language is None:
            raise UsageError(
                f"the model in {self.folder} is no causal language model that evomerge knows; "
                "measure it with an objective of type python"
            )
        return self.language


@dataclass(frozen=True)
class Written:
    """A candidate on disk, with what it was mixed by.

    Attributes:
        folder: the merge as a checkpoint folder, with config and tokenizer; gone after the call.
        coefficients: as an objective that needs these alone is given them.
    """

    folder: Path
    coefficients: Mapping[str, Any]
