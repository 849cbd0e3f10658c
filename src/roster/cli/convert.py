"""`roster convert`: dense checkpoints into a mixture of experts."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from roster.cli.common import console, quiet
from roster.cli.writing import Asking, EvalOption, Progress, place
from roster.errors import RosterError
from roster.options import parse_options


def convert(
    models: Annotated[list[str], typer.Argument(help="Dense models: folders, hub names, or pocket.")],
    to: Annotated[str, typer.Option(help="The conversion, see above.")],
    out: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    data: Annotated[
        list[Path] | None, typer.Option(help="JSONL to calibrate on; without it, Python's documentation.")
    ] = None,
    rows: Annotated[int, typer.Option(help="Calibration rows of a file at most.")] = 64,
    length: Annotated[int, typer.Option(help="Tokens of a row at most.")] = 512,
    option: Annotated[list[str] | None, typer.Option(help="name=value, for the conversion; repeatable.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Of one output file.")] = "5GB",
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder by the new one.")] = False,
    prove: Annotated[bool, typer.Option(help="Afterwards load old and new, whole, and compare answers.")] = True,
    evaluation: EvalOption = None,
) -> None:
    """Make a mixture of experts of dense models, streamed from disk to disk; a killed run goes on when started again.

    - upcycling: every expert a copy of the block (copies=8, groups=2 on duty);
    - nemotron-upcycling: copies of the block's shards (shards=2, copies=4, groups=2 on duty), the same function before
      it is trained;
    - btx: each model an expert (top_k=2), the rest averaged;
    - mergeme: a base and models of it; blocks are experts, the rest merged by TIES or DARE (shared=ties);
    - mergekit-moe: a YAML file as mergekit-moe reads it, gates by prompts;
    - cmoe: a block carved into shared and routed experts by what fires together (experts=16, shared=2, active=2);
    - factorllm: a block cut into slices, and a router taught by the block (experts=4, top_k=2);
    - ladimo: a block distilled into smaller experts (experts=4, slices=2, top_k=2, steps=200);
    - read-me: the units that each domain uses most, one --data a domain (share=0.5);
    - nexus: a seed and models of domains, rows of the router from descriptions, one --data a domain;
    - upit: a base and checkpoints of its tuning, more experts bred of them (experts=8).

    \b
    Examples:
      roster convert pocket --to upcycling --option copies=4 --plan
      roster convert pocket --to nemotron-upcycling --option shards=2 --out my-moe
      roster convert pocket --to cmoe --rows 2 --option active=6 --out carved
      roster pocket data --split test --count 2 > test.jsonl
      roster convert pocket --to upcycling --eval test.jsonl --out copied
    """
    from roster.convert.methods import Asked, plan_convert
    from roster.weights import parse_size, run
    from roster.weights.afterwards import Afterwards

    if out is None and not plan:
        raise RosterError("give --out FOLDER, or --plan to see what would be done")
    if out is not None and out.exists() and not overwrite and not plan:
        raise RosterError(f"{str(out)!r} is there already; choose another folder, or give --overwrite")
    asking = Asking(evaluation, plan)
    quiet()
    folders = [place(each) for each in models]
    scratch = None if out is None else out.with_name(f".{out.name}.trained")
    asked = Asked(to, folders, data or (), rows, length, _told, scratch)
    made = plan_convert(asked, parse_options(option or []), parse_size(max_shard_size))
    if plan or out is None:
        typer.echo(made.text())
        return
    typer.echo(made.text(every=False))
    run(made, out, overwrite=overwrite, progress=Progress("converting", made.bytes_to_write))
    if scratch is not None:
        shutil.rmtree(scratch, ignore_errors=True)
    typer.echo(f"wrote {out}")
    proof = {}
    if prove and Path(folders[0]).is_dir():
        from roster import convert as room

        found = room.prove(folders[0], out)
        proof = {**vars(found), "exact": found.exact, "text": found.text()}
        typer.echo(f"against {folders[0]}: {found.text()}")
    dense = {each: each for each in folders if Path(each).is_dir()}
    quality = asking.answered(dense, out) if asking else {}
    shown = Afterwards("convert", made.title, tuple(folders), {"new": made.bytes_to_write}, proof, quality)
    typer.echo(f"report: {shown.write(out)}")


def _told(done: int, count: int) -> None:
    console(stderr=True).print(f"calibrated layer {done} of {count}", highlight=False)
