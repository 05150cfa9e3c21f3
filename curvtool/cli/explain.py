"""`curvtool explain`."""

from __future__ import annotations

from typing import Annotated

import typer

from curvtool.cli import completion


def explain(
    word: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE|CONCEPT",
            help="As CT026 or sharpness; left out, all are listed.",
            autocompletion=completion.explained,
        ),
    ] = None,
) -> None:
    """A warning or error code, or a concept, at length, with sources."""
    from rich.markdown import Markdown

    from curvtool.cli.console import make_console
    from curvtool.cli.options import Output
    from curvtool.render.explanations import explained, explanations
    from curvtool.render.table_parts import new_table

    console = make_console(Output())
    if word is not None:
        found = explained(word)
        console.print(f"{found.name}: {found.title}", style="bold", highlight=False, markup=False)
        console.print(Markdown(found.text), width=min(console.width, 100))
        return
    table = new_table("curvtool explain WORD", console)
    table.add_column("word", no_wrap=True)
    table.add_column("")
    for found in explanations().values():
        table.add_row(found.name, found.title)
    console.print(table)
