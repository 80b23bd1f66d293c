"""``evomerge answer``: the runner of exported fusions of logits."""

from __future__ import annotations

from pathlib import Path

import click

from evomerge.cli.arguments import PATH


@click.command()
@click.argument("fusion", type=PATH)
@click.argument("prompt")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    default=64,
    show_default=True,
    help="Of the answer, at most.",
)
@click.option("--stop", multiple=True, help="A text that ends the answer; may be repeated.")
@click.option("--chat", is_flag=True, help="Send it through the large model's chat template.")
def answer(
    *, fusion: Path, prompt: str, max_new_tokens: int, stop: tuple[str, ...], chat: bool
) -> None:
    """Answer one prompt with an exported fusion of logits.

    FUSION is the folder that `evomerge export` has written for a campaign with `logit_fusion`. The
    answer is greedy: what the campaign has measured.
    """
    from evomerge.objectives.answering import answer_prompt

    if not all(stop):
        raise click.BadParameter("a stop text is empty")
    click.echo(answer_prompt(fusion, prompt, limit=max_new_tokens, stop=stop, chat=chat))
