"""Where a mixture meets the base model: the modules that become children of its linear layers and blocks.

Nothing of the base is replaced: a linear layer keeps its class, its weights and their names, and gets one child,
`roster`, and one forward hook that adds what the child computes. So quantised layers, offloading hooks, sharding per
block and other people's code that reads `layer.weight` all go on working.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from roster.adapters.siblings import Siblings
from roster.context import DUTY, ContextSlot
from roster.routed.placement import beside
from roster.routed.running import CHILD, running
from roster.routed.streams import Side, check_rows, context_here
from roster.routed.trial import check_output
from roster.router import Router


class RoutedLinear(nn.Module):
    """The experts of one linear layer, and its own router if routes are decided here.

    Args:
        experts: `(x_TI, y_TO, route) -> y_TO`; with an attribute `reads_context` that is true, they get the context of
            the running call besides.
        router: this layer's own router; None when the route is decided once per block or model.
        slot: where the context of the running call is found.
        route_key: where in the context's memory the route lies that others have decided.
        name: of the layer, for messages.

    Attributes:
        side: which stream of tokens the layer reads, in a model that has two.
        served: experts that have anything to add here; None where any may.
    """

    side: Side = "only"

    def __init__(self, experts: nn.Module, router: Router | None, slot: ContextSlot, route_key: str, name: str = ""):
        super().__init__()
        self.experts, self.router = experts, router
        self.slot, self.route_key, self.name = slot, route_key, name
        self.siblings: Siblings | None = None
        self.reads_context = bool(getattr(experts, "reads_context", False))
        ranks = getattr(experts, "ranks", None)
        of_rank = None if ranks is None else frozenset(e for e, rank in enumerate(ranks) if rank)
        self.served: frozenset[int] | None = getattr(experts, "served", of_rank)

    @property
    def route_source(self) -> str:
        """Where the route comes from: a key of the context's memory, or "" for this layer's own router."""
        return self.route_key if self.router is None else ""

    def after(self, linear: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        """Forward hook of the layer that this is a child of."""
        check_output(output, self.name)
        return self.forward(args[0], output)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Adds the experts' part to y, the layer's output for x."""
        context = context_here(self.slot, self.side)
        if context.off:
            return y
        if self.served is not None and (
            self.router is None or (context.gates_BE is not None and context.recorder is None)
        ):
            duty = context.memory.get(DUTY)
            if duty is not None and self.served.isdisjoint(duty):
                return y
        check_rows(x, context, self.name)
        x_TI = x.reshape(-1, x.shape[-1])
        if self.siblings is not None:
            shared = self.siblings.serve(self, x_TI, x, y.reshape(-1, y.shape[-1]), context)
            if shared is not None:
                return shared.view(y.shape)
        route = context.memory[self.route_key] if self.router is None else self.router(x_TI, context)
        given = (context,) if self.reads_context else ()
        total: Tensor = self.experts(x_TI, y.reshape(-1, y.shape[-1]), route, *given)
        return total.view(y.shape)


class BlockRouter(nn.Module):
    """Decides one route for all routed layers of a block, from the block's input."""

    def __init__(self, router: Router, slot: ContextSlot, route_key: str):
        super().__init__()
        self.router, self.slot, self.route_key = router, slot, route_key

    def before(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Forward pre-hook of the block that this is a child of."""
        self.forward(args[0] if args else kwargs["hidden_states"])

    def forward(self, hidden_BSD: Tensor) -> None:
        """Leaves the route in the context's memory."""
        context = running(self.slot)
        if not context.off:
            # The block's own hook, which would bring its input to its device, runs later.
            hidden_TD = beside(hidden_BSD.reshape(-1, hidden_BSD.shape[-1]), self.router)
            context.memory[self.route_key] = self.router(hidden_TD, context)


def routed_linears(model: nn.Module) -> Iterator[tuple[str, RoutedLinear]]:
    """(name of the base's layer, its routed child) for every routed linear layer."""
    for name, module in model.named_modules():
        if isinstance(module, RoutedLinear):
            yield name.removesuffix(f".{CHILD}"), module
