"""The objective for SGLang, which loads each merge: as a LoRA adapter, or whole.

::

    python -m sglang.launch_server --model-path base --enable-lora --max-lora-rank 64 \
        --lora-target-modules all

    objective: {type: sglang, url: "http://127.0.0.1:30000", model: base, items: arithmetic.jsonl}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.objectives.endpoint.failures import EndpointDownError, EndpointError
from evomerge.objectives.endpoint.loading import REPLACED, LoadingObjective


class SglangObjective(LoadingObjective):
    """SGLang as an `evomerge.interfaces.Objective`; see `LoadingObjective`."""

    def fields(self, name: str | None) -> dict[str, Any]:
        """An adapter is a field beside the model."""
        return {"model": self.model} | ({} if name is None else {"lora_path": name})

    def load_adapter(self, name: str, folder: Path) -> Mapping[str, str]:
        """As `LoadingObjective.load_adapter`; the loaded ones that it answers must have it."""
        body = {"lora_name": name, "lora_path": str(folder), "pinned": False}
        answer = self.post("/load_lora_adapter", body)
        _check(answer, "error_message")
        loaded = answer.get("loaded_adapters")
        if not isinstance(loaded, Mapping | list) or name not in loaded:
            raise EndpointError(f"the server took the adapter {name}, and does not list it")
        folders = loaded.items() if isinstance(loaded, Mapping) else ()
        return {str(one): path for one, path in folders if isinstance(path, str)}

    def unload_adapter(self, name: str) -> None:
        """As `LoadingObjective.unload_adapter`; one that is gone already is fine."""
        try:
            self.post("/unload_lora_adapter", {"lora_name": name})
        except EndpointError as error:
            if error.status != 400:
                raise

    def load_checkpoint(self, name: str, folder: Path) -> None:
        """As `LoadingObjective.load_checkpoint`; the weights' version must be this merge's."""
        body = {"model_path": str(folder), "flush_cache": True, "weight_version": name}
        _check(self.post("/update_weights_from_disk", body), "message")
        if self._version() != name:
            raise EndpointError(f"the server took {folder}, and says that it has other weights")

    def check_checkpoint(self, name: str) -> None:
        """As `LoadingObjective.check_checkpoint`, by the weights' version."""
        if self._version() != name:
            raise EndpointDownError(REPLACED)

    def _version(self) -> Any:
        answer = self.get("/get_model_info")
        return answer.get("weight_version") if isinstance(answer, Mapping) else None


def _check(answer: Any, key: str) -> None:
    if not isinstance(answer, Mapping) or answer.get("success") is not True:
        said = answer.get(key) if isinstance(answer, Mapping) else answer
        raise EndpointError(f"the server did not load the merge: {said!r:.200}")
