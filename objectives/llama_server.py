"""The objective for llama.cpp's ``llama-server``, which mixes loaded adapters for each request.

::

    llama-server -m base.gguf --lora math.gguf,code.gguf -ctk f32 -ctv f32 -fa off --port 8080

    objective: {type: llama_server, url: "http://127.0.0.1:8080", items: arithmetic.jsonl}

Items and metrics are those of `evomerge.objectives.jsonl`, and so are scores and margins: each
token of a continuation is forced, and its log-probability read off. Adapters split into one file
per layer make weights per layer. What the server ignores without a word (ids that it does not
know, an empty list of scales) is never sent, and its prompt cache is off.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.coefficients import Coefficients, Mixing
from evomerge.errors import UsageError
from evomerge.interfaces import Need
from evomerge.objectives import options as read
from evomerge.objectives.encoding import SPARE
from evomerge.objectives.endpoint.adapters import Adapters, NamingRule
from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.failures import EndpointDownError, EndpointError
from evomerge.objectives.endpoint.forcing import forced
from evomerge.objectives.endpoint.numbers import numbers
from evomerge.objectives.endpoint.options import OPTIONS, EndpointOptions
from evomerge.objectives.endpoint.query import Query, Usage
from evomerge.objectives.endpoint.questioning import Questioning
from evomerge.objectives.endpoint.questions import Questions, Seen
from evomerge.objectives.exam import OPTIONS as ITEM_OPTIONS
from evomerge.objectives.jsonl_items import Item

OWN = ("adapters", *ITEM_OPTIONS)
_FLOAT32 = 1e-6


class LlamaServerObjective(Questioning[Coefficients]):
    """``llama-server`` as an `evomerge.interfaces.Objective`.

    Args:
        options: those of `EndpointOptions` and of `Questions`, and ``adapters``: how the adapters'
            files are called, ``{model}.gguf`` or, for weights per layer, with ``{layer}``.
        folder: what relative paths start from.

    Raises:
        UsageError: if an option or an item is not in order.
    """

    def __init__(self, options: Mapping[str, Any], *, folder: Path) -> None:
        read.check_names(options, (*OPTIONS, *OWN))
        self.client = Client(EndpointOptions.read(options), usage=_usage)
        self._rule = NamingRule.parse(read.text(options, "adapters") or "{model}.gguf")
        self.mixing = Mixing("layer" if self._rule.by_layer else "model", signed=True)
        super().__init__(Questions(options, folder))
        self._tokens: dict[str, tuple[int, ...]] = {}
        self._partial: set[int] = set()

    @property
    def needs(self) -> Need:
        """The numbers alone."""
        return "coefficients"

    def _seen(self, subject: Coefficients, items: Sequence[int] | None) -> list[Seen]:
        mix = {
            "lora": self._adapters().scales(numbers(subject, self.mixing)["weights"]),
            "cache_prompt": False,
            "temperature": 0,
        }
        asked = self._questions
        chosen = asked.chosen(items)
        texts = [(asked.prompt(item), asked.continuations(item)) for item in chosen]
        self._tokenize([p + c for p, found in texts for c in ("", *found)])
        parts = [[self._parted(p, p + c) for c in found] for p, found in texts]
        places = [
            (whole[:i], whole[i])
            for item in parts
            for whole, start in item
            for i in range(start, len(whole))
        ]
        nats = forced(
            places,
            lambda bodies: self._completions(bodies, mix),
            safe=self._safe(),
            partial=self._partial,
        )
        written: Sequence[tuple[str | None, bool]] = [(None, True)] * len(chosen)
        if asked.writes:
            written = self._written(chosen, parts, mix)
        return [
            Seen(
                tuple(
                    math.fsum(nats[whole[:i], whole[i]] for i in range(start, len(whole)))
                    for whole, start in item
                ),
                tuple(len(whole) - start for whole, start in item),
                *said,
            )
            for item, said in zip(parts, written, strict=True)
        ]

    def _written(
        self,
        items: Sequence[Item],
        parts: Sequence[Sequence[tuple[tuple[int, ...], int]]],
        mix: Mapping[str, Any],
    ) -> list[tuple[str, bool]]:
        """What is written behind each prompt, and whether it came to an end."""
        asked = self._questions
        longest = [max(len(whole) - start for whole, start in item) + SPARE for item in parts]
        bodies = [
            {
                "prompt": list(self._tokens[asked.prompt(item)]),
                "n_predict": asked.limit or most,
                "stop": list(asked.stop),
            }
            for item, most in zip(items, longest, strict=True)
        ]
        answers = self._completions(bodies, mix)
        try:
            return [(str(one["content"]), one.get("stop_type") != "limit") for one in answers]
        except (KeyError, TypeError, AttributeError):
            raise EndpointError("the server's completion has no content") from None

    def _completions(
        self, bodies: Sequence[Mapping[str, Any]], mix: Mapping[str, Any]
    ) -> list[Any]:
        answers = self.client.ask(
            [Query({**b, **mix}, path="/completion", tokens=int(b["n_predict"])) for b in bodies]
        )
        for answer in answers:
            _check_applied(answer, mix["lora"])
        return answers

    def _adapters(self) -> Adapters:
        """What is loaded; read before every candidate, for ids are places on a command line."""
        queries = [
            Query(None, path=path, method="GET", pure=False)
            for path in ("/props", "/lora-adapters")
        ]
        props, loaded = self.client.ask(queries)
        found = Adapters.read(loaded, self._rule)
        if not isinstance(props, Mapping) or "model_path" not in props:
            raise EndpointDownError("this is no llama-server: /props names no model_path")
        said = [props.get("build_info"), props["model_path"], sorted(found.files.items())]
        build = json.dumps(said)
        if self.client.build not in ("", build):
            raise EndpointDownError(
                "the server was started anew with another model, adapters or version; a new study "
                "is needed (--fork)"
            )
        self.client.build = build
        return found

    def _tokenize(self, texts: Sequence[str]) -> None:
        """Learn the tokens of texts, special ones before them included.

        The piece of a token that is no whole character is told as a list of bytes.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        bodies = [{"content": text, "add_special": True, "with_pieces": True} for text in new]
        answers = self.client.ask([Query(body, path="/tokenize") for body in bodies])
        for text, answer in zip(new, answers, strict=True):
            try:
                pieces = {int(one["id"]): one["piece"] for one in answer["tokens"]}
                self._tokens[text] = tuple(int(one["id"]) for one in answer["tokens"])
                self._partial |= {i for i, piece in pieces.items() if not isinstance(piece, str)}
            except (KeyError, TypeError, ValueError):
                raise EndpointError(f"/tokenize gives no tokens: {answer!r:.120}") from None

    def _safe(self) -> int:
        """A token that is a whole character."""
        self._tokenize(["."])
        return self._tokens["."][-1]

    def _parted(self, prompt: str, whole: str) -> tuple[tuple[int, ...], int]:
        """Tokens of a text, and where it leaves those of the prompt alone."""
        alone, tokens = self._tokens[prompt], self._tokens[whole]
        start = shared(alone, tokens)
        if start == 0:
            raise UsageError(
                "the prompt is empty, and the server's tokenizer has no token to begin with"
            )
        return tokens, start


def shared(alone: Sequence[int], whole: Sequence[int]) -> int:
    """How many tokens of a text are its prompt's; all but one at most."""
    pairs = zip(alone, whole, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(alone), len(whole)))
    return min(same, len(whole) - 1)


def _check_applied(answer: Any, sent: Sequence[Mapping[str, Any]]) -> None:
    """Compare the scales that an answer says it was made with, where it says so, with ours.

    Raises:
        EndpointError: if they are others.
    """
    settings = answer.get("generation_settings") if isinstance(answer, Mapping) else None
    told = settings.get("lora") if isinstance(settings, Mapping) else None
    if not isinstance(told, list):
        return
    scales = {one.get("id"): one.get("scale") for one in told if isinstance(one, Mapping)}
    for one in sent:
        given = scales.get(one["id"], 0.0)
        near = isinstance(given, int | float) and math.isclose(
            given, one["scale"], rel_tol=_FLOAT32, abs_tol=_FLOAT32
        )
        if not near:
            raise EndpointError(
                f"the server applied adapter {one['id']} at {given!r:.20}, not {one['scale']:g}"
            )


def _usage(answer: Any) -> Usage | None:
    """Tokens as ``/completion`` tells them; ``/tokenize`` reads none."""
    if not isinstance(answer, Mapping):
        return None
    if "tokens" in answer and "content" not in answer:
        return Usage(0, 0)
    prompt, made = answer.get("tokens_evaluated"), answer.get("tokens_predicted")
    if isinstance(prompt, int) and isinstance(made, int) and prompt >= 0 and made >= 0:
        return Usage(prompt, made)
    return None
