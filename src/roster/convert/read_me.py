"""Read-ME: experts by domain: the hidden units that a domain's texts use most; what all domains use is always on.

Per layer and domain: mean |act(gate x) * up x| over the domain's tokens; its mask are the `share` units with the
largest. Always on is what all masks have; a domain's expert is the rest of its mask, so that experts overlap. One
expert a token, with weight 1.

Source: Cai et al. 2024, Read-ME, arXiv 2410.19123; official code VITA-Group/READ-ME. There one small transformer reads
token ids and names one expert for all layers, ahead of the model, and is trained in turns with it: no stock
architecture has that, so `router=global` is refused. Here each layer has a linear router, fitted to the domains of
the tokens. Containers want one width for all layers, and kernels want eights: where fewer units are common, the next
ones by use join them, and experts are filled up with the domain's next units. Nothing is trained afterwards.

Shape legend: T tokens, N hidden units, E domains, D model width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from roster.convert.carving import Cut, plan_cut
from roster.convert.container import find_container
from roster.convert.dense import Dense
from roster.convert.fitting import at_blocks, fit_rows
from roster.errors import RosterError
from roster.weights import MAX_SHARD, Plan
from roster.weights.layers import Progress
from roster.weights.texts import Texts

EIGHT = 8
"""Grouped matmuls want rows of a multiple of 16 bytes, which are eight numbers of bfloat16."""


def plan_read_me(
    dense: Dense,
    domains: Sequence[Texts],
    share: float = 0.5,
    router: str = "layers",
    container: str = "qwen2-moe",
    max_shard: int = MAX_SHARD,
    progress: Progress | None = None,
) -> Plan:
    """The plan of the refactored model.

    Args:
        dense: the model.
        domains: texts of each.
        share: of hidden units in a domain's mask.
        router: "layers"; "global" is refused, with the reason.
        container: with a shared expert.
        max_shard: bytes of one output file.
        progress: told of layers done.

    Raises:
        RosterError: fewer than two domains, or what no stock architecture holds.
    """
    if router != "layers":
        raise RosterError(
            f"read-me: router={router!r}: one decision for all layers, made ahead of the model, is in no stock "
            "architecture; nearest: router=layers, a linear router in each layer, fitted to the domains"
        )
    if len(domains) < 2:
        raise RosterError(
            f"read-me needs the texts of at least two domains (--data, once for each), not {len(domains)}"
        )
    into = find_container(container)
    if not into.shared:
        raise RosterError(f"read-me: {container} has no shared expert; take qwen2-moe or granite-moe-shared")
    if dense.width < 2 * EIGHT:
        raise RosterError(f"read-me: a block of {dense.width} hidden units is too narrow to cut")
    size = round(share * dense.width)
    if not 1 <= size < dense.width:
        raise RosterError(
            f"read-me: share={share} of {dense.width} hidden units: it must leave some, and take some away"
        )
    both, domain_T = together(domains)
    used: dict[int, Tensor] = {}
    rows: dict[int, Tensor] = {}

    @torch.no_grad()
    def look(layer: int, block: Any, x_TD: Tensor) -> None:
        middle_TN = (block.act_fn(block.gate_proj(x_TD)) * block.up_proj(x_TD)).abs()
        used[layer] = torch.stack([middle_TN[domain_T == each].mean(0) for each in range(len(domains))])
        rows[layer] = fit_rows(x_TD, one_hot(domain_T, len(domains)).float())

    at_blocks(dense, both, look, progress=progress)
    cuts = cut_by_use(used, size, rows)
    one = cuts[0]
    title = (
        f"read-me: {len(domains)} domains, {len(one.always)} hidden units always on, {len(one.experts[0])} an expert"
    )
    return plan_cut(dense, cuts, 1, 1.0, into, max_shard, title)


def cut_by_use(
    used_EN: Mapping[int, Tensor], size: int, rows_ED: Mapping[int, Tensor], step: int = EIGHT
) -> dict[int, Cut]:
    """Units of every layer.

    Args:
        used_EN: mean size of each unit, by domain.
        size: units of a domain's mask.
        rows_ED: of each layer's router.
        step: what numbers of units are rounded up to multiples of.

    Returns:
        By layer: as many always on, and as many an expert, as the layer with most of them needs.
    """
    ranked = {layer: each.argsort(dim=1, descending=True, stable=True).tolist() for layer, each in used_EN.items()}
    common = {layer: set.intersection(*(set(one[:size]) for one in each)) for layer, each in ranked.items()}
    units = next(iter(used_EN.values())).shape[1]
    most, fewest = (f(len(each) for each in common.values()) for f in (max, min))
    always = min(max(-(-most // step), 1) * step, (units - 1) // step * step)
    width = min(max(-(-(size - fewest) // step), 1) * step, (units - always) // step * step)
    cuts = {}
    for layer, each in ranked.items():
        by_use = used_EN[layer].mean(0).argsort(descending=True, stable=True).tolist()
        on = sorted(by_use, key=lambda unit: unit not in common[layer])[:always]
        rest = set(range(units)) - set(on)
        experts = [sorted([unit for unit in one if unit in rest][:width]) for one in each]
        cuts[layer] = Cut(sorted(on), experts, rows_ED[layer])
    return cuts


def together(domains: Sequence[Texts]) -> tuple[Texts, Tensor]:
    """All texts as one batch, and the domain of every token that is there, row by row, [T]."""
    longest = max(each.ids_BS.shape[1] for each in domains)

    def wide(each: Tensor) -> Tensor:
        return torch.nn.functional.pad(each, (0, longest - each.shape[1]))

    ids, mask = torch.cat([wide(each.ids_BS) for each in domains]), torch.cat([wide(each.mask_BS) for each in domains])
    row_B = torch.cat([torch.full((len(each.ids_BS),), number) for number, each in enumerate(domains)])
    return Texts(ids, mask), row_B[:, None].expand_as(mask)[mask.bool()]
