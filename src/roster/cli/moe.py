"""`roster moe`: mixtures of feed-forward blocks, into transformers models and out of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from roster.cli.common import quiet
from roster.errors import RosterError
from roster.options import parse_options

app = typer.Typer(no_args_is_help=True, help="Mixtures of feed-forward blocks: make, adopt and export them.")

Out = Annotated[Path, typer.Option(help="The folder to write.")]
Options = Annotated[list[str] | None, typer.Option("--option", help="An option of the recipe, name=value; repeatable.")]


@app.command()
def replace(
    base: Annotated[str, typer.Argument(help="A dense model: a folder, a name on the Hugging Face hub, or `pocket`.")],
    recipe: Annotated[str, typer.Option(help="A recipe of kind moe; see `roster methods`.")],
    out: Out,
    option: Options = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="A block to replace, from 0; repeatable. Default: all.")
    ] = None,
    start: Annotated[
        Literal["fresh", "dense"], typer.Option(help="How experts begin: fresh, or dense (as the block's own units).")
    ] = "dense",
    seed: Annotated[int, typer.Option(min=0, help="Of routers and fresh experts.")] = 0,
) -> None:
    """Turn the feed-forward blocks of a dense model into mixtures, to be trained, and save it.

    \b
    Examples:
      roster moe replace pocket --recipe gshard-top2 --out sparse
      roster moe replace pocket --recipe switch-transformer --layer 1 \\
        --option num_experts=8 --out switch
    """
    options = parse_options(option or [])
    _new(out)
    model, name, tokenizer = _load(base)
    import torch

    from roster.moe import replace as into_mixture

    torch.manual_seed(seed)
    model = into_mixture(model, recipe, options=options, layers=layer or None, start=start)
    _save(model, out, name, tokenizer)
    typer.echo(f"wrote {out}: {len(model.roster.experts)} experts a block")


@app.command()
def adopt(
    model: Annotated[
        str, typer.Argument(help="A mixture of transformers: a folder, or a name on the Hugging Face hub.")
    ],
    out: Out,
    router: Annotated[str | None, typer.Option(help="A recipe whose router takes over; by default its own.")] = None,
    option: Options = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the new router.")] = 0,
) -> None:
    """Make a mixture that transformers knows a routed model, with its own or another router, and save it.

    \b
    Examples:
      roster moe replace pocket --recipe gshard-top2 --out sparse
      roster moe export sparse --out mixtral
      roster moe adopt mixtral --router x-moe --out rerouted
    """
    options = parse_options(option or [])
    _new(out)
    loaded, name, tokenizer = _load(model)
    import torch

    from roster.moe import adopt as adopt_model

    torch.manual_seed(seed)
    _save(adopt_model(loaded, router, options=options or None), out, name, tokenizer)
    typer.echo(f"wrote {out}")


@app.command()
def export(
    folder: Annotated[str, typer.Argument(help="What `roster moe replace` or `adopt` wrote, trained or not.")],
    out: Out,
) -> None:
    """Write a routed model as an architecture that transformers loads by itself, where one can express it.

    \b
    Examples:
      roster moe replace pocket --recipe gshard-top2 --out sparse
      roster moe export sparse --out mixtral
    """
    quiet()
    from roster.folders import load_folder
    from roster.moe import export as write_out

    typer.echo(f"wrote {out}: {write_out(load_folder(Path(folder)), out)}")


def _new(out: Path) -> None:
    """Before anything slow."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RosterError(f"{str(out)!r} is there already: name a new folder")


def _load(name: str) -> tuple[Any, str | None, Any]:
    """(plain model, its public name or None, its tokenizer or None)"""
    quiet()
    from roster.routed.base import load_base, load_tokenizer

    return *load_base(name), load_tokenizer(name)


def _save(model: Any, out: Path, name: str | None, tokenizer: Any) -> None:
    model.roster.base_name, model.roster.tokenizer = name, tokenizer
    model.save_pretrained(out)
