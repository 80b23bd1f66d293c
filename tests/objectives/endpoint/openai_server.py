"""A loopback server that loads whatever folder a request names as its model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from evomerge.objectives.models import load_model
from tests.conftest import as_json


class FolderServer:
    """Completions and chats of the model whose folder is the model's name.

    Attributes:
        shape: of log-probabilities: ``lists``, ``content``, or ``none``.
        echoes: whether `echo` is honoured.
    """

    def __init__(self, *, shape: str = "lists", echoes: bool = True) -> None:
        self.shape = shape
        self.echoes = echoes
        self.models: dict[str, Any] = {}

    def __call__(self, body: Any, path: str) -> tuple[int, dict[str, str], bytes]:
        assert body["temperature"] == 0
        folder = body["model"]
        if folder not in self.models:
            self.models[folder] = load_model(Path(folder), device="cpu")
        live = self.models[folder]
        chat = path == "/chat/completions"
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        ids = live.tokenizer.encode(prompt)
        read = len(ids)
        text, finish = "", "length"
        for _ in range(body["max_tokens"]):
            with torch.inference_mode():
                ids.append(int(live.module(torch.tensor([ids]))[0, -1].argmax()))
            text = live.tokenizer.decode(ids[read:])
            if any(stop in text for stop in body.get("stop", [])):
                finish = "stop"
                break
        echo = body.get("echo") and self.echoes
        first = 0 if echo else read
        shown = (prompt if echo else "") + text
        said = {"text": shown} if not chat else {"message": {"role": "assistant", "content": text}}
        top = body.get("top_logprobs" if chat else "logprobs", 0)
        said |= {"finish_reason": finish, "logprobs": self._logprobs(live, ids, first, top)}
        usage = {"prompt_tokens": read, "completion_tokens": len(ids) - read}
        return as_json({"choices": [said], "usage": usage})

    def _logprobs(self, live: Any, ids: list[int], first: int, count: int) -> Any:
        if self.shape == "none" or not count:
            return None
        with torch.inference_mode():
            table = live.module(torch.tensor([ids]))[0].float().log_softmax(-1)
        lists = logprob_lists(table, live.tokenizer.decode, ids, first, count)
        if self.shape == "lists":
            return lists
        return {
            "content": [
                {"token": t, "logprob": n,
                 "top_logprobs": [{"token": k, "logprob": v} for k, v in top.items()]}
                for t, n, top in zip(*lists.values(), strict=True)
            ]
        }  # fmt: skip


def logprob_lists(
    table: torch.Tensor, decode: Callable[[list[int]], str], ids: list[int], first: int, count: int
) -> dict[str, list[Any]]:
    """What completions tell of the tokens from the first one on.

    Args:
        table: log-probabilities behind each token, ``(tokens, vocabulary)``.
        count: of the likeliest tokens at each place.
    """
    places = range(first, len(ids))
    nats = [None if i == 0 else table[i - 1, ids[i]].item() for i in places]
    tops = [
        {decode([k]): table[max(0, i - 1), k].item() for k in best.tolist()}
        for i in places
        for best in [table[max(0, i - 1)].topk(count).indices]
    ]
    return {
        "tokens": [decode([ids[i]]) for i in places], "token_logprobs": nats, "top_logprobs": tops
    }  # fmt: skip
