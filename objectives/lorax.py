"""The objective for LoRAX, which mixes adapters at each request, factor by factor.

::

    objective: {type: lorax, url: "http://host:8080", adapters: "/data/{model}", items: a.jsonl}

LoRAX adds up the factors of the adapters apart: the change of a weight is ``(sum w B)(sum w A)``
and not ``sum w B A``, so a single adapter at w counts w squared. What is found holds on such a
server; no export of ours equals it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.coefficients import Coefficients, Mixing
from evomerge.errors import UsageError
from evomerge.interfaces import Need
from evomerge.objectives import options as read
from evomerge.objectives.encoding import SPARE
from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.failures import EndpointDownError, EndpointError
from evomerge.objectives.endpoint.numbers import numbers
from evomerge.objectives.endpoint.options import OPTIONS, EndpointOptions
from evomerge.objectives.endpoint.query import Query, Usage
from evomerge.objectives.endpoint.questioning import Questioning
from evomerge.objectives.endpoint.questions import Questions, Seen
from evomerge.objectives.endpoint.requests import filled, places
from evomerge.objectives.exam import OPTIONS as ITEM_OPTIONS

OWN = ("adapters", "source", "strategy", *ITEM_OPTIONS)
STRATEGIES = ("linear", "ties")
"""Not ``dare_linear`` and ``dare_ties``, whose masks LoRAX draws without a seed."""
SOURCES = ("local", "hub", "s3", "pbase")


class LoraxObjective(Questioning[Coefficients]):
    """LoRAX as an `evomerge.interfaces.Objective`.

    Args:
        options: those of `EndpointOptions` and of `Questions`; ``adapters``: how the server calls
            a model's adapter, with ``{model}`` in it; ``source``: where it finds them;
            ``strategy``: linear, or ties, for campaigns of `ties` with one density for all.
        folder: what relative paths start from.

    Raises:
        UsageError: if an option or an item is not in order.
    """

    def __init__(self, options: Mapping[str, Any], *, folder: Path) -> None:
        read.check_names(options, (*OPTIONS, *OWN))
        self.client = Client(EndpointOptions.read(options), usage=_usage)
        self._adapters = read.text(options, "adapters") or "{model}"
        if list(places(self._adapters)) != ["model"]:
            raise UsageError("adapters: a text with {model} in it, once, is wanted")
        self._source = read.choice(options, "source", SOURCES)
        ties = read.choice(options, "strategy", STRATEGIES) == "ties"
        self.mixing = Mixing(
            "model",
            signed=True,
            density="all" if ties else None,
            methods=Mixing.methods | ({"ties"} if ties else frozenset()),
            semantics="factor",
        )
        super().__init__(Questions(options, folder))

    @property
    def needs(self) -> Need:
        """The numbers alone."""
        return "coefficients"

    def _seen(self, subject: Coefficients, items: Sequence[int] | None) -> list[Seen]:
        mix = self._mix(subject)
        asked = self._questions
        chosen = asked.chosen(items)
        texts = [(asked.prompt(item), asked.continuations(item)) for item in chosen]
        wholes = [prompt + text for prompt, found in texts for text in found]
        alone = dict.fromkeys(prompt for prompt, _ in texts if prompt)
        # The tokens of a prompt alone tell where a continuation's begin; no mix changes them.
        starts = dict(zip(alone, self._prefills(list(alone), {}), strict=True))
        prefills = iter(self._prefills(wholes, mix))
        rows = [
            [_likelihood(starts.get(prompt, []), next(prefills)) for _ in found]
            for prompt, found in texts
        ]
        said: Sequence[tuple[str | None, bool]] = [(None, True)] * len(chosen)
        if asked.writes:
            most = [asked.limit or max(tokens for _, tokens in row) + SPARE for row in rows]
            bodies = [
                {"max_new_tokens": n, "stop": list(asked.stop), "details": True} for n in most
            ]
            prompts = [prompt for prompt, _ in texts]
            answers = self._generated(prompts, [{**body, **mix} for body in bodies])
            said = [_written(answer) for answer in answers]
        return [
            Seen(tuple(nats for nats, _ in row), tuple(tokens for _, tokens in row), *end)
            for row, end in zip(rows, said, strict=True)
        ]

    def _mix(self, subject: Coefficients) -> dict[str, Any]:
        """The parameters that choose the mix.

        Everything is sent: without density, ``ties`` would prune all of it.
        """
        values = numbers(subject, self.mixing)
        if len(subject.models) < 2:
            raise EndpointDownError("LoRAX ignores the weight of a single adapter; name two models")
        trimmed = subject.method == "ties"  # references are plain sums beside it
        if not trimmed and self.mixing.density == "all" and values["densities"] != 1:
            raise EndpointDownError(f"LoRAX trims in ties alone, and not in {subject.method}")
        return {
            "merged_adapters": {
                "ids": [filled(self._adapters, {"model": model}) for model in subject.models],
                "weights": values["weight_list"],
                "merge_strategy": "ties" if trimmed else "linear",
                "density": values["densities"] if trimmed else 1.0,
                "majority_sign_method": "total",
            },
            "adapter_source": self._source,
        }

    def _prefills(
        self, texts: Sequence[str], mix: Mapping[str, Any]
    ) -> list[list[tuple[int, float | None]]]:
        """Tokens of texts with their log-probabilities; of the first there may be none."""
        body = {"max_new_tokens": 1, "details": True, "decoder_input_details": True, **mix}
        found = []
        for answer in self._generated(texts, [body] * len(texts)):
            try:
                told = answer["details"]["prefill"]
                found.append([(int(one["id"]), one.get("logprob")) for one in told])
            except (KeyError, TypeError, ValueError):
                raise EndpointDownError(
                    "the server tells no log-probabilities of the prompt (details.prefill)"
                ) from None
        return found

    def _generated(
        self, texts: Sequence[str], parameters: Sequence[Mapping[str, Any]]
    ) -> list[Any]:
        return self.client.ask(
            [
                Query(
                    {"inputs": text, "parameters": {"do_sample": False, **given}},
                    path="/generate",
                    tokens=int(given["max_new_tokens"]),
                )
                for text, given in zip(texts, parameters, strict=True)
            ]
        )


def _likelihood(
    alone: Sequence[tuple[int, float | None]], whole: Sequence[tuple[int, float | None]]
) -> tuple[float, int]:
    """Nats and tokens of what stands behind the tokens that a text shares with its prompt."""
    pairs = enumerate(zip(alone, whole, strict=False))
    same = next((i for i, (a, b) in pairs if a[0] != b[0]), min(len(alone), len(whole)))
    start = max(1 if not alone else 0, min(same, len(whole) - 1))
    nats = [value for _, value in whole[start:]]
    if not nats or not all(isinstance(value, int | float) for value in nats):
        raise EndpointError("a token of the answer has no log-probability")
    return math.fsum(value for value in nats if value is not None), len(nats)


def _written(answer: Any) -> tuple[str, bool]:
    try:
        return str(answer["generated_text"]), answer["details"]["finish_reason"] != "length"
    except (KeyError, TypeError):
        raise EndpointError("the server's answer has no generated_text") from None


def _usage(answer: Any) -> Usage | None:
    details = answer.get("details") if isinstance(answer, Mapping) else None
    if not isinstance(details, Mapping):
        return None
    prompt, made = details.get("prompt_tokens"), details.get("generated_tokens")
    if isinstance(prompt, int) and isinstance(made, int) and prompt >= 0 and made >= 0:
        return Usage(prompt, made)
    return None
