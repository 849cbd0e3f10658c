"""`roster experts list`, `show`, `check`, `add` and `remove`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli.common import (
    ExpertsFolder,
    MixtureBase,
    MixtureFolder,
    console,
    experts_folder,
    open_mixture,
    quiet,
    table,
)
from roster.errors import RosterError

if TYPE_CHECKING:
    from roster.library import Adapter

app = typer.Typer(
    no_args_is_help=True, help="Look at a folder of PEFT adapters; add to, and take from, what `auto` routes."
)


@app.command("list")
def list_experts(folder: ExpertsFolder) -> None:
    """List the experts of a folder, by what their configs, cards and headers say; `check` reads the weights as well.

    \b
    Examples:
      roster experts list pocket
    """
    from rich.markup import escape

    from roster.listing import listed

    made = table(
        "name", "task", "rank", "modules", "parameters", "scale", "base", "hash", right=("modules", "parameters")
    )
    for each in listed(experts_folder(folder)):
        made.add_row(
            escape(each.name),
            escape(each.task),
            _distinct(each.ranks),
            str(len(each.ranks)),
            f"{each.parameters:,}",
            _distinct(each.scales),
            escape(each.base or "–"),
            (each.weights_hash or "–")[:12],
        )
    console().print(made)


@app.command("show")
def show(folder: ExpertsFolder, name: Annotated[str, typer.Argument(help="The expert.")]) -> None:
    """Show one expert: its card, and what it does to each module.

    \b
    Examples:
      roster experts show pocket reverse
    """
    from rich.markup import escape

    from roster.library import Library

    adapter = Library.read(experts_folder(folder))[name]
    fields = {"name": name, **adapter.card.model_dump(), "base": _base(adapter), "weights_hash": adapter.weights_hash}
    for field, value in fields.items():
        shown = (
            "".join(f"\n  {each if isinstance(each, str) else json.dumps(each)}" for each in value)
            if isinstance(value, list)
            else value
        )
        typer.echo(f"{field}: {shown or '–'}")
    made = table("module", "rank", "in", "out", "scale", right=("rank", "in", "out", "scale"))
    for module, update in adapter.modules.items():
        (rank, width), out = update.A_RD.shape, update.B_OR.shape[0]
        made.add_row(escape(module), str(rank), str(width), str(out), f"{update.scale:g}")
    console().print(made)


@app.command("check")
def check(
    folder: ExpertsFolder,
    base: Annotated[str | None, typer.Option(help="The base that they should fit.")] = None,
    refresh: Annotated[bool, typer.Option("--refresh", help="Write the right hashes into the cards.")] = False,
) -> None:
    """Read every expert and report every one that cannot be used; with a base, hold them against it.

    \b
    Examples:
      roster experts check pocket
      roster experts check pocket --base pocket
      roster build pocket pocket --router arrow-mbc --out my-mixture
      roster experts check my-mixture/experts --base pocket --refresh
    """
    from roster.library import Library, check_fits, read_adapter, refresh_cards
    from roster.library.folder import adapter_folders

    path = experts_folder(folder)
    paths = adapter_folders(path)
    model = _model(base)
    adapters = {}
    for each in paths:
        try:
            adapter = read_adapter(each, stale_card=refresh)
            if model is not None and refresh:
                check_fits(adapter, model)
            elif model is not None:
                Library({each.name: adapter}).check(model)
        except RosterError as error:
            typer.echo(f"bad   {each.name}: {error}")
        else:
            adapters[each.name] = adapter
            typer.echo(f"good  {each.name}: {len(adapter.modules)} modules, {adapter.weights_hash[:12]}")
    if len(adapters) < len(paths):
        raise RosterError(f"{len(paths) - len(adapters)} of {len(paths)} experts cannot be used")
    if refresh:
        changed = refresh_cards(path, model)
        typer.echo(f"{len(changed)} of {len(paths)} cards changed")
    Library.read(path)  # which refuses experts of different bases


def _model(base: str | None) -> Any:
    if base is None:
        return None
    from roster.routed.base import load_base

    quiet()
    return load_base(base)[0]


def _base(adapter: Adapter) -> str:
    return adapter.card.base or adapter.config.base_model_name_or_path or ""


def _distinct(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in sorted(set(values)))


@app.command("add")
def add(
    routed: MixtureFolder,
    adapter: Annotated[Path, typer.Argument(help="The folder of one PEFT adapter.")],
    examples: Annotated[
        Path | None, typer.Option(help="JSONL with expert and prompt (or messages), in place of the card's examples.")
    ] = None,
    base: MixtureBase = None,
) -> None:
    """Add one adapter to a mixture that `auto` routes; the base reads its examples and nobody else's.

    \b
    Examples:
      roster build pocket pocket --out routed
      roster build pocket pocket --out whole
      roster experts remove routed reverse
      roster experts add routed whole/experts/reverse
    """
    from roster.auto.growing import add as grown
    from roster.library import Library, read_adapter
    from roster.library.examples import read_examples, with_examples

    one = Library({adapter.resolve().name: read_adapter(adapter)})
    if examples is not None:
        one = with_examples(one, read_examples(examples))
    model = open_mixture(routed, base)
    _rewrite(grown(model, one[one.names[0]]), routed)
    typer.echo(f"{one.names[0]} is in {routed}")


@app.command("remove")
def remove(
    routed: MixtureFolder,
    name: Annotated[str, typer.Argument(help="The expert.")],
    base: MixtureBase = None,
) -> None:
    """Take one adapter out of a mixture that `auto` routes.

    \b
    Examples:
      roster build pocket pocket --out routed
      roster experts remove routed reverse
    """
    from roster.auto.growing import remove as shrunk

    model = open_mixture(routed, base)
    _rewrite(shrunk(model, name), routed)
    typer.echo(f"{name} is no more in {routed}")


def _rewrite(model: Any, folder: str) -> None:
    """Writes a mixture where it came from, with a base of its own if it had one."""
    from roster.adapters.manifest import BASE
    from roster.adapters.writing import save
    from roster.saving import Wanted

    save(model, Path(folder), Wanted(include_base=(Path(folder) / BASE).is_dir()))
