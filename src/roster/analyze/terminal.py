"""A trace as a table in the terminal: share of each expert in each layer, and the route entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from roster.analyze.statistics import Tally, empty

if TYPE_CHECKING:
    from roster.analyze.trace import Trace

_MARGIN, _COLUMN = 40, 12
"""Characters taken by the layer, entropy and others columns, and by one expert."""


def print_trace(trace: Trace, console: Console | None = None) -> None:
    """Print one row per layer: the experts' shares of the weight in percent, and the mean entropy in nats.

    Args:
        trace: what to print.
        console: where to; None for standard output. Where the experts are too many for its width, those with the
            most weight get a column each and the others share one.
    """
    tallies = trace.layer_tallies()
    total_E = sum(tallies.values(), empty(len(trace.experts))).weight_E
    order = total_E.argsort(descending=True, stable=True).tolist()
    console = console or Console()
    shown = sorted(order[: max(3, (console.width - _MARGIN) // _COLUMN)])
    rest = len(trace.experts) - len(shown)

    note = f"entropy in nats, at most ln {len(trace.experts)} = {trace.max_entropy:.2f}"
    dropped = sum(int(each_E.sum()) for each_E in trace.dropped().values())
    note += f"; {dropped} pairs dropped for want of capacity" if dropped else ""
    table = Table(title=f"Load per layer, % of weight ({trace.rows} rows)", caption=note)
    table.add_column("layer", no_wrap=True)
    for index in shown:
        table.add_column(escape(trace.experts[index]), justify="right", overflow="fold", min_width=6)
    if rest:
        table.add_column(f"{rest} others", justify="right", no_wrap=True)
    table.add_column("entropy", justify="right", min_width=7)
    for layer, each in tallies.items():
        table.add_row(escape(layer), *_cells(each, shown, bool(rest)))
    console.print(table)


def _cells(each: Tally, shown: list[int], others: bool) -> list[str]:
    """One row's figures as text; an en dash where nothing was routed."""
    if not each.routed:
        return ["–"] * (len(shown) + others + 1)
    share_E = 100 * each.fraction_E
    cells = [f"{float(share_E[index]):.1f}" for index in shown]
    if others:
        cells.append(f"{float(100 - share_E[shown].sum()):.1f}")
    return [*cells, f"{each.mean_entropy:.2f}"]
