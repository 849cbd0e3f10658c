"""Routing anew at test time: the weights that experts get at a prompt's last token are moved towards those of similar
prompts that were answered rightly; nothing of the model changes (Li et al., 2025, R2-T2, arXiv:2502.20395).

Shape legend: B rows, S tokens, T = B * S, E experts, J references, N neighbours, D width of an embedding, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from roster.context import Context
from roster.errors import RosterError, nearest
from roster.route import AnyRoute, Route
from roster.routed.model import routers
from roster.saving import writing
from roster.tensors import StoredTensors, write_tensors

Variant = Literal["gradient", "kernel", "mode"]
_FILE = "references"
_GRID = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of one's own route that kernel regression tries."""


@dataclass
class References:
    """Prompts that the model answers rightly.

    Attributes:
        ids: tokens of each.
        answers: the token that is right after each.
        embedding_JD: of each.
        routes: by site, the weights at the last token of each, [J, E].
    """

    ids: list[list[int]] = field(default_factory=list)
    answers: list[int] = field(default_factory=list)
    embedding_JD: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    routes: dict[str, Tensor] = field(default_factory=dict)


class Rerouting:
    """See above. A sample's answer depends on the references, and not on samples before it.

    Three ways, with K the Gaussian kernel of the distance of embeddings, over the nearest few references j:
    "gradient": r <- onto the simplex (r - rate * grad of sum_j K_j CE(f(x_j; r), y_j) / sum_j K_j), some steps;
    "kernel": r <- a r + (1 - a) sum_j K_j r_j / sum_j K_j, a the share under which the neighbours' loss is least;
    "mode": mean shift among the neighbours' routes, r <- sum_j K_r(r, r_j) r_j / sum_j K_r(r, r_j).

    Args:
        model: a routed model with sparse routes that writes text; it is used in evaluation.
        variant: which of them.
        neighbours: how many.
        steps, rate: of the gradient, or of the mean shift.
        embed: `(ids) -> [D]`; by default the mean of the model's last hidden states.
        sites: which routers are moved; by default all.
    """

    def __init__(
        self,
        model: Any,
        variant: Variant = "gradient",
        neighbours: int = 5,
        steps: int = 10,
        rate: float = 0.01,
        embed: Callable[[Sequence[int]], Tensor] | None = None,
        sites: Sequence[str] | None = None,
    ):
        known = [site for site, _ in routers(model)]
        for site in sites or ():
            if site not in known:
                raise RosterError(f"no router of this model is called {site!r}: {nearest(site, known)}")
        if variant not in ("gradient", "kernel", "mode") or min(neighbours, steps) < 1:
            raise RosterError(
                f"rerouting: variant={variant!r} must be 'gradient', 'kernel' or 'mode', and neighbours={neighbours} "
                f"and steps={steps} at least 1"
            )
        self.model, self.variant, self.neighbours, self.steps, self.rate = model, variant, neighbours, steps, rate
        self.sites, self.embed = set(sites or known), embed or self._mean_state
        self.references = References()

    def remember(self, ids: Sequence[Sequence[int]], answers: Sequence[int]) -> int:
        """Takes prompts that the model answers rightly for references; returns how many of these there were.

        Args:
            ids: tokens of the prompts.
            answers: the right next token of each.
        """
        kept, embeddings, routes = self.references, [], []
        for row, answer in zip(ids, answers, strict=True):
            with self._listening() as seen:
                logits_V = self._logits([row])[0]
            if int(logits_V.argmax()) != answer:
                continue
            kept.ids.append(list(row))
            kept.answers.append(int(answer))
            embeddings.append(self.embed(row).detach().float().cpu())
            routes.append(seen)
        if embeddings:
            old = [kept.embedding_JD] if len(kept.embedding_JD) else []
            kept.embedding_JD = torch.cat([*old, torch.stack(embeddings)])
            for site in routes[0]:
                known = [kept.routes[site]] if site in kept.routes else []
                kept.routes[site] = torch.cat([*known, torch.stack([each[site] for each in routes])])
        return len(embeddings)

    def reroute(self, ids: Sequence[int]) -> dict[str, Tensor]:
        """The weights [E] that each site is to give a prompt's last token.

        Raises:
            RosterError: there are no references.
        """
        kept = self.references
        if not kept.ids:
            raise RosterError("rerouting has no references: call remember with prompts that the model answers rightly")
        with self._listening() as own:
            self._logits([ids])
        distance_J = (kept.embedding_JD - self.embed(ids).detach().float().cpu()).norm(dim=1)
        near_N = distance_J.topk(min(self.neighbours, len(distance_J)), largest=False).indices
        kernel_N = _gaussian(distance_J[near_N])
        routes = {site: table_JE[near_N] for site, table_JE in kept.routes.items()}
        if self.variant == "mode":
            return self._shifted(own, routes)
        rows = [kept.ids[at] for at in near_N.tolist()]
        answer_N = torch.tensor([kept.answers[at] for at in near_N.tolist()], device=self.model.device)

        def loss(route: Mapping[str, Tensor]) -> Tensor:
            each_N = F.cross_entropy(self._logits(rows, route).float(), answer_N, reduction="none")
            weight_N = kernel_N.to(each_N)
            return (weight_N * each_N).sum() / weight_N.sum()

        if self.variant == "kernel":
            mean = {site: (kernel_N[:, None] * each).sum(0) / kernel_N.sum() for site, each in routes.items()}
            tried = [{site: a * own[site] + (1 - a) * mean[site] for site in own} for a in _GRID]
            return min(tried, key=lambda route: float(loss(route).detach()))
        return self._descended(own, loss)

    def answer(self, ids: Sequence[int]) -> Tensor:
        """The logits [V] of what follows a prompt, by the weights that `reroute` finds."""
        return self._logits([ids], self.reroute(ids))[0].detach()

    def save(self, folder: str | Path) -> None:
        """Writes the references to a folder."""
        kept = self.references
        state = {f"route.{site}": each for site, each in kept.routes.items()} | {"embedding": kept.embedding_JD}
        state |= {"answers": torch.tensor(kept.answers), "lengths": torch.tensor([len(row) for row in kept.ids])}
        with writing(folder) as new:
            write_tensors({**state, "ids": torch.tensor([each for row in kept.ids for each in row])}, new, _FILE)

    def load(self, folder: str | Path) -> Rerouting:
        """Takes over references; RosterError where they are those of another model."""
        stored = StoredTensors(Path(folder), _FILE)
        routes = {key.removeprefix("route."): stored[key] for key in stored if key.startswith("route.")}
        if set(routes) != self.sites:
            raise RosterError(f"{str(stored.where)!r} holds routes of other routers than this model's")
        rows = stored["ids"].split(stored["lengths"].tolist())
        ids, answers = [row.tolist() for row in rows], stored["answers"].tolist()
        self.references = References(ids, answers, stored["embedding"], routes)
        return self

    def _descended(self, own: dict[str, Tensor], loss: Callable[[Mapping[str, Tensor]], Tensor]) -> dict[str, Tensor]:
        route = own
        for _ in range(self.steps):
            leaves = {site: each.clone().requires_grad_() for site, each in route.items()}
            with torch.enable_grad():
                grads = torch.autograd.grad(loss(leaves), list(leaves.values()), allow_unused=True)
            route = {
                site: each if grad is None else onto_simplex(each - self.rate * grad, float(own[site].sum()))
                for (site, each), grad in zip(route.items(), grads, strict=True)
            }
        return route

    def _shifted(self, own: dict[str, Tensor], routes: dict[str, Tensor]) -> dict[str, Tensor]:
        table_NX = torch.cat([routes[site] for site in own], dim=1)
        r_X = torch.cat(list(own.values()))
        for _ in range(self.steps):
            weight_N = _gaussian((table_NX - r_X).norm(dim=1))
            r_X = (weight_N[:, None] * table_NX).sum(0) / weight_N.sum()
        return dict(zip(own, r_X.split([len(each) for each in own.values()]), strict=True))

    def _logits(self, rows: Sequence[Sequence[int]], route: Mapping[str, Tensor] | None = None) -> Tensor:
        """[B, V] behind each row's last token; with gradients, under which no layer takes a way past its router."""
        length, device = max(map(len, rows)), self.model.device
        ids_BS = torch.tensor([[*row, *[0] * (length - len(row))] for row in rows], device=device)
        last_B = torch.tensor([len(row) - 1 for row in rows], device=device)
        mask_BS = torch.arange(length, device=device) <= last_B[:, None]
        training = self.model.training
        self.model.eval()
        try:
            with torch.enable_grad(), self._giving(route, last_B):
                logits: Tensor = self.model(input_ids=ids_BS, attention_mask=mask_BS.long(), use_cache=False).logits
        finally:
            self.model.train(training)
        return logits[torch.arange(len(rows), device=device), last_B]

    @contextmanager
    def _giving(self, route: Mapping[str, Tensor] | None, last_B: Tensor) -> Iterator[None]:
        """Routers that give the last token of every row the weights of `route`."""

        def after(router: Any, args: tuple[Any, ...], found: AnyRoute) -> AnyRoute | None:
            context: Context = args[1]
            if route is None or router.site not in route:
                return None
            own_TE = found.dense()
            at_T = torch.arange(context.batch, device=own_TE.device) * context.length + last_B.to(own_TE.device)
            wanted_BE = route[router.site].to(own_TE).expand(context.batch, -1)
            # Everybody is on duty there, so that one who had no weight can gain some.
            chosen_TE = found.chosen().index_put((at_T,), torch.tensor(True, device=own_TE.device))
            given = Route.from_gates(own_TE.index_put((at_T,), wanted_BE), chosen_TE)
            given.scores_TE = found.scores_TE
            return given

        hooks = [router.register_forward_hook(after) for _, router in routers(self.model)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def _listening(self) -> Iterator[dict[str, Tensor]]:
        """What the sites give the last token of the one row of the call inside, by site."""
        seen: dict[str, Tensor] = {}

        def after(router: Any, args: tuple[Any, ...], found: AnyRoute) -> None:
            if router.site in self.sites:
                seen[router.site] = found.dense()[-1].detach().float().cpu()

        hooks = [router.register_forward_hook(after) for _, router in routers(self.model)]
        try:
            yield seen
        finally:
            for hook in hooks:
                hook.remove()

    @torch.no_grad()
    def _mean_state(self, ids: Sequence[int]) -> Tensor:
        row_1S = torch.tensor([list(ids)], device=self.model.device)
        states: Tensor = self.model(input_ids=row_1S, use_cache=False, output_hidden_states=True).hidden_states[-1]
        return states[0].mean(0)


def onto_simplex(r_E: Tensor, total: float = 1.0) -> Tensor:
    """The nearest vector of no negative numbers that sum to `total` (Duchi et al., 2008)."""
    down_E = r_E.sort(descending=True).values
    excess_E = (down_E.cumsum(0) - total) / torch.arange(1, len(r_E) + 1, device=r_E.device)
    kept = int((down_E > excess_E).sum())
    return (r_E - excess_E[kept - 1]).clamp_min(0.0).detach()


def _gaussian(distance_N: Tensor) -> Tensor:
    """exp(-d^2 / 2 h^2), h the median distance."""
    width = distance_N.median().clamp_min(1e-6)
    return torch.exp(-0.5 * (distance_N / width).square())
