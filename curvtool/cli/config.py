"""`curvtool config show`."""

from __future__ import annotations

from typing import Annotated

import typer

from curvtool.cli.options import Format

app = typer.Typer(no_args_is_help=True, help="The settings: where each value comes from.")


@app.callback()
def _config() -> None:
    pass


@app.command()
def show(
    config: Annotated[
        str | None,
        typer.Option("--config", metavar="FILE", help="Project file; ./curvtool.toml where there is one."),
    ] = None,
    all_settings: Annotated[bool, typer.Option("--all", help="Also those left at their default.")] = False,
    format: Format = "table",
) -> None:
    """Every setting that is given by the project file or a variable, its value and its source; flags win over both."""
    import json
    import sys

    from curvtool.cli.console import make_console
    from curvtool.cli.options import Output
    from curvtool.config.resolve import resolve_all, settings_table
    from curvtool.render.table_parts import csv_text, markdown_table, new_table

    rows = settings_table(resolve_all({}, config_file=config, default="eigs"), all_settings)
    header = ["setting", "value", "from"]
    if format == "json":
        sys.stdout.write(json.dumps([dict(zip(header, row, strict=True)) for row in rows], indent=2) + "\n")
    elif format == "csv":
        sys.stdout.write(csv_text(header, rows))
    elif format == "md":
        sys.stdout.write("\n".join(markdown_table(header, rows)) + "\n")
    else:
        console = make_console(Output())
        table = new_table("Settings", console)
        for name in header:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*row)
        console.print(table)
        if not all_settings:
            console.print("defaults are left out: --all lists them too", style="dim")
