"""`roster place`: experts onto devices, from recorded routes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from roster.cli.common import console, table
from roster.cli.writing import Progress
from roster.errors import RosterError, nearest
from roster.options import parse_options

_SIMPLE = ("contiguous", "random", "greedy")
_METHODS = ("exflow", "moetuner", *_SIMPLE)


def place(
    routes: Annotated[Path, typer.Argument(help="What `roster trace` wrote.")],
    devices: Annotated[int, typer.Option(min=1, help="How many.")],
    nodes: Annotated[int, typer.Option(min=1, help="That hold the devices, equally many each.")] = 1,
    method: Annotated[
        str, typer.Option(help="The one to write: exflow, moetuner, greedy, contiguous, random.")
    ] = "exflow",
    option: Annotated[list[str] | None, typer.Option(help="name=value, for the method; repeatable.")] = None,
    spare: Annotated[int, typer.Option(min=0, help="Slots more on each device, for copies of hot experts.")] = 0,
    held_out: Annotated[float, typer.Option(help="Share of the texts that placements are judged on.")] = 0.4,
    within: Annotated[float, typer.Option(help="GB/s between two devices of a node.")] = 300.0,
    between: Annotated[float, typer.Option(help="GB/s between two devices of different nodes.")] = 25.0,
    state: Annotated[int, typer.Option(min=1, help="Bytes of a token's hidden state.")] = 8192,
    out: Annotated[Path | None, typer.Option(help="Write OUT, OUT.map.json and OUT.npy.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="The model, to write with its experts in that order.")] = None,
    permuted: Annotated[Path | None, typer.Option(help="The folder for it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Place a mixture's experts on devices, and judge every method on texts that it did not learn from.

    Every device holds as many experts of each layer. OUT.map.json is what SGLang's --init-expert-location takes,
    OUT.npy the same table; a permuted checkpoint needs no map: engines with contiguous expert parallelism place it so.

    \b
    Examples:
      roster moe replace pocket --recipe gshard-top2 --out sparse
      roster moe export sparse --out mixtral
      roster pocket data --split test --count 8 > texts.jsonl
      roster trace mixtral texts.jsonl --prompt 8 --out routes
      roster place routes --devices 4 --nodes 2 --option seconds=1 --out placed
      roster place routes --devices 4 --method moetuner --spare 1 --json
      roster place routes --devices 2 --method greedy --checkpoint mixtral \\
        --permuted moved
    """
    from roster.offload import read_routes
    from roster.place.cost import cost_of
    from roster.place.machine import Machine
    from roster.place.permuting import plan_permuted
    from roster.place.replicas import replicate
    from roster.place.traffic import traffic_of
    from roster.weights import run

    if (checkpoint is None) != (permuted is None):
        raise RosterError("--checkpoint and --permuted go together: the model, and the folder for the new one")
    if not 0 < held_out < 1:
        raise RosterError(f"--held-out must lie between 0 and 1, not at {held_out}")
    ways = _ways(method, parse_options(option or []))
    recorded = read_routes(routes)
    machine = Machine(devices, nodes, within * 1e9, between * 1e9)
    if recorded.sequences < 2:
        raise RosterError(
            f"{str(routes)!r} holds one text only: record at least two, to learn from one and judge by another"
        )
    learned, judged = (traffic_of(each) for each in recorded.split(held_out))
    machine.check_experts(learned.experts)
    found, rows = {}, {}
    for name, way in ways.items():
        typer.echo(f"placing {learned.layers} x {learned.experts} experts: {name}", err=True)
        found[name] = way(learned, machine)
        rows[name] = cost_of(found[name].placement, judged, state)
    placement = found[method].placement
    if spare:
        placement = replicate(placement, learned, spare)
        rows[f"{method} + {spare} spare"] = cost_of(placement, judged, state)
    gap = found[method].gap
    about = {"method": method, "objective": found[method].objective, "gap": gap, "seconds": found[method].seconds}
    if as_json:
        costs = {name: cost.to_json() for name, cost in rows.items()}
        typer.echo(json.dumps({**about, "held_out": costs}, indent=1))
    else:
        _show(rows)
        proven = "no bound" if gap is None else f"at most {gap:.1%} from the best"
        typer.echo(f"{method}: {found[method].seconds:.1f} s, objective {found[method].objective:.4g}, {proven}")
    if out is not None:
        written = placement.write(out, {**about, "model": recorded.model})
        typer.echo(f"wrote {', '.join(map(str, written))}", err=as_json)
    if checkpoint is not None and permuted is not None:
        plan = plan_permuted(checkpoint, placement, recorded.model)
        run(plan, permuted, progress=Progress("writing", plan.bytes_to_write))
        typer.echo(f"wrote {permuted}", err=as_json)


def _ways(method: str, options: dict[str, Any]) -> dict[str, Callable[..., Any]]:
    """The method asked for, with its options, beside the simple ones."""
    from roster.place import simple
    from roster.recipes import RECIPES

    if method not in _METHODS:
        raise RosterError(f"unknown method {method!r}: {nearest(method, _METHODS)}")
    plain: dict[str, Callable[..., Any]] = {name: getattr(simple, name) for name in _SIMPLE}
    if method in _SIMPLE:
        if options:
            raise RosterError(f"--method {method} has no options")
        return plain
    return {method: RECIPES[method](options), **plain}


def _show(rows: dict[str, Any]) -> None:
    columns = ("changes of device", "of node", "busiest device", "exchanges, us")
    made = table("placement", *columns, right=columns)
    for name, cost in rows.items():
        figures = (f"{cost.crossings:.1%}", f"{cost.node_crossings:.1%}", f"{cost.busiest:.2f} x mean")
        made.add_row(name, *figures, f"{cost.exchange * 1e6:,.1f}")
    console().print(made)
