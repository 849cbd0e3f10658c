"""Where roster meets an existing mixture: at its experts, which keep their place, class, tensors and names.

The block around them (its gate, shared experts, norms, losses) stays transformers' own and untouched.

Shape legend: B batch rows, S tokens per row, T = B * S, K chosen per token, E experts, D model width.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any, cast

from torch import Tensor, nn

from roster.context import Context, ContextSlot
from roster.errors import RosterError
from roster.moe.own_experts import Reader
from roster.route import Route
from roster.routed.running import CHILD, running
from roster.router import Router


class OwnRouter(Router):
    """The model's own router, as far as roster sees it: a decision that arrives at the experts.

    Padding is served as the model serves it, so that outputs stay what they were; traces leave it out.
    """

    def __init__(self, site: str):
        super().__init__(nn.Identity(), nn.Identity(), site=site)

    def forward(self, route: Route, context: Context | None) -> Route:  # type: ignore[override]  # it reads no tokens
        """Hands the decision on, and to whoever records the call; None: what was called is not known."""
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
        side: "encoder" or "decoder" of a model that has both; the context describes what the encoder reads, and during
            generation the encoder runs by itself. "only" for all other models.
    """

    def __init__(self, reader: Reader, slot: ContextSlot, name: str, block: nn.Module | None, side: str = "only"):
        super().__init__()
        self.reader, self.slot, self.name, self.side = reader, slot, name, side
        self.block = block
        self.router = OwnRouter(name) if block is None else None

    def forward(self, experts: nn.Module, x: Tensor, chosen: Tensor, weight: Tensor) -> Tensor:
        """What the experts add to each token; shaped as x."""
        x_TD = x.reshape(-1, x.shape[-1])
        if self.block is not None:
            context = self._context(len(x_TD))
            y_BSD: Tensor = self.block(x_TD.view(context.batch, context.length, -1), context)
            return y_BSD.view(x.shape)
        router = cast(OwnRouter, self.router)  # where no other block is
        route = router(self.reader.route(experts, chosen, weight), self._known(len(x_TD)))
        y_TD: Tensor = route.combine(self.reader.rows(experts, route.dispatch(x_TD), route.counts_E))
        return y_TD.view(x.shape)

    def _known(self, tokens: int) -> Context | None:
        context = self.slot.current
        if context is None or self.side == "decoder" or context.batch * context.length != tokens:
            return None
        return context

    def _context(self, tokens: int) -> Context:
        """What another router may know; of a decoder, and of an encoder that runs by itself, only how many tokens."""
        if self.side == "only":
            call = running(self.slot)
            if call.batch * call.length != tokens:
                raise RosterError(
                    f"the experts of {self.name!r} were called with {tokens} tokens, the model with {call.batch} x "
                    f"{call.length}: roster cannot put another router there"
                )
            return call
        known, current = self._known(tokens), self.slot.current
        if known is not None:
            return known
        if current is None or tokens % current.batch:
            return Context(1, tokens)
        length = tokens // current.batch
        return replace(current, length=length, mask_BS=None, input_ids_BS=None, prompt_BS=None, recorder=None)


class _Adopted(nn.Module):
    """Mixin of adopted experts: the module's own class, with another forward."""

    def forward(self, hidden: Tensor, *given: Any, **named: Any) -> Tensor:
        """As the block calls its experts: hidden states, who was chosen, with what weight."""
        site = cast(AdoptedSite, self._modules[CHILD])  # as `adopt` has put it there
        y: Tensor = site(self, hidden, *given, *named.values())
        return y


@functools.cache
def adopted_class(base: type) -> type:
    """A class of experts with roster's forward in front."""
    return type(f"Adopted{base.__name__}", (_Adopted, base), {"__module__": __name__, "base_class": base})
