"""Where a continuation starts when tokens join over the seam, and what an answer may take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evomerge.objectives.encoding import SPARE, Rules, encode
from evomerge.objectives.jsonl_items import ExactMatch, MultipleChoice, Passage
from evomerge.objectives.request import Request

WORDS = ["", "<s>", "a", "b", "ab", "bb", " ", "c"]  # a token's id is its place


class Joining:
    """Takes the longest word first, as BPE tokenizers do in effect; id 1 begins a text."""

    context = 6
    start: int | None = 1

    def __init__(self, begins: bool) -> None:
        self.begins = begins

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        ids = [1] if self.begins else []
        while text:
            word = max((w for w in WORDS if w and text.startswith(w)), key=len)
            ids.append(WORDS.index(word))
            text = text.removeprefix(word)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(WORDS[i] for i in ids if i != 1)


def encoded(item: Any, *, begins: bool = True, **rules: Any) -> Any:
    language: Any = Joining(begins)
    return encode(item, language, Rules(**rules))


def test_what_joins_over_the_seam_is_scored() -> None:
    item = MultipleChoice("ca", ("b", "c"), 0, "f:1")
    found = encoded(item, delimiter="")
    # "cab" is c, ab: the prompt's a is gone, so the joined token is judged; "cac" is c, a, c.
    assert found.requests == (Request((1, 7, 4), 1), Request((1, 7, 2, 7), 1))
    assert found.sizes == (1, 1) and found.prompt == () and not found.cut


def test_a_first_token_is_put_before_what_nothing_precedes() -> None:
    item = MultipleChoice("", ("b", "c"), 0, "f:1")
    assert encoded(item, begins=False).requests[0] == Request((1, 3), 1)
    joined = MultipleChoice("a", ("b", "c"), 0, "f:1")  # nothing of the prompt is left before ab
    assert encoded(joined, begins=False, delimiter="").requests[0] == Request((1, 4), 1)
    assert encoded(joined, begins=False).requests[0] == Request((2, 6, 3), 2)


def test_a_continuation_that_vanishes_in_the_prompt_is_scored_by_its_last_token() -> None:
    class Shrinking(Joining):
        def encode(self, text: str, *, special: bool = True) -> list[int]:
            return super().encode(text.replace("cc", "c"))

    language: Any = Shrinking(True)
    item = MultipleChoice("c", ("c", "b"), 0, "f:1")
    assert encode(item, language, Rules(delimiter="")).requests[0] == Request((1, 7), 1)


def test_an_answer_may_take_a_few_tokens_more_than_its_reference() -> None:
    roomy: Any = Joining(True)
    roomy.context = None
    item = ExactMatch("c", ("ab", "a b"), "f:1")
    found = encode(item, roomy, Rules())
    assert found.prompt == (1, 7)
    assert found.limit == 4 + SPARE  # the longest is a space and three tokens
    assert encode(item, roomy, Rules(max_new_tokens=3)).limit == 3


def test_a_passage_that_is_cut_counts_the_bytes_that_are_left() -> None:
    found = encoded(Passage("", "abcabcabcab", "f:1"), truncate=True)
    # 1 ab c ab c ab c ab: eight tokens, of which seven are kept and six judged.
    assert found.requests == (Request((4, 7, 4, 7, 4, 7, 4), 6),)
    assert found.sizes == (9,) and found.cut
