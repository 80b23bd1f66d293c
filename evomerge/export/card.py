"""The model card of a merged checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import yaml

from evomerge.export.lineage import MANIFEST, AdapterForm, Lineage
from evomerge.trial import SPLITS, Measured, Split

SPLIT_MEANING: Mapping[Split, str] = {
    "search": "chose it among all trials",
    "selection": "chose it among the nominees",
    "test": "chose nothing: these are the values to quote",
}


def model_card(lineage: Lineage, *, library: str = "transformers") -> str:
    """Markdown with the front matter that model indexers read (``base_model``, ``merge``).

    Args:
        library: that loads the folder.
    """
    parts = [
        _front_matter(lineage, library),
        f"# {lineage.name}",
        _origin(lineage),
        _models(lineage),
    ]
    if lineage.adapter is not None:
        parts.append(_adapter(lineage.adapter))
    if lineage.scores:
        parts.append(_scores(lineage))
    parts += [_parameters(lineage), _licences(lineage)]
    return "\n\n".join(parts) + "\n"


def common_license(lineage: Lineage) -> str | None:
    """The licence that all parents state; None where they differ or one states none."""
    stated = {parent.license for parent in (lineage.base, *lineage.models)}
    return stated.pop() if len(stated) == 1 else None


def _front_matter(lineage: Lineage, library: str) -> str:
    matter: dict[str, object] = {
        "base_model": [parent.spoken for parent in (lineage.base, *lineage.models)],
        "base_model_relation": "merge",
        "library_name": library,
        "tags": ["merge", "evomerge"],
    }
    if lineage.adapter is not None:
        matter |= {
            "base_model": lineage.base.spoken,
            "base_model_relation": "adapter",
            "library_name": "peft",
            "tags": ["merge", "lora", "evomerge"],
        }
    license_name = common_license(lineage)
    if license_name:
        matter["license"] = license_name
    return f"---\n{yaml.safe_dump(matter, sort_keys=False, allow_unicode=True)}---"


def _origin(lineage: Lineage) -> str:
    if lineage.trial is None:
        return f"A merge by the method `{lineage.method}`, written by evomerge."
    return (
        f"Trial {lineage.trial} ({lineage.origin}) of the campaign `{lineage.study}`, a merge by "
        f"the method `{lineage.method}`, found by evomerge. `{MANIFEST}` holds the recipe, the "
        "digests of all parents and the seed: what is needed to make this checkpoint again."
    )


def _adapter(adapter: AdapterForm) -> str:
    loss = (
        f"the merge cut to that rank: {adapter.error:.3g} of its change is lost (relative, in the "
        "Frobenius norm)"
        if adapter.error
        else "the merge itself, but for one rounding of each entry"
    )
    text = f"A LoRA adapter of rank {adapter.rank} to the base, {loss}."
    return f"{text} The scale is folded into its factors: `lora_alpha` equals `r`."


def _models(lineage: Lineage) -> str:
    rows = [("base", f"`{lineage.base.spoken}`")]
    rows += [(model.name, f"`{model.spoken}`") for model in lineage.models]
    return "## Merged models\n\n" + _table(("name", "checkpoint"), rows)


def _scores(lineage: Lineage) -> str:
    splits = [split for split in SPLITS if split in lineage.scores]
    metrics = list(lineage.scores[splits[0]])
    head = ("metric", *(f"{split} items" for split in splits))
    rows = [
        (metric, *(interval(lineage.scores[split].get(metric)) for split in splits))
        for metric in metrics
    ]
    notes = "\n".join(f"- {split}: {SPLIT_MEANING[split]}" for split in splits)
    return f"## Scores\n\nMean ± standard error (items).\n\n{_table(head, rows)}\n\n{notes}"


def interval(value: Measured | None) -> str:
    """``mean ± standard error (items)``."""
    if value is None:
        return "–"
    error = f" ± {value.standard_error:.4f}" if value.standard_error is not None else ""
    return f"{value.mean:.4f}{error} ({value.items})"


def _parameters(lineage: Lineage) -> str:
    rows = [(name, f"{value:.6g}") for name, value in lineage.parameters.items()]
    return "## Parameters\n\n" + _table(("parameter", "value"), rows)


def _licences(lineage: Lineage) -> str:
    stated = [
        f"- {parent.name}: {parent.license or 'states no licence'}"
        for parent in (lineage.base, *lineage.models)
    ]
    head = "## Licences\n\nA merge is bound by the licences of all its parents:\n\n"
    return head + "\n".join(stated)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in r) + " |" for r in lines
    )
