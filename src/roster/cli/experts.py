"""`roster experts list|show|check`."""

from __future__ import annotations

from typing import Annotated

import typer

from roster.cli import app
from roster.cli.common import experts_folder, quiet
from roster.errors import RosterError

group = typer.Typer(no_args_is_help=True, help="Look at a folder of PEFT adapters.")
app.add_typer(group, name="experts")

Folder = Annotated[str, typer.Argument(help="A folder of PEFT adapters, or `pocket`.")]


@group.command("list", help="List the experts of a folder.\n\n**Examples**\n\n    roster experts list pocket\n")
def list_experts(folder: Folder) -> None:
    """One line per expert."""
    from rich.console import Console
    from rich.table import Table

    from roster.library import Library

    library = Library.read(experts_folder(folder))
    table = Table()
    for column in ("name", "task", "ranks", "layers", "parameters", "weights"):
        table.add_column(column, justify="right" if column in ("layers", "parameters") else "left")
    for name in library.names:
        adapter = library[name]
        ranks = sorted({update.A_RD.shape[0] for update in adapter.modules.values()})
        numbers = sum(update.A_RD.numel() + update.B_OR.numel() for update in adapter.modules.values())
        table.add_row(
            name,
            adapter.card.task,
            ", ".join(map(str, ranks)),
            str(len(adapter.modules)),
            f"{numbers:,}",
            adapter.weights_hash[:12],
        )
    Console().print(table)


@group.command("show", help="Show one expert.\n\n**Examples**\n\n    roster experts show pocket reverse\n")
def show(folder: Folder, name: Annotated[str, typer.Argument(help="The expert.")]) -> None:
    """Its card, and what it does to each layer."""
    from rich.console import Console
    from rich.table import Table

    from roster.library import Library

    adapter = Library.read(experts_folder(folder))[name]
    for field, value in adapter.card.model_dump().items():
        shown = "".join(f"\n  {each}" for each in value) if isinstance(value, list) else value
        typer.echo(f"{field}: {'–' if value in (None, '', []) else shown}")
    table = Table("layer", "rank", "in", "out", "scale")
    for layer, update in adapter.modules.items():
        (rank, width), out = update.A_RD.shape, update.B_OR.shape[0]
        table.add_row(layer, str(rank), str(width), str(out), f"{update.scale:g}")
    Console().print(table)


_CHECK = """Read every expert and report every one that cannot be used; with a base, hold them against it.

**Examples**

    roster experts check pocket
    roster experts check pocket --base pocket
"""


@group.command("check", help=_CHECK)
def check(
    folder: Folder,
    base: Annotated[str | None, typer.Option(help="The base that they should fit.")] = None,
    refresh: Annotated[bool, typer.Option(help="Write the hashes of weights and base into the cards.")] = False,
) -> None:
    """One line per expert; exit code 2 when one is bad."""
    from roster.library import Library, check_fits, read_adapter, refresh_cards
    from roster.library.folder import adapter_folders

    paths = adapter_folders(experts_folder(folder))
    model = None
    if base is not None:
        from roster.mixture.base import load_base

        quiet()
        model, _ = load_base(base)
    adapters, bad = {}, 0
    for path in paths:
        try:
            adapter = read_adapter(path, stale_card=refresh)
            if model is not None:
                check_fits(adapter, model)
        except RosterError as error:
            bad += 1
            typer.echo(f"bad   {path.name}: {error}")
        else:
            adapters[path.name] = adapter
            typer.echo(f"good  {path.name}: {len(adapter.modules)} layers, {adapter.weights_hash[:12]}")
    if bad:
        raise RosterError(f"{bad} of {len(paths)} experts cannot be used")
    if refresh:
        changed = refresh_cards(experts_folder(folder), model)
        typer.echo(f"{len(changed)} cards changed")
        return
    library = Library(adapters)
    if model is not None:
        library.check(model)
