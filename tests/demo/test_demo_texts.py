"""Texts of the demo: what every Python brings, held out by the document."""

from __future__ import annotations

import ast

from evomerge.demo import texts


def test_about_one_document_in_six_is_held_out_and_wholly() -> None:
    by_name = {passage.document: passage.held_out for passage in texts.code()}
    assert 0.08 < sum(by_name.values()) / len(by_name) < 0.27
    for passage in (*texts.prose(), *texts.comments()):
        assert passage.held_out == by_name.get(passage.document, passage.held_out)


def test_there_is_enough_of_everything_to_train_on() -> None:
    for source in (texts.code(), texts.comments(), texts.prose()):
        assert sum(len(passage.text) for passage in source if not passage.held_out) > 100_000


def test_code_has_no_docstrings_and_no_comments() -> None:
    source = '"""What it is."""\n# why\ndef f():\n    """Does it."""\n\nclass C:\n    x = 1\n'
    tree = ast.parse(source)
    assert list(texts._take_docstrings(tree)) == ["What it is.", "Does it."]
    assert ast.unparse(tree) == "def f():\n    pass\n\nclass C:\n    x = 1"


def test_comments_on_neighbouring_lines_are_one() -> None:
    source = "# one\n#   two\nx = 1\n    # three\n"
    assert list(texts._comments(source)) == ["one two", "three"]


def test_text_is_printable_ascii() -> None:
    assert texts._plain("naïve\tcafé\n") == "navecaf\n"
    for passage in texts.prose()[:200]:
        assert passage.text.isprintable()
        assert passage.text.isascii()


def test_what_describes_the_machine_is_left_out() -> None:
    assert not [m.name for m in texts.modules() if m.name.startswith("_sysconfigdata")]
