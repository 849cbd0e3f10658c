"""What routing costs beside the experts: every recipe with a linear score, at 8,192 tokens and 64 experts.

    python benchmarks/routers.py                   # every recipe, a quarter of an hour
    python benchmarks/routers.py --recipes top-p

SwiGLU experts at model width 512, whatever the recipe would make of them, random weights, float32, one thread, sorted
blocks, the recipe's own options else; the tokens are 16 rows of 512. A recipe that reads the attention weights of the
layer before is given random ones; experts that are copied from one in the course of a training have been.

What the layer takes beside its experts (scores, selection, losses, sorting, gathering, weighted sums) is the difference
between the whole layer and its experts alone, on the rows of the same route, which are already grouped. It does not
depend on the experts' width, but would drown in the noise of wide experts' matmuls; so it is taken at width 128, as the
median of the differences between neighbours in time. "share" is its part of a layer with experts of width 1024, which
run alone for that. Forward runs in evaluation mode; forward + backward in training mode, with balance losses. Seconds
are the thread's own.

Results go to benchmarks/results/routers.json with versions, machine and load.
"""

from __future__ import annotations

import argparse
import inspect
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from moe import HIDDEN, WIDTH, Contender, about
from roster import dispatch
from roster.context import Context
from roster.experts import SwiGLU
from roster.moe.layer import MoE
from roster.moe.layout import Place
from roster.recipes import RECIPES, Recipe
from roster.score import Linear
from roster.select.allotted import ATTENTION
from roster.train.schedule import advance

RESULTS = Path(__file__).parent / "results" / "routers.json"
EXPERTS, ROWS, LENGTH = 64, 16, 512
TOKENS = ROWS * LENGTH
NARROW = 128
TARGET = 0.05  # of the layer


def mixture(recipe: Recipe, hidden: int) -> MoE | None:
    """The mixture inside a recipe's block; None if none there has a linear score and as many experts as it is told."""
    if recipe.kind != "moe" or "num_experts" not in inspect.signature(recipe.compose).parameters:
        return None
    torch.manual_seed(0)

    def make_experts(num_experts: int, _: int) -> SwiGLU:
        return SwiGLU(num_experts, WIDTH, hidden)

    divisible = 3 * HIDDEN  # by what any recipe shares it among
    place = Place("mlp", 1, 2, WIDTH, divisible, make_experts, vocab_size=100, tasks=("a", "b"), recipe=recipe.slug)
    block = recipe.compose(num_experts=EXPERTS).block(place)
    found = [each for each in block.modules() if isinstance(each, MoE) and type(each.router.score) is Linear]
    if not found:
        return None
    advance(found[0].experts, 1.0)
    return found[0]


def row(narrow: MoE, wide: MoE, rounds: int) -> dict[str, dict]:
    """Seconds beside the experts and in experts of full width, forward and forward + backward."""
    x_BSD = torch.randn(ROWS, LENGTH, WIDTH, requires_grad=True)
    weight_BHSL = torch.randn(ROWS, 1, LENGTH, LENGTH)
    weight_BHSL = weight_BHSL.masked_fill(torch.ones(LENGTH, LENGTH).triu(1).bool(), -torch.inf).softmax(3)

    def context() -> Context:
        made = Context.of(x_BSD)
        made.memory[ATTENTION] = weight_BHSL
        return made

    works = {}
    for work, training in (("forward", False), ("forward + backward", True)):
        narrow.train(training), wide.train(training)
        with torch.no_grad():
            x_TD = x_BSD.flatten(0, 1)
            route = narrow.router(x_TD, context())
            served = int(route.counts_E.sum())
            rows_RD = route.dispatch(x_TD)[:served].clone().requires_grad_()
        layer = Contender(partial(whole, narrow, x_BSD, context), [x_BSD, *narrow.parameters()])
        experts, full = (
            Contender(partial(each.experts, rows_RD, route.counts_E), [rows_RD, *each.experts.parameters()])
            for each in (narrow, wide)
        )
        layer_s, experts_s = seconds([layer, experts], training, rounds)
        beside_s = sorted(a - b for a, b in zip(layer_s, experts_s, strict=True))
        beside = [beside_s[rounds // 4], statistics.median(beside_s), beside_s[-1 - rounds // 4]]
        full_s = statistics.median(seconds([full], training, max(3, rounds // 5))[0])
        works[work] = {
            "served": served / TOKENS,
            "beside": beside,
            "experts": full_s,
            "share": [each / (each + full_s) for each in beside],
        }
    return works


def seconds(contenders: list[Contender], training: bool, rounds: int) -> list[list[float]]:
    """The thread's seconds of each contender in each round; two rounds before those warm up."""
    taken: list[list[float]] = [[] for _ in contenders]
    for turn in range(-2, rounds):
        for contender, into in zip(contenders, taken, strict=True):
            start = time.thread_time()
            contender.train() if training else contender.infer()
            if turn >= 0:
                into.append(time.thread_time() - start)
    return taken


def whole(moe: MoE, x_BSD: Tensor, make_context: Callable[[], Context]) -> list[Tensor]:
    """What the layer gives, and its losses."""
    context = make_context()
    return [moe(x_BSD, context), *context.losses.values()]


def show(rows: dict[str, dict]) -> None:
    """One line a recipe."""
    table = Table(title=f"share of the layer's time beside its experts \\[quartiles]; at most {TARGET:.0%} wanted")
    for column in ("recipe", "experts per token", "forward", "forward + backward"):
        table.add_column(column, justify="left" if column == "recipe" else "right")
    for slug, works in rows.items():
        shares = ["{1:.1%} [{0:.1%}, {2:.1%}]".format(*each["share"]) for each in works.values()]
        table.add_row(slug, f"{works['forward']['served']:.2f}", *(escape(each) for each in shares))
    Console(width=120).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", default="", help="only recipes whose name contains this")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--no-write", action="store_true", help="do not update the results file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": {}}
    for slug, recipe in RECIPES.items():
        narrow, wide = (mixture(recipe, hidden) if arguments.recipes in slug else None for hidden in (NARROW, HIDDEN))
        if narrow is None or wide is None:
            continue
        with dispatch.use("blocks"):
            stored["rows"][slug] = row(narrow, wide, arguments.rounds)
        show({slug: stored["rows"][slug]})
        if not arguments.no_write:
            RESULTS.write_text(json.dumps(stored | {"about": about()}, indent=1) + "\n")
    show(stored["rows"])


if __name__ == "__main__":
    main()
