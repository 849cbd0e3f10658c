"""`roster merge`: several checkpoints into one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli.writing import Progress, place
from roster.errors import RosterError
from roster.options import parse_options

if TYPE_CHECKING:
    from roster.merge import MergeConfig


def merge(
    config: Annotated[Path | None, typer.Argument(help="mergekit's YAML. Or give --method.")] = None,
    out: Annotated[Path | None, typer.Option(help="The folder to write.")] = None,
    method: Annotated[str | None, typer.Option(help="A method, instead of a YAML file.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model; once for each.")] = None,
    base: Annotated[str | None, typer.Option(help="The model that the others were made of.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="name=value; per model: 'weight=[0.3, 0.7]'.")] = None,
    dtype: Annotated[str | None, typer.Option(help="The type of the result.")] = None,
    max_shard_size: Annotated[str, typer.Option(help="Of one output file.")] = "5GB",
    plan: Annotated[bool, typer.Option("--plan", help="Print what would be done, and stop.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the folder by the new one.")] = False,
) -> None:
    """Merge models that share an architecture, streamed from disk to disk.

    A killed run goes on when it is started again. `roster merge --plan` shows the methods' operands without reading a
    weight.

    \b
    Examples:
      roster merge --method linear --model pocket --option weight=1 --plan
      roster merge --method linear --model pocket --option weight=1 --out my-merge
    """
    from roster.merge import plan_merge, read_config
    from roster.weights import parse_size, run

    if (config is None) == (method is None):
        raise RosterError("give a YAML file, or --method with --model; not both")
    if config is not None and (model or base or option or dtype):
        raise RosterError("--model, --base, --option and --dtype go with --method; with a YAML file they stand in it")
    asked = read_config(config) if config is not None else _config(method or "", model or [], base, option or [], dtype)
    made = plan_merge(asked, parse_size(max_shard_size))
    if plan:
        typer.echo(made.text())
        return
    if out is None:
        raise RosterError("give --out FOLDER, or --plan to see what would be done")
    typer.echo(made.text(every=False))
    run(made, out, overwrite=overwrite, progress=Progress("merging", made.bytes_to_write))
    typer.echo(f"wrote {out}")


def _config(method: str, models: list[str], base: str | None, options: list[str], dtype: str | None) -> MergeConfig:
    from roster.merge.config import Member, MergeConfig, Slice, parse_dtype
    from roster.merge.methods import find_method

    settings = find_method(method).settings
    members = [Member(place(each)) for each in models]
    shared: dict[str, Any] = {}
    for name, value in parse_options(options).items():
        if name in settings and settings[name].per_model and isinstance(value, list):
            if len(value) != len(members):
                raise RosterError(f"--option {name} has {len(value)} values for {len(members)} models")
            members = [
                Member(each.model, None, {**each.parameters, name: one})
                for each, one in zip(members, value, strict=True)
            ]
        else:
            shared[name] = value
    if not members:
        raise RosterError("give the models to merge: --model A --model B")
    found = None if base is None else place(base)
    return MergeConfig(method, (Slice(tuple(members)),), found, shared, parse_dtype(dtype))
