"""FactorLLM: a dense block cut into equal slices of neighbouring hidden units, and a router taught by the dense block.

Equation: y = (N / k) * sum over the k chosen of N slices E_e(x); with all of them that is the block.
Router ("prior-approximate"): the wanted experts of a token are the k slices whose E_e(x) comes nearest to T(x) k / N, T
the dense block; linear rows are fitted to the softmax of that choice. Chosen slices weigh the same.

Source: Zhao et al. 2024, FactorLLM, arXiv 2408.11855; official code zhenwuweihe/FactorLLM. Differences: only the router
is taught, layer by layer on calibration tokens, with the divergence of the source alone; the slices stay what they are.
(The released training step returns the language model's loss only, which gives its hard gate no gradient.) The gate has
no bias, for containers have none.

Shape legend: T tokens, E slices, D model width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from roster.convert.carving import Cut, plan_cut
from roster.convert.container import find_container
from roster.convert.dense import Dense
from roster.convert.fitting import Carved, at_blocks, fit_rows, top_mask
from roster.errors import RosterError, nearest
from roster.weights import MAX_SHARD, Plan
from roster.weights.layers import Progress
from roster.weights.texts import Texts


def plan_factorllm(
    dense: Dense,
    texts: Texts,
    experts: int = 4,
    top_k: int = 2,
    router: str = "taught",
    seed: int = 0,
    max_shard: int = MAX_SHARD,
    progress: Progress | None = None,
) -> Plan:
    """The plan of the factorised model, a Mixtral.

    Args:
        dense: the model.
        texts: to teach routers on.
        experts: N, slices of a block.
        top_k: k, slices that a token gets.
        router: "taught", or "random" (the yardstick).
        seed: of what is drawn.
        max_shard: bytes of one output file.
        progress: told of layers done.

    Raises:
        RosterError: a width that does not divide, more slices on duty than there are.
    """
    if experts < 1 or dense.width % experts:
        raise RosterError(f"a block of {dense.width} hidden units does not divide into {experts} slices")
    if not 1 <= top_k <= experts:
        raise RosterError(f"{top_k} of {experts} slices a token: it must be from 1 to their number")
    if router not in ("taught", "random"):
        raise RosterError(f"factorllm: router={router!r}: {nearest(router, ('taught', 'random'))}")
    size = dense.width // experts
    parts = [list(range(start, start + size)) for start in range(0, dense.width, size)]
    cuts: dict[int, Cut] = {}

    @torch.no_grad()
    def cut(layer: int, block: Any, x_TD: Tensor) -> nn.Module:
        if router == "random":
            generator = torch.Generator().manual_seed(seed + layer)
            rows_ED = torch.randn(experts, x_TD.shape[1], generator=generator)
        else:
            wanted_TE = top_mask(-apart(block, x_TD, parts, top_k / experts), top_k)
            rows_ED = fit_rows(x_TD, wanted_TE.softmax(-1))
        cuts[layer] = Cut((), parts, rows_ED)
        return Carved(block, [], parts, rows_ED, top_k, experts / top_k)

    at_blocks(dense, texts, cut, progress=progress)
    title = f"factorllm: {top_k} of {experts} slices of {size} hidden units"
    return plan_cut(dense, cuts, top_k, experts / top_k, find_container("mixtral"), max_shard, title)


def apart(block: Any, x_TD: Tensor, parts: list[list[int]], share: float) -> Tensor:
    """Squared distance of each slice's answer from its share of the block's, [T, E]."""
    middle_TN = block.act_fn(block.gate_proj(x_TD)) * block.up_proj(x_TD)
    wanted_TD = block.down_proj(middle_TN) * share
    down_DN = block.down_proj.weight
    return torch.stack(
        [((middle_TN[:, units] @ down_DN[:, units].T - wanted_TD) ** 2).sum(1) for units in parts], dim=1
    )
