"""The objective for OpenAI-compatible servers, whose candidate is a model's name or a field.

::

    objective: {type: openai, url: "http://127.0.0.1:8000/v1", model: "{folder}", items: x.jsonl}

The items are those of `evomerge.objectives.jsonl`. ``model`` and ``extra`` say how a candidate
reaches the server: ``{folder}``, the merge as a checkpoint folder that the server can read, or
``{candidate}``, ``{weights}`` and the other places of `evomerge.objectives.template` for a server
that mixes by itself. How an answer is scored depends on what the server tells: see
`evomerge.objectives.endpoint.questions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from evomerge.coefficients import Coefficients, Mixing
from evomerge.errors import UsageError
from evomerge.interfaces import Need
from evomerge.objectives import options as read
from evomerge.objectives.endpoint.asking import Asking
from evomerge.objectives.endpoint.client import Client
from evomerge.objectives.endpoint.judge import Judge
from evomerge.objectives.endpoint.numbers import PLACES, mixing_of, numbers
from evomerge.objectives.endpoint.options import OPTIONS, EndpointOptions
from evomerge.objectives.endpoint.questioning import Questioning
from evomerge.objectives.endpoint.questions import ASKED, Questions, Scoring, Scorings, Seen
from evomerge.objectives.endpoint.requests import filled, places
from evomerge.objectives.jsonl_items import Kind
from evomerge.objectives.prompts import reference
from evomerge.trial import Scores

OWN = ("model", "extra", "api", "judge", "mixes", *ASKED)

_SCORINGS: Mapping[Kind, tuple[Scoring, ...]] = {
    "multiple_choice": ("echo", "labels", "match"),
    "exact_match": ("match", "echo", "judge"),
    "perplexity": ("echo",),
}


class OpenaiObjective(Questioning[Coefficients | Path]):
    """An OpenAI-compatible server as an `evomerge.interfaces.Objective`.

    Args:
        options: those of `EndpointOptions` and of `Questions`, and: ``model``, ``extra`` (fields
            of every request's body) with places; ``api``: completions or chat, which cannot echo;
            ``top``: how many of the likeliest tokens to ask for; ``judge``: see
            `evomerge.objectives.endpoint.judge.Judge`; ``mixes``: fields of `Mixing`.
        folder: what relative paths start from.

    Raises:
        UsageError: if an option or an item is not in order.
    """

    def __init__(self, options: Mapping[str, Any], *, folder: Path) -> None:
        read.check_names(options, (*OPTIONS, *OWN))
        self.client = Client(EndpointOptions.read(options))
        self._model = read.required_text(options, "model", '"{folder}"')
        self._extra = options.get("extra", {})
        if not isinstance(self._extra, Mapping):
            raise UsageError("extra: a mapping of fields is wanted")
        self._places = self._checked_places()
        self.mixing: Mixing | None = (
            None if self.needs == "folder" else mixing_of(options.get("mixes", {}))
        )
        api = cast(
            Literal["completions", "chat"], read.choice(options, "api", ("completions", "chat"))
        )
        super().__init__(Questions(options, folder, _scorings(api)))
        judge = options.get("judge")
        if (judge is None) == (self._questions.scoring == "judge"):
            raise UsageError("`judge` and `scoring: judge` go together: say both")
        self._judge = None if judge is None else Judge(judge, options)
        top = read.count(options, "top") or (20 if api == "chat" else Asking.top)
        self._asking = Asking(self.client, self._questions, api, top)

    @property
    def needs(self) -> Need:
        """A folder where the model's name holds one, else the numbers."""
        return "folder" if "folder" in self._places else "coefficients"

    def evaluate(
        self, subject: Coefficients | Path, items: Sequence[int] | None
    ) -> Scores | Mapping[str, Scores]:
        """As `Questioning.evaluate`; an answer that the judge has no number for scores 0."""
        if self._judge is None:
            return super().evaluate(subject, items)
        judged = [
            {"prompt": item.prompt, "reference": reference(item), "answer": said.text or ""}
            for item, said in zip(
                self._questions.chosen(items), self._seen(subject, items), strict=True
            )
        ]
        scores = self._judge.scores(judged, self.client.desk)
        missing = sum(score is None for score in scores) / len(scores)
        rates = {"invalid": missing} if missing else {}
        return self._questions.judged(Scores([score or 0.0 for score in scores], None, rates))

    def _seen(self, subject: Coefficients | Path, items: Sequence[int] | None) -> list[Seen]:
        values, name = self._values(subject)
        fields = {"model": self._model, **self._extra}
        address = filled(fields, {**values, "folder": name}) if "folder" in values else None
        return self._asking.seen(items, filled(fields, values), address)

    def _values(self, subject: Coefficients | Path) -> tuple[dict[str, Any], str]:
        """Values of all places, and the candidate's name."""
        if isinstance(subject, Path):
            return {"folder": str(subject), "candidate": subject.name}, subject.name
        assert self.mixing is not None
        values = numbers(subject, self.mixing)
        return values, values["candidate"]

    def _checked_places(self) -> frozenset[str]:
        found = frozenset(place.partition(".")[0] for place in places([self._model, self._extra]))
        known = ("folder", "candidate") if "folder" in found else (*PLACES, "folder")
        for place in sorted(found):
            if place not in known:
                raise UsageError(f"{{{place}}} is no place here; known: {', '.join(known)}")
        if not found - {"method", "models"}:
            raise UsageError(
                "neither model nor extra tells candidates apart; say for example "
                '`model: "{folder}"`, or `extra: {mix: "{weights}"}`'
            )
        return found


def _scorings(api: str) -> Scorings:
    """What can be told; chats do not echo."""
    return {
        kind: tuple(one for one in known if one != "echo" or api == "completions")
        for kind, known in _SCORINGS.items()
    }
