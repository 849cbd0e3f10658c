"""`roster train`: experts, and models with routed blocks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from roster.cli.common import DtypeOption, TemplateOption, complain, dtype_argument, quiet
from roster.errors import RosterError
from roster.options import parse_options

app = typer.Typer(no_args_is_help=True)


@app.callback()
def about() -> None:
    """From data to experts: adapters, which `roster build` puts to work together, or a model with routed blocks."""


@app.command("expert")
def expert(
    base: Annotated[str, typer.Argument(help="A model folder, a name on the Hugging Face hub, or `pocket`.")],
    data: Annotated[Path, typer.Argument(help="JSONL with prompt (or messages) and answer.")],
    out: Annotated[Path, typer.Option(help="The adapter's folder; its name is the expert's.")],
    task: Annotated[str | None, typer.Option(help="What it is for, in a word; by default the folder's name.")] = None,
    description: Annotated[str, typer.Option(help="The same in a sentence.")] = "",
    rank: Annotated[int, typer.Option(min=1, help="Of the update.")] = 16,
    alpha: Annotated[
        int | None, typer.Option(min=1, help="Its scale is alpha / rank; by default twice the rank.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="A layer that gets an update (q_proj); repeatable; by default all linear ones."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Times that the rows are read, at most.")] = 3,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 8,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 1e-3,
    held_out: Annotated[float, typer.Option(help="Share of the rows that decides when to stop.")] = 0.1,
    patience: Annotated[int, typer.Option(min=1, help="Looks at them without improvement before it stops.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    template: TemplateOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Train one expert, a LoRA adapter in PEFT's format with its card, on prompts and answers.

    The tokenizer's chat template is used where there is one, the loss counts the answers only, and a training that is
    interrupted goes on from its last checkpoint when the same command is run again.

    \b
    Examples:
      roster pocket data --skill reverse --count 40 > reverse.jsonl
      roster train expert pocket reverse.jsonl --out my-adapters/reverse \\
        --epochs 1
      roster experts list my-adapters
    """
    from roster.library import Card
    from roster.train import Lesson, read_rows, train_expert

    lesson = Lesson(
        rank=rank,
        alpha=alpha or 2 * rank,
        targets=tuple(target) if target else "all-linear",
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        held_out=held_out,
        patience=patience,
        seed=seed,
    )
    rows = read_rows(data)
    card = Card(task=task or out.resolve().name, description=description)
    quiet()
    try:
        record = train_expert(
            base, rows, out, lesson=lesson, card=card, template=template is not False, **dtype_argument(dtype)
        )
    except KeyboardInterrupt:
        complain(f"{out} was not written; run the same command again to go on from the last checkpoint", code=130)
    loss = record["best_held_out_loss"]
    held = "" if loss is None else f", held-out loss {loss}"
    typer.echo(f"{record['steps']} steps on {record['learned']} rows{held}", err=True)
    typer.echo(f"wrote {out}")


@app.command("moe")
def moe(
    source: Annotated[
        str, typer.Argument(help="A dense model (folder, hub name, `pocket`), or a folder with routed blocks.")
    ],
    data: Annotated[
        Path, typer.Argument(help="JSONL with prompt (or messages) and answer, or with text; or one text file.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    recipe: Annotated[
        str | None, typer.Option(help="What a dense model's blocks become: of kind moe in `roster methods`.")
    ] = None,
    option: Annotated[list[str] | None, typer.Option(help="An option of the recipe, name=value; repeatable.")] = None,
    layer: Annotated[
        list[int] | None, typer.Option(help="A block to replace, from 0; repeatable. Default: all.")
    ] = None,
    task: Annotated[
        list[str] | None, typer.Option(help="A task of the data, for recipes that route by task; repeatable.")
    ] = None,
    start: Annotated[
        Literal["fresh", "dense"], typer.Option(help="How experts begin: fresh, or dense (as the block's own units).")
    ] = "dense",
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 16,
    learning_rate: Annotated[float, typer.Option(help="Peak learning rate.")] = 3e-4,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a piece of text.")] = 512,
    spread: Annotated[
        Literal["experts", "shards", "copies"] | None,
        typer.Option(help="Over the processes of torchrun: whole experts on each, FSDP2 shards, or copies."),
    ] = None,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    template: TemplateOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Train a model with routed blocks: a dense one whose blocks become a mixture, or a routed folder that goes on.

    A training that is interrupted goes on from its last checkpoint when the same command is run again. On several
    processes: torchrun --nproc-per-node N -m roster train moe ... --spread experts

    \b
    Examples:
      roster pocket data --split train --count 4 > train.jsonl
      roster train moe pocket train.jsonl --recipe gshard-top2 \\
        --steps 2 --out sparse-trained
      roster train moe sparse-trained train.jsonl --steps 2 --out sparse-on
    """
    options = parse_options(option or [])
    if recipe is None and (options or layer or task):
        raise RosterError("--option, --layer and --task say how a dense model's blocks are replaced: name --recipe too")
    from roster.processes import is_first
    from roster.recipes import find
    from roster.train import Blocks, Settings, train_moe

    if recipe is not None:
        find(recipe)(options)  # before anything slow
    blocks = None if recipe is None else Blocks(recipe, options, layer or None, start, tuple(task or ()))
    quiet()
    try:
        record = train_moe(
            source,
            data,
            out,
            blocks=blocks,
            settings=Settings(steps, batch_size, learning_rate, seed, save_every),
            length=length,
            template=template is not False,
            how=spread,
            **dtype_argument(dtype),
        )
    except KeyboardInterrupt:
        complain(f"{out} was not written; run the same command again to go on from the last checkpoint", code=130)
    if not is_first():
        return
    losses = record["losses"]
    typer.echo(
        f"{steps} steps on {record['lessons']} rows in {record['seconds']} s, loss {losses[max(losses)]}", err=True
    )
    typer.echo(f"wrote {out}")


@app.command("mixture")
def mixture(
    source: Annotated[str, typer.Argument(help="A mixture of transformers: a folder or a hub name.")],
    data: Annotated[
        Path, typer.Argument(help="JSONL with prompt (or messages) and answer, or with text; or one text file.")
    ],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    part: Annotated[
        Literal["router", "lora", "all"], typer.Option(help="What is trained; a LoRA is merged afterwards.")
    ] = "router",
    rank: Annotated[int, typer.Option(min=1, help="Of the LoRA.")] = 8,
    sharpen: Annotated[
        bool, typer.Option("--sharpen", help="Multiply routers that were made flat (cmoe, factorllm) by 2^13 first.")
    ] = False,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows per step.")] = 8,
    learning_rate: Annotated[
        float | None, typer.Option(help="Peak learning rate; by default 1e-3, or 1e-4 where all is trained.")
    ] = None,
    length: Annotated[int, typer.Option(min=2, help="Tokens of a piece of text.")] = 512,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 100,
    seed: Annotated[int, typer.Option(min=0, help="Of everything random.")] = 0,
    template: TemplateOption = None,
) -> None:
    """Train what `roster convert` or `roster compress` wrote, for a short while; a plain mixture comes out again.

    A training that is interrupted goes on from its last checkpoint when the same command is run again.

    \b
    Examples:
      roster convert pocket --to upcycling --option copies=4 --out my-copies
      roster pocket data --split train --count 4 > train.jsonl
      roster train mixture my-copies train.jsonl --steps 2 --out my-trained
    """
    from roster.train import Settings
    from roster.train.mixture import train_mixture

    quiet()
    rate = learning_rate or (1e-4 if part == "all" else 1e-3)
    try:
        record = train_mixture(
            source,
            data,
            out,
            part=part,
            settings=Settings(steps, batch_size, rate, seed, save_every),
            rank=rank,
            sharpen=sharpen,
            length=length,
            template=template is not False,
        )
    except KeyboardInterrupt:
        complain(f"{out} was not written; run the same command again to go on from the last checkpoint", code=130)
    losses = record["losses"]
    typer.echo(
        f"{steps} steps on {record['lessons']} rows in {record['seconds']} s, {record['trained']:,} parameters, loss "
        f"{losses[max(losses)]}",
        err=True,
    )
    typer.echo(f"wrote {out}")
