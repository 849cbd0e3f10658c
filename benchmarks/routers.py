"""What routing costs beside the experts: every recipe with a linear score, at 8,192 tokens and 64 experts.

    python benchmarks/routers.py                   # every recipe, a quarter of an hour
    python benchmarks/routers.py --recipes top-p

SwiGLU experts of width 1024 at model width 512, whatever the recipe would make of them, random weights, float32, one
thread, the recipe's own options else; the tokens are 16 rows of 512, and a recipe that reads the attention weights of
the layer before is given random ones. Two contenders run in turn: the whole layer (scores, selection, losses, sorting,
gathering, experts, weighted sums) and its experts alone, on the rows of the same route, which are already grouped.
"share" is the part of the layer's time that its experts alone do not take. Forward runs in evaluation mode;
forward + backward in training mode, with balance losses. Medians of the thread's own seconds over the rounds.

Results go to benchmarks/results/routers.json with versions, machine and load.
"""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from moe import HIDDEN, WIDTH, Contender, about, race
from roster.context import Context
from roster.experts import SwiGLU
from roster.moe.layer import MoE
from roster.moe.layout import Place
from roster.recipes import RECIPES, Recipe
from roster.score import Linear
from roster.select.allotted import ATTENTION

RESULTS = Path(__file__).parent / "results" / "routers.json"
EXPERTS, ROWS, LENGTH = 64, 16, 512
TOKENS = ROWS * LENGTH
TARGET = 0.05  # of the layer


def mixture(recipe: Recipe) -> MoE | None:
    """The mixture inside a recipe's block; None if none there has a linear score and as many experts as it is told."""
    if recipe.kind != "moe" or "num_experts" not in inspect.signature(recipe.compose).parameters:
        return None
    torch.manual_seed(0)

    def make_experts(num_experts: int, _: int) -> SwiGLU:
        return SwiGLU(num_experts, WIDTH, HIDDEN)

    hidden = 3 * HIDDEN  # divides by what any recipe shares it among
    place = Place("mlp", 1, 2, WIDTH, hidden, make_experts, vocab_size=100, tasks=("a", "b"), recipe=recipe.slug)
    block = recipe.compose(num_experts=EXPERTS).block(place)
    found = [each for each in block.modules() if isinstance(each, MoE) and type(each.router.score) is Linear]
    return found[0] if found else None


def row(moe: MoE, rounds: int) -> dict[str, dict]:
    """Seconds of the layer and of its experts alone, forward and forward + backward."""
    x_BSD = torch.randn(ROWS, LENGTH, WIDTH, requires_grad=True)
    weight_BHSL = torch.randn(ROWS, 1, LENGTH, LENGTH)
    weight_BHSL = weight_BHSL.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf).softmax(3)

    def context() -> Context:
        made = Context.of(x_BSD)
        made.memory[ATTENTION] = weight_BHSL
        return made

    works = {}
    for work, training in (("forward", False), ("forward + backward", True)):
        moe.train(training)
        with torch.no_grad():
            x_TD = x_BSD.flatten(0, 1)
            route = moe.router(x_TD, context())
            served = int(route.counts_E.sum())
            rows_RD = route.dispatch(x_TD)[:served].clone().requires_grad_()
        layer = Contender(partial(whole, moe, x_BSD, context), [x_BSD, *moe.parameters()])
        experts = Contender(partial(moe.experts, rows_RD, route.counts_E), [rows_RD, *moe.experts.parameters()])
        works[work] = race(
            {name: each.train if training else each.infer for name, each in (("experts", experts), ("layer", layer))},
            rounds,
        )
        works[work]["share"] = 1 - works[work]["experts"]["median"] / works[work]["layer"]["median"]
        works[work]["served"] = served / TOKENS
    return works


def whole(moe: MoE, x_BSD: Tensor, make_context: Callable[[], Context]) -> list[Tensor]:
    """What the layer gives, and its losses."""
    context = make_context()
    return [moe(x_BSD, context), *context.losses.values()]


def show(rows: dict[str, dict]) -> None:
    """One line a recipe."""
    table = Table(title=f"share of the layer's time outside its experts; at most {TARGET:.0%} wanted")
    for column in ("recipe", "experts per token", "forward", "forward + backward"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for slug, works in rows.items():
        shares = [f"{each['share']:.1%} of {each['layer']['median']:.2f} s" for each in works.values()]
        table.add_row(slug, f"{works['forward']['served']:.2f}", *shares)
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="", help="only recipes whose name contains this")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-write", action="store_true", help="do not update the results file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    for slug, recipe in RECIPES.items():
        moe = mixture(recipe) if arguments.recipes in slug else None
        if moe is None:
            continue
        stored["rows"][slug] = row(moe, arguments.rounds)
        show({slug: stored["rows"][slug]})
        if not arguments.no_write:
            RESULTS.write_text(json.dumps(stored | {"about": about()}, indent=1) + "\n")
    show(stored["rows"])


if __name__ == "__main__":
    main()
