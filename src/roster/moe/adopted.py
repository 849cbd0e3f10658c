"""Where roster meets an existing mixture: at its experts, which keep their place, class, tensors and names.

The block around them (its gate, shared experts, norms, losses) stays transformers' own and untouched.

Shape legend: B batch rows, S tokens per row, T = B * S, K chosen per token, E experts, D model width.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from roster.context import Context, ContextSlot
from roster.errors import RosterError
from roster.mixture.site import CHILD, running
from roster.moe.own_experts import Reader
from roster.route import Route
from roster.router import Router


class OwnRouter(Router):
    """The model's own router, as far as roster sees it: a decision that arrives at the experts.

    Padding is served as the model serves it, so that outputs stay what they were; traces leave it out.
    """

    def __init__(self, site: str):
        super().__init__(nn.Identity(), nn.Identity(), site=site)

    def forward(self, route: Route, context: Context | None) -> Route:
        """Hands the decision on, and to whoever records the call; None stands for a call of nobody knows what."""
        if context is not None:
            self.trace(route, context)
        return route


class AdoptedSite(nn.Module):
    """Serves the experts of one block.

    Args:
        reader: how they are read.
        slot: where the running call's context is found.
        name: of the block.
        block: another mixture over the same experts, `(x_BSD, context) -> [B, S, D]`; None keeps the model's router.
        two_sides: whether the model has an encoder and a decoder, of which the context describes one.
    """

    def __init__(self, reader: Reader, slot: ContextSlot, name: str, block: nn.Module | None, two_sides: bool):
        super().__init__()
        self.reader, self.slot, self.name, self.two_sides = reader, slot, name, two_sides
        self.block = block
        self.router = OwnRouter(name) if block is None else None

    def forward(self, experts: nn.Module, x: Tensor, chosen: Tensor, weight: Tensor) -> Tensor:
        """What the experts add to each token; shaped as x."""
        x_TD = x.reshape(-1, x.shape[-1])
        if self.block is not None:
            context = self._context(len(x_TD))
            return self.block(x_TD.view(context.batch, context.length, -1), context).view(x.shape)
        route = self.router(self.reader.route(experts, chosen, weight), self._known(len(x_TD)))
        return route.combine(self.reader.rows(experts, route.dispatch(x_TD), route.counts_E)).view(x.shape)

    def _known(self, tokens: int) -> Context | None:
        context = self.slot.current
        return context if context is not None and context.batch * context.length == tokens else None

    def _context(self, tokens: int) -> Context:
        """What another router may know; of the side that the context does not describe, only how many tokens."""
        if not self.two_sides:
            context = running(self.slot)
            if context.batch * context.length != tokens:
                raise RosterError(
                    f"the experts of {self.name!r} were called with {tokens} tokens, the model with {context.batch} x "
                    f"{context.length}: roster cannot put another router there"
                )
            return context
        current = self.slot.current
        if current is None or tokens % current.batch:
            return Context(1, tokens)
        if current.batch * current.length == tokens:
            return current
        length = tokens // current.batch
        return replace(current, length=length, mask_BS=None, input_ids_BS=None, prompt_BS=None, recorder=None)


class _Adopted:
    """Mixin of adopted experts: the module's own class, with another forward."""

    def forward(self, hidden: Tensor, *given: Any, **named: Any) -> Tensor:
        """As the block calls its experts: hidden states, who was chosen, with what weight."""
        return self._modules[CHILD](self, hidden, *given, *named.values())


@functools.cache
def adopted_class(base: type) -> type:
    """A class of experts with roster's forward in front."""
    return type(f"Adopted{base.__name__}", (_Adopted, base), {"__module__": __name__, "base_class": base})
