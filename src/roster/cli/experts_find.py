"""`roster experts find`, `cluster` and `prune`: which experts suit, and which are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from roster.cli.common import ExpertsFolder, TemplateOption, console, experts_folder, table
from roster.cli.experts import app as app
from roster.cli.experts import open_base, shelf
from roster.cli.ticks import ticking
from roster.errors import RosterError, nearest

WAYS = ("words", "states", "loss", "shots")
BaseOption = Annotated[str | None, typer.Option(help="The base: a folder, a name on the hub, or `pocket`.")]


@app.command("find")
def find(
    folder: ExpertsFolder,
    text: Annotated[str, typer.Argument(help="A task in words, or a prompt.")] = "",
    data: Annotated[
        Path | None, typer.Option(help="JSONL with prompt (or messages); with answer, for loss and shots.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(help="words, states, loss or shots; by default words, with --base states.")
    ] = None,
    base: BaseOption = None,
    count: Annotated[int, typer.Option(min=1, help="How many to show.")] = 5,
    template: TemplateOption = None,
) -> None:
    """Find the experts that suit a task: by what their cards say, or by some twenty examples.

    words: the cards are like the text; no model. states: the base's hidden states of the cards' examples are like those
    of the prompts. loss: they expect the answers. shots: they give the answers (greedily), and expect them.

    \b
    Examples:
      roster experts find pocket "write it backwards"
      roster pocket data --skill reverse --count 20 > twenty.jsonl
      roster experts find pocket --data twenty.jsonl --base pocket
      roster experts find pocket --data twenty.jsonl --base pocket --by loss
    """
    by = by or ("states" if base is not None else "words")
    if by not in WAYS:
        raise RosterError(f"--by {by!r} is unknown: {nearest(by, WAYS)}")
    if (not text) == (data is None):
        raise RosterError("say what is looked for: a text, or --data FILE.jsonl; one of them")
    if by == "words":
        return _by_words(folder, text, data, count)
    if base is None:
        raise RosterError(f"--by {by} asks the base: give --base")
    if by == "states":
        return _by_states(folder, text, data, count, base, template)
    if data is None:
        raise RosterError(f"--by {by} needs examples with answers: give --data FILE.jsonl")
    return _by_asking(folder, data, count, base, template, by)


def _by_words(folder: str, text: str, data: Path | None, count: int) -> None:
    if data is not None:
        from roster.prompts import words
        from roster.train.data import read_prompts

        text = " ".join(map(words, read_prompts(data)))
    index = shelf(folder)
    found = index.search(text, count)
    if not found:
        raise RosterError("no card has anything in common with that")
    _print(folder, ("cosine",), {name: (f"{score:.3f}",) for name, score in found})


def _by_states(folder: str, text: str, data: Path | None, count: int, base: str, template: bool | None) -> None:
    from roster.suiting.states import States, by_states
    from roster.train.data import read_prompts

    prompts = [text] if data is None else read_prompts(data)
    states = States(*_model(base, template))
    with ticking("experts", len(shelf(folder).contents)) as tick:
        found = by_states(experts_folder(folder), states, prompts, tick, keep=folder != "pocket")
    _print(folder, ("cosine",), {name: (f"{score:.3f}",) for name, score in found[:count]})


def _by_asking(folder: str, data: Path, count: int, base: str, template: bool | None, by: str) -> None:
    from roster.shelf.folders import adapter_folders, name_of
    from roster.suiting.asking import by_loss, by_shots
    from roster.train.data import read_rows

    rows, root = read_rows(data), experts_folder(folder)
    paths: dict[str, Path | None] = {name_of(path, root): path for path in adapter_folders(root)}
    paths["(the base alone)"] = None
    model, rendering = _model(base, template)
    with ticking("experts", len(paths)) as tick:
        found = (by_loss if by == "loss" else by_shots)(model, rendering, paths, rows, tick)
    columns = ("loss", "right %") if by == "shots" else ("loss",)
    rows_of = {
        each.name: (f"{each.loss:.3f}", *(() if each.right is None else (f"{100 * each.right:.0f}",)))
        for each in found[:count]
    }
    _print(folder, columns, rows_of)


@app.command("cluster")
def cluster(
    folder: ExpertsFolder,
    k: Annotated[int, typer.Option("--clusters", min=1, help="How many clusters.")] = 4,
    by: Annotated[str, typer.Option(help="weights (model-based clustering) or data (examples).")] = "weights",
    base: BaseOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Of k-means' starting points.")] = 0,
    template: TemplateOption = None,
) -> None:
    """Group the experts of a folder by the updates that they make, or by the base's hidden states of their examples.

    \b
    Examples:
      roster experts cluster pocket --clusters 3
      roster experts cluster pocket --clusters 3 --by data --base pocket
    """
    from roster.library import Library
    from roster.library import cluster as by_weights
    from roster.library.cluster import group

    if by not in ("weights", "data"):
        raise RosterError(f"--by {by!r} is unknown: {nearest(by, ('weights', 'data'))}")
    if by == "weights":
        groups = by_weights(Library.read(experts_folder(folder)), k, seed)
    else:
        if base is None:
            raise RosterError("--by data asks the base: give --base")
        from roster.suiting.states import States, directions, expert_vectors

        states = States(*_model(base, template))
        with ticking("experts", len(shelf(folder).contents)) as tick:
            vectors = expert_vectors(experts_folder(folder), states, tick, keep=folder != "pocket")
        groups = group(list(vectors), directions(vectors), k, seed)
    for number, names in groups.items():
        typer.echo(f"{number}: {', '.join(names)}")


@app.command("prune")
def prune(
    folder: ExpertsFolder,
    above: Annotated[float, typer.Option(help="The least cosine of two updates that are called the same.")] = 0.99,
    yes: Annotated[bool, typer.Option("--yes", help="Remove them; without it they are shown only.")] = False,
) -> None:
    """Show the experts that do nearly what another does, and remove them when told to.

    Of each group the one with the fullest card stays.

    \b
    Examples:
      roster experts prune pocket
      roster experts prune pocket --above 0.5
    """
    from roster.cli.experts import own_folder
    from roster.library import Library
    from roster.library.keeping import remove
    from roster.library.pruning import near_identical

    twins = near_identical(Library.read(experts_folder(folder)), above)
    if not twins:
        typer.echo(f"no two experts have updates with a cosine of {above:g} or more")
        return
    made = table("could go", "as it does what this one does", "cosine", right=("cosine",))
    for twin in twins:
        made.add_row(twin.name, twin.kept, f"{twin.cosine:.4f}")
    console().print(made)
    if not yes:
        typer.echo(f"nothing was removed; --yes removes the {len(twins)} on the left")
        return
    for twin in twins:
        remove(own_folder(folder), twin.name)
        typer.echo(f"{twin.name} is no more in {folder}")


def _model(base: str, template: bool | None) -> tuple[Any, Any]:
    from roster.cli.experts import tokenizer_of
    from roster.prompts import Rendering

    return open_base(base), Rendering(tokenizer_of(base), template is not False)


def _print(folder: str, columns: Sequence[str], found: Mapping[str, tuple[str, ...]]) -> None:
    """A table of experts with what was found, and what their cards say."""
    from rich.markup import escape

    told = {each.name: each for each in shelf(folder).contents}
    made = table("expert", *columns, "task", "description", right=columns)
    for name, values in found.items():
        card = told.get(name)
        said = ("", "") if card is None else (card.task, card.description)
        made.add_row(escape(name), *values, *map(escape, said))
    console().print(made)
