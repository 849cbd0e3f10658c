"""`roster convert`: dense checkpoints into a mixture of experts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli.common import quiet
from roster.cli.writing import Progress, place
from roster.errors import RosterError, nearest
from roster.options import parse_options

if TYPE_CHECKING:
    from roster.weights import Plan


def convert(
    models: Annotated[list[str], typer.Argument(help="Dense models: folders, hub names, or pocket.")],
    to: Annotated[str, typer.Option(help="upcycling, nemotron-upcycling or btx.")],
    out: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="name=value, for the method; repeatable.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Of one output file.")] = "5GB",
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder by the new one.")] = False,
    prove: Annotated[bool, typer.Option(help="Afterwards load old and new, whole, and compare answers.")] = True,
) -> None:
    """Make a mixture of experts of dense models, streamed from disk to disk; a killed run goes on when started again.

    - upcycling: every expert a copy of the block (copies=8, groups=2 on duty);
    - nemotron-upcycling: copies of the block's shards (shards=2, copies=4, groups=2 on duty), the same function before
      it is trained;
    - btx: each model an expert (top_k=2), the rest averaged.

    \b
    Examples:
      roster convert pocket --to upcycling --option copies=4 --plan
      roster convert pocket --to nemotron-upcycling --option shards=2 --out my-moe
    """
    from roster.weights import parse_size, run

    if to not in _METHODS:
        raise RosterError(f"unknown method {to!r}: {nearest(to, _METHODS)}")
    folders = [place(each) for each in models]
    made = _METHODS[to](folders, {**parse_options(option or []), "max_shard": parse_size(max_shard_size)})
    if plan:
        typer.echo(made.text())
        return
    if out is None:
        raise RosterError("give --out FOLDER, or --plan to see what would be done")
    typer.echo(made.text(every=False))
    run(made, out, overwrite=overwrite, progress=Progress("converting", made.bytes_to_write))
    typer.echo(f"wrote {out}")
    if prove:
        quiet()
        from roster import convert as room

        typer.echo(f"against {folders[0]}: {room.prove(folders[0], out).text()}")


def _upcycling(models: list[str], options: dict[str, Any], **defaults: Any) -> Plan:
    from roster.convert.dense import open_dense
    from roster.convert.upcycling import plan_upcycling

    if len(models) != 1:
        raise RosterError(f"upcycling is made of one model, not of {len(models)}; btx takes several")
    _check(options, "copies", "groups", "std", "seed", *defaults)
    return plan_upcycling(open_dense(models[0]), **{**defaults, **options})


def _granular(models: list[str], options: dict[str, Any]) -> Plan:
    return _upcycling(models, options, shards=2, **({} if "copies" in options else {"copies": 4}))


def _btx(models: list[str], options: dict[str, Any]) -> Plan:
    from roster.convert.btx import plan_btx
    from roster.convert.dense import open_dense

    _check(options, "top_k", "std", "seed")
    return plan_btx([open_dense(each) for each in models], **options)


def _check(options: dict[str, Any], *known: str) -> None:
    for name, value in options.items():
        if name not in (*known, "max_shard"):
            raise RosterError(f"unknown option {name!r}: {nearest(name, known)}")
        if name == "std":
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
                raise RosterError(f"std={value!r} must be a number from 0 on")
        elif isinstance(value, bool) or not isinstance(value, int):
            raise RosterError(f"{name}={value!r} must be a whole number")


_METHODS: dict[str, Callable[[list[str], dict[str, Any]], Plan]] = {
    "upcycling": _upcycling,
    "nemotron-upcycling": _granular,
    "btx": _btx,
}
