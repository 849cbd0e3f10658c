"""`roster trace` and `roster offload`: mixtures larger than memory, and what a cache of experts would do for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from roster.cli.common import DtypeOption, console, dtype_argument, quiet, table
from roster.errors import RosterError
from roster.options import parse_options

if TYPE_CHECKING:
    from roster.offload import Routes

app = typer.Typer(no_args_is_help=True, help="Mixtures larger than the memory: run them, and simulate their caches.")

_PASSES = 40
"""Lines of progress of a recording, at most."""
Model = Annotated[str, typer.Argument(help="A mixture of transformers: a folder, or a name on the Hugging Face hub.")]
Memory = Annotated[
    str | None, typer.Option("--max-memory", help="Of all weights, for example 8GiB; experts beyond it stay on disk.")
]
Policy = Annotated[str, typer.Option(help="lru, lfu, arc, fifo, or a method: `roster methods --kind offload`.")]
Options = Annotated[list[str] | None, typer.Option("--option", help="An option of the policy, name=value; repeatable.")]
RoutesOption = Annotated[
    Path | None, typer.Option("--routes", help="What `roster trace` recorded of this model, for policies that learn.")
]


def trace(
    model: Model,
    texts: Annotated[Path, typer.Argument(help="JSONL: lines with text, or with prompt and, if you like, answer.")],
    out: Annotated[Path, typer.Option(help="The file of routes to write.")],
    tokens: Annotated[int, typer.Option(min=2, help="Of a text, at most.")] = 512,
    prompt: Annotated[int, typer.Option(min=1, help="How many of them come in one call when they are replayed.")] = 32,
    max_memory: Memory = None,
    dtype: DtypeOption = None,
) -> None:
    """Record which experts each token of some texts visits, for `roster offload simulate` and `roster place`.

    \b
    Examples:
      roster moe replace pocket --recipe gshard-top2 --out sparse
      roster moe export sparse --out mixtral
      roster pocket data --split test --count 8 > texts.jsonl
      roster trace mixtral texts.jsonl --prompt 8 --out routes
    """
    from roster.offload import load, recording

    rows = _texts(texts)
    quiet()
    import torch

    from roster.routed.base import load_base, load_tokenizer

    tokenizer = load_tokenizer(model)
    if tokenizer is None:
        raise RosterError(f"there is no tokenizer in {model!r}, to read the texts with")
    given: dict[str, Any] = {**dtype_argument(dtype)}
    opened = load_base(model, **given)[0] if max_memory is None else load(model, max_memory, **given)
    said = max(1, len(rows) // _PASSES)
    with recording(opened, prompt) as recorder, torch.inference_mode():
        for number, text in enumerate(rows, 1):
            ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=tokens)["input_ids"]
            if ids.shape[1]:
                opened(ids)
            if number % said == 0 or number == len(rows):
                typer.echo(f"recorded {number} of {len(rows)} texts", err=True)
    routes = recorder.routes()
    routes.write(out)
    typer.echo(
        f"wrote {out}: {routes.decisions:,} decisions for {len(routes.ids_N):,} tokens of {routes.sequences} texts, "
        f"{len(routes.geometry.experts)} layers"
    )


@app.command()
def run(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="A text to go on from.")],
    max_memory: Annotated[str, typer.Option(help="Of all weights, for example 8GiB.")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens to write.")] = 32,
    policy: Policy = "fate-offload",
    option: Options = None,
    routes: RoutesOption = None,
    dtype: DtypeOption = None,
    int8: Annotated[
        bool, typer.Option("--int8", help="Hold experts as 8-bit numbers: more of them fit; answers are approximate.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Let a mixture that is larger than the memory write, and show what its cache of experts did.

    \b
    Examples:
      roster moe replace pocket --recipe gshard-top2 --out sparse
      roster moe export sparse --out mixtral
      roster offload run mixtral "reverse: abcd =" --max-memory 12MB
      roster offload run mixtral "sort: dbca =" --max-memory 12MB --json
      roster offload run mixtral "sort: dbca =" --max-memory 9MB --int8
    """
    quiet()
    import torch

    from roster.offload import load, read_routes
    from roster.routed.base import load_tokenizer

    tokenizer = load_tokenizer(model)
    if tokenizer is None:
        raise RosterError(f"there is no tokenizer in {model!r}, to read the prompt with")
    known = None if routes is None else read_routes(routes)
    given: dict[str, Any] = {
        "policy": policy,
        "options": parse_options(option or []),
        "routes": known,
        "int8": int8,
        **dtype_argument(dtype),
    }
    opened = load(model, max_memory, **given)
    inputs = tokenizer(prompt, return_tensors="pt")
    ids = inputs["input_ids"]
    with torch.inference_mode():
        answer = opened.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_new_tokens, do_sample=False
        )
    opened.offload.settle()
    statistics = opened.offload.statistics
    text = tokenizer.decode(answer[0, ids.shape[1] :], skip_special_tokens=True)
    opened.offload.close()
    if as_json:
        slots = opened.offload.run.residency.shares.total
        typer.echo(json.dumps({"answer": text, "slots": slots, **statistics.to_json()}, indent=1))
        return
    typer.echo(text)
    typer.echo(statistics.text(), err=True)


@app.command()
def simulate(
    routes: Annotated[Path, typer.Argument(help="What `roster trace` wrote.")],
    slots: Annotated[str, typer.Option(help="Experts that fit: a number, or a share of all as 50%.")] = "50%",
    policy: Annotated[
        list[str] | None, typer.Option(help="lru, lfu, arc, fifo or a method; repeatable. Default: all.")
    ] = None,
    held_out: Annotated[float, typer.Option(help="Share of the texts to replay; the others are learned from.")] = 0.4,
    seed: Annotated[int, typer.Option(min=0, help="Of the split.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Replay recorded routes through caches of experts: hits, misses and what would have been read; no weights.

    belady knows the future: the best that a rule without reading ahead can do.

    \b
    Examples:
      roster moe replace pocket --recipe gshard-top2 --out sparse
      roster moe export sparse --out mixtral
      roster pocket data --split test --count 8 > texts.jsonl
      roster trace mixtral texts.jsonl --prompt 8 --out routes
      roster offload simulate routes
      roster offload simulate routes --slots 25% --policy lru --policy arc
    """
    from roster.offload import read_routes
    from roster.offload.loading import find_strategy
    from roster.offload.simulator import BOUND, bound
    from roster.offload.simulator import simulate as replay
    from roster.offload.strategy import PLAIN
    from roster.recipes import RECIPES

    if not 0 < held_out < 1:
        raise RosterError(f"--held-out must lie between 0 and 1, not at {held_out}")
    recorded = read_routes(routes)
    count = _slots(slots, recorded)
    names = policy or [*PLAIN, *(slug for slug, recipe in RECIPES.items() if recipe.kind == "offload")]
    strategies = {name: find_strategy(name) for name in names}
    if recorded.sequences < 2:
        raise RosterError(
            f"{str(routes)!r} holds one text only: record at least two, to learn from one and replay another"
        )
    learned, replayed = recorded.split(held_out, seed)
    found = {}
    for name, strategy in strategies.items():
        typer.echo(f"replaying {replayed.decisions:,} decisions: {name}", err=True)
        found[name] = replay(replayed, strategy, count, learned)
    found[BOUND] = bound(replayed, count)
    if as_json:
        typer.echo(
            json.dumps({"slots": count, "policies": {name: each.to_json() for name, each in found.items()}}, indent=1)
        )
        return
    made = table(
        "policy", "hit rate", "misses", "read ahead", "of use", right=("hit rate", "misses", "read ahead", "of use")
    )
    for name, each in found.items():
        total = each.total
        ahead = f"{total.ahead:,}" if total.ahead else "–"
        made.add_row(
            name, f"{total.hit_rate:.1%}", f"{total.misses:,}", ahead, f"{total.precision:.0%}" if total.ahead else "–"
        )
    console().print(made)
    everything = recorded.geometry.total
    typer.echo(f"{count} of {everything} experts fit; {replayed.sequences} texts, {replayed.decisions:,} decisions")


def _slots(asked: str, routes: Routes) -> int:
    share = asked.removesuffix("%")
    try:
        number = float(share)
    except ValueError:
        number = -1.0
    count = int(routes.geometry.total * number / 100) if asked.endswith("%") else int(number)
    if not 1 <= count <= routes.geometry.total:
        raise RosterError(
            f"--slots {asked!r} must be a number from 1 to {routes.geometry.total}, or a share of all such as 50%"
        )
    return count


def _texts(path: Path) -> list[str]:
    found: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row: Any = json.loads(line)
        except ValueError:
            row = None
        text = row.get("text", row.get("prompt")) if isinstance(row, dict) else None
        if not isinstance(text, str):
            raise RosterError(f"{str(path)!r}, line {number}: it should be an object with a text, or with a prompt")
        answer = row.get("answer") if "text" not in row else None
        found.append(text + answer if isinstance(answer, str) else text)
    if not found:
        raise RosterError(f"{str(path)!r} holds no texts")
    return found
