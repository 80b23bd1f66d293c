"""Pages made from the program are what it says of itself, and links lead somewhere."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields
from pathlib import Path

import pytest

from evomerge.recipe.campaign import Campaign
from evomerge.search.registry import SAMPLERS

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


@pytest.mark.parametrize("name", ["commands", "methods"])
def test_a_page_made_from_the_program_is_not_stale(name: str) -> None:
    rendered = runpy.run_path(str(DOCS / f"make_{name}.py"))["render"]()
    page = (DOCS / f"{name}.md").read_text("utf-8")
    assert page == rendered, f"run: python docs/make_{name}.py"


def test_every_sampler_has_its_row() -> None:
    page = (DOCS / "samplers.md").read_text("utf-8")
    assert [name for name in SAMPLERS.own if f"| `{name}` |" not in page] == []


def test_every_key_of_a_campaign_has_its_row() -> None:
    page = (DOCS / "campaign.md").read_text("utf-8")
    keys = {field.name for field in fields(Campaign)}
    keys -= {"path", "source_text", "recipe", "objectives"}  # the recipe is base, models and merge
    assert {key for key in keys if f"| [`{key}`](" not in page} == set()


LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = HEADING.findall(FENCED.sub("", page.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


@pytest.mark.parametrize(
    "page", [*ROOT.glob("*.md"), *DOCS.glob("*.md")], ids=lambda page: page.name
)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCED.sub("", page.read_text("utf-8"))):
        file, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
