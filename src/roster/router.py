"""Router: score, select, balance. The three choices in which published routing methods differ, wired in one place.

Shape legend: T tokens, D width of what the router reads, E experts, B batch rows, K given to a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from roster.context import DUTY, KEPT, Context, Recorder
from roster.errors import RosterError
from roster.route import AnyRoute, Route

HALF = (torch.bfloat16, torch.float16)


class InFloat32(nn.Module):
    """What decides: it moves as the model does, but stays in float32 where the model becomes one of half precision."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> InFloat32:
        def keep(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype in HALF and tensor.dtype == torch.float32 else moved

        super()._apply(keep, recurse)  # type: ignore[no-untyped-call]  # of torch, without annotations
        return self


class Router(InFloat32):
    """Decides for every token who is on duty; in float32 where the model computes in half precision.

    Args:
        score: `(x_TD, context) -> scores_TE`.
        select: `(scores_TE, context, bias_E) -> route`.
        balance: parts `(route, context) -> loss or None`; at most one may carry a `bias_E` for `select` to read.
        site: the name under which routes are traced and losses are collected.
    """

    def __init__(self, score: nn.Module, select: nn.Module, balance: Sequence[nn.Module] = (), site: str = "router"):
        super().__init__()
        self.score, self.select, self.balance = score, select, nn.ModuleList(balance)
        self.site = site
        biased = [part for part in balance if hasattr(part, "bias_E")]
        if len(biased) > 1:
            raise RosterError(f"router {site!r}: {len(biased)} balance parts carry a bias; select can read one")
        if biased and not getattr(select, "reads_bias", False):
            raise RosterError(
                f"router {site!r}: {type(biased[0]).__name__} steers by a bias, but {type(select).__name__} reads none"
            )
        self._bias_index = list(balance).index(biased[0]) if biased else None

    def forward(self, x_TD: Tensor, context: Context) -> AnyRoute:
        """Routes tokens.

        Args:
            x_TD: what the router reads of each token; D may be 0 when the score needs only the context.
            context: see `Context`; its batch * length equals T.

        Returns:
            A route over T tokens in which padding has nobody.

        Raises:
            RosterError: the score of a real token is not a number (found on processors, outside compiled code).
        """
        if context.gates_BE is not None:
            return self._given(context.gates_BE, context)
        scores_TE = self._scores(x_TD, context)
        # One token per row is a decode step: what is wrong with the weights showed in the prompt before it. A device
        # would have to be waited for.
        if context.length > 1 and scores_TE.device.type == "cpu" and not torch.compiler.is_compiling():
            self._refuse_nan(scores_TE.detach(), x_TD.detach(), context)
        bias_E = None if self._bias_index is None else self.balance[self._bias_index].bias_E
        route: AnyRoute = self.select(scores_TE, context, bias_E)
        mask_T = context.mask_T
        if mask_T is not None:
            route = route.keep(mask_T.to(scores_TE.device))
        route.scores_TE = scores_TE
        for part in self.balance:
            loss = part(route, context)
            if loss is not None:
                context.add_loss(self.site, loss)
        self.trace(route, context)
        return route

    def _given(self, gates_BE: Tensor, context: Context) -> AnyRoute:
        """The route that the caller wants; one for all layers of a call."""
        route: AnyRoute | None = context.memory.get("given")
        if route is None:
            most = max(int((gates_BE != 0).sum(1).max()), 1)
            expert_BK = gates_BE.abs().topk(most, dim=1).indices
            weight_BK = gates_BE.gather(1, expert_BK)
            expert_BK = expert_BK.masked_fill(weight_BK == 0, gates_BE.shape[1])
            route = Route.slots(context.per_token(expert_BK), context.per_token(weight_BK), gates_BE.shape[1])
            if gates_BE.device.type == "cpu":
                context.memory[DUTY] = route.duty = tuple(gates_BE.any(0).nonzero()[:, 0].tolist())
                route.sole = len(route.duty) == 1 and bool((weight_BK == 1).all())
            if context.mask_T is not None:
                route = route.keep(context.mask_T.to(gates_BE.device))
            route.kept = context.memory.get(KEPT)
            route.steady = route.kept is not None and context.length == 1 and context.mask_BS is None
            context.memory["given"] = route
        self.trace(route, context)
        return route

    def _scores(self, x_TD: Tensor, context: Context) -> Tensor:
        """In float32 at least: in half precision near ties go to other experts."""
        x_TD = x_TD.float() if x_TD.dtype in HALF else x_TD
        scores_TE: Tensor
        if torch.is_autocast_enabled(x_TD.device.type):
            with torch.autocast(x_TD.device.type, enabled=False):
                scores_TE = self.score(x_TD, context)
        else:
            scores_TE = self.score(x_TD, context)
        return scores_TE

    def _refuse_nan(self, scores_TE: Tensor, x_TD: Tensor, context: Context) -> None:
        if not math.isnan(float(scores_TE.sum())):
            return
        nan_T = scores_TE.isnan().any(1)  # a sum of two infinities is NaN as well
        if context.mask_T is not None:
            nan_T &= context.mask_T.to(nan_T.device)
        count = int(nan_T.sum())
        if count == 0:
            return
        recipe = f" of recipe {context.recipe!r}" if context.recipe else ""
        read = bool(x_TD[nan_T].isnan().any())
        raise RosterError(
            f"router {self.site!r}{recipe}: {type(self.score).__name__} gives NaN for {count} of {len(nan_T)} tokens, "
            f"first for token {int(nan_T.nonzero()[0])}; "
            + ("the hidden states that it read are NaN too" if read else "what it read is not NaN: look at its weights")
        )

    def trace(self, route: AnyRoute, context: Context) -> None:
        """Hands a route to whoever records the call."""
        if context.recorder is not None:
            # Not a decorator: that would load the compiler whenever roster is imported.
            torch.compiler.disable(self._record)(route, context, context.recorder)

    def _record(self, route: AnyRoute, context: Context, recorder: Recorder) -> None:
        gates_BSE = route.dense().detach().view(context.batch, context.length, -1)
        dropped_E = getattr(route, "dropped_E", None)
        known = {} if dropped_E is None else {"dropped_E": dropped_E}
        recorder.record(self.site, gates_BSE, context.mask_BS, context.input_ids_BS, **known)
