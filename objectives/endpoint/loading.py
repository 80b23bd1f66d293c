"""Objectives for servers that are given each merge, load it, answer, and let go of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from evomerge.checkpoint.adapter import CONFIG
from evomerge.coefficients import Mixing
from evomerge.errors import UsageError
from evomerge.interfaces import Need
from evomerge.objectives import options as read
from evomerge.objectives.endpoint.asking import Asking
from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.failures import EndpointDownError, EndpointError
from evomerge.objectives.endpoint.options import OPTIONS, EndpointOptions
from evomerge.objectives.endpoint.query import Query
from evomerge.objectives.endpoint.questioning import Questioning
from evomerge.objectives.endpoint.questions import ASKED, Questions, Scorings, Seen

OWN = ("load", "model", *ASKED)
SCORINGS: Scorings = {
    "multiple_choice": ("echo", "labels", "match"),
    "exact_match": ("echo", "match"),
    "perplexity": ("echo",),
}
REPLACED = (
    "the weights were replaced while they were measured: a server whose weights are reloaded has "
    "one worker, of one campaign"
)


class LoadingObjective(Questioning[Path]):
    """What servers that load merges share, as an `evomerge.interfaces.Objective`.

    Args:
        options: those of `EndpointOptions`, whose url is the server's root, and of `Questions`;
            ``load``: adapter, one LoRA adapter beside the base that the server was started with,
            or checkpoint, all weights; ``model``: how the server calls what it was started with.
        folder: what relative paths start from.

    Raises:
        UsageError: if an option or an item is not in order.
    """

    mixing: Mixing | None = None  # it is given merges that we make

    def __init__(self, options: Mapping[str, Any], *, folder: Path) -> None:
        read.check_names(options, (*OPTIONS, *OWN))
        self.client = Client(EndpointOptions.read(options))
        if self.client.options.url.endswith("/v1"):
            raise UsageError("url ends in /v1; the server's root is wanted, without it")
        self.adapts = read.choice(options, "load", ("adapter", "checkpoint")) == "adapter"
        self.model = read.required_text(options, "model", "the name in GET /v1/models")
        super().__init__(Questions(options, folder, SCORINGS))
        top = read.count(options, "top") or Asking.top
        self._asking = Asking(self.client, self._questions, top=top, root="/v1")

    @property
    def needs(self) -> Need:
        """A folder with the merge, as an adapter or whole."""
        return "adapter" if self.adapts else "folder"

    def fields(self, name: str | None) -> dict[str, Any]:
        """Fields of every body that choose a loaded adapter; None for the base alone."""
        raise NotImplementedError

    def load_adapter(self, name: str, folder: Path) -> Mapping[str, str]:
        """Have an adapter loaded, and read back that it is.

        Returns:
            the folders of all loaded adapters, by name, as far as the server tells them.

        Raises:
            EndpointError: if it is not.
        """
        raise NotImplementedError

    def unload_adapter(self, name: str) -> None:
        """Have it let go of."""
        raise NotImplementedError

    def load_checkpoint(self, name: str, folder: Path) -> None:
        """Have all weights replaced and caches emptied, and read back that they are."""
        raise NotImplementedError

    def check_checkpoint(self, name: str) -> None:
        """Read back that these are the weights still.

        Raises:
            EndpointDownError: if somebody else has replaced them.
        """
        raise NotImplementedError

    def post(self, path: str, body: Any, *, text: bool = False) -> Any:
        """Change the server's state, or read it."""
        query = Query(body, path=path, pure=False, reads="text" if text else "json")
        return self.client.ask([query])[0]

    def get(self, path: str) -> Any:
        """Read the server's state."""
        return self.client.ask([Query(None, path=path, method="GET", pure=False)])[0]

    def _seen(self, subject: Path, items: Sequence[int] | None) -> list[Seen]:
        # The folder's name is the merge's content; the attempt's, before it, keeps apart what
        # workers have loaded at the same time. Caches are salted with the former.
        name = f"{subject.name}-{subject.parent.name}"
        with self._loaded(name, subject) as chosen:
            salt = {"cache_salt": subject.name}
            address = {"candidate": subject.name, "model": self.model, "load": self.needs}
            return self._asking.seen(items, {**self.fields(chosen), **salt}, address)

    @contextmanager
    def _loaded(self, name: str, folder: Path) -> Iterator[str | None]:
        """The name of the adapter that is to be asked for; None where there is none."""
        adapted = self.adapts and _changes(folder)
        loaded: Mapping[str, str] = {}
        try:
            if not self.adapts:
                self.load_checkpoint(name, folder)
            elif adapted:
                loaded = self._load_again(name, folder)
        except EndpointDownError as error:
            if error.status != 404:
                raise
            raise EndpointDownError(
                f"{error.cause}; the server cannot read {folder}, or was not started for loading: "
                "see docs/servers.md",
                place=error.place,
                kept=error.kept,
                status=error.status,
            ) from None
        if not self.adapts:
            yield None
            self.check_checkpoint(name)
            return
        try:
            self._unload_gone(loaded, folder)
            yield name if adapted else None
        finally:
            if adapted:
                self.unload_adapter(name)

    def _load_again(self, name: str, folder: Path) -> Mapping[str, str]:
        """Load, and let go of what a killed run has left under the name."""
        try:
            return self.load_adapter(name, folder)
        except EndpointError as error:
            if error.status != 400:
                raise
            self.unload_adapter(name)
            return self.load_adapter(name, folder)

    def _unload_gone(self, loaded: Mapping[str, str], folder: Path) -> None:
        """Let go of what a killed run has left of folders that are gone."""
        scratch = folder.parent.parent  # of this study's attempts alone
        for other, path in loaded.items():
            if scratch in Path(path).parents and not Path(path).exists():
                self.unload_adapter(other)


def _changes(folder: Path) -> bool:
    """Whether an adapter changes anything; the base's does not, and servers refuse empty ones."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    return bool(cast(dict[str, Any], config)["target_modules"])
