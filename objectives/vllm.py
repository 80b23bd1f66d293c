"""The objective for vLLM, which loads each merge: as a LoRA adapter, or whole.

::

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve base --enable-lora --max-lora-rank 64

    objective: {type: vllm, url: "http://127.0.0.1:8000", model: base, items: arithmetic.jsonl}

Every merge has a folder and a cache salt of its own: vLLM's prefix cache knows adapters by name
and path, and keeps what it has read when all weights are replaced.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.checkpoint.digests import sampled_digest
from evomerge.objectives.endpoint.failures import EndpointDownError, EndpointError
from evomerge.objectives.endpoint.loading import REPLACED, LoadingObjective
from evomerge.objectives.endpoint.retrying import jittered


class VllmObjective(LoadingObjective):
    """vLLM as an `evomerge.interfaces.Objective`; see `LoadingObjective`."""

    def __init__(self, options: Mapping[str, Any], *, folder: Path) -> None:
        super().__init__(options, folder=folder)
        self._checksum = ""  # of the weights that the server has now
        self._samples: dict[str, str] = {}  # of each merge, by the server's checksum

    def fields(self, name: str | None) -> dict[str, Any]:
        """An adapter is a model of its own."""
        return {"model": name or self.model}

    def load_adapter(self, name: str, folder: Path) -> Mapping[str, str]:
        """As `LoadingObjective.load_adapter`; the list of models must have it, from this folder."""
        body = {"lora_name": name, "lora_path": str(folder)}
        self.post("/v1/load_lora_adapter", body, text=True)
        answer = self.get("/v1/models")
        models = answer.get("data") if isinstance(answer, Mapping) else None
        found = {one.get("id"): one.get("root") for one in models or () if isinstance(one, Mapping)}
        if found.get(name) not in (str(folder), None) or name not in found:
            raise EndpointError(f"the server took the adapter {name}, and does not list it")
        return {str(name): str(root) for name, root in found.items() if root is not None}

    def unload_adapter(self, name: str) -> None:
        """As `LoadingObjective.unload_adapter`; one that is gone already is fine."""
        try:
            self.post("/v1/unload_lora_adapter", {"lora_name": name}, text=True)
        except EndpointError as error:
            if error.status != 404:
                raise

    def load_checkpoint(self, name: str, folder: Path) -> None:
        """As `LoadingObjective.load_checkpoint`; other weights must have another checksum.

        Equal ones, as two candidates may have, must not, so samples of the files are compared.
        """
        kwargs = {"weights_path": str(folder)}
        body = {"method": "reload_weights", "args": list[str](), "kwargs": kwargs, "timeout": None}
        self.post("/collective_rpc", body, text=True)
        self._empty_cache()
        self._checksum = self._asked_checksum()
        samples = sampled_digest(folder)
        if self._samples.setdefault(self._checksum, samples) != samples:
            raise EndpointError(f"the server took {folder}, and kept the weights that it had")

    def check_checkpoint(self, name: str) -> None:
        """As `LoadingObjective.check_checkpoint`, by the weights' checksum."""
        if self._asked_checksum() != self._checksum:
            raise EndpointDownError(REPLACED)

    def _empty_cache(self) -> None:
        """Requests hold it, among them those of a run that was killed, until they end."""
        connection = self.client.options.connection
        first, longest = connection.first_wait, connection.longest_wait
        for number in range(connection.retries + 1):
            answer = self.post("/reset_prefix_cache", None)
            if isinstance(answer, Mapping) and answer.get("success") is True:
                return
            if number < connection.retries:
                time.sleep(jittered("reset_prefix_cache", number, first=first, longest=longest))
        raise EndpointDownError(
            "the server does not empty its prefix cache: somebody else's requests hold it"
        )

    def _asked_checksum(self) -> str:
        answer = self.post("/weight_checker", {"action": "checksum"})
        return json.dumps(answer, sort_keys=True)
