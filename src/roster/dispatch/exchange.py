"""Experts that are spread over processes: rows travel to the process that holds their expert, and back.

Each process holds the same number of experts of every stack (a `DTensor` that is sharded along its first axis) and
computes the parts of a batch of its own. What a process makes of the rows that it was sent runs on whichever back end
is on duty there. As everywhere (`roster.processes`), the gradient that counts is the mean over processes, so that
experts, which see the rows of all, divide theirs by the number of processes.

Rows may travel in several chunks (`pipelined`), so that some are on their way while others are computed; how many pays
is planned by `roster.place.overlap`.

Shape legend: T tokens, R rows or (token, expert) pairs grouped by expert, N rows that arrive here, E experts, L of them
here, W processes, D and F widths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.tensor import DTensor
from torch.nn import functional as F

from roster.dispatch.weights import Weights
from roster.errors import RosterError

if TYPE_CHECKING:
    from roster.route import Route

Local = Callable[[Tensor, Tensor, Weights], Tensor]
"""`(rows_ND grouped by expert, counts_L, weights of the experts here) -> rows_ND`."""

_degree = 1


def spread(weights: Weights) -> bool:
    """Whether experts are spread over processes."""
    return isinstance(weights.matrices[0], DTensor)


def feed_forward(rows_RD: Tensor, counts_E: Tensor, weights: Weights, local: Local) -> Tensor:
    """Applies whole experts, wherever they are, to rows that are grouped by expert.

    Args:
        rows_RD: rows behind the last group belong to nobody and stay here.
        counts_E: rows per expert.
        weights: of all experts, as DTensors sharded along E.
        local: computes what arrives.

    Returns:
        [R, D]; zero for rows of nobody.

    Raises:
        RosterError: stacks that are spread in another way.
    """
    mine, group = _here(weights)
    W = distributed.get_world_size(group)
    place_R, counts_CE = _chunks(counts_E, _degree)
    counts_WCL = counts_CE.view(_degree, W, -1).transpose(0, 1).contiguous()
    arriving_WCL = torch.empty_like(counts_WCL)
    distributed.all_to_all_single(arriving_WCL, counts_WCL, group=group)
    sent_CW, taken_CW = counts_WCL.sum(2).T.tolist(), arriving_WCL.sum(2).T.tolist()
    splits = list(zip(taken_CW, sent_CW, strict=True))
    ours_RD = rows_RD[: len(place_R)] if _degree == 1 else rows_RD[place_R]
    parts = ours_RD.split([sum(sent) for sent in sent_CW])
    # All are sent off before the first is waited for.
    arrived = [all_to_all_single_autograd(part, *each, group) for part, each in zip(parts, splits, strict=True)]
    home = []
    for chunk, (rows_ND, (taken, sent)) in enumerate(zip(arrived, splits, strict=True)):
        made_ND = _by_expert(rows_ND, arriving_WCL[:, chunk], mine, local)
        home.append(all_to_all_single_autograd(made_ND, sent, taken, group))
    home_RD = torch.cat(home)[place_R.argsort()] if _degree > 1 else home[0]
    return F.pad(home_RD, (0, 0, 0, len(rows_RD) - len(place_R)))


def serve(x_TD: Tensor, route: Route, weights: Weights, local: Local) -> Tensor:
    """Applies whole experts, wherever they are, to the tokens that a route sends them; see `operations.serve`."""
    token_R, weight_R, counts_E = route.pairs()
    served = int(counts_E.sum())
    token_R, weight_R = token_R[:served], weight_R[:served]
    rows_RD = feed_forward(x_TD[token_R], counts_E, weights, local)
    out_TD = rows_RD.new_zeros(len(x_TD), rows_RD.shape[1])
    return out_TD.index_add(0, token_R, rows_RD * weight_R[:, None].to(rows_RD.dtype))


@contextmanager
def pipelined(degree: int) -> Iterator[None]:
    """Makes rows travel in `degree` chunks, to the end of the block; every process must ask for the same."""
    global _degree
    if degree < 1:
        raise RosterError(f"rows travel in at least one chunk, not {degree}")
    before, _degree = _degree, degree
    try:
        yield
    finally:
        _degree = before


def _chunks(counts_E: Tensor, degree: int) -> tuple[Tensor, Tensor]:
    """Where the rows of each chunk stand, one chunk after the other, and each chunk's rows per expert, [C, E].

    Every chunk has its even share of every expert's rows.
    """
    E, device = len(counts_E), counts_E.device
    if degree == 1:
        return torch.arange(int(counts_E.sum()), device=device), counts_E[None]
    expert_R = torch.arange(E, device=device).repeat_interleave(counts_E)
    within_R = torch.arange(len(expert_R), device=device) - (counts_E.cumsum(0) - counts_E)[expert_R]
    chunk_R = within_R * degree // counts_E[expert_R]
    counts_CE = torch.bincount(chunk_R * E + expert_R, minlength=degree * E).view(degree, E)
    return chunk_R.argsort(stable=True), counts_CE


def _by_expert(rows_ND: Tensor, arriving_WL: Tensor, mine: Weights, local: Local) -> Tensor:
    """What experts make of rows that came process by process, each one's grouped by expert; in that order."""
    expert_WL = torch.arange(arriving_WL.shape[1], device=rows_ND.device).expand_as(arriving_WL)
    expert_N = expert_WL.reshape(-1).repeat_interleave(arriving_WL.reshape(-1))
    order_N = expert_N.argsort(stable=True)
    return local(rows_ND[order_N], arriving_WL.sum(0), mine)[order_N.argsort()]


def _here(weights: Weights) -> tuple[Weights, distributed.ProcessGroup]:
    """The experts of this process, and the group of all that share them."""
    first: Any = weights.matrices[0]
    mesh = first.device_mesh
    by_expert = [isinstance(each, DTensor) and each.placements[0].is_shard(0) for each in weights.matrices]
    if weights.widths or mesh.ndim != 1 or not all(by_expert):
        raise RosterError("experts can be spread over processes along one axis, as whole experts of one width only")
    mine = [_Mean.apply(each.to_local(), mesh.size()) for each in weights.matrices]  # type: ignore[attr-defined, no-untyped-call]
    return Weights(tuple(mine), weights.activation), mesh.get_group()


class _Mean(torch.autograd.Function):
    """The same tensor, whose gradient is divided."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, parts: int) -> Tensor:
        ctx.parts = parts
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad / ctx.parts, None
