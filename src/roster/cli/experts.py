"""`roster experts list`, `show`, `check`, `add`, `remove`, `describe`; finding and comparing is in `experts_find`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli.common import (
    ExpertsFolder,
    MixtureBase,
    TemplateOption,
    console,
    experts_folder,
    open_mixture,
    quiet,
    table,
)
from roster.errors import RosterError

if TYPE_CHECKING:
    from roster.library import Adapter
    from roster.shelf.contents import Contents
    from roster.shelf.index import Index

app = typer.Typer(
    no_args_is_help=True,
    help="Keep a folder of PEFT adapters: list, add, describe, find, compare, remove; or change what `auto` routes.",
)
_FRAMED = 100
"""Rows up to which a list has a frame."""
Target = Annotated[str, typer.Argument(help="A folder of PEFT adapters, or a mixture that `auto` routes.")]


def shelf(folder: str) -> Index:
    """A folder's index; nothing is kept in the folder that comes with roster."""
    from roster.shelf.index import WORTHWHILE, Index

    return Index(experts_folder(folder), WORTHWHILE if folder != "pocket" else 1 << 30)


@app.command("list")
def list_experts(
    folder: ExpertsFolder,
    old: Annotated[bool, typer.Option("--versions", help="The older versions that are kept, instead.")] = False,
) -> None:
    """List the experts of a folder by their headers and cards, without reading weights.

    \b
    Examples:
      roster experts list pocket
    """
    from roster.shelf.contents import check_one_base

    if old:
        return _list_versions(Path(folder))
    contents = shelf(folder).contents
    _print_rows(
        ("name", "task", "kind", "rank", "scale", "modules", "parameters", "examples", "base", "hash"),
        [_row(each) for each in contents],
    )
    bad = [each for each in contents if each.problem]
    if bad:
        raise RosterError(f"{len(bad)} of {len(contents)} experts cannot be used: {bad[0].problem}")
    check_one_base(contents)
    return None


def _row(each: Contents) -> tuple[str, ...]:
    if each.problem:
        return (each.name, "cannot be used", *[""] * 8)
    ranks, short = ", ".join(map(str, each.ranks)), each.weights_hash[:12] or "–"
    counts = (str(each.modules), f"{each.parameters:,}", str(each.examples))
    scales = ", ".join(f"{scale:g}" for scale in each.scales)
    return (each.name, each.task, each.kind, ranks, scales, *counts, each.base, short)


def _print_rows(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """A table; a long one is plain columns, which are printed in a tenth of the time."""
    if len(rows) <= _FRAMED:
        from rich.markup import escape

        made = table(*columns, right=("modules", "parameters", "examples"))
        for row in rows:
            made.add_row(*map(escape, row))
        console().print(made)
        return
    widths = [max(len(row[at]) for row in (columns, *rows)) for at in range(len(columns))]
    for row in (columns, *rows):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _list_versions(folder: Path) -> None:
    from roster.library.keeping import versions

    for name, paths in versions(folder).items():
        for path in paths:
            typer.echo(f"{name}@{path.name}")


@app.command("show")
def show(folder: ExpertsFolder, name: Annotated[str, typer.Argument(help="The expert, or NAME@HASH.")]) -> None:
    """Show one expert: its card, and what it does to each module.

    \b
    Examples:
      roster experts show pocket reverse
    """
    from rich.markup import escape

    from roster.library import read_adapter
    from roster.library.keeping import path_of

    adapter = read_adapter(path_of(experts_folder(folder), name))
    fields = {"name": name, **adapter.card.model_dump(), "base": _base(adapter), "weights_hash": adapter.weights_hash}
    for field, value in fields.items():
        shown = (
            "".join(f"\n  {each if isinstance(each, str) else json.dumps(each)}" for each in value)
            if isinstance(value, list)
            else value
        )
        typer.echo(f"{field}: {shown or '–'}")
    if adapter.prompt_VD is not None:
        typer.echo(f"virtual tokens: {len(adapter.prompt_VD)}")
        return
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
    from roster.shelf.folders import adapter_folders

    path = experts_folder(folder)
    paths = adapter_folders(path)
    model = None if base is None else open_base(base)
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
            prompt = adapter.prompt_VD
            what = f"{len(adapter.modules)} modules" if prompt is None else f"{len(prompt)} virtual tokens"
            typer.echo(f"good  {each.name}: {what}, {adapter.weights_hash[:12]}")
    if len(adapters) < len(paths):
        raise RosterError(f"{len(paths) - len(adapters)} of {len(paths)} experts cannot be used")
    if refresh:
        changed = refresh_cards(path, model)
        typer.echo(f"{len(changed)} of {len(paths)} cards changed")
    Library.read(path)  # which refuses experts of different bases


def open_base(base: str) -> Any:
    """A base, without a word about it."""
    from roster.routed.base import load_base

    quiet()
    return load_base(base)[0]


def _base(adapter: Adapter) -> str:
    return adapter.card.base or adapter.config.base_model_name_or_path or ""


@app.command("add")
def add(
    target: Target,
    adapter: Annotated[str, typer.Argument(help="The folder of one PEFT adapter, or its name on the hub.")],
    name: Annotated[str | None, typer.Option(help="What it is called there; by default as its folder.")] = None,
    examples: Annotated[
        Path | None, typer.Option(help="JSONL with expert and prompt (or messages), in place of the card's examples.")
    ] = None,
    base: MixtureBase = None,
    link: Annotated[bool, typer.Option("--link", help="Point at it instead of copying it.")] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Put another version of that name away under its hash.")
    ] = False,
) -> None:
    """Add one adapter to a folder, or to a mixture that `auto` routes.

    To a folder it is copied (or linked) after it was read and, with a base, held against that. In a mixture the base
    reads its examples and nobody else's.

    \b
    Examples:
      roster build pocket pocket --out routed
      roster build pocket pocket --out whole
      roster experts remove routed reverse
      roster experts add routed whole/experts/reverse
      roster experts add my-library whole/experts/reverse
      roster experts add my-library whole/experts/sort --link --base pocket
    """
    from roster.library.hub import fetch, names_hub

    source, own = fetch(adapter) if names_hub(adapter) else (Path(adapter), Path(adapter).resolve().name)
    if _is_mixture(target):
        if name is not None or link or replace:
            raise RosterError("--name, --link and --replace are for folders; to a mixture the adapter itself is added")
        return _add_to_mixture(target, source, own, examples, base)
    if examples is not None:
        raise RosterError("--examples is for a mixture: `roster experts describe` writes the card of one in a folder")
    from roster.library import Library, read_adapter
    from roster.library.keeping import add as keep

    own = name or own
    if base is not None:
        Library({own: read_adapter(source)}).check(open_base(base))
    keep(own_folder(target), source, name=own, link=link, replace=replace)
    typer.echo(f"{own} is in {target}")
    return None


@app.command("remove")
def remove(
    target: Target,
    name: Annotated[str, typer.Argument(help="The expert; in a folder also NAME@HASH, an older version.")],
    base: MixtureBase = None,
) -> None:
    """Take one adapter out of a folder, or out of a mixture that `auto` routes.

    In a folder its files are deleted; of one that was linked, the link only.

    \b
    Examples:
      roster build pocket pocket --out routed
      roster experts remove routed reverse
      roster experts add small-library routed/experts/sort
      roster experts remove small-library sort
    """
    if not _is_mixture(target):
        from roster.library.keeping import remove as discard

        discard(own_folder(target), name)
        typer.echo(f"{name} is no more in {target}")
        return
    from roster.auto.growing import remove as shrunk

    model = open_mixture(target, base)
    _rewrite(shrunk(model, name), target)
    typer.echo(f"{name} is no more in {target}")


@app.command("describe")
def describe(
    folder: Annotated[str, typer.Argument(help="A folder of PEFT adapters.")],
    name: Annotated[str, typer.Argument(help="The expert.")],
    data: Annotated[Path | None, typer.Option(help="JSONL with prompt (or messages), as its users write.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Examples to take, as different as possible.")] = 20,
    task: Annotated[str | None, typer.Option(help="What it is for, in a word.")] = None,
    description: Annotated[str | None, typer.Option(help="The same in a sentence.")] = None,
    base: Annotated[
        str | None, typer.Option(help="The base: examples differ by its hidden states, not by words; recorded.")
    ] = None,
    writer: Annotated[
        str | None, typer.Option(help="A causal language model that writes the description from the examples.")
    ] = None,
    template: TemplateOption = None,
) -> None:
    """Write an expert's card from data: task, description, example prompts, hashes.

    \b
    Examples:
      roster build pocket pocket --router named --out named
      roster experts add my-library named/experts/upper
      roster pocket data --skill upper --count 40 > upper.jsonl
      roster experts describe my-library upper --data upper.jsonl \\
        --description "Write the text in capitals."
    """
    from roster.library import check_fits, read_adapter
    from roster.library.describing import sentence, spread
    from roster.library.fingerprint import digest, fingerprint
    from roster.library.keeping import path_of
    from roster.library.writing import described
    from roster.prompts import Rendering
    from roster.train.data import read_prompts

    if description is not None and writer is not None:
        raise RosterError("give --description or --writer, not both")
    path = path_of(own_folder(folder), name)
    adapter = read_adapter(path, stale_card=True)
    fields: dict[str, Any] = {"task": task, "description": description}
    prompts = [] if data is None else read_prompts(data)
    features = None
    if base is not None:
        from roster.suiting.states import States

        model = open_base(base)
        check_fits(adapter, model)
        fields["base_hash"] = digest(fingerprint(model))
        if prompts:
            features = States(model, Rendering(tokenizer_of(base), template is not False))(prompts)
    if prompts:
        fields["examples"] = spread(prompts, count, features)
    if writer is not None:
        examples = fields.get("examples") or adapter.card.examples
        if not examples:
            raise RosterError(f"the card of {name!r} has no examples to describe: give some with --data")
        tokenizer = tokenizer_of(writer)
        fields["description"] = sentence(open_base(writer), Rendering(tokenizer), examples)
    card = described(adapter).model_copy(update={key: value for key, value in fields.items() if value is not None})
    card.write(path)
    typer.echo(f"{name}: {card.task}: {card.description or '–'} ({len(card.examples)} examples)")


def tokenizer_of(base: str) -> Any:
    """The tokenizer of a base; RosterError where there is none."""
    from roster.routed.base import load_tokenizer

    found = load_tokenizer(base)
    if found is None:
        raise RosterError(f"there is no tokenizer beside {base!r}")
    return found


def own_folder(name: str) -> Path:
    """A folder that may be changed."""
    if name == "pocket" and not Path(name).is_dir():
        raise RosterError("the pocket experts come with roster and stay as they are: use a folder of your own")
    return Path(name)


def _is_mixture(target: str) -> bool:
    from roster.saving import MANIFEST, recover

    recover(Path(target))
    return (Path(target) / MANIFEST).is_file()


def _add_to_mixture(routed: str, source: Path, name: str, examples: Path | None, base: str | None) -> None:
    from dataclasses import replace

    from roster.auto.growing import add as grown
    from roster.library import Library, read_adapter
    from roster.library.examples import read_examples, with_examples

    one = Library({name: replace(read_adapter(source), name=name)})
    if examples is not None:
        one = with_examples(one, read_examples(examples))
    model = open_mixture(routed, base)
    _rewrite(grown(model, one[name]), routed)
    typer.echo(f"{name} is in {routed}")


def _rewrite(model: Any, folder: str) -> None:
    """Writes a mixture where it came from, with a base of its own if it had one."""
    from roster.adapters.manifest import BASE
    from roster.adapters.writing import save
    from roster.saving import Wanted

    save(model, Path(folder), Wanted(include_base=(Path(folder) / BASE).is_dir()))
