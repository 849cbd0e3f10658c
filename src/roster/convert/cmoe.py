"""CMoE: a dense block carved into shared and routed experts by which hidden units fire together.

Per layer, on calibration tokens: a unit is marked at a token where it is among the `markers` largest of
|SiLU(x g) (x u)|, tokens and weight rows taken at unit length. The units marked most often are shared; the next ones
are seeds of the routed experts, and all others go to the seed whose marks are nearest (L1), equally many to each, by
one linear assignment. Later layers are calibrated on what earlier ones became.

Router: the authors' scores an expert by its representative unit (nearest to the mean of its marks), |(x u) SiLU(x g)|,
which no stock container computes. Here linear rows are fitted to the choice of those scores (`router=analytic`), or to
the choice of the experts with the largest answers (`router=answers`); or drawn (`router=random`, the yardstick). Chosen
experts are added with weight 1, as in the source. With all experts on duty the mixture is the dense model.

Source: Pei et al. 2025, CMoE, arXiv 2502.04416; official code JarvisPei/CMoE. Differences: the linear router; no
training afterwards (theirs is LoRA and learned scales, whose start at 0 this is).

Shape legend: T tokens, N hidden units, E routed experts, D model width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, silu

from roster.convert.carving import Cut, plan_cut
from roster.convert.container import find_container
from roster.convert.dense import Dense
from roster.convert.fitting import Carved, at_blocks, fit_rows, top_mask
from roster.errors import RosterError, nearest
from roster.weights import MAX_SHARD, Plan
from roster.weights.layers import Progress
from roster.weights.texts import Texts

ROUTERS = ("analytic", "answers", "random")


def plan_cmoe(
    dense: Dense,
    texts: Texts,
    experts: int = 16,
    shared: int = 2,
    active: int = 2,
    markers: int = 10,
    router: str = "analytic",
    partition: str = "markers",
    container: str = "qwen2-moe",
    seed: int = 0,
    max_shard: int = MAX_SHARD,
    progress: Progress | None = None,
) -> Plan:
    """The plan of the carved model.

    Args:
        dense: the model.
        texts: to calibrate on.
        experts: parts that a block is cut into, the shared ones among them.
        shared: of them, how many are always on.
        active: routed experts that a token gets.
        markers: units that are marked at a token.
        router: "analytic", "answers" or "random".
        partition: "markers", or "random" (the yardstick).
        container: with a shared expert.
        seed: of what is drawn.
        max_shard: bytes of one output file.
        progress: told of layers done.

    Raises:
        RosterError: a width that does not divide, numbers that leave nothing to route, unknown names.
    """
    if experts < 2 or dense.width % experts:
        raise RosterError(f"a block of {dense.width} hidden units does not divide into {experts} experts")
    if not 1 <= shared < experts or not 1 <= active <= experts - shared:
        raise RosterError(f"{shared} shared and {active} active of {experts} experts: nothing is left to choose from")
    for name, value, known in (("router", router, ROUTERS), ("partition", partition, ("markers", "random"))):
        if value not in known:
            raise RosterError(f"cmoe: {name}={value!r}: {nearest(value, known)}")
    if not 1 <= markers <= dense.width:
        raise RosterError(f"cmoe: markers={markers} of {dense.width} hidden units")
    into, size = find_container(container), dense.width // experts
    if not into.shared:
        raise RosterError(f"cmoe: {container} has no shared expert; take qwen2-moe or granite-moe-shared")
    cuts: dict[int, Cut] = {}

    @torch.no_grad()
    def carve(layer: int, block: Any, x_TD: Tensor) -> nn.Module:
        generator = torch.Generator().manual_seed(seed + layer)
        middle_TN = silu(normalize(x_TD, dim=1) @ _unit(block.gate_proj)) * (
            normalize(x_TD, dim=1) @ _unit(block.up_proj)
        )
        marks_TN = top_mask(middle_TN.abs(), markers)
        if partition == "random":
            order = torch.randperm(dense.width, generator=generator)
            always, parts = order[: shared * size].tolist(), order[shared * size :].view(-1, size).tolist()
        else:
            always, parts = deal(marks_TN.cpu(), experts - shared, shared * size)
        score_TE = _scores(block, x_TD, middle_TN, marks_TN, parts, router)
        if router == "random":
            rows_ED = torch.randn(experts - shared, x_TD.shape[1], generator=generator)
        else:
            rows_ED = fit_rows(x_TD, top_mask(score_TE, active) / active)
        cuts[layer] = Cut(always, parts, rows_ED)
        return Carved(block, always, parts, rows_ED, active, 1.0)

    at_blocks(dense, texts, carve, progress=progress)
    title = f"cmoe: {shared} shared, {active} of {experts - shared} routed experts of {size} hidden units"
    return plan_cut(dense, cuts, active, 1.0, into, max_shard, title)


def deal(marks_TN: Tensor, experts: int, always: int) -> tuple[list[int], list[list[int]]]:
    """Hidden units dealt out by their marks.

    Args:
        marks_TN: 1 where a unit is marked.
        experts: routed ones.
        always: units that are always on.

    Returns:
        (units that are always on, units of each expert).
    """
    from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

    order = marks_TN.mean(0).argsort(descending=True, stable=True)
    rest = order[always:]
    columns = marks_TN.T[rest]
    apart = torch.cdist(columns, columns[:experts], p=1.0)
    seats = len(rest) // experts
    units, seat = linear_sum_assignment(apart.repeat_interleave(seats, dim=1).numpy())
    parts: list[list[int]] = [[] for _ in range(experts)]
    for unit, place in zip(units.tolist(), seat.tolist(), strict=True):
        parts[place // seats].append(int(rest[unit]))
    return order[:always].tolist(), parts


def _scores(
    block: Any, x_TD: Tensor, middle_TN: Tensor, marks_TN: Tensor, parts: Sequence[list[int]], router: str
) -> Tensor:
    """How much each expert is wanted, [T, E]."""
    if router == "answers":
        whole_TN = block.act_fn(block.gate_proj(x_TD)) * block.up_proj(x_TD)
        down_DN = block.down_proj.weight
        return torch.stack([(whole_TN[:, units] @ down_DN[:, units].T).norm(dim=1) for units in parts], dim=1)
    chosen = []
    for units in parts:
        columns = marks_TN[:, units]
        chosen.append(units[int((columns - columns.mean(1, keepdim=True)).abs().sum(0).argmin())])
    return middle_TN[:, chosen].abs()


def _unit(linear: nn.Linear) -> Tensor:
    """Its weight rows at unit length, transposed: [D, N]."""
    return normalize(linear.weight, dim=1).T
